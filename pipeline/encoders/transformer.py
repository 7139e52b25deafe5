"""A frozen transformer over rows of tokens: weights are packed once, and rows go through a layer in chunks that fit the cache.

Every chunk has the same number of rows, the last one padded with zeros. A matrix product may round differently for another
number of rows, so this is what makes a row's result the same bytes whatever else is in the call.
"""

# Axes: R rows (tokens of all images or texts), W width, D embedding.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

QUICK_GELU = 1.702  # OpenAI's CLIP uses x * sigmoid(1.702 x), a cheap stand-in for gelu
ACTIVATIONS = {
    "quick_gelu": partial(F.silu, inplace=True),  # the factor 1.702 is in the weights, see Weights.read_layer
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
Attend = Callable[
    [Tensor, Tensor], Tensor
]  # query (R, W), key and value side by side (R, 2W) -> attended values (R, W)


class Linear:
    """A linear layer for inputs of exactly `rows` rows.

    On a CPU in fp32, MKL multiplies packed weights. Packing them here saves what it would otherwise do in every call: a tenth
    of the time at a few hundred rows. On other devices, and where `rows` is None, this is torch's own layer.
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
    """One tower's float32 tensors, by the names of a CLIPModel.

    `facts` is what clip.json says of the tower (heads, epsilon, activation); `place` moves a tensor to its device and type.
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
        """Weight and bias of several linear layers that read the same input, as those of one layer."""
        parts = ([self.tensors[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
        return [torch.cat(part) if len(names) > 1 else part[0] for part in parts]

    def read_layer(self, at: str) -> dict[str, Any]:
        """The parameters of one layer, its linear layers as (weight, bias) and its norms.

        x sigmoid(1.702 x) = silu(1.702 x) / 1.702. With both factors moved into the weights before and after it, the activation
        is one pass in place, where the formula as written takes three passes and two new tensors.
        """
        up, down = self.join_linear(f"{at}mlp.fc1"), self.join_linear(f"{at}mlp.fc2")
        if self.facts["activation"] == "quick_gelu":
            up, down = [part * QUICK_GELU for part in up], [down[0] / QUICK_GELU, down[1]]
        # query, key and value as one product: a larger matrix is multiplied faster than three small ones
        three = self.join_linear(*(f"{at}self_attn.{name}_proj" for name in "qkv"))
        linear = {"three": three, "out": self.join_linear(f"{at}self_attn.out_proj"), "up": up, "down": down}
        norms = {f"norm{number}": self.read_norm(f"{at}layer_norm{number}") for number in (1, 2)}
        return norms | {name: tuple(map(self.place, pair)) for name, pair in linear.items()}


@dataclass
class Parameters:
    """The weights of a tower's transformer: a dictionary a layer, then the last norm and the projection."""

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
        """Embeddings (R, D) of rows (R, W), which are overwritten, and what enters block `before`, (R, W), if one is named.

        Everything but attention works on single rows, so images and texts lie one after another without padding; only `attend`
        knows which rows belong together. What enters a block is the residual stream, from which a trainer can go on.
        """
        count, width = hidden.shape
        hidden = self.pad_rows(hidden)
        size = self.rows or count
        query, memory = torch.empty_like(hidden), hidden.new_empty(len(hidden), 2 * width)  # filled anew by every layer
        parts = hidden.split(size)
        entering = None
        for number, layer in enumerate(self.layers):
            if number == before:
                entering = hidden[:count].clone()  # the rows are overwritten by what follows
            # up to attention chunk by chunk, then all rows together, then chunk by chunk again: a chunk is still in the cache
            # when its next product needs it
            for part, own, others in zip(parts, query.split(size), memory.split(size)):
                three = layer["three"](layer["norm1"](part))  # (chunk, 3W)
                own.copy_(three[:, :width])
                others.copy_(three[:, width:])
            heard = self.pad_rows(attend(query[:count], memory[:count]))
            for part, more in zip(parts, heard.split(size)):
                part += layer["out"](more)  # a view of `hidden`: the residual stream is updated in place
                part += layer["down"](self.activate(layer["up"](layer["norm2"](part))))
        return torch.cat([self.project(self.norm(part)) for part in parts])[:count], entering

    def pad_rows(self, part: Tensor) -> Tensor:
        """The rows, followed by rows of zeros up to a whole number of chunks."""
        short = -len(part) % (self.rows or 1)
        return torch.cat([part, part.new_zeros(short, part.shape[1])]) if short else part
