"""A small complete cache of random features in which a caption knows its video: for tests that need no pipeline."""

import json
from pathlib import Path

import numpy as np
import pyarrow

from pipeline import shards
from pipeline.files import read_table, write, write_table

SPLITS = ("train", "train", "val", "test")
SHA = "5e" * 32
VERBS = ("moves", "grows", "shrinks", "blinks", "appears")


def taken(path: Path, kind: str) -> tuple[dict[str, object], dict[str, object]]:
    """A shard's tensors, free to be changed and written again, and its attributes."""
    tensors = shards.read(path, kind)
    own = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in tensors.items()}
    return own, shards.Shard(path, kind).attributes


def cache(
    folder: Path,
    videos: int = 24,
    captions_per_video: int = 2,
    dimension: int = 16,
    patches: int = 4,
    frames: int = 3,
    seed: int = 0,
    *,
    ragged: bool = True,
    rejected: int = 0,
    count: int = 4,
    noise: float = 0.3,
) -> Path:
    """Write `folder` (its name is the dataset's) as a `cache/<dataset>` with `count` shards, and return it.

    Half of the videos are train, a quarter val, a quarter test. Each video has a hidden vector; its frames, patches, image,
    sentence, words and triplets are that vector seen through a fixed random map each, plus noise. `ragged`: videos have 1 to
    `frames` frames; otherwise all have `frames`. The last `rejected` videos are in the manifest and in visual/rejects.parquet.
    """
    folder = Path(folder)
    world = World(np.random.default_rng(seed), videos, dimension, patches, frames, ragged, noise)
    names = [f"video{index:04d}" for index in range(videos)]
    captions = [(f"{name}#{index:03d}", name, index) for name in names for index in range(captions_per_video)]
    kept = names[: videos - rejected]
    _manifest(folder, names, captions, world)
    _visual(folder, kept, names[len(kept) :], world, count)
    _text(folder, captions, world, count)
    _spans(folder, captions, world, count)
    facts = {"name": "random", "path": None, "revision": None, "sha256": SHA, "image_size": 32, "patch_size": 16}
    facts |= {"patches": patches, "dimension": dimension, "context": 32}
    write(folder / "clip" / "clip.json", json.dumps(facts, indent=1))
    return folder


class World:
    """What each video and caption looks like."""

    def __init__(self, random, videos, dimension, patches, frames, ragged, noise):
        self.random, self.noise, self.dimension, self.patches = random, noise, dimension, patches
        self.hidden = random.normal(size=(videos, dimension))
        self.frames = random.integers(1, frames + 1, videos) if ragged else np.full(videos, frames)
        self.most = frames
        kinds = ("frame", "patch", "sentence", "word", "triplet")
        self.maps = {kind: random.normal(size=(dimension, dimension)) / dimension**0.5 for kind in kinds}

    def see(self, kind, video, *shape):
        """float16 (*shape, D): the video's hidden vector through the map of `kind`, with noise."""
        clean = self.hidden[int(video[-4:])] @ self.maps[kind]
        return (clean + self.noise * self.random.normal(size=(*shape, self.dimension))).astype(np.float16)

    def phrases(self, video):
        """One to three phrases; the first is shared by every fifth video."""
        index = int(video[-4:])
        return [f"thing {VERBS[index % 5]}", f"thing {index} left of thing", f"thing {index} red"][: 1 + index % 3]


def _attributes(folder, **more):
    return {"dataset": folder.name, "clip": "random", "clip_sha256": SHA, "version": 1, "precision": "fp32"} | more


