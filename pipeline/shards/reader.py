"""Read a shard: its tensors, its attributes, whether every byte is as written. No file stays open between two calls."""

# Axes: V videos, F frames of a shard, P patches, J bytes of all thumbnails; C captions, L words of a shard, M triplets
# of a shard, U distinct phrases; D embedding.

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.files import ParamsError, ShardError, Slice, everything_command
from pipeline.shards import layout
from pipeline.shards.layout import cache_of, rebuild_command
from pipeline.shards.rows import checksum, fingerprint, row_checksums
from pipeline.shards.schema import (
    FORMAT,
    KEYS,
    ROWS,
    TABLES,
    TENSORS,
    TEXT,
    check_axes,
    check_offsets,
    offset_names,
    tensor_names,
)

SETTLED = 2.0  # seconds after which a second write to a file is sure to show in its times


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in its file."""

    offset: int  # bytes from the start of the file
    shape: tuple[int, ...]
    dtype: str


class Shard:
    """One shard, opened when first asked, never held open: safe to pickle and to fork.

    `shard["patch"]` is a read-only memory-mapped array, `shard["video_id"]` a list of strings.
    """

    def __init__(self, path: Path, kind: str):
        self.path, self.kind = Path(path), kind
        self._header: tuple[dict[str, Any], dict[str, TensorPlace], dict[str, str]] | None = None
        self._tensors: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tensors": {}}

    def __repr__(self) -> str:
        return f"Shard({str(self.path)!r}, {self.kind!r})"

    def __len__(self) -> int:
        return self.place(KEYS[self.kind]).shape[0]

    @property
    def attributes(self) -> dict[str, Any]:
        """Format, kind, dataset, CLIP, sampling and whatever else the writer said."""
        return self._open()[0]

    @property
    def names(self) -> list[str]:
        """Its tensors, in the order of the table."""
        return list(self._open()[1])

    def place(self, name: str) -> TensorPlace:
        """Where a tensor lies, for `preadv` and mmap."""
        return self._open()[1][name]

    def __getitem__(self, name: str) -> Any:
        if name not in self._tensors:
            self._tensors[name] = self._load(name)
        return self._tensors[name]

    def check(self) -> None:
        """ShardError unless every tensor has the checksum with which it was written, and the offsets hold together."""
        axes = check_axes(self.kind, {name: self.place(name).shape for name in self.names}, self.path)
        for name, written in self._open()[2].items():
            if checksum([self[name]]) != written:
                raise self._damaged(f"{name} does not have the checksum with which it was written")
        for name, axis in offset_names(self.kind, self.names).items():
            check_offsets(f"{self.path}: {name}", self[name], axes[axis])

    def good_rows(self) -> list[int]:
        """Rows whose every byte is as written; none where what says which rows there are is itself damaged."""
        try:
            with _open(self.path) as file:
                written = self._own(file, ROWS)[:]
                intact = checksum([written]) == _from_attribute(file[ROWS].attrs["blake2b"])
            found = row_checksums(self.kind, {name: self[name] for name in self.names}) if intact else written[:0]
        except (ShardError, OSError, KeyError, RuntimeError, IndexError):
            return []
        return np.flatnonzero(found == written[: len(found)]).tolist()

    def _load(self, name: str) -> Any:
        place = self.place(name)
        if place.dtype == TEXT:
            try:
                self._check_strings(place)
                with _open(self.path) as file:
                    return self._own(file, name).asstr()[:].tolist() if place.shape[0] else []
            except (OSError, UnicodeDecodeError) as error:
                raise self._damaged(f"{name}: {error}") from None
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        return np.memmap(self.path, place.dtype, "r", place.offset, place.shape)

    def _open(self) -> tuple[dict[str, Any], dict[str, TensorPlace], dict[str, str]]:
        if self._header is None:
            if not self.path.exists():
                raise ShardError(f"{self.path} is missing; run: {rebuild_command(self.path)}")
            try:
                with _open(self.path) as file:
                    self._header = self._read(file)
            except (OSError, KeyError, RuntimeError, UnicodeDecodeError, TypeError, ValueError) as error:
                if isinstance(error, ShardError):
                    raise
                raise self._damaged(str(error)) from None
        return self._header

    def _read(self, file: h5py.File) -> tuple[dict[str, Any], dict[str, TensorPlace], dict[str, str]]:
        attributes = {name: _from_attribute(value) for name, value in file.attrs.items()}
        if attributes.get("format") != FORMAT or attributes.get("kind") != self.kind:
            found = f"format {attributes.get('format')}, kind {attributes.get('kind')}"
            raise ShardError(
                f"{self.path} has {found}; expected format {FORMAT}, kind {self.kind}. "
                f"Delete it and run: {rebuild_command(self.path)}"
            )
        places = {name: self._place(self._own(file, name), name) for name in tensor_names(self.kind, file)}
        check_axes(self.kind, {name: place.shape for name, place in places.items()}, self.path)
        checksums = {name: _from_attribute(file[name].attrs["blake2b"]) for name in places}
        if attributes.pop("seal", None) != fingerprint(attributes, checksums):
            raise self._damaged("its attributes are not those with which it was written")
        return attributes, places, checksums

    def _own(self, file: h5py.File, name: str) -> h5py.Dataset:
        """A tensor whose every byte lies in this very file: no link, no external and no virtual dataset is followed.

        Nor is one believed that says it is larger than its file, so that what is read is bounded by what is on the disk.
        """
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise self._foreign(f"{name} is a link to somewhere else")
        tensor = h5py.h5o.open(file.id, name.encode())
        if not isinstance(tensor, h5py.h5d.DatasetID):
            raise self._foreign(f"{name} is no tensor")
        made = tensor.get_create_plist()
        if made.get_layout() == h5py.h5d.VIRTUAL or (
            made.get_layout() == h5py.h5d.CONTIGUOUS and made.get_external_count()
        ):
            raise self._foreign(f"the bytes of {name} lie in another file")
        offset = tensor.get_offset()
        if offset is None and tensor.get_space().get_simple_extent_npoints():
            raise ShardError(
                f"{self.path}: {name} is chunked or compressed; delete the file and run: {rebuild_command(self.path)}"
            )
        size = tensor.get_space().get_simple_extent_npoints() * tensor.get_type().get_size()
        if (offset or 0) + size > self.path.stat().st_size:
            raise self._damaged(f"{name} says that it has {size} bytes, which is more than there are")
        return h5py.Dataset(tensor)

    def _check_strings(self, place: TensorPlace) -> None:
        """ShardError if strings say that they are longer, all together, than their file; HDF5 would believe each of them."""
        with open(self.path, "rb") as file:
            file.seek(place.offset)
            said = np.frombuffer(file.read(16 * place.shape[0]), "<u4")[
                ::4
            ]  # of each string: length, heap, number in it
        if said.sum(dtype=np.int64) > self.path.stat().st_size:
            raise self._damaged(
                f"its strings say that they have {said.sum(dtype=np.int64)} bytes, which is more than there are"
            )

    def _foreign(self, why: str) -> ShardError:
        return ShardError(
            f"{self.path} is no shard of this project ({why}); delete it and run: {rebuild_command(self.path)}"
        )

    def _place(self, tensor: h5py.Dataset, name: str) -> TensorPlace:
        dtype, axes = TENSORS[self.kind][name]
        found = TEXT if h5py.check_string_dtype(tensor.dtype) else str(tensor.dtype)
        if found != dtype:
            raise ShardError(f"{self.path}: {name}: expected {dtype} ({axes}), got {found} {tensor.shape}")
        return TensorPlace(tensor.id.get_offset() or 0, tensor.shape, dtype)

    def _damaged(self, why: str) -> ShardError:
        return ShardError(
            f"{self.path} is damaged ({why}); run: python -m pipeline.shards repair {cache_of(self.path)}"
        )


def read(path: Path, kind: str) -> dict[str, Any]:
    """All tensors of a shard: memory-mapped arrays, lists of strings. ShardError if missing, foreign or damaged."""
    shard = Shard(path, kind)
    return {name: shard[name] for name in shard.names}


def read_sound(path: Path, kind: str, **expected: Any) -> Shard | None:
    """The shard if every byte is as it was written and its attributes are as expected; None if it must be made anew.

    A file that this process has found whole is not read again while it stays the same file.
    """
    shard = Shard(path, kind)
    try:
        stat = shard.path.stat()
        seen = (shard.path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if seen not in _whole:
            shard.check()
            # of a file written a moment ago, a second write might leave the times as they are
            if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
                _whole.add(seen)
    except (ShardError, FileNotFoundError):
        return None
    return shard if all(shard.attributes.get(name) == value for name, value in expected.items()) else None


_whole: set[tuple] = set()


def require_dealt(folder: Path, kind: str, count: int, part: Slice) -> None:
    """ParamsError where a slice's shards were dealt out among another number than `count`: their rows go to other slices now."""
    for path in layout.shard_paths(folder):
        number = int(path.stem)
        try:
            ids = Shard(path, kind)["video_id"] if part.has(number) and number < count else []
        except ShardError:  # damaged: its rows are made anew
            continue
        if number >= count or any(layout.shard_number(name, count) != number for name in ids):
            raise ParamsError(
                f"{path} was dealt out among another number of shards than {count}, and a slice moves no rows between shards; "
                "run the stage once without --slice, or delete its folder"
            )


