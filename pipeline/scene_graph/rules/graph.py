"""A dependency tree made easy to ask: who are the children, the conjuncts, the subjects, what is the preposition."""

from pipeline.scene_graph import words
from pipeline.scene_graph.sentence import Sentence

DEPTH = 8  # steps up a chain of verbs in search of a subject; trees from captions never need more


class Graph:
    """Questions about one sentence. Odd trees (no root, loops, two roots) give poorer answers, never an error."""

    def __init__(self, sentence: Sentence):
        self.sentence = sentence
        self.word, self.lemma, self.tag = sentence.word, sentence.lemma, sentence.tag
        self.head, self.relation = sentence.head, sentence.relation
        self.children: list[list[int]] = [[] for _ in sentence.word]
        for index, head in enumerate(sentence.head):
            if 0 <= head < len(self.children) and head != index:
                self.children[head].append(index)

    def kids(self, index: int, *relations: str) -> list[int]:
        """Children of a word by these relations, in order."""
        if not self.children[index]:
            return []
        return [child for child in self.children[index] if self.relation[child] in relations]

    def noun(self, index: int) -> bool:
        return self.tag[index] in words.NOUN_TAGS

    def thing(self, index: int) -> bool:
        """A noun, or a pronoun or determiner that stands for one."""
        return self.tag[index] in words.THING_TAGS

    def verb(self, index: int) -> bool:
        return self.tag[index][0] == "V" and self.relation[index] not in words.AUXILIARY

    def conjuncts(self, index: int) -> list[int]:
        """The word and those joined to it by "and", of its own kind; "or" and "not" join nothing."""
        found = [index]
        for child in self.children[index]:
            if self.relation[child] != "conj":
                continue
            joined = self.kids(child, "cc")
            if any(self.lemma[word] in words.APART for word in joined) or self.kids(child, "nsubj", "nsubj:pass"):
                continue
            if self.thing(child) == self.thing(index):
                found.append(child)
        return found

    def case(self, index: int) -> list[int]:
        """Words of the preposition of a noun, fixed parts included."""
        found = []
        if not self.children[index]:
            return found
        for child in self.children[index]:
            if self.relation[child] == "case" and self.tag[child] != "POS":
                found.append(child)
                found += self.kids(child, "fixed", "advmod", "compound:prt")
        if not found:
            for child in self.children[index]:
                if self.word[child] in words.PLACES and self.relation[child] in (
                    "advmod",
                    "dep",
                    "compound:prt",
                    "mark",
                ):
                    return [child] if child < index else []
        return sorted(found)

    def subjects(self, verb: int, depth: int = 0) -> list[int]:
        """Who does it (or, of a passive, whom it is done to): own subject, else the governor's, else the noun described."""
        own = self.kids(verb, "nsubj", "nsubj:pass")
        if own:
            own = [word for word in own if self.tag[word] not in words.RELATIVE_TAGS] or own
            if self.tag[own[0]] in words.RELATIVE_TAGS and self.relation[verb] == "acl:relcl":
                return self.conjuncts(self.head[verb])
            return self.conjuncts(own[0])
        head, relation = self.head[verb], self.relation[verb]
        if head < 0 or depth > DEPTH:
            return []
        marks = [self.word[word] for word in self.kids(verb, "mark", "case")]
        if relation == "acl" and self.tag[verb] == "VBG" and marks and marks[0] not in words.CLAUSE:
            return []  # "ideas for decorating a room" decorate nothing
        if relation == "acl" and self.tag[verb] == "VB" and self.word[head] in words.SUBJECTLESS:
            return []  # "a demonstration on how to chop an onion"
        if relation == "acl" and self.relation[head] == "conj" and self.thing(self.head[head]):
            first = self.head[head]  # "a woman and a man walking": both walk, where nothing else is said of the first
            if self.relation[first] == "root" and not self.kids(first, "acl", "acl:relcl", "nsubj", "cop"):
                return [word for word in self.conjuncts(first) if word <= head]
        if relation in ("acl", "acl:relcl"):
            if not self.thing(head):
                return self.subjects(head, depth + 1)
            return [word for word in self.conjuncts(head) if word < verb or word == head]
        if relation in words.SHARE_SUBJECT:
            if relation == "xcomp":
                objects = self.kids(head, "obj")
                purpose = self.tag[verb] == "VB" and "to" in marks and self.lemma[head] not in words.CONTROL
                if objects and not purpose:  # "breaks a bottle to defend herself": the bottle defends nobody
                    return self.conjuncts(objects[0])
            if self.noun(head) and relation != "conj" and not self.kids(head, "cop"):
                return self.conjuncts(head)  # a caption that is a noun phrase: "man on a beach, holding a board"
            above = self.subjects(head, depth + 1)
            told = relation in ("xcomp", "ccomp") and not (above and self.word[above[0]] in words.SUBJECTLESS)
            return above if told or relation not in ("xcomp", "ccomp") else []  # "a video shows how to cook"
        return []

    def negated(self, index: int, depth: int = 0) -> bool:
        """Whether a word is said not to be: "is not red", "no people", "nobody", or governed so: "does not want to go"."""
        if self.word[index] in words.NOBODY:
            return True
        for child in self.children[index]:
            if self.word[child] in words.NOT and self.relation[child] in ("advmod", "neg", "det", "dep", "aux"):
                return True
        head = self.head[index]
        if self.relation[index] not in ("xcomp", "ccomp") or head < 0 or depth > DEPTH:
            return False
        return self.lemma[head] in words.REFUSE or self.negated(head, depth + 1)

    def mutual(self, index: int) -> bool:
        """ "each other", "one another", whichever of the two words the parser hangs below the verb."""
        near = self.word[max(index - 1, 0) : index + 2]
        return any(pair in (("each", "other"), ("one", "another")) for pair in zip(near, near[1:], strict=False))

    def reflexive(self, index: int) -> bool:
        return self.word[index].endswith(("self", "selves")) and self.tag[index] == "PRP"

    def passive(self, verb: int) -> bool:
        """Whether the verb's subject is what it is done to: "is parked", "a car parked"."""
        if self.kids(verb, "nsubj:pass", "aux:pass"):
            return True
        if self.tag[verb] not in ("VBN", "VBD"):
            return False
        if self.kids(verb, "aux", "obj"):
            return False
        if self.lemma[verb] not in words.STATIC and any(
            [self.word[word] for word in self.case(phrase)] == ["by"] for phrase in self.kids(verb, "obl", "obl:agent")
        ):
            return True
        if self.relation[verb] in ("acl", "advcl"):
            return self.tag[verb] == "VBN"
        if self.relation[verb] == "conj" and self.tag[verb] == "VBN" and self.head[verb] >= 0:
            head = self.head[verb]
            return self.tag[head] == "VBN" and not self.kids(verb, "nsubj") and self.passive(head)
        return False
