"""The frozen vision tower as the visual stage uses it, and the recipe that its rows depend on."""

# Axes: N frames of a video, P patches, D embedding, S size.

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.encoders import towers
from pipeline.encoders.tail import tail_blocks

VERSION = "3"
RESIZE = "shorter side, bicubic antialias, centre crop"


class ImageEncoder:
    """The vision tower, loaded when the first frame needs it; `recipe` is known without it.

    `decoders` names what made the frames, for the recipe: an encoder knows pixels, not files.
    """

    def __init__(self, folder: Path, device: str | None, config: dict[str, Any], decoders: dict[str, str]):
        record = json.loads((folder / "clip.json").read_text())
        self.folder, self.device = folder, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.size, self.patches, self.dimension = record["image_size"], record["patches"], record["dimension"]
        self.frames, self.name = config["frames"], record["name"]
        self.tail = tail_blocks("image", config["tail"], record)
        self.first = record["vision"]["layers"] - self.tail
        self.width = record["vision"]["width"]
        self.towers: Any = None
        self.loading = threading.Lock()
        self.recipe = {
            "clip_sha256": record["sha256"],
            "precision": towers.resolve_precision(config["precision"], self.device),
            "frames": config["frames"],
            "size": self.size,
            "sampling": config["sampling"],
            **decoders,
            "resize": RESIZE,
            "thumbnail": config["thumbnail"],
            "version": VERSION,
        }
        if self.tail:
            self.recipe["tail"] = self.tail
        if config["thumbnail"] > self.size:
            self.recipe["thumbnail_of"] = "the file, not of what CLIP sees"

    def load(self) -> None:
        """Load the tower unless it is there; another thread may do so ahead."""
        with self.loading:
            if self.towers is None:
                loaded = towers.FrozenCLIP.load(self.folder, self.device, self.recipe["precision"])
                loaded.read_tower("image")
                self.towers = loaded

    def keep_tail(self, standing: int) -> None:
        """Go on with a longer tail that the shards already hold: it serves a shorter one, and nothing is encoded again."""
        if 0 < self.tail < standing:
            self.tail, self.first = standing, self.first + self.tail - standing
            self.recipe["tail"] = standing

    def finish(self, item: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        """What a FrameExtractor made of an item, its frames replaced by their tokens: frame (N, D), patch (N, P, D), hidden."""
        frame, patch, hidden = self(value["frame"], item["kind"])
        return value | {"frame": frame, "patch": patch, "hidden": hidden}

    def __getstate__(self) -> dict[str, Any]:
        """It is sent to other machines without its tower, which they read for themselves."""
        return {name: value for name, value in vars(self).items() if name not in ("towers", "loading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, towers=None, loading=threading.Lock())

    def __call__(self, frame: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Float16 tokens (N, D) and (N, P, D) of frames (N, S, S, 3), and with a tail what enters its first block, (N, 1 + P, W).

        A batch has the shape that its kind has, filled up with black, so that the bytes do not depend on other items.
        """
        self.load()
        count = len(frame)
        batch = torch.zeros(1 if kind == "image" else self.frames, *frame.shape[1:], dtype=torch.uint8)
        batch[:count] = torch.from_numpy(frame)
        token, hidden = self.towers.encode_image_tokens(batch, self.first if self.tail else None)
        token = towers.to_half(token[:count].numpy())
        return token[:, 0], token[:, 1:], None if hidden is None else towers.to_half(hidden[:count].numpy())
