"""Mistakes that parsers make on captions, put right in the tree before the rules read it."""

from collections.abc import Iterator

from pipeline.scene_graph import words
from pipeline.scene_graph.parsers.lexicon import kinds, lemma
from pipeline.scene_graph.sentence import Sentence

# nouns in -ing that no one does
THINGS = words.listed(
    """building ceiling clothing railing wing ring string king spring wedding awning icing frosting evening morning
    thing something nothing anything everything earring opening lighting painting lightning sling pudding siding
    writing landing crossing covering housing flooring stuffing molding topping dressing filling wiring bedding
    sibling dumpling duckling viking being drawing meeting recording stocking sewing piercing"""
)


def repaired(sentence: Sentence) -> Sentence:
    """A tree with these mistakes mended; the sentence given stays as it is."""
    tree = Sentence(
        sentence.word,
        list(sentence.lemma),
        list(sentence.tag),
        [head if 0 <= head < len(sentence) and head != index else -1 for index, head in enumerate(sentence.head)],
        list(sentence.relation),
        sentence.start,
        sentence.end,
    )
    tags(tree)
    for index in range(len(tree)):
        article(tree, index)
    for index in range(len(tree)):
        listing(tree, index)
        given(tree, index)
        doing(tree, index)
        if tree.tag[index][0] == "V":
            described(tree, index)
            fallen(tree, index)
            stepwise(tree, index)
            apart(tree, index)
            shown(tree, index)
            nearer(tree, index)
            filmed(tree, index)
            programme(tree, index)
    for index, word in enumerate(tree.word):
        if word == "to":
            next_to(tree, index)
        elif word == "there":
            existential(tree, index)
        elif word in SOMEONE:
            someone(tree, index)
        elif len(word) > 4 and word.endswith("ing") and word not in THINGS:
            gerund(tree, index)
            meanwhile(tree, index)
            located(tree, index)
        elif word == "of":
            group(tree, index)
        elif word == "with":
            absolute(tree, index)
        elif tree.tag[index] == "IN":
            preposition(tree, index)
        elif tree.relation[index][:5] == "csubj":
            clausal(tree, index)
        if tree.tag[index][0] == "V" and tree.head[index] < 0:
            reduced(tree, index)
        if tree.relation[index] == "amod" and tree.tag[index] == "VBG" and tree.head[index] == index - 1:
            tree.relation[index] = "acl"  # "a tree talking", not "a talking tree"
        if tree.relation[index] in ("acl", "advcl"):
            lifted(tree, index)
        elif tree.relation[index] == "amod":
            outward(tree, index)
    return tree


def tags(tree: Sentence) -> None:
    """Words tagged against what they can be: "man" as an interjection, "building" as a verb, "can" after "trash"."""
    for index, tag in enumerate(tree.tag):
        word = tree.word[index]
        if tag in ("UH", "FW", "LS", "SYM", "NNP", "NNPS") and word.isalpha():
            tree.tag[index] = "NNS" if tag == "NNPS" else "NN"
        elif tag == "VBG" and word in THINGS and not auxiliaries(tree, index) and not goes_on(tree, index):
            nominal(tree, index)
        elif tag == "VB" and tree.head[index] == index + 1 and tree.tag[index + 1] in words.NOUN_TAGS:
            tree.tag[index], tree.relation[index] = "NN", "compound"
        elif tag == "VB" and index == 0 and len(tree) > 1:
            opening(tree)
        elif tag == "RB" and word in words.SIZES and tree.head[index] == index + 1 and tree.tag[index + 1][0] == "N":
            tree.tag[index], tree.relation[index] = "JJ", "amod"
        elif tag in ("JJS", "JJR", "JJ") and thinglike(tree, index):
            tree.tag[index] = "NN"
        elif tag == "NN" and word.endswith("ing") and second(tree, index):
            tree.tag[index], tree.lemma[index] = "VBG", lemma(word, "VBG")
            tree.head[index] = tree.head[tree.head[index]]
        elif tag == "NNS" and index:
            singular(tree, index)
        elif tag == "NN" and word in words.SIZES and tree.relation[index] == "compound" and tree.head[index] > index:
            tree.tag[index], tree.relation[index] = "JJ", "amod"  # "a fat dog"
        elif tag == "NN" and word.endswith("ing") and tree.relation[index] == "dep":
            shredded(tree, index)
        elif tag == "NN" and word.endswith("ing") and "cop" in (tree.relation[child] for child in below(tree, index)):
            verbal(tree, index)
        elif word == "can" and tag == "MD" and index and tree.word[index - 1] in CANS:
            container(tree, index)
        loose = tree.relation[index] == "dep" and tree.tag[index] == "VBG" and 0 <= tree.head[index] < index
        if loose and tree.tag[tree.head[index]][0] == "N":
            tree.relation[index] = "acl"


