"""Run a function over items in supervised worker processes; a hang or a crash costs the item that caused it, no other.

    for outcome in run(work, items, workers=2, seconds=60, memory=4 << 30):
        outcome.value if outcome.ok else (outcome.reason, outcome.detail)

Each worker holds one item at a time. When it outlives its time, grows past its memory or dies, it is killed and replaced; its
item is tried once more with nothing beside it, and the second failure is its outcome. Results come back through shared memory
while the caller works on earlier ones. Workers are forked from a nursery, a fresh interpreter that has imported what the
function needs and does nothing else, so that a new one costs milliseconds. Nothing outlives the caller: all die with it.
"""

import contextlib
import ctypes
import importlib
import mmap
import os
import pickle
import queue
import signal
import socket
import struct
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
DYING = 5.0  # seconds a worker that closed its pipe is given to end
POLL = 0.05  # seconds between looks at clocks and memory
WORDS = 2000  # bytes of a dead worker's last output that are read for the reason
NUMBER = struct.Struct("q")  # what the nursery is asked and answers
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
        self.function, self.items, self.nursery = pickle.dumps(function), items, Nursery.of(function)
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
        except RuntimeError as error:
            self.failure = str(error)
        finally:
            with contextlib.suppress(RuntimeError):
                for worker in self.workers:
                    worker.forget()
            self.finished.put(None)

    def hand_out(self) -> None:
        """Give idle workers items, unless enough results wait; a suspect runs in a fresh worker with nothing beside it."""
        busy = [worker for worker in self.workers if worker.index is not None]
        if self.suspects:
            if not busy:
                for worker in self.workers:
                    worker.forget()
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
        return Worker(self.function, self.nursery)

    def listen(self, worker: "Worker") -> None:
        """Take a worker's message: it is ready, or its item is done; or it is dead."""
        try:
            message = worker.hear()
        except (EOFError, OSError, pickle.UnpicklingError):
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
                self.fail(f"a worker did not start within {STARTING:.0f} s")
        elif worker.index is not None and spent > self.seconds:
            self.lose(worker, "timeout", f"took longer than {self.seconds:g} s")
        elif worker.index is not None and worker.memory() > self.memory:
            self.lose(worker, "memory", f"took more than {self.memory / 2**20:.0f} MiB")

    def lose(self, worker: "Worker", reason: str, detail: str) -> None:
        """Replace a worker; its item becomes a suspect, or has failed for the second time."""
        worker.forget()
        self.workers.remove(worker)
        if not worker.started:
            self.fail(f"a worker died before its first item: {detail}")
        elif worker.index is not None:
            if self.suspects and self.suspects[0] == worker.index:
                self.suspects.popleft()
                self.settle(Outcome(worker.index, self.items[worker.index], None, reason, f"{detail}, twice"))
            else:
                self.suspects.append(worker.index)

    def fail(self, why: str) -> None:
        """End everything: no worker can start."""
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

    def __init__(self, function: bytes, nursery: "Nursery"):
        self.index: int | None = None  # the item it holds
        self.code: int | None = None  # how it ended
        self.started = False
        self.since = time.monotonic()
        self.nursery = nursery
        self.share, self.said = unnamed(), unnamed()
        self.pipe, theirs = Pipe()
        self.pid = nursery.ask(0, [theirs.fileno(), self.share, self.said])
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
            with open(f"/proc/{self.pid}/statm") as file:
                _, resident, shared = file.read().split()[:3]
        except (OSError, ValueError):
            return 0
        return (int(resident) - int(shared)) * PAGE

    def last_words(self) -> str:
        """How it died and what it said last; it is gone afterwards."""
        if self.code is None:
            self.code = self.nursery.ask(-self.pid, [])
        code = self.code
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        size = os.fstat(self.said).st_size
        lines = os.pread(self.said, WORDS, max(size - WORDS, 0)).decode(errors="replace").strip().splitlines()
        named = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
        return f"{how} ({named[0][:200]})" if named else how

    def forget(self) -> None:
        """End the process and whatever it started, and free what it held."""
        if self.code is None:
            self.code = self.nursery.ask(self.pid, [])
        self.pipe.close()
        os.close(self.share)
        os.close(self.said)


class Nursery:
    """A process that imports a module once and forks workers that have it; asked and answered through a socket."""

    known: dict[str, "Nursery"] = {}  # kept for the next run

    @classmethod
    def of(cls, function: Callable) -> "Nursery":
        """The nursery that has imported the function's module."""
        module = function.__module__
        if module not in cls.known or not cls.known[module].alive():
            cls.known[module] = cls(module)
        return cls.known[module]

    def __init__(self, module: str):
        self.socket, theirs = socket.socketpair()
        self.said = unnamed()
        single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # no threads before a fork
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from pipeline.engine import nurse; nurse({theirs.fileno()}, {module!r})"],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=self.said,
            pass_fds=[theirs.fileno()],
            env=os.environ | single | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": "1"},
            start_new_session=True,  # Ctrl-C goes to the caller, who ends the workers
        )
        theirs.close()
        self.socket.settimeout(STARTING)

    def alive(self) -> bool:
        """Whether it still answers."""
        return self.process.poll() is None

    def ask(self, number: int, handles: list[int]) -> int:
        """What `nurse` answers to a number and descriptors. RuntimeError if it is dead."""
        try:
            socket.send_fds(self.socket, [NUMBER.pack(number)], handles)
            answer = self.socket.recv(NUMBER.size, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < NUMBER.size:
            words = os.pread(self.said, 1 << 16, 0).decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the workers cannot start: {' '.join(words) or 'their nursery died'}")
        return NUMBER.unpack(answer)[0]


def unnamed() -> int:
    """A descriptor of a file without a name, which the system frees with its last holder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("results")
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    return descriptor


def nurse(handle: int, module: str) -> None:
    """The nursery: import; then for 0 fork a worker that gets the descriptors and answer its pid, for a pid kill it, for
    the negative of a pid let it die; both answer its exit code.
    """
    asked = socket.socket(fileno=handle)
    importlib.import_module(module)
    while True:
        data, handles, _, _ = socket.recv_fds(asked, NUMBER.size, 3)
        if len(data) < NUMBER.size:
            return  # the caller is gone
        (pid,) = NUMBER.unpack(data)
        if pid:
            answer = reap(abs(pid), 0.0 if pid > 0 else DYING)
        else:
            answer = os.fork()
            if not answer:
                asked.close()
                serve(*handles)
                os._exit(0)
            for descriptor in handles:
                os.close(descriptor)
        asked.sendall(NUMBER.pack(answer))


def reap(pid: int, patience: float) -> int:
    """Exit code of a child, negative for a signal; it is killed, with what it started, if it lives longer than `patience`."""
    last = time.monotonic() + patience
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < last:
        time.sleep(0.001)
        done, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not have become a group yet
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def serve(handle: int, share: int, said: int) -> None:
    """The worker: take an item, send what became of it, until the caller is gone."""
    os.setsid()
    die_with_the_nursery()
    for stream in (1, 2):
        os.dup2(said, stream)
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


def die_with_the_nursery() -> None:
    """Ask the kernel (Linux) to kill this process when its parent ends, which ends when the caller does."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
