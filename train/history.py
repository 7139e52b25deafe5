"""history.jsonl: the losses of a run, line by line, and the progress that a person sees."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.files import storage, sync
from train.data import Loader
from train.method import Phase

EVERY = 10  # steps between two lines of history
LINE = "{desc}: {n_fmt}/{total_fmt} steps ({percentage:.0f} %), {rate_fmt}, {remaining} left{postfix}"


class History:
    """history.jsonl: a line a few steps. A resume cuts what was written after its checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        with storage(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with storage(self.path), open(self.path, "ab") as file:
            file.truncate(size)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with storage(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def size(self) -> int:
        """Bytes so far, on disk."""
        sync(self.path)
        return self.path.stat().st_size


class LineWriter:
    """What tqdm writes to where there is no terminal: a plain line every ten seconds, not a bar drawn over itself."""

    def write(self, text: str) -> None:
        """Print what is not mere cursor movement."""
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """No-op: every line is flushed as it is written."""


class Meter:
    """Samples a second, seconds waited for data, and the bar."""

    def __init__(self, phase: Phase, loader: Loader, first: int):
        self.phase, self.loader = phase, loader
        plain = {} if sys.stderr.isatty() else {"file": LineWriter(), "mininterval": 10.0, "bar_format": LINE}
        total, done = phase.epochs * loader.steps, first * loader.steps
        self.bar = tqdm(total=total, initial=done, desc=phase.name, unit="step", **({"mininterval": 1.0} | plain))
        self.waited, self.since, self.steps = loader.waited, time.monotonic(), 0

    def add(self) -> None:
        """Count a step."""
        self.steps += 1
        self.bar.update()

    def line(self, epoch: int, done: int, rate: float, terms: dict[str, Tensor]) -> dict[str, Any]:
        """One line of history; the figures are of the steps since the last."""
        # one transfer for all terms: each .item() of its own would stall a GPU
        numbers = {name: round(value, 6) for name, value in zip(terms, torch.stack(list(terms.values())).tolist())}
        passed = time.monotonic() - self.since
        line = {
            "phase": self.phase.name,
            "epoch": epoch,
            "step": done,
            "loss": round(sum(numbers.values()), 6),
            "terms": numbers,
            "lr": rate,
            "samples_per_second": round(self.steps * self.loader.batch / passed, 1),
            "data_wait": round((self.loader.waited - self.waited) / passed, 4),  # share of the time
        }
        self.bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['samples_per_second']:.0f} samples/s, waiting {line['data_wait']:.1%}",
            refresh=False,
        )
        self.waited, self.since, self.steps = self.loader.waited, time.monotonic(), 0
        return line

    def close(self) -> None:
        """End the bar."""
        self.bar.close()
