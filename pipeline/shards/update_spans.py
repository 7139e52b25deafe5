"""Bring the spans shards up to date: each caption without its nouns and without its verbs, and which words were removed."""

# Axes: L words of a shortened caption, D embedding.

import re
from typing import Any

import numpy as np

from pipeline.shards import reader
from pipeline.shards.rows import describe_changes, fingerprint, phrase_key
from pipeline.shards.update_text import WordEncoder, encoder_fingerprint, to_offsets

VERSION = "1"
KINDS = ("noun", "verb")


def shorten(text: str, spans: list[list[int]]) -> str:
    """The text without some spans [start, end) of its characters, and without the room that they leave."""
    kept, at = [], 0
    for start, end in sorted(spans):
        kept.append(text[at:start])
        at = max(at, end)
    return " ".join(" ".join([*kept, text[at:]]).split())


def split_words(caption: dict[str, Any]) -> dict[str, Any]:
    """A caption {caption_id, video_id, text, nouns, verbs} with what is left without either, and the removed words.

    `without_noun` and `without_verb` are None where there was nothing to remove; words are in lower case, each once, in order.
    """
    made = {"caption_id": caption["caption_id"], "video_id": caption["video_id"]}
    for kind in KINDS:
        spans = caption[f"{kind}s"]
        words = (" ".join(caption["text"][start:end].lower().split()) for start, end in spans)
        made[kind] = [word for word in dict.fromkeys(words) if re.search(r"\w", word)]
        made[f"without_{kind}"] = shorten(caption["text"], spans) if made[kind] else None
    return made | {"phrases": made["noun"] + made["verb"]}


def mark(base: str, row: dict[str, Any]) -> str:
    """The fingerprint of a row of `split_words`."""
    return fingerprint(base, VERSION, *(row[name] for kind in KINDS for name in (kind, f"without_{kind}")))


def outline_spans(rows: list[dict[str, Any]], encoder: WordEncoder) -> dict[str, Any]:
    """The tensors of one shard of rows of `split_words` that no encoder makes: which captions, of what words."""
    base = encoder_fingerprint(encoder.identity)
    return {
        "caption_id": [row["caption_id"] for row in rows],
        "video_id": [row["video_id"] for row in rows],
        "fingerprint": [mark(base, row) for row in rows],
    }


def encode_spans(
    rows: list[dict[str, Any]], outline: dict[str, Any], old: reader.Shard | None, encoder: WordEncoder
) -> tuple[dict[str, Any], int]:
    """Tensors of one shard of rows of `split_words`, and how many of them were kept from an earlier sound shard."""
    fingerprints = outline["fingerprint"]
    known = {name: at for at, name in enumerate(old["fingerprint"])} if old else {}
    missing = [row for name, row in zip(fingerprints, rows) if name not in known]
    texts = [row[f"without_{kind}"] for row in missing for kind in KINDS]
    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    encoded = {text: word for text, (_, word) in zip(distinct, encoder(distinct))}
    nothing = np.zeros((0, encoder.dimension), np.float16)
    tensors = dict(outline)
    for kind in KINDS:
        name = f"without_{kind}"
        held = read_parts(old, name)
        word = [
            held[known[own]] if own in known else encoded.get(row[name], nothing)
            for own, row in zip(fingerprints, rows)
        ]
        key = [np.array([phrase_key(each) for each in row[kind]], np.int64) for row in rows]
        tensors |= {f"{name}_offset": to_offsets(word), name: np.concatenate([nothing, *word])}
        tensors |= {f"{kind}_offset": to_offsets(key), kind: np.concatenate([np.zeros(0, np.int64), *key])}
    return tensors, len(rows) - len(missing)


def read_parts(old: reader.Shard | None, name: str) -> list[np.ndarray]:
    """Each row's part of a ragged tensor of an earlier, sound shard."""
    if old is None:
        return []
    # a plain array over the same memory: a slice of a memmap costs thirty times as much
    ends, value = np.asarray(old[f"{name}_offset"]).tolist(), np.asarray(old[name])
    return [value[first:last] for first, last in zip(ends, ends[1:])]


def is_same_spans(old: reader.Shard | None, tensors: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """Whether an earlier, sound shard already is what would be written: equal fingerprints are equal words."""
    return (
        old is not None
        and all(old.attributes.get(name) == value for name, value in attributes.items())
        and all(old[name] == tensors[name] for name in ("caption_id", "video_id", "fingerprint"))
    )


def explain_spans(row: dict[str, Any], held: tuple[reader.Shard, int] | None, encoder: WordEncoder) -> str:
    """Why a caption's row stands or is made anew."""
    name = row["caption_id"]
    if held is None:
        return f"{name} has no row yet; it will be encoded"
    shard, at = held
    then = {key: shard.attributes.get(key) for key in encoder.identity}
    changes = describe_changes(then, encoder.identity)
    if shard["fingerprint"][at] != mark(encoder_fingerprint(then), row):
        changes.append("its text, its nouns or its verbs have changed")
    if changes:
        return f"{name} will be encoded anew: {'; '.join(changes)}"
    return f"{name} is up to date ({shard.path}, row {at})"
