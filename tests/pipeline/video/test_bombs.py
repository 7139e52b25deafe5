"""Files that declare absurd sizes: a reject with its reason, and memory that stays bounded."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
MOST = 700  # MB: one whole picture of the largest size that is read
MEASURE = """
import resource, sys
from pipeline.files import Reject
from pipeline.video.decode import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(decode(sys.argv[1], 4, 32, decoder=sys.argv[2]).frame), "frames")
except (Reject, MemoryError) as reason:  # of the latter the pool of workers makes a reject
    print(repr(reason))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def decoded(path: Path, decoder: str = "pyav") -> tuple[str, int]:
    """What is said of a file, and by how many MB its reader grew."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), decoder],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *said, grown = done.stdout.strip().splitlines()
    return "\n".join(said), int(grown)


def png(path: Path, side: int) -> None:
    """A grey square whose lines compress a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, data = zlib.compressobj(1), b""
    for _ in range(min(side, 1_000)):
        data += packer.compress(bytes(1 + side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data + packer.flush()) + chunk(b"IEND", b"")
    )


def gif(path: Path) -> None:
    """A screen of 65,535 pixels squared, and a picture of the same size in a few bytes."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    path.write_bytes(screen + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00;")


def film(path: Path) -> bytearray:
    """A sound MP4, as bytes to be spoiled."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for index in range(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 48, 3), 9 * index, np.uint8), "rgb24")))
        file.mux(stream.encode())
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("side", [30_000, 100_000, 0x7FFFFFFF])
def test_a_picture_that_declares_gigapixels_is_refused(tmp_path, side):
    path = tmp_path / "wide.png"
    if side == 0x7FFFFFFF:
        png(path, 10)
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
    else:
        png(path, side)
    said, grown = decoded(path)
    assert "frames" not in said.split("\n")[0] and said, said
    assert grown < MOST, (said, grown)


def test_a_gif_of_a_giant_screen_is_refused(tmp_path):
    gif(tmp_path / "wide.gif")
    said, grown = decoded(tmp_path / "wide.gif")
    assert "frames" not in said.split("\n")[0] and grown < MOST, (said, grown)


@pytest.mark.parametrize("decoder", ["pyav", "ffmpeg"])
@pytest.mark.parametrize("box", [b"stsz", b"stts", b"stco", b"ctts", b"stsc"])
def test_a_film_that_declares_four_thousand_million_samples_is_bounded(tmp_path, box, decoder):
    path = tmp_path / "many.mp4"
    content = film(path)
    at = content.find(box)
    if at < 0:
        pytest.skip(f"this film has no {box.decode()}")
    count = at + (12 if box == b"stsz" else 8)
    content[count : count + 4] = struct.pack(">I", 0xFFFFFFF0)
    path.write_bytes(content)
    said, grown = decoded(path, decoder)
    assert said and grown < MOST, (said, grown)


def test_a_film_that_declares_a_giant_picture_is_bounded(tmp_path):
    path = tmp_path / "wide.mp4"
    content = film(path)
    at = content.find(b"avc1", content.find(b"stsd"))
    content[at + 28 : at + 32] = struct.pack(">HH", 65535, 65535)
    path.write_bytes(content)
    said, grown = decoded(path)
    assert said and grown < MOST, (said, grown)
