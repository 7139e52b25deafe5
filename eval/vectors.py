"""Scores that are sums of dot products: dense vectors by a product of matrices, sparse ones by an inverted index.

A sparse vector has a number for each word of a lexicon, most of them 0. The index lists for each word the items that have it, so
that a text costs as much as its own words have items; a part of a score is also a row of its own in the tables.
"""

# Axes: T texts, V items, D dimensions of a vector.

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

TOP = 10  # words that stand for an item
SHOWN = 6  # items whose words are kept


class InvertedIndex:
    """For each word of a lexicon the items that have it, and how much."""

    def __init__(self, items: sparse.csr_array):
        self.postings = items.T.tocsr()  # (D, V)

    def score(self, texts: sparse.csr_array) -> NDArray:
        """(T, V) float32 dot products of texts (T, D) with the items."""
        return (texts @ self.postings).toarray().astype(np.float32)


def encode_vectors(scorer: Any, rows: NDArray, kind: str, step: int) -> dict[str, Any]:
    """The method's vectors of some rows, float32: (V, D) arrays, of sparse ones CSR; `step` rows are encoded at a time."""
    found: dict[str, list[Any]] = {name: [] for name in scorer.method.vectors}
    for at in range(0, len(rows), step):
        encoded = scorer.encode(rows[at : at + step], kind)
        for name, parts in found.items():
            part = encoded[name].float().cpu().numpy()
            parts.append(sparse.csr_array(part) if name in scorer.method.sparse else part)
    return {
        name: sparse.vstack(parts, format="csr") if name in scorer.method.sparse else np.concatenate(parts)
        for name, parts in found.items()
        if parts
    }


def dot(text: Any, items: Any) -> NDArray:
    """(T, V) dot products, by an inverted index where the vectors are sparse."""
    return InvertedIndex(items).score(text) if sparse.issparse(items) else text @ items.T


def mean_active(vectors: Any) -> float:
    """How many dimensions of a sparse vector are not 0, on average."""
    return float(vectors.nnz / max(1, vectors.shape[0]))


def top_words(vector: torch.Tensor, words: list[str]) -> list[tuple[str, float]]:
    """The words of a lexicon vector (D) that weigh most, with their weights; fewer where fewer are there."""
    weight, index = vector.float().cpu().topk(min(TOP, len(vector)))
    return [(words[at], round(value, 3)) for value, at in zip(weight.tolist(), index.tolist()) if value > 0]


def what_they_say(scorer: Any, start: Any, captions: NDArray, words: list[str], name: str) -> list[dict[str, Any]]:
    """The strongest words of some captions and of their videos, by the method and as it was before it learned anything.

    start: a scorer of the method before training, None where it cannot be made again.
    """
    kept = [row for _, row in sorted((hash_of(str(scorer.cache.caption_id[row])), row) for row in captions)]
    rows, seen = [], set()
    for row in kept:
        group = scorer.cache.group[scorer.cache.video_of[row]] or str(scorer.cache.video_of[row])
        if group not in seen:
            rows, seen = [*rows, row], seen | {group}
    rows = np.array(rows[:SHOWN], np.int64)
    videos = scorer.cache.video_of[rows]
    said, after = scorer.encode(rows, "text")[name], scorer.encode(videos, "video")[name]
    before = start.encode(videos, "video")[name] if start is not None else None
    return [
        {
            "caption_id": str(scorer.cache.caption_id[row]),
            "video_id": str(scorer.cache.video_id[video]),
            "caption": top_words(said[at], words),
            "before": top_words(before[at], words) if before is not None else [],
            "after": top_words(after[at], words),
        }
        for at, (row, video) in enumerate(zip(rows, videos))
    ]


def hash_of(name: str) -> int:
    """An order of names that is none of theirs."""
    import zlib

    return zlib.crc32(name.encode())


def read_vocabulary(shards: Path) -> list[str]:
    """The word of each dimension."""
    return json.loads((shards / "lexicon" / "vocabulary.json").read_text(encoding="utf-8"))
