"""UNIFY (Liu et al. 2024): a latent vector and one over the words of a lexicon, of text and video; S = S_latent + S_lexicon.

No code was published. A text's lexicon vector is SPLADE's: a masked language model's logits, log(1 + ReLU), the greatest over its
pieces. A video's comes from frames and chosen patches through a stem, blocks of its own and the same head. The lexicon is
grounded in two phases: in the first all of the text side stands still and the video learns by contrast; in the second the model's
last blocks and its head learn too, and go on filling gaps (15 % of the pieces) so that words keep their meaning. FLOPS keeps both
vectors sparse, and the latent similarities teach the lexicon's by KL with a weight that falls linearly to 0.

Otherwise than there CLIP stands in for the stem's first blocks and is frozen, so that the latent text is CLIP's sentence and only
the video's blocks can be shared; blocks start as the identity, the word embeddings never move, and poolings and the temperature,
which the paper does not give, are the greatest and CLIP's. Images are videos of one frame; their latent vector is CLIP's own. A
video's word at 0 hands a tenth of its gradient on where it should rise (`wake`; 0 is the formula's own), without which a video
keeps for good the few words that it starts with.
Settings for the paper's Table 4: `share=False distillation=0`, `distillation=0`; for Table 5: `frozen_epochs=0 masked_weight=0`,
`masked_weight=0`, `frozen_epochs=0`.
"""

# Axes: B batch, T texts, V videos or images, N frames, P patches, k chosen ones, L pieces, D embedding, W width of the language
# model, X words of the lexicon.

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import layers, losses
from train.layers.masked_lm import LexiconShape, MaskedLM, read_lexicon
from train.method import Config, Features, Method, Phase, unit

WEIGHTS = Path("lexicon") / "lexicon.safetensors"


@dataclass
class Config(Config):
    """UNIFY's settings."""

    epochs: int = 10  # of both phases
    frozen_epochs: int = 3  # of the first phase; 0: the text learns from the start
    weight_decay: float = 0.05
    stem: int = 2  # blocks that both branches share
    own: int = 2  # blocks of each branch
    share: bool = True  # False: each branch has a stem of its own
    k: int = 4  # patches chosen in a frame, 0: none, as many as there are: all of them
    samples: int = 100  # noisy copies in the perturbed top-k
    sigma: float = 0.05  # their noise
    owned: int = 3  # last blocks of the language model that learn in the second phase
    text_rate: float = 1e-5  # the learning rate of them and of the head
    distillation: float = 1.0  # weight of the KL at the first step
    masked: float = 0.15  # share of the pieces that are hidden
    masked_weight: float = 1.0  # of the loss on them, in the second phase
    flops: float = 1e-4  # weight of the FLOPS regulariser
    wake: float = 0.1  # share of its gradient that a video's word at 0 hands on where it should rise; as published: 0
    logit_scale: float = 20.0  # of both contrasts at the first step; at most 100, as CLIP's
    language_model: dict = field(
        default_factory=dict
    )  # filled from the cache: the language model's sizes and special ids

    @classmethod
    def small(cls) -> dict[str, Any]:
        """A language model of two small blocks, one of which learns."""
        shape = {"vocabulary": 40, "width": 16, "heads": 2, "layers": 2, "hidden": 32, "positions": 16}
        tiny = {"language_model": {"shape": shape, "mask": 4, "special": [0, 1, 2, 3, 4]}, "owned": 1}
        return super().small() | tiny | {"stem": 1, "own": 1, "k": 2, "text_rate": 1e-2}

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """Two stems; the text from the start; frames alone, without own blocks, distillation and hidden pieces."""
        bare = {"k": 0, "own": 0, "distillation": 0.0, "masked_weight": 0.0}
        return [{"share": False}, {"frozen_epochs": 0}, bare]


class Blocks(nn.Module):
    """Transformer blocks over the tokens of a video; with `positions`, each frame's place is added first."""

    def __init__(self, dimension: int, count: int, positions: int = 0):
        super().__init__()
        heads = layers.count_heads(dimension)
        self.blocks = nn.ModuleList(layers.TransformerBlock(dimension, heads) for _ in range(count))
        if positions:
            self.position = nn.Parameter(0.01 * torch.randn(positions, dimension))

    def forward(self, token: Tensor, mask: Tensor, place: Tensor | None = None) -> Tensor:
        """(B, K, D) tokens, which of them are valid (B, K), and their frames' numbers (K)."""
        if place is not None:
            token = token + self.position[place]
        for block in self.blocks:
            token = block(token, mask)
        return token


