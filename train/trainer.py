"""The training loop: phases, epochs and steps, the optimizer, the history, and a checkpoint after every epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train import checkpoint, distributed
from train.data import Loader
from train.history import EVERY, History, Meter, Recalls, height
from train.method import Features, Method, Phase
from train.optimizer import AdamW, freeze_except, parameter_groups, schedule


class Before(NamedTuple):
    """How much was done in the phases before one."""

    epochs: int
    steps: int


@dataclass
class Trainer:
    """The loop over phases, epochs and steps."""

    folder: Path
    name: str
    seed: int
    model: Method
    device: torch.device
    history: History
    # recalls of the tasks that are named, on a split that does not train; None where nobody looks
    validate: Callable[[tuple[str, ...]], Recalls] | None = None
    seconds: float = 0.0

    def train(self, loader: Loader | None, training: dict[str, Any] | None) -> None:
        """All phases, from where `training` says."""
        began = time.monotonic()
        place = training or {"phase": 0, "epoch": 0, "seconds": 0.0}
        before = Before(0, 0)
        for number, phase in enumerate(self.model.phases()):
            own = self.batches(loader, phase)
            if number >= place["phase"] and phase.epochs > 0:
                resume = training if training and number == place["phase"] else None
                self.phase(number, phase, own, before, resume, began - place["seconds"])
            before = Before(before.epochs + phase.epochs, before.steps + phase.epochs * own.steps)
        self.seconds = time.monotonic() - began + place["seconds"]

    def batches(self, loader: Loader, phase: Phase) -> Loader:
        """The loader with the batches that a phase asks for."""
        config = self.model.config
        alike = config.alike if phase.alike is None else phase.alike
        return loader.with_batches(phase.batch or config.batch, alike, phase.reads)

    def phase(
        self, number: int, phase: Phase, loader: Loader, before: Before, resume: dict | None, began: float
    ) -> None:
        """One phase: only what it names moves."""
        modules = self.model.learned(phase)
        optimizer = AdamW(parameter_groups(modules, self.model.config, phase.learning_rate, phase.learning_rates))
        first, best = 0, None
        if resume is not None and resume["optimizer"] is not None:
            optimizer.load_state_dict(resume["optimizer"])
            first, best = resume["epoch"], resume.get("best")
        freeze_except(self.model, modules)
        self.model.train()
        meter = Meter(phase, loader, first) if distributed.is_first() else None
        for epoch in range(first, phase.epochs):
            for step, batch in enumerate(loader.epoch(before.epochs + epoch)):
                done = epoch * loader.steps + step
                total = phase.epochs * loader.steps
                # a seed a step: a resumed run draws what the whole run would have drawn here
                torch.manual_seed((self.seed * 1_000_003 + (before.steps + done)) % 2**63)
                with distributed.sharing(loader.batch):
                    terms = self.step(phase, modules, optimizer, batch, done, total)
                if meter:
                    meter.add()
                if meter and (done % EVERY == 0 or done == total - 1):
                    self.history.add(meter.line(epoch, done, optimizer.param_groups[0]["lr"], terms))
            best = self.judge(phase, epoch, total, modules, best)
            if epoch + 1 < phase.epochs:
                at = {"phase": number, "epoch": epoch + 1, "optimizer": optimizer.state_dict(), "best": best}
            else:
                self.keep(phase, modules, best)
                at = {"phase": number + 1, "epoch": 0, "optimizer": None}
            distributed.require_same(self.model.parameters(), "parameters")
            if meter:
                at |= {"history": self.history.size(), "seconds": time.monotonic() - began}
                checkpoint.save(self.folder, self.name, self.model, at)
        if meter:
            meter.close()

    def judge(
        self, phase: Phase, epoch: int, steps: int, modules: dict[str, nn.Module], best: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Write down where an epoch stands on the split that does not train; the one to keep so far, of equal ones the first.

        Its weights are kept where an earlier epoch than the last can win.
        """
        found = self.validate(phase.teaches) if self.validate else {}
        if not found:
            return best
        if distributed.is_first():
            step = (epoch + 1) * steps // phase.epochs - 1
            self.history.add({"phase": phase.name, "epoch": epoch, "step": step, "validation": found})
        made = {"epoch": epoch, "height": height(found), "validation": found}
        if self.model.config.select == "last":
            return made
        if best is not None and best["height"] >= made["height"]:
            return best
        weights = {name: tensor.clone() for name, tensor in nn.ModuleDict(safe(modules)).state_dict().items()}
        return made | {"weights": weights}

    def keep(self, phase: Phase, modules: dict[str, nn.Module], best: dict[str, Any] | None) -> None:
        """The modules of a phase that has ended, as they were after the epoch that is kept; history says which."""
        if best is None:
            return
        if "weights" in best:
            nn.ModuleDict(safe(modules)).load_state_dict(best["weights"])
        if distributed.is_first():
            kept = {"phase": phase.name, "kept": best["epoch"], "of": phase.epochs, "validation": best["validation"]}
            self.history.add(kept)

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
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            terms = phase.loss(batch, done / total)
        optimizer.zero_grad()
        (sum(terms.values()) / distributed.world()).backward()
        distributed.sum_gradients(parameter for module in modules.values() for parameter in module.parameters())
        for module in modules.values():  # each its own: a loss that reaches one module must not shrink another's step
            nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}


def safe(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules by names without dots, which torch does not take."""
    return {name.replace(".", "/"): module for name, module in modules.items()}
