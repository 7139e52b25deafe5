"""Part-of-speech tags without Java: what a word usually is, corrected by what stands beside it.

The rules were written for captions: present tense, third person, few clauses, many noun phrases without a verb.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.scene_graph import words
from pipeline.scene_graph.parsers.lexicon import BE, FIXED, NAMELESS, kinds, lemma
from pipeline.scene_graph.words import listed

Kinds = tuple[str, bool, bool, bool]  # usual tag; can be a noun, a verb, an adjective
FINITE = frozenset({"VBZ", "VBP", "VBD", "MD"})
AFTER_VERB = frozenset({"DT", "PRP$", "IN", "PRP", "TO", "RB", "CD", "RP", "VBG"})
END = ("$", ".")  # of the sentence
QUALITIES = words.COLOURS | words.SIZES | words.AGES
CORNERS = listed("left right corner edge side center middle half")
OPEN = listed("left open back top right front")  # of the closed lists, yet what they are depends on their place
CANS = listed("trash garbage soda beer tin watering spray recycling paint")
HELPERS = listed("do does did can ca could will wo would should must might may")
PARTICLES = listed("up down out off away")
NOUN_COLOURS = listed("cream orange gold rose silver")
DEPENDING = (
    OPEN | NOUN_COLOURS | CORNERS | words.SHADES | listed("her that like other can top bottom upper lower next 's")
)
ALWAYS = frozenset(FIXED) - DEPENDING  # "the", "of", "is": half of all words, and no rule changes them


@dataclass(slots=True)
class Spot:
    """A word in its place: tags to the left are final, those to the right still the usual ones."""

    text: list[str]
    tag: list[str]
    index: int
    begin: int  # of the clause
    verbless: bool  # no verb in the clause so far
    doing: str  # the latest finite verb's tag of this clause or of the one that "and" or a comma ended
    described: bool  # only a relative clause has had its verb: "the ball that is red rolls"
    word: str
    usual: str
    noun: bool  # what the word can be
    verb: bool
    adjective: bool
    left: str  # tags beside it, "^" and "$" beyond the ends
    right: str
    before: str  # words beside it
    after: str


def tags(text: list[str]) -> list[str]:
    """Penn Treebank tags of lower-case words."""
    known = [kinds(word) for word in text]
    tag = [entry[0] for entry in known]
    begin = verbs = finite = relatives = 0
    doing = ""
    for index, word in enumerate(text):
        if word in ALWAYS:
            chosen = tag[index]
        else:
            chosen = tag[index] = placed(text, known, tag, index, (begin, not verbs, doing, 0 < relatives >= finite))
        if word in words.CLAUSE or (finite and word in (",", "and", "but")):
            begin, verbs, finite, relatives = index + 1, 0, 0, 0
            doing = "" if word in words.CLAUSE else doing
        elif chosen[0] == "V" or chosen == "MD":
            verbs += 1
            finite += chosen in FINITE
            doing = chosen if chosen in FINITE or (chosen == "VBG" and not doing) else doing
        elif chosen in ("WDT", "WP"):
            relatives += 1
    return tag


def placed(text: list[str], known: list[Kinds], tag: list[str], index: int, clause: tuple[int, bool, str, bool]) -> str:
    """The tag of one word in its place: the first rule's that has a say, else the usual one."""
    left, before = (tag[index - 1], text[index - 1]) if index else ("^", "")
    right, after = (tag[index + 1], text[index + 1]) if index + 1 < len(text) else ("$", "")
    spot = Spot(text, tag, index, *clause, text[index], *known[index], left, right, before, after)
    for rule in RULES:
        found = rule(spot)
        if found:
            return found
    return spot.usual


def order(spot: Spot) -> str | None:
    """ "first the ball", "finally it stops", "is first seen"."""
    if spot.word == "first" and spot.before in BE and spot.right[0] in "VJR":
        return "RB"
    if spot.word == "first" and spot.right in ("DT", "PRP$"):
        return "RB"
    opens = spot.left == "^" and spot.word in ("finally", "next", "later")
    return "RB" if opens and spot.right in ("DT", "PRP$", "PRP", ",", "NN") else None


def owner(spot: Spot) -> str | None:
    if spot.word != "'s":
        return None
    return "POS" if spot.left[0] == "N" and spot.right[0] in "NJC" and spot.right != "CC" else "VBZ"


def side(spot: Spot) -> str | None:
    """ "at the left", "the top left corner"."""
    if spot.word in ("left", "right") and spot.left in ("DT", "JJ", "NN"):
        acts = spot.after.endswith("s") and lemma(spot.after, "VBZ") in words.DEEDS
        if spot.right[0] not in "NJ" or acts:
            return "NN"
    return "JJ" if spot.word in ("top", "bottom", "upper", "lower") and spot.after in CORNERS else None


