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
import yaml
from PIL import Image

from eval import similarity
from eval.experiments import read_experiments
from eval.index import build_index
from eval.load import load_run
from eval.search import __main__, engine, gallery, recall, view
from eval.search.answers import Filters, Query
from eval.search.workers import Workers
from eval.tables import speed
from eval.tables.plan import Plan
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
    tail: {{image: 1, text: all}}
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
        own = ["--out", "cache/mine/runs/unitrim-tuned", "--set", "tune=true", "tune_rate=0.01"]
        command("train.run", "--shards", "cache/mine", "--method", "unitrim", *own)
        command("pipeline.spans", "--dataset", "mine")
        small = ["epochs=1", "batch=4"]
        command("train.run", "--shards", "cache/mine", "--method", "eercf", "--set", *small)
        command("train.run", "--shards", "cache/mine", "--method", "dual_alignment", "--set", *small, "rerank=3")
        yield base


@pytest.fixture(scope="module", params=["zero_shot", "unitrim", "unitrim-tuned", "eercf", "dual_alignment"])
def finder(home, request):
    return engine.Search(Path("cache/mine/runs") / request.param, Path("cache/mine"))


def test_photos_are_images_and_films_are_both(finder):
    answer = finder("a red wall", top=20)
    assert {hit.kind for hit in answer.images} == {"photo", "keyframe"}
    assert {hit.kind for hit in answer.videos} == {"video"}
    assert len(answer.images) == 7 and len(answer.videos) == 3
    assert [hit.rank for hit in answer.videos] == [1, 2, 3]
    scores = [hit.score for hit in answer.images]
    assert scores == sorted(scores, reverse=True)


def test_every_path_is_there_and_times_lie_in_the_film(home, finder):
    answer = finder("the light goes on", top=20)
    assert all(Path(hit.path).is_file() for hit in answer.images + answer.videos)
    assert all(hit.time is None for hit in answer.images if hit.kind == "photo")
    assert all(0 <= hit.time < 2 for hit in answer.images + answer.videos if hit.time is not None)
    assert all(0 <= hit.start <= hit.time <= hit.end <= 2.1 for hit in answer.videos)


def test_a_caption_asked_again_gets_the_scores_of_the_evaluation(finder):
    method, cache, _ = load_run(finder.run, finder.shards, "cpu")
    scores = similarity.matrices(method, cache, "test")
    asked = list(scores.caption_id).index("red.mp4#000")
    for kind, names in (("video", scores.video_id), ("image", scores.image_id)):
        expected = dict(zip(names, getattr(scores, kind)[asked]))
        answer = finder("the light on a red wall goes on", top=20)
        found = {hit.id: hit.score for hit in getattr(answer, f"{kind}s")}
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), abs=3e-3)


def test_videos_that_are_recalled_are_ranked_again_and_stand_above_the_others(home):
    search = engine.Search(Path("cache/mine/runs/eercf"), Path("cache/mine"))
    fine = {hit.id: hit.score for hit in search("a red wall", 3).videos}
    search = engine.Search(Path("cache/mine/runs/eercf"), Path("cache/mine"))
    search.method.recalled = lambda: 1
    first, *others = search("a red wall", 3).videos
    assert first.score == pytest.approx(fine[first.id], abs=1e-5), "the one that was recalled has the fine score"
    assert others[0].score < first.score and others[0].score != pytest.approx(fine[others[0].id], abs=1e-5)


def test_a_split_narrows_the_gallery(home):
    finder = engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"), split="test")
    assert {hit.id for hit in finder("a wall", 20).images} == {"red.png", "red.mp4", "blue.png", "blue.mp4"}
    with pytest.raises(MissingError, match="nothing in split 'val'"):
        engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"), split="val")


def test_the_gallery_is_kept_until_the_run_changes(home):
    folder, shards = Path("cache/mine/runs/unitrim"), Path("cache/mine")
    first = engine.Search(folder, shards)("a green wall")
    again = engine.Search(folder, shards)
    assert again("a green wall") == first and again.gallery.encoded == 0
    before, said = (folder / "checkpoint.pt").read_bytes(), (folder / "run.json").read_text()
    from train import checkpoint

    model = checkpoint.load(folder)
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    checkpoint.save(folder, "unitrim", model)
    checkpoint.describe(folder, json.loads(said) | {"checkpoint": checkpoint.digest(folder / "checkpoint.pt")})
    try:
        other = engine.Search(folder, shards)
        assert other("a green wall") != first and other.gallery.encoded == 7
    finally:
        (folder / "checkpoint.pt").write_bytes(before)
        (folder / "run.json").write_text(said)


