"""A cross-modal encoder: tokens of a text look at tokens of a video."""

# Axes: B batch, L words, K tokens of a video, H heads, D embedding.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.layers.temporal import count_heads


class CrossBlock(nn.Module):
    """Pre-norm attention from a text to a video, then an MLP; it starts as the identity on the text."""

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_text, self.norm_video, self.norm_mlp = (nn.LayerNorm(dimension) for _ in range(3))
        self.query, self.key_value = nn.Linear(dimension, dimension), nn.Linear(dimension, 2 * dimension)
        self.out = nn.Linear(dimension, dimension)
        self.wide, self.narrow = nn.Linear(dimension, 4 * dimension), nn.Linear(4 * dimension, dimension)
        for layer in (self.query, self.key_value, self.wide):
            nn.init.normal_(layer.weight, std=dimension**-0.5)
            nn.init.zeros_(layer.bias)
        for layer in (self.out, self.narrow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, text: Tensor, video: Tensor, mask: Tensor, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, L, D) text tokens that have seen (B, K, D) video tokens; with `keep` also (B, H, L, K) how they looked."""
        query = self.split(self.query(self.norm_text(text)))
        key, value = map(self.split, self.key_value(self.norm_video(video)).chunk(2, -1))
        weight = None
        if keep:
            logit = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
            weight = logit.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
            seen = weight @ value
        else:
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        text = text + self.out(seen.transpose(1, 2).flatten(2))
        wide = self.wide(self.norm_mlp(text))
        return text + self.narrow(F.silu(1.702 * wide) / 1.702), weight

    def split(self, token: Tensor) -> Tensor:
        """(B, H, tokens, D / H)."""
        return token.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CrossEncoder(nn.Module):
    """Cross blocks one after another; each text token goes its own way, CLIP has already told it of the others."""

    def __init__(self, dimension: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(dimension, count_heads(dimension)) for _ in range(depth))

    def forward(self, text: Tensor, video: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D), tokens of any length, from texts (B, L, D) and videos (B, K, D) with their mask (B, K)."""
        return self.run(text, video, mask, False)[0]

    def look(self, text: Tensor, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and (B, H, L, K) where the last block's queries looked."""
        return self.run(text, video, mask, True)

    def run(self, text: Tensor, video: Tensor, mask: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The blocks; both sides enter at a length of √D."""
        scale = text.shape[-1] ** 0.5
        text, video = F.normalize(text, dim=-1) * scale, F.normalize(video, dim=-1) * scale
        weight = None
        for block in self.blocks:
            text, weight = block(text, video, mask, keep)
        return text, weight
