"""What is asked of a decoder, what it answers, and how it fails."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from pipeline.rejects import Reject


class DecodeError(Reject):
    """A file that gives no trustworthy frames: `reason`, a short stable word, and `detail` for a person."""


class PlanError(Exception):
    """The packets do not say enough for a plan; the file must be decoded in order. The message says why."""


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
