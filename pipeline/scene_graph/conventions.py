"""How facts are put into words: whole names of things, lemma or surface relations, and a data set's habits."""

from typing import NamedTuple

from pipeline.scene_graph import words
from pipeline.scene_graph.graph import Graph
from pipeline.scene_graph.rules import HAVE, Fact


class Triplet(NamedTuple):
    """`kind` is relation, attribute or action; an attribute's relation is "is"."""

    subject: str
    relation: str
    object: str
    kind: str


def name(graph: Graph, index: int) -> str:
    """A thing with its compounds: "baseball player"."""
    parts = [child for child in graph.kids(index, "compound", "flat") if graph.tag[child] != "CD"]
    return " ".join(graph.word[word] for word in sorted([*parts, index]))


def relation(graph: Graph, places: tuple[int, ...], form: str) -> str:
    """A relation's words; verbs by their lemma unless the surface is wanted."""
    if places == HAVE:
        return "have"
    said = graph.word if form == "surface" else graph.lemma
    return " ".join(said[place] if graph.tag[place][0] == "V" else graph.word[place] for place in places)


def video(graph: Graph, found: list[Fact], form: str) -> list[Triplet]:
    """The paper's habits: things as they are said, one-argument verbs kept as actions."""
    triplets = []
    for fact in found:
        subject = name(graph, fact.subject)
        if fact.kind == "relation":
            triplet = Triplet(subject, relation(graph, fact.relation, form), name(graph, fact.object), "relation")
        else:
            triplet = Triplet(subject, "is", graph.word[fact.object], fact.kind)
        triplets.append(triplet)
    return list(dict.fromkeys(triplets))


def factual(graph: Graph, found: list[Fact], form: str) -> list[Triplet]:
    """The habits of FACTUAL's annotators."""
    triplets = []
    for triplet in video(graph, found, "lemma"):
        if triplet.kind == "attribute" and triplet.object in words.NUMBERS:
            triplet = triplet._replace(object=words.NUMBERS[triplet.object])
        triplets.append(triplet)
    if any(triplet.kind != "action" for triplet in triplets):
        triplets = [triplet for triplet in triplets if triplet.kind != "action"]
    return triplets


CONVENTIONS = {"video": video, "factual": factual}