def article(tree: Sentence, index: int) -> None:
    """ "two women are on a couch" in pieces: a noun hangs where its article hung, and "are" is said of the women."""
    head = tree.head[index]
    if tree.relation[index] != "dep" or head < 0:
        return
    if tree.tag[head] == "DT" and head == index - 1 and tree.tag[index][0] == "N":
        replace(tree, head, index)
        tree.relation[head] = "det"
    elif tree.lemma[index] == "be" and tree.tag[head] in words.NOUN_TAGS and head == index - 1 and tree.head[head] < 0:
        replace(tree, head, index)
        tree.relation[head] = "nsubj"


def second(tree: Sentence, index: int) -> bool:
    """ "playing guitar and singing" read as playing both: a gerund joined to the object of another."""
    thing = tree.head[index]
    verb = tree.head[thing] if thing >= 0 else -1
    if (
        tree.relation[index] != "conj"
        or verb < 0
        or tree.relation[thing] not in ("obj", "obl")
        or tree.tag[verb] != "VBG"
    ):
        return False
    inner = any(tree.relation[child] in ("det", "amod", "compound", "nmod:poss") for child in below(tree, index))
    return tree.word[index] not in THINGS and kinds(tree.word[index])[2] and not inner and thing < index


def listing(tree: Sentence, index: int) -> None:
    """ "hat sunglasses and a scarf" read as sunglasses of the hat: two of a kind before "and" are two things."""
    noun = tree.head[index]
    if tree.relation[index] != "compound" or noun != index + 1 or tree.tag[noun][0] != "N":
        return
    more = [child for child in below(tree, noun) if tree.relation[child] == "conj" and child > noun]
    plural = tree.tag[index] == "NNS" and tree.word[index] not in ("sports", "news", "clothes", "glasses", "arms")
    alike = any(tree.word[index] in kind and tree.word[noun] in kind for kind in ALIKE)
    if not more or not (plural or alike):
        return
    replace(tree, noun, index)
    tree.relation[noun] = "conj"
    for child in below(tree, noun):
        if child < index or child in more or tree.relation[child] in ("nsubj", "cop", "acl", "nmod"):
            tree.head[child] = index


def given(tree: Sentence, index: int) -> None:
    """ "lends his neighbor a ladder" read as a neighbor of ladder: the verb has two objects."""
    taker = tree.head[index]
    if taker >= 0 and tree.lemma[taker] in words.GIVING and tree.relation[index] == "dep":  # the ladder as the verb's
        taker = next((child for child in below(tree, taker) if tree.relation[child] == "obj" and child < index), taker)
    verb = tree.head[taker] if taker >= 0 else -1
    if (
        tree.relation[index] not in ("dep", "appos")
        or verb < 0
        or not verb < taker < index
        or tree.tag[index][0] != "N"
    ):
        return
    article = any(tree.relation[child] == "det" for child in below(tree, index))
    if article and tree.relation[taker] == "obj" and tree.lemma[verb] in words.GIVING:
        tree.head[index], tree.relation[index] = verb, "obj"
        tree.relation[taker] = "iobj"


def doing(tree: Sentence, index: int) -> None:
    """ "is folding paper" read as being a folding paper: the gerund after "is", without an article, is the verb."""
    thing = tree.head[index]
    gerund = tree.tag[index] == "VBG" or (tree.word[index][-3:] == "ing" and kinds(tree.word[index])[2])
    if not gerund or tree.relation[index] != "amod" or thing <= index or index == 0:
        return
    if any(tree.head[between] != thing or tree.tag[between] in ("DT", "PRP$") for between in range(index + 1, thing)):
        return
    if tree.lemma[index - 1] != "be" or tree.relation[index - 1] != "cop" or tree.head[index - 1] != thing:
        return
    replace(tree, thing, index)
    tree.relation[thing] = "obj"
    retag(tree, index, "VBG")
    for child in below(tree, thing):
        if child < index:
            tree.head[child] = index
            tree.relation[child] = "aux" if tree.relation[child] == "cop" else tree.relation[child]
        elif child > thing and (tree.relation[child] in ("nmod", "advcl") or verbal_conjunct(tree, child)):
            tree.head[child] = index
            tree.relation[child] = "obl" if tree.relation[child] == "nmod" else tree.relation[child]


def verbal_conjunct(tree: Sentence, index: int) -> bool:
    return tree.relation[index] == "conj" and tree.tag[index][0] == "V"


