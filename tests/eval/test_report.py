"""Tables of all runs, and the page: what it shows, that it is the same twice, and that it needs nobody."""

import html.parser
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from eval import run, similarity, stale, tables
from eval.report import __main__, charts, figures, page
from pipeline import files
from pipeline.shards import Shard, VideoReader, identity, shard_paths
from tests.eval.test_run import Mean
from tests.support import worlds
from tests.support.commands import command as run_command
from train.data import Cache


def metrics(t2v: float, seed: int = 0, method: str = "unitrim") -> dict:
    part = {"R@1": t2v, "R@5": 80.0, "R@10": 90.0, "MdR": 2.0, "MnR": 3.0, "Rsum": 200.0, "queries": 20, "gallery": 10}
    return {
        "method": method,
        "seed": seed,
        "split": "test",
        "t2v": part,
        "joint": part | {"both": part | {"R@2": 40.0}},
    }


def write(folder, **runs):
    for name, told in runs.items():
        path = folder / "scores" / name.replace("_seed", "-seed") / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))


def test_seeds_are_gathered_and_variants_keep_their_name(tmp_path):
    write(tmp_path, unitrim=metrics(40), unitrim_seed1=metrics(44, 1), unitrim_raw=metrics(10))
    runs = tables.gather_metrics(tmp_path)
    assert {name: [told["seed"] for told in seeds] for name, seeds in runs.items()} == {
        "unitrim": [0, 1],
        "unitrim_raw": [0],
    }


def test_mean_and_deviation_by_eye():
    one = tables.format_cell([40.0, 44.0, 42.0])
    assert str(one) == "42.0 ± 2.0" and str(tables.format_cell([40.0])) == "40.0" and tables.format_cell([]) is None


def test_the_best_is_the_highest_recall_and_the_lowest_rank():
    low, high = metrics(40)["t2v"], metrics(50)["t2v"] | {"MdR": 5.0}
    made = tables.build_table("text → video", tables.RANKED, {"a": [low], "b": [high]})
    assert [row.cells[0].best for row in made.rows] == [False, True]
    assert [row.cells[3].best for row in made.rows] == [True, False]
    assert all(row.cells[4].best for row in made.rows), "equal means are both best"


def test_nobody_is_best_where_all_have_found_nothing():
    nothing = metrics(0)["t2v"]
    made = tables.build_table("text → video", tables.RANKED, {"a": [nothing], "b": [nothing]})
    assert not any(row.cells[0].best for row in made.rows) and all(row.cells[1].best for row in made.rows)


def test_text_and_markdown_say_the_same_with_n(tmp_path):
    write(tmp_path, zero_shot=metrics(20, method="zero_shot"), unitrim=metrics(40), unitrim_seed1=metrics(44, 1))
    made = tables.build_tables(tables.gather_metrics(tmp_path))
    assert [each.title for each in made] == ["text → video", "joint gallery, either", "joint gallery, both"]
    assert "42.0 ± 2.8*" in tables.to_text(made) and "20 over 10" in tables.to_text(made)
    assert "| unitrim | 2 | **42.0 ± 2.8** |" in tables.to_markdown(made)


def test_runs_of_different_test_sets_are_not_hidden():
    other = metrics(50)["t2v"] | {"gallery": 9}
    made = tables.build_table("text → video", tables.RANKED, {"a": [metrics(40)["t2v"], other]})
    assert made.rows[0].size == "20 over 10; 20 over 9"


def test_queries_are_shown_by_rule_and_no_group_twice():
    ranks = [
        {"caption_id": f"{name}#000", "video_id": name, "image_rank": image, "video_rank": video}
        for name, image, video in (
            ("a", 1, 1),
            ("b", 1, 1),
            ("c", 1, 1),
            ("d", 4, 1),
            ("e", 1, 3),
            ("f", 9, 9),
            ("g", 2, 2),
        )
    ]
    picked = [row["video_id"] for row in figures.choose_queries(ranks, {"a": "x", "b": "x", "c": "y"})]
    assert len(picked) == 6 and "c" in picked and len({"a", "b"} & set(picked)) == 1
    assert picked[2:4] == ["d", "e"] and set(picked[4:]) == {"f", "g"}
    assert picked == [row["video_id"] for row in figures.choose_queries(ranks[::-1], {"a": "x", "b": "x", "c": "y"})]


def test_nouns_and_verbs_are_marked_and_text_is_escaped():
    said = page.marked("a <b> dog runs", [(6, 9)], [(10, 14), (8, 12)])
    assert said == 'a &lt;b&gt; <span class="noun">dog</span> <span class="verb">runs</span>'


def test_the_keyframe_is_outlined_and_its_row_sum_is_told():
    similarity_matrix = np.array([[1, 0.5, 0.2], [0.5, 1, 0.6], [0.2, 0.6, 1]])
    drawn = page.keyframe("v", [b"x"] * 3, np.array([0.5, 1.5, 2.5]), similarity_matrix, 1)
    assert "Frame 2 of 3, at 1.50 s" in drawn and "2.100" in drawn and drawn.count('class="shot chosen"') == 1


