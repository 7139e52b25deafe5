"""Pooling over valid tokens, and small maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.precision import full_precision

# Logit of a masked position; finite, so that a softmax over a fully masked row does not become NaN.
MASKED = -1e4


@full_precision
def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, D) mean of the valid ones of (B, L, D) tokens; zero where none is."""
    weight = mask.to(tokens.dtype)
    return torch.einsum("bld,bl->bd", tokens, weight / weight.sum(1, keepdim=True).clamp(min=1))


@full_precision
def masked_max(tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, D) elementwise maximum of the valid ones of (B, L, D) tokens; zero where none is."""
    top = tokens.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return top.masked_fill(~mask.any(1, keepdim=True), 0)


class GatedMean(nn.Module):
    """A mean of tokens weighted by a learned linear score; it starts as the plain mean."""

    def __init__(self, dimension: int):
        super().__init__()
        self.score = nn.Linear(dimension, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    @full_precision
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of (B, L, D); zero where none is valid."""
        weight = mask_out(self.score(tokens)[..., 0], mask).softmax(1) * mask
        return torch.einsum("bld,bl->bd", tokens, weight)


class IdentityLinear(nn.Module):
    """A square learned matrix that starts as the identity."""

    undecayed = ("mix",)  # weight decay would pull it from the identity to zero

    def __init__(self, size: int):
        super().__init__()
        self.mix = nn.Parameter(torch.eye(size))

    @full_precision
    def forward(self, vector: Tensor) -> Tensor:
        """Multiply the last axis."""
        return F.linear(vector, self.mix)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with GELU between them and none after the last.

    The paper puts a GELU after every layer: no output would be below -0.17, and cosines need both signs.
    """
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


@full_precision
def mean_video(frame: Tensor, mask: Tensor) -> Tensor:
    """(B, D) unit mean of unit frames."""
    return F.normalize(masked_mean(frame, mask), dim=-1)


def mask_out(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """Set masked similarities, in place, so low that a softmax gives them no weight; the mask is broadcast."""
    return similarity if mask is None else similarity.masked_fill_(~mask, MASKED)


class Scale(nn.Module):
    """CLIP's logit scale: kept as a logarithm, at most 100."""

    def __init__(self, start: float):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """The factor."""
        return self.t.exp().clamp(max=100)
