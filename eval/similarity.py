"""Score every caption of a split against every video and every image: whole matrices, made in bounded blocks.

An item is what the manifest lists: a video is in both galleries (its image is the keyframe), a photo only in the second.
"""

# Axes: T texts (captions), V videos, I images.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.centre import Means, remove_means
from eval.metrics import top
from eval.vectors import dot, encode_vectors, mean_active
from pipeline.files import read_table
from pipeline.progress import Progress
from train import distributed
from train.layers import full_precision
from train.method import encode

ROWS = 64  # items or captions encoded at a time
HELD = 1 << 30  # bytes of encoded videos or images held while all texts pass by
SPARSE = 0.2  # share of a block's pairs from which on it is scored whole
MARGIN = 1e-3  # between scores that were ranked again and all others
PAIRS = 1 << 25  # float32 token similarities alive at once in one block (128 MB)


@dataclass
class Scores:
    """What one method says about one split."""

    caption_id: NDArray  # (T,) str
    owner: NDArray  # (T,) str, the id of the caption's item
    video_id: NDArray  # (V,) str
    image_id: NDArray  # (I,) str
    video: NDArray  # (T, V) float32
    image: NDArray  # (T, I) float32
    group: dict[str, str]  # item id -> its group of look-alikes, where it has one
    group_kind: dict[str, str] = field(
        default_factory=dict
    )  # item id -> what its look-alikes differ in, where that is known
    back: dict[str, NDArray] = field(
        default_factory=dict
    )  # of a kind: scores by which items find texts, where these are others
    parts: dict[str, dict[str, NDArray]] = field(default_factory=dict)  # of a sum: each part's scores, by kind
    fused: dict[str, NDArray] = field(
        default_factory=dict
    )  # of videos: each part whose weight was chosen after training
    active: dict[str, float] = field(default_factory=dict)  # of sparse vectors: mean count of numbers that are not 0

    def truth(self, kind: str) -> NDArray:
        """(T,) index of each caption's item in the gallery of `kind` (video or image), -1 where it is not there."""
        place = {item: index for index, item in enumerate(self.gallery(kind))}
        return np.array([place.get(item, -1) for item in self.owner], dtype=np.int64)

    def gallery(self, kind: str) -> NDArray:
        """Ids of the gallery of `kind`."""
        return self.video_id if kind == "video" else self.image_id

    def groups(self, kind: str) -> NDArray:
        """(V,) or (I,) number of each gallery item's group, -1 where it has none."""
        number = {name: index for index, name in enumerate(sorted(set(self.group.values())))}
        return np.array([number.get(self.group.get(item), -1) for item in self.gallery(kind)], dtype=np.int64)

    def group_kinds(self, kind: str) -> NDArray:
        """(V,) or (I,) what each gallery item's look-alikes differ in, "" where nobody says."""
        return np.array([self.group_kind.get(item, "") for item in self.gallery(kind)], dtype=object)


