"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from train import losses


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_sigmoid_loss_is_its_closed_form():
    loss = losses.SigLIPLoss(logit_scale=10.0)
    with torch.no_grad():
        loss.b.fill_(-5.0)
    score = torch.tensor([[0.9, 0.1], [0.2, 0.7]])
    by_hand = -sum(math.log(sigmoid(x)) for x in (9 - 5, -(1 - 5), -(2 - 5), 7 - 5)) / 2
    assert loss(score, torch.eye(2, dtype=torch.bool)).item() == pytest.approx(by_hand, rel=1e-6)


def test_the_sigmoid_loss_does_not_grow_with_the_batch():
    """With the bias at the prior, untrained loss is about 1 + ln B for any B: a row's sum, not its mean over B."""
    for count in (4, 64, 512):
        loss, positive = losses.SigLIPLoss(), torch.eye(count, dtype=torch.bool)
        value = loss(torch.zeros(count, count), positive, first=True).item()
        assert value == pytest.approx(math.log(count) + (count - 1) * math.log(count / (count - 1)), rel=1e-3)


def test_calibration_makes_the_mean_probability_the_share_of_positives():
    torch.manual_seed(0)
    loss, score = losses.SigLIPLoss(), torch.rand(32, 32) * 2 - 1
    positive = losses.same_video(torch.arange(32) // 2)
    loss(score, positive, first=True)
    assert torch.sigmoid(score * 20 + loss.b).mean().item() == pytest.approx(2 / 32, rel=1e-3)


def test_temperature_and_bias_get_a_gradient():
    torch.manual_seed(0)
    loss = losses.SigLIPLoss()
    loss(torch.rand(8, 8), torch.eye(8, dtype=torch.bool), first=True).backward()
    assert loss.t.grad != 0 and loss.b.grad is not None


def test_captions_of_the_same_video_match():
    assert losses.same_video(torch.tensor([3, 5, 3])).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_a_second_caption_of_the_same_video_is_not_pushed_away():
    score = torch.tensor([[0.9, 0.9], [0.9, 0.9]])
    loss = losses.SigLIPLoss()
    same, other = losses.same_video(torch.tensor([7, 7])), losses.same_video(torch.tensor([7, 8]))
    with torch.no_grad():
        loss.b.fill_(-5.0)
    assert loss(score, same) < 0.01 < loss(score, other)


def test_contrast_is_the_symmetric_cross_entropy():
    score = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    rows = math.log(1 + math.exp(-2)) + math.log(2)
    columns = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1))
    assert losses.clip_loss(score, torch.tensor(2.0)).item() == pytest.approx((rows + columns) / 4, rel=1e-6)


def test_overlap_is_least_when_orthogonal_and_not_when_opposite():
    one = torch.tensor([[1.0, 0.0]])
    assert losses.squared_cosine(one, torch.tensor([[0.0, 3.0]])) == 0
    assert losses.squared_cosine(one, -one).item() == pytest.approx(1)


def test_distance_sums_over_dimensions_and_averages_over_the_batch():
    assert losses.squared_distance(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)).item() == pytest.approx(
        2.5
    )
