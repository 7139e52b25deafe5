"""The parts of a method, each against what it must equal in a limit or by a plainer way of computing it."""

import pytest
import torch
import torch.nn.functional as F

from train import layers
from train.layers import ISA, PatchSelector, PerturbedTopK, TemporalEncoder, TokenSimilarity, blocks, token_similarity


def plain(module, text, text_mask, video, video_mask):
    """Bi-ISA as the paper writes it, pair by pair, without padding."""
    scores = torch.zeros(len(text), len(video))
    for t, (words, valid) in enumerate(zip(text, text_mask)):
        for v, (tokens, seen) in enumerate(zip(video, video_mask)):
            c = words[valid] @ tokens[seen].T
            isa = module.interact
            by_text = attend(isa.video_last, attend(isa.text, c.T, int(valid.sum())), int(seen.sum()))
            by_video = attend(isa.text_last, attend(isa.video, c, int(seen.sum())), int(valid.sum()))
            scores[t, v] = (by_text + by_video) / 2
    return scores


def attend(isa, c, count):
    weight = torch.softmax(c / isa.inner, -1) @ isa.mix[:count, :count].T
    return (torch.softmax(weight / isa.outer, -1) * c).sum(-1)


def tokens(count=5, longest=6, size=8, seed=0):
    made = torch.Generator().manual_seed(seed)
    length = torch.randint(1, longest + 1, (count,), generator=made)
    token = F.normalize(torch.randn(count, longest, size, generator=made), dim=-1)
    return token, torch.arange(longest) < length[:, None]


@pytest.fixture(params=[(0.1, 1.0), (0.01, 0.01)], ids=["soft", "hard"])
def similarity(request):
    torch.manual_seed(0)
    module = TokenSimilarity(8, 9, request.param, request.param)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("narrow", [0, 100], ids=["rows", "columns"])
@pytest.mark.parametrize("block", [1, 60, 10**6])
def test_packed_blocks_equal_the_pair_by_pair_form(similarity, monkeypatch, block, narrow):
    monkeypatch.setattr(token_similarity, "NARROW", narrow)
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(token_similarity, "PAIRS_AT_ONCE", block)
    text, video = tokens(7), tokens(4, longest=5, seed=1)
    expected = plain(similarity, *text, *video)
    assert torch.allclose(similarity(*text, *video), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(similarity(*text, *video), expected, atol=1e-5)


@pytest.mark.parametrize("narrow", [0, 100], ids=["rows", "columns"])
def test_packed_gradients_equal_those_of_the_pair_by_pair_form(similarity, monkeypatch, narrow):
    monkeypatch.setattr(token_similarity, "NARROW", narrow)
    (text, text_mask), (video, video_mask) = tokens(6), tokens(4, seed=1)
    leaves = [text.requires_grad_(), video.requires_grad_(), *similarity.parameters()]
    weight = torch.randn(6, 4)
    made = torch.autograd.grad((similarity(text, text_mask, video, video_mask) * weight).sum(), leaves)
    expected = torch.autograd.grad((plain(similarity, text, text_mask, video, video_mask) * weight).sum(), leaves)
    for one, other in zip(made, expected):
        assert torch.allclose(one, other, atol=1e-4 * max(1.0, other.abs().max().item()))


def test_without_a_temperature_isa_is_the_mean_and_with_a_small_one_the_maximum():
    c = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    assert ISA(4, 1e6, 1e6)(c, None, -1).item() == pytest.approx(0.25, abs=1e-6)
    assert ISA(4, 1e-3, 1e-3)(c, None, -1).item() == pytest.approx(0.4, abs=1e-6)


def test_isa_weighs_only_what_is_valid():
    isa = ISA(4, 0.1, 1.0)
    c = torch.tensor([[0.1, 0.4, 9.0, -9.0]])
    mask = torch.tensor([[True, True, False, False]])
    assert torch.allclose(isa(c, mask, -1), isa(c[:, :2], None, -1))
    assert isa(torch.full((1, 4), 0.7), mask, -1).item() == pytest.approx(0.7)  # weights sum to 1


def test_both_axes_of_isa_are_the_same_function():
    isa = ISA(5, 0.1, 1.0)
    torch.nn.init.normal_(isa.mix)
    c = torch.randn(3, 5, 4)
    assert torch.allclose(isa(c, None, 1), isa(c.transpose(1, 2), None, -1), atol=1e-6)


def test_a_fully_masked_row_stays_a_number():
    isa = ISA(3, 0.1, 1.0)
    assert isa(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool), -1).isfinite().all()


def test_blocks_hold_every_text_once_and_none_is_too_large():
    assert list(blocks.split_blocks([1, 1, 2, 5, 5, 9], 10)) == [(0, 3, 2, False), (3, 5, 5, True), (5, 6, 9, True)]
    assert list(blocks.split_blocks([4, 4], 1)) == [(0, 1, 4, True), (1, 2, 4, True)]


