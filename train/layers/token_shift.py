"""Token shift (TS2-Net, Liu et al. 2022, 3.2): in a frame's attention some patches stand in for those of the frames beside it.

As in the published code (LiuRicky/ts2_net, modules/until_module.py, n_div=7): of T tokens, CLS first, every (T // 7)-th from 1 on
is taken from the frame before and every (T // 7)-th from 4 on from the frame behind; a frame that has no such neighbour keeps
its own. Absent frames lend nothing. The residual stream itself stays where it is.
"""

# Axes: B videos, N frames, T tokens of a frame (1 + P), W width.

import torch
from torch import Tensor

DIVISIONS = 7
BEFORE, BEHIND = 1, 4  # first token that comes from the frame before, and from the frame behind


def shift_tokens(token: Tensor, mask: Tensor) -> Tensor:
    """(B·N, T, W) tokens of the frames of B videos, some of them the neighbours'; (B, N) `mask` of the frames there are."""
    frame = token.unflatten(0, mask.shape)  # (B, N, T, W)
    step = max(1, frame.shape[2] // DIVISIONS)
    place = torch.arange(frame.shape[2], device=token.device)
    before, behind = ((place >= first) & ((place - first) % step == 0) for first in (BEFORE, BEHIND))
    followed = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)[..., None]  # (B, N, 1)
    led = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)[..., None]
    # where a small picture's places meet, the frame behind has the word, as there
    made = torch.where((led & before)[..., None], frame.roll(1, 1), frame)
    return torch.where((followed & behind)[..., None], frame.roll(-1, 1), made).flatten(0, 1)
