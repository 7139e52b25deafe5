"""Normalisations of test scores, each against its definition written out."""

import json

import numpy as np
import pytest

from eval import run, stale
from eval.normalise import QB_SCALE, SCALE, normalise, querybank, sinkhorn_bias
from tests.support import worlds
from train import run as training
from train.methods import names

SCORES = np.random.default_rng(0).normal(scale=0.05, size=(6, 4))
BANK = np.random.default_rng(1).normal(scale=0.05, size=(40, 4))


def test_dual_softmax_multiplies_by_the_softmax_over_queries():
    made = normalise("dsl", SCORES)
    e = np.exp(SCALE * SCORES)
    assert np.allclose(made, SCORES * e / e.sum(0) * 6, rtol=1e-5)


def test_a_query_whose_best_item_is_no_hub_keeps_its_scores():
    """The bank's two captions find items 0 and 1: these are hubs. The first query finds item 0, the second item 2."""
    bank = np.array([[0.3, 0.1, 0.0], [0.0, 0.2, 0.1]])
    scores = np.array([[0.4, 0.35, 0.1], [0.1, 0.2, 0.3]])
    made = querybank(scores, bank)
    assert np.array_equal(made[1], scores[1])
    assert np.allclose(made[0], np.exp(QB_SCALE * scores[0]) / np.exp(QB_SCALE * bank).sum(0))
    assert made[0].argmax() == 1, "the item that every caption likes is held back"


def test_after_sinkhorn_the_bank_falls_on_all_items_alike():
    bank = BANK + np.array([0.1, 0, 0, 0])  # item 0 is liked by all
    logit = SCALE * bank
    share = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    evened = np.exp(logit + sinkhorn_bias(logit))
    evened /= evened.sum(1, keepdims=True)
    assert share.sum(0)[0] > 30 and evened.sum(0).max() / evened.sum(0).min() < 2
    # what the steps themselves say, one caption and one item at a time
    item, caption = np.zeros(4), np.zeros(40)
    for _ in range(4):
        for g in range(4):
            item[g] = np.log(10) - np.log(sum(np.exp(logit[b, g] + caption[b]) for b in range(40)))
        for b in range(40):
            caption[b] = -np.log(sum(np.exp(logit[b, g] + item[g]) for g in range(4)))
    assert np.allclose(normalise("sk", SCORES, bank), SCORES + item / SCALE, atol=1e-6)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="one of dsl, qb, sk"):
        normalise("luck", SCORES, BANK)


def test_a_normalised_row_stands_beside_the_runs_own(tmp_path):
    folder = worlds.cache(tmp_path / "toy", videos=24)
    home = folder / "runs" / "zero_shot"
    training.run(folder, home, "zero_shot", 0, {})
    assert "zero_shot" in names()
    plain = run.score_run(home, folder)
    for rule in ("dsl", "qb", "sk"):
        made = run.score_run(home, folder, norm=rule)
        assert made["normalisation"] == rule and made["t2v"]["queries"] == plain["t2v"]["queries"]
        assert ("v2t" in made) is (rule == "dsl")
    scored = {path.parent.name for path in (folder / "scores").glob("*/metrics.json")}
    assert scored == {"zero_shot", "zero_shot+dsl", "zero_shot+qb", "zero_shot+sk"}
    assert stale.find_stale(folder) == {}
    record = json.loads((home / "run.json").read_text())
    (home / "run.json").write_text(json.dumps(record | {"code": "another"}))
    assert set(stale.find_stale(folder)) == scored, "when the run is trained again they are all of another"
    assert run.with_rule("ucofia-seed1", "sk") == "ucofia+sk-seed1"
