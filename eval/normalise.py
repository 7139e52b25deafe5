"""Normalisations of test scores that papers report beside their methods: each is a row of its own, never part of another.

They read more than one query: DSL all the test queries at once, which a search does not have; QB-norm and SK-norm a bank of
training captions. Ranks within a text's row are what they are made for; how rows compare to each other is not.
Mean removal works on vectors, before there are scores (`eval/centre.py`), and reads train captions and items.
"""

# Axes: T texts, G gallery items, B captions of the bank.

import numpy as np
from numpy.typing import NDArray

RULES = {
    "dsl": "dual softmax (CAMoE; TS2-Net prints it): each score times the softmax over all test queries of its item",
    "qb": "querybank normalisation (Bogolin et al. 2022): dynamic inverted softmax over a bank of train captions",
    "mean": "mean removal (GR-CLIP): each modality's mean vector over train taken off; its joint gallery needs no other scale",
    "sk": "Sinkhorn-Knopp (UCoFiA): a bias an item, so that train captions spread evenly over the gallery",
}
SCALE = 100.0  # of cosines, CLIP's: published DSL and SK-norm read scores that have it
QB_SCALE = 20.0  # QB-norm's own
SINKHORN_STEPS = 4


def normalise(rule: str, scores: NDArray, bank: NDArray | None = None) -> NDArray:
    """(T, G) scores normalised by a rule of RULES; `bank` (B, G) is for `qb` and `sk`. Errors: ValueError for another rule."""
    wide = scores.astype(np.float64)
    if rule == "dsl":
        return dual_softmax(wide).astype(np.float32)
    if rule not in ("qb", "sk") or bank is None:
        raise ValueError(f"normalisation: expected one of dsl, qb, sk (the last two with a bank), got {rule!r}")
    if rule == "qb":
        return querybank(wide, bank.astype(np.float64)).astype(np.float32)
    return (wide + sinkhorn_bias(SCALE * bank.astype(np.float64)) / SCALE).astype(np.float32)


def dual_softmax(scores: NDArray) -> NDArray:
    """(T, G): an item's softmax over all queries times the score, times how many queries there are."""
    logit = SCALE * scores
    share = np.exp(logit - log_sum(logit, 0))
    return scores * share * len(scores)


def querybank(scores: NDArray, bank: NDArray) -> NDArray:
    """(T, G): inverted softmax for queries whose best item is the best of any caption of the bank (k = 1), others as they are."""
    inverted = np.exp(QB_SCALE * scores - log_sum(QB_SCALE * bank, 0))
    hub = np.zeros(scores.shape[1], bool)
    hub[bank.argmax(1)] = True
    return np.where(hub[scores.argmax(1)][:, None], inverted, scores)


def sinkhorn_bias(logit: NDArray) -> NDArray:
    """(G,) what to add to each item's logits, so that the bank's captions (B, G) fall on all items alike."""
    item, caption = np.zeros((1, logit.shape[1])), np.zeros((len(logit), 1))
    even = np.log(len(logit) / logit.shape[1])  # captions an item
    for _ in range(SINKHORN_STEPS):
        item = even - log_sum(logit + caption, 0)
        caption = -log_sum(logit + item, 1)
    return item[0]


def log_sum(logit: NDArray, axis: int) -> NDArray:
    """Logarithm of the sum of exponentials along an axis, which is kept."""
    top = logit.max(axis, keepdims=True)
    return top + np.log(np.exp(logit - top).sum(axis, keepdims=True))
