"""The same frames through decord or through ffmpeg-python, for those who want them or want to compare."""

# Axes: N frames, S size; colours last.

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from pipeline.files import DecodeError, PlanError
from pipeline.video import demux, timeline
from pipeline.video.request import FrameRequest
from pipeline.video.resize import resize


def backend_version(decoder: str) -> str:
    """Name and release."""
    if decoder == "decord":
        import decord

        return f"decord {decord.__version__}"
    said = subprocess.run([ffmpeg_program(), "-version"], capture_output=True, text=True, check=True).stdout
    return f"ffmpeg {said.split()[2]}"


def ffmpeg_program() -> str:
    """`ffmpeg` from PATH, else the one that imageio-ffmpeg brings."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def take(path: str | os.PathLike, want: FrameRequest, decoder: str) -> tuple[Tensor, np.ndarray, str, list[str]]:
    """Frames (N, S, S, 3), times (N,), version and notes by the named decoder. Raises DecodeError."""
    return by_decord(path, want) if decoder == "decord" else by_ffmpeg(path, want)


# How a file of each container begins that decord may see. Its own FFmpeg cannot be told what to leave out; a file that begins
# like this is none of the texts that make it open other files. A null byte ends what it takes for a text.
BEGINS = {
    "mov": re.compile(rb"\0...(ftyp|moov|mdat|wide|free|skip|pnot)", re.S),
    "matroska": re.compile(rb"\x1aE\xdf\xa3"),
    "avi": re.compile(rb"RIFF....AVI ", re.S),
    "flv": re.compile(rb"FLV\x01"),
    "asf": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "ogg": re.compile(rb"OggS\0"),
    "mpegts": re.compile(rb"\x47.{187}\x47|.{4}\x47.{191}\x47", re.S),
    "mpeg": re.compile(rb"\0\0\x01[\xba\xb3]"),
    "mpegvideo": re.compile(rb"\0\0\x01\xb3"),
    "h264": re.compile(rb"\0\0\0?\x01"),
    "hevc": re.compile(rb"\0\0\0?\x01"),
}


def require_container(path: str | os.PathLike) -> None:
    """DecodeError unless the file is of a container that holds its pictures itself."""
    with demux.open_container(path) as container:
        name = container.format.name.split(",")[0]
    with open(path, "rb") as file:
        head = file.read(512)
    if name not in BEGINS or not BEGINS[name].match(head):
        raise DecodeError("not_a_video", f"decord is given no file that begins like this ({name}); set decoder: pyav")


def by_decord(path: str | os.PathLike, want: FrameRequest) -> tuple[Tensor, np.ndarray, str, list[str]]:
    """decord's own timestamps decide; it turns rotated videos itself."""
    from decord import DECORDError, VideoReader, cpu

    require_container(path)
    try:
        reader = VideoReader(os.fspath(path), ctx=cpu(0), num_threads=1)
        spans = reader.get_frame_timestamp(np.arange(len(reader)))
        times = [Fraction(float(time)).limit_denominator(1_000_000) for time in spans[:, 0]]
        end = Fraction(float(spans[-1, 1])).limit_denominator(1_000_000)
        chosen, _ = timeline.choose_frames(times, end, end, want, Fraction(1))
        batch = torch.from_numpy(reader.get_batch(chosen).asnumpy())
    except (DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError("not_a_video", f"decord refuses it: {str(error).strip().splitlines()[-1][:200]}") from None
    frame = torch.stack([resize(picture, want.size) for picture in batch])
    return frame, np.array([float(times[index] - times[0]) for index in chosen]), backend_version("decord"), []


def by_ffmpeg(path: str | os.PathLike, want: FrameRequest) -> tuple[Tensor, np.ndarray, str, list[str]]:
    """Frames selected by number, which ffmpeg counts as it presents them; their times are those of the packets."""
    import ffmpeg

    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        found, number = demux.scan(container, stream), stream.index
        kind = container.format.name.split(",")[0]  # named, so that the program does not guess another
        try:
            times = found.times()
        except PlanError as reason:
            raise DecodeError("no_times", f"{reason}; set decoder: pyav, which decodes such a file in order") from None
        stop = found.end(times)
        chosen, notes = timeline.choose_frames(
            times, stop, demux.promised_duration(container, stream, found, times, stop), want, found.clock
        )
    command = (
        ffmpeg.input(
            "file:" + os.fspath(path),
            format=kind,
            protocol_whitelist="file",
            threads=1,
            err_detect="explode",
            xerror=None,
        )[str(number)]
        .filter("select", "+".join(f"eq(n,{index})" for index in chosen))
        .output("pipe:", format="image2pipe", vcodec="ppm", fps_mode="passthrough", loglevel="error")
        .compile(cmd=[ffmpeg_program(), "-nostdin"])
    )
    ran = subprocess.run(command, capture_output=True, check=False)
    frames = [resize(picture, want.size) for picture in portable(ran.stdout)]
    if len(frames) != len(chosen) or ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DecodeError("damaged", f"ffmpeg gave {len(frames)} of {len(chosen)} frames: {' '.join(said)[:200]}")
    time = np.array([float((times[index] - times[0]) * found.clock) for index in chosen])
    return torch.stack(frames), time, backend_version("ffmpeg"), notes


def portable(data: bytes) -> Iterator[Tensor]:
    """Pictures (H, W, 3) of a stream of binary PPM files; each names its own size."""
    place = 0
    while place < len(data):
        fields = []
        line = place
        while len(fields) < 4:
            stop = data.index(b"\n", line)
            fields += data[line:stop].split()
            line = stop + 1
        wide, tall = int(fields[1]), int(fields[2])
        picture = np.frombuffer(data, np.uint8, wide * tall * 3, line).reshape(tall, wide, 3)
        yield torch.from_numpy(picture.copy())
        place = line + wide * tall * 3
