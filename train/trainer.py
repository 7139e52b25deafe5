"""The training loop: phases, epochs and steps, the optimizer, the history, and a checkpoint after every epoch."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from train import checkpoint, distributed
from train.data import Loader
from train.history import EVERY, History, Meter
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
        first = 0
        if resume is not None and resume["optimizer"] is not None:
            optimizer.load_state_dict(resume["optimizer"])
            first = resume["epoch"]
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
            if epoch + 1 < phase.epochs:
                at = {"phase": number, "epoch": epoch + 1, "optimizer": optimizer.state_dict()}
            else:
                at = {"phase": number + 1, "epoch": 0, "optimizer": None}
            distributed.require_same(self.model.parameters(), "parameters")
            if meter:
                at |= {"history": self.history.size(), "seconds": time.monotonic() - began}
                checkpoint.save(self.folder, self.name, self.model, at)
        if meter:
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
