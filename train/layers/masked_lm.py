"""A masked language model as a trainer runs it: BERT's blocks and its head, whose outputs are the words of a lexicon.

The weights come from `cache/<dataset>/lexicon/lexicon.safetensors`, which the lexicon stage writes. Blocks that never learn are
buffers: a checkpoint has them, no optimizer sees them.
"""

# Axes: B texts or videos, L pieces or tokens of one, V words of the lexicon, W width.

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.precision import full_precision

ACTIVATIONS = {
    "gelu": F.gelu,
    "relu": F.relu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
HELD = 1 << 25  # logits alive at once (128 MB): tokens times words is never held whole


@dataclass(frozen=True)
class LexiconShape:
    """The sizes of a masked language model, as the header of lexicon.safetensors says them."""

    vocabulary: int = 30522  # bert-base-uncased's
    width: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072  # width inside the MLPs
    positions: int = 512
    epsilon: float = 1e-12
    activation: str = "gelu"


class MaskedBlock(nn.Module):
    """One post-norm transformer block of BERT."""

    def __init__(self, shape: LexiconShape):
        super().__init__()
        self.heads, self.activate = shape.heads, ACTIVATIONS[shape.activation]
        self.norm_attention = nn.LayerNorm(shape.width, shape.epsilon)
        self.norm_mlp = nn.LayerNorm(shape.width, shape.epsilon)
        self.qkv, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.wide, self.narrow = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.width)

    def forward(self, token: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W) tokens that have heard the valid ones of (B, L) each other."""
        batch, count, width = token.shape
        query, key, value = self.qkv(token).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        token = self.norm_attention(token + self.out(heard.transpose(1, 2).reshape(batch, count, width)))
        return self.norm_mlp(token + self.narrow(self.activate(self.wide(token))))


class MaskedHead(nn.Module):
    """BERT's head over the lexicon: dense, activation, norm, then the word embeddings as weights, and a bias a word."""

    def __init__(self, shape: LexiconShape):
        super().__init__()
        self.activate = ACTIVATIONS[shape.activation]
        self.dense, self.norm = nn.Linear(shape.width, shape.width), nn.LayerNorm(shape.width, shape.epsilon)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def forward(self, token: Tensor) -> Tensor:
        """(..., W) tokens as the word embeddings are compared with them."""
        return self.norm(self.activate(self.dense(token)))


