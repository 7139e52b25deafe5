"""history.jsonl: the losses of a run, line by line, and the progress that a person sees."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.files import storage, sync
from pipeline.progress import Progress
from train.data import Loader
from train.method import Phase

EVERY = 10  # steps between two lines of history

Recalls = dict[str, dict[str, float]]  # by task, in percent


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

    def kept(self) -> dict[str, dict[str, Any]]:
        """By phase: which epoch was kept, of how many, and its recalls on the split that did not train."""
        lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines()) if self.path.exists() else ()
        return {line.pop("phase"): line for line in lines if "kept" in line}


def height(found: Recalls) -> float:
    """What epochs are compared by: the sum of all recalls, which one query moves less than R@1 alone."""
    return sum(value for task in found.values() for value in task.values())


class Meter:
    """Samples a second, seconds waited for data, and the progress that shows them."""

    def __init__(self, phase: Phase, loader: Loader, first: int):
        self.phase, self.loader = phase, loader
        total, done = phase.epochs * loader.steps, first * loader.steps
        self.progress, self.note = Progress(total, phase.name, "step", every=10.0, done=done), None
        self.waited, self.since, self.steps = loader.waited, time.monotonic(), 0

    def add(self) -> None:
        """Count a step."""
        self.steps += 1
        self.progress.add(note=self.note)

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
        self.note = (
            f"loss {line['loss']:.3f}, {line['samples_per_second']:.0f} samples/s, waiting {line['data_wait']:.1%}"
        )
        self.waited, self.since, self.steps = self.loader.waited, time.monotonic(), 0
        return line

    def close(self) -> None:
        """End the progress."""
        self.progress.close()
