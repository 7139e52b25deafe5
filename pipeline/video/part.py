"""Read only the part of a long file that is asked for: from the key frame before it to its end.

A film of hours is one file and hundreds of segments. Reading all of its packets for each of them would read it hundreds of times.
"""

# Terms: pts, when a frame is shown; dts, when its packet is decoded, never after it is shown.

from fractions import Fraction

import av

from pipeline.video import demux
from pipeline.video.demux import HELD_BYTES, Scan
from pipeline.video.request import FrameRequest

INDEXED = {"mov", "mp4", "matroska", "webm"}  # containers with an index by time, so that a seek is exact
LONG_SECONDS = 60  # a shorter file is read whole
SHARE = Fraction(1, 4)  # of a file: a larger part is not worth the seeks
STEPS = (0, 2, 10, 60)  # seconds before the wanted moment at which a key frame is looked for, one after another


def is_part(want: FrameRequest) -> bool:
    """Whether a part of a file is asked for."""
    return want.start is not None and want.end is not None


def scan_part(
    container: av.container.InputContainer, stream: av.VideoStream, want: FrameRequest
) -> tuple[Scan, int] | None:
    """The packets of the part that is wanted, and when the file's first frame is shown; None where all must be read.

    What comes of it is what a scan of the whole file gives: a picture that is shown at `pts` is decoded at `pts` or before, so
    that once a packet's dts reaches the end of the part, nothing of the part can follow.
    """
    if not INDEXED & set(container.format.name.split(",")):
        return None
    seconds = Fraction(container.duration or 0, av.time_base)
    if seconds < LONG_SECONDS or Fraction(want.end - want.start) > SHARE * seconds:
        return None
    clock = stream.time_base
    try:
        origin = first_shown(container, stream)
        if origin is None:
            return None
        start, end = (
            origin + Fraction(moment).limit_denominator(1_000_000) / clock for moment in (want.start, want.end)
        )
        for before in STEPS:
            container.seek(max(origin, int(start - before / clock)), stream=stream, backward=True)
            found = scan_until(container, stream, end)
            if found is not None and found.pts and found.key[0] and found.pts[0] <= start:
                return found, origin
            if found is None or start - before / clock <= origin:
                return None
    except av.error.FFmpegError:
        return None  # the scan of the whole says what is wrong
    return None


def first_shown(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """When the first frame is shown: known once a packet is decoded no earlier than the earliest time so far.

    Matroska leaves out some dts; there the first group of pictures is read to its end.
    """
    earliest, groups, shows = None, 0, demux.shown_test(stream)
    for packet in demux.read_packets(container, stream):
        if packet.pts is None:
            return None
        groups += packet.is_keyframe
        if earliest is not None and (groups > 1 or (packet.dts is not None and packet.dts >= earliest)):
            return min(earliest, packet.pts) if shows(packet) else earliest
        if shows(packet):
            earliest = packet.pts if earliest is None else min(earliest, packet.pts)
    return earliest


def scan_until(container: av.container.InputContainer, stream: av.VideoStream, end: Fraction) -> Scan | None:
    """Packets from where the container stands up to `end`; None if they cannot be trusted, are too many, or stop before it.

    Without dts the part is over behind the first key frame that is shown after it: pictures that come after a key frame in the
    file and are shown before it stand right behind it.
    """
    found, shows = Scan(stream.time_base), demux.shown_test(stream)
    beyond = None  # when the first key frame after the part is shown
    for packet in demux.read_packets(container, stream):
        if packet.pts is None or packet.is_corrupt:
            return None
        found.add(packet, shows(packet))
        if found.held > HELD_BYTES:
            return None
        if (packet.dts is not None and packet.dts >= end) or (beyond is not None and packet.pts > beyond):
            return found
        if packet.is_keyframe and packet.pts >= end and beyond is None:
            beyond = packet.pts
    # the file is over: as far as it goes it must hold all that is wanted, else the whole scan says what is missing
    shown = [pts + length for pts, length, there in zip(found.pts, found.duration, found.shown) if there]
    return found if shown and max(shown) >= end else None
