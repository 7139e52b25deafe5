"""What the commands share: their flags, how they end, and what they need to be there."""

import argparse
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.files import MissingError, explain_storage

SLICE = {
    "metavar": "I/N",
    "help": "only part I of N, as 3/8, beside the others on this or other machines; then run it once without --slice",
}
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Around the `main` of a command: it ends with one line where a person can mend what is wrong, and on Ctrl-C.

    Libraries raise errors (the tree is at the top of pipeline/files.py), and only here, or in a `main` itself, does one become
    SystemExit. Anything else is a fault of the code and is shown whole.
    """

    @functools.wraps(main)
    def run() -> None:
        try:
            try:
                main()
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # `... | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except ValueError as error:
            raise SystemExit(visible(str(error))) from None
        except OSError as error:
            if (said := explain_storage(error, None)) is None:
                raise
            raise SystemExit(visible(said)) from None
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on from here") from None

    return run


def visible(text: str) -> str:
    """Text from a dataset as a terminal or a page may show it: what would steer either is spelt out, such as `\\x1b`.

    That is control characters (but for the end of a line and a tab), the marks that turn the direction of reading around,
    separators of lines and paragraphs, and halves of characters.
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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


def require(path: Path, stage: str, name: str) -> Path:
    """`path` if it is there; otherwise MissingError with the command that makes it."""
    if not path.exists():
        raise MissingError(
            f"{path} is missing; run: dvc repro {stage}@{name}   (or python -m pipeline.{stage} --dataset {name})"
        )
    return path
