"""The project's commands, run in the process of a test."""

import importlib
import sys


def command(module: str, *words: str) -> None:
    """Run a command of the project in this process, as `python -m module words` would."""
    before, sys.argv = sys.argv, [module, *words]
    try:
        importlib.import_module(module).main()
    finally:
        sys.argv = before
