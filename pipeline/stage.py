"""What every stage shares: its dataset's parameters, its lock, whole-or-nothing writes, and progress lines."""

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

CACHE = Path("cache")
PARAMS = Path("params.yaml")
PART = ".part"  # what is being written carries this suffix; nothing with it is ever read


def arguments(doc: str | None, **options: dict[str, Any]) -> argparse.Namespace:
    """Parse `--dataset NAME` and a stage's few own flags, given as `name={argparse keywords}`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name under `datasets` in params.yaml")
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    sys.excepthook = unless_stopped
    return parser.parse_args()


def unless_stopped(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ctrl-C gets a sentence, for every stage goes on where it was; any other end is shown whole."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; the same command goes on from here", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def parameters(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml."""
    import yaml

    if not path.exists():
        raise SystemExit(f"no {path} in {Path.cwd()}; run from the project's root")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SystemExit(f"{path} is not valid YAML: {error}") from None


def dataset(name: str) -> dict[str, Any]:
    """Parameters of one dataset: section `datasets.<name>` over `defaults`, nested sections merged, `root` expanded."""
    whole = parameters()
    known = whole.get("datasets") or {}
    if name not in known:
        raise SystemExit(f"{PARAMS} has no dataset {name!r}; it has: {', '.join(sorted(known))}")
    section = merge(whole.get("defaults") or {}, known[name] or {})
    root = os.path.expandvars(os.path.expanduser(str(section.get("root", ""))))
    if "$" in root:
        variable = root[root.index("$") + 1 :].split("/")[0].strip("{}")
        raise SystemExit(
            f"datasets.{name}.root in {PARAMS} is {section['root']}, and the environment variable {variable} is not set; "
            f"type: export {variable}=/path/to/{name}"
        )
    return section | {"name": name, "root": root}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def folder(name: str, *parts: str) -> Path:
    """`cache/<dataset>/<parts>`."""
    return CACHE.joinpath(name, *parts)


def need(path: Path, stage: str, name: str) -> Path:
    """`path` if it is there; otherwise end with the command that makes it."""
    if not path.exists():
        raise SystemExit(
            f"{path} is missing; run: dvc repro {stage}@{name}   (or python -m pipeline.{stage} --dataset {name})"
        )
    return path


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What has another value now: sentences for `--why`."""
    return [f"{key} was {then.get(key)}, is {value}" for key, value in now.items() if then.get(key) != value]


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


class Progress:
    """A bar on a terminal; elsewhere a plain line every few seconds: count, share, rate, remaining time, a note."""

    def __init__(self, total: int, name: str, unit: str = "item", every: float = 5.0):
        self.total, self.name, self.unit, self.every = total, name, unit, every
        self.count, self.note = 0, ""
        self.begin = self.said = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=name, unit=unit)

    def add(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more; `note` says what the run waits for, or a running figure."""
        self.count += count
        self.note = self.note if note is None else note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.said >= self.every:
            self.say()

    def say(self) -> None:
        """Print one plain line."""
        self.said = time.monotonic()
        rate = self.count / max(self.said - self.begin, 1e-9)
        left = (self.total - self.count) / rate if rate > 0 else 0.0
        share = 100 * self.count / max(self.total, 1)
        line = f"{self.name}: {self.count}/{self.total} {self.unit}s ({share:.0f} %), {rate:.1f}/s, {left:.0f} s left"
        print(f"{line}, {self.note}" if self.note else line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar, or print the last plain line."""
        if self.bar is not None:
            self.bar.close()
        elif self.count:
            self.say()


def progress(items: Iterable[Any], name: str, unit: str = "item", total: int | None = None) -> Iterator[Any]:
    """Iterate with progress."""
    items = items if total is not None or hasattr(items, "__len__") else list(items)
    meter = Progress(len(items) if total is None else total, name, unit)
    try:
        for item in items:
            yield item
            meter.add()
    finally:
        meter.close()
