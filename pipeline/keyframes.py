"""Stage keyframes: the frame of each video that looks most like all its others, which makes text-image-video triplets.

`python -m pipeline.export` writes them as JPEGs beside a table of text, image and video, the dataset of UniTriM 4.1.1.
"""

# Axes: N frames of a video, D embedding.

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, progress, shards, stage
from pipeline.files import MissingError, ShardError, lock, write_table

TIE = 1e-9  # row sums closer than rounding are equal: two frames always tie


@dataclass(frozen=True)
class Keyframe:
    """The chosen frame of a video: `score` is its mean cosine with all N frames, itself among them."""

    index: int
    score: float
    margin: float | None  # score minus the runner-up's; None where there is one frame


def pick(frame: np.ndarray) -> Keyframe:
    """The keyframe of (N, D) frames: arg max of the row sums of their cosine matrix (UniTriM 4.1.1).

    A row sum is the frame's cosine with the sum of all unit frames, so the matrix is never made. Ties go to the first.
    """
    frame = np.asarray(frame, dtype=np.float64)
    if len(frame) == 0 or not np.isfinite(frame).all():
        raise ValueError(f"expected at least one frame of finite numbers (N, D), got {frame.shape}")
    unit = frame / np.maximum(np.linalg.norm(frame, axis=1, keepdims=True), 1e-12)
    score = (unit * unit.sum(axis=0)).sum(axis=1) / len(unit)
    index = int(np.argmax(score >= score.max() - TIE))
    rest = np.delete(score, index)
    return Keyframe(index, float(score[index]), max(0.0, float(score[index] - rest.max())) if len(rest) else None)


def pick_keyframes(shard: shards.Shard) -> list[dict[str, Any]]:
    """A row of keyframes.parquet for every video of a visual shard."""
    found = []
    for video in shards.stored_videos(shard):
        try:
            chosen = pick(video["frame"])
        except ValueError as error:
            raise ShardError(f"{shard.path}: {video.video_id}: {error}") from None
        time = float(video["time"][chosen.index])
        found.append({"video_id": video.video_id, "time": time, **asdict(chosen)})
    return found


def build_table(found: list[dict[str, Any]]) -> Any:
    """keyframes.parquet: video_id, index among the video's frames, time in seconds, margin, score; sorted by video_id."""
    import pyarrow

    kinds = dict(index=pyarrow.int32(), time=pyarrow.float64(), margin=pyarrow.float32(), score=pyarrow.float32())
    schema = pyarrow.schema([("video_id", pyarrow.string()), *kinds.items()])
    return pyarrow.Table.from_pylist(sorted(found, key=lambda row: row["video_id"]), schema=schema)


def update_keyframes(cache: Path) -> None:
    """Write keyframes.parquet of `cache/<dataset>`. Errors: MissingError where there are no shards."""
    paths = shards.shard_paths(cache / "visual")
    if not paths:
        raise MissingError(f"{cache / 'visual'} has no shards; run: dvc repro visual@{cache.name}")
    with lock(cache / "keyframes.parquet"):
        opened = [shards.Shard(path, "visual") for path in paths]
        shards.prove_shards(cache, opened)
        found = [row for shard in progress.progress(opened, "keyframes", "shard") for row in pick_keyframes(shard)]
        write_table(cache / "keyframes.parquet", build_table(found))


@stage.command
def main() -> None:
    args = stage.parse_arguments(__doc__)
    params.read_dataset(args.dataset)
    cache = params.cache_folder(args.dataset)
    stage.require(cache / "visual", "visual", args.dataset)
    update_keyframes(cache)


if __name__ == "__main__":
    main()
