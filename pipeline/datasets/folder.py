"""Any folder of videos and photos, with or without a table of captions: the way to bring one's own."""

import json
from pathlib import Path
from typing import Any

from pipeline.datasets import SPLITS, Caption, Item, media

TABLES = ("captions.csv", "captions.jsonl", "captions.parquet")
FILE = ("file", "path", "name", "file_name", "video", "image")
TEXT = ("caption", "text", "sentence", "captions")
ALIAS = {"validation": "val", "validate": "val", "valid": "val", "dev": "val"}
ANIMATED = 0x02  # flag in the header of an extended WebP


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every video and photo under the root by its path; captions from `captions` in params.yaml, else captions.csv,
    .jsonl or .parquet at the root. Without a split column all is test.
    """
    root = Path(config["root"])
    paths = media.media(root)
    table = table_of(root, config.get("captions"))
    splits, captions = assign(root, table, paths) if table else ({}, [])
    return [Item(path, splits.get(path, "test"), path=path, kind=kind(root / path)) for path in paths], captions


def kind(path: Path) -> str:
    """image or video; GIF and animated WebP are videos."""
    if path.suffix.lower() not in media.IMAGE:
        return "video"
    return "video" if path.suffix.lower() == ".webp" and animated(path) else "image"


def animated(path: Path) -> bool:
    """Whether a WebP holds several pictures, by its header."""
    try:
        with open(path, "rb") as file:
            head = file.read(21)
    except OSError:
        return False  # the manifest says why it cannot be read
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & ANIMATED)


def table_of(root: Path, name: str | None) -> Path | None:
    """The table of captions: the one that params.yaml names, relative to the root; else one by its usual name."""
    if name:
        if not (root / name).is_file():
            raise ValueError(f"no {root / name}; `captions` in params.yaml must name a CSV, JSONL or Parquet file")
        return root / name
    there = [root / table for table in TABLES if (root / table).is_file()]
    if len(there) > 1:
        raise ValueError(
            f"{root} has {' and '.join(path.name for path in there)}; say which by `captions` in params.yaml"
        )
    return there[0] if there else None


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, JSONL or Parquet file."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return media.read_csv(path)
    if suffix in (".jsonl", ".ndjson"):
        return [
            line(text, f"{path}, line {number}")
            for number, text in enumerate(media.read_text(path).split("\n"), 1)
            if text.strip()
        ]
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} is not whole Parquet: {error}; {media.AGAIN}") from None
    raise ValueError(f"{path}: captions come from .csv, .jsonl or .parquet")


def line(text: str, where: str) -> dict[str, Any]:
    """One line of JSONL."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not whole JSON: {error.msg} at column {error.colno}; {media.AGAIN}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with a file and a caption, got {text[:80]}")
    return row


def assign(root: Path, path: Path, paths: list[str]) -> tuple[dict[str, str], list[Caption]]:
    """Split of each file that the table names, and captions, numbered per file in the table's order.

    A row names a file by path, by file name, or by name without suffix, as long as that means one file.
    """
    table = rows(path)
    if not table:
        return {}, []
    file, text = (column(path, table[0], names) for names in (FILE, TEXT))
    meant = lookup(paths)
    splits: dict[str, str] = {}
    counts: dict[str, int] = {}
    captions = []
    for number, row in enumerate(table, 1):
        where = f"{path}, row {number}"
        name = str(row.get(file) or "")
        candidates = meant.get(name.removeprefix("./").removeprefix(f"{root}/"), ())
        if len(candidates) > 1:
            raise ValueError(
                f"{where}: {name!r} may be {' or '.join(sorted(candidates)[:3])}; write its path from {root}"
            )
        video_id = next(iter(candidates), name)
        split = str(row.get("split") or "test").strip().lower()
        split = ALIAS.get(split, split)
        if split not in SPLITS or splits.setdefault(video_id, split) != split:
            said = f"and {splits[video_id]!r} before" if split in SPLITS else f"expected {', '.join(SPLITS)}"
            raise ValueError(f"{where}: {name!r} has split {split!r}, {said}")
        texts = row.get(text)
        for one in texts if isinstance(texts, list) else [texts]:
            captions.append(Caption(video_id, counts.get(video_id, 0), "" if one is None else one))
            counts[video_id] = counts.get(video_id, 0) + 1
    return splits, captions


def column(path: Path, row: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the known column names that a table has."""
    for name in names:
        if name in row:
            return name
    raise ValueError(f"{path}: no column {' | '.join(names)}; it has: {', '.join(map(str, row))}")


def lookup(paths: list[str]) -> dict[str, set[str]]:
    """What a row may call a file -> the files it may mean; a whole path means that file only."""
    meant: dict[str, set[str]] = {}
    for path in paths:
        for name in {Path(path).name, Path(path).stem, str(Path(path).with_suffix(""))}:
            meant.setdefault(name, set()).add(path)
    return meant | {path: {path} for path in paths}
