"""Which items of a large library are scored at all: those that the run's index names, else those that CLIP's plain vectors do."""

# Axes: G items of one gallery, D embedding.

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.index import Index, read_index
from eval.search.view import SHORT, View
from pipeline.shards import fingerprint

MORE = 4  # times as many candidates as the index needs for its own ten: a page shows more, and filters leave some out


class Recall:
    """The index of a run (`python -m eval.index`), as far as it is of the rows that stand; items that it does not hold, or not as
    they are now, are found by the mean of their frames."""

    def __init__(self, folder: Path, weights: str, scorer: Any):
        self.index: dict[str, Index] = read_index(folder, weights, scorer)
        self.known: tuple[int, dict[str, NDArray]] = (-1, {})

    def places(self, view: View, kind: str) -> NDArray:
        """(rows of the index,) place of each among the view's items, -1 where it is gone or has changed since."""
        if self.known[0] != view.number:
            self.known = (view.number, {})
        if kind not in self.known[1]:
            index = self.index[kind]
            mark = {name: one for part in index.parts for name, one in zip(part.id, part.mark)}
            at = [view.by_id.get(name, -1) for name in index.id]
            made = [
                place if place >= 0 and mark_of(view, place) == mark[name] else -1 for place, name in zip(at, index.id)
            ]
            self.known[1][kind] = np.array(made, np.int64)
        return self.known[1][kind]

    def shortlist(
        self, view: View, kind: str, texts: list[dict[str, Any]], coarse: NDArray, allowed: NDArray
    ) -> NDArray:
        """Places of the items of a gallery to score, rising.

        texts: encoded sentences; coarse: (parts of the query, D) their CLIP vectors, then those of items and pictures asked by;
        allowed: (items,) bool, those that the filters leave in: no other is a candidate.
        """
        rows, found = view.rows[kind][allowed[view.rows[kind]]], np.empty(0, np.int64)
        if len(rows) > SHORT and kind in self.index and len(texts) == len(coarse):
            place, index = self.places(view, kind), self.index[kind]
            among = place >= 0
            among[among] = allowed[place[among]]
            if among.any():
                count = min(SHORT, MORE * index.candidates)
                asked = [index.coarse.queries(index.scorer, text) for text in texts]
                best = np.unique([index.recall(query, count, among=among)[0] for query in asked])
                found = place[best[best >= 0]]
                held = np.zeros(len(view.items), bool)
                held[place[among]] = True
                rows = rows[~held[rows]]
        if len(rows) > SHORT:
            near = view.near(coarse.mean(0), rows)  # the mean of the parts' cosines
            rows = rows[np.argpartition(-near, SHORT - 1)[:SHORT]]
        return np.union1d(found, rows)


def mark_of(view: View, place: int) -> str:
    """What the index would say an item's row was made from."""
    item = view.items[place]
    return fingerprint(item.row.shard["fingerprint"][item.row.row], item.keyframe)
