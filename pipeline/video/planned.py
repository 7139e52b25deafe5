"""Decode only what is needed: the groups of pictures that hold a wanted frame, as far as that frame.

A group of pictures starts at a key frame, from which a decoder can begin. Between wanted frames it skips pictures that no other
picture refers to, which changes no pixel of the others. Where the packets do not say enough, or one is damaged, PlanError is
raised and the caller decodes everything in order.
"""

# Terms: pts, when a frame is shown; dts, when its packet is decoded; both integers in the stream's own clock.

import os
from collections.abc import Callable, Iterable, Iterator

import av

from pipeline.files import PlanError
from pipeline.video import demux, timeline
from pipeline.video.demux import HELD_BYTES, Scan, reread
from pipeline.video.part import is_part, scan_part
from pipeline.video.request import FrameRequest, SampledFrames
from pipeline.video.resize import Canvas
from pipeline.video.timeline import to_seconds

# Codecs whose key frames are true entry points. Anything else is decoded from its first packet.
ENTRY_CODECS = {
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "mpeg4",
    "mpeg1video",
    "mpeg2video",
    "mjpeg",
    "prores",
    "dnxhd",
    "theora",
}
# Codecs where leaving out a non-reference picture changes no other one. Not HEVC: a picture that its own temporal
# layer does not refer to may still serve a higher layer.
SKIP_CODECS = {"h264", "mpeg4", "mpeg1video", "mpeg2video"}


def decode_by_plan(path: str | os.PathLike, want: FrameRequest, headed: bool) -> SampledFrames:
    """Decode only the groups of pictures that hold a wanted frame. `headed`: an MP4, whose header tells all about it."""
    if is_part(want):
        with demux.open_container(path, headed) as container:
            stream = demux.find_stream(container)
            require_plannable(container, stream)
            if part := scan_part(container, stream, want):
                found, origin = part
                times = found.times()
                stop = found.end(times)
                times = times if times[0] == origin else [origin, *times]  # seconds count from the file's first frame
                return take(
                    path, want, stream, found, times, timeline.choose_frames(times, stop, stop, want, found.clock)
                )
    with demux.open_container(path, headed) as container:
        stream = demux.find_stream(container)
        require_plannable(container, stream)
        found = demux.scan(container, stream)
        times = found.times()
        stop = found.end(times)
        promised = demux.promised_duration(container, stream, found, times, stop)
        return take(path, want, stream, found, times, timeline.choose_frames(times, stop, promised, want, found.clock))


def take(
    path: str | os.PathLike,
    want: FrameRequest,
    stream: av.VideoStream,
    found: Scan,
    times: list[int],
    choice: tuple[list[int], list[str]],
) -> SampledFrames:
    """The chosen ones of the frames that are shown at `times`, and notes."""
    chosen, notes = choice
    slots = {times[index]: slot for slot, index in enumerate(chosen)}
    canvas = Canvas(len(slots), want.size)
    for picture in plan_packets(stream.codec_context, found, set(slots), lambda: reread(path)):
        canvas.add(slots[picture.pts], picture)
    return SampledFrames(canvas.convert(), to_seconds(times, chosen, found.clock), demux.pyav_version(), notes)


def require_plannable(container: av.container.InputContainer, stream: av.VideoStream) -> None:
    """PlanError where a codec or container is known not to say enough, so that its packets need not be asked."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in ENTRY_CODECS:
        raise PlanError(f"{codec} has no sure entry points")
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        raise PlanError("AVI does not say when B-frames are shown")


def plan_runs(found: Scan, wanted: set[int]) -> list[tuple[int, int]]:
    """Ranges [first, last] of packets to feed so that every wanted time comes out, in decoding order.

    That is from the key frame of each group to its last wanted picture. A picture that comes after its key frame in the file
    and is shown before it belongs to an open group of pictures: it also refers to the group before, which is then fed whole.
    """
    keys, needed = [0], {}  # packets at which decoding can begin; {begin: last packet needed}
    for index, pts in enumerate(found.pts):
        if found.key[index] and index:
            keys.append(index)
        if pts in wanted and found.shown[index]:
            entry = keys[-1]
            needed[entry] = index
            if len(keys) > 1 and pts < found.pts[entry]:
                needed[keys[-2]] = entry - 1
    merged: list[
        tuple[int, int]
    ] = []  # neighbouring ranges become one, so that the decoder is not flushed between them
    for first, last in sorted(needed.items()):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def plan_packets(
    context: av.VideoCodecContext, found: Scan, wanted: set[int], again: Callable[[], Iterable[av.Packet]]
) -> Iterator[av.VideoFrame]:
    """Frames with the wanted times, by decoding as little as possible; PlanError if the file is not as its packets said.

    `again` reads the packets once more, for a file too large to be held.
    """
    spare = context.codec.canonical_name in SKIP_CODECS
    packets = enumerate(found.packet if found.held <= HELD_BYTES else again())
    # `ahead` is what skip_frame was last set to; `order` holds the time of the frame before in a list of one, so that
    # match_times can replace it
    ahead, missing, order = None, set(wanted), [-(1 << 63)]
    for number, (first, last) in enumerate(plan_runs(found, wanted)):
        if number:
            context.flush_buffers()  # forget the pictures before the gap: nothing behind it may refer to them
        for position, packet in packets:
            if position >= first:
                keep = found.pts[position] in wanted
                if spare and keep != ahead:
                    context.skip_frame = "DEFAULT" if keep else "NONREF"
                    ahead = keep
                if found.corrupt[position]:
                    raise PlanError("a needed packet is damaged")
                yield from match_times(decode_run(context, packet), missing, order)
            if position == last:
                break
        yield from match_times(
            decode_run(context, None), missing, order
        )  # what the decoder still holds back for its order
    if missing:
        raise PlanError(f"{len(missing)} wanted frames did not come out")


def decode_run(context: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """Frames that come out once the packet is in (None: all that are left); PlanError if it does not decode."""
    try:
        return context.decode(packet)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise PlanError(f"a packet does not decode ({error.strerror})") from None


def match_times(frames: list[av.VideoFrame], missing: set[int], order: list[int]) -> Iterator[av.VideoFrame]:
    """Of these frames, those still missing. `order` holds the time of the frame before: a decoder presents frames in order."""
    for frame in frames:
        if frame.pts is None or frame.pts <= order[0]:
            raise PlanError("timestamps do not follow the order of presentation")
        order[0] = frame.pts
        if frame.pts in missing:
            if frame.is_corrupt:
                raise PlanError("a wanted frame is damaged")
            missing.discard(frame.pts)
            yield frame
