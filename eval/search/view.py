"""A library as it stands at one moment, ready to be scored: its items, and where their encoded rows lie."""

# Axes: G items of one gallery, R rows of a segment, D embedding.

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.catalog import Item
from eval.search.gallery import Gallery, Segment, to_full

HELD = (
    1 << 30
)  # bytes of encoded rows that are held as float32; of a larger library only a shortlist is scored by the method
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
    def of(cls, items: list[Item], gallery: Gallery, number: int, held: int = HELD) -> "View":
        """The items that are encoded."""
        known = [item for item in items if item.mark in gallery.place]
        place = np.array([gallery.place[item.mark] for item in known], np.int64).reshape(-1, 2)
        rows = {
            "image": np.arange(len(known)),
            "video": np.array([at for at, item in enumerate(known) if not item.photo], np.int64),
        }
        segments = list(gallery.segments)
        exact = 2 * sum(one.nbytes for one in segments) <= held
        return cls(known, segments, place, rows, number, exact)

    def __post_init__(self) -> None:
        self.by_key = {item.key: at for at, item in enumerate(self.items)}
        self.by_id = {item.id: at for at, item in enumerate(self.items)}
        self.full: dict[tuple[int, str, str], Any] = {}
        slot = np.full((len(self.segments), max([len(one.marks) for one in self.segments], default=0)), -1)
        for number, one in enumerate(self.segments):
            slot[number, one.films] = np.arange(len(one.films))
        self.film = slot  # where the video of a row lies among a segment's videos

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

    def slots(self, kind: str, segment: int, among: NDArray) -> tuple[NDArray, NDArray]:
        """Of the items `among` (places): those in a segment, and their rows in the segment's tensors of this kind."""
        mine = np.flatnonzero(self.place[among, 0] == segment)
        rows = self.place[among[mine], 1]
        return mine, rows if kind == "image" else self.film[segment, rows]

    def block(self, kind: str, segment: int, rows: NDArray | None, device: str) -> dict[str, Any]:
        """A segment's tensors of one kind as float32: all of them, held where the library is small, or some rows."""
        import torch

        found = self.segments[segment].blocks[kind]
        if rows is not None:
            index = torch.from_numpy(rows)
            return {name: to_full(tensor[index], device) for name, tensor in found.items()}
        for name, tensor in found.items():
            if (segment, kind, name) not in self.full:
                self.full[segment, kind, name] = to_full(tensor, device)
        return {name: self.full[segment, kind, name] for name in found}

    def score(self, scorer: Any, text: dict[str, Any], kind: str, among: NDArray | None = None) -> NDArray:
        """(texts, G) scores of encoded texts against a gallery, or against the items `among` alone."""
        from eval.similarity import row_count

        every = among is None
        among = self.rows[kind] if every else among
        scores = np.empty((row_count(text), len(among)), np.float32)
        for segment in np.unique(self.place[among, 0]):
            mine, rows = self.slots(kind, segment, among)
            if every and self.exact:
                scores[:, mine] = scorer.score(text, self.block(kind, segment, None, scorer.device), kind)[:, rows]
                continue
            for at in range(0, len(mine), 256):
                some = self.block(kind, segment, rows[at : at + 256], scorer.device)
                scores[:, mine[at : at + 256]] = scorer.score(text, some, kind)
        return scores
