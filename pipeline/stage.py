"""What every stage shares: its dataset's parameters, its lock, whole-or-nothing writes, and progress lines."""

import argparse
import sys
from pathlib import Path
from typing import Any


def parse_arguments(doc: str | None, **options: dict[str, Any]) -> argparse.Namespace:
    """Parse `--dataset NAME` and a stage's few own flags, given as `name={argparse keywords}`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name under `datasets` in params.yaml")
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    sys.excepthook = show_exception
    return parser.parse_args()


def show_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ctrl-C gets a sentence, for every stage goes on where it was; any other end is shown whole."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped; the same command goes on from here", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def require(path: Path, stage: str, name: str) -> Path:
    """`path` if it is there; otherwise end with the command that makes it."""
    if not path.exists():
        raise SystemExit(
            f"{path} is missing; run: dvc repro {stage}@{name}   (or python -m pipeline.{stage} --dataset {name})"
        )
    return path
