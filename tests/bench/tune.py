"""What it costs to own CLIP's blocks from the shards, and what it brings, against the whole of CLIP learning from pixels.

python -m tests.bench.tune [--shards cache/demo] [--method clip4clip] [--rounds 3] [--steps 10]
python -m tests.bench.tune --gap [--rounds 0] [--seeds 0 1 2] [--rates 1e-5 1e-4] [--rows 0 1] [--set epochs=2]
The shards must have been made with `tail: {image: all, text: all}`. Each row is the trainer's own step on real batches: 0, 1, 2
and all blocks of both towers, and pixels (both towers whole, embeddings learning too, frames decoded beforehand). Rows 1 and 2
are timed as from shards of that very tail, without the frozen blocks before it. Rounds are interleaved, each row in a process of
its own; figures are medians. Memory is the growth of the resident set's peak, on a GPU of the allocator's.

`--gap` also trains and scores each row, which takes many minutes. The blocks' learning rate is, for each row, that of `--rates`
with the largest Rsum of videos on val with the first seed. Every run's scores are kept under `.bench/tune` in the cache, by its
settings and its shards, so that the same command goes on where it was stopped, and `--rows` does a part of it; after a change of
the trainer's code remove that folder.
"""

import argparse
import hashlib
import json
import shutil
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
from pipeline import files
from pipeline.shards import TAUGHT, Shard, identity, shard_paths
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
SPLITS = ("val", "test")
WARM = 2  # steps before the clock runs


def settings_of(shards: Path, name: str, row: str, said: dict[str, Any]) -> dict[str, Any]:
    """A row's settings: the dataset's, the row's own, those on the command line, which may leave a tower frozen: `tune=image`."""
    own = ROWS.get(row, {"tune": "true"})
    kind = methods.load(name)
    stored = apply_preset(kind.Config, read_stored_settings(shards, name, kind.needs, said=own | said))
    if own["tune"] == "false":
        said = {key: value for key, value in said.items() if "tune" not in key}
    return stored | (said | own if row == PIXELS else own | said)


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


def score(shards: Path, name: str, row: str, seed: int, said: dict[str, Any]) -> dict[str, Any]:
    """`t2v`, `t2i` and `joint` on val and on test of a row, trained unless they are kept from before."""
    settings = settings_of(shards, name, row, said)
    facts = {
        "row": row,
        "method": name,
        "seed": seed,
        "settings": {key: str(settings[key]) for key in sorted(settings)},
    }
    facts["shards"] = identity(shards, methods.load(name).needs | {"hidden", "token"}, TAUGHT)
    tag = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    kept = shards / ".bench" / "tune" / f"{name}-{row}-seed{seed}-{tag}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    if row == PIXELS:
        found = end_to_end.train_and_score(shards, name, seed, settings, SPLITS)
    else:
        folder = kept.with_suffix("")
        train_run.run(shards, folder, name, seed, settings, resume="try")
        method, cache, record = load_run(folder, shards, "cpu")
        found = {"seconds": record["seconds"]}
        found |= {split: end_to_end.pick(measure(matrices(method, cache, split))[0]) for split in SPLITS}
    files.write(kept, json.dumps(facts | found, indent=1).encode())
    shutil.rmtree(kept.with_suffix(""), ignore_errors=True)
    return found


def choose_rate(shards: Path, name: str, row: str, seed: int, rates: list[float], said: dict[str, Any]) -> dict:
    """The settings with the rate of the owned blocks that finds videos best on val; as they are where there is no choice."""
    if row == "0" or not rates:
        return said
    sums = {rate: score(shards, name, row, seed, said | {"tune_rate": rate})["val"]["t2v"]["Rsum"] for rate in rates}
    print(
        f"{row:>6}: t2v Rsum on val by tune_rate: {', '.join(f'{rate:g} {total:.1f}' for rate, total in sums.items())}"
    )
    return said | {"tune_rate": max(sums, key=sums.__getitem__)}


