"""The Ray engine: items prepared by worker processes on every machine of a cluster, finished by actors beside them or on GPUs.

    with connect("local") as cluster:
        for outcome in cluster.run(decode, encoder, items, facts=..., ...):
            outcome.value if outcome.ok else (outcome.reason, outcome.detail)

Each machine has a preparer, an actor with the local engine's workers in it, so that an item that hangs or crashes costs itself
there as it does without a cluster. What it made goes from machine to machine, never through the driver, to a finisher: one a
machine, or one a share of a GPU where the cluster has GPUs. An item counts against its preparer until its outcome is taken, so
that a slow finisher, or a slow caller, holds up the rest and memory stays bounded.

Outcomes come to the driver, whose death ends all of it; what is lost on the way, and why, is `driver.py`'s matter.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray

from pipeline.engine import slices
from pipeline.engine.driver import Driver
from pipeline.engine.pool import Outcome
from pipeline.files import WorkerError


@contextlib.contextmanager
def connect(address: str) -> Iterator["Cluster"]:
    """A cluster, left at the end; `local` is one of this machine alone, begun here and ended with it.

    Errors: WorkerError where there is none at `address` (`auto`, or host:port).
    """
    known = ray.is_initialized()
    if not known:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls that nobody waits for any more
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        here = {"num_cpus": len(cores), "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                log_to_driver=False,
                logging_level="error",
                **here,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise WorkerError(
                f"there is no Ray cluster at {address} ({str(error).splitlines()[0]}); start one, or say `local`"
            ) from None
        with contextlib.suppress(AttributeError):
            # a machine's death is told in a line; Ray would print pages, and to where a stage's own line belongs
            ray._private.worker._worker_logs_enabled = False
    try:
        yield Cluster()
    finally:
        if not known:
            ray.shutdown()


class Cluster:
    """The machines there are, which may come and go, and what runs on them."""

    def machines(self) -> dict[str, dict[str, Any]]:
        """What Ray says of each living machine that has a core, by its id."""
        return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0}

    @property
    def device(self) -> str:
        """`cuda` where any machine has a GPU."""
        return "cuda" if any(node["Resources"].get("GPU", 0) for node in self.machines().values()) else "cpu"

    def run_slices(self, command: list[str], most: int, share: float | None, tell: Callable[[str], None]) -> None:
        """Run a stage's slices, at most so many, on the machines, or with `share` on their GPUs; see `slices.run_slices`."""
        slices.run_slices(self.machines, command, most, share, tell)

    def run(
        self,
        function: Callable[[Any], Any],
        finisher: Any,
        items: Iterable[Any],
        *,
        facts: Callable[[], dict[str, str]],
        device: str = "cpu",
        share: float = 1.0,
        workers: int = 16,
        seconds: float = 60.0,
        memory: int = 4 << 30,
        least: int = 1,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Outcome]:
        """Outcomes as they come, one for each item; a value is `finisher.finish(item, function(item))`.

        `function` is as the local engine's, `seconds` and `memory` (bytes) bound it; `finisher` is sent to where it works, has
        `load()` for what is large, and may raise Reject too. `facts` is asked here and on every machine, and must answer the
        same. On `cuda` a finisher has `share` of a GPU. A machine has at most `workers` workers, and one more machine begins
        for every `least` items. The order is free. `tell` hears of machines that are lost or left out.

        Errors: WorkerError if no machine can run; what the finisher raises.
        """
        driver = Driver(self, list(items), device, share, workers, least)
        driver.limits = (seconds, memory)
        driver.made_of = pickle.dumps(function), pickle.dumps(finisher), pickle.dumps(facts)
        driver.facts, driver.tell = facts(), tell
        try:
            yield from driver.outcomes()
        finally:
            driver.stop()
