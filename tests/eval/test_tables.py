"""The papers' tables: the file of experiments, runs made once and gone on with, numbers by hand, what is bold."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from eval import experiments, overview
from eval.experiments import read_experiments
from eval.tables import build, mteb, plan, significance, speed, write
from pipeline import files
from pipeline.files import ParamsError
from tests.support import worlds
from train import checkpoint, methods

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "batch": 4,
    "epochs": 1,
    "k": 2,
    "samples": 5,
    "selector_hidden": 8,
    "disentangler_hidden": 8,
    "image_epochs": 1,
}


@pytest.fixture(scope="module")
def papers():
    return read_experiments()


def said(tmp_path, text: str) -> str:
    """What the reader says of a file."""
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as refused:
        read_experiments(path)
    return str(refused.value)


TABLE = """
tables:
  "5": {title: t, source: s, dataset: d, columns: [t2v R@1]}
experiments:
"""


@pytest.mark.parametrize(
    "entry, answer",
    [
        ("  zero_shot: {method: zero_shot, in: {'6': {row: r}}}", "no table '6'"),
        ("  zero_shot: {method: zero_shot, setings: {}, in: {'5': {row: r}}}", "nearest is 'settings'"),
        ("  zero_shot: {method: zero_shot, in: {'5': {row: r, paper: [1, 2]}}}", "paper must have 1 numbers"),
        ("  zero_shot: {method: zero_shot, in: {'5': {row: r, paper: [true]}}}", "paper must have 1 numbers"),
        ("  mine: {method: zero_shot, in: {'5': {row: r}}}", "begins with 'table-'"),
        ("  table-a-seed1: {method: zero_shot, in: {'5': {row: r}}}", "without '-seed'"),
        ("  table-a: {method: zero_shot, base: table-b, in: {'5': {row: r}}}", "no experiment 'table-b' stands before"),
        ("  table-a: {method: zero_shot, in: {'5': {row: r}}}\n  table-a: {method: zero_shot, in: {}}", "said twice"),
        ("  table-a: {method: x, each: {k: [1, 2]}, in: {'5': {row: r}}}", "must hold {k}"),
        ("  zero_shot: {in: {'5': {row: r}}}", "method is missing"),
    ],
)
def test_a_wrong_entry_is_named_with_its_remedy(tmp_path, entry, answer):
    assert answer in said(tmp_path, TABLE + entry)


def test_a_wrong_column_or_kind_is_named(tmp_path):
    assert "no column 't2v R@3'; the nearest is 't2v R@" in said(tmp_path, TABLE.replace("R@1", "R@3") + "  {}")
    assert "kind is one of" in said(tmp_path, TABLE.replace("columns", "kind: gird, columns") + "  {}")


def test_the_papers_numbers_agree_with_each_other(papers):
    """What the paper prints twice, and the sum in its Table 8."""
    tables, _ = papers
    row = {(number, line.label): line.paper for number, table in tables.items() for line in table.rows}
    ours = row["1", "UniTriM, as published"]
    assert row["5", "+ triplet–video (all five)"] == row["7", "k = 8"] == ours[:3] == (47.2, 74.8, 83.6)
    assert row["6", "Our: the disentangler"] == ours[3:] == (29.9, 52.1, 63.7)
    assert row["8", "0.1 · 0.2"] == (145.7,) and sum(ours[3:]) == pytest.approx(145.7)
    grid = [line.paper[0] for line in tables["8"].rows]
    assert len(grid) == 36 and max(grid) == 145.7 and min(grid) == 139.9


def test_quick_keeps_half_of_the_grid_and_its_flat_row(papers):
    tables, runs = papers
    kept = [row.cell for row in tables["8"].rows if runs[row.experiment].quick]
    assert len(kept) == 18 and {("0", f"{value:g}") for value in (0, 0.1, 0.2, 0.5, 0.7, 1)} <= set(kept)


def test_every_experiment_has_settings_that_its_method_knows(papers, tmp_path):
    """The file's own experiments on a small cache, as eval.tables resolves them."""
    made = plan.Plan(worlds.cache(tmp_path / "toy"), papers[1])
    assert made.same["table-all-five"] == made.same["table-k8"]
    assert made.same["table-no-t-v-again"] == "table-no-t-v"
    lacking = {papers[1][name].method for name in made.missing}
    assert lacking == {"unify"}  # the toy has no lexicon, and says what to run
    assert all("lexicon" in why for why in made.missing.values()), made.missing
    phase = {name: one["epochs"] for name, one in made.config.items() if "epochs" in one}
    assert phase["table-orth0.1-rec0.2"] == 0 and phase["table-k4"] > 0
    built = methods.build("unitrim", made.config["table-k4"])
    assert [phase.name for phase in built.phases()] == ["alignment"]  # nothing of the second is trained


