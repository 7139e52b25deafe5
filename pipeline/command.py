"""How a command ends: with one line where a person can mend what is wrong, and without a word where nobody reads on."""

import functools
import os
import re
import select
import signal
import sys
from collections.abc import Callable

from pipeline.files import explain_storage

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
OUTPUTS = (1, 2)  # file descriptors of a process's output and of its errors


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
        except BrokenPipeError:
            if not (gone := unread_outputs()):
                raise  # some other pipe, as a worker's
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for output in gone:
                os.dup2(nowhere, output)  # what is still unsaid goes there
            # what a shell says of any program whose reader went away: the work may be half done, so it is no success
            raise SystemExit(128 + signal.SIGPIPE) from None
        except ValueError as error:
            raise SystemExit(visible(str(error))) from None
        except OSError as error:
            if (said := explain_storage(error, None)) is None:
                raise
            raise SystemExit(visible(said)) from None
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on from here") from None

    return run


def unread_outputs() -> list[int]:
    """Those of this process's outputs that are pipes without a reader, as after `... | head`."""
    asked = select.poll()
    for output in OUTPUTS:
        asked.register(output, 0)  # errors and hang-ups are told unasked
    return [output for output, state in asked.poll(0) if state & (select.POLLERR | select.POLLHUP)]


def visible(text: str) -> str:
    """Text from a dataset as a terminal or a page may show it: what would steer either is spelt out, such as `\\x1b`.

    That is control characters (but for the end of a line and a tab), the marks that turn the direction of reading around,
    separators of lines and paragraphs, and halves of characters.
    """
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
