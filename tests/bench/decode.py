"""Decoding speed against its peers: one thread each, interleaved, the same frames out, ready for CLIP.

    python -m tests.bench.decode [--rounds 5] [--clips 4]

Ratios are of CPU time of this process, which other work on the machine disturbs least; wall-clock ratios stand beside them.
The last line is JSON. Peers that this bench alone needs are in tests/bench/requirements.txt; one that does not load is `absent`.
"""

# Axes: N frames, H height, W width, S size; colours last.

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from pipeline.video import decode, demux, planned, request, timeline
from pipeline.video.backends import ffmpeg_program
from pipeline.video.resize import resize, resized_shape

SIZE = 224
MESH = 6  # fields a side that bend by themselves
GREY = 2  # levels within which the same frame agrees across resizes
DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def borrow_ffmpeg() -> None:
    """Start again with FFmpeg's shared libraries, those that PyAV brings, under the names that torchcodec looks for."""
    if "UNITRIM_BENCH" in os.environ or importlib.util.find_spec("torchcodec") is None:
        return
    libraries = Path(importlib.util.find_spec("av").origin).parent.parent / "av.libs"
    links = Path(tempfile.mkdtemp(prefix="ffmpeg-"))
    for file in libraries.glob("lib*.so*"):
        name = re.match(r"(lib(?:av\w+|sw\w+))-[0-9a-f]+\.so\.(\d+)", file.name)
        if name:
            (links / f"{name[1]}.so.{name[2]}").symlink_to(file)
    paths = [str(links), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(paths), "UNITRIM_BENCH": str(links), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "tests.bench.decode", *sys.argv[1:]], environment)


# --- clips


