"""The interface of a retrieval method: its encoders, its scores, and the phases in which it is trained."""

# Axes: B batch, T texts, V videos, I images, D embedding.

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import losses
from train.layers.precision import full_precision, widen

Features = dict[str, Tensor]  # every tensor has the batch axis first, so rows can be sliced and joined


TASKS = ("text_video", "text_image")


@dataclass
class Config:
    """Sizes (filled from the cache) and the training recipe; a method's own Config adds to it."""

    dimension: int = 512  # of CLIP's embedding
    frames: int = 12  # most frames of a video
    words: int = 32  # most tokens of a caption, SOT and EOT counted
    triplets: int = 8  # most triplets of a caption
    patches: int = 49  # of a frame
    batch: int = 64  # captions in a step
    alike: int = 0  # so many videos that look alike come side by side in a batch, as hard wrong answers; 0: at random
    epochs: int = 5
    learning_rate: float = 1e-4
    scalar_learning_rate: float = 0.05  # of single numbers: temperatures and biases
    weight_decay: float = 0.01  # of weight matrices; none on scalars, biases, norms, identity-started matrices
    warmup: float = 0.1  # share of a phase's steps in which the learning rate rises from 0; a cosine to 0 follows
    # which epoch of each phase is kept: the last, or the best on val (or on a part of train that is then held out)
    select: Literal["last", "best"] = "last"
    max_grad_norm: float = 1.0  # of each module that a phase moves
    # what a temporal encoder starts from; clip: CLIP's first text blocks and its positions, as the published heads. On demo's
    # val the identity was better (LOG.md)
    temporal_init: Literal["identity", "clip"] = "identity"
    # towers of CLIP whose last blocks learn too (true: both), as far as `tail` in params.yaml lets them
    tune: Literal["", "image", "text", "true", "false"] = ""
    tune_blocks: int = 0  # how many of each tower; 0 is as many as `tail` allows
    tune_rate: float = 1e-7  # their learning rate, the paper's
    tune_decay: float = 1.0  # factor of the rate from each block to the one below
    tune_recompute: bool = False  # run the blocks again in the backward pass instead of holding what they computed
    tail: dict = field(default_factory=dict)  # filled from the cache: a tower's sizes and the most blocks a run may own

    # old names of settings: whoever still writes one is told the new one
    RENAMED = {
        "rate": "learning_rate",
        "scalar_rate": "scalar_learning_rate",
        "decay": "weight_decay",
        "clip": "max_grad_norm",
        "temperature": "logit_scale",
    }

    def __post_init__(self) -> None:
        """Refuse a word that its setting, annotated as a `Literal` or a list of one, does not know."""
        for own in fields(self):
            kind = get_args(own.type)[0] if get_origin(own.type) is list else own.type
            value = getattr(self, own.name)
            if get_origin(kind) is Literal:
                for word in value if isinstance(value, list) else [value]:
                    if word not in get_args(kind):
                        raise ValueError(f"{own.name}: {word!r} is not one of {', '.join(get_args(kind))}")

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Settings by one name, for `preset`: what is said beside it lies over them."""
        return {}

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Settings with which the contract test builds and trains this method in a moment; sizes come from its batch."""
        return {"batch": 4, "learning_rate": 1e-2}

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """Settings over `small` that take other paths through the method; the contract holds for each of them too."""
        return []


@dataclass
class Phase:
    """One stretch of training."""

    name: str
    epochs: int
    learns: list[str]  # submodules whose parameters move; all others stand still
    # (batch, share of the phase done) -> named terms, to be summed
    loss: Callable[[Features, float], dict[str, Tensor]]
    learning_rate: float
    teaches: tuple[str, ...] = ()  # which retrieval it can make perfect on a few pairs: some of TASKS
    learning_rates: dict[str, float] = field(default_factory=dict)  # of submodules that have another
    batch: int = 0  # captions in a step; 0: the Config's
    alike: int | None = None  # look-alikes side by side; None: the Config's
    reads: frozenset[str] | None = None  # of the method's `needs`, what its loss reads; None: all of them


def check_settings(kind: type[Config], settings: dict[str, Any]) -> None:
    """ValueError that names settings which this Config does not have; an old name is answered with the new one."""
    known = [own.name for own in fields(kind)]
    renamed = {old: new for base in kind.__mro__ for old, new in vars(base).get("RENAMED", {}).items()}
    for name in sorted(set(settings) - set(known)):
        if renamed.get(name) in known:
            raise ValueError(f"no setting {name}: it is called {renamed[name]} now")
        raise ValueError(f"no setting {name}; there are: {', '.join(known)}")


