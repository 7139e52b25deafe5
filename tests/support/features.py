"""Random features of a batch, ragged, with rubbish where the padding is: what tests of methods need in place of a cache."""

import torch

from train.method import Features, Method
from train.optimizer import AdamW, parameter_groups, schedule

SIZES = {"dimension": 16, "frames": 4, "words": 10, "triplets": 3, "patches": 5}
TOWER = {  # a tower of three blocks for such a batch
    "width": 8,
    "heads": 2,
    "layers": 3,
    "dimension": SIZES["dimension"],
    "epsilon": 1e-5,
    "activation": "quick_gelu",
    "hidden": 16,
    "tokens": 16,
    "vocabulary": 20,
}


def batch(count: int = 4, seed: int = 0, sizes: dict[str, int] = SIZES) -> Features:
    """`count` captions and their videos; caption i belongs to video i. Padding rows hold large numbers."""
    made = torch.Generator().manual_seed(seed)
    size = sizes["dimension"]

    def tokens(most: int, least: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = torch.randint(least, most + 1, (count,), generator=made)
        length[0] = most
        return torch.randn(count, most, size, generator=made), torch.arange(most) < length[:, None]

    word, word_mask = tokens(sizes["words"], 3)
    triplet, triplet_mask = tokens(sizes["triplets"], 1)
    frame, frame_mask = tokens(sizes["frames"], 1)
    patch = torch.randn(count, sizes["frames"], sizes["patches"], size, generator=made)
    for tensor, mask in ((word, word_mask), (triplet, triplet_mask), (frame, frame_mask), (patch, frame_mask)):
        tensor[~mask] = 50.0
    spans = {}
    for kind in ("noun", "verb"):
        left, left_mask = tokens(sizes["words"], 2)
        lost, lost_mask = tokens(3, 1)
        lost[2 % count, 0] = lost[0, 0]  # two captions have lost the same word
        for tensor, mask in ((left, left_mask), (lost, lost_mask)):
            mask[1:2] &= kind == "noun"  # and one has lost no verb
            tensor[~mask] = 50.0
        spans |= {f"without_{kind}": left, f"without_{kind}_mask": left_mask, kind: lost, f"{kind}_mask": lost_mask}
    hidden = torch.randn(count, sizes["frames"], 1 + sizes["patches"], TOWER["width"], generator=made)
    hidden[~frame_mask] = 50.0
    phrase = torch.randint(TOWER["vocabulary"], (count, sizes["triplets"], 6), generator=made, dtype=torch.int32)
    spoken = torch.arange(6) < torch.randint(2, 7, phrase.shape[:2], generator=made)[..., None]
    return (
        spans
        | {
            "hidden": hidden,
            "image_hidden": hidden[:, 0],
            "token": torch.randint(TOWER["vocabulary"], word.shape[:2], generator=made, dtype=torch.int32),
            "triplet_token": phrase.masked_fill(~spoken, -1),
            "sentence": word[torch.arange(count), word_mask.sum(1) - 1],
            "word": word,
            "word_mask": word_mask,
            "triplet": triplet,
            "triplet_mask": triplet_mask,
            "frame": frame,
            "frame_mask": frame_mask,
            "patch": patch,
            "image": frame[:, 0],
            "image_patch": patch[:, 0],
            "label": torch.arange(count),
        }
        | pieces(count, sizes["words"], made)
    )


def pieces(count: int, most: int, made: torch.Generator) -> Features:
    """Ids of a lexicon of 40 words, of which the first five are special ones, and their mask; any id stands in the padding."""
    length = torch.randint(3, most + 1, (count,), generator=made)
    length[0] = most
    piece = torch.randint(5, 40, (count, most), generator=made, dtype=torch.int32)
    piece[:, 0], piece[torch.arange(count), length - 1] = 2, 3
    return {"piece": piece, "piece_mask": torch.arange(most) < length[:, None]}


def widened(features: Features, axis_of: str, more: int) -> Features:
    """The same batch with `more` padding rows, full of rubbish, on words, triplets, frames or pieces."""
    wide = dict(features)
    for name in along(axis_of):
        tensor = features[name]
        extra = torch.full(
            (len(tensor), more, *tensor.shape[2:]), 0 if tensor.dtype == torch.bool else 7, dtype=tensor.dtype
        )
        wide[name] = torch.cat([tensor, extra], 1)
    return wide


def along(axis_of: str) -> list[str]:
    """The features that have an axis of words, triplets or frames."""
    more = {"frame": ["patch", "hidden"], "word": ["token"], "triplet": ["triplet_token"]}.get(axis_of, [])
    return [axis_of, f"{axis_of}_mask", *more]


def train(method: Method, phase_index: int, features: Features, steps: int, seed: int = 0) -> None:
    """Train one phase on one batch, as the trainer does."""
    torch.manual_seed(seed)
    phase = method.phases()[phase_index]
    modules = method.learned(phase)
    optimizer = AdamW(parameter_groups(modules, method.config, phase.learning_rate, phase.learning_rates))
    method.requires_grad_(False)
    for module in modules.values():
        module.requires_grad_(True)
    method.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(step, steps, 0.1)
        optimizer.zero_grad()
        sum(phase.loss(features, step / steps).values()).backward()
        optimizer.step()
    method.eval()
