"""A frozen transformer over rows of numbers: weights packed once, rows taken in chunks that stay in the processor's cache.

A chunk always has the same number of rows, the last one filled up, so that a row gives the same bytes wherever it lies.
"""

# Axes: R rows (tokens of all images or texts), W width, D embedding.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

STEEP = 1.702  # CLIP's activation is x * sigmoid(1.702 x)
ACTIVATIONS = {
    "quick_gelu": partial(F.silu, inplace=True),
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
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
            return F.linear(part, self.weight, self.bias)
        return torch.ops.mkl._mkl_linear(part, self.packed, self.weight, self.bias, self.rows)


def packable() -> bool:
    """Whether this torch has MKL's packed product."""
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")


class Norm(NamedTuple):
    """A layer norm."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, part: Tensor) -> Tensor:
        return F.layer_norm(part, part.shape[-1:], self.weight, self.bias, self.epsilon)


@dataclass
class Parameters:
    """What a tower's transformer is made of, by the names of a CLIPModel's weights behind `model` (`text_model.`).

    CLIP's activation is computed in one pass in place, x sigmoid(1.702 x) = silu(1.702 x) / 1.702, both factors put into the
    weights around it; transformers makes three passes with two new tensors.
    """

    layers: list[dict[str, Any]]
    norm: Norm
    projection: Tensor
    heads: int
    activation: str

    @classmethod
    def of(
        cls, weights: dict[str, Tensor], model: str, norm: str, projection: str, facts: dict[str, Any], place: Any
    ) -> Self:
        """`facts`: heads, epsilon and activation of the tower. `place`: puts a float32 tensor where and as it is needed."""
        count = len({name.split(".")[3] for name in weights if name.startswith(f"{model}encoder.layers.")})
        layers = []
        for at in (f"{model}encoder.layers.{number}." for number in range(count)):
            three = [[weights[f"{at}self_attn.{name}_proj.{kind}"] for name in "qkv"] for kind in ("weight", "bias")]
            up, down, out = (
                [weights[f"{at}{name}.{kind}"] for kind in ("weight", "bias")]
                for name in ("mlp.fc1", "mlp.fc2", "self_attn.out_proj")
            )
            if facts["activation"] == "quick_gelu":
                up, down = [part * STEEP for part in up], [down[0] / STEEP, down[1]]
            linear = {"three": map(torch.cat, three), "out": out, "up": up, "down": down}
            layer = {name: tuple(map(place, pair)) for name, pair in linear.items()}
            layers.append(
                layer | {f"norm{k}": cls.norm_of(weights, f"{at}layer_norm{k}", facts, place) for k in (1, 2)}
            )
        last = cls.norm_of(weights, model + norm, facts, place)
        return cls(layers, last, place(weights[projection]), facts["heads"], facts["activation"])

    @staticmethod
    def norm_of(weights: dict[str, Tensor], name: str, facts: dict[str, Any], place: Any) -> Norm:
        """The layer norm of this name."""
        return Norm(place(weights[f"{name}.weight"]), place(weights[f"{name}.bias"]), facts["epsilon"])


class Transformer:
    """The layers of a CLIP tower, its last norm and its projection, for chunks of `rows` rows (None: all rows at once)."""

    def __init__(self, parameters: Parameters, rows: int | None):
        self.rows, self.norm, self.heads = rows, parameters.norm, parameters.heads
        self.activate = ACTIVATIONS[parameters.activation]
        self.layers = [
            {name: value if isinstance(value, Norm) else Linear(*value, rows) for name, value in layer.items()}
            for layer in parameters.layers
        ]
        self.project = Linear(parameters.projection, None, rows)

    def __call__(self, hidden: Tensor, attend: Attend) -> Tensor:
        """Embeddings (R, D) of rows (R, W), which are overwritten; `attend` lets rows of one image or text hear each other."""
        count, width = hidden.shape
        hidden = self.fill(hidden)
        size = self.rows or count
        query, memory = torch.empty_like(hidden), hidden.new_empty(len(hidden), 2 * width)
        parts = hidden.split(size)
        for layer in self.layers:
            for part, own, others in zip(parts, query.split(size), memory.split(size)):
                three = layer["three"](layer["norm1"](part))
                own.copy_(three[:, :width])
                others.copy_(three[:, width:])
            heard = self.fill(attend(query[:count], memory[:count]))
            for part, more in zip(parts, heard.split(size)):
                part += layer["out"](more)
                part += layer["down"](self.activate(layer["up"](layer["norm2"](part))))
        return torch.cat([self.project(self.norm(part)) for part in parts])[:count]

    def fill(self, part: Tensor) -> Tensor:
        """Rows of zeros behind, up to a whole number of chunks."""
        short = -len(part) % (self.rows or 1)
        return torch.cat([part, part.new_zeros(short, part.shape[1])]) if short else part
