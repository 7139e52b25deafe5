"""UCoFiA (Wang et al. 2023): video–sentence, sentence–frame and patch–word similarity, aggregated by ISA, in one fused score.

The head is that of the published code (Ziyang412/UCoFiA, train/modules/modeling_ucofia.py). Four matrices that it never uses
are left out, see UNUSED. By default four slips are mended: chosen patches are brought to length 1 and their score weighs as much
as the other two; padding has no vote; in evaluation the best patches are taken; a score's gradient counts what its patch takes
from others. `faithful: true` takes all four back.
Tokens shift between frames inside CLIP's last two blocks where a run owns these (`tune: image`). Otherwise than there CLIP is
frozen by default, and nothing shifts, and the temporal encoder starts as the identity. Its normalisation of test scores over the
training captions (SK-norm) is a row of its own (`python -m eval.run --norm sk`). An image is the picture repeated as a video.
"""

# Axes: B batch, T texts, V videos, L words, N frames, P patches of a frame, k chosen patches, D embedding.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train import layers
from train.method import Config, Features, OneScore, still_video, unit

UNUSED = 2 * 12**2 + 2 * 32**2  # parameters that the published model counts at 12 frames and 32 words and never uses


@dataclass
class Config(Config):
    """UCoFiA's settings."""

    layers: int = 4  # of the temporal encoder
    k: int = 3  # patches chosen in a frame, beside the frame's own token
    samples: int = 500  # noisy copies in the perturbed top-k
    sigma: float = 0.05  # their noise
    softmax_temperature: float = 0.01  # both temperatures of ISA
    token_shift: int = 2  # last image blocks in which tokens shift between frames, where the run owns them
    logit_scale: float = 20.0  # of the loss at the first step; at most 100, as CLIP's
    faithful: bool = False  # as published, slips and all
    RENAMED = {"sharpness": "softmax_temperature"}

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Two softmaxes at .01 over few random similarities are all or nothing, and nothing has no gradient."""
        return super().small() | {"softmax_temperature": 0.1}


class UCoFiA(OneScore):
    """Three granularities; their mean is the score."""

    Config = Config
    needs = frozenset({"sentence", "word", "frame", "patch", "image", "image_patch"})

    def __init__(self, config: Config):
        super().__init__(config)
        self.token_shift = config.token_shift
        size, temperatures = config.dimension, (config.softmax_temperature,) * 2
        tokens = (1 + min(config.k, config.patches)) * config.frames
        self.temporal = layers.TemporalEncoder(size, config.layers, max(77, config.frames))
        self.selector = layers.FrameSelector(size, config.k, config.samples, config.sigma, published=config.faithful)
        self.map_sentence, self.map_video = layers.IdentityLinear(size), layers.IdentityLinear(size)
        self.map_word, self.map_patch = layers.IdentityLinear(size), layers.IdentityLinear(size)
        self.sentence_frame = layers.ISA(config.frames, *temperatures)
        self.word_patch = layers.TokenSimilarity(config.words, tokens, temperatures, temperatures)
        self.scale = layers.Scale(config.logit_scale)

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D), mapped sentence (B, D) and mapped unit words (B, L, D), SOT and EOT among them."""
        sentence, mask = unit(features["sentence"]), features["word_mask"]
        return {
            "sentence": sentence,
            "mapped": self.map_sentence(sentence),
            "word": self.map_word(unit(features["word"])),
            "word_mask": torch.ones_like(mask) if self.config.faithful else mask,
        }

    def encode_video(self, features: Features) -> Features:
        """Mapped video (B, D), unit frames (B, N, D) as CLIP gave them, mapped tokens (B, N·(1 + k), D): frames and patches."""
        frame, mask = features["frame"], features["frame_mask"]
        token = self.selector(frame, features["patch"])  # (B, N, 1 + k, D)
        width = token.shape[2]
        shown = torch.ones_like(mask) if self.config.faithful else mask
        return {
            "video": self.map_video(layers.mean_video(self.temporal(frame, mask), mask)),
            "frame": unit(frame),
            "frame_mask": shown,
            "patch": self.map_patch(token if self.config.faithful else unit(token)).flatten(1, 2),
            "patch_mask": shown.repeat_interleave(width, 1),
        }

    def encode_image(self, features: Features) -> Features:
        """The picture as a video that stands still."""
        return self.encode_video(still_video(features, self.config.frames))

    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I), as videos."""
        return self.score_videos(text, image)

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V) mean of the three similarities; as published the loss's scale lengthens two of them, not the third."""
        coarse = text["mapped"] @ video["video"].T
        similarity = torch.einsum("td,vnd->tvn", text["sentence"], video["frame"])
        of_frames = self.sentence_frame(similarity, video["frame_mask"], 2)
        of_patches = self.word_patch(text["word"], text["word_mask"], video["patch"], video["patch_mask"])
        return (coarse + of_frames + (of_patches / self.scale() if self.config.faithful else of_patches)) / 3
