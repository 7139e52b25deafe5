"""Triplets from a basic Universal Dependencies tree: the `extended` rules."""

from typing import NamedTuple

from pipeline.scene_graph import words
from pipeline.scene_graph.rules.graph import Graph

NONE = -1  # no verb in the relation
HAVE = -2  # no word of the sentence: the owner has it


class Fact(NamedTuple):
    """Something a sentence says, by word indices; `preposition` holds words in order.

    Kinds: relation (subject, verb + preposition, object); attribute (subject is object); action (subject does object).
    """

    kind: str
    subject: int
    verb: int
    preposition: tuple[int, ...]
    object: int


def facts(graph: Graph) -> list[Fact]:
    """Everything the rules find, in the order of the words."""
    found: list[Fact] = []
    for index in range(len(graph.word)):
        if graph.verb(index):
            verb(graph, index, found)
        elif graph.children[index] or graph.relation[index] == "acl:relcl":
            predicate(graph, index, found)
            if graph.noun(index):
                noun(graph, index, found)
    found = [fact for fact in found if not denied(graph, fact)]
    return sorted(dict.fromkeys(found), key=lambda fact: (fact.subject, fact.object, fact.verb))


def denied(graph: Graph, fact: Fact) -> bool:
    """Whether any part of a fact is said not to be."""
    return any(
        graph.negated(place) for place in (fact.subject, fact.verb, fact.object, *fact.preposition) if place >= 0
    )


def others(graph: Graph, subject: int, subjects: list[int], thing: int) -> list[int]:
    """What a subject acts on: never itself; of "a man and a woman hug each other", the other one."""
    if graph.mutual(thing):
        return [other for other in subjects if other != subject]
    return [] if thing == subject or graph.reflexive(thing) else [thing]


def verb(graph: Graph, index: int, found: list[Fact]) -> None:
    """A verb with its objects and prepositional phrases."""
    if graph.lemma[index] == "be":
        being(graph, index, found)
        return
    subjects = graph.subjects(index)
    passive = graph.passive(index)
    before = len(found)
    objects: list[int] = []
    if not passive:
        spoken = [child for child in graph.kids(index, "obj", "iobj") if graph.tag[child] not in words.RELATIVE_TAGS]
        objects = [thing for child in spoken for thing in graph.conjuncts(child)]
        objects += relative_object(graph, index)
        for thing in objects:
            found += [
                Fact("relation", subject, index, (), other)
                for subject in subjects
                for other in others(graph, subject, subjects, thing)
            ]
    for thing, case in verb_phrases(graph, index):
        by = len(case) == 1 and graph.word[case[0]] == "by" and graph.lemma[index] not in words.STATIC
        if passive and by:
            found += [Fact("relation", thing, index, (), subject) for subject in subjects]
        elif case or not objects:
            found += [
                Fact("relation", subject, index, tuple(case), other)
                for subject in subjects
                for other in others(graph, subject, subjects, thing)
            ]
    stranded(graph, index, subjects, found)
    becomes = any(graph.tag[child][:2] == "JJ" for child in graph.kids(index, "xcomp"))
    if becomes or (len(found) == before and graph.lemma[index] not in words.LIGHT):
        found += [Fact("action", subject, NONE, (), index) for subject in subjects]


def verb_phrases(graph: Graph, index: int) -> list[tuple[int, list[int]]]:
    """Prepositional phrases of a verb, also those an adverb stands before: "sits next to", "looks up to"."""
    found = []
    for child in graph.children[index]:
        relation = graph.relation[child]
        if relation in ("obl", "nmod", "obl:agent"):
            if graph.case(child) and graph.lemma[child] not in ("next", "close"):
                found += phrases(graph, child)
            elif graph.lemma[child] in words.ADVERBS:
                found += adverbial(graph, child)
        elif relation in ("advmod", "xcomp", "amod", "compound:prt") and graph.lemma[child] in words.ADVERBS:
            found += adverbial(graph, child)
    return found


def adverbial(graph: Graph, index: int) -> list[tuple[int, list[int]]]:
    """ "next to a tree", where "next" governs the tree."""
    return [
        (thing, [index, *case])
        for child in graph.kids(index, "obl", "nmod")
        for thing, case in phrases(graph, child)
        if case
    ]


