"""Weights of a fused score: chosen on val, on part of train where there is none, the same every time."""

import json

import pytest
import torch

from tests.support import worlds
from train import checkpoint, fusion, methods, run
from train.data import Cache

SMALL = {
    "k": 2,
    "samples": 4,
    "selector_hidden": 8,
    "disentangler_hidden": 16,
    "epochs": 1,
    "image_epochs": 0,
    "batch": 8,
}


def parts():
    """(3, 40, 20): a part that mostly knows the right video, one that knows it less, and one of pure noise."""
    made = torch.Generator().manual_seed(0)
    truth = torch.arange(40) % 20
    right = torch.nn.functional.one_hot(truth, 20).float()
    noise = torch.randn(3, 40, 20, generator=made)
    return torch.stack([right + 0.3 * noise[0], right + 0.6 * noise[1], noise[2]]), truth


def test_a_part_that_knows_more_weighs_more_and_noise_weighs_next_to_nothing():
    scores, truth = parts()
    weight = fusion.fit(scores, truth)
    weight = weight / weight.sum()
    assert weight[0] > weight[1] > 0.05 > weight[2] >= 0


def test_the_weights_are_a_minimum_and_the_same_every_time():
    scores, truth = parts()
    weight = fusion.fit(scores, truth)
    assert torch.equal(weight, fusion.fit(scores, truth))
    best = fusion.cross_entropy(weight, scores.double(), truth)[0]
    for part in range(3):
        for move in (-0.1, 0.1):
            other = weight.clone()
            other[part] = max(0, other[part] + move)
            assert fusion.cross_entropy(other, scores.double(), truth)[0] >= best - 1e-9


def test_an_offset_of_a_part_changes_nothing():
    scores, truth = parts()
    moved = scores + torch.tensor([3.0, -2.0, 0.5])[:, None, None]
    torch.testing.assert_close(fusion.fit(moved, truth), fusion.fit(scores, truth), atol=1e-3, rtol=1e-3)


def test_where_there_is_no_val_a_tenth_of_train_is_held_out(tmp_path):
    cache = Cache(worlds.cache(tmp_path / "toy", videos=60, captions_per_video=2), ["sentence"])
    assert fusion.hold_out(cache) == "val"
    cache.video_split[cache.video_split == "val"] = "test"
    before = len(cache.captions("train"))
    assert fusion.hold_out(cache) == fusion.HELD
    held = cache.captions(fusion.HELD)
    assert 0 < len(held) < before / 4 and len(held) + len(cache.captions("train")) == before


@pytest.mark.parametrize("word_patch", ["selected", "all"])
def test_a_run_keeps_the_weights_that_it_chose(tmp_path, word_patch):
    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    folder = shards / "runs" / "unitrim"
    run.run(shards, folder, "unitrim", 0, SMALL | {"fusion": "val", "word_patch": word_patch})
    said = json.loads((folder / "run.json").read_text())["fusion"]
    assert said["chosen_on"] == "val" and sum(said["weights"].values()) == pytest.approx(1)
    model = checkpoint.load(folder)
    assert set(said["weights"]) == set(model.config.alignments)
    assert model.fusion_weight.tolist() == pytest.approx([said["weights"][name] for name in model.config.alignments])


def test_parts_of_an_image_score_are_weighed_too(tmp_path):
    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    folder = shards / "runs" / "unitrim"
    settings = SMALL | {"fusion": "val", "alignments": ["sentence_video"], "image_text": "tokens"}
    run.run(shards, folder, "unitrim", 0, settings)
    said = checkpoint.facts(folder)["fusion"]["image_weights"]
    assert set(said) == {"word", "triplet", "sentence"} and sum(said.values()) == pytest.approx(1)
    shares = {name: share.exp().item() for name, share in checkpoint.load(folder).image.balance.share.items()}
    assert shares == pytest.approx(said)


def test_words_and_triplets_of_max_sim_are_weighed_for_images_alone(tmp_path):
    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    folder = shards / "runs" / "max_sim"
    run.run(shards, folder, "max_sim", 0, {"image_alignments": "word_patch,triplet_patch"})
    said = checkpoint.facts(folder)["fusion"]
    assert said["chosen_on"] == "val" and "weights" not in said and "rungs" not in said
    weights, model = said["image_weights"], checkpoint.load(folder)
    assert set(weights) == {"word_patch", "triplet_patch"} and sum(weights.values()) == pytest.approx(1)
    assert model.image_weight.tolist() == pytest.approx([weights["word_patch"], weights["triplet_patch"]])
    run.run(shards, shards / "runs" / "plain", "max_sim", 0, {})
    assert "fusion" not in checkpoint.facts(shards / "runs" / "plain")