def require_one_clip(shards: Iterable[Shard]) -> str | None:
    """The sha256 of the one CLIP that made these shards; ShardError if there were two."""
    first: Shard | None = None
    for shard in (shard for shard in shards if "clip_sha256" in shard.attributes):
        first = first or shard
        one, two = first.attributes["clip_sha256"], shard.attributes["clip_sha256"]
        if one != two:
            names = f"{first.attributes['clip']} ({one[:12]})", f"{shard.attributes['clip']} ({two[:12]})"
            raise ShardError(
                f"{first.path} was made by CLIP {names[0]} and {shard.path} by {names[1]}; "
                f"run: {everything_command(cache_of(first.path).name)}"
            )
    return first.attributes["clip_sha256"] if first else None


def _open(path: Path) -> h5py.File:
    return h5py.File(path, "r", locking=False)


def _from_attribute(value: Any) -> Any:
    """A Python value from an HDF5 attribute."""
    return value.item() if isinstance(value, np.generic) else value


def iterate_rows(shard: Shard) -> Iterator[tuple[str, int, str]]:
    """Key, row and fingerprint of each row of a visual or text shard."""
    return zip(shard[KEYS[shard.kind]], range(len(shard)), shard["fingerprint"])


def open_cache(folder: Path) -> Iterator[Shard]:
    """All shards of a cache."""
    for kind in ("visual", "text", "lexicon", "spans"):
        yield from (Shard(path, kind) for path in layout.shard_paths(folder / kind))
    for kind, (stage, name, _) in TABLES.items():
        if (folder / stage / name).exists():
            yield Shard(folder / stage / name, kind)
