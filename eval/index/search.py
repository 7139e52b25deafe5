"""Search in two stages: candidates by their coarse vectors, exactly or by an inverted file, then the run's own score of each."""

# Axes: Q queries, G items, C candidates.

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from eval.index import store
from eval.index.coarse import Coarse
from eval.index.tokens import unpack
from eval.similarity import Scorer
from pipeline.files import MissingError, replacing

EXACT = 200_000  # items up to which every coarse vector is compared
BLOCK = 1 << 16  # coarse vectors widened at a time
INVERTED, COARSE = "inverted.faiss", "coarse.safetensors"


class Index:
    """The index of one run over one cache, and one kind of item (video or image), ready for queries.

    `candidates` and `probes` were chosen when it was built, for the wanted share of the exact top ten.
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
        self.candidates, self.probes = self.facts.get("candidates", 100), self.facts.get("probes", 0)
        self.inverted = read_inverted(folder / kind / INVERTED, len(self.id))
        self._vectors: NDArray | None = None

    def __len__(self) -> int:
        return len(self.id)

    @property
    def vectors(self) -> NDArray:
        """(G, R + 1) float16, of all items; read when it is first asked for."""
        if self._vectors is None:
            self._vectors = np.concatenate([part.coarse for part in self.parts])
        return self._vectors

    def recall(self, query: NDArray, count: int, probes: int | None = None, among: NDArray | None = None) -> NDArray:
        """(Q, at most count) rows of the items whose coarse vectors say most of each query; -1 where a list had no more.

        among: (G,) bool, the items that may be found; all by default.
        """
        count = min(count, len(self) if among is None else int(among.sum()))
        if self.inverted is not None:
            import faiss

            setting = faiss.SearchParametersIVF(nprobe=max(1, probes or self.probes))
            if among is not None:
                setting.sel = faiss.IDSelectorBatch(np.flatnonzero(among))
            return self.inverted.search(np.ascontiguousarray(query, np.float32), count, params=setting)[1]
        score = np.empty((len(query), len(self)), np.float32)
        for at in range(0, len(self), BLOCK):
            score[:, at : at + BLOCK] = query @ self.vectors[at : at + BLOCK].astype(np.float32).T
        if among is not None:
            score[:, ~among] = -np.inf
        best = np.argpartition(-score, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(score, best, 1), axis=1, kind="stable")
        return np.take_along_axis(best, order, 1)

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
    def search(
        self,
        text: dict[str, torch.Tensor],
        top: int = 10,
        candidates: int | None = None,
        probes: int | None = None,
        among: NDArray | None = None,
    ) -> tuple[NDArray, NDArray]:
        """(Q, top) rows of the best items of each encoded text (`id[row]` is an item's), best first, and their scores.

        among: (G,) bool, the items that may be found.

        Where fewer than `top` are found, -1 and -inf stand behind them.
        """
        query = self.coarse.queries(self.scorer, text)
        found = self.recall(query, max(candidates or self.candidates, top), probes, among)
        row = np.full((len(query), top), -1, np.int64)
        score = np.full((len(query), top), -np.inf, np.float32)
        for number, some in enumerate(found):
            some = np.sort(
                some[some >= 0]
            )  # by row, so that equal scores stand in the gallery's order and a disk reads forward
            if not len(some):
                continue
            one = {name: tensor[number : number + 1] for name, tensor in text.items()}
            value = self.scorer.score(one, self.rows(some), self.kind)[0]
            best = np.argsort(-value, kind="stable")[:top]
            row[number, : len(best)], score[number, : len(best)] = some[best], value[best]
        return row, score


def read_index(folder: Path, weights: str, scorer: Scorer) -> dict[str, Index]:
    """The indexes of a run by kind; empty where there is none, or it is of other weights, or cannot be read."""
    try:
        facts = store.read_facts(folder)
        if facts.get("weights") != weights:
            return {}
        return {kind: Index(folder, kind, scorer) for kind in facts["kinds"]}
    except (
        OSError,
        ValueError,
        KeyError,
        ImportError,
        SafetensorError,
    ):  # a part that is being written anew, or faiss is gone
        return {}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path, sum(tensor.nbytes for tensor in tensors.values()) + 65536) as part:
        save_file(tensors, part)


def read_inverted(path: Path, count: int) -> Any:
    """The inverted file, None where all vectors are compared."""
    if not path.exists():
        return None
    import faiss

    found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    return found if found.ntotal == count else None


def build_inverted(path: Path, vectors: NDArray) -> str:
    """Write an inverted file over the vectors where they are many, remove it where they are few; what was done, in words."""
    path.unlink(missing_ok=True)
    if len(vectors) <= EXACT:
        return "exact"
    try:
        import faiss
    except ImportError:
        return "exact, for want of faiss (pip install -r requirements-index.txt)"
    lists = int(4 * len(vectors) ** 0.5)
    width = vectors.shape[1]
    quantizer = faiss.IndexFlatIP(width)
    made = faiss.IndexIVFScalarQuantizer(
        quantizer, width, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    made.cp.niter, made.cp.seed, made.cp.max_points_per_centroid = 8, 1, 64
    chosen = np.random.default_rng(0).permutation(len(vectors))[: 64 * lists]
    made.train(vectors[np.sort(chosen)].astype(np.float32))
    for at in range(0, len(vectors), BLOCK):
        made.add(vectors[at : at + BLOCK].astype(np.float32))
    with replacing(path) as part:
        faiss.write_index(made, str(part))
    return f"{lists} lists"
