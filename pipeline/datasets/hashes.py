"""Content hashes of files, remembered while the files stand."""

import errno
import hashlib
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files, progress
from pipeline.datasets import media

READ_BYTES = 1 << 20  # bytes hashed at a time
SETTLED = 1_000_000_000  # nanoseconds a file must have been left alone before its hash is remembered


@dataclass(frozen=True)
class Unreadable:
    """Why a file cannot be used."""

    reason: str
    detail: str


class HashMemo:
    """Content hashes by path, each good while size, times and inode stand; a file in the cache that only saves time.

    A file changed within the second before it was hashed is not remembered: its times could not tell of another change.
    """

    def __init__(self, path: Path):
        self.path = path
        self.old: dict[str, list[Any]] = {}
        self.new: dict[str, list[Any]] = {}
        self.hashed: list[str] = []
        try:
            old = json.loads(path.read_text())
            self.old = old if isinstance(old, dict) else {}
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            self.old = {}

    def contents(self, paths: list[str]) -> list[tuple[str, int] | Unreadable]:
        """(hash, size) of each file, or what is wrong with it; those not remembered are read by several threads."""
        answers = [self.recall(path) for path in paths]
        unknown = [place for place, answer in enumerate(answers) if answer is None]
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            found = pool.map(lambda place: self.look(paths[place]), unknown)
            for answer, place in zip(progress.progress(found, "hash", "file", total=len(unknown)), unknown):
                answers[place] = answer
        return answers

    def recall(self, path: str) -> tuple[str, int] | None:
        """(hash, size) of a file that still is as it was remembered."""
        remembered = self.old.get(path)
        if remembered is None:
            return None
        try:
            if describe_stat(os.stat(path)) != remembered[:-1] or not os.access(path, os.R_OK):
                return None
        except OSError:
            return None
        self.new[path] = remembered
        return remembered[-1], remembered[0]

    def look(self, path: str) -> tuple[str, int] | Unreadable:
        """(hash, size) of a file by reading it, or what is wrong with it."""
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                return Unreadable("not a file", "a folder" if stat.S_ISDIR(status.st_mode) else "a special file")
            if status.st_size == 0:
                return Unreadable("empty file", "0 bytes")
            begin = time.time_ns()
            content = hash_file(path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return Unreadable("missing video", "a link to nothing" if os.path.islink(path) else "no such file")
            return Unreadable("unreadable", error.strerror or str(error))
        self.hashed.append(path)
        if begin - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED:
            self.new[path] = [*describe_stat(status), content]
        return content, status.st_size

    def save(self) -> None:
        """Write what this run saw, if that is anything else than what the last one saw."""
        if self.new != self.old:
            files.write(self.path, json.dumps(self.new, separators=(",", ":"), sort_keys=True))


def describe_stat(status: os.stat_result) -> list[int]:
    """What changes when a file does; the time of change (ctime) catches edits that put the old mtime back."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def hash_file(path: str) -> str:
    """Hash of a file's content (BLAKE2b, 128 bits, hex)."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            state.update(chunk)
    return state.hexdigest()


class RunMemo:
    """Detects whether parameters, inputs, code or outputs have changed since the last successful run."""

    def __init__(self, path: Path, parameters: Any, tree: Path, others: list[Path]):
        self.path, self.parameters, self.tree, self.others = path, parameters, tree, others
        self.begin = time.time_ns()

    def unchanged(self) -> bool:
        """Whether all is as `save` saw it."""
        return self.path.is_file() and self.tree.is_dir() and self.path.read_text() == self.state()[0]

    def save(self) -> None:
        """Remember all as it is now, unless a file of the tree changed while the stage ran or just before."""
        state, newest = self.state()
        if newest < self.begin - SETTLED:
            files.write(self.path, state)
        else:
            self.path.unlink(missing_ok=True)

    def state(self) -> tuple[str, int]:
        """A hash of the parameters and of every file's size and times, and when the newest of the tree changed."""
        state = hashlib.blake2b(json.dumps(self.parameters, sort_keys=True, default=str).encode(), digest_size=16)
        newest = 0
        for path, entry in media.walk(self.tree):
            try:
                status = entry.stat()
                newest = max(newest, status.st_ctime_ns)
            except OSError:
                status = entry.stat(follow_symlinks=False)  # a link to nothing, or to itself
            state.update(f"{os.fsencode(path)!r}{describe_stat(status)}{os.access(entry.path, os.R_OK)}".encode())
        for path in self.others:
            state.update(f"{path}{describe_stat(path.stat()) if path.exists() else None}".encode())
        return state.hexdigest(), newest
