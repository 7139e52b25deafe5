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

QUICK_GELU = 1.702  # CLIP's activation is x * sigmoid(1.702 x)
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
        if rows and weight.device.type == "cpu" and weight.dtype == torch.float32 and can_pack():
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)

    def __call__(self, part: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(part, self.weight, self.bias)
        return torch.ops.mkl._mkl_linear(part, self.packed, self.weight, self.bias, self.rows)


def can_pack() -> bool:
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
class Weights:
    """One tower's float32 tensors by a CLIPModel's names, what clip.json says of the tower (heads, epsilon, activation), and
    `place`, which puts a tensor where and as it is needed.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    place: Callable[[Tensor], Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.place(self.tensors[name])

    def read_norm(self, name: str) -> Norm:
        """The layer norm of this name."""
        return Norm(self[f"{name}.weight"], self[f"{name}.bias"], self.facts["epsilon"])

    def join_linear(self, *names: str) -> list[Tensor]:
        """Weight and bias of linear layers of one input, as one layer."""
        parts = ([self.tensors[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return [torch.cat(part) if len(names) > 1 else part[0] for part in parts]

    def read_layer(self, at: str) -> dict[str, Any]:
        """The parameters of one layer.

        CLIP's activation is computed in one pass in place, x sigmoid(1.702 x) = silu(1.702 x) / 1.702, both factors put into
        the weights around it; transformers makes three passes with two new tensors.
        """
        up, down = self.join_linear(f"{at}mlp.fc1"), self.join_linear(f"{at}mlp.fc2")
        if self.facts["activation"] == "quick_gelu":
            up, down = [part * QUICK_GELU for part in up], [down[0] / QUICK_GELU, down[1]]
        three = self.join_linear(*(f"{at}self_attn.{name}_proj" for name in "qkv"))
        linear = {"three": three, "out": self.join_linear(f"{at}self_attn.out_proj"), "up": up, "down": down}
        norms = {f"norm{number}": self.read_norm(f"{at}layer_norm{number}") for number in (1, 2)}
        return norms | {name: tuple(map(self.place, pair)) for name, pair in linear.items()}


@dataclass
class Parameters:
    """What a tower's transformer is made of."""

    layers: list[dict[str, Any]]
    norm: Norm
    projection: Tensor
    heads: int
    activation: str

    @classmethod
    def of(cls, weights: Weights, model: str, norm: str, projection: str) -> Self:
        """The layers of `model` (`text_model`), its last norm and the projection behind it, by their names."""
        at = f"{model}.encoder.layers."
        count = len({name[len(at) :].split(".")[0] for name in weights.tensors if name.startswith(at)})
        layers = [weights.read_layer(f"{at}{number}.") for number in range(count)]
        facts = weights.facts
        return cls(
            layers, weights.read_norm(f"{model}.{norm}"), weights[projection], facts["heads"], facts["activation"]
        )


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

    def __call__(self, hidden: Tensor, attend: Attend, before: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Embeddings (R, D) of rows (R, W), which are overwritten; `attend` lets rows of one image or text hear each other.

        Also what enters block `before` (R, W), where one is named: the residual stream, from which a trainer can go on.
        """
        count, width = hidden.shape
        hidden = self.pad_rows(hidden)
        size = self.rows or count
        query, memory = torch.empty_like(hidden), hidden.new_empty(len(hidden), 2 * width)
        parts = hidden.split(size)
        entering = None
        for number, layer in enumerate(self.layers):
            if number == before:
                entering = hidden[:count].clone()  # the rows are overwritten by what follows
            for part, own, others in zip(parts, query.split(size), memory.split(size)):
                three = layer["three"](layer["norm1"](part))
                own.copy_(three[:, :width])
                others.copy_(three[:, width:])
            heard = self.pad_rows(attend(query[:count], memory[:count]))
            for part, more in zip(parts, heard.split(size)):
                part += layer["out"](more)
                part += layer["down"](self.activate(layer["up"](layer["norm2"](part))))
        return torch.cat([self.project(self.norm(part)) for part in parts])[:count], entering

    def pad_rows(self, part: Tensor) -> Tensor:
        """Rows of zeros behind, up to a whole number of chunks."""
        short = -len(part) % (self.rows or 1)
        return torch.cat([part, part.new_zeros(short, part.shape[1])]) if short else part