def test_another_version_of_the_code_never_serves_old_vectors(home, monkeypatch):
    """The key holds versions, not source text: a comment costs nothing, a raised VERSION everything."""
    folder, shards = Path("cache/mine/runs/unitrim"), Path("cache/mine")
    engine.Search(folder, shards)
    monkeypatch.setattr(gallery, "VERSION", gallery.VERSION + 1)
    assert engine.Search(folder, shards).gallery.encoded == 7


def test_one_item_more_encodes_one_and_one_that_changed_one(home):
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    search = engine.Search(folder, shards)
    new = home / "media" / "new.png"
    Image.fromarray(np.full((40, 56, 3), 120, np.uint8)).save(new)
    try:
        for stage in ("manifest", "visual", "keyframes"):
            command(f"pipeline.{stage}", "--dataset", "mine")
        before = search.gallery.encoded
        assert sum(search.refresh()) == 1 and search.gallery.encoded == before + 1
        assert "new.png" in {hit.id for hit in search("a wall", 20).images}
        Image.fromarray(np.full((40, 56, 3), 220, np.uint8)).save(new)
        for stage in ("manifest", "visual", "keyframes"):
            command(f"pipeline.{stage}", "--dataset", "mine")
        assert sum(search.refresh()) == 1
        assert sum(search.refresh()) == 0
    finally:
        new.unlink()
        for stage in ("manifest", "visual", "keyframes"):
            command(f"pipeline.{stage}", "--dataset", "mine")
    assert sum(search.refresh()) == 0 and len(search("a wall", 20).images) == 7


