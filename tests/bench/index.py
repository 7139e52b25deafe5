"""A million items searched in two stages on two cores: what it costs to build, to keep and to ask, and what it finds.

    python -m tests.bench.index [--run cache/demo/runs/max_sim] [--items 1000000] [--kind image] [--queries 80]

The items are demo's own, encoded by the run, again and again: each time every token is turned by noise of its own (a share of
its length that leaves it at a cosine of about .96 to the original) and scaled to length 1 again. A query's nearest items are
then hundreds of copies that differ by their noise alone, which is harder than a library of a million different things. The
exact top ten are those of the run's own score over all items, made in float32 before anything is packed. How many candidates and
lists are taken is chosen on one half of the queries, for --recall, and measured on the other: val and test captions.

Build time is coarse vectors, packing, files and inverted file; making the items and the truth is not counted. A query is one
sentence at a time, its text tower counted. Of image the default budget keeps all tokens; videos take ten times the room and time.
The scratch folder lies beside the dataset's and is removed. The last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eval.index import store
from eval.index.build import fewest, overlap
from eval.index.coarse import Coarse, join, spread
from eval.index.search import COARSE, INVERTED, Index, build_inverted, save_tensors
from eval.index.tokens import pack
from eval.load import load_run
from eval.search.text import Reader
from eval.similarity import ROWS, Scorer, item_kinds
from pipeline import files
from pipeline.progress import Progress

NOISE = 0.3  # of a token's length
PART, BLOCK = 1 << 15, 256  # items of a file, and scored at a time
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("cache/demo/runs/max_sim"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=("image", "video"), default="image")
    parser.add_argument("--queries", type=int, default=80, help="half to choose by, half to measure by")
    parser.add_argument("--recall", type=float, default=0.99)
    args = parser.parse_args()
    shards = args.run.parent.parent
    with tempfile.TemporaryDirectory(dir=shards.parent) as place, torch.inference_mode():
        result = measure(args, shards, Path(place))
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


@dataclass
class Truth:
    """The exact top ten of some texts, as items pass by."""

    text: list[dict[str, torch.Tensor]]
    row: NDArray = field(init=False)  # (Q, TOP)
    score: NDArray = field(init=False)

    def __post_init__(self) -> None:
        count = sum(len(next(iter(block.values()))) for block in self.text)
        self.row, self.score = np.full((count, TOP), -1), np.full((count, TOP), -np.inf, np.float32)

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
    scorer, half = Scorer(method, cache, "cpu"), args.queries // 2
    captions = [spread(cache.captions(split), half) for split in ("val", "test")]
    truth = Truth([scorer.encode(rows, "text") for rows in captions])
    photo, _ = item_kinds(cache, np.arange(len(cache)))
    rows = np.flatnonzero(~photo) if args.kind == "video" else np.arange(len(cache))
    source = join([scorer.encode(rows[at : at + ROWS], args.kind) for at in range(0, len(rows), ROWS)])
    coarse = Coarse.fit(scorer, args.kind, cache.captions("train"), rows[cache.video_split[rows] == "train"])
    save_tensors(folder / args.kind / COARSE, coarse.tensors())
    began, cpu = build(args, folder, scorer, coarse, source, truth)
    del source
    facts = {"items": args.items, "bytes_per_item": 0}
    files.write(folder / "index.json", json.dumps({"kinds": {args.kind: facts}}))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{args.items} {args.kind}s: built in {began:.0f} s, {cpu:.0f} s of CPU; {size / args.items:.0f} bytes each")
    before = resident()
    index = Index(folder, args.kind, scorer)
    chosen = fewest(index, truth.text[:1], truth.row[:half], args.recall)
    index.candidates, index.probes = chosen["candidates"], chosen["probes"]
    print(f"{index.candidates} candidates of {index.probes} lists find {chosen['recall']:.1%} on val")
    found, took = ask(index, Reader(shards, method, cache.clip_sha256, "cpu"), read_texts(shards, cache, captions[1]))
    recall = overlap(found, truth.row[half:])
    print(
        f"test: {recall:.1%} of the exact top ten; median {np.median(took):.1f} ms, p95 {np.percentile(took, 95):.1f} ms"
    )
    return {
        "million_ms": float(np.median(took)) if args.items == 1_000_000 else float("nan"),
        "million_p95_ms": float(np.percentile(took, 95)),
        "million_recall10": recall,
        "bytes_per_item": size / args.items,
        "build_s": began,
        "build_cpu_s": cpu,
        "query_rss_mib": resident() - before,
    }


def build(
    args: argparse.Namespace,
    folder: Path,
    scorer: Scorer,
    coarse: Coarse,
    source: dict[str, torch.Tensor],
    truth: Truth,
) -> tuple[float, float]:
    """Write the index of the synthetic items; seconds by the clock and of CPU, without those that made items and truth."""
    random, spent = torch.Generator().manual_seed(0), np.zeros(2)
    meter = Progress(args.items, "index", "item")
    for start in range(0, args.items, PART):
        vectors, packed = [], []
        for at in range(start, min(start + PART, args.items), BLOCK):
            count = min(BLOCK, args.items - at, start + PART - at)
            block = noisy(source, count, random)
            truth.add(scorer, block, args.kind, at)
            with Clock(spent):
                vectors.append(coarse.items(scorer, block))
                packed.append(pack(block))
            meter.add(count)
        names = [f"synthetic {number}" for number in range(start, min(start + PART, args.items))]
        with Clock(spent):
            path = folder / args.kind / f"{start // PART:05d}.safetensors"
            store.write_part(path, names, names, np.concatenate(vectors), join(packed))
    meter.close()
    with Clock(spent):
        parts = [store.Part(path) for path in store.part_paths(folder, args.kind)]
        print(build_inverted(folder / args.kind / INVERTED, np.concatenate([part.coarse for part in parts])))
    return float(spent[0]), float(spent[1])


class Clock:
    """Adds what a block takes, by the clock and of CPU."""

    def __init__(self, spent: NDArray):
        self.spent = spent

    def __enter__(self) -> None:
        self.began = np.array([time.perf_counter(), time.process_time()])

    def __exit__(self, *error: object) -> None:
        self.spent += np.array([time.perf_counter(), time.process_time()]) - self.began


def noisy(source: dict[str, torch.Tensor], count: int, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Some of the items, each vector turned by its own noise; masks as they are."""
    row = torch.randint(len(next(iter(source.values()))), (count,), generator=random)
    made = {}
    for name, tensor in source.items():
        value = tensor[row]
        if value.is_floating_point():
            length = value.norm(dim=-1, keepdim=True)
            value = value + NOISE * length / value.shape[-1] ** 0.5 * torch.randn(value.shape, generator=random)
            value = torch.nn.functional.normalize(value, dim=-1) * length
        made[name] = value
    return made


def read_texts(shards: Path, cache: object, captions: NDArray) -> list[str]:
    """The sentences of some captions."""
    rows = files.read_table(shards / "manifest" / "captions.parquet", ["caption_id", "text"]).to_pylist()
    text = {row["caption_id"]: row["text"] for row in rows}
    return [text[str(cache.caption_id[row])] for row in captions]


def ask(index: Index, reader: Reader, texts: list[str]) -> tuple[NDArray, list[float]]:
    """(Q, TOP) rows found, and the milliseconds of each; the first few are asked once before, to load what is loaded once."""
    for text in texts[:5]:
        index.search(reader.encode(text)[0], TOP)
    found, took = [], []
    for text in texts:
        began = time.perf_counter()
        found.append(index.search(reader.encode(text)[0], TOP)[0])
        took.append(1000 * (time.perf_counter() - began))
    return np.concatenate(found), took


def resident() -> float:
    """MiB of this process that are its own; mapped files belong to the page cache."""
    with open("/proc/self/statm") as file:
        _, pages, shared = file.read().split()[:3]
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
