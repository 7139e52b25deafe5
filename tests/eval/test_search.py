"""Search over a folder of photos and films, made by the real stages with a tiny CLIP: the way a creator uses it."""

import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import similarity
from eval.search import __main__, engine
from pipeline.files import CLIPError, MissingError
from tests.support import tiny
from tests.support.commands import command

COLOURS = {"red": (210, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 210), "white": (240, 240, 240)}
PARAMS = """
methods: [zero_shot, unitrim]
defaults:
  clip: {clip}
  clip_revision: null
  precision: fp32
  frames: 4
  sampling: uniform
  decoder: pyav
  thumbnail: 32
  shards: 2
  max_rejects: 0.0
  words: 32
  triplets: {{parser: shallow, rules: extended, conventions: video, style: paper, form: surface, cap: 8}}
  train:
    zero_shot: {{}}
    unitrim: {{epochs: 1, image_epochs: 1, batch: 4, k: 2, disentangler_hidden: 32, samples: 8}}
datasets:
  mine:
    reader: folder
    root: {root}
"""


def film(path: Path, colour: tuple[int, int, int]) -> None:
    """Two seconds: dark, then the colour."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(20):
            picture = np.zeros((48, 48, 3), np.uint8)
            picture[:] = colour if index >= 10 else 8
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A creator's folder: three films, four photos, a caption each, half of them for training."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("creator")
    (base / "media").mkdir()
    lines = ["file,caption,split"]
    for place, (name, colour) in enumerate(COLOURS.items()):
        photo = (
            np.random.default_rng(place).integers(0, 40, (40, 56, 3)).astype(np.uint8) + np.array(colour, np.uint8) // 2
        )
        Image.fromarray(photo).save(base / "media" / f"{name}.png")
        lines.append(f"{name}.png,a {name} wall in the sun,{'train' if place % 2 else 'test'}")
        if name != "white":
            film(base / "media" / f"{name}.mp4", colour)
            lines.append(f"{name}.mp4,the light on a {name} wall goes on,{'train' if place % 2 else 'test'}")
    (base / "media" / "captions.csv").write_text("\n".join(lines) + "\n")
    tiny.clip(base / "model")
    (base / "params.yaml").write_text(PARAMS.format(clip=base / "model", root=base / "media"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        for stage in ("manifest", "clip", "visual", "keyframes", "triplets", "text"):
            command(f"pipeline.{stage}", "--dataset", "mine")
        for method in ("zero_shot", "unitrim"):
            command("train.run", "--shards", "cache/mine", "--method", method)
        yield base


@pytest.fixture(scope="module", params=["zero_shot", "unitrim"])
def finder(home, request):
    return engine.Search(Path("cache/mine/runs") / request.param, Path("cache/mine"))


def test_photos_are_images_and_films_are_both(finder):
    answer = finder("a red wall", top=20)
    assert {one["kind"] for one in answer["images"]} == {"photo", "keyframe"}
    assert {one["kind"] for one in answer["videos"]} == {"video"}
    assert len(answer["images"]) == 7 and len(answer["videos"]) == 3
    assert [one["rank"] for one in answer["videos"]] == [1, 2, 3]
    scores = [one["score"] for one in answer["images"]]
    assert scores == sorted(scores, reverse=True)


def test_every_path_is_there_and_times_lie_in_the_film(home, finder):
    answer = finder("the light goes on", top=20)
    assert all(Path(one["path"]).is_file() for one in answer["images"] + answer["videos"])
    assert all(one["time"] is None for one in answer["images"] if one["kind"] == "photo")
    assert all(0 <= one["time"] < 2 for one in answer["images"] + answer["videos"] if one["time"] is not None)


def test_a_caption_asked_again_gets_the_scores_of_the_evaluation(finder):
    scores = similarity.matrices(finder.method, finder.cache, "test")
    asked = list(scores.caption_id).index("red.mp4#000")
    for kind, names in (("video", scores.video_id), ("image", scores.image_id)):
        expected = dict(zip(names, getattr(scores, kind)[asked]))
        answer = finder("the light on a red wall goes on", top=20)
        found = {one["id"]: one["score"] for one in answer[f"{kind}s"]}
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), abs=3e-3)


def test_a_split_narrows_the_gallery(home):
    finder = engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"), split="test")
    assert {one["id"] for one in finder("a wall", 20)["images"]} == {"red.png", "red.mp4", "blue.png", "blue.mp4"}
    with pytest.raises(MissingError, match="nothing in split 'val'"):
        engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"), split="val")


def test_the_gallery_is_kept_until_the_run_changes(home, monkeypatch):
    folder, shards = Path("cache/mine/runs/unitrim"), Path("cache/mine")
    first = engine.Search(folder, shards)("a green wall")
    calls = []
    real = similarity.Scorer.encode_gallery
    monkeypatch.setattr(similarity.Scorer, "encode_gallery", lambda *words: calls.append(words) or real(*words))
    assert engine.Search(folder, shards)("a green wall") == first and not calls
    before, said = (folder / "checkpoint.pt").read_bytes(), (folder / "run.json").read_text()
    from train import checkpoint

    model = checkpoint.load(folder)
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    checkpoint.save(folder, "unitrim", model)
    checkpoint.describe(folder, json.loads(said) | {"checkpoint": checkpoint.digest(folder / "checkpoint.pt")})
    try:
        assert engine.Search(folder, shards)("a green wall") != first and calls
    finally:
        (folder / "checkpoint.pt").write_bytes(before)
        (folder / "run.json").write_text(said)


def test_edited_code_never_serves_old_vectors(home, tmp_path):
    """Method, layers and scoring are part of the key; another method's file is not."""
    for package in ("pipeline", "train", "eval"):
        shutil.copytree(Path(__file__).parents[2] / package, tmp_path / package)
    script = """
        from pathlib import Path
        from eval.search.gallery import gallery_identity
        for edited in (None, "train/methods/clip4clip.py", "train/methods/unitrim.py", "train/layers/pooling.py",
                       "eval/similarity.py"):
            if edited:
                Path(edited).write_text(Path(edited).read_text() + "# edited" + chr(10))
            print(gallery_identity(Path(RUN), Path(SHARDS), "unitrim"))
    """
    script = script.replace("RUN", repr(str(home / "cache/mine/runs/unitrim")))
    script = script.replace("SHARDS", repr(str(home / "cache/mine")))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    keys = done.stdout.split()
    assert len(keys) == 5, done.stderr
    assert keys[0] == keys[1] and len(set(keys[1:])) == 4


