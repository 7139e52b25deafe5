"""Why a hit was found: which words and phrases it shows, on which frame, and where in it."""

# Axes: L words of a sentence, N frames, P patches of a frame, D embedding.

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.catalog import Item

END = "</w>"  # behind a piece of text that ends a word, in CLIP's tokenizers


@dataclass(frozen=True)
class WordReason:
    """A word of the query and where the item shows it."""

    text: str
    score: float  # cosine with the patch that shows it best
    frame: int
    time: float | None  # seconds; None of a photo
    map: list[float]  # cosine with each patch of that frame, row by row


@dataclass(frozen=True)
class PhraseReason:
    """A phrase of the query and the frame that shows it best."""

    text: str
    score: float
    frame: int
    time: float | None


@dataclass(frozen=True)
class Why:
    """What of a query an item shows. All figures are cosines of CLIP's own tokens, whatever the method learned over them."""

    key: str
    kind: str  # image or video
    frame: int  # that fits best
    time: float | None
    side: int  # patches along a side of the maps; 0 where they are no square
    words: list[WordReason]
    triplets: list[PhraseReason]


def explain(search: Any, item: Item, sentence: str, kind: str) -> Why:
    """Words and phrases of one sentence on an item's keyframe (`image`) or on all its frames (`video`)."""
    phrases = search.reader.phrases(sentence)
    features = search.reader.features(sentence, phrases)
    ids = search.reader.load().tokenize([sentence], search.reader.words)[0]
    frames = list(range(len(item.row["time"]))) if kind == "video" else [item.keyframe]
    patch = unit(np.asarray(item.row["patch"], np.float32)[frames])  # (N, P, D)
    whole = unit(np.asarray(item.row["frame"], np.float32)[frames])  # (N, D)
    times = np.asarray(item.row["time"])[frames]
    moments = [None if item.photo else float(time) for time in times]
    words = []
    word = unit(features["word"][0].cpu().numpy())  # (L, D), SOT .. EOT
    for text, places in spell(search.reader.load().tokenizer, ids):
        likeness = (patch @ word[places].T).mean(-1)  # (N, P)
        best = int(likeness.max(1).argmax())
        score, shown = float(likeness[best].max()), [round(float(value), 4) for value in likeness[best]]
        words.append(WordReason(text, score, frames[best], moments[best], shown))
    reasons = []
    for text, vector in zip(phrases, unit(features["triplet"][0].cpu().numpy()) if phrases else []):
        likeness = whole @ vector
        best = int(likeness.argmax())
        reasons.append(PhraseReason(text, float(likeness[best]), frames[best], moments[best]))
    fits = int((whole @ word[-1]).argmax())
    side = round(patch.shape[1] ** 0.5)
    return Why(
        item.key, kind, frames[fits], moments[fits], side if side * side == patch.shape[1] else 0, words, reasons
    )


def spell(tokenizer: Any, ids: list[int]) -> list[tuple[str, list[int]]]:
    """The words of a tokenised sentence and the places of their tokens, SOT and EOT and bare marks left out."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found: list[tuple[list[int], list[int]]] = []
    begins = True
    for place in range(1, len(ids) - 1):
        if begins:
            found.append(([], []))
        found[-1][0].append(ids[place])
        found[-1][1].append(place)
        begins = pieces[place].endswith(END)
    spelled = [(tokenizer.decode(tokens).strip(), places) for tokens, places in found]
    return [(text, places) for text, places in spelled if re.search(r"\w", text)]


def unit(vector: NDArray) -> NDArray:
    """Scaled to length 1 along the last axis."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True).clip(1e-6)
