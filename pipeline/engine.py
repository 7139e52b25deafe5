"""Run a function over items in supervised worker processes; a hang or a crash costs the item that caused it, no other.

    for outcome in run(work, items, workers=2, seconds=60, memory=4 << 30):
        outcome.value if outcome.ok else (outcome.reason, outcome.detail)

Each worker is a fresh interpreter that holds one item at a time. When it outlives its time, grows past its memory or dies,
it is killed and replaced; its item is tried once more with nothing beside it, and the second failure is its outcome.
Results come back through shared memory while the caller works on earlier ones. Nothing outlives the caller: workers die with it.
"""

import contextlib
import ctypes
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

STARTING = 180.0  # seconds a worker may take to import what its function needs
POLL = 0.05  # seconds between looks at clocks and memory
WORDS = 2000  # bytes of a dead worker's last output that are read for the reason
PAGE = os.sysconf("SC_PAGE_SIZE")


class Reject(Exception):
    """Raised by the function for an item that is no good: `reason`, a short stable word, and `detail` for a person."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass
class Outcome:
    """What became of one item: its value, or the reason why there is none."""

    index: int
    item: Any
    value: Any = None
    reason: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return not self.reason


def run(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int = 1,
    seconds: float = 60.0,
    memory: int = 4 << 30,
    ahead: int = 8,
) -> Iterator[Outcome]:
    """Outcomes as they come, one for each item; RuntimeError if they do not add up.

    `function` is importable (not of `__main__`) and raises Reject for a bad item; `seconds` and `memory` (bytes) bound one
    item; at most `ahead` finished results wait for the caller.
    """
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function} is defined in __main__; a worker can only import it from a module")
    items = list(items)
    supervisor = Supervisor(function, items, min(max(workers, 1), max(len(items), 1)), seconds, memory, ahead)
    seen: set[int] = set()
    supervisor.start()
    try:
        while len(seen) < len(items):
            outcome = supervisor.finished.get()
            if outcome is None:
                raise RuntimeError(supervisor.failure or "the supervisor of the workers ended early")
            supervisor.ring()
            if outcome.index in seen:
                raise RuntimeError(f"item {outcome.index} came back twice")
            seen.add(outcome.index)
            yield outcome
    finally:
        supervisor.stop()


class Supervisor(threading.Thread):
    """Keeps the workers busy, alive and within their limits, beside the caller's own work."""

    def __init__(self, function: Callable, items: list, workers: int, seconds: float, memory: int, ahead: int):
        super().__init__(name="engine", daemon=True)
        self.function, self.items = pickle.dumps(function), items
        self.seconds, self.memory, self.ahead = seconds, memory, ahead
        self.count = workers
        self.waiting = deque(range(len(items)))
        self.suspects: deque[int] = deque()  # items whose worker failed, to be tried once more alone
        self.workers: list[Worker] = []
        self.finished: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self.open = len(items)  # items without an outcome
        self.ending = False
        self.failure = ""
        self.bell, self.rope = Pipe(duplex=False)

    def run(self) -> None:
        """The thread: hand out, listen, look after the clocks, until every item has an outcome."""
        try:
            while self.open and not self.ending:
                self.hand_out()
                ready = wait([self.bell, *(worker.pipe for worker in self.workers)], POLL)
                if self.bell in ready:
                    self.bell.recv_bytes()
                for worker in [worker for worker in self.workers if worker.pipe in ready]:
                    self.listen(worker)
                for worker in list(self.workers):
                    self.look_after(worker)
        finally:
            for worker in self.workers:
                worker.kill()
            self.finished.put(None)

    def hand_out(self) -> None:
        """Give idle workers items, unless enough results wait; a suspect runs in a fresh worker with nothing beside it."""
        busy = [worker for worker in self.workers if worker.index is not None]
        if self.suspects:
            if not busy:
                for worker in self.workers:
                    worker.kill()
                self.workers = [self.hire()]
                self.workers[0].give(self.suspects[0], self.items[self.suspects[0]])
            return
        while len(self.workers) < self.count and len(self.workers) < len(busy) + len(self.waiting):
            self.workers.append(self.hire())
        for worker in self.workers:
            if worker.index is None and self.waiting and self.finished.qsize() + len(busy) < self.ahead + self.count:
                index = self.waiting.popleft()
                worker.give(index, self.items[index])
                busy.append(worker)

    def hire(self) -> "Worker":
        """A new worker process."""
        return Worker(self.function)

    def listen(self, worker: "Worker") -> None:
        """Take a worker's message: it is ready, or its item is done; or it is dead."""
        try:
            message = worker.hear()
        except (EOFError, OSError, pickle.UnpicklingError):
            worker.process.wait()
            self.lose(worker, "crashed", worker.last_words())
            return
        if message is not None:
            value, reason, detail = message
            index, worker.index = worker.index, None
            if self.suspects and self.suspects[0] == index:
                self.suspects.popleft()
            self.settle(Outcome(index, self.items[index], value, reason, detail))

    def look_after(self, worker: "Worker") -> None:
        """Kill a worker that is past its time or its memory."""
        if worker not in self.workers:
            return
        spent = time.monotonic() - worker.since
        if not worker.started:
            if spent > STARTING:
                self.fail(worker, f"a worker did not start within {STARTING:.0f} s")
        elif worker.index is not None and spent > self.seconds:
            self.lose(worker, "timeout", f"took longer than {self.seconds:g} s")
        elif worker.index is not None and worker.memory() > self.memory:
            self.lose(worker, "memory", f"took more than {self.memory / 2**20:.0f} MiB")

    def lose(self, worker: "Worker", reason: str, detail: str) -> None:
        """Replace a worker; its item becomes a suspect, or has failed for the second time."""
        worker.kill()
        self.workers.remove(worker)
        if not worker.started:
            self.fail(worker, f"a worker died before its first item: {detail}")
        elif worker.index is not None:
            if self.suspects and self.suspects[0] == worker.index:
                self.suspects.popleft()
                self.settle(Outcome(worker.index, self.items[worker.index], None, reason, f"{detail}, twice"))
            else:
                self.suspects.append(worker.index)

    def fail(self, worker: "Worker", why: str) -> None:
        """End everything: no worker can start."""
        worker.kill()
        self.failure, self.ending = why, True

    def settle(self, outcome: Outcome) -> None:
        """Pass on what became of an item."""
        self.open -= 1
        self.finished.put(outcome)

    def ring(self) -> None:
        """Wake the thread: the caller took an outcome, so there is room for another, or it wants to end."""
        with contextlib.suppress(OSError):
            self.rope.send_bytes(b"!")

    def stop(self) -> None:
        """End the thread and every worker."""
        self.ending = True
        self.ring()
        self.join()
        self.bell.close()
        self.rope.close()


