"""CLIP4Clip (Luo et al. 2021): the sentence against a video of mean-pooled or temporally encoded frames.

Faithful but for two defaults: CLIP is frozen, so that `meanP` learns its scale alone (`tune: true` lets CLIP's blocks learn), and
the temporal transformer starts as the identity (`temporal_init: clip`: from CLIP's text blocks).
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from train import layers, losses
from train.method import Config, Features, Method, Phase, unit


@dataclass
class Config(Config):
    """CLIP4Clip's settings."""

    similarity: Literal["seqTransf", "meanP"] = "seqTransf"  # meanP: no temporal transformer
    layers: int = 4
    logit_scale: float = 20.0  # of the first step; at most 100, as CLIP's

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """Without the temporal transformer."""
        return [{"similarity": "meanP"}]


class Clip4Clip(Method):
    """Sentence and video embeddings compared by cosine; images by the sentence, as CLIP does."""

    Config = Config
    needs = frozenset({"sentence", "frame", "image"})

    def __init__(self, config: Config):
        super().__init__(config)
        self.scale = layers.Scale(config.logit_scale)
        if config.similarity == "seqTransf":
            self.temporal = layers.TemporalEncoder(config.dimension, config.layers, max(77, config.frames))

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D)."""
        return {"sentence": unit(features["sentence"])}

    def encode_video(self, features: Features) -> Features:
        """Unit video (B, D)."""
        frame, mask = features["frame"], features["frame_mask"]
        frame = self.temporal(frame, mask) if self.config.similarity == "seqTransf" else unit(frame)
        return {"video": layers.mean_video(frame, mask)}

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """Cosine of sentence and video."""
        return text["sentence"] @ video["video"].T

    def phases(self) -> list[Phase]:
        """One phase: symmetric cross-entropy."""
        names = [name for name, _ in self.named_children()]
        teaches = ("text_video",) if "temporal" in names else ()  # a scale alone changes no rank
        return [Phase("alignment", self.config.epochs, names, self.loss, self.config.learning_rate, teaches)]

    def loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """The diagonal of a batch is right, as published: further captions of a video count as wrong."""
        score = self.score_videos(self.encode_text(batch), self.encode_video(batch))
        return {"sentence_video": losses.clip_loss(score, self.scale())}
