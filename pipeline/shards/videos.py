"""Single videos in the visual shards: their tokens, times, thumbnails and keyframes."""

# Axes: F frames of a shard, N frames of one video, P patches, D embedding.

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import MissingError, read_table
from pipeline.shards import layout, reader
from pipeline.shards.proofs import prove_shards


@dataclass(frozen=True)
class StoredVideo:
    """One video of a visual shard. Its tensors are views of the file: nothing is read before it is used."""

    shard: reader.Shard
    row: int

    @property
    def video_id(self) -> str:
        """Its name."""
        return self.shard["video_id"][self.row]

    @property
    def frames(self) -> slice:
        """Where its N frames lie among the F frames of the shard."""
        first, last = self.shard["offset"][self.row : self.row + 2]
        return slice(int(first), int(last))

    def __getitem__(self, name: str) -> NDArray:
        """Its part of a tensor that has a row a frame: `frame` (N, D), `patch` (N, P, D), `time` (N,)."""
        return self.shard[name][self.frames]

    def jpegs(self) -> list[NDArray]:
        """Its N thumbnails, each the bytes of a JPEG."""
        frames = self.frames
        edges = self.shard["jpeg_offset"][frames.start : frames.stop + 1].tolist()
        return [self.shard["jpeg"][first:last] for first, last in zip(edges, edges[1:])]


def stored_videos(shard: reader.Shard) -> Iterator[StoredVideo]:
    """The videos of a visual shard, in order."""
    return (StoredVideo(shard, row) for row in range(len(shard)))


class VideoReader:
    """Frames, times, thumbnails and keyframes of single videos, found in the visual shards."""

    def __init__(self, folder: Path):
        opened = [reader.Shard(path, "visual") for path in layout.shard_paths(folder / "visual")]
        prove_shards(folder, opened)
        self.videos = {video.video_id: video for shard in opened for video in stored_videos(shard)}
        if not self.videos:
            raise MissingError(f"{folder} has no visual shards; run: dvc repro visual@{folder.name}")
        self.keyframe = read_columns(folder / "keyframes.parquet", "video_id", "index")

    def times(self, name: str) -> NDArray:
        """(N,) seconds of a video's frames."""
        return np.asarray(self.videos[name]["time"])

    def frame(self, name: str) -> NDArray:
        """(N, D) float32 frame tokens of a video."""
        return np.asarray(self.videos[name]["frame"], np.float32)

    def jpeg(self, name: str, index: int) -> bytes:
        """Thumbnail of one frame."""
        return self.videos[name].jpegs()[index].tobytes()

    def similarity(self, name: str) -> NDArray:
        """(N, N) cosines between a video's frames."""
        frame = self.frame(name)
        unit = frame / np.linalg.norm(frame, axis=1, keepdims=True).clip(1e-6)
        return unit @ unit.T


def read_columns(path: Path, key: str, value: str) -> dict[str, Any]:
    """Two columns of a table as a dictionary."""
    table = read_table(path, [key, value]).to_pydict()
    return dict(zip(table[key], table[value]))
