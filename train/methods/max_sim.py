"""Late interaction with nothing learned: each word looks for its best patch, and the words are averaged (ColBERT, FILIP).

A video offers the patches of all its frames, an image those of the keyframe. A CLIP whose tokens mean something in the shared
space makes this a stronger floor than `zero_shot`: whatever is trained on patches has to beat it.
"""

# Axes: B batch, T texts, G videos or images, L words, N frames, P patches, K patches of one video or image, D embedding.

import torch
from torch import Tensor

from train import layers
from train.method import Features, Method, unit


class MaxSim(Method):
    """The mean over a sentence's words of the best patch."""

    needs = frozenset({"word", "patch", "image_patch"})

    def encode_text(self, features: Features) -> Features:
        """Unit words (B, L, D): SOT is left out, EOT, which is the sentence, stays."""
        return {"word": unit(features["word"][:, 1:]), "word_mask": features["word_mask"][:, 1:]}

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
        return layers.best_match_mean(text["word"], text["word_mask"], video["patch"], video["patch_mask"])

    @layers.full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I)."""
        return layers.best_match_mean(text["word"], text["word_mask"], image["patch"], image["patch_mask"])
