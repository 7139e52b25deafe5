"""What it costs to prove shards before they are trusted: seconds a GB, and the share of a run that it takes.

    python -m tests.bench.proofs [--videos 400] [--shards 16]

Random shards of ViT-B/32's sizes (12 frames, 49 patches, 512 dimensions). `cold`: nothing of them is in memory (this asks for
the right to drop what is). A run is one training of `unitrim` on them, its settings the defaults but for one epoch a phase.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline import shards
from pipeline.shards import proofs
from tests.support import house, worlds

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--shards", type=int, default=16)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="proofs"))
    try:
        folder = worlds.cache(
            place / "cache" / "bench", options.videos, 4, 512, 49, 12, ragged=False, count=options.shards
        )
        opened = list(shards.open_cache(folder))
        size = sum(shard.path.stat().st_size for shard in opened) / 1e9
        for shard in opened:  # long settled
            os.utime(shard.path, (1, 1))
        cold = statistics.median(prove(folder, opened, warm=False) for _ in range(ROUNDS))
        warm = statistics.median(prove(folder, opened, warm=True) for _ in range(ROUNDS))
        again = prove(folder, opened, warm=True, known=True)
        print(f"{size:.2f} GB in {len(opened)} files: cold {cold / size:.2f} s a GB, warm {warm / size:.2f} s a GB")
        print(f"the second time: {1000 * again:.1f} ms in all")
        run = train(place)
        print(f"a training run of {run:.1f} s: {100 * warm / run:.1f} % of it warm, {100 * cold / run:.1f} % cold")
    finally:
        shutil.rmtree(place)


def prove(folder: Path, opened: list[shards.Shard], *, warm: bool, known: bool = False) -> float:
    """Seconds to prove all shards."""
    if not known:
        (folder / ".proofs").unlink(missing_ok=True)
        proofs._proven.clear()
    for shard in opened:
        handle = os.open(shard.path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED if warm else os.POSIX_FADV_DONTNEED)
        os.close(handle)
    began = time.perf_counter()
    proofs.prove_shards(folder, opened)
    return time.perf_counter() - began


def train(place: Path) -> float:
    """Seconds of a training run, its shards proven already."""
    words = ["--shards", "cache/bench", "--method", "unitrim", "--set", "epochs=1", "image_epochs=1"]
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(house.ROOT), "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, "-m", "train.run", *words], cwd=place, env=environment, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
