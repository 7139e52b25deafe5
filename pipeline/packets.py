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
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise Unplanned(f"a packet does not decode ({error.strerror})") from None
    for frame in frames:
        if frame.pts in missing:
            if frame.is_corrupt:
                raise Unplanned("a wanted frame is damaged")
            missing.discard(frame.pts)
            yield frame


def in_order(context: av.VideoCodecContext, packets: Iterable[av.Packet]) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame in order of presentation, with whether it is sound.

    After a packet that does not decode, frames are unsound until the next key frame is shown: they may refer to what was lost.
    """
    sound = True
    for packet in itertools.chain(packets, [None]):
        try:
            frames = context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            sound = False
            continue
        for frame in frames:
            if frame.key_frame and not frame.is_corrupt:
                sound = True
            yield frame, sound and not frame.is_corrupt
