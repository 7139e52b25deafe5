"""Bring the text shards up to date: keep the rows whose fingerprint still holds, encode the rest."""

# Axes: L words of a caption, D embedding.

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline import progress
from pipeline.files import WHOLE, Slice, UniTriMError
from pipeline.shards import layout, reader, writer
from pipeline.shards.rows import describe_changes, fingerprint, phrase_key

PHRASES_PER_CHUNK = 4096  # phrases encoded before the next are saved to disk: what a crash costs


class WordEncoder(Protocol):
    """What the shards ask of the encoder that fills them."""

    dimension: int

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that an encoded text depends on beside the text itself."""

    def __call__(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text its token ids (L,) int32 and word tokens (L, D) float16."""


def list_phrases(captions: list[dict[str, Any]]) -> list[str]:
    """The distinct phrases of all captions by their keys, as phrases.h5 holds them."""
    found: dict[int, str] = {}
    for phrase in {phrase for row in captions for phrase in row["phrases"]}:
        other = found.setdefault(phrase_key(phrase), phrase)
        if other != phrase:
            raise UniTriMError(f"the phrases {phrase!r} and {other!r} have one key; reword one of them")
    return [found[key] for key in sorted(found)]


def outline_rows(rows: list[dict[str, Any]], encoder: WordEncoder) -> dict[str, Any]:
    """The tensors of one shard that no encoder makes: which captions, of what texts, with which triplets."""
    base = encoder_fingerprint(encoder.identity)
    triplet = [np.array([phrase_key(phrase) for phrase in row["phrases"]], np.int64) for row in rows]
    return {
        "caption_id": [row["caption_id"] for row in rows],
        "video_id": [row["video_id"] for row in rows],
        "fingerprint": [fingerprint(base, row["text"]) for row in rows],
        "triplet_offset": to_offsets(triplet),
        "triplet": np.concatenate([np.zeros(0, np.int64), *triplet]),
    }


def encode_rows(
    rows: list[dict[str, Any]],
    outline: dict[str, Any],
    old: dict[str, tuple[np.ndarray, np.ndarray]],
    encoder: WordEncoder,
) -> tuple[dict[str, Any], int]:
    """Tensors of one shard, and how many of its captions were kept from `old` {fingerprint: (token, word)}."""
    fingerprints = outline["fingerprint"]
    missing = {mark: row["text"] for mark, row in zip(fingerprints, rows) if mark not in old}
    reused = sum(mark in old for mark in fingerprints)
    # two captions with the same text have the same fingerprint: it is encoded once, and both rows get it
    features = old | dict(zip(missing, encoder(list(missing.values()))))
    token = [features[mark][0] for mark in fingerprints]
    word = [features[mark][1] for mark in fingerprints]
    nothing = np.zeros((0, encoder.dimension), np.float16)
    return outline | {
        "sentence": np.stack([values[-1] for values in word]) if rows else nothing,
        "word_offset": to_offsets(word),
        "word": np.concatenate([nothing, *word]),
        "token": np.concatenate([np.zeros(0, np.int32), *token]),
    }, reused


def to_offsets(parts: list[np.ndarray]) -> np.ndarray:
    """Where each part begins in their concatenation, and its end: (len + 1) int64."""
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)