def own(path: Path, **tables: dict) -> Path:
    """A small file of experiments over the toy."""
    base = {"method": "unitrim", "settings": SMALL, "in": {"5": {"row": "all", "paper": [47.2]}}}
    second = {"epochs": 0, "alignments": ["sentence_video"]}
    entries = {
        "table-all": base,
        "table-twin": base | {"in": {"5": {"row": "the same again"}}},
        "table-few": base
        | {
            "base": "table-all",
            "settings": {"alignments": ["sentence_video"]},
            "in": {"5": {"row": "one", "paper": [43.7]}},
        },
        "table-orth{w_orth}-rec{w_rec}": {
            "method": "unitrim",
            "base": "table-all",
            "settings": second,
            "each": {"w_orth": [0, 0.1], "w_rec": [0, 1.0]},
            "in": {"8": {"paper": [[142.3, 142.2], [143.4, 144.4]]}},
        },
    }
    shapes = {"5": {"columns": ["t2v R@5"], "more": ["v2t R@1"]}, "8": {"kind": "grid", "columns": ["t2i Rsum"]}}
    told = {"tables": {}, "experiments": entries}
    for number, shape in (shapes | tables).items():
        told["tables"][number] = {"title": "t", "source": "s", "dataset": "msrvtt"} | shape
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A cache with both tables filled, two seeds; the plan; what the first making said."""
    home = worlds.cache(tmp_path_factory.mktemp("cache") / "toy", videos=40, noise=1.2)
    tables, runs = read_experiments(own(home.parent / "experiments.yaml"))
    made = plan.Plan(home, runs)
    tasks = made.tasks(tables.values(), 2, quick=False)
    assert plan.make(tasks, made, jobs=1) == []
    return tables, made, tasks


def test_rows_that_come_to_the_same_are_trained_once(toy):
    _, made, tasks = toy
    assert made.same["table-twin"] == "table-all" and not (made.home / "runs" / "table-twin").exists()
    assert len(tasks) == 2 * (2 + 4)


def test_a_run_of_a_table_is_an_ordinary_run(toy):
    """Its weights are those that train.run makes with the same settings."""
    _, made, _ = toy
    other = made.home.parent / "by-hand"
    words = [f"{key}={value}" for key, value in SMALL.items()] + ["alignments=sentence_video"]
    command = [
        sys.executable,
        "-m",
        "train.run",
        "--shards",
        made.home,
        "--method",
        "unitrim",
        "--out",
        other,
        "--set",
        *words,
    ]
    subprocess.run(
        command, cwd=made.home.parent, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert checkpoint.facts(other)["checkpoint"] == checkpoint.facts(made.home / "runs" / "table-few")["checkpoint"]


def test_what_is_finished_is_not_touched_again(toy, monkeypatch):
    _, made, tasks = toy
    monkeypatch.setattr(plan, "finish", lambda task: pytest.fail(f"{task} is finished"))
    assert plan.make(tasks, made, jobs=1) == []


def test_scores_that_are_lost_or_of_another_run_are_made_again(toy):
    _, made, tasks = toy
    path = tasks[0].scores / "metrics.json"
    kept = path.read_text()
    path.chmod(0o644)
    path.unlink()
    assert made.is_trained(tasks[0]) and not made.is_done(tasks[0])
    before = (tasks[0].run / "checkpoint.pt").stat().st_mtime_ns
    plan.make(tasks, made, jobs=1)
    assert path.read_text() == kept and (tasks[0].run / "checkpoint.pt").stat().st_mtime_ns == before


def test_two_jobs_make_the_runs_that_one_makes(toy, tmp_path):
    tables, made, _ = toy
    home = worlds.cache(tmp_path / "toy", videos=40, noise=1.2)
    again = plan.Plan(home, made.experiments)
    tasks = again.tasks([tables["8"]], 1, quick=False)
    assert plan.make(tasks, again, jobs=2) == []
    for task in tasks:
        there = made.home / "runs" / task.name
        assert checkpoint.facts(task.run)["checkpoint"] == checkpoint.facts(there)["checkpoint"]


def test_a_run_that_cannot_be_made_costs_no_other(toy, tmp_path):
    tables, made, _ = toy
    home = worlds.cache(tmp_path / "toy", videos=40, noise=1.2)
    again = plan.Plan(home, made.experiments)
    tasks = again.tasks([tables["5"]], 1, quick=False)
    with files.lock(tasks[0].run):  # as another process that trains it would
        failed = plan.make(tasks, again, jobs=1)
    assert len(failed) == 1 and "table-all is being written by process" in failed[0]
    assert again.is_done(tasks[1])


def test_killed_anywhere_it_goes_on(tmp_path):
    """The command itself, killed a few times; the same command then ends with the weights of one that was not."""
    for name in ("whole", "killed"):
        worlds.cache(tmp_path / name / "cache" / "toy", videos=40, noise=1.2)
        (tmp_path / name / "params.yaml").write_text(
            "enabled: [toy]\nmethods: [unitrim]\ndatasets: {toy: {reader: demo, root: .}}\n"
        )
        own(tmp_path / name / "experiments.yaml")
    code = (
        "from eval import experiments; from pathlib import Path; import sys\n"
        "experiments.HERE = Path('experiments.yaml')\n"
        "from eval.tables import __main__ as command\n"
        "sys.argv = ['tables', '--dataset', 'toy', '--seeds', '1', '--jobs', '1']\n"
        "command.main()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path / name,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    whole = start("whole")
    assert whole.wait(300) == 0, whole.stdout.read()
    runs = tmp_path / "killed" / "cache" / "toy" / "runs"
    for wanted in (1, 3):  # finished runs after which it is killed
        process = start("killed")
        while process.poll() is None and len(list(runs.glob("*/run.json"))) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start("killed")
    assert last.wait(300) == 0, last.stdout.read()
    names, whole_names = (
        sorted(path.parent.name for path in (tmp_path / side / "cache" / "toy" / "runs").glob("*/run.json"))
        for side in ("killed", "whole")
    )
    assert names == whole_names and len(names) == 6
    for name in names:
        one, other = (
            checkpoint.facts(tmp_path / side / "cache" / "toy" / "runs" / name) for side in ("whole", "killed")
        )
        assert one["checkpoint"] == other["checkpoint"], name
    for name in ("tables.csv", "tables.md", "index.html"):
        one, other = (tmp_path / side / "cache" / "toy" / "tables" / name for side in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()


def test_numbers_are_those_of_the_scores(toy, tmp_path):
    tables, made, _ = toy
    five = build.build(tables["5"], made, 2)
    assert [line.label for line in five.lines] == ["all", "the same again", "one"]
    scores = [
        json.loads((made.home / "scores" / f"table-few{suffix}" / "metrics.json").read_text())
        for suffix in ("", "-seed1")
    ]
    one = five.lines[2].figures[0]
    assert one.values == [score["t2v"]["R@5"] for score in scores] and one.paper == 43.7
    assert one.mean == pytest.approx(np.mean(one.values)) and one.deviation == pytest.approx(np.std(one.values, ddof=1))
    paths = write.write(tmp_path, write.Heading("toy", ["About."]), [five, build.build(tables["8"], made, 2)])
    text, table, page = (path.read_text() for path in paths)
    records = list(csv.DictReader(table.splitlines()))
    found = next(record for record in records if record["row"] == "one" and record["column"] == "t2v R@5")
    assert (
        float(found["mean"]) == pytest.approx(one.mean, abs=1e-4) and found["seeds"] == "2" and found["paper"] == "43.7"
    )
    assert f"| one | 2 | {write.say(one)} (43.7) |" in text.replace("*", "")
    assert page.count("<table") == 2 and "<script" not in page
    assert len([record for record in records if record["table"] == "8"]) == 4


def test_the_row_without_orthogonality_is_flat(toy):
    """No gradient of the reconstruction reaches the spatial encoder: the two weights give the same weights, bit for bit."""
    tables, made, _ = toy
    grid = build.build(tables["8"], made, 2)
    value = {line.cell: line.figures[0].values for line in grid.lines}
    assert value["0", "0"] == value["0", "1"]
    assert any(text.startswith("row 0 is flat, as it must be; the paper's spans 0.1") for text in grid.said)
    weights = [checkpoint.read(made.home / "runs" / f"table-orth0-rec{rec}")["model"] for rec in ("0", "1.0")]
    spatial = [name for name in weights[0] if name.startswith("image.spatial")]
    assert spatial and all((weights[0][name] == weights[1][name]).all() for name in spatial)
    orthogonal = [checkpoint.read(made.home / "runs" / f"table-orth0.1-rec{rec}")["model"] for rec in ("0", "1.0")]
    assert any((orthogonal[0][name] != orthogonal[1][name]).any() for name in spatial)


def test_a_grid_that_is_not_flat_is_said_to_be_so():
    table = experiments.PaperTable("8", "t", "s", "d", ("t2i Rsum",), kind="grid")
    lines = [
        build.Line("", "r", [0], [build.Figure([value])], "n", cell=("0", str(at)))
        for at, value in enumerate((10.0, 12.5))
    ]
    assert build.flat_row(build.Made(table, ["t2i Rsum"], lines)) == [
        "row 0 is not flat: it must be, and spans 2.50 within a seed"
    ]


def test_rows_of_fewer_parts_are_scored_from_one_run(tmp_path):
    """Their numbers are those of the rung that val weighed, with p from its own ranks; a row of unknown parts is empty."""
    names = ["sentence_video", "triplet_frame", "sentence_frame"]
    told = yaml.safe_load(own(tmp_path / "e.yaml").read_text())
    row = {"row": "all but triplet–frame", "parts": ["sentence_frame", "sentence_video"], "paper": [40]}
    rows = [{"row": "all", "parts": names, "paper": [47.2]}, row, {"row": "none such", "parts": ["word_patch"]}]
    settings = SMALL | {"alignments": names, "fusion": "val", "image_text": "raw_sentence"}
    told["experiments"] = {"table-weighed": {"method": "unitrim", "settings": settings, "in": {"5": rows}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    tables, runs = read_experiments(tmp_path / "e.yaml")
    made = plan.Plan(worlds.cache(tmp_path / "toy", videos=40, noise=1.2), runs)
    (task,) = made.tasks(tables.values(), 1, quick=False)
    assert plan.make([task], made, jobs=1) == [] and made.is_done(task)
    scored = json.loads((task.scores / "metrics.json").read_text())
    rung = next(one for one in scored["rungs"] if set(one["parts"]) == {"sentence_video", "sentence_frame"})
    five = build.build(tables["5"], made, 1)
    whole, part, none = five.lines
    assert whole.figures[0].values == [scored["t2v"]["R@5"]] and part.figures[0].values == [rung["R@5"]]
    assert none.figures[0].values == [] and none.lacks == "no part word_patch"
    assert part.figures[1].values == []  # videos that look for texts have no rungs
    rank = build.read_ranks(task.scores, build.rank_column(task, tables["5"].rows[1], "t2v R@5"))
    assert 100 * np.mean(rank <= 5) == pytest.approx(rung["R@5"], abs=1e-3)
    assert five.said[0].startswith("t2v R@5: best ") and "of the 1 pairs that the paper orders" in five.said[1]


def test_the_branches_of_one_run_are_rows_with_their_own_ranks(tmp_path):
    """UNIFY's latent and lexicon, of any direction, with p; none of them is trained for itself."""
    told = yaml.safe_load(own(tmp_path / "e.yaml").read_text())
    told["tables"] = {"5": told["tables"]["5"] | {"columns": ["t2v R@5"], "more": ["v2t R@5", "both R@5"]}}
    rows = [{"row": name, "parts": [name], "paper": [number]} for name, number in (("latent", 40.1), ("lexicon", 40.8))]
    settings = {"batch": 4, "epochs": 1, "frozen_epochs": 1, "stem": 1, "own": 1, "k": 0, "owned": 1}
    entry = {"method": "unify", "settings": settings, "in": {"5": [*rows, {"row": "both", "paper": [42.8]}]}}
    told["experiments"] = {"unify": entry}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    tables, runs = read_experiments(tmp_path / "e.yaml")
    home = worlds.cache(tmp_path / "toy", videos=40, noise=1.2)
    worlds.lexicon(home)
    made = plan.Plan(home, runs)
    (task,) = made.tasks(tables.values(), 1, quick=False)
    assert plan.make([task], made, jobs=1) == [] and made.is_done(task)
    scored = json.loads((task.scores / "metrics.json").read_text())
    five = build.build(tables["5"], made, 1)
    for line, section in zip(five.lines, [scored["parts"]["latent"], scored["parts"]["lexicon"], scored]):
        wanted = [section["t2v"]["R@5"], section["v2t"]["R@5"], section["joint"]["both"]["R@5"]]
        assert [figure.values for figure in line.figures] == [[value] for value in wanted], line.label
    for row in tables["5"].rows[:2]:
        rank = build.read_ranks(task.scores, build.rank_column(task, row, "v2t R@5"))
        assert 100 * np.mean(rank <= 5) == pytest.approx(scored["parts"][row.label]["v2t"]["R@5"], abs=1e-3)
    assert sum("of the 3 pairs that the paper orders" in text for text in five.said) == 1


