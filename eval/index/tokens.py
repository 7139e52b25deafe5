"""Encoded items in few bytes: token sets in 8 bits with a scale a token, single vectors in float16, masks as bytes."""

# Axes: G items, K tokens of an item, D embedding.

import torch
from torch import Tensor

BUDGET = 48 << 10  # bytes of one item's tokens, at most
SCALE = ".scale"  # of a token set, beside it


def pack(features: dict[str, Tensor], budget: int = BUDGET) -> dict[str, Tensor]:
    """Encoded items as they are kept. Where one takes more than `budget` bytes, its largest set keeps the most telling tokens."""
    features = within(features, budget)
    made: dict[str, Tensor] = {}
    for name, tensor in features.items():
        if tensor.dtype == torch.bool:
            made[name] = tensor.to(torch.uint8)
        elif tensor.ndim == 3:
            largest = tensor.float().abs().amax(2).clamp(min=1e-8)
            made[name] = (tensor.float() * (127 / largest[..., None])).round().to(torch.int8)
            made[name + SCALE] = (largest / 127).half()
        else:
            made[name] = tensor.half()
    return {name: tensor.cpu().contiguous() for name, tensor in made.items()}


def unpack(kept: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Items as the method's scores take them: float32 and bool."""
    made = {}
    for name, tensor in kept.items():
        if tensor.dtype == torch.uint8:
            made[name] = tensor.to(device).bool()
        elif tensor.dtype == torch.int8:
            made[name] = tensor.to(device).float().mul_(kept[name + SCALE].to(device).float()[..., None])
        elif not name.endswith(SCALE):
            made[name] = tensor.to(device).float()
    return made


def bytes_per_item(features: dict[str, Tensor]) -> int:
    """What `pack` makes of one item, without cutting."""
    sizes = [
        tensor[0].numel() * (1 if tensor.dtype == torch.bool or tensor.ndim == 3 else 2)
        + (2 * tensor.shape[1] if tensor.ndim == 3 and tensor.is_floating_point() else 0)
        for tensor in features.values()
    ]
    return sum(sizes)


def within(features: dict[str, Tensor], budget: int) -> dict[str, Tensor]:
    """The features, or with a smaller largest token set: of tokens that lie farthest from each other, in their own order."""
    most = bytes_per_item(features)
    if most <= budget:
        return features
    name = max((one for one in features if features[one].ndim == 3), key=lambda one: features[one][0].numel())
    token, mask = features[name], features.get(f"{name}_mask")
    each = token.shape[2] + 2 + (mask is not None)
    count = token.shape[1] - -(-(most - budget) // each)
    if count < 1:
        raise ValueError(f"an item takes {most} bytes without its {name}, more than the {budget} that it may have")
    valid = torch.ones(token.shape[:2], dtype=torch.bool, device=token.device) if mask is None else mask
    chosen = farthest(token, valid, count)
    made = dict(features) | {name: token.gather(1, chosen[..., None].expand(-1, -1, token.shape[2]))}
    if mask is not None:
        made[f"{name}_mask"] = mask.gather(1, chosen)
    return made


def farthest(token: Tensor, mask: Tensor, count: int) -> Tensor:
    """(G, count) places of tokens, each the farthest from those before it, valid ones first; in the order of their places."""
    unit = torch.nn.functional.normalize(token.float(), dim=-1)
    near = torch.full(token.shape[:2], -2.0, device=token.device).masked_fill(~mask, 2.0)  # cosine with what is chosen
    chosen = []
    for _ in range(count):
        place = near.argmin(1)
        chosen.append(place)
        own = unit.gather(1, place[:, None, None].expand(-1, 1, unit.shape[2]))
        near = torch.maximum(near, (unit * own).sum(-1))
        near.scatter_(1, place[:, None], 3.0)  # never twice
    return torch.stack(chosen, 1).sort(1).values
