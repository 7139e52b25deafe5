"""The parts that methods are built of: temporal encoder, patch selector, interactive similarity, small MLPs."""

# Axes: B batch, T texts, V videos, L tokens of a text (words or triplets), K tokens of a video (frames or patches),
# N frames, P patches of a frame, k chosen patches, R rows of packed text tokens, S samples, D embedding.

import torch
from torch import Tensor, nn

from train.layers.blocks import drop_full_mask, length_blocks
from train.layers.isa import BiISA
from train.layers.precision import full_precision

# Fewer video tokens than this are laid out as columns: a softmax over few neighbouring numbers is slow, over columns it is not.
NARROW = 48
PAIRS_AT_ONCE = 1 << 25  # padded token similarities held at once when no gradient is wanted


class TokenSimilarity(nn.Module):
    """Scores of all texts against all videos from their tokens, padding words left out of the products.

    Texts are sorted by length and taken in blocks of about equal length that fit a cache; the values are those of the whole
    padded tensor. A text's valid tokens come first.
    """

    def __init__(self, text: int, video: int, of_text: tuple[float, float], of_video: tuple[float, float]):
        super().__init__()
        self.interact = BiISA(text, video, of_text, of_video)

    @full_precision
    def forward(self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor) -> Tensor:
        """(T, L, D) and (V, K, D) tokens with their masks -> (T, V)."""
        if torch.is_grad_enabled():
            return self.block(text, text_mask, video, video_mask)
        some = max(1, PAIRS_AT_ONCE // max(1, text_mask.numel() * video.shape[1]))
        parts = zip(video.split(some), video_mask.split(some))
        return torch.cat([self.block(text, text_mask, part, mask) for part, mask in parts], 1)

    def block(self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor) -> Tensor:
        """The same, all similarities held at once."""
        videos, tokens, _ = video.shape
        video_mask = drop_full_mask(video_mask)
        axis = 2 if tokens < NARROW else 3
        if axis == 2:  # the token axis before the videos
            video, video_mask = video.transpose(0, 1), None if video_mask is None else video_mask.T  # (K, V, D), (K, V)
        blocks = length_blocks(text_mask, videos * tokens)
        place = torch.arange(text.shape[1], device=text.device)
        index = [(rows[:, None] * text.shape[1] + place[:length]).flatten() for rows, length, _ in blocks]
        packed = text.flatten(0, 1).index_select(0, torch.cat(index))
        similarity = packed @ video.flatten(0, 1).T  # (R, KV), one product for all blocks
        scores = []  # each (texts of the block, V)
        for (rows, length, even), part in zip(blocks, similarity.split([len(rows) for rows in index])):
            mask = None if even else text_mask[rows, :length]
            scores.append(self.interact(part.view(len(rows), length, *video.shape[:2]), mask, video_mask, axis))
        # back from the order of lengths to the caller's
        order = torch.cat([rows for rows, _, _ in blocks])
        return torch.cat(scores)[order.argsort()]
