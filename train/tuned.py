"""A method whose image features come from CLIP's last blocks, which learn with it: `tune: image`.

The method's own file does not change. What the cache holds before block `first` goes through the frozen and the owned blocks,
and the method gets frame, patch and image tokens as a frozen CLIP would have given them. A phase that teaches text and video
moves the blocks; any other leaves them, as the paper's second stage does.
"""

# Axes: B batch, N frames, P patches, W width of CLIP's image tower, D embedding.

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from train.layers.clip_blocks import Tower, TowerShape
from train.method import Config, Features, Method, Phase

PARTS = {
    "frame": "hidden",
    "patch": "hidden",
    "image": "image_hidden",
    "image_patch": "image_hidden",
}  # a feature and what it is made from


class Tuned(Method):
    """A method and the image blocks that it owns."""

    def __init__(self, inner: Method):
        torch.nn.Module.__init__(self)
        self.config, self.inner = inner.config, inner
        self.needs = tuned_needs(inner.needs)
        tail = inner.config.tail
        shape = TowerShape(**tail["shape"])
        self.tower = Tower(shape, tail["first"], inner.config.tune_blocks or shape.layers - tail["first"], causal=False)
        self.tower.recompute = inner.config.tune_recompute

    def read(self, path: Path) -> None:
        """Start the blocks from CLIP's own weights."""
        self.tower.read(path, "image")

    def expand(self, features: Features) -> Features:
        """The features with frame (B, N, D), patch (B, N, P, D) and image (B, D) made from what is there of hidden states."""
        made = {}
        if "hidden" in features:
            batch, frames = features["hidden"].shape[:2]
            token = self.tower(features["hidden"].flatten(0, 1)).unflatten(0, (batch, frames))  # (B, N, 1 + P, D)
            made = {"frame": token[:, :, 0].contiguous(), "patch": token[:, :, 1:].contiguous()}
        if "image_hidden" in features:
            token = self.tower(features["image_hidden"])
            made |= {"image": token[:, 0], "image_patch": token[:, 1:]}
        return {**features, **{name: tensor for name, tensor in made.items() if name in self.inner.needs}}

    def encode_text(self, features: Features) -> Features:
        """The method's own: the text tower stays frozen."""
        return self.inner.encode_text(features)

    def encode_video(self, features: Features) -> Features:
        """The method's own, of tuned tokens."""
        return self.inner.encode_video(self.expand(features))

    def encode_image(self, features: Features) -> Features:
        """The method's own, of tuned tokens."""
        return self.inner.encode_image(self.expand(features))

    def score_videos(self, text: Features, video: Features) -> Tensor:
        """The method's own."""
        return self.inner.score_videos(text, video)

    def score_images(self, text: Features, image: Features) -> Tensor:
        """The method's own."""
        return self.inner.score_images(text, image)

    def fused(self) -> list[str]:
        """The method's own."""
        return self.inner.fused()

    def score_parts(self, text: Features, video: Features) -> dict[str, Tensor]:
        """The method's own."""
        return self.inner.score_parts(text, video)

    def set_weights(self, weights: dict[str, float]) -> None:
        """The method's own."""
        self.inner.set_weights(weights)

    def phases(self) -> list[Phase]:
        """The method's own; those that teach text and video also move the owned blocks, the last norm and the projection."""
        rate, decay, count = self.config.tune_rate, self.config.tune_decay, len(self.tower.blocks)
        blocks = {f"tower.blocks.{number}": rate * decay ** (count - 1 - number) for number in range(count)}
        rates = blocks | {"tower.norm": rate, "tower.projection": rate}
        phases = []
        for phase in self.inner.phases():
            moves = "text_video" in phase.teaches
            learns = [f"inner.{name}" for name in phase.learns]
            loss = partial(self.loss, phase, moves)
            inner = {f"inner.{name}": rate for name, rate in phase.learning_rates.items()}
            own = rates if moves else {}
            phases.append(replace(phase, learns=[*learns, *own], loss=loss, learning_rates=inner | own))
        return phases

    def loss(self, phase: Phase, moves: bool, batch: Features, progress: float) -> dict[str, Tensor]:
        """The phase's own loss, of tuned tokens; where the blocks do not learn they run without gradients."""
        with torch.set_grad_enabled(moves and torch.is_grad_enabled()):
            batch = self.expand(batch)
        return phase.loss(batch, progress)


def tuned_needs(needs: frozenset[str]) -> frozenset[str]:
    """What the cache must give in place of the tokens that the blocks make."""
    return frozenset(PARTS.get(name, name) for name in needs)


def check(config: Config) -> None:
    """ValueError unless the settings of tuning go together."""
    if config.tune not in ("", "image"):
        raise ValueError(f"tune is `image` or empty, not {config.tune!r}")
    if not config.tune and (config.tune_blocks or config.tail):
        raise ValueError("tune_blocks says how many of CLIP's blocks learn; set tune=image beside it")
