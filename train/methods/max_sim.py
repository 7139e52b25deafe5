"""Late interaction with nothing learned: each word looks for its best patch, and the words are averaged (ColBERT, FILIP).

A video offers the patches of all its frames, an image those of the keyframe. A CLIP whose tokens mean something in the shared
space makes this a stronger floor than `zero_shot`: whatever is trained on patches has to beat it.
"""

# Axes: B batch, T texts, G videos or images, L words, N frames, P patches, K patches of one video or image, D embedding.

import torch
from torch import Tensor

from train.layers import full_precision
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

    @full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V)."""
        return best_patch_mean(text, video)

    @full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I)."""
        return best_patch_mean(text, image)


def best_patch_mean(text: Features, gallery: Features) -> Tensor:
    """(T, G) from words (T, L, D) and patches (G, K, D); padding words are left out of the product."""
    mask = text["word_mask"]
    words = text["word"][mask]  # (words of all texts, D)
    similarity = torch.einsum("wd,gkd->wgk", words, gallery["patch"])
    best = similarity.masked_fill_(~gallery["patch_mask"], -torch.inf).amax(2)  # (words, G)
    total = best.new_zeros(len(mask), best.shape[1]).index_add_(0, mask.nonzero()[:, 0], best)
    return total / mask.sum(1, keepdim=True).clamp(min=1)
