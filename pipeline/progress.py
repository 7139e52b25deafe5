"""Progress: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any


class Progress:
    """A bar on a terminal; elsewhere a plain line every few seconds: count, share, rate, remaining time, a note."""

    def __init__(self, total: int, name: str, unit: str = "item", every: float = 5.0, done: int = 0):
        self.total, self.name, self.unit, self.every = total, name, unit, every
        self.count, self.done, self.note = (
            done,
            done,
            "",
        )  # `done`: by an earlier run, so that it says nothing of the rate
        self.begin = self.said = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=name, unit=unit)

    def add(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more; `note` says what the run waits for, or a running figure."""
        self.count += count
        self.note = self.note if note is None else note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(count)
        elif time.monotonic() - self.said >= self.every:
            self.say()

    def say(self) -> None:
        """Print one plain line."""
        self.said = time.monotonic()
        rate = (self.count - self.done) / max(self.said - self.begin, 1e-9)
        left = (self.total - self.count) / rate if rate > 0 else 0.0
        share = 100 * self.count / max(self.total, 1)
        line = f"{self.name}: {self.count}/{self.total} {self.unit}s ({share:.0f} %), {rate:.1f}/s, {left:.0f} s left"
        print(f"{line}, {self.note}" if self.note else line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar, or print the last plain line."""
        if self.bar is not None:
            self.bar.close()
        elif self.count > self.done:
            self.say()


def progress(items: Iterable[Any], name: str, unit: str = "item", total: int | None = None) -> Iterator[Any]:
    """Iterate with progress."""
    items = items if total is not None or hasattr(items, "__len__") else list(items)
    meter = Progress(len(items) if total is None else total, name, unit)
    try:
        for item in items:
            yield item
            meter.add()
    finally:
        meter.close()


class WaitMeter:
    """Measures what the main thread waits for (decoding, encoding, the disk) and says so in the progress line."""

    def __init__(self, total: int):
        self.meter = Progress(total, "visual", "item")
        self.spent: Counter[str] = Counter()
        self.frames = 0
        self.begin = time.monotonic()

    class Span:
        """Adds the time it is open to one name."""

        def __init__(self, spent: Counter[str], name: str):
            self.spent, self.name = spent, name

        def __enter__(self) -> None:
            self.since = time.monotonic()

        def __exit__(self, *_: object) -> None:
            self.spent[self.name] += time.monotonic() - self.since

    def on(self, name: str) -> "WaitMeter.Span":
        """Count the time inside as spent on `name`."""
        return self.Span(self.spent, name)

    def during(self, name: str, stream: Iterator[Any]) -> Iterator[Any]:
        """Iterate, counting the wait for each next one."""
        while True:
            with self.on(name):
                value = next(stream, None)
            if value is None:
                return
            yield value

    def tick(self) -> None:
        """One item is done."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        share = ", ".join(f"{name} {100 * spent / passed:.0f} %" for name, spent in self.spent.most_common())
        self.meter.add(note=f"{self.frames / passed:.0f} frames/s, waits for {share}")

    def close(self) -> None:
        """End the line."""
        self.meter.close()
