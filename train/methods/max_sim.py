"""Late interaction with nothing learned: each word looks for its best patch, and the words are averaged (ColBERT, FILIP).

A video offers the patches of all its frames, an image those of the keyframe. A CLIP whose tokens mean something in the shared
space makes this a stronger floor than `zero_shot`: whatever is trained on patches has to beat it. Of images there is a floor
that is stronger yet, `--set image_alignments=word_patch,triplet_patch`: triplets look for patches too, and val chooses how much
each counts.
"""

# Axes: B batch, T texts, G videos or images, L words, M triplets, N frames, P patches of a frame, D embedding.

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from train import layers
from train.method import Config, Features, Method, unit

Alignment = Literal["word_patch", "triplet_patch"]


@dataclass
class Config(Config):
    """What of a text looks for images; nothing else is to be set, since nothing learns."""

    # whose best patches of the keyframe are averaged; of both, the two averages by shares chosen on val
    image_alignments: list[Alignment] = field(default_factory=lambda: ["word_patch"])

    @classmethod
    def variants(cls) -> list[dict[str, list[str]]]:
        """Triplets beside words, and alone."""
        return [{"image_alignments": ["word_patch", "triplet_patch"]}, {"image_alignments": ["triplet_patch"]}]


class MaxSim(Method):
    """The mean over a sentence's words of the best patch."""

    Config = Config
    needs = frozenset({"word", "triplet", "patch", "image_patch"})

    def __init__(self, config: Config):
        super().__init__(config)
        names = config.image_alignments
        if not names or len(set(names)) < len(names):
            raise ValueError(f"image_alignments: one of each that is wanted, at least one; not {names}")
        if len(names) > 1:  # equal until they are chosen
            self.register_buffer("image_weight", torch.full((len(names),), 1 / len(names)))

    @classmethod
    def needed(cls, config: Config) -> frozenset[str]:
        """Triplets only where they look for images."""
        return cls.needs if "triplet_patch" in config.image_alignments else cls.needs - {"triplet"}

    def encode_text(self, features: Features) -> Features:
        """Unit words (B, L, D), EOT (the sentence) but not SOT among them; unit triplets (B, M, D) where they are asked for."""
        text = {"word": unit(features["word"][:, 1:]), "word_mask": features["word_mask"][:, 1:]}
        if "triplet" in self.needs:
            text |= {"triplet": unit(features["triplet"]), "triplet_mask": features["triplet_mask"]}
        return text

    def encode_video(self, features: Features) -> Features:
        """Unit patches (B, N·P, D) of all frames."""
        patch, mask = unit(features["patch"]), features["frame_mask"]
        return {"patch": patch.flatten(1, 2), "patch_mask": mask.repeat_interleave(patch.shape[2], 1)}

    def encode_image(self, features: Features) -> Features:
        """Unit patches (B, P, D) of the keyframe."""
        patch = unit(features["image_patch"])
        return {"patch": patch, "patch_mask": patch.new_ones(patch.shape[:2], dtype=torch.bool)}

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V)."""
        return match(text, video, "word_patch")

    @layers.full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I)."""
        scores = [match(text, image, name) for name in self.config.image_alignments]
        return torch.einsum("g,gti->ti", self.image_weight, torch.stack(scores)) if len(scores) > 1 else scores[0]

    def fused(self, kind: str = "video") -> list[str]:
        """Of images, what there is to weigh; a score of one part has no weights."""
        names = self.config.image_alignments
        return list(names) if kind == "image" and len(names) > 1 else []

    @layers.full_precision
    def score_parts(self, text: Features, item: Features, kind: str = "video") -> dict[str, Tensor]:
        """(T, I) scores by words and by triplets."""
        return {name: match(text, item, name) for name in self.fused(kind)}

    def set_weights(self, weights: dict[str, float], kind: str = "video") -> None:
        """Take up what was chosen for images."""
        self.image_weight.copy_(torch.tensor([weights[name] for name in self.fused(kind)]))


def match(text: Features, item: Features, alignment: str) -> Tensor:
    """(T, G): the mean over a text's words or triplets of the best patch; 0 of a text that has none."""
    name = alignment.removesuffix("_patch")
    return layers.best_match_mean(text[name], text[f"{name}_mask"], item["patch"], item["patch_mask"])
