"""Tokens of neighbouring frames, at the places where the published code takes them."""

import torch

from train.layers.token_shift import shift_tokens


def taken(tokens, frames, absent=0):
    """(N, T) which frame each token comes from, where N frames say their own number; the last `absent` are not there."""
    numbers = torch.arange(float(frames))[:, None, None].expand(frames, tokens, 1)
    mask = (torch.arange(frames) < frames - absent)[None]
    return shift_tokens(numbers, mask)[..., 0].long()


def test_of_fifty_tokens_seven_come_from_before_and_seven_from_behind():
    middle = taken(50, 3)[1]
    assert (middle == 0).nonzero()[:, 0].tolist() == [1, 8, 15, 22, 29, 36, 43]
    assert (middle == 2).nonzero()[:, 0].tolist() == [4, 11, 18, 25, 32, 39, 46]
    assert middle[0] == 1  # CLS stays


def test_the_first_and_the_last_frame_keep_what_no_neighbour_can_give():
    first, _, last = taken(50, 3)
    assert set(first.tolist()) == {0, 1} and set(last.tolist()) == {1, 2}


def test_absent_frames_lend_nothing():
    assert torch.equal(taken(50, 4, absent=1)[:3], taken(50, 3))


def test_a_still_keeps_all():
    assert taken(50, 1).unique().tolist() == [0]


def test_a_video_lends_nothing_to_another():
    numbers = torch.arange(4.0)[:, None, None].expand(4, 50, 1)
    made = shift_tokens(numbers, torch.ones(2, 2, dtype=torch.bool))[..., 0]
    assert set(made[:2].unique().tolist()) == {0, 1} and set(made[2:].unique().tolist()) == {2, 3}


def test_gradients_go_where_the_tokens_came_from():
    token = torch.randn(3, 50, 2, requires_grad=True)
    shift_tokens(token, torch.ones(1, 3, dtype=torch.bool))[1].sum().backward()
    assert token.grad[0, :, 0].nonzero()[:, 0].tolist() == [1, 8, 15, 22, 29, 36, 43]
    assert token.grad[1, 0, 0] == 1 and token.grad[2, 1, 0] == 0
