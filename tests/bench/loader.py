"""How fast batches of MSR-VTT-like samples come: this project's loader against other formats, warm and cold.

    python -m tests.bench.loader [--videos 2000] [--rounds 5]

Every reader delivers random batches of 64 as float16 tensors, each video once an epoch; rounds are interleaved and the
median is taken. "Warm" is four epochs in a row, opening counted in; "cold" is one, each file dropped from the page cache
first. A number is how many times faster the loader is than the peer; `ram_gather` is its share of copying the same rows
from RAM into one reused buffer. Needs tests/bench/requirements.txt.
"""

import argparse
import gc
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import torch

from pipeline import shards
from pipeline.files import write_table
from tests.bench import formats
from train.data import Cache, Loader

DIMENSION, PATCHES, FRAMES, BATCH, CAPTIONS = 512, 49, 12, 64, 1
EPOCHS = 4
NEEDS = ("sentence", "word", "triplet", "frame", "patch")
MADE = {"dataset": "bench", "clip": "random", "clip_sha256": "0" * 64, "version": 1, "precision": "fp32"}


def numbers(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Random float16 between -1 and 1, made fast: any bits with a small exponent."""
    size = int(np.prod(shape))
    return (np.frombuffer(random.bytes(2 * size), np.uint16) & np.uint16(0xBBFF)).view(np.float16).reshape(shape)


def world(videos: int) -> formats.Samples:
    """Tensors of `videos` videos with a caption each; lengths of captions as in MSR-VTT (mean 11.6 tokens, at most 32)."""
    random = np.random.default_rng(0)
    count = videos * CAPTIONS
    word = np.clip(np.round(random.lognormal(np.log(11), 0.33, count)), 4, 32).astype(int)
    triplet = random.integers(1, 6, count)
    tensors = {
        "frame": numbers(random, videos, FRAMES, DIMENSION),
        "patch": numbers(random, videos, FRAMES, PATCHES, DIMENSION),
        "sentence": numbers(random, count, DIMENSION),
        "word_offset": np.cumsum([0, *word]),
        "word": numbers(random, int(word.sum()), DIMENSION),
        "triplet_offset": np.cumsum([0, *triplet]),
        "triplet": numbers(random, int(triplet.sum()), DIMENSION),
    }
    return formats.Samples(tensors, np.repeat(np.arange(videos), CAPTIONS))


class Ours:
    """This project's shards and loader."""

    def write(self, folder: Path, samples: formats.Samples) -> None:
        tensors, videos = samples.tensors, len(samples.tensors["frame"])
        names = [f"video{row:05d}" for row in range(videos)]
        captions = [f"{names[row // CAPTIONS]}#{row % CAPTIONS:03d}" for row in range(len(samples.video_of))]
        made = MADE | {"frames": FRAMES, "sampling": "uniform", "decoder": "pyav", "resize": "bicubic", "words": 32}
        for part, rows in enumerate(np.array_split(np.arange(videos), 4)):
            total, first, last = len(rows) * FRAMES, rows[0], rows[-1] + 1
            visual = {
                "video_id": names[first:last],
                "fingerprint": names[first:last],
                "offset": np.arange(len(rows) + 1) * FRAMES,
                "frame": tensors["frame"][first:last].reshape(total, DIMENSION),
                "patch": tensors["patch"][first:last].reshape(total, PATCHES, DIMENSION),
                "time": np.zeros(total),
                "jpeg": np.zeros(0, np.uint8),
                "jpeg_offset": np.zeros(total + 1, np.int64),
            }
            shards.write(shards.shard_path(folder / "visual", part), "visual", visual, made)
        text = {
            "caption_id": captions,
            "video_id": [name.split("#")[0] for name in captions],
            "fingerprint": captions,
            "token": np.zeros(len(tensors["word"]), np.int32),
            "triplet": np.arange(len(tensors["triplet"])),
        }
        text |= {name: tensors[name] for name in ("sentence", "word_offset", "word", "triplet_offset")}
        shards.write(shards.shard_path(folder / "text", 0), "text", text, made)
        phrases = {"key": text["triplet"], "phrase": list(map(str, text["triplet"])), "embedding": tensors["triplet"]}
        shards.write(folder / "text" / "phrases.h5", "phrases", phrases, made)
        items = {"video_id": names, "path": names, "split": ["train"] * videos, "group": names}
        write_table(folder / "manifest" / "items.parquet", pyarrow.table(items))
        rows = {"caption_id": captions, "video_id": text["video_id"], "text": captions}
        write_table(folder / "manifest" / "captions.parquet", pyarrow.table(rows))

    def batches(self, folder: Path, order: np.ndarray, batch: int):
        cache = Cache(folder, NEEDS)
        loader = Loader(cache, "train", batch, seed=int(order[0]), dtype=torch.float16)
        for epoch in range(len(order) // len(loader.samples)):
            yield from loader.epoch(epoch)


def drop(folder: Path) -> None:
    """Forget a folder's files in the page cache."""
    gc.collect()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def speed(reader, folder: Path, order: np.ndarray, cold: bool) -> float:
    """Samples per second over the rows of `order`."""
    if cold:
        drop(folder if any(folder.iterdir()) else folder.parent / "h5py")
    began, seen = time.perf_counter(), 0
    for batch in reader.batches(folder, order, BATCH):
        seen += len(batch["patch"])
    return seen / (time.perf_counter() - began)


def check(samples: formats.Samples, folder: Path) -> None:
    """What the loader gives is what was written."""
    cache = Cache(folder, NEEDS)
    loader = Loader(cache, "train", BATCH, seed=0, dtype=torch.float16)
    for _, batch, rows in zip(range(5), loader.epoch(0), loader.rows(0)):
        for at, row in enumerate(rows.tolist()):
            assert np.array_equal(batch["patch"][at], samples.tensors["patch"][samples.video_of[row]])
            assert np.array_equal(batch["sentence"][at], samples.tensors["sentence"][row])
            length = int(batch["word_mask"][at].sum())
            assert np.array_equal(batch["word"][at, :length], samples.padded("word", row)[:length])


def memory(folder: Path, epochs: int = 10) -> list[int]:
    """Resident memory (MiB) after each epoch of a short run."""
    loader = Loader(Cache(folder, NEEDS), "train", BATCH, seed=0)
    used = []
    for epoch in range(epochs):
        for _ in zip(range(20), loader.epoch(epoch)):
            pass
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        used.append(pages * resource.getpagesize() >> 20)
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="a disk with room for 8 times the data; default: a temporary folder"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="loader", dir=options.folder))
    readers = {
        "unitrim": Ours(),
        "h5py": formats.H5py(),
        "dataloader": formats.DataLoader(0),
        "dataloader_workers": formats.DataLoader(2),
        "lmdb": formats.Lmdb(),
        "webdataset": formats.WebDataset(),
        "arrow": formats.Arrow(),
        "safetensors": formats.Safetensors(),
        "ram": formats.Ram(),
    }
    try:
        samples = world(options.videos)
        for name, reader in readers.items():
            (folder / name).mkdir()
            reader.write(folder / name, samples)
        check(samples, folder / "unitrim")
        warm, cold = measure(readers, folder, options)
        used = memory(folder / "unitrim")
    finally:
        shutil.rmtree(folder)
    report(warm, cold, used)


