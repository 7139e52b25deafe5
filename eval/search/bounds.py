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


@dataclass(frozen=True)
class Words:
    """The words of one text as they are multiplied."""

    high: Any  # (L, D) int8
    both: Any  # (2L, D) int8: high, then low
    weight: Any  # (L, 1) of each word's best match, in the scale of an item
    norm: float  # mean of the words' norms
    lost: float  # what the method itself loses in float32 when it adds up D products and L words
    error: float  # mean norm of what is left out of a word
    rest: float  # mean norm of the words' low parts

    @classmethod
    def of(cls, text: dict[str, Any]) -> "Words":
        """From an encoded text."""
        import torch

        word = text["word"][0][text["word_mask"][0]]
        made = Planes.of(word[:, None])
        high, low = made.high[:, 0], made.low[:, 0]
        weight = torch.from_numpy(256 * made.scale[:, None] / len(word))
        norm = float(torch.linalg.vector_norm(word.double(), dim=1).numpy().mean())
        lost = 2**-23 * (word.shape[1] + len(word) + 4) * norm
        return cls(high, torch.cat([high, low]), weight, norm, lost, float(made.error.mean()), float(made.rest.mean()))


def bounded(view: Any, asked: list[tuple[dict[str, Any], str]], workers: Any) -> list[tuple[NDArray, NDArray]]:
    """Of each encoded text and gallery (image or video) that is asked for: (G,) scores of the text against all items of the
    gallery, and (G,) how far they may be from the method's own. All of it is shared out at once, so that no thread waits."""
    import torch

    kinds = sorted({kind for _, kind in asked})
    halves = [(one, kind) for kind in kinds for one in view.segments if one.blocks[kind]]
    workers.map(lambda half: half[0].planes(half[1]), halves)  # made once each
    words = workers.map(lambda job: Words.of(job[0]), asked)
    made = [(np.empty(len(view.rows[kind])), np.empty(len(view.rows[kind]))) for _, kind in asked]

    def score_block(job: tuple[int, tuple[NDArray, int, NDArray]]) -> None:
        number, (mine, segment, rows) = job
        wanted, kind, (score, bound) = words[number], asked[number][1], made[number]
        its, count = view.segments[segment].planes(kind), len(words[number].high)
        index = index_of(rows)
        first, second = its.high[index].flatten(0, 1).T, its.low[index].flatten(0, 1).T  # (D, rows · K)
        product = torch._int_mm(wanted.both, first)  # (2L, rows · K) int32
        total = torch._int_mm(wanted.high, second).add_(product[count:]).add_(product[:count], alpha=256)
        total = total.view(count, len(rows), -1)
        if its.mask is not None:
            total.masked_fill_(~its.mask[index], torch.iinfo(torch.int32).min)
        best = total.amax(2)  # (L, rows)
        score[mine] = (best * wanted.weight).sum(0).numpy() * its.scale[rows]
        bound[mine] = its.error[rows] * wanted.norm + its.length[rows] * (wanted.error + wanted.lost)
        bound[mine] += its.rest[rows] * wanted.rest

    jobs = [(number, block) for number, (_, kind) in enumerate(asked) for block in view.blocks(kind, view.rows[kind])]
    workers.map(score_block, jobs)
    return made


def index_of(rows: NDArray) -> Any:
    """Rows as what tensors are indexed by: a slice, which copies nothing, where they lie side by side."""
    import torch

    first, last = int(rows[0]), int(rows[-1])
    together = last - first + 1 == len(rows) and (np.diff(rows) == 1).all()
    return slice(first, last + 1) if together else torch.from_numpy(rows)
