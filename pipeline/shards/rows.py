"""Rows of a shard: fingerprints, checksums, where each row's part of a tensor lies, and taking some of them.

A row (a video, a caption or a phrase) has a part of every tensor. Where it lies follows from the table of tensors: an offset
tensor cuts an axis, and its own axis may be cut by another, as thumbnails' bytes are by frames and frames by videos.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.shards.schema import KEYS, OFFSETS, TENSORS, TEXT, tensor_names


def fingerprint(*parts: Any) -> str:
    """32 hex digits that change when any part (text, number, None, or lists and dictionaries of them) does."""
    said = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def phrase_key(phrase: str) -> int:
    """The number by which captions name a phrase: 63 bits of its hash, the same whatever other phrases there are."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), "big") >> 1


def find_infinite(part: np.ndarray) -> np.ndarray:
    """True where a float tensor is NaN or infinite; float16 by its bits (all exponent bits set), which is many times faster."""
    return (part.view(np.uint16) & 0x7C00) == 0x7C00 if part.dtype == np.float16 else ~np.isfinite(part)


def checksum(parts: Iterable[Any]) -> str:
    """Hex digest of a tensor given in parts: of its bytes, or of its strings in UTF-8, each ended by a zero."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        else:
            digest.update(b"".join(text.encode() + b"\0" for text in part))
    return digest.hexdigest()


def row_bounds(kind: str, tensors: Mapping[str, Any], axis: str) -> np.ndarray:
    """(rows + 1,) where each row of a shard (a video, caption or phrase) begins along an axis."""
    key = KEYS[kind]
    if axis == TENSORS[kind][key][1]:
        return np.arange(len(tensors[key]) + 1)
    # a row's bounds along the axis that an offset tensor is indexed by, looked up in it, are its bounds along the axis it cuts
    cutter = next(name for name, cut in OFFSETS[kind].items() if cut == axis)
    parent = TENSORS[kind][cutter][1].removesuffix("+1")
    return np.asarray(tensors[cutter])[row_bounds(kind, tensors, parent)]


def row_checksums(kind: str, tensors: Mapping[str, Any]) -> np.ndarray:
    """(rows,) uint64: a digest of everything that a row holds, whichever shard it is in."""
    digests = [hashlib.blake2b(digest_size=8) for _ in tensors[KEYS[kind]]]
    for name in tensor_names(kind, tensors):
        dtype, axes = TENSORS[kind][name]
        axis = axes.split()[0]
        value = np.diff(tensors[name]) if name in OFFSETS[kind] else tensors[name]
        ends = row_bounds(kind, tensors, axis.removesuffix("+1")).tolist()
        for digest, first, last in zip(digests, ends, ends[1:]):
            if dtype == TEXT:
                digest.update(value[first].encode() + b"\0")
            else:
                digest.update(np.ascontiguousarray(value[first:last]).reshape(-1).view(np.uint8))
    return np.array([int.from_bytes(digest.digest(), "little") for digest in digests], np.uint64)


def take_rows(kind: str, tensors: Mapping[str, Any], rows: Iterable[int]) -> dict[str, Any]:
    """The tensors of a shard that has only these rows."""
    rows, taken = list(rows), {}
    for name in tensor_names(kind, tensors):
        dtype, axes = TENSORS[kind][name]
        value = np.diff(tensors[name]) if name in OFFSETS[kind] else tensors[name]
        ends = row_bounds(kind, tensors, axes.split()[0].removesuffix("+1"))
        if dtype == TEXT:
            taken[name] = [value[row] for row in rows]
        else:
            parts = [value[:0], *(value[ends[row] : ends[row + 1]] for row in rows)]
            taken[name] = np.concatenate(parts)
        if name in OFFSETS[kind]:
            taken[name] = np.concatenate([[0], np.cumsum(taken[name])]).astype(np.int64)
    return taken


def describe_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What has another value now: sentences for `--why`."""
    return [f"{key} was {then.get(key)}, is {value}" for key, value in now.items() if then.get(key) != value]
