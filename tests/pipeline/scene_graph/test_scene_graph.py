"""Scene graphs: rules on trees written by hand, the shallow parser, conventions, wording, spans, and the real server."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from pipeline import scene_graph
from pipeline.scene_graph import derive, phrases
from pipeline.scene_graph.parsers import corenlp, shallow, tagger
from pipeline.scene_graph.parsers.repairs import repaired
from pipeline.scene_graph.parsers.server import MismatchError, Parser, Server, ServerError
from pipeline.scene_graph.parsers.store import Store
from pipeline.scene_graph.parsers.trees import Trees
from pipeline.scene_graph.rules import stanford
from pipeline.scene_graph.rules.video import Triplet
from pipeline.scene_graph.sentence import MOST_WORDS, Sentence, sentences
from pipeline.scene_graph.words import listed
from tests.support.trees import tree

FACTUAL = scene_graph.DEFAULTS | {"conventions": "factual"}
VIDEO = scene_graph.DEFAULTS
RECORDED = Path(__file__).parent / "stanford_scene_graphs.json"
CAPTIONS = [
    "A man in a red shirt rides a horse.",
    "two dogs are running on the beach",
    "a woman is slicing an onion with a knife",
    "the car is parked near a tree",
    "a group of people are dancing on a stage. A band plays music",
    "children are laughing",
    "a boy with a toy car and a girl with a doll",
    "a person is connecting something to system",
]


def said(sentence: Sentence, config: dict = VIDEO) -> list[str]:
    return [f"{subject} | {relation} | {thing}" for subject, relation, thing, _ in derive(sentence, config)]


def says(text: str, config: dict = VIDEO) -> list[str]:
    return [line for part, _ in sentences(text) for line in said(shallow.parse(part), config)]


@pytest.fixture(scope="module")
def server():
    """One real CoreNLP for this file."""
    reason = corenlp.missing()
    if reason:
        warnings.warn(f"CORENLP IS ABSENT, SO ITS TESTS ARE SKIPPED: {reason}", stacklevel=1)
        pytest.skip(reason)
    with Server() as running:
        yield running


# rules, on trees written by hand


def test_a_verb_relates_its_subject_to_its_object():
    horse = tree("a/DT 2 det\nman/NN 4 nsubj\nis/VBZ 4 aux\nriding/VBG 0 root\na/DT 6 det\nhorse/NN 4 obj")
    assert said(horse) == ["man | riding | horse"]
    assert said(horse, VIDEO | {"form": "lemma"}) == ["man | ride | horse"]


def test_a_preposition_stays_with_its_verb():
    chair = tree("cat/NN 0 root\nsitting/VBG 1 acl\nin/IN 5 case\na/DT 5 det\nchair/NN 2 obl")
    assert said(chair) == ["cat | sitting in | chair"]
    assert [t[:3] for t in stanford.triplets(chair)] == [("cat", "sit", "chair")]  # the genuine rules drop it


def test_the_passive_without_an_agent_keeps_its_place():
    car = tree("car/NN 3 nsubj:pass\nis/VBZ 3 aux:pass\nparked/VBN 0 root\nnear/IN 6 case\na/DT 6 det\ntree/NN 3 obl")
    assert said(car) == ["car | parked near | tree"]
    assert stanford.triplets(car) == []


def test_the_agent_of_a_passive_is_its_subject():
    cake = tree("cake/NN 3 nsubj:pass\nis/VBZ 3 aux:pass\neaten/VBN 0 root\nby/IN 6 case\na/DT 6 det\nboy/NN 3 obl")
    assert said(cake, VIDEO | {"form": "lemma"}) == ["boy | eat | cake"]


def test_conjuncts_share_subjects_and_objects_but_or_joins_nothing():
    both = tree("man/NN 4 nsubj\nand/CC 3 cc\nwoman/NN 1 conj\nride/VBP 0 root\na/DT 6 det\nbike/NN 4 obj")
    assert said(both) == ["man | ride | bike", "woman | ride | bike"]
    either = tree("man/NN 4 nsubj\nor/CC 3 cc\nwoman/NN 1 conj\nride/VBP 0 root\na/DT 6 det\nbike/NN 4 obj")
    assert said(either) == ["man | ride | bike"]


def test_a_relative_clause_describes_its_noun():
    who = tree("man/NN 0 root\nwho/WP 3 nsubj\nwears/VBZ 1 acl:relcl\na/DT 5 det\nhat/NN 3 obj")
    assert said(who) == ["man | wears | hat"]
    whom = tree("horse/NN 0 root\nthat/WDT 5 obj\nthe/DT 4 det\nman/NN 5 nsubj\nrides/VBZ 1 acl:relcl")
    assert said(whom) == ["man | rides | horse"]


def test_a_controlled_verb_takes_the_subject_of_its_governor():
    door = tree("man/NN 0 root\ntrying/VBG 1 acl\nto/TO 4 mark\nopen/VB 2 xcomp\na/DT 6 det\ndoor/NN 4 obj")
    assert said(door) == ["man | open | door"]


def test_in_front_of_is_one_preposition():
    house = tree("dog/NN 0 root\nin/IN 3 case\nfront/NN 1 nmod\nof/IN 6 case\na/DT 6 det\nhouse/NN 3 nmod")
    assert said(house) == ["dog | in front of | house"]


def test_a_group_of_people_is_people():
    people = tree("a/DT 2 det\ngroup/NN 5 nsubj\nof/IN 4 case\npeople/NNS 2 nmod\ndance/VBP 0 root")
    assert said(people) == ["people | is | dance"]
    assert derive(people, VIDEO)[0].kind == "action"


def test_attributes_come_from_adjectives_copulas_and_numbers():
    assert said(tree("two/CD 3 nummod\nred/JJ 3 amod\nballs/NNS 0 root")) == ["balls | is | two", "balls | is | red"]
    assert said(tree("two/CD 2 nummod\nballs/NNS 0 root"), FACTUAL) == ["balls | is | 2"]
    assert said(tree("the/DT 2 det\nhouse/NN 4 nsubj\nis/VBZ 4 cop\nred/JJ 0 root")) == ["house | is | red"]


def test_a_pronoun_is_what_it_stands_for_and_nothing_otherwise():
    on_it = tree("a/DT 2 det\nplate/NN 0 root\nwith/IN 4 case\nfood/NN 2 nmod\non/IN 6 case\nit/PRP 4 nmod")
    assert said(on_it) == ["plate | with | food", "food | on | plate"]
    assert said(tree("it/PRP 2 nsubj\nrolls/VBZ 0 root")) == []
    assert said(tree("she/PRP 2 nsubj\ndances/VBZ 0 root")) == []  # no woman is named


def test_he_is_a_man_of_the_sentence_and_it_is_nobody():
    assert says("a boy and a woman sit while she sings")[-1] == "woman | is | sings"
    assert "racket | is | falls" in says("the player drops his racket and it falls")
    assert says("his face is green") == ["face | is | green"]
    assert says("in her garden a woman is sleeping") == ["woman | have | garden", "woman | sleeping in | garden"]


def test_i_and_you_are_not_in_the_video():
    assert says("i am painting my wall") == []
    assert says("you ride your horse") == []
    assert says("my dog sleeps on a chair") == ["dog | sleeps on | chair"]


def test_someone_and_something_are_nouns():
    assert says("someone is cutting something") == ["someone | cutting | something"]


def test_nothing_acts_on_itself():
    assert says("a man and a woman hug each other") == ["man | hug | woman", "woman | hug | man"]
    assert says("two boys are chasing each other") == ["boys | is | two", "boys | is | chasing"]
    assert says("a cat is licking itself") == ["cat | is | licking"]


def test_a_negated_fact_is_no_fact():
    for text in (
        "a man isn't wearing a hat",
        "the car won't start",
        "a dog doesn't want to swim",
        "the dog never catches the ball",
        "there are no people on the street",
        "nobody is sitting on the chair",
        "the wall is not red",
    ):
        assert says(text) == [], text
    assert says("a goat that is not tied is eating grass") == ["goat | eating | grass"]
    assert says("a boy without a hat") == ["boy | without | hat"]


def test_a_second_deed_is_a_verb():
    assert says("a boy kicks the ball and runs") == ["boy | kicks | ball", "boy | is | runs"]
    assert says("a lady grabs a towel and wipes the floor") == ["lady | grabs | towel", "lady | wipes | floor"]
    assert says("a girl playing guitar and singing") == ["girl | playing | guitar", "girl | is | singing"]
    assert says("a puppy runs jumps and barks") == ["puppy | is | runs", "puppy | is | jumps", "puppy | is | barks"]
    assert says("a man slices carrots and potatoes") == ["man | slices | carrots", "man | slices | potatoes"]


def test_several_doers_do_it_beyond_their_phrase():
    assert says("a couple in a kitchen discuss food") == ["couple | in | kitchen", "couple | discuss | food"]
    assert says("boys in a pool splash water") == ["boys | in | pool", "boys | splash | water"]
    assert says("people on a train platform") == ["people | on | train platform"]


def test_one_doer_does_it_beyond_its_phrase():
    assert says("a girl with glasses laughs and claps") == [
        "girl | with | glasses",
        "girl | is | laughs",
        "girl | is | claps",
    ]
    assert says("a pianist in a tuxedo bows to the crowd") == ["pianist | in | tuxedo", "pianist | bows to | crowd"]


def test_who_is_shown_does_it():
    assert says("a cartoon shows two dogs talking to a bird") == [
        "cartoon | shows | dogs",
        "dogs | is | two",
        "dogs | talking to | bird",
    ]
    assert says("a dog eats a bone lying on a rug") == ["dog | eats | bone", "dog | lying on | rug"]


def test_a_verb_has_two_objects():
    assert says("a nurse gives the patient a glass") == ["nurse | gives | patient", "nurse | gives | glass"]
    assert says("a woman shows him a hat") == ["woman | shows | hat"]


def test_a_tool_is_the_verbs():
    assert "woman | cleaning with | cloth" in says("a woman cleaning a window with a cloth")
    assert "dog | with | spots" in says("a boy washes a dog with spots")
    assert "plate | with | food" in says("a man holds a plate with food")


def test_compounds_are_no_attributes():
    assert says("a boy opens a birthday present") == ["boy | opens | birthday present"]
    assert says("a girl watches a cooking show") == ["girl | watches | cooking show"]


def test_here_is_and_what_is_say_nothing_of_here_and_what():
    assert says("here is a dog catching a ball") == ["dog | catching | ball"]
    here = tree("here/RB 4 nsubj\nis/VBZ 4 cop\na/DT 4 det\ndog/NN 0 root\nin/IN 7 case\na/DT 7 det\nbox/NN 4 nmod")
    assert said(here) == ["dog | in | box"]
    assert said(tree("what/WP 0 root\nis/VBZ 1 cop\nthe/DT 4 det\nman/NN 1 nsubj")) == []


def test_a_video_does_not_do_what_it_explains():
    cook = "%s/NN 2 nsubj\nexplains/VBZ 0 root\nhow/WRB 5 advmod\nto/TO 5 mark\nmake/VB 2 ccomp\nsoup/NN 5 obj"
    assert said(tree(cook % "video")) == ["video | is | explains"]
    assert said(tree(cook % "woman")) == ["woman | is | explains", "woman | make | soup"]


def test_a_gerund_read_as_a_noun_is_mended():
    girl = tree("girl/NN 2 compound\nriding/NN 0 root\non/IN 4 case\nhorse/NN 2 nmod")
    assert said(girl, FACTUAL) == ["girl | ride on | horse"]
    kite = tree("man/NN 3 compound\nflying/VBG 3 amod\nkite/NN 0 root")
    assert said(kite, FACTUAL) == ["man | fly | kite"]


def test_an_object_after_the_second_verb_is_the_seconds():
    sings = tree("man/NN 2 nsubj\nsings/VBZ 0 root\nand/CC 4 cc\nplays/VBZ 2 conj\na/DT 6 det\nbanjo/NN 2 obj")
    assert said(sings) == ["man | is | sings", "man | plays | banjo"]
    guitar = tree("girl/NN 0 root\nplaying/VBG 1 acl\nguitar/NN 2 obj\nand/CC 5 cc\nsinging/NN 3 conj")
    assert said(guitar) == ["girl | playing | guitar", "girl | is | singing"]
    rice = "cook/NN 2 nsubj\nstirs/VBZ 0 root\nthe/DT 4 det\nrice/NN 5 nsubj\nadds/VBZ 2 ccomp\nwater/NN 5 obj"
    assert said(tree(rice)) == ["cook | stirs | rice", "cook | adds | water"]


def test_a_clause_after_and_is_not_read_as_a_second_place():
    falls = (
        "horse/NN 2 nsubj\njumps/VBZ 8 csubj\nover/IN 5 case\na/DT 5 det\nfence/NN 2 obl\nand/CC 7 cc\n"
        "rider/NN 5 conj\nfalls/VBZ 0 root"
    )
    assert said(tree(falls)) == ["horse | jumps over | fence", "rider | is | falls"]


def test_the_relative_clause_does_not_swallow_the_main_verb():
    goat = (
        "goat/NN 0 root\nthat/WDT 4 nsubj:pass\nis/VBZ 4 aux:pass\ntied/VBN 1 acl:relcl\neats/VBZ 4 dep\n"
        "the/DT 7 det\ngrass/NN 4 obj"
    )
    assert said(tree(goat)) == ["goat | is | tied", "goat | eats | grass"]


def test_who_is_shown_does_it_in_corenlps_trees_too():
    dogs = (
        "cartoon/NN 2 nsubj\nshows/VBZ 0 root\ndogs/NNS 4 nsubj\ntalking/VBG 2 dep\nto/IN 7 case\na/DT 7 det\n"
        "bird/NN 4 obl"
    )
    assert said(tree(dogs)) == ["cartoon | shows | dogs", "dogs | talking to | bird"]


def test_two_objects_in_corenlps_trees():
    ladder = tree("man/NN 2 nsubj\nlends/VBZ 0 root\na/DT 4 det\nboy/NN 2 obj\na/DT 6 det\nladder/NN 4 dep")
    assert said(ladder) == ["man | lends | boy", "man | lends | ladder"]


def test_a_place_does_nothing():
    bone = (
        "dog/NN 3 nsubj\nis/VBZ 3 aux\nlying/VBG 0 root\non/IN 6 case\na/DT 6 det\nrug/NN 3 obl\n"
        "chewing/VBG 6 acl\na/DT 9 det\nbone/NN 7 obj"
    )
    assert said(tree(bone)) == ["dog | lying on | rug", "dog | chewing | bone"]


def test_is_folding_paper_is_a_deed():
    paper = tree("person/NN 4 nsubj\nis/VBZ 4 cop\nfolding/VBG 4 amod\npaper/NN 0 root")
    assert said(paper) == ["person | folding | paper"]


def test_a_list_without_commas():
    assert says("a man wears a hat sunglasses and a scarf") == [
        "man | wears | hat",
        "man | wears | sunglasses",
        "man | wears | scarf",
    ]
    assert says("boys girls and teachers sing") == ["boys | is | sing", "girls | is | sing", "teachers | is | sing"]
    assert says("soccer players and a coach") == []


def test_a_name_has_all_its_words():
    game = tree("a/DT 4 det\nvideo/NN 3 compound\ngame/NN 4 compound\nhero/NN 5 nsubj\nruns/VBZ 0 root")
    assert said(game) == ["video game hero | is | runs"]


def test_repairs_leave_the_given_tree_alone():
    kite = tree("man/NN 3 compound\nflying/VBG 3 amod\nkite/NN 0 root")
    before = str(kite)
    assert repaired(kite).head != kite.head
    assert str(kite) == before


def odd(seed: int) -> Sentence:
    """Two roots, none, loops, heads out of range, every relation."""
    draw = random.Random(seed)
    tags = sorted(listed("NN NNS VBG VBZ VBN JJ IN DT PRP CD EX RB TO CC WP PRP$ UH MD POS ."))
    relations = sorted(
        listed(
            """nsubj obj obl nmod amod acl acl:relcl conj cc case det compound xcomp advcl nsubj:pass aux cop dep root
            nmod:poss mark advmod fixed csubj expl group parataxis discourse appos nummod"""
        )
    )
    words = sorted(listed("man of to with riding there building can next front it each other light blue group by"))
    size = draw.randint(1, 12)
    word = [draw.choice(words) for _ in range(size)]
    return Sentence(
        word,
        word,
        [draw.choice(tags) for _ in word],
        [draw.randint(-1, size) for _ in word],
        [draw.choice(relations) for _ in word],
        [4 * index for index in range(size)],
        [4 * index + 3 for index in range(size)],
    )


def test_heads_in_a_circle_above_a_deed_end_the_search():
    circle = tree(
        "flight/NN 3 nmod\nof/IN 1 case\nstairs/NNS 1 nmod\nof/IN 3 case\ncarrying/VBG 3 acl\nballs/NNS 5 obj"
    )
    assert "stairs | carrying | balls" in said(circle)


def test_no_tree_is_too_odd():
    """Poorer answers, never an error."""
    for seed in range(500):
        strange = odd(seed)
        for rules in scene_graph.RULES:
            for conventions in ("video", "factual"):
                derive(strange, VIDEO | {"rules": rules, "conventions": conventions})
        assert len(phrases.nouns(strange)) <= len(strange)
        assert len(phrases.verbs(strange)) <= len(strange)


# the Stanford rules


def recorded() -> dict[str, dict]:
    """Sentences with CoreNLP 4.5.10's own trees for them and what its /scenegraph endpoint answered."""
    return json.loads(RECORDED.read_text())


