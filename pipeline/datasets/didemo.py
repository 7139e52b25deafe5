"""DiDeMo: unedited home videos, all descriptions of a video joined to one paragraph, the first 31 seconds."""

from pathlib import Path
from typing import Any

from pipeline.datasets import SPLITS, Caption, Item, media

END = 31.0  # seconds: videos were cut to 30 s for annotation (CLIP4Clip takes 0 to 31)
DATA = "in data/ of https://github.com/LisaAnne/LocalizingMoments"
LISTS = "see misc/datasets/didemo of https://github.com/albanie/collaborative-experts"
EXPECTED = {"train": 8392, "val": 1065, "test": 1004}  # the lists that papers use


def expected(config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Counts of videos; each has one caption."""
    return {split: {"videos": EXPECTED[split], "captions": EXPECTED[split]} for split in parts(config)}


def parts(config: dict[str, Any]) -> list[str]:
    """The splits to read, all of them unless `splits` in params.yaml names some."""
    chosen = config.get("splits") or SPLITS
    if unknown := set(chosen) - set(SPLITS):
        raise ValueError(
            f"datasets.{config['name']}.splits names {', '.join(sorted(unknown))}; it may name {', '.join(SPLITS)}"
        )
    return [split for split in SPLITS if split in chosen]


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every listed video with its file, if one is there, and its paragraph."""
    root = Path(config["root"])
    found = media.videos(root)
    items, captions = [], []
    data = {f"{split}_data.json": DATA for split in parts(config)}
    lists = {f"{split}_list.txt": LISTS for split in parts(config)}
    media.require_annotations(root, data | lists)
    for split in parts(config):
        said = descriptions(media.annotation(root, f"{split}_data.json"))
        for name in media.read_lines(media.annotation(root, f"{split}_list.txt")):
            video_id = media.key(name)
            known = video_id in said
            items.append(
                Item(
                    video_id,
                    split,
                    path=found.get(video_id, [""])[0],
                    start=0.0,
                    end=END,
                    problem="" if known else "unknown id",
                    detail="" if known else f"{name} is in {split}_list.txt but not in {split}_data.json",
                )
            )
            if known:
                captions.append(Caption(video_id, 0, " ".join(said[video_id]), parts=said[video_id]))
    return items, captions


def descriptions(path: Path) -> dict[str, list[str]]:
    """Descriptions of each video in the order of the JSON, by file name without extension; empty ones are left out.

    Names must lose their extensions here: 29 videos of val and 33 of test are in the JSON under two of them, and whoever
    matches whole names drops a part of their descriptions.
    """
    found: dict[str, list[str]] = {}
    data = media.read_json(path)
    if not isinstance(data, list):
        raise ValueError(f"{path}: expected a list of annotations, got {type(data).__name__}; {media.MEND}")
    for number, row in enumerate(data):
        where = f"{path}, annotation {number}"
        name, text = (media.field(row, column, where) for column in ("video", "description"))
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"{where}: `video` and `description` must be text, got {str(row)[:80]}")
        sentences = found.setdefault(media.key(name), [])
        if text.strip():
            sentences.append(text.strip())
    return found