@dataclass(frozen=True)
class Scorer:
    """A trained method over one cache on one device: rows are read, encoded and scored, in float32."""

    method: Any
    cache: Any
    device: str = "cpu"
    coarse: bool = False  # videos by the score that recalls them, of a method that has one
    means: Means = field(default_factory=dict)  # what is taken off encoded vectors, by kind of row

    def encode(self, rows: NDArray, kind: str) -> dict[str, torch.Tensor]:
        """Rows of the cache, read and encoded as `kind`: text, video or image."""
        made = encode(self.method, self.cache, rows, kind, self.device)
        return remove_means(made, self.means[kind]) if kind in self.means else made

    def score(
        self, text: dict[str, torch.Tensor], block: dict[str, torch.Tensor], kind: str, names: Sequence[str] = ()
    ) -> NDArray:
        """(texts, items) scores of two encoded batches, a few items at a time where their tokens would fill the memory.

        names: of the parts that a fused score has; they come as (parts, texts, items) instead.
        """
        step = max(1, PAIRS // (row_count(text) * tokens(text) * tokens(block)))
        parts = []
        for at in range(0, row_count(block), step):
            some = {name: tensor[at : at + step] for name, tensor in block.items()}
            name = "score_coarse" if self.coarse and kind == "video" else f"score_{kind}s"
            if names:
                found = full_precision(self.method.score_parts)(text, some, kind)
                made = torch.stack([found[part] for part in names]).float().cpu().numpy()
            else:
                made = full_precision(getattr(self.method, name))(text, some).float().cpu().numpy()
            if made.shape[-2:] != (row_count(text), row_count(some)):
                raise ValueError(f"{name}: expected {(row_count(text), row_count(some))}, got {made.shape}")
            parts.append(made)
        return np.concatenate(parts, axis=-1)

    def matrix(self, captions: NDArray, items: NDArray, kind: str) -> NDArray:
        """(captions, items) float32 scores of one kind."""
        return self.stack(captions, items, kind)[0]

    def parts(self, captions: NDArray, items: NDArray, kind: str) -> dict[str, NDArray]:
        """(captions, items) float32 scores of each part of a fused score."""
        names = self.method.fused(kind)
        return dict(zip(names, self.stack(captions, items, kind, names)))

    def stack(self, captions: NDArray, items: NDArray, kind: str, names: Sequence[str] = ()) -> list[NDArray]:
        """(captions, items) float32 scores of one kind: whole, or of each part that is named.

        Encoded items are held up to HELD bytes; the texts stream past each such group, so memory is bounded on both sides. Of
        several processes each scores some blocks of items; the blocks are those of one process, and so are the bits.
        """
        scores = np.full((len(names) or 1, len(captions), len(items)), np.nan, np.float32)
        own = distributed.own_blocks(len(items), ROWS)
        meter = Progress(sum(last - first for first, last in own) * len(captions), f"text-{kind} scores", "pair")
        blocks, place = (self.encode(items[first:last], kind) for first, last in own), iter(own)
        for group in batch_by_bytes(blocks, HELD):
            columns = [next(place) for _ in group]
            for at in range(0, len(captions), ROWS):
                text = self.encode(captions[at : at + ROWS], "text")
                for block, (first, last) in zip(group, columns):
                    scores[:, at : at + row_count(text), first:last] = self.score(text, block, kind, names)
                    if distributed.is_first():
                        meter.add(row_count(text) * (last - first))
        meter.close()
        return [distributed.join_blocks(torch.from_numpy(one), ROWS).numpy() for one in scores]

    def recalled(self, captions: NDArray, items: NDArray) -> tuple[NDArray, NDArray]:
        """(captions, items) video scores of a method that recalls by one score and ranks the best again by another.

        The first for texts that look for videos, the best of each text ranked again; the second for videos that look for texts,
        the best of each video.
        """
        count = self.method.recalled()
        coarse = replace(self, coarse=True).matrix(captions, items, "video")
        by_text, by_video = best_of_rows(coarse, count), best_of_rows(coarse.T, count).T
        fine = self.pairs(captions, items, by_text | by_video)
        return put_first(coarse, fine, by_text), put_first(coarse, fine, by_video)

    def pairs(self, captions: NDArray, items: NDArray, wanted: NDArray) -> NDArray:
        """(captions, items) video scores of the pairs that are wanted, NaN elsewhere; blocks of many are scored whole."""
        fine = np.full(wanted.shape, np.nan, np.float32)
        own = distributed.own_blocks(len(items), ROWS)
        for first, last in own:
            block = self.encode(items[first:last], "video")
            for at in range(0, len(captions), ROWS):
                asked = wanted[at : at + ROWS, first:last]
                if not asked.any():
                    continue
                text = self.encode(captions[at : at + ROWS], "text")
                if asked.mean() > SPARSE:
                    fine[at : at + row_count(text), first:last] = self.score(text, block, "video")
                    continue
                for row in np.flatnonzero(asked.any(1)):
                    one = {name: tensor[row : row + 1] for name, tensor in text.items()}
                    columns = np.flatnonzero(asked[row])
                    some = {name: tensor[columns] for name, tensor in block.items()}
                    fine[at + row, first + columns] = self.score(one, some, "video")[0]
        fine = distributed.join_blocks(torch.from_numpy(fine), ROWS).numpy()
        return np.where(wanted, fine, np.nan)


def best_of_rows(scores: NDArray, count: int) -> NDArray:
    """(Q, G) bool: the `count` highest of each row, equal ones in the gallery's order."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, top(scores, count), True, axis=1)
    return chosen


def put_first(coarse: NDArray, fine: NDArray, chosen: NDArray) -> NDArray:
    """Fine scores where `chosen`; elsewhere coarse ones, brought down by one number until all lie below."""
    if chosen.all():
        return fine.astype(np.float32)
    gap = coarse[~chosen].max() - np.nanmin(fine[chosen])
    return np.where(chosen, fine, coarse - max(0.0, gap) - MARGIN).astype(np.float32)


@torch.inference_mode()
def matrices(method: Any, cache: Any, split: str, device: str = "cpu", means: Means | None = None) -> Scores:
    """Scores of all captions of `split` against all its videos and all its images; `means` are taken off the vectors before.

    Errors: ValueError where the split has no captions or no items, or the method gives a block of another shape.
    """
    captions, items = cache.captions(split), cache.videos(split)
    if not len(captions) or not len(items):
        raise ValueError(f"split {split!r} has {len(captions)} captions and {len(items)} items; nothing to score")
    photo, group = item_kinds(cache, items)
    videos = items[~photo]
    scorer = Scorer(method, cache, device, means=means or {})
    back, parts, active, fused = {}, {}, {}, {}
    if method.vectors:
        parts, active = add_vectors(scorer, captions, {"video": videos, "image": items})
        video, image = (sum(part[kind] for part in parts.values()) for kind in ("video", "image"))
    elif method.recalled():
        video, back["video"] = scorer.recalled(captions, videos)
    elif method.fused("video"):  # the whole is the parts' sum, so that rungs of fewer parts cost nothing
        fused = scorer.parts(captions, videos, "video")
        video = add_up(fused, method.weights())
    else:
        video = scorer.matrix(captions, videos, "video")
    if not method.vectors:
        image = scorer.matrix(captions, items, "image")
    return Scores(
        caption_id=names(cache.caption_id, captions),
        owner=names(cache.video_id, [cache.video_of[row] for row in captions]),
        video_id=names(cache.video_id, videos),
        image_id=names(cache.video_id, items),
        video=video,
        image=image,
        group=group,
        group_kind=group_kinds(cache, items),
        back=back,
        parts=parts,
        active=active,
        fused=fused,
    )


def add_up(parts: dict[str, NDArray], weights: dict[str, float]) -> NDArray:
    """(T, V) weighted sum of those parts that have a weight."""
    return sum(np.float32(weight) * parts[name] for name, weight in weights.items())


def add_vectors(
    scorer: Scorer, captions: NDArray, items: dict[str, NDArray]
) -> tuple[dict[str, dict[str, NDArray]], dict[str, float]]:
    """Scores of each vector of a method, by kind of item; mean active dimensions of the sparse ones. No process shares this."""
    text = encode_vectors(scorer, captions, "text", ROWS)
    parts: dict[str, dict[str, NDArray]] = {name: {} for name in scorer.method.vectors}
    active = {f"{name}_text": mean_active(text[name]) for name in sorted(scorer.method.sparse)}
    for kind, rows in items.items():
        found = encode_vectors(scorer, rows, kind, ROWS)
        for name, part in parts.items():
            part[kind] = dot(text[name], found[name]) if found else np.zeros((len(captions), 0), np.float32)
        active |= {f"{name}_{kind}": mean_active(found[name]) for name in sorted(scorer.method.sparse) if found}
    return parts, active


def names(ids: Any, rows: Any) -> NDArray:
    """Ids of rows as an array of str."""
    return np.array([str(ids[row]) for row in rows], dtype=object)


def item_kinds(cache: Any, items: NDArray) -> tuple[NDArray, dict[str, str]]:
    """Which items are photos (bool), and the group of each item that has one, from the manifest."""
    table = read_table(Path(cache.folder) / "manifest" / "items.parquet", ["video_id", "kind", "group"]).to_pydict()
    photos = {name for name, kind in zip(table["video_id"], table["kind"]) if kind == "image"}
    group = {name: group for name, group in zip(table["video_id"], table["group"]) if group is not None}
    listed = names(cache.video_id, items)
    return np.array([name in photos for name in listed], bool), {name: group[name] for name in listed if name in group}


def group_kinds(cache: Any, items: NDArray) -> dict[str, str]:
    """What the look-alikes of each item differ in, of those where the manifest says it."""
    table = read_table(Path(cache.folder) / "manifest" / "items.parquet").to_pydict()
    said = dict(
        zip(table["video_id"], table.get("group_kind", []))
    )  # a manifest of an earlier release has no such column
    return {name: said[name] for name in names(cache.video_id, items) if said.get(name)}


def batch_by_bytes(blocks: Iterator[dict[str, torch.Tensor]], limit: int) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Blocks in lists of at most `limit` bytes, at least one block each."""
    group, taken = [], 0
    for block in blocks:
        weight = sum(tensor.nbytes for tensor in block.values())
        if group and taken + weight > limit:
            yield group
            group, taken = [], 0
        group.append(block)
        taken += weight
    if group:
        yield group


def row_count(features: dict[str, torch.Tensor]) -> int:
    """Rows of a batch."""
    return len(next(iter(features.values())))


def tokens(features: dict[str, torch.Tensor]) -> int:
    """The most vectors that one row of a batch has: a pair of rows has the product of both as similarities."""
    return max([tensor.shape[1:-1].numel() for tensor in features.values() if tensor.is_floating_point()], default=1)
