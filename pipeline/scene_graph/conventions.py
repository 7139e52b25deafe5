"""How facts are put into words: whole names of things, lemma or surface relations, and a data set's habits."""

from typing import NamedTuple

from pipeline.scene_graph import words
from pipeline.scene_graph.graph import Graph
from pipeline.scene_graph.rules import HAVE, NONE, Fact


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


PREPOSITIONS = {
    "underneath": "under",
    "beneath": "under",
    "below": "under",
    "atop": "on top of",
    "besides": "beside",
    "next": "next to",
    "full of": "fill with",
    "onto": "on",
    "upon": "on",
    "outside of": "outside",
    "inside of": "inside",
    "in side of": "inside",
    "off of": "off",
    "on front of": "in front of",
    "at front of": "in front of",
    "on outside of": "outside",
    "on inside of": "inside",
    "in front": "in front of",
    "on top": "on top of",
    "at top of": "on top of",
    "at middle of": "on middle of",
    "in middle of": "on middle of",
    "at bottom of": "on bottom of",
    "at side of": "on side of",
    "by side of": "on side of",
    "to side of": "on side of",
    "at edge of": "on edge of",
    "at end of": "in end of",
    "on end of": "in end of",
    "on corner of": "in corner of",
    "at corner of": "in corner of",
    "at back of": "on back of",
    "in between": "between",
    "along side of": "alongside",
    "along side": "alongside",
    "along with": "with",
    "toward": "towards",
    "amongst": "among",
    "on left of": "at the left of",
    "to left of": "at the left of",
    "on left side of": "at the left of",
    "at left of": "at the left of",
    "on right of": "on the right side of",
    "to right of": "on the right side of",
    "on right side of": "on the right side of",
    "on other side of": "on side of",
    "on opposite side of": "on side of",
    "on far side of": "on side of",
}
VERBS = {"lie": "lay", "seat": "sit", "dress": "wear", "skateboarde": "skateboard"}
NAMES = {
    "t shirt": "t-shirt",
    "tshirt": "t-shirt",
    "tee shirt": "t-shirt",
    "snow board": "snowboard",
    "skate board": "skateboard",
    "surf board": "surfboard",
    "hotdog": "hot dog",
    "streetlight": "street light",
    "cell": "cellphone",
    "someone": "person",
    "somebody": "person",
    "guy": "person",
    "guys": "people",
    "cell phone": "cellphone",
    "persons": "people",
}
HANDS = words.listed("hand hands arm mouth trunk")
HAVING = {"haired": "hair", "sleeved": "sleeve", "legged": "legs"}
SEEN = words.listed("see show")
COVER = words.listed("cover surround")
CONTAINERS = words.listed(
    """bowl plate glass bottle cup box bag basket vase tray jar pot container can mug pan bucket pitcher crate case dish
    carton platter bowls plates glasses bottles cups boxes bags baskets vases trays jars pots"""
)
PICTURES = words.listed("picture photo photograph image view")
WHOLES = words.ANIMATE | words.VEHICLES | words.FURNISHINGS


