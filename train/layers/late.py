"""Late interaction with nothing learned: each token of a text looks for its best match."""

# Axes: T texts, G videos or images, L tokens of a text, K tokens of a video or image, D embedding.

import torch
from torch import Tensor

from train.layers import blocks
from train.layers.precision import full_precision


@full_precision
def best_match_mean(
    text: Tensor, text_mask: Tensor, gallery: Tensor, gallery_mask: Tensor | None, weight: Tensor | None = None
) -> Tensor:
    """(T, G) from unit tokens (T, L, D) and (G, K, D): the mean over a text's tokens of the best cosine.

    `weight` (T, L), which sums to 1, makes it a weighted mean. Padding of the text is left out of the product; not so where a GPU
    trains, which would have to be waited for to know how much there is.
    """
    if not blocks.on_cpu(text_mask) and torch.is_grad_enabled():
        similarity = torch.einsum("tld,gkd->tlgk", text, gallery)
        if gallery_mask is not None:
            similarity = similarity.masked_fill(~gallery_mask, -torch.inf)
        share = text_mask / text_mask.sum(1, keepdim=True).clamp(min=1) if weight is None else weight * text_mask
        return torch.einsum(
            "tlg,tl->tg", similarity.amax(3).masked_fill(~text_mask[..., None], 0), share.to(text.dtype)
        )
    similarity = torch.einsum("wd,gkd->wgk", text[text_mask], gallery)
    gallery_mask = None if gallery_mask is None else blocks.drop_full_mask(gallery_mask)
    if gallery_mask is not None:
        similarity = similarity.masked_fill(~gallery_mask, -torch.inf)
    best = similarity.amax(2)  # (tokens of all texts, G)
    if weight is not None:
        best = best * weight[text_mask][:, None]
    total = best.new_zeros(len(text), best.shape[1]).index_add_(0, text_mask.nonzero()[:, 0], best)
    return total if weight is not None else total / text_mask.sum(1, keepdim=True).clamp(min=1)
