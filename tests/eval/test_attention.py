"""Where a removed word is looked for: from a trained run to the report's picture."""

import json

import numpy as np
import pytest

from eval import run
from eval.report.figures import figure_three, open_source
from eval.report.page import weights
from tests.support import worlds
from train import run as training

SMALL = {"epochs": 1, "batch": 4, "layers": 1, "fill_layers": 1, "space": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = worlds.cache(tmp_path_factory.mktemp("cache") / "toy", videos=32, ragged=True)
    for name, settings in (("dual_alignment", SMALL), ("zero_shot", {})):
        training.run(folder, folder / "runs" / name, name, 0, settings)
        run.score_run(folder / "runs" / name, folder)
    return folder


def test_a_run_says_where_it_looked_of_test_captions_that_lost_both_kinds(folder):
    rows = json.loads((folder / "scores" / "dual_alignment" / "attention.json").read_text())
    assert {row["kind"] for row in rows} == {"noun", "verb"} and len(rows) == 8
    source = open_source(folder)
    for row in rows:
        grid = np.array(row["map"])
        assert grid.shape == (len(source.visual.times(row["video_id"])), 4)
        assert grid.max() == 1 and grid.min() >= 0
        assert int(row["video_id"][-4:]) % 4 == 3, "a test video"
    assert json.loads((folder / "scores" / "zero_shot" / "attention.json").read_text()) == []


def test_the_report_lays_the_weights_over_the_frames(folder):
    source = open_source(folder)
    drawn = figure_three(folder, "dual_alignment", source)
    assert drawn.count("<article") == 8 and '<span class="verb">' in drawn and '<span class="noun">' in drawn
    assert figure_three(folder, "zero_shot", source) == ""
    assert weights([1, 0, 0, 0.5]).count("<rect") == 2
    assert 'x="1" y="1" width="1" height="1" fill-opacity="0.375"' in weights([1, 0, 0, 0.5])


def test_without_spans_there_is_no_picture_and_scores_all_the_same(folder, tmp_path):
    bare = worlds.cache(tmp_path / "toy", videos=32)
    (bare / "spans").rename(tmp_path / "spans")
    numbers = run.score_run(folder / "runs" / "dual_alignment", bare)
    assert numbers["t2v"]["queries"] == 16
    assert json.loads((bare / "scores" / "toy-dual_alignment" / "attention.json").read_text()) == []