def film(path: Path, seconds: int, width: int, height: int, rate: int, gop: int, seed: int, scale: int = 1) -> Path:
    """A clip with cuts every four seconds, key frames there and after `gop` frames at the latest. At this quality 320x240
    takes some 220 kbit/s, as the pictures of MSR-VTT's clips do (0.55 MB for 15 s with sound). A file that is there is kept.
    """
    if path.exists():
        return path
    part = path.with_name(f"part-{path.name}")
    chance = np.random.default_rng(seed)
    command = [
        ffmpeg_program(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
        "-r", str(rate), "-i", "-", "-c:v", "libx264", "-preset", "medium", "-crf", "28", "-g", str(gop),
        "-keyint_min", str(min(gop, 25)), "-pix_fmt", "yuv420p", "-movflags", "+faststart",
        "-vf", f"scale=iw*{scale}:ih*{scale}", str(part),
    ]  # fmt: skip
    encoder = subprocess.Popen(command, stdin=subprocess.PIPE)
    total, scene = seconds * rate, None
    for index in range(total):
        if index % (4 * rate) == 0:
            scene = Scene(chance, width, height)
        encoder.stdin.write(scene.frame(index % (4 * rate)).tobytes())
    encoder.stdin.close()
    if encoder.wait():
        raise SystemExit(f"ffmpeg could not make {path}")
    return part.rename(path)


class Scene:
    """A textured canvas (1/f noise, as photographs have) that bends like cloth under a panning, zooming camera; three things
    tumble over it, the light changes, there is grain.
    """

    def __init__(self, chance: np.random.Generator, width: int, height: int):
        self.chance, self.width, self.height = chance, width, height
        self.canvas = Image.fromarray(texture(chance, height * 3 // 2, width * 3 // 2))
        self.pan, self.zoom = chance.uniform(-0.7, 0.7, 2), chance.uniform(-0.0015, 0.0015)
        self.phase, self.pace = (
            chance.uniform(0, 6.28, (2, MESH + 1, MESH + 1)),
            chance.uniform(0.02, 0.12, (2, MESH + 1, MESH + 1)),
        )
        self.things = [
            (
                Image.fromarray(texture(chance, height // 4, width // 6)),
                chance.uniform(0, 0.7, 2),
                chance.uniform(-2, 2, 2),
            )
            for _ in range(3)
        ]

    def frame(self, index: int) -> np.ndarray:
        """Picture (H, W, 3) uint8."""
        size = np.array([self.width, self.height])
        picture = self.canvas.transform(
            (self.width, self.height), Image.Transform.MESH, self.mesh(index), Image.Resampling.BICUBIC
        )
        for thing, place, speed in self.things:
            at = (place * size + index * speed) % (2 * size)
            x, y = np.minimum(at, 2 * size - at).astype(int)  # back at the edge
            picture.paste(
                thing.rotate(8 * np.sin(index / 9 + place[0] * 6), Image.Resampling.BICUBIC), (int(x) - 20, int(y) - 20)
            )
        light = 1 + 0.03 * np.sin(index / 7)
        grain = self.chance.integers(-1, 2, (self.height, self.width, 1))
        return np.clip(np.asarray(picture) * light + grain, 0, 255).astype(np.uint8)

    def mesh(self, index: int) -> list[tuple]:
        """Where each field of the picture comes from on the canvas."""
        scale = 1 + self.zoom * index
        corner = np.clip(np.array([self.width, self.height]) / 4 + index * self.pan, 0, None)
        bend = self.width / 80 * np.sin(self.phase + self.pace * index)
        xs, ys = (np.linspace(0, side, MESH + 1).astype(int) for side in (self.width, self.height))

        def source(y: int, x: int) -> tuple[float, float]:
            return corner[0] + scale * xs[x] + bend[0, y, x], corner[1] + scale * ys[y] + bend[1, y, x]

        return [
            (
                (xs[x], ys[y], xs[x + 1], ys[y + 1]),
                (*source(y, x), *source(y + 1, x), *source(y + 1, x + 1), *source(y, x + 1)),
            )
            for y in range(MESH)
            for x in range(MESH)
        ]


def texture(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured 1/f noise (H, W, 3) uint8."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    slope = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width)) ** 1.2
    grey = [np.fft.irfft2(np.fft.rfft2(chance.normal(size=(height, width))) * slope, (height, width)) for _ in range(4)]
    colour = np.stack([grey[0] + 0.35 * channel for channel in grey[1:]], -1)
    return np.clip(128 + 50 * (colour - colour.mean()) / colour.std(), 0, 255).astype(np.uint8)


# --- methods: each takes (path, frame numbers, N) and gives uint8 (N, S, S, 3)


def ours(path: str, numbers: list[int], count: int) -> torch.Tensor:
    return decode.decode(path, count, SIZE).frame


def bound(path: str, numbers: list[int], count: int) -> None:
    """The same packets decoded, nothing converted."""
    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        found = demux.scan(container, stream)
        times = found.times()
        for _ in planned.plan_packets(stream.codec_context, found, {times[number] for number in numbers}, None):
            pass


def decord_usual(path: str, numbers: list[int], count: int) -> torch.Tensor:
    """The usual path: get_batch, then Pillow."""
    from decord import VideoReader

    batch = VideoReader(path).get_batch(numbers).asnumpy()
    return torch.stack([pillow(picture) for picture in batch])


def decord_same(path: str, numbers: list[int], count: int) -> torch.Tensor:
    from decord import VideoReader

    return torch.stack(
        [resize(torch.from_numpy(p), SIZE) for p in VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()]
    )


def torchcodec(path: str, numbers: list[int], count: int) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return torch.stack([resize(picture, SIZE) for picture in decoder.get_frames_at(numbers).data])


def opencv(path: str, numbers: list[int], count: int) -> torch.Tensor:
    """grab every frame, retrieve the wanted ones: OpenCV's fastest exact way."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    wanted, frames = set(numbers), []
    for number in range(numbers[-1] + 1):
        capture.grab()
        if number in wanted:
            picture = capture.retrieve()[1]
            frames.append(resize(torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)), SIZE))
    capture.release()
    return torch.stack(frames)


def pyav_sequential(path: str, numbers: list[int], count: int) -> torch.Tensor:
    """Every frame decoded in order, the wanted ones converted."""
    wanted = set(numbers)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = []
        for number, picture in enumerate(container.decode(stream)):
            if number in wanted:
                frames.append(resize(torch.from_numpy(picture.to_ndarray(format="rgb24")), SIZE))
            if number == numbers[-1]:
                break
    return torch.stack(frames)


def ffmpeg(path: str, numbers: list[int], count: int) -> torch.Tensor:
    """The `ffmpeg` program, by ffmpeg-python."""
    return decode.decode(path, count, SIZE, decoder="ffmpeg").frame


def pillow(picture: np.ndarray) -> torch.Tensor:
    """CLIP's preprocessing by Pillow."""
    tall, wide = resized_shape(*picture.shape[:2], SIZE)
    image = np.asarray(Image.fromarray(picture).resize((wide, tall), Image.Resampling.BICUBIC))
    top, left = (tall - SIZE) // 2, (wide - SIZE) // 2
    return torch.from_numpy(image[top : top + SIZE, left : left + SIZE].copy())


METHODS: dict[str, Callable] = {
    "ours": ours,
    "bound": bound,
    "decord_usual": decord_usual,
    "decord_same_resize": decord_same,
    "torchcodec": torchcodec,
    "opencv": opencv,
    "pyav_sequential": pyav_sequential,
    "ffmpeg": ffmpeg,
}
# --- measuring


def present() -> dict[str, Callable]:
    """The methods whose library loads."""
    needs = {
        "decord_usual": "decord",
        "decord_same_resize": "decord",
        "torchcodec": "torchcodec.decoders",
        "opencv": "cv2",
    }
    found = {}
    for name, method in METHODS.items():
        try:
            importlib.import_module(needs.get(name, "av"))
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name}: absent ({str(error).splitlines()[0][:80]})")
            continue
        found[name] = method
    return found


def spent() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def numbers_of(path: str, count: int) -> list[int]:
    """The frames that our sampling wants."""
    with demux.open_container(path) as container:
        stream = demux.find_stream(container)
        found = demux.scan(container, stream)
        times = found.times()
        stop = found.end(times)
        return timeline.choose_frames(times, stop, stop, request.FrameRequest(count, SIZE), found.clock)[0]


def measure(clips: list[str], count: int, methods: dict[str, Callable], rounds: int) -> dict[str, tuple[float, float]]:
    """Median (CPU, wall) milliseconds a clip of each method; frames are checked against ours on the first round."""
    wanted = {path: numbers_of(path, count) for path in clips}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        reference = {}
        for name in methods if turn % 2 else reversed(methods):
            method, cpu, wall = methods[name], time.process_time(), time.perf_counter()
            cpu = spent() if name == "ffmpeg" else cpu
            frames = {path: method(path, wanted[path], count) for path in clips}
            cpu = (spent() if name == "ffmpeg" else time.process_time()) - cpu
            if turn:  # the first round warms up
                times[name].append((cpu, time.perf_counter() - wall))
            else:
                reference[name] = frames
        if not turn:
            check(reference)
    return {
        name: tuple(1000 * statistics.median(t[which] for t in taken) / len(clips) for which in (0, 1))
        for name, taken in times.items()
    }


def check(frames: dict[str, dict[str, torch.Tensor | None]]) -> None:
    """Every method must give our frames; the program says so and stops if one does not."""
    for name, given in frames.items():
        if name == "bound":
            continue
        for path, frame in given.items():
            mine = frames["ours"][path]
            if frame.shape != mine.shape:
                raise SystemExit(f"{name} gives {tuple(frame.shape)} for {path}, expected {tuple(mine.shape)}")
            worst = (frame.int() - mine.int()).abs().amax().item()
            if worst > GREY:
                print(f"  {name}: {Path(path).name} differs by up to {worst} grey levels")


def table(title: str, taken: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Print one set; returns ours against each, by CPU time (>1: ours is faster)."""
    print(f"\n{title}\n  {'':20} {'CPU ms':>8} {'wall ms':>8} {'x CPU':>7} {'x wall':>7}")
    ratios = {}
    for name, (cpu, wall) in taken.items():
        ratios[name] = cpu / taken["ours"][0]
        print(f"  {name:20} {cpu:8.1f} {wall:8.1f} {ratios[name]:7.2f} {wall / taken['ours'][1]:7.2f}")
    return ratios


def two_cores(clips: list[str], count: int, rounds: int) -> tuple[float, float]:
    """Work a second of two processes against one: by the clock, and by CPU time (what remains of it if nothing else runs)."""
    code = (
        "import sys, time, torch; torch.set_num_threads(1)\n"
        "from pipeline.video.decode import decode\n"
        "decode(sys.argv[2], 2, 224); print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    begin = time.process_time()\n"
        "    [decode(path, int(sys.argv[1]), 224) for path in sys.argv[2:]]; print(time.process_time() - begin, flush=True)"
    )
    command = [sys.executable, "-c", code, str(count), *clips]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in pair:
        process.stdout.readline()
    clock, work = [], []
    for _ in range(rounds):
        taken = []
        for crew in (pair[:1], pair):
            begin = time.perf_counter()
            for process in crew:
                process.stdin.write("go\n")
                process.stdin.flush()
            cpu = statistics.mean(float(process.stdout.readline()) for process in crew)
            taken.append((time.perf_counter() - begin, cpu))
        clock.append(2 * taken[0][0] / taken[1][0])
        work.append(2 * taken[0][1] / taken[1][1])
    for process in pair:
        process.stdin.close()
        process.wait()
    return statistics.median(clock), statistics.median(work)


def growth(small: str, large: str, count: int) -> float:
    """MiB by which decoding `large` raises the peak of a process that has all libraries loaded and has decoded `small`."""
    code = (
        "import re, sys, torch; torch.set_num_threads(1)\n"
        "from pipeline.video.decode import decode\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "decode(sys.argv[1], 2, 224); before = peak()\n"
        "decode(sys.argv[2], int(sys.argv[3]), 224); print(peak() - before)"
    )
    command = [sys.executable, "-c", code, small, large, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def clips(folder: Path, each: int) -> dict[str, list[str]]:
    """The sets of clips: generated ones in `folder`, and real ones where they are."""

    def make(name: str, count: int, *shape: int) -> list[str]:
        return [str(film(folder / f"{name}-{number}.mp4", *shape, seed=number)) for number in range(count)]

    sets = {
        "MSR-VTT-like, GOP 250": make("msrvtt-250", each, 15, 320, 240, 25, 250),
        "MSR-VTT-like, GOP 12": make("msrvtt-12", each, 15, 320, 240, 25, 12),
        "DiDeMo-like, GOP 250": make("didemo-250", max(each // 4, 1), 30, 640, 480, 30, 250),
    }
    real = sorted((DATA / "msrvtt_mini" / "videos").glob("*.mp4"))
    if real:
        sets["msrvtt_mini, real key frames"] = [str(path) for path in real[:: max(len(real) // 24, 1)]]
    else:
        print(f"msrvtt_mini: absent ({DATA})")
    for name, paths in sets.items():
        print(f"{name}: {len(paths)} clips, {sum(map(os.path.getsize, paths)) / len(paths) / 1024:.0f} KiB each")
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=4, help="generated clips of each kind")
    parser.add_argument("--folder", type=Path, help="keep the generated clips here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods = present()
    with tempfile.TemporaryDirectory() as spare:
        folder = arguments.folder or Path(spare)
        folder.mkdir(parents=True, exist_ok=True)
        sets = clips(folder, arguments.clips)
        ratios = {
            (name, count): table(f"{name}, {count} frames", measure(paths, count, methods, arguments.rounds))
            for name, paths in sets.items()
            for count in (12, 64)
        }
        long, short = sets["MSR-VTT-like, GOP 250"], ratios["MSR-VTT-like, GOP 12", 12]
        clock, work = two_cores(long, 12, arguments.rounds)
        print(f"\ntwo processes against one: x{clock:.2f} by the clock, x{work:.2f} by CPU time")
        peak = growth(long[0], str(film(folder / "4k.mp4", 3, 480, 270, 24, 48, seed=0, scale=8)), 64)
        print(f"4K, 64 frames: {peak:.0f} MiB above a process that has decoded a small clip")
    long = ratios["MSR-VTT-like, GOP 250", 12]
    answer = {"decord_gop250": long.get("decord_usual"), "decord_gop12": short.get("decord_usual")}
    peers = ("decord_same_resize", "torchcodec", "opencv", "ffmpeg", "pyav_sequential")
    answer |= {name: long.get(name) for name in peers} | {"bound": long["bound"]}
    answer |= {"two_cores": clock, "two_cores_cpu": work, "memory_4k_mib": peak}
    answer |= {f"{name}, {count}": row for (name, count), row in ratios.items()}
    print(json.dumps(rounded(answer)))


def rounded(value: object) -> object:
    """Numbers with three digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    borrow_ffmpeg()


if __name__ == "__main__":
    main()
