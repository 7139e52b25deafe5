"""What a cache holds, in a few digests: whether a run, or its scores, are of these very rows."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet

from pipeline.shards import layout, reader

SPANS = ("without_noun", "noun", "without_verb", "verb")
# the features there are
NEEDS = (
    "sentence",
    "word",
    "triplet",
    "token",
    "triplet_token",
    "piece",
    *SPANS,
    "frame",
    "patch",
    "hidden",
    "image",
    "image_patch",
)
TAUGHT = ("train", "val")  # the splits that a run may read
PHRASES = frozenset({"triplet", "triplet_token"})


def identity(folder: Path, needs: Iterable[str] = NEEDS, splits: Iterable[str] | None = None) -> dict[str, str]:
    """Digests of what the shards hold of the features needed, by part: fingerprints say content, sampling, CLIP and version.

    What is not needed is not there, so that other triplets change nothing for a method that reads none; nor, with `splits`, are
    the videos and captions of other splits. While the files stand as they are, a process reads them once.
    """
    own = None if splits is None else frozenset(splits)
    return dict(identity_of(folder, frozenset(needs), own, marks(folder)))


def marks(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes whenever a file does that `identity` reads: it is replaced as a whole."""
    paths = [folder / "manifest" / "items.parquet", folder / "keyframes.parquet"]
    paths += [path for kind in ("visual", "text", "spans", "lexicon") for path in layout.shard_paths(folder / kind)]
    found = [(str(path), path.stat()) for path in paths if path.exists()]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found)


@lru_cache(maxsize=32)
def identity_of(folder: Path, needs: frozenset[str], wanted: frozenset[str] | None, _: Any) -> dict[str, str]:
    """`identity`, of files that stand so."""
    items = pyarrow.parquet.read_table(folder / "manifest" / "items.parquet", columns=["video_id", "split"]).to_pydict()
    split = {name: own for name, own in zip(items["video_id"], items["split"]) if wanted is None or own in wanted}
    parts = {"splits": [list(split.items())], "text": [], "triplet": [], "visual": []}
    for path in layout.shard_paths(folder / "visual"):
        shard = reader.Shard(path, "visual")
        parts["visual"].append(rows_of(split, shard["video_id"], shard["video_id"], shard["fingerprint"]))
    for path in layout.shard_paths(folder / "text"):
        shard = reader.Shard(path, "text")
        parts["text"].append(rows_of(split, shard["video_id"], shard["caption_id"], shard["fingerprint"]))
        if needs & PHRASES:
            edges, keys = shard["triplet_offset"].tolist(), shard["triplet"].tolist()
            own = [keys[a:b] for a, b in zip(edges, edges[1:])]
            parts["triplet"].append(rows_of(split, shard["video_id"], shard["caption_id"], own))
    if needs & PHRASES and (folder / "triplets.parquet").exists():  # the same parse says which words are verbs
        parsed = pyarrow.parquet.read_table(folder / "triplets.parquet", columns=["video_id", "caption_id", "verbs"])
        parts["triplet"].append(rows_of(split, *parsed.to_pydict().values()))
    if needs & set(SPANS):
        found = [reader.Shard(path, "spans") for path in layout.shard_paths(folder / "spans")]
        parts["spans"] = [rows_of(split, one["video_id"], one["caption_id"], one["fingerprint"]) for one in found]
    if "piece" in needs:
        found = [reader.Shard(path, "lexicon") for path in layout.shard_paths(folder / "lexicon")]
        parts["lexicon"] = [rows_of(split, one["video_id"], one["caption_id"], one["fingerprint"]) for one in found]
    if needs & {"hidden", "image_hidden"}:
        tails = {
            reader.Shard(path, "visual").attributes.get("tail", 0) for path in layout.shard_paths(folder / "visual")
        }
        parts["tail"] = [[(tail,) for tail in tails]]  # the hidden states of two tails differ where the rows do not
    if needs & {"image", "image_patch", "image_hidden"}:
        keyframes = pyarrow.parquet.read_table(folder / "keyframes.parquet", columns=["video_id", "index"]).to_pydict()
        parts["image"] = [rows_of(split, keyframes["video_id"], keyframes["video_id"], keyframes["index"])]
    return {name: digest_rows(rows) for name, rows in parts.items() if name != "triplet" or needs & PHRASES}


def rows_of(split: dict[str, str], video: list[str], *columns: list[Any]) -> list[list[Any]]:
    """Rows of some columns, of the videos in `split`; one that the manifest has no more is no part of any."""
    return [row for name, *row in zip(video, *columns) if name in split]


def digest_rows(groups: Iterable[Iterable[Iterable]]) -> str:
    """One digest of rows of text and numbers, whatever the files they are spread over."""
    rows = sorted("\t".join(map(str, row)) for group in groups for row in group)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=16).hexdigest()
