"""A dependency tree without Java: tags, then noun phrases, then one pass from left to right that joins them.

It makes the same kind of tree as CoreNLP, so the same rules read it. Captions are short and their grammar is narrow.
"""

from dataclasses import dataclass

from pipeline.scene_graph import words
from pipeline.scene_graph.parsers.lexicon import BE, lemma, tokens
from pipeline.scene_graph.parsers.tagger import FINITE, tags
from pipeline.scene_graph.sentence import MOST_WORDS, Sentence
from pipeline.scene_graph.words import listed

OPENERS = words.CLAUSE | {"finally", "afterwards", "later", "first"}
LINKING = listed("get become turn look seem stay remain make keep go")  # take an adjective: "gets larger"
PARTICLES = listed("up down out off away over around back along in on together")
PHRASAL = frozenset(
    {("pick", "up"), ("blow", "up"), ("blow", "out"), ("put", "on"), ("take", "off"), ("knock", "over"), ("turn", "on"),
     ("turn", "off"), ("set", "up"), ("lift", "up"), ("hold", "up"), ("pull", "out"), ("take", "out"), ("hand", "out"),
     ("fill", "up"), ("clean", "up"), ("cut", "up"), ("cut", "off"), ("try", "on"), ("throw", "away")}
)  # fmt: skip
DOUBLE = frozenset(
    {("next", "to"), ("close", "to"), ("out", "of"), ("on", "to"), ("in", "to"), ("along", "with"), ("away", "from"),
     ("inside", "of"), ("outside", "of"), ("off", "of"), ("up", "to"), ("because", "of"), ("instead", "of"),
     ("such", "as"), ("from", "behind"), ("adjacent", "to")}
)  # fmt: skip


def parse(text: str) -> Sentence:
    """The tree of one clean sentence."""
    word, start, end = tokens(text)
    word, start, end = word[:MOST_WORDS], start[:MOST_WORDS], end[:MOST_WORDS]
    tag = tags(word)
    builder = Builder(word, tag)
    builder.run()
    lemmas = [lemma(one, its) for one, its in zip(word, tag)]
    return Sentence(word, lemmas, builder.tag, builder.head, builder.relation, start, end)


@dataclass(slots=True)
class State:
    """What the pass remembers of the clause so far; -1 where there is nothing."""

    subject: int = -1  # head noun that a following verb takes
    thing: int = -1  # the latest noun phrase; of several joined by "and", the first
    edge: int = -1  # where the latest noun phrase ends
    verb: int = -1  # the latest verb that may take objects and phrases
    finite: int = -1  # the clause's main verb
    objects: bool = False  # the latest verb has its object
    phrase: str = ""  # the preposition that the latest noun follows, if any
    quality: int = -1  # an adjective after its noun, which may take a phrase: "full of"
    relative: int = -1  # the noun that the coming clause describes: "the jeans the man is wearing"
    join: int = -1  # "and" that waits for its second part
    front: int = -1  # what a phrase before any subject names: "in a kitchen a man cooks"


