"""X-CLIP (Ma et al. 2022): sentence and words against video and frames, four granularities in one fused score.

The head is that of the published code (xuguohai/X-CLIP, modules/modeling_xclip.py). Padding words and absent frames have no vote;
`faithful: true` gives them the one that they have in the published code, where every softmax runs over all places. By default
CLIP is frozen, otherwise than there, and the temporal encoder starts as the identity. Images are looked for by the sentence.
"""

# Axes: B batch, T texts, V videos, L words, N frames, D embedding.

from dataclasses import dataclass

import torch
from torch import Tensor

from train import layers
from train.method import Config, Features, OneScore, unit


@dataclass
class Config(Config):
    """X-CLIP's settings."""

    layers: int = 4  # of the temporal encoder
    softmax_temperature: float = 0.01  # temperature of every softmax over similarities
    logit_scale: float = 20.0  # of the loss at the first step; at most 100, as CLIP's
    faithful: bool = False  # padding takes part in every softmax, as published
    RENAMED = {"sharpness": "softmax_temperature"}


class XCLIP(OneScore):
    """Video–sentence, video–word, sentence–frame and frame–word similarity; their mean is the score."""

    Config = Config
    needs = frozenset({"sentence", "word", "frame", "image"})

    def __init__(self, config: Config):
        super().__init__(config)
        size = config.dimension
        self.temporal = layers.TemporalEncoder(size, config.layers, max(77, config.frames))
        self.map_global, self.map_local = layers.IdentityLinear(size), layers.IdentityLinear(size)
        self.video_word = layers.AOSM(config.words, config.softmax_temperature)
        self.sentence_frame = layers.AOSM(config.frames, config.softmax_temperature)
        self.frame_word = layers.CrossAOSM(config.words, config.frames, config.softmax_temperature)
        self.scale = layers.Scale(config.logit_scale)

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D) and unit words (B, L, D), SOT and EOT among them."""
        mask = features["word_mask"]
        return {
            "sentence": unit(features["sentence"]),
            "word": unit(features["word"]),
            "word_mask": torch.ones_like(mask) if self.config.faithful else mask,
        }

    def encode_video(self, features: Features) -> Features:
        """Unit video (B, D) of encoded frames, and unit frames (B, N, D) as CLIP gave them."""
        frame, mask = features["frame"], features["frame_mask"]
        return {
            "video": layers.mean_video(self.temporal(frame, mask), mask),
            "frame": unit(frame),
            "frame_mask": torch.ones_like(mask) if self.config.faithful else mask,
        }

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V) mean of the four similarities."""
        words, frames = text["word_mask"], video["frame_mask"]
        # the published maps act from the right on the text, x W; ours are x Wᵀ, and W is learned either way
        coarse = self.map_global(text["sentence"]) @ video["video"].T
        of_words = self.video_word(torch.einsum("tld,vd->tlv", text["word"], video["video"]), words[..., None], 1)
        of_frames = self.sentence_frame(torch.einsum("td,vnd->tvn", text["sentence"], video["frame"]), frames, 2)
        fine = torch.einsum("tld,vnd->tlvn", self.map_local(text["word"]), video["frame"])
        return (coarse + of_words + of_frames + self.frame_word(fine, words, frames)) / 4
