"""Which runs the papers' tables still lack, and making them: each is trained and scored as an ordinary run of its dataset."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache as remember
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch

from eval.experiments import SECTIONS, Experiment, PaperTable, Row
from eval.load import scores_name
from eval.run import score_run
from eval.stale import facts_of
from pipeline import engine, files
from pipeline.files import MissingError, ParamsError, Reject
from pipeline.progress import Progress
from pipeline.shards import TAUGHT, identity
from train import checkpoint, methods
from train import run as training
from train.data import Cache
from train.data.cache import require_parts
from train.settings import apply_preset, configure, read_stored_settings
from train.tuned import tuned_towers


@dataclass(frozen=True)
class Task:
    """One run of one seed, and the shards that it is scored on."""

    name: str
    method: str
    seed: int
    home: Path  # cache/<dataset>: where it is trained
    target: Path  # where it is scored
    settings: str  # JSON, the dataset's recipe included

    @property
    def run(self) -> Path:
        """Its folder."""
        return self.home / "runs" / (f"{self.name}-seed{self.seed}" if self.seed else self.name)

    @property
    def scores(self) -> Path:
        """Where its scores lie."""
        return self.target / "scores" / scores_name(self.run, self.target)


class Plan:
    """The experiments as they are on one dataset: what each comes to, which are the same, and which stand."""

    def __init__(self, home: Path, experiments: dict[str, Experiment]):
        self.home, self.experiments = home, experiments
        self.missing: dict[str, str] = {}
        require_parts(home)
        self.config = {name: self.resolve(one) for name, one in experiments.items()}
        # plain methods first: DVC has those already
        order = sorted(experiments.values(), key=lambda one: one.name != one.method)
        first: dict[tuple[str, str], str] = {}
        for one in order:
            first.setdefault((one.method, canonical(self.config[one.name])), one.name)
        self.same = {
            name: first[one.method, canonical(self.config[name])] for name, one in experiments.items()
        }  # of two experiments that come to the same settings, one is trained

    def settings(self, one: Experiment) -> dict[str, Any]:
        """The dataset's recipe and the experiment's settings over it, as `train.run --set` has them."""
        if one.method not in methods.names():
            raise ParamsError(f"{one.name}: no method {one.method!r}; there are: {', '.join(methods.names())}")
        kind = methods.load(one.method)
        return apply_preset(kind.Config, recipe_once(self.home, one.method)) | apply_preset(kind.Config, one.settings)

    def resolve(self, one: Experiment) -> dict[str, Any]:
        """What run.json of such a run says of its settings; `missing` says what the shards lack for it."""
        kind = methods.load(one.method)
        try:
            config = configure(kind.Config, self.settings(one))
        except ValueError as error:
            raise ParamsError(f"experiment {one.name}: {error}") from None
        try:
            cache = open_once(self.home, methods.needed(one.method, config))
            config = replace(config, dimension=cache.dimension, frames=cache.frames, patches=cache.patches)
            if tuned_towers(config.tune):
                config = replace(config, tail=training.tail_facts(self.home, cache, config.tune))
            config = kind.complete(config, self.home)
        except (ValueError, FileNotFoundError) as error:
            self.missing[one.name] = str(error)
        return asdict(config)

    def needs(self, name: str) -> frozenset[str]:
        """The features that an experiment reads."""
        method = self.experiments[name].method
        return methods.needed(method, methods.load(method).Config(**self.config[name]))

    def task(self, row: Row, seed: int) -> Task:
        """What fills a row."""
        one = self.experiments[self.same[row.experiment]]
        target = self.home.parent / row.target if row.target else self.home
        settings = json.dumps(self.settings(one), sort_keys=True)
        return Task(one.name, one.method, seed, self.home, target, settings)

    def mark(self, task: Task) -> str:
        """A digest of what a method is before training: its settings, shards and code."""
        parts = parts_once(self.home, self.needs(task.name))
        return hashlib.blake2b(
            f"{canonical(self.config[task.name])} {canonical(parts)} {code_once(task.method)}".encode(), digest_size=16
        ).hexdigest()

    def is_trained(self, task: Task) -> bool:
        """Whether the run is finished, of these settings, shards and code."""
        record = checkpoint.facts(task.run)
        wanted = {
            "config": plain(self.config[task.name]),
            "seed": task.seed,
            "shards": parts_once(self.home, self.needs(task.name), TAUGHT),
            "code": code_once(task.method),
        }
        return bool(record.get("complete")) and all(record.get(key) == value for key, value in wanted.items())

    def is_scored(self, task: Task) -> bool:
        """Whether its scores are of that run and of the shards that stand."""
        path, ranks = task.scores / "metrics.json", task.scores / "ranks.parquet"
        if not path.exists() or not ranks.exists():
            return False
        scored, record = json.loads(path.read_text()), checkpoint.facts(task.run)
        wanted = rank_columns(scored)
        if "skipped" not in scored and not wanted <= set(pyarrow.parquet.read_schema(ranks).names):
            return False  # of a release that kept fewer
        now = parts_once(task.target, self.needs(task.name))  # more than scoring reads, where something only teaches
        return scored.get("run") == facts_of(record) and all(
            now.get(part) == digest for part, digest in scored.get("shards", {}).items()
        )

    def is_done(self, task: Task) -> bool:
        """Whether there is nothing left to do."""
        return self.is_trained(task) and self.is_scored(task)

    def lacks(self, row: Row) -> str:
        """Why a row cannot be filled here, or an empty string."""
        if row.experiment in self.missing:
            return self.missing[row.experiment]
        if not row.target or row.target == self.home.name:
            return "" if row.target != self.home.name else "it is trained on this dataset itself"
        target = self.home.parent / row.target
        missing = [name for name in ("visual", "text", "keyframes.parquet") if not (target / name).exists()]
        return f"{target} is not there; type: make dataset NAME={row.target} ROOT=…" if missing else ""

    def tasks(self, tables: Iterable[PaperTable], seeds: int, quick: bool) -> list[Task]:
        """All runs of these tables, each once, in the tables' order, a seed after the other; times of queries need none."""
        rows = [row for table in tables if table.kind != "speed" for row in table.rows]
        rows = [row for row in rows if not self.lacks(row) and (self.experiments[row.experiment].quick or not quick)]
        return list(dict.fromkeys(self.task(row, seed) for seed in range(seeds) for row in rows))


