"""The habits of FACTUAL's annotators, as a layer over the general rules: normal forms, owners, clothes, containers."""

from pipeline.scene_graph import words
from pipeline.scene_graph.rules.extended import HAVE, NONE, Fact
from pipeline.scene_graph.rules.graph import Graph
from pipeline.scene_graph.rules.video import Triplet, Video, name

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
