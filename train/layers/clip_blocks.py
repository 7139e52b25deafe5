"""CLIP's blocks as a trainer owns them: what was cached before block `first`, or token ids, go in, CLIP's tokens come out.

`pipeline/encoders/transformer.py` has the same arithmetic for frozen towers, with packed weights and without gradients; a test
holds the two against each other. Weights come from `cache/<dataset>/clip/tail.safetensors`, which the clip stage writes.
"""

# Axes: B images or texts, T tokens of one (1 + P in an image, L in a text), W width of the tower, D embedding.

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from train.layers.precision import full_precision
from train.layers.token_shift import shift_tokens

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda value: value * torch.sigmoid(1.702 * value),
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}


@dataclass(frozen=True)
class TowerShape:
    """The sizes of one tower, as the header of tail.safetensors says them."""

    width: int
    heads: int
    layers: int  # of the whole tower
    dimension: int  # of the shared space
    epsilon: float
    activation: str
    hidden: int  # width inside the MLPs
    tokens: int  # 1 + patches of an image, or the most tokens of a text
    vocabulary: int = 0  # of a text tower


class CLIPBlock(nn.Module):
    """One pre-norm transformer block of CLIP."""

    def __init__(self, shape: TowerShape, causal: bool):
        super().__init__()
        self.heads, self.causal, self.activate = shape.heads, causal, ACTIVATIONS[shape.activation]
        self.norm_attention = nn.LayerNorm(shape.width, shape.epsilon)
        self.norm_mlp = nn.LayerNorm(shape.width, shape.epsilon)
        self.qkv, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)
        self.wide, self.narrow = nn.Linear(shape.width, shape.hidden), nn.Linear(shape.hidden, shape.width)

    def forward(self, token: Tensor, frames: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """(B, T, W) tokens that have heard each other; in a causal tower each hears itself and those before it.

        frames: of videos, (videos, N) which frames there are; the tokens then shift between the frames of a video.
        place: (B,) the one token of each that is wanted; (B, 1, W) comes out, for a fraction of the work.
        """
        normed = self.norm_attention(token)
        normed = normed if frames is None else shift_tokens(normed, frames)
        if place is None:
            query, key, value = self.split(self.qkv(normed), 3)
            heard = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        else:
            width = token.shape[-1]
            asked, token = pick(normed, place), pick(token, place)
            (query,) = self.split(F.linear(asked, self.qkv.weight[:width], self.qkv.bias[:width]), 1)
            key, value = self.split(F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]), 2)
            before = torch.arange(normed.shape[1], device=place.device) <= place[:, None]
            heard = F.scaled_dot_product_attention(query, key, value, before[:, None, None] if self.causal else None)
        token = token + self.out(heard.transpose(1, 2).flatten(2))
        return token + self.narrow(self.activate(self.wide(self.norm_mlp(token))))

    def split(self, joined: Tensor, parts: int) -> Tensor:
        """(parts, B, heads, T, W / heads) from (B, T, parts · W)."""
        return joined.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)


