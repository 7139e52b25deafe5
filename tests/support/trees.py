"""Dependency trees written by hand, one word a line: `word/tag head relation`, heads counted from 1, 0 the root."""

from pipeline.scene_graph.parsers.lexicon import lemma
from pipeline.scene_graph.sentence import Sentence


def tree(text: str) -> Sentence:
    """A sentence from lines such as "man/NN 2 nsubj"."""
    rows = [line.split() for line in text.strip().splitlines()]
    words = [row[0].rpartition("/")[0] for row in rows]
    tags = [row[0].rpartition("/")[2] for row in rows]
    start = [sum(len(word) + 1 for word in words[:index]) for index in range(len(words))]
    end = [begin + len(word) for begin, word in zip(start, words)]
    lemmas = [lemma(word, tag) for word, tag in zip(words, tags)]
    return Sentence(words, lemmas, tags, [int(row[1]) - 1 for row in rows], [row[2] for row in rows], start, end)
