"""Whether anything fits: a query's best hit beside the best hits of other sentences that have no answer in this library.

A score alone does not say: one query's wrong answers stand higher than another's right ones. So a hit is measured by how far it
stands above the mean item for its query, and that against the same figure for sentences whose answer is not there: the
library's own captions, each with its item and its look-alikes put aside; without captions a list of other sentences.
"""

# Axes: S sentences of the bank.

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.catalog import Item
from eval.search.gallery import digest
from eval.search.sentences import sentences
from pipeline import files

VERSION = 1
BANK = 200  # sentences
LEAST = 50  # captions, or the list is taken


@dataclass(frozen=True)
class Asked:
    """A sentence, and the items that would be right answers to it."""

    sentence: str
    right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Calibration:
    """How far above the mean item the best hit of each sentence of the bank stands."""

    best: dict[str, NDArray]  # kind -> (S,) rising
    either: NDArray  # (S,) rising: the better `fit` of the two kinds, of each sentence

    @classmethod
    def of(cls, heights: dict[str, NDArray]) -> "Calibration":
        """From (S,) heights of both kinds, in the bank's order; a kind without items has none."""
        best = {kind: np.sort(value) for kind, value in heights.items() if len(value)}
        fits = [share_below(best[kind], heights[kind]) for kind in best]
        return cls(best, np.sort(np.max(fits, axis=0)) if fits else np.empty(0))

    def fit(self, kind: str, height: NDArray) -> NDArray:
        """Share of the bank's sentences whose best hit of this kind stands lower."""
        return share_below(self.best[kind], height) if kind in self.best else np.full(len(height), np.nan)

    def threshold(self, alarm: float) -> float:
        """The fit from which on a hit counts, so that a share `alarm` of the bank's sentences would still get one."""
        return float(np.quantile(self.either, 1 - alarm)) if len(self.either) else 0.0


def share_below(rising: NDArray, value: NDArray) -> NDArray:
    """Share of rising numbers that are lower, a tie counting half."""
    low, high = (np.searchsorted(rising, value, side) for side in ("left", "right"))
    return (low + high) / (2 * max(len(rising), 1))


def choose_bank(shards: Path, items: list[Item]) -> list[Asked]:
    """The library's captions, each with its item and its look-alikes; else the list of other sentences."""
    path, table = shards / "manifest" / "captions.parquet", shards / "manifest" / "items.parquet"
    captions = files.read_table(path, ["video_id", "text"]).to_pylist() if path.exists() else []
    if len(captions) < LEAST or not items:
        return [Asked(sentence) for sentence in sentences(BANK)]
    listed = files.read_table(table, ["video_id", "group"]).to_pylist()
    group = {row["video_id"]: row["group"] or row["video_id"] for row in listed}
    members: dict[str, set[str]] = {}
    for name, of in group.items():
        members.setdefault(of, set()).add(name)
    chosen = np.random.default_rng(0).permutation(len(captions))[:BANK]
    return [
        Asked(captions[row]["text"], frozenset(members.get(group.get(captions[row]["video_id"]), ()))) for row in chosen
    ]


def measure(search: Any, view: Any, bank: list[Asked]) -> Iterator[Calibration | None]:
    """Ask the bank's sentences; None after each, and the calibration in the end."""
    heights: dict[str, list[float]] = {kind: [] for kind in view.rows if len(view.rows[kind])}
    for asked in bank:
        scored = search.score_sentence(view, asked.sentence)
        right = np.array([view.by_id[name] for name in asked.right if name in view.by_id], np.int64)
        for kind in heights:
            height = scored[kind].copy()
            height[np.isin(view.rows[kind], right)] = np.nan
            heights[kind].append(float(np.nanmax(height)) if np.isfinite(height).any() else 0.0)
        yield None
    yield Calibration.of({kind: np.array(value) for kind, value in heights.items()})


def identity(key: str, view: Any, bank: list[Asked]) -> str:
    """What a calibration depends on."""
    marks = sorted(item.mark for item in view.items)
    return digest(VERSION, key, digest(*marks), digest(*(f"{one.sentence}\t{sorted(one.right)}" for one in bank)))


def read_calibration(folder: Path, name: str) -> Calibration | None:
    """A kept one."""
    try:
        content = json.loads((folder / "calibration.json").read_text())
        if content["name"] != name:
            return None
        best = {kind: np.array(value, float) for kind, value in content["best"].items()}
        return Calibration(best, np.array(content["either"], float))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep_calibration(folder: Path, name: str, made: Calibration) -> None:
    """Keep it for the next start; where that cannot be, it is measured again."""
    content = {"name": name, "best": {kind: value.tolist() for kind, value in made.best.items()}}
    try:
        files.write(folder / "calibration.json", json.dumps(content | {"either": made.either.tolist()}))
    except files.StorageError:
        return
