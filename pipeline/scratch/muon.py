"""Muon: momentum whose steps are orthogonal matrices."""

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal (Keller Jordan, 2024), as torch.optim.Muon but in float32 and equal shapes at once.

    torch's turns matrices into bfloat16, which a CPU without it does at a quarter of the speed.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix; those of one shape are made orthogonal together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in (held for held in group["params"] if held.grad is not None):
                shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                for matrix in matrices:
                    held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    held.lerp_(matrix.grad, 1 - group["momentum"])
                    matrix.grad.lerp_(held, group["momentum"])  # Nesterov
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                steps = orthogonal(torch.stack([matrix.grad for matrix in matrices]))
                size = max(1, matrices[0].shape[0] / matrices[0].shape[1]) ** 0.5
                for matrix, step in zip(matrices, steps):
                    matrix.add_(step, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly: five Newton-Schulz steps on a stack of matrices."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x