def described(tree: Sentence, index: int) -> None:
    """ "a goat that is tied eats the grass" read as one clause about tied: the goat eats."""
    inner = tree.head[index]
    if tree.relation[index] not in ("dep", "ccomp", "parataxis") or tree.tag[index] not in ("VBZ", "VBP"):
        return
    if inner < 0 or inner > index or tree.relation[inner] != "acl:relcl" or tree.head[inner] < 0:
        return
    if any(tree.relation[child] in ("nsubj", "mark") for child in below(tree, index)):
        return
    doer = tree.head[inner]
    replace(tree, doer, index)
    tree.relation[doer] = "nsubj"
    for child in below(tree, inner):
        if child > index:
            tree.head[child] = index


def fallen(tree: Sentence, index: int) -> None:
    """ "a horse jumps over a fence and the rider falls off" read as over fence and rider: two clauses."""
    first = next((child for child in below(tree, index) if tree.relation[child] == "csubj" and child < index), -1)
    doer = index - 1
    if first < 0 or doer <= first or tree.relation[doer] != "conj" or tree.tag[first] not in ("VBZ", "VBP"):
        return
    replace(tree, index, first)
    tree.relation[index] = "conj"
    tree.head[doer], tree.relation[doer] = index, "nsubj"
    for child in below(tree, doer):
        if tree.relation[child] == "cc":
            tree.head[child] = index


def stepwise(tree: Sentence, index: int) -> None:
    """ "stirs the rice adds water" read as rice that adds: the cook stirs it, then adds."""
    before = tree.head[index]
    if tree.relation[index] != "ccomp" or tree.tag[index] != "VBZ" or before < 0 or before > index:
        return
    if tree.tag[before] != "VBZ" or tree.lemma[before] in SAYING:
        return
    children = below(tree, index)
    doers = [child for child in children if tree.relation[child] == "nsubj" and before < child < index]
    bound = any(tree.relation[child] in ("mark", "advmod", "aux") and child < index for child in children)
    if len(doers) != 1 or bound or tree.word[doers[0]] in words.PEOPLE:
        return
    tree.head[doers[0]], tree.relation[doers[0]] = before, "obj"
    tree.relation[index] = "conj"


def apart(tree: Sentence, index: int) -> None:
    """ "holds a baby and two people watch" read as a baby and people that watch: the baby is held, the people watch."""
    before, doer = tree.head[index], index - 1
    if tree.relation[index] != "ccomp" or not 0 <= before < doer or tree.tag[before] not in ("VBZ", "VBP", "VBG"):
        return
    first = tree.head[doer]
    if tree.relation[doer] != "conj" or first < before or tree.head[first] != index or tree.lemma[before] in SAYING:
        return
    if tree.relation[first] != "nsubj" or any(tree.relation[child] in ("mark", "aux") for child in below(tree, index)):
        return
    tree.head[first], tree.relation[first] = before, "obj"
    tree.head[doer], tree.relation[doer] = index, "nsubj"
    tree.relation[index] = "conj"


def shown(tree: Sentence, index: int) -> None:
    """ "a cartoon shows two dogs talking" read as showing that they talk: it shows the dogs, and they talk."""
    seer = tree.head[index]
    bare = tree.tag[index] == "VB" and seer >= 0 and tree.lemma[seer] in words.SEEING  # "watches a bird fly"
    if (
        not (bare or tree.tag[index] == "VBG")
        or tree.relation[index] not in ("dep", "ccomp", "xcomp")
        or seer < 0
        or seer > index
    ):
        return
    children = below(tree, index)
    doers = [child for child in children if tree.relation[child] == "nsubj" and seer < child < index]
    if (
        len(doers) != 1
        or tree.tag[seer][0] != "V"
        or any(tree.relation[child] in ("aux", "mark") for child in children)
    ):
        return
    tree.head[doers[0]], tree.relation[doers[0]] = seer, "obj"
    tree.head[index], tree.relation[index] = doers[0], "acl"


def filmed(tree: Sentence, index: int) -> None:
    """ "a compilation of men wrestling" read as a compilation that wrestles: the men do."""
    doer = index - 1
    children = below(tree, index)
    owners = [child for child in children if tree.relation[child] == "nsubj"]
    if tree.tag[index] != "VBG" or len(owners) != 1 or any(tree.relation[child] == "aux" for child in children):
        return
    if tree.head[doer] != owners[0] or tree.relation[doer] != "nmod" or tree.word[doer] not in words.ANIMATE:
        return
    replace(tree, index, owners[0])
    tree.head[index], tree.relation[index] = doer, "acl"


