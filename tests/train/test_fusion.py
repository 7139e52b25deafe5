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


def test_all_patches_have_no_temperature():
    with pytest.raises(ValueError, match="no temperature"):
        methods.build("unitrim", {"word_patch": "all", "fusion": "t_weighted"})
