"""rejects.parquet: what a stage left out and why, a row each, the same columns at every stage."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow

from pipeline import files

SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "stage", "reason", "detail")])


def write_rejects(folder: Path, stage: str, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write `folder`/rejects.parquet from (id, reason, detail) of each reject, in this order."""
    rows = [dict(zip(SCHEMA.names, (name, stage, reason, detail))) for name, reason, detail in rejects]
    files.write_table(folder / "rejects.parquet", pyarrow.Table.from_pylist(rows, SCHEMA))