def closed(spot: Spot) -> str | None:
    """Words of the closed lists; a few depend on their neighbours."""
    word, left, right = spot.word, spot.left, spot.right
    if word not in FIXED or word in OPEN:
        return None
    if word == "her" and right[0] not in "NJCV":
        return "PRP"
    if word == "that":
        return "WDT" if left[0] == "N" and (right[0] in "VM" or right in ("PRP", "DT", "PRP$")) else "DT"
    if word == "like" and left in ("PRP", "NNS", "TO", "MD"):
        return "VB"
    if (word == "other" and spot.before == "each") or (word == "can" and left == "NN" and spot.before in CANS):
        return "NN"
    if word in NOUN_COLOURS and left in ("^", "DT") and right in ("VBZ", "IN", "VBG", "VBN"):
        return "NN"
    return spot.usual


def shade(spot: Spot) -> str | None:
    """ "light blue", "dark colored"."""
    coloured = spot.after in words.COLOURS or spot.after == "colored"
    return "JJ" if coloured and spot.word in words.SHADES else None


def deed(spot: Spot) -> str | None:
    """ "the red moon changes", "a star and a moon swap places": a known deed after its doers is a verb."""
    if not (spot.verbless or spot.described) or spot.index == spot.begin:
        return None
    if spot.usual not in ("NN", "NNS", "VB", "VBP", "VBZ", "JJ"):
        return None
    if spot.word[-1] == "s":
        singular = spot.left == "NN" and spot.before not in ("-", "'s")
        return "VBZ" if singular and lemma(spot.word, "VBZ") in words.DEEDS else None
    if spot.word not in words.DEEDS or "IN" in spot.tag[spot.begin : spot.index]:
        return None
    several = spot.left == "NNS" or (spot.left == "NN" and "and" in spot.text[spot.begin : spot.index])
    return "VBP" if several and spot.after not in (",", "and") and not spot.after.endswith("ing") else None


def second(spot: Spot) -> str | None:
    """ "kicks the ball and runs", "runs jumps and barks", "drawing and painting flowers": another deed of the same doer."""
    joins = spot.before in ("and", "but", ",", "then") and spot.index > 1
    if spot.word[-3:] == "ing":
        after = (
            joins and spot.index > 1 and spot.text[spot.index - 2][-3:] == "ing" and spot.tag[spot.index - 2] == "VBG"
        )
        return "VBG" if after and spot.verb and spot.right[0] in "ND" else None
    if not spot.verb or spot.usual == "JJ" or spot.doing not in ("VBZ", "VBP"):
        return None
    singular = spot.doing == "VBZ" and spot.word[-1] == "s"
    if not singular and not (spot.doing == "VBP" and spot.word[-1] != "s"):
        return None
    known = lemma(spot.word, "VBZ") in words.LATER
    acts = spot.right in ("DT", "PRP$", "PRP") or spot.usual in ("VBZ", "VBP")
    if joins and (known or acts) and spot.right not in ("VBZ", "VBP", "MD"):
        return spot.doing
    if not singular or not known:
        return None
    listed = spot.left == "VBZ" and spot.right in ("CC", "VBZ") and spot.before not in BE
    unmarked = spot.left in ("NN", "NNS") and not spot.verbless and spot.right in ("DT", "PRP$", "RP", "CC", "RB")
    return "VBZ" if listed or unmarked or (spot.left == "NN" and spot.after in PARTICLES) else None


def many(spot: Spot) -> str | None:
    """ "boys in a pool splash water", "a horse and a cow graze": a known deed after doers that are several."""
    if not spot.verbless or spot.word not in words.DEEDS or spot.left != "NN" or spot.right in (*END, ","):
        return None
    done = spot.tag[spot.begin : spot.index]
    first = next((place for place, tag in enumerate(done) if tag in words.NOUN_TAGS), -1)
    if first < 0 or any(tag in FINITE for tag in spot.tag[spot.index + 1 :]) or spot.after.endswith("ing"):
        return None
    several = done[first] == "NNS" or spot.text[spot.begin + first] in words.COLLECTIVE or "CC" in done
    return "VBP" if several and ("IN" in done or "CC" in done) else None