class Builder:
    """Heads and relations for tagged words."""

    def __init__(self, word: list[str], tag: list[str]):
        self.word, self.tag = word, tag
        self.head = [-1] * len(word)
        self.relation = ["dep"] * len(word)
        self.state = State()
        self.root = -1

    def join(self, child: int, head: int, relation: str) -> None:
        if child != head:
            self.head[child], self.relation[child] = head, relation

    def run(self) -> None:
        index = 0
        while index < len(self.word):
            index = self.step(index)
        if self.root < 0 and self.word:
            self.root = max(self.state.thing, self.state.verb, 0)
        for child in range(len(self.word)):
            if self.head[child] < 0 and child != self.root:
                self.head[child] = self.root
        if self.word:
            self.head[self.root], self.relation[self.root] = -1, "root"

    def step(self, index: int) -> int:
        """Take in the next phrase or word; returns where the one after begins."""
        tag, word, state = self.tag[index], self.word[index], self.state
        if index == 0 and self.word[:3] == ["to", "begin", "with"]:
            return 3
        end, head = self.noun_phrase(index)
        if head >= 0:
            self.place_noun(head, index)
            return end
        if tag in ("IN", "TO") or (word, self.word[index + 1] if index + 1 < len(self.word) else "") in DOUBLE:
            return self.preposition(index)
        if tag[0] == "V" or tag == "MD":
            return self.verbs(index)
        if tag == "CC":
            state.join = index
        elif tag in ("WDT", "WP", "WRB"):
            return self.relative(index)
        elif tag == "EX":
            return index + 1
        elif (
            tag in ("JJ", "JJR")
            and state.verb == index - 1
            and lemma(self.word[state.verb], self.tag[state.verb]) in LINKING
        ):
            self.join(index, state.verb, "xcomp")
            state.objects = True
        elif tag in ("JJ", "VBN", "JJR") and state.thing >= 0:
            self.join(index, state.thing, "amod")
            state.quality = index
        elif tag == "RB" and state.verb >= 0:
            self.join(index, state.verb, "advmod")
        return index + 1

    def noun_phrase(self, index: int) -> tuple[int, int]:
        """(end, head) of a noun phrase that begins here; head -1 when none does. Its inner words are joined."""
        tag, end = self.tag, index
        while end < len(tag) and tag[end] in ("DT", "PRP$", "CD", "JJ", "NN", "NNS", "POS", "JJR", "JJS", "PDT"):
            end += 1
            if end + 1 < len(tag) and tag[end] == "RB" and tag[end + 1] == "JJ" and tag[end - 1] not in words.NOUN_TAGS:
                end += 1
            if tag[end - 1] in words.NOUN_TAGS and end < len(tag) and tag[end] in ("DT", "PRP$"):
                break
            if end < len(tag) and tag[end] == "CC" and self.adjectives(end):
                end += 1
            if (
                end < len(tag)
                and tag[end] == ","
                and end + 1 < len(tag)
                and tag[end - 1] == "JJ"
                and tag[end + 1] == "JJ"
            ):
                end += 1
        if end == index and tag[index] == "PRP":
            return index + 1, index
        head = end - 1
        while head >= index and tag[head] not in words.NOUN_TAGS:
            head -= 1
        if head < index:
            if end > index and tag[end - 1] in ("CD", "DT") and end - index == 1 and tag[end - 1] == "CD":
                return end, index
            return index, -1
        end = head + 1
        owner = -1
        for place in range(index, head):
            if tag[place] == "POS":
                owner = place - 1
                self.join(place, owner, "case")
        if owner >= 0:
            self.join(owner, head, "nmod:poss")
            self.inside(index, owner)
            self.inside(owner + 2, head)
        else:
            self.inside(index, head)
        return end, head

    def adjectives(self, place: int) -> bool:
        """Whether the "and" here joins two adjectives of one noun."""
        tag = self.tag
        return (
            tag[place - 1] == "JJ"
            and place + 2 < len(tag)
            and tag[place + 1] == "JJ"
            and tag[place + 2] in ("JJ", "NN", "NNS", "CC")
        )

    def inside(self, begin: int, head: int) -> None:
        for place in range(begin, head):
            tag = self.tag[place]
            relation = {"DT": "det", "PRP$": "nmod:poss", "CD": "nummod", "CC": "cc", ",": "punct", "RB": "advmod"}.get(
                tag
            )
            if relation is None:
                relation = "compound" if tag in words.NOUN_TAGS else "amod"
            self.join(place, head, relation)

    def place_noun(self, head: int, begin: int) -> None:
        """Join a noun phrase to what came before it."""
        state = self.state
        after = begin and (self.tag[begin - 1] in ("CC", ",") or self.word[begin - 1] in OPENERS)
        if state.finite >= 0 and after and self.verb_follows(head):
            self.state = State(subject=head, thing=head, edge=head)  # a clause of its own
            return
        opening = state.verb < 0 and state.finite < 0  # "a man and a woman are dancing"
        if state.join >= 0 and state.thing >= 0 and (opening or not self.clause_follows(head)):
            first = state.thing
            while self.relation[first] == "conj":
                first = self.head[first]
            self.join(state.join, head, "cc")
            self.join(head, first, "conj")
            state.thing, state.edge, state.join = first, head, -1
            return
        state.join = -1
        if state.verb >= 0 and not state.objects and state.verb > state.edge:
            self.join(head, state.verb, "nsubj" if self.word[state.verb] in BE else "obj")
            state.objects, state.thing, state.edge, state.phrase = True, head, head, ""
            return
        if begin == state.edge + 1 and self.receives(state.thing, begin):
            self.join(state.thing, state.verb, "iobj")
            self.join(head, state.verb, "obj")
            state.thing = state.edge = head
            return
        if self.root < 0:
            self.root = head
        described = state.subject if state.verb < 0 and state.finite < 0 else -1
        state.thing, state.edge, state.phrase = head, head, ""
        beside = begin == described + 1 and self.tag[begin] in ("DT", "PRP", "PRP$") and self.verb_follows(head)
        if described >= 0 and self.root == described and (beside or self.clause_follows(head)):
            state.subject, state.relative = head, described  # "the jeans the man is wearing"
            return
        if state.subject < 0 or self.clause_follows(head):
            state.subject = head
            state.verb = state.finite = -1

    def receives(self, thing: int, begin: int) -> bool:
        """ "gives the boy a ball": whether the object before a second noun phrase is who gets it."""
        state = self.state
        if state.verb < 0 or thing < 0 or self.relation[thing] != "obj" or self.head[thing] != state.verb:
            return False
        starts = self.tag[begin] in ("DT", "PRP$", "CD") or self.tag[thing] == "PRP"
        return starts and lemma(self.word[state.verb], self.tag[state.verb]) in words.GIVING

    def verb_follows(self, head: int) -> bool:
        for tag in self.tag[head + 1 :]:
            if tag in FINITE:
                return True
            if tag in ("CC", ","):
                return False
        return False

    def clause_follows(self, head: int) -> bool:
        """Whether a finite verb stands right after a noun."""
        after = head + 1
        while after < len(self.tag) and self.tag[after] == "RB":
            after += 1
        return after < len(self.tag) and (self.tag[after] in ("VBZ", "VBP", "MD") or self.word[after] in BE)

    def preposition(self, index: int) -> int:
        """A preposition with its noun phrase, joined to the verb or the noun before it."""
        state = self.state
        if self.word[index] in words.CLAUSE and self.starts_clause(index):
            state.verb, state.objects, state.join = -1, False, -1
            return index + 1
        if state.verb >= 0 and index == state.verb + 1 and (self.particle(index) or self.phrasal(index)):
            self.join(index, state.verb, "compound:prt")
            return index + 1
        if self.tag[index] == "TO" and index + 1 < len(self.tag) and self.tag[index + 1] == "VB":
            return index + 1
        case = [index]
        end = index + 1
        while end < len(self.word) and (
            self.tag[end] in ("IN", "TO") or (self.word[end - 1], self.word[end]) in DOUBLE
        ):
            case.append(end)
            end += 1
        if end < len(self.word) and self.tag[end] == "RB":
            end += 1
        finish, head = self.noun_phrase(end) if end < len(self.word) else (end, -1)
        if head < 0:
            self.stranded(case)
            return end
        for place in case:
            self.join(place, head, "case")
        word = self.word[case[-1]]
        if state.quality == index - 1 and state.quality >= 0:
            self.join(head, state.quality, "obl")
        elif word == "of" and len(case) == 1 and state.thing >= 0 and state.edge > state.verb:
            self.join(head, state.edge if self.word[state.edge] in words.GROUPS else state.thing, "nmod")
        elif state.verb >= 0 and (state.verb > state.edge or not self.near(case)):
            self.join(head, state.verb, "obl")
        elif state.thing >= 0:
            outer = state.phrase and state.subject >= 0 and word not in ("of", "with") and state.verb < 0
            self.join(head, state.subject if outer else state.thing, "nmod")
        elif self.root < 0:
            state.front = head
            return finish
        state.thing, state.edge, state.phrase, state.join = head, head, word, -1
        if state.verb >= 0:
            state.objects = True
        return finish

    def near(self, case: list[int]) -> bool:
        """Whether the preposition belongs to the noun right before it; "with" names the tool of some verbs."""
        state = self.state
        if self.word[case[0]] == "with":
            does = lemma(self.word[state.verb], self.tag[state.verb]) if state.verb >= 0 else ""
            return does not in words.TOOLED or self.word[state.thing] in words.ANIMATE
        return self.word[case[0]] == "of"

    def starts_clause(self, index: int) -> bool:
        for place in range(index + 1, min(index + 10, len(self.tag))):
            if self.tag[place] in ("VBZ", "VBP", "VBG", "VBD", "MD"):
                return True
            if self.tag[place] == "IN":
                return False
        return False

    def stranded(self, case: list[int]) -> None:
        state = self.state
        for place in case:
            if state.verb >= 0 and self.word[place] in PARTICLES and place == state.verb + 1:
                self.join(place, state.verb, "compound:prt")
            elif state.verb >= 0:
                self.join(place, state.verb, "advmod")

    def relative(self, index: int) -> int:
        """ "who", "which", "that": the next verb describes the noun before it."""
        state = self.state
        if state.thing >= 0:
            state.subject = state.thing
        state.verb, state.objects = -1, False
        return index + 1

    def verbs(self, index: int) -> int:
        """A chain of auxiliaries and a verb, or a copula with what it says."""
        tag, word = self.tag, self.word
        chain = [index]
        end = index + 1
        auxiliary = (
            tag[index] == "MD" or word[index] in BE or word[index] in ("has", "have", "had", "do", "does", "did")
        )
        while auxiliary and end < len(tag) and (tag[end][0] == "V" or tag[end] == "RB"):
            if tag[end] == "RB" and not (end + 1 < len(tag) and tag[end + 1][0] == "V"):
                break
            chain.append(end)
            end += 1
            if tag[end - 1] in ("VBG", "VBN", "VB", "VBD") and word[end - 1] not in BE:
                break
        main = chain[-1]
        if word[main] in BE and end < len(tag):
            done = self.copula(chain, end)
            if done > 0:
                return done
        passive = tag[main] == "VBN" and any(word[place] in BE for place in chain[:-1])
        for place in chain[:-1]:
            if tag[place] == "RB":
                self.join(place, main, "advmod")
            else:
                self.join(place, main, "aux:pass" if passive and word[place] in BE else "aux")
        self.place_verb(main, len(chain) > 1 or tag[main] in ("VBZ", "VBP", "VBD"), passive)
        if (
            end < len(tag)
            and word[end] in PARTICLES
            and tag[end] in ("RB", "RP")
            and tuple(word[end : end + 2]) not in DOUBLE
        ):
            self.join(end, main, "compound:prt" if word[end] in ("up", "down", "out", "off") else "advmod")
            end += 1
        return end

    def place_verb(self, main: int, finite: bool, passive: bool) -> None:
        """Join a verb to its subject, to the verb before it, or to the noun it describes."""
        state = self.state
        left = self.word[main - 1] if main else ""
        if state.relative >= 0 and state.subject >= 0:
            self.join(state.subject, main, "nsubj")
            self.join(main, state.relative, "acl:relcl")
            state.relative = -1
            state.finite = main
        elif left == "to" and state.verb >= 0:
            self.join(main - 1, main, "mark")
            self.join(main, state.verb, "xcomp")
        elif state.join >= 0 and state.verb >= 0:
            self.join(state.join, main, "cc")
            self.join(main, state.verb, "conj")
        elif finite and state.subject >= 0 and state.finite < 0:
            subject = state.subject
            if self.relation[subject] in ("obl", "nmod", "obj") or (self.head[subject] >= 0):
                self.join(main, subject, "acl:relcl")
            else:
                self.join(subject, main, "nsubj:pass" if passive else "nsubj")
                if self.root < 0 or self.root == subject:
                    self.root = main
            state.finite = main
        elif finite and state.verb >= 0 and state.subject < 0:
            self.join(main, state.verb, "conj")
        elif state.thing >= 0 and state.edge > state.verb and state.finite < 0:
            self.join(main, self.holder(main), "acl")
        elif state.verb >= 0:
            shown = self.shown(main)
            if shown >= 0:
                self.join(main, shown, "acl")
            elif finite and self.relation[state.verb] != "acl:relcl":
                self.join(main, state.verb, "conj")
            else:
                self.join(main, state.verb, "xcomp" if main == state.verb + 1 and not finite else "advcl")
        elif state.thing >= 0:
            self.join(main, state.thing, "acl")
        if self.root < 0:
            self.root = main
        if state.front >= 0 and self.root == main:
            self.join(state.front, main, "obl")
            state.front = -1
        state.verb, state.objects, state.join = main, False, -1

    def shown(self, main: int) -> int:
        """ "shows two dogs talking": the object right before a participle does it, if it lives or is looked at; else -1."""
        thing = self.state.thing
        if self.tag[main] != "VBG" or thing < 0 or thing != main - 1 or self.relation[thing] != "obj":
            return -1
        seen = lemma(self.word[self.head[thing]], self.tag[self.head[thing]]) in words.SEEING
        return thing if seen or self.word[thing] in words.ANIMATE else -1

    def holder(self, main: int) -> int:
        """Whom a participle describes: "man in a suit sitting", but "picture of a woman sitting"."""
        state = self.state
        if self.tag[main] != "VBG" or not state.phrase or state.phrase == "of" or state.subject < 0:
            return state.thing
        subject, thing = self.word[state.subject], self.word[state.thing]
        lives = subject in words.ANIMATE or subject.removesuffix("s") in words.ANIMATE
        return state.subject if lives and thing not in words.ANIMATE else state.thing

    def particle(self, index: int) -> bool:
        """ "look down at": the first of two prepositions belongs to the verb."""
        after = index + 1
        return (
            self.word[index] in ("down", "up", "back", "off", "over", "out")
            and after < len(self.word)
            and self.tag[after] in ("IN", "TO")
            and (self.word[index], self.word[after]) not in DOUBLE
        )

    def phrasal(self, index: int) -> bool:
        """ "blows up balloons", "puts on a hat"."""
        return (lemma(self.word[index - 1], self.tag[index - 1]), self.word[index]) in PHRASAL

    def copula(self, chain: list[int], end: int) -> int:
        """ "is red", "is in the house", "is a rider", "there is a dog"; 0 when something else follows."""
        state, tag = self.state, self.tag
        subject = state.subject
        place = end
        while place < len(tag) and tag[place] == "RB":
            place += 1
        if subject < 0 or place >= len(tag) or self.head[subject] >= 0:
            return 0
        case: list[int] = []
        while place < len(tag) and (
            tag[place] in ("IN", "TO") or self.word[place : place + 2] in (["next", "to"], ["close", "to"])
        ):
            case.append(place)
            place += 1
        finish, head = self.noun_phrase(place) if place < len(tag) else (place, -1)
        if head < 0 and case and state.relative >= 0:
            self.join(subject, case[-1], "nsubj")
            self.join(state.relative, case[-1], "nsubj")
            self.root, state.relative = case[-1], -1
            return place
        if head < 0 and not case and tag[place] in ("JJ", "CD"):
            finish, head = place + 1, place
        if head < 0:
            return 0
        for one in case:
            self.join(one, head, "case")
        for one in chain:
            self.join(one, head, "cop")
        self.join(subject, head, "nsubj")
        if self.root in (-1, subject):
            self.root = head
        state.thing = state.edge = state.finite = head
        state.phrase = self.word[case[-1]] if case else ""
        state.verb, state.objects = -1, False
        return finish
