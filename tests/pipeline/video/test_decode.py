"""Sampling by numbers a reader can check, resizing against Pillow, and the three decoders against each other."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.files import DecodeError
from pipeline.video import demux, planned
from pipeline.video.decode import decode, decoder_version
from pipeline.video.resize import Resizer, resize, resized_shape, rotate
from pipeline.video.sampling import sample
from tests.support import torture

SIZE = torture.SIDE
DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two films that most tests look at: long groups of pictures with B-frames, and short ones."""
    folder = tmp_path_factory.mktemp("films")
    return {
        "long": torture.film(folder / "long.mp4", *torture.B_FRAMES, "-g", 250),
        "short": torture.film(folder / "short.mp4", *torture.CLOSED),
    }


def numbers(clip):
    return [torture.number_in(frame.numpy()) for frame in clip.frame]


# --- which frames


def test_the_centres_of_equal_segments_are_taken():
    assert sample(list(range(12)), (0, Fraction(12)), 4) == [1, 4, 7, 10]
    assert sample(list(range(8)), (0, Fraction(8)), 4) == [
        1,
        3,
        5,
        7,
    ]  # a centre on an edge takes the frame that begins


def test_as_many_frames_as_wanted_are_all_taken_and_fewer_are_not_repeated():
    assert sample(list(range(5)), (0, Fraction(5)), 5) == [0, 1, 2, 3, 4]
    assert sample(list(range(3)), (0, Fraction(3)), 5) == [0, 1, 2]


def test_sampling_is_by_time_and_not_by_count():
    shown = [0, 1, 2, 3, 4, 5, 6, 7, 80]  # eight quick frames, then one that stays
    assert sample(shown, (0, Fraction(160)), 2) == [7, 8]


@pytest.mark.parametrize("seed", range(5))
def test_every_slot_has_its_own_frame_while_there_are_enough(seed):
    chance = np.random.default_rng(seed)
    shown = sorted(chance.choice(1000, 40, replace=False).tolist())
    for wanted in (1, 7, 12, 39, 40, 64):
        chosen = sample(shown, (Fraction(shown[0]), Fraction(1000)), wanted)
        assert chosen == sorted(set(chosen)) and len(chosen) == min(wanted, 40)


@pytest.mark.parametrize("count", [13, 24, 25, 100, 375])
def test_at_a_constant_rate_no_frame_is_further_off_than_its_own_length(count):
    shown = [7 + 40 * index for index in range(count)]
    end = Fraction(7 + 40 * count)
    for slot, index in enumerate(sample(shown, (Fraction(7), end), 12)):
        centre = 7 + (end - 7) * (2 * slot + 1) / 24
        assert 0 <= centre - shown[index] < 40


def test_clip4clip_takes_the_first_frame_of_each_second_then_a_linspace():
    shown = [index * 4 for index in range(75)]  # 25 a second on a clock of 100: 3 seconds
    assert sample(shown, (0, Fraction(300)), 12, "clip4clip", Fraction(100)) == [0, 25, 50]
    shown = [index * 4 for index in range(25 * 30)]
    assert sample(shown, (0, Fraction(3000)), 4, "clip4clip", Fraction(100)) == [0, 225, 475, 725]  # seconds 0 9 19 29


def test_only_frames_on_screen_between_start_and_end_are_taken():
    shown = list(range(0, 100, 10))
    assert sample(shown, (Fraction(35), Fraction(65)), 3) == [4, 5, 6]
    chosen = sample(shown, (Fraction(35), Fraction(65)), 8)
    assert chosen == [3, 4, 5, 6]


def test_unknown_sampling_and_no_frames_are_errors():
    with pytest.raises(ValueError, match="uniform, clip4clip"):
        sample([0], (0, Fraction(1)), 1, "random")
    with pytest.raises(ValueError, match="at least 1"):
        sample([0], (0, Fraction(1)), 0)


# --- what to feed the decoder