def programme(tree: Sentence, index: int) -> None:
    """ "an indian tv show with a host" read as a television that shows: one thing does not "show", it "shows"."""
    first = index - 1
    if tree.word[index] != "show" or tree.tag[index] not in ("VBP", "VB") or first < 0 or tree.head[first] != index:
        return
    if (
        tree.relation[first] != "nsubj"
        or tree.tag[first] != "NN"
        or any(tree.relation[child] == "obj" for child in below(tree, index))
    ):
        return
    tree.tag[index], tree.relation[first] = "NN", "compound"
    for child in below(tree, first):
        tree.head[child] = index


def nearer(tree: Sentence, index: int) -> None:
    """ "sings and plays the banjo" read as singing the banjo: what follows the second verb is the second's."""
    first = tree.head[index]
    if tree.relation[index] != "conj" or first < 0 or first > index or tree.tag[first][0] != "V":
        return
    own = [child for child in below(tree, index) if tree.relation[child] in ("obj", "nsubj", "nsubj:pass")]
    if not own:
        for child in below(tree, first):
            if child > index and tree.relation[child] in ("obj", "obl", "nmod", "xcomp"):
                tree.head[child] = index


def thinglike(tree: Sentence, index: int) -> bool:
    """Whether a word tagged an adjective has an article, or opens the caption and governs the rest."""
    if index == 0 and tree.relation[index] == "root":
        return not copula(tree, index)
    return any(tree.relation[child] == "det" and child < index for child in below(tree, index))


def opening(tree: Sentence) -> None:
    """A caption gives no orders: "fall jacket", "wetsuit on the legs" open with a noun."""
    if tree.head[1] == 0 and tree.relation[1] == "obj" and tree.tag[1][0] == "N":
        tree.tag[0] = "NN"
        replace(tree, 0, 1)
        tree.relation[0] = "compound"
        for child in below(tree, 0):
            tree.head[child] = 1
    elif not kinds(tree.word[0])[2]:
        tree.tag[0] = "NN"


def copula(tree: Sentence, index: int) -> bool:
    return any(tree.relation[child] in ("cop", "nsubj", "expl", "csubj") for child in below(tree, index))


def preposition(tree: Sentence, index: int) -> None:
    """A preposition that governs its noun: the noun hangs where it hung."""
    if (
        tree.word[index] in ("while", "when")
        or tree.tag[index] not in ("IN", "TO")
        or tree.head[index] < 0
        or tree.relation[index] in ("case", "mark", "fixed")
    ):
        return
    nouns = [child for child in below(tree, index) if child > index and tree.tag[child] in words.THING_TAGS]
    if not nouns or any(tree.tag[child][0] == "V" for child in below(tree, index)):
        return
    noun, head = nouns[0], tree.head[index]
    tree.head[noun] = head
    tree.relation[noun] = "obl" if tree.tag[head][0] == "V" else "nmod"
    tree.head[index], tree.relation[index] = noun, "case"


def clausal(tree: Sentence, index: int) -> None:
    """ "man leaning on a wall is seen" read as leaning that is seen: the man is, and he leans."""
    if tree.relation[index] not in ("csubj", "csubj:pass") or tree.tag[index][0] != "V":
        return
    subjects = [child for child in below(tree, index) if tree.relation[child] == "nsubj"]
    if subjects:
        replace(tree, index, subjects[0])
        tree.relation[subjects[0]] = tree.relation[index].replace("csubj", "nsubj")
        tree.head[index], tree.relation[index] = subjects[0], "acl"


def nominal(tree: Sentence, index: int) -> None:
    """ "a donut with brown topping" read as a donut that something tops: the topping is a noun."""
    tree.tag[index] = "NN"
    for child in below(tree, index):
        if tree.relation[child] == "mark" and tree.tag[child] == "IN":
            tree.relation[child] = "case"
            tree.relation[index] = "nmod"
        elif tree.relation[child] == "nsubj" and tree.tag[child] == "JJ":
            tree.relation[child] = "amod"
    left = index - 1
    if left >= 0 and tree.head[index] == left and tree.tag[left][0] == "N" and tree.relation[index] in ("dep", "acl"):
        replace(tree, left, index)
        tree.relation[left] = "compound"
        for child in below(tree, left):
            tree.head[child] = index


def below(tree: Sentence, index: int) -> list[int]:
    """Children of a word."""
    return [child for child, head in enumerate(tree.head) if head == index]


def auxiliaries(tree: Sentence, index: int) -> bool:
    return any(tree.relation[child] in ("aux", "aux:pass", "obj") for child in below(tree, index))


