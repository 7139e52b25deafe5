"""The HDF5 contract between pipeline and trainer: which tensors a shard holds, how it is written and read.

A shard is written once and never edited. Its tensors are contiguous, uncompressed and page-aligned, so that the same
bytes are readable with plain h5py, with mmap and with `preadv` at `Shard.place(name).offset`. Nothing here holds a
file open.
"""

# Axes: V videos, F frames of a shard, P patches, J bytes of all thumbnails; C captions, L words of a shard, M triplets
# of a shard, U distinct phrases; D embedding.

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.stage import replacing

FORMAT = 1  # of the file layout; a reader refuses any other
PAGE = 4096
SETTLED = 2.0  # seconds after which a second write to a file is sure to show in its times
TEXT = "str"

TENSORS = {
    "visual": {
        "video_id": (TEXT, "V"),
        "fingerprint": (TEXT, "V"),
        "offset": ("int64", "V+1"),  # frames of video v: offset[v] to offset[v + 1]
        "frame": ("float16", "F D"),  # CLS, after final layer norm and projection, not normalised
        "patch": ("float16", "F P D"),
        "time": ("float64", "F"),  # seconds
        "jpeg": ("uint8", "J"),  # thumbnails, one after another
        "jpeg_offset": ("int64", "F+1"),
    },
    "text": {
        "caption_id": (TEXT, "C"),
        "video_id": (TEXT, "C"),
        "fingerprint": (TEXT, "C"),
        "sentence": ("float16", "C D"),  # EOT
        "word_offset": ("int64", "C+1"),
        "word": ("float16", "L D"),  # SOT to EOT
        "token": ("int32", "L"),
        "triplet_offset": ("int64", "C+1"),
        "triplet": ("int32", "M"),  # rows of text/phrases.h5
    },
    "phrases": {
        "phrase": (TEXT, "U"),
        "embedding": ("float16", "U D"),
    },
}
OFFSETS = {  # an offset tensor and the axis that it cuts
    "visual": {"offset": "F", "jpeg_offset": "J"},
    "text": {"word_offset": "L", "triplet_offset": "M"},
    "phrases": {},
}
ROWS = "row_checksum"  # beside the tensors of every shard, written by `write`: which rows of a damaged shard are still good
KEYS = {"visual": "video_id", "text": "caption_id", "phrases": "phrase"}
ATTRIBUTES = {  # every shard says how it was made; a writer may add more
    "visual": ("dataset", "clip", "clip_sha256", "version", "frames", "sampling", "decoder", "resize", "precision"),
    "text": ("dataset", "clip", "clip_sha256", "version", "words", "precision"),
    "phrases": ("dataset", "clip", "clip_sha256", "version", "words", "precision"),
}


class ShardError(ValueError):
    """A shard that is missing, damaged, foreign, or does not fit its neighbours; says which and what to type."""


def number(video_id: str, shards: int) -> int:
    """The shard in which a video's rows live: the same on every machine, whatever else is in the dataset."""
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big") % shards


def fingerprint(*parts: Any) -> str:
    """32 hex digits that change when any part (text, number, None, or lists and dictionaries of them) does."""
    said = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def file_of(folder: Path, shard: int) -> Path:
    """`<folder>/NNNNN.h5`."""
    return folder / f"{shard:05d}.h5"


def files(folder: Path) -> list[Path]:
    """The numbered shards in a folder, in order."""
    return sorted(path for path in Path(folder).glob("*.h5") if path.stem.isdigit())


def sweep(folder: Path) -> None:
    """Remove what a killed writer left half done; call it with the stage's lock held."""
    for part in Path(folder).glob("*.part"):
        part.unlink()


# --- writing


