"""A shard is proven by its checksums before anyone trusts it, once: `cache/<dataset>/.proofs` remembers which file it was."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline import files
from pipeline.files import ShardError
from pipeline.shards.reader import SETTLED, Shard
from pipeline.shards.schema import KEYS

CHECKERS = 4  # files read at once
NAMED = 3  # damaged rows that a message names
State = list[int]  # size, mtime in nanoseconds, inode

_proven: dict[Path, State] = {}  # by this process, where nothing can be written beside the shards


def prove_shards(folder: Path, shards: Iterable[Shard]) -> None:
    """Read those shards of a cache whole that are not known to be as they were written.

    Errors: ShardError that names the rows that are damaged, and the command that makes them again.
    """
    prove(folder, {shard.path: lambda shard=shard: check_shard(shard.path, shard.kind) for shard in shards})


def prove(folder: Path, checks: Mapping[Path, Callable[[], None]]) -> None:
    """Run the check of every file below `folder` that has not passed it as the file that it is now."""
    known = read_proofs(folder)
    states = {path: read_state(path) for path in checks}
    waiting = [
        path
        for path, state in states.items()
        if state is None or state not in (known.get(name(folder, path)), _proven.get(path))
    ]
    if not waiting:
        return
    with ThreadPoolExecutor(CHECKERS) as checkers:
        found = [checkers.submit(checks[path]) for path in waiting]
    good = [path for path, future in zip(waiting, found) if future.exception() is None]
    now = time.time_ns()
    settled = [path for path in good if states[path] and now - states[path][1] > SETTLED * 1e9]
    if settled:
        _proven.update((path, states[path]) for path in settled)
        keep_proofs(folder, known | {name(folder, path): states[path] for path in settled})
    for future in found:
        future.result()


def check_shard(path: Path, kind: str) -> None:
    """ShardError that names the damaged rows unless every byte is as it was written."""
    shard = Shard(path, kind)  # its own, so that nothing stays mapped that was only read to be proven
    try:
        shard.check()
    except ShardError as error:
        good = set(shard.good_rows())
        if not good:
            raise
        bad = [key for row, key in enumerate(shard[KEYS[shard.kind]]) if row not in good]
        some = ", ".join(map(repr, bad[:NAMED])) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise ShardError(f"{error} ({len(bad)} of {len(good) + len(bad)} rows are damaged: {some})") from None


def name(folder: Path, path: Path) -> str:
    """What a file is called in `.proofs`."""
    return os.path.relpath(path, folder)


def read_state(path: Path) -> State | None:
    """What says that a file is still the same; None where there is none, which its check will say better."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def read_proofs(folder: Path) -> dict[str, State]:
    """What `.proofs` remembers; nothing where it is missing or damaged."""
    try:
        known = json.loads((folder / ".proofs").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def keep_proofs(folder: Path, known: Mapping[str, State]) -> None:
    """Remember what has been proven, of files that are still there; in memory alone where the cache cannot be written."""
    here = {path: state for path, state in known.items() if (folder / path).exists()}
    with contextlib.suppress(files.StorageError):
        files.write(folder / ".proofs", json.dumps(here, indent=0, sort_keys=True) + "\n")
