"""AdamW with parameter groups, the learning-rate schedule, and which parameters a phase moves."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from train.method import Config, Method


def parameter_groups(
    modules: dict[str, nn.Module], config: Config, learning_rate: float, learning_rates: dict[str, float] | None = None
) -> list[dict]:
    """Optimizer groups: matrices decay; biases, norms and identity-started matrices do not; scalars have a rate of their own.

    `learning_rates`: of modules that learn at another rate than the rest.
    """
    own = {name: (learning_rates or {}).get(name, learning_rate) for name in modules}
    groups: list[dict] = []
    for rate in sorted(set(own.values()), reverse=True):
        kinds: dict[str, list[nn.Parameter]] = {"matrix": [], "plain": [], "scalar": []}
        for parameter, decays in iterate_parameters({name: modules[name] for name in modules if own[name] == rate}):
            kinds[parameter_kind(parameter, decays)].append(parameter)
        settings = {
            "matrix": (rate, config.weight_decay),
            "plain": (rate, 0.0),
            "scalar": (config.scalar_learning_rate, 0.0),
        }
        groups += [
            {
                "params": found,
                "lr": settings[which][0],
                "base_lr": settings[which][0],
                "weight_decay": settings[which][1],
            }
            for which, found in kinds.items()
            if found
        ]
    return groups


def iterate_parameters(modules: dict[str, nn.Module]) -> Iterator[tuple[nn.Parameter, bool]]:
    """Every parameter of some modules once, and whether its layer lets it decay (`undecayed` names those that must not)."""
    seen: set[int] = set()
    for module in modules.values():
        for layer in module.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter, name not in getattr(layer, "undecayed", ())


def parameter_kind(parameter: nn.Parameter, decays: bool) -> str:
    """Which optimizer group a parameter belongs to: scalar, plain or matrix."""
    if parameter.ndim == 0:
        return "scalar"
    return "matrix" if parameter.ndim > 1 and decays else "plain"


class AdamW:
    """AdamW over groups of parameters; torch's own class takes seconds to import what it needs to be compiled."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-6):
        self.param_groups, self.betas, self.eps = groups, betas, eps
        for group in groups:
            group["mean"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["square"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["steps"] = [torch.zeros((), device=parameter.device) for parameter in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, in one pass over its memory."""
        for group in self.param_groups:
            rows = zip(group["params"], group["mean"], group["square"], group["steps"])
            found = [(row[0], row[0].grad, *row[1:]) for row in rows if row[0].grad is not None]
            if not found:
                continue
            parameter, grad, mean, square, steps = map(list, zip(*found))
            # the kernel of torch.optim.AdamW(fused=True), called directly
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameter, grad, mean, square, [], steps, lr=group["lr"], beta1=self.betas[0], beta2=self.betas[1],
                weight_decay=group["weight_decay"], eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> list[dict[str, list[Tensor]]]:
        """What a resume needs; learning rates follow from the step."""
        return [{name: group[name] for name in ("mean", "square", "steps")} for group in self.param_groups]

    def load_state_dict(self, state: list[dict[str, list[Tensor]]]) -> None:
        """Take up a state."""
        for group, saved in zip(self.param_groups, state, strict=True):
            for name, tensors in saved.items():
                torch._foreach_copy_(group[name], tensors)


def schedule(done: int, total: int, warmup: float) -> float:
    """Share of the full learning rate at a step: a linear rise, then a cosine to 0."""
    rise = max(1, round(total * warmup))
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1, total - rise)))


def freeze_except(model: Method, modules: dict[str, nn.Module]) -> None:
    """Let exactly these modules learn."""
    model.requires_grad_(False)
    for module in modules.values():
        module.requires_grad_(True)
