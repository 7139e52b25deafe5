"""Cut a long film into segments: at shot changes, and wherever a segment would grow longer than wanted.

Only key frames are decoded. An encoder puts one where the picture changes altogether, or at the latest after a few seconds, so
they are where shots begin, and a film of hours is read in the time that its bytes take. A detector that decodes every frame
(PySceneDetect) finds cuts to the frame, and decodes a hundred times as many; a segment's limits need not be that exact.
Key frames are compared by their colours, not by where these are: seconds apart, things have moved within one shot.
"""

# Axes: K key frames.

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.files import PlanError
from pipeline.video import demux, images, planned
from pipeline.video.decode import read_head
from pipeline.video.extract import locate
from pipeline.video.part import INDEXED

VERSION = 1
GRID = 32  # pixels of the picture, each way, of which colours are counted
BINS = 8  # of a colour's histogram
CHANGE = 0.35  # of a picture: key frames of which a larger share has other colours show different shots
SHORTEST = 2.0  # seconds: what is shorter belongs to the segment before
UNINDEXED_PARTS = 32  # segments of a file without an index, at most: each of them reads the whole file


@dataclass(frozen=True)
class Segmenter:
    """Called with one row of the manifest; sent to the workers once. `longest`: seconds of a segment, at most."""

    root: str
    longest: float

    def __call__(self, item: dict[str, Any]) -> list[tuple[float, float]]:
        """Segments of a video as (start, end) in seconds of the file; none if it should stay whole. Raises Reject."""
        path = locate(Path(self.root), item["path"])
        if images.is_picture(read_head(path), path):
            return []
        try:
            film = look_through(path)
        except PlanError:
            return []  # it can only be decoded from its beginning, which every segment would do anew
        longest = self.longest if film.indexed else max(self.longest, film.length / UNINDEXED_PARTS)
        return cut(film.length, film.time, film.change, longest)


@dataclass(frozen=True)
class Film:
    """What its key frames say: when they are shown and what share of each has other colours than the one before."""

    length: float  # seconds
    time: NDArray  # (K,) seconds from the first frame
    change: NDArray  # (K,) from 0 to 1; 0 for the first
    indexed: bool  # whether a part can be read without the rest


def look_through(path: str | os.PathLike) -> Film:
    """Read a video once and decode its key frames. Raises PlanError, Reject."""
    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        planned.require_plannable(container, stream)
        context, clock, shows = stream.codec_context, stream.time_base, demux.shown_test(stream)
        context.skip_frame = "NONKEY"
        first, last, seen = None, None, []
        for packet in demux.read_packets(container, stream):
            if packet.pts is None:
                raise PlanError("packets without timestamps")
            if shows(packet):
                first = packet.pts if first is None else min(first, packet.pts)
                last = max(last or 0, packet.pts + (packet.duration or 0))
            if packet.is_keyframe and not packet.is_corrupt:
                seen += [(frame.pts, count_colours(frame)) for frame in planned.decode_run(context, packet)]
        seen += [(frame.pts, count_colours(frame)) for frame in planned.decode_run(context, None)]
        if first is None:
            raise PlanError("no packet is shown")
        indexed = bool(INDEXED & set(container.format.name.split(",")))
    seen = sorted((one for one in seen if one[0] is not None), key=lambda one: one[0])
    colours = np.array([histogram for _, histogram in seen]).reshape(len(seen), -1)
    change = np.abs(np.diff(colours, axis=0)).sum(1) / 2  # what one has more of, the other has less of
    seconds = np.array([float((pts - first) * clock) for pts, _ in seen])
    return Film(float(Fraction(last - first) * clock), seconds, np.concatenate([[0.0], change])[: len(seen)], indexed)


def count_colours(frame: av.VideoFrame) -> NDArray:
    """Histogram (3 * BINS,) of a picture's red, green and blue, sum 1; a value between two bins counts for both."""
    value = frame.reformat(width=GRID, height=GRID, format="rgb24").to_ndarray().reshape(-1, 3) * ((BINS - 1) / 255)
    low = np.minimum(value.astype(int), BINS - 2)
    place = low + BINS * np.arange(3)
    upper = np.bincount((place + 1).ravel(), (value - low).ravel(), 3 * BINS)
    return (upper + np.bincount(place.ravel(), (1 - value + low).ravel(), 3 * BINS)) / value.size


def cut(length: float, time: NDArray, change: NDArray, longest: float) -> list[tuple[float, float]]:
    """Segments of a film of `length` seconds; none where it is no longer than one.

    It is cut at each change of shot that lies SHORTEST from the cut before and from the end; a longer shot than `longest` is cut
    into equal parts. Limits are rounded to milliseconds, so that a segment's name says them.
    """
    if length <= longest:
        return []
    cuts = [0.0]
    for moment in time[change > CHANGE]:
        if moment - cuts[-1] >= SHORTEST and length - moment >= SHORTEST:
            cuts.append(float(moment))
    limits = []
    for start, end in zip(cuts, [*cuts[1:], length]):
        parts = max(1, int(np.ceil((end - start) / longest - 1e-9)))
        limits += [start + (end - start) * part / parts for part in range(parts)]
    limits = [round(limit, 3) for limit in limits] + [length]
    return list(zip(limits, limits[1:]))
