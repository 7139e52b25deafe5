"""Makes the torture set: small files of every awkward kind, each frame carrying its own number as a grid of blocks.

`Case.times` and `Case.numbers` say which frames a correct player shows and when; `Case.refused` names the reasons with
which a file may be turned down instead.
"""

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
GRID = 4  # blocks a side: one white corner that says which way is up, 12 bits, 3 that must be black
SIDE = 64  # pixels of the square that holds the grid
RATE = 10  # frames a second, where nothing else is said
COUNT = 48  # frames, where nothing else is said
CORNERS = {(0, 0): 1, (0, GRID - 1): 0, (GRID - 1, 0): 0, (GRID - 1, GRID - 1): 0}
PLACES = [(y, x) for y in range(GRID) for x in range(GRID) if (y, x) not in CORNERS]


def picture(number: int, height: int = SIDE, width: int = 96) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose central square shows `number`; the sides change with it as well."""
    side = min(height, width)
    edges = np.linspace(0, side, GRID + 1).astype(int)
    square = np.zeros((side, side), np.uint8)
    bits = CORNERS | {place: number >> bit & 1 for bit, place in enumerate(PLACES)}
    for (y, x), bit in bits.items():
        square[edges[y] : edges[y + 1], edges[x] : edges[x + 1]] = 225 if bit else 30
    whole = np.full((height, width), 60 + number * 7 % 120, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    whole[top : top + side, left : left + side] = square
    return np.repeat(whole[..., None], 3, 2)


def number_in(frame: np.ndarray) -> int | None:
    """The number that a frame (S, S, 3) shows; None where a block is neither black nor white, or it is not upright."""
    grey, block = frame.astype(float).mean(2), len(frame) // GRID
    found = {}
    for y in range(GRID):
        for x in range(GRID):
            inner = grey[y * block : (y + 1) * block, x * block : (x + 1) * block]
            found[y, x] = inner[block // 4 : -block // 4, block // 4 : -block // 4].mean()
    if any(80 < value < 175 for value in found.values()) or any((found[p] > 128) != bit for p, bit in CORNERS.items()):
        return None
    return sum((found[place] > 128) << bit for bit, place in enumerate(PLACES))


@dataclass
class Case:
    """One file and what must come of it."""

    path: Path
    numbers: list[int] = field(default_factory=list)  # in order of presentation
    times: list[float] = field(default_factory=list)  # seconds since the first
    refused: tuple[str, ...] = ()  # acceptable reasons; with numbers: right frames or one of these
    slack: float = 0.0  # seconds by which a container rounds its times
    late: bool = False  # starts within a group of pictures, so that the first frames may or may not be there
    crowded: bool = False  # some wanted times share one long-shown frame, so that its neighbours stand in


def ffmpeg(*arguments: object, feed: bytes | None = None) -> None:
    """Run ffmpeg; what it says goes into the error."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    if feed is not None:
        command.remove("-nostdin")
    ran = subprocess.run(command, input=feed, capture_output=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.decode(errors='replace')[-500:]}")