class Unify(Method):
    """Latent and lexicon branches over frames and chosen patches, beside a masked language model."""

    Config = Config
    needs = frozenset({"sentence", "piece", "frame", "patch", "image", "image_patch"})
    vectors = ("latent", "lexicon")
    sparse = frozenset({"lexicon"})

    def __init__(self, config: Config):
        super().__init__(config)
        shape, size = LexiconShape(**config.language_model.get("shape", {})), config.dimension
        self.text = MaskedLM(shape, config.owned)
        self.stem = Blocks(size, config.stem, config.frames)
        if not config.share:
            self.other_stem = Blocks(size, config.stem, config.frames)
        self.latent, self.lexicon = Blocks(size, config.own), Blocks(size, config.own)
        self.project = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, shape.width))
        if 0 < config.k < config.patches:
            self.selector = layers.PatchSelector(size, config.k, samples=config.samples, sigma=config.sigma)
        self.latent_scale, self.lexicon_scale = layers.Scale(config.logit_scale), layers.Scale(config.logit_scale)

    @classmethod
    def needed(cls, config: Config) -> frozenset[str]:
        """Patches only where some are chosen."""
        return cls.needs if config.k else cls.needs - {"patch", "image_patch"}

    @classmethod
    def complete(cls, config: Config, shards: Path) -> Config:
        """The language model's sizes."""
        return replace(config, language_model=read_lexicon(shards / WEIGHTS))

    def begin(self, shards: Path) -> None:
        """The language model's weights."""
        self.text.read(shards / WEIGHTS)

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, D) and unit words of the lexicon (B, X)."""
        return {"latent": unit(features["sentence"]), "lexicon": unit(self.weigh_text(features))}

    def encode_video(self, features: Features) -> Features:
        """Unit video (B, D) and unit words of the lexicon (B, X)."""
        patch = features["patch"] if self.config.k else None
        latent, weight = self.look(features["frame"], patch, features["frame_mask"])
        return {"latent": latent, "lexicon": unit(weight)}

    def encode_image(self, features: Features) -> Features:
        """Unit image (B, D) as CLIP has it, and unit words of the lexicon (B, X)."""
        image = features["image"][:, None]
        patch = features["image_patch"][:, None] if self.config.k else None
        _, weight = self.look(image, patch, torch.ones_like(image[..., 0], dtype=torch.bool))
        return {"latent": unit(features["image"]), "lexicon": unit(weight)}

    def weigh_text(self, features: Features) -> Tensor:
        """(B, X) weight of every word of the lexicon for the texts."""
        mask = features["piece_mask"]
        return self.text.weigh(self.text(features["piece"], mask), mask)

    @layers.full_precision  # which token is a word's greatest must not hang on a rounding error
    def look(self, frame: Tensor, patch: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) unit latent vectors and (B, X) lexicon weights of (B, N, D) frames and (B, N, P, D) patches."""
        batch, frames, size = frame.shape
        plain = unit(frame)
        token, shown = plain, mask
        place = torch.arange(frames, device=frame.device)
        if patch is not None:
            chosen = self.choose(plain, patch, mask)
            count = chosen.shape[1] // frames
            token, shown = torch.cat([plain, chosen], 1), torch.cat([mask, mask.repeat_interleave(count, 1)], 1)
            place = torch.cat([place, place.repeat_interleave(count)])
        token = token * size**0.5  # CLIP's own tokens are about so long, whatever its scale
        stem = self.stem(token, shown, place)
        latent = layers.mean_video(unit(token[:, :frames] + self.latent(stem, shown)[:, :frames]), mask)
        stem = stem if self.config.share else self.other_stem(token, shown, place)
        return latent, self.text.weigh(self.project(self.lexicon(stem, shown)), shown, self.config.wake)

    def choose(self, frame: Tensor, patch: Tensor, mask: Tensor) -> Tensor:
        """(B, N·k, D) unit patches: the k that matter in each frame, or all of them."""
        if self.config.k >= patch.shape[2]:
            return unit(patch).flatten(1, 2)
        return self.selector(patch, layers.mean_video(frame, mask))

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V) sum of the two cosines."""
        return text["latent"] @ video["latent"].T + text["lexicon"] @ video["lexicon"].T

    @layers.full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, V) sum of the two cosines."""
        return text["latent"] @ image["latent"].T + text["lexicon"] @ image["lexicon"].T

    def phases(self) -> list[Phase]:
        """Grounding with the text frozen, then jointly."""
        config = self.config
        first = min(config.frozen_epochs, config.epochs)
        moving = [name for name, module in self.named_children() if next(module.parameters(), None) is not None]
        video = [name for name in moving if name != "text"]  # without blocks a branch has nothing to learn
        text = {"text.upper": config.text_rate, "text.head": config.text_rate}
        teaches, rate = ("text_video",), config.learning_rate
        alone = Phase("grounding", first, video, partial(self.loss, 0, False), rate, teaches)
        both = Phase(
            "joint", config.epochs - first, [*video, *text], partial(self.loss, first, True), rate, teaches, text
        )
        return [alone, both] if first else [both]

    def loss(self, before: int, joint: bool, batch: Features, progress: float) -> dict[str, Tensor]:
        """The terms of one phase, `before` epochs of others. The diagonal of a batch is right, as published."""
        config = self.config
        with torch.set_grad_enabled(joint and torch.is_grad_enabled()):
            said = self.weigh_text(batch)
        sentence = unit(batch["sentence"])
        patch = batch["patch"] if config.k else None
        latent, shown = self.look(batch["frame"], patch, batch["frame_mask"])
        teacher, student = sentence @ latent.T, unit(said) @ unit(shown).T
        own = config.epochs - before if joint else min(config.frozen_epochs, config.epochs)
        done = (before + progress * own) / max(1, config.epochs)
        terms = {
            "latent": losses.clip_loss(teacher, self.latent_scale()),
            "lexicon": losses.clip_loss(student, self.lexicon_scale()),
            "flops": config.flops * (flops(said) + flops(losses.gather_rows(shown))),
        }
        if config.distillation:
            whole = [losses.gather_columns(part) for part in (teacher, student)]
            kl = distil(whole[0] * self.latent_scale(), whole[1] * self.lexicon_scale())
            terms["distillation"] = config.distillation * (1 - done) * kl
        if joint and config.masked_weight:
            terms["masked"] = config.masked_weight * self.fill_gaps(batch["piece"], batch["piece_mask"])
        return terms

    def fill_gaps(self, piece: Tensor, mask: Tensor) -> Tensor:
        """Mean cross-entropy of hidden pieces: of those asked for 80 % show [MASK], 10 % another word, 10 % themselves (BERT)."""
        facts, words = self.config.language_model, self.text.shape.vocabulary
        special = torch.tensor(facts["special"], device=piece.device)
        asked = (torch.rand(piece.shape, device=piece.device) < self.config.masked) & mask & ~torch.isin(piece, special)
        way = torch.rand(piece.shape, device=piece.device)
        shown = torch.where(asked & (way < 0.8), facts["mask"], piece)
        shown = torch.where(asked & (way >= 0.9), torch.randint(0, words, piece.shape, device=piece.device), shown)
        logit = self.text.logits(self.text(shown, mask)[asked])
        return F.cross_entropy(logit, piece[asked].long(), reduction="sum") / asked.sum().clamp(min=1)


@layers.full_precision
def flops(weight: Tensor) -> Tensor:
    """Sum over the words of the squared mean weight in the batch: what an inverted index has to add up (Paria et al. 2020)."""
    return weight.mean(0).square().sum()


@layers.full_precision
def distil(teacher: Tensor, student: Tensor) -> Tensor:
    """KL of the lexicon's (B, B) scaled similarities from the latent ones, mean of both directions; the teacher stands still."""
    teacher = teacher.detach()
    ways = ((teacher, student), (teacher.T, student.T))
    return sum(F.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean") for a, b in ways) / 2