def goes_on(tree: Sentence, index: int) -> bool:
    """ "is drawing and painting flowers": after a verb that has "is", the second is one too."""
    first = tree.head[index]
    return (
        tree.relation[index] == "conj"
        and 0 <= first < index
        and tree.tag[first] == "VBG"
        and any(tree.relation[child] == "aux" for child in below(tree, first))
    )


def verbal(tree: Sentence, index: int) -> None:
    """ "is swinging a bat" read as "is a swinging": the copula is an auxiliary."""
    children = below(tree, index)
    outside = {child for child in children if tree.relation[child] == "amod" and tree.word[child] in words.WHEREABOUTS}
    if tree.word[index] in THINGS or any(
        tree.relation[child] in ("det", "amod", "compound") for child in children if child not in outside
    ):
        return
    retag(tree, index, "VBG")
    for child in children:
        tree.relation[child] = {"cop": "aux", "nmod": "obl"}.get(tree.relation[child], tree.relation[child])
        if child in outside:
            tree.relation[child] = "advmod"
        elif child > index and tree.relation[child] == "dep" and tree.tag[child][0] == "N":
            tree.relation[child] = "obj"  # "is rowing a boat"


def shredded(tree: Sentence, index: int) -> None:
    """ "is sprinkling shredded cheese" read as cheese that is shredded by it: what stands after "is" is the deed."""
    quality = tree.head[index]
    if tree.relation[index] != "dep" or quality != index + 1 or tree.tag[quality] != "VBN" or index == 0:
        return
    things = [child for child in below(tree, quality) if tree.relation[child] == "obj"]
    if not things or tree.head[index - 1] != quality or tree.relation[index - 1][:3] != "aux":
        return
    replace(tree, quality, index)
    retag(tree, index, "VBG")
    for child in below(tree, quality):
        tree.head[child] = index
        tree.relation[child] = tree.relation[child].removesuffix(":pass")
    tree.head[quality], tree.relation[quality] = things[0], "amod"


def singular(tree: Sentence, index: int) -> None:
    """ "a bird pecks at it" read as several bird-pecks, "the camera pans" as pans: one bird pecks, a camera moves."""
    doer = index - 1
    children = below(tree, index)
    one = any(tree.relation[child] == "det" and tree.word[child] in ("a", "an") for child in children)
    one = one or (tree.word[index] in MOVES and tree.word[doer] in words.ANIMATE | {"camera"})
    if not one or not kinds(tree.word[index])[2] or tree.relation[doer] != "compound" or tree.head[doer] != index:
        return
    if tree.tag[doer] != "NN" or tree.relation[index] not in ("root", "nsubj") or tree.word[index] in words.PEOPLE:
        return
    retag(tree, index, "VBZ")
    tree.relation[doer] = "nsubj"
    hand_over(tree, index, doer)
    for child in below(tree, index):
        if tree.relation[child] == "nmod":
            tree.relation[child] = "obl"


def container(tree: Sentence, index: int) -> None:
    """ "trash can": the can is a noun, and takes the place of the trash."""
    other = index - 1
    if tree.head[index] == other:
        replace(tree, other, index)
    tree.tag[index] = "NN"
    for child in below(tree, other):
        tree.head[child] = index
    tree.head[other], tree.relation[other] = index, "compound"


def existential(tree: Sentence, index: int) -> None:
    """ "there is a flag" read as "there" being a flag."""
    head = tree.head[index]
    if tree.relation[index] != "nsubj" or head < 0 or tree.tag[head][0] != "N":
        return
    tree.relation[index] = "expl"
    for child in below(tree, head):
        if tree.relation[child] == "cop":
            tree.relation[child] = "aux"


def someone(tree: Sentence, index: int) -> None:
    """ "in the kitchen someone cooks" read as a kitchen someone: nothing is part of a someone's name."""
    place, verb = index - 1, tree.head[index]
    if place < 0 or tree.head[place] != index or tree.relation[place] != "compound" or verb < index:
        return
    replace(tree, index, place)
    hand_over(tree, index, place)
    tree.head[index], tree.relation[index] = verb, "nsubj"


def outward(tree: Sentence, index: int) -> None:
    """ "red metal roof" with a red metal: the adjective is the whole name's."""
    head = tree.head[index]
    inner = head > index and tree.relation[head] == "compound" and tree.head[head] > head
    if (
        inner
        and tree.word[index] not in words.JOINED
        and not (tree.word[index] in words.SHADES and tree.word[index + 1] in words.COLOURS)
    ):
        tree.head[index] = tree.head[head]


