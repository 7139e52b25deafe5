"""How facts are put into words: whole names of things, lemma or surface relations, pronouns by what they stand for."""

from typing import NamedTuple

from pipeline.scene_graph import words
from pipeline.scene_graph.rules.extended import HAVE, NONE, Fact
from pipeline.scene_graph.rules.graph import Graph


class Triplet(NamedTuple):
    """`kind` is relation, attribute or action; the relation of the latter two is "is"."""

    subject: str
    relation: str
    object: str
    kind: str


CORNERS = words.listed("top bottom left right upper lower corner edge side middle center half far near")
PRONOUNS = {"he": "man", "him": "man", "she": "woman", "her": "woman", "they": "people", "them": "people"}
SINGULAR = frozenset({"he", "him", "his", "she", "her", "it", "its", "himself", "herself", "itself"})
NAMELESS = words.listed("it its i we you us me my our your this that these those what which who whom whose one there")


def antecedent(graph: Graph, index: int, avoid: int) -> int:
    """The noun that a pronoun stands for: the nearest before it, of its number, a person for "he"; -1 if there is none."""
    word = graph.word[index]
    person = word in ("he", "him", "his", "she", "her", "himself", "herself")
    if graph.relation[index] in ("nsubj", "nsubj:pass") and not person:
        doers = [
            place for place in range(index) if graph.relation[place] in ("nsubj", "nsubj:pass") and graph.noun(place)
        ]
        fitting = [place for place in doers if (graph.tag[place] in ("NNS", "NNPS")) == (word not in SINGULAR)]
        if fitting and fitting[-1] != avoid:
            return fitting[-1]
    best = other = NONE
    for place in range(index - 1, -1, -1):
        if not graph.noun(place) or place == avoid or graph.relation[place] == "compound":
            continue
        plural = graph.tag[place] in ("NNS", "NNPS")
        if word in SINGULAR and plural:
            other = place if other == NONE and not person else other
            continue
        if person and graph.word[place] in words.ANIMATE:
            return place
        if not person and graph.word[place] not in words.PEOPLE:
            return place
        best = place if best == NONE else best
    if person:
        return NONE
    return best if best != NONE else other


def name(graph: Graph, index: int, apart: frozenset[int] = frozenset()) -> str:
    """A thing with its compounds: "baseball player"; `apart` are those that the caller keeps out."""
    if not graph.children[index]:
        return graph.word[index]
    parts = [
        child for child in graph.kids(index, "compound", "flat") if child not in apart and graph.tag[child] != "CD"
    ]
    parts += [child for child in graph.kids(index, "amod") if graph.word[child] in words.JOINED and child == index - 1]
    return " ".join(graph.word[word] for word in sorted({*parts, index}) if abs(word - index) < 6)


def placed(graph: Graph, index: int) -> list[int]:
    """Words that say which corner or side, or which left or right: "top left corner"."""
    if graph.word[index] not in CORNERS or not graph.children[index]:
        return []
    return [child for child in graph.kids(index, "amod", "compound") if graph.word[child] in CORNERS and child < index]


class Video:
    """The paper's habits: things as they are said, one-argument verbs kept as actions."""

    def __init__(self, graph: Graph, form: str):
        self.graph, self.form = graph, form

    def triplets(self, found: list[Fact]) -> list[Triplet]:
        said = [triplet for fact in found for triplet in self.say(fact)]
        said += [triplet for index in range(len(self.graph.word)) for triplet in self.modifiers(index)]
        return list(dict.fromkeys(said))

    def say(self, fact: Fact) -> list[Triplet]:
        """A fact in words; nothing if it is about a pronoun that stands for nothing."""
        subject = self.thing(fact.subject, fact.object)
        if fact.kind == "relation":
            thing = self.thing(fact.object, fact.subject)
            if not subject or not thing:
                return []
            return self.related(subject, self.verb(fact.verb), self.preposition(fact.preposition), thing, fact)
        if not subject:
            return []
        return self.attribute(subject, fact)

    def related(self, subject: str, verb: str, preposition: str, thing: str, fact: Fact) -> list[Triplet]:
        return [Triplet(subject, f"{verb} {preposition}".strip(), thing, "relation")]

    def attribute(self, subject: str, fact: Fact) -> list[Triplet]:
        graph, index = self.graph, fact.object
        if fact.kind == "attribute" and (graph.word[index] in words.JOINED and index == fact.subject - 1):
            return []
        if fact.kind == "attribute" and graph.word[fact.subject] in CORNERS and graph.word[index] in CORNERS:
            return []
        word = self.quality(index) if fact.kind == "attribute" else self.act(index)
        return [Triplet(subject, "is", word, fact.kind)]

    def act(self, index: int) -> str:
        particle = self.graph.kids(index, "compound:prt")
        particle += [child for child in self.graph.kids(index, "xcomp") if self.graph.tag[child][:2] == "JJ"]
        said = self.graph.lemma if self.form == "lemma" and self.graph.tag[index] != "VBG" else self.graph.word
        return " ".join([said[index], *(self.graph.word[place] for place in particle)])

    def quality(self, index: int) -> str:
        """An attribute with what shades it: "dark blue"."""
        graph = self.graph
        if graph.noun(index):
            return name(graph, index)
        if index and graph.word[index - 1] in words.SHADES and graph.word[index] in words.COLOURS:
            return f"{graph.word[index - 1]} {graph.word[index]}"
        return graph.word[index]

    def thing(self, index: int, other: int) -> str:
        """The name of a thing; a pronoun by what it stands for."""
        graph = self.graph
        if graph.tag[index] in ("PRP", "PRP$"):
            noun = antecedent(graph, index, other)
            if noun >= 0:
                return self.called(noun)
            return PRONOUNS.get(graph.word[index], "" if graph.word[index] in NAMELESS else graph.word[index])
        if graph.word[index] == "other" and index and graph.word[index - 1] == "each" and other >= 0:
            return self.thing(other, NONE)
        if graph.tag[index] in ("WP", "WDT", "DT", "EX", "CD") or graph.word[index] in NAMELESS:
            return ""
        return self.called(index)

    def called(self, index: int) -> str:
        said = name(self.graph, index, self.apart(index))
        which = [place for place in placed(self.graph, index) if self.graph.word[place] not in said.split(" ")]
        return " ".join([*(self.graph.word[place] for place in which), said])

    def apart(self, index: int) -> frozenset[int]:
        """Compounds of a noun that are a quality of it rather than part of its name: colours."""
        graph = self.graph
        if not graph.children[index]:
            return frozenset()
        return frozenset(child for child in graph.kids(index, "compound") if graph.word[child] in words.COLOURS)

    def modifiers(self, index: int) -> list[Triplet]:
        """Qualities that the tree has as compounds."""
        if not self.graph.noun(index) or not self.graph.children[index]:
            return []
        subject = name(self.graph, index, self.apart(index))
        return [Triplet(subject, "is", self.graph.word[child], "attribute") for child in sorted(self.apart(index))]

    def verb(self, index: int) -> str:
        if index < 0:
            return "have" if index == HAVE else ""
        graph = self.graph
        said = graph.lemma if self.form == "lemma" else graph.word
        particles = [graph.word[child] for child in graph.kids(index, "compound:prt") if not graph.kids(child, "obl")]
        return " ".join([said[index], *particles])

    def preposition(self, places: tuple[int, ...]) -> str:
        return " ".join(self.graph.word[place] for place in places)