def plan(text, wanted):
    """`text` lists packets in decoding order as pts, with k for a key frame."""
    scan = demux.Scan(Fraction(1))
    for word in text.split():
        scan.key.append(word.endswith("k"))
        scan.pts.append(int(word.rstrip("k")))
        scan.shown.append(True)
    return planned.plan_runs(scan, wanted)


def test_only_groups_that_hold_a_wanted_frame_are_fed_and_only_as_far():
    assert plan("0k 1 2 3k 4 5 6k 7 8", {1, 7}) == [(0, 1), (6, 7)]


def test_neighbouring_groups_are_one_run():
    assert plan("0k 1 2 3k 4 5", {2, 4}) == [(0, 4)]


def test_a_picture_shown_before_its_key_frame_needs_the_group_before():
    assert plan("0k 1 2 5k 3 4 6 9k 7 8", {4}) == [(0, 5)]
    assert plan("0k 1 2 5k 3 4 6 9k 7 8", {6}) == [(3, 6)]


# --- resizing


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (480, 640), (101, 67), (225, 224), (1080, 1920), (50, 90)])
def test_resizing_is_within_two_grey_levels_of_pillow(size):
    chance = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(chance.integers(0, 256, (9, 9, 3), np.uint8)).resize(size[::-1], Image.BICUBIC))
    harsh = chance.integers(0, 2, (*size, 3), np.uint8) * 255
    for picture in (smooth, harsh):
        found = resize(torch.from_numpy(picture.copy()), 224).int()
        tall, wide = resized_shape(*size, 224)
        whole = np.asarray(Image.fromarray(picture).resize((wide, tall), Image.BICUBIC))
        top, left = (tall - 224) // 2, (wide - 224) // 2
        right = torch.from_numpy(whole[top : top + 224, left : left + 224].astype(int))
        assert (found - right).abs().max() <= 2


def test_one_resizer_serves_pictures_of_different_sizes():
    resizer = Resizer(32)
    for size in ((40, 60), (60, 40), (40, 60), (32, 32)):
        picture = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
        tall, wide = resized_shape(*size, 32)
        whole = F.interpolate(picture.permute(2, 0, 1)[None], (tall, wide), mode="bicubic", antialias=True)[0].permute(
            1, 2, 0
        )
        top, left = (tall - 32) // 2, (wide - 32) // 2
        found = resizer(picture, torch.empty(32, 32, 3, dtype=torch.uint8))
        assert torch.equal(found, whole[top : top + 32, left : left + 32])


