"""Single videos in the visual shards: frames, times, thumbnails and keyframes, for pictures and answers."""

# Axes: N frames of one video, D embedding.

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import MissingError, read_table
from pipeline.shards import layout, reader
from pipeline.shards.proofs import prove_shards


class VideoReader:
    """Frames, times, thumbnails and keyframes of single videos, found in the visual shards."""

    def __init__(self, folder: Path):
        self.place: dict[str, tuple[reader.Shard, int]] = {}
        opened = [reader.Shard(path, "visual") for path in layout.shard_paths(folder / "visual")]
        prove_shards(folder, opened)
        for shard in opened:
            self.place |= {name: (shard, row) for row, name in enumerate(shard["video_id"])}
        if not self.place:
            raise MissingError(f"{folder} has no visual shards; run: dvc repro visual@{folder.name}")
        self.keyframe = read_columns(folder / "keyframes.parquet", "video_id", "index")

    def rows(self, name: str) -> tuple[reader.Shard, range]:
        """The shard of a video and its frames' rows in it."""
        shard, row = self.place[name]
        begin, end = shard["offset"][row : row + 2]
        return shard, range(int(begin), int(end))

    def times(self, name: str) -> NDArray:
        """(N,) seconds of a video's frames."""
        shard, rows = self.rows(name)
        return np.asarray(shard["time"][rows.start : rows.stop])

    def frame(self, name: str) -> NDArray:
        """(N, D) float32 frame tokens of a video."""
        shard, rows = self.rows(name)
        return np.asarray(shard["frame"][rows.start : rows.stop], np.float32)

    def jpeg(self, name: str, index: int) -> bytes:
        """Thumbnail of one frame."""
        shard, rows = self.rows(name)
        begin, end = shard["jpeg_offset"][rows[index] : rows[index] + 2]
        return shard["jpeg"][begin:end].tobytes()

    def similarity(self, name: str) -> NDArray:
        """(N, N) cosines between a video's frames."""
        frame = self.frame(name)
        unit = frame / np.linalg.norm(frame, axis=1, keepdims=True).clip(1e-6)
        return unit @ unit.T


def read_columns(path: Path, key: str, value: str) -> dict[str, Any]:
    """Two columns of a table as a dictionary."""
    table = read_table(path, [key, value]).to_pydict()
    return dict(zip(table[key], table[value]))
