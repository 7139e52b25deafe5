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
PERSONAL = words.listed("he him his himself she her hers herself")
FEMALE = words.listed("she her hers herself")
SINGULAR = PERSONAL | {"it", "its", "itself"}
PLURAL = words.listed("they them their theirs themselves")
UNSAID = words.listed("here there that this these those what which who whom whose one it its")
MEN = words.listed("man boy guy father son brother husband male gentleman groom cowboy king men boys guys")
WOMEN = words.listed("woman girl lady mother daughter sister wife female bride queen women girls ladies")


def antecedent(graph: Graph, index: int, avoid: int) -> int:
    """The noun that a pronoun stands for: the nearest before it of its kind; -1 if there is none.

    "he" is no woman, "it" nobody; "I" and "you" are not in the video. "In his kitchen a man cooks": the subject after it.
    """
    word = graph.word[index]
    if word not in SINGULAR and word not in PLURAL:
        return NONE
    before = [place for place in range(index - 1, -1, -1) if place != avoid and stands(graph, place, word)]
    fitting = [place for place in before if plural(graph, place) == (word in PLURAL)]
    doers = [place for place in fitting if graph.relation[place] in ("nsubj", "nsubj:pass")]
    if doers and word not in PERSONAL and graph.relation[index] in ("nsubj", "nsubj:pass"):
        return doers[0]
    if doers and word == "its" and graph.word[doers[0]] in words.ANIMATE:
        return doers[0]  # "a cat is under the bed licking its paw"
    if fitting and word in PERSONAL and graph.tag[index] == "PRP$":  # "holds the kitten in his hand"
        people = [place for place in fitting if place in doers and graph.word[place] in words.PEOPLE]
        held = graph.relation[fitting[0]] in ("obj", "iobj") and graph.word[fitting[0]] not in words.PEOPLE
        return people[0] if people and held else fitting[0]
    if fitting:
        return fitting[0]
    if word in PLURAL:
        joined = [place for place in before if graph.kids(place, "conj") or graph.word[place] in words.PEOPLE]
        before = joined or before
    if before and word not in PERSONAL:
        return before[0]
    after = [place for place in range(index + 1, len(graph.word)) if place != avoid and stands(graph, place, word)]
    subject = [place for place in after if graph.relation[place] in ("nsubj", "nsubj:pass") and place - index > 1]
    return subject[0] if subject and graph.tag[index] == "PRP$" else NONE


def stands(graph: Graph, place: int, word: str) -> bool:
    """Whether a pronoun can mean the noun at this place."""
    noun = graph.word[place]
    if not graph.noun(place) or graph.relation[place] == "compound" or noun in ("camera", "cameraman"):
        return False
    if word in PERSONAL:
        return noun in words.ANIMATE and noun not in (MEN if word in FEMALE else WOMEN)
    return word in PLURAL or noun not in words.PEOPLE


def plural(graph: Graph, place: int) -> bool:
    return graph.tag[place] in ("NNS", "NNPS")


def name(graph: Graph, index: int, apart: frozenset[int] = frozenset()) -> str:
    """A thing with its compounds: "baseball player"; `apart` are those that the caller keeps out."""
    if not graph.children[index]:
        return graph.word[index]
    parts = [
        child for child in graph.kids(index, "compound", "flat") if child not in apart and graph.tag[child] != "CD"
    ]
    parts += [inner for child in parts for inner in graph.kids(child, "compound") if inner not in apart]
    parts += [
        child
        for child in graph.kids(index, "amod")
        if words.joined(graph.word[child], graph.word[index]) and child == index - 1
    ]
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
        if fact.kind == "attribute" and (
            words.joined(graph.word[index], graph.word[fact.subject]) and index == fact.subject - 1
        ):
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
            return self.called(noun) if noun >= 0 else ""
        if graph.tag[index] in ("WP", "WDT", "DT", "EX", "CD", "RB") or graph.word[index] in UNSAID:
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
