"""In which order samples come: at random, or so that videos that look alike share a batch, as each other's hard wrong answers."""

# Axes: S samples (captions), V videos, K neighbours, D embedding.

import numpy as np
from numpy.typing import NDArray

SCALE = 4000  # of unit vectors as whole numbers: their products stay below 2^24, up to which float32 counts exactly
NEIGHBOURS = 64
ROWS = 256  # videos compared with all others at a time


def nearest(vector: NDArray, count: int = NEIGHBOURS) -> NDArray:
    """(V, K) the `count` or fewer videos whose vectors (V, D) are nearest to each video's by cosine, the nearest first.

    Vectors are rounded to whole numbers, so that sums are exact and every machine finds the same, whatever its threads.
    """
    length = np.linalg.norm(vector.astype(np.float64), axis=1, keepdims=True)
    whole = np.rint(SCALE * vector / np.maximum(length, 1e-12)).astype(np.float32)
    count = min(count, len(whole) - 1)
    found = np.empty((len(whole), max(count, 0)), np.int64)
    for at in range(0, len(whole) if count > 0 else 0, ROWS):
        product = whole[at : at + ROWS] @ whole.T
        # of equal products the first video's is larger now: no two are equal, and which are found is certain
        product = product.astype(np.float64) * len(whole) - np.arange(len(whole))
        own = np.arange(len(product))
        product[own, at + own] = -np.inf
        some = np.argpartition(-product, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(product, some, 1), axis=1)
        found[at : at + ROWS] = np.take_along_axis(some, order, 1)
    return found


def group(near: NDArray, size: int, random: np.random.Generator) -> NDArray:
    """(V,) the number of each video's group: in random order, whoever is free takes up to `size` - 1 of its free neighbours."""
    member = np.full(len(near), -1, np.int64)
    count = 0
    for video in random.permutation(len(near)):
        if member[video] < 0:
            free = near[video][member[near[video]] < 0]
            member[video] = member[free[: size - 1]] = count
            count += 1
    return member


def alike(video: NDArray, near: NDArray, size: int, random: np.random.Generator) -> NDArray:
    """(S,) an order of all samples, each of the video (S,) that it tells of, in which look-alikes stand side by side.

    It passes over the videos, one caption of each at a time, as long as any is left. Groups are drawn once, and come in another
    order in every pass.
    """
    by_video = np.lexsort((random.random(len(video)), video))  # a video's captions in random order
    first = np.flatnonzero(np.diff(video[by_video], prepend=-1))
    count = np.diff(first, append=len(video))
    turn = np.empty(len(video), np.int64)  # in which pass each sample stands
    turn[by_video] = np.arange(len(video)) - np.repeat(first, count)
    member = group(near, size, random)[video]
    place = np.stack([random.permutation(member.max() + 1) for _ in range(count.max())])
    return np.lexsort((random.random(len(video)), place[turn, member], turn))