@pytest.mark.parametrize("frames", [2, 12, 64])
def test_a_matrix_of_any_size_has_squares_and_bars(frames):
    drawn = charts.heatmap(np.eye(frames), 0)
    sizes = [float(size) for size in re.findall(r'(?:width|height)="([-0-9.]+)"', drawn)]
    assert min(sizes) > 0 and drawn.count("<rect") == frames * frames + frames + 1


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A dataset with two scored runs and a history."""
    base = tmp_path_factory.mktemp("home")
    folder = worlds.cache(base / "cache" / "toy", videos=40)
    scores = similarity.matrices(Mean(), Cache(folder, Mean.needs), "test")
    texts = np.arange(0, len(scores.caption_id), 2)
    scores.video[texts, scores.truth("video")[texts]] = 1  # features of this world are random: let half be found
    scores.image[texts[::2], scores.truth("image")[texts[::2]]] = 1
    for name, seed in (("mean", 0), ("mean-seed1", 1)):
        told, columns = run.measure(scores)
        run.save_scores(
            folder / "scores" / name, "test", {"method": "mean", "seed": seed, "split": "test"} | told, columns
        )
        lines = [
            {"phase": "alignment", "epoch": 0, "step": step, "terms": {"sentence_video": 2 - step / 9}}
            for step in range(9)
        ]
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return base


def command(home, monkeypatch, *words: str) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["eval.report", *words])
    __main__.main()


class Outline(html.parser.HTMLParser):
    """Every opened tag is closed again, in order."""

    VOID = {"meta", "link", "img", "path", "rect", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def written(home, monkeypatch):
    command(home, monkeypatch, "--dataset", "toy")
    return (home / "cache/toy/report/index.html").read_text()


def test_the_page_is_whole_and_needs_no_network(written):
    outline = Outline()
    outline.feed(written)
    assert not outline.open
    links = [attributes.get(name, "") for _, attributes in outline.seen for name in ("src", "href", "srcset")]
    assert all(link == "" or link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"@import|url\(|<script|https?:", written)
    assert all(attributes.get("alt") is not None for tag, attributes in outline.seen if tag == "img")


def test_the_page_has_every_part(written):
    for part in ("results", "queries", "joint", "keyframe", "training", "reading"):
        assert f'id="{part}"' in written and f'href="#{part}"' in written
    for said in ("text → video", "✓", "✗", "look-alike", "sentence video", "alignment", "prefers-color-scheme: dark"):
        assert said in written
    assert "over 10" in written and written.count("<polyline") == 2


def test_the_same_files_make_the_same_page(home, monkeypatch, written):
    path = home / "cache/toy/report/index.html"
    path.unlink()
    command(home, monkeypatch, "--dataset", "toy")
    assert path.read_text() == written


def test_a_thumbnail_is_the_frame_it_says(home):
    visual = VideoReader(home / "cache/toy")
    shard = next(Shard(path, "visual") for path in shard_paths(home / "cache/toy/visual") if len(Shard(path, "visual")))
    name = shard["video_id"][0]
    assert visual.jpeg(name, 0) == shard["jpeg"][: shard["jpeg_offset"][1]].tobytes()
    np.testing.assert_allclose(np.diag(visual.similarity(name)), 1, atol=1e-5)


def test_the_table_goes_to_the_terminal(home, monkeypatch, capsys):
    command(home, monkeypatch, "--table")
    said = capsys.readouterr().out
    assert "toy, test split" in said and "± 0.0" in said and "over 10" in said
    command(home, monkeypatch, "--dataset", "toy", "--markdown")
    assert "| text → video | seeds |" in capsys.readouterr().out


def test_without_scores_the_next_command_is_told(home, monkeypatch):
    with pytest.raises(SystemExit, match=r"no scores of nothing.*dvc repro"):
        command(home, monkeypatch, "--dataset", "nothing")


def test_a_dataset_without_captions_has_a_page_and_a_sentence_a_method(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = worlds.cache(Path("cache/toy"), videos=6)
    why = "not trained: the train split has no captions"
    for path in (folder / "scores").glob("*"):
        shutil.rmtree(path)
    run.skip(folder / "scores" / "unitrim", "test", {"method": "unitrim", "seed": 0, "split": "test", "skipped": why})
    run_command("eval.report", "--dataset", "toy")
    drawn = (folder / "report" / "index.html").read_text()
    assert (
        why in drawn and "python -m eval.search --run cache/toy/runs/zero_shot" in drawn and "can be searched" in drawn
    )
    run_command("eval.report", "--table")
    assert f"unitrim: {why}" in capsys.readouterr().out


def test_scores_that_are_not_of_what_stands_are_left_out_with_a_sentence(tmp_path):
    folder = worlds.cache(tmp_path / "toy", videos=6)
    parts = identity(folder, ["frame"])
    facts = {"config": {"frames": 16}, "seed": 0, "shards": parts, "code": "a"}

    def scored(name, seed=0, **changed):
        own = metrics(40 + seed, seed) | {"dataset": "toy", "run": facts | {"seed": seed} | changed, "shards": parts}
        files.write(folder / "scores" / name / "metrics.json", json.dumps(own))

    scored("unitrim")
    scored("unitrim-seed1", 1)
    scored("unitrim-seed2", 2, config={"frames": 4})
    scored("clip4clip", shards=parts | {"visual": "other"})
    scored("again")
    files.write(folder / "runs" / "again" / "run.json", json.dumps(facts | {"code": "b"}))
    assert stale.find_stale(folder) == {
        "again": "was trained again since it was scored",
        "clip4clip": "was trained on other frames",
        "unitrim-seed2": "has other settings: frames 4, seed 0 has 16",
    }
    assert [told["seed"] for told in tables.gather_metrics(folder)["unitrim"]] == [0, 1]
    assert stale.stale_lines(folder)[-1].startswith("to bring them up to date type: make seeds NAME=toy   (or remove ")
