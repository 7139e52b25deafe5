"""Ranks and the numbers made of them: R@K, MdR, MnR, Rsum, look-alikes, and the joint gallery. Numpy in, numbers out.

Ties rank at their expectation, so a constant model earns nothing and a duplicated gallery costs what it should; NaN is
an error. Percentages are 0-100. Text to video counts every caption as its own query; video to text scores a video
against an item by the best of that item's captions (the MSVD rule), and ranks items, not captions.
"""

# Axes: T texts (captions), G gallery items, V videos, I images, Q queries.

import numpy as np
from numpy.typing import NDArray

CUTS = (1, 5, 10)
CALIBRATIONS = ("query", "split", "raw")


def ranks(scores: NDArray, truth: NDArray, among: NDArray | None = None) -> NDArray:
    """Rank (Q,) of item truth[q] in row q of (Q, G) scores: 1 + the greater + half the tied.

    `among` (Q, G) bool says which items it is ranked among; the true one must be one of them.
    """
    check(scores, among)
    own = scores[np.arange(len(scores)), truth][:, None]
    greater, level = scores > own, scores == own
    if among is not None:
        greater, level = greater & among, level & among
    return 1 + greater.sum(1) + (level.sum(1) - 1) / 2


def first_rank(scores: NDArray, right: NDArray) -> NDArray:
    """Expected rank (Q,) of the best of several right items, `right` (Q, G) bool.

    Of e right and w wrong items at one score, in random order, w / (e + 1) wrong ones come before the first right.
    """
    check(scores, right)
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    level = scores == best
    mates, others = (level & right).sum(1), (level & ~right).sum(1)
    return 1 + (scores > best).sum(1) + others / (mates + 1)


def last_rank(scores: NDArray, right: NDArray) -> NDArray:
    """Expected rank (Q,) by which all right items are found.

    Of e right and w wrong items at one score, in random order, the last right one comes at e(e + w + 1) / (e + 1).
    """
    check(scores, right)
    worst = np.where(right, scores, np.inf).min(1, keepdims=True)
    level = scores == worst
    mates, others = (level & right).sum(1), (level & ~right).sum(1)
    return (scores > worst).sum(1) + mates * (mates + others + 1) / (mates + 1)


def check(scores: NDArray, right: NDArray | None = None) -> None:
    """Refuse scores that cannot be ranked: not a matrix, NaN, or a query with nothing to find."""
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores: expected (queries, gallery) and at least one of each, got {scores.shape}")
    bad = np.flatnonzero(np.isnan(scores).any(1))
    if len(bad):
        raise ValueError(
            f"scores: NaN in {len(bad)} of {len(scores)} rows, the first is row {bad[0]}; a model made them"
        )
    if right is not None:
        if right.shape != scores.shape:
            raise ValueError(f"right: expected {scores.shape}, got {right.shape}")
        empty = np.flatnonzero(~right.any(1))
        if len(empty):
            raise ValueError(f"right: {len(empty)} queries have no right item, the first is row {empty[0]}")


def summary(rank: NDArray, gallery: int, cuts: tuple[int, ...] = CUTS) -> dict[str, float]:
    """R@K in percent, median and mean rank, the sum of the recalls, and n: how many queries over how many items."""
    recall = {f"R@{cut}": share(rank <= cut) for cut in cuts}
    middle = {"MdR": round(float(np.median(rank)), 4), "MnR": round(float(rank.mean()), 4)}
    return recall | middle | {"Rsum": round(sum(recall.values()), 4), "queries": len(rank), "gallery": gallery}


def top(scores: NDArray, count: int, rows: int = 1024) -> NDArray:
    """(Q, count) columns of each row's highest scores, equal ones in the gallery's order; `rows` looked at a time."""
    return np.concatenate([top_of_rows(scores[at : at + rows], count) for at in range(0, len(scores), rows)])


def top_of_rows(scores: NDArray, count: int) -> NDArray:
    """`top` of a few rows: the least of the highest by a partition, then a sort of these alone."""
    width = scores.shape[1]
    if count >= width:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    least = np.partition(scores, width - count, axis=1)[:, width - count, None]
    above, level = scores > least, scores == least
    room = count - above.sum(1, keepdims=True)  # of those that are level with the least, the first
    column = np.nonzero(above | (level & (level.cumsum(1) <= room)))[1].reshape(len(scores), count)
    order = np.argsort(-np.take_along_axis(scores, column, axis=1), axis=1, kind="stable")
    return np.take_along_axis(column, order, axis=1)


def share(hit: NDArray) -> float:
    """Percentage of true entries."""
    return round(100 * float(np.mean(hit)), 4)


