"""What a run costs that has nothing, or next to nothing, to do.

    python -m tests.bench.pipeline [--items 10000] [--frames 12]

Builds a dataset of 10,000 small films with `dvc repro` from empty, then times `dvc repro` with nothing to do (in turns with
`dvc repro` in a repository of one idle stage: DVC's own start), and after ten films were added. Shards have the size that
ViT-B/32 gives them (12 frames of 49 patches, 512 dimensions: 6 GB for 10,000 items); the encoder is thin, so that the build
ends within minutes. `plus_ten_thin` is the share of that build; `plus_ten_share` counts in, for every item of both runs, the
time that ViT-B/32 takes here for one item. The parser is the shallow one and only `zero_shot` is run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.support import house, tiny

MORE = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a disk with 20 GB of room; default: a temporary folder")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pipeline", dir=options.folder))
    try:
        result = measure(place, options)
    finally:
        shutil.rmtree(place)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def measure(place: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures."""
    project, idle = place / "project", place / "idle"
    copy(project)
    (place / "films").mkdir()
    model = tiny.clip(place / "model", size=224, patch=32, dimension=512)
    root = house.build(
        place / "films", options.items, 1, shards=64, frames=options.frames, parser="shallow", model=model
    )
    shutil.copyfile(place / "films" / "params.yaml", project / "params.yaml")
    lonely(idle)
    full = repro(project)
    nothing, start = [], []
    for _ in range(options.rounds):
        nothing.append(repro(project))
        start.append(repro(idle))
    add(root, options.items)
    ten = repro(project, expect=f"{MORE} encoded")
    one = encoder(options.frames)
    result = {
        "noop_extra_seconds": statistics.median(nothing) - statistics.median(start),
        "plus_ten_share": (ten + MORE * one) / (full + options.items * one),
        "plus_ten_thin": ten / full,
        "full_seconds": full,
        "plus_ten_seconds": ten,
        "encoder_seconds": one,
        "noop_seconds": statistics.median(nothing),
        "start_seconds": statistics.median(start),
    }
    for name, value in result.items():
        print(f"{name:20} {value:10.3f}")
    return result


def copy(project: Path) -> None:
    """The project's own files in a repository of their own."""
    listed = subprocess.run(["git", "ls-files"], cwd=house.ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\n"):
        if name and (house.ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(house.ROOT / name, project / name)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)


def lonely(idle: Path) -> None:
    """A repository with one stage that has nothing to do."""
    idle.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=idle, check=True)
    shutil.copytree(house.ROOT / ".dvc", idle / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    (idle / "dvc.yaml").write_text("stages: {idle: {cmd: touch done, outs: [done]}}\n")
    repro(idle)


def repro(folder: Path, expect: str = "") -> float:
    """Seconds of `dvc repro`; what it prints must hold `expect`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path, "DVC_SITE_CACHE_DIR": str(folder.parent / "site")},
    )
    seconds = time.perf_counter() - began
    said = ran.stdout + ran.stderr
    if ran.returncode or expect not in said:
        raise SystemExit(f"dvc repro in {folder}: {said[-3000:]}")
    return seconds


def add(root: Path, items: int) -> None:
    """Ten films more, of new content, in the annotations and on the disk."""
    for number in range(items, items + MORE):
        house.clip(root / "videos" / f"video{number}.mp4", seed=number)
    house.annotate(root, items + MORE, 1)


def encoder(frames: int) -> float:
    """Seconds that ViT-B/32 takes for one item on this machine."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = CLIPVisionModel(CLIPVisionConfig()).eval()
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(frames, 3, 224, 224)).astype(np.float32))
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            tower(pixel_values=pixels)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
