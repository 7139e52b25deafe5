"""Interactive similarity aggregation (ISA, UniTriM 3.2.3), with a closed-form gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.pooling import mask_out
from train.layers.precision import full_precision


class ISA(nn.Module):
    """ISA: similarities weigh themselves by softmax(W softmax(c / inner) / outer), W learned from the identity (3.2.2)."""

    undecayed = ("mix",)  # weight decay would pull it from the identity to zero

    def __init__(self, size: int, inner: float, outer: float):
        super().__init__()
        self.inner, self.outer = inner, outer
        self.mix = nn.Parameter(torch.eye(size))

    @full_precision
    def forward(self, similarity: Tensor, mask: Tensor | None, axis: int) -> Tensor:
        """Reduce `axis` of the similarities; `mask` is broadcast to them (None: all valid)."""
        axis = axis % similarity.ndim
        mix = matrix_for(self.mix, similarity.shape[axis])
        return ISAFunction.apply(similarity, mix, mask, axis, self.inner, self.outer)


class ISAFunction(torch.autograd.Function):
    """softmax(W softmax(c / inner) / outer)·c over one axis, with a gradient in closed form that works in place."""

    @staticmethod
    def forward(ctx, c: Tensor, mix: Tensor, mask: Tensor | None, axis: int, inner: float, outer: float) -> Tensor:
        """Reduce `axis` of c."""
        # masked again before the second softmax: W spreads weight to masked places too
        first = mask_out(c / inner, mask).softmax(axis)
        second = matmul_axis(mix, first, axis)
        if outer != 1:
            second.div_(outer)
        second = mask_out(second, mask).softmax(axis)
        score = (second * c).sum(axis)
        ctx.save_for_backward(c, mix, first, second, score)
        ctx.axis, ctx.inner, ctx.outer = axis, inner, outer
        return score

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """Gradients of c and W; masked places have weight 0, so nothing reaches them."""
        return *_isa_gradients(grad, *ctx.saved_tensors, ctx.axis, ctx.inner, ctx.outer), None, None, None, None


@full_precision
def _isa_gradients(
    grad: Tensor,
    c: Tensor,
    mix: Tensor,
    first: Tensor,
    second: Tensor,
    score: Tensor,
    axis: int,
    inner: float,
    outer: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of c and W from what the forward pass kept."""
    grad = grad.unsqueeze(axis)
    # d score / d logit of the second softmax is weight · (c - score); computed in place, for these are the largest tensors
    logit = (c - score.unsqueeze(axis)).mul_(second).mul_(grad if outer == 1 else grad / outer)
    to_mix = outer_over_axis(logit, first, axis)
    to_c = torch._softmax_backward_data(matmul_axis(mix.T, logit, axis), first, axis, first.dtype)
    return to_c.div_(inner).addcmul_(second, grad), to_mix


def matrix_for(mix: Tensor, count: int) -> Tensor:
    """The part (count, count) of a learned matrix that weighs `count` tokens; ValueError where it was trained for fewer."""
    if count > len(mix):
        raise ValueError(f"this model weighs up to {len(mix)} tokens and was given {count}; train it for as many")
    return mix[:count, :count]


def matmul_axis(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Multiply one axis of a tensor by a matrix."""
    if axis == tensor.ndim - 1:
        return F.linear(tensor, matrix)
    rows = tensor.reshape(*tensor.shape[: axis + 1], -1)
    return (matrix @ rows).view(tensor.shape)


def outer_over_axis(one: Tensor, other: Tensor, axis: int) -> Tensor:
    """Sum over all places of the products of two tensors' values along an axis: the gradient of the matrix in `matmul_axis`."""
    if axis == one.ndim - 1:
        return one.flatten(0, -2).T @ other.flatten(0, -2)
    one, other = (tensor.reshape(-1, tensor.shape[axis], tensor.shape[axis + 1 :].numel()) for tensor in (one, other))
    return (one @ other.transpose(1, 2)).sum(0)


class BiISA(nn.Module):
    """Bi-ISA: tokens of the text, then of the video, and the other way round; the two are averaged (3.2.2).

    `of_text`, `of_video`: the two temperatures of ISA over each side's tokens.
    """

    def __init__(self, text: int, video: int, of_text: tuple[float, float], of_video: tuple[float, float]):
        super().__init__()
        self.text, self.video = ISA(text, *of_text), ISA(video, *of_video)
        self.text_last, self.video_last = ISA(text, *of_text), ISA(video, *of_video)

    def forward(self, similarity: Tensor, text_mask: Tensor | None, video_mask: Tensor | None, axis: int) -> Tensor:
        """(T, L, K, V) token similarities -> (T, V); with `axis` 3 they are (T, L, V, K). The video's mask lies likewise."""
        text = None if text_mask is None else text_mask[:, :, None]  # (T, L, 1)
        whole = None if text is None else text[..., None]  # (T, L, 1, 1)
        # (T, L, K, V) -> over the text (T, K, V) -> over the video (T, V)
        by_text = self.video_last(self.text(similarity, whole, 1), video_mask, axis - 1)
        # (T, L, K, V) -> over the video (T, L, V) -> over the text (T, V)
        by_video = self.text_last(self.video(similarity, video_mask, axis), text, 1)
        return (by_text + by_video) / 2
