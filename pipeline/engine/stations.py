"""What runs on the machines of a cluster: actors that a driver elsewhere asks."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from pipeline.engine.pool import Outcome, Supervisor
from pipeline.engine.workers import die_with_parent
from pipeline.files import Reject, WorkerError


class Preparer:
    """One machine's worker processes: the local engine, fed item by item. Its calls run in threads, one an item."""

    def __init__(self, function: bytes, folder: str, workers: int, seconds: float, memory: int):
        os.chdir(folder)
        self.supervisor = Supervisor(pickle.loads(function), workers, seconds, memory, ahead=workers)
        self.answers: dict[int, Future[Outcome]] = {}
        self.adding = threading.Lock()
        self.supervisor.start()
        threading.Thread(target=self.listen, daemon=True).start()

    def begin(self, facts: bytes) -> dict[str, str]:
        """What this machine says of itself, to be held against what the driver's says."""
        return pickle.loads(facts)()

    def call(self, item: Any) -> tuple[tuple[str, str], Any]:
        """Why there is no value (reason, detail), both empty where there is one, and the value.

        Errors: WorkerError where the workers cannot run.
        """
        with self.adding:
            answer = self.answers[self.supervisor.add(item)] = Future()
            if not self.supervisor.is_alive():
                answer.set_exception(self.failure())
        outcome = answer.result()
        return (outcome.reason, outcome.detail), outcome.value

    def listen(self) -> None:
        """The thread that passes on what became of the items."""
        while (outcome := self.supervisor.finished.get()) is not None:
            self.supervisor.wake()
            with self.adding:
                answer = self.answers.pop(outcome.index)
            answer.set_result(outcome)
        self.supervisor.join()
        with self.adding:
            for answer in self.answers.values():
                if not answer.done():
                    answer.set_exception(self.failure())

    def failure(self) -> WorkerError:
        """Why the workers do not run."""
        return WorkerError(self.supervisor.failure or "the supervisor of the workers ended early")


class Finisher:
    """What is done with a prepared value in a process that keeps something large at hand, as an encoder on its GPU."""

    def __init__(self, finisher: bytes, folder: str, threads: str | None):
        os.chdir(folder)
        follow_driver(threads)  # before the libraries come that read it
        self.finisher = pickle.loads(finisher)

    def begin(self) -> dict[str, str]:
        """Bring what is large; nothing is known of it that machines could differ in."""
        self.finisher.load()
        return {}

    def call(self, item: Any, value: Any) -> tuple[tuple[str, str], Any]:
        """As of a Preparer: why there is no value, and the value."""
        try:
            return ("", ""), self.finisher.finish(item, value)
        except Reject as refused:
            return (refused.reason, refused.detail), None


def follow_driver(threads: str | None) -> None:
    """Use as many threads as the driver is told to, and not as Ray sees fit: sums are rounded by how many threads share them."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = threads


def run_command(words: list[str], folder: str, threads: str | None) -> str:
    """Run a Python command in a folder; the last that it said where it failed, else nothing. It dies with this process."""
    follow_driver(threads)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
    )
    said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
    return said[-1][:300] if done.returncode else ""
