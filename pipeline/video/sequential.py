"""Decode in order: the tolerant pass for files whose packets cannot be planned."""

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av

from pipeline.files import DecodeError, PlanError
from pipeline.video import demux, timeline
from pipeline.video.demux import Scan
from pipeline.video.request import FrameRequest, SampledFrames
from pipeline.video.resize import Canvas
from pipeline.video.timeline import to_seconds


def decode_in_order(path: str | os.PathLike, want: FrameRequest) -> SampledFrames:
    """Decode everything twice: once to learn which frames there are and when, once to take the wanted ones."""
    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        found, rate = demux.scan(container, stream), stream.average_rate or stream.guessed_rate or Fraction(25)
        seen = [(picture and picture.pts, picture is not None, sound) for picture, sound in in_time_order(path)]
        shown = [(pts, sound) for pts, there, sound in seen if there]
        if not shown:
            raise DecodeError("no_frames", f"none of its {len(found.pts)} packets gives a frame")
        whole = all(sound for _, _, sound in seen)
        times = clock_times([pts for pts, _ in shown], found, rate) if whole else damaged_times(found)
        stop = timeline.frame_ends(times)
        chosen, notes = timeline.choose_frames(
            times, stop, demux.promised_duration(container, stream, found, times, stop), want, found.clock
        )
    slots = {index: slot for slot, index in enumerate(chosen)}
    if not whole:
        place = {pts: index for index, (pts, sound) in enumerate(shown) if sound}
        lost = [index for index in chosen if times[index] not in place]
        if lost:
            at = to_seconds(times, lost[:1], found.clock)[0]
            share = f"{len(times) - len(place)} of {len(times)} frames are damaged"
            raise DecodeError("damaged", f"{share}, the wanted one at {at:.2f} s among them")
        slots = {place[times[index]]: slot for slot, index in enumerate(chosen)}
    canvas = Canvas(len(slots), want.size)
    pictures_shown = (picture for picture, _ in in_time_order(path) if picture is not None)
    for index, picture in enumerate(pictures_shown):
        if index in slots:
            canvas.add(slots[index], picture)
    return SampledFrames(canvas.convert(), to_seconds(times, chosen, found.clock), demux.pyav_version(), notes)


def damaged_times(found: Scan) -> list[int]:
    """When the frames of a damaged file should be shown, by its packets; without trustworthy times it must be refused."""
    try:
        return found.times()
    except PlanError as reason:
        raise DecodeError("damaged", f"packets do not decode, and no telling which frames are lost: {reason}") from None


def in_time_order(path: str | os.PathLike) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Every frame that the file presents and whether it is sound, from a fresh decoder."""
    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        yield from decode_sequentially(stream.codec_context, demux.read_packets(container, stream))


def clock_times(pts: list[int | None], found: Scan, rate: Fraction) -> list:
    """Times of frames in order of presentation: their own; else the packets' decoding times, sorted; else by the frame rate."""
    if None not in pts and timeline.is_rising(pts):
        return pts
    dts = sorted(time for time in found.dts if time is not None)
    if len(dts) == len(pts) and timeline.is_rising(dts):
        return dts
    return [index / (rate * found.clock) for index in range(len(pts))]


def decode_sequentially(
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
