"""Shards as batches: what a step needs, read ahead of the step into reused memory, in an order that needs no memory."""

# Axes: B batch, N frames, P patches, L words, M triplets, D embedding.

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch

from pipeline import shards
from pipeline.shards import Shard, ShardError
from train.columns import READERS, Column, Memory, Picks, Spans, collect

Features = dict[str, torch.Tensor]

TEXT = ("sentence", "word", "triplet")
VIDEO = ("frame", "patch")
IMAGE = ("image",)
KEPT = 1 << 30  # bytes that may stay in memory, or a sixteenth of it: small rows cost more in calls than in bytes
SINGLE = ("sentence", "image")  # one row a sample: no length axis, no mask


def fresh(name: str, shape: tuple[int, ...], most: int) -> torch.Tensor:
    """Memory of one's own."""
    return torch.empty(shape, dtype=torch.float16)


class Cache:
    """One dataset's shards, opened for what `needs` names: rows of captions and videos, and their features.

    Videos and captions are numbered as in the manifest, those left out that the visual or the text stage rejected.
    """

    def __init__(self, folder: Path | str, needs: Iterable[str], words: int = 32, triplets: int = 8):
        self.folder, self.needs = Path(folder), frozenset(needs)
        unknown = self.needs - {*TEXT, *VIDEO, *IMAGE}
        if unknown:
            raise ValueError(f"no such features: {', '.join(sorted(unknown))}; there are {TEXT + VIDEO + IMAGE}")
        self.words, self.triplets = words, triplets
        visual = self._shards("visual", "visual")
        text = self._shards("text", "text")
        self.clip_sha256 = shards.same_clip(visual + text)
        self._rows(visual, text)
        self.features: dict[str, Spans | Picks] = {}
        self._open_visual(visual)
        self._open_text(text)
        self.dimension = visual[0].place("frame").shape[1]
        self.patches = visual[0].place("patch").shape[1]
        self.frames = max(int(visual[0].attributes["frames"]), int(self.frame_count.max(initial=1)))

    def __len__(self) -> int:
        return len(self.video_id)

    def captions(self, split: str) -> np.ndarray:
        """Rows of the captions of a split."""
        return np.flatnonzero(self.video_split[self.video_of] == split)

    def videos(self, split: str) -> np.ndarray:
        """Rows of the videos of a split."""
        return np.flatnonzero(self.video_split == split)

    def text(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """Those of sentence (B, D), word (B, L, D), triplet (B, M, D) that are needed, with masks, in memory of their own."""
        return self.collect(TEXT, rows, fresh, dtype)

    def video(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """Those of frame (B, N, D), patch (B, N, P, D) that are needed, with frame_mask."""
        return self.collect(VIDEO, rows, fresh, dtype)

    def image(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """image (B, D): the keyframe of each video."""
        return self.collect(IMAGE, rows, fresh, dtype)

    def collect(
        self,
        names: Iterable[str],
        rows: np.ndarray,
        memory: Memory,
        dtype: torch.dtype,
        readers: Executor | None = None,
    ) -> Features:
        """Features `names` of some rows, as far as they are needed."""
        rows, batch = np.asarray(rows, np.int64), {}
        for name in names:
            if name not in self.features:
                continue
            tensor, counts = collect(name, self.features[name], rows, memory, readers)
            batch[name] = (tensor[:, 0] if name in SINGLE else tensor).to(dtype)
            if name not in SINGLE:
                mask = torch.from_numpy(np.arange(tensor.shape[1]) < counts[:, None])
                batch["frame_mask" if name in VIDEO else f"{name}_mask"] = mask.to(tensor.device)
        return batch

    def columns(self) -> list[Column]:
        """Those that are needed, the smallest first."""
        found = {id(feature.column): feature.column for feature in self.features.values()}
        return sorted(found.values(), key=lambda column: column.nbytes)

    def nbytes(self) -> int:
        """Bytes of everything needed."""
        return sum(column.nbytes for column in self.columns())

    def hold(self, device: torch.device, most: int | None = None) -> None:
        """Bring everything needed to the device, or the smallest columns that take at most `most` bytes together."""
        for column in self.columns():
            if most is not None:
                most -= column.nbytes
                if most < 0:
                    return
            if column.held is None:
                column.hold(device)

    # --- opening

    def _shards(self, name: str, kind: str) -> list[Shard]:
        found = [Shard(path, kind) for path in shards.files(self.folder / name)]
        if not found:
            raise ShardError(f"{self.folder} has no {name} shards; run: dvc repro {name}@{self.folder.name}")
        return found

    def _table(self, name: str, stage: str) -> dict[str, list]:
        path = self.folder / name
        if not path.exists():
            raise ShardError(f"{path} is missing; run: dvc repro {stage}@{self.folder.name}")
        return pyarrow.parquet.read_table(path).to_pydict()

    def _rejected(self, *stages: str) -> set[str]:
        paths = [self.folder / stage / "rejects.parquet" for stage in stages]
        found = [pyarrow.parquet.read_table(path, columns=["id"]) for path in paths if path.exists()]
        return {name for table in found for name in table["id"].to_pylist()}

    def _rows(self, visual: list[Shard], text: list[Shard]) -> None:
        """Number videos and captions, and check that each is in a shard or among the rejects."""
        items = self._table("manifest/items.parquet", "manifest")
        at = {name: row for row, name in enumerate(name for shard in visual for name in shard["video_id"])}
        rejected = self._rejected("visual")
        kept = [row for row, name in enumerate(items["video_id"]) if name in at and name not in rejected]
        self._complete("visual", items["video_id"], rejected | set(at))
        self.video_id = np.array([items["video_id"][row] for row in kept], dtype=object)
        self.video_split = np.array([items["split"][row] for row in kept], dtype=object)
        self.group = np.array([items["group"][row] for row in kept], dtype=object)
        self.path = np.array([items["path"][row] for row in kept], dtype=object)
        self.visual_row = np.array([at[name] for name in self.video_id], np.int64)

        captions = self._table("manifest/captions.parquet", "manifest")
        at = {name: row for row, name in enumerate(name for shard in text for name in shard["caption_id"])}
        video = {name: row for row, name in enumerate(self.video_id)}
        rejected = self._rejected("text", "triplets")
        shown = [row for row, name in enumerate(captions["video_id"]) if name in video]
        self._complete("text", [captions["caption_id"][row] for row in shown], rejected | set(at))
        kept = [row for row in shown if captions["caption_id"][row] in at]
        self.caption_id = np.array([captions["caption_id"][row] for row in kept], dtype=object)
        self.caption = np.array([captions["text"][row] for row in kept], dtype=object)
        self.video_of = np.array([video[captions["video_id"][row]] for row in kept], np.int64)
        self.text_row = np.array([at[name] for name in self.caption_id], np.int64)
        self.left_out = {  # what the manifest names and no batch will show
            "videos": len(items["video_id"]) - len(self.video_id),
            "captions": len(captions["caption_id"]) - len(self.caption_id),
        }

    def _complete(self, stage: str, wanted: list[str], known: set[str]) -> None:
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ShardError(
                f"{len(missing)} of {len(wanted)} are neither in {self.folder / stage} nor rejected there, "
                f"{missing[0]!r} first; run: dvc repro {stage}@{self.folder.name}"
            )

    def _open_visual(self, visual: list[Shard]) -> None:
        start, count = _ragged(visual, "offset")
        start, self.frame_count = start[self.visual_row], count[self.visual_row]
        column = Column("frame", visual)
        most = int(self.frame_count.max(initial=1))
        if "frame" in self.needs:
            self.features["frame"] = Spans(column, start, self.frame_count, most)
        if "patch" in self.needs:
            self.features["patch"] = Spans(Column("patch", visual), start, self.frame_count, most)
        if "image" in self.needs:
            self.features["image"] = Spans(column, start + self._keyframe(), np.ones_like(start), 1)

    def _keyframe(self) -> np.ndarray:
        table = self._table("keyframes.parquet", "keyframes")
        index = dict(zip(table["video_id"], table["index"], strict=True))
        keyframe = np.array([index.get(name, -1) for name in self.video_id], np.int64)
        bad = np.flatnonzero((keyframe < 0) | (keyframe >= self.frame_count))
        if len(bad):
            raise ShardError(
                f"{self.folder / 'keyframes.parquet'} does not fit the visual shards (video {self.video_id[bad[0]]!r}); "
                f"run: dvc repro keyframes@{self.folder.name}"
            )
        return keyframe

    def _open_text(self, text: list[Shard]) -> None:
        if "sentence" in self.needs:
            one = np.ones_like(self.text_row)
            self.features["sentence"] = Spans(Column("sentence", text), self.text_row, one, 1)
        if "word" in self.needs:
            start, count = (part[self.text_row] for part in _ragged(text, "word_offset"))
            self.features["word"] = Spans(Column("word", text), start, count, self.words)
        if "triplet" in self.needs:
            phrases = Shard(self.folder / "text" / "phrases.h5", "phrases")
            shards.same_clip([text[0], phrases])
            row = np.concatenate([np.asarray(shard["triplet"]) for shard in text])
            written_for = {shard.attributes.get("phrases") for shard in text}
            fits = written_for == {phrases.attributes.get("identity")}  # the very list of phrases that the rows count
            if not fits or (len(row) and not 0 <= row.min() <= row.max() < len(phrases)):
                raise ShardError(f"{phrases.path} does not fit the text shards; run: {shards.rebuild(phrases.path)}")
            start, count = (part[self.text_row] for part in _ragged(text, "triplet_offset"))
            self.features["triplet"] = Picks(Column("embedding", [phrases]), row, start, count, self.triplets)


def _ragged(of: list[Shard], name: str) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each sample, running through all shards."""
    offsets = [np.asarray(shard[name]) for shard in of]
    ends = np.cumsum([0] + [offset[-1] for offset in offsets])
    start = np.concatenate([offset[:-1] + end for offset, end in zip(offsets, ends)])
    return start, np.concatenate([np.diff(offset) for offset in offsets])


class Slot:
    """Memory for one batch, allocated once for the largest there can be, pinned where a GPU will copy from it."""

    def __init__(self, pinned: bool):
        self.pinned, self.memory, self.copied = pinned, {}, None

    def take(self, name: str, shape: tuple[int, ...], most: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        """A tensor (B, L, ...) in the slot's memory, which has room for `most` instead of L."""
        room = shape[0] * max(most, shape[1]) * int(np.prod(shape[2:]))
        have = self.memory.get((name, dtype))
        if have is None or have.numel() < room:
            have = self.memory[name, dtype] = torch.empty(room, dtype=dtype, pin_memory=self.pinned)
        return have[: int(np.prod(shape))].view(shape)


class Loader:
    """Batches of (caption, video) pairs of one split; every caption of every video is a sample.

    `batch` is the number of samples of a step over all ranks; rank r takes its r-th slice. Which samples a step has is a
    pure function of (seed, epoch, step), so a run resumes at any step, on any number of ranks, without replaying. The
    samples left over at the end of an epoch wait for another epoch's order.

    The smallest tensors stay in memory as long as they take at most `kept` bytes together (a GiB, or a sixteenth of the
    memory); the others are read ahead for every batch.

    On a CPU a batch lies in reused memory: it is valid until the batch after the next is asked for.
    """

    def __init__(
        self,
        cache: Cache,
        split: str,
        batch: int,
        seed: int,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world: int = 1,
        *,
        dtype: torch.dtype = torch.float32,
        resident: str | bool = "auto",
        threads: int = 2,
        kept: int | None = None,
    ):
        self.cache, self.split, self.seed, self.dtype = cache, split, seed, dtype
        self.device, self.rank, self.world, self.threads = torch.device(device), rank, world, threads
        self.samples = cache.captions(split)
        if not len(self.samples):
            raise ValueError(f"{cache.folder} has no captions in split {split!r}")
        self.batch = min(batch, len(self.samples))
        if self.batch < world:
            raise ValueError(f"a batch of {self.batch} cannot be shared by {world} ranks")
        self.steps = len(self.samples) // self.batch
        self.kept = min(KEPT, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16) if kept is None else kept
        self.waited = 0.0  # seconds that `epoch` has kept its caller waiting
        self._slots: list[Slot] | None = None
        self.resident = self._fits() if resident == "auto" else bool(resident)
        if self.resident:
            cache.hold(self.device)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_slots": None}

    def _fits(self) -> bool:
        """Whether everything needed takes at most half of the GPU memory that is free now."""
        if self.device.type != "cuda":
            return False
        return self.cache.nbytes() < torch.cuda.mem_get_info(self.device)[0] // 2

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """Caption rows of one step for this rank."""
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.samples))
        return self._slice(order, step)

    def _slice(self, order: np.ndarray, step: int) -> np.ndarray:
        first, last = (step * self.batch + self.batch * rank // self.world for rank in (self.rank, self.rank + 1))
        return self.samples[order[first:last]]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Features]:
        """The batches of one epoch from step `start` on: features, masks, and `label`, the row of each sample's video."""
        order = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.samples))
        steps = (self._slice(order, step) for step in range(start, self.steps))
        if self.resident:
            batches = (self._batch(rows, fresh, self.dtype) for rows in steps)
        else:
            batches = self._ahead(steps)
            if self.device.type == "cuda":
                batches = Uploads(self.device, self.dtype).run(batches)
            else:
                batches = (batch for batch, _ in batches)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _batch(self, rows: np.ndarray, memory: Memory, dtype: torch.dtype, readers: Executor | None = None) -> Features:
        """All features of some captions and their videos."""
        videos = self.cache.video_of[rows]
        batch = self.cache.collect(TEXT, rows, memory, dtype, readers)
        batch |= self.cache.collect(VIDEO + IMAGE, videos, memory, dtype, readers)
        return batch | {"label": torch.from_numpy(videos).to(self.device if self.resident else "cpu")}

    def _ahead(self, steps: Iterator[np.ndarray]) -> Iterator[tuple[Features, Slot]]:
        """Batches in order, each filled by a background thread while the earlier ones are used."""
        self.cache.hold(torch.device("cpu"), self.kept)
        slots = self._slots or [Slot(self.device.type == "cuda") for _ in range(self.threads + 3)]
        self._slots = None  # a second iteration running beside this one makes its own
        free, used, coming = (
            deque(slots[:-1]),
            deque(slots[-1:]),
            deque(),
        )  # the last epoch's last batch is still in use
        with ThreadPoolExecutor(READERS, "reader") as readers, ThreadPoolExecutor(self.threads, "batch") as batches:
            try:
                while True:
                    while len(used) >= 2:
                        free.append(used.popleft())
                    while free and (rows := next(steps, None)) is not None:
                        slot = free.popleft()
                        coming.append((batches.submit(self._fill, rows, slot, readers), slot))
                    if not coming:
                        return
                    future, slot = coming.popleft()
                    used.append(slot)
                    yield future.result(), slot
            finally:
                _cancel(future for future, _ in coming)
                self._slots = [*free, *(slot for _, slot in coming), *used]

    def _fill(self, rows: np.ndarray, slot: Slot, readers: Executor) -> Features:
        """Read one batch into its slot; on a CPU also widen it there."""
        if slot.copied is not None:
            slot.copied.synchronize()
        batch = self._batch(rows, slot.take, torch.float16, readers)
        if self.device.type == "cuda" or self.dtype == torch.float16:
            return batch
        return {name: self._widen(name, tensor, slot) for name, tensor in batch.items()}

    def _widen(self, name: str, tensor: torch.Tensor, slot: Slot) -> torch.Tensor:
        if tensor.dtype != torch.float16:
            return tensor
        shape = tensor.shape if name not in SINGLE else (len(tensor), 1, *tensor.shape[1:])
        wide = slot.take(name, shape, self.cache.features[name].most, self.dtype).view(tensor.shape)
        return wide.copy_(tensor)


