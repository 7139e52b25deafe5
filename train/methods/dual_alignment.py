"""Dual alignment (Che and Guo 2024): sentence and video are aligned, and the video says which words a caption has lost.

No code was published. Global: sentence and video, mapped to a common space, by a contrast of cosines (L1). Fine: the caption
without its nouns asks, the video's tokens answer through a cross-modal encoder, and the answer is brought near the removed nouns
and away from the other nouns of the batch (L2); verbs likewise (L3). The video's tokens, keys and values of that encoder, pass
through trainable space-time blocks that the global path reads too, else nothing that L2 and L3 teach would reach the test.

What the paper leaves open and what is done here: all nouns are removed at once, each is an answer, and a caption's words are no
negatives of its own; a word that several captions lost is one negative. The cross-modal encoder is the same for nouns and verbs,
and gives the mean over its queries. The loss of the words has one fixed temperature. L1 runs both ways. Otherwise than there
CLIP's frozen tokens stand for TimeSformer and DistilBERT, and the two maps start as one isometry, so that training starts near
CLIP. Images are videos that stand still, as its pre-training has them. `rerank` ranks the best videos again by how well they
fill the caption's gaps.
"""

# Axes: B batch, T texts, V videos, N frames, P patches, K tokens of a video, L words of a caption without some, M removed words,
# U distinct removed words of a batch, H heads, D embedding, S common space.

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import layers, losses
from train.method import Config, Features, Method, Phase, still_video, unit

KINDS = ("noun", "verb")


@dataclass
class Config(Config):
    """Dual alignment's settings."""

    layers: int = 2  # of the space-time encoder
    fill_layers: int = 3  # of the cross-modal encoder
    space: int = 256  # dimensions of the common space
    terms: list = field(default_factory=lambda: ["global", "noun", "verb"])  # L1, L2, L3
    logit_scale: float = 20.0  # of the global loss at the first step; at most 100, as CLIP's
    temperature: float = 0.05  # of the removed words' losses
    rerank: int = 0  # of a text's best videos, how many are ranked again by the gaps that they fill; 0: none
    fill_weight: float = 0.2  # of that in the score
    RENAMED = {}

    @classmethod
    def small(cls) -> dict[str, Any]:
        """One block of each kind."""
        return super().small() | {"layers": 1, "fill_layers": 1, "space": 16}

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """The global term alone, and ranking again."""
        return [{"terms": ["global"]}, {"rerank": 3}]


