"""Mistakes that parsers make on captions, put right in the tree before the rules read it."""

from pipeline.scene_graph import words
from pipeline.scene_graph.sentence import Sentence

# nouns in -ing that no one does
THINGS = words.listed(
    """building ceiling clothing railing wing ring string king spring wedding awning icing frosting evening morning
    thing something nothing anything everything earring opening lighting painting lightning sling pudding siding
    writing landing crossing covering housing flooring stuffing molding topping dressing filling wiring bedding
    sibling dumpling duckling viking being drawing meeting recording stocking sewing"""
)


def repaired(sentence: Sentence) -> Sentence:
    """A tree with these mistakes mended; the sentence given stays as it is."""
    tree = Sentence(
        sentence.word,
        list(sentence.lemma),
        list(sentence.tag),
        list(sentence.head),
        list(sentence.relation),
        sentence.start,
        sentence.end,
    )
    for index, word in enumerate(tree.word):
        if word == "to":
            next_to(tree, index)
        elif len(word) > 4 and word.endswith("ing") and word not in THINGS:
            gerund(tree, index)
        elif word == "of":
            group(tree, index)
        if tree.relation[index] in ("acl", "advcl"):
            lifted(tree, index)
    return tree


def left_noun(tree: Sentence, index: int) -> bool:
    return index > 0 and tree.tag[index - 1] in words.NOUN_TAGS


def next_to(tree: Sentence, index: int) -> None:
    """ "next to train platform" read as "to train a platform": the noun is what something is next to."""
    verb = index + 1
    if index == 0 or tree.word[index - 1] not in ("next", "close") or verb >= len(tree) or tree.tag[verb] != "VB":
        return
    thing = verb
    for child in range(verb + 1, len(tree)):
        if tree.head[child] == verb and tree.relation[child] == "obj":
            thing = child
    tree.tag[verb] = "NN"
    if thing != verb:
        replace(tree, verb, thing)
        tree.relation[verb] = "compound"
    tree.relation[thing] = "obl"
    tree.head[index], tree.relation[index] = thing, "case"


def gerund(tree: Sentence, index: int) -> None:
    """ "girl riding" read as a compound, "man flying kite" as a kite that flies: someone does it."""
    if not left_noun(tree, index):
        return
    doer, tag, relation, head = index - 1, tree.tag[index], tree.relation[index], tree.head[index]
    if tag == "NN" and tree.head[doer] == index and tree.relation[doer] == "compound":
        tree.tag[index] = "VBG"
        replace(tree, index, doer)
        tree.head[index], tree.relation[index] = doer, "acl"
        for child in range(len(tree)):
            if tree.head[child] == index and child < doer:
                tree.head[child] = doer
            elif tree.head[child] == index and tree.relation[child] == "nmod":
                tree.relation[child] = "obl"
    elif relation in ("amod", "compound") and head > index and tree.head[doer] == head:
        if tree.relation[doer] != "compound":
            return
        tree.tag[index] = "VBG"
        replace(tree, head, doer)
        tree.head[index], tree.relation[index] = doer, "acl"
        tree.head[head], tree.relation[head] = index, "obj"
        for child in range(doer):
            if tree.head[child] == head:
                tree.head[child] = doer


def replace(tree: Sentence, old: int, new: int) -> None:
    """Let `new` hang where `old` hung, and `old` below it."""
    tree.head[new], tree.relation[new] = tree.head[old], tree.relation[old]
    tree.head[old] = new


def group(tree: Sentence, index: int) -> None:
    """ "a group of people": the people take the group's place."""
    thing = tree.head[index]
    if thing < 0 or tree.relation[thing] != "nmod" or tree.tag[thing] not in words.NOUN_TAGS:
        return
    whole = tree.head[thing]
    if whole < 0 or whole > index or tree.word[whole] not in words.GROUPS or tree.tag[whole][0] != "N":
        return
    case = [child for child in range(whole) if tree.head[child] == whole and tree.relation[child] == "case"]
    replace(tree, whole, thing)
    tree.relation[whole] = "group"
    tree.relation[index] = "fixed"
    for child in range(len(tree)):
        if tree.head[child] != whole or child == thing:
            continue
        if child in case or child > thing or tree.relation[child] in ("nsubj", "cop", "conj", "cc", "amod", "expl"):
            tree.head[child] = thing


def lifted(tree: Sentence, index: int) -> None:
    """ "man with grey hair wearing glasses": it is the man who wears them."""
    holder = tree.head[index]
    if tree.tag[index] != "VBG" or holder < 0 or tree.word[holder] in words.ANIMATE:
        return
    person = tree.head[holder]
    if tree.relation[holder] == "conj" and person >= 0 and tree.word[person] not in words.ANIMATE:
        holder, person = person, tree.head[person]
    if tree.relation[holder] == "nmod" and person >= 0 and tree.word[person] in words.ANIMATE:
        cases = [tree.word[child] for child in range(holder) if tree.head[child] == holder]
        if "with" in cases or "in" in cases:
            tree.head[index] = person