def film(
    path: Path, *coding: object, numbers: range = range(COUNT), rate: float = RATE, size: tuple = (SIDE, 96)
) -> Path:
    """Encode numbered frames with the given ffmpeg arguments."""
    feed = b"".join(picture(number, *size).tobytes() for number in numbers)
    shape = f"{size[1]}x{size[0]}"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", rate, "-i", "-", *coding, path, feed=feed)
    return path


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", 20, "-pix_fmt", "yuv420p")
CLOSED = (*X264, "-g", 12, "-bf", 2)
B_FRAMES = (*X264, "-g", 24, "-bf", 3, "-x264-params", "b-pyramid=normal:b-adapt=0:scenecut=0")
MPEG4 = ("-c:v", "mpeg4", "-q:v", 3, "-g", 12)
# name, suffix, ffmpeg arguments: the frames are those that were put in, at 10 a second
PLAIN: dict[str, tuple] = {
    "h264_closed_gop": ("mp4", *CLOSED),
    "h264_open_gop": ("mp4", *X264, "-g", 12, "-x264-params", "open-gop=1:b-adapt=0:bframes=3:scenecut=0"),
    "h264_open_gop_ts": ("ts", *X264, "-g", 12, "-x264-params", "open-gop=1:b-adapt=0:bframes=3:scenecut=0"),
    "h264_gop_250": ("mp4", *X264, "-g", 250),
    "h264_gop_1": ("mp4", *X264, "-g", 1),
    "h264_b_pyramid": ("mp4", *B_FRAMES),
    "h264_baseline": ("mp4", *X264, "-profile:v", "baseline", "-g", 20),
    "h264_intra_refresh": ("mp4", *X264, "-x264-params", "intra-refresh=1:keyint=12:bframes=0"),
    "h264_lossless_444": ("mp4", "-c:v", "libx264", "-qp", 0, "-pix_fmt", "yuv444p", "-g", 12),
    "h264_interlaced": ("mp4", *X264, "-flags", "+ildct+ilme", "-x264-params", "tff=1", "-g", 12),
    "h264_full_range": ("mp4", *X264[:-1], "yuvj420p", "-color_range", "pc"),
    "h264_bt709": ("mp4", *X264, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
    "h264_wide_pixels": ("mp4", *CLOSED, "-aspect", "16:9"),
    "h264_fragmented": ("mp4", *CLOSED, "-movflags", "frag_keyframe+empty_moov"),
    "h264_late_start": ("mp4", *CLOSED, "-output_ts_offset", 100),
    "h264_mkv": ("mkv", *B_FRAMES),
    "h264_flv": ("flv", *B_FRAMES),
    "h264_ts": ("ts", *B_FRAMES),
    "h264_b_frames_avi": ("avi", *B_FRAMES),
    "mpeg4_avi": ("avi", *MPEG4),
    "mpeg4_b_frames_avi": ("avi", *MPEG4, "-bf", 2),
    "mpeg4_b_frames_mp4": ("mp4", *MPEG4, "-bf", 2),
    "mpeg2_ts": ("ts", "-r", 25, "-c:v", "mpeg2video", "-q:v", 3, "-bf", 2, "-g", 12),
    "mpeg1_program_stream": ("mpg", "-r", 25, "-c:v", "mpeg1video", "-q:v", 3, "-bf", 2, "-g", 12),
    "vp8_webm": ("webm", "-c:v", "libvpx", "-auto-alt-ref", 1, "-lag-in-frames", 16, "-g", 24, "-b:v", "800k"),
    "vp9_webm": ("webm", "-c:v", "libvpx-vp9", "-g", 24, "-cpu-used", 8, "-row-mt", 0, "-b:v", "800k"),
    "vp9_alpha": ("webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-cpu-used", 8, "-b:v", "800k"),
    "hevc_mp4": ("mp4", "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0:keyint=16:pools=1"),
    "hevc_10_bit": (
        "mkv", "-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=0:keyint=16",
    ),
    "hevc_temporal_layers": (
        "mp4", "-c:v", "libx265", "-preset", "fast", "-x265-params", "log-level=0:temporal-layers=3:keyint=24:bframes=3",
    ),
    "av1_mp4": ("mp4", "-c:v", "libsvtav1", "-preset", 10, "-crf", 20, "-g", 24, "-svtav1-params", "lp=1"),
    "flv1": ("flv", "-c:v", "flv", "-q:v", 3, "-g", 12),
    "wmv2_asf": ("wmv", "-c:v", "wmv2", "-q:v", 3, "-g", 12),
    "mjpeg_avi": ("avi", "-c:v", "mjpeg", "-q:v", 3, "-pix_fmt", "yuvj420p"),
    "prores_mov": ("mov", "-c:v", "prores"),
    "ffv1_mkv": ("mkv", "-c:v", "ffv1"),
    "theora_ogv": ("ogv", "-c:v", "libtheora", "-q:v", 8, "-g", 16),
    "gif": ("gif",),
    "animated_webp": ("webp", "-c:v", "libwebp_anim", "-lossless", 1, "-loop", 0),
    "animated_png": ("apng", "-f", "apng", "-plays", 0),
}  # fmt: skip


def plain(folder: Path) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Files whose frames are simply those that were put in."""
    for name, (suffix, *coding) in PLAIN.items():
        rate = 25 if "-r" in coding else RATE  # MPEG-1 and -2 know no 10 frames a second
        coding = coding[2:] if "-r" in coding else coding
        yield (
            name,
            lambda name=name, suffix=suffix, coding=coding, rate=rate: shown(
                film(folder / f"{name}.{suffix}", *coding, rate=rate), rate=rate
            ),
        )


def shown(path: Path, numbers: range | list = range(COUNT), rate: float = RATE, refused: tuple[str, ...] = ()) -> Case:
    """A case whose frames are shown at a constant rate."""
    slack = 0.012 if path.suffix in (".webm", ".mkv", ".flv", ".gif", ".webp", ".wmv") else 0.001
    return Case(path, list(numbers), [index / rate for index in range(len(numbers))], refused, slack)


def cases(folder: Path) -> dict[str, Callable[[], Case]]:
    """Every kind: its name and the function that makes the file. `folder` gets a file `base.mp4` that many build on."""
    base = film(folder / "base.mp4", *CLOSED, "-movflags", "+faststart")
    return dict(plain(folder)) | dict(Built(folder, base).all())


class Built:
    """Files that need more than one command."""

    def __init__(self, folder: Path, base: Path):
        self.folder, self.base = folder, base

    def all(self) -> Iterator[tuple[str, Callable[[], Case]]]:
        """Name and maker of each."""
        for name in sorted(vars(type(self))):
            if name not in ("all",) and not name.startswith("_"):
                yield name, getattr(self, name)

    def _copy(self, name: str, *arguments: object) -> Path:
        ffmpeg("-i", self.base, "-c", "copy", *arguments, self.folder / name)
        return self.folder / name

    def _changed(self, name: str, change: Callable[[bytearray], object], source: Path | None = None) -> Path:
        data = bytearray((source or self.base).read_bytes())
        answer = change(data)
        path = self.folder / name
        path.write_bytes(answer if isinstance(answer, (bytes, bytearray)) else data)
        return path

    def raw_h264(self) -> Case:
        """A bare stream carries no times; its frames are counted."""
        path = film(self.folder / "bare.h264", *B_FRAMES)
        return Case(path, list(range(COUNT)), [], refused=("no_times",))

    def edit_list(self) -> Case:
        path = self.folder / "edit_list.mp4"
        ffmpeg("-ss", 0.7, "-i", self.base, "-c", "copy", path)
        return shown(path, range(7, COUNT))

    def edit_list_b_frames(self) -> Case:
        source = film(self.folder / "b_source.mp4", *B_FRAMES)
        path = self.folder / "edit_list_b.mp4"
        ffmpeg("-ss", 1.1, "-i", source, "-c", "copy", path)
        return shown(path, range(11, COUNT))

    def _midway(self, name: str, suffix: str, rate: float = RATE) -> Case:
        """Cut from 1.3 s on: what refers to pictures before the cut cannot be shown."""
        kind, *coding = PLAIN[name]
        coding = coding[2:] if "-r" in coding else coding
        source = film(self.folder / f"{name}_source.{kind}", *coding, rate=rate)
        path = self.folder / f"{name}_midway.{suffix}"
        ffmpeg("-ss", 1.3, "-i", source, "-c", "copy", path)
        return Case(path, list(range(COUNT)), [number / rate for number in range(COUNT)], slack=0.013, late=True)

    def starts_midway_h264_mp4(self) -> Case:
        return self._midway("h264_open_gop", "mp4")

    def starts_midway_h264_mkv(self) -> Case:
        return self._midway("h264_open_gop", "mkv")

    def starts_midway_h264_ts(self) -> Case:
        return self._midway("h264_open_gop_ts", "ts")

    def starts_midway_hevc_mp4(self) -> Case:
        return self._midway("hevc_mp4", "mp4")

    def starts_midway_hevc_mkv(self) -> Case:
        return self._midway("hevc_mp4", "mkv")

    def starts_midway_mpeg2_mp4(self) -> Case:
        return self._midway("mpeg2_ts", "mp4", 25)

    def starts_midway_intra_refresh(self) -> Case:
        return self._midway("h264_intra_refresh", "mkv")

    def variable_rate(self) -> Case:
        keep = [number for number in range(COUNT) if number % 7 not in (2, 5, 6)]
        picked = "+".join(f"eq(n,{number})" for number in keep)
        path = film(self.folder / "variable.mp4", "-vf", f"select='{picked}'", "-fps_mode", "vfr", *CLOSED)
        return Case(path, keep, [number / RATE for number in keep], slack=0.001)

    def variable_rate_mkv(self) -> Case:
        keep = [number for number in range(COUNT) if number > 30 or number % 10 == 0]
        picked = "+".join(f"eq(n,{number})" for number in keep)
        path = film(self.folder / "variable.mkv", "-vf", f"select='{picked}'", "-fps_mode", "vfr", *B_FRAMES)
        return Case(path, keep, [number / RATE for number in keep], slack=0.002, crowded=True)

    def _rotated(self, degrees: int) -> Case:
        turned = film(
            self.folder / f"turned{degrees}.mp4",
            "-vf",
            {90: "transpose=1", 180: "hflip,vflip", 270: "transpose=2"}[degrees],
            *CLOSED,
        )
        path = self.folder / f"rotated{degrees}.mov"
        ffmpeg("-display_rotation:v:0", degrees, "-i", turned, "-c", "copy", path)
        return shown(path)

    def rotated_90(self) -> Case:
        return self._rotated(90)

    def rotated_180(self) -> Case:
        return self._rotated(180)

    def rotated_270(self) -> Case:
        return self._rotated(270)

    def one_frame(self) -> Case:
        return shown(film(self.folder / "one.mp4", *CLOSED, numbers=range(1)), range(1))

    def two_frames(self) -> Case:
        return shown(film(self.folder / "two.mp4", *CLOSED, numbers=range(2)), range(2))

    def fewer_than_wanted(self) -> Case:
        return shown(film(self.folder / "five.mp4", *CLOSED, numbers=range(5)), range(5))

    def odd_size(self) -> Case:
        path = film(self.folder / "odd.mp4", "-c:v", "libx264", "-pix_fmt", "yuv444p", "-g", 12, size=(67, 101))
        return shown(path)

    def odd_size_vp9(self) -> Case:
        return shown(film(self.folder / "odd.webm", "-c:v", "libvpx-vp9", "-cpu-used", 8, "-b:v", "1M", size=(67, 101)))

    def tall(self) -> Case:
        return shown(film(self.folder / "tall.mp4", *CLOSED, size=(128, SIDE)))

    def four_k(self) -> Case:
        enlarge = ("-vf", "scale=3840:2160:flags=neighbor")
        coding = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-threads", 1)
        return shown(film(self.folder / "4k.mp4", *enlarge, *coding, numbers=range(6), size=(72, 128)), range(6))

    def three_hours(self) -> Case:
        minute = film(self.folder / "minute.mp4", *X264, "-g", 30, numbers=range(60), rate=1)
        path = self.folder / "three_hours.mp4"
        ffmpeg("-stream_loop", 179, "-i", minute, "-c", "copy", path)
        return shown(path, [index % 60 for index in range(10800)], rate=1)

    def two_videos(self) -> Case:
        other = film(self.folder / "other.mp4", *CLOSED, numbers=range(1000, 1020))
        path = self.folder / "two_videos.mp4"
        ffmpeg("-i", self.base, "-i", other, "-map", 0, "-map", 1, "-c", "copy", path)
        return shown(path)

    def long_sound(self) -> Case:
        path = self.folder / "long_sound.mkv"
        ffmpeg("-i", self.base, "-f", "lavfi", "-i", "sine=d=20", "-c:v", "copy", "-c:a", "aac", path)
        return shown(path)

    def cover_art_and_video(self) -> Case:
        cover = self._cover()
        path = self.folder / "art_and_video.mp4"
        ffmpeg(
            "-i", cover, "-i", self.base, "-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic", path
        )  # fmt: skip
        return shown(path)

    def _cover(self) -> Path:
        cover = self.folder / "cover.png"
        Image.fromarray(picture(4000)).save(cover)
        return cover

    def cover_art_only(self) -> Case:
        path = self.folder / "song.m4a"
        inputs = ("-f", "lavfi", "-i", "sine=d=2", "-i", self._cover())
        ffmpeg(*inputs, "-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v:0", "attached_pic", path)
        return Case(path, refused=("no_video",))

    def audio_only(self) -> Case:
        path = self.folder / "sound.mp4"
        ffmpeg("-f", "lavfi", "-i", "sine=d=2", path)
        return Case(path, refused=("no_video",))

    def empty(self) -> Case:
        path = self.folder / "empty.mp4"
        path.touch()
        return Case(path, refused=("empty",))

    def text(self) -> Case:
        path = self.folder / "text.mp4"
        path.write_text("once upon a time there was no film\n" * 200)
        return Case(path, refused=("not_a_video", "no_video"))

    def text_named_txt(self) -> Case:
        path = self.folder / "notes.txt"
        path.write_text("once upon a time there was no film\n" * 200)
        return Case(path, refused=("not_a_video", "no_video"))

    def noise(self) -> Case:
        path = self.folder / "noise.mp4"
        path.write_bytes(np.random.default_rng(0).bytes(20000))
        return Case(path, refused=("not_a_video", "no_video", "no_frames"))

    def _cut(self, share: float, source: Path | None = None) -> Path:
        name = f"cut{int(share * 100)}{'_' + source.stem if source else ''}{(source or self.base).suffix}"
        return self._changed(name, lambda data: data[: int(len(data) * share)], source)

    def truncated_10(self) -> Case:
        return Case(self._cut(0.10), refused=("truncated", "not_a_video", "no_frames", "damaged"))

    def truncated_60(self) -> Case:
        return Case(self._cut(0.60), refused=("truncated",))

    def truncated_99(self) -> Case:
        return shown(self._cut(0.99), refused=("truncated",))

    def truncated_60_index_last(self) -> Case:
        return Case(self._cut(0.60, self._copy("index_last.mp4")), refused=("not_a_video",))

    def truncated_60_mkv(self) -> Case:
        return Case(self._cut(0.60, self._copy("whole.mkv")), refused=("truncated",))

    def truncated_60_avi(self) -> Case:
        return Case(self._cut(0.60, film(self.folder / "whole.avi", *MPEG4)), refused=("truncated",))

    def header_damaged(self) -> Case:
        def wipe(data: bytearray) -> None:
            data[4:200] = bytes(196)

        return Case(self._changed("wiped.mp4", wipe), refused=("not_a_video", "no_video", "no_frames", "damaged"))

    def _flipped(self, seed: int, flips: int, source: Path | None = None) -> Case:
        chance = np.random.default_rng(seed)

        def flip(data: bytearray) -> None:
            first = data.index(b"mdat") + 64 if b"mdat" in data else len(data) // 5
            for place in chance.integers(first, len(data), flips):
                data[place] ^= 1 << int(chance.integers(8))

        name = f"flipped{seed}{(source or self.base).suffix}"
        return shown(self._changed(name, flip, source), refused=("damaged", "no_frames", "truncated"))

    def bits_flipped_few(self) -> Case:
        return self._flipped(1, 3)

    def bits_flipped_many(self) -> Case:
        return self._flipped(2, 60)

    def bits_flipped_ts(self) -> Case:
        return self._flipped(3, 20, self._copy("whole.ts"))

    def hole_in_the_middle(self) -> Case:
        def wipe(data: bytearray) -> None:
            middle = len(data) * 6 // 10
            data[middle : middle + 1500] = bytes(1500)

        return shown(self._changed("hole.mp4", wipe), refused=("damaged", "no_frames"))

    def wrong_extension(self) -> Case:
        return shown(self._copy("whole2.mkv").rename(self.folder / "really_mkv.avi"))

    def picture_extension(self) -> Case:
        path = self.folder / "really_mp4.jpg"
        path.write_bytes(self.base.read_bytes())
        return shown(path)

    def no_permission(self) -> Case:
        path = self.folder / "secret.mp4"
        path.write_bytes(self.base.read_bytes())
        path.chmod(0)
        return Case(path, refused=("no_permission",)) if os.geteuid() else shown(path)  # root reads everything

    def folder_named_mp4(self) -> Case:
        path = self.folder / "folder.mp4"
        path.mkdir(exist_ok=True)
        return Case(path, refused=("not_a_file",))

    def pipe_named_mp4(self) -> Case:
        path = self.folder / "pipe.mp4"
        os.mkfifo(path)
        return Case(path, refused=("not_a_file",))

    def strange_name(self) -> Case:
        path = self.folder / "a 'b' \"c\" %03d [x]\n#? été 映画 \N{CLAPPER BOARD}.mp4"
        path.write_bytes(self.base.read_bytes())
        return shown(path)

    def name_like_an_address(self) -> Case:
        path = self.folder / "http:" / "-i.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.base.read_bytes())
        return shown(path)

    def name_not_unicode(self) -> Case:
        path = Path(os.fsdecode(os.fsencode(self.folder) + b"/caf\xe9.mp4"))
        path.write_bytes(self.base.read_bytes())
        return Case(path, *self._plainly(), refused=("unreadable", "not_a_video"))

    def _plainly(self) -> tuple[list[int], list[float]]:
        return list(range(COUNT)), [index / RATE for index in range(COUNT)]

    def missing(self) -> Case:
        return Case(self.folder / "nowhere.mp4", refused=("missing",))

    def link_loop(self) -> Case:
        one, two = self.folder / "one_link.mp4", self.folder / "two_link.mp4"
        one.symlink_to(two)
        two.symlink_to(one)
        return Case(one, refused=("unreadable",))

    def link_to_nothing(self) -> Case:
        path = self.folder / "dangling.mp4"
        path.symlink_to(self.folder / "gone.mp4")
        return Case(path, refused=("missing",))

    def link_to_a_film(self) -> Case:
        path = self.folder / "link.mp4"
        path.symlink_to(self.base)
        return shown(path)

    def zero_duration(self) -> Case:
        """Every frame claims the same moment; they are shown in order all the same."""
        path = film(
            self.folder / "zero.mkv", "-vf", "setpts=0", "-fps_mode", "passthrough", *X264, "-bf", 0, numbers=range(9)
        )
        return Case(path, list(range(9)), [], refused=("no_times",))

    def zero_duration_mp4(self) -> Case:
        """The index says that frames last no time at all."""

        def stop(data: bytearray) -> None:
            place = data.index(b"stts") + 8
            (entries,) = struct.unpack_from(">I", data, place)
            for entry in range(entries):
                struct.pack_into(">I", data, place + 8 + 8 * entry, 0)

        source = film(self.folder / "ticking.mp4", *X264, "-bf", 0, numbers=range(9))
        return Case(self._changed("zero.mp4", stop, source), list(range(9)), [], refused=("no_times",))

    def two_sizes(self) -> Case:
        small = film(self.folder / "small.ts", *X264, "-bf", 0, numbers=range(24))
        large = film(
            self.folder / "large.ts",
            *X264,
            "-bf",
            0,
            "-output_ts_offset",
            2.4,
            numbers=range(24, 48),
            size=(2 * SIDE, 192),
        )
        path, parts = self.folder / "two_sizes.ts", self.folder / "parts.txt"
        parts.write_text(f"file '{small}'\nfile '{large}'\n")
        ffmpeg("-f", "concat", "-safe", 0, "-i", parts, "-c", "copy", path)
        return shown(path)

    def joined_carelessly(self) -> Case:
        """Two streams put end to end: the counters of the second do not follow those of the first."""
        first = film(self.folder / "first.ts", *X264, "-bf", 0, numbers=range(24))
        second = film(self.folder / "second.ts", *X264, "-bf", 0, "-output_ts_offset", 2.4, numbers=range(24, 48))
        path = self.folder / "joined.ts"
        path.write_bytes(first.read_bytes() + second.read_bytes())
        return shown(path, refused=("damaged",))

    def photo_jpeg(self) -> Case:
        path = self.folder / "photo.jpg"
        Image.fromarray(picture(77)).save(path, quality=92)
        return shown(path, [77])

    def photo_turned(self) -> Case:
        path = self.folder / "turned.jpg"
        image = Image.fromarray(picture(78))
        exif = image.getexif()
        exif[0x0112] = 6  # turn clockwise to show
        image.rotate(90, expand=True).save(path, quality=92, exif=exif)
        return shown(path, [78])

    def photo_png_alpha(self) -> Case:
        path = self.folder / "photo.png"
        Image.fromarray(picture(79)).convert("RGBA").save(path)
        return shown(path, [79])

    def photo_webp(self) -> Case:
        path = self.folder / "still.webp"
        Image.fromarray(picture(80)).save(path, quality=90)
        return shown(path, [80])

    def photo_gif(self) -> Case:
        path = self.folder / "still.gif"
        Image.fromarray(picture(81)).save(path)
        return shown(path, [81])

    def photo_cut(self) -> Case:
        path = self.folder / "cut.jpg"
        Image.fromarray(picture(82)).save(path, quality=92)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return Case(path, refused=("damaged",))

    def gif_without_delays(self) -> Case:
        path = self.folder / "hasty.gif"
        images = [Image.fromarray(picture(number)) for number in range(12)]
        images[0].save(path, save_all=True, append_images=images[1:], duration=0)
        return shown(path, range(12))


class Watch:
    """Says whether anything opened a file or anybody called a port of this machine while it was watched."""

    def __init__(self, *paths: Path):
        self.paths = paths

    def __enter__(self) -> "Watch":
        kernel = ctypes.CDLL(None, use_errno=True)
        self.notices = kernel.inotify_init1(os.O_NONBLOCK)
        for path in self.paths:
            assert kernel.inotify_add_watch(self.notices, os.fsencode(path), 0x20) >= 0, "inotify: open"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.opened, self.called = self.happened(), True
        try:
            self.listener.accept()
        except BlockingIOError:
            self.called = False
        self.listener.close()
        os.close(self.notices)

    def happened(self) -> bool:
        """Whether a watched file was opened."""
        try:
            return bool(os.read(self.notices, 4096))
        except BlockingIOError:
            return False