class Tower(nn.Module):
    """The blocks of one tower from `first` on, its last norm and its projection.

    `owned`: how many of the last blocks learn; the blocks before them run without gradients.
    """

    def __init__(self, shape: TowerShape, first: int, owned: int, causal: bool):
        super().__init__()
        if not 0 <= first <= shape.layers or not 0 < owned <= shape.layers - first:
            raise ValueError(
                f"the cache holds what enters block {first} of {shape.layers}: a run can own 1 to {shape.layers - first} "
                f"blocks, not {owned}; raise `tail` in params.yaml or lower `tune_blocks`"
            )
        self.shape, self.first = shape, first
        self.skipped = 0  # frozen blocks that the cache has already run
        self.shifted = 0  # last blocks in which tokens shift between frames
        self.recompute = False  # trade time for memory: the blocks run again in the backward pass
        self.frozen = nn.ModuleList(CLIPBlock(shape, causal) for _ in range(shape.layers - first - owned))
        self.blocks = nn.ModuleList(CLIPBlock(shape, causal) for _ in range(owned))
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.projection = nn.Linear(shape.width, shape.dimension, bias=False)

    @property
    def owned(self) -> range:
        """The numbers of the blocks that learn, in the whole tower."""
        return range(self.shape.layers - len(self.blocks), self.shape.layers)

    def enter(self, first: int) -> None:
        """Go on from what enters block `first`, as other shards may hold it. ValueError where that is none of the frozen ones."""
        if not self.first <= first <= self.owned.start:
            raise ValueError(
                f"the shards hold what enters block {first} of {self.shape.layers}, and the run goes on from block "
                f"{self.first}, or up to {self.owned.start}; set tail.image in params.yaml to "
                f"{self.shape.layers - self.first}, and run the clip and visual stages"
            )
        self.skipped = first - self.first

    def forward(self, hidden: Tensor, frames: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """(B, T, W) residual stream before block `first` -> (B, T, D) tokens, normed, projected, of any length.

        frames: of videos, (videos, N) which frames there are, for the blocks in which tokens shift between them.
        place: (B,) the one token of each that is wanted, which spares the last block most of its work; (B, 1, D) comes out.
        """
        with torch.no_grad():
            for block in self.frozen[self.skipped :]:
                hidden = block(hidden)
        for number, block in enumerate(self.blocks):
            seen = frames if number >= len(self.blocks) - self.shifted else None
            only = place if number == len(self.blocks) - 1 else None
            again = self.recompute and torch.is_grad_enabled()
            hidden = checkpoint(block, hidden, seen, only, use_reentrant=False) if again else block(hidden, seen, only)
        return self.project(hidden)

    @full_precision
    def project(self, hidden: Tensor) -> Tensor:
        """The last norm and the projection: cosines are taken of what comes out, and bfloat16 would round each."""
        return self.projection(self.norm(hidden))

    def read(self, path: Path, tower: str) -> None:
        """Take the weights of tower `image` or `text` from tail.safetensors."""
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            for number, block in enumerate([*self.frozen, *self.blocks], self.first):
                at = f"{tower}.blocks.{number}."
                block.load_state_dict({name: file.get_tensor(at + name) for name in block.state_dict()})
            self.norm.load_state_dict({name: file.get_tensor(f"{tower}.norm.{name}") for name in ("weight", "bias")})
            self.projection.load_state_dict({"weight": file.get_tensor(f"{tower}.projection")})


class TextTower(Tower):
    """The whole text tower: token ids go in, through embeddings that stay as they are."""

    def __init__(self, shape: TowerShape, owned: int):
        super().__init__(shape, 0, owned, causal=True)
        # buffers, not parameters: nothing moves them, and a checkpoint holds them
        self.register_buffer("token", torch.zeros(shape.vocabulary, shape.width))
        self.register_buffer("position", torch.zeros(shape.tokens, shape.width))

    def forward(self, ids: Tensor, place: Tensor | None = None) -> Tensor:
        """(B, L) token ids from SOT on -> (B, L, D) tokens; what stands behind a text's EOT changes nothing before it.

        place: (B,) the one token of each text that is wanted; (B, 1, D) comes out.
        """
        return super().forward(self.embed(ids), place=place)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """(B, L, W), what enters the first block."""
        return F.embedding(ids, self.token) + self.position[: ids.shape[1]]

    def read(self, path: Path, tower: str = "text") -> None:
        """Take the weights from tail.safetensors."""
        from safetensors import safe_open

        super().read(path, tower)
        with safe_open(path, "pt") as file:
            self.token.copy_(file.get_tensor("text.token"))
            self.position.copy_(file.get_tensor("text.position"))


def pick(token: Tensor, place: Tensor) -> Tensor:
    """(B, 1, W) of (B, T, W): each row's token at its (B,) place."""
    return token.gather(1, place[:, None, None].expand(-1, 1, token.shape[-1]))


def read_header(path: Path) -> dict[str, Any]:
    """What tail.safetensors says of itself: `clip_sha256`, `tail` (how many last blocks of each tower a run may own), and the
    TowerShape of a tower under `image` and `text`, where the file holds any of it.

    Errors: ValueError that says what to run where the file is missing or of an earlier release.
    """
    from safetensors import safe_open

    if not path.exists():
        raise ValueError(f"{path} is missing; run: dvc repro clip@{path.parent.parent.name}")
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    if "tail" not in facts:
        raise ValueError(f"{path} is of an earlier release; run: dvc repro clip@{path.parent.parent.name}")
    return {name: TowerShape(**value) if name in ("image", "text") else value for name, value in facts.items()}
