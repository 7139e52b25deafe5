"""The built-in world: the same everywhere, in groups of look-alikes, told truly and in wordings kept apart."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pipeline.datasets import load
from pipeline.datasets.demo import captions as demo_captions
from pipeline.datasets.demo import reader, render, world
from pipeline.datasets.demo.world import Scene, Step, Thing
from pipeline.video.decode import decode

ROOT = Path(__file__).parents[3]
SMALL = {"name": "demo", "world": {"groups": {"train": 2, "val": 1, "test": 1}}}
BALL = Thing("ball", "red", "large", "left")
RING = Thing("ring", "blue", "small", "top")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    reader.prepare(folder, SMALL)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.*")) if path.is_file()}


def seen(scene: Scene, moment: float) -> dict[str, tuple[float, float, float]]:
    shown = render.state(scene, moment, [(0, 0)] * len(scene.things))
    return {thing.shape: (round(x, 2), round(y, 2), round(scale, 2)) for thing, x, y, scale in shown}


def test_a_manifest_says_what_the_look_alikes_of_a_group_differ_in():
    kinds = {item.group: item.group_kind for item in reader.read({"name": "demo"})[0]}
    share = Counter(kinds.values())
    assert set(share) == {"motion", "swap"} and min(share.values()) > 400
    for clip in list(reader.clips(SMALL)):  # the same script in a swap, another in a motion
        alike = {other.scene.steps for other in reader.clips(SMALL) if other.group == clip.group}
        assert (len(alike) == 1) == (kinds[clip.group] == "swap")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root, tmp_path):
    clips = list(reader.clips(SMALL))
    (tmp_path / "train").mkdir()
    for clip in clips[:3]:
        reader.render(tmp_path, clip)
        assert (tmp_path / clip.file).read_bytes() == (root / clip.file).read_bytes()
    other = next(reader.clips(SMALL | {"world": {"seed": 1}}))
    assert other.scene != clips[0].scene


def test_what_lay_in_memory_before_changes_no_byte(tmp_path):
    """glibc fills memory by MALLOC_PERTURB_ before it gives it away; an encoder that reads it first then answers otherwise."""
    code = (
        "import sys; from pathlib import Path; from pipeline.datasets.demo import reader\n"
        "clips = {clip.video_id: clip for clip in reader.clips({})}\n"
        "[reader.render(Path(sys.argv[1]), clips[name]) for name in ('train00242', 'train00000', 'train00007')]"
    )
    for fill in ("0", "85"):
        (tmp_path / fill / "train").mkdir(parents=True)
        words = [sys.executable, "-c", code, str(tmp_path / fill)]
        subprocess.run(words, check=True, env=os.environ | {"MALLOC_PERTURB_": fill, "PYTHONPATH": str(ROOT)})
    assert contents(tmp_path / "0") == contents(tmp_path / "85")


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mp4"), ("libvpx", ".webm"), ("mpeg4", ".avi")])
def test_every_container_is_the_same_bytes_twice_and_decodes(codec, suffix, tmp_path):
    scene = Scene((BALL,), "sand", (Step("move", 0, "right"),))
    (tmp_path / "train").mkdir()
    clip = reader.Clip("train00000", "train", "g", scene, "0 x", f"train/clip{suffix}", codec, 12, 96, 10)
    reader.render(tmp_path, clip)
    first = (tmp_path / clip.file).read_bytes()
    reader.render(tmp_path, clip)
    assert (tmp_path / clip.file).read_bytes() == first
    frames = decode(tmp_path / clip.file, 12, 64).frame
    assert frames.shape == (12, 64, 64, 3)
    red = (frames[:, :, :, 0].int() - frames[:, :, :, 1].int() > 90).float()  # (N, S, S)
    x = (red.sum(1) * np.arange(64)).sum(1) / red.sum((1, 2))
    assert x[0] < 20 and x[-1] > 44  # the ball went from the left to the right


def test_a_stopped_rendering_goes_on_and_a_new_world_starts_anew(root):
    before = contents(root)
    lost = root / next(reader.clips(SMALL)).file
    lost.unlink()
    reader.prepare(root, SMALL)
    assert contents(root) == before
    kept = lost.stat().st_mtime_ns
    reader.prepare(root, SMALL)
    assert lost.stat().st_mtime_ns == kept


def test_every_clip_has_a_file_that_decodes(root):
    items, captions = load("demo").read(SMALL)
    assert len(items) == 12 and {item.split for item in items} == {"train", "val", "test"}
    for item in items:
        clip = decode(root / item.path, 12, 64)
        assert clip.frame.shape == (12, 64, 64, 3) and clip.time[-1] > 2.5
    counts = reader.expected(SMALL)
    assert {split: count["captions"] for split, count in counts.items()} == Counter(
        next(item.split for item in items if item.video_id == caption.video_id) for caption in captions
    )


def test_a_group_is_three_look_alikes():
    for number in range(60):
        clips = reader.group_of(0, "train", number)
        scenes = [clip.scene for clip in clips]
        assert len({clip.group for clip in clips}) == 1 and len(set(scenes)) == 3
        assert len({(clip.width, clip.rate, clip.scene.place) for clip in clips}) == 1
        looks = [[(t.shape, t.colour, t.size) for t in scene.things] for scene in scenes]
        if scenes[0].kind == "motion":
            assert looks[0] == looks[1] == looks[2]
        else:  # the same script, the same shapes, colours and sizes, dealt out otherwise
            assert len({scene.steps for scene in scenes}) == 1
            assert len({tuple(tuple(sorted(column)) for column in zip(*look)) for look in looks}) == 1


def test_look_alikes_are_told_apart_by_their_captions():
    for split in ("val", "test"):
        for number in range(40):
            said = [set(reader.sentences(clip)) for clip in reader.group_of(0, split, number)]
            assert not (said[0] & said[1] or said[0] & said[2] or said[1] & said[2])


def test_val_and_test_are_told_in_words_that_train_never_uses():
    _, captions = reader.read({"world": {"groups": {"train": 120, "val": 60, "test": 60}}})
    words = {split: set() for split in ("train", "val", "test")}
    for caption in captions:
        words[caption.video_id.rstrip("0123456789")] |= set(caption.text.replace(",", "").split())
        assert 3 <= len(caption.text.replace(",", " ,").split()) <= world.LONGEST
    assert {"travels", "becomes", "flickers", "trade"} <= words["val"] - words["train"]
    assert {"drifts", "swells", "twinkles", "exchange"} <= words["test"] - words["train"]
    assert set(world.SHAPES) | set(world.COLOURS) <= words["train"] & words["val"] & words["test"]


def test_events_are_what_they_are_called():
    def last(step: Step) -> dict:
        return seen(Scene((BALL, RING), "snow", (step,)), 1.0)

    start = seen(Scene((BALL, RING), "snow", (Step("grow", 0),)), 0.0)
    assert start == {"ball": (0.18, 0.5, 1.0), "ring": (0.5, 0.18, 1.0)}
    assert last(Step("move", 0, "right"))["ball"] == (0.82, 0.5, 1.0)
    assert last(Step("grow", 0))["ball"][2] == 1.8
    assert last(Step("shrink", 1))["ring"][2] == 0.5
    assert set(last(Step("vanish", 0))) == {"ring"}
    assert last(Step("swap", 0, other=1)) == {"ball": (0.5, 0.18, 1.0), "ring": (0.18, 0.5, 1.0)}
    assert last(Step("follow", 0, "bottom", 1)) == {"ball": (0.5, 0.18, 1.0), "ring": (0.5, 0.82, 1.0)}
    flash = Scene((BALL,), "snow", (Step("flash", 0),))
    assert [bool(seen(flash, moment)) for moment in (0, 0.5, 1)] == [False, True, False]


def test_backwards_is_the_other_order_undone():
    scene = Scene((BALL, RING), "snow", (Step("move", 0, "right"), Step("grow", 1)))
    back = world.reverse(scene)
    assert [(step.event, step.actor, step.zone) for step in back.steps] == [("shrink", 1, ""), ("move", 0, "left")]
    assert back.things[0].zone == "right"
    assert world.reverse(back) == scene


def test_a_caption_says_what_happens():
    scene = Scene((BALL, RING), "snow", (Step("move", 0, "right"), Step("vanish", 1)))
    for seed in range(30):
        text = demo_captions.caption(scene, "train", Random(seed))
        first, second = text.index("ball"), text.index("ring")
        assert first < second and "right" in text[first:second] and ("vanish" in text or "disappear" in text)