class Factual(Video):
    """The habits of FACTUAL's annotators."""

    def __init__(self, graph: Graph, form: str):
        super().__init__(graph, "lemma")
        self.has_object: dict[tuple[int, int], int] = {}

    def triplets(self, found: list[Fact]) -> list[Triplet]:
        self.has_object = {
            (fact.subject, fact.verb): fact.object for fact in found if fact.verb >= 0 and not fact.preposition
        }
        said = super().triplets(found)
        back = {
            (t.object, t.subject) for t in said if t.relation in ("on", "in", "inside", "around", "under", "on top of")
        }
        said = [t for t in said if not (t.relation in ("with", "have") and (t.subject, t.object) in back)]
        if any(triplet.kind != "action" for triplet in said):
            said = [triplet for triplet in said if triplet.kind != "action"]
        return said

    def called(self, index: int) -> str:
        return name(self.graph, index, self.apart(index))

    def thing(self, index: int, other: int) -> str:
        said = super().thing(index, other)
        return NAMES.get(said, said)

    def related(self, subject: str, verb: str, preposition: str, thing: str, fact: Fact) -> list[Triplet]:
        graph = self.graph
        lemma = graph.lemma[fact.verb] if fact.verb >= 0 else ""
        preposition = PREPOSITIONS.get(preposition, preposition)
        if lemma in COVER and preposition in ("in", "with", "by"):
            subject, thing, preposition = thing, subject, ""
        if lemma in SEEN and preposition:
            verb = ""
        if verb.split(" ")[0] in VERBS:
            verb = VERBS[verb.split(" ")[0]]
        if lemma == "dress" and preposition == "in":
            preposition = ""
        clothed = graph.word[fact.object] in words.CLOTHES and graph.word[fact.subject] in words.ANIMATE
        if clothed and fact.verb == NONE and preposition == "in":
            verb, preposition = "wear", ""
        if preposition and verb in ("look down", "lay down", "sit down"):
            verb = verb[:-5]
        if (
            thing in HANDS
            and preposition == "with"
            and self.object_of(fact) >= 0
            and lemma in ("hold", "touch", "carry")
        ):
            held = self.thing(self.object_of(fact), NONE)
            return [Triplet(thing, verb, held, "relation"), Triplet(subject, "have", thing, "relation")]
        if clothed and preposition == "in" and verb and (fact.subject, fact.verb) not in self.has_object:
            verb, preposition = "wear", ""
        if verb == "hold" and preposition == "on":
            preposition = ""
        if fact.verb == HAVE and graph.tag[fact.subject] == "PRP$":
            return []
        if preposition in ("in", "on", "at") and (fact.subject, fact.verb) in self.has_object:
            verb = ""
        if preposition == "of" and not verb:
            return self.of(subject, thing, fact)
        return [Triplet(subject, f"{verb} {preposition}".strip(), thing, "relation")]

    def object_of(self, fact: Fact) -> int:
        return self.has_object.get((fact.subject, fact.verb), NONE)

    def of(self, subject: str, thing: str, fact: Fact) -> list[Triplet]:
        """ "leg of a man": the man has it; "a bowl of soup": the soup is in it."""
        word = self.graph.word[fact.subject]
        if word in CONTAINERS:
            return [Triplet(thing, "in", subject, "relation")]
        if word in PICTURES:
            return []
        return [Triplet(thing, "have", subject, "relation")]

    def attribute(self, subject: str, fact: Fact) -> list[Triplet]:
        graph, index = self.graph, fact.object
        word = graph.word[index]
        if fact.kind == "attribute":
            if word in words.UNSEEN or word in words.PLACES or graph.tag[index] == "CD" and word == "1":
                return []
            if word == "colored" or word in words.SHADES and self.shades(index):
                return []
            if word == "blond":
                return [Triplet(subject, "is", "blonde", "attribute")]
            if index + 1 < len(graph.word) and graph.word[index + 1] == "colored":
                joined = {"multi": "multi-colored"}.get(word, f"{word} colored" if word in words.SHADES else word)
                return [Triplet(subject, "is", joined, "attribute")]
            if word in HAVING:
                return self.having(subject, index)
            if word in words.NUMBERS:
                return [Triplet(subject, "is", words.NUMBERS[word], "attribute")]
        return super().attribute(subject, fact)

    def having(self, subject: str, index: int) -> list[Triplet]:
        """ "long haired boy": he has hair, and it is long."""
        graph, part = self.graph, HAVING[self.graph.word[index]]
        said = [Triplet(subject, "have", part, "relation")]
        if index and graph.tag[index - 1] == "JJ":
            said.append(Triplet(part, "is", graph.word[index - 1], "attribute"))
        return said

    def shades(self, index: int) -> bool:
        """Whether this word only shades the colour after it."""
        return index + 1 < len(self.graph.word) and self.graph.word[index + 1] in words.COLOURS

    def apart(self, index: int) -> frozenset[int]:
        graph = self.graph
        if not graph.children[index]:
            return frozenset()
        return frozenset(
            child
            for child in graph.kids(index, "compound")
            if self.material(child) or self.whole(child, index) or graph.word[index] in words.CLOTHES
        )

    def material(self, index: int) -> bool:
        word = self.graph.word[index]
        return (
            word in words.COLOURS
            or word in words.MATERIALS
            or word in words.PATTERNS
            or word in words.AGES
            or word in words.SHAPES
        )

    def whole(self, whole: int, part: int) -> bool:
        """ "bus door", "zebra head"."""
        return self.graph.word[part] in words.PARTS and self.graph.word[whole] in WHOLES

    def modifiers(self, index: int) -> list[Triplet]:
        if not self.graph.noun(index) or not self.graph.children[index]:
            return []
        graph = self.graph
        said = []
        subject = self.thing(index, NONE)
        for child in sorted(self.apart(index)):
            if not self.whole(child, index):
                word = {"wood": "wooden"}.get(graph.word[child], graph.word[child])
                said.append(Triplet(subject, "is", word, "attribute"))
            else:
                said.append(Triplet(self.thing(child, NONE), "have", subject, "relation"))
        for child in graph.kids(index, "group"):
            if graph.word[child] == "group":
                said.append(Triplet(subject, "is", "group of", "attribute"))
            elif graph.word[child] in ("piece", "slice", "part", "patch", "pieces", "slices"):
                said.append(Triplet(subject, "is", graph.word[child], "attribute"))
        if any(graph.word[child] == "both" for child in graph.kids(index, "det", "cc:preconj")):
            said.append(Triplet(subject, "is", "2", "attribute"))
        return said


CONVENTIONS = {"video": Video, "factual": Factual}
