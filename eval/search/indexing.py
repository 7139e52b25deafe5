"""The indexing of a folder as the server sees it: a process beside it, how far it is, and what it has to say."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.search.library import STEPS
from pipeline.files import read_table
from pipeline.stage import visible

METER = re.compile(r"^(?P<what>[\w ]+): (?P<done>\d+)/(?P<total>\d+) ")  # what pipeline/progress.py prints
POLL = 1.0  # seconds between looks at the shards


@dataclass(frozen=True)
class Progress:
    """How far the indexing of a folder is."""

    running: bool = False
    step: str = ""  # in words
    done: int = 0  # of the step
    total: int = 0
    warning: str = ""
    error: str = ""
    rejected: list[dict[str, str]] = field(default_factory=list)  # files that could not be read, and why


class Indexing:
    """Runs `eval.search.library` for a folder; calls `changed` while it works, so that what is done can be found, and `settled`
    when all is."""

    def __init__(self, root: Path, home: Path, device: str, changed: Callable, settled: Callable):
        self.root, self.home, self.device, self.changed, self.settled = root, home, device, changed, settled
        self.progress = Progress()
        self.process: subprocess.Popen | None = None
        self.starting = threading.Lock()
        self.ended = threading.Event()

    def start(self) -> bool:
        """Begin, unless it runs; whether it was begun."""
        with self.starting:
            if self.progress.running:
                return False
            self.progress = Progress(running=True, step=STEPS[0])
            self.ended.clear()
            words = [sys.executable, "-m", "eval.search.library", "--folder", str(self.root), "--device", self.device]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for work in (self.listen, self.read_meter, self.look):
                threading.Thread(target=work, daemon=True, name=work.__name__).start()
            return True

    def stop(self) -> None:
        """End the process; what it has done stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process.kill()

    def listen(self) -> None:
        """Take what the process says until it ends."""
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.take(json.loads(line))
        code = self.process.wait()
        if code and not self.progress.error:
            self.progress = replace(
                self.progress, error=f"indexing ended early (exit {code}); what is done can be searched"
            )
        self.ended.set()

    def take(self, said: dict) -> None:
        """One line of it."""
        if "step" in said:
            self.progress = replace(self.progress, step=STEPS[said["step"]], done=0, total=0)
        for name in ("warning", "error"):
            if name in said:
                self.progress = replace(self.progress, **{name: visible(str(said[name]))})

    def read_meter(self) -> None:
        """Take the lines by which the stages say how far they are; the rest of stderr goes on to this process's own."""
        for line in self.process.stderr:
            if found := METER.match(line):
                self.progress = replace(self.progress, done=int(found["done"]), total=int(found["total"]))
            else:
                print(visible(line.rstrip("\n")), file=sys.stderr)

    def look(self) -> None:
        """Let the search take up what is done, every POLL seconds and once more in the end."""
        last = False
        while not last:
            last = self.ended.wait(POLL)
            with contextlib.suppress(
                ValueError, OSError
            ):  # a shard may be replaced at this moment: the next look sees it
                self.changed()
        self.progress = replace(self.progress, running=False, rejected=self.rejects())
        with contextlib.suppress(ValueError, OSError):
            self.settled()

    def rejects(self) -> list[dict[str, str]]:
        """Files that could not be read."""
        found = []
        for stage in ("manifest", "visual"):
            path = self.home / stage / "rejects.parquet"
            with contextlib.suppress(ValueError, OSError):
                rows = read_table(path).to_pylist()
                found += [{name: visible(str(row[name])) for name in ("id", "reason", "detail")} for row in rows]
        return found[:200]
