"""The built-in dataset: clips of a small rendered world, in groups of three look-alikes, made here and the same everywhere.

`world` of the dataset in params.yaml holds `seed` and `groups` (a number a split); the clips lie in the dataset's root.
Val and test are told in wordings of their own, which no train caption uses.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from pipeline import files, progress
from pipeline.datasets import Caption, Item
from pipeline.datasets.demo import world
from pipeline.datasets.demo.captions import caption
from pipeline.datasets.demo.render import frames
from pipeline.datasets.validate import caption_id

SEED = 0
GROUPS = {"train": 700, "val": 100, "test": 334}  # of three clips each
CAPTIONS = {"train": 4, "val": 2, "test": 2}  # a clip
STAMP = "world.json"  # what the clips in a root were made from
WIDTHS = (96, 112, 128)
RATES = (10, 12)  # pictures a second
SECONDS = 3


@dataclass(frozen=True)
class Clip:
    """One clip of the world: its scene, and how its file is written."""

    video_id: str
    split: str
    group: str
    scene: world.Scene
    seed: str
    file: str
    codec: str
    distance: int  # frames between key frames, at most
    width: int
    rate: int


def groups(config: dict[str, Any]) -> tuple[int, dict[str, int]]:
    """Seed and number of groups of each split, from params.yaml or the defaults here."""
    section = config.get("world") or {}
    return int(section.get("seed", SEED)), GROUPS | dict(section.get("groups") or {})


def clips(config: dict[str, Any]) -> Iterator[Clip]:
    """Every clip, in order."""
    seed, counts = groups(config)
    for split, count in counts.items():
        for number in range(count):
            yield from group_of(seed, split, number)


@lru_cache(maxsize=8192)
def group_of(seed: int, split: str, number: int) -> tuple[Clip, ...]:
    """The three clips of one group: a pure function of its arguments."""
    random = Random(f"{seed} {split} {number}")
    scenes = world.draw_group(random)
    width, rate = random.choice(WIDTHS), random.choice(RATES)  # look-alikes do not differ in form
    made = []
    for position, scene in enumerate(scenes):
        suffix, codec = random.choices(
            ((".mp4", "libx264"), (".webm", "libvpx"), (".avi", "mpeg4")), weights=(8, 1, 1)
        )[0]
        name = f"{split}{3 * number + position:05d}"
        distance = random.choice((6, 12, 250))
        key = f"{seed} {name}"
        group = f"{split}-group{number:04d}"
        made.append(Clip(name, split, group, scene, key, f"{split}/{name}{suffix}", codec, distance, width, rate))
    return tuple(made)


def expected(config: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Counts of videos and captions."""
    _, counts = groups(config)
    return {split: {"videos": 3 * count, "captions": 3 * count * CAPTIONS[split]} for split, count in counts.items()}


def read(config: dict[str, Any]) -> tuple[list[Item], list[Caption]]:
    """Every clip, and what is said of it."""
    items, captions = [], []
    for clip in clips(config):
        items.append(Item(clip.video_id, clip.split, clip.file, group=clip.group, group_kind=clip.scene.kind))
        captions += [Caption(clip.video_id, index, text) for index, text in enumerate(sentences(clip))]
    return items, captions


def sentences(clip: Clip) -> list[str]:
    """The captions of one clip, no two alike where the scene allows."""
    random, texts = Random(f"{clip.seed} captions"), []
    for _ in range(20):
        text = caption(clip.scene, clip.split, random)
        if text not in texts:
            texts.append(text)
        if len(texts) == CAPTIONS[clip.split]:
            break
    return (texts * CAPTIONS[clip.split])[: CAPTIONS[clip.split]]


def facts(config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What each caption tells of its clip, by its id: shape, colour and event of what acts first, and the place if said."""
    found = {}
    for clip in clips(config):
        first = clip.scene.steps[0]
        thing = clip.scene.things[first.actor]
        told = {"shape": thing.shape, "colour": thing.colour, "event": first.event}
        for index, text in enumerate(sentences(clip)):
            place = {"place": clip.scene.place} if clip.scene.place in text.split() else {}
            found[caption_id(Caption(clip.video_id, index, text))] = told | place
    return found


def prepare(root: Path, config: dict[str, Any]) -> None:
    """Render into `root` the clips that are not there; all of them if they were made from another world.

    Each file is written whole or not at all, so a killed run goes on where it stopped. The stamp is written last.
    """
    root = Path(root)
    seed, counts = groups(config)
    recipe = {"version": world.VERSION, "seed": seed}
    stamp = root / STAMP
    if not stamp.is_file() and root.is_dir() and any(root.iterdir()):
        raise files.ParamsError(
            f"{root} holds files that were not rendered here; set `root` of {config['name']} to a new folder"
        )
    done = json.loads(stamp.read_text()) if stamp.is_file() else {}
    everything = list(clips(config))
    if done == recipe | {"groups": counts} and all((root / clip.file).is_file() for clip in everything):
        return
    same = {key: done.get(key) for key in recipe} == recipe
    if not same:
        files.write(stamp, json.dumps(recipe) + "\n")
    wanted = [clip for clip in everything if not (same and (root / clip.file).is_file())]
    for folder in {(root / clip.file).parent for clip in wanted}:
        folder.mkdir(parents=True, exist_ok=True)
    if not same:
        for clip in everything:
            (root / clip.file).unlink(missing_ok=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        tasks = pool.map(render, [root] * len(wanted), wanted, chunksize=16)
        for _ in progress.progress(tasks, f"{config['name']}: rendering", "clip", total=len(wanted)):
            pass
    files.write(stamp, json.dumps(recipe | {"groups": counts}) + "\n")


def render(root: Path, clip: Clip) -> None:
    """Write one clip's file: the same bytes for the same clip."""
    pictures = frames(clip.scene, Random(f"{clip.seed} pictures"), SECONDS * clip.rate, clip.width)
    path = Path(root) / clip.file
    part = path.with_name(path.name + files.PART)
    encode(part, path.suffix[1:], pictures, clip)
    part.replace(path)


def encode(path: Path, container: str, pictures: list[Any], clip: Clip) -> None:
    """Encode pictures (width, width, 3) uint8 without anything in the file that differs from run to run."""
    import av

    tree = "mbtree=0"  # x264's macroblock tree reads memory that was never written
    options = {
        "libx264": {"preset": "veryfast", "crf": "20", "bf": "2", "x264-params": tree},
        "libvpx": {"crf": "12", "b": "600k", "deadline": "realtime", "cpu-used": "8"},
        "mpeg4": {"qscale": "4"},
    }[clip.codec]
    with av.open(path, "w", format=container, options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream(clip.codec, rate=clip.rate)
        stream.width = stream.height = clip.width
        stream.pix_fmt, stream.gop_size = "yuv420p", clip.distance
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.options = options
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
