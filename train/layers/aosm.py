"""Attention over a similarity matrix (AOSM, X-CLIP 3.4): similarities weigh themselves by one sharp softmax."""

# Axes: T texts, V videos, L words, N frames.

import torch
from torch import Tensor, nn

from train.layers.isa import matmul_axis, matrix_for
from train.layers.pooling import mask_out
from train.layers.precision import full_precision


class AOSM(nn.Module):
    """Σ c · W softmax(c / temperature) over one axis, W a square learned matrix that starts as the identity.

    The paper's equation has no W, its code has (xuguohai/X-CLIP, modules/modeling_xclip.py).
    """

    undecayed = ("mix",)  # weight decay would pull it from the identity to zero

    def __init__(self, size: int, temperature: float = 0.01):
        super().__init__()
        self.temperature = temperature
        self.mix = nn.Parameter(torch.eye(size))

    @full_precision
    def forward(self, similarity: Tensor, mask: Tensor | None, axis: int) -> Tensor:
        """Reduce `axis`; `mask` is broadcast to the similarities (None: all valid). What is masked has no say."""
        axis = axis % similarity.ndim
        mix = matrix_for(self.mix, similarity.shape[axis])
        weight = mask_out(similarity / self.temperature, mask).softmax(axis)
        # the published code multiplies from the right: token j receives Σ_i weight_i W_ij
        weight = matmul_axis(mix.T, weight, axis)
        product = similarity * weight
        return (product if mask is None else product.masked_fill(~mask, 0)).sum(axis)


class CrossAOSM(nn.Module):
    """Words against frames: over words then frames, over frames then words; the two are averaged (X-CLIP, eq. 9 to 13)."""

    def __init__(self, words: int, frames: int, temperature: float = 0.01):
        super().__init__()
        self.word, self.word_last = AOSM(words, temperature), AOSM(words, temperature)
        self.frame, self.frame_last = AOSM(frames, temperature), AOSM(frames, temperature)

    def forward(self, similarity: Tensor, word_mask: Tensor | None, frame_mask: Tensor | None) -> Tensor:
        """(T, L, V, N) similarities -> (T, V)."""
        words = None if word_mask is None else word_mask[:, :, None]  # (T, L, 1)
        by_word = self.word(similarity, None if words is None else words[..., None], 1)  # (T, V, N)
        by_frame = self.frame(similarity, frame_mask, 3)  # (T, L, V)
        return (self.frame_last(by_word, frame_mask, 2) + self.word_last(by_frame, words, 1)) / 2
