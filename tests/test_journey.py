"""Every stage in its order, on a dozen real H.264 clips and on every kind of bad input, with a real CoreNLP and a tiny CLIP."""

import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import imageio_ffmpeg
import pyarrow.parquet as parquet
import pytest
import torch

from tests.support import tiny
from tests.support.commands import command

ROOT = Path(__file__).parent.parent
COLOURS = ["red", "green", "blue", "yellow", "white", "black", "cyan", "magenta", "orange", "brown", "gray", "pink"]
PARAMS = """
methods: [zero_shot, clip4clip, unitrim]
defaults:
  split: mini
  val: 0
  clip: {clip}
  clip_revision: null
  precision: fp32
  frames: 4
  sampling: uniform
  decoder: pyav
  thumbnail: 48
  shards: 2
  max_rejects: 0.3
  words: 32
  triplets: {{parser: auto, rules: extended, conventions: video, style: paper, form: surface, cap: 8}}
  train:
    zero_shot: {{}}
    clip4clip: {{epochs: 2, batch: 8}}
    unitrim: {{epochs: 2, image_epochs: 1, batch: 8, k: 2, samples: 8}}
datasets:
  tiny:
    reader: msrvtt
    root: {root}
"""


def film(path: Path, colour: str, seconds: float = 2.0) -> None:
    """A clip in which a coloured square moves over a test pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = "64x48"
    inputs = [
        "-f",
        "lavfi",
        "-i",
        f"testsrc=s={size}:r=10:d={seconds}",
        "-f",
        "lavfi",
        "-i",
        f"color={colour}:s=24x24:r=10:d={seconds}",
    ]
    draw = ["-filter_complex", "[0][1]overlay=x=t*16:y=12", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *inputs, *draw, str(path)]
    subprocess.run(command, check=True)


def dataset(root: Path) -> None:
    """MSR-VTT's layout: twelve good videos, and one of each bad kind."""
    names = [f"video{number}" for number in range(12)]
    for name, colour in zip(names, COLOURS):
        film(root / "videos" / f"{name}.mp4", colour)
    (root / "videos" / "video20.mp4").touch()  # empty
    (root / "videos" / "video21.mp4").write_text("this is not a film\n" * 50)
    bad = ["video20", "video21", "video22"]  # video22 is missing
    sentences = [
        {"video_id": name, "caption": f"a {colour} square moves to the right on a test pattern {extra}"}
        for name, colour in zip(names + bad, COLOURS + COLOURS)
        for extra in ("", "quickly")
    ]
    sentences += [{"video_id": "video0", "caption": "word " * 3000}, {"video_id": "video1", "caption": "  "}]
    videos = [{"video_id": name, "url": ""} for name in names + bad]
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (root / "MSRVTT_train.csv").write_text(
        "\n".join(["video_id", *names[:8], *bad, "video99"]) + "\n"
    )  # video99 is unknown
    rows = [f"ret{i},msr{i},{name},a {COLOURS[i + 8]} square moves" for i, name in enumerate(names[8:])]
    (root / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *rows]) + "\n")


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """The folder in which every stage has run, once."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("journey")
    dataset(base / "data")
    tiny.clip(base / "model")
    (base / "params.yaml").write_text(PARAMS.format(clip=base / "model", root=base / "data"))
    if (ROOT / "tools").exists():
        (base / "tools").symlink_to(ROOT / "tools")
    before = Path.cwd()
    os.chdir(base)
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        for stage in ("manifest", "clip", "visual", "keyframes", "triplets", "text"):
            command(f"pipeline.{stage}", "--dataset", "tiny")
        for method in ("zero_shot", "clip4clip", "unitrim"):
            command("train.run", "--shards", "cache/tiny", "--method", method)
            command("eval.run", "--run", f"cache/tiny/runs/{method}", "--shards", "cache/tiny")
        command("eval.report", "--dataset", "tiny")
        yield base
    finally:
        os.chdir(before)


def rows(journey: Path, path: str) -> list[dict]:
    return parquet.read_table(journey / "cache" / "tiny" / path).to_pylist()


def test_every_item_is_encoded_or_a_reject_with_a_reason(journey):
    from pipeline import shards

    encoded = [
        name
        for path in shards.shard_paths(journey / "cache/tiny/visual")
        for name in shards.read(path, "visual")["video_id"]
    ]
    rejects = {
        row["id"]: row["reason"]
        for table in ("manifest", "visual")
        for row in rows(journey, f"{table}/rejects.parquet")
    }
    assert sorted(encoded) == sorted(f"video{number}" for number in range(12))
    videos = {name: reason for name, reason in rejects.items() if "#" not in name}
    assert set(videos) == {"video20", "video21", "video22", "video99"}
    assert all(videos.values())
    captions = {row["caption_id"] for row in rows(journey, "manifest/captions.parquet")}
    assert any(name.startswith("video1#") for name in rejects), "the empty caption is a reject"
    assert sum(name.startswith("video0#") for name in captions) == 3, "the caption of 3,000 words is kept"


def test_every_caption_has_triplets_and_tensors(journey):
    from pipeline import shards

    captions = [row["caption_id"] for row in rows(journey, "manifest/captions.parquet")]
    parsed = {row["caption_id"]: row for row in rows(journey, "triplets.parquet")}
    encoded = [
        name
        for path in shards.shard_paths(journey / "cache/tiny/text")
        for name in shards.read(path, "text")["caption_id"]
    ]
    assert sorted(encoded) == sorted(parsed) == sorted(captions)
    said = parsed["video0#000"]["triplets"]
    assert any(triplet["subject"] == "square" for triplet in said), said


def test_the_real_corenlp_parsed_the_captions(journey):
    parsers = {row["parser"] for row in rows(journey, "triplets.parquet")}
    if shutil.which("java") is None or not (ROOT / "tools").exists():
        warnings.warn("JAVA OR CORENLP IS ABSENT: the shallow parser made the triplets of this journey", stacklevel=1)
        pytest.skip("no Java, or `make parser` has not run")
    assert "corenlp" in parsers


def test_every_video_has_its_keyframe(journey):
    keyframes = rows(journey, "keyframes.parquet")
    assert [row["video_id"] for row in keyframes] == sorted(f"video{number}" for number in range(12))
    assert all(0 <= row["index"] < 4 and 0 <= row["time"] <= 2 for row in keyframes)


@pytest.mark.parametrize("method", ["zero_shot", "clip4clip", "unitrim"])
def test_every_method_has_scores_in_every_direction(journey, method):
    metrics = json.loads((journey / f"cache/tiny/scores/{method}/metrics.json").read_text())
    assert metrics["n"] == {"texts": 4, "videos": 4, "images": 4}
    for direction in ("t2v", "v2t", "t2i", "i2t"):
        assert metrics[direction]["R@5"] == 100 and 1 <= metrics[direction]["MnR"] <= 4
        assert {"R@1", "R@5", "R@10", "MdR", "MnR", "Rsum"} <= set(metrics[direction])
    assert "joint" in metrics


def test_one_sentence_finds_images_and_videos(journey, capsys):
    command(
        "eval.search", "--run", "cache/tiny/runs/unitrim", "--shards", "cache/tiny", "a red square moves to the right"
    )
    said = capsys.readouterr().out
    assert "video" in said and ".mp4" in said


def test_the_report_is_one_file_that_needs_no_network(journey):
    page = (journey / "cache/tiny/report/index.html").read_text()
    assert "unitrim" in page and "data:image/jpeg;base64," in page
    assert not [word for word in ('src="http', "src='http", 'href="http', "@import", "url(http") if word in page]


def test_a_second_run_of_every_stage_changes_no_byte(journey):
    names = ["visual", "text", "triplets.parquet", "keyframes.parquet", "manifest"]

    def everything():
        paths = [
            path
            for name in names
            for path in [journey / "cache/tiny" / name, *(journey / "cache/tiny" / name).rglob("*")]
        ]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before = everything()
    for stage in ("manifest", "visual", "keyframes", "triplets", "text"):
        command(f"pipeline.{stage}", "--dataset", "tiny")
    assert everything() == before


@pytest.mark.parametrize(
    "module, words, says",
    [
        ("pipeline.visual", ["--dataset", "empty"], "dvc repro"),
        ("pipeline.keyframes", ["--dataset", "empty"], "dvc repro"),
        ("pipeline.text", ["--dataset", "empty"], "dvc repro"),
        ("train.run", ["--shards", "cache/empty"], "dvc repro"),
        ("eval.run", ["--run", "cache/empty/runs/unitrim", "--shards", "cache/empty"], "run"),
        ("eval.search", ["--run", "cache/empty/runs/unitrim", "--shards", "cache/empty", "a ball"], "run"),
    ],
)
def test_a_missing_input_says_what_to_run_first(journey, module, words, says):
    text = (journey / "params.yaml").read_text()
    if "empty:" not in text:
        (journey / "params.yaml").write_text(text + "  empty: {reader: msrvtt, root: nowhere}\n")
    with pytest.raises(SystemExit, match=says):
        command(module, *words)


def test_a_truncated_annotation_file_is_named(journey):
    path = journey / "broken" / "MSRVTT_data.json"
    shutil.copytree(journey / "data", journey / "broken")
    path.write_text(path.read_text()[:500])
    text = (journey / "params.yaml").read_text()
    (journey / "params.yaml").write_text(text + f"  broken: {{reader: msrvtt, root: {journey / 'broken'}}}\n")
    with pytest.raises(SystemExit, match=r"MSRVTT_data\.json"):
        command("pipeline.manifest", "--dataset", "broken")
