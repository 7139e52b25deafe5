"""Triplets from a basic Universal Dependencies tree: the `extended` rules."""

from typing import NamedTuple

from pipeline.scene_graph import words
from pipeline.scene_graph.graph import Graph


class Fact(NamedTuple):
    """Something a sentence says, by word indices: `relation` holds words in order (a verb, its particle, a preposition).

    Kinds: `relation` (subject, relation, object); `attribute` (subject is object); `action` (subject does object).
    """

    kind: str
    subject: int
    relation: tuple[int, ...]
    object: int


def facts(graph: Graph) -> list[Fact]:
    """Everything the rules find, in the order of the words."""
    found: list[Fact] = []
    for index in range(len(graph.word)):
        if graph.verb(index):
            verb(graph, index, found)
        predicate(graph, index, found)
        if graph.noun(index):
            noun(graph, index, found)
    said = dict.fromkeys(found)
    return sorted(said, key=lambda fact: (fact.kind != "relation", fact.subject, fact.object, fact.relation))


def verb(graph: Graph, index: int, found: list[Fact]) -> None:
    """A verb with its objects and prepositional phrases."""
    if graph.lemma[index] == "be":
        being(graph, index, found)
        return
    subjects = graph.subjects(index)
    passive = graph.passive(index)
    name = (index, *graph.kids(index, "compound:prt"))
    before = len(found)
    if passive:
        for phrase in graph.kids(index, "obl", "obl:agent", "nmod"):
            if [graph.lemma[word] for word in graph.case(phrase)] == ["by"] and not graph.kids(index, "obj"):
                for agent in graph.conjuncts(phrase):
                    found += [Fact("relation", agent, name, subject) for subject in subjects]
    else:
        objects = [thing for child in graph.kids(index, "obj", "iobj") for thing in graph.conjuncts(child)]
        objects += relative_object(graph, index)
        for thing in objects:
            found += [Fact("relation", subject, name, thing) for subject in subjects]
    for phrase in graph.kids(index, "obl", "nmod"):
        for thing, case in phrases(graph, phrase):
            if passive and [graph.lemma[word] for word in case] == ["by"]:
                continue
            if graph.noun(thing):
                found += [Fact("relation", subject, name + tuple(case), thing) for subject in subjects]
    if len(found) == before:
        found += [Fact("action", subject, (), index) for subject in subjects if graph.noun(subject)]


def relative_object(graph: Graph, index: int) -> list[int]:
    """ "the ball that he throws": the noun that a relative clause with its own subject describes."""
    if graph.relation[index] != "acl:relcl" or graph.kids(index, "obj"):
        return []
    own = graph.kids(index, "nsubj")
    if own and graph.tag[own[0]] not in words.RELATIVE_TAGS and not graph.kids(index, "obl"):
        return graph.conjuncts(graph.head[index])
    return []


def being(graph: Graph, index: int, found: list[Fact]) -> None:
    """ "there is a dog on the couch", "the dog is on the couch"."""
    for subject in graph.subjects(index):
        for phrase in graph.kids(index, "obl", "nmod"):
            found += [Fact("relation", subject, tuple(case), thing) for thing, case in phrases(graph, phrase) if case]


def predicate(graph: Graph, index: int, found: list[Fact]) -> None:
    """ "is red", "is a rider", "is in the house", "is full of water"."""
    if graph.verb(index):
        return
    subjects = [word for child in graph.kids(index, "nsubj") for word in graph.conjuncts(child)]
    if not subjects and graph.relation[index] == "acl:relcl" and graph.thing(graph.head[index]):
        subjects = graph.conjuncts(graph.head[index])
    if not subjects:
        return
    case = graph.case(index)
    if case:
        for thing, words_ in phrases(graph, index):
            found += [Fact("relation", subject, tuple(words_), thing) for subject in subjects]
        return
    more = [phrase for phrase in graph.kids(index, "obl", "nmod") if graph.case(phrase)]
    if not graph.noun(index):
        for phrase in more:
            for thing, words_ in phrases(graph, phrase):
                found += [Fact("relation", subject, (index, *words_), thing) for subject in subjects]
    if graph.noun(index) or not more:
        for word in [index, *(child for child in graph.kids(index, "conj") if graph.tag[child] == graph.tag[index])]:
            found += [Fact("attribute", subject, (), word) for subject in subjects]


def noun(graph: Graph, index: int, found: list[Fact]) -> None:
    """What is joined to a noun: adjectives, numbers, prepositional phrases, owners."""
    for child in graph.children[index]:
        relation = graph.relation[child]
        if relation in ("amod", "nummod"):
            for word in [child, *graph.kids(child, "conj")]:
                found.append(Fact("attribute", index, (), word))
        elif relation in ("nmod", "obl") and not graph.kids(index, "cop"):
            for subject in graph.conjuncts(index):
                for thing, case in phrases(graph, child):
                    if case and graph.noun(thing):
                        found.append(Fact("relation", subject, tuple(case), thing))
        elif relation == "nmod:poss" and graph.noun(child):
            found.append(Fact("relation", child, HAVE, index))


HAVE = (-1,)  # no word of the sentence: the owner has it


def phrases(graph: Graph, index: int) -> list[tuple[int, list[int]]]:
    """The things a prepositional phrase names, each with its preposition; "in front of a house" names the house."""
    case = graph.case(index)
    if case and graph.lemma[index] in words.RELATIONAL:
        for child in graph.kids(index, "nmod"):
            inner = graph.case(child)
            if inner and graph.lemma[inner[0]] in ("of", "to", "from"):
                return [(thing, [*case, index, *inner]) for thing in graph.conjuncts(child)]
    found = []
    for thing in graph.conjuncts(index):
        own = graph.case(thing)
        found.append((thing, own or case))
    return found
