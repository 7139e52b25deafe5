"""One short vector an item, whose product with a query's vector is near to the run's own score, whatever the method.

The score of a text and an item is read from the scores that both have with a few others. The scores of T reference texts and R
reference items are a matrix; its K main directions (a singular value decomposition) say of an item's scores with those texts what
matters, and of a text's scores with those items by how much: a ridge regression, in a basis in which two items are as far apart
as their scores with the reference texts are. (Nyström and CUR approximate a matrix from some of its rows and columns likewise.)
That basis, turned at random so that every number says about as much, is what lets vectors be kept in few bits. An item's vector
depends on the references and on the item alone, so that an index grows by rows. Words, frames and patches need no mean: a sum of
maxima over tokens is met as well as a cosine.
"""

# Axes: T reference texts, R reference items, K numbers of a vector, G items, Q queries.

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.similarity import ROWS, Scorer

# References, at most: encoding an item costs as much as scoring it against all of them. Of the exact top ten of 20,000 photos the
# first 100 by vectors hold .9975 with 256 texts or 128, .965 with 64.
TEXTS, ITEMS = 128, 128
SIZE = 64  # numbers of a vector, at most: with 128 no more is found among the first 300 of 100,000, with 32 .99 in place of .998
RIDGE = 0.01  # of the mean variance of a reference item's scores

Features = dict[str, Tensor]


@dataclass
class Coarse:
    """References of one kind of item (video or image), and the maps from scores with them to vectors."""

    kind: str
    text: list[Features]  # encoded reference texts, in blocks
    item: Features  # encoded reference items
    mean: NDArray  # (R,) of the reference items' scores over the reference texts
    of_item: NDArray  # (K, T + 1) from an item's scores, and 1, to its vector
    of_query: NDArray  # (K, R + 1) from a query's scores less their means, and 1, to its vector

    @classmethod
    def fit(cls, scorer: Scorer, kind: str, captions: NDArray, items: NDArray) -> "Coarse":
        """Of captions and items of the train split, or of whatever there is; evenly spread over them."""
        captions, items = spread(captions, TEXTS), spread(items, ITEMS)
        text = [scorer.encode(captions[at : at + ROWS], "text") for at in range(0, len(captions), ROWS)]
        item = join([scorer.encode(items[at : at + ROWS], kind) for at in range(0, len(items), ROWS)])
        score = np.concatenate([scorer.score(block, item, kind) for block in text]).astype(np.float64)  # (T, R)
        return cls(kind, text, item, score.mean(0), *maps(score))

    def items(self, scorer: Scorer, block: Features) -> NDArray:
        """(G, K) float16 vectors of encoded items."""
        score = np.concatenate([scorer.score(text, block, self.kind) for text in self.text])  # (T, G)
        return (self.of_item @ np.concatenate([score, np.ones((1, score.shape[1]))])).T.astype(np.float16)

    def queries(self, scorer: Scorer, text: Features) -> NDArray:
        """(Q, K) float32 vectors of encoded texts."""
        score = scorer.score(text, self.item, self.kind) - self.mean
        return (np.concatenate([score, np.ones((len(score), 1))], 1) @ self.of_query.T).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by names, as a file holds it."""
        made = {f"item.{name}": tensor.cpu().clone() for name, tensor in self.item.items()}  # some share memory
        for number, block in enumerate(self.text):
            made |= {f"text.{number}.{name}": tensor.cpu().clone() for name, tensor in block.items()}
        numbers = {"mean": self.mean, "of_item": self.of_item, "of_query": self.of_query}
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
        numbers = [tensors[name].numpy() for name in ("mean", "of_item", "of_query")]
        return cls(kind, [text[number] for number in sorted(text)], item, *numbers)


def maps(score: NDArray) -> tuple[NDArray, NDArray]:
    """(K, T + 1) and (K, R + 1): the maps of items and of queries, from the scores (T, R) of the references with each other.

    An item's mean score over the reference texts is one of its numbers, as heavy as it is in the distance of two items.
    """
    texts, references = score.shape
    mean = score.mean(0)
    left, size, right = np.linalg.svd(score - mean, full_matrices=False)
    kept = min(SIZE - 1, len(size))
    left, size, right = left[:, :kept].T, size[:kept], right[:kept]  # (K, T), (K,), (K, R)
    ridge = RIDGE * np.square(score - mean).sum() / references + 1e-12
    root = np.sqrt(size**2 + ridge)
    centre = np.full((1, texts), 1 / texts)  # the mean over texts, which the other rows leave out
    item = np.concatenate([(size / root)[:, None] * (left - left @ np.ones((texts, 1)) @ centre), centre * texts**0.5])
    item = np.concatenate([item, np.zeros((kept + 1, 1))], 1)
    item[-1, -1] = -score.mean() * texts**0.5
    query = np.zeros((kept + 1, references + 1))
    query[:-1, :-1], query[-1, -1] = right / root[:, None], texts**-0.5
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(kept + 1, kept + 1)))[0]
    return turn @ item, turn @ query


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
