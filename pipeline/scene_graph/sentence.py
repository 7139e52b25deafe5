"""A caption cut into clean sentences, and a sentence as a basic Universal Dependencies tree."""

import re
import unicodedata
from dataclasses import dataclass, field

LONGEST = 2000  # characters of a sentence; CLIP reads some 300 of them, and parsing time grows faster than length
MOST_WORDS = 120  # a sentence's words that are parsed; later ones are left out
ENDS = re.compile(r"(?<=[.!?;])[\"')]*\s+(?=\S)")
ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|vs|no|jr|sr|etc|e\.g|i\.e|a\.m|p\.m|u\.s)|\b[a-z]|^\s*\d+)\.\s*$", re.I
)


@dataclass(slots=True)
class Sentence:
    """Parallel lists, one entry a word, in order.

    `head` is the index of the governing word, -1 for the root; `start`, `end` are character offsets in the caption.
    """

    word: list[str]
    lemma: list[str]
    tag: list[str]  # Penn Treebank
    head: list[int]
    relation: list[str]  # basic Universal Dependencies v2
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.word)

    def shifted(self, offset: list[int]) -> "Sentence":
        """The same tree, its character offsets looked up in `offset`."""
        start = [offset[min(place, len(offset) - 1)] for place in self.start]
        end = [offset[min(max(place - 1, 0), len(offset) - 1)] + 1 for place in self.end]
        return Sentence(self.word, self.lemma, self.tag, self.head, self.relation, start, end)


def sentences(caption: str) -> list[tuple[str, list[int]]]:
    """Each sentence of a caption, clean, with the caption offset of each of its characters.

    Clean is what a parser server can take one a line: lower case (a capital costs .025 F1), no line or control or
    zero-width character, nothing outside the basic plane (offsets stay code points), accents composed.
    """
    text, place = clean(caption)
    found = []
    begin = 0
    for cut in [*(match for match in ENDS.finditer(text) if not ABBREVIATION.search(text[: match.start()])), None]:
        end = cut.start() if cut else len(text)
        left, right = begin, end
        while left < right and text[left] == " ":
            left += 1
        while left < right and text[right - 1] == " ":
            right -= 1
        if right - left > LONGEST:
            right = max(text.rfind(" ", left, left + LONGEST), left + LONGEST // 2)
        if any(character.isalnum() for character in text[left:right]):
            found.append((text[left:right], place[left:right]))
        begin = cut.end() if cut else end
    return found


def clean(caption: str) -> tuple[str, list[int]]:
    """The caption's characters as a parser can take them, and where each came from."""
    if caption.isascii() and caption.isprintable():
        return caption.lower(), list(range(len(caption)))
    characters, place = [], []
    index = 0
    while index < len(caption):
        end = index + 1
        while end < len(caption) and unicodedata.combining(caption[end]):
            end += 1
        for character in unicodedata.normalize("NFC", caption[index:end]).lower():
            kind = unicodedata.category(character)
            if kind == "Mn":
                continue  # an accent that composes with nothing
            blank = kind[0] in "CZ" or ord(character) > 0xFFFF
            characters.append(" " if blank else STRAIGHT.get(character, character))
            place.append(index)
        index = end
    return "".join(characters), place


STRAIGHT = {"‘": "'", "’": "'", "“": '"', "”": '"', "`": "'", "´": "'"}
