"""Stream shuffled batches from the shards: prefetched by threads into reused buffers.

The order is a pure function of (seed, epoch), and where look-alikes share batches of the videos' frames.
"""

import copy
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import torch

from train.data import order
from train.data.cache import IMAGE, SINGLE, SPANS, TEXT, VIDEO, Cache, allocate
from train.data.ragged import READERS, Memory, upload
from train.distributed import Share
from train.method import Features

# The smallest tensors stay in RAM, up to 1 GiB or 1/16 of it: for small rows the system calls cost more than the bytes.
RESIDENT_BYTES = 1 << 30
ROWS = 1024  # videos whose frames are read at a time


class BatchBuffer:
    """Memory for one batch, allocated once for the largest there can be, pinned where a GPU will copy from it."""

    def __init__(self, pinned: bool):
        self.pinned, self.memory, self.copied = pinned, {}, None

    def take(self, name: str, shape: tuple[int, ...], limit: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
        """A tensor (B, L, ...) in the buffer's memory, which has room for `limit` instead of L."""
        room = shape[0] * max(limit, shape[1]) * int(np.prod(shape[2:]))
        have = self.memory.get((name, dtype))
        if have is None or have.numel() < room:
            have = self.memory[name, dtype] = torch.empty(room, dtype=dtype, pin_memory=self.pinned)
        return have[: int(np.prod(shape))].view(shape)


class Loader:
    """Batches of (caption, video) pairs of one split; every caption of every video is a sample.

    `batch` is the number of samples of a step over all ranks; rank r gets the videos and images of its r-th slice, and the texts
    and labels of all of them, padded as in the whole batch. Which samples a step has is a pure function of (seed, epoch, step),
    so a run resumes at any step, on any number of ranks, without replaying. The samples left over at the end of an epoch wait
    for another epoch's order. `alike`: where it is 2 or more, so many videos whose mean frames are alike come side by side.

    The smallest tensors stay in memory as long as they take at most `resident_bytes` bytes together (a GiB, or a sixteenth of the
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
        resident_bytes: int | None = None,
        alike: int = 0,
    ):
        self.cache, self.split, self.seed, self.dtype = cache, split, seed, dtype
        self.device, self.rank, self.world, self.threads = torch.device(device), rank, world, threads
        self.samples = cache.captions(split)
        if not len(self.samples):
            raise ValueError(f"{cache.folder} has no captions in split {split!r}")
        self.reads: frozenset[str] | None = None  # of what the cache has open; None is all of it
        self._near: np.ndarray | None = None
        self._set_batch(batch, alike)
        self.resident_bytes = (
            min(RESIDENT_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16)
            if resident_bytes is None
            else resident_bytes
        )
        self.waited = 0.0  # seconds that `epoch` has resident_bytes its caller waiting
        self._buffers: list[BatchBuffer] | None = None
        self._prefetcher: CudaPrefetcher | None = None
        self.resident = self._fits() if resident == "auto" else bool(resident)
        if self.resident:
            cache.preload(self.device)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_buffers": None, "_prefetcher": None}

    def _set_batch(self, batch: int, alike: int) -> None:
        self.batch, self.alike = min(batch, len(self.samples)), alike
        if self.batch < self.world:
            raise ValueError(f"a batch of {self.batch} cannot be shared by {self.world} ranks")
        self.steps = len(self.samples) // self.batch

    def with_batches(self, batch: int, alike: int = 0, reads: frozenset[str] | None = None) -> "Loader":
        """The same samples in other batches, of which only the features `reads` are read (None: all that the cache has open)."""
        made = copy.copy(self)
        made.reads, made._buffers = reads, None
        made._set_batch(batch, alike)
        return made

    def _fits(self) -> bool:
        """Whether everything needed takes at most half of the GPU memory that is free now."""
        if self.device.type != "cuda":
            return False
        return self.cache.nbytes() < torch.cuda.mem_get_info(self.device)[0] // 2

    def rows(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Caption rows of all ranks for each step of an epoch from step `start` on: a pure function of seed and epoch."""
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        if self.alike > 1:
            _, video = np.unique(self.cache.video_of[self.samples], return_inverse=True)
            places = order.alike(video, self.neighbours(), self.alike, random)
        else:
            places = random.permutation(len(self.samples))
        for step in range(start, self.steps):
            yield self.samples[places[step * self.batch : (step + 1) * self.batch]]

    def neighbours(self) -> np.ndarray:
        """(V, K) of each video that has samples those that look most like it, by the mean of CLIP's frames; found once."""
        if self._near is None:
            videos, frames = np.unique(self.cache.video_of[self.samples]), self.cache
            if (
                "frame" not in frames.features
            ):  # a run that owns image blocks makes its own frames, which change as it learns
                frames = Cache(self.cache.folder, {"frame"})
            means = [self._mean_frames(frames, videos[at : at + ROWS]) for at in range(0, len(videos), ROWS)]
            self._near = order.nearest(np.concatenate(means))
        return self._near

    @staticmethod
    def _mean_frames(cache: Cache, videos: np.ndarray) -> np.ndarray:
        read = cache.collect(["frame"], videos, allocate, torch.float32)
        frame, mask = read["frame"].cpu().double().numpy(), read["frame_mask"].cpu().numpy()[..., None]
        unit = frame / np.maximum(np.linalg.norm(frame, axis=2, keepdims=True), 1e-12)
        return (unit * mask).sum(1) / mask.sum(1)

    def own(self, rows: np.ndarray) -> np.ndarray:
        """This rank's part of a step's rows."""
        return rows[slice(*Share(len(rows), self.rank, self.world).bounds())]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Features]:
        """The batches of one epoch from step `start` on: features, masks, and `label`, the row of each sample's video."""
        steps = self.rows(epoch, start)
        if self.resident:
            batches = (self._batch(rows, allocate, self.dtype) for rows in steps)
        else:
            batches = self._ahead(steps)
            if self.device.type == "cuda":
                # one stream for all epochs: torch keeps what was allocated on a stream for that stream
                self._prefetcher = self._prefetcher or CudaPrefetcher(self.device, self.dtype)
                batches = self._prefetcher.run(batches)
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
        """All features of some captions, and of the videos of this rank's part of them."""
        videos = self.cache.video_of[rows]
        batch = self.cache.collect(self._wanted(TEXT + SPANS), rows, memory, dtype, readers)
        batch |= self.cache.collect(self._wanted(VIDEO + IMAGE), self.own(videos), memory, dtype, readers, videos)
        label = torch.from_numpy(videos)
        return batch | {"label": upload(label, self.device) if self.resident else label}

    def _wanted(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if self.reads is None or name in self.reads]

    def _ahead(self, steps: Iterator[np.ndarray]) -> Iterator[tuple[Features, BatchBuffer]]:
        """Batches in order, each filled by a background thread while the earlier ones are used."""
        self.cache.preload(torch.device("cpu"), self.resident_bytes)
        buffers = self._buffers or [BatchBuffer(self.device.type == "cuda") for _ in range(self.threads + 3)]
        self._buffers = None  # a second iteration running beside this one makes its own
        # the last epoch's last batch is still in use
        free, used, coming = deque(buffers[:-1]), deque(buffers[-1:]), deque()
        with (
            ThreadPoolExecutor(READERS, "reader") as readers,
            ThreadPoolExecutor(self.threads, "batch", initializer=self._enter_device) as batches,
        ):
            try:
                while True:
                    while len(used) >= 2:
                        free.append(used.popleft())
                    while free and (rows := next(steps, None)) is not None:
                        buffer = free.popleft()
                        coming.append((batches.submit(self._fill, rows, buffer, readers), buffer))
                    if not coming:
                        return
                    future, buffer = coming.popleft()
                    used.append(buffer)
                    yield future.result(), buffer
            finally:
                _cancel(future for future, _ in coming)
                self._buffers = [*free, *(buffer for _, buffer in coming), *used]

    def _enter_device(self) -> None:
        """Make a new thread's GPU this process's own: it pins memory, and would otherwise do so by way of the first GPU."""
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)

    def _fill(self, rows: np.ndarray, buffer: BatchBuffer, readers: Executor) -> Features:
        """Read one batch into its buffer; on a CPU also widen it there."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        batch = self._batch(rows, buffer.take, torch.float16, readers)
        if self.device.type == "cuda" or self.dtype == torch.float16:
            return batch
        return {name: self._widen(name, tensor, buffer) for name, tensor in batch.items()}

    def _widen(self, name: str, tensor: torch.Tensor, buffer: BatchBuffer) -> torch.Tensor:
        if tensor.dtype != torch.float16:
            return tensor
        shape = tensor.shape if name not in SINGLE else (len(tensor), 1, *tensor.shape[1:])
        wide = buffer.take(name, shape, self.cache.features[name].limit, self.dtype).view(tensor.shape)
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
        for batch, buffer in batches:
            coming = self.copy(batch, buffer)
            if ahead is not None:
                yield self.wait_for(*ahead)
            ahead = coming
        if ahead is not None:
            yield self.wait_for(*ahead)

    def copy(self, batch: Features, buffer: BatchBuffer) -> tuple[Features, torch.cuda.Event]:
        """Start the copy; the buffer may be refilled once the event has passed."""
        with torch.cuda.stream(self.stream):
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            buffer.copied = self.stream.record_event()
            moved = {name: part.to(self.dtype) if part.dtype == torch.float16 else part for name, part in moved.items()}
            return moved, self.stream.record_event()

    def wait_for(self, batch: Features, event: torch.cuda.Event) -> Features:
        """Make the computing stream wait for the copy, and keep its memory until that stream is done with it."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(event)
        for tensor in batch.values():
            tensor.record_stream(current)
        return batch
