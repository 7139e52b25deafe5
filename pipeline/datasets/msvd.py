"""MSVD: 1,970 short web videos with about 41 captions each; every test caption is a query."""

import pickle
from pathlib import Path
from typing import Any

from pipeline.datasets import SPLITS, Caption, Item, media

CAPTIONS = "raw-captions.pkl"
ARCHIVE = "in https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msvd_data.zip"
MAPPING = "youtube_mapping.txt"  # optional: `<id> vidN`, for video folders that use the short names
EXPECTED = {"train": (1200, 48_774), "val": (100, 4290), "test": (670, 27_763)}
PLAIN = {"list", "dict", "tuple", "set", "frozenset", "str", "int", "float", "bytes", "bytearray", "bool"}


def expected(config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Counts of videos and captions."""
    return {split: {"videos": videos, "captions": captions} for split, (videos, captions) in EXPECTED.items()}


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every listed video with its file, if one is there, and all its captions."""
    root = Path(config["root"])
    lists = [f"{split}_list.txt" for split in SPLITS]
    media.require_annotations(root, dict.fromkeys([CAPTIONS, *lists], ARCHIVE))
    path = media.annotation(root, CAPTIONS)
    texts, found, short = captions(path), media.videos(root), names(root)
    items, spoken = [], []
    for split in SPLITS:
        for video_id in media.read_lines(media.annotation(root, f"{split}_list.txt")):
            known = video_id in texts
            items.append(
                Item(
                    video_id,
                    split,
                    path=(found.get(video_id) or found.get(short.get(video_id, ""), [""]))[0],
                    problem="" if known else "unknown id",
                    detail="" if known else f"{video_id} is in {split}_list.txt but not in {path.name}",
                )
            )
            spoken += [Caption(video_id, index, text) for index, text in enumerate(texts.get(video_id, []))]
    return items, spoken


def names(root: Path) -> dict[str, str]:
    """From id to short name, by the mapping file where there is one."""
    for path in (root / MAPPING, *sorted(root.glob(f"*/{MAPPING}"))):
        if path.is_file():
            pairs = [line.split() for line in media.read_lines(path)]
            if bad := [pair for pair in pairs if len(pair) != 2]:
                raise ValueError(f"{path}: expected `<id> <name>` on each line, got {' '.join(bad[0])!r}")
            return dict(pairs)
    return {}


def captions(path: Path) -> dict[str, list[str]]:
    """Captions of each video from `raw-captions.pkl`: a dictionary from id to lists of words, joined here by spaces."""
    whole = unpickle(path)
    if not isinstance(whole, dict):
        raise ValueError(f"{path}: expected a dictionary from id to captions, got {type(whole).__name__}; {media.MEND}")
    found = {}
    for video_id, texts in whole.items():
        right = isinstance(video_id, str) and isinstance(texts, list | tuple)
        if not right or not all(isinstance(text, str) or is_words(text) for text in texts):
            raise ValueError(
                f"{path}: {video_id!r}: expected a list of captions, each a list of words, got {str(texts)[:80]}"
            )
        found[video_id] = [text if isinstance(text, str) else " ".join(text) for text in texts]
    return found


def is_words(text: Any) -> bool:
    """Whether a list of strings."""
    return isinstance(text, list | tuple) and all(isinstance(word, str) for word in text)


class Plain(pickle.Unpickler):
    """An unpickler of plain values: a pickle can name any function and have it called, so all but containers are refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which captions do not need")

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def unpickle(path: Path) -> Any:
    """The value in a pickle of plain values; ValueError for anything else, and no code of it is run."""
    try:
        with open(path, "rb") as file:
            return Plain(file, encoding="utf-8").load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except (EOFError, IndexError, KeyError, TypeError, ValueError, AttributeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path} is not a whole pickle ({type(error).__name__}: {error}); {media.MEND}") from None