class MaskedLM(nn.Module):
    """BertForMaskedLM: `upper` (the last `owned` blocks) and `head` can learn; embeddings and the blocks below stand still."""

    def __init__(self, shape: LexiconShape, owned: int):
        super().__init__()
        self.shape, owned = shape, min(owned, shape.layers)
        self.register_buffer("word", 0.02 * torch.randn(shape.vocabulary, shape.width))
        self.register_buffer("position", 0.02 * torch.randn(shape.positions, shape.width))
        self.norm = as_buffers(nn.LayerNorm(shape.width, shape.epsilon))
        self.lower = as_buffers(nn.ModuleList(MaskedBlock(shape) for _ in range(shape.layers - owned)))
        self.upper = nn.ModuleList(MaskedBlock(shape) for _ in range(owned))
        self.head = MaskedHead(shape)

    def forward(self, piece: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W) last hidden states of (B, L) piece ids."""
        token = self.norm(self.word[piece] + self.position[: piece.shape[1]])
        for block in (*self.lower, *self.upper):
            token = block(token, mask)
        return token

    def weigh(self, token: Tensor, mask: Tensor, wake: float = 0.0) -> Tensor:
        """(B, V) weight of every word for (B, L, W) hidden states: log(1 + ReLU(logit)), the greatest over the valid ones.

        wake: as in `pool_lexicon`.
        """
        return pool_lexicon(self.head(token), mask, self.word, self.head.bias, wake)

    @full_precision
    def logits(self, token: Tensor) -> Tensor:
        """(T, V) logits of (T, W) hidden states, for the few that are asked for."""
        return F.linear(self.head(token), self.word, self.head.bias)

    def read(self, path: Path) -> None:
        """Take the weights of lexicon.safetensors."""
        from safetensors.torch import load_file

        found = load_file(path)
        for number, block in enumerate((*self.lower, *self.upper)):
            block.load_state_dict({name: found[f"blocks.{number}.{name}"] for name in block.state_dict()})
        self.norm.load_state_dict({name: found[f"norm.{name}"] for name in ("weight", "bias")})
        head = {name: found[f"head.{name}"] for name in self.head.state_dict() if name != "bias"}
        self.head.load_state_dict(head | {"bias": found["bias"]})
        self.word.copy_(found["word"])
        self.position.copy_(found["position"])


def as_buffers(module: nn.Module) -> nn.Module:
    """A module whose parameters never learn, as buffers."""
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach())
    return module


def read_lexicon(path: Path) -> dict[str, Any]:
    """What lexicon.safetensors says of itself: `sha256`, `shape`, the id `mask`, and the ids `special` that are no words.

    Errors: ValueError that says what to run where the file is missing.
    """
    from safetensors import safe_open

    if not path.exists():
        raise ValueError(f"{path} is missing; run: python -m pipeline.lexicon --dataset {path.parent.parent.name}")
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["facts"])


@full_precision
def pool_lexicon(token: Tensor, mask: Tensor, word: Tensor, bias: Tensor, wake: float = 0.0) -> Tensor:
    """(B, V) from (B, L, W) tokens as the head leaves them, word embeddings (V, W) and a bias (V): max over the valid tokens of
    log(1 + ReLU(token · word + bias)) (SPLADE-max); 0 where no token is valid. Word embeddings get no gradient.

    wake: the share of its gradient that a weight of 0 hands on where the loss would fall if it rose. By 0, the gradient of the
    formula, a word that is 0 for every token stays so.
    """
    return LexiconPool.apply(token, mask, word, bias, wake)


class LexiconPool(torch.autograd.Function):
    """A few words at a time; kept are the greatest logit and the token that gave it. log(1 + ReLU) rises, so it comes last."""

    @staticmethod
    def forward(ctx, token: Tensor, mask: Tensor, word: Tensor, bias: Tensor, wake: float) -> Tensor:
        """(B, L, W), (B, L), (V, W), (V) -> (B, V)."""
        batch, length, width = token.shape
        weight = token.new_empty(batch, len(word))
        which = torch.empty(batch, len(word), dtype=torch.int16 if length < 2**15 else torch.int32, device=token.device)
        flat = token.reshape(-1, width)
        hidden = (~mask).reshape(-1)
        for some in word_chunks(len(word), batch * length):
            logit = torch.addmm(bias[some], flat, word[some].T)  # (BL, words)
            logit[hidden] = -torch.inf
            top, index = logit.view(batch, length, -1).max(1)
            weight[:, some], which[:, some] = top, index
        weight.relu_().log1p_()
        ctx.save_for_backward(token, word, weight, which, mask.any(1, keepdim=True))
        ctx.wake = wake
        return weight

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        """To the token that gave each word's greatest logit, where that was above 0 or should be."""
        token, word, weight, which, there = ctx.saved_tensors
        batch, length, width = token.shape
        asleep = ctx.wake * grad.clamp(max=0) * there
        grad = torch.where(weight > 0, grad * (-weight).exp(), asleep)  # d log(1 + x) = 1 / (1 + x)
        to_token = torch.zeros_like(token)
        for some in word_chunks(len(word), batch * length):
            part = grad[:, some]
            spread = token.new_zeros(batch, length, part.shape[1])
            spread.scatter_(1, which[:, None, some].long(), part[:, None])
            to_token += (spread.view(batch * length, -1) @ word[some]).view_as(token)
        return to_token, None, None, grad.sum(0), None


def word_chunks(words: int, tokens: int) -> list[slice]:
    """The lexicon in stretches whose logits, of all tokens, fill HELD at most."""
    step = max(1, HELD // max(1, tokens))
    return [slice(at, at + step) for at in range(0, words, step)]
