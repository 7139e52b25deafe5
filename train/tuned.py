"""A method whose features come from CLIP's last blocks, which learn with it: `tune: true`, or `image` or `text`.

The method's own file does not change. What the cache holds before block `first` of the image tower goes through the frozen and
the owned blocks, token ids go through the text tower, and the method gets its features as a frozen CLIP would have given them.
A phase that teaches text and video moves the blocks; one that teaches images alone leaves them, as the paper's second stage.
"""

# Axes: B batch, N frames, P patches, L words, M triplets, T tokens of a triplet, W width of CLIP's image tower, D embedding.

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.clip_blocks import TextTower, Tower, TowerShape, pick
from train.method import Config, Features, Method, Phase

PARTS = {  # of each tower: a feature and what it is made from
    "image": {"frame": "hidden", "patch": "hidden", "image": "image_hidden", "image_patch": "image_hidden"},
    "text": {"sentence": "token", "word": "token", "triplet": "triplet_token"},
}
TUNE = {"": (), "false": (), "image": ("image",), "text": ("text",), "true": ("image", "text")}


class Tuned(Method):
    """A method and the blocks that it owns."""

    def __init__(self, inner: Method):
        nn.Module.__init__(self)
        self.config, self.inner = inner.config, inner
        self.needs, self.taught_by = tuned_needs(inner.needs, inner.config.tune), inner.taught_by
        self.vectors, self.sparse = inner.vectors, inner.sparse
        self.towers = nn.ModuleDict({kind: self.build_tower(kind) for kind in tuned_towers(inner.config.tune)})

    def build_tower(self, kind: str) -> Tower:
        """A tower of the sizes that the cache says, all its blocks at their start."""
        config, facts = self.config, self.config.tail[kind]
        shape, most = TowerShape(**facts["shape"]), facts["most"]
        owned = config.tune_blocks or most
        if kind == "image":
            tower = Tower(shape, shape.layers - most, owned, causal=False)
            # with fewer blocks than shift, the cache holds what no published forward pass gives
            tower.shifted = self.inner.token_shift if owned >= self.inner.token_shift else 0
        elif owned > most:
            raise ValueError(
                f"tail.text in params.yaml lets a run own {most} of the text tower's {shape.layers} blocks, not {owned}; "
                "raise it or lower `tune_blocks`"
            )
        else:
            tower = TextTower(shape, owned)
        tower.recompute = config.tune_recompute
        return tower

    def read(self, path: Path) -> None:
        """Start the blocks from CLIP's own weights."""
        for kind, tower in self.towers.items():
            tower.read(path, kind)

    def begin(self, shards: Path) -> None:
        """The method's own."""
        self.inner.begin(shards)

    def verbs(self) -> int:
        """The method's own."""
        return self.inner.verbs()

    def learn_verbs(self, captions: Iterable[tuple[Features, Tensor]]) -> None:
        """The method's own, of a frozen CLIP's tokens: before training those are the run's too."""
        self.inner.learn_verbs(captions)

    def enter(self, tail: int) -> None:
        """Go on from shards that hold what enters the last `tail` image blocks. ValueError where the run cannot."""
        if "image" in self.towers:
            self.towers["image"].enter(self.towers["image"].shape.layers - tail)

    def owned(self) -> dict[str, list[int]]:
        """The numbers of the blocks that learn, in each tower."""
        return {kind: list(tower.owned) for kind, tower in self.towers.items()}

    def expand(self, features: Features) -> Features:
        """The features with those made that the towers make; what the method does not need is left out."""
        made: Features = {}
        given = self.needs.intersection(features)
        if "hidden" in given:
            made |= self.see(features["hidden"], "frame", "patch", features["frame_mask"])
        if "image_hidden" in given:
            made |= self.see(features["image_hidden"], "image", "image_patch")
        if "token" in given:
            made |= self.read_captions(features["token"], features["word_mask"])
        if "triplet_token" in given:
            made["triplet"] = self.read_phrases(features["triplet_token"])
        beside = {name for name in features if name.endswith("_mask")} | {"label"}
        kept = {name: features[name] for name in features if name in beside | (given & self.inner.needs)}
        return kept | {name: tensor for name, tensor in made.items() if name in self.inner.needs}

    def see(self, hidden: Tensor, whole: str, part: str, frames: Tensor | None = None) -> Features:
        """(..., D) and (..., P, D) tokens of pictures from (..., 1 + P, W) hidden states, under these names.

        frames: (B, N) which frames of videos there are; a still has no neighbours. Patches are made where the method needs them.
        """
        picture = hidden.flatten(0, -3)
        first = None if part in self.inner.needs else torch.zeros(len(picture), dtype=torch.long, device=hidden.device)
        token = self.towers["image"](picture, frames, first).unflatten(0, hidden.shape[:-2])
        made = {whole: token[..., 0, :].contiguous()}
        return made | {part: token[..., 1:, :].contiguous()} if first is None else made

    def read_captions(self, ids: Tensor, mask: Tensor) -> Features:
        """sentence (B, D) and, where the method needs them, word (B, L, D) of captions (B, L)."""
        last = mask.sum(1) - 1
        if "word" not in self.inner.needs:
            return {"sentence": self.towers["text"](ids, last)[:, 0]}
        word = self.towers["text"](ids)
        return {"sentence": pick(word, last)[:, 0], "word": word}

    def read_phrases(self, ids: Tensor) -> Tensor:
        """(B, M, D) of phrases (B, M, T), -1 behind each one's last token; one that occurs twice is encoded once."""
        distinct, place = ids.flatten(0, 1).unique(dim=0, return_inverse=True)
        last = (distinct >= 0).sum(1) - 1
        # padding, where a caption has fewer triplets, has no last token: any will do, for it is masked
        phrase = self.towers["text"](distinct.clamp_min(0), last.clamp_min(0))[:, 0]
        # a lookup, whose gradient adds up in one order, as that of an index does not
        return F.embedding(place.view(ids.shape[:2]), phrase)

    def encode_text(self, features: Features) -> Features:
        """The method's own, of tuned tokens."""
        return self.inner.encode_text(self.expand(features))

    def encode_video(self, features: Features) -> Features:
        """The method's own, of tuned tokens."""
        return self.inner.encode_video(self.expand(features))

    def encode_image(self, features: Features) -> Features:
        """The method's own, of tuned tokens."""
        return self.inner.encode_image(self.expand(features))

    def score_videos(self, text: Features, video: Features) -> Tensor:
        """The method's own."""
        return self.inner.score_videos(text, video)

    def recalled(self) -> int:
        """The method's own."""
        return self.inner.recalled()

    def score_coarse(self, text: Features, video: Features) -> Tensor:
        """The method's own."""
        return self.inner.score_coarse(text, video)

    def attend(self, features: Features) -> dict[str, tuple[Tensor, Tensor]]:
        """The method's own, of tuned tokens."""
        return self.inner.attend(self.expand(features))

    def text_parts(self, features: Features) -> dict[str, Tensor]:
        """The method's own, of tuned tokens."""
        return self.inner.text_parts(self.expand(features))

    def score_images(self, text: Features, image: Features) -> Tensor:
        """The method's own."""
        return self.inner.score_images(text, image)

    def fused(self, kind: str = "video") -> list[str]:
        """The method's own."""
        return self.inner.fused(kind)

    def score_parts(self, text: Features, item: Features, kind: str = "video") -> dict[str, Tensor]:
        """The method's own."""
        return self.inner.score_parts(text, item, kind)

    def set_weights(self, weights: dict[str, float], kind: str = "video") -> None:
        """The method's own."""
        self.inner.set_weights(weights, kind)

    def weights(self) -> dict[str, float]:
        """The method's own."""
        return self.inner.weights()

    def phases(self) -> list[Phase]:
        """The method's own; those that do not teach images alone also move the owned blocks, last norms and projections."""
        rates: dict[str, float] = {}
        for kind, tower in self.towers.items():
            rates |= tower_rates(f"towers.{kind}", len(tower.blocks), self.config)
        phases = []
        for phase in self.inner.phases():
            moves = tuple(phase.teaches) != ("text_image",)
            own = rates if moves else {}
            learns = [*(f"inner.{name}" for name in phase.learns), *own]
            inner = {f"inner.{name}": rate for name, rate in phase.learning_rates.items()}
            loss = partial(self.loss, phase, moves)
            reads = phase.reads if phase.reads is None else tuned_needs(phase.reads, self.config.tune)
            phases.append(replace(phase, learns=learns, loss=loss, learning_rates=inner | own, reads=reads))
        return phases

    def loss(self, phase: Phase, moves: bool, batch: Features, progress: float) -> dict[str, Tensor]:
        """The phase's own loss, of tuned tokens; where the blocks do not learn they run without gradients."""
        with torch.set_grad_enabled(moves and torch.is_grad_enabled()):
            batch = self.expand(batch)
        return phase.loss(batch, progress)


