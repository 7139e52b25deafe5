"""Which verbs a caption says, from the triplets stage: which words of a sentence a still picture cannot show."""

# Axes: C captions, Z verbs.

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.files import read_table
from pipeline.shards import ShardError
from train.data.cache import Cache
from train.method import Features

CAPTIONS = 10_000  # of train's, at most, evenly spread
ROWS = 500  # captions read at a time


def verbs_said(cache: Cache, rows: np.ndarray, most: int) -> tuple[list[str], Tensor]:
    """The `most` commonest verbs of some captions, and (C, Z) which caption says which.

    Errors: ShardError where the triplets stage has not been run.
    """
    path = cache.folder / "triplets.parquet"
    if not path.exists():
        raise ShardError(f"{path} is missing; run: dvc repro triplets@{cache.folder.name}")
    table = read_table(path, ["caption_id", "verbs"]).to_pydict()
    spans = dict(zip(table["caption_id"], table["verbs"]))
    said = [
        {text[start:end].lower() for start, end in spans.get(name, ())}
        for name, text in zip(cache.caption_id[rows], cache.caption[rows])
    ]
    count = Counter(verb for verbs in said for verb in verbs)
    names = sorted(count, key=lambda verb: (-count[verb], verb))[:most]
    place = {verb: index for index, verb in enumerate(names)}
    told = torch.zeros(len(said), len(names))
    for row, verbs in enumerate(said):
        for verb in verbs & place.keys():
            told[row, place[verb]] = 1
    return names, told


def told_captions(shards: Path, words: int, triplets: int, most: int) -> Iterator[tuple[Features, Tensor]]:
    """Blocks of train's captions as the shards hold them (sentence, word, triplet), and (C, Z) which verbs each says."""
    cache = Cache(shards, {"sentence", "word", "triplet"}, words=words, triplets=triplets)
    rows = cache.captions("train")
    rows = rows[:: -(-len(rows) // CAPTIONS) or 1]
    _, told = verbs_said(cache, rows, most)
    for at in range(0, len(rows), ROWS):
        yield cache.text(rows[at : at + ROWS]), told[at : at + ROWS]
