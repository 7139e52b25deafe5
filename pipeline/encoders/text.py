"""The frozen text encoder as the text stage uses it."""

# Axes: L words of a text, D embedding.

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.encoders.towers import FrozenCLIP, resolve_precision, to_half

VERSION = "3"


class TextEncoder:
    """The text tower, loaded when the first text needs it; `identity` is known without it."""

    def __init__(self, folder: Path, device: str | None, config: dict[str, Any]):
        import torch

        self.folder, self.words = folder, config["words"]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        record = json.loads((folder / "clip.json").read_text())
        self.name, self.sha256, self.dimension = record["name"], record["sha256"], record["dimension"]
        self.precision = resolve_precision(config["precision"], self.device)
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
            self.towers = FrozenCLIP.load(self.folder, self.device, self.precision)
        self.encoded += len(texts)
        return [(token, to_half(word.numpy())) for token, word in self.towers.encode_texts(texts, self.words)]
