"""Errors that a person can mend; files that are written whole or not at all; the lock of who writes them."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


class StorageError(UniTriMError):
    """A file system that is full, read-only or somebody else's, or a limit on open files: says which, and what to do."""


class ShardError(UniTriMError):
    """A shard that is missing, damaged, foreign, or does not fit its neighbours."""


class CLIPError(UniTriMError):
    """Weights or a tokenizer that are missing, damaged, or not those that were pinned."""


class LexiconError(UniTriMError):
    """A masked language model or its tokenizer that is missing, damaged, or of a kind that has no place here."""


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
ROWS, ROWS_A_BYTE = 1 << 20, 16  # a Parquet file may have so many, or so many for each of its bytes
TEXT, TEXT_A_BYTE = 1 << 28, 200  # likewise the bytes of its texts
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
OPEN = (errno.EMFILE, errno.ENFILE)
IN_WORDS = re.compile(r"errno = (\d+)|\(os error (\d+)\)")  # of HDF5, of Rust


@dataclass(frozen=True)
class Slice:
    """Part `index` of `count` of a stage's work, counted from 1; 1 of 1 is all of it."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, word: str) -> "Slice":
        """`i/n` as a slice. Errors: ParamsError."""
        index, _, count = word.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ParamsError(f"a slice is i/n with i from 1 to n, as 3/8; not {word!r}")
        return cls(int(index), int(count))

    @property
    def whole(self) -> bool:
        """Whether it is all of the work."""
        return self.count == 1

    @property
    def name(self) -> str:
        """Its name in names of files."""
        return f"{self.index}-of-{self.count}"

    def has(self, number: int) -> bool:
        """Whether a shard, or whatever else is numbered, is in this part."""
        return number % self.count == self.index - 1

    def of(self, shards: int) -> list[int]:
        """The numbers of its shards among `shards`."""
        return list(range(self.index - 1, shards, self.count))


WHOLE = Slice()


@contextlib.contextmanager
def lock(output: Path, part: Slice = WHOLE) -> Iterator[None]:
    """Hold the lock of one stage output (`cache/<dataset>/.locks/<output>`); a second holder is told who has it.

    Slices of one count hold it beside each other; the same slice twice, slices of two counts, and a slice and the whole exclude
    each other. The kernel drops the lock with its process, so a killed stage leaves nothing to clean. Where a shared file system
    has no locks (Lustre mounted without them) nothing is held, and nothing excluded.
    """
    parts = output.parts
    base, name = (Path(*parts[:-1]), parts[-1]) if len(parts) > 1 else (Path("."), parts[0])
    path = base / ".locks" / name
    with contextlib.ExitStack() as held:
        hold(held, path, output, shared=not part.whole)
        if not part.whole:
            hold(held, path.with_name(f"{name}.{part.name}"), f"slice {part.name} of {output}", shared=False)
            # its own lock is held by now, so that of two that start at once at least one sees the other
            for other in sorted(path.parent.glob(f"{name}.*-of-*")):
                if not other.name.endswith(f"-of-{part.count}"):
                    with contextlib.ExitStack() as tried:
                        hold(tried, other, f"slice {other.name.removeprefix(f'{name}.')} of {output}", shared=True)
        yield


def hold(held: contextlib.ExitStack, path: Path, what: Any, shared: bool) -> None:
    """Take a lock file until the stack is left. Errors: LockedError that says who has `what`."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115
    held.enter_context(file)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise LockedError(
            f"{what} is being written by process {file.read().strip() or 'unknown'}; wait for it to end"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    if not shared:
        sign(file)


def sign(file: Any) -> None:
    """Write who holds a lock into its file, for the one who finds it held; a full disk does not matter here."""
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())


@contextlib.contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Give `<path>.part` to write to; on success sync it and rename it to `path`, on failure remove it.

    size: bytes that will be written, about. They are asked for before the writing begins, for HDF5 ends the process and torch
    speaks in riddles where a disk is full. Errors: StorageError.
    """
    part = path.with_name(path.name + PART)
    with storage(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if size:
                reserve(part, size)
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def reserve(path: Path, size: int) -> None:
    """Find out whether a file system has room for a file, by making it."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (*FULL, errno.EFBIG):
                raise


