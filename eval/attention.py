"""Where a method looks for the words that a caption has lost: maps over frames and patches, of a few captions, for the report.

Most methods have none, and attention.json is then an empty list.
"""

# Axes: B captions, N frames, P patches.

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.shards import shard_paths
from train import data

SHOWN = 4  # captions
DIGITS = 3


def describe_attention(method: Any, shards: Path, split: str, device: str) -> list[dict[str, Any]]:
    """Rows of some captions, one kind of word each: caption_id, video_id, kind, map (N, P) of weights from 0 to 1."""
    if not method.needs & {"noun", "verb"} or not shard_paths(shards / "spans"):
        return []
    cache = data.Cache(shards, method.needs, words=method.config.words, triplets=method.config.triplets)
    if cache.tail:
        method.enter(cache.tail)
    rows = choose(cache, cache.captions(split))
    if not len(rows):
        return []
    features = cache.text(rows) | cache.video(cache.video_of[rows])
    found = method.attend({name: tensor.to(device) for name, tensor in features.items()})
    made = []
    for at, row in enumerate(rows.tolist()):
        frames = int(features["frame_mask"][at].sum())
        for kind, (weight, there) in sorted(found.items(), reverse=True):
            if there[at]:
                caption, video = str(cache.caption_id[row]), str(cache.video_id[cache.video_of[row]])
                grid = np.round(weight[at, :frames].cpu().numpy().astype(float), DIGITS).tolist()
                made.append({"caption_id": caption, "video_id": video, "kind": kind, "map": grid})
    return made


def choose(cache: Any, captions: NDArray) -> NDArray:
    """The first captions by a hash of their ids that have lost a word of each kind there is, of different look-alikes."""
    lost = np.ones(len(captions), bool)
    for kind in cache.needs & {"noun", "verb"}:
        lost &= cache.features[kind].counts(captions) > 0
    order = sorted(
        captions[lost].tolist(), key=lambda row: hashlib.blake2b(str(cache.caption_id[row]).encode()).digest()
    )
    picked: dict[str, int] = {}
    for row in order:
        video = cache.video_of[row]
        picked.setdefault(str(cache.group[video] or cache.video_id[video]), row)
    return np.array(list(picked.values())[:SHOWN], np.int64)
