"""Readers, one file a dataset: each turns a folder and its annotations into items and captions."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

SPLITS = ("train", "val", "test")
READERS = ("demo", "msrvtt", "msvd", "didemo", "folder")


@dataclass(frozen=True)
class Item:
    """One video or photo of a protocol, whether its file is there or not."""

    video_id: str
    split: str  # train | val | test
    path: str = ""  # relative to the dataset's root, or absolute; "" if no file was found
    kind: str = "video"  # or image
    start: float | None = None  # seconds; None is the file's own start and end
    end: float | None = None
    group: str | None = None  # look-alikes share one
    group_kind: str | None = None  # what its look-alikes differ in, where the reader knows: a word
    problem: str = ""  # a reader's reason to reject the item, in a few words
    detail: str = ""


@dataclass(frozen=True)
class Caption:
    """One caption; `parts` are what to parse separately, the whole text where it is None."""

    video_id: str
    index: int  # position among the captions of its video, as the annotations order them
    text: str
    parts: list[str] | None = None
    problem: str = ""
    detail: str = ""


def load(reader: str) -> ModuleType:
    """The module of one reader: `read(config) -> (items, captions)`, maybe `prepare(root, config)`, `expected(config)`.

    `expected` gives the protocol's counts, {split: {"videos": n, "captions": n}}, without what no protocol fixes.
    """
    if reader not in READERS:
        raise ValueError(f"no reader {reader!r}; `reader` of a dataset in params.yaml is one of: {', '.join(READERS)}")
    return importlib.import_module(f"{__name__}.{reader}")


def expected(module: ModuleType, config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The protocol's counts, empty for a dataset without a protocol."""
    return module.expected(config) if hasattr(module, "expected") else {}


def known_facts(module: ModuleType, config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Of each caption, by its id, what is known to be true and is said by it: {shape: ball, ...}. Empty where nobody knows."""
    return module.facts(config) if hasattr(module, "facts") else {}
