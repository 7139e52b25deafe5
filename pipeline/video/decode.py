"""One video or photo -> its sampled frames as CLIP sees them, each with its time.

    clip = decode("video.mp4", frames=12, size=224)
    clip.frame   # uint8 (N, S, S, 3)
    clip.time    # float64 (N,), seconds since the first frame shown

Every frame is the one on screen at a wanted time, or the file is refused with a DecodeError that says why.
"""

# Axes: N frames, S size; colours last.

import os
import stat
from pathlib import Path

from pipeline.files import DecodeError, PlanError, Reject
from pipeline.video import backends, demux, images
from pipeline.video.images import photo_version
from pipeline.video.planned import decode_by_plan
from pipeline.video.request import FrameRequest, SampledFrames
from pipeline.video.sequential import decode_in_order

DECODERS = ("pyav", "decord", "ffmpeg")
__all__ = ["DECODERS", "DecodeError", "FrameRequest", "SampledFrames", "decode", "decoder_version", "photo_version"]


def decode(
    path: str | os.PathLike,
    frames: int,
    size: int,
    *,
    sampling: str = "uniform",
    start: float | None = None,
    end: float | None = None,
    decoder: str = "pyav",
) -> SampledFrames:
    """Sample at most `frames` distinct frames of the file; fewer only where it has fewer. Raises DecodeError."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    want = FrameRequest(frames, size, sampling, start, end)
    head = read_head(path)
    if images.is_picture(head, path):
        return SampledFrames(*images.take(path, want), decoder_version("pillow"))
    if decoder != "pyav":
        return SampledFrames(*backends.take(path, want, decoder))
    try:
        return decode_by_plan(path, want, headed=head[4:8] == b"ftyp")
    except PlanError as reason:
        clip = decode_in_order(path, want)
        clip.notes.append(f"decoded in order: {reason}")
        return clip


def decoder_version(decoder: str) -> str:
    """The name and release of pyav, pillow, decord or ffmpeg, as rows of the cache record it."""
    if decoder == "pyav":
        return demux.pyav_version()
    return images.pillow_version() if decoder == "pillow" else backends.backend_version(decoder)


def describe_decoders(decoder: str) -> dict[str, str]:
    """What frames depend on beside their file: the releases that decode videos and pictures, and how photos are read."""
    return {"decoder": decoder_version(decoder), "pictures": decoder_version("pillow"), "photos": photo_version()}


def read_head(path: str | os.PathLike) -> bytes:
    """The first bytes of a regular file, or DecodeError in words a person understands."""
    name = Path(path).name
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecodeError("not_a_file", f"{name!r} is a folder or a device, not a file")
        with open(path, "rb") as file:
            head = file.read(64)
    except Reject:
        raise
    except FileNotFoundError:
        raise DecodeError("missing", f"there is no file {os.fspath(path)!r}") from None
    except PermissionError:
        raise DecodeError("no_permission", f"may not read {os.fspath(path)!r}") from None
    except (OSError, ValueError) as error:
        raise DecodeError("unreadable", f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
    if not head:
        raise DecodeError("empty", "the file holds no bytes")
    return head