def test_the_stanford_rules_say_what_the_genuine_parser_says_of_its_own_trees():
    same, differing = 0, []
    for text, entry in recorded().items():
        ours = {triplet[:3] for triplet in stanford.triplets(Sentence(*entry["tree"]))}
        genuine = {tuple(triplet) for triplet in entry["triplets"]}
        same += ours == genuine
        differing += [] if ours == genuine else [f"{text}: {sorted(ours)} for {sorted(genuine)}"]
    assert same / len(recorded()) >= 0.97, "\n".join(differing)


def test_the_stanford_rules_on_our_trees_agree_sentence_by_sentence(server):
    texts = list(recorded())
    equal = 0
    for text, sentence in zip(texts, server.parse([sentences(text)[0][0] for text in texts])):
        ours = {triplet[:3] for triplet in stanford.triplets(sentence)}
        equal += ours == {tuple(triplet) for triplet in recorded()[text]["triplets"]}
    assert equal / len(texts) > 0.75  # the rest are sentences that the two parsers read differently


# the shallow parser


def test_the_shallow_parser_reads_captions():
    lemma = VIDEO | {"form": "lemma"}
    assert says("a man is riding a horse", lemma) == ["man | ride | horse"]
    assert says("a car is parked near the tree", lemma) == ["car | park near | tree"]
    assert says("a dog that is chasing a cat", lemma) == ["dog | chase | cat"]
    assert says("a star and a moon swap places") == ["star | swap | places", "moon | swap | places"]
    assert says("the ball rolls to the top left, then it gets bigger") == [
        "ball | rolls to | top left",
        "ball | is | gets bigger",
    ]
    assert says("a man and a woman are dancing", lemma) == ["man | is | dancing", "woman | is | dancing"]
    assert says("the man's hat is red", lemma) == ["man | have | hat", "hat | is | red"]
    assert says("a ball thrown by a boy", lemma) == ["boy | throw | ball"]
    assert says("people sitting next to each other", lemma) == ["people | is | sitting"]
    assert says("there is a dog on the couch", lemma) == ["dog | on | couch"]
    assert "ball | roll to | left" in says("a red ball rolls to the left", lemma)