class DualAlignment(Method):
    """Cosine of sentence and video; in training the video also names the words that the caption has lost."""

    Config = Config
    needs = frozenset(
        {"sentence", "frame", "patch", "image", "image_patch", "without_noun", "noun", "without_verb", "verb"}
    )

    def __init__(self, config: Config):
        if unknown := set(config.terms) - {"global", *KINDS}:
            raise ValueError(f"terms are global, noun and verb, not {', '.join(sorted(unknown))}")
        super().__init__(config)
        size, space = config.dimension, config.space
        self.kinds = [kind for kind in KINDS if kind in config.terms]
        if config.rerank and not self.kinds:
            raise ValueError("rerank asks which gaps a video fills; add noun or verb to terms")
        self.taught_by = frozenset() if config.rerank else span_features(self.kinds)
        self.video = SpaceTimeEncoder(size, config.layers, config.frames)
        self.map_text, self.map_video = nn.Linear(size, space, bias=False), nn.Linear(size, space, bias=False)
        nn.init.orthogonal_(self.map_text.weight)
        with torch.no_grad():
            self.map_video.weight.copy_(self.map_text.weight)
        self.scale = layers.Scale(config.logit_scale)
        if self.kinds:
            self.fill = layers.CrossEncoder(size, config.fill_layers)
            self.map_filled, self.map_word = nn.Linear(size, space, bias=False), nn.Linear(size, space, bias=False)

    @classmethod
    def needed(cls, config: Config) -> frozenset[str]:
        """Without a term nothing of its words."""
        return cls.needs - span_features([kind for kind in KINDS if kind not in config.terms])

    def encode_text(self, features: Features) -> Features:
        """Unit sentence (B, S); with `rerank` also what is left of the captions and unit removed words (B, M, S)."""
        made = {"sentence": unit(self.map_text(unit(features["sentence"])))}
        for kind in self.kinds if self.config.rerank else []:
            names = (f"without_{kind}", f"without_{kind}_mask", f"{kind}_mask")
            made |= {name: features[name] for name in names}
            made[kind] = unit(self.map_word(unit(features[kind])))
        return made

    def encode_video(self, features: Features) -> Features:
        """Unit video (B, S); with `rerank` also its tokens (B, K, D)."""
        token, mask = self.video(features["frame"], features["patch"], features["frame_mask"])
        made = {"video": self.pool(token, mask)}
        if self.config.rerank:
            made |= {"token": token.flatten(1, 2), "token_mask": mask.repeat_interleave(token.shape[2], 1)}
        return made

    def encode_image(self, features: Features) -> Features:
        """The picture as a video that stands still."""
        return self.encode_video(still_video(features, self.config.frames))

    def pool(self, token: Tensor, mask: Tensor) -> Tensor:
        """(B, S) unit videos from the frames' places among (B, N, 1 + P, D) tokens."""
        return unit(self.map_video(layers.mean_video(token[:, :, 0], mask)))

    @layers.full_precision
    def score_coarse(self, text: Features, video: Features) -> Tensor:
        """(T, V) cosines in the common space."""
        return text["sentence"] @ video["video"].T

    @layers.full_precision
    def score_videos(self, text: Features, video: Features) -> Tensor:
        """(T, V) cosines; with `rerank` also how near the video's answers come to the removed words."""
        score = self.score_coarse(text, video)
        return score + self.config.fill_weight * self.score_filled(text, video) if self.config.rerank else score

    def score_images(self, text: Features, image: Features) -> Tensor:
        """(T, I) cosines."""
        return self.score_coarse(text, image)

    def recalled(self) -> int:
        """Those that are ranked again."""
        return self.config.rerank

    def score_filled(self, text: Features, video: Features) -> Tensor:
        """(T, V) mean cosine of what each video answers with the words that the text has lost; 0 where it has lost none."""
        total = []
        for kind in self.kinds:
            asked, mask = text[f"without_{kind}"], text[f"without_{kind}_mask"]
            filled = [
                self.answer(
                    asked[row : row + 1].expand(len(video["token"]), -1, -1),
                    mask[row : row + 1].expand(len(video["token"]), -1),
                    video["token"],
                    video["token_mask"],
                )
                for row in range(len(asked))
            ]
            near = torch.einsum("tvs,tms->tvm", torch.stack(filled), text[kind])  # (T, V, M)
            shown = text[f"{kind}_mask"]
            total.append((near * shown[:, None]).sum(2) / shown.sum(1).clamp(min=1)[:, None])
        return torch.stack(total).mean(0)

    def answer(self, asked: Tensor, mask: Tensor, token: Tensor, token_mask: Tensor) -> Tensor:
        """(B, S) unit answers of videos, tokens (B, K, D), to captions with gaps, words (B, L, D)."""
        return unit(self.map_filled(layers.masked_mean(self.fill(asked, token, token_mask), mask)))

    def phases(self) -> list[Phase]:
        """One phase: L1 + L2 + L3."""
        names = [name for name, _ in self.named_children()]
        return [Phase("alignment", self.config.epochs, names, self.loss, self.config.learning_rate, ("text_video",))]

    def loss(self, batch: Features, progress: float) -> dict[str, Tensor]:
        """Each term of `terms` by its name."""
        token, mask = self.video(batch["frame"], batch["patch"], batch["frame_mask"])
        terms = {}
        if "global" in self.config.terms:
            sentence = unit(self.map_text(unit(batch["sentence"])))
            terms["global"] = losses.clip_loss(cosine(sentence, self.pool(token, mask)), self.scale())
        flat, shown = token.flatten(1, 2), mask.repeat_interleave(token.shape[2], 1)
        for kind in self.kinds:
            asked, gaps = (losses.own_rows(batch[f"without_{kind}{end}"]) for end in ("", "_mask"))
            answer = losses.gather_rows(self.answer(asked, gaps, flat, shown))
            terms[kind] = self.word_loss(answer, batch[kind], batch[f"{kind}_mask"])
        return terms

    @layers.full_precision
    def word_loss(self, answer: Tensor, word: Tensor, mask: Tensor) -> Tensor:
        """Contrast of answers (B, S) with their own removed words (B, M, D), against all other words that the batch lost.

        Equal words are one word, and no caption's own word is a negative of another of its own. Captions that lost none
        have no part in it.
        """
        lost, number = torch.unique(word[mask], dim=0, return_inverse=True)  # equal words have equal embeddings
        own = torch.zeros(len(word), len(lost), dtype=torch.bool, device=word.device)
        own[mask.nonzero()[:, 0], number] = True  # (B, U)
        logit = cosine(answer, unit(self.map_word(unit(lost)))) / self.config.temperature
        wrong = logit.masked_fill(own, layers.MASKED).logsumexp(1, keepdim=True)
        each = (torch.logaddexp(logit, wrong) - logit).masked_fill(~own, 0)
        per_caption = each.sum(1) / own.sum(1).clamp(min=1)
        return per_caption.sum() / own.any(1).sum().clamp(min=1)

    def attend(self, features: Features) -> dict[str, tuple[Tensor, Tensor]]:
        """By Grad-CAM of the cross-modal encoder's last block: attention times the gradient of its nearness to the words."""
        with torch.inference_mode(False), torch.enable_grad():
            features = {name: tensor.clone() for name, tensor in features.items()}
            token, mask = self.video(features["frame"], features["patch"], features["frame_mask"])
            flat, shown = token.flatten(1, 2), mask.repeat_interleave(token.shape[2], 1)
            return {kind: self.grad_cam(kind, features, flat, shown, token.shape[1:3]) for kind in self.kinds}

    def grad_cam(
        self, kind: str, features: Features, token: Tensor, shown: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, N, P) weights and (B,) whether there is a word of a kind."""
        asked, mask, there = features[f"without_{kind}"], features[f"without_{kind}_mask"], features[f"{kind}_mask"]
        seen, weight = self.fill.look(asked, token, shown)  # (B, L, D), (B, H, L, K)
        answer = unit(self.map_filled(layers.masked_mean(seen, mask)))
        word = layers.masked_mean(unit(self.map_word(unit(features[kind]))), there)
        (slope,) = torch.autograd.grad((answer * word).sum(), weight)
        # what raising a patch's logit does among patches: frames' own places are left out
        weight, slope = (part.unflatten(3, grid)[..., 1:] for part in (weight, slope))  # (B, H, L, N, P)
        usual = (weight * slope).sum((3, 4), keepdim=True) / weight.sum((3, 4), keepdim=True).clamp(min=1e-12)
        cam = (F.relu(weight * (slope - usual)) * mask[:, None, :, None, None]).sum((1, 2))
        cam = cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-12)
        return cam.detach(), there.any(1)


def span_features(kinds: list[str]) -> frozenset[str]:
    """The features that terms of some kinds of words read."""
    return frozenset(name for kind in kinds for name in (kind, f"without_{kind}"))


@layers.full_precision
def cosine(one: Tensor, other: Tensor) -> Tensor:
    """(A, B) cosines of unit vectors."""
    return one @ other.T


class SpaceTimeEncoder(nn.Module):
    """Divided attention over a video's tokens (TimeSformer): the same place in all frames, then all places of a frame."""

    def __init__(self, dimension: int, depth: int, frames: int):
        super().__init__()
        heads = layers.count_heads(dimension)
        self.position = nn.Parameter(0.01 * torch.randn(frames, 1, dimension))
        self.time = nn.ModuleList(layers.TransformerBlock(dimension, heads) for _ in range(depth))
        self.space = nn.ModuleList(layers.TransformerBlock(dimension, heads) for _ in range(depth))

    def forward(self, frame: Tensor, patch: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) frames, (B, N, P, D) patches -> (B, N, 1 + P, D) unit tokens, frames first, and their (B, N) mask."""
        token = torch.cat([frame[:, :, None], patch], 2).masked_fill(~mask[..., None, None], 0)
        token = F.normalize(token, dim=-1) * token.shape[-1] ** 0.5
        if token.shape[1] > len(self.position):
            raise ValueError(f"the encoder has {len(self.position)} positions, the videos {token.shape[1]} frames")
        batch, frames, places, _ = token.shape
        token = token + self.position[:frames]
        along = mask.repeat_interleave(places, 0)  # (B · (1 + P), N)
        whole = mask.new_ones(batch * frames, places)
        for time, space in zip(self.time, self.space):
            token = time(token.transpose(1, 2).flatten(0, 1), along).unflatten(0, (batch, places)).transpose(1, 2)
            token = space(token.flatten(0, 1), whole).unflatten(0, (batch, frames))
        return unit(token), mask
