"""Any folder of videos and photos, with or without a table of captions: the way to bring one's own."""

import json
import os
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.datasets import SPLITS, Caption, Item, media
from pipeline.files import parse_table

TABLES = ("captions.csv", "captions.jsonl", "captions.parquet")
FILE = ("file", "path", "name", "file_name", "video", "image")
TEXT = ("caption", "text", "sentence", "captions")
ALIAS = {"validation": "val", "validate": "val", "valid": "val", "dev": "val"}
MOVING = (".webp", ".png", ".apng", ".avif")
HEADER = 1 << 16  # bytes in which a moving picture says that it is one
ANIMATED = 0x02  # flag in the header of an extended WebP
FACTS = True  # what its files say of themselves is kept: when, where, how long
GUESSES = 20  # unknown names for which the nearest one is looked up


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every video and photo under the root by its path; captions from `captions` in params.yaml, else captions.csv,
    .jsonl or .parquet at the root. Without a split column all is test.
    """
    root = Path(config["root"])
    found = media.survey(root)
    table = table_of(root, config.get("captions"))
    splits, captions = assign(root, table, found) if table else ({}, [])
    return [Item(path, splits.get(path, "test"), path=path, kind=kind(root / path)) for path in found.paths], captions


def kind(path: Path) -> str:
    """image or video; GIF is a video, and so is a WebP, PNG or AVIF that moves."""
    if path.suffix.lower() not in media.IMAGE:
        return "video"
    return "video" if path.suffix.lower() in MOVING and animated(path) else "image"


def animated(path: Path) -> bool:
    """Whether a WebP, PNG or AVIF holds an animation, by its header."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER)
    except OSError:
        return False  # the manifest says why it cannot be read
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return len(head) > 20 and bool(head[20] & ANIMATED)
    if head[:4] == b"\x89PNG":
        return b"acTL" in head.split(b"IDAT", 1)[0]
    return head[4:12] == b"ftypavis"


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

        try:
            return parse_table(path.read_bytes()).to_pylist()
        except (pyarrow.ArrowException, ValueError) as error:
            raise ValueError(f"{path} is not whole Parquet: {error}; {media.MEND}") from None
    raise ValueError(f"{path}: captions come from .csv, .jsonl or .parquet")


def line(text: str, where: str) -> dict[str, Any]:
    """One line of JSONL."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not whole JSON: {error.msg} at column {error.colno}; {media.MEND}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with a file and a caption, got {text[:80]}")
    return row


def assign(root: Path, path: Path, found: media.Survey) -> tuple[dict[str, str], list[Caption]]:
    """Split of each file that the table names, and captions, numbered per file in the table's order."""
    table = rows(path)
    if not table:
        return {}, []
    file, text = (column(path, table[0], names) for names in (FILE, TEXT))
    names, unread = Names(root, found.paths), Names(root, found.unread)
    splits: dict[str, str] = {}
    counts: dict[str, int] = {}
    troubles: dict[str, tuple[str, str]] = {}
    captions = []
    for number, row in enumerate(table, 1):
        where = f"{path}, row {number}"
        name = str(row.get(file) or "")
        candidates = names.find(name)
        if len(candidates) > 1:
            raise ValueError(
                f"{where}: {name!r} may be {' or '.join(sorted(candidates)[:3])}; write its path from {root}"
            )
        video_id = next(iter(candidates), name)
        if not candidates and name not in troubles:
            troubles[name] = trouble(name, names, unread, len(troubles) < GUESSES)
        problem, detail = ("", "") if candidates else troubles[name]
        split = str(row.get("split") or "test").strip().lower()
        split = ALIAS.get(split, split)
        if split not in SPLITS or splits.setdefault(video_id, split) != split:
            said = f"and {splits[video_id]!r} before" if split in SPLITS else f"expected {', '.join(SPLITS)}"
            raise ValueError(f"{where}: {name!r} has split {split!r}, {said}")
        texts = row.get(text)
        for one in texts if isinstance(texts, list) else [texts]:
            said = "" if one is None else one
            captions.append(Caption(video_id, counts.get(video_id, 0), said, problem=problem, detail=detail))
            counts[video_id] = counts.get(video_id, 0) + 1
    return splits, captions


