"""The encoded gallery, row by row: what is kept beside the shards, mapped into memory, and added to.

A segment is one file with the encoded rows of some items. It is written whole, never changed, and mapped: processes that search
the same library share its pages. New items come as new segments, so that one changed item encodes one; small segments are
joined once there are many, without encoding anything again.
"""

# Axes: R rows of a segment, V those of them that are videos, N frames of a video, F frames of all R, P patches, D embedding,
# S side of a small picture.

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.search.bounds import Planes
from eval.search.catalog import Item
from eval.search.duplicates import small_pictures
from pipeline import files
from pipeline.shards import StoredVideo

VERSION = 3
ROWS = 64  # items encoded at a time
LARGEST = 1024  # rows of a segment
MANY = 12  # segments of less than half that size, which are then joined
SOURCE = {  # a feature of a method: the tensor of a shard that holds it, and whether of the keyframe alone
    "frame": ("frame", False),
    "patch": ("patch", False),
    "hidden": ("hidden", False),
    "image": ("frame", True),
    "image_patch": ("patch", True),
    "image_hidden": ("hidden", True),
}


@dataclass
class Segment:
    """Encoded rows of some items: by kind (`image`, `video`) the method's tensors, float16, a row an item."""

    marks: list[str]  # of its R items
    films: list[int]  # places among them of its V videos
    blocks: dict[str, dict[str, Any]]
    whole: Any  # (R, D) float16, unit: what an item looks like in one vector, the mean of its unit frames
    small: Any  # (F, 3S²) uint8: the small pictures by which near-duplicates are found
    ends: Any  # (R,) where the frames of each item end among them
    path: Path | None = None
    # the tokens by kind in 8-bit planes, made when first asked for
    written: dict[str, Planes] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        own = self.whole.nbytes + self.small.nbytes + self.ends.nbytes
        return own + sum(one.nbytes for block in self.blocks.values() for one in block.values())

    def frames(self, row: int) -> slice:
        """Where a row's frames lie."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    def planes(self, kind: str) -> Planes:
        """The one token set of a kind as `bounds` multiplies it."""
        if kind not in self.written:
            self.written[kind] = Planes.of(self.blocks[kind]["patch"], self.blocks[kind]["patch_mask"])
        return self.written[kind]


class Encoder:
    """Encodes items by a method, ROWS at a time, each padded to as many frames as a video of this library may have."""

    def __init__(self, method: Any, frames: int, device: str):
        from train.layers import full_precision

        self.method, self.frames, self.device = method, frames, device
        self.encoders = {"image": full_precision(method.encode_image), "video": full_precision(method.encode_video)}

    def __call__(self, items: list[Item]) -> Segment:
        """The rows of some items."""
        films = [place for place, item in enumerate(items) if not item.photo]
        parts: dict[str, list[dict[str, Any]]] = {"image": [], "video": []}
        for kind, rows in (("image", items), ("video", [items[place] for place in films])):
            for at in range(0, len(rows), ROWS):
                parts[kind].append(self.encode(rows[at : at + ROWS], kind))
        blocks = {kind: join(blocks) for kind, blocks in parts.items()}
        return Segment([item.mark for item in items], films, blocks, whole_vectors(items), *all_small_pictures(items))

    def encode(self, items: list[Item], kind: str) -> dict[str, Any]:
        """Tensors of some items as images or as videos, float16 on the CPU."""
        import torch

        with torch.inference_mode():
            features = {
                name: tensor.to(self.device)
                for name, tensor in read_features(items, kind, self.method.needs, self.frames).items()
            }
            return {name: to_half(tensor) for name, tensor in self.encoders[kind](features).items()}


def read_features(items: list[Item], kind: str, needs: Iterable[str], frames: int) -> dict[str, Any]:
    """What a method needs of some items, read from the shards: float32 (B, ...), videos (B, frames, ...) with frame_mask."""
    import torch

    features = {}
    for name in sorted(needs):
        if name not in SOURCE:
            continue
        source, still = SOURCE[name]
        if still and kind == "image":
            rows = [np.asarray(item.row[source][item.keyframe], np.float32) for item in items]
            features[name] = torch.from_numpy(np.stack(rows))
        elif not still and kind == "video":
            features[name] = torch.from_numpy(np.stack([padded(item.row, source, frames) for item in items]))
    if kind == "video":
        count = torch.tensor([item.row.frames.stop - item.row.frames.start for item in items])
        features["frame_mask"] = torch.arange(frames) < count[:, None]
    return features


def padded(row: StoredVideo, source: str, frames: int) -> np.ndarray:
    """A tensor of a video (N, ...) as float32 (frames, ...), zeros behind its last frame."""
    value = row[source]
    made = np.zeros((frames, *value.shape[1:]), np.float32)
    made[: len(value)] = value
    return made


def whole_vectors(items: list[Item]) -> Any:
    """(R, D) float16, unit: the mean of each item's unit frames."""
    import torch

    means = []
    for item in items:
        frame = np.asarray(item.row["frame"], np.float32)
        unit = frame / np.linalg.norm(frame, axis=1, keepdims=True).clip(1e-6)
        mean = unit.mean(0)
        means.append(mean / max(float(np.linalg.norm(mean)), 1e-6))
    return torch.from_numpy(np.stack(means).astype(np.float16))