def test_perturbed_top_k_shares_sum_to_one_and_follow_the_scores():
    torch.manual_seed(0)
    share = PerturbedTopK.apply(torch.tensor([[0.0, 5.0, 0.0, 4.0]]), 2, 200, 0.05)
    assert torch.allclose(share, torch.tensor([[[0.0, 1, 0, 0], [0, 0, 0, 1]]]))  # in order of place, not of score
    close = PerturbedTopK.apply(torch.zeros(1, 4), 1, 4000, 0.05)
    assert torch.allclose(close, torch.full((1, 1, 4), 0.25), atol=0.04)


def test_perturbed_top_k_has_the_gradient_of_its_expectation():
    """Against the difference of means over many samples."""
    score, weight = torch.tensor([[0.10, 0.12, 0.05, 0.02]]), torch.randn(1, 2, 4)

    def mean(shift):
        torch.manual_seed(0)
        return (PerturbedTopK.apply(score + shift, 2, 200_000, 0.05) * weight).sum()

    torch.manual_seed(1)
    leaf = score.clone().requires_grad_()
    (PerturbedTopK.apply(leaf, 2, 200_000, 0.05) * weight).sum().backward()
    step = 0.005 * torch.eye(4)[:, None]
    expected = torch.stack([(mean(delta) - mean(-delta)) / 0.01 for delta in step])
    assert torch.allclose(leaf.grad[0], expected, atol=0.05 * expected.abs().max().item() + 0.1)


def test_the_published_gradient_of_top_k_is_its_diagonal():
    """What a patch's score does to its own shares, by the difference of means; what it takes from others is not counted."""
    score, weight = torch.tensor([[0.10, 0.12, 0.05, 0.02]]), torch.randn(1, 2, 4)

    def shares(shift):
        torch.manual_seed(0)
        return PerturbedTopK.apply(score + shift, 2, 200_000, 0.05)[0]

    torch.manual_seed(1)
    leaf = score.clone().requires_grad_()
    (PerturbedTopK.apply(leaf, 2, 200_000, 0.05, True) * weight).sum().backward()
    step = 0.005 * torch.eye(4)[:, None]
    slope = torch.stack(
        [(shares(delta) - shares(-delta))[:, place] / 0.01 for place, delta in enumerate(step)]
    )  # (P, k)
    expected = (slope * weight[0].T).sum(1)
    assert torch.allclose(leaf.grad[0], expected, atol=0.05 * expected.abs().max().item() + 0.1)


def test_the_selector_is_hard_and_repeatable_in_evaluation():
    torch.manual_seed(0)
    selector = PatchSelector(8, 2, hidden=16)
    patch, video = torch.randn(3, 4, 5, 8), F.normalize(torch.randn(3, 8), dim=-1)
    selector.eval()
    chosen = selector(patch, video)
    assert torch.equal(chosen, selector(patch, video))
    unit = F.normalize(patch, dim=-1)
    score = selector.out(F.relu(selector.hidden(torch.cat([unit, video[:, None, None].expand(-1, 4, 5, -1)], -1))))[
        ..., 0
    ]
    best = score.topk(2).indices.sort(-1).values
    expected = unit.gather(2, best[..., None].expand(-1, -1, -1, 8)).flatten(1, 2)
    assert torch.allclose(chosen, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 10**6])
