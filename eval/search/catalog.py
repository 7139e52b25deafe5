"""The items of a library as they stand in its shards, also while these are still being written."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import read_table
from pipeline.keyframes import pick
from pipeline.shards import Shard, StoredVideo, prove_shards, read_columns, shard_paths, stored_videos

State = tuple[int, int, int]  # size, mtime in nanoseconds, inode


@dataclass(frozen=True)
class Item:
    """One photo or video that can be found."""

    id: str  # its name in the manifest
    key: str  # what the server calls it: nothing of the name, so that a browser never names a path
    path: str  # relative to the root, or absolute
    split: str
    photo: bool
    keyframe: int  # index among its frames
    mark: str  # all that its encoded row depends on
    row: StoredVideo
    start: float | None = None  # seconds of the file, where the item is a part of it
    end: float | None = None
    taken: str | None = None
    place: tuple[float, float] | None = None
    duration: float | None = None

    @property
    def part(self) -> bool:
        """Whether it is a part of a longer film."""
        return self.end is not None

    @property
    def folder(self) -> str:
        """The folder that it lies in, relative to the root; empty at the root."""
        return os.path.dirname(self.path)


class Catalog:
    """Reads which items there are; asked again it opens only shards that are new or were replaced."""

    def __init__(self, shards: Path):
        self.shards = shards
        self.opened: dict[Path, tuple[State, Shard]] = {}
        self.clip_sha256: str | None = None
        self.frames = 0

    def stamp(self) -> tuple:
        """What changes when the items do."""
        paths = [*shard_paths(self.shards / "visual"), *self.tables()]
        return tuple((path, look(path)) for path in paths)

    def tables(self) -> list[Path]:
        """The tables beside the shards."""
        names = ("manifest/items.parquet", "manifest/media.parquet", "keyframes.parquet")
        return [self.shards / name for name in names]

    def open_shards(self) -> list[Shard]:
        """The visual shards there are, each proven once."""
        paths, now = shard_paths(self.shards / "visual"), {}
        for path in paths:
            state = look(path)
            before = self.opened.get(path)
            now[path] = before if before and before[0] == state else (state, Shard(path, "visual"))
        fresh = [shard for path, (_, shard) in now.items() if self.opened.get(path) is not now[path]]
        prove_shards(self.shards, fresh)
        for shard in fresh:
            for name in shard.names:
                _ = shard[name]  # mapped now: the file may be replaced while its rows are still wanted
        self.opened = now
        return [shard for _, shard in now.values()]

    def read(self, split: str = "all") -> list[Item]:
        """Items of a split that the manifest lists and a shard holds, in the manifest's order."""
        shards = self.open_shards()
        rows = {video.video_id: video for shard in shards for video in stored_videos(shard)}
        if shards:
            self.clip_sha256 = shards[0].attributes["clip_sha256"]
            longest = [int(np.diff(shard["offset"]).max(initial=1)) for shard in shards]
            self.frames = max(longest + [int(shard.attributes["frames"]) for shard in shards])
        items, media, keyframes = self.tables()
        if not rows or not items.exists():
            return []
        chosen = read_columns(keyframes, "video_id", "index") if keyframes.exists() else {}
        facts = {row["video_id"]: row for row in read_table(media).to_pylist()} if media.exists() else {}
        found = []
        for listed in read_table(items).to_pylist():
            name = listed["video_id"]
            if name in rows and split in ("all", listed["split"]):
                found.append(self.item(listed, rows[name], chosen.get(name), facts.get(name, {})))
        return found

    def item(self, listed: dict[str, Any], row: StoredVideo, keyframe: int | None, facts: dict[str, Any]) -> Item:
        """One item from its rows in the tables."""
        count = row.frames.stop - row.frames.start
        mark = row.shard["fingerprint"][row.row]
        if keyframe is None or keyframe >= count:  # the stage that picks keyframes comes after all are encoded
            keyframe = pick(row["frame"]).index
        spot = (facts.get("latitude"), facts.get("longitude"))
        duration = facts.get("duration") if listed["end"] is None else listed["end"] - (listed["start"] or 0.0)
        return Item(
            id=listed["video_id"],
            key=hashlib.blake2b(listed["video_id"].encode(), digest_size=8).hexdigest(),
            path=listed["path"],
            split=listed["split"],
            photo=listed["kind"] == "image",
            keyframe=int(keyframe),
            mark=f"{mark}:{keyframe}",
            row=row,
            start=listed["start"],
            end=listed["end"],
            taken=facts.get("taken"),
            place=None if None in spot else spot,
            duration=duration if listed["kind"] != "image" else None,
        )


def look(path: Path) -> State | None:
    """What says that a file is still the same; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
