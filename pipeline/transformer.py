"""A frozen transformer over rows of numbers: weights packed once, rows taken in chunks that stay in the processor's cache.

A chunk always has the same number of rows, the last one filled up, so that a row gives the same bytes wherever it lies.
"""

# Axes: R rows (tokens of all images or texts), W width, D embedding.

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor], Tensor]  # query (R, W), key and value (R, 2W) -> what each row hears (R, W)


class Linear:
    """A linear layer for inputs of exactly `rows` rows.

    On a CPU in fp32 MKL packs the weights once; otherwise it does so in every call, which takes a tenth of the time at a few
    hundred rows. Elsewhere, and where `rows` is None, this is torch's own layer.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int | None):
        self.weight, self.bias, self.rows, self.packed = weight, bias, rows, None
        if rows and weight.device.type == "cpu" and weight.dtype == torch.float32 and packable():
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)

    def __call__(self, part: Tensor) -> Tensor:
        if self.packed is None:
            return nn.functional.linear(part, self.weight, self.bias)
        return torch.ops.mkl._mkl_linear(part, self.packed, self.weight, self.bias, self.rows)


def packable() -> bool:
    """Whether this torch has MKL's packed product."""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")


class Block:
    """One layer of CLIP's encoder, query, key and value made by one product."""

    def __init__(self, layer: Any, rows: int | None):
        attention, mlp = layer.self_attn, layer.mlp
        three = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight, bias = (torch.cat([getattr(part, name) for part in three]) for name in ("weight", "bias"))
        self.listen, self.think, self.activate = layer.layer_norm1, layer.layer_norm2, mlp.activation_fn
        self.three = Linear(weight, bias, rows)
        self.out, self.up, self.down = (
            Linear(part.weight, part.bias, rows) for part in (attention.out_proj, mlp.fc1, mlp.fc2)
        )


class Transformer:
    """The layers of a CLIP tower, its last norm and its projection, for chunks of `rows` rows (None: all rows at once)."""

    def __init__(self, layers: Any, norm: nn.LayerNorm, projection: nn.Linear, rows: int | None):
        self.rows, self.norm = rows, norm
        self.heads: int = layers[0].self_attn.num_heads
        self.blocks = [Block(layer, rows) for layer in layers]
        self.project = Linear(projection.weight, projection.bias, rows)

    def __call__(self, hidden: Tensor, attend: Attend) -> Tensor:
        """Embeddings (R, D) of rows (R, W), which are overwritten; `attend` lets rows of one image or text hear each other."""
        count, width = hidden.shape
        hidden = self.fill(hidden)
        size = self.rows or count
        query, memory = torch.empty_like(hidden), hidden.new_empty(len(hidden), 2 * width)
        parts = hidden.split(size)
        for block in self.blocks:
            for part, own, others in zip(parts, query.split(size), memory.split(size)):
                three = block.three(block.listen(part))
                own.copy_(three[:, :width])
                others.copy_(three[:, width:])
            heard = self.fill(attend(query[:count], memory[:count]))
            for part, more in zip(parts, heard.split(size)):
                part += block.out(more)
                part += block.down(block.activate(block.up(block.think(part))))
        return torch.cat([self.project(self.norm(part)) for part in parts])[:count]

    def fill(self, part: Tensor) -> Tensor:
        """Rows of zeros behind, up to a whole number of chunks."""
        short = -len(part) % (self.rows or 1)
        return torch.cat([part, part.new_zeros(short, part.shape[1])]) if short else part
