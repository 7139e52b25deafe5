"""Errors that a person can mend; files that are written whole or not at all; the lock of who writes them."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class UniTriMError(ValueError):
    """Something that a person can mend: the message says what is wrong, where, and what to type."""


class ParamsError(UniTriMError):
    """params.yaml, or a setting on the command line, does not say what it must."""


class MissingError(UniTriMError):
    """What an earlier command makes is not there, or was made from something else than what lies beside it."""


class LockedError(UniTriMError):
    """Another process is writing the same output."""


class DamagedError(UniTriMError):
    """A file of the cache is not what it was when it was written."""


class ShardError(UniTriMError):
    """A shard that is missing, damaged, foreign, or does not fit its neighbours."""


class CLIPError(UniTriMError):
    """Weights or a tokenizer that are missing, damaged, or not those that were pinned."""


class WorkerError(UniTriMError):
    """The worker processes cannot start, or their supervisor ended early."""


class RejectsError(UniTriMError):
    """More items are no good than max_rejects allows."""


class Reject(UniTriMError):
    """One item is no good: `reason`, a short stable word that is counted, and `detail` for a person.

    It costs the item its row and nothing else, and comes back from worker processes by pickle.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class DecodeError(Reject):
    """A file that gives no trustworthy frames."""


class PlanError(Reject):
    """The packets of a file do not say enough for a plan, so it must be decoded in order; `detail` says why."""

    def __init__(self, detail: str):
        super().__init__("unplanned", detail)
        self.args = (detail,)  # what pickle calls it with

    def __str__(self) -> str:
        return self.detail


PART = ".part"  # what is being written carries this suffix; nothing with it is ever read
DIGEST = re.compile(rb"blake2b\x18\x20(.{32})", re.DOTALL)  # as a Parquet footer has it: key, type and length, value
BLANK = b"0" * 32  # stands in the digest's place while it is computed


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
            raise LockedError(
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
    """Write a pyarrow table as Parquet, the same bytes for the same rows, whole or not at all, its digest in its footer."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    with pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"blake2b": BLANK.decode()})
    content = sink.getvalue().to_pybytes()
    first, last = list(DIGEST.finditer(content))[-1].span(1)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write(path, content[:first] + digest.encode() + content[last:])


def read_table(path: Path, columns: Iterable[str] | None = None) -> Any:
    """A table of the cache, or some of its columns, every byte as it was written.

    Errors: FileNotFoundError; DamagedError that says what to type.
    """
    import pyarrow
    import pyarrow.parquet

    content = Path(path).read_bytes()
    marks = list(DIGEST.finditer(content))
    if marks:  # there is none in a table that something else wrote
        first, last = marks[-1].span(1)
        digest = hashlib.blake2b(digest_size=16)
        for part in (memoryview(content)[:first], BLANK, memoryview(content)[last:]):
            digest.update(part)
        if digest.hexdigest().encode() != marks[-1][1]:
            raise damaged(path, "its bytes are not those with which it was written")
    try:
        return pyarrow.parquet.read_table(pyarrow.BufferReader(content), columns=columns and list(columns))
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise damaged(path, str(error).splitlines()[0]) from None


def damaged(path: Path, why: str) -> DamagedError:
    """What to say of a table of the cache that is not what it was."""
    return DamagedError(f"{path} is damaged ({why}); delete it and run: {remake_command(Path(path))}")


def remake_command(path: Path) -> str:
    """The command that makes a table of `cache/<dataset>`: of a stage, in its folder, or of a run's scores."""
    folder = path.parent
    if folder.parent.name == "scores":
        cache = folder.parent.parent
        return f"python -m eval.run --run {cache / 'runs' / folder.name} --shards {cache}"
    if path.stem in ("keyframes", "triplets"):
        return f"dvc repro {path.stem}@{folder.name}"
    return f"dvc repro {folder.name}@{folder.parent.name}"
