"""Sentences to trees by whichever parser there is: kept parses first, then CoreNLP, then the shallow one."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.scene_graph.parsers import corenlp, shallow
from pipeline.scene_graph.parsers.server import PROPERTIES, Parser, Server, ServerError
from pipeline.scene_graph.parsers.store import Store, known_elsewhere
from pipeline.scene_graph.parsers.tagger import misread
from pipeline.scene_graph.sentence import Sentence

TEXT_VERSION = "1"  # of the cleaning in sentence.py: other text, other parse


class Trees:
    """Parses sentences; a context manager, as it may own a server. The server starts only when something must be parsed.

    `parser`: auto takes CoreNLP where Java and the jars are, else the shallow parser, and says so through `say`.
    `store` keeps parses; with `own`, a file of one slice's, it is only asked which sentences need no second parse.
    """

    def __init__(
        self,
        parser: str = "auto",
        store: Path | None = None,
        say: Callable[[str], None] | None = None,
        own: Path | None = None,
    ):
        if parser not in ("auto", "corenlp", "shallow"):
            raise ValueError(f"parser is {parser!r}; it must be auto, corenlp or shallow")
        self.say = say or (lambda line: print(line, file=sys.stderr))
        self.server: Server | None = None
        self.forced = parser == "corenlp"
        reason = None if parser == "shallow" else corenlp.missing()
        if reason and self.forced:
            raise ValueError(f"parser: corenlp cannot run: {reason}")
        if reason:
            self.say(f"shallow parser, as there is {reason}")
        self.parser = "shallow" if reason or parser == "shallow" else "corenlp"
        self.store = None
        self.elsewhere = store if own else None
        if store and self.parser == "corenlp":
            stamp = f"corenlp {corenlp.version()} {sorted(PROPERTIES.items())} text {TEXT_VERSION}"
            self.store = Store(own, stamp, "DELETE") if own else Store(store, stamp)
        self.parsed = self.failed = self.lacking = 0
        self.memory: dict[str, Sentence] = {}  # trees of this run where no store keeps them

    def __enter__(self) -> "Trees":
        return self

    def __exit__(self, *error: object) -> None:
        if self.server:
            self.server.stop()
        if self.store:
            self.store.close()

    def prepare(self, texts: list[str]) -> Iterator[int]:
        """Parse what the store lacks and keep it; yields how many sentences are ready, batch by batch."""
        if self.parser == "shallow":
            return
        lacking = [text for text in dict.fromkeys(texts) if not (self.store and self.store.has(text))]
        if self.elsewhere and self.store:
            known = known_elsewhere(self.elsewhere, self.store.parser, lacking)
            lacking = [text for text in lacking if text not in known]
        self.lacking = len(lacking)
        for batch in self.annotate(lacking):
            if self.store:
                self.store.put(batch)
            else:
                self.memory.update(batch)
            yield len(batch)

    def annotate(self, texts: list[str]) -> Iterator[dict[str, Sentence]]:
        """Trees from CoreNLP, batch by batch; a sentence that CoreNLP cannot do is left out."""
        if not texts or self.parser == "shallow":
            return
        try:
            if self.server is None:
                server = Server()
                server.start()
                self.server = server
            for batch, trees in Parser(self.server).parse(texts):
                done = {text: tree for text, tree in zip(batch, trees, strict=True) if tree is not None}
                self.parsed += len(done)
                self.failed += len(batch) - len(done)
                yield done
        except ServerError as error:
            if self.forced:
                raise
            self.say(f"shallow parser for what is left, as CoreNLP failed: {error}")
            self.parser = "shallow"

    def tree(self, text: str) -> tuple[str, Sentence]:
        """The tree of one sentence that `prepare` has seen, and the parser that made it.

        A sentence that CoreNLP failed on, or misread by a rule that is surer than its tagger, is the shallow parser's.
        """
        kept = self.store.get(text) if self.store else self.memory.get(text)
        if kept and not misread(kept.word, kept.tag):
            return "corenlp", kept
        return "shallow", shallow.parse(text)
