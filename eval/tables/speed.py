"""Table 4: parameters as the paper counts them, and the time of a query over encoded items, the methods taking turns."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.experiments import PaperTable, Row
from eval.load import choose_device, load_run
from eval.search.text import Reader
from eval.similarity import ROWS, Scorer, best_of_rows, item_kinds
from eval.tables.build import Figure, Line, Made
from eval.tables.plan import Plan, Task
from pipeline import files
from train import checkpoint, methods
from train.layers import full_precision
from train.settings import apply_preset, configure

CLIP = 151_277_313  # parameters of ViT-B/32, which the paper counts too
ITEMS = 1000  # videos, and as many images
QUERIES = 20  # captions that are timed
ROUNDS = 3  # how often each


def build_speed(table: PaperTable, plan: Plan, folder: Path, machine: str) -> Made:
    """The table; times that were measured of these very runs on this machine are kept in speed.json."""
    rows = [row for row in table.rows if plan.is_trained(plan.task(row, 0))]
    tasks = {row.label: plan.task(row, 0) for row in rows}
    marks = {label: checkpoint.facts(task.run).get("checkpoint", task.name) for label, task in tasks.items()}
    path, key = folder / "speed.json", {"machine": machine, "runs": marks, "torch": torch.__version__}
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("of") != key:
        before = {"of": key, "milliseconds": measure(tasks) if tasks else {}}
        files.write(path, json.dumps(before, indent=1) + "\n")
    took = before["milliseconds"]
    made = Made(table, [*table.columns, *table.more], [])
    for row in table.rows:
        whole, alone = took.get(row.label, ([], []))
        trained = [checkpoint.facts(tasks[row.label].run)["parameters"] / 1e6] if row.label in tasks else []
        values = [[count_parameters(plan, row) / 1e6], whole, alone, trained]
        told = [*row.paper, *[None] * len(table.more)]
        figures = [Figure(value, number) for value, number in zip(values, told)]
        size = f"{QUERIES * ROUNDS} queries over {ITEMS} videos and images at most" if trained else ""
        made.lines.append(Line(row.label, plan.same[row.experiment], [0] if trained else [], figures, size, "not run"))
    if "CLIP4Clip" in took:
        base = took["CLIP4Clip"][1][0]
        said = ", ".join(f"{label} {alone[0] / base:.2f}" for label, (_, alone) in took.items())
        made.said.append(f"time of a query without the text tower, CLIP4Clip = 1: {said}")
    return made


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


class Asked:
    """A run with its encoded gallery and the queries, triplets parsed."""

    def __init__(self, task: Task, device: str):
        self.method, cache, _ = load_run(task.run, task.target, device)
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
