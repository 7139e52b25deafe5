"""The layers that methods are built of."""

from train.layers.aosm import AOSM, CrossAOSM
from train.layers.cross import CrossEncoder
from train.layers.erase import Eraser, Moments
from train.layers.isa import ISA, BiISA
from train.layers.late import best_match_mean
from train.layers.pooling import (
    MASKED,
    GatedMean,
    IdentityLinear,
    Scale,
    mask_out,
    masked_max,
    masked_mean,
    mean_video,
    mlp,
)
from train.layers.precision import full_precision, widen
from train.layers.selector import FrameSelector, PatchSelector, PerturbedTopK
from train.layers.temporal import TemporalEncoder, TransformerBlock, count_heads
from train.layers.token_similarity import TokenSimilarity

__all__ = [
    "AOSM",
    "BiISA",
    "CrossAOSM",
    "CrossEncoder",
    "Eraser",
    "FrameSelector",
    "GatedMean",
    "ISA",
    "IdentityLinear",
    "MASKED",
    "Moments",
    "PatchSelector",
    "PerturbedTopK",
    "Scale",
    "TemporalEncoder",
    "TokenSimilarity",
    "TransformerBlock",
    "best_match_mean",
    "full_precision",
    "count_heads",
    "mask_out",
    "masked_max",
    "masked_mean",
    "mean_video",
    "mlp",
    "widen",
]
