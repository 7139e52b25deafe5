"""One video or photo -> its sampled frames as CLIP sees them, each with its time.

    clip = decode("video.mp4", frames=12, size=224)
    clip.frame   # uint8 (N, S, S, 3)
    clip.time    # float64 (N,), seconds since the first frame shown

Every frame is the one on screen at a wanted time, or the file is refused with a DecodeError that says why.
"""

# Axes: N frames, S size; colours last.

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from pipeline import packets, pictures
from pipeline.packets import DecodeError, Scan, Unplanned
from pipeline.resize import resize, turn
from pipeline.sampling import sample

DECODERS = ("pyav", "decord", "ffmpeg")
LOST = Fraction(1, 50)  # a file that holds less of its declared length than this much short is noted as truncated

__all__ = ["DECODERS", "Clip", "DecodeError", "Want", "decode", "version"]


@dataclass(frozen=True)
class Want:
    """What to take from a file: how many frames, how large, which moments (seconds; None is the video's own end)."""

    frames: int
    size: int
    sampling: str = "uniform"
    start: float | None = None
    end: float | None = None


@dataclass
class Clip:
    """Frames (N, S, S, 3) uint8 with their times (N,) in seconds, the decoder that made them, and what was odd."""

    frame: Tensor
    time: np.ndarray
    decoder: str
    notes: list[str] = field(default_factory=list)


def decode(
    path: str | os.PathLike,
    frames: int,
    size: int,
    *,
    sampling: str = "uniform",
    start: float | None = None,
    end: float | None = None,
    decoder: str = "pyav",
) -> Clip:
    """Sample at most `frames` distinct frames of the file; fewer only where it has fewer. Raises DecodeError."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected one of {', '.join(DECODERS)}, got {decoder!r}")
    want = Want(frames, size, sampling, start, end)
    head = readable(path)
    if pictures.known(head, path):
        return Clip(*pictures.take(path, want), version("pillow"))
    if decoder != "pyav":
        from pipeline import peers

        return peers.decode(path, want, decoder)
    try:
        return by_plan(path, want)
    except Unplanned as reason:
        clip = by_order(path, want)
        clip.notes.append(f"decoded in order: {reason}")
        return clip


def version(decoder: str) -> str:
    """The decoder's name and release, as rows of the cache record it."""
    if decoder == "pyav":
        return f"pyav {av.__version__}"
    if decoder == "pillow":
        import PIL

        return f"pillow {PIL.__version__}"
    from pipeline import peers

    return peers.version(decoder)


def readable(path: str | os.PathLike) -> bytes:
    """The first bytes of a regular file, or DecodeError in words a person understands."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecodeError("not_a_file", f"{Path(path).name!r} is a folder or a device, not a file")
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise DecodeError("missing", f"there is no file {os.fspath(path)!r}") from None
    except PermissionError:
        raise DecodeError("no_permission", f"may not read {os.fspath(path)!r}") from None
    except (OSError, ValueError) as error:
        raise DecodeError("unreadable", f"cannot read {os.fspath(path)!r}: {error}") from None
    if not head:
        raise DecodeError("empty", "the file holds no bytes")
    return head


def opened(path: str | os.PathLike) -> av.container.InputContainer:
    """The container; a name is never taken for an address or a pattern."""
    try:
        return av.open("file:" + os.fspath(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeError("not_a_video", f"no known video format: {explain(path, error)}") from None


def explain(path: str | os.PathLike, error: Exception) -> str:
    """Why a container does not open; a cut MP4 lacks the index at its end."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "an MP4 without its index (moov); it was cut short or is damaged"
    return getattr(error, "strerror", None) or str(error)


def by_plan(path: str | os.PathLike, want: Want) -> Clip:
    """Decode only the groups of pictures that hold a wanted frame."""
    with opened(path) as container:
        stream = packets.stream_of(container)
        found = packets.scan(container, stream)
        if stream.codec_context.name not in packets.ENTRY:
            raise Unplanned(f"{stream.codec_context.name} has no sure entry points")
        times = found.times()
        last = found.duration[found.pts.index(times[-1])]
        end, notes = declared(container, stream, times, closing(times, last))
        chosen = choose(times, end, want, found.clock)
        slots = {times[index]: slot for slot, index in enumerate(chosen)}
        frame = torch.empty(len(slots), want.size, want.size, 3, dtype=torch.uint8)
        for picture in packets.planned(stream, found, set(slots), lambda: reread(path)):
            frame[slots[picture.pts]] = pixels(picture, want.size)
    time = np.array([float((times[index] - times[0]) * found.clock) for index in chosen])
    return Clip(frame, time, version("pyav"), notes)