def all_small_pictures(items: list[Item]) -> tuple[Any, Any]:
    """(F, 3S²) uint8 of all items, and (R,) where each one's end."""
    import torch

    small = [small_pictures(item) for item in items]
    return torch.from_numpy(np.concatenate(small)), torch.tensor([len(one) for one in small]).cumsum(0)


def join(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks of tensors as one."""
    import torch

    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


class Gallery:
    """The segments of one library by one method: those that are kept, and those made since."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder / key, key
        self.segments: list[Segment] = []
        self.place: dict[str, tuple[int, int]] = {}  # mark -> segment and row
        self.seen: set[Path] = set()
        self.unkept: str | None = None  # why new rows could not be kept
        self.encoded = 0  # rows encoded by this process

    def read(self) -> None:
        """Take up segments that this or another process has kept."""
        for path in sorted(self.folder.glob("*.pt")):
            if path not in self.seen:
                self.seen.add(path)
                found = read_segment(path, self.key)
                if found is not None:
                    self.take(found)

    def take(self, segment: Segment) -> None:
        """Add a segment."""
        self.segments.append(segment)
        for row, mark in enumerate(segment.marks):
            self.place.setdefault(mark, (len(self.segments) - 1, row))

    def add(self, items: list[Item], encode: Encoder) -> Iterator[int]:
        """Encode the items that are not there, LARGEST at a time, and keep them; how many, as they are done."""
        missing = list({item.mark: item for item in items if item.mark not in self.place}.values())
        for at in range(0, len(missing), LARGEST):
            made = encode(missing[at : at + LARGEST])
            self.encoded += len(made.marks)
            self.keep(made)
            self.take(made)
            yield len(made.marks)

    def keep(self, segment: Segment) -> None:
        """Write a segment for the next search; where that cannot be, `unkept` says why, and the search goes on."""
        path = self.folder / f"{digest(*segment.marks)}.pt"
        self.unkept = write_segment(path, self.key, segment)
        if self.unkept is None:
            segment.path = path
            self.seen.add(path)

    def tidy(self, live: set[str]) -> None:
        """Join small segments where there are many, without the rows that no item has any more.

        One process at a time; another goes on with the files that it has mapped.
        """
        small = [one for one in self.segments if one.path and len(live.intersection(one.marks)) < LARGEST // 2]
        if len(small) < MANY:
            return
        try:
            with files.lock(self.folder):
                joined = join_segments(small, live)
                others = [one for one in self.segments if one not in small]
                self.segments, self.place = [], {}
                for one in others:
                    self.take(one)
                for one in joined:
                    self.keep(one)
                    self.take(one)
                for one in small:
                    if all(one.path != new.path for new in joined):
                        one.path.unlink(missing_ok=True)
        except (files.LockedError, files.StorageError):
            return


def join_segments(small: list[Segment], live: set[str]) -> list[Segment]:
    """Segments of at most LARGEST rows with the live rows of some, each row once."""
    import torch

    seen: set[str] = set()
    parts: list[Segment] = []
    for one in small:
        rows = [row for row, mark in enumerate(one.marks) if mark in live and not (mark in seen or seen.add(mark))]
        if rows:
            film = {place: number for number, place in enumerate(one.films)}
            taken = {"image": rows, "video": [film[row] for row in rows if row in film]}
            blocks = {
                kind: {name: tensor[torch.tensor(taken[kind], dtype=torch.long)] for name, tensor in block.items()}
                for kind, block in one.blocks.items()
            }
            films = [place for place, row in enumerate(rows) if row in film]
            small = [one.small[one.frames(row)] for row in rows]
            ends = torch.tensor([len(part) for part in small]).cumsum(0)
            marks = [one.marks[row] for row in rows]
            parts.append(Segment(marks, films, blocks, one.whole[torch.tensor(rows)], torch.cat(small), ends))
    groups: list[list[Segment]] = [[]]
    for part in parts:
        if sum(len(one.marks) for one in groups[-1]) + len(part.marks) > LARGEST and groups[-1]:
            groups.append([])
        groups[-1].append(part)
    return [merge(group) for group in groups if group]


def merge(parts: list[Segment]) -> Segment:
    """Several segments as one."""
    import torch

    films, start = [], 0
    for part in parts:
        films += [start + place for place in part.films]
        start += len(part.marks)
    blocks = {kind: join([part.blocks[kind] for part in parts if part.blocks[kind]]) for kind in ("image", "video")}
    whole, small = torch.cat([part.whole for part in parts]), torch.cat([part.small for part in parts])
    before = np.cumsum([0, *(len(part.small) for part in parts)])[:-1].tolist()
    ends = torch.cat([part.ends + start for part, start in zip(parts, before)])
    return Segment([mark for part in parts for mark in part.marks], films, blocks, whole, small, ends)


def read_segment(path: Path, key: str) -> Segment | None:
    """A kept segment, mapped; None where it is damaged or was made from something else."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return None
    except (AssertionError, MemoryError, pickle.UnpicklingError):
        return None
    if not isinstance(content, dict) or content.get("key") != key or not is_segment(content, path.stat().st_size):
        return None
    return Segment(*(content[name] for name in ("marks", "films", "blocks", "whole", "small", "ends")), path)


def is_segment(content: dict[str, Any], size: int) -> bool:
    """Whether this is rows of named tensors that have, each of them, no more bytes than their file."""
    import torch

    try:
        rows = {"image": len(content["marks"]), "video": len(content["films"])}
        ends, small = content["ends"], content["small"]
        tensors = [content["whole"], small, ends, *(one for kind in rows for one in content["blocks"][kind].values())]
        lengths = [len(one) == rows[kind] for kind in rows for one in content["blocks"][kind].values()]
        inside = (
            all(0 <= place < rows["image"] for place in content["films"])
            and len(content["whole"]) == len(ends) == rows["image"]
            and int(ends[-1] if len(ends) else 0) == len(small)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    if not all(isinstance(one, torch.Tensor) and one.is_contiguous() and one.nbytes <= size for one in tensors):
        return False
    return inside and all(lengths)


def write_segment(path: Path, key: str, segment: Segment) -> str | None:
    """Write a segment whole; the reason where that cannot be."""
    import torch

    own = path.with_name(f"{path.stem}.{os.getpid()}.new")  # two searches may encode the same rows at once
    content = {"key": key, "marks": segment.marks, "films": segment.films}
    content |= {"blocks": segment.blocks, "whole": segment.whole, "small": segment.small, "ends": segment.ends}
    try:
        with files.replacing(own, segment.nbytes + 100 * len(segment.marks) + (1 << 16)) as part:
            torch.save(content, part)
        with files.storage(path):
            os.replace(own, path)
    except files.StorageError as error:
        return str(error).replace(str(own), str(path))
    return None


def to_half(tensor: Any) -> Any:
    """Float tensors as float16 on the CPU: what is kept takes half the room."""
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()


def to_full(tensor: Any, device: str) -> Any:
    """Float tensors as float32 on the device."""
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device)


def digest(*parts: object) -> str:
    """A short name for some words."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=12).hexdigest()


def gallery_key(name: str, checkpoint: str, frames: int) -> str:
    """What every encoded row depends on beside its own mark: the code's version, the method and its weights, the padding."""
    return digest(VERSION, name, checkpoint, frames)