class Worker:
    """One child process, the pipe to it, and the shared memory its results come through."""

    def __init__(self, function: bytes):
        self.index: int | None = None  # the item it holds
        self.started = False
        self.since = time.monotonic()
        self.share = os.memfd_create("results") if hasattr(os, "memfd_create") else unnamed()
        self.said = unnamed()
        self.pipe, theirs = Pipe()
        code = f"from pipeline.engine import serve; serve({theirs.fileno()}, {self.share})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=self.said,
            pass_fds=(theirs.fileno(), self.share),
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
            start_new_session=True,  # Ctrl-C goes to the caller, who ends the workers
        )
        theirs.close()
        self.pipe.send_bytes(function)

    def give(self, index: int, item: Any) -> None:
        """Hand over an item; the clock starts when the worker has started."""
        self.index = index
        if self.started:
            self.since = time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker is noticed by its closed pipe
            self.pipe.send(item)

    def hear(self) -> tuple[Any, str, str] | None:
        """The next message: None once it has started, else (value, reason, detail). EOFError when it is dead."""
        data = self.pipe.recv_bytes()
        if not self.started:
            self.started, self.since = True, time.monotonic()
            return None
        sizes, payload = pickle.loads(data)
        with open(self.share, "rb", closefd=False) as shared:
            shared.seek(0)
            buffers = [bytearray(shared.read(size)) for size in sizes]
        return pickle.loads(payload, buffers=buffers)

    def memory(self) -> int:
        """Bytes the process holds for itself; 0 where the system does not say."""
        try:
            with open(f"/proc/{self.process.pid}/statm") as file:
                _, resident, shared = file.read().split()[:3]
        except (OSError, ValueError):
            return 0
        return (int(resident) - int(shared)) * PAGE

    def last_words(self) -> str:
        """How it died and what it said last."""
        code = self.process.returncode
        how = f"died of {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
        size = os.fstat(self.said).st_size
        lines = os.pread(self.said, WORDS, max(size - WORDS, 0)).decode(errors="replace").strip().splitlines()
        named = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
        return f"{how} ({named[0][:200]})" if named else how

    def kill(self) -> None:
        """End the process and whatever it started, and free what it held."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if not self.pipe.closed:
            self.pipe.close()
            os.close(self.share)
            os.close(self.said)


def unnamed() -> int:
    """A descriptor of a file without a name, which the system frees with its last holder."""
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    return descriptor


def serve(handle: int, share: int) -> None:
    """The worker: take an item, send what became of it, until the caller is gone."""
    die_with_the_caller()
    pipe = Connection(handle)
    function = pickle.loads(pipe.recv_bytes())
    pipe.send_bytes(b"started")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        for stream in (1, 2):  # what is kept of its output belongs to this item
            os.lseek(stream, 0, os.SEEK_SET)
            os.ftruncate(stream, 0)
        try:
            message = (function(item), "", "")
        except Reject as refused:
            message = (None, refused.reason, refused.detail)
        pipe.send_bytes(pack(message, share))


def pack(message: Any, share: int) -> bytes:
    """Pickle a message, its arrays into the shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    total = sum(view.nbytes for view in raw)
    if os.fstat(share).st_size < total:
        os.ftruncate(share, total)
    if total:
        with mmap.mmap(share, total) as memory:
            place = 0
            for view in raw:
                memory[place : place + view.nbytes] = view
                place += view.nbytes
    return pickle.dumps(([view.nbytes for view in raw], payload))


def die_with_the_caller() -> None:
    """Ask the kernel (Linux) to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