ALIKE = (words.CLOTHES, words.KIN, words.TABLEWARE)
SAYING = words.listed(
    "say show tell explain see watch think know hear film feel believe mean demonstrate let make help"
)
MAKING = words.listed(
    "make have use get create build fix repair prepare do take apply change put give find add install buy sell wear"
)
MOVES = words.listed("pans zooms shifts moves turns walks looks steps passes swims runs jumps talks sings meows barks")
WAYS = words.listed("up down along across around through over past")
HOLDING = words.listed(
    "contain show feature include hold have depict display say read involve resemble cover overlook cut make play"
)
HUMAN = words.listed("talk sing speak dance laugh smile chat perform cook cry")
DONE = MAKING | words.TOOLED | words.listed("pour add cook fry show bake peel whisk")
PLACES = words.listed("on at under inside outside")
SOMEONE = words.listed("someone somebody everyone everybody")
CANS = words.listed("trash garbage soda beer tin watering spray recycling paint")


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


def absolute(tree: Sentence, index: int) -> None:
    """ "girl with brown hair holding a donut" read as hair that holds: the noun is a phrase of its own."""
    verb = tree.head[index]
    if tree.relation[index] != "mark" or verb < 0 or tree.relation[verb] not in ("acl", "advcl"):
        return
    holder = tree.head[verb]
    owned = [child for child in below(tree, verb) if tree.relation[child] in ("nsubj", "nsubj:pass")]
    if holder < 0 or len(owned) != 1 or tree.tag[holder][0] != "N":
        return
    noun = owned[0]
    tree.head[index], tree.relation[index] = noun, "case"
    tree.head[noun], tree.relation[noun] = holder, "nmod"
    tree.head[verb], tree.relation[verb] = noun, "acl"


def reduced(tree: Sentence, index: int) -> None:
    """ "the shirt the player is wearing" read as one clause: the first noun is what the rest describes."""
    children = below(tree, index)
    subjects = [child for child in children if tree.relation[child] == "nsubj" and child < index]
    if len(subjects) == 1:
        subjects += [child for child in below(tree, subjects[0]) if tree.relation[child] == "dep" and child < index]
    if len(subjects) != 2 or any(tree.relation[child] == "obj" for child in children):
        return
    described, doer = subjects
    between = tree.tag[described + 1]
    if tree.tag[doer] not in words.THING_TAGS or between not in ("DT", "PRP", "PRP$", "NN", "NNS", "JJ"):
        return
    tree.head[described], tree.relation[described] = -1, "root"
    tree.head[index], tree.relation[index] = described, "acl:relcl"
    tree.head[doer], tree.relation[doer] = index, "nsubj"


def meanwhile(tree: Sentence, index: int) -> None:
    """ "narrates while playing games" read as playing games that he narrates, "driving and speaking" as a speaking."""
    thing, relation = tree.head[index], tree.relation[index]
    if thing < 0:
        return
    during = tree.word[index - 1] in ("while", "when")
    if relation == "amod" and not during and tree.tag[index - 1] == "IN" and lemma(tree.word[index], "VBG") in MAKING:
        tree.relation[index] = "gerund"  # "a tutorial on making soap" says of no soap that it makes
    elif relation == "amod" and index == 0 and tree.relation[thing] == "root" and lemma(tree.word[0], "VBG") in DONE:
        tree.relation[index] = "gerund"  # "pouring milk into a glass": who pours is not said, and the milk does not
    elif relation == "amod" and tree.word[index] == "looking" and tree.tag[index - 1][0] in "JR":
        tree.relation[index] = "gerund"  # "a tired looking man" looks at nothing
    elif relation == "amod" and thing > index and during:
        replace(tree, thing, index)
        tree.relation[index], tree.relation[thing] = "advcl", "obj"
        hand_over(tree, thing, index)
        if tree.head[index - 1] == index:
            tree.relation[index - 1] = "mark"
    elif relation != "conj" or tree.tag[index] != "NN" or thing > index:
        return
    elif tree.tag[thing] != "VBG":  # "a guy talking and drinking something": joined to the guy, but it has an object
        verbs = [child for child in below(tree, thing) if tree.relation[child] == "acl" and tree.tag[child] == "VBG"]
        if not verbs or "obj" not in {tree.relation[child] for child in below(tree, index)}:
            return
        tree.head[index] = verbs[-1]
    elif any(tree.relation[child] in ("det", "amod", "compound", "nmod:poss") for child in below(tree, index)):
        return
    if kinds(tree.word[index])[2]:
        retag(tree, index, "VBG")
        nearer(tree, index)