def test_the_shallow_parser_takes_any_text():
    for text in (
        "",
        " ",
        "...",
        "and",
        "of of of",
        "🎉🎉",
        "is is is",
        "'s",
        "12 34",
        "the",
        "a-b/c.d",
        "word " * 3000,
    ):
        for part, _ in sentences(text):
            parsed = shallow.parse(part)
            assert len(parsed) <= MOST_WORDS
            assert sum(head < 0 for head in parsed.head) == 1


def test_a_deed_that_corenlp_takes_for_a_noun_is_the_shallow_parsers():
    text = ["the", "red", "moon", "changes", "places", "with", "a", "star"]
    assert tagger.misread(text, ["DT", "JJ", "NN", "NNS", "NNS", "IN", "DT", "NN"])
    assert not tagger.misread(text, ["DT", "JJ", "NN", "VBZ", "NNS", "IN", "DT", "NN"])
    fries = ["a", "chef", "fries", "two", "eggs"]
    assert tagger.misread(fries, ["DT", "NN", "NNS", "CD", "NNS"])
    runs = ["a", "boy", "kicks", "balls", "and", "runs"]
    assert tagger.misread(runs, ["DT", "NN", "VBZ", "NNS", "CC", "NNS"])
    assert not tagger.misread(["the", "train", "tracks", "on", "the", "ground"], ["DT", "NN", "NNS", "IN", "DT", "NN"])


