"""Stage manifest: every item and caption of a dataset, its split and content hash, and what had to be left out and why.

The output is the same bytes for the same input. `--check` only prints what the protocol expects and what is there.
"""

import errno
import hashlib
import json
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import datasets, stage
from pipeline.datasets import Caption, Item

CHUNK = 1 << 20  # bytes hashed at a time
SETTLED = 1_000_000_000  # nanoseconds a file must have been left alone before its hash is remembered


@dataclass(frozen=True)
class Reject:
    """Something left out: `reason` is short and countable, `detail` says what a person needs to mend it."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """What was read: items with (hash, size), captions, and the rejects of both, each sorted by id."""

    items: list[tuple[Item, str, int]]
    captions: list[tuple[Caption, str]]  # with the split of its video
    rejected_items: list[Reject]
    rejected_captions: list[Reject]


def build(root: Path, items: list[Item], captions: list[Caption], memo: "Memo") -> Manifest:
    """Keep what is whole and reject the rest: items = kept + rejected, and the same of captions."""
    kept, rejected = sift(root, items, memo)
    split = {item.video_id: item.split for item, _, _ in kept}
    texts, dropped = [], []
    seen: set[str] = set()
    known = {item.video_id for item in items}
    for caption in captions:
        reason, detail = fault(caption, split, known, seen)
        seen.add(caption_id(caption))
        if reason:
            dropped.append(Reject(caption_id(caption), reason, detail))
        else:
            texts.append((caption, split[caption.video_id]))
    if len(kept) + len(rejected) != len(items) or len(texts) + len(dropped) != len(captions):
        raise AssertionError("items or captions were lost on the way")
    kept.sort(key=lambda row: row[0].video_id)
    texts.sort(key=lambda row: caption_id(row[0]))
    order = lambda reject: (reject.id, reject.reason, reject.detail)  # noqa: E731
    return Manifest(kept, texts, sorted(rejected, key=order), sorted(dropped, key=order))


def sift(root: Path, items: list[Item], memo: "Memo") -> tuple[list[tuple[Item, str, int]], list[Reject]]:
    """Items whose file can be read, with its hash and size; and rejects."""
    rejected, hopeful, seen = [], [], {}
    for item in items:
        if item.video_id in seen:
            rejected.append(Reject(printable(item.video_id), "duplicate id", f"also in {seen[item.video_id]}"))
            continue
        seen[item.video_id] = item.split
        if item.problem:
            rejected.append(Reject(printable(item.video_id), item.problem, printable(item.detail)))
        elif not item.path:
            rejected.append(Reject(printable(item.video_id), "missing video", f"no file of that name under {root}"))
        elif printable(item.path) != item.path or printable(item.video_id) != item.video_id:
            rejected.append(
                Reject(printable(item.video_id), "unreadable name", "the file's name is not Unicode; rename it")
            )
        else:
            hopeful.append(item)
    kept = []
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for item, answer in zip(hopeful, pool.map(lambda item: memo.look(root / item.path), hopeful)):
            if isinstance(answer, Reject):
                rejected.append(Reject(item.video_id, answer.reason, f"{item.path}: {answer.detail}"))
            else:
                kept.append((item, *answer))
    return kept, rejected


def fault(caption: Caption, split: dict[str, str], known: set[str], seen: set[str]) -> tuple[str, str]:
    """Why a caption must be left out and what with it, or two empty strings."""
    if caption.problem:
        return caption.problem, ""
    if caption.video_id not in known:
        return "unknown id", f"no item {printable(caption.video_id)}"
    if not isinstance(caption.text, str) or printable(caption.text) != caption.text:
        return "not text", repr(caption.text)[:200]
    if not caption.text.strip():
        return "empty caption", ""
    if caption_id(caption) in seen:
        return "duplicate id", caption.text.strip()[:200]
    if caption.video_id not in split:
        return "video rejected", caption.text.strip()[:200]
    return "", ""


def caption_id(caption: Caption) -> str:
    """`<video_id>#<index>`."""
    return f"{printable(caption.video_id)}#{caption.index:03d}"


def printable(text: str) -> str:
    """Text with what UTF-8 cannot hold (half surrogates, undecodable file names) spelled out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class Memo:
    """Content hashes by path, each good while size, times and inode stand; a file in the cache that only saves time.

    A file changed within the second before it was hashed is not remembered: its times could not tell of another change.
    """

    def __init__(self, path: Path):
        self.path = path
        self.old: dict[str, list[Any]] = {}
        self.new: dict[str, list[Any]] = {}
        self.hashed = 0
        try:
            self.old = json.loads(path.read_text())
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            self.old = {}

    def look(self, path: Path) -> tuple[str, int] | Reject:
        """(hash, size) of a file, or what is wrong with it."""
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return Reject("", "not a file", "a folder" if stat.S_ISDIR(status.st_mode) else "a special file")
            if status.st_size == 0:
                return Reject("", "empty file", "0 bytes")
            mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            remembered = self.old.get(str(path))
            if remembered and remembered[:-1] == mark and os.access(path, os.R_OK):
                self.new[str(path)] = remembered
                return remembered[-1], status.st_size
            begin = time.time_ns()
            content = digest(path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return Reject("", "missing video", "a link to nothing" if path.is_symlink() else "no such file")
            return Reject("", "unreadable", error.strerror or str(error))
        self.hashed += 1
        if begin - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED:
            self.new[str(path)] = [*mark, content]
        return content, status.st_size

    def save(self) -> None:
        """Write what this run saw, if that is anything else than what the last one saw."""
        if self.new != self.old:
            stage.write(self.path, json.dumps(self.new, separators=(",", ":"), sort_keys=True))


def digest(path: Path) -> str:
    """Hash of a file's content (BLAKE2b, 128 bits, hex)."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


def summary(manifest: Manifest, config: dict[str, Any], expected: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What manifest.json holds: the counts by split, the protocol's, and the reasons of rejects."""
    items, captions = count(manifest)
    return {
        "dataset": config["name"],
        "reader": config["reader"],
        "split": config.get("split"),
        "counts": {
            "items": len(manifest.items),
            "videos": sum(item.kind == "video" for item, _, _ in manifest.items),
            "images": sum(item.kind == "image" for item, _, _ in manifest.items),
            "captions": len(manifest.captions),
            "rejected_items": len(manifest.rejected_items),
            "rejected_captions": len(manifest.rejected_captions),
        },
        "splits": {
            split: {"items": items[split], "captions": captions[split]} for split in datasets.SPLITS if items[split]
        },
        "expected": expected,
        "reasons": {
            "items": dict(sorted(Counter(reject.reason for reject in manifest.rejected_items).items())),
            "captions": dict(sorted(Counter(reject.reason for reject in manifest.rejected_captions).items())),
        },
    }


def count(manifest: Manifest) -> tuple[Counter, Counter]:
    """Items and captions by split."""
    return Counter(item.split for item, _, _ in manifest.items), Counter(split for _, split in manifest.captions)


def write(folder: Path, manifest: Manifest, facts: dict[str, Any]) -> None:
    """Write the three tables and manifest.json."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    seconds = pyarrow.float64()
    rows = [
        (i.video_id, i.path, i.split, i.kind, content, size, i.start, i.end, i.group)
        for i, content, size in manifest.items
    ]
    columns = dict(video_id=text, path=text, split=text, kind=text, hash=text, size=number)
    columns |= dict(start=seconds, end=seconds, group=text)
    stage.write_table(folder / "items.parquet", table(rows, columns))
    rows = []
    for caption, split in manifest.captions:
        whole = caption.text.strip()
        parts = [part.strip() for part in caption.parts or [whole] if part.strip()]
        rows.append((caption_id(caption), caption.video_id, split, caption.index, whole, parts))
    columns = dict(
        caption_id=text, video_id=text, split=text, index=pyarrow.int32(), text=text, parts=pyarrow.list_(text)
    )
    stage.write_table(folder / "captions.parquet", table(rows, columns))
    write_rejects(folder, manifest)
    stage.write(folder / "manifest.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def write_rejects(folder: Path, manifest: Manifest) -> None:
    """Write rejects.parquet: items first, then captions."""
    import pyarrow

    rejects = [*manifest.rejected_items, *manifest.rejected_captions]
    rows = [(reject.id, "manifest", reject.reason, reject.detail) for reject in rejects]
    stage.write_table(
        folder / "rejects.parquet", table(rows, dict.fromkeys(("id", "stage", "reason", "detail"), pyarrow.string()))
    )


def table(rows: list[tuple], columns: dict[str, Any]) -> Any:
    """A pyarrow table of rows."""
    import pyarrow

    data = zip(*rows) if rows else ((),) * len(columns)
    return pyarrow.table(
        [pyarrow.array(column, kind) for column, kind in zip(data, columns.values())], names=list(columns)
    )


def too_many(manifest: Manifest, share: float) -> str:
    """What to say if more than `share` of the items were rejected, else an empty string."""
    rejected, total = len(manifest.rejected_items), len(manifest.rejected_items) + len(manifest.items)
    if not total:
        return "no items: the annotations name none and the folder holds none"
    if rejected <= share * total:
        return ""
    return (
        f"{rejected} of {total} items rejected, more than max_rejects ({share:g}): {reasons(manifest.rejected_items)}"
    )


def reasons(rejects: Iterable[Reject]) -> str:
    """Rejects counted by reason, each with an example."""
    rejects = list(rejects)
    examples = {reject.reason: reject.id for reject in reversed(rejects)}
    counts = Counter(reject.reason for reject in rejects).most_common()
    return "; ".join(f"{number} {reason} (as {examples[reason]!r})" for reason, number in counts)


def main() -> None:
    args = stage.arguments(
        __doc__, check=dict(action="store_true", help="print expected and found counts, write nothing")
    )
    config = stage.dataset(args.dataset)
    folder = stage.folder(args.dataset, "manifest")
    with stage.lock(folder):
        try:
            reader = datasets.load(config["reader"])
            if hasattr(reader, "prepare"):
                reader.prepare(Path(config["root"]), config)
            items, captions = reader.read(config)
        except ValueError as error:
            raise SystemExit(f"manifest of {args.dataset}: {error}") from None
        memo = Memo(stage.folder(args.dataset, ".memo") / "manifest.json")
        manifest = build(Path(config["root"]), items, captions, memo)
        memo.save()
        facts = summary(manifest, config, datasets.expected(reader, config))
        if trouble := too_many(manifest, config.get("max_rejects", 0.02)):
            write_rejects(folder, manifest)
            raise SystemExit(
                f"{trouble}; see {folder / 'rejects.parquet'}, mend them or raise max_rejects in params.yaml"
            )
        write(folder, manifest, facts)
    counts = facts["counts"]
    print(
        f"manifest: {counts['items']} items, {counts['captions']} captions; {memo.hashed} files hashed", file=sys.stderr
    )
    for name, rejects in (("items", manifest.rejected_items), ("captions", manifest.rejected_captions)):
        if rejects:
            print(f"manifest: rejected {name}: {reasons(rejects)}", file=sys.stderr)


if __name__ == "__main__":
    main()