def apart(spot: Spot) -> str | None:
    """ "a girl with glasses laughs", "a pianist in a tuxedo bows": a known deed of one doer after a phrase of its own."""
    if not (spot.verbless or spot.described) or spot.word[-1] != "s" or spot.left not in ("NN", "NNS"):
        return None
    done = spot.tag[spot.begin : spot.index]
    first = next((place for place, tag in enumerate(done) if tag in words.NOUN_TAGS), -1)
    if first < 0 or done[first] != "NN" or "CC" in done or not {"IN", "WP", "WDT"} & set(done[first:]):
        return None
    deed = lemma(spot.word, "VBZ") in words.LATER and spot.text[spot.begin + first] in words.ANIMATE | words.DOERS
    return "VBZ" if deed and spot.right[0] not in "NJV" else None


def modified(spot: Spot) -> str | None:
    """After an article, a number, an owner or an adjective: a noun, or another modifier."""
    usual, left, right = spot.usual, spot.left, spot.right
    if left not in ("DT", "PRP$", "POS", "CD", "JJ", "JJR", "JJS") or (left[0] == "J" and spot.before == "next"):
        return None
    if usual in ("VB", "VBP"):
        return "NN"
    if usual == "VBZ" and spot.noun:
        return "NNS"
    if usual in ("VBG", "VBN", "VBD"):
        if right[0] in "NJ" and (left != "CD" or usual != "VBG"):
            return "JJ" if usual != "VBG" or right[0] == "N" else usual
        return "NN" if spot.noun and right[0] not in "ND" and (usual == "VBG" or left != "POS") else usual
    if usual in ("JJ", "RB", "IN") and spot.noun and right[0] not in "NJC" and left != "CD":
        bare = right in (*END, "IN", "VBZ", "VBP", "VBD", "TO", "VBG", "VBN") and spot.word not in QUALITIES
        return "NN" if not spot.adjective or bare else usual
    return usual


def infinitive(spot: Spot) -> str | None:
    """ "to open a door", but "next to train tracks"."""
    denied = spot.before in ("n't", "not", "never") and spot.index > 1 and spot.text[spot.index - 2] in HELPERS
    if spot.left not in ("TO", "MD") and not denied:
        return None
    placed = spot.index > 1 and spot.text[spot.index - 2] in ("next", "close", "attached", "connected", "tied")
    if spot.left == "TO" and spot.noun and placed:
        return "NN" if spot.usual in ("VB", "VBP") else spot.usual
    goal = spot.left == "TO" and (spot.usual[0] == "N" or not spot.verbless) and spot.right in ("IN", *END)
    return "VB" if spot.verb and not goal else None


def after_be(spot: Spot) -> str | None:
    """ "is parked", "is swinging"."""
    behind = spot.left == "RB" and spot.index > 1 and spot.text[spot.index - 2] in BE
    if not behind and spot.before not in BE:
        return None
    if spot.usual in ("VBD", "VBN") or (spot.verb and spot.word[-2:] == "ed" and "by" in (spot.after, spot.before)):
        return "VBN"
    if spot.before == "being" and spot.verb and spot.word[-2:] == "ed":
        return "VBN"
    if spot.usual in ("VB", "VBP") and spot.noun:
        return "NN" if not spot.adjective else "JJ"
    gerund = spot.usual == "NN" and spot.verb and spot.word.endswith("ing") and spot.right != "IN"
    return "VBG" if gerund else spot.usual


def participle(spot: Spot) -> str | None:
    """ "man petting a dog", "framed picture", "road paved in stone"."""
    usual, left, right = spot.usual, spot.left, spot.right
    if usual == "NN" and spot.verb and spot.word.endswith("ing") and left[0] in "NP" and right in AFTER_VERB:
        return "VBG"
    if usual in ("VBN", "VBD", "VBG") and left in ("^", "IN", "CC", ",", "VBG") and right[0] in "NJ":
        doing = (left in ("IN", "CC") and right[0] == "N") or (left == "^" and right == "NNS")
        if usual != "VBG" or doing:
            return "JJ"
    if usual == "JJ" and spot.verb and spot.word.endswith("ed") and left[0] == "N" and right in ("IN", "TO"):
        return "VBN"
    return None


def plural_verb(spot: Spot) -> str | None:
    """ "horses graze on grass", "they walk"."""
    if spot.left not in ("NNS", "PRP", "WDT", "WP") or not (spot.verbless and spot.verb):
        return None
    if spot.usual not in ("NN", "VB", "VBP", "JJ"):
        return None
    sure = (spot.usual[0] == "V" and not spot.noun) or spot.left != "NNS"
    return "VBP" if sure or spot.right in AFTER_VERB or spot.right in END else None


