"""Keep the items and captions that are whole, reject the rest with reasons, lose none."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets import Caption, Item
from pipeline.datasets.hashes import HashMemo, Unreadable


@dataclass(frozen=True, order=True)
class RejectRow:
    """Something left out: `reason` is short and countable, `detail` says what a person needs to mend it."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """What was read: items with (hash, size), captions, and the rejects of both, each sorted by id."""

    items: list[tuple[Item, str, int]]
    captions: list[tuple[Caption, str]]  # with the split of its video
    rejected_items: list[RejectRow]
    rejected_captions: list[RejectRow]


def build(root: Path, items: list[Item], captions: list[Caption], memo: HashMemo | None) -> Manifest:
    """Keep what is whole and reject the rest: items = kept + rejected, and the same of captions.

    Without a memo no file is looked at: every item counts as there, with an empty hash.
    """
    kept, rejected = sift(root, items, memo)
    split = {item.video_id: item.split for item, _, _ in kept}
    known = {item.video_id for item in items}
    texts, dropped = [], []
    seen: set[tuple[str, int]] = set()
    for caption in captions:
        if trouble := fault(caption, split, known, seen):
            dropped.append(RejectRow(caption_id(caption), *trouble))
        else:
            texts.append((caption, split[caption.video_id]))
        seen.add((caption.video_id, caption.index))
    if len(kept) + len(rejected) != len(items) or len(texts) + len(dropped) != len(captions):
        raise AssertionError("items or captions were lost on the way")
    kept.sort(key=lambda row: row[0].video_id)
    texts.sort(key=lambda row: caption_id(row[0]))
    return Manifest(kept, texts, sorted(rejected), sorted(dropped))


def sift(root: Path, items: list[Item], memo: HashMemo | None) -> tuple[list[tuple[Item, str, int]], list[RejectRow]]:
    """Items whose file can be read, with its hash and size; and rejects."""
    rejected, hopeful, seen = [], [], {}
    for item in items:
        if trouble := flaw(root, item, seen, memo is not None):
            rejected.append(RejectRow(printable(item.video_id), *trouble))
        else:
            hopeful.append(item)
        seen.setdefault(item.video_id, item.split)
    if memo is None:
        return [(item, "", 0) for item in hopeful], rejected
    kept = []
    for item, answer in zip(hopeful, memo.contents([os.path.join(root, item.path) for item in hopeful])):
        if isinstance(answer, Unreadable):
            rejected.append(RejectRow(item.video_id, answer.reason, f"{item.path}: {answer.detail}"))
        else:
            kept.append((item, *answer))
    return kept, rejected


def flaw(root: Path, item: Item, seen: dict[str, str], wanted: bool) -> tuple[str, str] | None:
    """Why an item must be left out before its file (`wanted` or not) is looked at: reason and detail."""
    if item.video_id in seen:
        return "duplicate id", f"in {item.split}, and before in {seen[item.video_id]}"
    if item.problem:
        return item.problem, printable(item.detail)
    if wanted and not item.path:
        return "missing video", f"no file of that name under {root}"
    if printable(item.path) != item.path or printable(item.video_id) != item.video_id:
        return "unreadable name", "the file's name is not Unicode; rename it"
    return None


def fault(
    caption: Caption, split: dict[str, str], known: set[str], seen: set[tuple[str, int]]
) -> tuple[str, str] | None:
    """Why a caption must be left out: reason and detail."""
    if caption.problem:
        return caption.problem, printable(caption.detail)
    if caption.video_id not in known:
        return "unknown id", f"no item {printable(caption.video_id)}"
    if not isinstance(caption.text, str) or printable(caption.text) != caption.text:
        return "not text", repr(caption.text)[:200]
    if not caption.text.strip():
        return "empty caption", ""
    if (caption.video_id, caption.index) in seen:
        return "duplicate id", caption.text.strip()[:200]
    if caption.video_id not in split:
        return "video rejected", caption.text.strip()[:200]
    return None


def caption_id(caption: Caption) -> str:
    """`<video_id>#<index>`."""
    return f"{printable(caption.video_id)}#{caption.index:03d}"


def printable(text: str) -> str:
    """Text with what UTF-8 cannot hold (half surrogates, undecodable file names) spelled out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
