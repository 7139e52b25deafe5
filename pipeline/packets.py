"""Decode only what is needed: the groups of pictures that hold a wanted frame, as far as that frame.

A group of pictures starts at a key frame. Between wanted frames the decoder leaves out pictures that no other picture refers
to, which is exact. Where the packets do not say enough, or one is damaged, everything is decoded in order.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import av

from pipeline.container import HELD, Scan, Unplanned

# Codecs whose key frames are true entry points. Anything else is decoded from its first packet.
ENTRY = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "prores", "dnxhd", "theora"}
# Codecs where leaving out a non-reference picture changes no other one. Not HEVC: a picture that its own temporal
# layer does not refer to may still serve a higher layer.
SPARE = {"h264", "mpeg4", "mpeg1video", "mpeg2video"}


def plannable(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """Unplanned where a format does not say enough, whatever its packets say."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in ENTRY:
        raise Unplanned(f"{codec} has no sure entry points")
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        raise Unplanned("AVI does not say when B-frames are shown")


def runs(found: Scan, wanted: set[int]) -> list[tuple[int, int]]:
    """Ranges [first, last] of packets to feed so that every wanted time comes out, in decoding order.

    From its key frame to the last wanted picture of each group; also the whole group before where a wanted picture is
    shown before its own key frame (an open group of pictures refers backwards).
    """
    keys, needed = [0], {}
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
    context: av.VideoCodecContext, found: Scan, wanted: set[int], again: Callable[[], Iterable[av.Packet]]
) -> Iterator[av.VideoFrame]:
    """Frames with the wanted times, by decoding as little as possible; Unplanned if the file does not keep its promises.

    `again` reads the packets once more, for a file too large to be held.
    """
    spare = context.codec.canonical_name in SPARE
    packets = enumerate(found.packet if found.held <= HELD else again())
    ahead, missing, order = None, set(wanted), [-(1 << 63)]
    for number, (first, last) in enumerate(runs(found, wanted)):
        if number:
            context.flush_buffers()
        for position, packet in packets:
            if position >= first:
                keep = found.pts[position] in wanted
                if spare and keep != ahead:
                    context.skip_frame = "DEFAULT" if keep else "NONREF"
                    ahead = keep
                if found.corrupt[position]:
                    raise Unplanned("a needed packet is damaged")
                yield from matching(decoded(context, packet), missing, order)
            if position == last:
                break
        yield from matching(decoded(context, None), missing, order)
    if missing:
        raise Unplanned(f"{len(missing)} wanted frames did not come out")


def decoded(context: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """Frames that come out once the packet is in (None: all that are left); Unplanned if it does not decode."""
    try:
        return context.decode(packet)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise Unplanned(f"a packet does not decode ({error.strerror})") from None


def matching(frames: list[av.VideoFrame], missing: set[int], order: list[int]) -> Iterator[av.VideoFrame]:
    """The frames still missing. `order` holds the time of the frame before: a decoder presents frames in order."""
    for frame in frames:
        if frame.pts is None or frame.pts <= order[0]:
            raise Unplanned("timestamps do not follow the order of presentation")
        order[0] = frame.pts
        if frame.pts in missing:
            if frame.is_corrupt:
                raise Unplanned("a wanted frame is damaged")
            missing.discard(frame.pts)
            yield frame


def in_order(
    context: av.VideoCodecContext, packets: Iterable[av.Packet]
) -> Iterator[tuple[av.VideoFrame | None, bool]]:
    """Every frame in order of presentation, with whether it is sound; (None, False) for a packet that does not decode.

    After such a packet, frames are unsound until the next key frame is shown: they may refer to what was lost.
    """
    sound, entry, leading = True, None, False
    for packet in itertools.chain(packets, [None]):
        if packet is not None and packet.is_keyframe:
            entry, leading = packet.pts, packet.pts is not None
        elif packet is None or (leading and packet.pts is not None and packet.pts > entry):
            leading = False
        try:
            frames = context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            # what is shown before its own key frame cannot be decoded at the start of a file, and nothing else refers to it
            if not leading and (packet is None or None in (packet.pts, entry) or packet.pts >= entry):
                sound = False
                yield None, False
            continue
        if packet is not None and packet.is_corrupt:
            sound = False
            yield None, False
        for frame in frames:
            if frame.key_frame and not frame.is_corrupt:
                sound = True
            yield frame, sound and not frame.is_corrupt