def test_runs_of_tables_are_in_no_other_table(toy):
    _, made, _ = toy
    assert overview.gather_metrics(made.home) == {}
    assert set(overview.gather_metrics(made.home, table_rows=True)) == {task.name for task in toy[2]}


def test_one_datasets_run_is_scored_on_another(toy, tmp_path):
    """Table 9: the run stays where it was trained, its scores lie with the dataset that it is scored on."""
    _, made, _ = toy
    shutil.copytree(made.home, tmp_path / "toy")
    worlds.cache(tmp_path / "other", videos=40, noise=1.2)
    transfer = {"9": {"kind": "transfer", "columns": ["t2v R@1"]}}
    told = yaml.safe_load(own(tmp_path / "e.yaml", **transfer).read_text())
    told["experiments"]["table-all"]["in"]["9"] = [
        {"row": "there", "target": "other"},
        {"row": "nowhere", "target": "absent"},
    ]
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    tables, runs = read_experiments(tmp_path / "e.yaml")
    again = plan.Plan(tmp_path / "toy", runs)
    tasks = again.tasks([tables["9"]], 1, quick=False)
    assert [task.target.name for task in tasks] == ["other"] and plan.make(tasks, again, jobs=1) == []
    there, nowhere = build.build(tables["9"], again, 1).lines
    scored = json.loads((tmp_path / "other" / "scores" / "toy-table-all" / "metrics.json").read_text())
    assert there.figures[0].values == [scored["t2v"]["R@1"]] and there.size.endswith("over 10")
    assert nowhere.lacks.endswith("is not there; type: make dataset NAME=absent ROOT=…") and not nowhere.seeds