def singular_verb(spot: Spot) -> str | None:
    """ "man walks", but "train tracks": a verb if the clause has none and what follows can follow a verb."""
    if spot.left not in ("NN", "PRP", "WP", "WDT") or spot.usual not in ("NNS", "VBZ"):
        return None
    if not (spot.verb and spot.noun):
        return None
    if spot.left != "NN" or (spot.verbless and (spot.before in words.ANIMATE or one(spot))):
        return "VBZ"
    if not spot.verbless:
        return "NNS"
    if spot.usual == "NNS":
        return "VBZ" if spot.right in ("DT", "PRP$", "PRP", "TO", "RB") else "NNS"
    earlier = spot.tag[: spot.index]
    short = spot.index < 2 or "IN" in earlier or "TO" in earlier
    return "NNS" if spot.right in ("VBZ", "VBP", "VBG", "MD") or (spot.right in END and short) else "VBZ"


def one(spot: Spot) -> bool:
    """Whether the noun phrase on the left speaks of a single thing: "a red ball" takes no plural noun."""
    place = spot.index - 1
    while place >= 0 and spot.tag[place] in ("NN", "JJ"):
        place -= 1
    return place >= 0 and spot.text[place] in ("a", "an", "one", "another")


def past(spot: Spot) -> str | None:
    """ "man rode a horse", but "cake covered with cream"."""
    if spot.usual not in ("VBD", "VBN") or spot.left[0] not in "NP":
        return None
    return "VBD" if spot.right in ("DT", "PRP$", "CD", "PRP") else "VBN"


def base(spot: Spot) -> str | None:
    """ "helmet cover the face", and base forms that are nouns here."""
    left = spot.left
    bare = left == "NN" and spot.verbless and spot.verb and spot.usual in ("NN", "VB", "VBP")
    if bare and spot.right in ("DT", "PRP$"):
        later = any(tag in ("VBZ", "VBP", "MD") for tag in spot.tag[spot.index + 1 :])
        return "NN" if later else "VBP"
    if spot.usual in ("VB", "VBP"):
        if spot.noun and left in ("IN", "^", "VBG", "CC", "NN", "VBZ", ",", "VBN", "NNS"):
            return "NN"
        verbless = spot.verbless and left == "NN" and not spot.noun  # "a couple in a kitchen discuss food"
        return "VBP" if verbless or left in ("NNS", "PRP", "WDT", "WP") else "VB"
    return None


def thing(spot: Spot) -> str | None:
    """Nouns that the lexicon has as something else: "in lights", "on concrete"."""
    usual, left = spot.usual, spot.left
    if usual == "VBZ" and spot.noun and left in ("IN", "^", "VBG", "CC", "VBN", "NNS"):
        return "NNS"
    if usual not in ("JJ", "RB") or not spot.noun or spot.word in words.COLOURS:
        return None
    if usual == "JJ" and left == "NN" and not spot.verbless and spot.right in (*END, "CC", ",") and one(spot):
        return "NN" if spot.word not in QUALITIES else None  # "opens a birthday present"
    placed = left in ("IN", "VBG") or (left == "NN" and usual == "JJ" and not spot.adjective)
    return "NN" if placed and spot.right in (*END, "IN", "CC", ",") else None


RULES: tuple[Callable[[Spot], str | None], ...] = (
    order,
    owner,
    side,
    closed,
    shade,
    second,
    many,
    apart,
    deed,
    modified,
    infinitive,
    after_be,
    participle,
    plural_verb,
    singular_verb,
    past,
    base,
    thing,
)


def misread(text: list[str], theirs: list[str]) -> bool:
    """Whether another tagger sees nouns where something is done ("the red moon changes"), or "left" as a verb."""
    ours = tags(text)
    verbless = not FINITE & set(theirs) and "VBG" not in theirs and "VBN" not in theirs
    for index in range(1, len(text)):
        before = ours[index - 1]
        bare = ours[index] == "VBP" and theirs[index] == "VB"  # "a couple in a kitchen discuss food"
        done = ours[index] in ("VBZ", "VBP") and (
            before in ("NN", "NNS", "CC", "VBZ", ",") or text[index - 1] == "then"
        )
        objects = index + 1 < len(text) and (
            ours[index + 1] in ("DT", "PRP$", "CD", "PRP") or text[index + 1] in NAMELESS
        )
        sure = objects or (ours[index] == "VBZ" and kinds(text[index])[0] == "VBZ" and text[index - 1] in words.ANIMATE)
        if done and verbless and sure and theirs[index][0] == "N":
            return True  # "a chef fries two eggs"
        if done and (theirs[index][0] in "NJ" or bare) and lemma(text[index], ours[index]) in words.LATER:
            return True
        if text[index] == "left" and theirs[index][0] == "V" and before in ("DT", "JJ"):
            return True
    return False