def test_a_damaged_gallery_is_made_again(home):
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    first = engine.Search(folder, shards)("a green wall")
    path = next(Path("cache/mine/.search").glob("*zero_shot-all.pt"))
    path.write_bytes(path.read_bytes()[:-200])
    assert engine.Search(folder, shards)("a green wall") == first
    path.write_bytes(b"")
    assert engine.Search(folder, shards)("a green wall") == first


def test_the_kept_gallery_is_outside_of_every_stage_output(home):
    assert list(Path("cache/mine/.search").glob("*.pt")) and not list(Path("cache/mine/runs").rglob("*gallery*"))


def test_only_a_method_of_triplets_is_asked_for_phrases(home):
    shards = Path("cache/mine")
    assert engine.Search(shards / "runs/zero_shot", shards)("a red wall")["phrases"] == []
    assert engine.Search(shards / "runs/unitrim", shards)("a man paints a red wall")["phrases"]


@pytest.mark.parametrize("query", ["?!", "étoile 日本 🎬", "word " * 3000])
def test_any_sentence_gets_an_answer(finder, query):
    answer = finder(query, top=3)
    assert len(answer["images"]) == 3 and all(np.isfinite(one["score"]) for one in answer["images"])


def test_the_command_prints_paths_scores_and_times(home, capsys):
    words = ["--run", "cache/mine/runs/unitrim", "--shards", "cache/mine", "--top", "2"]
    command("eval.search", *words, "a blue wall")
    said = capsys.readouterr().out
    assert "“a blue wall”" in said and "images" in said and "videos" in said
    assert said.count(str(home / "media")) == 4 and "best at" in said
    command("eval.search", *words, "--json", "a blue wall")
    assert len(json.loads(capsys.readouterr().out)["videos"]) == 2


def test_sentences_are_read_one_a_line(home, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a red wall\n\na blue wall\n"))
    command("eval.search", "--run", "cache/mine/runs/zero_shot", "--shards", "cache/mine", "--json")
    assert [json.loads(line)["query"] for line in capsys.readouterr().out.splitlines()] == ["a red wall", "a blue wall"]


def test_a_sentence_that_is_not_utf8_is_refused_and_the_pipe_goes_on(home):
    words = [sys.executable, "-m", "eval.search", "--run", "cache/mine/runs/zero_shot", "--shards", "cache/mine"]
    sentences = b"a red wall\n\xff\xfe broken\na \x00 blue wall\n\xed\xa0\x80\n\xc3\xa9toile\n"
    done = subprocess.run([*words, "--json"], input=sentences, capture_output=True, check=True)
    answers = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [answer["query"] for answer in answers] == [
        "a red wall",
        "\\xff\\xfe broken",
        "a \x00 blue wall",
        "\\xed\\xa0\\x80",
        "étoile",
    ]
    assert ["error" in answer for answer in answers] == [False, True, False, True, False]
    assert answers[1]["error"] == "not valid UTF-8; it is left out"
    done = subprocess.run(
        words, input=sentences, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert b"\\u201ca red wall\\u201d" in done.stdout and b"\\xff\\xfe broken" in done.stderr
    done = subprocess.run([*words, b"\xff"], capture_output=True)
    assert done.returncode == 2 and b"the sentence is not valid UTF-8" in done.stderr


def test_an_id_may_begin_with_a_hyphen(home, capsys):
    command("pipeline.visual", "--dataset", "mine", "--why", "-abc")
    command("pipeline.text", "--dataset", "mine", "--why", "-abc")
    assert capsys.readouterr().out.count("-abc is no") == 2


def test_an_empty_sentence_and_a_missing_run_are_clear(home, capsys):
    with pytest.raises(SystemExit):
        command("eval.search", "--run", "cache/mine/runs/zero_shot", "--shards", "cache/mine", " ")
    assert "the sentence is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="train.run --shards cache/mine --method clip4clip"):
        command("eval.search", "--run", "cache/mine/runs/clip4clip", "--shards", "cache/mine", "a wall")


def test_another_clip_is_refused(home):
    path = Path("cache/mine/clip/clip.json")
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"sha256": "0" * 64}))
    try:
        with pytest.raises(CLIPError, match="sha256"):
            engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"))("a wall")
    finally:
        path.write_text(before)


@pytest.mark.parametrize("seconds, said", [(4.21, "4.2 s"), (725.4, "12:05"), (None, "")])
def test_times_are_said_as_a_player_shows_them(seconds, said):
    assert __main__.format_clock(seconds) == said
