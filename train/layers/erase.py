"""Take out of vectors all that linearly tells of something else (LEACE, Belrose et al. 2023), from their moments alone."""

# Axes: S samples, D embedding, Z what must not be told.

import torch
from torch import Tensor, nn

FLOOR = 1e-6  # of the largest variance: directions of less are taken to have as much
TOLD = 0.2  # a whitened direction along which less than so many deviations of it are told is left alone


class Moments:
    """Sums over samples that come a block at a time, in float64."""

    def __init__(self, dimension: int, told: int):
        self.count = 0
        self.vector, self.told = torch.zeros(dimension).double(), torch.zeros(told).double()
        self.square, self.cross = torch.zeros(dimension, dimension).double(), torch.zeros(dimension, told).double()

    def add(self, vector: Tensor, told: Tensor) -> None:
        """Some samples: (S, D) and (S, Z) of zeros and ones."""
        vector, told = vector.double(), told.double()
        self.count += len(vector)
        self.vector += vector.sum(0)
        self.told += told.sum(0)
        self.square += vector.T @ vector
        self.cross += vector.T @ told

    def eraser(self) -> tuple[Tensor, Tensor]:
        """(D, D) and (D,): `mean + (vector - mean) @ matrix.T` tells nothing any more, and is otherwise as near as can be."""
        matrix = torch.eye(len(self.vector))
        if not self.count:
            return matrix, torch.zeros(len(self.vector))
        mean, share = self.vector / self.count, self.told / self.count
        covariance = self.square / self.count - torch.outer(mean, mean)
        deviation = (share * (1 - share)).sqrt().clamp(min=1e-9)
        cross = (self.cross / self.count - torch.outer(mean, share)) / deviation
        variance, axis = torch.linalg.eigh(covariance)
        deviations = variance.clamp(min=FLOOR * float(variance[-1]) + 1e-30).sqrt()
        whiten, back = (axis / deviations) @ axis.T, (axis * deviations) @ axis.T
        direction, strength, _ = torch.linalg.svd(whiten @ cross, full_matrices=False)
        direction = direction[:, strength > TOLD]
        return (matrix.double() - back @ direction @ direction.T @ whiten).float(), mean.float()


class Eraser(nn.Module):
    """What is left of vectors, and what was taken out of them; until `set`, each is a half. Nothing here learns."""

    def __init__(self, dimension: int):
        super().__init__()
        self.register_buffer("matrix", torch.eye(dimension) / 2)
        self.register_buffer("mean", torch.zeros(dimension))

    def set(self, moments: Moments) -> None:
        """Erase by these moments."""
        for own, value in zip((self.matrix, self.mean), moments.eraser()):
            own.copy_(value)

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Two tensors like (..., D), whose sum is the vector."""
        left = self.mean + (vector - self.mean) @ self.matrix.T
        return left, vector - left