def _cancel(futures: Iterable[Future]) -> None:
    for future in futures:
        future.cancel()


class Uploads:
    """Copies each batch to the GPU on a stream of its own while the one before it is computed on."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype, self.stream = device, dtype, torch.cuda.Stream(device)

    def run(self, batches: Iterator[tuple[Features, Slot]]) -> Iterator[Features]:
        """Batches on the device, one copied ahead."""
        ahead: tuple[Features, torch.cuda.Event] | None = None
        for batch, slot in batches:
            coming = self.copy(batch, slot)
            if ahead is not None:
                yield self.arrived(*ahead)
            ahead = coming
        if ahead is not None:
            yield self.arrived(*ahead)

    def copy(self, batch: Features, slot: Slot) -> tuple[Features, torch.cuda.Event]:
        """Start the copy; the slot may be refilled once the event has passed."""
        with torch.cuda.stream(self.stream):
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            slot.copied = self.stream.record_event()
            moved = {name: part.to(self.dtype) if part.dtype == torch.float16 else part for name, part in moved.items()}
            return moved, self.stream.record_event()

    def arrived(self, batch: Features, event: torch.cuda.Event) -> Features:
        """Make the computing stream wait for the copy, and keep its memory until that stream is done with it."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(event)
        for tensor in batch.values():
            tensor.record_stream(current)
        return batch