def _manifest(folder, names, captions, world):
    rows = len(names)
    items = {
        "video_id": names,
        "path": [f"{name}.mp4" for name in names],
        "split": [SPLITS[index % 4] for index in range(rows)],
        "kind": ["video"] * rows,
        "hash": [shards.fingerprint(name) for name in names],
        "size": pyarrow.array([1000] * rows, pyarrow.int64()),
        "start": pyarrow.array([None] * rows, pyarrow.float64()),
        "end": pyarrow.array([None] * rows, pyarrow.float64()),
        "group": [f"group{index // 8}" for index in range(rows)],
        "group_kind": [("motion", "swap", None)[index // 8 % 3] for index in range(rows)],
    }
    write_table(folder / "manifest" / "items.parquet", pyarrow.table(items))
    split = dict(zip(names, items["split"]))
    texts = [f"thing {int(video[-4:])} {VERBS[index % 5]}" for _, video, index in captions]
    table = {
        "caption_id": [name for name, _, _ in captions],
        "video_id": [video for _, video, _ in captions],
        "split": [split[video] for _, video, _ in captions],
        "index": pyarrow.array([index for _, _, index in captions], pyarrow.int32()),
        "text": texts,
        "parts": [[text] for text in texts],
    }
    write_table(folder / "manifest" / "captions.parquet", pyarrow.table(table))
    _rejects(folder / "manifest" / "rejects.parquet", [])
    facts = {"dataset": folder.name, "reader": "random", "counts": {"videos": rows, "captions": len(captions)}}
    write(folder / "manifest" / "manifest.json", json.dumps(facts))

    parsed = {
        "caption_id": table["caption_id"],
        "video_id": table["video_id"],
        "parser": ["shallow"] * len(captions),
        "fallback": [False] * len(captions),
        "triplets": pyarrow.array(
            [
                [dict(zip(("subject", "relation", "object", "kind"), ("thing", "do", phrase, "relation")))]
                for _, video, _ in captions
                for phrase in world.phrases(video)[:1]
            ]
        ),
        "phrases": [world.phrases(video) for _, video, _ in captions],
        "nouns": pyarrow.array([[[0, 5]]] * len(captions), pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
        "verbs": pyarrow.array(
            [[[text.rindex(" ") + 1, len(text)]] for text in texts], pyarrow.list_(pyarrow.list_(pyarrow.int32()))
        ),
    }
    write_table(folder / "triplets.parquet", pyarrow.table(parsed))


def _rejects(path, names):
    columns = {"id": names, "stage": ["visual"] * len(names), "reason": ["unreadable"] * len(names), "detail": names}
    fields = {name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()}
    write_table(path, pyarrow.table(fields))


def _visual(folder, names, rejected, world, count):
    made = {"frames": world.most, "sampling": "uniform", "decoder": "pyav", "resize": "bicubic"}
    keyframes = {"video_id": names, "index": [], "time": [], "margin": [], "score": []}
    parts = {name: [] for name in range(count)}
    for name in names:
        frames = int(world.frames[int(name[-4:])])
        parts[shards.shard_number(name, count)].append((name, frames))
        keyframes["index"].append(frames // 2)
        keyframes["time"].append(float(frames // 2))
    for shard, videos in parts.items():
        counts = [frames for _, frames in videos]
        total = sum(counts)
        empty = np.empty((0, world.dimension), np.float16)
        tensors = {
            "video_id": [name for name, _ in videos],
            "fingerprint": [shards.fingerprint(name) for name, _ in videos],
            "offset": np.cumsum([0, *counts]),
            "frame": [empty] + [world.see("frame", name, frames) for name, frames in videos],
            "patch": [empty[:, None].repeat(world.patches, 1)]
            + [world.see("patch", name, frames, world.patches) for name, frames in videos],
            "time": np.concatenate([[0.0][:0], *(np.arange(frames, dtype=float) for frames in counts)]),
            "jpeg": np.zeros(total, np.uint8),
            "jpeg_offset": np.arange(total + 1),
        }
        shards.write(shards.shard_path(folder / "visual", shard), "visual", tensors, _attributes(folder, **made))
    _rejects(folder / "visual" / "rejects.parquet", rejected)
    index = pyarrow.array(keyframes["index"], pyarrow.int32())
    ones = pyarrow.array([1.0] * len(names), pyarrow.float32())
    write_table(
        folder / "keyframes.parquet", pyarrow.table(keyframes | {"index": index, "margin": ones, "score": ones})
    )


def _text(folder, captions, world, count):
    of = {phrase: video for _, video, _ in reversed(captions) for phrase in world.phrases(video)}
    phrases = sorted(of, key=shards.phrase_key)
    embedding = np.concatenate([world.see("triplet", of[phrase], 1) for phrase in phrases])
    made = _attributes(folder, words=32)
    key = np.array([shards.phrase_key(phrase) for phrase in phrases])
    ids = [np.arange(len(phrase.split()) + 2, dtype=np.int32) for phrase in phrases]
    whole = {"key": key, "phrase": phrases, "embedding": embedding}
    whole |= {"token_offset": np.cumsum([0, *map(len, ids)]), "token": np.concatenate(ids)}
    shards.write(folder / "text" / "phrases.h5", "phrases", whole, made)
    parts = {name: [] for name in range(count)}
    for name, video, index in captions:
        length = 4 + (int(video[-4:]) + 3 * index) % 9
        parts[shards.shard_number(video, count)].append((name, video, length))
    empty = np.empty((0, world.dimension), np.float16)
    for shard, rows in parts.items():
        words = [world.see("word", video, length) for _, video, length in rows]
        sentence = [world.see("sentence", video, 1) for _, video, _ in rows]
        for word, eot in zip(words, sentence):
            word[-1] = eot[0]  # EOT is the sentence
        picked = [[shards.phrase_key(phrase) for phrase in world.phrases(video)] for _, video, _ in rows]
        tensors = {
            "caption_id": [name for name, _, _ in rows],
            "video_id": [video for _, video, _ in rows],
            "fingerprint": [shards.fingerprint(name) for name, _, _ in rows],
            "sentence": [empty, *sentence],
            "word_offset": np.cumsum([0, *map(len, words)]),
            "word": [empty, *words],
            "token": np.concatenate([[0][:0], *(np.arange(len(word)) for word in words)]).astype(np.int32),
            "triplet_offset": np.cumsum([0, *map(len, picked)]),
            "triplet": np.array([row for rows_of_one in picked for row in rows_of_one], np.int64),
        }
        shards.write(shards.shard_path(folder / "text", shard), "text", tensors, made)


def _spans(folder, captions, world, count):
    """A noun of three and a verb of five; the captions of every third video have no verb."""
    made = _attributes(folder, words=32)
    nouns = ("thing", "ball", "box")
    lost = sorted({*nouns, *VERBS}, key=shards.phrase_key)
    embedding = world.random.normal(size=(len(lost), world.dimension)).astype(np.float16)
    key = np.array([shards.phrase_key(word) for word in lost])
    table = {"key": key, "phrase": lost, "embedding": embedding}
    shards.write(folder / "spans" / "removed.h5", "removed", table, made)
    parts = {name: [] for name in range(count)}
    for name, video, _ in captions:
        parts[shards.shard_number(video, count)].append((name, video, int(video[-4:])))
    for shard, rows in parts.items():
        said = {
            "noun": [[nouns[index % 3]] for _, _, index in rows],
            "verb": [[VERBS[index % 5]] * (index % 3 > 0) for _, _, index in rows],
        }
        tensors = {
            "caption_id": [name for name, _, _ in rows],
            "video_id": [video for _, video, _ in rows],
            "fingerprint": [shards.fingerprint(name) for name, _, _ in rows],
        }
        for kind, words in said.items():
            left = [world.see("word", row[1], 5 * len(own)) for row, own in zip(rows, words)]
            keys = [shards.phrase_key(word) for own in words for word in own]
            tensors |= {
                f"without_{kind}": [np.empty((0, world.dimension), np.float16), *left],
                f"without_{kind}_offset": np.cumsum([0, *map(len, left)]),
                kind: np.array(keys, np.int64),
                f"{kind}_offset": np.cumsum([0, *map(len, words)]),
            }
        shards.write(shards.shard_path(folder / "spans", shard), "spans", tensors, made)


def lexicon(folder: Path, count: int = 4, words: int = 40, width: int = 16) -> Path:
    """Give a cache a lexicon: a random masked language model of `words` words, and captions whose pieces are hashes of words."""
    import torch

    from pipeline.encoders.masked import checksum, write_weights

    made, home = torch.Generator().manual_seed(0), folder / "lexicon"

    def random(*shape):
        return 0.3 * torch.randn(*shape, generator=made)

    sizes = {"qkv": (3 * width, width), "out": (width, width), "wide": (2 * width, width), "narrow": (width, 2 * width)}
    tensors = {"word": random(words, width), "position": random(64, width), "bias": random(words)}
    tensors |= {"head.dense.weight": random(width, width), "head.dense.bias": random(width)}
    for name in ("norm", "head.norm", "blocks.0.norm_attention", "blocks.0.norm_mlp"):
        tensors |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    for name, size in sizes.items():
        tensors |= {f"blocks.0.{name}.weight": random(*size), f"blocks.0.{name}.bias": random(size[0])}
    shape = {"vocabulary": words, "width": width, "heads": 2, "layers": 1, "hidden": 2 * width, "positions": 64}
    write_weights(
        home / "lexicon.safetensors", tensors, {"sha256": SHA, "shape": shape, "mask": 4, "special": [0, 1, 2, 3, 4]}
    )
    write(home / "vocabulary.json", json.dumps([f"word{index}" for index in range(words)]))
    record = {"name": "random", "sha256": SHA, "files_sha256": SHA} | shape
    record["checksums"] = {name: checksum(home / name) for name in ("lexicon.safetensors", "vocabulary.json")}
    write(home / "lexicon.json", json.dumps(record))
    parts = {shard: [] for shard in range(count)}
    for row in read_table(folder / "manifest" / "captions.parquet").to_pylist():
        ids = [5 + shards.phrase_key(word) % (words - 5) for word in row["text"].split()]
        parts[shards.shard_number(row["video_id"], count)].append((row["caption_id"], row["video_id"], [2, *ids, 3]))
    attributes = {"dataset": folder.name, "lexicon": "random", "lexicon_sha256": SHA, "version": "1", "words": 32}
    for shard, rows in parts.items():
        tensors = {
            "caption_id": [name for name, _, _ in rows],
            "video_id": [video for _, video, _ in rows],
            "fingerprint": [shards.fingerprint(name) for name, _, _ in rows],
            "piece_offset": np.cumsum([0, *(len(ids) for _, _, ids in rows)]),
            "piece": np.array([one for _, _, ids in rows for one in ids], np.int32),
        }
        shards.write(shards.shard_path(home, shard), "lexicon", tensors, attributes)
    return folder
