"""Decode only what is needed: read every packet once, then decode just the groups of pictures that hold a wanted frame.

A group of pictures starts at a key frame. Between wanted frames the decoder leaves out pictures that no other picture refers
to, which is exact. Where timestamps are missing or repeated, or a packet is damaged, everything is decoded in order.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av

from pipeline.engine import Reject

HELD = 96 << 20  # bytes of packets kept in memory; a larger file is read a second time instead

# Codecs whose key frames are true entry points. Anything else is decoded from its first packet.
ENTRY = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "prores", "dnxhd", "theora"}
# Codecs where leaving out a non-reference picture changes no other one. Not HEVC: a picture that its own temporal
# layer does not refer to may still serve a higher layer.
SPARE = {"h264", "mpeg4", "mpeg1video", "mpeg2video"}


class DecodeError(Reject):
    """A file that gives no trustworthy frames: `reason`, a short stable word, and `detail` for a person."""


class Unplanned(Exception):
    """The packet plan did not hold for this file; decode it in order instead. The message says why."""


@dataclass
class Scan:
    """What the packets of one video stream say, in decoding order."""

    clock: Fraction  # seconds a tick
    packet: list[av.Packet | None] = field(default_factory=list)  # None once more than HELD bytes have gone by
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    held: int = 0
    broken: str = ""  # why reading stopped before the end of the file

    def times(self) -> list[int]:
        """Ascending presentation times of the frames that are shown; Unplanned if any is missing or repeated."""
        times = [pts for pts, shown in zip(self.pts, self.shown) if shown]
        if not times:
            raise Unplanned("no packet is shown")
        if None in times:
            raise Unplanned("packets without timestamps")
        times.sort()
        if any(a == b for a, b in zip(times, times[1:])):
            raise Unplanned("repeated timestamps")
        return times


def stream_of(container: av.container.InputContainer) -> av.VideoStream:
    """The first stream that holds moving pictures; cover art does not count."""
    for stream in container.streams.video:
        still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        if not stream.disposition & still and stream.codec_context is not None:
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise DecodeError("no_video", f"holds no moving picture; its streams: {kinds}")


def scan(container: av.container.InputContainer, stream: av.VideoStream) -> Scan:
    """Read every packet of the stream once."""
    found = Scan(stream.time_base)
    hidden = invisible_vp8 if stream.codec_context.name == "vp8" else never
    for packet in read(container, stream, found):
        found.pts.append(packet.pts)
        found.dts.append(packet.dts)
        found.key.append(packet.is_keyframe)
        found.shown.append(not (packet.is_discard or packet.is_corrupt or hidden(packet)))
        found.duration.append(packet.duration or 0)
        found.held += packet.size
        found.packet.append(packet if found.held <= HELD else None)
    return found


def read(container: av.container.InputContainer, stream: av.VideoStream, found: Scan) -> Iterator[av.Packet]:
    """Packets with something in them; a read error ends the file and is noted in `found.broken`."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (av.error.FFmpegError, EOFError) as error:
        found.broken = str(error)


def never(packet: av.Packet) -> bool:
    """No packet is hidden."""
    return False


def invisible_vp8(packet: av.Packet) -> bool:
    """A VP8 packet that only refreshes a reference has a clear show_frame bit (RFC 6386, 9.1)."""
    return not bytes(memoryview(packet)[:1])[0] & 0x10


def runs(found: Scan, wanted: set[int]) -> list[tuple[int, int]]:
    """Ranges [first, last] of packets to feed so that every wanted time comes out, in decoding order.

    From its key frame to the last wanted picture of each group; also the whole group before where a wanted picture is
    shown before its own key frame (an open group of pictures refers backwards).
    """
    keys = [0]
    needed: dict[int, int] = {}
    for index, pts in enumerate(found.pts):
        if found.key[index] and index:
            keys.append(index)
        if pts in wanted and found.shown[index]:
            entry = keys[-1]
            needed[entry] = index
            if len(keys) > 1 and pts < found.pts[entry]:
                needed[keys[-2]] = entry - 1
    merged: list[tuple[int, int]] = []
    for first, last in sorted(needed.items()):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def planned(
    stream: av.VideoStream, found: Scan, wanted: set[int], again: Callable[[], Iterator[av.Packet]]
) -> Iterator[av.VideoFrame]:
    """Frames with the wanted times, by decoding as little as possible; Unplanned if the file does not keep its promises.

    `again` reads the packets once more, for a file too large to be held.
    """
    context = stream.codec_context
    spare = context.name in SPARE
    packets = enumerate(found.packet if found.held <= HELD else again())
    ahead, missing = None, set(wanted)
    for number, (first, last) in enumerate(runs(found, wanted)):
        if number:
            context.flush_buffers()
        for position, packet in packets:
            if position >= first:
                keep = found.pts[position] in wanted
                if spare and keep != ahead:
                    context.skip_frame = "DEFAULT" if keep else "NONREF"
                    ahead = keep
                yield from matching(context, packet, missing)
            if position == last:
                break
        yield from matching(context, None, missing)
    if missing:
        raise Unplanned(f"{len(missing)} wanted frames did not come out")


def matching(context: av.VideoCodecContext, packet: av.Packet | None, missing: set[int]) -> Iterator[av.VideoFrame]:
    """Decode one packet (None: drain) and pass on the frames still missing."""
    try:
        frames = context.decode(packet)
    except av.error.FFmpegError as error:
        raise Unplanned(f"a packet does not decode ({error})") from None
    for frame in frames:
        if frame.pts in missing:
            if frame.is_corrupt:
                raise Unplanned("a wanted frame is damaged")
            missing.discard(frame.pts)
            yield frame


def in_order(stream: av.VideoStream, packets: Iterator[av.Packet]) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame in order of presentation, with whether it is sound.

    After a packet that does not decode, frames are unsound until the next key frame is shown: they may refer to what was lost.
    """
    context = stream.codec_context
    context.skip_frame = "DEFAULT"
    sound = True
    for packet in itertools.chain(packets, [None]):
        try:
            frames = context.decode(packet)
        except EOFError:
            frames = []
        except av.error.FFmpegError:
            sound = False
            continue
        for frame in frames:
            if frame.key_frame and not frame.is_corrupt:
                sound = True
            yield frame, sound and not frame.is_corrupt
