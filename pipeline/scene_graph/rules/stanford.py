"""The rules of the Stanford scene-graph parser (Schuster et al. 2015, as ported in CoreNLP 4.5.10), for parity.

They are kept with their limits: prepositions of `obl` are dropped ("man sit chair"), agentless passives, control verbs
and relative clauses give nothing, relations are lemmas, attributes are "is". The trees are ours (neural, basic UD), its
own are from a PCFG, so that where trees differ triplets do.
"""

from pipeline.scene_graph import words
from pipeline.scene_graph.rules.graph import Graph
from pipeline.scene_graph.rules.video import Triplet
from pipeline.scene_graph.sentence import Sentence

MANY = words.listed("lots many several plenty dozens tons hundreds thousands")
QUANTITIES = words.listed(
    """lot assortment number couple bunch handful litany sheaf slew dozen series variety multitude wad clutch wave
    mountain array spate string ton range plethora heap sort form kind type version bit pair triple total"""
)
TWO_WORDS = """according to,across from,ahead of,along with,alongside of,apart from,as for,as from,as of,as per,as to,
aside from,away from,based on,because of,close by,close to,contrary to,compared to,compared with,due to,depending on,
except for,exclusive of,far from,followed by,inside of,instead of,irrespective of,next to,near to,off of,out of,outside of,
owing to,preliminary to,preparatory to,previous to,prior to,pursuant to,regardless of,subsequent to,such as,thanks to,
together with"""
PAIRS = {tuple(pair.split()) for pair in TWO_WORDS.split(",")}
TRIPLES = {
    ("by", "means", "of"),
    ("in", "accordance", "with"),
    ("in", "addition", "to"),
    ("in", "case", "of"),
    ("in", "front", "of"),
    ("in", "lieu", "of"),
    ("in", "place", "of"),
    ("in", "spite", "of"),
    ("on", "account", "of"),
    ("on", "behalf", "of"),
    ("on", "top", "of"),
}
OBJECTS = ("obj", "iobj", "dobj")


def triplets(sentence: Sentence) -> list[Triplet]:
    """What the Stanford rules find, each triplet once, in the order of its words."""
    return Rules(sentence).found()


