"""Stage: captions and their triplets -> sentence, word and triplet tensors.

Each distinct caption of a shard and each distinct phrase of the dataset is encoded once. A caption's tensors are kept for as
long as its fingerprint (text, CLIP weights, precision, words, VERSION) stands; the rest is encoded, so that adding a caption
encodes one. Phrases are encoded in chunks that survive a crash.
"""

# Axes: C captions of a shard, L words of a caption, M triplets of a caption, U phrases, D embedding.

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from pipeline import shards, stage
from pipeline.towers import Towers, half, resolve

VERSION = "3"
CHUNK = 4096  # phrases encoded between two safe points


def main() -> None:
    arguments = stage.arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        why={
            "metavar": "ID",
            "help": "say why the row of this caption, or each of this video, is kept or stale, and stop",
        },
    )
    config = stage.dataset(arguments.dataset)
    folder = stage.folder(config["name"], "text")
    manifest = stage.need(stage.folder(config["name"], "manifest", "captions.parquet"), "manifest", config["name"])
    parsed = stage.need(stage.folder(config["name"], "triplets.parquet"), "triplets", config["name"])
    clip = stage.need(stage.folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    try:
        encoder = Encoder(clip.parent, arguments.device, config)
        captions = join(parquet.read_table(manifest), parquet.read_table(parsed, columns=["caption_id", "phrases"]))
        if arguments.why:
            print(why(folder, captions, encoder, arguments.why))
            return
        with stage.lock(folder):
            shards.sweep(folder)
            print(build(folder, captions, encoder, config))
    except ValueError as error:
        raise SystemExit(str(error)) from None


class Encoder:
    """The text tower, loaded when the first text needs it; `identity` is known without it."""

    def __init__(self, folder: Path, device: str | None, config: dict[str, Any]):
        import torch

        self.folder, self.words = folder, config["words"]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        record = json.loads((folder / "clip.json").read_text())
        self.name, self.sha256, self.dimension = record["name"], record["sha256"], record["dimension"]
        self.precision = resolve(config["precision"], self.device)
        self.towers: Any = None
        self.encoded = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What an encoded text depends on beside the text itself."""
        return {
            "clip": self.name,
            "clip_sha256": self.sha256,
            "precision": self.precision,
            "words": self.words,
            "version": VERSION,
        }

    def __call__(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text its token ids (L,) int32 and word tokens (L, D) float16."""
        if not texts:
            return []
        if self.towers is None:
            self.towers = Towers.load(self.folder, self.device, self.precision)
        self.encoded += len(texts)
        return [(token, half(word.numpy())) for token, word in self.towers.texts(texts, self.words)]


def join(captions: Any, parsed: Any) -> list[dict[str, Any]]:
    """Captions in order, each with its phrases; both tables must name the same captions."""
    phrases = dict(zip(parsed["caption_id"].to_pylist(), parsed["phrases"].to_pylist()))
    rows = captions.select(["caption_id", "video_id", "text"]).to_pylist()
    absent = [row["caption_id"] for row in rows if row["caption_id"] not in phrases]
    if absent or len(phrases) != len(rows):
        example = f", {absent[0]} for one" if absent else ""
        raise ValueError(
            f"triplets.parquet has {len(phrases)} captions, the manifest {len(rows)}{example}; run the triplets stage again"
        )
    return [row | {"phrases": phrases[row["caption_id"]]} for row in rows]


def build(folder: Path, captions: list[dict[str, Any]], encoder: Encoder, config: dict[str, Any]) -> str:
    """Write `folder`'s shards and phrases; returns the line that sums the run up."""
    distinct = phrases_of(captions)
    attributes = encoder.identity | {"dataset": config["name"]}
    spare = folder.parent / ".phrases"
    fresh = embed(folder / "phrases.h5", spare, distinct, encoder, attributes)
    attributes["phrases"] = shards.fingerprint(*distinct)  # a text shard holds rows of exactly this list
    number = {phrase: row for row, phrase in enumerate(distinct)}
    groups: dict[int, list[dict[str, Any]]] = {shard: [] for shard in range(config["shards"])}
    for row in sorted(captions, key=lambda row: row["caption_id"]):
        groups[shards.number(row["video_id"], config["shards"])].append(row)
    kept = written = 0
    meter = stage.Progress(len(captions), "text", "caption")
    for shard, rows in groups.items():
        path = shards.file_of(folder, shard)
        old = shards.sound(path, "text")
        tensors, reused = encode(rows, known(old), encoder, number)
        kept += reused
        if not same(old, tensors, attributes):
            shards.write(path, "text", tensors, attributes)
            written += 1
        meter.add(len(rows))
    meter.close()
    for path in shards.files(folder):
        if int(path.stem) >= config["shards"]:
            path.unlink()
    shutil.rmtree(spare, ignore_errors=True)
    return (
        f"text: {len(captions)} captions = {kept} kept + {len(captions) - kept} encoded; "
        f"{len(distinct)} phrases = {len(distinct) - fresh} kept + {fresh} encoded; {written} of {len(groups)} shards written"
    )


def phrases_of(captions: list[dict[str, Any]]) -> list[str]:
    """The distinct phrases of all captions, as phrases.h5 numbers them."""
    return sorted({phrase for row in captions for phrase in row["phrases"]})


def encode(
    rows: list[dict[str, Any]], old: dict[str, tuple[np.ndarray, np.ndarray]], encoder: Encoder, number: dict[str, int]
) -> tuple[dict[str, Any], int]:
    """Tensors of one shard, and how many of its captions were kept from `old` {fingerprint: (token, word)}."""
    base = mark(encoder.identity)
    marks = [shards.fingerprint(base, row["text"]) for row in rows]
    missing = {mark: row["text"] for mark, row in zip(marks, rows) if mark not in old}
    reused = sum(mark in old for mark in marks)
    features = old | dict(zip(missing, encoder(list(missing.values()))))
    token = [features[mark][0] for mark in marks]
    word = [features[mark][1] for mark in marks]
    triplet = [np.array([number[phrase] for phrase in row["phrases"]], np.int32) for row in rows]
    nothing = np.zeros((0, encoder.dimension), np.float16)
    return {
        "caption_id": [row["caption_id"] for row in rows],
        "video_id": [row["video_id"] for row in rows],
        "fingerprint": marks,
        "sentence": np.stack([values[-1] for values in word]) if rows else nothing,
        "word_offset": offsets(word),
        "word": np.concatenate([nothing, *word]),
        "token": np.concatenate([np.zeros(0, np.int32), *token]),
        "triplet_offset": offsets(triplet),
        "triplet": np.concatenate([np.zeros(0, np.int32), *triplet]),
    }, reused


def offsets(parts: list[np.ndarray]) -> np.ndarray:
    """Where each part begins in their concatenation, and its end: (len + 1) int64."""
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)


