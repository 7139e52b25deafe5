"""TS2-Net (Liu et al. 2022): each frame with its three most telling patches through the temporal encoder, then sentence–frame.

The head is that of the published code (LiuRicky/ts2_net, modules/modeling.py, differential_topk.py): a frame's own token always
stays, three patches are chosen by an MLP that sees the frame, all four go through the temporal encoder, and of what comes out the
frames' places are kept. Two modules that it never uses (a prompt encoder and a text selector) are left out, see UNUSED.
Tokens shift between frames inside CLIP's last two blocks where a run owns these (`tune: image`). Otherwise than there CLIP is
frozen by default, and nothing shifts; the temporal encoder starts as the identity. Four slips are mended, and `faithful: true`
takes them back: in evaluation the best patches themselves are taken, not a random mixture; mixtures, which are shorter than a
patch, come into the temporal encoder as long as all others; a score's gradient counts what its patch takes from others; absent
frames are hidden with their patches, where the published code repeats the frames' mask end to end. An image is the picture
repeated as a video.
"""

# Axes: B batch, T texts, V videos, N frames, P patches of a frame, k chosen patches, D embedding.

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train import layers
from train.layers.pooling import mask_out
from train.method import Config, Features, OneScore, still_video, unit

UNUSED = 2_363_904 + 263_680  # parameters that the published model counts and never uses: prompt encoder, text selector


@dataclass
class Config(Config):
    """TS2-Net's settings."""

    layers: int = 4  # of the temporal encoder
    k: int = 3  # patches chosen in a frame, beside the frame's own token
    samples: int = 500  # noisy copies in the perturbed top-k
    sigma: float = 0.05  # their noise
    sharpness: float = 4.0  # of the softmax over frames
    token_shift: int = 2  # last image blocks in which tokens shift between frames, where the run owns them
    logit_scale: float = 20.0  # of the loss at the first step; at most 100, as CLIP's
    faithful: bool = False  # as published, slips and all


class TS2Net(OneScore):
    """Sentence against frames that have looked at the patches chosen in all frames."""

    Config = Config
    needs = frozenset({"sentence", "frame", "patch", "image", "image_patch"})
    term = "sentence_frame"

    def __init__(self, config: Config):
        super().__init__(config)
        self.token_shift = config.token_shift
        tokens = (1 + min(config.k, config.patches)) * config.frames
        self.temporal = layers.TemporalEncoder(config.dimension, config.layers, max(77, tokens))
        self.selector = layers.FrameSelector(
            config.dimension, config.k, config.samples, config.sigma, published=config.faithful
        )
        self.scale = layers.Scale(config.logit_scale)

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D)."""
        return {"sentence": unit(features["sentence"])}

    def encode_video(self, features: Features) -> Features:
        """Unit frames (B, N, D)."""
        frame, mask = features["frame"], features["frame_mask"]
        token = self.selector(frame, features["patch"])  # (B, N, 1 + k, D)
        width = token.shape[2]
        if not self.config.faithful:
            encoded = self.temporal(token.flatten(1, 2), mask.repeat_interleave(width, 1))
            return {"frame": encoded[:, ::width], "frame_mask": mask}
        length = token.norm(dim=-1, keepdim=True) / frame.norm(dim=-1)[..., None, None].clamp(min=1e-6)
        shown = mask.repeat(1, width)
        encoded = self.temporal(token.flatten(1, 2), shown, length.flatten(1, 2))
        return {"frame": encoded[:, ::width], "frame_mask": shown[:, ::width]}

    def encode_image(self, features: Features) -> Features:
        """The picture as a video that stands still."""
        return self.encode_video(still_video(features, self.config.frames))

    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I), as videos."""
        return self.score_videos(text, image)

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V): cosines with the frames, weighted by softmax(4 c / |c|)."""
        mask = video["frame_mask"]
        similarity = torch.einsum("td,vnd->tvn", text["sentence"], video["frame"]).masked_fill(~mask, 0)
        sharp = self.config.sharpness * F.normalize(similarity, dim=-1)
        return (mask_out(sharp, mask).softmax(-1) * similarity).sum(-1)
