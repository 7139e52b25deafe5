"""The losses of a CLIP trained here."""

# Axes: B batch, L words, P patches, D embedding.

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.scratch.corpus import Batch
from pipeline.scratch.model import image_tokens, normal, text_tokens
from pipeline.scratch.recipe import Recipe

# ---- learning


def contrastive_loss(one: Tensor, two: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two lists of vectors (B, D)."""
    logits = scale * F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).T
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def late_interaction_loss(word: Tensor, inner: Tensor, patch: Tensor) -> Tensor:
    """Mean over a text's words of the best patch, for all pairs: (texts, pictures)."""
    word, patch = F.normalize(word, dim=-1)[inner], F.normalize(patch, dim=-1)
    best = torch.einsum("wd,bpd->wbp", word, patch).amax(2)  # (words of all texts, pictures)
    text = inner.nonzero()[:, 0]
    total = best.new_zeros(len(inner), best.shape[1]).index_add(0, text, best)
    return total / inner.sum(1, keepdim=True).clamp(min=1)


def training_losses(model: Any, words: Any, naming: nn.Module, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """The named terms of one batch."""
    scale, count = model.logit_scale.exp(), len(batch.pictures)
    image = image_tokens(model, normal(batch.pictures))
    sentence, word, inner = text_tokens(model, words, batch.captions)
    terms = {"picture": contrastive_loss(sentence[:count], image[:, 0], scale)}
    if recipe.words_weight:
        scores = scale * late_interaction_loss(word[:count], inner[:count], image[:, 1:])
        truth = torch.arange(count)
        both = F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)
        terms["words"] = recipe.words_weight * both / 2
    if recipe.retention:
        local = naming(image[:, 1:]).amax(1)  # something in the picture is called so
        named = torch.cat([naming(torch.cat([image[:, 0], sentence])), local])
        said = torch.cat([batch.said[:count], batch.said, batch.said[:count]])
        missed = F.binary_cross_entropy_with_logits(named, said, reduction="sum")
        terms["retention"] = recipe.retention * missed / said.sum()
    return terms
