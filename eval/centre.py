"""Mean removal (GR-CLIP, arXiv 2507.19054): from each vector of a modality its mean over train data, then length 1 again.

Texts, videos and images lie in cones of their own; without the cones' axes their cosines are meant to share one scale. Of a
method with several kinds of vectors (frames, patches, words ...) each kind has a mean of its own.
"""

# Axes: B rows, D embedding.

from typing import Any

import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROWS = 64  # encoded at a time

Means = dict[str, dict[str, Tensor]]  # by modality, by the name of the vectors: (D,)


def find_means(scorer: Any, captions: NDArray, items: NDArray) -> Means:
    """The mean (D,) of every kind of vector that a scorer encodes, over these captions and items; padding left out."""
    size = scorer.method.config.dimension
    found: Means = {}
    for modality, rows in (("text", captions), ("video", items), ("image", items)):
        total: dict[str, Tensor] = {}
        count: dict[str, float] = {}
        for at in range(0, len(rows), ROWS):
            features = scorer.encode(rows[at : at + ROWS], modality)
            for name in vectors_of(features, size):
                vector, mask = features[name].double(), features.get(f"{name}_mask")
                kept = vector[mask] if mask is not None else vector.flatten(0, -2)
                total[name] = total.get(name, 0) + kept.sum(0)
                count[name] = count.get(name, 0) + len(kept)
        found[modality] = {name: (total[name] / max(count[name], 1)).float() for name in total}
    return found


def vectors_of(features: dict[str, Tensor], size: int) -> list[str]:
    """Names of the features that are vectors of the embedding's width."""
    return [
        name for name, one in features.items() if one.is_floating_point() and one.ndim > 1 and one.shape[-1] == size
    ]


def remove_means(features: dict[str, Tensor], means: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encoded features without the means that stand for them, of length 1."""
    return features | {name: F.normalize(features[name] - mean, dim=-1) for name, mean in means.items()}
