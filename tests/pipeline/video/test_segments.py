"""A part of a long film is read without the rest and is the same frames; where a film is cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.files import PlanError, Reject
from pipeline.video import demux, part
from pipeline.video.decode import decode
from pipeline.video.request import FrameRequest
from pipeline.video.segments import Segmenter, cut, look_through
from tests.support import torture

INDEXED = [name for name, (suffix, *_) in torture.PLAIN.items() if suffix in ("mp4", "mov", "mkv", "webm")]


@pytest.mark.parametrize("name", INDEXED)
def test_a_part_is_the_frames_that_the_whole_gives(tmp_path, monkeypatch, name):
    suffix, *coding = torture.PLAIN[name]
    try:
        path = torture.film(tmp_path / f"film.{suffix}", *coding)
    except RuntimeError as error:
        pytest.skip(f"this ffmpeg cannot make it: {error}")
    length = torture.COUNT / torture.RATE
    spans = [(length * number / 16, length * (number + span) / 16) for span in (1, 2, 4) for number in range(17 - span)]
    whole = [decode(path, 3, torture.SIDE, start=start, end=end) for start, end in spans]
    monkeypatch.setattr(part, "LONG_SECONDS", 0)
    used = 0
    for (start, end), expected in zip(spans, whole):
        with demux.open_container(path) as container:
            stream = demux.find_stream(container)
            used += part.scan_part(container, stream, FrameRequest(3, torture.SIDE, "uniform", start, end)) is not None
        clip = decode(path, 3, torture.SIDE, start=start, end=end)
        assert clip.time.tolist() == expected.time.tolist()
        assert torch.equal(clip.frame, expected.frame)
    seekable = "late" not in name and "fragmented" not in name
    assert used >= len(spans) // 2 or not seekable, f"only {used} of {len(spans)} parts were read alone"


@pytest.fixture(scope="module")
def long_film(tmp_path_factory) -> Path:
    """Ninety seconds, with a cut at 20.0 and at 50.5: three shots of one colour each, in moving specks."""
    place = tmp_path_factory.mktemp("long") / "film.mp4"
    random = np.random.default_rng(0)
    shots, frames = {0: 0, 200: 2, 505: 1}, []
    for number in range(900):
        if number in shots:
            backdrop = random.integers(0, 60, (48, 64, 3), np.uint8)
            backdrop[..., shots[number]] += 140
        frames.append(np.roll(backdrop, number // 4, 1).tobytes())
    feed = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-r", 10, "-i", "-")
    torture.ffmpeg(*feed, *torture.X264, "-g", 250, place, feed=b"".join(frames))
    return place


def test_a_part_of_a_long_film_reads_little_of_it(long_film, monkeypatch):
    read, packets = [], demux.read_packets
    monkeypatch.setattr(
        demux, "read_packets", lambda *words: (read.append(packet.size) or packet for packet in packets(*words))
    )
    decode(long_film, 4, 32, start=60.0, end=70.0)
    assert 0 < len(read) < 400  # from the key frame at 50.5 s to 70 s, of 900 packets


def test_a_film_is_cut_where_its_shots_change_and_where_they_last_too_long(long_film):
    cutter = Segmenter(str(long_film.parent), 30.0)
    found = cutter({"path": long_film.name})
    assert [start for start, _ in found] == pytest.approx([0, 20, 35.25, 50.5, 70.25], abs=0.11)
    assert found[-1][1] == pytest.approx(90) and [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
    assert cutter({"path": long_film.name}) == found
    assert Segmenter(str(long_film.parent), 90.0)({"path": long_film.name}) == []


def test_each_segment_shows_its_own_shot(long_film):
    for start, end in Segmenter(str(long_film.parent), 30.0)({"path": long_film.name}):
        frame = decode(long_film, 4, 32, start=start, end=end).frame.float().mean((1, 2))
        assert (frame.argmax(1) == {0: 0, 20: 2, 35: 2, 50: 1, 70: 1}[int(start + 0.2)]).all()


def test_short_shots_stay_together_and_no_limit_is_lost():
    time, change = np.arange(0, 100, 0.5), np.full(200, 99.0)
    found = cut(100.0, time, change, 30.0)
    assert all(end - start >= 2 for start, end in found) and all(end - start <= 30 for start, end in found)
    assert found[0][0] == 0 and found[-1][1] == 100.0
    assert cut(100.0, np.zeros(0), np.zeros(0), 30.0) == [(0.0, 25.0), (25.0, 50.0), (50.0, 75.0), (75.0, 100.0)]


def test_what_can_only_be_read_from_its_beginning_stays_whole(tmp_path):
    path = torture.film(tmp_path / "film.wmv", "-c:v", "wmv2", "-q:v", 3)
    with pytest.raises(PlanError):
        look_through(path)
    assert Segmenter(str(tmp_path), 1.0)({"path": path.name}) == []


def test_a_file_without_an_index_is_cut_into_a_few_long_parts(tmp_path):
    path = torture.film(tmp_path / "film.ts", *torture.CLOSED)
    assert not look_through(path).indexed
    assert len(Segmenter(str(tmp_path), 0.1)({"path": path.name})) <= 33


def test_a_damaged_file_is_a_reject(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(4000))
    with pytest.raises(Reject):
        Segmenter(str(tmp_path), 30.0)({"path": "film.mp4"})
