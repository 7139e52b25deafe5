"""A library as it stands at one moment, ready to be scored: its items, and where their encoded rows lie."""

# Axes: G items of one gallery, R rows of a segment, D embedding.

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.bounds import index_of, possible
from eval.search.catalog import Item
from eval.search.gallery import Gallery, Segment, join, to_full
from eval.search.workers import Workers

WHOLE = 1 << 29  # bytes of encoded rows of which all are scored by the method; of a larger library only a shortlist is
BLOCK = 4 << 20  # bytes of rows widened to float32 at a time: near to what a core's caches hold
LEAST, MOST = 16, 1024  # rows of a block, whatever they weigh
SHORT = 2000  # items of the shortlist of each gallery
SAMPLE = 1000  # items by which a shortlist's scores are put on a scale
KINDS = ("image", "video")


@dataclass
class View:
    """Items and their rows. Queries hold on to one view, whatever is added meanwhile."""

    items: list[Item]
    segments: list[Segment]
    place: NDArray  # (items, 2) segment and row of each
    rows: dict[str, NDArray] = field(default_factory=dict)  # kind -> (G,) places among the items
    number: int = 0  # rises with every new view
    exact: bool = True

    @classmethod
    def of(cls, items: list[Item], gallery: Gallery, number: int) -> "View":
        """The items that are encoded."""
        known = [item for item in items if item.mark in gallery.place]
        place = np.array([gallery.place[item.mark] for item in known], np.int64).reshape(-1, 2)
        rows = {
            "image": np.arange(len(known)),
            "video": np.array([at for at, item in enumerate(known) if not item.photo], np.int64),
        }
        segments = list(gallery.segments)
        exact = sum(one.nbytes for one in segments) <= WHOLE
        return cls(known, segments, place, rows, number, exact)

    def __post_init__(self) -> None:
        self.by_key = {item.key: at for at, item in enumerate(self.items)}
        self.by_id = {item.id: at for at, item in enumerate(self.items)}
        slot = np.full((len(self.segments), max([len(one.marks) for one in self.segments], default=0)), -1)
        for number, one in enumerate(self.segments):
            slot[number, one.films] = np.arange(len(one.films))
        self.film = slot  # where the video of a row lies among a segment's videos

    def id_of(self, key: str) -> str | None:
        """The id of the item that the server calls `key`; None where it is gone."""
        return self.items[self.by_key[key]].id if key in self.by_key else None

    def small_pictures(self, place: int) -> NDArray:
        """(N, 3S²) uint8: the small pictures of an item's frames."""
        segment, row = self.place[place].tolist()
        found = self.segments[segment]
        return found.small[found.frames(row)].numpy()

    def whole(self) -> NDArray:
        """(items, D) float32 unit vectors: what each item looks like; made once."""
        if not hasattr(self, "_whole"):
            size = self.segments[0].whole.shape[1] if self.segments else 0
            made = np.empty((len(self.items), size), np.float32)
            for number, one in enumerate(self.segments):
                mine = np.flatnonzero(self.place[:, 0] == number)
                made[mine] = one.whole.numpy()[self.place[mine, 1]]
            self._whole = made
        return self._whole

    def near(self, vector: NDArray, among: NDArray | None = None) -> NDArray:
        """(among,) cosines of a unit vector with what some items look like, by their places; with all where that is None.

        By torch, which a worker bounds to one core; numpy's products would wake all.
        """
        import torch

        rows = self.whole() if among is None or len(among) == len(self.items) else self.whole()[among]
        return (torch.from_numpy(rows) @ torch.from_numpy(np.ascontiguousarray(vector, np.float32))).numpy()

    def sample(self, kind: str) -> "View":
        """SAMPLE items of a gallery at random, always the same ones, their rows side by side; made once."""
        made = self.__dict__.setdefault("_samples", {})
        if kind not in made:
            chosen = np.sort(np.random.default_rng(0).permutation(self.rows[kind])[:SAMPLE])
            blocks, order = [], []
            for mine, segment, rows in self.blocks(kind, chosen):
                own = self.segments[segment].blocks[kind]
                blocks.append({name: tensor[index_of(rows)] for name, tensor in own.items()})
                order += chosen[mine].tolist()
            items, at = [self.items[place] for place in order], np.arange(len(order))
            segment = Segment([item.mark for item in items], at.tolist(), {kind: join(blocks)}, None, None, None)
            place = np.stack([np.zeros_like(at), at], 1)
            made[kind] = View(items, [segment], place, {kind: at}, self.number)
        return made[kind]

    def blocks(self, kind: str, among: NDArray) -> Iterator[tuple[NDArray, int, NDArray]]:
        """The items `among` (places) in blocks of one segment: which of them, the segment, and their rows in its tensors."""
        for segment in np.unique(self.place[among, 0]).tolist():
            mine = np.flatnonzero(self.place[among, 0] == segment)
            rows = self.place[among[mine], 1]
            if kind == "video":
                rows = self.film[segment, rows]
            found = self.segments[segment].blocks[kind].values()
            each = sum(tensor[0].numel() * (4 if tensor.is_floating_point() else 1) for tensor in found)
            step = min(MOST, max(LEAST, BLOCK // max(each, 1)))
            for at in range(0, len(mine), step):
                yield mine[at : at + step], segment, rows[at : at + step]

    def block(self, kind: str, segment: int, rows: NDArray, device: str) -> dict[str, Any]:
        """Some rows of a segment's tensors of one kind as float32."""
        index = index_of(rows)
        return {name: to_full(tensor[index], device) for name, tensor in self.segments[segment].blocks[kind].items()}

    def bounded_by(self, scorer: Any, text: dict[str, Any], kind: str) -> bool:
        """Whether a text's scores with a gallery can be had within bounds; of a library that is scored whole."""
        block = next((one.blocks[kind] for one in self.segments if one.blocks[kind]), {})
        return self.exact and possible(scorer, text, block)

    def score(self, scorer: Any, text: dict[str, Any], kind: str, among: NDArray, workers: Workers) -> NDArray:
        """(texts, among) scores of encoded texts against items of a gallery, by their places."""
        return score_all(scorer, [(self, text, kind, among)], workers)[0]


def score_all(scorer: Any, asked: list[tuple[View, dict[str, Any], str, NDArray]], workers: Workers) -> list[NDArray]:
    """(texts, among) scores as `View.score` gives them, of each that is asked; all shared out at once: no thread waits."""
    from eval.similarity import row_count

    scores = [np.empty((row_count(text), len(among)), np.float32) for _, text, _, among in asked]

    def score_block(job: tuple[int, tuple[NDArray, int, NDArray]]) -> None:
        number, (mine, segment, rows) = job
        view, text, kind, _ = asked[number]
        scores[number][:, mine] = scorer.score(text, view.block(kind, segment, rows, scorer.device), kind)

    workers.map(score_block, [(at, block) for at, (view, _, *rest) in enumerate(asked) for block in view.blocks(*rest)])
    return scores
