"""Run a function over items in supervised worker processes; a hang or a crash costs the item that caused it, no other.

    for outcome in run(work, items, workers=2, seconds=60, memory=4 << 30):
        outcome.value if outcome.ok else (outcome.reason, outcome.detail)

Each worker holds one item at a time. When it outlives its time, grows past its memory or dies, it is killed and replaced; its
item is tried once more with nothing beside it, and the second failure is its outcome. Results come back through shared memory
while the caller works on earlier ones. Workers are forked from a fork server, a fresh interpreter that has imported what the
function needs and does nothing else, so that a new one costs milliseconds. Nothing outlives the caller: all die with it.
"""

import contextlib
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Pipe, wait
from typing import Any

from pipeline.engine.workers import START_SECONDS, ForkServer, Worker
from pipeline.files import WorkerError

__all__ = ["Outcome", "run"]
POLL_SECONDS = 0.05  # seconds between looks at clocks and memory


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
    """Outcomes as they come, one for each item; WorkerError if the workers cannot run.

    `function` is importable (not of `__main__`) and raises Reject for a bad item; `seconds` and `memory` (bytes) bound one
    item; at most `ahead` finished results wait for the caller.
    """
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function} is defined in __main__; a worker can only import it from a module")
    items = list(items)
    supervisor = Supervisor(function, min(max(workers, 1), max(len(items), 1)), seconds, memory, ahead)
    for item in items:
        supervisor.add(item)
    seen: set[int] = set()
    supervisor.start()
    try:
        while len(seen) < len(items):
            outcome = supervisor.finished.get()
            if outcome is None:
                raise WorkerError(supervisor.failure or "the supervisor of the workers ended early")
            supervisor.wake()
            if outcome.index in seen:
                raise RuntimeError(f"item {outcome.index} came back twice")
            seen.add(outcome.index)
            yield outcome
    finally:
        supervisor.stop()


class Supervisor(threading.Thread):
    """Keeps the workers busy, alive and within their limits, beside the caller's own work, until it is stopped.

    Items may be added before and while it runs; what becomes of each is put into `finished`, None when it ends.
    """

    def __init__(self, function: Callable, workers: int, seconds: float, memory: int, ahead: int):
        super().__init__(name="engine", daemon=True)
        self.function, self.fork_server = pickle.dumps(function), ForkServer.of(function)
        self.seconds, self.memory, self.ahead = seconds, memory, ahead
        self.count = workers
        self.added = count()
        self.items: dict[int, Any] = {}  # those without an outcome, by number
        self.waiting: deque[int] = deque()
        self.suspects: deque[int] = deque()  # items whose worker failed, to be tried once more alone
        self.workers: list[Worker] = []
        self.finished: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self.ending = False
        self.failure = ""
        self.wake_receive, self.wake_send = Pipe(duplex=False)

    def add(self, item: Any) -> int:
        """Take one more item, from any thread; its number, counted from 0."""
        index = next(self.added)
        self.items[index] = item
        self.waiting.append(index)
        if self.is_alive():  # before that nobody reads, and a pipe holds only so much
            self.wake()
        return index

    def run(self) -> None:
        """The thread: hand out, listen, look after the clocks, until it is stopped."""
        try:
            while not self.ending:
                self.hand_out()
                ready = wait([self.wake_receive, *(worker.pipe for worker in self.workers)], POLL_SECONDS)
                if self.wake_receive in ready:
                    self.wake_receive.recv_bytes()
                for worker in [worker for worker in self.workers if worker.pipe in ready]:
                    self.take_message(worker)
                for worker in list(self.workers):
                    self.enforce_limits(worker)
        except WorkerError as error:
            self.failure = str(error)
        finally:
            with contextlib.suppress(WorkerError):
                for worker in self.workers:
                    worker.end()
            self.finished.put(None)

    def hand_out(self) -> None:
        """Give idle workers items, unless enough results wait; a suspect runs in a fresh worker with nothing beside it."""
        busy = [worker for worker in self.workers if worker.index is not None]
        if self.suspects:
            # wait until nothing else runs: if the item fails again, it cannot have been a neighbour's memory or time
            if not busy:
                for worker in self.workers:
                    worker.end()
                self.workers = [self.start_worker()]
                self.workers[0].send(self.suspects[0], self.items[self.suspects[0]])
            return
        # as many workers as there is work for; a worker that is never needed is never started
        while len(self.workers) < self.count and len(self.workers) < len(busy) + len(self.waiting):
            self.workers.append(self.start_worker())
        for worker in self.workers:
            if worker.index is None and self.waiting and self.finished.qsize() + len(busy) < self.ahead + self.count:
                index = self.waiting.popleft()
                worker.send(index, self.items[index])
                busy.append(worker)

    def start_worker(self) -> Worker:
        """A new worker process."""
        return Worker(self.function, self.fork_server)

    def take_message(self, worker: Worker) -> None:
        """Take a worker's message: it is ready, or its item is done; or it is dead."""
        try:
            message = worker.receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            self.replace_worker(worker, "crashed", worker.explain_death())
            return
        if message is not None:
            value, reason, detail = message
            index, worker.index = worker.index, None
            if self.suspects and self.suspects[0] == index:
                self.suspects.popleft()
            self.report(index, value, reason, detail)

    def enforce_limits(self, worker: Worker) -> None:
        """Kill a worker that is past its time or its memory."""
        if worker not in self.workers:
            return
        spent = time.monotonic() - worker.since
        if not worker.started:
            if spent > START_SECONDS:
                self.fail(f"a worker did not start within {START_SECONDS:.0f} s")
        elif worker.index is not None and spent > self.seconds:
            self.replace_worker(worker, "timeout", f"took longer than {self.seconds:g} s")
        elif worker.index is not None and worker.memory() > self.memory:
            self.replace_worker(worker, "memory", f"took more than {self.memory / 2**20:.0f} MiB")

    def replace_worker(self, worker: Worker, reason: str, detail: str) -> None:
        """Replace a worker; its item becomes a suspect, or has failed for the second time."""
        worker.end()
        self.workers.remove(worker)
        if not worker.started:
            self.fail(f"a worker died before its first item: {detail}")
        elif worker.index is not None:
            if self.suspects and self.suspects[0] == worker.index:
                self.suspects.popleft()
                self.report(worker.index, None, reason, f"{detail}, twice")
            else:
                self.suspects.append(worker.index)

    def fail(self, why: str) -> None:
        """End everything: no worker can start."""
        self.failure, self.ending = why, True

    def report(self, index: int, value: Any, reason: str, detail: str) -> None:
        """Pass on what became of an item."""
        self.finished.put(Outcome(index, self.items.pop(index), value, reason, detail))

    def wake(self) -> None:
        """Wake the thread: the caller took an outcome, so there is room for another, or it wants to end."""
        with contextlib.suppress(OSError):
            self.wake_send.send_bytes(b"!")

    def stop(self) -> None:
        """End the thread and every worker."""
        self.ending = True
        self.wake()
        self.join()
        self.wake_receive.close()
        self.wake_send.close()
