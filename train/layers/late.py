"""Late interaction with nothing learned: each token of a text looks for its best match."""

# Axes: T texts, G videos or images, L tokens of a text, K tokens of a video or image, D embedding.

import torch
from torch import Tensor

from train.layers.precision import full_precision


@full_precision
def best_match_mean(text: Tensor, text_mask: Tensor, gallery: Tensor, gallery_mask: Tensor) -> Tensor:
    """(T, G) from unit tokens (T, L, D) and (G, K, D): the mean over a text's tokens of the best cosine.

    Padding of the text is left out of the product.
    """
    similarity = torch.einsum("wd,gkd->wgk", text[text_mask], gallery)
    best = similarity.masked_fill_(~gallery_mask, -torch.inf).amax(2)  # (tokens of all texts, G)
    total = best.new_zeros(len(text), best.shape[1]).index_add_(0, text_mask.nonzero()[:, 0], best)
    return total / text_mask.sum(1, keepdim=True).clamp(min=1)