def stranded(graph: Graph, index: int, subjects: list[int], found: list[Fact]) -> None:
    """ "the sofa the man is sitting on": the noun that the relative clause describes follows the preposition."""
    if graph.relation[index] != "acl:relcl" or not graph.thing(graph.head[index]):
        return
    hanging = [
        child for child in graph.children[index] if graph.tag[child] in ("IN", "RP", "RB") and child > index and
        graph.relation[child] in ("obl", "advmod", "compound:prt", "case", "mark")
    ]  # fmt: skip
    noun = graph.head[index]
    if (
        hanging
        and graph.word[hanging[-1]] in ("on", "in", "at", "with", "to", "by", "under", "from")
        and noun not in subjects
    ):
        found += [Fact("relation", subject, index, (hanging[-1],), noun) for subject in subjects]


def relative_object(graph: Graph, index: int) -> list[int]:
    """ "the ball that he throws": the noun that a relative clause with its own subject describes."""
    if graph.relation[index] != "acl:relcl" or any(graph.tag[child] == "WRB" for child in graph.kids(index, "advmod")):
        return []  # "a clip where a narrator explains" is not explained
    objects = graph.kids(index, "obj")
    if objects:
        return graph.conjuncts(graph.head[index]) if graph.tag[objects[0]] in words.RELATIVE_TAGS else []
    own = graph.kids(index, "nsubj")
    if own and graph.tag[own[0]] not in words.RELATIVE_TAGS and not graph.kids(index, "obl", "compound:prt"):
        after = [child for child in graph.children[index] if child > index and graph.tag[child] in ("IN", "RP")]
        return [] if after else graph.conjuncts(graph.head[index])
    return []


def being(graph: Graph, index: int, found: list[Fact]) -> None:
    """ "there is a dog on the couch", "the dog is on the couch"."""
    for subject in graph.subjects(index):
        for thing, case in verb_phrases(graph, index):
            for other in others(graph, subject, graph.subjects(index), thing) if case else []:
                found.append(Fact("relation", subject, NONE, tuple(case), other))


def predicate(graph: Graph, index: int, found: list[Fact]) -> None:
    """ "is red", "is a rider", "is in the house", "is full of water"."""
    subjects = [word for child in graph.kids(index, "nsubj") for word in graph.conjuncts(child)]
    if subjects and graph.tag[subjects[0]] in words.RELATIVE_TAGS:
        subjects = []
    if not subjects and graph.relation[index] == "acl:relcl" and graph.thing(graph.head[index]):
        subjects = graph.conjuncts(graph.head[index])
    if not subjects or graph.tag[index] in words.RELATIVE_TAGS:
        return  # "what is the man cooking"
    if graph.case(index):
        for thing, case in phrases(graph, index):
            found += [
                Fact("relation", subject, NONE, tuple(case), other)
                for subject in subjects
                for other in others(graph, subject, subjects, thing)
            ]
        return
    own = graph.kids(index, "nsubj")
    if graph.tag[index] == "IN" and len(own) == 2:  # "the plate the cake is on"
        found.append(Fact("relation", own[1], NONE, (index,), own[0]))
        return
    more = [] if graph.noun(index) else [phrase for phrase in graph.kids(index, "obl", "nmod") if graph.case(phrase)]
    more, beside = [p for p in more if joined(graph, index, p)], [p for p in more if not joined(graph, index, p)]
    for phrase in beside:
        for thing, case in phrases(graph, phrase):
            found += [
                Fact("relation", subject, NONE, tuple(case), other)
                for subject in subjects
                for other in others(graph, subject, subjects, thing)
            ]
    for phrase in more:
        for thing, case in phrases(graph, phrase):
            place = () if graph.word[index] in ("visible", "present", "located") else (index,)
            found += [
                Fact("relation", subject, NONE, (*place, *case), other)
                for subject in subjects
                for other in others(graph, subject, subjects, thing)
            ]
    if not more:
        same = [child for child in graph.kids(index, "conj") if graph.tag[child][:2] == graph.tag[index][:2]]
        for word in [index, *same]:
            found += [Fact("attribute", subject, NONE, (), word) for subject in subjects]


