"""Rows of one tensor spread over shards, read by `preadv` into memory that the caller reuses, or resident in RAM or on a GPU."""

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
NOT_CACHED = (
    errno.EAGAIN,
    errno.EOPNOTSUPP,
    errno.EINVAL,
)  # errno of an RWF_NOWAIT read: page not in the cache, or flag not supported here


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
    dtype: torch.dtype = field(init=False)
    bounds: np.ndarray = field(init=False)  # first row of each shard, and the end
    begin: list[int] = field(init=False)  # where the tensor starts in each file, bytes
    resident: torch.Tensor | None = field(default=None, init=False)
    handles: dict[int, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        places = [shard.place(self.name) for shard in self.shards]
        shapes = {place.shape[1:] for place in places}
        if len(shapes) != 1:
            raise ShardError(f"{self.name} has rows of {sorted(shapes)} in the shards around {self.shards[0].path}")
        self.shape, self.dtype = shapes.pop(), getattr(torch, places[0].dtype)
        self.bounds = np.cumsum([0] + [place.shape[0] for place in places])
        self.begin = [place.offset for place in places]

    def __getstate__(self) -> dict:
        # a worker fills host memory again; a GPU's is shared
        resident = self.resident if self.resident is not None and self.resident.is_cuda else None
        return self.__dict__ | {"handles": {}, "resident": resident}

    def __del__(self) -> None:
        for handle in getattr(self, "handles", {}).values():
            os.close(handle)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape))

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

    def read(self, extents: list[Extent], out: torch.Tensor, readers: Executor | None = None) -> None:
        """Fill `out` (B, L, ...) with the extents; what none covers is left as it is.

        Cached pages are copied on this thread; the rest is read in parallel: a disk serves several requests at once, but threads
        that only copy contend for the interpreter's lock.
        """
        flat = memoryview(out.view(torch.uint8).numpy().reshape(-1))
        size, length = self.row_bytes, out.shape[1]
        late = []
        for extent, shard, position in zip(extents, *self.locate([extent.row for extent in extents])):
            first = (extent.sample * length + extent.place) * size
            view = flat[first : first + extent.count * size]
            done = (
                self.read_fully(shard, view, position) if readers is None else self.read_cached(shard, view, position)
            )
            if done < len(view):
                late.append((shard, view[done:], position + done))
        if late:
            list(readers.map(lambda part: [self.read_fully(*rest) for rest in late[part::READERS]], range(READERS)))

    def read_fully(self, shard: int, view: memoryview, position: int) -> int:
        """Fill a view from one place in one file; returns its length."""
        done = os.preadv(self.handle(shard), [view], position)
        while done < len(view):  # a signal, or the end of a file that was cut while open
            more = os.preadv(self.handle(shard), [view[done:]], position + done)
            if more == 0:
                raise ShardError(f"{self.shards[shard].path} ends before its tensor {self.name} does")
            done += more
        return done

    def read_cached(self, shard: int, view: memoryview, position: int) -> int:
        """Fill as much of a view as can be had without waiting for the disk; returns how many bytes that is."""
        try:
            return os.preadv(self.handle(shard), [view], position, NOWAIT) if NOWAIT else 0
        except OSError as error:
            if error.errno not in NOT_CACHED:
                raise
            return 0

    def preload(self, device: torch.device) -> None:
        """Bring the whole column to the device, a chunk at a time."""
        resident = torch.empty(len(self), *self.shape, dtype=self.dtype, device=device)
        step = max(1, CHUNK // self.row_bytes)
        for shard, first in enumerate(self.bounds[:-1].tolist()):
            for start in range(first, int(self.bounds[shard + 1]), step):
                count = min(step, int(self.bounds[shard + 1]) - start)
                there = resident[start : start + count]
                chunk = there if device.type == "cpu" else torch.empty(there.shape, dtype=self.dtype)
                self.read([Extent(0, 0, start, count)], chunk[None])
                if chunk is not there:
                    there.copy_(chunk)
        self.resident = resident

    def gather(self, index: np.ndarray, out: torch.Tensor | None) -> torch.Tensor:
        """Rows (B, L, ...) of a resident column by their numbers (B, L). On a GPU, -1 gives zeros; on a CPU `out` takes them,
        and anything stands where -1 is.
        """
        if out is not None:
            rows = out.view(-1, *self.shape).numpy()
            np.take(self.resident.numpy(), index.reshape(-1), axis=0, out=rows, mode="clip")  # lets other threads run
            return out
        if not len(self):  # captions of which none has a triplet: a GPU would stop at a row that is not there
            return self.resident.new_zeros(*index.shape, *self.shape)
        at = upload(torch.from_numpy(index), self.resident.device)
        found = self.resident[at.clamp_min(0)]
        return found.masked_fill_((at < 0).view(*at.shape, *[1] * len(self.shape)), 0)


class PaddedColumn(ShardColumn):
    """Short ragged rows of integers, padded with -1 to the longest and held in memory: the token ids of phrases."""

    def __init__(self, name: str, values: np.ndarray, offset: np.ndarray):
        count = np.diff(offset)
        self.name, self.shards, self.handles, self.resident = name, [], {}, None
        self.table = np.full((len(count), max(1, int(count.max(initial=1)))), -1, np.int32)
        self.table[np.arange(self.table.shape[1]) < count[:, None]] = values
        self.shape, self.dtype, self.bounds = self.table.shape[1:], torch.int32, np.array([0, len(count)])

    def read(self, extents: list[Extent], out: torch.Tensor, readers: Executor | None = None) -> None:
        """Fill `out` (B, L, T) with the extents."""
        for extent in extents:
            rows = torch.from_numpy(self.table[extent.row : extent.row + extent.count])
            out[extent.sample, extent.place : extent.place + extent.count] = rows

    def preload(self, device: torch.device) -> None:
        """Bring the table to the device."""
        self.resident = torch.from_numpy(self.table).to(device)


@dataclass
class Ragged:
    """A feature whose sample is `count` consecutive rows of a column, at most `limit`, the last of them always kept."""

    column: ShardColumn
    start: np.ndarray  # (R,)
    count: np.ndarray  # (R,)
    limit: int

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Rows of each sample."""
        return np.minimum(self.count[samples], self.limit)

    def extents(self, samples: np.ndarray) -> list[Extent]:
        """Where the rows are: one extent a sample, two where the middle is cut out."""
        extents = []
        for sample, (start, count) in enumerate(zip(self.start[samples].tolist(), self.count[samples].tolist())):
            if count <= self.limit:
                extents += [Extent(sample, 0, start, count)] if count else []
            else:
                extents.append(Extent(sample, 0, start, self.limit - 1))
                extents.append(Extent(sample, self.limit - 1, start + count - 1, 1))
        return extents

    def index(self, samples: np.ndarray, length: int) -> np.ndarray:
        """The same as row numbers (B, L), -1 behind a sample's last."""
        start, count, place = self.start[samples], self.count[samples], np.arange(length)
        index = start[:, None] + place
        cut = count > self.limit
        index[cut, self.limit - 1 : self.limit] = (start + count - 1)[cut, None]
        return np.where(place < self.counts(samples)[:, None], index, -1)


@dataclass
class Indexed:
    """A feature whose sample is a list of rows anywhere in a column, the first `limit` of them."""

    column: ShardColumn
    row: np.ndarray  # (all rows of all samples,)
    start: np.ndarray  # (R,)
    count: np.ndarray  # (R,)
    limit: int

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Rows of each sample."""
        return np.minimum(self.count[samples], self.limit)

    def extents(self, samples: np.ndarray) -> list[Extent]:
        """Where the rows are: one extent a row."""
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


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor on a device. From pinned memory, since a copy from any other waits for all that a GPU was told to do before;
    torch keeps pinned memory from being used again until the copy is over.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# name, shape (B, L, ...), the largest L there can be, type
Memory = Callable[[str, tuple[int, ...], int, torch.dtype], torch.Tensor]


def collect(
    name: str,
    feature: Ragged | Indexed,
    samples: np.ndarray,
    memory: Memory,
    readers: Executor | None = None,
    beside: np.ndarray | None = None,
) -> tuple[torch.Tensor, np.ndarray]:
    """One feature of a batch, (B, L, ...) with zeros as padding, and how many rows of each sample are real.

    L is the longest of these samples, and of those `beside` them in other processes' parts of the batch. `memory` says where to
    put it; what a GPU holds is gathered there instead.
    """
    column, counts = feature.column, feature.counts(samples)
    length = max(1, int((counts if beside is None else feature.counts(beside)).max(initial=0)))
    if column.resident is not None and column.resident.is_cuda:
        return column.gather(feature.index(samples, length), None), counts
    out = memory(name, (len(samples), length, *column.shape), feature.limit, column.dtype)
    if column.resident is not None and len(column):
        column.gather(feature.index(samples, length), out)
    else:
        column.read(feature.extents(samples), out, readers)
    for sample in np.flatnonzero(counts < length).tolist():
        out[sample, int(counts[sample]) :] = 0
    return out, counts
