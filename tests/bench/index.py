"""A million items searched in three steps on two cores: what it costs to build, to keep and to ask, and what it finds.

    python -m tests.bench.index [--run cache/demo/runs/max_sim] [--items 1000000] [--kind image] [--queries 80]
        [--world neighbours] [--keep FOLDER] [--threads 1]

The items are demo's own, each again and again. `--world neighbours`: a copy is an item plus the difference between another item
and one of that item's ten nearest, token by token at its place, each token at its old length. So a copy lies as far from its
original as real items lie from their neighbours, in directions in which real items differ, and no two copies are alike.
`--world noise` (harder than real: copies differ by what no text can name): every token is turned by noise of its own, .3 of its
length. Either is what shards would hold, in float16 in a mapped file, and is read and encoded as shards are.

The exact top ten are those of the run's own score over all items. How many candidates are taken is chosen on one half
of the queries, for --recall, and measured on the other: val and test captions. Build time is coarse vectors, packing, files and
the 4 bits; making the items and the truth is not counted. A query is one sentence at a time, its text tower counted, warm.
--keep leaves the built files in FOLDER, and goes on with what stands there, if it is of the same run and items. The last line is
JSON.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eval.index import store
from eval.index.build import fewest, overlap
from eval.index.coarse import Coarse, join, spread
from eval.index.search import COARSE, SCAN, Index, build_scan, save_tensors
from eval.index.tokens import pack
from eval.load import load_run
from eval.search.text import Reader
from eval.similarity import ROWS, Scorer, item_kinds
from pipeline import files
from pipeline.progress import Progress
from train import checkpoint

NOISE = 0.3  # of a token's length
NEAREST = 10  # of a real item, among which its neighbour is drawn
PART, BLOCK = 1 << 14, 256  # items of a file, and scored at a time
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("cache/demo/runs/max_sim"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=("image", "video"), default="image")
    parser.add_argument("--world", choices=("neighbours", "noise"), default="neighbours")
    parser.add_argument("--queries", type=int, default=80, help="half to choose by, half to measure by")
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--keep", type=Path, help="a folder for the built files, which a later call takes up")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with place(args) as folder, torch.inference_mode():
        result = measure(args, args.run.parent.parent, folder)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


@contextlib.contextmanager
def place(args: argparse.Namespace) -> Iterator[Path]:
    """A folder that stays, or one beside the dataset's that goes."""
    if args.keep:
        with files.lock(args.keep):  # two at once would write parts of each other's
            args.keep.mkdir(parents=True, exist_ok=True)
            yield args.keep
    else:
        with tempfile.TemporaryDirectory(dir=args.run.parent.parent.parent) as folder:
            yield Path(folder)


class Tiled:
    """Features of many items made of few, as the shards of a dataset hold them; what is not of items comes from that dataset."""

    def __init__(self, cache: object, kind: str, world: str, items: int):
        self.cache, self.kind, self.items = cache, kind, items
        photo, _ = item_kinds(cache, np.arange(len(cache)))
        self.rows = np.flatnonzero(~photo) if kind == "video" else np.arange(len(cache))
        blocks = [getattr(cache, kind)(self.rows[at : at + ROWS]) for at in range(0, len(self.rows), ROWS)]
        self.source = join(blocks)
        self.make = {"neighbours": self.moved, "noise": self.noisy}[world]
        self.random = np.random.default_rng(0)
        self.pair = neighbours(self.source, self.random) if world == "neighbours" else np.zeros((2, 1), int)
        self.first = self.random.integers(
            self.pair.shape[1], size=len(self.rows)
        )  # of an item's copies, their first pair
        self.video_id = np.array([f"synthetic {number}" for number in range(items)], dtype=object)
        self.mapped: dict[str, NDArray] = {}

    def open(self, folder: Path) -> None:
        """Map a file a feature, in which `write` puts what an item has."""
        for name, tensor in self.source.items():
            path, shape = folder / f"{name}.npy", (self.items, *tensor.shape[1:])
            how = "r+" if path.exists() else "w+"
            self.mapped[name] = np.lib.format.open_memmap(path, how, kept_type(tensor), shape)

    def write(self, number: NDArray) -> None:
        """Make some items."""
        for name, tensor in self.make(number).items():
            self.mapped[name][number] = tensor.to(torch.bool if tensor.dtype == torch.bool else torch.float16).numpy()

    def read(self, rows: NDArray) -> dict[str, torch.Tensor]:
        """Features of some items, as `Cache` gives them."""
        found = {name: torch.from_numpy(array[rows]) for name, array in self.mapped.items()}
        return {name: one if one.dtype == torch.bool else one.float() for name, one in found.items()}

    image = video = read

    def text(self, rows: NDArray) -> dict[str, torch.Tensor]:
        """Of the dataset's captions."""
        return self.cache.text(rows)

    def moved(self, number: NDArray) -> dict[str, torch.Tensor]:
        """Copies, each moved by the difference between two other items that are neighbours; an item's first copy is itself."""
        original, copy = number % len(self.rows), number // len(self.rows)
        one, other = self.pair[:, (self.first[original] + copy) % self.pair.shape[1]]
        share = torch.from_numpy((copy > 0).astype(np.float32))
        made = {}
        for name, tensor in self.source.items():
            value = tensor[original]
            if value.is_floating_point():
                length = value.norm(dim=-1, keepdim=True)
                value = value + share.view(-1, *[1] * (value.ndim - 1)) * (tensor[other] - tensor[one])
                value = torch.nn.functional.normalize(value, dim=-1) * length
            made[name] = value
        return made

    def noisy(self, number: NDArray) -> dict[str, torch.Tensor]:
        """Copies, each vector turned by its own noise."""
        random, made = torch.Generator().manual_seed(int(number[0])), {}
        for name, tensor in self.source.items():
            value = tensor[number % len(self.rows)]
            if value.is_floating_point():
                length = value.norm(dim=-1, keepdim=True)
                value = value + NOISE * length / value.shape[-1] ** 0.5 * torch.randn(value.shape, generator=random)
                value = torch.nn.functional.normalize(value, dim=-1) * length
            made[name] = value
        return made


