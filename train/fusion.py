"""After training: how much each part of a score counts, chosen on val, where temperatures learned in training say little of it.

The weights minimise the cross-entropy of each text's own video among all videos of the split. That is convex in them, so the
same scores give the same weights: a few Newton steps from one start, kept at 0 or above.
"""

# Axes: T texts, V videos, G parts.

import zlib

import numpy as np
import torch
from torch import Tensor

from train.data import Cache
from train.distributed import join_blocks, own_blocks
from train.layers import full_precision
from train.method import Method

ROWS = 64  # captions or videos encoded at a time
TEXTS = 2000  # captions that are scored, at most, evenly spread
HELD = "held out"  # name of the split that stands in for val
STEPS = 50
START = 10.0  # of every weight, before they are scaled to a sum of 1
RIDGE = 1e-6  # keeps a step finite where two parts say the same


def hold_out(cache: Cache, share: int = 10) -> str:
    """The split on which weights are chosen: val, or where it is empty a tenth of train's videos, which then do not train."""
    if len(cache.captions("val")):
        return "val"
    number = np.array([zlib.crc32(str(name).encode()) for name in cache.video_id], np.int64)
    cache.video_split[(cache.video_split == "train") & (number % share == 0)] = HELD
    return HELD


@torch.no_grad()
def choose(model: Method, cache: Cache, split: str, device: torch.device) -> dict[str, float]:
    """Weights of the model's parts that are best on a split; equal ones where it has fewer than two videos."""
    captions = cache.captions(split)
    captions = captions[:: -(-len(captions) // TEXTS) or 1]
    videos, truth = np.unique(cache.video_of[captions], return_inverse=True)
    names = model.fused()
    if len(videos) < 2:
        return dict.fromkeys(names, 1 / len(names))
    model.eval()
    part = score_parts(model, cache, captions, videos, device)
    weight = fit(torch.stack([part[name] for name in names]), torch.from_numpy(truth))
    return dict(zip(names, (weight / weight.sum()).tolist()))


def score_parts(
    model: Method, cache: Cache, captions: np.ndarray, videos: np.ndarray, device: torch.device
) -> dict[str, Tensor]:
    """(T, V) scores of each part, on the CPU."""

    def encode(kind: str, rows: np.ndarray) -> list[dict[str, Tensor]]:
        encoder = full_precision(getattr(model, f"encode_{kind}"))
        blocks = (getattr(cache, kind)(rows[at : at + ROWS]) for at in range(0, len(rows), ROWS))
        return [encoder({name: tensor.to(device) for name, tensor in block.items()}) for block in blocks]

    texts = encode("text", captions)
    parts = {name: torch.zeros(len(captions), len(videos)) for name in model.fused()}
    for first, last in own_blocks(len(videos), ROWS):  # a block of videos at a time: their patches are large
        (video,) = encode("video", videos[first:last])
        rows = [full_precision(model.score_parts)(text, video) for text in texts]
        for name, part in parts.items():
            part[:, first:last] = torch.cat([row[name].cpu() for row in rows])
    return {name: join_blocks(part, ROWS) for name, part in parts.items()}


def fit(scores: Tensor, truth: Tensor) -> Tensor:
    """(G,) weights >= 0 that minimise the cross-entropy of `truth` (T,) under softmax(weights · scores), scores (G, T, V)."""
    scores = scores.detach().double()
    weight = torch.full((len(scores),), START, dtype=torch.float64)
    own = scores.gather(2, truth.expand(len(scores), -1)[..., None])[..., 0]  # (G, T)
    loss, probability = cross_entropy(weight, scores, truth)
    for _ in range(STEPS):
        expected = (scores * probability).sum(2)  # (G, T)
        slope = (expected - own).mean(1)
        weighted = (scores * probability.sqrt()).flatten(1)
        curve = weighted @ weighted.T / scores.shape[1] - expected @ expected.T / scores.shape[1]
        free = ((weight > 0) | (slope < 0)).nonzero()[:, 0]
        inner = curve[free][:, free] + RIDGE * torch.eye(len(free), dtype=torch.float64)
        step = torch.zeros_like(weight)
        step[free] = torch.linalg.solve(inner, slope[free])
        for halving in range(20):
            tried = (weight - step / 2**halving).clamp(min=0)
            found, probability_there = cross_entropy(tried, scores, truth)
            if found < loss:
                break
        else:
            break
        gain, weight, loss, probability = loss - found, tried, found, probability_there
        if gain < 1e-10:
            break
    return weight if weight.sum() > 0 else torch.ones_like(weight)


def cross_entropy(weight: Tensor, scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss, and the probabilities (T, V)."""
    logit = torch.einsum("g,gtv->tv", weight, scores)
    return torch.nn.functional.cross_entropy(logit, truth), logit.softmax(1)
