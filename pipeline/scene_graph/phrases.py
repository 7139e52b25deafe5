"""Triplets as phrases for a text encoder, and the nouns and verbs of a caption."""

from pipeline.scene_graph import words
from pipeline.scene_graph.rules.video import Triplet
from pipeline.scene_graph.sentence import Sentence

STYLES = ("paper", "reverse", "is")
TYPES = {
    "color": words.COLOURS,
    "size": words.SIZES,
    "age": words.AGES,
    "material": words.MATERIALS,
    "shape": words.SHAPES,
    "number": frozenset(words.NUMBERS) | frozenset(words.NUMBERS.values()),
}
TYPE = {word: kind for kind, members in TYPES.items() for word in sorted(members)}


def verbalise(triplet: Triplet, style: str) -> str:
    """paper: "car color blue"; reverse: "blue car"; is: "car is blue". Relations and actions read the same in each."""
    subject, relation, thing, kind = triplet
    if kind == "relation":
        return f"{subject} {relation} {thing}"
    if kind == "action":
        return f"{subject} is {thing}" if style == "is" and thing.endswith("ing") else f"{subject} {thing}"
    if style == "reverse":
        return f"{thing} {subject}"
    if style == "is":
        return f"{subject} is {thing}"
    return f"{subject} {TYPE.get(thing.split()[-1], 'is')} {thing}"


def phrases(triplets: list[Triplet], style: str, cap: int) -> list[str]:
    """At most `cap` distinct phrases: what happens and what is where first, then what is how, each in order."""
    ordered = sorted(triplets, key=lambda triplet: triplet.kind == "attribute")
    return list(dict.fromkeys(verbalise(triplet, style) for triplet in ordered))[:cap]


def nouns(tree: Sentence) -> list[list[int]]:
    """Spans [start, end) of the nouns; a compound is one."""
    spans: list[list[int]] = []
    last = -2
    for index, tag in enumerate(tree.tag):
        if tag not in words.NOUN_TAGS:
            continue
        joined = (
            last == index - 1
            and (tree.head[last] == index or tree.head[index] == last or tree.head[index] == tree.head[last])
            and tree.relation[last] in words.COMPOUND
        )
        if joined:
            spans[-1][1] = tree.end[index]
        else:
            spans.append([tree.start[index], tree.end[index]])
        last = index
    return spans


def verbs(tree: Sentence) -> list[list[int]]:
    """Spans of the verbs that say what happens: no auxiliaries, no "be"; a particle right after is part of it."""
    spans: list[list[int]] = []
    for index, tag in enumerate(tree.tag):
        if tree.relation[index] == "compound:prt" and spans and tree.head[index] == index - 1:
            if spans[-1][0] == tree.start[index - 1]:
                spans[-1][1] = tree.end[index]
        elif tag[:2] == "VB" and tree.relation[index] not in words.AUXILIARY and tree.lemma[index] != "be":
            spans.append([tree.start[index], tree.end[index]])
    return spans
