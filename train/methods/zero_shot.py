"""Frozen CLIP as it is: the sentence against the mean of the frames, and against the image. Nothing is learned."""

from torch import Tensor

from train.layers import full_precision, mean_video
from train.method import Features, Method, unit


class ZeroShot(Method):
    """The floor that every trained method has to beat."""

    needs = frozenset({"sentence", "frame", "image"})

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D)."""
        return {"sentence": unit(features["sentence"])}

    def encode_video(self, features: Features) -> Features:
        """Unit mean (B, D) of the unit frames."""
        return {"video": mean_video(unit(features["frame"]), features["frame_mask"])}

    @full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """Cosine of sentence and video."""
        return text["sentence"] @ video["video"].T
