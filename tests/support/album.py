"""A creator's folder: photos with EXIF, films with a scene each, awkward names; and a params.yaml with a tiny CLIP beside it."""

import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.support import tiny

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.png"
PARAMS = """
methods: [max_sim]
defaults:
  clip: {clip}
  precision: fp32
  frames: 4
  shards: 4
datasets:
  folder: {{reader: folder, root: nowhere, max_rejects: 1}}
"""
COLOURS = {"red": (210, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 210), "white": (240, 240, 240)}


def photo(path: Path, seed: int, colour: tuple[int, int, int], exif: Image.Exif | None = None) -> None:
    """A photo of large spots on a colour, the spots another for each seed."""
    grain = np.random.default_rng(seed).integers(0, 60, (6, 8, 3)).repeat(12, 0).repeat(12, 1)
    picture = Image.fromarray((grain + np.array(colour) * 3 // 4).clip(0, 255).astype(np.uint8))
    picture.save(path, **({"exif": exif} if exif else {}))


def film(
    path: Path,
    colour: tuple[int, int, int],
    seconds: float = 4,
    rate: int = 10,
    codec: str = "libx264",
    hold: int = 1,
    **about: str,
) -> None:
    """A dark film that turns to a colour half way, a bar jumps every `hold` frames; `about` is metadata of its container."""
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if about else {}) as file:
        file.metadata.update(about)
        stream = file.add_stream(codec, rate=rate, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        stream.codec_context.thread_count = 1
        count = int(seconds * rate)
        for index in range(count):
            picture = np.full((72, 96, 3), 8, np.uint8)
            picture[:] = colour if index >= count // 2 else 8
            bar = (14 * (index // hold) if hold > 1 else 2 * index) % 60
            picture[bar : bar + 12] = 128
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


def exif(taken: str, latitude: float, longitude: float) -> Image.Exif:
    """As a camera writes it."""
    made = Image.Exif()
    made[0x010F] = "a camera"
    made.get_ifd(0x8769)[0x9003] = taken
    place = made.get_ifd(0x8825)
    for name, value, marks in ((1, latitude, "NS"), (3, longitude, "EW")):
        whole = abs(value)
        minutes = whole % 1 * 60
        place[name] = marks[value < 0]
        place[name + 1] = (float(int(whole)), float(int(minutes)), round(minutes % 1 * 60, 4))
    return made


def build(base: Path) -> Path:
    """Make it below `base`; the folder of media. Four photos, four films, one photo of a hostile name, one broken file."""
    media = base / "media"
    (media / "trip").mkdir(parents=True)
    photo(media / "red.jpg", 0, COLOURS["red"], exif("2023:07:14 12:30:00", 48.8584, 2.2945))
    photo(media / "trip" / "green.jpg", 1, COLOURS["green"], exif("2024:01:02 03:04:05", -33.8568, 151.2153))
    photo(media / "blue.png", 2, COLOURS["blue"])
    photo(media / "trip" / "white.webp", 3, COLOURS["white"])
    photo(media / HOSTILE, 4, COLOURS["red"])
    film(media / "red.mp4", COLOURS["red"], creation_time="2022-05-06T07:08:09Z", location="+48.8584+002.2945/")
    film(media / "trip" / "blue.webm", COLOURS["blue"], codec="libvpx")
    film(media / "old.avi", COLOURS["green"], codec="mpeg4")
    film(media / "trip" / "long.mp4", COLOURS["white"], seconds=20, hold=50)
    (media / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    tiny.clip(base / "model")
    (base / "params.yaml").write_text(PARAMS.format(clip=base / "model"))
    return media


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
