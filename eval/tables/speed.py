"""Table 4: parameters as the paper counts them, and the time of a query over encoded items, the methods taking turns."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.experiments import PaperTable, Row
from eval.load import choose_device
from eval.search.text import Reader
from eval.similarity import ROWS, Scorer, best_of_rows, item_kinds
from eval.tables.build import Figure, Line, Made
from eval.tables.plan import Plan, Task
from pipeline import files
from train import methods
from train import run as training
from train.layers import full_precision
from train.settings import apply_preset, configure

CLIP = 151_277_313  # parameters of ViT-B/32, which the paper counts too
ITEMS = 1000  # videos, and as many images
QUERIES = 20  # captions that are timed
ROUNDS = 3  # how often each


def build_speed(table: PaperTable, plan: Plan, folder: Path, machine: str, timed: bool) -> Made:
    """The table. Nothing is trained for it: what a query costs does not depend on what the weights are.

    timed: measure where speed.json in `folder` has no times of these very methods, settings, shards and machine.
    """
    tasks = {row.label: plan.task(row, 0) for row in table.rows if not plan.lacks(row)}
    marks = {label: plan.mark(task) for label, task in tasks.items()}
    path, key = folder / "speed.json", {"machine": machine, "rows": marks, "torch": torch.__version__}
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("of") != key:
        kept = {"of": key, "milliseconds": measure(tasks), "here": count_here(tasks)} if timed and tasks else {}
        if kept:
            files.write(path, json.dumps(kept, indent=1) + "\n")
    took, here = kept.get("milliseconds", {}), kept.get("here", {})
    made = Made(table, [*table.columns, *table.more], [])
    for row in table.rows:
        whole, alone = took.get(row.label, ([], []))
        trained = [here[row.label] / 1e6] if row.label in here else []
        values = [[count_parameters(plan, row) / 1e6], whole, alone, trained]
        told = [*row.paper, *[None] * len(table.more)]
        figures = [Figure(value, number) for value, number in zip(values, told)]
        size = f"{QUERIES * ROUNDS} queries over {ITEMS} videos and images at most" if whole else ""
        why = plan.lacks(row) or "not timed"
        made.lines.append(Line(row.label, plan.same[row.experiment], [0] if whole else [], figures, size, why))
    return replace(made, said=say_ratios(table, took))


def say_ratios(table: PaperTable, took: dict[str, tuple[list[float], list[float]]]) -> list[str]:
    """How long each row takes beside the first: machines differ, their ratios less so."""
    first = next((row.label for row in table.rows if row.label in took), None)
    if first is None:
        return []
    said = []
    for at, what in enumerate(("with the text tower", "without it")):
        ratios = ", ".join(f"{label} {each[at][0] / took[first][at][0]:.2f}" for label, each in took.items())
        said.append(f"time of a query {what}, {first} = 1: {ratios}")
    told = {row.label: row.paper[1] for row in table.rows if row.paper[1] is not None}
    if first in told:
        said.append("the paper's: " + ", ".join(f"{label} {value / told[first]:.2f}" for label, value in told.items()))
    return said


def count_parameters(plan: Plan, row: Row) -> int:
    """Of the method at the paper's sizes, with CLIP's; of rows that the paper has, by its own settings, not this dataset's."""
    one = plan.experiments[row.experiment]
    kind = methods.load(one.method)
    published = row.paper[0] is not None
    settings = apply_preset(kind.Config, one.settings) if published else plan.settings(one)
    sizes = ("words", "triplets", "tune")
    config = configure(kind.Config, {key: value for key, value in settings.items() if key not in sizes})
    model = methods.build(one.method, vars(config))
    unused = getattr(sys.modules[kind.__module__], "UNUSED", 0)  # what the published code registers and never reads
    return CLIP + unused + sum(parameter.numel() for parameter in model.parameters())


def measure(tasks: dict[str, Task]) -> dict[str, tuple[list[float], list[float]]]:
    """Median milliseconds of a query by row: with the text tower, and without it. One query of each method after the other."""
    device = choose_device("auto")
    asked = {label: Asked(task, device) for label, task in tasks.items()}
    tower: dict[str, list[float]] = {label: [] for label in asked}
    rest: dict[str, list[float]] = {label: [] for label in asked}
    with torch.inference_mode():
        for turn in range(-1, QUERIES * ROUNDS):  # the first warms up
            for label, one in asked.items():
                query = max(turn, 0) % QUERIES
                encoding, features = clock(partial(one.encode, query), device)
                looking, _ = clock(partial(one.look, features), device)
                if turn >= 0:
                    tower[label].append(encoding)
                    rest[label].append(looking)
    return {
        label: ([statistics.median(map(sum, zip(tower[label], rest[label])))], [statistics.median(rest[label])])
        for label in asked
    }


def clock(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Milliseconds that it takes, and what it gives."""
    begin = time.perf_counter()
    value = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - begin), value


def begin(task: Task) -> tuple[Any, Any]:
    """The method of a row as it is before training, and the shards that it reads."""
    return training.prepare(task.home, task.method, task.seed, json.loads(task.settings))


def count_here(tasks: dict[str, Task]) -> dict[str, int]:
    """Parameters that a run trains on this dataset, by row."""
    return {label: sum(one.numel() for one in begin(task)[0].parameters()) for label, task in tasks.items()}


class Asked:
    """A method with its encoded gallery and the queries, triplets parsed."""

    def __init__(self, task: Task, device: str):
        self.method, cache = begin(task)
        self.method = self.method.to(device).eval()
        self.scorer = Scorer(self.method, cache, device)
        items = cache.videos("test")
        photo, _ = item_kinds(cache, items)
        with torch.inference_mode():
            self.gallery = {
                kind: [self.scorer.encode(rows[at : at + ROWS], kind) for at in range(0, len(rows), ROWS)]
                for kind, rows in (("video", items[~photo][:ITEMS]), ("image", items[:ITEMS]))
            }
        captions = cache.captions("test")
        captions = captions[:: -(-len(captions) // QUERIES)]
        texts = [str(cache.caption[row]) for row in captions]
        self.texts = [texts[at % len(texts)] for at in range(QUERIES)]
        self.reader = Reader(task.target, self.method, cache.clip_sha256, device)
        self.reader.load()
        self.phrases = [self.reader.phrases(text) for text in self.texts]

    def encode(self, query: int) -> dict[str, Any]:
        """CLIP's text tower: sentence, words, phrases."""
        return self.reader.features(self.texts[query], self.phrases[query])

    def look(self, features: dict[str, Any]) -> None:
        """What the method makes of the text, and its scores of every video and image."""
        text = full_precision(self.method.encode_text)(features)
        for block in self.gallery["image"]:
            self.scorer.score(text, block, "image")
        if not (count := self.method.recalled()):
            for block in self.gallery["video"]:
                self.scorer.score(text, block, "video")
            return
        coarse = Scorer(self.method, None, self.scorer.device, coarse=True)
        scores = [coarse.score(text, block, "video") for block in self.gallery["video"]]
        best, begin = best_of_rows(np.concatenate(scores, axis=1), count)[0], 0
        for block, made in zip(self.gallery["video"], scores):
            columns = np.flatnonzero(best[begin : begin + made.shape[1]])
            begin += made.shape[1]
            if len(columns):
                self.scorer.score(text, {name: tensor[columns] for name, tensor in block.items()}, "video")