# text in, spans out


def test_every_sentence_of_a_caption_is_parsed():
    parts = [
        part for part, _ in sentences("A man walks. He sits down! The dog (brown) sleeps at 9.30 a.m. near Dr. Who")
    ]
    assert parts == ["a man walks.", "he sits down!", "the dog (brown) sleeps at 9.30 a.m. near dr. who"]


def test_no_character_can_split_or_drop_a_sentence():
    dirty = "a man\nrides\r\ta horse\u2028near\u2029\x0b\x0c a\u200b tree \ud800 🎉 cafe\u0301"
    (line, offset), *more = sentences(dirty)
    assert not more
    assert len(line) == len(offset)
    assert line.split() == ["a", "man", "rides", "a", "horse", "near", "a", "tree", "café"]
    assert all(
        dirty[place].lower() == character
        for character, place in zip(line, offset)
        if character.isascii() and character != " "
    )


def test_spans_are_those_of_the_caption_as_it_was_given():
    caption = "  Two  Café owners are\tplaying a video game 🎉. The DOG sits down"
    (row,) = scene_graph.parse([caption], {"parser": "shallow"})
    assert [caption[start:end] for start, end in row["nouns"]] == ["Café owners", "video game", "DOG"]
    assert [caption[start:end] for start, end in row["verbs"]] == ["playing", "sits down"]


