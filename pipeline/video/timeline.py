"""Frame times: which frame is on screen at a wanted second, and until when."""

# Axes: N frames taken.

from fractions import Fraction

import numpy as np

from pipeline.files import DecodeError
from pipeline.video.request import FrameRequest
from pipeline.video.sampling import sample


def is_rising(times: list) -> bool:
    """Whether each time is later than the one before."""
    return all(a < b for a, b in zip(times, times[1:]))


def frame_ends(times: list, duration: int = 0) -> Fraction:
    """When the last frame leaves the screen: after its own duration, else after the usual one."""
    if duration <= 0 and len(times) > 1:
        gaps = sorted(b - a for a, b in zip(times, times[1:]))
        duration = gaps[len(gaps) // 2]
    return Fraction(times[-1] + max(duration, 1))


def describe_length(found: Fraction, length: Fraction, clock: Fraction) -> str:
    """How much of the promised length is there, for a person."""
    return f"holds {float(found * clock):.2f} of {float(length * clock):.2f} s"


def choose_frames(
    times: list, stop: Fraction, end: Fraction, want: FrameRequest, clock: Fraction
) -> tuple[list[int], list[str]]:
    """Indices of the wanted frames of a video that lasts until `stop` and was to last until `end`, and notes.

    DecodeError where nothing is shown between the moments asked for, or the file stops before the last wanted one.
    """
    origin = Fraction(times[0])
    first = origin + Fraction(want.start or 0).limit_denominator(1_000_000) / clock
    last = end if want.end is None else min(end, origin + Fraction(want.end).limit_denominator(1_000_000) / clock)
    if first >= last:
        length = float((end - origin) * clock)
        raise DecodeError("outside", f"nothing between {want.start} and {want.end} s; it lasts {length:.2f} s")
    # the last of N equal segments has its centre half a segment before the end: what stops before it lacks a wanted frame
    if last - (last - first) / (2 * want.frames) > stop:
        raise DecodeError("truncated", describe_length(stop - origin, end - origin, clock))
    notes = [f"truncated: {describe_length(stop - origin, end - origin, clock)}"] if end > stop else []
    return sample(times, (first, last), want.frames, want.sampling, 1 / clock), notes


def to_seconds(times: list, chosen: list[int], clock: Fraction) -> np.ndarray:
    """Seconds (N,) from the first frame to the chosen ones."""
    return np.array([float((times[index] - times[0]) * clock) for index in chosen])
