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
from av.video.reformatter import VideoReformatter
from torch import Tensor

from pipeline import container as boxes
from pipeline import packets, peers, pictures
from pipeline.container import DecodeError, Scan, Unplanned, Want
from pipeline.resize import Resizer, turn

DECODERS = ("pyav", "decord", "ffmpeg")
WAITING = 16 << 20  # bytes of decoded pictures that may wait to be converted together

__all__ = ["DECODERS", "Clip", "DecodeError", "Want", "decode", "version"]


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
        return Clip(*peers.take(path, want, decoder))
    try:
        return by_plan(path, want, headed=head[4:8] == b"ftyp")
    except Unplanned as reason:
        clip = by_order(path, want)
        clip.notes.append(f"decoded in order: {reason}")
        return clip


def version(decoder: str) -> str:
    """The name and release of pyav, pillow, decord or ffmpeg, as rows of the cache record it."""
    if decoder == "pyav":
        return f"pyav {av.__version__}"
    return pictures.version() if decoder == "pillow" else peers.version(decoder)


def readable(path: str | os.PathLike) -> bytes:
    """The first bytes of a regular file, or DecodeError in words a person understands."""
    name = Path(path).name
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DecodeError("not_a_file", f"{name!r} is a folder or a device, not a file")
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise DecodeError("missing", f"there is no file {os.fspath(path)!r}") from None
    except PermissionError:
        raise DecodeError("no_permission", f"may not read {os.fspath(path)!r}") from None
    except (OSError, ValueError) as error:
        raise DecodeError("unreadable", f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None
    if not head:
        raise DecodeError("empty", "the file holds no bytes")
    return head


def by_plan(path: str | os.PathLike, want: Want, headed: bool) -> Clip:
    """Decode only the groups of pictures that hold a wanted frame. `headed`: an MP4, whose header tells all about it."""
    with boxes.opened(path, headed) as container:
        stream = boxes.stream_of(container)
        packets.plannable(container, stream)
        found = boxes.scan(container, stream)
        times = found.times()
        stop = found.end(times)
        chosen, notes = boxes.choose(
            times, stop, boxes.promised(container, stream, found, times, stop), want, found.clock
        )
        slots = {times[index]: slot for slot, index in enumerate(chosen)}
        canvas = Canvas(len(slots), want.size)
        for picture in packets.planned(stream.codec_context, found, set(slots), lambda: reread(path)):
            canvas.put(slots[picture.pts], picture)
    return Clip(canvas.finish(), seconds(times, chosen, found.clock), version("pyav"), notes)


def by_order(path: str | os.PathLike, want: Want) -> Clip:
    """Decode everything twice: once to learn which frames there are and when, once to take the wanted ones."""
    with boxes.opened(path) as container:
        stream = boxes.stream_of(container)
        found, rate = boxes.scan(container, stream), stream.average_rate or stream.guessed_rate or Fraction(25)
        seen = [(picture and picture.pts, picture is not None, sound) for picture, sound in ordered(path)]
        shown = [(pts, sound) for pts, there, sound in seen if there]
        if not shown:
            raise DecodeError("no_frames", f"none of its {len(found.pts)} packets gives a frame")
        whole = all(sound for _, _, sound in seen)
        times = clock_times([pts for pts, _ in shown], found, rate) if whole else times_of_damaged(found)
        stop = boxes.closing(times)
        chosen, notes = boxes.choose(
            times, stop, boxes.promised(container, stream, found, times, stop), want, found.clock
        )
    slots = {index: slot for slot, index in enumerate(chosen)}
    if not whole:
        place = {pts: index for index, (pts, sound) in enumerate(shown) if sound}
        lost = [index for index in chosen if times[index] not in place]
        if lost:
            at = seconds(times, lost[:1], found.clock)[0]
            share = f"{len(times) - len(place)} of {len(times)} frames are damaged"
            raise DecodeError("damaged", f"{share}, the wanted one at {at:.2f} s among them")
        slots = {place[times[index]]: slot for slot, index in enumerate(chosen)}
    canvas = Canvas(len(slots), want.size)
    pictures_shown = (picture for picture, _ in ordered(path) if picture is not None)
    for index, picture in enumerate(pictures_shown):
        if index in slots:
            canvas.put(slots[index], picture)
    return Clip(canvas.finish(), seconds(times, chosen, found.clock), version("pyav"), notes)


def times_of_damaged(found: Scan) -> list[int]:
    """When the frames of a damaged file should be shown; without sound timestamps nobody can tell which ones are lost."""
    try:
        return found.times()
    except Unplanned as reason:
        raise DecodeError("damaged", f"packets do not decode, and no telling which frames are lost: {reason}") from None


def reread(path: str | os.PathLike) -> Iterator[av.Packet]:
    """The same packets once more, from a fresh reader."""
    with boxes.opened(path) as container:
        yield from boxes.read(container, boxes.stream_of(container))


def ordered(path: str | os.PathLike) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame that the file presents and whether it is sound, from a fresh decoder."""
    with boxes.opened(path) as container:
        stream = boxes.stream_of(container)
        yield from packets.in_order(stream.codec_context, boxes.read(container, stream))


def clock_times(pts: list[int | None], found: Scan, rate: Fraction) -> list:
    """Times of frames in order of presentation: their own, else the decoding times in order, else the frame rate."""
    if None not in pts and boxes.rising(pts):
        return pts
    dts = sorted(time for time in found.dts if time is not None)
    if len(dts) == len(pts) and boxes.rising(dts):
        return dts
    return [index / (rate * found.clock) for index in range(len(pts))]


def seconds(times: list, chosen: list[int], clock: Fraction) -> np.ndarray:
    """Seconds (N,) from the first frame to the chosen ones."""
    return np.array([float((times[index] - times[0]) * clock) for index in chosen])


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

    def put(self, slot: int, picture: av.VideoFrame) -> None:
        """Take one picture."""
        self.waiting.append((slot, picture))
        self.bytes += picture.width * picture.height * 2
        if self.bytes > WAITING:
            self.finish()

    def finish(self) -> Tensor:
        """Convert, turn upright and resize those that wait; all frames so far."""
        for slot, picture in self.waiting:
            colour = torch.from_numpy(self.reformat(picture, format="rgb24", threads=1).to_ndarray())
            self.resize(turn(colour, picture.rotation), self.frame[slot])
        self.waiting, self.bytes = [], 0
        return self.frame