def test_auxiliaries_are_no_verbs():
    caption = "a man is being chased and there is a dog"
    (row,) = scene_graph.parse([caption], {"parser": "shallow"})
    assert [caption[start:end] for start, end in row["verbs"]] == ["chased"]


# phrases


def test_the_three_styles():
    red = Triplet("car", "is", "red", "attribute")
    assert [phrases.verbalise(red, style) for style in ("paper", "reverse", "is")] == [
        "car color red",
        "red car",
        "car is red",
    ]
    assert phrases.verbalise(Triplet("boys", "is", "two", "attribute"), "paper") == "boys number two"
    assert phrases.verbalise(Triplet("dog", "is", "happy", "attribute"), "paper") == "dog is happy"
    assert phrases.verbalise(Triplet("man", "riding", "horse", "relation"), "reverse") == "man riding horse"


def test_phrases_are_distinct_and_capped_and_relations_come_first():
    triplets = [Triplet("a", "is", str(index), "attribute") for index in range(9)] + [
        Triplet("a", "on", "b", "relation")
    ] * 2
    assert phrases.phrases(triplets, "is", 3) == ["a on b", "a is 0", "a is 1"]


def test_without_a_triplet_the_caption_is_the_phrase():
    rows = scene_graph.parse(["hello", "", "a man rides a horse"], {"parser": "shallow"})
    assert [row["fallback"] for row in rows] == [True, True, False]
    assert [row["phrases"] for row in rows] == [["hello"], [""], ["man rides horse"]]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"parser": "spacy"}, "it must be one of: auto, corenlp, shallow"),
        ({"cap": 0}, "it must be a whole number above 0"),
        ({"colour": "red"}, "triplets has no setting 'colour'; it has: parser"),
    ],
)
def test_a_wrong_setting_says_what_is_right(config, words):
    with pytest.raises(ValueError, match=words):
        scene_graph.settings(config)


