"""The table of tensors: what a shard holds, by name, type and axes."""

from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np

from pipeline.files import ShardError

EMBEDDINGS = {
    "visual": ("frame", "patch", "hidden"),
    "text": ("sentence", "word"),
    "phrases": ("embedding",),
    "lexicon": (),
    "spans": ("without_noun", "without_verb"),
    "removed": ("embedding",),
}
FORMAT = 1  # of the file layout; a reader refuses any other
TEXT = "str"
TENSORS = {
    "visual": {
        "video_id": (TEXT, "V"),
        "fingerprint": (TEXT, "V"),
        "offset": ("int64", "V+1"),  # frames of video v: offset[v] to offset[v + 1]
        "frame": ("float16", "F D"),  # CLS, after final layer norm and projection, not normalised
        "patch": ("float16", "F P D"),
        "hidden": ("float16", "F P+1 W"),  # what enters CLIP's block L - tail, CLS first; only where `tail` asks for it
        "time": ("float64", "F"),  # seconds
        "jpeg": ("uint8", "J"),  # thumbnails, one after another
        "jpeg_offset": ("int64", "F+1"),
    },
    "text": {
        "caption_id": (TEXT, "C"),
        "video_id": (TEXT, "C"),
        "fingerprint": (TEXT, "C"),
        "sentence": ("float16", "C D"),  # EOT
        "word_offset": ("int64", "C+1"),
        "word": ("float16", "L D"),  # SOT to EOT
        "token": ("int32", "L"),
        "triplet_offset": ("int64", "C+1"),
        "triplet": ("int64", "M"),  # keys of phrases, found in text/phrases.h5 by np.searchsorted(key, triplet)
    },
    "phrases": {
        "key": ("int64", "U"),  # rising; `phrase_key` of the phrase, so that a phrase more or less changes no other's
        "phrase": (TEXT, "U"),
        "embedding": ("float16", "U D"),
        "token_offset": ("int64", "U+1"),
        "token": ("int32", "T"),  # SOT to EOT, for a trainer that runs the text tower itself
    },
    "lexicon": {
        "caption_id": (TEXT, "C"),
        "video_id": (TEXT, "C"),
        "fingerprint": (TEXT, "C"),
        "piece_offset": ("int64", "C+1"),
        "piece": ("int32", "L"),  # ids in the masked language model's vocabulary, [CLS] to [SEP]
    },
    "spans": {
        "caption_id": (TEXT, "C"),
        "video_id": (TEXT, "C"),
        "fingerprint": (TEXT, "C"),
        "without_noun_offset": ("int64", "C+1"),
        "without_noun": ("float16", "A D"),  # SOT to EOT of the caption without its nouns; none of one that has no noun
        "noun_offset": ("int64", "C+1"),
        "noun": ("int64", "N"),  # keys of the removed nouns, found in spans/removed.h5 by np.searchsorted(key, noun)
        "without_verb_offset": ("int64", "C+1"),
        "without_verb": ("float16", "B D"),
        "verb_offset": ("int64", "C+1"),
        "verb": ("int64", "E"),
    },
    "removed": {
        "key": ("int64", "U"),
        "phrase": (TEXT, "U"),
        "embedding": ("float16", "U D"),  # EOT
    },
}
# a shard may hold them or not: `hidden` where `tail` asks for it; files of an earlier release have no phrases' token ids
OPTIONAL = {"visual": ("hidden",), "phrases": ("token_offset", "token")}
OFFSETS = {  # an offset tensor and the axis that it cuts
    "visual": {"offset": "F", "jpeg_offset": "J"},
    "text": {"word_offset": "L", "triplet_offset": "M"},
    "phrases": {"token_offset": "T"},
    "lexicon": {"piece_offset": "L"},
    "spans": {"without_noun_offset": "A", "noun_offset": "N", "without_verb_offset": "B", "verb_offset": "E"},
    "removed": {},
}
ROWS = "row_checksum"  # beside the tensors of every shard, written by `write`: which rows of a damaged shard are still good
KEYS = {
    "visual": "video_id",
    "text": "caption_id",
    "phrases": "phrase",
    "lexicon": "caption_id",
    "spans": "caption_id",
    "removed": "phrase",
}
TABLES = {  # of embeddings that rows name by keys: the folder, the file, and which tensors of which kind name them
    "phrases": ("text", "phrases.h5", ("triplet",)),
    "removed": ("spans", "removed.h5", ("noun", "verb")),
}
ATTRIBUTES = {  # every shard says how it was made; a writer may add more
    "visual": ("dataset", "clip", "clip_sha256", "version", "frames", "sampling", "decoder", "resize", "precision"),
    "text": ("dataset", "clip", "clip_sha256", "version", "words", "precision"),
    **dict.fromkeys(
        ("phrases", "spans", "removed"), ("dataset", "clip", "clip_sha256", "version", "words", "precision")
    ),
    "lexicon": ("dataset", "lexicon", "lexicon_sha256", "version", "words"),
}


def tensor_names(kind: str, there: Container[str]) -> list[str]:
    """The tensors of a shard in the order of the table: all that it must hold, and the optional ones that are there."""
    return [name for name in TENSORS[kind] if name in there or name not in OPTIONAL.get(kind, ())]


def offset_names(kind: str, there: Container[str]) -> dict[str, str]:
    """The offset tensors of a shard and the axes that they cut; of optional ones those that are there."""
    return {name: axis for name, axis in OFFSETS[kind].items() if name in there or name not in OPTIONAL.get(kind, ())}


def check_axes(kind: str, shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, int]:
    """The length of each axis, the same in every tensor that has it; ValueError where two disagree."""
    lengths: dict[str, int] = {}
    for name in tensor_names(kind, shapes):
        dtype, axes = TENSORS[kind][name]
        names, shape = axes.split(), shapes[name]
        if len(names) != len(shape):
            raise ShardError(f"{path}: {name}: expected {dtype} ({axes}), got shape {shape}")
        for axis, length in zip(names, shape, strict=True):
            axis, length = (axis[:-2], length - 1) if axis.endswith("+1") else (axis, length)
            if lengths.setdefault(axis, length) != length:
                raise ShardError(f"{path}: {name} {shape} does not fit: axis {axis} is {lengths[axis]} elsewhere")
    for name, axis in OFFSETS[kind].items():
        if (name in shapes) != (axis in lengths):
            raise ShardError(f"{path}: {name} and the tensors that it cuts are not both there")
    return lengths


def check_offsets(what: str, offset: np.ndarray, end: int) -> None:
    """ShardError unless offsets rise from 0 to the length of the axis that they cut."""
    if len(offset) < 1 or offset[0] != 0 or offset[-1] != end or (np.diff(offset) < 0).any():
        raise ShardError(f"{what}: offsets must rise from 0 to {end}")
