"""One step on several processes: each loads the videos of its part of a batch, and the loss is that of the whole batch.

Started by torchrun (`torchrun --nproc-per-node 4 -m train.run ...`); without it every function here gives back what it was given.
Texts are small: each process reads all of a step's from the shards and encodes them. Videos are large: each process reads and
encodes its own part and scores all texts against it. What travels are the scores and, once a step, the parameters' gradients.

The loss is computed on every process from the same gathered scores and divided by their number, the backward pass of each
collective is its transpose, and gradients are summed: whatever a parameter does before or after a gathering, its gradient is that
of one process.
"""

# Axes: B batch over all processes, b this process's part of it, D embedding.

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.files import ParamsError

PATIENCE = timedelta(
    hours=2
)  # a process waits so long for another: rank 0 may write a checkpoint to a slow disk meanwhile


@dataclass(frozen=True)
class Share:
    """How a batch is shared: process r has samples B·r/W to B·(r + 1)/W."""

    batch: int
    rank: int
    world: int

    def bounds(self, rank: int | None = None) -> tuple[int, int]:
        """First sample of a process (this one), and the first of the next."""
        rank = self.rank if rank is None else rank
        return self.batch * rank // self.world, self.batch * (rank + 1) // self.world

    def counts(self) -> list[int]:
        """Samples of each process."""
        return [last - first for first, last in map(self.bounds, range(self.world))]


_share: Share | None = (
    None  # of the step that is being computed; None outside of training, or where one process has all
)


def rank() -> int:
    """This process's number, 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes and speaks: one does."""
    return rank() == 0


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun has started, each with a GPU of its own where there are any; nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise ParamsError(
                f"process {local} has no GPU of its own: this machine has {gpus}; start as many processes"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launch(processes: int, module: str, words: list[str]) -> int:
    """Run `python -m module words` in so many processes of this machine by torchrun; the exit status."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return subprocess.call([*command, module, *words])


def launched() -> bool:
    """Whether torchrun has started this process."""
    return "WORLD_SIZE" in os.environ


def speaks() -> bool:
    """Whether this process says what went wrong, also before it has joined the others or after it has left them."""
    return int(os.environ.get("RANK", 0)) == 0


def device() -> torch.device:
    """Where this process computes."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if world() > 1 else torch.device("cuda")


def told(decide: Callable[[], Any]) -> Any:
    """What the first process decides, on all of them: who looks at files that another writes may see something else."""
    if world() == 1:
        return decide()
    answer = [decide() if is_first() else None]
    dist.broadcast_object_list(answer, 0, device=torch.device("cpu"))
    return answer[0]


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """The first process alone, then the others: of what is written beside a cache the first time that it is read."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


@contextlib.contextmanager
def sharing(batch: int) -> Iterator[None]:
    """Within it, losses are those of a batch of `batch` samples that all processes share."""
    global _share
    before, _share = _share, Share(batch, rank(), world()) if world() > 1 else None
    try:
        yield
    finally:
        _share = before


def gather_rows(part: Tensor) -> Tensor:
    """(B, ...) from each process's (b, ...), in the order of the batch, on every process."""
    return part if _share is None else _Gather.apply(part, _share)


def gather_columns(part: Tensor) -> Tensor:
    """(A, B) from each process's (A, b): scores of the same rows against the videos or images of all processes."""
    return part if _share is None else gather_rows(part.T).T


def own_rows(whole: Tensor) -> Tensor:
    """(b, ...) of this process from (B, ...) that every process has."""
    return whole if _share is None else whole[slice(*_share.bounds())]


def draw_noise(*shape: int, device: torch.device) -> Tensor:
    """Standard normal float32 numbers whose first axis runs over this process's samples, or several rows of each.

    They are this part of what one process would draw for the whole batch.
    """
    if _share is None:
        return torch.randn(shape, device=device)
    first, last = _share.bounds()
    each = shape[0] // (last - first)
    return torch.randn(_share.batch * each, *shape[1:], device=device)[first * each : last * each]


class _Gather(torch.autograd.Function):
    """Parts of all processes one after the other; backward, the sum over processes of what each says of this process's part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, share: Share) -> Tensor:
        ctx.share, counts = share, share.counts()
        if len(part) != counts[share.rank]:
            raise ValueError(
                f"process {share.rank} has {len(part)} rows of a batch and should have {counts[share.rank]}"
            )
        # collectives want equal sizes, and parts differ by one row at most
        room = part.new_zeros(max(counts), *part.shape[1:])
        room[: len(part)] = part
        found = [torch.empty_like(room) for _ in counts]
        dist.all_gather(found, room)
        return torch.cat([rows[:count] for rows, count in zip(found, counts)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad[slice(*ctx.share.bounds())], None


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all processes, in one message a type of number."""
    if world() == 1:
        return
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in {grad.dtype: None for grad in grads}:
        some = [grad for grad in grads if grad.dtype == dtype]
        message = torch.cat([grad.flatten() for grad in some])
        dist.all_reduce(message)
        for grad, part in zip(some, message.split([grad.numel() for grad in some])):
            grad.copy_(part.view_as(grad))


def require_same(tensors: Iterable[Tensor], what: str) -> None:
    """RuntimeError unless all processes hold the same bits: each has made the same steps from the same start."""
    if world() == 1:
        return
    parts = [tensor.detach().flatten().double() for tensor in tensors]
    own = torch.stack([torch.stack([part.sum(), part.square().sum()]) for part in parts]).cpu()
    first = own.clone()
    dist.broadcast(first, 0)
    if not torch.equal(own, first):
        raise RuntimeError(f"process {rank()} has other {what} than process 0")


def own_blocks(count: int, size: int) -> list[tuple[int, int]]:
    """Bounds of this process's blocks among `count` rows in blocks of `size`: every world-th, so that all have as many."""
    starts = list(range(0, count, size))[rank() :: world()]
    return [(start, min(start + size, count)) for start in starts]


def join_blocks(whole: Tensor, size: int) -> Tensor:
    """Columns of `whole` (A, count), in which each process has filled those of its own blocks: all of them, on every process."""
    if world() == 1:
        return whole
    for block, start in enumerate(range(0, whole.shape[1], size)):
        part = whole[:, start : start + size].contiguous()
        dist.broadcast(part, block % world())
        whole[:, start : start + size] = part
    return whole
