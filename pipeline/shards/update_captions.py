"""Bring shards of captions up to date, whichever kind: read what stands, ask for the rows, write what differs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import progress
from pipeline.files import WHOLE, Slice
from pipeline.shards import layout, reader, writer

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Tally:
    """What became of captions and shards."""

    captions: int
    kept: int
    written: int
    shards: int

    def rows(self, made: str) -> str:
        """How many captions were kept, and how many `made`, a participle."""
        return f"{self.captions} captions = {self.kept} kept + {self.captions - self.kept} {made}"

    def files(self) -> str:
        """How many shards were written."""
        return f"{self.written} of {self.shards} shards written"


def update_captions(
    folder: Path,
    kind: str,
    captions: Rows,
    encode: Callable[[Rows, reader.Shard | None], tuple[dict[str, Any], int]],
    is_same: Callable[[reader.Shard | None, dict[str, Any]], bool],
    attributes: dict[str, Any],
    count: int,
    part: Slice = WHOLE,
) -> Tally:
    """Write those of `count` shards that are not as `encode` makes them.

    encode: the rows of a shard, and the earlier sound one if there is one -> its tensors, and how many rows were kept.
    """
    # every shard number has a group, also an empty one: a shard that has lost its last caption must be written empty
    groups: dict[int, Rows] = {shard: [] for shard in part.of(count)}
    captions = [row for row in captions if part.has(layout.shard_number(row["video_id"], count))]
    for row in sorted(captions, key=lambda row: row["caption_id"]):
        groups[layout.shard_number(row["video_id"], count)].append(row)
    kept = written = 0
    meter = progress.Progress(len(captions), kind, "caption")
    for shard, rows in groups.items():
        path = layout.shard_path(folder, shard)
        old = reader.read_sound(path, kind)
        tensors, reused = encode(rows, old)
        kept += reused
        if not is_same(old, tensors):
            writer.write(path, kind, tensors, attributes)
            written += 1
        meter.add(len(rows))
    meter.close()
    if part.whole:
        for path in layout.shard_paths(folder):
            if int(path.stem) >= count:  # left by a run with more shards; its rows are in others now
                path.unlink()
    return Tally(len(captions), kept, written, len(groups))
