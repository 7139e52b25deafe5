"""Rows of one tensor spread over shards, fetched by `preadv` into memory that the caller reuses, or held in RAM or on a GPU."""

# Axes: B batch, L the batch's longest (words, triplets or frames), R rows of the whole column.

import errno
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from pipeline.shards import Shard, ShardError

CHUNK = 1 << 26  # bytes moved at a time when a column goes to a device
READERS = 8  # threads that share what must come from the disk
NOWAIT = getattr(os, "RWF_NOWAIT", 0)
NOT_CACHED = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)  # nothing in memory; a file system that cannot say


class Extent(NamedTuple):
    """Consecutive rows of a column and where they go: sample, first place in it."""

    sample: int
    place: int
    row: int
    count: int


@dataclass
class ShardColumn:
    """One tensor over all its shards, addressed by one running row number. Holds no HDF5 handle: safe to fork and to spawn."""

    name: str
    shards: list[Shard]
    shape: tuple[int, ...] = field(init=False)  # of one row
    bounds: np.ndarray = field(init=False)  # first row of each shard, and the end
    begin: list[int] = field(init=False)  # where the tensor starts in each file, bytes
    held: torch.Tensor | None = field(default=None, init=False)
    handles: dict[int, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        places = [shard.place(self.name) for shard in self.shards]
        shapes = {place.shape[1:] for place in places}
        if len(shapes) != 1:
            raise ShardError(f"{self.name} has rows of {sorted(shapes)} in the shards around {self.shards[0].path}")
        self.shape = shapes.pop()
        self.bounds = np.cumsum([0] + [place.shape[0] for place in places])
        self.begin = [place.offset for place in places]

    def __getstate__(self) -> dict:
        held = self.held if self.held is not None and self.held.is_cuda else None  # host memory is filled again there
        return self.__dict__ | {"handles": {}, "held": held}

    def __del__(self) -> None:
        for handle in getattr(self, "handles", {}).values():
            os.close(handle)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (float16)."""
        return 2 * int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.row_bytes

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def handle(self, shard: int) -> int:
        """An open file descriptor; positions are given with each read, so threads and forked processes may share it."""
        if shard not in self.handles:
            opened = os.open(self.shards[shard].path, os.O_RDONLY)
            if self.handles.setdefault(shard, opened) != opened:
                os.close(opened)
        return self.handles[shard]

    def locate(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Shard and byte position of each row."""
        rows = np.asarray(rows, np.int64)
        shard = np.searchsorted(self.bounds, rows, "right") - 1
        position = np.asarray(self.begin, np.int64)[shard] + (rows - self.bounds[shard]) * self.row_bytes
        return shard.tolist(), position.tolist()

    def read(self, runs: list[Extent], out: torch.Tensor, readers: Executor | None = None) -> None:
        """Fill `out` (B, L, ...) float16 with the runs; what no run covers is left as it is.

        What the page cache holds is copied at once; the rest is shared by the readers, for a disk answers several questions
        at once, while threads that only copy would wait for each other.
        """
        flat = memoryview(out.view(torch.uint8).numpy().reshape(-1))
        size, length = self.row_bytes, out.shape[1]
        late = []
        for run, shard, position in zip(runs, *self.locate([run.row for run in runs])):
            first = (run.sample * length + run.place) * size
            view = flat[first : first + run.count * size]
            done = self.fetch(shard, view, position) if readers is None else self.cached(shard, view, position)
            if done < len(view):
                late.append((shard, view[done:], position + done))
        if late:
            list(readers.map(lambda part: [self.fetch(*rest) for rest in late[part::READERS]], range(READERS)))

    def fetch(self, shard: int, view: memoryview, position: int) -> int:
        """Fill a view from one place in one file; returns its length."""
        done = os.preadv(self.handle(shard), [view], position)
        while done < len(view):  # a signal, or the end of a file that was cut while open
            more = os.preadv(self.handle(shard), [view[done:]], position + done)
            if more == 0:
                raise ShardError(f"{self.shards[shard].path} ends before its tensor {self.name} does")
            done += more
        return done

    def cached(self, shard: int, view: memoryview, position: int) -> int:
        """Fill as much of a view as can be had without waiting for the disk; returns how many bytes that is."""
        try:
            return os.preadv(self.handle(shard), [view], position, NOWAIT) if NOWAIT else 0
        except OSError as error:
            if error.errno not in NOT_CACHED:
                raise
            return 0

    def hold(self, device: torch.device) -> None:
        """Bring the whole column to the device, a chunk at a time."""
        held = torch.empty(len(self), *self.shape, dtype=torch.float16, device=device)
        step = max(1, CHUNK // self.row_bytes)
        for shard, first in enumerate(self.bounds[:-1].tolist()):
            for start in range(first, int(self.bounds[shard + 1]), step):
                count = min(step, int(self.bounds[shard + 1]) - start)
                there = held[start : start + count]
                chunk = there if device.type == "cpu" else torch.empty(there.shape, dtype=torch.float16)
                self.read([Extent(0, 0, start, count)], chunk[None])
                if chunk is not there:
                    there.copy_(chunk)
        self.held = held

    def gather(self, index: np.ndarray, out: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, L, ...) of a held column by their numbers (B, L). On a GPU, -1 gives zeros; on a CPU `out` takes them,
        and anything stands where -1 is.
        """
        if out is not None:
            rows = out.view(-1, *self.shape).numpy()
            np.take(self.held.numpy(), index.reshape(-1), axis=0, out=rows, mode="clip")  # lets other threads run
            return out
        at = torch.from_numpy(index).to(self.held.device, non_blocking=True)
        found = self.held[at.clamp_min(0)]
        return found.masked_fill_((at < 0).view(*at.shape, *[1] * len(self.shape)), 0)


@dataclass
class Ragged:
    """A feature whose sample is `count` consecutive rows of a column, at most `most`, the last of them always kept."""

    column: ShardColumn
    start: np.ndarray  # (R,)
    count: np.ndarray  # (R,)
    most: int

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Rows of each sample."""
        return np.minimum(self.count[samples], self.most)

    def runs(self, samples: np.ndarray) -> list[Extent]:
        """Where the rows are: one run a sample, two where the middle is cut out."""
        runs = []
        for sample, (start, count) in enumerate(zip(self.start[samples].tolist(), self.count[samples].tolist())):
            if count <= self.most:
                runs.append(Extent(sample, 0, start, count))
            else:
                runs.append(Extent(sample, 0, start, self.most - 1))
                runs.append(Extent(sample, self.most - 1, start + count - 1, 1))
        return runs

    def index(self, samples: np.ndarray, length: int) -> np.ndarray:
        """The same as row numbers (B, L), -1 behind a sample's last."""
        start, count, place = self.start[samples], self.count[samples], np.arange(length)
        index = start[:, None] + place
        cut = count > self.most
        index[cut, self.most - 1 : self.most] = (start + count - 1)[cut, None]
        return np.where(place < self.counts(samples)[:, None], index, -1)


@dataclass
class Indexed:
    """A feature whose sample is a list of rows anywhere in a column, the first `most` of them."""

    column: ShardColumn
    row: np.ndarray  # (all rows of all samples,)
    start: np.ndarray  # (R,)
    count: np.ndarray  # (R,)
    most: int

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Rows of each sample."""
        return np.minimum(self.count[samples], self.most)

    def runs(self, samples: np.ndarray) -> list[Extent]:
        """Where the rows are: one run a row."""
        starts, counts = self.start[samples].tolist(), self.counts(samples).tolist()
        return [
            Extent(sample, place, row, 1)
            for sample, (start, count) in enumerate(zip(starts, counts))
            for place, row in enumerate(self.row[start : start + count].tolist())
        ]

    def index(self, samples: np.ndarray, length: int) -> np.ndarray:
        """The same as row numbers (B, L), -1 behind a sample's last."""
        place, start = np.arange(length), self.start[samples]
        real = place < self.counts(samples)[:, None]
        index = np.full(real.shape, -1, np.int64)
        index[real] = self.row[(start[:, None] + place)[real]]
        return index


Memory = Callable[[str, tuple[int, ...], int], torch.Tensor]  # name, shape (B, L, ...), the largest L there can be


def collect(
    name: str, feature: Ragged | Indexed, samples: np.ndarray, memory: Memory, readers: Executor | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """One feature of a batch, (B, L, ...) float16 with zeros as padding, and how many rows of each sample are real.

    `memory` says where to put it; what a GPU holds is gathered there instead.
    """
    column, counts = feature.column, feature.counts(samples)
    length = max(1, int(counts.max(initial=0)))
    if column.held is not None and column.held.is_cuda:
        return column.gather(feature.index(samples, length), None), counts
    out = memory(name, (len(samples), length, *column.shape), feature.most)
    if column.held is not None and len(column):
        column.gather(feature.index(samples, length), out)
    else:
        column.read(feature.runs(samples), out, readers)
    for sample in np.flatnonzero(counts < length).tolist():
        out[sample, int(counts[sample]) :] = 0
    return out, counts
