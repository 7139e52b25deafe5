"""A caption becomes triplets: who does what to whom, what is where, what is how.

`parse(texts, config)` is the whole of it for a few texts; the triplets stage uses `Trees` and `describe` for many.
"""

from pathlib import Path
from typing import Any

from pipeline.scene_graph import phrases
from pipeline.scene_graph.parsers.repairs import repaired
from pipeline.scene_graph.parsers.trees import Trees
from pipeline.scene_graph.rules import stanford
from pipeline.scene_graph.rules.extended import facts
from pipeline.scene_graph.rules.factual import Factual
from pipeline.scene_graph.rules.graph import Graph
from pipeline.scene_graph.rules.video import Triplet, Video
from pipeline.scene_graph.sentence import Sentence, sentences

CONVENTIONS = {"video": Video, "factual": Factual}
RULES = ("extended", "stanford")
DEFAULTS = {
    "parser": "auto",
    "rules": "extended",
    "conventions": "video",
    "style": "paper",
    "form": "surface",
    "cap": 8,
}
CHOICES = {
    "parser": ("auto", "corenlp", "shallow"),
    "rules": RULES,
    "conventions": tuple(CONVENTIONS),
    "style": phrases.STYLES,
    "form": ("surface", "lemma"),
}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The section `triplets` over its defaults; ValueError for a name or a value that does not exist."""
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"triplets has no setting {unknown[0]!r}; it has: {', '.join(DEFAULTS)}")
    merged = DEFAULTS | config
    for name, allowed in CHOICES.items():
        if merged[name] not in allowed:
            raise ValueError(f"triplets.{name} is {merged[name]!r}; it must be one of: {', '.join(allowed)}")
    if not isinstance(merged["cap"], int) or merged["cap"] < 1:
        raise ValueError(f"triplets.cap is {merged['cap']!r}; it must be a whole number above 0")
    return merged


def derive(tree: Sentence, config: dict[str, Any]) -> list[Triplet]:
    """Triplets of one tree, in the order of its words; the Stanford rules know no conventions."""
    if config["rules"] == "stanford":
        return stanford.triplets(tree)
    graph = Graph(repaired(tree))
    return CONVENTIONS[config["conventions"]](graph, config["form"]).triplets(facts(graph))


def lines(parts: list[str]) -> list[str]:
    """The clean sentences of a caption's parts: what a parser is given."""
    return [line for part in parts for line, _ in sentences(part)]


def describe(text: str, parts: list[str], trees: Trees, config: dict[str, Any]) -> dict[str, Any]:
    """What a caption says: the triplets of all its sentences, their phrases, and where its nouns and verbs are.

    `parser` is shallow as soon as one sentence was; without any triplet the caption itself is the only phrase.
    """
    found: dict[Triplet, None] = {}
    nouns, verbs, parsers = [], [], []
    begin = 0
    for part in parts:
        place = text.find(part, begin)
        place = text.find(part) if place < 0 else place
        for line, offset in sentences(part):
            parser, tree = trees.tree(line)
            parsers.append(parser)
            found.update(dict.fromkeys(derive(tree, config)))
            if place >= 0:
                tree = tree.shifted([place + one for one in offset])
                nouns += phrases.nouns(tree)
                verbs += phrases.verbs(tree)
        begin = place + len(part) if place >= 0 else begin
    triplets = list(found)
    return {
        "parser": "shallow" if "shallow" in parsers or trees.parser == "shallow" else "corenlp",
        "fallback": not triplets,
        "triplets": triplets,
        "phrases": phrases.phrases(triplets, config["style"], config["cap"]) or [text],
        "nouns": nouns,
        "verbs": verbs,
    }


def parse(texts: list[str], config: dict[str, Any] | None = None, store: Path | None = None) -> list[dict[str, Any]]:
    """`describe` for a few texts; `parser: shallow` needs no server and answers at once."""
    merged = settings(config or {})
    with Trees(merged["parser"], store) as trees:
        for _ in trees.prepare(lines(texts)):
            pass
        return [describe(text, [text], trees, merged) for text in texts]
