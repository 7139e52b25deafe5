"""One list of two galleries: the rules by which the scores of videos and of images come onto one scale.

apart      each gallery ranked by itself, and the two lists laid into each other, the video first: what any rule must beat.
query, split, raw   `metrics.calibrate`.
posterior  the logarithm of the probability that an item is the right one of its gallery: a softmax of the query's own scores, by
           one factor a gallery, which was fitted on val after training and stands in run.json.
pair       of those probabilities the order whose every beginning is likeliest to hold the right video and the right image. With
           C(n) the sum of a gallery's n largest, that is the product of the two C; its best beginning of each length is had by
           taking the item with the largest p(n) / C(n) next, since log C is concave in n.

Within a gallery no rule changes the order of a query's items. Equal scores stay equal.
"""

# Axes: Q queries, G gallery items.

import numpy as np
from numpy.typing import NDArray

from eval import metrics

RULES = (*metrics.CALIBRATIONS, "apart", "posterior", "pair")
FITTED = ("posterior", "pair")  # those that need the run's factors
SHOWN = ("apart", "query", *FITTED)  # each is a row of the tables


def merge(
    galleries: dict[str, NDArray],
    rule: str,
    moments: dict[str, tuple[float, float]] | None = None,
    factors: dict[str, float] | None = None,
) -> NDArray:
    """(Q, all items) of the (Q, G) scores of each gallery, in their order, all by one rule.

    moments: mean and deviation of each on another split, for `split`; factors: of each, for `posterior` and `pair`.
    Errors: ValueError where the rule is none, or what it needs is missing.
    """
    if rule in FITTED and not set(galleries) <= set(factors or {}):
        raise ValueError(f"joint gallery by {rule!r}: it needs the factors of a run that was fitted on val")
    made = []
    for place, (kind, scores) in enumerate(galleries.items()):
        if rule == "apart":
            metrics.check(scores)
            late = place / len(galleries)
            made.append(spread(scores, lambda _, first, late=late: -(first + late)))
        elif rule in FITTED:
            metrics.check(scores)
            log = log_probability(scores, factors[kind])
            made.append(log if rule == "posterior" else spread(log, pair_gain))
        else:
            made.append(metrics.calibrate(scores, rule, (moments or {}).get(kind)))
    return np.concatenate(made, axis=1)


def log_probability(scores: NDArray, factor: float) -> NDArray:
    """(Q, G) logarithms of each row's softmax of factor · scores."""
    logit = factor * scores.astype(np.float64)
    logit -= logit.max(1, keepdims=True)
    return logit - np.log(np.exp(logit).sum(1, keepdims=True))


def pair_gain(log: NDArray, first: NDArray) -> NDArray:
    """(Q, G) of sorted log-probabilities: log p(n) - log C(n), at most 0; the best, for which that is always 0, by 1 + p."""
    gain = log - np.logaddexp.accumulate(log, axis=1)
    return np.where(first == 0, 1 + np.exp(log), np.take_along_axis(gain, first, axis=1))


def spread(scores: NDArray, value) -> NDArray:
    """(Q, G) `value` of each row in falling order, put back into the gallery's; equal scores get one value.

    value(best, first): (Q, G) sorted scores and, of each, the place of the first that is equal to it.
    """
    order = np.argsort(-scores, axis=1)  # of equal scores any order does: they get one value
    best = np.take_along_axis(scores, order, axis=1)
    new = np.ones(best.shape, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    first = np.maximum.accumulate(np.where(new, np.arange(best.shape[1]), 0), axis=1)
    made = np.empty(best.shape)
    np.put_along_axis(made, order, value(best, first), axis=1)
    return made
