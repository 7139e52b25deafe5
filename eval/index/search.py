"""Search in steps: candidates by their coarse vectors, compared in 16 bits or first in 4; the run's own score of each by its
compact tokens; and of the best few the same score by what the shards hold, so that the final order is exact."""

# Axes: Q queries, G items, K numbers of a coarse vector.

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from eval.index import store
from eval.index.coarse import Coarse
from eval.index.tokens import unpack
from eval.similarity import ROWS, Scorer
from pipeline.files import MissingError, replacing

EXACT = 100_000  # items up to which every coarse vector is compared in float16
CLOSE = (10, 20, 40, 80, 160)  # candidates scored from the shards that are tried
BLOCK = 1 << 12  # coarse vectors widened at a time: they stay in a core's cache
ADDED, TAUGHT = 1 << 16, 50_000  # vectors given to faiss at a time, and those that its 4 bits are fitted to
WIDE = 4  # times as many are found by 4 bits as are kept by 16
SCORED = 512  # candidates unpacked and scored at a time
SCAN, COARSE = "scan.faiss", "coarse.safetensors"


class Index:
    """The index of one run over one cache, and one kind of item (video or image), ready for queries.

    `candidates` and `close` (how many of the candidates are scored from the shards) were chosen when it was built, for
    the wanted share of the exact top ten.
    """

    def __init__(self, folder: Path, kind: str, scorer: Scorer):
        facts = store.read_facts(folder)
        if kind not in facts.get("kinds", {}):
            raise MissingError(f"{folder} is no index of {kind}s; run: python -m eval.index --run … --shards …")
        self.folder, self.kind, self.scorer, self.facts = folder, kind, scorer, facts["kinds"][kind]
        self.parts = [store.Part(path) for path in store.part_paths(folder, kind)]
        self.id = np.array([name for part in self.parts for name in part.id], dtype=object)
        self.bounds = np.cumsum([0, *map(len, self.parts)])
        self.coarse = Coarse.of(kind, read_tensors(folder / kind / COARSE), scorer.device)
        self.candidates, self.close = self.facts.get("candidates", 200), self.facts.get("close", CLOSE[-1])
        self.scans = folder / kind / SCAN
        self.scan = read_scan(self.scans, len(self.id))
        self._vectors: NDArray | None = None
        self._place: NDArray | None = None

    def __len__(self) -> int:
        return len(self.id)

    @property
    def vectors(self) -> NDArray:
        """(G, K) float16, of all items; read when it is first asked for."""
        if self._vectors is None:
            self._vectors = np.concatenate([part.coarse for part in self.parts])
        return self._vectors

    @property
    def place(self) -> NDArray:
        """(G,) each item's row in the cache, -1 where it is gone."""
        if self._place is None:
            row = {str(name): place for place, name in enumerate(self.scorer.cache.video_id)}
            self._place = np.array([row.get(name, -1) for name in self.id], np.int64)
        return self._place

    def build_scan(self) -> str:
        """Write the vectors in 4 bits a number, where they are many, and take that up; what was done, in words."""
        how = build_scan(self.scans, self.vectors)
        self.scan = read_scan(self.scans, len(self))
        return how

    def nbytes(self) -> int:
        """Bytes of its files, but for the references."""
        paths = [*(part.path for part in self.parts), *([self.scans] if self.scans.exists() else [])]
        return sum(path.stat().st_size for path in paths)

    def recall(self, query: NDArray, count: int, among: NDArray | None = None) -> NDArray:
        """(Q, at most count) rows of the items whose coarse vectors say most of each query, best first.

        among: (G,) bool, the items that may be found; all by default.
        """
        if among is not None and among.all():
            among = None
        if self.scan is None or among is not None:
            rows = np.arange(len(self)) if among is None else np.flatnonzero(among)
            return rows[highest(product(query, self.vectors if among is None else self.vectors[rows]), count)]
        near = self.scan.search(np.ascontiguousarray(query, np.float32), min(WIDE * count, len(self)))[1]
        exact = np.stack([product(one[None], self.vectors[some])[0] for one, some in zip(query, near)])
        return np.take_along_axis(near, highest(exact, count), 1)

    def rows(self, some: NDArray) -> dict[str, torch.Tensor]:
        """Encoded items by their rows, from their compact tokens, in this order."""
        part = np.searchsorted(self.bounds, some, "right") - 1
        order = np.argsort(part, kind="stable")
        found = [
            self.parts[number].rows(some[part == number] - self.bounds[number]) for number in np.unique(part).tolist()
        ]
        back = torch.from_numpy(np.argsort(order))
        return unpack({name: torch.cat([rows[name] for rows in found])[back] for name in found[0]}, self.scorer.device)

    @torch.inference_mode()
    def shortlist(
        self,
        text: dict[str, torch.Tensor],
        count: int,
        candidates: int | None = None,
        among: NDArray | None = None,
    ) -> tuple[NDArray, NDArray]:
        """(Q, count) rows of the best candidates of each encoded text by their compact tokens, best first, and those scores.

        Where there are fewer, -1 and -inf stand behind them.
        """
        query = self.coarse.queries(self.scorer, text)
        found = self.recall(query, candidates or self.candidates, among)
        row = np.full((len(query), count), -1, np.int64)
        score = np.full((len(query), count), -np.inf, np.float32)
        for number, some in enumerate(found):
            # by row, so that equal scores stand in the gallery's order and a disk reads forward
            some = np.sort(some[some >= 0])
            if not len(some):
                continue
            one = {name: tensor[number : number + 1] for name, tensor in text.items()}
            blocks = [some[at : at + SCORED] for at in range(0, len(some), SCORED)]
            value = np.concatenate([self.scorer.score(one, self.rows(block), self.kind)[0] for block in blocks])
            best = np.argsort(-value, kind="stable")[:count]
            row[number, : len(best)], score[number, : len(best)] = some[best], value[best]
        return row, score

    @torch.inference_mode()
    def search(
        self,
        text: dict[str, torch.Tensor],
        top: int = 10,
        candidates: int | None = None,
        among: NDArray | None = None,
    ) -> tuple[NDArray, NDArray]:
        """(Q, top) rows of the best items of each encoded text (`id[row]` is an item's), best first, and their scores.

        The scores are the run's own: the best by compact tokens are read from the shards and scored again. An item that is no
        longer there keeps what its tokens say.
        among: (G,) bool, the items that may be found. Where fewer than `top` are found, -1 and -inf stand behind them.
        """
        row, score = self.shortlist(text, max(self.close, top), max(candidates or self.candidates, top), among)
        some = np.unique(row[row >= 0])
        some = some[self.place[some] >= 0]
        for at in range(0, len(some), ROWS):
            block = some[at : at + ROWS]
            exact = self.scorer.score(text, self.scorer.encode(self.place[block], self.kind), self.kind)
            where = np.searchsorted(block, row).clip(max=len(block) - 1)
            score = np.where(block[where] == row, np.take_along_axis(exact, where, 1), score)
        order = np.lexsort((row, -score))[:, :top]  # equal ones in the gallery's order
        return np.take_along_axis(row, order, 1), np.take_along_axis(score, order, 1)


