"""What tuning CLIP's blocks from the shards is held against: the whole of CLIP learning from pixels, embeddings too.

python -m tests.bench.end_to_end --shards cache/demo --method clip4clip [--seed 0] [--set key=value ...] [--split val]
Frames are decoded once and held in memory (uint8), which a dataset of demo's size allows; every step then runs both towers
whole, with the patch and the token embedding, the positions and the first norm among what learns. Method, batches, optimizer and
evaluation are the trainer's own. Prints a JSON line of the scores; writes nothing into the cache but the frames (`.bench`).
"""

# Axes: B batch, N frames, S image side, P patches, W width of the image tower.

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.run import measure
from eval.similarity import matrices
from pipeline import params
from pipeline.encoders.weights import locate, read_weights
from pipeline.files import read_table
from pipeline.video.decode import decode
from train import fusion, methods
from train.data import Cache, Loader
from train.history import History
from train.layers.clip_blocks import TextTower
from train.method import Features, Phase
from train.run import prepare
from train.settings import apply_preset, parse_setting, read_stored_settings
from train.trainer import Trainer
from train.tuned import Tuned


class PixelCache(Cache):
    """A cache whose videos and images come with their pixels: pixel (B, N, S, S, 3) uint8, image_pixel (B, S, S, 3)."""

    def __init__(self, folder: Path, needs: frozenset[str], pixels: np.ndarray, **sizes: int):
        super().__init__(folder, (needs - {"hidden", "image_hidden"}) | {"frame", "image"}, **sizes)
        index = dict(zip(*read_table(folder / "keyframes.parquet", ["video_id", "index"]).to_pydict().values()))
        self.pixels, self.keyframe = pixels, np.array([index[name] for name in self.video_id])

    def video(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """The frames' pixels beside what the shards hold."""
        return super().video(rows, dtype) | {"pixel": torch.from_numpy(self.pixels[rows])}

    def image(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """The keyframes' pixels."""
        return super().image(rows, dtype) | {"image_pixel": torch.from_numpy(self.pixels[rows, self.keyframe[rows]])}


class PixelLoader(Loader):
    """Batches with their pixels."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Features]:
        """As the loader's own."""
        for batch in super().epoch(epoch, start):
            rows = batch["label"].cpu().numpy()
            both = self.cache.video(rows) | self.cache.image(rows)
            yield batch | {name: both[name].to(self.device) for name in ("pixel", "image_pixel")}


class Embedding(nn.Module):
    """What stands before CLIP's first image block: patches, the class token, positions, the first norm."""

    def __init__(self, weights: dict[str, Tensor], record: dict[str, Any]):
        super().__init__()
        at = "vision_model."
        self.patch = nn.Parameter(weights[f"{at}embeddings.patch_embedding.weight"].clone())
        self.start = nn.Parameter(weights[f"{at}embeddings.class_embedding"].clone())
        self.position = nn.Parameter(weights[f"{at}embeddings.position_embedding.weight"].clone())
        self.norm = nn.LayerNorm(len(self.start), record["vision"]["epsilon"])
        self.norm.load_state_dict({name: weights[f"{at}pre_layrnorm.{name}"] for name in ("weight", "bias")})
        self.register_buffer("mean", torch.tensor(record["mean"]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(record["deviation"]).view(1, 3, 1, 1))

    def forward(self, pixel: Tensor) -> Tensor:
        """(..., S, S, 3) uint8 -> (..., 1 + P, W), what enters the first block."""
        image = (pixel.flatten(0, -4).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.deviation
        patch = F.conv2d(image, self.patch, stride=self.patch.shape[-1]).flatten(2).transpose(1, 2)
        token = torch.cat([self.start.expand(len(patch), 1, -1), patch], 1) + self.position
        return self.norm(token).unflatten(0, pixel.shape[:-3])


class LearningTextTower(TextTower):
    """The text tower with its embeddings among what learns."""

    def __init__(self, like: TextTower):
        super().__init__(like.shape, like.shape.layers)
        del self.token, self.position
        self.token, self.position = nn.Parameter(like.token.clone()), nn.Parameter(like.position.clone())
        self.load_state_dict(like.state_dict())

    def embed(self, ids: Tensor) -> Tensor:
        """As the text tower's, with gradients."""
        return F.embedding(ids, self.token) + self.position[: ids.shape[1]]


class EndToEnd(Tuned):
    """A method with all of CLIP, from pixels and token ids."""

    def __init__(self, tuned: Tuned, embedding: Embedding):
        nn.Module.__init__(self)
        self.config, self.inner, self.needs, self.towers = tuned.config, tuned.inner, tuned.needs, tuned.towers
        self.towers["text"], self.embedding = LearningTextTower(tuned.towers["text"]), embedding

    def expand(self, features: Features) -> Features:
        """Pixels become what enters the first block, then as ever."""
        made = {}
        if "pixel" in features and "hidden" in self.needs:
            made["hidden"] = self.embedding(features["pixel"])
        if "image_pixel" in features and "image_hidden" in self.needs:
            made["image_hidden"] = self.embedding(features["image_pixel"])
        return super().expand({**features, **made})

    def phases(self) -> list[Phase]:
        """The phases of the tuned method; where blocks move, the embeddings do too, at the lowest block's rate."""
        phases = []
        for phase in super().phases():
            if "towers.image.norm" in phase.learns:
                own = {"embedding": self.config.tune_rate, "towers.text": self.config.tune_rate}
                learns = [name for name in phase.learns if not name.startswith("towers.text")] + list(own)
                rates = {name: rate for name, rate in phase.learning_rates.items() if name in learns} | own
                phase = replace(phase, learns=learns, learning_rates=rates)
            phases.append(phase)
        return phases


def decode_all(shards: Path, frames: int, size: int) -> np.ndarray:
    """(V, N, S, S, 3) uint8 frames of the cache's videos in its order, decoded once; a video of fewer frames ends in zeros."""
    config = params.read_dataset(shards.name)
    path = shards / ".bench" / f"pixels-{frames}-{size}.npy"
    cache = Cache(shards, {"frame"})
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        items = {row["video_id"]: row for row in read_table(shards / "manifest" / "items.parquet").to_pylist()}
        pixels = np.zeros((len(cache), frames, size, size, 3), np.uint8)
        for row, name in enumerate(cache.video_id):
            item, how = items[name], {"sampling": config["sampling"], "decoder": config["decoder"]}
            count = 1 if item["kind"] == "image" else config["frames"]
            clip = decode(Path(config["root"]) / item["path"], count, size, start=item["start"], end=item["end"], **how)
            pixels[row, : len(clip.frame)] = clip.frame.numpy()
        np.save(path, pixels)
    return np.load(path, mmap_mode="r+")  # torch warns of what it may not write to


def build(shards: Path, name: str, seed: int, settings: dict[str, Any]) -> tuple[EndToEnd, PixelCache]:
    """The method with all of CLIP at its start, and the cache with pixels; ValueError where the shards hold less than all."""
    tuned, plain = prepare(shards, name, seed, settings | {"tune": "true"})
    config = tuned.config
    if any(facts["most"] < facts["shape"]["layers"] for facts in config.tail.values()):
        raise ValueError(f"set datasets.{shards.name}.tail to {{image: all, text: all}}")
    record = json.loads((shards / "clip" / "clip.json").read_text())
    weights = read_weights(locate(record["name"], record["revision"], shards / "clip"), "vision_model.")
    pixels = decode_all(shards, plain.frames, record["image_size"])
    cache = PixelCache(shards, tuned.needs, pixels, words=config.words, triplets=config.triplets)
    return EndToEnd(tuned, Embedding(weights, record)), cache


def train_and_score(
    shards: Path, name: str, seed: int, settings: dict[str, Any], splits: tuple[str, ...]
) -> dict[str, Any]:
    """Train end to end, choose what is chosen on val, and score."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)
    model, cache = build(shards, name, seed, settings)
    model.to(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), name, seed, model, device, History(Path(folder) / "history.jsonl"))
        trainer.train(PixelLoader(cache, "train", model.config.batch, seed, device), None)
    fusion.settle(model, cache, "val", device)
    model.eval()
    found: dict[str, Any] = {"seconds": round(trainer.seconds, 1)}
    for split in splits:
        found[split] = pick(measure(matrices(model, cache, split, str(device)))[0])
    return found


def pick(numbers: dict[str, Any]) -> dict[str, Any]:
    """Of an evaluation's numbers those that are compared."""
    return {name: numbers[name] for name in ("t2v", "t2i", "joint")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, default=Path("cache/demo"))
    parser.add_argument("--method", default="clip4clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", nargs="*", default=["val", "test"])
    parser.add_argument("--set", nargs="*", type=parse_setting, default=[], metavar="key=value")
    args = parser.parse_args()
    kind, said = methods.load(args.method), dict(args.set) | {"tune": "true"}
    stored = read_stored_settings(args.shards, args.method, kind.needs, said=said)
    settings = apply_preset(kind.Config, stored) | said
    began = time.monotonic()
    found = train_and_score(args.shards, args.method, args.seed, settings, tuple(args.split))
    facts = {
        "method": args.method,
        "seed": args.seed,
        "tune_rate": settings.get("tune_rate"),
        "all": round(time.monotonic() - began),
    }
    print(json.dumps(facts | found))


if __name__ == "__main__":
    main()
