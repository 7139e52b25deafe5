"""Run a function over items in supervised worker processes: a hang or a crash costs one item."""

from pipeline.engine.pool import Outcome, Supervisor, run

__all__ = ["Outcome", "Supervisor", "run"]