def best_caption(scores: NDArray, owner: NDArray, items: int) -> NDArray:
    """(items, G) from (T, G): for each item the best score over its captions, `owner` (T,); -inf where it has none."""
    best = np.full((items, scores.shape[1]), -np.inf, scores.dtype)
    np.maximum.at(best, owner, scores)
    return best


def text_to_item(scores: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    """Ranks of the texts that have an item in the gallery (truth >= 0), and which texts these are."""
    asked = np.flatnonzero(truth >= 0)
    if not len(asked):
        raise ValueError("no text has its item in the gallery")
    return ranks(scores[asked], truth[asked]), asked


def item_to_text(scores: NDArray, truth: NDArray) -> NDArray:
    """Ranks of the captioned items' own captions among all captioned items' captions, each item by its best caption."""
    asked = truth >= 0
    check(scores)
    captioned, owner = np.unique(truth[asked], return_inverse=True)
    best = best_caption(scores[asked][:, captioned], owner, len(captioned))  # (captions' owner, item)
    return ranks(best.T, np.arange(len(captioned)))


def look_alikes(truth: NDArray, group: NDArray) -> NDArray:
    """(T, G) bool: items of the same group as the right one; group (G,) int, -1 is a group of its own."""
    alike = group[truth][:, None] == group[None, :]
    alike[group[truth] < 0] = False
    alike[np.arange(len(truth)), truth] = True
    return alike


def grouped(scores: NDArray, truth: NDArray, group: NDArray, kind: NDArray | None = None) -> dict[str, float]:
    """Group R@K (any look-alike counts) and in-group accuracy: how often the right one leads its look-alikes.

    kind (G,): a word for what each item's look-alikes differ in, "" for none; `in_group:<word>` is the accuracy in such groups.
    """
    alike = look_alikes(truth, group)
    numbers = summary(first_rank(scores, alike), scores.shape[1])
    several = alike.sum(1) > 1
    if several.any():
        inside = ranks(scores[several], truth[several], alike[several])
        numbers |= {
            "in_group": share(inside <= 1),
            "in_group_chance": round(100 * float(np.mean(1 / alike[several].sum(1))), 4),
            "in_group_queries": int(several.sum()),
        }
        own = kind[truth[several]] if kind is not None else np.array([], str)
        for word in sorted(set(own) - {""}):
            numbers[f"in_group:{word}"] = share(inside[own == word] <= 1)
            numbers[f"in_group_queries:{word}"] = int((own == word).sum())
    return numbers


def calibrate(scores: NDArray, rule: str = "query", moments: tuple[float, float] | None = None) -> NDArray:
    """Put one modality's scores on a scale it can share with the other.

    query: z-score within the row: how far an item stands out from its own kind for this query. Needs no labels, no
    other queries and no validation set, so a single search does the same. split: one mean and deviation for all
    queries, `moments` from a split that is not scored. raw: as they are (where both are on one scale already).
    """
    check(scores)
    scores = scores.astype(np.float64)
    if rule == "raw":
        return scores
    if rule == "split":
        if moments is None:
            raise ValueError("calibration 'split' needs the mean and deviation of another split's scores")
        mean, deviation = moments
    elif rule == "query":
        mean, deviation = row_moments(scores)
    else:
        raise ValueError(f"calibration: expected one of {', '.join(CALIBRATIONS)}, got {rule!r}")
    return (scores - mean) / deviation


def row_moments(scores: NDArray) -> tuple[NDArray, NDArray]:
    """(Q, 1) mean and (Q, 1) deviation of each row of (Q, G) scores; a row of equal ones, or of none, deviates by infinity."""
    if not scores.shape[1]:
        return np.zeros((len(scores), 1)), np.full((len(scores), 1), np.inf)
    scores = scores.astype(np.float64)
    mean, deviation = scores.mean(1, keepdims=True), scores.std(1, keepdims=True)
    # equal scores have a deviation of rounding error, which must not be blown up
    return mean, np.where(deviation > 1e-9 * np.maximum(1, np.abs(mean)), deviation, np.inf)


def joint(scores: NDArray, right: NDArray, images: int) -> dict[str, object]:
    """One gallery, its last `images` columns images: R@K for finding any right one, and `both`: all of them within K.

    No one finds two items at rank 1, so `both` starts at R@2. `images@10` is the share of images among the first ten:
    near the gallery's own share, the scale favours neither kind.
    """
    ten = top(scores, 10)
    numbers = summary(first_rank(scores, right), scores.shape[1])
    numbers["images@10"] = share(ten >= scores.shape[1] - images)
    pair = right.sum(1) > 1
    if pair.any():
        numbers["both"] = summary(last_rank(scores[pair], right[pair]), scores.shape[1], (2, 5, 10))
    return numbers