def read_known(old: reader.Shard | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{fingerprint: (token, word)} of an earlier, sound shard."""
    if old is None:
        return {}
    # plain arrays over the same memory: a slice of a memmap costs thirty times as much
    ends, token, word = (np.asarray(old[name]) for name in ("word_offset", "token", "word"))
    spans = zip(ends[:-1].tolist(), ends[1:].tolist())
    return {mark: (token[a:b], word[a:b]) for mark, (a, b) in zip(old["fingerprint"], spans)}


def is_same(old: reader.Shard | None, outline: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """Whether an earlier, sound shard already is what would be written (equal fingerprints are equal words)."""
    return (
        old is not None
        and all(old.attributes.get(name) == value for name, value in attributes.items())
        and all(old[name] == outline[name] for name in ("caption_id", "video_id", "fingerprint"))
        # triplets come from a parser, not from the text alone, so that no fingerprint speaks for them
        and all(np.array_equal(old[name], outline[name]) for name in ("triplet_offset", "triplet"))
    )


def update_phrases(
    path: Path,
    spare: Path,
    distinct: list[str],
    encoder: WordEncoder,
    attributes: dict[str, Any],
    part: Slice = WHOLE,
    kind: str = "phrases",
) -> int:
    """Write phrases.h5 (or another table) with one embedding a distinct phrase; returns how many had to be encoded.

    Encoded chunks wait in `spare` until the whole is written, so that a crash costs one chunk. A slice encodes its part of the
    phrases and leaves them there.
    """
    have: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # token ids (L,) and embedding (D,)
    for source in [path, *sorted(spare.glob("*.h5"))]:
        old = reader.read_sound(source, kind, encoder=encoder_fingerprint(encoder.identity))
        # an earlier release wrote no token ids: such a file is made anew
        if old is not None and (kind != "phrases" or "token" in old.names):
            ids: list[Any] = [None] * len(old)
            if kind == "phrases":
                ids = np.split(np.asarray(old["token"]), np.asarray(old["token_offset"])[1:-1])
            have |= dict(zip(old["phrase"], zip(ids, np.asarray(old["embedding"]))))
    missing = [phrase for phrase in distinct if phrase not in have and part.has(phrase_key(phrase))]
    attributes = attributes | {"encoder": encoder_fingerprint(encoder.identity)}
    meter = progress.Progress(len(missing), "phrases", "phrase")
    for chunk in split_chunks(missing, PHRASES_PER_CHUNK):
        rows = [(token, word[-1]) for token, word in encoder(chunk)]
        have |= dict(zip(chunk, rows))
        if len(missing) > PHRASES_PER_CHUNK or not part.whole:  # a single chunk is in phrases.h5 a moment later
            name = fingerprint(*chunk)[:16]  # by content: a rerun with other chunks overwrites nothing it still needs
            writer.write(spare / f"{name}.h5", kind, phrase_tensors(kind, chunk, rows, encoder), attributes)
        meter.add(len(chunk))
    meter.close()
    if not part.whole:
        return len(missing)
    if missing or len(have) != len(distinct) or not path.exists():
        rows = [have[phrase] for phrase in distinct]
        writer.write(path, kind, phrase_tensors(kind, distinct, rows, encoder), attributes)
    return len(missing)


def phrase_tensors(
    kind: str, phrases: list[str], rows: list[tuple[np.ndarray, np.ndarray]], encoder: WordEncoder
) -> dict[str, Any]:
    """The tensors of a table of phrases, each given with its token ids (L,) and its embedding (D,).

    `kind` phrases holds the ids, for runs that own the text tower; no run reads others.
    """
    made = {
        "key": np.array([phrase_key(phrase) for phrase in phrases], np.int64),
        "phrase": phrases,
        "embedding": np.concatenate([np.zeros((0, encoder.dimension), np.float16), *(row[None] for _, row in rows)]),
    }
    if kind == "phrases":
        ids = [token for token, _ in rows]
        made |= {"token_offset": to_offsets(ids), "token": np.concatenate([np.zeros(0, np.int32), *ids])}
    return made


def encoder_fingerprint(identity: dict[str, Any]) -> str:
    """Fingerprint of everything but the text that an encoded text depends on."""
    return fingerprint(*(f"{key}={value}" for key, value in identity.items()))


def explain_text(folder: Path, captions: list[dict[str, Any]], encoder: WordEncoder, name: str) -> str:
    """Why the row of a caption, or of each caption of a video, stands or is made anew: a sentence each."""
    wanted = [row for row in captions if name in (row["caption_id"], row["video_id"])]
    if not wanted:
        return f"{name} is no caption and no video of the manifest; its rows, if there are any, will be dropped"
    held: dict[str, tuple[reader.Shard, int]] = {}
    for path in layout.shard_paths(folder):
        shard = reader.read_sound(path, "text")
        if shard is None:
            print(f"{path} is damaged; its rows will be made anew")
        else:
            held |= {caption: (shard, row) for row, caption in enumerate(shard["caption_id"])}
    table = reader.read_sound(folder / "phrases.h5", "phrases")
    whole = table is not None and "token" in table.names  # an earlier release wrote no token ids
    known = None if not whole else dict(zip(table["key"].tolist(), table["phrase"]))
    return "\n".join(explain_text_row(row, held.get(row["caption_id"]), known, encoder) for row in wanted)


def explain_text_row(
    caption: dict[str, Any],
    held: tuple[reader.Shard, int] | None,
    known: dict[int, str] | None,
    encoder: WordEncoder,
) -> str:
    """What differs between a caption's row, if there is one, and what would be written now; `known`: phrases by their keys."""
    name = caption["caption_id"]
    if held is None:
        return f"{name} has no row yet; it will be encoded"
    shard, row = held
    then = {key: shard.attributes.get(key) for key in encoder.identity}
    changes = describe_changes(then, encoder.identity)
    if shard["fingerprint"][row] != fingerprint(encoder_fingerprint(then), caption["text"]):
        changes.append(f"its text has changed, to “{caption['text']}”")
    if changes:
        return f"{name} will be encoded anew: {'; '.join(changes)}"
    first, last = shard["triplet_offset"][row : row + 2]
    keys = shard["triplet"][first:last].tolist()
    if keys != [phrase_key(phrase) for phrase in caption["phrases"]]:
        were = ", ".join((known or {}).get(key, "a phrase that phrases.h5 does not hold") for key in keys)
        are = ", ".join(caption["phrases"])
        return (
            f"{name} keeps its words; its triplets alone have changed, in triplets.parquet, and will be written anew: they "
            f"were {were or 'none'} and are {are or 'none'}"
        )
    if known is None or not known.keys() >= set(keys):
        return f"{name} keeps its row; phrases.h5 is damaged or another one and will be written anew"
    return f"{name} is up to date ({shard.path}, row {row})"


def split_chunks(items: list[str], size: int) -> Iterator[list[str]]:
    """`items` in pieces of `size`."""
    return (items[at : at + size] for at in range(0, len(items), size))
