"""Parts of a video for a page: a short preview, the moment cut out; without encoding where that can be."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from eval.search.catalog import Item
from pipeline.files import DecodeError, Reject
from pipeline.video import demux
from pipeline.video.extract import locate

PLAYED = {"h264", "vp8", "vp9", "av1"}  # codecs that browsers play from MP4 or WebM
WEBM = {"vp8", "vp9"}
SOUND = {"aac": "mp4", "mp3": "mp4", "opus": "webm", "vorbis": "webm"}  # kept where the container holds it
EARLY = 1.0  # seconds that a preview may begin before its moment, to begin at a key frame
LONGEST_PREVIEW, LONGEST_CUT = 6.0, 600.0  # seconds
PREVIEW_WIDTH, CUT_WIDTH = 320, 1280  # pixels, at most, of what is encoded anew
QUALITY = {"crf": "26", "preset": "veryfast"}


@dataclass(frozen=True)
class Part:
    """A part of a video as a file of its own."""

    content: bytes
    mime: str
    start: float  # seconds of the source at which it begins
    copied: bool  # without encoding

    @property
    def suffix(self) -> str:
        """Of a file that holds it."""
        return ".webm" if self.mime == "video/webm" else ".mp4"


def find_file(root: str, item: Item) -> Path:
    """An item's file. Errors: Reject where its name leads out of the root, or a link does; DecodeError where it is gone."""
    home = Path(root)
    path = locate(home, item.path)
    real = path.resolve()
    if home.resolve() not in real.parents:
        raise Reject("outside", f"{item.path!r} is a link to outside of {root}, and is not opened")
    if not real.is_file():
        raise DecodeError("missing", f"{item.path!r} is not there any more")
    return real


def preview(path: Path, start: float, end: float) -> Part:
    """A few silent seconds of a moment: copied from a key frame close before it, else encoded small."""
    end = min(end, start + LONGEST_PREVIEW)
    return cut(path, start, end, width=PREVIEW_WIDTH, sound=False, early=EARLY)


def cut(
    path: Path, start: float, end: float, *, width: int = CUT_WIDTH, sound: bool = True, early: float = float("inf")
) -> Part:
    """From `start` to `end` seconds after a video's first frame, as MP4 or WebM.

    Packets are copied from the key frame before `start`, if that is at most `early` seconds before it and browsers play the
    codec; otherwise pictures are encoded anew, at most `width` wide and without sound. Errors: DecodeError.
    """
    end = min(max(end, start + 0.2), start + LONGEST_CUT)
    try:
        with demux.open_container(path) as source:
            stream = demux.find_stream(source)
            found = copy_packets(source, stream, start, end, sound, early)
        return found or encode(path, start, end, width)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, Reject):
            raise
        raise DecodeError("damaged", f"no part of {path.name!r} can be cut: {error}") from None


def first_time(source: av.container.InputContainer, stream: av.VideoStream) -> int:
    """When the first frame is shown, on the stream's clock, from which all times of the cache count."""
    if stream.start_time is not None:
        return int(stream.start_time)
    return 0


def copy_packets(
    source: av.container.InputContainer, stream: av.VideoStream, start: float, end: float, sound: bool, early: float
) -> Part | None:
    """The packets between two moments in a container of their own; None where they must be encoded."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in PLAYED or stream.codec_context.pix_fmt not in ("yuv420p", "yuvj420p"):
        return None
    origin, clock = first_time(source, stream), stream.time_base
    source.seek(origin + int(Fraction(start).limit_denominator(10**6) / clock), stream=stream, backward=True)
    kind = "webm" if codec in WEBM else "mp4"
    streams = [stream]
    if sound and source.streams.audio:
        track = source.streams.audio[0]
        if track.codec_context is not None and SOUND.get(track.codec_context.name) == kind:
            streams.append(track)
    file = io.BytesIO()
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if kind == "mp4" else {}
    begin: Fraction | None = None
    ended: set[int] = set()
    with av.open(file, "w", format=kind, options=flags) as target:
        copies = {one.index: target.add_stream_from_template(one) for one in streams}
        for packet in source.demux(streams):
            if packet.dts is None or packet.pts is None or packet.stream.index in ended:
                continue
            time = packet.pts * packet.time_base - origin * clock
            if begin is None:
                if packet.stream.index != stream.index or not packet.is_keyframe:
                    continue
                begin = packet.pts * packet.time_base
                if start - float(time) > early:
                    return None
                zero = packet.dts * packet.time_base
            if packet.dts * packet.time_base - origin * clock > end:
                ended.add(packet.stream.index)
                if len(ended) == len(streams):
                    break
                continue
            if packet.pts * packet.time_base < begin and packet.stream.index != stream.index:
                continue
            shift = int(zero / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = copies[packet.stream.index]
            target.mux(packet)
    if begin is None:
        return None
    return Part(file.getvalue(), f"video/{kind}", float(begin - origin * clock), True)


def encode(path: Path, start: float, end: float, width: int) -> Part:
    """Pictures between two moments, encoded anew as H.264."""
    file = io.BytesIO()
    with demux.open_container(path) as source:
        stream = demux.find_stream(source)
        origin, clock = first_time(source, stream), stream.time_base
        low, high = (origin * clock + Fraction(moment).limit_denominator(10**6) for moment in (start, end))
        source.seek(int(low / clock), stream=stream, backward=True)
        sides = (stream.codec_context.width, stream.codec_context.height)
        size = [max(2, int(min(1.0, width / sides[0]) * side) // 2 * 2) for side in sides]
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        with av.open(file, "w", format="mp4", options=flags) as target:
            made, last = None, -1
            for frame in source.decode(stream):
                if frame.pts is None or frame.pts * clock < low:
                    continue
                if frame.pts * clock > high:
                    break
                time = int((frame.pts * clock - low) * 90_000)
                if time <= last:
                    continue
                picture = turn(frame.reformat(*size, format="yuv420p"), frame.rotation)
                if made is None:
                    made = add_encoder(target, picture, stream.average_rate)
                picture.pts, picture.time_base, last = time, Fraction(1, 90_000), time
                picture.pict_type = av.video.frame.PictureType.NONE
                target.mux(made.encode(picture))
            if made is None:
                raise DecodeError("outside", f"{path.name!r} shows nothing between {start:.1f} and {end:.1f} s")
            target.mux(made.encode(None))
    return Part(file.getvalue(), "video/mp4", start, False)


def add_encoder(target: av.container.OutputContainer, like: av.VideoFrame, rate: Fraction | None) -> av.VideoStream:
    """An H.264 stream for pictures such as this one."""
    made = target.add_stream("libx264", rate=rate or 25, options=QUALITY)
    made.width, made.height, made.pix_fmt = like.width, like.height, "yuv420p"
    made.codec_context.thread_count = 1
    made.time_base = made.codec_context.time_base = Fraction(1, 90_000)
    return made


def turn(picture: av.VideoFrame, degrees: int) -> av.VideoFrame:
    """A picture upright: a phone writes down how it was held and leaves the pixels as they are."""
    quarters = round(degrees / 90) % 4
    if not quarters:
        return picture
    turned = np.ascontiguousarray(np.rot90(picture.to_ndarray(format="rgb24"), quarters))
    return av.VideoFrame.from_ndarray(turned, format="rgb24").reformat(format="yuv420p")
