"""What is left out, and why: the exception, and the table that every stage writes."""

import pyarrow

REJECTS = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "stage", "reason", "detail")])
