"""The project's commands, run in the process of a test."""

import importlib
import sys


def command(module: str, *words: str) -> None:
    """Run a command of the project in this process, as `python -m module words` would."""
    before, sys.argv = sys.argv, [module, *words]
    try:
        found = importlib.import_module(module)
        (importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main()
    finally:
        sys.argv = before
