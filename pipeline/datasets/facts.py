"""What the files of a folder say of themselves, read by supervised workers and remembered by their content."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline import engine, files, progress
from pipeline.datasets import Item
from pipeline.video.facts import VERSION, FactReader

SECONDS, MEMORY = 20.0, 2 << 30  # what one file may take
MOST_WORKERS, FILES_A_WORKER = 8, 50
COLUMNS = ("taken", "latitude", "longitude", "duration")


def collect_facts(root: Path, items: list[tuple[Item, str, int]], memo: Path) -> list[dict[str, Any]]:
    """A row of media.parquet for each item (with its hash and size): video_id, and the fields of `Facts`.

    A file that does not open says nothing here; the visual stage says why.
    """
    known = read_memo(memo)
    names = {content: item.path for item, content, _ in items}
    todo = [{"path": path, "hash": content} for content, path in sorted(names.items()) if content not in known]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MOST_WORKERS, 1 + len(todo) // FILES_A_WORKER)
    found = engine.run(FactReader(str(root)), todo, workers=workers, seconds=SECONDS, memory=MEMORY, ahead=64)
    if todo:
        for outcome in progress.progress(found, "times and places", "file", total=len(todo)):
            known[outcome.item["hash"]] = [outcome.value[name] for name in COLUMNS] if outcome.ok else [None] * 4
    kept = {content: known[content] for content in names}
    files.write(memo, json.dumps({"version": VERSION, "facts": kept}, separators=(",", ":"), sort_keys=True))
    return [{"video_id": item.video_id} | dict(zip(COLUMNS, kept[content])) for item, content, _ in items]


def read_memo(path: Path) -> dict[str, list[Any]]:
    """Facts by content; nothing where they were read by another code, or are damaged."""
    try:
        content = json.loads(path.read_text())
        return content["facts"] if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