def trouble(name: str, names: "Names", unread: "Names", guess: bool) -> tuple[str, str]:
    """Why a row's name means no file: a kind that is not read, else nothing there, with the nearest name."""
    if there := unread.find(name):
        path = min(there)
        return "kind not read", f"{path} is there, but {media.suffix(path)} files are not read; convert it"
    near = get_close_matches(name, names.spelled, 1) if guess else []
    return "unknown id", f"no file {name!r}" + (f"; the nearest name is {near[0]!r}" if near else "")


class Names:
    """Which file a row of a table means: by path, file name, or name without suffix, as long as that is one file.

    First as it is written; then as people and programs write the same: composed or decomposed letters, `\\` for `/`, percent
    signs of an address, another path to the same root, other capital letters, a number without its zeros.
    """

    def __init__(self, root: Path, paths: list[str]):
        self.root = str(root)
        self.real = os.path.realpath(root)
        self.exact: dict[str, set[str]] = {}
        self.alike: dict[str, set[str]] = {}
        self.loose: dict[str, set[str]] = {}
        self.number: dict[str, set[str]] = {}
        self.found: dict[str, set[str]] = {}
        for path in paths:
            for name in {Path(path).name, Path(path).stem, str(Path(path).with_suffix(""))}:
                self.exact.setdefault(name, set()).add(path)
        self.exact |= {path: {path} for path in paths}  # a whole path means that file only
        for name, meant in self.exact.items():
            self.alike.setdefault(composed(name), set()).update(meant)
            self.loose.setdefault(composed(name).casefold(), set()).update(meant)
            if name.isascii() and name.isdigit():
                self.number.setdefault(name.lstrip("0"), set()).update(meant)
        for path in paths:
            self.alike[composed(path)] = {
                other for other in self.alike[composed(path)] if composed(other) == composed(path)
            }
        self.spelled = sorted(self.exact)

    def find(self, name: str) -> set[str]:
        """The files that a name may mean: none, one, or several."""
        if name not in self.found:
            self.found[name] = self.look_up(name)
        return self.found[name]

    def look_up(self, name: str) -> set[str]:
        """The same, not remembered."""
        spellings = list(dict.fromkeys(self.spellings(name)))
        for table, form in (
            (self.exact, str),
            (self.alike, composed),
            (self.loose, lambda one: composed(one).casefold()),
        ):
            for spelling in spellings:
                if meant := table.get(form(spelling)):
                    return meant
        stem, ending = os.path.splitext(name)
        if stem.isascii() and stem.isdigit():
            meant = {
                path for path in self.number.get(stem.lstrip("0"), ()) if ending.lower() in ("", media.suffix(path))
            }
            return meant if len(meant) == 1 else set()
        return set()

    def spellings(self, name: str) -> Iterator[str]:
        """What the name may be as a path from the root."""
        for one in (name, unquote(name.removeprefix("file://"))):
            for path in (one, one.replace("\\", "/")):
                yield path.removeprefix("./").removeprefix(f"{self.root}/")
                if os.path.isabs(path):
                    folder, last = os.path.split(path)
                    try:
                        yield os.path.relpath(os.path.join(os.path.realpath(folder), last), self.real)
                    except ValueError:  # no path can be called that
                        continue
                else:
                    yield os.path.normpath(path) if path else path


def composed(name: str) -> str:
    """Letters and their marks as one sign each: what a Mac writes in two, others write in one."""
    return unicodedata.normalize("NFC", name)


def column(path: Path, row: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the known column names that a table has."""
    for name in names:
        if name in row:
            return name
    raise ValueError(f"{path}: no column {' | '.join(names)}; it has: {', '.join(map(str, row))}")