class Method(nn.Module):
    """A text-video and text-image retrieval method over cached CLIP features.

    A subclass sets `needs`, defines the encoders and `score_videos`, and lists its phases. Encoders map features to
    features; scores of a pair depend on that pair only.
    """

    Config: type[Config] = Config
    needs: frozenset[str] = frozenset()
    # last blocks of the image tower in which tokens shift between frames, where the run owns as many
    token_shift: int = 0
    taught_by: frozenset[str] = frozenset()  # of `needs`, those that only losses read: scoring and searching do without
    # encoded features whose dot products add up to a score: each is a row of its own in the tables
    vectors: tuple[str, ...] = ()
    sparse: frozenset[str] = frozenset()  # those of them with few numbers that are not 0, a word each

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.needs = self.needed(config)

    @classmethod
    def needed(cls, config: Config) -> frozenset[str]:
        """The features that these settings use, known before the model is built; a subset of `needs`."""
        return cls.needs

    @classmethod
    def complete(cls, config: Config, shards: Path) -> Config:
        """The settings with what a dataset's cache alone can say; by default as they are. Errors: ValueError."""
        return config

    def begin(self, shards: Path) -> None:
        """Start from weights that a dataset's cache holds; by default there are none."""

    def verbs(self) -> int:
        """Of how many verbs, the commonest of train's captions, `learn_verbs` wants to be told before training."""
        return 0

    def learn_verbs(self, captions: Iterable[tuple[Features, Tensor]]) -> None:
        """Take up what tells verbs, from blocks of captions as the shards hold them and (C, Z) which caption says which verb."""

    def encode_text(self, features: Features) -> Features:
        """Text features of B captions."""
        raise NotImplementedError

    def encode_video(self, features: Features) -> Features:
        """Video features of B videos."""
        raise NotImplementedError

    def encode_image(self, features: Features) -> Features:
        """Image features of B images."""
        return {"image": unit(features["image"])}

    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V) scores of encoded texts against encoded videos."""
        raise NotImplementedError

    def recalled(self) -> int:
        """How many of a text's best videos by `score_coarse` are ranked again by `score_videos`; 0: all have the one score."""
        return 0

    def score_coarse(self, text: Features, video: Features) -> Tensor:
        """(T, V) scores that are cheap, by which videos are recalled."""
        raise NotImplementedError

    def attend(self, features: Features) -> dict[str, tuple[Tensor, Tensor]]:
        """Where in its own video each caption's removed words are looked for: none by default.

        {noun or verb: ((B, N, P) weights of patches, the largest of a video 1; (B,) whether there is such a word)}
        """
        return {}

    def text_parts(self, features: Features) -> dict[str, Tensor]:
        """(B, D) of what a text is taken apart into, by name, the whole first: what probes read. Nothing by default."""
        return {}

    @full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I) scores of encoded texts against encoded images: by default the cosine with the sentence embedding."""
        return text["sentence"] @ image["image"].T

    def fused(self, kind: str = "video") -> list[str]:
        """Names of the parts of `score_videos` or `score_images` whose weights val chooses after training; none by default."""
        return []

    def score_parts(self, text: Features, item: Features, kind: str = "video") -> dict[str, Tensor]:
        """(T, V) or (T, I) scores of each part that `fused` names."""
        raise NotImplementedError

    def set_weights(self, weights: dict[str, float], kind: str = "video") -> None:
        """Take up the chosen weights of the parts; they are saved with the model."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        """The weights of the parts of `score_videos` that `fused` names, as they were set."""
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """What is trained, in order; nothing by default."""
        return []

    def learned(self, phase: Phase) -> dict[str, nn.Module]:
        """The modules that a phase moves."""
        return {name: self.get_submodule(name) for name in phase.learns}


class OneScore(Method):
    """A method of one score, trained in one phase by the symmetric cross-entropy of it; `scale` is its temperature."""

    term = "fused"  # name of the loss
    scale: nn.Module

    def phases(self) -> list[Phase]:
        """All that it has learns text and video."""
        names = [name for name, _ in self.named_children()]
        return [Phase("alignment", self.config.epochs, names, self.loss, self.config.learning_rate, ("text_video",))]

    def loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """The diagonal of a batch is right, as published: further captions of a video count as wrong."""
        score = self.score_videos(self.encode_text(batch), self.encode_video(batch))
        return {self.term: losses.clip_loss(score, self.scale())}


def encode(method: Method, cache: Any, rows: Any, kind: str, device: str | torch.device) -> Features:
    """Rows of a cache, read and encoded as `kind`, text, video or image, in float32."""
    features = {name: tensor.to(device) for name, tensor in getattr(cache, kind)(rows).items()}
    return full_precision(getattr(method, f"encode_{kind}"))(features)


def still_video(features: Features, frames: int) -> Features:
    """Images (B, D) and their patches (B, P, D) as videos of one picture, repeated."""
    image, patch = features["image"], features["image_patch"]
    return {
        "frame": image[:, None].expand(-1, frames, -1),
        "patch": patch[:, None].expand(-1, frames, -1, -1),
        "frame_mask": image.new_ones(len(image), frames, dtype=torch.bool),
    }


@full_precision
def cosines(one: Tensor, other: Tensor) -> Tensor:
    """(A, B) cosines of (A, D) and (B, D) unit vectors."""
    return one @ other.T


def unit(vector: Tensor) -> Tensor:
    """Scale to length 1 along the last axis, in float32."""
    return F.normalize(widen(vector), dim=-1)
