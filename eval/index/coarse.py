"""One short vector an item, whose product with a query's vector is near to the run's own score, whatever the method.

The score of a text and an item is read from the scores that both have with a few others: a query's vector is its scores with R
reference videos, an item's says how to weigh them, so that for T reference texts the weighted sums are the item's own scores (a
ridge regression an item; the matrix is approximated from some of its rows and columns, as Nyström and CUR do). An item's vector
depends on the references and on the item alone, so that an index grows by rows. Words, frames and patches need no mean: a sum of
maxima over tokens is met as well as a cosine.
"""

# Axes: T reference texts, R reference items, G items, Q queries.

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.similarity import ROWS, Scorer

# References, at most. With 512 texts the first 20 of 6,000 noisy keyframes of demo hold .942 of the exact top ten, with 256 .935,
# and 50 of them .99 with either; but encoding an item costs as much as scoring it against all of them.
TEXTS, ITEMS = 256, 128
RIDGE = 0.01  # of the mean variance of a reference item's scores

Features = dict[str, Tensor]


@dataclass
class Coarse:
    """References of one kind of item (video or image), and the regression over them."""

    kind: str
    text: list[Features]  # encoded reference texts, in blocks
    item: Features  # encoded reference items
    mean: NDArray  # (R,) of the reference items' scores over the reference texts
    centre: float  # of all those scores
    solve: NDArray  # (R, T)

    @classmethod
    def fit(cls, scorer: Scorer, kind: str, captions: NDArray, items: NDArray) -> "Coarse":
        """Of captions and items of the train split, or of whatever there is; evenly spread over them."""
        captions, items = spread(captions, TEXTS), spread(items, ITEMS)
        text = [scorer.encode(captions[at : at + ROWS], "text") for at in range(0, len(captions), ROWS)]
        item = join([scorer.encode(items[at : at + ROWS], kind) for at in range(0, len(items), ROWS)])
        score = np.concatenate([scorer.score(block, item, kind) for block in text]).astype(np.float64)  # (T, R)
        mean = score.mean(0)
        centred = score - mean
        gram = centred.T @ centred
        gram += (RIDGE * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
        return cls(kind, text, item, mean, float(score.mean()), np.linalg.solve(gram, centred.T))

    def items(self, scorer: Scorer, block: Features) -> NDArray:
        """(G, R + 1) float16 vectors of encoded items: the weights of the references, then the item's own mean score."""
        score = np.concatenate([scorer.score(text, block, self.kind) for text in self.text])  # (T, G)
        return self.vectors(score)

    def vectors(self, score: NDArray) -> NDArray:
        """(G, R + 1) float16 from the scores (T, G) of all reference texts."""
        mean = score.mean(0, dtype=np.float64)
        weight = self.solve @ (score - mean)
        return np.concatenate([weight, (mean - self.centre)[None]]).T.astype(np.float16)

    def queries(self, scorer: Scorer, text: Features) -> NDArray:
        """(Q, R + 1) float32 vectors of encoded texts: their scores with the reference items, then 1."""
        score = scorer.score(text, self.item, self.kind) - self.mean
        return np.concatenate([score, np.ones((len(score), 1))], 1).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by names, as a file holds it."""
        made = {f"item.{name}": tensor.cpu().contiguous() for name, tensor in self.item.items()}
        for number, block in enumerate(self.text):
            made |= {f"text.{number}.{name}": tensor.cpu().contiguous() for name, tensor in block.items()}
        numbers = {"mean": self.mean, "solve": self.solve, "centre": np.array([self.centre])}
        return made | {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in numbers.items()}

    @classmethod
    def of(cls, kind: str, tensors: dict[str, Tensor], device: str) -> "Coarse":
        """The inverse of `tensors`."""
        item, text = {}, {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            if group == "item":
                item[rest] = tensor.to(device)
            elif group == "text":
                number, _, feature = rest.partition(".")
                text.setdefault(int(number), {})[feature] = tensor.to(device)
        mean, solve = tensors["mean"].numpy(), tensors["solve"].numpy()
        return cls(kind, [text[number] for number in sorted(text)], item, mean, float(tensors["centre"]), solve)


def spread(rows: NDArray, most: int) -> NDArray:
    """At most so many rows, evenly spread over all."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]


def join(blocks: list[Features]) -> Features:
    """Blocks of encoded rows as one; a block whose token sets are shorter is filled up with nothing."""
    made = {}
    for name in blocks[0]:
        longest = [max(block[name].shape[axis] for block in blocks) for axis in range(1, blocks[0][name].ndim)]
        made[name] = torch.cat([widen(block[name], longest) for block in blocks])
    return made


def widen(tensor: Tensor, shape: list[int]) -> Tensor:
    """A tensor (B, ...) in one (B, *shape), zeros behind it: what a mask leaves out."""
    if list(tensor.shape[1:]) == shape:
        return tensor
    made = tensor.new_zeros(len(tensor), *shape)
    made[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return made