def test_gains_of_a_query_add_up_to_the_number():
    rank = np.array([1, 2, 5.5, 11])
    assert significance.gains(rank, "R@1").mean() == 25 and significance.gains(rank, "R@5").mean() == 50
    assert significance.gains(rank, "Rsum").mean() == 25 + 50 + 75
    assert significance.gains(rank, "MnR").mean() == -rank.mean() and significance.gains(rank, "MdR") is None


def test_p_values_by_hand():
    """Row 0 wins one query of ten and loses none: a resample shows no win where it misses that query, with chance .9^10."""
    better, base = np.zeros(10), np.zeros(10)
    better[3] = 100
    p = significance.p_values(np.stack([better, base])[None])[0]
    assert p[0, 1] == pytest.approx(0.9**10, abs=0.015)
    assert p[1, 0] == 1 and p[0, 0] == 1  # the other way round, and no row above itself
    always = significance.p_values(np.stack([base + 1, base])[None])[0]
    assert always[0, 1] == pytest.approx(1 / (1 + significance.RESAMPLES))


def test_the_p_value_is_right_where_nothing_differs():
    """Of rows that differ by chance alone, about one in twenty is found above another at p < .05."""
    random = np.random.default_rng(1)
    pairs = 100.0 * (random.random((60, 2, 300)) < 0.5)
    found = [p[0, 1] < 0.05 for p in significance.p_values(pairs)]
    assert 0 <= sum(found) <= 9


