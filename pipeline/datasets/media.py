"""Find videos and photos under a folder, and read annotation files with errors that say what to do."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Where one video has several files, the earlier suffix wins.
# fmt: off
VIDEO = (
    ".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".f4v",
    ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".vob", ".ogv", ".asf", ".gif",
)
# fmt: on
IMAGE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
AGAIN = "it may have been cut off while downloading; fetch it again"


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry]]:
    """Every file under `root` with its path relative to it; hidden files and folders are left out.

    Linked folders are followed, each real folder once, so a loop of links ends. A folder that is named like a video is
    listed, not entered: the manifest then says what is wrong with it.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; set `root` of this dataset in params.yaml to where its files are")
    seen = set()
    folders, links = [""], []  # real folders first: a file keeps its real path whatever links lead to it
    while folders or links:
        inside = folders.pop() if folders else links.pop()
        try:
            status = os.stat(root / inside)
            entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise ValueError(
                f"cannot list {root / inside}: {error.strerror}; give access to it or move it away"
            ) from None
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = os.path.join(inside, entry.name)
            if entry.name.startswith("."):
                continue
            if is_folder(entry) and suffix(path) not in (*VIDEO, *IMAGE):
                (links if entry.is_symlink() else folders).append(path)
            else:
                yield path, entry


def media(root: Path, suffixes: Iterable[str] = (*VIDEO, *IMAGE)) -> list[str]:
    """Paths of the files under `root` that have one of the suffixes, relative to it, sorted."""
    wanted = frozenset(suffixes)
    return sorted(path for path, _ in walk(root) if suffix(path) in wanted)


def suffix(path: str) -> str:
    """The last suffix of a name, in small letters."""
    return os.path.splitext(path)[1].lower()


def is_folder(entry: os.DirEntry) -> bool:
    """Whether a folder, or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def key(name: str) -> str:
    """A file's name without its video suffixes: `a.mov.mp4`, `a.mov`, `a.` and `a` are one video."""
    name = os.path.basename(name)
    while suffix(name) in (*VIDEO, "."):
        name = os.path.splitext(name)[0]
    return name


def videos(root: Path) -> dict[str, list[str]]:
    """Files of each key under `root`, the best first; files without any suffix are last."""
    found: dict[str, list[str]] = {}
    for path in media(root, (*VIDEO, ".", "")):
        found.setdefault(key(path), []).append(path)
    order = {suffix: place for place, suffix in enumerate((*VIDEO, ".", ""))}
    for paths in found.values():
        paths.sort(key=lambda path: order[suffix(path)])
    return found


def annotation(root: Path, name: str) -> Path:
    """`root/name`, or `root/*/name`."""
    places = [root / name, *sorted(root.glob(f"*/{name}"))]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"{name} is neither in {root} nor in a folder of it; put it there, or set `root` in params.yaml")


def read_text(path: Path) -> str:
    """The text of a file, which must be UTF-8 (with or without a byte-order mark)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text at byte {error.start}; {AGAIN}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} (character {error.pos} of {len(text)})"
        raise ValueError(f"{path} is not whole JSON: {error.msg} at {place}; {AGAIN}") from None


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file whose header has `columns`."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if missing := [column for column in columns if column not in header]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)} in the header {header}; {AGAIN}")
        for row in reader:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}; {AGAIN}"
                )
            if row:
                rows.append(dict(zip(header, row)))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; {AGAIN}") from None
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines of a list of ids, stripped, empty ones left out."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def field(row: Any, name: str, where: str) -> Any:
    """`row[name]`, or an error that says where it was missing."""
    if not isinstance(row, dict) or name not in row:
        raise ValueError(f"{where}: expected an object with {name!r}, got {str(row)[:80]}")
    return row[name]