def tower_rates(name: str, blocks: int, config: Config) -> dict[str, float]:
    """The learning rate of each owned part of a tower."""
    rate, decay = config.tune_rate, config.tune_decay
    lower = {f"{name}.blocks.{number}": rate * decay ** (blocks - 1 - number) for number in range(blocks)}
    return lower | {f"{name}.norm": rate, f"{name}.projection": rate}


def tuned_towers(tune: str) -> tuple[str, ...]:
    """The towers whose blocks learn. ValueError for a word that is no setting of `tune`."""
    if tune not in TUNE:
        raise ValueError(f"tune: {tune!r} is not one of {', '.join(TUNE)}")
    return TUNE[tune]


def tuned_needs(needs: Iterable[str], tune: str) -> frozenset[str]:
    """What the cache must give in place of the tokens that the towers make."""
    made = {name: source for kind in tuned_towers(tune) for name, source in PARTS[kind].items()}
    return frozenset(made.get(name, name) for name in needs)


def check(config: Config) -> None:
    """ValueError unless the settings of tuning go together."""
    if not tuned_towers(config.tune) and (config.tune_blocks or config.tail):
        raise ValueError("tune_blocks says how many of CLIP's blocks learn; set tune=image, text or true beside it")


def describe_tail(header: dict[str, Any], tune: str, hidden: int, dataset: str) -> dict[str, Any]:
    """What a Config's `tail` holds of each tower that learns: its sizes, and how many last blocks a run may own.

    `header`: of tail.safetensors; `hidden`: how many the shards' hidden states let it own.
    Errors: ValueError that says what to run where the file does not hold the text tower.
    """
    found = {}
    for kind in tuned_towers(tune):
        most = hidden if kind == "image" else header["tail"][kind]
        if not most or not header["tail"][kind]:
            raise ValueError(
                f"no block of CLIP's {kind} tower may be owned; set datasets.{dataset}.tail.{kind} in params.yaml and run: "
                f"dvc repro clip@{dataset}"
            )
        found[kind] = {"shape": vars(header[kind]), "most": most}
    return found
