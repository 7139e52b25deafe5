"""Which numbers are float32 whatever surrounds them: similarities, and all that reads them.

Cosines near 1 have steps of .004 in bfloat16, and a softmax at temperature .01 turns each step into a factor of 1.5. So encoders
may run in bfloat16 under autocast, but from unit vectors on, through similarities to scores and losses, all is float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: run without autocast, on float32 versions of the arguments that are half precision."""

    @functools.wraps(function)
    def exact(*args: Any, **named: Any) -> Any:
        with torch.autocast(_device(*args, *named.values()), enabled=False):
            return function(*map(widen, args), **{name: widen(value) for name, value in named.items()})

    return exact


def widen(value: Any) -> Any:
    """Half-precision tensors, also those in a dictionary, as float32; anything else as it is."""
    if isinstance(value, dict):
        return {name: widen(part) for name, part in value.items()}
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


def encoder_dtype(like: Tensor) -> torch.dtype:
    """The type in which an encoder computes here: autocast's where it is on, else that of `like`."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


def _device(*values: Any) -> str:
    """The kind of device of the first tensor found."""
    for value in values:
        for part in value.values() if isinstance(value, dict) else (value,):
            if isinstance(part, Tensor):
                return part.device.type
    raise TypeError("full_precision needs a tensor among the arguments, or in a dictionary there")