class Rules:
    """One sentence: its basic tree, with dependents shared between conjuncts as the parser's enhancer does."""

    def __init__(self, sentence: Sentence):
        self.graph = Graph(sentence)
        self.size = len(sentence)
        self.edges: list[list[tuple[str, int]]] = [[] for _ in range(self.size)]  # governor -> (relation, dependent)
        for index in range(self.size):
            head, relation = sentence.head[index], sentence.relation[index]
            if 0 <= head < self.size and head != index:
                self.edges[head].append((self.collapsed(index, relation), index))
        self.threefold()
        self.quantities()
        self.propagate()

    def collapsed(self, index: int, relation: str) -> str:
        """`nmod` and `obl` with their preposition: "nmod:on"; a passive's "by" is the agent."""
        if relation not in ("nmod", "obl"):
            return relation
        case = self.case(index)
        if relation == "obl" and case == "by" and self.graph.kids(self.graph.head[index], "nsubj:pass", "aux:pass"):
            return "obl:agent"
        return f"{relation}:{case.replace(' ', '_')}" if case else relation

    def case(self, index: int) -> str:
        """The preposition: one word, or one of the known pairs."""
        graph = self.graph
        places = [child for child in graph.kids(index, "case") if graph.tag[child] != "POS" and child < index]
        if not places:
            return ""
        said = [graph.word[place] for place in places]
        said += [graph.word[child] for place in places for child in graph.kids(place, "fixed")]
        first = places[0]
        pair = (graph.word[first - 1], graph.word[first]) if first else ("", "")
        return " ".join(pair) if len(said) == 1 and pair in PAIRS else " ".join(said)

    def threefold(self) -> None:
        """ "in front of a house": the house hangs where the front hung."""
        graph = self.graph
        for head in range(self.size):
            for relation, place in list(self.edges[head]):
                if relation[:5] not in ("nmod:", "obl:i", "obl:o", "obl:b"):
                    continue
                for inner, thing in list(self.edges[place]):
                    said = (relation.partition(":")[2], graph.word[place], inner.partition(":")[2])
                    if said in TRIPLES and inner.startswith("nmod:"):
                        self.edges[head].remove((relation, place))
                        self.edges[head].append((f"{relation.partition(':')[0]}:{'_'.join(said)}", thing))
                        self.edges[place] = [edge for edge in self.edges[place] if edge[1] != thing]

    def quantities(self) -> None:
        """ "a lot of birds", "two of the men": the birds take the head's place."""
        graph = self.graph
        for head in range(self.size):
            article = any(graph.word[child] in ("a", "an") for child in graph.kids(head, "det"))
            counted = graph.lemma[head] in QUANTITIES and article or graph.word[head] in MANY
            things = [thing for relation, thing in self.edges[head] if relation == "nmod:of"]
            if not counted or not things or not graph.noun(things[0]):
                continue
            thing = things[0]
            self.edges[head] = [edge for edge in self.edges[head] if edge[1] != thing]
            for edges in self.edges:
                edges[:] = [(relation, thing if child == head else child) for relation, child in edges]
            self.edges[thing] += [edge for edge in self.edges[head] if edge[0] not in ("det", "case", "fixed")]
            self.edges[head] = []

    def propagate(self) -> None:
        """Conjuncts share what governs the first, and conjoined verbs its subject."""
        for first in range(self.size):
            for _, second in [edge for edge in self.edges[first] if edge[0] == "conj"]:
                for edges in self.edges:
                    more = [(relation, second) for relation, child in edges if child == first and relation != "conj"]
                    edges += [edge for edge in more if edge not in edges]
                own = [relation for relation, _ in self.edges[second]]
                if "nsubj" not in own and "nsubj:pass" not in own and self.graph.tag[second][0] in "VJ":
                    self.edges[second] += [edge for edge in self.edges[first] if edge[0] == "nsubj"]

    def found(self) -> list[Triplet]:
        said: list[tuple[int, int, Triplet]] = []
        for index in range(self.size):
            said += [(subject, thing, triplet) for subject, thing, triplet in self.clause(index)]
            said += [(subject, thing, triplet) for subject, thing, triplet in self.phrase(index)]
        said.sort(key=lambda entry: (entry[0], entry[1]))
        return list(dict.fromkeys(triplet for _, _, triplet in said))

    def dependents(self, index: int, *relations: str) -> list[int]:
        return [child for relation, child in self.edges[index] if relation in relations]

    def clause(self, index: int) -> list[tuple[int, int, Triplet]]:
        """Rules 1 to 4, 6 and 9: what a predicate says of its subject."""
        graph, said = self.graph, []
        subjects = [self.noun(child) for child in self.dependents(index, "nsubj")]
        subjects = [subject for subject in subjects if subject >= 0]
        copula = bool(self.dependents(index, "cop"))
        objects = self.objects(index)
        for subject in subjects:
            for thing, preposition in objects if not copula else []:
                said.append(self.relation(subject, index, preposition, thing))
            if not objects or copula:
                said += self.state(subject, index)
        if graph.tag[index][0] == "V":
            for agent in self.dependents(index, "obl:agent"):
                for patient in self.dependents(index, "nsubj:pass"):
                    if graph.noun(agent) and graph.noun(patient):
                        said.append(self.relation(agent, index, "", patient))
        return said

    def objects(self, index: int) -> list[tuple[int, str]]:
        """Nouns that a verb acts on, with the preposition that counts: only that of `nmod` does."""
        things = []
        for relation, child in self.edges[index]:
            if (
                relation in OBJECTS
                or relation.startswith(("nmod:", "obl:"))
                and relation not in ("nmod:poss", "obl:agent")
            ):
                thing = self.noun(child)
                if thing >= 0:
                    things.append((thing, relation[5:].replace("_", " ") if relation.startswith("nmod:") else ""))
        return things

    def state(self, subject: int, index: int) -> list[tuple[int, int, Triplet]]:
        """ "is in the house", "is tall", "smiles"."""
        graph = self.graph
        case = self.case(index)
        if case and graph.noun(index):
            for relation, thing in self.edges[index]:
                if (case, graph.word[index], relation[5:]) in TRIPLES and graph.noun(thing):
                    whole = f"{case} {graph.word[index]} {relation[5:]}"
                    return [(subject, thing, Triplet(self.name(subject), whole, self.name(thing), "relation"))]
            return [(subject, index, Triplet(self.name(subject), case, self.name(index), "relation"))]
        if graph.lemma[index] == "be" or graph.tag[index] == "RB":
            return []
        return [(subject, index, Triplet(self.name(subject), "is", graph.lemma[index], "attribute"))]

    def phrase(self, index: int) -> list[tuple[int, int, Triplet]]:
        """Rules 2, 5, 7 and 8: what hangs on a noun."""
        graph, said = self.graph, []
        if not graph.noun(index):
            return said
        for relation, child in self.edges[index]:
            if relation == "amod":
                said.append((index, child, Triplet(self.name(index), "is", graph.lemma[child], "attribute")))
            elif relation == "acl":
                said += [self.relation(index, child, preposition, thing) for thing, preposition in self.objects(child)]
            elif relation == "nmod:poss":
                owner = self.noun(child)
                if owner >= 0:
                    said.append((owner, index, Triplet(self.name(owner), "have", self.name(index), "relation")))
            elif relation.startswith(("nmod:", "obl:")) and relation != "obl:agent" and self.noun(child) >= 0:
                preposition = (relation[5:] if relation[:4] == "nmod" else relation).replace("_", " ")
                thing = self.noun(child)
                said.append((index, thing, Triplet(self.name(index), preposition, self.name(thing), "relation")))
        return said

    def relation(self, subject: int, verb: int, preposition: str, thing: int) -> tuple[int, int, Triplet]:
        graph = self.graph
        said = [graph.lemma[verb], *(graph.word[child] for child in graph.kids(verb, "compound:prt") if child > verb)]
        said += [preposition] if preposition else []
        if said[0] == "be" and len(said) > 1:
            said = said[1:]
        return subject, thing, Triplet(self.name(subject), " ".join(said), self.name(thing), "relation")

    def noun(self, index: int) -> int:
        """The word itself if it is a noun; of a pronoun the first noun before it; otherwise -1."""
        graph = self.graph
        if graph.noun(index):
            return index
        if graph.tag[index] not in ("PRP", "PRP$") or index < 1:
            return -1
        level = [place for place in range(self.size) if graph.head[place] < 0]
        for _ in range(self.size):
            for place in sorted(level):
                if graph.noun(place) and place < index:
                    return place
            level = [child for place in level for child in graph.children[place]]
        return -1

    def name(self, index: int) -> str:
        """Lemma of a noun with its compounds."""
        graph = self.graph
        parts = [child for child in graph.kids(index, "compound") if child < index]
        parts = [child for place, child in enumerate(parts) if child == index - len(parts) + place]  # contiguous ones
        return " ".join([*(graph.word[child] for child in parts), graph.lemma[index]])
