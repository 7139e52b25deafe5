"""Mean removal: vectors of a modality no longer share a direction, and a row of its own says what that is worth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eval import centre, load, similarity
from eval.run import score_run
from tests.support import worlds
from train import run


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    made = worlds.cache(tmp_path_factory.mktemp("centre") / "toy", videos=40, captions_per_video=2)
    for name in ("zero_shot", "max_sim"):
        run.run(made, made / "runs" / name, name, 0, {})
    return made


@pytest.mark.parametrize("name", ["zero_shot", "max_sim"])
def test_what_is_taken_off_is_the_mean_of_vectors_that_are_there(shards, name):
    method, cache, _ = load.load_run(shards / "runs" / name, shards, "cpu")
    captions, items = cache.captions("train"), cache.videos("train")
    scorer = similarity.Scorer(method, cache)
    with torch.inference_mode():
        means = centre.find_means(scorer, captions, items)
        text = scorer.encode(captions, "text")
    assert set(means) == {"text", "video", "image"}
    for vectors, mean in means["text"].items():
        mask = text.get(f"{vectors}_mask")
        kept = text[vectors][mask] if mask is not None else text[vectors].flatten(0, -2)
        torch.testing.assert_close(mean, kept.mean(0), atol=1e-5, rtol=1e-4)
        centred = centre.remove_means(text, {vectors: mean})[vectors]
        torch.testing.assert_close(centred, F.normalize(text[vectors] - mean, dim=-1))


def test_scores_without_means_are_cosines_of_what_is_left(shards):
    method, cache, _ = load.load_run(shards / "runs" / "zero_shot", shards, "cpu")
    captions, items = cache.captions("test"), cache.videos("test")
    with torch.inference_mode():
        scorer = similarity.Scorer(method, cache)
        means = centre.find_means(scorer, cache.captions("train"), cache.videos("train"))
        text, video = scorer.encode(captions, "text"), scorer.encode(items, "video")
        made = similarity.matrices(method, cache, "test", means=means)
    left = [
        F.normalize(one[key] - means[kind][key], dim=-1)
        for one, kind, key in ((text, "text", "sentence"), (video, "video", "video"))
    ]
    np.testing.assert_allclose(made.video, (left[0] @ left[1].T).numpy(), atol=1e-5)


def test_mean_removal_is_a_row_of_its_own_whose_cosines_are_the_scale(shards):
    own = score_run(shards / "runs" / "zero_shot", shards)
    other = score_run(shards / "runs" / "zero_shot", shards, norm="mean")
    assert (shards / "scores" / "zero_shot+mean" / "metrics.json").exists()
    assert other["normalisation"] == "mean" and other["joint"]["calibration"] == "raw"
    assert other["t2v"] != own["t2v"] and "v2t" in other