# the store


def test_the_store_keeps_trees_by_text_and_parser(tmp_path):
    parsed = shallow.parse("a man rides a horse")
    store = Store(tmp_path / "parses.sqlite", "one")
    store.put({"a man rides a horse": parsed})
    store.close()
    again, other = Store(tmp_path / "parses.sqlite", "one"), Store(tmp_path / "parses.sqlite", "two")
    assert again.get("a man rides a horse") == parsed
    assert other.get("a man rides a horse") is None


def test_a_broken_store_is_made_anew(tmp_path):
    (tmp_path / "parses.sqlite").write_bytes(b"not a database" * 1000)
    assert Store(tmp_path / "parses.sqlite", "one").get("a") is None


# the real server


def test_the_server_answers_only_with_the_password(server):
    import requests

    url = f"http://127.0.0.1:{server.port}/"
    assert requests.post(url, data="a man", timeout=20).status_code == 401
    assert server.parse(["a man"])[0].word == ["a", "man"]


def test_dirty_captions_neither_merge_nor_vanish(server):
    texts = ["a man\nrides", "\u200b", "x" * 5000, "% 100%25 of + men & women", "a\u2028b\u2029c", "...", "a t-shirt"]
    lines = [line for text in texts for line, _ in sentences(text)]
    parsed = server.parse(lines)
    assert len(parsed) == len(lines) == 5
    assert parsed[0].word == ["a", "man", "rides"]
    assert parsed[-1].word == ["a", "t-shirt"]
    for line, one in zip(lines, parsed):
        assert [line[start:end] for start, end in zip(one.start, one.end)] == one.word or "%" in line


