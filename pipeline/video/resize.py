"""CLIP's own preprocessing of a picture: shorter side to `size`, bicubic with antialias, centre crop."""

# Axes: H height, W width, S size; colours last.

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

WAITING_BYTES = 16 << 20  # bytes of decoded pictures that may wait to be converted together


class Canvas:
    """Takes decoded pictures of any size as they come and gives them as CLIP sees them, (N, S, S, 3) uint8.

    Pictures wait until a few are together: converting one after each decoding step costs twice the time, because decoder
    and converter then take turns in emptying the cache.
    """

    def __init__(self, frames: int, size: int):
        self.frame = torch.empty(frames, size, size, 3, dtype=torch.uint8)
        self.resize, self.reformat = Resizer(size), VideoReformatter().reformat
        self.waiting: list[tuple[int, av.VideoFrame]] = []
        self.bytes = 0

    def add(self, slot: int, picture: av.VideoFrame) -> None:
        """Take one picture."""
        self.waiting.append((slot, picture))
        self.bytes += picture.width * picture.height * 2
        if self.bytes > WAITING_BYTES:
            self.convert()

    def convert(self) -> Tensor:
        """Convert, turn upright and resize those that wait; all frames so far."""
        for slot, picture in self.waiting:
            colour = torch.from_numpy(self.reformat(picture, format="rgb24", threads=1).to_ndarray())
            self.resize(rotate(colour, picture.rotation), self.frame[slot])
        self.waiting, self.bytes = [], 0
        return self.frame


class Resizer:
    """Resizes pictures one after another through one reused buffer.

    torch's uint8 kernel on NHWC memory is within 2 grey levels of Pillow; a fresh output for every picture would cost more
    than the arithmetic, in page faults.
    """

    def __init__(self, size: int):
        self.size = size
        self.buffer = torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    def __call__(self, picture: Tensor, out: Tensor) -> Tensor:
        """Write a uint8 picture (H, W, 3) as CLIP sees it into `out`, uint8 (S, S, 3)."""
        tall, wide = resized_shape(*picture.shape[:2], self.size)
        if picture.shape[:2] != (tall, wide):
            if self.buffer.shape[2:] != (tall, wide):
                self.buffer = torch.empty(1, 3, tall, wide, dtype=torch.uint8, memory_format=torch.channels_last)
            planes = picture.permute(2, 0, 1)[None]
            bicubic = torch.ops.aten._upsample_bicubic2d_aa  # what interpolate(…, antialias=True) calls
            bicubic.out(planes, [tall, wide], align_corners=False, out=self.buffer)
            picture = self.buffer[0].permute(1, 2, 0)
        top, left = (tall - self.size) // 2, (wide - self.size) // 2  # as transformers crops
        return out.copy_(picture[top : top + self.size, left : left + self.size])


def resize(picture: Tensor, size: int) -> Tensor:
    """One uint8 picture (H, W, 3) as CLIP sees it: uint8 (S, S, 3)."""
    return Resizer(size)(picture, torch.empty(size, size, 3, dtype=torch.uint8))


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shorter side is `size`; the longer one is cut to a whole number, as CLIP does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def rotate(picture: Tensor, degrees: int) -> Tensor:
    """Turn a picture (H, W, 3) counter-clockwise by a multiple of 90 degrees."""
    quarters = round(degrees / 90) % 4
    return torch.rot90(picture, quarters).contiguous() if quarters else picture
