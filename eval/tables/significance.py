"""Whether one row of a table is above another: a paired bootstrap over queries, from the ranks that evaluation keeps."""

# Axes: Q queries, B resamples, C columns of a table, R its rows.

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CHUNK = 500  # resamples whose counts are held at once
SEED = 0
LEVEL = 0.05  # p below which a claim holds


def gains(rank: NDArray, number: str) -> NDArray | None:
    """(Q,) what each query adds to a number of the table, greater is better; None for a median, which is no mean."""
    if number == "MnR":
        return -rank.astype(np.float64)
    if number == "Rsum":
        return 100.0 * sum((rank <= cut).astype(np.float64) for cut in (1, 5, 10))
    return 100.0 * (rank <= int(number.removeprefix("R@"))) if number.startswith("R@") else None


def p_values(values: NDArray) -> NDArray:
    """(C, R, R) from (C, R, Q): entry [c, a, b] is the share of resamples of the queries in which row a is not above row b.

    The same queries are drawn for both rows, so that what makes a query hard for both counts for neither. Values of several
    seeds are averaged before: the p speaks of these runs on other queries, not of other runs. Never 0: (1 + hits) / (1 + B).
    """
    columns, rows, queries = values.shape
    random = np.random.default_rng(SEED)
    flat = values.reshape(columns * rows, queries).T
    not_above = np.zeros((columns, rows, rows))
    for begin in range(0, RESAMPLES, CHUNK):
        count = min(CHUNK, RESAMPLES - begin)
        drawn = random.integers(queries, size=(count, queries)) + queries * np.arange(count)[:, None]
        weight = np.bincount(drawn.ravel(), minlength=count * queries).reshape(
            count, queries
        )  # how often each is drawn
        mean = (weight.astype(np.float64) @ flat / queries).reshape(count, columns, rows)
        # rounding must not make a winner of two rows that are equal
        not_above += (mean[..., :, None] - mean[..., None, :] <= 1e-9).sum(0)
    return (1 + not_above) / (1 + RESAMPLES)


def say_p(p: float) -> str:
    """p as it is printed."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")