def test_bold_only_where_it_holds(monkeypatch):
    table = experiments.PaperTable("5", "t", "s", "d", ("t2v R@1", "t2v R@5"))
    clear, close = np.zeros((3, 200)), np.zeros((3, 200))
    clear[0, :100] = clear[1, :40] = clear[2, :10] = 100
    close[0, :52], close[1, :51], close[2, :10] = 100, 100, 100
    lines = [
        build.Line(name, name, [0], [build.Figure([mean], paper) for mean, paper in zip(means, told)], "n")
        for name, means, told in (("a", (50, 26), (40, 70)), ("b", (20, 25.5), (45, 60)), ("c", (5, 5), (30, None)))
    ]
    made = build.Made(table, list(table.columns), lines)
    values = {"t2v R@1": list(clear), "t2v R@5": list(close)}
    monkeypatch.setattr(build, "per_query", lambda rows, ranks, column: values[column])
    said = build.compare(made, [])
    assert [[figure.bold for figure in line.figures] for line in lines] == [
        [True, False],
        [False, False],
        [False, False],
    ]
    assert said[0] == "t2v R@1: best a 50.0, next b 20.0: p < .001"
    assert said[1] == (
        "t2v R@1: of the 3 pairs that the paper orders, 2 stand so here (2 at p < 0.05), 1 the other way round (1 at p < 0.05); "
        "the paper's best, b, is above c (p < .001), not above a (p < .001)"
    )
    assert re.fullmatch(r"t2v R@5: best a 26.0, next b 25.5: p = \.3\d\d, which does not hold", said[2])
    assert "| b | 1 | 20.0 (45) | 25.5 (60) | n |" in "\n".join(write.table_rows(made))


