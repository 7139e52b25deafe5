"""After training, chosen on val: how much each part of a score counts, and what makes scores of videos and of images comparable.

Temperatures learned in training say little of either. The weights minimise the cross-entropy of each text's own item among all
items of the split. That is convex in them, so the same scores give the same weights: a few Newton steps from one start, kept at 0
or above. The factor of a joint gallery is the same fit with one part.
"""

# Axes: T texts, V videos or images, G parts.

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data import Cache
from train.distributed import join_blocks, own_blocks
from train.layers import full_precision
from train.method import Features, Method, encode

ROWS = 64  # captions or videos encoded at a time
TEXTS = 2000  # captions that are scored, at most, evenly spread
HELD = "held out"  # name of the split that stands in for val
KINDS = ("video", "image")
WHOLE = "whole"
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
def settle(model: Method, cache: Cache, split: str, device: torch.device) -> dict[str, Any]:
    """Set the weights of the model's parts to those that are best on a split, and fit what a joint gallery needs.

    What run.json keeps: `fusion`, with `weights` of videos' parts and `image_weights` (equal ones where the split has fewer than
    two items) and `rungs`, of videos the weights of fewer parts; and `joint`, a factor a kind by which the softmax of its scores
    is a probability. Only what there is to choose.
    """
    captions = some_captions(cache, split)
    items, own = np.unique(cache.video_of[captions], return_inverse=True)
    truth, enough = torch.from_numpy(own), len(items) > 1
    model.eval()
    texts = encode_texts(model, cache, captions, device) if enough else []
    weights, factors, rungs = {}, {}, []
    for kind in KINDS:
        parts = score_parts(model, cache, texts, items, kind, device) if enough else {}
        names = model.fused(kind)
        if names:
            weights[kind] = weigh(parts, truth) if enough else dict.fromkeys(names, 1 / len(names))
            model.set_weights(weights[kind], kind)
        if names and enough and kind == "video":
            rungs = [weigh({name: parts[name] for name in some}, truth) for some in choose_rungs(names)]
        if enough:
            factors[kind] = fit_factor(join_parts(parts, weights.get(kind, {WHOLE: 1.0})), truth)
    origin = {"chosen_on": split, "texts": len(captions)}
    named: dict[str, Any] = {
        name: weights[kind] for kind, name in zip(KINDS, ("weights", "image_weights")) if kind in weights
    }
    if rungs:
        named["rungs"] = rungs
    fusion = {"fusion": origin | named} if named else {}
    return fusion | ({"joint": origin | {"factors": factors}} if factors else {})


def choose_rungs(names: list[str]) -> list[list[str]]:
    """The first part, the first two and so on to all of them; then all but one, for each: the rows of the paper's Table 5."""
    left_out = [[name for name in names if name != out] for out in names] if len(names) > 2 else []
    return [names[: count + 1] for count in range(len(names))] + left_out


def some_captions(cache: Cache, split: str) -> np.ndarray:
    """At most TEXTS captions of a split."""
    captions = cache.captions(split)
    return captions[:: -(-len(captions) // TEXTS) or 1]


def encode_texts(model: Method, cache: Cache, captions: np.ndarray, device: torch.device) -> list[Features]:
    """Encoded captions, ROWS at a time."""
    return [encode(model, cache, captions[at : at + ROWS], "text", device) for at in range(0, len(captions), ROWS)]


def score_parts(
    model: Method, cache: Cache, texts: list[Features], items: np.ndarray, kind: str, device: torch.device
) -> dict[str, Tensor]:
    """(T, V) scores of one kind by part, on the CPU; the one part of a score that is not fused is called WHOLE."""

    def score(text: Features, item: Features) -> dict[str, Tensor]:
        if model.fused(kind):
            return full_precision(model.score_parts)(text, item, kind)
        return {WHOLE: full_precision(getattr(model, f"score_{kind}s"))(text, item)}

    rows = sum(len(next(iter(text.values()))) for text in texts)
    parts = {name: torch.zeros(rows, len(items)) for name in model.fused(kind) or [WHOLE]}
    for first, last in own_blocks(len(items), ROWS):  # a block of items at a time: their patches are large
        item = encode(model, cache, items[first:last], kind, device)
        made = [score(text, item) for text in texts]
        for name, part in parts.items():
            part[:, first:last] = torch.cat([row[name].float().cpu() for row in made])
    return {name: join_blocks(part, ROWS) for name, part in parts.items()}


def weigh(parts: dict[str, Tensor], truth: Tensor) -> dict[str, float]:
    """The weights of the parts, of sum 1, with which they tell `truth` best."""
    weight = fit(torch.stack(list(parts.values())), truth)
    return dict(zip(parts, (weight / weight.sum()).tolist()))


def join_parts(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """(T, V) the weighted sum of parts."""
    return sum(weights[name] * part for name, part in parts.items())


def fit_factor(scores: Tensor, truth: Tensor) -> float:
    """The factor >= 0 with which the softmax of scores (T, V) gives `truth` (T,) the greatest likelihood."""
    spread = scores.double().std().clamp(min=1e-12)
    return (fit(scores[None].double() / (START * spread), truth) / (START * spread)).item()


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
