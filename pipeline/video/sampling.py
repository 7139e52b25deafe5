"""Which frames of a video to take, from nothing but when its frames are shown.

Times are integers in the video's own clock (its presentation timestamps), so that no rounding ever decides a frame.
"""

# Axes: N frames wanted, M frames shown.

from bisect import bisect_left, bisect_right
from fractions import Fraction

MODES = ("uniform", "clip4clip")


def sample(
    shown: list[int],
    span: tuple[Fraction, Fraction],
    wanted: int,
    mode: str = "uniform",
    second: Fraction = Fraction(1),
) -> list[int]:
    """Indices into `shown` of at most `wanted` distinct frames, in order.

    `shown` (M) holds the ascending times of the frames, `span` the first and the last moment asked for, `second` the length
    of a second on this clock. Frames that are not on screen during the span are never taken.
    """
    if wanted < 1:
        raise ValueError(f"frames: expected at least 1, got {wanted}")
    if mode not in MODES:
        raise ValueError(f"sampling: expected one of {', '.join(MODES)}, got {mode!r}")
    start, end = span
    first = max(bisect_right(shown, start) - 1, 0)
    inside = shown[first : bisect_left(shown, end)]
    chosen = (
        pick_uniform(inside, start, end, wanted)
        if mode == "uniform"
        else pick_each_second(inside, start, wanted, second)
    )
    return [first + index for index in chosen]


def pick_uniform(shown: list[int], start: Fraction, end: Fraction, wanted: int) -> list[int]:
    """The frame on screen at the centre of each of `wanted` equal segments; all of them distinct while M >= N.

    Two centres can fall on one long-shown frame (variable frame rate); the later one then takes the next frame.
    """
    count = len(shown)
    if count <= wanted:
        return list(range(count))
    chosen = []
    for slot in range(wanted):
        index = max(bisect_right(shown, start + (2 * slot + 1) * (end - start) / (2 * wanted)) - 1, 0)
        chosen.append(max(index, chosen[-1] + 1) if chosen else index)
    last = count
    for slot in reversed(range(wanted)):
        last = chosen[slot] = min(chosen[slot], last - 1)
    return chosen


def pick_each_second(shown: list[int], start: Fraction, wanted: int, second: Fraction) -> list[int]:
    """The first frame of each second, then N of those by a truncated linspace (CLIP4Clip's loader)."""
    firsts: list[int] = []
    moment = 0
    while (index := bisect_left(shown, start + moment * second)) < len(shown):
        firsts.append(index)
        moment = int((shown[index] - start) // second) + 1
    if len(firsts) <= wanted:
        return firsts
    steps = max(wanted - 1, 1)
    return [firsts[slot * (len(firsts) - 1) // steps] for slot in range(wanted)]
