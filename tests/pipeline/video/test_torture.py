"""Every awkward kind of file gives the right frames, read from the numbers drawn into them, or a reason a person understands."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.files import DecodeError
from pipeline.video.decode import decode
from tests.support import torture

SIZE = torture.SIDE
WANTED = (12, 5)


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    return torture.cases(tmp_path_factory.mktemp("torture"))


def names():
    return [*torture.PLAIN, *(name for name, _ in torture.Built(None, None).all())]


@pytest.mark.parametrize("name", names())
def test_right_frames_or_a_reason(name, kinds):
    case = kinds[name]()
    for wanted in WANTED:
        try:
            clip = decode(case.path, wanted, SIZE)
        except DecodeError as error:
            assert error.reason in case.refused, f"refused: {error}"
            assert len(error.detail) > 10
            continue
        assert case.numbers, f"should have been refused for {case.refused}"
        right(case, clip, wanted)


def right(case, clip, wanted):
    """The frames say what is on screen at their times; the times are the wanted ones; none comes twice."""
    found = [torture.number_in(frame.numpy()) for frame in clip.frame]
    assert len(found) == len(clip.time) == min(wanted, len(case.numbers)), (found, clip.notes)
    assert None not in found, (found, clip.notes)
    found = [int(number) for number in found]
    if not case.times:
        assert found == case.numbers[:wanted] if len(case.numbers) <= wanted else sorted(set(found)) == found
        return
    begin = np.array(case.times)
    if case.late:
        first = found[0] - round(clip.time[0] / begin[1])  # the frame that is shown first
        begin, case = begin[first:] - begin[first], replace(case, numbers=case.numbers[first:])
    places = [int(np.abs(begin - time).argmin()) for time in clip.time]
    assert np.abs(begin[places] - clip.time).max() <= case.slack + 1e-9, (found, clip.time.tolist())
    assert [case.numbers[place] for place in places] == found, (found, clip.time.tolist())
    assert all(a < b for a, b in zip(places, places[1:])), f"not in order or repeated: {places}"
    gaps = np.append(np.diff(begin), np.median(np.diff(begin))) if len(begin) > 1 else np.array([np.inf])
    if len(case.numbers) <= wanted or case.crowded:
        return
    for slot, time in enumerate(clip.time):
        centre = (begin[-1] + gaps[-1]) * (2 * slot + 1) / (2 * wanted)
        period = gaps[np.searchsorted(begin, centre + case.slack, "right") - 1]
        assert abs(time - centre) <= period + 2 * case.slack, f"wanted {centre}, got {time}"


def test_the_numbers_can_be_read_and_a_neighbour_is_told_apart():
    for number in (0, 1, 77, 2048, 4095):
        assert torture.number_in(torture.picture(number, SIZE, SIZE)) == number
    assert torture.number_in(np.rot90(torture.picture(5, SIZE, SIZE))) is None
    assert torture.number_in(np.full((SIZE, SIZE, 3), 128, np.uint8)) is None
