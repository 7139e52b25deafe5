"""Losses: what pulls a matching pair together and pushes the others apart."""

# Axes: T texts, V videos or images, D embedding.

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.distributed import gather_columns, gather_rows, own_rows
from train.layers.precision import widen

__all__ = [
    "RetrievalLoss",
    "SigLIPLoss",
    "clip_loss",
    "gather_columns",
    "gather_rows",
    "own_rows",
    "same_video",
    "square_cosine",
    "square_distance",
    "squared_cosine",
    "squared_distance",
]


class SigLIPLoss(nn.Module):
    """SigLIP's loss with its own temperature exp(t) and bias b: every pair is a yes-or-no question (Zhai et al. 2023)."""

    def __init__(self, logit_scale: float = 20.0):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(math.log(logit_scale)))
        self.b = nn.Parameter(torch.tensor(-10.0))

    def forward(self, score: Tensor, positive: Tensor, first: bool = False) -> Tensor:
        """Sum over a text's videos, mean over texts. `first`: set the bias from these scores before anything else.

        score: all texts of a step against this process's videos; positive: against those of all processes.
        """
        score = gather_columns(widen(score))
        if first:
            self.calibrate(score.detach(), positive)
        logit = score * self.t.exp() + self.b
        return -F.logsigmoid(torch.where(positive, logit, -logit)).sum() / len(score)

    @torch.no_grad()
    def calibrate(self, score: Tensor, positive: Tensor) -> None:
        """Set the bias so that the mean predicted probability equals the share of positives: learning starts from the prior."""
        logit, share = score * self.t.exp(), positive.float().mean()
        # at 20 beyond the extremes every probability is 0 or 1 in float32, so the answer lies between
        low, high = -logit.max() - 20, 20 - logit.min()
        for _ in range(40):  # bisection, on the device
            middle = (low + high) / 2
            above = torch.sigmoid(logit + middle).mean() > share
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        self.b.copy_((low + high) / 2)


class RetrievalLoss(nn.Module):
    """A text's own video or image among all of the batch: cross-entropy with its own temperature exp(t) (InfoNCE)."""

    def __init__(self, logit_scale: float = 20.0):
        super().__init__()
        self.t = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def forward(self, score: Tensor, positive: Tensor) -> Tensor:
        """Mean over the pairs that belong together.

        score: all texts of a step against this process's videos; positive: against those of all processes.
        """
        logit = gather_columns(widen(score)) * self.t.exp().clamp(max=100)
        return -(logit.log_softmax(1) * positive).sum() / positive.sum()


def same_video(label: Tensor) -> Tensor:
    """(B, B) True where two samples show the same video: its other captions are positives too."""
    return label[:, None] == label[None]


def clip_loss(score: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of scaled scores whose diagonal is right (CLIP).

    score: all texts of a step against this process's videos.
    """
    logit = gather_columns(widen(score)) * scale
    truth = torch.arange(len(logit), device=logit.device)
    return (F.cross_entropy(logit, truth) + F.cross_entropy(logit.T, truth)) / 2


def square_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Squared cosines along the last axis."""
    return F.cosine_similarity(widen(one), widen(other), dim=-1).square()


def square_distance(one: Tensor, other: Tensor) -> Tensor:
    """Squared lengths of differences along the last axis."""
    return (widen(one) - widen(other)).square().sum(-1)


def squared_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared cosine: 0 when orthogonal (the paper's plain cosine is smallest when opposite)."""
    return square_cosine(one, other).mean()


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared length of the difference."""
    return square_distance(one, other).mean()
