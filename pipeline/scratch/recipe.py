"""The settings of a CLIP trained here."""

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """The size of the model and how it learns."""

    size: int = 48  # pixels
    patch: int = 12
    width: int = 96
    heads: int = 4
    vision_layers: int = 4
    text_layers: int = 2
    dimension: int = 128
    words: int = 32
    vocabulary: int = 2000
    steps: int = 700
    batch: int = 64
    rate: float = 2e-3  # AdamW; the layers' matrices learn by Muon at ten times this
    warmup: float = 0.1  # share of the steps
    words_weight: float = 0.5  # of patches and words
    retention: float = 5.0  # of naming what is said; at 0.4 contrast drowns it, and position is lost
    scripts: int = 24  # captions of scripts in a batch
    phrases: int = 600  # that retention names
    threads: int = 2


def recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe for a dataset: `demo`'s own, one with more words for any other, and what `scratch` in params.yaml says."""
    base = Recipe(words=max(Recipe.words, config.get("words", 0)))
    if config["reader"] != "demo":
        base = replace(base, vocabulary=6000)
    known = {name: value for name, value in (config.get("scratch") or {}).items()}
    if unknown := sorted(set(known) - set(asdict(base))):
        raise ValueError(f"scratch: unknown {', '.join(unknown)}; a recipe has {', '.join(asdict(base))}")
    return replace(base, **known)
