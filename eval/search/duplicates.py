"""What is nearly the same: a photo saved again, a film encoded anew, a clip cut out of a longer film."""

# Axes: N and M frames of two items, S side of a small picture.

import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.search.catalog import Item
from eval.search.workers import Workers

SIDE = 12  # pixels of the small pictures that are compared
ALIKE = 0.95  # correlation of two small pictures from which on they show the same
NEAR = 0.9  # cosine of two frames' CLIP vectors below which their pictures are not even compared
FLAT = 4.0  # levels by which a picture must vary to be told from another
SHARE = 0.6  # of the shorter item's frames that must be found again, in order
FRAMES = 64  # compared with all others at a time
HELD = 4000  # items whose small pictures are held


@dataclass(frozen=True)
class Look:
    """What is compared of one item, a row a frame."""

    vector: NDArray  # (N, D) CLIP's, unit
    small: NDArray  # (N, 3S²) small pictures, their mean level taken away, unit; zero where there is no contrast: like nothing


class Duplicates:
    """Compares items by frames: CLIP's vectors first, then the thumbnails of those that are near; videos also by order."""

    def __init__(self) -> None:
        self.shown: OrderedDict[str, Look] = OrderedDict()
        self.known: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def same(self, one: Item, other: Item) -> bool:
        """Whether the shorter item is, nearly, in the longer one."""
        if one.mark == other.mark:
            return True
        name = (min(one.mark, other.mark), max(one.mark, other.mark))
        if name not in self.known:
            self.known[name] = one.photo == other.photo and self.compare(one, other)
            if len(self.known) > 50 * HELD:
                self.known.popitem(last=False)
        return self.known[name]

    def compare(self, one: Item, other: Item) -> bool:
        """The same, not remembered."""
        mine, its = self.look(one), self.look(other)
        alike = (mine.vector @ its.vector.T >= NEAR) & (mine.small @ its.small.T >= ALIKE)  # (N, M)
        longest = longest_in_order(alike, tolerances(one), tolerances(other))
        return longest >= max(1, np.ceil(SHARE * min(alike.shape)))

    def look(self, item: Item, small: Callable[[], NDArray] | None = None) -> Look:
        """What is compared of an item, held for the next time; `small` gives (N, 3S²) uint8: its kept small pictures."""
        if item.mark not in self.shown:
            frame = np.asarray(item.row["frame"], np.float32)
            unit = frame / np.linalg.norm(frame, axis=1, keepdims=True).clip(1e-6)
            self.shown[item.mark] = Look(unit, contrast(small() if small else small_pictures(item)))
            while len(self.shown) > HELD:
                self.shown.popitem(last=False)
        self.shown.move_to_end(item.mark)
        return self.shown[item.mark]


def small_pictures(item: Item) -> NDArray:
    """(N, 3S²) uint8: the thumbnails of an item's frames, made small; black where one is damaged."""
    return np.stack([small_picture(jpeg.tobytes()) for jpeg in item.row.jpegs()])


def small_picture(jpeg: bytes) -> NDArray:
    """(3S²,) uint8."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8).ravel()
    except (OSError, ValueError, SyntaxError):
        return np.zeros(3 * SIDE * SIDE, np.uint8)


def contrast(small: NDArray) -> NDArray:
    """(N, 3S²) float32 of small pictures: their mean level taken away, of length 1; zeros where one shows nothing."""
    level = small.astype(np.float32) - small.mean(1, keepdims=True, dtype=np.float32)
    length = np.linalg.norm(level, axis=1, keepdims=True)
    shows = length > FLAT * small.shape[1] ** 0.5
    return np.where(shows, level / length.clip(1e-6), 0)


def tolerances(item: Item) -> NDArray:
    """(N,) times of the frames; a photo's is 0."""
    return np.asarray(item.row["time"], float)


def longest_in_order(alike: NDArray, times: NDArray, other: NDArray) -> int:
    """The most frames that are found again at one distance in time, give or take the gap between two sampled frames.

    alike: (N, M) bool. Two films are sampled at other moments, so a frame's twin may lie up to half a gap away from it.
    """
    first, second = np.nonzero(alike)
    if not len(first):
        return 0
    shift = other[second] - times[first]
    gap = max([float(np.median(np.diff(part))) for part in (times, other) if len(part) > 1], default=0.0) + 1e-3
    sides = [side for side, length in ((first, len(times)), (second, len(other))) if length == min(alike.shape)]
    near = [np.abs(shift - middle) <= gap for middle in set(shift.tolist())]
    # both sides where both are the shorter one, so that it is the same whichever item comes first
    return max(len(set(side[close].tolist())) for side in sides for close in near)


def fold(
    listed: list[tuple[str, int, Item]], same: Duplicates, workers: Workers, count: int
) -> list[tuple[str, int, list[Item]]]:
    """The first `count` rows: each (kind, place, item) that is not nearly the same as one before it, with the later items of the
    list that are, which get no row. Items that are like none of these rows are not compared with each other."""
    items = [item for _, _, item in listed]
    frames = Frames.of(items, same)
    rows: list[tuple[str, int, list[Item]]] = []
    heads: list[int] = []
    alike = np.zeros((0, len(items)), bool)  # of each item that was looked at: which later ones any frame of it is like
    for number, (kind, place, item) in enumerate(listed):
        if number == len(alike) and len(rows) < count:  # as many more as may be rows
            alike = np.concatenate([alike, frames.like(number, number + count - len(rows), workers)])
        near = (at for at, head in enumerate(heads) if alike[head, number] and same.same(listed[head][2], item))
        twin = next(near, None)
        if twin is not None:
            rows[twin][2].append(item)
        elif len(rows) < count:
            rows.append((kind, place, []))
            heads.append(number)
    return rows


@dataclass(frozen=True)
class Frames:
    """The frames of some items, one item's after another's."""

    marks: NDArray  # (items,)
    ends: NDArray  # (items + 1,) where each one's begin, and the last one's end
    vectors: Any  # (F, D)
    smalls: Any  # (F, 3S²)

    @classmethod
    def of(cls, items: list[Item], same: Duplicates) -> "Frames":
        """As `same` holds them."""
        import torch

        looks = [same.look(item) for item in items]
        ends = np.cumsum([0, *(len(look.vector) for look in looks)])
        tensors = [
            torch.from_numpy(np.concatenate([getattr(look, name) for look in looks] or [np.empty((0, 1), np.float32)]))
            for name in ("vector", "small")
        ]
        return cls(np.array([item.mark for item in items], object), ends, *tensors)

    def like(self, first: int, last: int, workers: Workers) -> NDArray:
        """(last - first, items) bool: which items that come later any frame of each is like; FRAMES at once.

        The products are torch's, which a worker bounds to one core; numpy's would wake all.
        """
        found = self.marks[first:last, None] == self.marks[None, :]
        owner = np.repeat(np.arange(len(self.marks)), np.diff(self.ends))  # of each frame
        stop = self.ends[min(last, len(self.marks))]

        def compare(at: int) -> None:
            end = min(at + FRAMES, stop)
            near = (self.vectors[at:end] @ self.vectors[at:].T).numpy() >= NEAR
            near &= owner[at:end, None] != owner[None, at:]
            one, other = at + np.flatnonzero(near.any(1)), at + np.flatnonzero(near.any(0))
            alike = near[np.ix_(one - at, other - at)]
            alike &= (self.smalls[one] @ self.smalls[other].T).numpy() >= ALIKE
            mine, its = np.nonzero(alike)
            found[owner[one[mine]] - first, owner[other[its]]] = True

        workers.map(compare, range(self.ends[first], stop, FRAMES))
        return found
