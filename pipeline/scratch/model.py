"""The small CLIP's architecture, tokenizer and initial weights."""

# Axes: B batch, L words, P patches, D embedding, S image side.

import json
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.encoders.weights import DEVIATION, MEAN
from pipeline.scratch.recipe import Recipe

START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(texts: list[str], vocabulary: int, words: int) -> Any:
    """A CLIP tokenizer (byte-level BPE, lower case) learnt from texts; the end token has the largest id, as CLIP's has."""
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = CLIPTokenizer().backend_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="")
    learner.model = model
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) if not isinstance(merge, str) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    pieces = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges]
    table = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    table |= {START: len(table), END: len(table) + 1}
    return CLIPTokenizer(vocab=table, merges=merges, model_max_length=words)


def build(recipe: Recipe, vocabulary: int) -> Any:
    """A CLIPModel of the recipe's size; `vocabulary` counts the tokenizer's tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    shared = {"hidden_size": recipe.width, "intermediate_size": 4 * recipe.width, "num_attention_heads": recipe.heads}
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=recipe.words,
        num_hidden_layers=recipe.text_layers,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        projection_dim=recipe.dimension,
        **shared,
    )
    vision = CLIPVisionConfig(
        image_size=recipe.size,
        patch_size=recipe.patch,
        num_hidden_layers=recipe.vision_layers,
        projection_dim=recipe.dimension,
        **shared,
    )
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=recipe.dimension)
    )
    model.config.logit_scale_init_value = math.log(10)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        grid = recipe.size // recipe.patch
        positions = model.vision_model.embeddings.position_embedding.weight
        positions.copy_(torch.cat([torch.zeros(1, recipe.width), waves(grid, recipe.width)]) * 0.6)
    return model


def waves(grid: int, width: int) -> Tensor:
    """Sine and cosine positions of a square grid, (grid * grid, width): HF's own start is too small to be learnt soon."""
    rates = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    one = torch.arange(grid)[:, None] * rates[None]
    line = torch.cat([one.sin(), one.cos()], 1)  # (grid, width / 2)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], -1).reshape(grid * grid, width)


def whiten(model: Any, pictures: np.ndarray) -> None:
    """Start the patch embedding at the leading whitened components of real patches."""
    conv = model.vision_model.embeddings.patch_embedding
    side, width = conv.kernel_size[0], conv.out_channels
    patch = F.unfold(normal(pictures), side, stride=side).transpose(1, 2).flatten(0, 1)
    patch = patch[torch.randperm(len(patch))[:20000]]
    values, vectors = torch.linalg.eigh((patch - patch.mean(0)).T.cov())
    lead = vectors[:, -width:].T / (values[-width:, None] + 1e-2 * values[-1]).sqrt()
    with torch.no_grad():
        conv.weight[: len(lead)].copy_(lead.reshape(-1, 3, side, side) * 0.3)


def normal(pictures: np.ndarray) -> Tensor:
    """uint8 (B, S, S, 3) as the tower takes it, float (B, 3, S, S)."""
    image = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def image_tokens(model: Any, image: Tensor) -> Tensor:
    """(B, 1 + P, D): CLS and patches after the final layer norm and the projection."""
    hidden = model.vision_model(pixel_values=image).last_hidden_state
    return model.visual_projection(model.vision_model.post_layernorm(hidden))


def text_tokens(model: Any, words: Any, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Sentence (B, D), word (B, L, D) and which words are words: neither start nor end nor padding (B, L)."""
    ids = words(texts, padding=True, truncation=True, return_tensors="pt")
    token, mask = ids["input_ids"], ids["attention_mask"].bool()
    word = model.text_projection(model.text_model(input_ids=token, attention_mask=mask).last_hidden_state)
    last = mask.sum(1) - 1
    inner = mask & (token < len(words) - 2)
    return word[torch.arange(len(word)), last], word, inner
