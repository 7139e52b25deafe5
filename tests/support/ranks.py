"""What every process of a distributed test computes: one step's gradients of each method, on its part of one batch."""

import sys
from pathlib import Path

import torch

from tests.support.features import SIZES, TOWER, batch
from train import distributed, methods
from train.method import Features

SAMPLES = 7  # shared by 2 as 3 and 4, by 3 as 2, 2 and 3
SETTINGS = {"tune": "", "samples": 6}


def cases() -> list[tuple[str, dict]]:
    """Every method in each of its variants, and two that own CLIP's blocks."""
    found = [(name, variant) for name in methods.names() for variant in [{}, *methods.load(name).Config.variants()]]
    tail = {kind: {"shape": TOWER, "most": TOWER["layers"]} for kind in ("image", "text")}
    return [*found, *((name, {"tune": "true", "tail": tail}) for name in ("clip4clip", "unitrim"))]


def whole_batch() -> Features:
    """A batch in which two texts show the same video, in float64: what is left of a difference is no rounding."""
    features = batch(SAMPLES)
    features["label"] = torch.tensor([0, 1, 2, 1, 4, 5, 6])
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in features.items()}


def part_of(features: Features, share: distributed.Share) -> Features:
    """What the loader gives one process: its videos and images, all texts and labels."""
    shared = ("frame", "frame_mask", "patch", "image", "image_patch", "hidden", "image_hidden")
    own = slice(*share.bounds())
    return {name: tensor[own] if name in shared else tensor for name, tensor in features.items()}


def gradients(name: str, variant: dict) -> dict[str, dict[str, torch.Tensor]]:
    """Of each phase: the gradient of every parameter after one step's loss, and the loss."""
    config = SIZES | methods.load(name).Config.small() | variant
    torch.manual_seed(3)
    method = methods.build(name, config).double().train()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # no identity by chance
        for buffer in (buffer for path, buffer in method.named_buffers() if path.startswith("towers.text.")):
            buffer.normal_()
    found = {}
    share = distributed.Share(SAMPLES, distributed.rank(), distributed.world())
    for phase in method.phases():
        torch.manual_seed(11)
        method.zero_grad()
        modules = method.learned(phase)
        with distributed.sharing(SAMPLES):
            loss = sum(phase.loss(part_of(whole_batch(), share), 0.5).values())
            (loss / distributed.world()).backward()
        parameters = {key: parameter for key, parameter in method.named_parameters() if parameter.grad is not None}
        distributed.sum_gradients(parameters.values())
        grads = {key: parameter.grad.clone() for key, parameter in parameters.items()}
        found[phase.name] = grads | {"loss": loss.detach()}
        assert modules
    return found


def main() -> None:
    with distributed.group():
        made = {f"{name} {variant}": gradients(name, variant) for name, variant in cases()}
        torch.save(made, Path(sys.argv[1]) / f"{distributed.rank()}.pt")


if __name__ == "__main__":
    main()