def write(path: Path, kind: str, tensors: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write one shard whole or not at all, and believe it only after reading it back from the disk.

    `tensors`: an array, a list of arrays to be joined along the first axis, or a list of strings, for every name in
    `TENSORS[kind]`. The same input makes the same bytes. ValueError if anything does not fit the table or is not
    finite.
    """
    path = Path(path)
    missing = [name for name in ATTRIBUTES[kind] if name not in attributes]
    if missing:
        raise ValueError(f"{path}: a {kind} shard needs the attributes {', '.join(missing)}")
    pieces = {name: _pieces(name, kind, tensors, path) for name in TENSORS[kind]}
    extra = sorted(set(tensors) - set(pieces))
    if extra:
        raise ValueError(f"{path}: {', '.join(extra)} not in the table of {kind} shards (pipeline/shards.py)")
    shapes = {name: (sum(map(len, parts)), *np.shape(parts[0])[1:]) for name, parts in pieces.items()}
    axes = check_axes(kind, shapes, path)
    for name, parts in pieces.items():
        for part in parts:
            _check_finite(f"{path}: {name}", part)
    for name, axis in OFFSETS[kind].items():
        check_offsets(f"{path}: {name}", np.concatenate(pieces[name]), axes[axis])
    with replacing(path) as part:
        with h5py.File(
            part, "w", libver=("v110", "v110"), alignment_threshold=PAGE, alignment_interval=PAGE, locking=False
        ) as file:
            for name in TENSORS[kind]:
                _put(file, name, TENSORS[kind][name], pieces[name], shapes[name])
            whole = {name: _joined(parts) for name, parts in pieces.items()}
            found = row_checksums(kind, whole)
            _put(file, ROWS, ("uint64", TENSORS[kind][KEYS[kind]][1]), [found], found.shape)
            said = {name: _storable(value) for name, value in attributes.items() if value is not None}
            said |= {"format": FORMAT, "kind": kind}
            checksums = {name: file[name].attrs["blake2b"] for name in TENSORS[kind]}
            for name, value in sorted((said | {"seal": fingerprint(said, checksums)}).items()):
                file.attrs[name] = value
        _forget(part)
        Shard(part, kind).check()


def _pieces(name: str, kind: str, tensors: Mapping[str, Any], path: Path) -> list[Any]:
    """The parts of one tensor, each checked against the table's type."""
    if name not in tensors:
        raise ValueError(f"{path}: a {kind} shard needs the tensor {name}")
    value, (dtype, axes) = tensors[name], TENSORS[kind][name]
    if dtype == TEXT:
        strings = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(text, str) for text in strings):
            raise ValueError(f"{path}: {name}: expected a list of strings ({axes})")
        return [strings]
    parts = [np.ascontiguousarray(part) for part in (value if isinstance(value, (list, tuple)) and value else [value])]
    for part in parts:
        if part.dtype != dtype:
            raise ValueError(f"{path}: {name}: expected {dtype} ({axes}), got {part.dtype} {part.shape}")
    return parts


def _check_finite(what: str, part: Any) -> None:
    """ValueError if a float tensor holds NaN or infinity, which is what float16 makes of 65,520 and above."""
    if isinstance(part, np.ndarray) and part.dtype.kind == "f":
        bad = infinite(part)
        if bad.any():
            row = np.argwhere(bad)[0].tolist()
            raise ValueError(f"{what}: {int(bad.sum())} values are NaN or beyond {part.dtype}, the first at {row}")


def infinite(part: np.ndarray) -> np.ndarray:
    """True where a float tensor is NaN or infinite; float16 by its bits, which is many times faster."""
    return (part.view(np.uint16) & 0x7C00) == 0x7C00 if part.dtype == np.float16 else ~np.isfinite(part)


def _put(file: h5py.File, name: str, what: tuple[str, str], parts: list[Any], shape: tuple[int, ...]) -> None:
    """Create one tensor, contiguous and allocated, fill it, and note its checksum."""
    dtype, axes = what
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    tensor = file.create_dataset(name, shape, h5py.string_dtype() if dtype == TEXT else dtype, dcpl=layout)
    row = 0
    for part in parts:
        if len(part):
            tensor[row : row + len(part)] = part
        row += len(part)
    tensor.attrs["axes"] = axes
    tensor.attrs["blake2b"] = checksum(parts)