def joined(graph: Graph, index: int, phrase: int) -> bool:
    """Whether an adjective and its preposition are one relation, as "full of", or two things said, as "clear with"."""
    first = graph.word[graph.case(phrase)[0]]
    return (
        graph.word[index] in ADJECTIVES or graph.tag[index][0] != "J" or first not in ("with", "in", "on", "at", "by")
    )


def noun(graph: Graph, index: int, found: list[Fact]) -> None:
    """What is joined to a noun: adjectives, numbers, prepositional phrases, owners."""
    located = bool(graph.case(index)) and graph.lemma[index] in words.RELATIONAL
    for child in graph.children[index]:
        relation = graph.relation[child]
        if relation in ("amod", "nummod"):
            if graph.lemma[child] in ADJECTIVES and graph.kids(child, "obl", "nmod"):
                for thing, case in adverbial(graph, child):
                    found.append(Fact("relation", index, NONE, tuple(case), thing))
                continue
            for word in [child, *graph.kids(child, "conj")]:
                found.append(Fact("attribute", index, NONE, (), word))
            found += [
                Fact("attribute", index, NONE, (), word)
                for word in graph.kids(child, "amod")
                if graph.tag[child][0] == "J" and graph.word[word] not in words.SHADES
            ]
        elif relation in ("nmod", "obl") and not located and not copular(graph, index):
            if not graph.case(child):
                continue
            inner = inside(graph, index, child)
            if inner >= 0:
                for thing in graph.conjuncts(inner):
                    found.append(Fact("relation", thing, NONE, tuple(graph.case(child)), index))
                continue
            for subject in graph.conjuncts(index):
                for thing, case in phrases(graph, child):
                    if thing != subject and not graph.mutual(thing) and not graph.reflexive(thing):
                        found.append(Fact("relation", subject, NONE, tuple(case), thing))
        elif relation == "nmod:poss":
            for owner in graph.conjuncts(child):
                found.append(Fact("relation", owner, HAVE, (), index))
        elif relation in ("advmod", "dep") and graph.lemma[child] in words.ADVERBS and child > index:
            for thing, case in adverbial(graph, child):
                found.append(Fact("relation", index, NONE, tuple(case), thing))


def copular(graph: Graph, index: int) -> bool:
    """Whether a noun is what something is said to be; "this is the head of a cow" says only what there is."""
    if not graph.kids(index, "cop"):
        return False
    return not all(
        graph.word[child] in ("this", "it", "that", "these", "those", "here", "there", "what")
        for child in graph.kids(index, "nsubj")
    )


def inside(graph: Graph, index: int, phrase: int) -> int:
    """ "a table with fruit on it", where both phrases hang on the table: the fruit; otherwise -1."""
    if graph.word[phrase] not in ("it", "them"):
        return NONE
    beside = [
        child
        for child in graph.kids(index, "nmod")
        if child < phrase and any(graph.word[word] == "with" for word in graph.case(child))
    ]
    return beside[-1] if beside else NONE


def phrases(graph: Graph, index: int) -> list[tuple[int, list[int]]]:
    """The things a prepositional phrase names, each with its preposition; "in front of a house" names the house."""
    case = graph.case(index)
    if case and graph.lemma[index] in words.RELATIONAL:
        side = [child for child in graph.kids(index, "amod", "det", "compound") if graph.word[child] in SIDES]
        for child in graph.kids(index, "nmod"):
            inner = graph.case(child)
            if inner and graph.word[inner[0]] in ("of", "to", "from"):
                whole = sorted([*case, *side, index, *inner])
                return [(thing, whole) for thing in graph.conjuncts(child) if graph.thing(thing)]
        for owner in graph.kids(index, "nmod:poss"):
            if graph.noun(owner) and graph.word[index] in ("side", "top", "front", "edge"):
                return [(owner, [*case, *side, index])]
        for modifier in graph.kids(index, "compound"):
            if graph.word[modifier] not in SIDES and graph.word[index] in ("side", "top", "edge"):
                return [(modifier, [*case, *side, index])]
    found = []
    for thing in graph.conjuncts(index):
        own = graph.case(thing)
        found.append((thing, own or case))
    return found


ADJECTIVES = words.ADVERBS | {"full"}
SIDES = words.listed("left right both other either each far opposite")
