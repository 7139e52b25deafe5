"""Find videos and photos under a folder, and read annotation files with errors that say what to do."""

import codecs
import csv
import dataclasses
import io
import json
import os
import shlex
from collections import Counter
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
IMAGE = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".hif",
    ".avif",
)  # fmt: skip
# Media that are not read: counted and named, so that nobody waits for them.
# fmt: off
UNREAD = frozenset((
    ".mxf", ".rm", ".rmvb", ".divx", ".xvid", ".dv", ".m1v", ".m2v", ".mpe", ".mpv", ".ogm", ".ogg", ".qt", ".wtv", ".dvr-ms",
    ".gxf", ".y4m", ".ivf", ".h264", ".264", ".265", ".hevc", ".av1", ".mjpeg", ".mjpg", ".insv", ".lrv", ".braw", ".r3d",
    ".mod", ".tod", ".swf", ".nut", ".amv", ".f4p", ".m3u8", ".mpd", ".heics", ".avifs",
    ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".psd", ".psb", ".xcf", ".svg", ".svgz",
    ".eps", ".ai", ".pdf", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".ico", ".icns", ".tga", ".exr", ".hdr", ".ppm", ".pgm",
    ".pbm", ".pnm", ".dds", ".wmf", ".emf", ".qoi",
    ".mp3", ".wav", ".flac", ".aac", ".m4a", ".oga", ".opus", ".wma", ".aiff",
))
SYSTEM = frozenset((  # folders that network storage and operating systems keep for themselves, in small letters
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "recycler", "lost+found", "__macosx",
    "system volume information", ".trashes", ".trash", ".spotlight-v100", ".fseventsd", ".@__thumb",
))
# fmt: on
MEND = "mend it there, or take the file anew from where it came"


@dataclasses.dataclass
class Survey:
    """What lies under a root."""

    paths: list[str] = dataclasses.field(default_factory=list)  # of files that are read, sorted
    unread: list[str] = dataclasses.field(default_factory=list)  # of files of a media kind that is not read
    system: Counter = dataclasses.field(default_factory=Counter)  # system folders that were left out, by name
    closed: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # folders that cannot be listed, and why

    def skipped(self) -> dict[str, int]:
        """How many files or folders were passed over, by suffix or name of the folder."""
        kinds = Counter(suffix(path) for path in self.unread)
        return dict(kinds.most_common()) | {f"{name}/": count for name, count in self.system.most_common()}


def survey(root: Path) -> Survey:
    """Files that are read, and what was passed over."""
    found = Survey()
    for path, _ in walk(root, found):
        if suffix(path) in (*VIDEO, *IMAGE):
            found.paths.append(path)
        elif suffix(path) in UNREAD:
            found.unread.append(path)
    found.paths.sort()
    found.unread.sort()
    found.closed.sort()
    return found


def walk(root: Path, notes: Survey | None = None) -> Iterator[tuple[str, os.DirEntry]]:
    """Every file under `root` with its path relative to it; hidden files, and hidden and system folders, are left out.

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
            if not inside:
                raise ValueError(f"cannot list {root}: {error.strerror}; give access to it") from None
            if notes is not None:
                notes.closed.append((inside, error.strerror or str(error)))
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = os.path.join(inside, entry.name)
            if entry.name.lower() in SYSTEM and is_folder(entry):
                if notes is not None:
                    notes.system[entry.name] += 1
                continue
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


def require_annotations(root: Path, wanted: dict[str, str]) -> None:
    """ValueError that names every annotation file that is not there, each with where it is to be had."""
    missing = [
        f"{name}: {where}"
        for name, where in wanted.items()
        if not any(path.is_file() for path in (root / name, *root.glob(f"*/{name}")))
    ]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} annotation files are neither in {root} nor in a folder of it: "
            f"{'; '.join(missing)}. Put them there, or set `root` in params.yaml"
        )


def annotation(root: Path, name: str) -> Path:
    """`root/name`, or `root/*/name`."""
    inside = [path for path in sorted(root.glob(f"*/{name}")) if path.parent.name.lower() not in SYSTEM]
    places = [root / name, *inside]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(f"{name} is neither in {root} nor in a folder of it; put it there, or set `root` in params.yaml")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    code = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        if code == "utf-8-sig" and b"\0" in data[:200]:
            code = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
            raise ValueError(f"{path} is UTF-16 without its mark; type: iconv -f {code.upper()} -t UTF-8 {shown(path)}")
        return data.decode(code).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not UTF-8 text at byte {error.start} (line {line}); {other_code(data, path)}"
        ) from None


def other_code(data: bytes, path: Path) -> str:
    """What a text that is not UTF-8 may be, and what to type."""
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return MEND
    return f"if it is Windows-1252, as Excel saves, type: iconv -f CP1252 -t UTF-8 {shown(path)}"


def shown(path: Path) -> str:
    """A file made anew in place, as a shell wants it."""
    name = shlex.quote(str(path))
    return f"{name} > {shlex.quote(f'{path}.new')} && mv {shlex.quote(f'{path}.new')} {name}"


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} (character {error.pos} of {len(text)})"
        raise ValueError(f"{path} is not whole JSON: {error.msg} at {place}; {MEND}") from None


def read_csv(path: Path, *columns: str) -> list[dict[str, str]]:
    """Rows of a CSV file whose header has `columns`; where the header has no comma, semicolons or tabs separate."""
    text = read_text(path)
    title = text.split("\n", 1)[0]
    mark = next((mark for mark in ";\t" if mark in title and "," not in title), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
    rows, line = [], 1
    try:
        header = next(reader, [])
        if missing := [column for column in columns if column not in header]:
            raise ValueError(f"{path}, line 1: no column {', '.join(missing)} in the header {header}")
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                many = "a field that holds a comma must stand in double quotes" if len(row) > len(header) else MEND
                raise ValueError(f"{path}, line {line}: {len(row)} fields, the header has {len(header)}; {many}")
            if row:
                rows.append(dict(zip(header, row)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: {error}; is a double quote of the row that begins there left open?"
        ) from None
    return rows


def read_lines(path: Path) -> list[str]:
    """The lines of a list of ids, stripped, empty ones left out."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def field(row: Any, name: str, where: str) -> Any:
    """`row[name]`, or an error that says where it was missing."""
    if not isinstance(row, dict) or name not in row:
        raise ValueError(f"{where}: expected an object with {name!r}, got {str(row)[:80]}")
    return row[name]
