"""What it costs to own CLIP's blocks from the shards, and what it brings, against the whole of CLIP learning from pixels.

python -m tests.bench.tune [--shards cache/demo] [--method clip4clip] [--rounds 3] [--steps 10] [--gap [--seeds 0 1 2]]
The shards must have been made with `tail: {image: all, text: all}`. Each row is the trainer's own step on real batches: 0, 1, 2
and all blocks of both towers, and pixels (both towers whole, embeddings learning too, frames decoded beforehand). Rows 1 and 2
are timed as from shards of that very tail, without the frozen blocks before it. Rounds are interleaved, each row in a process of
its own; figures are medians. Memory is the growth of the resident set's peak, on a GPU of the allocator's. `--gap` also trains
and scores each row, which takes many minutes, and keeps the scores under `.bench` in the cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from eval.load import load_run
from eval.run import measure
from eval.similarity import matrices
from pipeline.shards import Shard, shard_paths
from tests.bench import end_to_end
from tests.bench.train import PEAK, resident, wait
from train import methods
from train import run as train_run
from train.data import Cache, Loader
from train.history import History
from train.layers.clip_blocks import TowerShape
from train.method import Method
from train.optimizer import AdamW, freeze_except, parameter_groups
from train.settings import apply_preset, parse_setting, read_stored_settings
from train.trainer import Trainer
from train.tuned import Tuned

ROWS = {
    "0": {"tune": "false"},
    "1": {"tune": "true", "tune_blocks": 1},
    "2": {"tune": "true", "tune_blocks": 2},
    "all": {"tune": "true"},
}
PIXELS = "pixels"
WARM = 2  # steps before the clock runs


def settings_of(shards: Path, name: str, row: str, said: dict[str, Any]) -> dict[str, Any]:
    """A row's settings: the dataset's, those on the command line, the row's own."""
    own = ROWS.get(row, {"tune": "true"})
    kind = methods.load(name)
    stored = apply_preset(kind.Config, read_stored_settings(shards, name, kind.needs, said=said | own))
    others = said if own["tune"] == "true" else {key: value for key, value in said.items() if "tune" not in key}
    return stored | others | own


def prepare(shards: Path, name: str, row: str, said: dict[str, Any]) -> tuple[Method, Loader]:
    """A row's model at its start, and its batches."""
    settings, device = settings_of(shards, name, row, said), "cuda" if torch.cuda.is_available() else "cpu"
    if row == PIXELS:
        model, cache = end_to_end.build(shards, name, 0, settings)
        return model.to(device), end_to_end.PixelLoader(cache, "train", model.config.batch, 0, device)
    model, cache = train_run.prepare(shards, name, 0, settings)
    if isinstance(model, Tuned):
        model.enter(
            len(model.towers["image"].blocks)
        )  # the values are other ones than these shards hold, the work is the same
    return model.to(device), Loader(cache, "train", model.config.batch, 0, device)


def time_steps(shards: Path, name: str, row: str, said: dict[str, Any], steps: int) -> dict[str, float]:
    """Seconds a step of a row, MB that steps add to the peak, share of the time that waits for data, operations a step."""
    model, loader = prepare(shards, name, row, said)
    device, phase = loader.device, model.phases()[0]
    modules = model.learned(phase)
    optimizer = AdamW(parameter_groups(modules, model.config, phase.learning_rate, phase.learning_rates))
    freeze_except(model, modules)
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), name, 0, model, device, History(Path(folder) / "history.jsonl"))
        began, waited, before = 0.0, 0.0, 0.0
        for done, batch in enumerate(loader.epoch(0)):
            if done == WARM:
                wait()
                began, waited = time.perf_counter(), loader.waited
            if done == 0:
                before = start_peak()
            if done == WARM + steps:
                break
            trainer.step(phase, modules, optimizer, batch, done, WARM + steps)
        wait()
        spent = time.perf_counter() - began
    found = {"seconds": spent / steps, "memory": end_peak() - before, "waiting": (loader.waited - waited) / spent}
    return found | {"operations": operations(model, loader.batch), "batch": loader.batch}


def start_peak() -> float:
    """MB in use; the peak is counted from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS") / 1e3


def end_peak() -> float:
    """MB at the peak."""
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else resident("VmHWM") / 1e3


def operations(model: Method, batch: int) -> float:
    """Floating point operations of the image blocks' matrix products in a step: forward, and twice that where they learn."""
    towers = getattr(model, "towers", {})
    if "image" not in towers:
        return 0.0
    tower, frames = towers["image"], batch * model.config.frames
    shape: TowerShape = tower.shape
    block = 2 * shape.tokens * (4 * shape.width**2 + 2 * shape.width * shape.hidden + 2 * shape.tokens * shape.width)
    return frames * block * (len(tower.frozen) - tower.skipped + 3 * len(tower.blocks))


