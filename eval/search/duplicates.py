"""What is nearly the same: a photo saved again, a film encoded anew, a clip cut out of a longer film."""

# Axes: N and M frames of two items, S side of a small picture.

import io
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval.search.catalog import Item

SIDE = 12  # pixels of the small pictures that are compared
ALIKE = 0.95  # correlation of two small pictures from which on they show the same
NEAR = 0.9  # cosine of two frames' CLIP vectors below which their pictures are not even compared
FLAT = 4.0  # levels by which a picture must vary to be told from another
SHARE = 0.6  # of the shorter item's frames that must be found again, in order
HELD = 4000  # items whose small pictures are held


class Duplicates:
    """Compares items by frames: CLIP's vectors first, then their thumbnails, made small; videos also by order."""

    def __init__(self) -> None:
        self.shown: OrderedDict[str, tuple[NDArray, NDArray]] = OrderedDict()
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
        (vector, small), (second, other_small) = self.look(one), self.look(other)
        near = vector @ second.T >= NEAR  # (N, M)
        if not near.any():
            return False
        alike = near & (small @ other_small.T >= ALIKE)
        longest = longest_in_order(alike, tolerances(one), tolerances(other))
        return longest >= max(1, np.ceil(SHARE * min(alike.shape)))

    def look(self, item: Item) -> tuple[NDArray, NDArray]:
        """Unit CLIP vectors (N, D) and unit small pictures (N, 3S²) of an item; those without contrast are zero: like nothing."""
        if item.mark not in self.shown:
            frame = np.asarray(item.row["frame"], np.float32)
            small = np.stack([small_picture(jpeg.tobytes()) for jpeg in item.row.jpegs()])
            self.shown[item.mark] = (frame / np.linalg.norm(frame, axis=1, keepdims=True).clip(1e-6), small)
            while len(self.shown) > HELD:
                self.shown.popitem(last=False)
        self.shown.move_to_end(item.mark)
        return self.shown[item.mark]


def small_picture(jpeg: bytes) -> NDArray:
    """(3S²,) a thumbnail, small, its mean level taken away, of length 1; zeros where it shows nothing."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as picture:
            small = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
    except (OSError, ValueError, SyntaxError):
        return np.zeros(3 * SIDE * SIDE, np.float32)
    small = small - small.mean()
    return small / np.linalg.norm(small) if small.std() > FLAT else np.zeros_like(small)


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
    shorter = first if len(times) <= len(other) else second
    return max(len(set(shorter[np.abs(shift - middle) <= gap].tolist())) for middle in set(shift.tolist()))


def fold(listed: list[tuple[str, int, Item]], same: Duplicates) -> list[tuple[str, int, list[Item]]]:
    """Each (kind, place, item) with the items that are nearly the same and come later in the list, which are left out."""
    rows: list[tuple[str, int, list[Item]]] = []
    heads: list[int] = []
    alike = any_alike([item for _, _, item in listed], same)
    for number, (kind, place, item) in enumerate(listed):
        near = (at for at, head in enumerate(heads) if alike[head, number] and same.same(listed[head][2], item))
        twin = next(near, None)
        if twin is None:
            rows.append((kind, place, []))
            heads.append(number)
        else:
            rows[twin][2].append(item)
    return rows


def any_alike(items: list[Item], same: Duplicates) -> NDArray:
    """(items, items) bool: whether any frame of one looks like any of the other; two products for all pairs at once."""
    if not items:
        return np.zeros((0, 0), bool)
    looks = [same.look(item) for item in items]
    begins = np.cumsum([0, *(len(vector) for vector, _ in looks)])[:-1]
    vectors, smalls = (np.concatenate([look[part] for look in looks]) for part in (0, 1))
    alike = (smalls @ smalls.T >= ALIKE) & (vectors @ vectors.T >= NEAR)
    found = np.logical_or.reduceat(np.logical_or.reduceat(alike, begins, axis=0), begins, axis=1)
    marks = np.array([item.mark for item in items])
    return found | (marks[:, None] == marks[None, :])