def measure(readers, folder: Path, options) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Samples per second of every reader, warm and cold, in interleaved rounds."""
    warm, cold = {name: [] for name in readers}, {name: [] for name in readers if name != "ram"}
    for round_ in range(options.rounds):
        random = np.random.default_rng(round_)
        order = np.concatenate([random.permutation(options.videos * CAPTIONS) for _ in range(EPOCHS)])
        once = order[: len(order) // EPOCHS]
        for name, reader in readers.items():
            if name in cold:
                cold[name].append(speed(reader, folder / name, once, cold=True))
            warm[name].append(speed(reader, folder / name, order, cold=False))  # the cold epoch brought all of it in
        print(f"round {round_ + 1} of {options.rounds}", flush=True)
    return warm, cold


def report(warm: dict[str, list[float]], cold: dict[str, list[float]], used: list[int]) -> None:
    """A table, and the same as one JSON line."""
    size = 2 * DIMENSION * FRAMES * (PATCHES + 1) / 1e9
    middle = {name: statistics.median(values) for name, values in warm.items()}
    chill = {name: statistics.median(values) for name, values in cold.items()}
    print(f"{'reader':20} {'warm/s':>8} {'GB/s':>6} {'x':>6} {'cold/s':>8} {'GB/s':>6} {'x':>6}")
    for name, value in middle.items():
        line = f"{name:20} {value:8.0f} {value * size:6.2f} {middle['unitrim'] / value:6.2f}"
        if name in chill:
            line += f" {chill[name]:8.0f} {chill[name] * size:6.2f} {chill['unitrim'] / chill[name]:6.2f}"
        print(line)
    print(f"resident MiB after epochs 1 to {len(used)}: {used}")
    result = {f"{name}_warm" if name == "h5py" else name: middle["unitrim"] / value for name, value in middle.items()}
    result |= {f"{name}_cold": chill["unitrim"] / value for name, value in chill.items()}
    result["ram_gather"] = result.pop("ram")
    result = {name: round(value, 2) for name, value in result.items() if not name.startswith("unitrim")}
    print(json.dumps(result | {"samples_per_second": round(middle["unitrim"]), "rss_growth_mib": used[-1] - used[1]}))


if __name__ == "__main__":
    main()