@contextlib.contextmanager
def storage(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what a file system answers to the writing of `path` (`size` bytes) into a StorageError; other errors pass."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  of HDF5, SQLite and Rust, each with a class of its own
        said = explain_storage(error, path, size)
        if said is None:
            raise
        raise StorageError(said) from None


def explain_storage(error: BaseException, path: Path | None, size: int | None = None) -> str | None:
    """A sentence on an error of the file system: which, what is missing, what to do; None for any other error."""
    number = read_errno(error)
    name = path or getattr(error, "filename", None)
    what, home = str(name or "a file"), mount_of(Path(name or "."))
    if number in FULL:
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        lack = f"{megabytes(size - free)} more are missing" if size and size > free else "it needs more than that"
        needs = f" of the {megabytes(size)} that it takes" if size and size > free else ""
        return (
            f"{what} cannot be written: the file system at {home} is full, {megabytes(free)}{needs} are free, {lack}; "
            "make room and type the same command again"
        )
    if number == errno.EROFS:
        return f"{what} cannot be written: the file system at {home} is read-only; copy the cache to one that is not"
    if number in CLOSED:
        why = os.strerror(number).lower()
        return f"{what} cannot be written ({why}): it belongs to {owner(Path(what))}, and this is user {os.geteuid()}"
    if number == errno.EFBIG:
        return f"{what} cannot be written: it would be larger than a file may be here; type: ulimit -f unlimited"
    if number in OPEN:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{what} cannot be opened: this process has the {most} files open that it may have; type: ulimit -n 4096"
    return None


def read_errno(error: BaseException) -> int | None:
    """The number of an error of the operating system, whoever passed it on."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    said = str(error)
    if found := IN_WORDS.search(said):
        return int(found[1] or found[2])
    words = {"disk is full": errno.ENOSPC, "readonly database": errno.EROFS, "Read-only file system": errno.EROFS}
    return next((number for word, number in words.items() if word in said), None)


def mount_of(path: Path) -> Path:
    """Where the file system of a file, there or not, is mounted."""
    path = path.absolute()
    while not os.path.ismount(path):
        path = path.parent
    return path


def owner(path: Path) -> str:
    """Whose a file is, or the folder in which it would be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"user {path.stat().st_uid}"


def megabytes(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def open_to_others(folder: Path) -> None:
    """Give the files of a folder the mode that the umask says; safetensors writes for its user alone."""
    mask = os.umask(0o022)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def leads_out(name: str) -> bool:
    """Whether a path that should lie below a folder does not."""
    return Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name


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
    with replacing(path, len(data)) as part:
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
        return parse_table(content, columns)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise damaged(path, str(error).splitlines()[0]) from None


def parse_table(content: bytes, columns: Iterable[str] | None = None) -> Any:
    """A Parquet file's rows, or some of their columns. A few bytes can stand for terabytes there, by repetition: ValueError
    where rows or texts are many more than a file of that size holds in earnest.
    """
    import pyarrow
    import pyarrow.parquet

    most, largest = max(ROWS, ROWS_A_BYTE * len(content)), max(TEXT, TEXT_A_BYTE * len(content))
    about = pyarrow.parquet.read_metadata(pyarrow.BufferReader(content))
    parts = [
        about.row_group(group).column(column)
        for group in range(about.num_row_groups)
        for column in range(about.num_columns)
    ]
    values = max([about.num_rows, *(part.num_values for part in parts)])
    if values > most:
        raise ValueError(f"it says that it has {values} rows in {len(content)} bytes")
    texts = [part.path_in_schema for part in parts if part.physical_type == "BYTE_ARRAY"]
    if sum(part.total_uncompressed_size for part in parts) > largest:
        raise ValueError(f"it unpacks to more than {largest} bytes")
    if texts and sum(part.total_uncompressed_size * part.num_values for part in parts) > largest:
        folded = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content), read_dictionary=texts).read()
        if sum(map(unfolded_bytes, folded.columns)) > largest:
            raise ValueError(f"its texts unpack to more than {largest} bytes")
    return pyarrow.parquet.read_table(pyarrow.BufferReader(content), columns=columns and list(columns))


def unfolded_bytes(column: Any) -> int:
    """Bytes of a column's texts once each stands for itself, of which equal ones are held once."""
    import pyarrow
    import pyarrow.compute as compute

    total = 0
    for chunk in column.chunks:
        while pyarrow.types.is_list(chunk.type) or pyarrow.types.is_large_list(chunk.type):
            chunk = chunk.flatten()
        if pyarrow.types.is_dictionary(chunk.type):
            sizes = compute.binary_length(chunk.dictionary).cast("int64").take(chunk.indices.drop_null())
            total += compute.sum(sizes).as_py() or 0
        elif pyarrow.types.is_struct(chunk.type):
            fields = [pyarrow.chunked_array([chunk.field(index)]) for index in range(chunk.type.num_fields)]
            total += sum(map(unfolded_bytes, fields))
        else:
            total += chunk.nbytes
    return total


def damaged(path: Path, why: str) -> DamagedError:
    """What to say of a table of the cache that is not what it was."""
    return DamagedError(f"{path} is damaged ({why}); delete it and run: {remake_command(Path(path))}")


def everything_command(name: str) -> str:
    """The one command after another CLIP, and what it runs in which order."""
    return f"dvc repro report@{name}   (which runs clip, visual, keyframes, text, inputs, train, eval and report, in this order)"


def remake_command(path: Path) -> str:
    """The command that makes a table of `cache/<dataset>`: of a stage, in its folder, or of a run's scores."""
    folder = path.parent
    if folder.parent.name == "scores":
        cache = folder.parent.parent
        return f"python -m eval.run --run {cache / 'runs' / folder.name} --shards {cache}"
    if path.stem in ("keyframes", "triplets"):
        return f"dvc repro {path.stem}@{folder.name}"
    return f"dvc repro {folder.name}@{folder.parent.name}"
