"""Words without Java: closed lists, TextBlob's lexicon, lemminflect's tables. What each word can be, alone."""

import functools
import importlib.util
import re
from pathlib import Path

from pipeline.scene_graph import words
from pipeline.scene_graph.words import listed

TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)*(?:st|nd|rd|th|s)?(?![a-z])|[^\W_]+?(?=n't\b)|n't\b|[^\W_]+(?:[-.&/][^\W_]+)*|'(?:s|re|m|ve|ll|d)\b|\S"
)
DETERMINERS = listed("a an the this that these those some any each every both all no another either neither half such")
NAMELESS = listed("""someone somebody everyone everybody anyone anybody nobody something nothing everything anything""")
POSSESSIVES = listed("his her its their my your our whose")
PRONOUNS = listed("i you he she it we they him them us me himself herself itself themselves myself yourself ourselves")
PREPOSITIONS = listed(
    """of in on at by with from into onto over under near behind beside besides between through across against along around
    above below beneath underneath inside outside toward towards during for about after before without within upon
    among amongst amid off past via per than as like beyond atop alongside underside opposite despite until till next
    up down out to aboard throughout amidst"""
)
BE = listed("is are was were be been being am 's 're")
MODALS = listed("can could will would shall should may might must")
FIXED = (
    {word: "DT" for word in DETERMINERS}
    | {word: "PRP$" for word in POSSESSIVES}
    | {word: "PRP" for word in PRONOUNS}
    | {word: "NN" for word in NAMELESS}
    | {word: "IN" for word in PREPOSITIONS}
    | {word: "MD" for word in (*MODALS, "ca", "wo")}
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
    | {
        "there": "EX",
        "to": "TO",
        "not": "RB",
        "n't": "RB",
        "never": "RB",
        "because": "IN",
        "if": "IN",
        "whilst": "IN",
        "away": "RB",
        "back": "NN",
    }
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