def run_alone(words: list[str]) -> dict[str, float]:
    """A row in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "tests.bench.tune", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def score(shards: Path, name: str, row: str, seed: int, said: dict[str, Any]) -> float:
    """t2v R@1 on test of a row, trained unless its score is kept from before."""
    settings = settings_of(shards, name, row, said)
    tag = "-".join([name, row, f"seed{seed}", *(f"{key}={value}" for key, value in sorted(said.items()))])
    kept = shards / ".bench" / "tune" / f"{tag}.json"
    if kept.exists():
        return json.loads(kept.read_text())["R@1"]
    kept.parent.mkdir(parents=True, exist_ok=True)
    if row == PIXELS:
        found = end_to_end.train_and_score(shards, name, seed, settings, ("test",))["test"]["t2v"]
    else:
        with tempfile.TemporaryDirectory() as folder:
            train_run.run(shards, Path(folder), name, seed, settings)
            method, cache, _ = load_run(Path(folder), shards, "cpu")
            found = measure(matrices(method, cache, "test"))[0]["t2v"]
    kept.write_text(json.dumps(found))
    return found["R@1"]


def find_gap(shards: Path, name: str, seeds: list[int], said: dict[str, Any]) -> dict[str, float]:
    """Mean t2v R@1 of each row."""
    return {row: statistics.mean(score(shards, name, row, seed, said) for seed in seeds) for row in (*ROWS, PIXELS)}


def closed(means: dict[str, float], row: str) -> float | None:
    """The share of the way from frozen to end to end that a row goes."""
    whole = means[PIXELS] - means["0"]
    return round((means[row] - means["0"]) / whole, 2) if whole else None


def hidden_bytes(shards: Path) -> int:
    """Bytes a frame of the hidden states. ValueError where the shards hold none."""
    shard = Shard(shard_paths(shards / "visual")[0], "visual")
    if "hidden" not in shard.names:
        raise ValueError(
            f"{shards} holds no hidden states; set datasets.{shards.name}.tail to {{image: all, text: all}}"
        )
    _, tokens, width = shard.place("hidden").shape
    return 2 * tokens * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("cache/demo"))
    parser.add_argument("--method", default="clip4clip")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--gap", action="store_true", help="train and score each row too")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--set", nargs="*", type=parse_setting, default=[], metavar="key=value")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    said = dict(args.set)
    torch.set_flush_denormal(True)
    if args.row:
        print(json.dumps(time_steps(args.shards, args.method, args.row, said, args.steps)))
        return
    size = hidden_bytes(args.shards)
    end_to_end.build(args.shards, args.method, 0, settings_of(args.shards, args.method, PIXELS, said))  # decodes once
    words = ["--shards", str(args.shards), "--method", args.method, "--steps", str(args.steps)]
    words += ["--set", *(f"{key}={value}" for key, value in said.items())] if said else []
    rows = [*ROWS, PIXELS]
    rounds = [{row: run_alone([*words, "--row", row]) for row in rows} for _ in range(args.rounds)]
    middle = {row: {key: statistics.median(one[row][key] for one in rounds) for key in rounds[0][row]} for row in rows}
    frames = Cache(args.shards, {"frame"}).frames
    means = find_gap(args.shards, args.method, args.seeds, said) if args.gap else {}
    print(
        f"{args.method} on {args.shards}: {size} bytes a frame, {size * frames / 1e3:.0f} kB a video of {frames} frames"
    )
    for row, one in middle.items():
        line = (
            f"{row:>6}: {one['seconds']:.3f} s a step, +{one['memory']:.0f} MB, {one['waiting']:.2%} waiting for data"
        )
        if torch.cuda.is_available():
            peak = next((rate for name, rate in PEAK.items() if name in torch.cuda.get_device_name()), None)
            share = f", {one['operations'] / one['seconds'] / peak:.1%} of its bf16 peak" if peak else ""
            line += f", {one['batch'] / one['seconds']:.0f} samples/s{share}"
        print(line + (f", t2v R@1 {means[row]:.1f}" if means else ""))
    gaps = {f"demo_gap_closed_{row}": closed(means, row) if means else None for row in ("1", "2")}
    step = round(middle["1"]["seconds"] / middle[PIXELS]["seconds"], 3)
    print(json.dumps(gaps | {"step_of_pixels": step, "hidden_bytes_per_frame": size}))


if __name__ == "__main__":
    main()
