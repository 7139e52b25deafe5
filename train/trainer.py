"""The training loop: phases, epochs and steps, the optimizer, the history, and a checkpoint after every epoch."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from train import checkpoint
from train.data import Loader
from train.method import Features, Method, Phase, groups

EVERY = 10  # steps between two lines of history
LINE = "{desc}: {n_fmt}/{total_fmt} steps ({percentage:.0f} %), {rate_fmt}, {remaining} left{postfix}"


class History:
    """history.jsonl: a line a few steps. A resume cuts what was written after its checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.truncate(size)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def size(self) -> int:
        """Bytes so far, on disk."""
        checkpoint.sync(self.path)
        return self.path.stat().st_size


class AdamW:
    """AdamW over groups of parameters; torch's own class takes seconds to import what it needs to be compiled."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-6):
        self.groups, self.betas, self.eps = groups, betas, eps
        for group in groups:
            group["mean"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["square"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["steps"] = [torch.zeros((), device=parameter.device) for parameter in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, in one pass over its memory."""
        for group in self.groups:
            rows = zip(group["params"], group["mean"], group["square"], group["steps"])
            found = [(row[0], row[0].grad, *row[1:]) for row in rows if row[0].grad is not None]
            if not found:
                continue
            parameter, grad, mean, square, steps = map(list, zip(*found))
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameter, grad, mean, square, [], steps, lr=group["lr"], beta1=self.betas[0], beta2=self.betas[1],
                weight_decay=group["weight_decay"], eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip

    def forget(self) -> None:
        """Drop all gradients."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state(self) -> list[dict[str, list[Tensor]]]:
        """What a resume needs; learning rates follow from the step."""
        return [{name: group[name] for name in ("mean", "square", "steps")} for group in self.groups]

    def load(self, state: list[dict[str, list[Tensor]]]) -> None:
        """Take up a state."""
        for group, saved in zip(self.groups, state, strict=True):
            for name, tensors in saved.items():
                torch._foreach_copy_(group[name], tensors)


@dataclass
class Trainer:
    """The loop over phases, epochs and steps."""

    folder: Path
    name: str
    seed: int
    model: Method
    device: torch.device
    history: History
    seconds: float = 0.0

    def train(self, loader: Loader | None, training: dict[str, Any] | None) -> None:
        """All phases, from where `training` says."""
        began = time.monotonic()
        place = training or {"phase": 0, "epoch": 0, "seconds": 0.0}
        epochs_before = 0
        for number, phase in enumerate(self.model.phases()):
            if number >= place["phase"] and phase.epochs > 0:
                resume = training if training and number == place["phase"] else None
                self.phase(number, phase, loader, epochs_before, resume, began - place["seconds"])
            epochs_before += phase.epochs
        self.seconds = time.monotonic() - began + place["seconds"]

    def phase(self, number: int, phase: Phase, loader: Loader, before: int, resume: dict | None, began: float) -> None:
        """One phase: only what it names moves."""
        modules = self.model.learned(phase)
        optimizer = AdamW(groups(modules, self.model.config, phase.rate))
        first = 0
        if resume is not None and resume["optimizer"] is not None:
            optimizer.load(resume["optimizer"])
            first = resume["epoch"]
        moving(self.model, modules)
        self.model.train()
        meter = Meter(phase, loader, first)
        for epoch in range(first, phase.epochs):
            for step, batch in enumerate(loader.epoch(before + epoch)):
                done = epoch * loader.steps + step
                total = phase.epochs * loader.steps
                torch.manual_seed((self.seed * 1_000_003 + (before * loader.steps + done)) % 2**63)
                terms = self.step(phase, modules, optimizer, batch, done, total)
                meter.add()
                if done % EVERY == 0 or done == total - 1:
                    self.history.add(meter.line(epoch, done, optimizer.groups[0]["lr"], terms))
            if epoch + 1 < phase.epochs:
                at = {"phase": number, "epoch": epoch + 1, "optimizer": optimizer.state()}
            else:
                at = {"phase": number + 1, "epoch": 0, "optimizer": None}
            at |= {"history": self.history.size(), "seconds": time.monotonic() - began}
            checkpoint.save(self.folder, self.name, self.model, at)
        meter.close()

    def step(
        self,
        phase: Phase,
        modules: dict[str, nn.Module],
        optimizer: AdamW,
        batch: Features,
        done: int,
        total: int,
    ) -> dict[str, Tensor]:
        """One update; the terms of its loss."""
        config = self.model.config
        factor = schedule(done, total, config.warmup)
        for group in optimizer.groups:
            group["lr"] = group["base_lr"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            terms = phase.loss(batch, done / total)
        optimizer.forget()
        sum(terms.values()).backward()
        for module in modules.values():  # each its own: a loss that reaches one module must not shrink another's step
            nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}


def schedule(done: int, total: int, warmup: float) -> float:
    """Share of the full learning rate at a step: a linear rise, then a cosine to 0."""
    rise = max(1, round(total * warmup))
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1, total - rise)))


def moving(model: Method, modules: dict[str, nn.Module]) -> None:
    """Let exactly these modules learn."""
    model.requires_grad_(False)
    for module in modules.values():
        module.requires_grad_(True)


class Lines:
    """Where there is no terminal, a plain line now and then in place of a bar that is drawn over itself."""

    def write(self, text: str) -> None:
        """Print what is not mere cursor movement."""
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing waits."""


class Meter:
    """Samples a second, seconds waited for data, and the bar."""

    def __init__(self, phase: Phase, loader: Loader, first: int):
        self.phase, self.loader = phase, loader
        plain = {} if sys.stderr.isatty() else {"file": Lines(), "mininterval": 10.0, "bar_format": LINE}
        total, done = phase.epochs * loader.steps, first * loader.steps
        self.bar = tqdm(total=total, initial=done, desc=phase.name, unit="step", **({"mininterval": 1.0} | plain))
        self.waited, self.since, self.steps = loader.waited, time.monotonic(), 0

    def add(self) -> None:
        """Count a step."""
        self.steps += 1
        self.bar.update()

    def line(self, epoch: int, done: int, rate: float, terms: dict[str, Tensor]) -> dict[str, Any]:
        """One line of history; the figures are of the steps since the last."""
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