def checksum(parts: Iterable[Any]) -> str:
    """Hex digest of a tensor given in parts: of its bytes, or of its strings in UTF-8, each ended by a zero."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        else:
            digest.update(b"".join(text.encode() + b"\0" for text in part))
    return digest.hexdigest()


def _joined(parts: list[Any]) -> Any:
    """One array, or one list of strings."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _forget(path: Path) -> None:
    """Sync a file and drop it from the page cache, so that the next read comes from the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


# --- checking


def check_axes(kind: str, shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, int]:
    """The length of each axis, the same in every tensor that has it; ValueError where two disagree."""
    lengths: dict[str, int] = {}
    for name, (dtype, axes) in TENSORS[kind].items():
        names, shape = axes.split(), shapes[name]
        if len(names) != len(shape):
            raise ShardError(f"{path}: {name}: expected {dtype} ({axes}), got shape {shape}")
        for axis, length in zip(names, shape, strict=True):
            axis, length = (axis[:-2], length - 1) if axis.endswith("+1") else (axis, length)
            if lengths.setdefault(axis, length) != length:
                raise ShardError(f"{path}: {name} {shape} does not fit: axis {axis} is {lengths[axis]} elsewhere")
    return lengths


def check_offsets(what: str, offset: np.ndarray, end: int) -> None:
    """ShardError unless offsets rise from 0 to the length of the axis that they cut."""
    if len(offset) < 1 or offset[0] != 0 or offset[-1] != end or (np.diff(offset) < 0).any():
        raise ShardError(f"{what}: offsets must rise from 0 to {end}")


# --- rows


def bounds(kind: str, tensors: Mapping[str, Any], axis: str) -> np.ndarray:
    """(rows + 1,) where each row of a shard (a video, caption or phrase) begins along an axis."""
    key = KEYS[kind]
    if axis == TENSORS[kind][key][1]:
        return np.arange(len(tensors[key]) + 1)
    cutter = next(name for name, cut in OFFSETS[kind].items() if cut == axis)
    parent = TENSORS[kind][cutter][1].removesuffix("+1")
    return np.asarray(tensors[cutter])[bounds(kind, tensors, parent)]


def row_checksums(kind: str, tensors: Mapping[str, Any]) -> np.ndarray:
    """(rows,) uint64: a digest of everything that a row holds, whichever shard it is in."""
    digests = [hashlib.blake2b(digest_size=8) for _ in tensors[KEYS[kind]]]
    for name, (dtype, axes) in TENSORS[kind].items():
        axis = axes.split()[0]
        value = np.diff(tensors[name]) if name in OFFSETS[kind] else tensors[name]
        ends = bounds(kind, tensors, axis.removesuffix("+1")).tolist()
        for digest, first, last in zip(digests, ends, ends[1:]):
            if dtype == TEXT:
                digest.update(value[first].encode() + b"\0")
            else:
                digest.update(np.ascontiguousarray(value[first:last]).reshape(-1).view(np.uint8))
    return np.array([int.from_bytes(digest.digest(), "little") for digest in digests], np.uint64)


def take(kind: str, tensors: Mapping[str, Any], rows: Iterable[int]) -> dict[str, Any]:
    """The tensors of a shard that has only these rows."""
    rows, taken = list(rows), {}
    for name, (dtype, axes) in TENSORS[kind].items():
        value = np.diff(tensors[name]) if name in OFFSETS[kind] else tensors[name]
        ends = bounds(kind, tensors, axes.split()[0].removesuffix("+1"))
        if dtype == TEXT:
            taken[name] = [value[row] for row in rows]
        else:
            parts = [value[:0], *(value[ends[row] : ends[row + 1]] for row in rows)]
            taken[name] = np.concatenate(parts)
        if name in OFFSETS[kind]:
            taken[name] = np.concatenate([[0], np.cumsum(taken[name])]).astype(np.int64)
    return taken


# --- reading


@dataclass(frozen=True)
class Place:
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
        self._header: tuple[dict[str, Any], dict[str, Place], dict[str, str]] | None = None
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

    def place(self, name: str) -> Place:
        """Where a tensor lies, for `preadv` and mmap."""
        return self._open()[1][name]

    def offset_in_file(self, name: str) -> int:
        """Bytes before a tensor."""
        return self.place(name).offset

    def __getitem__(self, name: str) -> Any:
        if name not in self._tensors:
            self._tensors[name] = self._load(name)
        return self._tensors[name]

    def check(self) -> None:
        """ShardError unless every tensor has the checksum with which it was written, and the offsets hold together."""
        axes = check_axes(self.kind, {name: self.place(name).shape for name in TENSORS[self.kind]}, self.path)
        for name, written in self._open()[2].items():
            if checksum([self[name]]) != written:
                raise self._damaged(f"{name} does not have the checksum with which it was written")
        for name, axis in OFFSETS[self.kind].items():
            check_offsets(f"{self.path}: {name}", self[name], axes[axis])

    def good_rows(self) -> list[int]:
        """Rows whose every byte is as written; none where what says which rows there are is itself damaged."""
        try:
            with _opened(self.path) as file:
                written = file[ROWS][:]
                intact = checksum([written]) == _plain(file[ROWS].attrs["blake2b"])
            found = (
                row_checksums(self.kind, {name: self[name] for name in TENSORS[self.kind]}) if intact else written[:0]
            )
        except (ShardError, OSError, KeyError, RuntimeError, IndexError):
            return []
        return np.flatnonzero(found == written[: len(found)]).tolist()

    def _load(self, name: str) -> Any:
        place = self.place(name)
        if place.dtype == TEXT:
            try:
                with _opened(self.path) as file:
                    return file[name].asstr()[:].tolist() if place.shape[0] else []
            except (OSError, UnicodeDecodeError) as error:
                raise self._damaged(f"{name}: {error}") from None
        if 0 in place.shape:
            return np.empty(place.shape, place.dtype)
        return np.memmap(self.path, place.dtype, "r", place.offset, place.shape)

    def _open(self) -> tuple[dict[str, Any], dict[str, Place], dict[str, str]]:
        if self._header is None:
            if not self.path.exists():
                raise ShardError(f"{self.path} is missing; run: {rebuild(self.path)}")
            try:
                with _opened(self.path) as file:
                    self._header = self._read(file)
            except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
                raise self._damaged(str(error)) from None
        return self._header

    def _read(self, file: h5py.File) -> tuple[dict[str, Any], dict[str, Place], dict[str, str]]:
        attributes = {name: _plain(value) for name, value in file.attrs.items()}
        if attributes.get("format") != FORMAT or attributes.get("kind") != self.kind:
            found = f"format {attributes.get('format')}, kind {attributes.get('kind')}"
            raise ShardError(
                f"{self.path} has {found}; expected format {FORMAT}, kind {self.kind}. "
                f"Delete it and run: {rebuild(self.path)}"
            )
        places = {name: self._place(file[name], name) for name in TENSORS[self.kind]}
        check_axes(self.kind, {name: place.shape for name, place in places.items()}, self.path)
        checksums = {name: _plain(file[name].attrs["blake2b"]) for name in places}
        if attributes.pop("seal", None) != fingerprint(attributes, checksums):
            raise self._damaged("its attributes are not those with which it was written")
        return attributes, places, checksums

    def _place(self, tensor: h5py.Dataset, name: str) -> Place:
        dtype, axes = TENSORS[self.kind][name]
        found = TEXT if h5py.check_string_dtype(tensor.dtype) else str(tensor.dtype)
        if found != dtype:
            raise ShardError(f"{self.path}: {name}: expected {dtype} ({axes}), got {found} {tensor.shape}")
        offset = tensor.id.get_offset()
        if offset is None and 0 not in tensor.shape:
            raise ShardError(
                f"{self.path}: {name} is chunked or compressed; delete the file and run: {rebuild(self.path)}"
            )
        return Place(offset or 0, tensor.shape, dtype)

    def _damaged(self, why: str) -> ShardError:
        return ShardError(f"{self.path} is damaged ({why}); run: python -m pipeline.shards repair {base(self.path)}")


def read(path: Path, kind: str) -> dict[str, Any]:
    """All tensors of a shard: memory-mapped arrays, lists of strings. ShardError if missing, foreign or damaged."""
    shard = Shard(path, kind)
    return {name: shard[name] for name in TENSORS[kind]}


def sound(path: Path, kind: str, **expected: Any) -> Shard | None:
    """The shard if every byte is as it was written and its attributes are as expected; None if it must be made anew.

    A file that this process has found whole is not read again while it stays the same file.
    """
    shard = Shard(path, kind)
    try:
        stat = shard.path.stat()
        seen = (shard.path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if seen not in _whole:
            shard.check()
            if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
                _whole.add(seen)
    except (ShardError, FileNotFoundError):
        return None
    return shard if all(shard.attributes.get(name) == value for name, value in expected.items()) else None


_whole: set[tuple] = set()


def same_clip(shards: Iterable[Shard]) -> str | None:
    """The sha256 of the one CLIP that made these shards; ShardError if there were two."""
    first: Shard | None = None
    for shard in shards:
        first = first or shard
        one, two = first.attributes["clip_sha256"], shard.attributes["clip_sha256"]
        if one != two:
            names = f"{first.attributes['clip']} ({one[:12]})", f"{shard.attributes['clip']} ({two[:12]})"
            raise ShardError(
                f"{first.path} was made by CLIP {names[0]} and {shard.path} by {names[1]}; run: "
                f"{rebuild(first.path)} {rebuild(shard.path).split()[-1]}"
            )
    return first.attributes["clip_sha256"] if first else None


def base(path: Path) -> Path:
    """`cache/<dataset>` of a shard."""
    return Path(path).parent.parent


def rebuild(path: Path) -> str:
    """The command that makes a shard."""
    return f"dvc repro {Path(path).parent.name}@{base(path).name}"


def _opened(path: Path) -> h5py.File:
    return h5py.File(path, "r", locking=False)


def _storable(value: Any) -> Any:
    """Text and numbers as they are, anything else as JSON."""
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value, sort_keys=True)


def _plain(value: Any) -> Any:
    """A Python value from an HDF5 attribute."""
    return value.item() if isinstance(value, np.generic) else value


def rows(shard: Shard) -> Iterator[tuple[str, int, str]]:
    """Key, row and fingerprint of each row of a visual or text shard."""
    return zip(shard[KEYS[shard.kind]], range(len(shard)), shard["fingerprint"])


if __name__ == "__main__":
    from pipeline.doctor import main

    main()
