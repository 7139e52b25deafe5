"""UniTriM (Electronics 2026, 15, 1424): five alignments of text and video granularities, and a text disentangler for images.

Phase `alignment` learns text-video similarity; phase `disentanglement` learns what of a text an image can show. CLIP is
frozen, so the two do not touch each other: their order does not matter, and `epochs=0` leaves out the first.
Where the paper is silent or slips, the choice made is said at the setting or the line.
"""

# Axes: B batch, T texts, V videos, I images, L words, M triplets, N frames, P patches, k chosen patches, D embedding.

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from train import layers, losses
from train.layers import blocks
from train.method import Config, Features, Method, Phase, cosines, unit

Alignment = Literal["sentence_video", "triplet_frame", "word_patch", "sentence_frame", "triplet_video"]
ImageText = Literal["tokens", "disentangled", "spatial_only", "sentence_linear", "raw_T", "raw_sentence"]
ALIGNMENTS = get_args(Alignment)
VERBS = 64  # the commonest, whose traces are taken out of tokens


@dataclass
class Config(Config):
    """UniTriM's settings."""

    layers: int = 4  # of the temporal encoder
    k: int = 8  # patches chosen in a frame (the paper's Table 7; its text says 6)
    selector_hidden: int = 512  # width of the patch selector
    samples: int = 100  # noisy copies in the perturbed top-k
    sigma: float = 0.05  # their noise
    frame_features: Literal["before", "after"] = (
        "after"  # frame terms use frames `before` or `after` the temporal encoder
    )
    inner: float = 0.1  # ISA's temperatures over words and triplets: all of them count
    outer: float = 1.0
    inner_video: float = 0.01  # and over frames and patches: the one that shows it counts (UCoFiA's, for both sides)
    outer_video: float = 0.01
    map_share: float = 1.0  # of the learning rate, at which the maps learn that start as the identity
    logit_scale: float = 20.0  # of every SigLIP loss at the first step
    word_patch: Literal["selected", "all"] = (
        "selected"  # all: each word's best patch of all, averaged, with nothing learned but CLIP's own blocks (`tune`)
    )
    # of the scores of a pair: mean; t_weighted, by their learned temperatures; val, by weights chosen on val after training
    fusion: Literal["mean", "t_weighted", "val"] = "mean"
    alignments: list[Alignment] = field(default_factory=lambda: list(ALIGNMENTS))
    image_text: ImageText = "disentangled"  # how a text looks for images
    # T = sentence + pooled triplets + pooled words, pooled by elementwise max (the paper), mean, or gated mean
    unified: Literal["max", "mean", "gated"] = "max"
    # of `tokens`: spatial parts are what is left when all that tells a caption's verbs is taken out, temporal parts are that
    erase_verbs: bool = True
    residual: bool = False  # E_spat(T) is added to a linear map of the sentence, from 0, instead of standing alone
    disentangler_hidden: int = 2048  # 2048 meets the paper's count of 172.87 M parameters
    w_orth: float = 0.1
    w_rec: float = 0.2
    image_epochs: int = 5
    image_batch: int = 0  # captions in a step of the second phase; 0: `batch`
    image_alike: int = 0  # its look-alikes side by side, as `alike`
    image_learning_rate: float = 1e-4
    RENAMED = {
        "image_rate": "image_learning_rate",
        "frame": "frame_features",
        "selector": "selector_hidden",
        "disentangler": "disentangler_hidden",
    }

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """`paper`: as published, whatever a dataset's recipe says; these are the defaults of this class.

        Sizes, and which of CLIP's blocks learn, are left to the dataset: its cache decides what can be.
        """
        cached = ("dimension", "frames", "words", "triplets", "patches", "tail")
        given = {name: value for name, value in vars(cls()).items() if not name.startswith("tune")}
        return {"paper": {name: value for name, value in given.items() if name not in cached}}

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Narrow layers and few noisy copies."""
        return super().small() | {
            "k": 2,
            "selector_hidden": 8,
            "samples": 20,
            "disentangler_hidden": 32,
            "image_learning_rate": 1e-2,
        }

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """Each way of looking for images, each alignment without the others, each way of pooling."""
        return [
            {"image_text": "spatial_only", "fusion": "t_weighted", "frame_features": "before"},
            {"image_text": "sentence_linear", "alignments": ["sentence_video", "sentence_frame"]},
            {"image_text": "raw_T", "unified": "mean", "alignments": ["word_patch"]},
            {"image_text": "raw_sentence", "alignments": ["triplet_frame", "triplet_video"]},
            {"inner": 0.01, "outer": 0.01},
            {"unified": "gated", "residual": True, "alignments": ["sentence_video"]},
            {"word_patch": "all", "fusion": "val"},
            {"image_text": "tokens", "alignments": ["sentence_video"]},
            {"image_text": "tokens", "alignments": ["sentence_video"], "erase_verbs": False},
        ]


class UniTriM(Method):
    """Multi-granularity similarity alignment (MGSA) and the text disentangler."""

    Config = Config
    needs = frozenset({"sentence", "word", "triplet", "frame", "patch", "image", "image_patch"})

    def __init__(self, config: Config):
        super().__init__(config)
        check(config)
        size, wanted = config.dimension, set(config.alignments)
        of_text, of_video = (config.inner, config.outer), (config.inner_video, config.outer_video)
        self.temporal = layers.TemporalEncoder(size, config.layers, max(77, config.frames))
        if wanted - {"word_patch"}:
            self.map_global = nn.Sequential(layers.IdentityLinear(size), layers.IdentityLinear(size))
        if "word_patch" in wanted and config.word_patch == "selected":
            k = min(config.k, config.patches)
            self.map_local = nn.Sequential(layers.IdentityLinear(size), layers.IdentityLinear(size))
            self.selector = layers.PatchSelector(size, k, config.selector_hidden, config.samples, config.sigma)
            self.word_patch = layers.TokenSimilarity(config.words, k * config.frames, of_text, of_video)
        if "triplet_frame" in wanted:
            self.triplet_frame = layers.TokenSimilarity(config.triplets, config.frames, of_text, of_video)
        if "sentence_frame" in wanted:
            self.sentence_frame = layers.ISA(config.frames, *of_video)
        if "triplet_video" in wanted:
            self.triplet_video = layers.ISA(config.triplets, *of_text)
        taught = [name for name in config.alignments if name != "word_patch" or learns_words(config)]
        self.scale = nn.ModuleDict({name: losses.SigLIPLoss(config.logit_scale) for name in taught})
        if config.fusion == "val":  # equal until they are chosen
            self.register_buffer("fusion_weight", torch.full((len(config.alignments),), 1 / len(config.alignments)))
        self.image = ImageText(config)

    @classmethod
    def needed(cls, config: Config) -> frozenset[str]:
        """All granularities, but for those that the settings leave out."""
        granularities = {part for name in config.alignments for part in name.split("_")} - {"video"}
        return frozenset(granularities | {"frame", "image", "sentence"}) | ImageText.needed(config)

    def verbs(self) -> int:
        """As many as are taken out of tokens."""
        return VERBS if self.config.image_text == "tokens" and self.config.erase_verbs else 0

    def learn_verbs(self, captions: Iterable[tuple[Features, Tensor]]) -> None:
        """Set what is taken out of words, triplets and sentences."""
        self.image.learn_verbs(captions)

    def text_parts(self, features: Features) -> dict[str, Tensor]:
        """T, and what the disentangler makes of it."""
        return self.image.text_parts(features)

    def encode_text(self, features: Features) -> Features:
        """Sentence, triplets and words as videos are looked for, and `spatial` (B, D), as images are."""
        return self.align_text(features) | self.image.encode_text(features)

    def encode_image(self, features: Features) -> Features:
        """image (B, D), and the keyframe's patches where tokens look for them."""
        return self.image.encode_image(features)

    def align_text(self, features: Features) -> Features:
        """sentence (B, D), triplet (B, M, D), word (B, L-1, D): SOT is left out, EOT stays.

        The maps of text and video are both applied here, (x A) Bᵀ: there are fewer text tokens, and what comes out is
        brought back to length 1, so that every score is a cosine.
        """
        text = {"sentence": unit(features["sentence"])}
        if "map_global" in self._modules:
            text["sentence"] = unit(self.map_global(text["sentence"]))
        if {"triplet_frame", "triplet_video"} & set(self.scale):
            text["triplet"] = unit(self.map_global(unit(features["triplet"])))
            text["triplet_mask"] = features["triplet_mask"]
        if "word_patch" in self.config.alignments:
            word = unit(features["word"][:, 1:])
            text["word"] = unit(self.map_local(word)) if "map_local" in self._modules else word
            text["word_mask"] = features["word_mask"][:, 1:]
        return text

    def encode_video(self, features: Features) -> Features:
        """video (B, D), frame (B, N, D), and the chosen patches (B, N·k, D)."""
        mask = features["frame_mask"]
        # ISA's two softmaxes at .01 multiply an error in a frame by thousands: bfloat16's would turn their gradients
        encoded = layers.full_precision(self.temporal)(features["frame"], mask)
        video = {"video": layers.mean_video(encoded, mask), "frame_mask": mask}
        video["frame"] = encoded if self.config.frame_features == "after" else unit(features["frame"])
        if "word_patch" in self.config.alignments:
            chosen = "selector" in self._modules
            patch = features["patch"]
            video["patch"] = self.selector(patch, video["video"]) if chosen else unit(patch).flatten(1, 2)
            video["patch_mask"] = mask.repeat_interleave(video["patch"].shape[1] // mask.shape[1], 1)
        return video

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """The five scores, averaged or weighted by their learned temperatures or by weights chosen on val."""
        scores = self.align(text, video)
        if self.config.fusion == "mean":
            return torch.stack(list(scores.values())).mean(0)
        if self.config.fusion == "val":
            weight = self.fusion_weight
        else:
            weight = torch.stack([self.scale[name].t for name in scores]).softmax(0)  # exp(t') over their sum
        return torch.einsum("g,gtv->tv", weight, torch.stack(list(scores.values())))

    @layers.full_precision
    def align(self, text: Features, video: Features, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """(T, V) scores of each granularity, or of those named."""
        return {name: getattr(self, f"score_{name}")(text, video) for name in names or self.config.alignments}

    def fused(self, kind: str = "video") -> list[str]:
        """The granularities, where their weights are to be chosen; of images the parts that tokens have."""
        if self.config.fusion != "val":
            return []
        return list(self.config.alignments) if kind == "video" else self.image.fused()

    def score_parts(self, text: Features, item: Features, kind: str = "video") -> dict[str, Tensor]:
        """(T, V) or (T, I) scores of each granularity."""
        return self.align(text, item) if kind == "video" else self.image.parts(text, item)

    def set_weights(self, weights: dict[str, float], kind: str = "video") -> None:
        """Take up what was chosen."""
        if kind == "image":
            self.image.balance.set(weights)
        else:
            self.fusion_weight.copy_(torch.tensor([weights[name] for name in self.config.alignments]))

    def weights(self) -> dict[str, float]:
        """Of the granularities."""
        return dict(zip(self.config.alignments, self.fusion_weight.tolist()))

    def score_sentence_video(self, text: Features, video: Features) -> Tensor:
        """(T, V) cosines."""
        return text["sentence"] @ video["video"].T

    def score_sentence_frame(self, text: Features, video: Features) -> Tensor:
        """(T, V): ISA over the frames."""
        similarity = torch.einsum("td,vnd->tnv", text["sentence"], video["frame"])
        mask = blocks.drop_full_mask(video["frame_mask"])
        return self.sentence_frame(similarity, None if mask is None else mask.T, 1)

    def score_triplet_video(self, text: Features, video: Features) -> Tensor:
        """(T, V): ISA over the triplets."""
        similarity = torch.einsum("tmd,vd->tmv", text["triplet"], video["video"])
        return self.triplet_video(similarity, text["triplet_mask"][..., None], 1)

    def score_triplet_frame(self, text: Features, video: Features) -> Tensor:
        """(T, V): Bi-ISA."""
        return self.triplet_frame(text["triplet"], text["triplet_mask"], video["frame"], video["frame_mask"])

    def score_word_patch(self, text: Features, video: Features) -> Tensor:
        """(T, V): Bi-ISA; of all patches, each word's best."""
        if "word_patch" not in self._modules:
            return layers.best_match_mean(text["word"], text["word_mask"], video["patch"], video["patch_mask"])
        return self.word_patch(text["word"], text["word_mask"], video["patch"], video["patch_mask"])

    @layers.full_precision
    def score_images(self, text: Features, image: Features) -> Tensor:
        """Cosine of the text's spatial part and the image; by tokens, also of words and patches."""
        return self.image.score(text, image)

    def phases(self) -> list[Phase]:
        """Alignment, then disentanglement where it has something to learn."""
        own = {name: module for name, module in self.named_children() if name != "image"}
        first = Phase(
            "alignment", self.config.epochs, list(own), self.alignment_loss, self.config.learning_rate, ("text_video",)
        )
        if self.config.map_share != 1:
            maps = [name for name in ("map_global", "map_local") if name in own]
            first.learning_rates = dict.fromkeys(maps, self.config.map_share * self.config.learning_rate)
        inner = [f"image.{name}" for name, _ in self.image.named_children()]
        second = Phase(
            "disentanglement",
            self.config.image_epochs,
            inner,
            self.image_loss,
            self.config.image_learning_rate,
            ("text_image",),
            batch=self.config.image_batch,
            alike=self.config.image_alike,
            reads=ImageText.needed(self.config) | {"image"},
        )
        return [first, second] if inner else [first]

    def alignment_loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """One SigLIP loss a granularity, each with its own temperature and bias (3.4.1)."""
        scores = self.align(self.align_text(batch), self.encode_video(batch), list(self.scale))
        positive = losses.same_video(batch["label"])
        return {name: self.scale[name](score, positive, first=progress == 0) for name, score in scores.items()}

    def image_loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """Text-image SigLIP, orthogonality and reconstruction (3.4.2)."""
        return self.image.loss(batch, self.encode_image(batch), first=progress == 0)


class ImageText(nn.Module):
    """How a text looks for images: the disentangler of 3.3, or one of the simpler ways it is compared with.

    A row of the comparison is a run of its own, and needs no first phase: `--set image_text=spatial_only epochs=0 --out ...`.

    `tokens`: each word and triplet has a spatial and a temporal part, and a weight that says how far a picture can show it. The
    spatial part looks for its best patch of the keyframe; that of the sentence looks for the whole. The paper's motive, that
    verbs are noise for a still, at the level where they stand apart: what linearly tells which verbs a caption says is taken out
    of its tokens, in closed form before training, and is their temporal part; a linear map of each learns. A token's two parts
    are to be orthogonal, and its temporal part and its best patch of the keyframe to rebuild it. It learns by asking for a text's
    own image among all of the batch: SigLIP's yes-or-no questions bring two points less on demo's val (LOG.md).
    `disentangled`: E_spat(T), trained with E_temp and E_rec; `spatial_only`: E_spat(T) trained by text-image alone;
    `sentence_linear`: a linear map of the sentence; `raw_T` and `raw_sentence`: CLIP's features, untrained.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config, size, hidden = config, config.dimension, config.disentangler_hidden
        encoded = config.image_text in ("disentangled", "spatial_only")
        if config.unified == "gated" and encoded:
            self.gate_triplet, self.gate_word = layers.GatedMean(size), layers.GatedMean(size)
        if encoded:
            self.spatial = layers.mlp(size, hidden, size)
        if encoded and config.residual:
            self.sentence = layers.IdentityLinear(size)
            nn.init.zeros_(self.spatial[-1].weight)
            nn.init.zeros_(self.spatial[-1].bias)
        if config.image_text == "disentangled":
            self.temporal = layers.mlp(size, hidden, size)
            self.rebuild = layers.mlp(2 * size, hidden, size)
        if config.image_text == "tokens":
            self.word, self.triplet, self.sentence = Shown(config), Shown(config), Parts(config)
            self.balance = Balance(word=0.5, triplet=0.4, sentence=0.1)
        if config.image_text == "tokens" and config.erase_verbs:
            self.rebuild = layers.mlp(2 * size, hidden, size)
        if config.image_text == "sentence_linear":
            self.sentence = layers.IdentityLinear(size)
        if config.image_text == "tokens":
            self.scale = losses.RetrievalLoss(config.logit_scale)
        elif not config.image_text.startswith("raw"):
            self.scale = losses.SigLIPLoss(config.logit_scale)

    @staticmethod
    def needed(config: Config) -> frozenset[str]:
        """What T is made of, or the sentence alone."""
        if config.image_text == "tokens":
            return frozenset({"sentence", "word", "triplet", "image_patch"})
        of_sentence = config.image_text in ("raw_sentence", "sentence_linear")
        return frozenset({"sentence"} if of_sentence else {"sentence", "triplet", "word"})

    def encode_text(self, features: Features) -> Features:
        """spatial (B, D), a unit vector to compare with images.

        By tokens also spatial_word (B, L-1, D) and spatial_triplet (B, M, D), their masks, and shown_word (B, L-1) and
        shown_triplet (B, M), the weights.
        """
        if self.config.image_text != "tokens":
            return {"spatial": unit(self.look(features, self.unify(features)))}
        text = {"spatial": self.sentence(unit(features["sentence"]))[0]}
        for name, (token, mask) in tokens_of(features).items():
            text[f"spatial_{name}"] = self.part(name)(token)[0]
            text[f"shown_{name}"] = self._modules[name].weigh(token, mask)
            text[f"spatial_{name}_mask"] = mask
        return text

    def learn_verbs(self, captions: Iterable[tuple[Features, Tensor]]) -> None:
        """Set what is taken out of tokens: all by which their captions' verbs (C, Z) are linearly told."""
        moments: dict[str, layers.Moments] = {}
        for features, told in captions:
            sentence = unit(features["sentence"])[:, None]
            every = sentence.new_ones(sentence.shape[:2], dtype=torch.bool)
            for name, (token, mask) in (tokens_of(features) | {"sentence": (sentence, every)}).items():
                own = moments.setdefault(name, layers.Moments(self.config.dimension, told.shape[1]))
                own.add(token[mask], told[mask.nonzero()[:, 0]])
        for name, own in moments.items():
            self.part(name).eraser.set(own)

    def text_parts(self, features: Features) -> dict[str, Tensor]:
        """T, T_spat and T_temp (B, D), as far as there are; by tokens T is sentence + mean triplet + mean word."""
        if self.config.image_text == "tokens":
            sentence = unit(features["sentence"])
            made = dict(zip(("T", "T_spat", "T_temp"), (sentence, *self.sentence(sentence))))
            for name, (token, mask) in tokens_of(features).items():
                own = zip(made, (token, *self.part(name)(token)))
                made |= {part: made[part] + layers.masked_mean(tokens, mask) for part, tokens in own}
            return made if self.config.erase_verbs else {name: made[name] for name in ("T", "T_spat")}
        unified = self.unify(features)
        if unified is None or "spatial" not in self._modules:
            return {} if unified is None else {"T": unified}
        made = {"T": unified, "T_spat": self.look(features, unified)}
        return made | ({"T_temp": self.temporal(unified)} if "temporal" in self._modules else {})

    def encode_image(self, features: Features) -> Features:
        """image (B, D); by tokens also image_patch (B, P, D)."""
        image = {"image": unit(features["image"])}
        return image | {"image_patch": unit(features["image_patch"])} if self.config.image_text == "tokens" else image

    @layers.full_precision
    def score(self, text: Features, image: Features) -> Tensor:
        """(T, I)."""
        if self.config.image_text != "tokens":
            return cosines(text["spatial"], image["image"])
        return self.balance(self.parts(text, image))

    def fused(self) -> list[str]:
        """Names of the parts of a score by tokens."""
        return list(self.balance.share) if self.config.image_text == "tokens" else []

    @layers.full_precision
    def parts(self, text: Features, image: Features) -> dict[str, Tensor]:
        """(T, I) scores by words, by triplets, and by the sentence."""
        made = {
            name: layers.best_match_mean(
                text[f"spatial_{name}"],
                text[f"spatial_{name}_mask"],
                image["image_patch"],
                None,
                text[f"shown_{name}"],
            )
            for name in ("word", "triplet")
        }
        return made | {"sentence": cosines(text["spatial"], image["image"])}

    def look(self, features: Features, unified: Tensor | None) -> Tensor:
        """(B, D) what is looked for, of any length."""
        parts = self._modules
        if unified is None:
            sentence = unit(features["sentence"])
            return self.sentence(sentence) if "sentence" in parts else sentence
        if "spatial" not in parts:
            return unified
        spatial = self.spatial(unified)
        return spatial + self.sentence(unit(features["sentence"])) if "sentence" in parts else spatial

    def unify(self, features: Features) -> Tensor | None:
        """T (B, D): sentence + pooled triplets + pooled words, without SOT and EOT (EOT is the sentence); None if unused."""
        if self.config.image_text in ("raw_sentence", "sentence_linear", "tokens"):
            return None
        pool = {"max": layers.masked_max, "mean": layers.masked_mean, "gated": layers.masked_mean}[self.config.unified]
        pools = [self._modules.get(name, pool) for name in ("gate_triplet", "gate_word")]
        mask = features["word_mask"]
        triplet = pools[0](unit(features["triplet"]), features["triplet_mask"])
        word = pools[1](unit(features["word"][:, 1:-1]), mask[:, 1:-1] & mask[:, 2:])
        return unit(features["sentence"]) + triplet + word

    def loss(self, features: Features, image: Features, first: bool) -> dict[str, Tensor]:
        """Named terms, weighted. No gradient of the reconstruction reaches E_spat: its inputs are E_temp(T) and the image."""
        positive = losses.same_video(features["label"])
        if self.config.image_text == "tokens":
            text = {"text_image": self.scale(self.score(self.encode_text(features), image), positive)}
            return text | (self.part_tokens(features, image) if self.config.erase_verbs else {})
        unified = self.unify(features)
        spatial = self.look(features, unified)
        terms = {"text_image": self.scale(cosines(unit(spatial), image["image"]), positive, first)}
        if self.config.image_text == "disentangled":
            temporal = self.temporal(unified)
            rebuilt = self.rebuild(torch.cat([temporal, losses.gather_rows(image["image"])], -1))
            terms["orthogonality"] = self.config.w_orth * losses.squared_cosine(spatial, temporal)
            terms["reconstruction"] = self.config.w_rec * losses.squared_distance(unified.detach(), rebuilt)
        return terms

    def part(self, name: str) -> nn.Module:
        """What takes words, triplets or sentences apart."""
        return self.sentence if name == "sentence" else self._modules[name].parts

    def part_tokens(self, features: Features, image: Features) -> dict[str, Tensor]:
        """Orthogonality and reconstruction of 3.3, on tokens: means over sentences, words and triplets.

        What rebuilds a token beside its temporal part is the patch of its own keyframe that is nearest to its spatial part. As in
        `loss`, no gradient of that reaches the spatial part.
        """
        patch = losses.gather_rows(image["image_patch"])
        sentence = unit(features["sentence"])[:, None]
        every = sentence.new_ones(sentence.shape[:2], dtype=torch.bool)
        orthogonality, reconstruction = [], []
        for name, (token, mask) in (tokens_of(features) | {"sentence": (sentence, every)}).items():
            spatial, temporal = self.part(name)(token)
            near = torch.einsum("bld,bpd->blp", spatial.detach(), patch).argmax(2)
            seen = patch.gather(1, near[..., None].expand_as(token))
            rebuilt = self.rebuild(torch.cat([temporal, seen], -1))
            orthogonality.append(layers.masked_mean(losses.square_cosine(spatial, temporal)[..., None], mask))
            reconstruction.append(layers.masked_mean(losses.square_distance(token, rebuilt)[..., None], mask))
        return {
            "orthogonality": self.config.w_orth * torch.cat(orthogonality).mean(),
            "reconstruction": self.config.w_rec * torch.cat(reconstruction).mean(),
        }


def tokens_of(features: Features) -> dict[str, tuple[Tensor, Tensor]]:
    """Unit words, without SOT, and unit triplets, with their masks."""
    return {
        "word": (unit(features["word"][:, 1:]), features["word_mask"][:, 1:]),
        "triplet": (unit(features["triplet"]), features["triplet_mask"]),
    }


class Parts(nn.Module):
    """Of each token a spatial and a temporal part: what is left of it and what is taken out, each by a linear map."""

    def __init__(self, config: Config):
        super().__init__()
        self.spatial = layers.IdentityLinear(config.dimension)
        if config.erase_verbs:
            self.eraser = layers.Eraser(config.dimension)
            self.temporal = layers.IdentityLinear(config.dimension)

    @layers.full_precision
    def forward(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Unit spatial parts, and temporal parts, of unit tokens (..., D); at first what the eraser gives."""
        if "eraser" not in self._modules:
            return unit(self.spatial(token)), torch.zeros_like(token)
        left, taken = self.eraser(token)
        return unit(self.spatial(left)), self.temporal(taken)


class Shown(nn.Module):
    """Of each token its parts, and how far a picture can show it; at first all the same."""

    def __init__(self, config: Config):
        super().__init__()
        self.parts = Parts(config)
        self.weight = layers.mlp(config.dimension, config.disentangler_hidden, 1)
        nn.init.zeros_(self.weight[-1].weight)

    def weigh(self, token: Tensor, mask: Tensor) -> Tensor:
        """(B, L) weights that sum to 1, from unit tokens (B, L, D) and their mask."""
        return layers.mask_out(self.weight(token)[..., 0].float(), mask).softmax(1)


class Balance(nn.Module):
    """Learned shares of several scores; `first` is what they are at first."""

    def __init__(self, **first: float):
        super().__init__()
        self.share = nn.ParameterDict({name: torch.tensor(share).log() for name, share in first.items()})

    @torch.no_grad()
    def set(self, shares: dict[str, float]) -> None:
        """Shares that sum to 1, chosen otherwise; one of 0 stays 0."""
        for name, share in shares.items():
            self.share[name].copy_(torch.tensor(share).log())

    def forward(self, scores: dict[str, Tensor]) -> Tensor:
        """The weighted mean of (T, I) scores."""
        share = torch.stack([self.share[name] for name in scores]).softmax(0)
        return torch.einsum("g,gti->ti", share, torch.stack(list(scores.values())))


def learns_words(config: Config) -> bool:
    """Whether the similarity of words and patches has anything to learn: layers of its own, or the blocks that make them."""
    return config.word_patch == "selected" or config.tune not in ("", "false")


def check(config: Config) -> None:
    """Refuse settings that do not go together."""
    if not config.alignments:
        raise ValueError(f"alignments are some of {', '.join(ALIGNMENTS)}; not none")
    if not learns_words(config) and (config.alignments == ["word_patch"] or config.fusion == "t_weighted"):
        raise ValueError("word_patch: all learns nothing: it needs another alignment beside it, and has no temperature")