def test_the_factor_of_a_joint_gallery_is_that_of_the_likelihood_whatever_the_scale():
    scores, truth = parts()
    factor = fusion.fit_factor(scores[0], truth)
    likelihood = [
        fusion.cross_entropy(torch.tensor([by]).double(), scores[:1].double(), truth)[0]
        for by in (0.9 * factor, factor, 1.1 * factor)
    ]
    assert likelihood[1] < min(likelihood[0], likelihood[2])
    assert fusion.fit_factor(1000 * scores[0] - 7, truth) == pytest.approx(factor / 1000, rel=1e-3)


@pytest.mark.parametrize(
    ("val", "name", "on"), [(True, "clip4clip", "val"), (False, "clip4clip", ""), (False, "max_sim", "train")]
)
def test_where_the_joint_gallery_is_fitted(tmp_path, val, name, on):
    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    model, cache = run.prepare(shards, name, 0, {})
    if not val:
        cache.video_split[cache.video_split == "val"] = "test"
    before = len(cache.captions("train"))
    assert run.choosing_split(model, cache) == on
    assert len(cache.captions("train")) == before  # a method without weights to choose trains on all of it


def test_a_run_says_its_factors_and_scores_are_joined_by_them(tmp_path):
    from eval.run import score_run

    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    run.run(shards, shards / "runs" / "zero_shot", "zero_shot", 0, {})
    said = checkpoint.facts(shards / "runs" / "zero_shot")["joint"]
    assert (
        said["chosen_on"] == "val" and set(said["factors"]) == {"video", "image"} and min(said["factors"].values()) > 0
    )
    numbers = score_run(shards / "runs" / "zero_shot", shards)
    assert numbers["joint"]["calibration"] == "pair" and numbers["joint"]["fitted"] == said
    assert set(numbers["joint_rules"]) == {"apart", "query", "posterior", "pair"}
    assert numbers["joint_rules"]["pair"]["both"] == numbers["joint"]["both"]


def test_rungs_add_each_part_and_leave_each_out():
    assert fusion.choose_rungs(["a", "b", "c"]) == [
        ["a"],
        ["a", "b"],
        ["a", "b", "c"],
        ["b", "c"],
        ["a", "c"],
        ["a", "b"],
    ]
    assert fusion.choose_rungs(["a", "b"]) == [["a"], ["a", "b"]]


def test_a_run_is_scored_by_fewer_parts_with_weights_of_their_own(tmp_path):
    from eval.load import load_run
    from eval.overview import build_tables
    from eval.run import score_run
    from eval.similarity import Scorer, matrices

    shards = worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    folder = shards / "runs" / "unitrim"
    run.run(shards, folder, "unitrim", 0, SMALL | {"fusion": "val", "word_patch": "all"})
    numbers = score_run(folder, shards)
    rungs, said = numbers["rungs"], checkpoint.facts(folder)["fusion"]
    assert len(rungs) == 10 and [rung["weights"] for rung in rungs] == [list(one.values()) for one in said["rungs"]]
    assert rungs[4]["weights"] == list(said["weights"].values())  # all five: the run itself
    assert {key: rungs[4][key] for key in numbers["t2v"]} == numbers["t2v"]
    method, cache, _ = load_run(folder, shards, "cpu")
    scores = matrices(method, cache, "test")
    with torch.inference_mode():
        whole = Scorer(method, cache).matrix(cache.captions("test"), cache.videos("test"), "video")
    assert abs(scores.video - whole).max() < 1e-6
    table = next(table for table in build_tables({"unitrim": [numbers]}) if table.title == "text → video by part")
    named = [row.name.removeprefix("unitrim: ") for row in table.rows]
    assert named[:2] == ["sentence–video", "+ triplet–frame"] and named[4] == "+ triplet–video (all)"
    assert named[5:7] == ["all but sentence–video", "all but triplet–frame"] and named[9] == "all but triplet–video"


def test_all_patches_have_no_temperature():
    with pytest.raises(ValueError, match="no temperature"):
        methods.build("unitrim", {"word_patch": "all", "fusion": "t_weighted"})
