"""Write one shard whole or not at all, the same bytes for the same rows."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.files import ShardError, replacing
from pipeline.shards.reader import Shard
from pipeline.shards.rows import checksum, find_infinite, fingerprint, row_checksums
from pipeline.shards.schema import (
    ATTRIBUTES,
    FORMAT,
    KEYS,
    ROWS,
    TENSORS,
    TEXT,
    check_axes,
    check_offsets,
    offset_names,
    tensor_names,
)

PAGE = 4096  # bytes; tensors begin at multiples of it, as direct reads and mmap want


def write(path: Path, kind: str, tensors: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write one shard whole or not at all; it takes its name only after it has been read back from the disk and checked.

    `tensors`: an array, a list of arrays to be joined along the first axis, or a list of strings, for every name in
    `TENSORS[kind]`. The same input makes the same bytes. ShardError if anything does not fit the table or is not
    finite.
    """
    path = Path(path)
    missing = [name for name in ATTRIBUTES[kind] if name not in attributes]
    if missing:
        raise ShardError(f"{path}: a {kind} shard needs the attributes {', '.join(missing)}")
    names = tensor_names(kind, tensors)
    pieces = {name: _pieces(name, kind, tensors, path) for name in names}
    extra = sorted(set(tensors) - set(pieces))
    if extra:
        raise ShardError(f"{path}: {', '.join(extra)} not in the table of {kind} shards (pipeline/shards/schema.py)")
    shapes = {name: (sum(map(len, parts)), *np.shape(parts[0])[1:]) for name, parts in pieces.items()}
    axes = check_axes(kind, shapes, path)
    for name, parts in pieces.items():
        for part in parts:
            _check_finite(f"{path}: {name}", part)
    for name, axis in offset_names(kind, pieces).items():
        check_offsets(f"{path}: {name}", np.concatenate(pieces[name]), axes[axis])
    with replacing(path, _room(pieces)) as part:
        with h5py.File(
            part, "w", libver=("v110", "v110"), alignment_threshold=PAGE, alignment_interval=PAGE, locking=False
        ) as file:
            for name in names:
                _put(file, name, TENSORS[kind][name], pieces[name], shapes[name])
            whole = {name: _join(parts) for name, parts in pieces.items()}
            found = row_checksums(kind, whole)
            _put(file, ROWS, ("uint64", TENSORS[kind][KEYS[kind]][1]), [found], found.shape)
            said = {name: _to_attribute(value) for name, value in attributes.items() if value is not None}
            said |= {"format": FORMAT, "kind": kind}
            checksums = {name: file[name].attrs["blake2b"] for name in names}
            # the seal covers what the tensors' checksums do not: the attributes, and the checksums themselves
            for name, value in sorted((said | {"seal": fingerprint(said, checksums)}).items()):
                file.attrs[name] = value
        _drop_from_page_cache(part)
        Shard(part, kind).check()  # read from the disk, not from the cache of what was just written


def _room(pieces: Mapping[str, list[Any]]) -> int:
    """Bytes that a shard takes, at most."""
    size = PAGE * (4 * len(pieces) + 64)
    for parts in pieces.values():
        for part in parts:
            size += part.nbytes if isinstance(part, np.ndarray) else sum(4 * len(text) + 64 for text in part)
    return size


def _pieces(name: str, kind: str, tensors: Mapping[str, Any], path: Path) -> list[Any]:
    """The parts of one tensor, each checked against the table's type."""
    if name not in tensors:
        raise ShardError(f"{path}: a {kind} shard needs the tensor {name}")
    value, (dtype, axes) = tensors[name], TENSORS[kind][name]
    if dtype == TEXT:
        strings = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(text, str) for text in strings):
            raise ShardError(f"{path}: {name}: expected a list of strings ({axes})")
        return [strings]
    parts = [np.ascontiguousarray(part) for part in (value if isinstance(value, (list, tuple)) and value else [value])]
    for part in parts:
        if part.dtype != dtype:
            raise ShardError(f"{path}: {name}: expected {dtype} ({axes}), got {part.dtype} {part.shape}")
    return parts


def _check_finite(what: str, part: Any) -> None:
    """ShardError if a float tensor holds NaN or infinity, which is what float16 makes of 65,520 and above."""
    if isinstance(part, np.ndarray) and part.dtype.kind == "f":
        bad = find_infinite(part)
        if bad.any():
            row = np.argwhere(bad)[0].tolist()
            raise ShardError(f"{what}: {int(bad.sum())} values are NaN or beyond {part.dtype}, the first at {row}")


def _put(file: h5py.File, name: str, what: tuple[str, str], parts: list[Any], shape: tuple[int, ...]) -> None:
    """Create one tensor, contiguous and allocated, fill it, and note its checksum."""
    dtype, axes = what
    # allocated when created: where a tensor lies then depends on the sizes alone, not on when its rows are written
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


def _join(parts: list[Any]) -> Any:
    """One array, or one list of strings."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _drop_from_page_cache(path: Path) -> None:
    """Sync a file and drop it from the page cache, so that the next read comes from the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _to_attribute(value: Any) -> Any:
    """Text and numbers as they are, anything else as JSON."""
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value, sort_keys=True)
