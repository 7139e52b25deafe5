"""The moment of a video that fits: which frame, and from when to when."""

# Axes: N frames of a video.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.search.catalog import Item

SHARE = 0.5  # of the way from a video's mean frame to its best one: what lies above belongs to the moment


@dataclass(frozen=True)
class Moment:
    """Seconds of the file."""

    time: float
    start: float
    end: float


def best_moment(score: NDArray, times: NDArray, item: Item) -> Moment:
    """The best of N frames and its neighbours that fit nearly as well, each standing for the time around it.

    score, times: (N,), seconds rising. The first frame stands for all before it, the last for all after it.
    """
    best = int(score.argmax())
    floor = score.mean() + SHARE * (score[best] - score.mean())
    first = last = best
    while first > 0 and score[first - 1] >= floor:
        first -= 1
    while last + 1 < len(score) and score[last + 1] >= floor:
        last += 1
    edges = (times[:-1] + times[1:]) / 2
    start = float(edges[first - 1]) if first else float(item.start or 0.0)
    end = float(edges[last]) if last < len(edges) else file_end(times, item)
    return Moment(float(times[best]), start, max(end, float(times[best])))


def file_end(times: NDArray, item: Item) -> float:
    """When a video, or the item's part of it, is over; as long after its last frame as the frames lie apart, if nobody says."""
    if item.end is not None or item.duration is not None:
        return float(item.end if item.end is not None else item.duration)
    gap = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return float(times[-1]) + gap / 2
