"""Photos and animated pictures, by Pillow: one upright frame, or frames with their times.

The first bytes say which format a file has, whatever its name, and only that format's reader sees it: no other reader, and no
program that interprets drawings, is ever tried. A photo is the picture that its format puts first (in HEIC and AVIF the primary
item): a second picture inside, such as a depth map, is not it. Only GIF, PNG, WebP and AVIF hold animations.
"""

# Axes: N frames, H height, W width, S size; colours last.

import importlib.metadata
import io
import os
import struct
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from torch import Tensor

from pipeline.files import DecodeError
from pipeline.video.request import FrameRequest
from pipeline.video.resize import resize
from pipeline.video.timeline import choose_frames

VERSION = "2"  # raise it when a photo's pixels come out otherwise: photos are then encoded anew, videos stand
DEFAULT = 100  # milliseconds a picture of an animation stays when it says 0, as browsers do
LARGEST = 178_956_970  # pixels decoded at once, half a gigabyte; a larger JPEG is decoded at 1/2, 1/4 or 1/8
ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}  # formats that say when to show each of their pictures
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's Orientation
ORIENTATION, BITS, PHOTOMETRIC, SAMPLE_FORMAT, LOWEST, HIGHEST = 274, 258, 262, 339, 340, 341  # tags of TIFF
BROKEN = (  # what readers of photos raise for files that are not as they should be
    OSError, EOFError, ValueError, SyntaxError, KeyError, IndexError, TypeError, AttributeError,
    RuntimeError, OverflowError, ZeroDivisionError, struct.error,
)  # fmt: skip
PROSE = {b"zTXt", b"iTXt", b"tEXt", b"iCCP"}  # chunks of a PNG that change no pixel here


class Jpeg(JpegImagePlugin.JpegImageFile):
    """The first picture of a JPEG, whatever its multi-picture index says; its resolution, often broken, is not read."""

    def _read_dpi_from_exif(self) -> None:
        pass


class Tiff(TiffImagePlugin.TiffImageFile):
    """The first picture of a TIFF as it lies in the file; `upright` turns it, and needs no other tag to be sound."""

    def load_end(self) -> None:
        pass


READERS = {
    "JPEG": Jpeg,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": Tiff,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}


def picture_format(head: bytes, path: str | os.PathLike = "") -> str | None:
    """The format of a picture by its first bytes; None for anything else. A raw stream of JPEGs is a video."""
    if head[:3] == b"\xff\xd8\xff":
        return None if os.fspath(path).lower().endswith((".mjpeg", ".mjpg")) else "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:2] == b"BM" and head[14:18] in (bytes([size, 0, 0, 0]) for size in (12, 40, 52, 56, 64, 108, 124)):
        return "BMP"
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), head[3] or 64), 4))}
        if head[8:12] in (b"avif", b"avis") or (head[8:12] in (b"mif1", b"msf1") and brands & {b"avif", b"avis"}):
            return "AVIF"
        if head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2"):
            return "HEIF"
    return None


def is_picture(head: bytes, path: str | os.PathLike) -> bool:
    """Whether the first bytes are those of a picture."""
    return picture_format(head, path) is not None


def pillow_version() -> str:
    """Name and release."""
    return f"pillow {PIL.__version__}"


def photo_version() -> str:
    """What else a photo's pixels depend on: this file's VERSION, and the reader of HEIC."""
    try:
        return f"{VERSION}, pillow-heif {importlib.metadata.version('pillow-heif')}"
    except importlib.metadata.PackageNotFoundError:
        return f"{VERSION}, no pillow-heif"


def take(path: str | os.PathLike, want: FrameRequest) -> tuple[Tensor, np.ndarray]:
    """Sampled frames (N, S, S, 3) and times (N,) of a picture. Raises DecodeError."""
    with open(path, "rb") as file:
        kind = picture_format(file.read(64), path)
        try:
            with open_picture(file, kind) as image:
                pages = page_numbers(image, kind)
                if len(pages) > 1:
                    return animation(image, pages, want)
                image.seek(pages[0])
                shrink(image, want.size)
                return resize(upright(image), want.size)[None], np.zeros(1)
        except (MemoryError, DecodeError):
            raise
        except BROKEN as error:
            raise DecodeError("damaged", f"the {kind} picture does not decode: {error}") from None


def open_picture(file: BinaryIO, kind: str) -> Image.Image:
    """The picture, nothing of it decoded yet. Raises DecodeError."""
    file.seek(0)
    if kind == "PNG":
        try:
            return PngImagePlugin.PngImageFile(file)
        except ValueError:  # Pillow stops at large text or colour profiles, which need not be read at all
            return PngImagePlugin.PngImageFile(without_prose(file))
    if kind == "TIFF":
        try:
            return Tiff(file)
        except (SyntaxError, KeyError) as error:
            raise DecodeError(
                "unsupported",
                f"Pillow does not read a TIFF of this layout ({error}); save it with 8 or 16 bits a sample",
            ) from None
    return reader_of(kind)(file)