def read_index(folder: Path, weights: str, scorer: Scorer) -> dict[str, Index]:
    """The indexes of a run by kind; empty where there is none, or it is of other weights, or cannot be read."""
    try:
        facts = store.read_facts(folder)
        if facts.get("weights") != weights:
            return {}
        return {kind: Index(folder, kind, scorer) for kind in facts["kinds"]}
    except (OSError, ValueError, KeyError, ImportError, SafetensorError):
        return {}  # a part is being written anew, or faiss is gone


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path, sum(tensor.nbytes for tensor in tensors.values()) + 65536) as part:
        save_file(tensors, part)


def product(query: NDArray, vectors: NDArray) -> NDArray:
    """(Q, G) products of float32 and float16 vectors."""
    made = np.empty((len(query), len(vectors)), np.float32)
    asked = torch.from_numpy(np.ascontiguousarray(query, np.float32))
    for at in range(0, len(vectors), BLOCK):  # torch widens float16 many times as fast as numpy does
        block = torch.from_numpy(vectors[at : at + BLOCK]).float()
        torch.matmul(asked, block.T, out=torch.from_numpy(made[:, at : at + len(block)]))
    return made


def highest(score: NDArray, count: int) -> NDArray:
    """(Q, at most count) places of the highest of each row, best first."""
    count = min(count, score.shape[1])
    best = np.argpartition(-score, count - 1, axis=1)[:, :count]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, 1), axis=1, kind="stable"), 1)


def read_scan(path: Path, count: int) -> Any:
    """The vectors in 4 bits a number, None where all are compared as they are."""
    if not path.exists():
        return None
    import faiss

    found = faiss.read_index(str(path))
    return found if found.ntotal == count else None


def build_scan(path: Path, vectors: NDArray) -> str:
    """Write the vectors in 4 bits a number where they are many, remove such a file where they are few; what was done, in words.

    Comparing all of a million so takes some milliseconds; an inverted file finds less in more time (LOG.md).
    """
    path.unlink(missing_ok=True)
    if len(vectors) <= EXACT:
        return "exact"
    try:
        import faiss
    except ImportError:
        return "exact, for want of faiss (pip install -r requirements-index.txt)"
    width = vectors.shape[1]
    made = faiss.IndexPQFastScan(width, width, 4, faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).permutation(len(vectors))[:TAUGHT]
    made.train(vectors[np.sort(chosen)].astype(np.float32))
    for at in range(0, len(vectors), ADDED):
        made.add(vectors[at : at + ADDED].astype(np.float32))
    with replacing(path) as part:
        faiss.write_index(made, str(part))
    return "scanned in 4 bits a number"