def test_parameters_are_counted_as_the_paper_counts(papers, tmp_path):
    """Heads at the paper's sizes and CLIP's 151.28 M, whatever the sizes of the dataset at hand; one of the paper's is a slip."""
    tables, runs = papers
    made = plan.Plan(worlds.cache(tmp_path / "toy"), runs)
    counted = {row.label: speed.count_parameters(made, row) / 1e6 for row in tables["4"].rows}
    paper = {row.label: row.paper[0] for row in tables["4"].rows}
    for name in ("UniTriM, as published", "X-CLIP", "EERCF", "TS2-Net", "UCoFiA"):
        assert counted[name] == pytest.approx(paper[name], abs=0.01), name
    assert counted["CLIP4Clip"] == pytest.approx(163.93, abs=0.01) and paper["CLIP4Clip"] == paper["X-CLIP"]


def test_mteb_numbers_by_hand():
    found = mteb.retrieval_scores(np.array([1, 2, 5.5, 11]))
    assert found["recall_at_1"] == 0.25 and found["recall_at_5"] == 0.5 and found["recall_at_20"] == 1
    assert found["mrr_at_10"] == found["map_at_10"] == pytest.approx((1 + 1 / 2 + 1 / 5.5) / 4, abs=1e-5)
    assert found["main_score"] == found["ndcg_at_10"]
    assert found["ndcg_at_5"] == pytest.approx((1 + 1 / np.log2(3)) / 4, abs=1e-5)
    assert found["precision_at_5"] == pytest.approx(0.1)


def test_mteb_results_name_their_split_and_n(toy, tmp_path):
    tables, made, tasks = toy
    paths = mteb.export_mteb(made.home, tmp_path, "9k")
    assert len(paths) == 2 * len(tasks)  # texts to videos and texts to images
    told = json.loads(
        next(path for path in paths if path.parent.parent.name == "table-few" and "t2v" in path.name).read_text()
    )
    scored = json.loads((made.home / "scores" / "table-few" / "metrics.json").read_text())["t2v"]
    (name,) = told["scores"]
    assert name == f"test-9k-{scored['queries']}x{scored['gallery']}"
    (scores,) = told["scores"][name]
    assert (
        100 * scores["recall_at_5"] == pytest.approx(scored["R@5"], abs=1e-2) and scores["queries"] == scored["queries"]
    )


def test_the_mteb_package_reads_what_is_exported(toy, tmp_path):
    try:
        from mteb.results import TaskResult
    except ImportError:
        warnings.warn("THE EXPORT IS NOT CHECKED: the package `mteb` is absent; pip install mteb", stacklevel=1)
        pytest.skip("mteb is absent, so that nothing says whether it reads our TaskResult JSON; pip install mteb")
    for path in mteb.export_mteb(toy[1].home, tmp_path, "9k"):
        told = json.loads(path.read_text())
        result = TaskResult.from_disk(path, load_historic_data=False)
        (split,) = result.scores
        assert result.task_name == told["task_name"] and result.scores[split][0]["hf_subset"] == "default"
        kept = json.loads(result.model_dump_json())
        assert all(kept[key] == value for key, value in told.items())
