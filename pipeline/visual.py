"""Stage: videos and photos -> frame and patch tokens of the frozen CLIP, with times and thumbnails.

Workers decode beside the encoder; no frame touches the disk. A row is kept for as long as its fingerprint (file content,
span, sampling, decoder, CLIP weights, precision, VERSION) stands, so that adding ten videos decodes ten. A file that gives no
trustworthy frames becomes a row of rejects.parquet: items = kept + encoded + rejected.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from pipeline import engine, shards, stage
from pipeline.frames import Frames
from pipeline.rows import Book, Plan, Row, mark, still_refused
from pipeline.vision import Encoder

SECONDS, MEMORY = 120.0, 3 << 30  # of one item, before its worker is killed
WORKERS = 16  # at most; each holds some 250 MB
EACH = 8  # items a worker must have to be worth its start


def main() -> None:
    arguments = stage.arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        retry={"metavar": "REASON", "help": "try the items again that were rejected for this reason, or `all`"},
        why={"metavar": "ID", "help": "say why this item's row is kept or made anew, and stop"},
    )
    config = stage.dataset(arguments.dataset)
    folder = stage.folder(config["name"], "visual")
    manifest = stage.need(stage.folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"])
    clip = stage.need(stage.folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    items = parquet.read_table(manifest).to_pylist()
    try:
        encoder = Encoder(clip.parent, arguments.device, config)
        if arguments.why:
            print(why(folder, items, encoder.recipe, arguments.why))
            return
        with stage.lock(folder):
            shards.sweep(folder)
            print(build(folder, items, encoder, config, arguments.retry))
    except (ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None


def build(
    folder: Path, items: list[dict[str, Any]], encoder: Encoder, config: dict[str, Any], retry: str | None
) -> str:
    """Bring the folder up to date with the items; returns the line that sums the run up. ValueError on too many rejects."""
    plan = Plan(folder, items, encoder.recipe, config["shards"], retry)
    waits = Waits(len(plan.todo))
    with Book(plan, encoder, config) as book, ThreadPoolExecutor(1) as ahead:
        if plan.todo:
            ahead.submit(encoder.load)  # while the workers start; an error shows at the first frame
        for outcome in waits.during("decode", decoded(plan.todo, encoder, config)):
            name = outcome.item["video_id"]
            if outcome.ok:
                with waits.on("encode"):
                    tokens = encoder(outcome.value["frame"], outcome.item["kind"])
                waits.frames += len(tokens[0])
                jpeg, notes = jpegs(outcome.value["jpeg"]), remarks(outcome.value)
                book.fresh[name] = Row(*tokens, outcome.value["time"], jpeg, notes)
            else:
                plan.refused[name] = (outcome.reason, outcome.detail)
            with waits.on("disk"):
                book.settle(name)
            waits.tick()
        with waits.on("disk"):
            book.close()
    waits.close()
    said = book.sum_up()
    allowed = config["max_rejects"] * len(items)
    if len(plan.refused) > allowed:
        worst = f"{len(plan.refused)} rejects are more than max_rejects allows ({allowed:g}); {book.worst()}"
        raise ValueError(f"{said}\n{worst}")
    return said


def decoded(todo: list[dict[str, Any]], encoder: Encoder, config: dict[str, Any]) -> Iterator[engine.Outcome]:
    """Outcomes of decoding, from as many workers as there are cores and the work is worth."""
    work = Frames(
        config["root"], encoder.frames, encoder.size, config["sampling"], config["decoder"], config["thumbnail"]
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, WORKERS, 1 + len(todo) // EACH)
    return engine.run(work, todo, workers=workers, seconds=SECONDS, memory=MEMORY, ahead=2 * workers + 2)


def jpegs(files: list[bytes]) -> list[np.ndarray]:
    """JPEG files as uint8 arrays."""
    return [np.frombuffer(file, np.uint8) for file in files]


def remarks(value: dict[str, Any]) -> list[str]:
    """What is worth keeping about how an item was decoded."""
    return [f"decoder: {value['decoder']}"] * value["decoder"].startswith("pillow") + value["notes"]


class Waits:
    """Where the time goes, and the progress line that says so."""

    def __init__(self, total: int):
        self.meter = stage.Progress(total, "visual", "item")
        self.spent: Counter[str] = Counter()
        self.frames = 0
        self.begin = time.monotonic()

    class Span:
        """Adds the time it is open to one name."""

        def __init__(self, spent: Counter[str], name: str):
            self.spent, self.name = spent, name

        def __enter__(self) -> None:
            self.since = time.monotonic()

        def __exit__(self, *_: object) -> None:
            self.spent[self.name] += time.monotonic() - self.since

    def on(self, name: str) -> "Waits.Span":
        """Count the time inside as spent on `name`."""
        return self.Span(self.spent, name)

    def during(self, name: str, stream: Iterator[Any]) -> Iterator[Any]:
        """Iterate, counting the wait for each next one."""
        while True:
            with self.on(name):
                value = next(stream, None)
            if value is None:
                return
            yield value

    def tick(self) -> None:
        """One item is done."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        share = ", ".join(f"{name} {100 * spent / passed:.0f} %" for name, spent in self.spent.most_common())
        self.meter.add(note=f"{self.frames / passed:.0f} frames/s, waits for {share}")

    def close(self) -> None:
        """End the line."""
        self.meter.close()


def why(folder: Path, items: list[dict[str, Any]], recipe: dict[str, Any], name: str) -> str:
    """Why the row of one item stands or is made anew, in a sentence."""
    item = next((item for item in items if item["video_id"] == name), None)
    if item is None:
        return f"{name} is not in the manifest; its row, if there is one, will be dropped"
    now = mark(recipe, item)
    refused = still_refused(folder, {name: now}, None)
    if name in refused:
        return f"{name} was rejected and is not tried again: {': '.join(refused[name])}"
    for path in shards.files(folder):
        shard = shards.sound(path, "visual")
        if shard is None:
            print(f"{path} is damaged; its rows will be made anew")
            continue
        row = next((row for key, row, _ in shards.rows(shard) if key == name), None)
        if row is not None:
            return compare(shard, row, item, recipe)
    return f"{name} has no row yet; it will be decoded and encoded"


def compare(shard: shards.Shard, row: int, item: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What differs between the row and what would be written now."""
    name, found = item["video_id"], shard["fingerprint"][row]
    if found == mark(recipe, item):
        return f"{name} is up to date ({shard.path}, row {row})"
    then = {key: shard.attributes.get(key) for key in recipe}
    changes = stage.changes(then, recipe)
    if found != mark(then, item):
        changes.append("the file's content or its span has changed")
    return f"{name} will be made anew: {'; '.join(changes)}"


if __name__ == "__main__":
    main()
