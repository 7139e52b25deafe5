"""What a video file says of itself: its stream of moving pictures, its packets, when its frames are shown."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av

from pipeline.files import DecodeError, PlanError
from pipeline.video.timeline import frame_ends, is_rising

HELD_BYTES = 96 << 20  # bytes of packets kept in memory; a larger file is read a second time instead
SHORT_SHARE = Fraction(1, 50)  # a file that ends earlier than its header says by more than this share was cut short
TEXT_CODECS = {"ansi", "bintext", "xbin", "idf"}  # what FFmpeg takes a text file for
HEADER_ONLY = {"skip_frame": "all", "probesize": "32"}  # decode nothing while opening
# What holds moving pictures (or sound, so that a reject can say so) in one file. Left out is what opens other files: playlists
# (hls, dash, concat, imf, sdp), numbered pictures, and whatever is interpreted (svg_pipe, lavfi, scripts).
CONTAINERS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "asf_o", "flv", "ogg", "h264", "hevc", "vvc", "av1", "obu",
    "ivf", "m4v", "mjpeg", "mjpeg_2000", "h261", "h263", "vc1", "vc1test", "dirac", "cavsvideo", "yuv4mpegpipe", "mxf", "gxf",
    "dv", "nut", "rm", "wtv", "nsv", "mp3", "aac", "flac", "wav",
)  # fmt: skip
ONE_FILE = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file", "enable_drefs": "0"}
INTERPRETED = {  # how a text begins that names other files, or that a program must run
    b"#EXTM3U": "a playlist (M3U8)",
    b"ffconcat": "a list of files (ffconcat)",
    b"v=0": "a session description (SDP)",
    b"<svg": "a drawing (SVG)",
    b"<MPD": "a playlist (DASH)",
    b"%!": "a PostScript program",
    b"%PDF": "a PDF document",
}


@dataclass
class Scan:
    """What the packets of one video stream say, in decoding order: entry i of each list is of packet i."""

    clock: Fraction  # seconds a tick
    packet: list[av.Packet | None] = field(default_factory=list)  # None for those past the first HELD_BYTES
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    corrupt: list[bool] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    held: int = 0
    cut: bool = False  # whether the file ends within a packet

    def add(self, packet: av.Packet, shown: bool) -> None:
        """Take down what one packet says."""
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.key.append(packet.is_keyframe)
        self.shown.append(shown)
        self.corrupt.append(packet.is_corrupt)
        self.duration.append(packet.duration or 0)
        self.held += packet.size
        self.packet.append(packet if self.held <= HELD_BYTES else None)

    def times(self) -> list[int]:
        """Ascending presentation times of the frames that are shown; PlanError if they cannot be trusted."""
        times = [pts for pts, shown in zip(self.pts, self.shown) if shown]
        if not times:
            raise PlanError("no packet is shown")
        if None in times:
            raise PlanError("packets without timestamps")
        if not is_rising([dts for dts in self.dts if dts is not None]):
            raise PlanError("decoding times go back")
        times.sort()
        if not is_rising(times):
            raise PlanError("repeated timestamps")
        if self.cut and self.dts[-1] is not None:
            # a picture shown after the last whole packet was decoded may have lost one that should be shown before it
            times = [time for time in times if time <= self.dts[-1]] or times[:1]
        return times

    def end(self, times: list[int]) -> Fraction:
        """When the last of `times` leaves the screen by its own packet's duration."""
        return frame_ends(times, self.duration[self.pts.index(times[-1])])


def open_container(path: str | os.PathLike, headed: bool = False) -> av.container.InputContainer:
    """The container; a name is never taken for an address or a pattern, and no other file is opened. Raises DecodeError.

    FFmpeg decodes the first pictures of a file to learn what it holds. `headed`: the header says enough, as an MP4's does.
    """
    try:
        return av.open("file:" + os.fspath(path), options=ONE_FILE | (HEADER_ONLY if headed else {}))
    except MemoryError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeError("not_a_video", f"no known video format: {explain_refusal(path, error)}") from None


