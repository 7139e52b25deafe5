"""A folder in which every stage can run: small real clips in MSR-VTT's layout, a params.yaml, a CLIP with random weights."""

import json
import os
import shutil
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[2]
WORDS = ("man", "woman", "dog", "car", "ball", "house", "tree", "song")
VERBS = ("rides", "holds", "paints", "follows", "watches", "cooks", "plays", "throws")
COLOURS = ("red", "blue", "green", "old", "small", "wet")
PARAMS = """
enabled: [{name}]
methods: [zero_shot]
seeds: []
defaults: {{}}
datasets:
  {name}:
    reader: msrvtt
    root: {root}
    split: mini
    val: 0
    clip: {clip}
    clip_revision: null
    scratch: {{}}
    precision: fp32
    frames: {frames}
    sampling: uniform
    decoder: pyav
    thumbnail: 48
    shards: {shards}
    max_rejects: 0.02
    words: 32
    triplets: {{parser: {parser}, rules: extended, conventions: video, style: paper, form: surface, cap: 8}}
    train: {{zero_shot: {{}}, unitrim: {{epochs: 2, image_epochs: 1, batch: 32, k: 2, samples: 4}}}}
"""


def clip(path: Path, seed: int, count: int = 12, width: int = 64, height: int = 48) -> None:
    """A short H.264 film of noise that drifts."""
    random = np.random.default_rng(seed)
    picture = random.integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=6)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for step in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * step, 1), "rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def sentence(random: np.random.Generator) -> str:
    """A random sentence that has triplets."""
    one, two = (f"{random.choice(COLOURS)} {random.choice(WORDS)}" for _ in range(2))
    return f"a {one} {random.choice(VERBS)} a {two} number {random.integers(1000)}"


def annotate(root: Path, videos: int, captions: int) -> None:
    """MSR-VTT's files for `videos` videos; the last tenth is the test split."""
    random = np.random.default_rng(0)
    names = [f"video{number}" for number in range(videos)]
    rows = [{"video_id": name, "caption": sentence(random)} for name in names for _ in range(captions)]
    whole = {"videos": [{"video_id": name, "url": ""} for name in names], "sentences": rows}
    (root / "MSRVTT_data.json").write_text(json.dumps(whole))
    test = [name for number, name in enumerate(names) if number % 10 == 9]
    train = [name for number, name in enumerate(names) if number % 10 != 9]
    (root / "MSRVTT_train.csv").write_text("\n".join(["video_id", *train]) + "\n")
    lines = [f"ret{number},msr{number},{name},a {WORDS[number % 8]} moves" for number, name in enumerate(test)]
    (root / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *lines]) + "\n")


def settings(folder: Path, **values: object) -> None:
    """Write params.yaml."""
    usual = {"name": "bench", "root": folder, "clip": folder, "frames": 4, "shards": 4, "parser": "shallow"}
    (folder / "params.yaml").write_text(PARAMS.format(**(usual | values)))


def build(
    folder: Path,
    videos: int,
    captions: int = 4,
    *,
    name: str = "bench",
    shards: int = 4,
    frames: int = 4,
    parser: str = "shallow",
    distinct: int = 50,
    model: Path | None = None,
    film: dict[str, int] | None = None,
) -> Path:
    """Make `folder` such a place; returns where the videos are.

    There are `distinct` different films under `videos` names; `film` is their size.
    """
    root = folder / "data"
    (root / "videos").mkdir(parents=True)
    sources = []
    for seed in range(min(distinct, videos)):
        sources.append(root / "videos" / f"video{seed}.mp4")
        clip(sources[-1], seed, **(film or {}))
    for number in range(len(sources), videos):
        shutil.copyfile(sources[number % len(sources)], root / "videos" / f"video{number}.mp4")
    annotate(root, videos, captions)
    if model is None:
        from tests.support import tiny

        model = tiny.clip(folder / "model")
    settings(folder, name=name, root=root, clip=model, frames=frames, shards=shards, parser=parser)
    if (ROOT / "tools").exists():
        os.symlink(ROOT / "tools", folder / "tools")
    return root
