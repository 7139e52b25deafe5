"""What a CLIP trained here learns from: a dataset's train frames and captions."""

# Axes: B batch, S image side.

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import files, params, progress
from pipeline.files import DecodeError, MissingError
from pipeline.scratch.recipe import Recipe

VIEWS = 4  # frames taken from a train video
MOST = 3000  # train videos a CLIP learns from, at most
SMALL = set(
    ["a", "an", "the", "at", "and", "on", "near", "over", "upon", "of", "is", "to", "in", "that", "while", "as"]
)  # words without which phrases are counted


@dataclass
class Corpus:
    """Pictures (items, views, S, S, 3) uint8 with their captions, and items that are only told: lists of captions."""

    pictures: np.ndarray
    captions: list[list[str]]
    told: list[list[str]]

    def texts(self) -> list[str]:
        """Every caption."""
        return [text for item in (*self.captions, *self.told) for text in item]


@dataclass
class Batch:
    """Pictures (B, S, S, 3) uint8, captions (those of the pictures first), and the phrases said of each caption's item."""

    pictures: np.ndarray
    captions: list[str]
    said: Tensor  # (captions, phrases), 0 or 1


def phrases(text: str) -> set[str]:
    """The phrases of one to three words in a text, small words left out."""
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in SMALL]
    return {" ".join(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words) - size + 1)}


def shuffle_phrases(corpus: Corpus, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Batches without end: each pass over the items in another order, one view and one caption each, and some told items."""
    counts: Counter[str] = Counter()
    for item in (*corpus.captions, *corpus.told):
        counts.update(sorted(set().union(*map(phrases, item))))
    number = {phrase: index for index, (phrase, _) in enumerate(counts.most_common(recipe.phrases))}
    said = [
        sorted(number[phrase] for phrase in set().union(*map(phrases, item)) if phrase in number)
        for item in (*corpus.captions, *corpus.told)
    ]
    random = np.random.default_rng(seed)
    items, scripts = len(corpus.captions), recipe.scripts if corpus.told else 0
    size = min(recipe.batch, items)
    while True:
        order = random.permutation(items)
        for at in range(0, items - size + 1, size):
            rows = order[at : at + size]
            views = random.integers(corpus.pictures.shape[1], size=size)
            members = [*rows, *(items + random.integers(max(len(corpus.told), 1), size=scripts))]
            texts, target = [], torch.zeros(len(members), recipe.phrases)
            for line, member in enumerate(members):
                captions = corpus.captions[member] if member < items else corpus.told[member - items]
                texts.append(captions[random.integers(len(captions))])
                target[line, said[member]] = 1
            yield Batch(corpus.pictures[rows, views], texts, target)


def corpus_of(config: dict[str, Any]) -> str:
    """What the corpus is made from, as a hash: the world's version, or the train rows of the manifest."""
    import hashlib

    if config["reader"] == "demo":
        from pipeline.datasets.demo import world

        return f"world {world.VERSION}"
    digest = hashlib.sha256()
    for file, columns in (("items", ["video_id", "hash", "split"]), ("captions", ["caption_id", "text", "split"])):
        table = files.read_table(params.cache_folder(config["name"], "manifest", f"{file}.parquet"), columns)
        for row in zip(*table.to_pydict().values()):
            if row[2] == "train":
                digest.update("\0".join(row).encode())
    return digest.hexdigest()


def read_footage(config: dict[str, Any], recipe: Recipe, seed: int) -> Corpus:
    """The corpus of any other dataset: `VIEWS` frames of each train video, all its captions."""
    items = files.read_table(params.cache_folder(config["name"], "manifest", "items.parquet")).to_pylist()
    rows = files.read_table(params.cache_folder(config["name"], "manifest", "captions.parquet")).to_pylist()
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["video_id"], []).append(row["text"])
    wanted = [item for item in items if item["split"] == "train" and item["video_id"] in texts]
    wanted = Random(seed).sample(wanted, min(len(wanted), MOST))
    tasks = [
        (Path(config["root"]) / item["path"], recipe.size, config["decoder"], item["start"], item["end"])
        for item in wanted
    ]
    pictures, captions = [], []
    with ThreadPoolExecutor(2) as pool:  # decoders leave the interpreter to others
        name = f"{config['name']}: train frames"
        for item, frames in zip(wanted, progress.progress(pool.map(read_frames, tasks), name, "video", len(tasks))):
            if frames is not None:
                pictures.append(frames)
                captions.append(texts[item["video_id"]])
    if not pictures:
        raise MissingError(
            f"{config['name']}: no train video with a caption can be decoded, so no CLIP can be trained on them"
        )
    return Corpus(np.stack(pictures), captions, [])


def read_frames(task: tuple[Path, int, str, float | None, float | None]) -> np.ndarray | None:
    """Some frames of a video (VIEWS, S, S, 3) uint8, repeated where it has fewer; None if it cannot be decoded."""
    from pipeline.video.decode import decode

    path, size, decoder, start, end = task
    try:
        frame = decode(path, VIEWS, size, start=start, end=end, decoder=decoder).frame.numpy()
    except DecodeError:  # the visual stage says why
        return None
    return frame[np.arange(VIEWS) % len(frame)]
