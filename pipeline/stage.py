"""What the commands of the pipeline share: their flags, and what they need to be there."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from pipeline.command import command as command
from pipeline.command import visible as visible
from pipeline.files import MissingError, write

UNUSED = "unused.txt"
SLICE = {
    "metavar": "I/N",
    "help": "only part I of N, as 3/8, beside the others on this or other machines; then run it once without --slice",
}


def parse_arguments(doc: str | None, *words: str, **options: dict[str, Any]) -> argparse.Namespace:
    """Parse `--dataset NAME`, further words by name, and a stage's few own flags, given as `name={argparse keywords}`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name under `datasets` in params.yaml")
    for name in words:
        parser.add_argument(name)
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    flags = ["--dataset", "--help", "-h", *(f"--{name.replace('_', '-')}" for name in options)]
    takers = [f"--{name}" for name, keywords in options.items() if keywords.get("metavar") == "ID"]
    return parser.parse_args(join_ids(sys.argv[1:], takers, flags))


def join_ids(words: list[str], takers: list[str], flags: list[str]) -> list[str]:
    """Words of a command line in which `--why -abc` is `--why=-abc`: an id may begin as an option does."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in takers and word.startswith("-") and word.split("=")[0] not in flags:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def explain_upstream(config: dict[str, Any], name: str) -> list[str]:
    """What the manifest says of an item or a caption, before a later stage speaks of its own rows."""
    # Found by name: readers are no code of the stages that ask here, and must not make them run again.
    return importlib.import_module("pipeline.manifest").explain_item(config, name)


def leave_out(folder: Path, why: str) -> None:
    """Say why a stage makes nothing, in the terminal and in its folder: of an empty one DVC warns at every later stage."""
    write(folder / UNUSED, f"{why}\n")
    print(why)


def require(path: Path, stage: str, name: str) -> Path:
    """`path` if it is there; otherwise MissingError with the command that makes it."""
    if not path.exists():
        raise MissingError(
            f"{path} is missing; run: dvc repro {stage}@{name}   (or python -m pipeline.{stage} --dataset {name})"
        )
    return path
