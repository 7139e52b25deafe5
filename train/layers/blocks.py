"""Cut ragged token sets into blocks of similar length, so that little padding is multiplied."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 18  # token similarities worked on together on a CPU: 1 MB, so that a few such tensors stay in cache
LARGE_BLOCK = 1 << 27  # the same on a GPU


def on_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is where looking at its values costs nothing; tests answer for it to take a GPU's branches."""
    return tensor.device.type == "cpu"


def axis_chunks(hidden: Tensor) -> list[slice]:
    """Cut the first axis so that a chunk fits a CPU's cache; whole on a GPU."""
    limit = BLOCK if on_cpu(hidden) else LARGE_BLOCK
    step = max(1, limit // hidden[0].numel())
    return [slice(at, at + step) for at in range(0, len(hidden), step)]


def drop_full_mask(mask: Tensor) -> Tensor | None:
    """None for an all-true mask, which saves the masking; checked on a CPU only: on a GPU the check would synchronise."""
    return None if on_cpu(mask) and bool(mask.all()) else mask


def length_blocks(mask: Tensor, width: int) -> list[tuple[Tensor, int, bool]]:
    """Blocks of texts of similar length: (rows, longest length, whether all are that long).

    On a GPU in training it is one padded block: reading the lengths would force a device sync in every step.
    """
    texts, longest = mask.shape
    if not on_cpu(mask) and torch.is_grad_enabled():
        return [(torch.arange(texts, device=mask.device), longest, False)]
    lengths = mask.sum(1).clamp(min=1)
    sorted_lengths, order = lengths.sort(stable=True)
    limit = BLOCK if on_cpu(mask) else LARGE_BLOCK
    return [
        (order[first:last], length, even)
        for first, last, length, even in split_blocks(sorted_lengths.tolist(), max(1, limit // width))
    ]


def split_blocks(lengths: list[int], limit: int) -> Iterator[tuple[int, int, int, bool]]:
    """Cut rising lengths into blocks of at most `limit` padded tokens, at least one text each."""
    first = 0
    for last in range(1, len(lengths) + 1):
        if last == len(lengths) or (last + 1 - first) * lengths[last] > limit:
            yield first, last, lengths[last - 1], lengths[first] == lengths[last - 1]
            first = last
