"""What is asked of a decoder, and what it answers."""

# Axes: N frames, S size; colours last.

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class FrameRequest:
    """What to take from a file: how many frames, how large, between which moments (seconds; None: as far as it goes)."""

    frames: int
    size: int
    sampling: str = "uniform"
    start: float | None = None
    end: float | None = None


@dataclass
class SampledFrames:
    """Frames (N, S, S, 3) uint8 with their times (N,) in seconds, the decoder that made them, and what was odd."""

    frame: Tensor
    time: np.ndarray
    decoder: str
    notes: list[str] = field(default_factory=list)