def test_batches_threads_and_order_do_not_matter(server):
    lines = [line for caption in CAPTIONS for line, _ in sentences(caption)] * 3
    shuffled = random.Random(0).sample(lines, len(lines))

    def parsed(texts, batch, clients):
        pairs = [pair for batch in Parser(server, batch, clients).parse(texts) for pair in zip(*batch)]
        assert [text for text, _ in pairs] == texts
        return dict(pairs)

    first = parsed(lines, 200, 2)
    assert first == parsed(lines, 3, 1) == parsed(shuffled, 7, 3)


def test_a_dead_server_is_restarted_and_a_hopeless_sentence_left_alone(server, monkeypatch):
    genuine = Server.parse

    def parse(self, texts):
        if "poison" in texts:
            raise MismatchError("2 sentences went in, 1 came out")
        return genuine(self, texts)

    monkeypatch.setattr(Server, "parse", parse)
    os.killpg(server.process.pid, signal.SIGKILL)
    parser = Parser(server, batch=3, clients=2)
    texts = ["a man walks", "a dog runs", "poison", "a cat sleeps", "a bird flies"]
    trees = [one for _, batch in parser.parse(texts) for one in batch]
    assert [one is None for one in trees] == [False, False, True, False, False]
    assert parser.restarts == 1
    assert server.process.poll() is None


def test_an_interrupted_run_waits_for_nothing_and_restarts_nothing(server, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def parse(self, texts):
        if texts == ["first"]:
            return [shallow.parse("first")]
        begun.set()
        go.wait(20)
        raise ServerError("connection refused")

    monkeypatch.setattr(Server, "parse", parse)
    pid = server.process.pid
    parser = Parser(server, batch=1, clients=2)
    batches = parser.parse(["first", "second", "third", "fourth"])
    next(batches)
    assert begun.wait(20)
    batches.close()  # as an exception in the loop does
    go.set()
    assert parser.restarts == 0 and server.process.pid == pid


def test_a_sentence_that_corenlp_cannot_do_goes_to_the_shallow_parser(server, tmp_path, monkeypatch):
    def parse(self, texts):
        if "a dog runs" in texts:
            raise MismatchError("2 sentences went in, 1 came out")
        return genuine(self, texts)

    genuine = Server.parse
    monkeypatch.setattr(Server, "parse", parse)
    with Trees("corenlp", tmp_path / "parses.sqlite") as trees:
        trees.server = server
        list(trees.prepare(["a man walks", "a dog runs"]))
        assert [trees.tree(text)[0] for text in ("a man walks", "a dog runs")] == ["corenlp", "shallow"]
        assert (trees.parsed, trees.failed) == (1, 1)
        trees.server = None


# no Java process stays behind

PROGRAM = """
import signal, sys, time
from pipeline.scene_graph.parsers.server import Server, answers

class Bare(Server):  # Java itself, without the models that take seconds to load
    preload = "tokenize"

    def connect(self):
        while not answers(self.port):
            time.sleep(0.05)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands inherit that it is ignored
with Bare() as server:
    print(server.process.pid, server.work, flush=True)
    if "error" in sys.argv:
        raise ValueError("as wanted")
    if "wait" in sys.argv:
        time.sleep(60)
"""


def group(pid: int) -> list[int]:
    """Living processes of a group."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pid and fields[0] != "Z":
            alive.append(int(entry.name))
    return alive


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
@pytest.mark.parametrize("end", ["success", "error", "interrupt", "kill"])
def test_no_java_stays_behind(end, tmp_path):
    if corenlp.missing():
        pytest.skip(corenlp.missing())
    how = {"success": "now", "error": "error", "interrupt": "wait", "kill": "wait"}[end]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    pid, work = child.stdout.readline().split()
    if how == "wait":
        assert group(int(pid))
        child.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
    child.wait(30)
    deadline = time.monotonic() + 15
    while (group(int(pid)) or Path(work).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert group(int(pid)) == []
    assert not Path(work).exists()
    assert list(tmp_path.iterdir()) == []