def kept_type(tensor: torch.Tensor) -> type:
    """As shards have it."""
    return np.bool_ if tensor.dtype == torch.bool else np.float16


def neighbours(source: dict[str, torch.Tensor], random: np.random.Generator) -> NDArray:
    """(2, pairs) each item and one of its nearest by the mean cosine of tokens at the same place, in random order."""
    flat = [torch.nn.functional.normalize(one, dim=-1).flatten(1) for one in source.values() if one.is_floating_point()]
    every = torch.cat([one / one.norm(dim=1, keepdim=True) for one in flat], 1)
    near = every @ every.T
    near.fill_diagonal_(-torch.inf)
    other = near.topk(NEAREST, 1).indices.numpy()
    pair = np.stack([np.repeat(np.arange(len(every)), NEAREST), other.reshape(-1)])
    chosen = near.topk(NEAREST, 1).values
    print(f"cosine of an item to its ten nearest: {chosen.median():.3f}, to its nearest {chosen[:, 0].median():.3f}")
    return pair[:, random.permutation(pair.shape[1])]


@dataclass
class Truth:
    """The exact top ten of some texts, as items pass by."""

    text: list[dict[str, torch.Tensor]]
    row: NDArray = field(init=False)  # (Q, TOP)
    score: NDArray = field(init=False)

    def __post_init__(self) -> None:
        count = sum(len(next(iter(block.values()))) for block in self.text)
        self.row, self.score = np.full((count, TOP), -1), np.full((count, TOP), -np.inf, np.float32)

    def write(self, path: Path) -> None:
        """So far."""
        with files.replacing(path) as part, open(part, "wb") as file:
            np.savez(file, row=self.row, score=self.score)

    def read(self, path: Path) -> None:
        """As `write` wrote it."""
        with np.load(path) as said:
            self.row, self.score = said["row"], said["score"]

    def add(self, scorer: Scorer, block: dict[str, torch.Tensor], kind: str, first: int) -> None:
        """Take in the items from number `first` on."""
        score = np.concatenate([scorer.score(text, block, kind) for text in self.text])
        row = np.broadcast_to(np.arange(first, first + score.shape[1]), score.shape)
        score, row = np.concatenate([self.score, score], 1), np.concatenate([self.row, row], 1)
        best = np.argsort(-score, axis=1, kind="stable")[:, :TOP]
        self.score, self.row = np.take_along_axis(score, best, 1), np.take_along_axis(row, best, 1)


def measure(args: argparse.Namespace, shards: Path, folder: Path) -> dict[str, float]:
    """Build, ask, compare."""
    method, cache, _ = load_run(args.run, shards, "cpu")
    half = args.queries // 2
    captions = [spread(cache.captions(split), half) for split in ("val", "test")]
    world = Tiled(cache, args.kind, args.world, args.items)
    scorer = Scorer(method, world, "cpu")
    truth = Truth([scorer.encode(rows, "text") for rows in captions])
    began, cpu = built(args, folder, scorer, truth, Scorer(method, cache, "cpu"))
    size = sum(path.stat().st_size for path in (folder / args.kind).rglob("*") if path.is_file())
    print(f"{args.items} {args.kind}s: built in {began:.0f} s, {cpu:.0f} s of CPU; {size / args.items:.0f} bytes each")
    before = resident()
    index = Index(folder, args.kind, scorer)
    chosen = fewest(index, truth.text[:1], truth.row[:half], args.recall)
    index.candidates, index.close = chosen["candidates"], chosen["close"]
    print(
        f"{index.candidates} candidates, {index.close} of them scored from shards, find {chosen['recall']:.1%} on val"
    )
    found, took = ask(index, Reader(shards, method, cache.clip_sha256, "cpu"), read_texts(shards, cache, captions[1]))
    recall = overlap(found, truth.row[half:])
    wall, busy = took.T
    print(
        f"test: {recall:.1%} of the exact top ten; median {np.median(wall):.1f} ms, p95 {np.percentile(wall, 95):.1f} ms; "
        f"of CPU time {np.median(busy):.1f} and {np.percentile(busy, 95):.1f} ms"
    )
    return {
        "million_ms": float(np.median(wall)) if args.items == 1_000_000 else float("nan"),
        "million_p95_ms": float(np.percentile(wall, 95)),
        "million_cpu_ms": float(np.median(busy)),
        "million_p95_cpu_ms": float(np.percentile(busy, 95)),
        "million_recall10": recall,
        "bytes_per_item": size / args.items,
        "build_s": began,
        "build_cpu_s": cpu,
        "query_rss_mib": resident() - before,
    }