def test_the_selectors_gradients_are_those_of_the_plain_mlp(monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    torch.manual_seed(0)
    selector = PatchSelector(8, 2, hidden=16)
    patch, video = torch.randn(3, 4, 5, 8), F.normalize(torch.randn(3, 8), dim=-1).requires_grad_()
    unit, weight = F.normalize(patch, dim=-1), torch.randn(12, 5)
    length = patch.norm(dim=-1).reciprocal().flatten(0, 1)
    both = torch.cat([unit, video[:, None, None].expand(-1, 4, 5, -1)], -1)
    plain = selector.out(F.relu(selector.hidden(both)))[..., 0].flatten(0, 1)
    score = selector.score(patch.flatten(0, 1), length, video)
    assert torch.allclose(score, plain, atol=1e-6)
    leaves = [video, *selector.parameters()]
    for one, other in zip(*(torch.autograd.grad((value * weight).sum(), leaves) for value in (score, plain))):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_selector_learns_through_its_choice():
    torch.manual_seed(0)
    selector = PatchSelector(8, 2, hidden=16)
    selector(torch.randn(2, 3, 5, 8), F.normalize(torch.randn(2, 8), dim=-1)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in selector.parameters() if parameter.numel() > 1)


def test_k_may_exceed_the_patches():
    selector = PatchSelector(8, 9, hidden=16)
    assert selector(torch.randn(2, 3, 5, 8), torch.randn(2, 8)).shape == (2, 15, 8)


def test_the_temporal_encoder_starts_as_clip_and_then_knows_order():
    torch.manual_seed(0)
    encoder = TemporalEncoder(16, layers=2, positions=8)
    frame, mask = torch.randn(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    assert F.cosine_similarity(encoder(frame, mask), frame, dim=-1).min() > 0.99
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    forwards = layers.mean_video(encoder(frame, mask), mask)
    assert (forwards - layers.mean_video(encoder(frame.flip(1), mask), mask)).abs().max() > 0.01


def test_more_frames_than_positions_are_refused():
    with pytest.raises(ValueError, match="3 positions"):
        TemporalEncoder(16, positions=3)(torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool))


def test_heads_divide_the_dimension():
    assert [layers.count_heads(size) for size in (16, 128, 192, 512)] == [1, 2, 3, 8]


def test_pooling_never_sees_padding():
    token = torch.tensor([[[-1.0, -2.0], [-3.0, -1.0], [100.0, 100.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert layers.masked_max(token, mask).tolist() == [[-1, -1], [0, 0]]
    assert layers.masked_mean(token, mask).tolist() == [[-2, -1.5], [0, 0]]


def test_a_gate_starts_as_the_mean_and_learns_to_choose():
    token, mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])
    gate = layers.GatedMean(2)
    assert torch.allclose(gate(token, mask), layers.masked_mean(token, mask))
    with torch.no_grad():
        gate.score.weight.copy_(torch.tensor([[50.0, 0.0]]))
    assert torch.allclose(gate(token, mask), torch.tensor([[1.0, 0.0]]))
    assert gate(token, torch.zeros_like(mask)).tolist() == [[0, 0]]


def test_an_mlp_ends_without_an_activation():
    assert isinstance(layers.mlp(4, 8, 4)[-1], torch.nn.Linear)
    assert layers.mlp(4, 8, 4)(torch.randn(100, 4)).min() < -0.17


def test_patches_that_learn_get_the_gradient_of_the_choice_too():
    """The two ways of scoring give the same scores; only the one for a tuned CLIP reaches the patches."""
    selector = PatchSelector(8, 2, hidden=16).train()
    patch, video = torch.randn(2, 3, 5, 8), torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    length = patch.norm(dim=-1).reciprocal().flatten(0, 1)
    frozen = selector.score(patch.flatten(0, 1), length, video)
    tuned = patch.clone().requires_grad_()
    scored = selector.score(tuned.flatten(0, 1), length, video)
    torch.testing.assert_close(scored, frozen)
    scored.sum().backward()
    assert (tuned.grad != 0).any()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_late_interaction_is_the_same_where_a_gpu_must_not_be_waited_for(monkeypatch, masked, weighted):
    made = torch.Generator().manual_seed(2)
    text = torch.randn(4, 6, 8, generator=made, requires_grad=True)
    gallery = torch.randn(3, 5, 8, generator=made)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 2])[:, None]
    shown = torch.arange(5) < torch.tensor([5, 2, 1])[:, None] if masked else None
    weight = (torch.rand(4, 6, generator=made) * mask) if weighted else None
    found = []
    for on_cpu in (True, False):
        monkeypatch.setattr(layers.blocks, "on_cpu", lambda tensor, answer=on_cpu: answer)
        score = layers.best_match_mean(text, mask, gallery, shown, weight)
        (grad,) = torch.autograd.grad((score * torch.arange(12.0).view(4, 3)).sum(), text)
        found.append((score, grad))
    torch.testing.assert_close(*found)


def told_by_chance(samples=2000, size=6):
    """Vectors whose first number tells a class of three and leaks into the second, and the class."""
    random = torch.Generator().manual_seed(0)
    told = F.one_hot(torch.randint(3, (samples,), generator=random), 3).float()
    vector = torch.randn(samples, size, generator=random)
    vector[:, 0] += told @ torch.tensor([3.0, 0.0, -3.0])
    vector[:, 1] += 0.5 * vector[:, 0]
    return vector, told


def test_erased_vectors_tell_nothing_and_what_is_independent_stays():
    vector, told = told_by_chance()
    moments = layers.Moments(6, 3)
    for at in range(0, len(vector), 700):  # in blocks, as they come
        moments.add(vector[at : at + 700], told[at : at + 700])
    eraser = layers.Eraser(6)
    assert torch.equal(eraser(vector)[0], vector / 2) and torch.equal(eraser(vector)[1], vector / 2)
    eraser.set(moments)
    left, taken = eraser(vector)
    torch.testing.assert_close(left + taken, vector)
    means = torch.stack([left[told[:, one] == 1].mean(0) for one in range(3)])
    assert (vector[told[:, 0] == 1].mean(0) - vector.mean(0))[0] > 2
    assert (means[:, :2] - left.mean(0)[:2]).abs().max() < 0.1  # what is told too weakly stays
    assert (left[:, 2:] - vector[:, 2:]).abs().max() < 0.5 and taken[:, 0].std() > 5 * taken[:, 2:].std()
    again, nothing = eraser(left)
    assert nothing.abs().max() < 1e-4 and torch.allclose(again, left, atol=1e-4)


def test_what_nothing_tells_is_not_erased():
    vector, _ = told_by_chance()
    moments = layers.Moments(6, 1)
    moments.add(vector, (torch.arange(len(vector)) % 2).float()[:, None])
    assert torch.equal(moments.eraser()[0], torch.eye(6))
    assert torch.equal(layers.Moments(6, 2).eraser()[0], torch.eye(6))  # no samples at all