def explain_refusal(path: str | os.PathLike, error: Exception) -> str:
    """Why a container does not open; the usual case is an MP4 whose index, at its end, did not arrive."""
    with open(path, "rb") as file:
        head = file.read(1024)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in INTERPRETED.items():
        if text.startswith(start) or (start[:1] == b"<" == text[:1] and start in text):
            return f"it is {kind}, which is not opened"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "an MP4 without its index (moov); it was cut short or is damaged"
    return getattr(error, "strerror", None) or str(error)


def find_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first stream that holds moving pictures; cover art does not count. DecodeError if there is none."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    for stream in container.streams.video:
        context = stream.codec_context
        if context is not None and not stream.disposition & still and context.name not in TEXT_CODECS:
            stream.thread_type = "NONE"
            context.thread_count = 1  # workers share the cores; threads would also delay frames and keep more of them
            context.options = {"err_detect": "explode"}  # say so where data is damaged, instead of painting over it
            return stream
    if any(stream.codec_context is None for stream in container.streams.video):
        raise DecodeError("damaged", "its header names no codec; it was cut short or is damaged")
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    art = " (cover art)" if any(stream.disposition & still for stream in container.streams.video) else ""
    raise DecodeError("no_video", f"holds no moving picture, only {kinds}{art}")


def scan(container: av.container.InputContainer, stream: av.VideoStream) -> Scan:
    """Read every packet of the stream once."""
    found, shows = Scan(stream.time_base), shown_test(stream)
    for packet in read_packets(container, stream):
        found.add(packet, shows(packet))
    if found.corrupt and found.corrupt[-1]:  # half a packet at the end of a file that was cut off; the rest is whole
        found.cut = True
        for column in (found.packet, found.pts, found.dts, found.key, found.shown, found.corrupt, found.duration):
            column.pop()
    return found


def read_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Packets that hold data. A file that cannot be read on ends there; whether too early, `promised_duration` says."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except MemoryError:
        raise
    except (av.error.FFmpegError, EOFError):
        return


def shown_test(stream: av.VideoStream) -> Callable[[av.Packet], bool]:
    """A function that says whether a packet's picture is shown; an edit list discards some, VP8 hides some."""
    if stream.codec_context.codec.canonical_name == "vp8":
        return lambda packet: not (packet.is_discard or is_hidden_vp8(packet))
    return lambda packet: not packet.is_discard


def is_hidden_vp8(packet: av.Packet) -> bool:
    """A VP8 packet that only refreshes a reference has a clear show_frame bit (RFC 6386, 9.1)."""
    return not bytes(memoryview(packet)[:1])[0] & 0x10


def promised_duration(
    container: av.container.InputContainer, stream: av.VideoStream, found: Scan, times: list, end: Fraction
) -> Fraction:
    """When the video should end: by its header if the file stops clearly short of that, else `end`, which its packets say."""
    if 0 < stream.frames <= len(found.pts) and not found.cut:
        return end  # all are there, be they shown or not
    # a header counts from the start of the stream, which may lie before the first frame shown
    start = times[0] if stream.start_time is None else min(times[0], stream.start_time)
    if stream.duration:
        late = start + Fraction(stream.duration)
    elif container.duration and len(container.streams) == 1:
        late = Fraction(container.duration, av.time_base) / stream.time_base
    else:
        return end
    return late if late - end > (late - start) * SHORT_SHARE else end


def reread(path: str | os.PathLike) -> Iterator[av.Packet]:
    """The same packets once more, from a fresh reader."""
    with open_container(path) as container:
        yield from read_packets(container, find_stream(container))


def pyav_version() -> str:
    """Name and release of the decoder, as rows of the cache record it."""
    return f"pyav {av.__version__}"