def located(tree: Sentence, index: int) -> None:
    """ "a comedian is on stage making jokes" read as a stage that makes them, or as jokes: who is there makes them."""
    place, thing = index - 1, tree.head[index]
    if tree.tag[index] != "VBG" or not left_noun(tree, index) or tree.relation[index] not in ("acl", "amod"):
        return
    stated = thing if tree.head[place] == index else place  # the word that the parser put in the place's place
    relations = {tree.relation[child] for child in below(tree, stated) if child < place}
    doer = tree.head[place]
    if tree.relation[place] == "nmod" and 0 <= doer < place and tree.head[doer] == thing and thing > index:
        if tree.word[doer] in words.ANIMATE:  # "guy on stage performing music", all of it hung on the music
            replace(tree, thing, doer)
            hand_over(tree, thing, doer)
            tree.head[index], tree.relation[index] = doer, "acl"
            tree.head[thing], tree.relation[thing] = index, "obj"
        return
    if thing < 0 or "case" not in relations or (thing != place and stated == place and tree.head[thing] != place):
        return
    doers = [child for child in below(tree, stated) if tree.relation[child] == "nsubj" and child < place]
    if stated != place:
        replace(tree, thing, place)
        hand_over(tree, thing, place)
    elif not doers or "cop" not in relations:
        return
    if thing != place:
        tree.head[thing], tree.relation[thing] = index, "obj"
    filmed = tree.word[place] in words.ANIMATE and doers and tree.word[doers[0]] not in words.ANIMATE
    tree.head[index], tree.relation[index] = doers[0] if doers and not filmed else place, "acl"


def gerund(tree: Sentence, index: int) -> None:
    """ "girl riding" read as a compound, "man flying kite" as a kite that flies: someone does it."""
    if not left_noun(tree, index):
        return
    doer, tag, relation, head = index - 1, tree.tag[index], tree.relation[index], tree.head[index]
    if tag == "NN" and head == doer and relation in ("appos", "dep"):
        tree.tag[index], tree.lemma[index], tree.relation[index] = "VBG", lemma(tree.word[index], "VBG"), "acl"
        for child in below(tree, doer):
            if child > index and tree.relation[child] in ("nmod", "obl"):
                tree.head[child], tree.relation[child] = index, "obl"
        for child in below(tree, index):
            if tree.relation[child] == "dep" and tree.tag[child][0] == "N" and child > index:
                tree.relation[child] = "obj"
        return
    if tag == "NN" and tree.head[doer] == index and tree.relation[doer] in ("compound", "discourse", "nsubj"):
        retag(tree, index, "VBG")
        replace(tree, index, doer)
        tree.head[index], tree.relation[index] = doer, "acl"
        for child in range(len(tree)):
            if tree.head[child] == index and child < doer:
                tree.head[child] = doer
            elif tree.head[child] == index and tree.relation[child] == "nmod":
                tree.relation[child] = "obl"
            elif tree.head[child] == index and tree.relation[child] == "dep" and tree.tag[child][0] == "N":
                tree.relation[child] = "obj"
            elif tree.head[child] == index and tree.word[child] in ("next", "close"):
                tree.relation[child] = "advmod"
    elif (
        relation in ("amod", "compound")
        and head > index
        and (tree.head[doer] == head or tree.head[head] in (doer, tree.head[doer]))
    ):
        if tree.relation[doer] not in ("compound", "discourse", "dep") and tree.relation[head] != "dep":
            return
        retag(tree, index, "VBG")
        if tree.head[doer] == head:
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


def hand_over(tree: Sentence, old: int, new: int) -> None:
    """Let what hangs on `old` and stands before `new` hang on `new`."""
    for child in below(tree, old):
        if child < new:
            tree.head[child] = new


def retag(tree: Sentence, index: int, tag: str) -> None:
    """Another tag, and the lemma that goes with it."""
    tree.tag[index], tree.lemma[index] = tag, lemma(tree.word[index], tag)


def above(tree: Sentence, index: int) -> Iterator[int]:
    """The words that govern a word, nearest first, each once, also where heads go in a circle."""
    seen = {index}
    while (index := tree.head[index]) >= 0 and index not in seen:
        seen.add(index)
        yield index


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