def built(args: argparse.Namespace, folder: Path, scorer: Scorer, truth: Truth, real: Scorer) -> tuple[float, float]:
    """Build what does not stand yet; seconds by the clock and of CPU that it took."""
    said = {
        "weights": checkpoint.digest(args.run / "checkpoint.pt"), "items": args.items, "kind": args.kind,
        "world": args.world, "queries": args.queries, "version": store.VERSION,
    }  # fmt: skip
    note = folder / "built.json"
    before = json.loads(note.read_text()) if note.exists() else said
    if before != said:
        raise SystemExit(f"{folder} holds {before}, not {said}; remove it or name another folder")
    files.write(note, json.dumps(said))
    scorer.cache.open(folder)
    rows = scorer.cache.rows
    own = rows[real.cache.video_split[rows] == "train"]
    coarse = Coarse.fit(real, args.kind, real.cache.captions("train"), own)
    save_tensors(folder / args.kind / COARSE, coarse.tensors())
    spent = build(args, folder, scorer, coarse, truth)
    files.write(folder / "index.json", json.dumps({"kinds": {args.kind: {"items": args.items, "bytes_per_item": 0}}}))
    return float(spent[0]), float(spent[1])


def build(args: argparse.Namespace, folder: Path, scorer: Scorer, coarse: Coarse, truth: Truth) -> NDArray:
    """Write the index of the synthetic items by parts; seconds by the clock and of CPU, without what made items and truth.

    Parts that stand from a call that was stopped stay.
    """
    spent = np.zeros(2)
    meter = Progress(args.items, "index", "item")
    for start in range(0, args.items, PART):
        last, name = min(start + PART, args.items), f"{start // PART:05d}"
        path, took, best = (folder / args.kind / f"{name}.safetensors", folder / f"{name}.json", folder / f"{name}.npz")
        if took.exists():
            truth.read(best)
            spent += json.loads(took.read_text())
            meter.add(last - start)
            continue
        vectors, packed, own = [], [], np.zeros(2)
        for at in range(start, last, BLOCK):
            number = np.arange(at, min(at + BLOCK, last))
            scorer.cache.write(number)
            with Clock(own):
                block = scorer.encode(number, args.kind)
                vectors.append(coarse.items(scorer, block))
                packed.append(pack(block))
            truth.add(scorer, block, args.kind, at)
            meter.add(len(number))
        names = scorer.cache.video_id[start:last].tolist()
        with Clock(own):
            store.write_part(path, names, names, np.concatenate(vectors), join(packed))
        truth.write(best)
        files.write(took, json.dumps(own.tolist()))
        spent += own
    meter.close()
    took = folder / "scan.json"
    if not took.exists():
        with Clock(own := np.zeros(2)):
            vectors = np.concatenate([store.Part(path).coarse for path in store.part_paths(folder, args.kind)])
            print(build_scan(folder / args.kind / SCAN, vectors))
        files.write(took, json.dumps(own.tolist()))
    return spent + json.loads(took.read_text())


class Clock:
    """Adds what a block takes, by the clock and of CPU."""

    def __init__(self, spent: NDArray):
        self.spent = spent

    def __enter__(self) -> None:
        self.began = np.array([time.perf_counter(), time.process_time()])

    def __exit__(self, *error: object) -> None:
        self.spent += np.array([time.perf_counter(), time.process_time()]) - self.began


def read_texts(shards: Path, cache: object, captions: NDArray) -> list[str]:
    """The sentences of some captions."""
    rows = files.read_table(shards / "manifest" / "captions.parquet", ["caption_id", "text"]).to_pylist()
    text = {row["caption_id"]: row["text"] for row in rows}
    return [text[str(cache.caption_id[row])] for row in captions]


def ask(index: Index, reader: Reader, texts: list[str]) -> tuple[NDArray, NDArray]:
    """(Q, TOP) rows found, and (Q, 2) the milliseconds of each by the clock and of CPU, all threads counted.

    The first few are asked once before, to load what is loaded once.
    """
    for text in texts[:5]:
        index.search(reader.encode(text)[0], TOP)
    found, took = [], []
    for text in texts:
        with Clock(spent := np.zeros(2)):
            found.append(index.search(reader.encode(text)[0], TOP)[0])
        took.append(1000 * spent)
    return np.concatenate(found), np.array(took)


def resident() -> float:
    """MiB of this process that are its own; mapped files belong to the page cache."""
    with open("/proc/self/statm") as file:
        _, pages, shared = file.read().split()[:3]
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
