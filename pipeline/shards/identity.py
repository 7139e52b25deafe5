"""What a cache holds, in a few digests: whether a run, or its scores, are of these very rows."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

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
    *SPANS,
    "frame",
    "patch",
    "hidden",
    "image",
    "image_patch",
)
PHRASES = frozenset({"triplet", "triplet_token"})


def identity(folder: Path, needs: Iterable[str] = NEEDS) -> dict[str, str]:
    """Digests of what the shards hold of the features needed, by part: fingerprints say content, sampling, CLIP and version.

    What is not needed is not there, so that other triplets change nothing for a method that reads none.
    """
    needs = frozenset(needs)
    items = pyarrow.parquet.read_table(folder / "manifest" / "items.parquet", columns=["video_id", "split"]).to_pydict()
    parts = {"splits": [zip(items["video_id"], items["split"])], "text": [], "triplet": [], "visual": []}
    for path in layout.shard_paths(folder / "visual"):
        shard = reader.Shard(path, "visual")
        parts["visual"].append(zip(shard["video_id"], shard["fingerprint"]))
    for path in layout.shard_paths(folder / "text"):
        shard = reader.Shard(path, "text")
        parts["text"].append(zip(shard["caption_id"], shard["fingerprint"]))
        if needs & PHRASES:
            edges, keys = shard["triplet_offset"].tolist(), shard["triplet"].tolist()
            parts["triplet"].append([(name, keys[a:b]) for name, a, b in zip(shard["caption_id"], edges, edges[1:])])
    if needs & set(SPANS):
        found = [reader.Shard(path, "spans") for path in layout.shard_paths(folder / "spans")]
        parts["spans"] = [zip(shard["caption_id"], shard["fingerprint"]) for shard in found]
    if "piece" in needs:
        parts["lexicon"] = []
        for path in layout.shard_paths(folder / "lexicon"):
            shard = reader.Shard(path, "lexicon")
            parts["lexicon"].append(zip(shard["caption_id"], shard["fingerprint"]))
    if needs & {"hidden", "image_hidden"}:
        tails = {
            reader.Shard(path, "visual").attributes.get("tail", 0) for path in layout.shard_paths(folder / "visual")
        }
        parts["tail"] = [[(tail,) for tail in tails]]  # the hidden states of two tails differ where the rows do not
    if needs & {"image", "image_patch", "image_hidden"}:
        keyframes = pyarrow.parquet.read_table(folder / "keyframes.parquet", columns=["video_id", "index"]).to_pydict()
        parts["image"] = [zip(keyframes["video_id"], keyframes["index"])]
    return {name: digest_rows(rows) for name, rows in parts.items() if name != "triplet" or needs & PHRASES}


def digest_rows(groups: Iterable[Iterable[tuple]]) -> str:
    """One digest of rows of text and numbers, whatever the files they are spread over."""
    rows = sorted("\t".join(map(str, row)) for group in groups for row in group)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=16).hexdigest()