def human(tree: Sentence, index: int) -> bool:
    """ "stands in front of a tree talking" read as a tree that talks: the nearest above it that can, does."""
    place, seen = tree.head[index], set()
    while place >= 0 and place not in seen and tree.relation[place] in ("nmod", "obl", "obj"):
        seen.add(place)
        place = tree.head[place]
        if place >= 0 and tree.tag[place][0] == "V":
            doers = [child for child in below(tree, place) if tree.relation[child] == "nsubj"]
            doers += [tree.head[place]] if tree.relation[place] == "acl" and tree.head[place] >= 0 else []
            if tree.lemma[place] in words.SEEING | {"look", "listen", "talk", "speak"} or not doers:
                return False
            place = doers[0]
        if place >= 0 and tree.word[place] in words.ANIMATE:
            tree.head[index], tree.relation[index] = place, "acl"
            return True
    return False


def lifted(tree: Sentence, index: int) -> None:
    """ "man with grey hair wearing glasses": it is the man who wears them."""
    holder = tree.head[index]
    if tree.tag[index] != "VBG" or holder < 0 or tree.word[holder] in words.ANIMATE:
        return
    person = tree.head[holder]
    beside = person != index - 1 and tree.head[index - 1] == holder and tree.relation[index - 1] == "nmod"
    if beside and tree.word[index - 1] in words.ANIMATE:  # "a clip of a person playing guitar"
        tree.head[index] = index - 1
        return
    if tree.lemma[index] in HUMAN and human(tree, index):
        return
    used = tree.word[index] == "using" and tree.relation[holder] in ("obj", "obl", "nmod")
    handled = tree.relation[holder] == "obj" and any(  # "surround a device studying it"
        tree.relation[child] == "obj" and tree.word[child] in ("it", "them") for child in below(tree, index)
    )
    does = tree.relation[holder] == "obj" and holder == index - 1 and tree.word[holder] not in words.VEHICLES
    does = does and any(tree.relation[child] == "obj" for child in below(tree, index))
    does = does and tree.lemma[index] not in HOLDING and tree.lemma[person] not in words.SEEING | {"look", "use"}
    if (used or handled or does) and person >= 0:  # "speaking a language doing a trick"
        verb = next((word for word in above(tree, holder) if tree.tag[word][0] == "V"), index)
        if verb != index:
            tree.head[index], tree.relation[index] = verb, "advcl"
        return
    whole = holder  # "up a flight of stairs carrying a ball"
    for word in above(tree, holder):
        if tree.relation[whole] != "nmod" or all(tree.word[child] != "of" for child in below(tree, whole)):
            break
        whole = word
    if whole != holder and tree.relation[whole] in ("obl", "obj"):
        holder, person = whole, tree.head[whole]
    along = tree.relation[holder] == "obj" and person >= 0 and "compound:prt" in {
        tree.relation[child] for child in below(tree, person) if child == person + 1
    }  # fmt: skip
    placed = tree.relation[holder] == "obl" or (along and tree.word[person + 1] in WAYS)
    if placed and person >= 0 and tree.tag[person][0] == "V" and (holder == index - 1 or holder == whole != index - 1):
        subject = person
        while tree.relation[subject] in ("conj", "advcl", "xcomp") and tree.head[subject] >= 0:
            subject = tree.head[subject]
        doer = [child for child in below(tree, subject) if tree.relation[child] == "nsubj"]
        doer += [tree.head[subject]] if tree.relation[subject] == "acl" and tree.head[subject] >= 0 else []
        aboard = any(tree.word[child] == "in" for child in below(tree, holder))
        moved = tree.word[holder] in words.VEHICLES and not aboard or tree.lemma[person] in words.SEEING | {"look"}
        worn = tree.lemma[index] == "wear"  # whoever it is: "elizabeth walks in a mosque wearing a dress"
        about = any(tree.word[child] == "about" for child in below(tree, holder))  # what is talked about does it
        if about and not worn:
            return
        if doer and (worn or tree.word[doer[0]] in words.ANIMATE) and not moved:
            tree.head[index], tree.relation[index] = person, "advcl"
        return
    if tree.relation[holder] == "conj" and person >= 0 and tree.word[person] not in words.ANIMATE:
        holder, person = person, tree.head[person]
    if tree.relation[holder] == "obj" and person >= 0 and tree.relation[person] == "acl":
        wearer = tree.head[person]
        if wearer >= 0 and tree.word[wearer] in words.ANIMATE and tree.word[holder] in words.CLOTHES:
            tree.head[index] = wearer
    if tree.relation[holder] in ("nmod", "obl") and person >= 0 and tree.word[person] in words.ANIMATE:
        cases = {tree.word[child] for child in range(holder) if tree.head[child] == holder}
        acting = any(tree.relation[child] == "obj" for child in below(tree, index))
        if cases & {"with", "in"} or (acting and cases & PLACES and tree.lemma[index] not in SAYING):
            tree.head[index] = person
