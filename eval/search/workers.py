"""Threads that share the work of a query: torch runs single-threaded in each of them, so that none waits for another."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Workers:
    """As many threads as torch would use, started when they are first needed.

    Torch's own threads meet after every operation, of which a query has hundreds of a few microseconds; where anything else runs
    on the machine they wait most of the time, and a server's new threads start new ones. Here each thread does whole blocks.
    """

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.starting = threading.Lock()

    def run(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, done by one of the threads."""
        return self.map(lambda job: job(), [work])[0]

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any]) -> list[Any]:
        """`work` of each job, in their order, without gradients; the first error is raised here."""
        import torch

        def one(job: Any) -> Any:
            with torch.inference_mode():  # a thread's own state
                return work(job)

        return list(self.start().map(one, jobs))

    def start(self) -> ThreadPoolExecutor:
        """The threads, running."""
        import torch

        with self.starting:
            if self.pool is None:
                count = torch.get_num_threads()
                ready = threading.Barrier(count + 1)

                def begin() -> None:
                    torch.set_num_threads(1)
                    torch.get_num_threads()  # else it takes up, at its first work, the number that was set last
                    ready.wait()

                self.pool = ThreadPoolExecutor(count, "score", begin)
                for _ in range(count):
                    self.pool.submit(int)
                ready.wait()
                torch.set_num_threads(count)  # torch also remembers the last number for threads still to come
            return self.pool
