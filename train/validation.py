"""How well a split is retrieved after each epoch of training, so that a run can say where it stood and keep its best."""

# Axes: T texts, V videos or images.

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train import fusion
from train.data import Cache
from train.history import Recalls
from train.method import TASKS, Method

CUTS = (1, 5, 10)


@dataclass(frozen=True)
class Validation:
    """Recalls of one model on one split; parts whose weights are chosen after training are weighed as they would be now."""

    model: Method
    cache: Cache
    split: str
    device: torch.device

    @torch.no_grad()
    def __call__(self, tasks: tuple[str, ...]) -> Recalls:
        """{task: {R@1, R@5, R@10}} of texts that look for videos or images; nothing where there are fewer than two to find."""
        captions = fusion.some_captions(self.cache, self.split)
        items, own = np.unique(self.cache.video_of[captions], return_inverse=True)
        if len(items) < 2:
            return {}
        was, truth = self.model.training, torch.from_numpy(own)
        self.model.eval()
        texts = fusion.encode_texts(self.model, self.cache, captions, self.device)
        kinds = {task: kind for task, kind in zip(TASKS, fusion.KINDS) if task in tasks}
        found = {}
        for task, kind in kinds.items():
            parts = fusion.score_parts(self.model, self.cache, texts, items, kind, self.device)
            found[task] = recalls(fusion.join_parts(parts, fusion.weigh(parts, truth)), truth)
        self.model.train(was)
        return found


def recalls(scores: Tensor, truth: Tensor) -> dict[str, float]:
    """R@K in percent of (T, V) scores; equal scores rank at their expectation, as in the evaluation."""
    own = scores.gather(1, truth[:, None])
    rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return {f"R@{cut}": round(100 * (rank <= cut).double().mean().item(), 4) for cut in CUTS}
