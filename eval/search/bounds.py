"""Scores of a whole gallery within proven bounds, by products of 8-bit numbers: what is shown is then scored in float32.

For methods whose score is the mean over a text's words of the best cosine with an item's patches. A token is written as integers
of 16 bits in two planes of 8, scale · (256 · high + low); what that leaves out is measured. Of the four products of planes that
of both lows is not made. With w, p a word and a patch, ŵ, p̂ as they are written and w″, p″ their low parts,

    |w·p - computed| <= |w| |p - p̂| + |w - ŵ| |p̂| + |w″| |p″|        (Cauchy-Schwarz),

and neither the best of some patches nor the mean of some words can be farther off than its parts. Three products of 8 bits take
0.4 of the time of one in float32 on a CPU that has them (LOG.md).
"""

# Axes: R rows of a segment, K tokens of a row, G items of a gallery, L words, D embedding.

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIGHEST = 127 * 256  # of the 16-bit integers: the high part has 7 bits and a sign
ROWS = 64  # rows written at a time
TEXT, ITEM = {"word", "word_mask"}, {"patch", "patch_mask"}  # what such a method encodes, and nothing beside it


class Unbounded(Exception):
    """A method's own score was not where it must be: it is no mean of best matches."""


@dataclass(frozen=True)
class Planes:
    """Tokens of some rows, each row with a scale of its own."""

    high: Any  # (R, K, D) int8
    low: Any  # (R, K, D) int8
    mask: Any  # (R, K) bool; None where all count
    scale: NDArray  # (R,)
    error: NDArray  # (R,) largest norm of what is left out of a token
    length: NDArray  # (R,) largest norm of a token as it is written
    rest: NDArray  # (R,) largest norm of a token's low part

    @classmethod
    def of(cls, tokens: Any, mask: Any = None) -> "Planes":
        """From tokens (R, K, D) of any float type and (R, K) which of them count."""
        import torch

        made = [write(tokens[at : at + ROWS]) for at in range(0, len(tokens), ROWS)]
        high, low, *numbers = (torch.cat(part) for part in zip(*made))
        return cls(high, low, None if mask is None or mask.all() else mask, *(one.numpy() for one in numbers))


def highest(dimension: int) -> int:
    """The largest integer that a number is written as: the product of two tokens of nothing else stays within 32 bits."""
    return min(HIGHEST, math.isqrt(int(0.98 * 2**31 * 256 / dimension)))


def write(tokens: Any) -> tuple[Any, ...]:
    """The tensors of `Planes`, but for the mask, of some rows."""
    import torch

    value = tokens.double()
    scale = value.abs().amax((1, 2)).clamp(min=1e-30) / highest(value.shape[2])
    whole = (value / scale[:, None, None]).round_()
    high = ((whole + 128) / 256).floor_()
    low = whole - 256 * high
    left = value - whole * scale[:, None, None]
    error, length, rest = (torch.linalg.vector_norm(one, dim=2).amax(1) for one in (left, whole, low))
    return high.to(torch.int8), low.to(torch.int8), scale, error, length * scale, rest * scale


@cache
def exact_here() -> bool:
    """Whether products of 8-bit integers are added up without loss here: some older CPUs saturate sums of two."""
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    extreme = torch.tensor([-128, 127, -1, 0], dtype=torch.int8)
    one, other = extreme.repeat(50, 32), extreme[[0, 1, 3, 2]].repeat(96, 32)
    one[::2], other[::3] = -128, -128
    one[1::4] = 127
    try:
        found = torch._int_mm(one, other.T)
    except RuntimeError:
        return False
    return bool((found == (one.long() @ other.long().T)).all())


def possible(scorer: Any, text: dict[str, Any], block: dict[str, Any]) -> bool:
    """Whether a score can be bounded so: by what the method compares, for which each query is a test (`Search.settle`)."""
    return scorer.device == "cpu" and set(text) == TEXT and set(block) == ITEM and exact_here()


def bounded(view: Any, text: dict[str, Any], kind: str, workers: Any) -> tuple[NDArray, NDArray]:
    """(G,) scores of one encoded text against all items of a gallery, and (G,) how far they may be from the method's own."""
    import torch

    word = text["word"][0][text["word_mask"][0]]
    wanted = Planes.of(word[:, None])
    high, both = wanted.high[:, 0], torch.cat([wanted.high[:, 0], wanted.low[:, 0]])  # (L, D), (2L, D)
    weight = torch.from_numpy(256 * wanted.scale[:, None] / len(word))
    norm = torch.linalg.vector_norm(word.double(), dim=1).numpy()
    # what the method itself loses in float32 when it adds up D products and L words
    lost = 2**-23 * (word.shape[1] + len(word) + 4) * norm.mean()
    score, bound = np.empty(len(view.rows[kind])), np.empty(len(view.rows[kind]))

    def score_block(block: tuple[NDArray, int, NDArray]) -> None:
        mine, segment, rows = block
        its = view.segments[segment].planes(kind)
        index = index_of(rows)
        first, second = its.high[index].flatten(0, 1).T, its.low[index].flatten(0, 1).T  # (D, rows · K)
        made = torch._int_mm(both, first)  # (2L, rows · K) int32
        total = torch._int_mm(high, second).add_(made[len(word) :]).add_(made[: len(word)], alpha=256)
        total = total.view(len(word), len(rows), -1)
        if its.mask is not None:
            total.masked_fill_(~its.mask[index], torch.iinfo(torch.int32).min)
        best = total.amax(2)  # (L, rows)
        score[mine] = (best * weight).sum(0).numpy() * its.scale[rows]
        bound[mine] = its.error[rows] * norm.mean() + its.length[rows] * (wanted.error.mean() + lost)
        bound[mine] += its.rest[rows] * wanted.rest.mean()

    workers.map(lambda segment: segment.planes(kind), [one for one in view.segments if one.blocks[kind]])  # once each
    workers.map(score_block, view.blocks(kind, view.rows[kind]))
    return score, bound


def index_of(rows: NDArray) -> Any:
    """Rows as what tensors are indexed by: a slice, which copies nothing, where they lie side by side."""
    import torch

    first, last = int(rows[0]), int(rows[-1])
    together = last - first + 1 == len(rows) and (np.diff(rows) == 1).all()
    return slice(first, last + 1) if together else torch.from_numpy(rows)
