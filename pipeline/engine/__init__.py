"""Run a function over items in supervised worker processes: a hang or a crash costs one item."""

import contextlib
from collections.abc import Iterator
from typing import Any

from pipeline.engine.pool import Outcome, Supervisor, run
from pipeline.files import MissingError

__all__ = ["ENGINES", "Outcome", "Supervisor", "connect", "run"]
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