def test_two_searches_share_one_kept_gallery(home):
    """The second, in a process of its own, encodes nothing; the rows it maps are those on the disk."""
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    first = engine.Search(folder, shards)
    script = f"""
        from pathlib import Path
        from eval.search import Search
        search = Search(Path({str(folder)!r}), Path({str(shards)!r}))
        print(search.gallery.encoded, search("a green wall").images[0].id)
        print(any(".search" in line for line in open("/proc/self/maps")))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout.split() == ["0", first("a green wall").images[0].id, "True"], done.stderr


def test_many_small_segments_become_one_without_encoding(home, monkeypatch):
    folder, shards = Path("cache/mine/runs/unitrim"), Path("cache/mine")
    search = engine.Search(folder, shards)
    shutil.rmtree(search.gallery.folder)
    fresh = gallery.Gallery(shards / ".search", search.gallery.key)
    for item in search.view.items:
        assert list(fresh.add([item], search.encoder)) == [1]
    monkeypatch.setattr(gallery, "MANY", 3)
    live = {item.mark for item in search.view.items[1:]}
    fresh.tidy(live)
    assert [sorted(one.marks) for one in fresh.segments] == [sorted(live)] and fresh.encoded == 7
    assert len(list(fresh.folder.glob("*.pt"))) == 1
    again = engine.Search(folder, shards)
    assert again.gallery.encoded == 1
    one, two = (searcher("a green wall", 20) for searcher in (search, again))
    assert [hit.id for hit in one.joint] == [hit.id for hit in two.joint]
    assert [hit.score for hit in one.joint] == pytest.approx([hit.score for hit in two.joint], abs=2e-3)


def test_threads_and_blocks_change_no_answer(home, monkeypatch):
    folder, shards = Path("cache/mine/runs/unitrim"), Path("cache/mine")
    one = engine.Search(folder, shards)("a red wall", 20).joint
    try:
        torch.set_num_threads(3)
        search = engine.Search(folder, shards)
        three = search("a red wall", 20).joint
        assert len(search.workers.pool._threads) == 3
        assert torch.get_num_threads() == 3  # of whoever encodes the gallery meanwhile
    finally:
        torch.set_num_threads(1)
    for name in ("BLOCK", "LEAST", "MOST"):  # an item a block
        monkeypatch.setattr(view, name, 1)
    single = engine.Search(folder, shards)("a red wall", 20).joint
    for other in (three, single):
        assert {(hit.id, hit.kind): hit.time for hit in other} == {(hit.id, hit.kind): hit.time for hit in one}
        assert [hit.score for hit in other] == pytest.approx(
            [hit.score for hit in one], abs=1e-6
        )  # equal ones may swap


def test_torch_has_one_thread_in_each_of_the_workers():
    before = torch.get_num_threads()
    workers = Workers()
    try:
        torch.set_num_threads(2)
        assert set(workers.map(lambda _: torch.get_num_threads(), range(20))) == {1}
        assert len(workers.pool._threads) == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_in_a_thread_is_heard_of():
    workers = Workers()
    assert workers.map(str, [1, 2, 3]) == ["1", "2", "3"]
    with pytest.raises(ZeroDivisionError):
        workers.map(lambda job: 1 / job, [1, 0, 2])
    assert not workers.run(torch.is_grad_enabled)


def test_a_shortlist_finds_what_all_would(home):
    """Of a library too large to be scored whole only a shortlist is; here it holds everything, and nothing else changes."""
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    whole = engine.Search(folder, shards)("a green wall", 20)
    search = engine.Search(folder, shards)
    search.view.exact = False
    short = search("a green wall", 20)
    for one, two in ((short.images, whole.images), (short.videos, whole.videos)):
        assert {hit.id: hit.score for hit in one} == pytest.approx({hit.id: hit.score for hit in two}, abs=1e-6)
        assert {hit.id: hit.standing for hit in one} == pytest.approx({hit.id: hit.standing for hit in two}, abs=1e-4)


def test_a_large_library_is_searched_by_its_index(home, monkeypatch):
    """As far as it is of the rows that stand; what it does not hold is looked for without it."""
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    whole = engine.Search(folder, shards)("a green wall", 20)
    build_index(folder, shards)
    search = engine.Search(folder, shards)
    search.view.exact = False
    assert sorted(search.recall.index) == ["image", "video"]
    monkeypatch.setattr(recall, "SHORT", 2)  # of 7 images and 3 videos
    short = search("a green wall", 20)
    for one, two in ((short.images, whole.images), (short.videos, whole.videos)):
        assert [hit.id for hit in one[:2]] == [hit.id for hit in two[:2]]
        assert [hit.score for hit in one[:2]] == pytest.approx([hit.score for hit in two[:2]], abs=1e-6)
    best = whole.images[0].id
    index = search.recall.index["image"]
    place = int(np.flatnonzero(index.id == best)[0])
    assert search.recall.places(search.view, "image")[place] == search.view.by_id[best]
    index.parts[int(np.searchsorted(index.bounds, place, "right")) - 1].mark[:] = ["of older rows"] * 7
    search.recall.known = (-1, {})
    assert search.recall.places(search.view, "image")[place] == -1
    assert search("a green wall ", 20).images[0].id == best
    assert engine.Search(None, shards).recall.index == {}
    facts = shards / "index" / "zero_shot" / "index.json"
    facts.write_text(facts.read_text().replace('"weights": "', '"weights": "0'))
    assert engine.Search(folder, shards).recall.index == {}


@pytest.mark.parametrize("indexed", [False, True])
def test_candidates_of_a_large_library_are_those_that_pass_the_filter(home, monkeypatch, indexed):
    """Two candidates a query, and two items for the scale: without the filter most items are never looked at."""
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    if indexed:
        build_index(folder, shards)
    exact = {hit.id: hit.score for hit in engine.Search(folder, shards)("a green wall", 20).images}
    search = engine.Search(folder, shards)
    search.view.exact = False
    monkeypatch.setattr(recall, "SHORT", 2)
    monkeypatch.setattr(view, "SAMPLE", 2)
    if not indexed:
        search.recall.index = {}
    assert bool(search.recall.index) == indexed
    missed = set(exact) - {hit.id for hit in search("a green wall", 20).images}
    assert len(missed) >= 3
    for name in exact:
        found = search.ask(Query(("a green wall",), filters=Filters(ids=(name,))), 20).images
        assert [(hit.id, hit.score) for hit in found] == [(name, pytest.approx(exact[name], abs=1e-6))]
    pair = tuple(sorted(missed))[:3]
    found = search.ask(Query(("a green wall",), filters=Filters(ids=pair)), 20).images
    assert len(found) >= 2 and {hit.id for hit in found} <= set(pair)


def test_a_damaged_gallery_is_made_again(home):
    folder, shards = Path("cache/mine/runs/zero_shot"), Path("cache/mine")
    search = engine.Search(folder, shards)
    first = search("a green wall")
    for path in search.gallery.folder.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-200])
    assert engine.Search(folder, shards)("a green wall") == first
    for path in search.gallery.folder.glob("*.pt"):
        path.write_bytes(b"")
    assert engine.Search(folder, shards)("a green wall") == first


def test_the_kept_gallery_is_outside_of_every_stage_output(home):
    assert list(Path("cache/mine/.search").rglob("*.pt")) and not list(Path("cache/mine/runs").rglob("*gallery*"))


def test_only_a_method_of_triplets_is_asked_for_phrases(home):
    shards = Path("cache/mine")
    assert engine.Search(shards / "runs/zero_shot", shards)("a red wall").phrases == []
    assert engine.Search(shards / "runs/unitrim", shards)("a man paints a red wall").phrases


@pytest.mark.parametrize("query", ["?!", "étoile 日本 🎬", "word " * 3000])
def test_any_sentence_gets_an_answer(finder, query):
    answer = finder(query, top=3)
    assert len(answer.images) == 3 and all(np.isfinite(hit.score) for hit in answer.images)


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
        with pytest.raises(
            CLIPError, match=r"sha256.*report@mine .*visual, keyframes, text, inputs, train, eval and report"
        ):
            engine.Search(Path("cache/mine/runs/zero_shot"), Path("cache/mine"))("a wall")
    finally:
        path.write_text(before)


@pytest.mark.parametrize("seconds, said", [(4.21, "4.2 s"), (725.4, "12:05"), (None, "")])
def test_times_are_said_as_a_player_shows_them(seconds, said):
    assert __main__.format_clock(seconds) == said


def test_a_query_is_timed_without_training_once_for_the_same_methods(home, monkeypatch):
    """Table 4 on a real cache: whole queries, the tower's part within them, and no run made for it."""
    told = {
        "tables": {"4": {"title": "t", "source": "s", "dataset": "msrvtt", "kind": "speed", "columns": ["M", "ms"]}},
        "experiments": {
            "clip4clip": {"method": "clip4clip", "in": {"4": {"row": "CLIP4Clip", "paper": [164.45, 59.07]}}},
            "eercf": {"method": "eercf", "in": {"4": {"row": "EERCF", "paper": [164.19, 71.99]}}},
        },
    }
    told["tables"]["4"]["more"] = ["tower left out ms", "here M"]
    (home / "experiments.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    tables, runs = read_experiments(home / "experiments.yaml")
    monkeypatch.setattr(speed, "ROUNDS", 1)
    shards, before = Path("cache/mine"), sorted(Path("cache/mine/runs").iterdir())
    made_plan = Plan(shards, runs)
    assert made_plan.tasks(tables.values(), 3, quick=False) == []
    untimed = speed.build_speed(tables["4"], made_plan, shards / "tables", "here", timed=False)
    assert untimed.empty and {line.lacks for line in untimed.lines} == {"not timed"}
    made = speed.build_speed(tables["4"], made_plan, shards / "tables", "here", timed=True)
    assert sorted(Path("cache/mine/runs").iterdir()) == before
    for line in made.lines:
        _, whole, alone, parameters = (figure.mean for figure in line.figures)
        assert 0 < alone < whole and parameters > 0
    assert made.said[0].startswith("time of a query with the text tower, CLIP4Clip = 1: CLIP4Clip 1.00, EERCF ")
    assert made.said[2] == "the paper's: CLIP4Clip 1.00, EERCF 1.22"
    monkeypatch.setattr(speed, "measure", lambda tasks: pytest.fail("it is measured already"))
    again = speed.build_speed(tables["4"], made_plan, shards / "tables", "here", timed=False)
    assert [line.figures for line in again.lines] == [line.figures for line in made.lines]