def rank_columns(scored: dict[str, Any]) -> set[str]:
    """The columns of ranks.parquet from which p is had, of scores with these numbers."""
    whole = {column for _, column in SECTIONS.values()}
    parts = {f"{name}_{column}" for name in scored.get("parts", {}) for column in whole}
    return whole | parts | {f"rung{place}_rank" for place in range(len(scored.get("rungs", [])))}


def canonical(config: dict[str, Any]) -> str:
    """A configuration as text, to compare."""
    return json.dumps(config, sort_keys=True)


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as JSON gives it back."""
    return json.loads(canonical(config))


@remember
def recipe_once(shards: Path, method: str) -> dict[str, Any]:
    """A method's settings in params.yaml."""
    return read_stored_settings(shards, method, methods.load(method).needs)


@remember
def open_once(shards: Path, needs: frozenset[str]) -> Any:
    """The dataset's shards, opened once for all experiments that read the same."""
    return Cache(shards, needs)


@remember
def parts_once(shards: Path, needs: frozenset[str], splits: Any = None) -> dict[str, str]:
    """The shards' identity, of all splits or of some."""
    return identity(shards, needs, splits)


@remember
def code_once(method: str) -> str:
    """The trainer's code with that method."""
    return training.code_digest(method)


def make(tasks: list[Task], plan: Plan, jobs: int) -> list[str]:
    """Do what is not done, `jobs` runs at a time; a sentence for each that failed.

    A run that is stopped goes on from its last epoch the next time, one that is finished is not looked at again.
    """
    waiting = [task for task in tasks if not plan.is_done(task)]
    meter = Progress(len(tasks), "tables", "row", every=0.0, done=len(tasks) - len(waiting))
    failed = []
    for task, why in work(waiting, jobs):
        if why:
            failed.append(f"{task.run}: {why}")
        meter.add(note=f"{task.run.name} on {task.target.name}" + (" failed" if why else ""))
    meter.close()
    return failed


def work(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, str]]:
    """Each task with the reason why it failed, or an empty string: here one after the other, or by worker processes."""
    if jobs == 1:
        for task in tasks:
            try:
                finish(task)
                yield task, ""
            except Reject as refused:
                yield task, str(refused)
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for outcome in engine.run(finish, tasks, workers=jobs, seconds=float("inf"), memory=memory):
        yield outcome.item, "" if outcome.ok else f"{outcome.reason}: {outcome.detail}"


def finish(task: Task) -> bool:
    """Train a run where it is not trained, and score it. Reject with the reason where it cannot be."""
    try:
        with files.lock(task.run):
            training.run(task.home, task.run, task.method, task.seed, json.loads(task.settings), resume="try")
        torch.set_flush_denormal(False)  # `training.run` sets it for its own sake
        score_run(task.run, task.target)
    except MissingError as error:
        raise Reject("missing", str(error)) from None
    except ValueError as error:
        raise Reject("failed", str(error)) from None
    return True