def known(old: shards.Shard | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{fingerprint: (token, word)} of an earlier, sound shard."""
    if old is None:
        return {}
    spans = zip(old["word_offset"][:-1], old["word_offset"][1:])
    return {mark: (old["token"][a:b], old["word"][a:b]) for mark, (a, b) in zip(old["fingerprint"], spans)}


def same(old: shards.Shard | None, tensors: dict[str, Any], attributes: dict[str, Any]) -> bool:
    """Whether an earlier, sound shard already is what would be written (equal fingerprints are equal words)."""
    return (
        old is not None
        and all(old.attributes.get(name) == value for name, value in attributes.items())
        and all(old[name] == tensors[name] for name in ("caption_id", "video_id", "fingerprint"))
        and all(np.array_equal(old[name], tensors[name]) for name in ("triplet_offset", "triplet"))
    )


def embed(path: Path, spare: Path, distinct: list[str], encoder: Encoder, attributes: dict[str, Any]) -> int:
    """Write phrases.h5 with one embedding a distinct phrase; returns how many had to be encoded.

    Encoded chunks wait in `spare` until the whole is written, so that a crash costs one chunk.
    """
    have: dict[str, np.ndarray] = {}
    for source in [path, *sorted(spare.glob("*.h5"))]:
        old = shards.sound(source, "phrases", encoder=mark(encoder.identity))
        if old is not None:
            have |= dict(zip(old["phrase"], old["embedding"]))
    missing = [phrase for phrase in distinct if phrase not in have]
    attributes = attributes | {"encoder": mark(encoder.identity)}
    meter = stage.Progress(len(missing), "phrases", "phrase")
    for chunk in chunks(missing, CHUNK):
        rows = np.stack([word[-1] for _, word in encoder(chunk)])
        have |= dict(zip(chunk, rows))
        if len(missing) > CHUNK:
            name = shards.fingerprint(*chunk)[:16]
            shards.write(spare / f"{name}.h5", "phrases", {"phrase": chunk, "embedding": rows}, attributes)
        meter.add(len(chunk))
    meter.close()
    nothing = np.zeros((0, encoder.dimension), np.float16)
    embedding = np.concatenate([nothing, *(have[phrase][None] for phrase in distinct)])
    if missing or len(have) != len(distinct) or not path.exists():
        whole = attributes | {"identity": shards.fingerprint(*distinct)}
        shards.write(path, "phrases", {"phrase": distinct, "embedding": embedding}, whole)
    return len(missing)


def mark(identity: dict[str, Any]) -> str:
    """Fingerprint of everything but the text that an encoded text depends on."""
    return shards.fingerprint(*(f"{key}={value}" for key, value in identity.items()))


def why(folder: Path, captions: list[dict[str, Any]], encoder: Encoder, name: str) -> str:
    """Why the row of a caption, or of each caption of a video, stands or is made anew: a sentence each."""
    wanted = [row for row in captions if name in (row["caption_id"], row["video_id"])]
    if not wanted:
        return f"{name} is no caption and no video of the manifest; its rows, if there are any, will be dropped"
    held: dict[str, tuple[shards.Shard, int]] = {}
    for path in shards.files(folder):
        shard = shards.sound(path, "text")
        if shard is None:
            print(f"{path} is damaged; its rows will be made anew")
        else:
            held |= {caption: (shard, row) for row, caption in enumerate(shard["caption_id"])}
    table = shards.sound(folder / "phrases.h5", "phrases")
    now = shards.fingerprint(*phrases_of(captions))
    return "\n".join(compare(row, held.get(row["caption_id"]), table, now, encoder) for row in wanted)


def compare(
    caption: dict[str, Any],
    held: tuple[shards.Shard, int] | None,
    table: shards.Shard | None,
    phrases: str,
    encoder: Encoder,
) -> str:
    """What differs between a caption's row, if there is one, and what would be written now for the list of `phrases`."""
    name = caption["caption_id"]
    if held is None:
        return f"{name} has no row yet; it will be encoded"
    shard, row = held
    then = {key: shard.attributes.get(key) for key in encoder.identity}
    changes = stage.changes(then, encoder.identity)
    if shard["fingerprint"][row] != shards.fingerprint(mark(then), caption["text"]):
        changes.append("its text has changed")
    if changes:
        return f"{name} will be encoded anew: {'; '.join(changes)}"
    first, last = shard["triplet_offset"][row : row + 2]
    if table is None or shard.attributes.get("phrases") != table.attributes.get("identity"):
        return (
            f"{name} keeps its words; its triplets will be numbered anew, because phrases.h5 is damaged or another one"
        )
    if [table["phrase"][number] for number in shard["triplet"][first:last]] != list(caption["phrases"]):
        return f"{name} keeps its words; its triplets have changed and will be written anew"
    if table.attributes.get("identity") != phrases:
        return (
            f"{name} keeps its words and triplets; they will be numbered anew, as other captions' phrases have changed"
        )
    return f"{name} is up to date ({shard.path}, row {row})"


def chunks(items: list[str], size: int) -> Iterator[list[str]]:
    """`items` in pieces of `size`."""
    return (items[at : at + size] for at in range(0, len(items), size))


if __name__ == "__main__":
    main()
