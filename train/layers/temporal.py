"""The transformer over the frames of a video."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.clip_blocks import read_header
from train.layers.precision import widen


class TransformerBlock(nn.Module):
    """A pre-norm transformer block with CLIP's QuickGELU, x·sigmoid(1.702x)."""

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.qkv, self.out = nn.Linear(dimension, 3 * dimension), nn.Linear(dimension, dimension)
        self.wide, self.narrow = nn.Linear(dimension, 4 * dimension), nn.Linear(4 * dimension, dimension)
        for layer in (self.qkv, self.wide):
            nn.init.normal_(layer.weight, std=dimension**-0.5)
            nn.init.zeros_(layer.bias)
        for layer in (self.out, self.narrow):  # the block starts as the identity, so training starts at zero-shot CLIP
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, token: Tensor, mask: Tensor) -> Tensor:
        """(B, N, D) tokens that look at the valid ones of (B, N) each other."""
        batch, count, dimension = token.shape
        qkv = self.qkv(self.norm_attention(token)).view(batch, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        token = token + self.out(seen.transpose(1, 2).reshape(batch, count, dimension))
        wide = self.wide(self.norm_mlp(token))
        return token + self.narrow(F.silu(wide.mul_(1.702)).div_(1.702))  # in place: neither is kept for the gradient


class TemporalEncoder(nn.Module):
    """CLIP4Clip's "seqTransf": positions added once, transformer blocks, a residual to the input frames.

    Tokens come in at a length of √D (CLIP's own is near it), whatever their CLIP's scale, and leave at length 1. In the
    published codes they keep the lengths that CLIP gives them.
    """

    def __init__(self, dimension: int, layers: int = 4, positions: int = 77):
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(positions, dimension))
        self.blocks = nn.ModuleList(TransformerBlock(dimension, count_heads(dimension)) for _ in range(layers))

    @torch.no_grad()
    def read(self, path: Path) -> None:
        """Start from CLIP's first text blocks and its positions in tail.safetensors, as CLIP4Clip does, not from the identity.

        What there is more of here starts as it would. Errors: ValueError where CLIP's blocks are of another shape.
        """
        from safetensors import safe_open

        shape, width = read_header(path)["text"], self.position.shape[1]
        own = {"width": width, "heads": count_heads(width), "hidden": 4 * width, "activation": "quick_gelu"}
        if other := {name: value for name, value in own.items() if getattr(shape, name) != value}:
            raise ValueError(
                f"temporal_init: clip needs text blocks of {', '.join(f'{name} {value}' for name, value in other.items())}; this "
                f"CLIP's have {', '.join(str(getattr(shape, name)) for name in other)}; set temporal_init to identity"
            )
        with safe_open(path, "pt") as file:
            position = file.get_tensor("text.position")[: len(self.position)]
            self.position[: len(position)] = position
            there = {name.split(".")[2] for name in file.keys() if name.startswith("text.blocks.")}  # noqa: SIM118 no dict
            for number, block in enumerate(self.blocks[: len(there)]):
                block.load_state_dict(
                    {name: file.get_tensor(f"text.blocks.{number}.{name}") for name in block.state_dict()}
                )

    def forward(self, frame: Tensor, mask: Tensor, length: Tensor | None = None) -> Tensor:
        """(B, N, D) unit frames that know their neighbours and their place; `length`: (B, N, 1) shares of √D to come in at."""
        if frame.shape[1] > len(self.position):
            raise ValueError(
                f"the temporal encoder has {len(self.position)} positions, the videos {frame.shape[1]} frames"
            )
        plain = F.normalize(frame, dim=-1) * frame.shape[-1] ** 0.5
        if length is not None:
            plain = plain * length
        token = plain + self.position[: frame.shape[1]]
        for block in self.blocks:
            token = block(token, mask)
        return F.normalize(plain + widen(token), dim=-1)


def count_heads(dimension: int) -> int:
    """Attention heads: 64 dimensions each, where that divides."""
    return next(count for count in range(max(1, dimension // 64), 0, -1) if dimension % count == 0)