def reread(path: str | os.PathLike) -> Iterator[av.Packet]:
    """The same packets once more, from a fresh reader."""
    with opened(path) as container:
        yield from packets.read(container, packets.stream_of(container), Scan(Fraction(1)))


def by_order(path: str | os.PathLike, want: Want) -> Clip:
    """Decode everything twice: once to learn which frames there are and when, once to take the wanted ones."""
    with opened(path) as container:
        stream = packets.stream_of(container)
        found = packets.scan(container, stream)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    shown = [(picture.pts, sound) for picture, sound in ordered(path)]
    if not shown:
        raise DecodeError("no_frames", f"none of its {len(found.pts)} packets decodes")
    times = clock_times([pts for pts, _ in shown], found, rate)
    with opened(path) as container:
        stream = packets.stream_of(container)
        end, notes = declared(container, stream, times, closing(times, 0))
    chosen = choose(times, end, want, found.clock)
    unsound = [index for index in chosen if not shown[index][1]]
    if unsound:
        count = sum(not sound for _, sound in shown)
        first = float((times[unsound[0]] - times[0]) * found.clock)
        raise DecodeError(
            "damaged", f"{count} of {len(shown)} frames are damaged, the wanted one at {first:.2f} s among them"
        )
    slots = {index: slot for slot, index in enumerate(chosen)}
    frame = torch.empty(len(slots), want.size, want.size, 3, dtype=torch.uint8)
    for index, (picture, _) in enumerate(ordered(path)):
        if index in slots:
            frame[slots[index]] = pixels(picture, want.size)
    time = np.array([float((times[index] - times[0]) * found.clock) for index in chosen])
    return Clip(frame, time, version("pyav"), notes)


def ordered(path: str | os.PathLike) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame that the file presents, from a fresh decoder."""
    with opened(path) as container:
        stream = packets.stream_of(container)
        yield from packets.in_order(stream, packets.read(container, stream, Scan(stream.time_base)))


def clock_times(pts: list[int | None], found: Scan, rate: Fraction) -> list[Fraction | int]:
    """Times of frames in order of presentation: their own, else the decoding times in order, else the frame rate."""
    if None not in pts and all(a < b for a, b in zip(pts, pts[1:])):
        return pts
    dts = sorted(time for time in found.dts if time is not None)
    if len(dts) == len(pts) and all(a < b for a, b in zip(dts, dts[1:])):
        return dts
    return [index / (rate * found.clock) for index in range(len(pts))]


def closing(times: list, duration: int) -> Fraction:
    """When the last frame leaves the screen: after its own duration, else after the usual one."""
    if duration <= 0 and len(times) > 1:
        gaps = sorted(b - a for a, b in zip(times, times[1:]))
        duration = gaps[len(gaps) // 2]
    return Fraction(times[-1] + max(duration, 1))


def declared(
    container: av.container.InputContainer, stream: av.VideoStream, times: list, end: Fraction
) -> tuple[Fraction, list[str]]:
    """The end by the header where the file stops clearly short of it, and a note that says so; else the end found."""
    length = None
    if stream.duration:
        length = Fraction(stream.duration)
    elif container.duration and len(container.streams) == 1:
        length = Fraction(container.duration, av.time_base) / stream.time_base
    found = end - times[0]
    if length is None or found >= length * (1 - LOST):
        return end, []
    clock = float(stream.time_base)
    return times[0] + length, [f"truncated: holds {float(found) * clock:.2f} of {float(length) * clock:.2f} s"]


def choose(times: list, end: Fraction, want: Want, clock: Fraction) -> list[int]:
    """Indices of the wanted frames; refused where the file ends before a wanted moment."""
    origin, stop = Fraction(times[0]), closing(times, 0)
    first = origin + Fraction(want.start or 0).limit_denominator(1_000_000) / clock
    last = end if want.end is None else min(end, origin + Fraction(want.end).limit_denominator(1_000_000) / clock)
    if first >= min(last, stop):
        raise DecodeError(
            "outside", f"nothing between {want.start} and {want.end} s; it lasts {float((stop - origin) * clock):.2f} s"
        )
    chosen = sample(times, (first, last), want.frames, want.sampling, 1 / clock)
    centre = first + (last - first) * (2 * want.frames - 1) / (2 * want.frames)
    if min(centre, last) > stop and last > stop:
        raise DecodeError(
            "truncated", f"holds {float((stop - origin) * clock):.2f} of {float((end - origin) * clock):.2f} s"
        )
    return chosen


def pixels(picture: av.VideoFrame, size: int) -> Tensor:
    """One decoded picture as CLIP sees it (S, S, 3), upright."""
    colour = torch.from_numpy(picture.to_ndarray(format="rgb24", threads=1))
    return resize(turn(colour, picture.rotation), size)