def find_gap(
    shards: Path, name: str, rows: list[str], seeds: list[int], rates: list[float], said: dict[str, Any]
) -> dict[str, float]:
    """Mean t2v R@1 on test of each row, at the rate chosen on val; all of it is printed."""
    means = {}
    for row in rows:
        chosen = choose_rate(shards, name, row, seeds[0], rates, said)
        runs = [score(shards, name, row, seed, chosen) for seed in seeds]
        line = [f"{row:>6}: tune_rate {chosen.get('tune_rate', '-')}"]
        for split, task in (("val", "t2v"), ("test", "t2v"), ("test", "t2i")):
            found = [run[split][task]["R@1"] for run in runs]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            line.append(f"{split} {task} R@1 {statistics.mean(found):.1f}{spread}")
        print(", ".join([*line, f"{statistics.mean(run['seconds'] for run in runs):.0f} s a run"]), flush=True)
        means[row] = statistics.mean(run["test"]["t2v"]["R@1"] for run in runs)
    return means


def closed(means: dict[str, float], row: str) -> float | None:
    """The share of the way from frozen to end to end that a row goes; None where there is no such way, or no such run."""
    if not {row, "0", PIXELS} <= means.keys() or means[PIXELS] <= means["0"]:
        return None
    return round((means[row] - means["0"]) / (means[PIXELS] - means["0"]), 2)


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[], help="of the blocks; else the settings' tune_rate"
    )
    parser.add_argument("--rows", nargs="+", default=[*ROWS, PIXELS], choices=[*ROWS, PIXELS], help="to be trained")
    parser.add_argument("--set", nargs="*", type=parse_setting, default=[], metavar="key=value")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    said = dict(args.set)
    torch.set_flush_denormal(True)
    if args.row:
        print(json.dumps(time_steps(args.shards, args.method, args.row, said, args.steps)))
        return
    size = hidden_bytes(args.shards)
    step = time_rows(args.shards, args.method, args.rounds, args.steps, said) if args.rounds else None
    means = find_gap(args.shards, args.method, args.rows, args.seeds, args.rates, said) if args.gap else {}
    gaps = {f"demo_gap_closed_{row}": closed(means, row) for row in ("1", "2")}
    print(json.dumps(gaps | {"step_of_pixels": step, "hidden_bytes_per_frame": size}))


def time_rows(shards: Path, name: str, rounds: int, steps: int, said: dict[str, Any]) -> float:
    """Time a step of each row and print what it costs; a step that owns one block, as a share of one from pixels."""
    end_to_end.build(shards, name, 0, settings_of(shards, name, PIXELS, said))  # decodes once
    words = ["--shards", str(shards), "--method", name, "--steps", str(steps)]
    words += ["--set", *(f"{key}={value}" for key, value in said.items())] if said else []
    rows = [*ROWS, PIXELS]
    found = [{row: run_alone([*words, "--row", row]) for row in rows} for _ in range(rounds)]
    middle = {row: {key: statistics.median(one[row][key] for one in found) for key in found[0][row]} for row in rows}
    size, frames = hidden_bytes(shards), Cache(shards, {"frame"}).frames
    print(f"{name} on {shards}: {size} bytes a frame, {size * frames / 1e3:.0f} kB a video of {frames} frames")
    for row, one in middle.items():
        share = one["seconds"] / middle[PIXELS]["seconds"]
        line = f"{row:>6}: {one['seconds']:.3f} s a step ({share:.2f}), +{one['memory']:.0f} MB, "
        line += f"{one['waiting']:.2%} waiting for data"
        if torch.cuda.is_available():
            peak = next((rate for part, rate in PEAK.items() if part in torch.cuda.get_device_name()), None)
            share = f", {one['operations'] / one['seconds'] / peak:.1%} of its bf16 peak" if peak else ""
            line += f", {one['batch'] / one['seconds']:.0f} samples/s{share}"
        print(line)
    return round(middle["1"]["seconds"] / middle[PIXELS]["seconds"], 3)


if __name__ == "__main__":
    main()
