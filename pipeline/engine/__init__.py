"""Run a function over items in supervised worker processes: a hang or a crash costs one item."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from pipeline.engine.pool import Outcome, Supervisor, run
from pipeline.files import MissingError

__all__ = ["ENGINES", "Outcome", "Supervisor", "connect", "run", "run_slices"]
ENGINES = ("local", "ray")


@contextlib.contextmanager
def connect(engine: str, address: str) -> Iterator[Any]:
    """The cluster of an engine, while it is needed; of `local` None, for it is this machine.

    Errors: MissingError where Ray is not installed, WorkerError where there is no cluster at `address`.
    """
    if engine == "local":
        yield None
        return
    try:
        from pipeline.engine import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise MissingError(
            "`engine: ray` needs Ray, which is not installed; type: python -m pip install -r requirements-ray.txt"
        ) from None
    with ray.connect(address) as cluster:
        yield cluster


def run_slices(
    engine: str,
    settings: dict[str, Any],
    command: list[str],
    most: int,
    device: str | None = None,
    encodes: bool = True,
) -> str | None:
    """Run a stage's slices, at most `most`, on the machines of a cluster, before the run that finds them done.

    command: what Python is asked, without --slice; it `encodes` where it takes --device. settings: section `ray` of params.yaml.
    Returns the device, which the run after it must have too. An engine of this machine alone runs nothing here.
    """
    if engine == "local" or settings["address"] == "local":
        return device
    with connect(engine, settings["address"]) as cluster:
        device = (device or cluster.device) if encodes else None
        share = float(settings["gpu"]) if device == "cuda" else None
        more = ["--engine", "local", *(["--device", device] if device else [])]
        cluster.run_slices([*command, *more], most, share, lambda line: print(line, file=sys.stderr))
    return device
