"""Part-of-speech tags without Java: TextBlob's lexicon, lemminflect's tables, and rules on what stands beside a word."""

import functools
import importlib.util
import re
from pathlib import Path

from pipeline.scene_graph import words
from pipeline.scene_graph.words import listed

TOKEN = re.compile(r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?(?![a-z])|[^\W_]+(?:[-.&/][^\W_]+)*|'(?:s|re|m|ve|ll|d)\b|\S")
NEGATED = re.compile(r"n't\b|n'\s?t\b")

DETERMINERS = listed("a an the this that these those some any each every both all no another either neither half such")
POSSESSIVES = listed("his her its their my your our whose")
PRONOUNS = listed(
    """i you he she it we they him them us me himself herself itself themselves someone somebody everyone everybody anyone
    something nothing everything"""
)
PREPOSITIONS = listed(
    """of in on at by with from into onto over under near behind beside besides between through across against along around
    above below beneath underneath inside outside toward towards during for about after before without within upon
    among amongst amid off past via per than as like beyond atop alongside underside opposite despite until till next
    up down out to aboard throughout amidst"""
)
BE = listed("is are was were be been being am 's 're")
AUXILIARIES = BE | listed("has have had having do does did can could will would shall should may might must")
MODALS = listed("can could will would shall should may might must")
FIXED = (
    {word: "DT" for word in DETERMINERS}
    | {word: "PRP$" for word in POSSESSIVES}
    | {word: "PRP" for word in PRONOUNS}
    | {word: "IN" for word in PREPOSITIONS}
    | {word: "MD" for word in MODALS}
    | {word: "CC" for word in ("and", "or", "but", "nor", "&", "plus")}
    | {
        "who": "WP",
        "which": "WDT",
        "what": "WP",
        "whom": "WP",
        "when": "WRB",
        "where": "WRB",
        "while": "IN",
        "how": "WRB",
    }
    | {"there": "EX", "to": "TO", "not": "RB", "because": "IN", "if": "IN", "whilst": "IN", "away": "RB", "back": "NN"}
    | {"is": "VBZ", "are": "VBP", "was": "VBD", "were": "VBD", "be": "VB", "been": "VBN", "being": "VBG", "am": "VBP"}
    | {"has": "VBZ", "have": "VBP", "had": "VBD", "having": "VBG", "does": "VBZ", "do": "VBP", "did": "VBD"}
    | {
        "next": "JJ",
        "front": "NN",
        "top": "NN",
        "left": "JJ",
        "right": "JJ",
        "many": "JJ",
        "several": "JJ",
        "few": "JJ",
    }
    | {
        "very": "RB",
        "together": "RB",
        "forward": "RB",
        "other": "JJ",
        "open": "JJ",
        "one": "CD",
        "multi": "JJ",
        "overcast": "JJ",
        "t-shirt": "NN",
    }
    | {word: "CD" for word in words.NUMBERS}
    | {word: "JJ" for word in words.COLOURS}
    | {
        word: "NN"
        for word in ("man", "building", "ceiling", "clothing", "wedding", "painting", "skiing", "metal", "water")
    }
)
INTRANSITIVE = listed(
    "walked jumped stood sat ran went came fell flew looked talked smiled danced sang swam laughed appeared"
)


@functools.lru_cache(1)
def lexicon() -> dict[str, str]:
    """TextBlob's word list, the file alone: importing the package would bring NLTK with it."""
    place = importlib.util.find_spec("textblob")
    if place is None:
        raise ValueError("the shallow parser needs TextBlob's word list; type: pip install textblob")
    path = Path(place.origin).parent / "en" / "en-lexicon.txt"
    tags: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, tag = line.partition(" ")
        if tag and (word.islower() or word.lower() not in tags):
            tags[word.lower()] = tag.strip()
    return tags


@functools.lru_cache(100_000)
def kinds(word: str) -> tuple[str, bool, bool, bool]:
    """The usual tag of a word, and whether it can be a noun, a verb, an adjective."""
    from lemminflect import getAllLemmas

    if word in FIXED:
        tag = FIXED[word]
        possible = getAllLemmas(word) if tag in ("JJ", "NN", "RB") else {}
        return tag, "NOUN" in possible or tag[0] == "N", "VERB" in possible, tag == "JJ" or "ADJ" in possible
    possible = getAllLemmas(word)
    noun, verb, adjective = "NOUN" in possible, "VERB" in possible, "ADJ" in possible
    if word in PLURALS:
        return "NNS", True, False, False
    tag = "CD" if word[0].isdigit() else lexicon().get(word)
    if tag is None or tag[0] not in "NVJRIC" or (tag == "IN" and noun):
        tag = guess(word, noun, verb, adjective)
    if tag in ("NNP", "NNPS"):
        tag = "NN" if tag == "NNP" else "NNS"
    if tag[0] == "J" and noun and not adjective and not verb:
        tag = "NN"
    if tag in ("VB", "VBP") and noun and not verb:
        tag = "NN"
    if tag == "NN" and verb and not noun and word.endswith("ing"):
        tag = "VBG"
    return tag, noun or tag[0] == "N", verb or tag[0] == "V", adjective or tag[0] == "J"


def guess(word: str, noun: bool, verb: bool, adjective: bool) -> str:
    """A tag from the shape of a word that the lexicon lacks."""
    if word[0].isdigit():
        return "CD"
    if not word[0].isalpha():
        return "." if word in ".!?" else ","
    if word.endswith("ing") and (verb or not noun) and len(word) > 4:
        return "VBG"
    if word.endswith("ed") and (verb or not noun) and len(word) > 3 and not adjective:
        return "VBN"
    if word.endswith("ly") and not noun:
        return "RB"
    if (
        not verb
        and len(word) > 4
        and word.endswith(("ic", "al", "ous", "ful", "ive", "able", "less", "ish"))
        and not noun
    ):
        return "JJ"
    if adjective and not noun or ("-" in word and word.endswith(("ed", "y", "sized", "style", "colored"))):
        return "JJ"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return "NNS"
    if verb and not noun:
        return "VB"
    return "NN"


@functools.lru_cache(100_000)
def lemma(word: str, tag: str) -> str:
    """Dictionary form."""
    from lemminflect import getLemma

    if word in BE and tag[0] == "V":
        return "be"
    kind = {"N": "NOUN", "V": "VERB"}.get(tag[0])
    found = getLemma(word, kind) if kind else ()
    return found[0] if found else word


def tokens(text: str) -> tuple[list[str], list[int], list[int]]:
    """Words with their character offsets; "man's" is two, "t-shirt" one."""
    found = [(match.group(), match.start(), match.end()) for match in TOKEN.finditer(text)]
    return [word for word, _, _ in found], [start for _, start, _ in found], [end for _, _, end in found]


def tags(text: list[str]) -> list[str]:
    """Penn Treebank tags of lower-case words."""
    known = [kinds(word) for word in text]
    tag = [entry[0] for entry in known]
    begin = 0  # of the clause
    for index, word in enumerate(text):
        tag[index] = corrected(text, known, tag, index, begin)
        joins = word in (",", "and", "but") and any(other in FINITE for other in tag[begin:index])
        if word in words.CLAUSE or joins:
            begin = index + 1
    return tag


FINITE = frozenset({"VBZ", "VBP", "VBD", "MD"})


def corrected(
    text: list[str], known: list[tuple[str, bool, bool, bool]], tag: list[str], index: int, begin: int
) -> str:
    """The tag of one word, given the final tags on its left and the usual ones on its right."""
    word, usual = text[index], tag[index]
    noun, verb, adjective = known[index][1:]
    left = tag[index - 1] if index else "^"
    before = text[index - 1] if index else ""
    right = tag[index + 1] if index + 1 < len(text) else "$"
    if (
        word == "first"
        and right in ("DT", "PRP$")
        or left == "^"
        and word in ("finally", "next", "later")
        and right in ("DT", "PRP$", "PRP", ",", "NN")
    ):
        return "RB"
    if word == "'s":
        return "POS" if left[0] == "N" and right[0] in "NJC" and right != "CC" else "VBZ"
    if word in ("left", "right") and left in ("DT", "JJ", "NN"):
        after = text[index + 1] if index + 1 < len(text) else ""
        if right[0] not in "NJ" or lemma(after, "VBZ") in words.DEEDS and after.endswith("s"):
            return "NN"
    if word in ("top", "bottom", "upper", "lower") and index + 1 < len(text) and text[index + 1] in CORNERS:
        return "JJ"
    if word in FIXED and word not in OPEN:
        return fixed(text, tag, index, left, right)
    if (
        word in words.SHADES
        and index + 1 < len(text)
        and (text[index + 1] in words.COLOURS or text[index + 1] == "colored")
    ):
        return "JJ"
    verbless = not any(other[0] == "V" or other == "MD" for other in tag[begin:index])
    relatives = sum(other in ("WDT", "WP") for other in tag[begin:index])
    described = (
        relatives and sum(other in FINITE for other in tag[begin:index]) <= relatives
    )  # "the ball that is red rolls"
    if (verbless or described) and deed(text, tag, index, begin):
        return "VBZ" if word.endswith("s") else "VBP"
    if left in ("DT", "PRP$", "POS", "CD") or (left in ("JJ", "JJR", "JJS") and before != "next"):
        return after_modifier(word, usual, left, right, noun, adjective)
    if (
        left in ("TO", "MD")
        and verb
        and not (left == "TO" and (usual[0] == "N" or not verbless) and right in ("IN", "$", "."))
    ):
        return "VB"
    if before in BE or (left == "RB" and index > 1 and text[index - 2] in BE):
        if usual in ("VBD", "VBN"):
            return "VBN"
        if usual in ("VB", "VBP") and noun:
            return "NN" if not adjective else "JJ"
        return "VBG" if usual == "NN" and verb and word.endswith("ing") and right != "IN" else usual
    if usual == "NN" and verb and word.endswith("ing") and left[0] in "NP" and right in AFTER_VERB:
        return "VBG"
    described = usual in ("VBN", "VBD", "VBG") and left in ("^", "IN", "CC", ",", "VBG") and right[0] in "NJ"
    if described and (usual != "VBG" or (left in ("IN", "CC") and right[0] == "N") or (left == "^" and right == "NNS")):
        return "JJ"
    if usual == "JJ" and verb and word.endswith("ed") and left[0] == "N" and right in ("IN", "TO"):
        return "VBN"
    plural = left in ("NNS", "PRP", "WDT", "WP") and verbless and verb and usual in ("NN", "VB", "VBP", "JJ")
    if plural and (right in AFTER_VERB or (usual[0] == "V" and not noun) or left != "NNS" or right in ("$", ".")):
        return "VBP"
    if left in ("NN", "PRP", "WP", "WDT") and usual in ("NNS", "VBZ") and verb and noun and word not in PLURALS:
        if verbless and left == "NN" and (before in words.ANIMATE or one(text, tag, index)):
            return "VBZ"
        placed = "IN" in tag[:index] or "TO" in tag[:index]
        return third_person(usual, left, right, verbless, index < 2 or placed)
    if usual in ("VBD", "VBN") and left[0] in "NP":
        return "VBD" if right in ("DT", "PRP$", "CD", "PRP") or word in INTRANSITIVE else "VBN"
    if left == "NN" and verbless and usual in ("NN", "VB", "VBP") and verb and right in ("DT", "PRP$"):
        return "NN" if any(other in ("VBZ", "VBP", "MD") for other in tag[index + 1 :]) else "VBP"
    if usual in ("VB", "VBP"):
        if noun and left in ("IN", "^", "VBG", "CC", "NN", "VBZ", ",", "VBN", "NNS"):
            return "NN"
        return "VBP" if left in ("NNS", "PRP", "WDT", "WP") else "VB"
    if usual == "VBZ" and noun and left in ("IN", "^", "VBG", "CC", "VBN", "NNS"):
        return "NNS"
    if usual in ("JJ", "RB") and noun and left in ("IN", "VBG", "VBZ", "NN") and right in ("$", ".", "IN", "CC", ","):
        return (
            "NN"
            if word not in words.COLOURS and left != "VBZ" and (left != "NN" or usual == "JJ" and not adjective)
            else usual
        )
    return usual


PLURALS = listed("tracks bears rocks nets stems lights signs boards bars cars trees boats planes trains hands eyes")
QUALITIES = words.COLOURS | words.SIZES | words.AGES
CORNERS = listed("left right corner edge side center middle half")
OPEN = listed("left open back top right front")
AFTER_VERB = frozenset({"DT", "PRP$", "IN", "PRP", "TO", "RB", "CD", "RP", "VBG"})


def fixed(text: list[str], tag: list[str], index: int, left: str, right: str) -> str:
    """A word of the closed lists whose tag still depends on its neighbours."""
    word, usual = text[index], tag[index]
    if word == "her" and right[0] not in "NJCV":
        return "PRP"
    if word == "that":
        return "WDT" if left[0] == "N" and (right[0] in "VM" or right in ("PRP", "DT", "PRP$")) else "DT"
    if word == "like" and left in ("PRP", "NNS", "TO", "MD"):
        return "VB"
    if word == "other" and index and text[index - 1] == "each":
        return "NN"
    if word == "can" and index and left == "NN" and text[index - 1] in CANS:
        return "NN"
    if word == "one" and right in ("IN", "VBZ", "$", "."):
        return "CD"
    if word in words.COLOURS and word in NOUN_COLOURS and left in ("^", "DT") and right in ("VBZ", "IN", "VBG", "VBN"):
        return "NN"
    return usual


CANS = listed("trash garbage soda beer tin watering spray recycling paint")
NOUN_COLOURS = listed("cream orange gold rose silver")


def after_modifier(word: str, usual: str, left: str, right: str, noun: bool, adjective: bool) -> str:
    """A word after an article, a number, an owner or an adjective: a noun, or another modifier."""
    if usual in ("VB", "VBP"):
        return "NN"
    if usual == "VBZ" and noun:
        return "NNS"
    if usual in ("VBG", "VBN", "VBD"):
        if right[0] in "NJ" and (left != "CD" or usual != "VBG"):
            return "JJ" if usual != "VBG" or right[0] == "N" else usual
        return "NN" if noun and right[0] not in "ND" and (usual == "VBG" or left != "POS") else usual
    if usual in ("JJ", "RB", "IN") and noun and right[0] not in "NJC" and left != "CD":
        bare = right in ("IN", "VBZ", "VBP", "$", "VBD", "TO", ".", "VBG", "VBN") and word not in QUALITIES
        return "NN" if not adjective or bare else usual
    return usual


def deed(text: list[str], tag: list[str], index: int, begin: int) -> bool:
    """ "the red moon changes", "a star and a moon swap places": a known deed after its doers is a verb."""
    word = text[index]
    if (
        index == begin
        or tag[index] not in ("NN", "NNS", "VB", "VBP", "VBZ", "JJ")
        or "IN" in tag[begin:index]
        and word[-1] != "s"
    ):
        return False
    left = tag[index - 1]
    if word[-1] == "s":
        return left == "NN" and text[index - 1] not in ("-", "'s") and lemma(word, "VBZ") in words.DEEDS
    after = text[index + 1] if index + 1 < len(text) else ""
    several = left == "NNS" or (left == "NN" and "and" in text[begin:index])
    return several and word in words.DEEDS and after not in (",", "and") and not after.endswith("ing")


def misread(text: list[str], theirs: list[str]) -> bool:
    """Whether another tagger sees nouns where something is done ("the red moon changes") or "left" as a verb."""
    ours = tags(text)
    for index in range(1, len(text)):
        done = ours[index] in ("VBZ", "VBP") and ours[index - 1] in ("NN", "NNS")
        if done and theirs[index][0] in "NJ" and lemma(text[index], ours[index]) in words.DEEDS:
            return True
        if text[index] == "left" and theirs[index][0] == "V" and ours[index - 1] in ("DT", "JJ"):
            return True
    return False


def one(text: list[str], tag: list[str], index: int) -> bool:
    """Whether the noun phrase on the left speaks of a single thing: "a red ball" takes no plural noun."""
    place = index - 1
    while place >= 0 and tag[place] in ("NN", "JJ"):
        place -= 1
    return place >= 0 and text[place] in ("a", "an", "one", "another")


def third_person(usual: str, left: str, right: str, verbless: bool, phrase: bool) -> str:
    """ "man walks", but "train tracks": a verb if the clause has none and what follows can follow a verb."""
    if left != "NN":
        return "VBZ"
    if not verbless:
        return "NNS"
    if usual == "VBZ":
        return "NNS" if right in ("VBZ", "VBP", "VBG", "MD") or (right in ("$", ".") and phrase) else "VBZ"
    return "VBZ" if right in ("DT", "PRP$", "PRP", "TO", "RB") else "NNS"