def test_the_crop_is_that_of_transformers():
    from transformers import CLIPImageProcessor

    picture = torch.randint(0, 256, (75, 131, 3), dtype=torch.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56, do_normalize=False, do_rescale=False)
    theirs = processor(Image.fromarray(picture.numpy()), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(theirs.astype(int) - resize(picture, 56).numpy()).max() <= 2


def test_turning_is_counter_clockwise():
    picture = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    assert rotate(picture, 90).shape == (2, 1, 3) and rotate(picture, 90)[0, 0, 0] == 3
    assert torch.equal(rotate(rotate(picture, -90), 90), picture)


# --- files


def test_a_clip_says_which_frames_it_holds_and_when(films):
    clip = decode(films["short"], 4, SIZE)
    assert clip.frame.shape == (4, SIZE, SIZE, 3) and clip.frame.dtype == torch.uint8
    assert numbers(clip) == [6, 18, 30, 42]
    assert clip.time.tolist() == pytest.approx([0.6, 1.8, 3.0, 4.2])
    assert clip.decoder == decoder_version("pyav") and clip.notes == []


def test_start_and_end_bound_what_is_sampled(films):
    clip = decode(films["long"], 4, SIZE, start=1.0, end=2.2)
    assert numbers(clip) == [11, 14, 17, 20]
    with pytest.raises(DecodeError, match="outside"):
        decode(films["long"], 4, SIZE, start=9.0)


def test_an_end_beyond_the_video_is_the_videos_end(films):
    assert numbers(decode(films["short"], 4, SIZE, end=99.0)) == [6, 18, 30, 42]


def test_clip4clip_mode_reads_whole_seconds(films):
    clip = decode(films["short"], 12, SIZE, sampling="clip4clip")
    assert numbers(clip) == [0, 10, 20, 30, 40]


def test_the_plan_gives_the_same_pixels_as_decoding_everything_in_order(films):
    from pipeline.video.planned import decode_by_plan
    from pipeline.video.request import FrameRequest
    from pipeline.video.sequential import decode_in_order

    for film in films.values():
        for frames in (3, 12, 48):
            slow = decode_in_order(film, FrameRequest(frames, SIZE))
            for headed in (True, False):
                quick = decode_by_plan(film, FrameRequest(frames, SIZE), headed)
                assert torch.equal(quick.frame, slow.frame) and np.array_equal(quick.time, slow.time)


def test_the_plan_decodes_less(films):
    """Of 12-frame groups, 4 wanted frames need no more than their own groups, as far as they reach."""
    with demux.open_container(films["short"]) as file:
        found = demux.scan(file, demux.find_stream(file))
        times = found.times()
    fed = planned.plan_runs(found, {times[index] for index in (6, 18, 30, 42)})
    assert sum(last - first + 1 for first, last in fed) < 36


def test_a_file_too_large_to_hold_is_read_again(films, monkeypatch):
    whole = decode(films["short"], 5, SIZE)
    monkeypatch.setattr(demux, "HELD_BYTES", 1000)
    monkeypatch.setattr(planned, "HELD_BYTES", 1000)
    again = decode(films["short"], 5, SIZE)
    assert torch.equal(whole.frame, again.frame) and again.notes == []


ALIKE = ["h264_closed_gop", "h264_b_pyramid", "h264_gop_250", "mpeg4_avi", "vp9_webm", "hevc_mp4", "h264_full_range"]


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_all_three_decoders_give_the_same_frames(name, decoder, tmp_path):
    suffix, *coding = torture.PLAIN[name]
    film = torture.film(tmp_path / f"film.{suffix}", *coding)
    ours, theirs = decode(film, 6, SIZE), decode(film, 6, SIZE, decoder=decoder)
    assert numbers(theirs) == numbers(ours)
    assert theirs.time == pytest.approx(ours.time, abs=0.011)
    assert (theirs.frame.int() - ours.frame.int()).abs().float().mean() < 1.5
    assert theirs.decoder.startswith(decoder)


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
def test_an_edit_list_and_a_rotation_are_heeded(decoder, tmp_path):
    built = torture.Built(tmp_path, torture.film(tmp_path / "base.mp4", *torture.CLOSED))
    assert numbers(decode(built.edit_list().path, 3, SIZE, decoder=decoder)) == [13, 27, 41]
    assert numbers(decode(built.rotated_90().path, 3, SIZE, decoder=decoder)) == [8, 24, 40]


def test_an_unknown_decoder_is_an_error(films):
    with pytest.raises(ValueError, match="pyav, decord, ffmpeg"):
        decode(films["short"], 4, SIZE, decoder="gstreamer")


@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_the_other_decoders_refuse_with_a_reason_too(decoder, tmp_path):
    (tmp_path / "text.mp4").write_text("no film\n" * 99)
    with pytest.raises(DecodeError) as refused:
        decode(tmp_path / "text.mp4", 4, SIZE, decoder=decoder)
    assert refused.value.reason in ("not_a_video", "no_video")


def test_real_clips_decode_alike_with_decord():
    films = sorted((DATA / "msrvtt_mini" / "videos").glob("*.mp4"))[::150]
    if not films:
        pytest.skip(f"no real clips in {DATA}; set UNITRIM_DATA")
    for film in films:
        ours, theirs = decode(film, 12, 224), decode(film, 12, 224, decoder="decord")
        assert torch.equal(ours.frame, theirs.frame) and ours.time == pytest.approx(theirs.time)
