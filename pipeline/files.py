"""Files that are written whole or not at all, and the lock of who writes them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PART = ".part"  # what is being written carries this suffix; nothing with it is ever read


@contextlib.contextmanager
def lock(output: Path) -> Iterator[None]:
    """Hold the lock of one stage output (`cache/<dataset>/.locks/<output>`); a second holder is told who has it.

    The kernel drops the lock with its process, so a killed stage leaves nothing to clean.
    """
    parts = output.parts
    base, name = (Path(*parts[:-1]), parts[-1]) if len(parts) > 1 else (Path("."), parts[0])
    path = base / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SystemExit(
                f"{output} is being written by process {file.read().strip() or 'unknown'}; wait for it to end"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give `<path>.part` to write to; on success sync it and rename it to `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush one file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes | str) -> None:
    """Write a small file whole or not at all; leave it alone when it already holds these bytes."""
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with replacing(path) as part:
        part.write_bytes(data)


def write_table(path: Path, table: Any) -> None:
    """Write a pyarrow table as Parquet, the same bytes for the same rows, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    write(path, sink.getvalue().to_pybytes())
