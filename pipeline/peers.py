"""The same frames through decord or through ffmpeg-python, for those who want them or want to compare."""

# Axes: N frames, S size; colours last.

import os
import shutil
import subprocess
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from pipeline.packets import DecodeError
from pipeline.resize import resize


def version(decoder: str) -> str:
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


def decode(path: str | os.PathLike, want: Any, decoder: str) -> Any:
    """A decode.Clip by the named decoder; `want` is a decode.Want. Raises DecodeError."""
    return by_decord(path, want) if decoder == "decord" else by_ffmpeg(path, want)


def by_decord(path: str | os.PathLike, want: Any) -> Any:
    """decord's own timestamps decide; it turns rotated videos itself."""
    from decord import DECORDError, VideoReader, cpu

    from pipeline import decode as own

    try:
        reader = VideoReader(os.fspath(path), ctx=cpu(0), num_threads=1)
        spans = reader.get_frame_timestamp(np.arange(len(reader)))
        times = [Fraction(float(time)).limit_denominator(1_000_000) for time in spans[:, 0]]
        end = Fraction(float(spans[-1, 1])).limit_denominator(1_000_000)
        chosen = own.choose(times, end, want, Fraction(1))
        batch = torch.from_numpy(reader.get_batch(chosen).asnumpy())
    except (DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError("not_a_video", f"decord refuses it: {str(error).strip().splitlines()[-1][:200]}") from None
    frame = torch.stack([resize(picture, want.size) for picture in batch])
    time = np.array([float(times[index] - times[0]) for index in chosen])
    return own.Clip(frame, time, version("decord"), [])


def by_ffmpeg(path: str | os.PathLike, want: Any) -> Any:
    """Frames selected by number, which ffmpeg counts as it presents them; times come from the packets."""
    import ffmpeg

    from pipeline import decode as own
    from pipeline import packets

    with own.opened(path) as container:
        stream = packets.stream_of(container)
        found = packets.scan(container, stream)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        try:
            times = found.times()
        except packets.Unplanned:
            shown = [pts for pts, keep in zip(found.pts, found.shown) if keep]
            times = own.clock_times([None] * len(shown), found, rate)
        end, notes = own.declared(container, stream, times, own.closing(times, 0))
        number = stream.index
    chosen = own.choose(times, end, want, found.clock)
    picked = "+".join(f"eq(n,{index})" for index in chosen)
    command = (
        ffmpeg.input("file:" + os.fspath(path), threads=1)[str(number)]
        .filter("select", picked)
        .output("pipe:", format="image2pipe", vcodec="ppm", fps_mode="passthrough", loglevel="error")
        .compile(cmd=[ffmpeg_program(), "-nostdin"])
    )
    ran = subprocess.run(command, capture_output=True, check=False)
    frames = [resize(picture, want.size) for picture in portable(ran.stdout)]
    if len(frames) != len(chosen):
        said = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DecodeError("damaged", f"ffmpeg gave {len(frames)} of {len(chosen)} frames: {' '.join(said)[:200]}")
    time = np.array([float((times[index] - times[0]) * found.clock) for index in chosen])
    return own.Clip(torch.stack(frames), time, version("ffmpeg"), notes)


def portable(data: bytes) -> Any:
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
