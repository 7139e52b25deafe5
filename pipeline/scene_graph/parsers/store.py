"""Parses kept on disk, by sentence and parser: new rules read them, new captions add to them."""

import contextlib
import hashlib
import json
import sqlite3
from pathlib import Path

from pipeline import files
from pipeline.scene_graph.sentence import Sentence

FIELDS = ("word", "lemma", "tag", "head", "relation", "start", "end")


class Store:
    """An SQLite file of trees. `parser` names the parser, its version and whatever else its trees depend on.

    journal: WAL lets several runs of one machine write at once; DELETE bears a folder that machines share, with one writer.
    """

    def __init__(self, path: Path, parser: str, journal: str = "WAL"):
        self.parser, self.journal = parser, journal
        self.path = path
        with files.storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.open()

    def open(self) -> None:
        """Open the file, or make it anew."""
        self.base = sqlite3.connect(self.path, timeout=120)
        try:
            self.prepare()
        except sqlite3.OperationalError:  # a full disk, a file system that cannot be written
            raise
        except sqlite3.DatabaseError:  # not a database, or half a one: every parse can be made again
            self.base.close()
            self.path.unlink()
            self.base = sqlite3.connect(self.path, timeout=120)
            self.prepare()

    def prepare(self) -> None:
        self.base.execute(f"PRAGMA journal_mode={self.journal}")
        self.base.execute("CREATE TABLE IF NOT EXISTS parse (key BLOB PRIMARY KEY, tree TEXT) WITHOUT ROWID")

    def key(self, text: str) -> bytes:
        return hashlib.blake2b(f"{self.parser}\0{text}".encode(), digest_size=16).digest()

    def get(self, text: str) -> Sentence | None:
        """The tree of one sentence, if it was parsed before."""
        row = self.base.execute("SELECT tree FROM parse WHERE key = ?", (self.key(text),)).fetchone()
        return Sentence(*json.loads(row[0])) if row else None

    def has(self, text: str) -> bool:
        return self.base.execute("SELECT 1 FROM parse WHERE key = ?", (self.key(text),)).fetchone() is not None

    def put(self, trees: dict[str, Sentence]) -> None:
        """Keep a batch, all of it or nothing."""
        rows = [
            (self.key(text), json.dumps([getattr(tree, name) for name in FIELDS], separators=(",", ":")))
            for text, tree in trees.items()
        ]
        with files.storage(self.path), self.base:
            self.base.executemany("INSERT OR REPLACE INTO parse VALUES (?, ?)", rows)

    def adopt(self, other: Path) -> None:
        """Take over all parses of another file, whatever parser made them; one that is no database is left out."""
        with files.storage(self.path), contextlib.suppress(sqlite3.DatabaseError):
            self.base.execute("ATTACH ? AS other", (str(other),))
            try:
                with self.base:
                    self.base.execute("INSERT OR IGNORE INTO parse SELECT key, tree FROM other.parse")
            finally:
                self.base.execute("DETACH other")

    def close(self) -> None:
        self.base.close()


def known_elsewhere(path: Path, parser: str, texts: list[str]) -> set[str]:
    """Which sentences a store has, asked without a lock and without a trace, so that many machines may ask at once.

    Nobody may rely on it: where another run is writing, the answer may be that nothing is known.
    """
    if not path.exists():
        return set()
    asked = object.__new__(Store)
    asked.parser, found = parser, set()
    try:
        asked.base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        with contextlib.closing(asked.base):
            found = {text for text in texts if asked.has(text)}
    except sqlite3.Error:
        return set()
    return found
