"""Bring the lexicon shards up to date: keep the rows whose fingerprint still holds, cut the other captions into pieces."""

# Axes: L pieces of a shard.

from typing import Any, Protocol

import numpy as np

from pipeline.shards.reader import Shard
from pipeline.shards.rows import fingerprint
from pipeline.shards.update_text import encoder_fingerprint, to_offsets


class Pieces(Protocol):
    """What the shards ask of the tokenizer that fills them."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a row depends on beside its text."""

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """For each text its piece ids (L,) int32."""


def piece_rows(rows: list[dict[str, Any]], old: dict[str, np.ndarray], encoder: Pieces) -> tuple[dict[str, Any], int]:
    """Tensors of one shard, and how many of its captions were kept from `old` {fingerprint: pieces}."""
    base = encoder_fingerprint(encoder.identity)
    fingerprints = [fingerprint(base, row["text"]) for row in rows]
    missing = {mark: row["text"] for mark, row in zip(fingerprints, rows) if mark not in old}
    kept = sum(mark in old for mark in fingerprints)
    pieces = old | dict(zip(missing, encoder(list(missing.values()))))
    piece = [pieces[mark] for mark in fingerprints]
    return {
        "caption_id": [row["caption_id"] for row in rows],
        "video_id": [row["video_id"] for row in rows],
        "fingerprint": fingerprints,
        "piece_offset": to_offsets(piece),
        "piece": np.concatenate([np.zeros(0, np.int32), *piece]),
    }, kept


def read_pieces(old: Shard | None) -> dict[str, np.ndarray]:
    """{fingerprint: pieces} of an earlier, sound shard."""
    if old is None:
        return {}
    spans = zip(old["piece_offset"][:-1], old["piece_offset"][1:])
    return {mark: old["piece"][a:b] for mark, (a, b) in zip(old["fingerprint"], spans)}


def is_same_lexicon(old: Shard | None, tensors: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """Whether an earlier, sound shard already is what would be written (equal fingerprints are equal pieces)."""
    return (
        old is not None
        and all(old.attributes.get(name) == value for name, value in attributes.items())
        and all(old[name] == tensors[name] for name in ("caption_id", "video_id", "fingerprint"))
    )
