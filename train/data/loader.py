"""Stream shuffled batches from the shards: prefetched by threads into reused buffers."""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import torch

from train.data.cache import IMAGE, SINGLE, TEXT, VIDEO, Cache, Features, allocate
from train.data.ragged import READERS, Memory

KEPT = 1 << 30  # bytes that may stay in memory, or a sixteenth of it: small rows cost more in calls than in bytes


class BatchBuffer:
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
        self._slots: list[BatchBuffer] | None = None
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
            batches = (self._batch(rows, allocate, self.dtype) for rows in steps)
        else:
            batches = self._ahead(steps)
            if self.device.type == "cuda":
                batches = CudaPrefetcher(self.device, self.dtype).run(batches)
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

    def _ahead(self, steps: Iterator[np.ndarray]) -> Iterator[tuple[Features, BatchBuffer]]:
        """Batches in order, each filled by a background thread while the earlier ones are used."""
        self.cache.hold(torch.device("cpu"), self.kept)
        slots = self._slots or [BatchBuffer(self.device.type == "cuda") for _ in range(self.threads + 3)]
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

    def _fill(self, rows: np.ndarray, slot: BatchBuffer, readers: Executor) -> Features:
        """Read one batch into its slot; on a CPU also widen it there."""
        if slot.copied is not None:
            slot.copied.synchronize()
        batch = self._batch(rows, slot.take, torch.float16, readers)
        if self.device.type == "cuda" or self.dtype == torch.float16:
            return batch
        return {name: self._widen(name, tensor, slot) for name, tensor in batch.items()}

    def _widen(self, name: str, tensor: torch.Tensor, slot: BatchBuffer) -> torch.Tensor:
        if tensor.dtype != torch.float16:
            return tensor
        shape = tensor.shape if name not in SINGLE else (len(tensor), 1, *tensor.shape[1:])
        wide = slot.take(name, shape, self.cache.features[name].most, self.dtype).view(tensor.shape)
        return wide.copy_(tensor)


def _cancel(futures: Iterable[Future]) -> None:
    for future in futures:
        future.cancel()


class CudaPrefetcher:
    """Copies each batch to the GPU on a stream of its own while the one before it is computed on."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype, self.stream = device, dtype, torch.cuda.Stream(device)

    def run(self, batches: Iterator[tuple[Features, BatchBuffer]]) -> Iterator[Features]:
        """Batches on the device, one copied ahead."""
        ahead: tuple[Features, torch.cuda.Event] | None = None
        for batch, slot in batches:
            coming = self.copy(batch, slot)
            if ahead is not None:
                yield self.arrived(*ahead)
            ahead = coming
        if ahead is not None:
            yield self.arrived(*ahead)

    def copy(self, batch: Features, slot: BatchBuffer) -> tuple[Features, torch.cuda.Event]:
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
