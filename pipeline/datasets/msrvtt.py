"""MSR-VTT: 10,000 web videos with 20 captions each, under the five splits that papers use."""

import hashlib
from pathlib import Path
from typing import Any

from pipeline.datasets import Caption, Item, media

JSON = "MSRVTT_data.json"
# Each split by name: its list of train videos, its list of test videos, and where a test video's query comes from.
# 9k and 7k test on JSFusion's 1k-A, whose CSV holds one sentence a video; 1k-B (Miech) takes a video's first caption.
LISTS = {
    "9k": ("MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv", "sentence"),
    "7k": ("MSRVTT_train.7k.csv", "MSRVTT_JSFUSION_test.csv", "sentence"),
    "mini": ("MSRVTT_train.csv", "MSRVTT_JSFUSION_test.csv", "sentence"),
    "1k-B": ("train_list_miech.txt", "test_list_miech.txt", "first"),
    "full": (None, None, "all"),  # the split field of the JSON; every test caption is a query
}
ARCHIVE = "in https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msrvtt_data.zip"
SOURCES = {
    "MSRVTT_train.csv": "yours to make: a CSV whose column video_id lists the train videos",
    "train_list_miech.txt": "in the MSR-VTT archive of https://github.com/albanie/collaborative-experts",
    "test_list_miech.txt": "in the MSR-VTT archive of https://github.com/albanie/collaborative-experts",
}
EXPECTED = {
    "9k": {"train": (9000, 180_000), "test": (1000, 1000)},
    "7k": {"train": (7010, 140_200), "test": (1000, 1000)},
    "1k-B": {"train": (6656, 133_120), "test": (1000, 1000)},
    "full": {"train": (6513, 130_260), "val": (497, 9940), "test": (2990, 59_800)},
    "mini": {},
}
FIELD = {"train": "train", "val": "val", "validate": "val", "test": "test"}


def expected(config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Counts of videos and captions of the split, with `val` videos moved out of train (20 captions each)."""
    counts = {
        split: {"videos": videos, "captions": captions} for split, (videos, captions) in EXPECTED[name(config)].items()
    }
    if (val := config.get("val") or 0) and counts:
        counts["train"] = {
            "videos": counts["train"]["videos"] - val,
            "captions": counts["train"]["captions"] - 20 * val,
        }
        counts["val"] = {"videos": val, "captions": 20 * val}
    return counts


def name(config: dict[str, Any]) -> str:
    """The split that params.yaml names, 9k unless it says otherwise."""
    split = str(config.get("split") or "9k")
    if split not in LISTS:
        raise ValueError(f"datasets.{config['name']}.split is {split!r}; MSR-VTT has: {', '.join(LISTS)}")
    return split


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every video of the split with its file, if one is there, and its captions."""
    root, split = Path(config["root"]), name(config)
    media.require_annotations(root, {name: SOURCES.get(name, ARCHIVE) for name in (JSON, *LISTS[split][:2]) if name})
    path = media.annotation(root, JSON)
    videos, captions = annotations(path)
    members, sentences = lists(root, split, videos)
    members = hold_out(members, int(config.get("val") or 0))
    found = media.videos(root)
    items = []
    for video_id, part in members:
        known = video_id in videos
        items.append(
            Item(
                video_id,
                part,
                path=found.get(video_id, [""])[0],
                problem="" if known else "unknown id",
                detail="" if known else f"{video_id} is in the {part} list but not in {path.name}",
            )
        )
    return items, choose(members, captions, sentences, LISTS[split][2])


def annotations(path: Path) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """From the JSON: the split field of each video, and the captions of each video in order."""
    data = media.read_json(path)
    videos = {}
    for number, video in enumerate(media.field(data, "videos", str(path))):
        videos[media.field(video, "video_id", f"{path}, video {number}")] = video.get("split", "")
    captions: dict[str, list[Any]] = {}
    for number, sentence in enumerate(media.field(data, "sentences", str(path))):
        where = f"{path}, sentence {number}"
        captions.setdefault(media.field(sentence, "video_id", where), []).append(
            media.field(sentence, "caption", where)
        )
    return videos, captions


def lists(root: Path, split: str, videos: dict[str, str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(video_id, train | val | test) of every member of a split, and the sentence of each test video that has one.

    videos: the JSON's split field, used by `full` only.
    """
    train, test, query = LISTS[split]
    if query == "all":
        if unknown := sorted({field for field in videos.values() if field not in FIELD}):
            raise ValueError(f"{root}: {JSON} has videos of split {unknown}; expected {', '.join(FIELD)}")
        return [(video_id, FIELD[field]) for video_id, field in videos.items()], {}
    if query == "first":
        members = [(key, part) for part, names in (("train", train), ("test", test)) for key in id_list(root, names)]
        return members, {}
    rows = media.read_csv(media.annotation(root, test), "video_id", "sentence")
    members = [(row["video_id"], "train") for row in media.read_csv(media.annotation(root, train), "video_id")]
    return members + [(row["video_id"], "test") for row in rows], {
        row["video_id"]: row["sentence"] for row in reversed(rows)
    }


def id_list(root: Path, file: str) -> list[str]:
    """The ids of a list file."""
    return media.read_lines(media.annotation(root, file))


def hold_out(members: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Move `count` train videos to val: those whose ids hash lowest, so that nothing else decides which."""
    train = sorted(
        {key for key, part in members if part == "train"}, key=lambda key: hashlib.sha256(key.encode()).digest()
    )
    if count > len(train) // 2:
        raise ValueError(f"`val: {count}` would take more than half of the {len(train)} train videos")
    val = set(train[:count])
    return [(key, "val" if part == "train" and key in val else part) for key, part in members]


def choose(
    members: list[tuple[str, str]], captions: dict[str, list[Any]], sentences: dict[str, str], query: str
) -> list[Caption]:
    """All captions of train and val videos; of a test video what its split calls the query."""
    chosen = []
    split: dict[str, str] = {}
    for video_id, part in members:
        split.setdefault(video_id, part)  # of a repeated id the first counts, as in the manifest
    for video_id, part in split.items():
        texts = captions.get(video_id, [])
        if part == "test" and query == "sentence":
            texts = [sentences[video_id]]
        elif part == "test" and query == "first":
            texts = texts[:1]
        chosen += [Caption(video_id, index, text) for index, text in enumerate(texts)]
    return chosen