def reader_of(kind: str) -> Any:
    """The reader of a format, or DecodeError with what to install."""
    if kind == "AVIF" and not features.check("avif"):
        raise DecodeError(
            "no_reader", "an AVIF photo, which this Pillow does not read; type: python -m pip install 'pillow>=11.3'"
        )
    if kind != "HEIF":
        return READERS[kind]
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise DecodeError(
            "no_reader", "a HEIC photo, which pillow-heif reads; type: python -m pip install pillow-heif"
        ) from None
    return HeifImageFile


def without_prose(file: BinaryIO) -> io.BytesIO:
    """A PNG without its texts and colour profile."""
    file.seek(0)
    kept = [file.read(8)]
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in PROSE:
            file.seek(length + 4, os.SEEK_CUR)
        else:
            kept += [head, file.read(length + 4)]
    return io.BytesIO(b"".join(kept))


def page_numbers(image: Image.Image, kind: str) -> list[int]:
    """The pictures of a file that are to be shown one after another; for a photo the one that is the photo."""
    if kind not in ANIMATED:
        return [image.tell()]
    count = getattr(image, "n_frames", 1)
    spare = count > 1 and getattr(image, "default_image", False)  # a PNG's stand-in where animations are not known
    return list(range(int(spare), count))


def shrink(image: Image.Image, size: int) -> None:
    """Refuse a picture too large to decode; a JPEG is decoded at a fraction of its size instead."""
    pixels = image.width * image.height
    if pixels <= LARGEST:
        return
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        scale = next((scale for scale in (2, 4, 8) if pixels / scale**2 <= LARGEST), None)
        if scale and min(image.size) // scale >= size:
            image.draft(None, (image.width // scale, image.height // scale))
            return
    raise DecodeError(
        "too_large",
        f"{image.width} x {image.height} is {pixels / 1e6:.0f} megapixels; the limit is {LARGEST / 1e6:.0f} "
        "(64 times that for a JPEG); save it smaller",
    )


def animation(image: Image.Image, pages: list[int], want: FrameRequest) -> tuple[Tensor, np.ndarray]:
    """Walk through the pictures in order (each builds on the one before) and keep the sampled ones."""
    shrink(image, want.size)
    shown, clock = [], 0
    for page in pages:
        image.seek(page)
        image.load()
        shown.append(clock)
        clock += int(image.info.get("duration") or DEFAULT)
    chosen, _ = choose_frames(shown, Fraction(clock), Fraction(clock), want, Fraction(1, 1000))
    frames = []
    for index in chosen:
        image.seek(pages[index])
        frames.append(resize(upright(image), want.size))
    return torch.stack(frames), np.array([shown[index] / 1000 for index in chosen])


def upright(image: Image.Image) -> Tensor:
    """A picture (H, W, 3) uint8, turned as its EXIF says; what is transparent lies on black."""
    image.load()
    turn = TURNS.get(orientation(image))
    flat = flatten(image)
    return torch.from_numpy(np.array(flat.transpose(turn) if turn is not None else flat))


def orientation(image: Image.Image) -> int:
    """EXIF's Orientation; 1, upright, where that cannot be read."""
    try:
        found = image.tag_v2.get(ORIENTATION, 1) if isinstance(image, Tiff) else image.getexif().get(ORIENTATION, 1)
        return int(found)
    except BROKEN:
        return 1


def flatten(image: Image.Image) -> Image.Image:
    """RGB, 8 bits a colour. Transparency is laid on black, whatever colour the file keeps under it."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(eight_bits(image)).convert("RGB")
    if image.mode == "LAB":
        raise DecodeError("unsupported", "its colours are Lab, which is not read; save it as RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB")
    return image.convert("RGB")


def eight_bits(image: Image.Image) -> np.ndarray:
    """A grey picture of more than 8 bits as (H, W) uint8: black is 0 and white the most that its bits can hold.

    Of floats white is 1. Where the file names its lowest and highest value, those are black and white; floats that leave 0..1
    without saying so are spread from their least to their greatest.
    """
    tags = getattr(image, "tag_v2", {})
    value = np.array(image)
    if value.dtype == np.int32 and first(tags.get(BITS)) == 32 and first(tags.get(SAMPLE_FORMAT)) != 2:
        value = value.view(np.uint32)
    value = value.astype(np.float64)
    low, high = grey_range(image.mode, value, tags)
    scaled = np.clip((value - low) / (high - low), 0, 1) if high > low else np.zeros_like(value)
    if tags.get(PHOTOMETRIC) == 0:
        scaled = 1 - scaled
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[value == clear] = 0
    return np.rint(np.nan_to_num(scaled) * 255).astype(np.uint8)


def grey_range(mode: str, value: np.ndarray, tags: Any) -> tuple[float, float]:
    """The values that are black and white."""
    said = [first(tags.get(tag)) for tag in (LOWEST, HIGHEST)]
    if None not in said and said[0] < said[1]:
        return said[0], said[1]
    if mode == "F":
        whole = value[np.isfinite(value)]
        if not whole.size or (whole.min() >= 0 and whole.max() <= 1):
            return 0.0, 1.0
        return float(whole.min()), float(whole.max())
    bits = int(first(tags.get(BITS)) or 16)
    return 0.0, float(2 ** (bits - (first(tags.get(SAMPLE_FORMAT)) == 2)) - 1)


def first(value: Any) -> float | None:
    """The first of a tag's values."""
    while isinstance(value, tuple):
        value = value[0] if value else None
    return None if value is None else float(value)
