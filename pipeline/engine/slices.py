"""A stage's slices as commands on the machines of a cluster, for stages whose items are too small to travel one by one."""

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.stations import run_command
from pipeline.progress import Progress

POLL_SECONDS = 0.5  # between looks at what has ended and which machines there are
TRIES = 2  # of a slice that fails
LOSSES = 5  # of a slice whose process or machine dies under it
REST_SECONDS = 30.0  # a machine on which a process was lost gets nothing: it may be dead, and nobody knows it yet


def run_slices(
    machines: Callable[[], dict[str, dict[str, Any]]],
    command: list[str],
    most: int,
    share: float | None,
    tell: Callable[[str], None],
) -> None:
    """Run `python COMMAND --slice i/n` for i from 1 to n, one at a time on a machine, or on each `share` of a GPU.

    n is what the machines have room for, at most `most`. Slices write to a folder that all machines see; what one that fails
    twice, or is lost five times, has not made is left to the run without --slice.
    """

    def places(node: dict[str, Any]) -> int:
        """How many slices a machine runs at a time."""
        return int(node["Resources"].get("GPU", 0) / share + 1e-6) if share else 1

    count = max(1, min(most, sum(places(node) for node in machines().values())))
    waiting, running = list(range(1, count + 1)), {}
    tries, losses, resting = Counter(), Counter(), {}
    meter = Progress(count, command[command.index("-m") + 1].removeprefix("pipeline."), "slice")
    while waiting or running:
        alive = machines()
        busy = Counter(machine for _, machine in running.values())
        for machine, node in alive.items():
            while resting.get(machine, 0.0) < time.monotonic() and waiting and busy[machine] < places(node):
                index, busy[machine] = waiting.pop(0), busy[machine] + 1
                where = NodeAffinitySchedulingStrategy(machine, soft=False)
                cores = node["Resources"]["CPU"] / places(node)
                task = ray.remote(run_command).options(
                    scheduling_strategy=where, max_retries=0, num_cpus=cores, num_gpus=share or 0
                )
                words = [*command, "--slice", f"{index}/{count}"]
                running[task.remote(words, os.getcwd(), os.environ.get("OMP_NUM_THREADS"))] = index, machine
        if not running:
            time.sleep(POLL_SECONDS)
            continue
        ended, _ = ray.wait(list(running), timeout=POLL_SECONDS)
        for reference in ended:
            index, machine = running.pop(reference)
            try:
                failure = ray.get(reference)
            except RayError as error:
                failure = str(error).strip().splitlines()[-1].strip()
                losses[index] += 1
                resting[machine] = time.monotonic() + REST_SECONDS
                if losses[index] < LOSSES:
                    tell(f"the process of slice {index}/{count}, or its machine, is lost; it goes to another")
                    waiting.append(index)
                    continue
            tries[index] += 1
            if failure and tries[index] < TRIES and losses[index] < LOSSES:
                waiting.append(index)
                continue
            if failure:
                tell(f"slice {index}/{count} failed ({failure}); what it lacks is made here")
            meter.add()
    meter.close()
