"""Photos and animated pictures, by Pillow: one upright frame, or frames with their times."""

# Axes: N frames, S size; colours last.

import os
from fractions import Fraction

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipeline.files import DecodeError
from pipeline.video.request import FrameRequest
from pipeline.video.resize import resize
from pipeline.video.timeline import choose_frames

DEFAULT = 100  # milliseconds a picture of an animation stays when it says 0, as browsers do


def is_picture(head: bytes, path: str | os.PathLike) -> bool:
    """Whether the first bytes are those of a picture; a raw stream of JPEGs is a video."""
    if head[:3] == b"\xff\xd8\xff":
        return not os.fspath(path).lower().endswith((".mjpeg", ".mjpg"))
    return head[:8] == b"\x89PNG\r\n\x1a\n" or head[:4] == b"GIF8" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def pillow_version() -> str:
    """Name and release."""
    return f"pillow {PIL.__version__}"


def take(path: str | os.PathLike, want: FrameRequest) -> tuple[Tensor, np.ndarray]:
    """Sampled frames (N, S, S, 3) and times (N,) of a picture. Raises DecodeError."""
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            if count == 1:
                return resize(upright(image), want.size)[None], np.zeros(1)
            return animation(image, count, want)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("damaged", "starts like a picture and does not open as one") from None
    except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError("damaged", f"the picture does not decode: {error}") from None


def animation(image: Image.Image, count: int, want: FrameRequest) -> tuple[Tensor, np.ndarray]:
    """Walk through the pictures in order (each builds on the one before) and keep the sampled ones."""
    shown, clock = [], 0
    for index in range(count):
        image.seek(index)
        image.load()
        shown.append(clock)
        clock += int(image.info.get("duration") or DEFAULT)
    chosen, _ = choose_frames(shown, Fraction(clock), Fraction(clock), want, Fraction(1, 1000))
    frames = []
    for index in chosen:
        image.seek(index)
        frames.append(resize(upright(image), want.size))
    return torch.stack(frames), np.array([shown[index] / 1000 for index in chosen])


def upright(image: Image.Image) -> Tensor:
    """A picture (H, W, 3) uint8, turned as its EXIF says, transparency on black."""
    return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB")))
