"""EERCF (Tian et al. 2024): a coarse score to recall, finer ones of frames and patches to rank, and a Pearson constraint.

Losses and weights are those of the published code (adxcreative/EERCF, modules/modeling_fineclip_patches_cdcl.py, main_eercf.py):
0.8 of a contrast over the parameter-free "weak" scores, 0.2 of one over the video as the text looks at it ("strong"). Evaluation
and search recall by the coarse score and rank the best fifty again (`rerank`), videos' best fifty texts likewise. Absent frames
have no vote. By default CLIP is frozen, and the temporal encoder starts as the identity. Images are looked for by the
sentence.
"""

# Axes: B batch, T texts, V videos, N frames, P patches of a frame, D embedding.

from dataclasses import dataclass

import torch
from torch import Tensor

from train import layers, losses
from train.layers.pooling import mask_out
from train.method import Config, Features, Method, Phase, cosines, unit


@dataclass
class Config(Config):
    """EERCF's settings."""

    layers: int = 4  # of the temporal encoder
    softmax_temperature: float = 0.01  # temperature of the softmax over frames and over patches
    attention_temperature: float = 0.1  # of the softmax by which a text looks at the frames
    logit_scale: float = 20.0  # of the loss at the first step; at most 100, as CLIP's
    pearson: float = 0.001  # weight of the Pearson constraint
    rerank: int = (
        50  # of a text's best videos by the coarse score, how many are ranked again; 0: all have the fine score
    )
    RENAMED = {"sharpness": "softmax_temperature", "look": "attention_temperature"}


class EERCF(Method):
    """Video, frames and patches against the sentence, from coarse to fine."""

    Config = Config
    needs = frozenset({"sentence", "frame", "patch", "image"})

    def __init__(self, config: Config):
        super().__init__(config)
        self.temporal = layers.TemporalEncoder(config.dimension, config.layers, max(77, config.frames))
        self.map_global = layers.IdentityLinear(config.dimension)
        self.sentence_frame = layers.AOSM(config.frames, config.softmax_temperature)
        self.scale = layers.Scale(config.logit_scale)

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D)."""
        return {"sentence": unit(features["sentence"])}

    def encode_video(self, features: Features) -> Features:
        """Unit video (B, D), unit frames (B, N, D) before and after the temporal encoder, unit patches (B, N·P, D)."""
        frame, mask = features["frame"], features["frame_mask"]
        encoded = self.temporal(frame, mask)
        return {
            "video": layers.mean_video(encoded, mask),
            "frame": unit(frame),
            "encoded": encoded,
            "frame_mask": mask,
            "patch": unit(features["patch"]).flatten(1, 2),
        }

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V): what the published code ranks its candidates by."""
        coarse, frame, patch = self.weak(text, video)
        return 0.5 * coarse + 0.8 * frame + 0.2 * patch + 0.2 * self.strong(text, video)

    def recalled(self) -> int:
        """Those that are ranked again."""
        return self.config.rerank

    @layers.full_precision
    def score_coarse(self, text: Features, video: Features) -> Tensor:
        """(T, V): sentence against video, a product of two matrices."""
        return self.map_global(text["sentence"]) @ video["video"].T

    @layers.full_precision
    def weak(self, text: Features, video: Features) -> tuple[Tensor, Tensor, Tensor]:
        """(T, V) scores of the video, of the frames and of the patches."""
        sentence, mask = text["sentence"], video["frame_mask"]
        frame = self.sentence_frame(torch.einsum("td,vnd->tvn", sentence, video["frame"]), mask, 2)
        patch = torch.einsum("td,vpd->tvp", sentence, video["patch"])
        shown = mask.repeat_interleave(video["patch"].shape[1] // mask.shape[1], 1)
        weight = mask_out(patch / self.config.softmax_temperature, shown).softmax(-1) * shown
        return self.score_coarse(text, video), frame, (weight * patch.masked_fill(~shown, 0)).sum(-1)

    @layers.full_precision
    def strong(self, text: Features, video: Features) -> Tensor:
        """(T, V) cosine of a sentence with the video as it looks at it: frames weighted by softmax(c / attention_temperature).

        The length of the weighted video comes from its frames' products, so that no (T, V, N, D) tensor is made.
        """
        weight = self.attention(torch.einsum("td,vnd->tvn", text["sentence"], video["frame"]), video["frame_mask"])
        along = torch.einsum("td,vnd->tvn", text["sentence"], video["encoded"])
        product = torch.einsum("vnd,vmd->vnm", video["encoded"], video["encoded"])
        length = torch.einsum("tvn,vnm,tvm->tv", weight, product, weight).clamp(min=1e-12).sqrt()
        return (weight * along).sum(-1) / length

    @layers.full_precision
    def adapt(self, text: Features, video: Features) -> Tensor:
        """(B, D) unit videos, each as its own caption looks at it; the weights get no gradient, as published."""
        own = torch.einsum("bd,bnd->bn", text["sentence"], video["frame"]).detach()
        return unit(torch.einsum("bn,bnd->bd", self.attention(own, video["frame_mask"]), video["encoded"]))

    def attention(self, similarity: Tensor, mask: Tensor) -> Tensor:
        """Weights over the frames, of length 1; absent frames have none."""
        return mask_out(similarity / self.config.attention_temperature, mask).softmax(-1) * mask

    def phases(self) -> list[Phase]:
        """One phase: two contrasts and the Pearson constraint."""
        names = [name for name, _ in self.named_children()]
        return [Phase("alignment", self.config.epochs, names, self.loss, self.config.learning_rate, ("text_video",))]

    def loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """Contrasts over the weak and the strong scores, and the Pearson constraint."""
        text, video = self.encode_text(batch), self.encode_video(batch)
        coarse, frame, patch = self.weak(text, video)
        adapted = self.adapt({"sentence": losses.own_rows(text["sentence"])}, video)
        scale = self.scale()
        whole = [
            losses.gather_rows(part) for part in (video["video"], adapted)
        ]  # correlations are over the whole batch
        constraint = pearson(text["sentence"], whole[0]) + pearson(text["sentence"], whole[1])
        return {
            "weak": 0.8 * losses.clip_loss(0.5 * coarse + 0.5 * frame + 0.05 * patch, scale),
            "strong": 0.2 * losses.clip_loss(cosines(text["sentence"], adapted), scale),
            "pearson": self.config.pearson * constraint,
        }


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """0.14 Σ (r_d - 1)², r_d the correlation over the batch of dimension d in both; 0.14 is the published weight."""
    first, second = (
        (part - part.mean(0)) / part.std(0).clamp(min=1e-6) for part in (layers.widen(one), layers.widen(other))
    )
    return 0.14 * ((first * second).mean(0) - 1).square().sum()
