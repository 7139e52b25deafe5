"""What is left out, and why: the exception, and the table that every stage writes."""

import pyarrow

REJECTS = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "stage", "reason", "detail")])


class Reject(Exception):
    """Raised by the function for an item that is no good: `reason`, a short stable word, and `detail` for a person."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
