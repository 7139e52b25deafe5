"""What CoreNLP makes of captions in the manner of video data sets, and what the rules make of that: mistakes of its own, mended.

Each row is a tree as CoreNLP 4.5.10 gave it (word/tag, head, relation), and the triplets that the caption says.
"""

# ruff: noqa: E501  (a tree a line reads better)
import pytest

from pipeline.scene_graph import derive, settings
from tests.support.trees import tree

TREES = [
    (
        "a/DT 2 det, comedian/NN 7 nsubj, is/VBZ 7 cop, on/IN 7 case, stage/NN 6 dep, making/VBG 7 amod, jokes/NNS 0 root",
        "comedian/on/stage; comedian/making/jokes",
    ),
    (
        "a/DT 2 det, man/NN 8 nsubj, is/VBZ 8 cop, in/IN 8 case, a/DT 8 det, kitchen/NN 7 dep, cooking/VBG 8 amod, food/NN 0 root",
        "man/in/kitchen; man/cooking/food",
    ),
    (
        "two/CD 2 nummod, women/NNS 0 root, are/VBP 2 dep, on/IN 3 dep, a/DT 4 dep, couch/NN 5 dep, watching/VBG 6 acl, television/NN 7 obj",
        "women/is/two; women/on/couch; women/watching/television",
    ),
    (
        "a/DT 2 det, boy/NN 6 nsubj, is/VBZ 6 cop, at/IN 6 case, a/DT 6 det, table/NN 0 root, eating/VBG 8 amod, cereal/NN 6 obj",
        "boy/at/table; boy/eating/cereal",
    ),
    (
        "a/DT 2 det, child/NN 6 nsubj, is/VBZ 6 cop, in/IN 6 case, the/DT 6 det, water/NN 0 root, splashing/VBG 6 amod",
        "child/in/water; child/is/splashing",
    ),
    (
        "the/DT 2 det, camera/NN 6 nsubj, is/VBZ 6 cop, on/IN 6 case, a/DT 6 det, man/NN 0 root, playing/VBG 6 acl, a/DT 9 det, guitar/NN 7 obj",
        "camera/on/man; man/playing/guitar",
    ),
    (
        "guy/NN 5 compound, on/IN 3 case, stage/NN 1 nmod, performing/VBG 5 amod, music/NN 0 root",
        "guy/on/stage; guy/performing/music",
    ),
    (
        "a/DT 2 det, man/NN 0 root, on/IN 7 case, a/DT 7 det, motorcycle/NN 6 dep, performing/VBG 7 amod, tricks/NNS 2 nmod",
        "man/on/motorcycle; man/performing/tricks",
    ),
    (
        "a/DT 2 det, man/NN 0 root, on/IN 5 case, a/DT 5 det, couch/NN 2 nmod, playing/VBG 5 acl, a/DT 9 det, video/NN 9 compound, game/NN 6 obj",
        "man/on/couch; man/playing/video game",
    ),
    (
        "a/DT 2 det, woman/NN 4 nsubj, is/VBZ 4 aux, standing/VBG 0 root, in/IN 6 case, front/NN 4 obl, of/IN 9 case, a/DT 9 det, tree/NN 6 nmod, talking/VBG 9 amod",
        "woman/standing in front of/tree; woman/is/talking",
    ),
    (
        "a/DT 2 det, man/NN 3 nsubj, stands/VBZ 0 root, in/IN 6 case, a/DT 6 det, lake/NN 3 obl, wearing/VBG 6 acl, a/DT 9 det, hat/NN 7 obj",
        "man/stands in/lake; man/wearing/hat",
    ),
    (
        "a/DT 2 det, man/NN 3 nsubj, cuts/VBZ 0 root, paper/NN 3 obj, from/IN 7 case, a/DT 7 det, box/NN 3 obl, using/VBG 7 acl, a/DT 10 det, knife/NN 8 obj",
        "man/cuts/paper; man/cuts from/box; man/using/knife",
    ),
    (
        "three/CD 2 nummod, men/NNS 3 nsubj, surround/VBP 0 root, a/DT 5 det, device/NN 3 obj, studying/VBG 5 acl, it/PRP 6 obj",
        "men/is/three; men/surround/device; men/studying/device",
    ),
    (
        "clip/NN 0 root, of/IN 3 case, person/NN 1 nmod, playing/VBG 1 acl, guitar/NN 4 obj",
        "clip/of/person; person/playing/guitar",
    ),
    (
        "a/DT 2 det, compilation/NN 5 nsubj, of/IN 4 case, men/NNS 2 nmod, wrestling/VBG 0 root",
        "compilation/of/men; men/is/wrestling",
    ),
    (
        "a/DT 2 det, clip/NN 0 root, where/WRB 6 advmod, a/DT 5 det, narrator/NN 6 nsubj, explains/VBZ 2 acl:relcl",
        "narrator/is/explains",
    ),
    (
        "a/DT 2 det, woman/NN 3 nsubj, breaks/VBZ 0 root, a/DT 5 det, bottle/NN 3 obj, to/TO 7 mark, defend/VB 3 xcomp, her/PRP$ 9 nmod:poss, belongings/NNS 7 obj",
        "woman/breaks/bottle; woman/defend/belongings; woman/have/belongings",
    ),
    (
        "a/DT 2 det, trainer/NN 3 nsubj, teaches/VBZ 0 root, a/DT 5 det, dog/NN 3 obj, to/TO 7 mark, jump/VB 3 xcomp",
        "trainer/teaches/dog; dog/is/jump",
    ),
    (
        "a/DT 2 det, woman/NN 3 nsubj, stirs/VBZ 0 root, very/RB 5 advmod, hot/JJ 6 amod, liquid/NN 3 obj",
        "woman/stirs/liquid; liquid/is/hot",
    ),
    (
        "a/DT 3 det, hot/JJ 3 amod, dog/NN 7 nsubj, is/VBZ 7 cop, on/IN 7 case, the/DT 7 det, table/NN 0 root",
        "hot dog/on/table",
    ),
    (
        "people/NNS 3 nsubj, are/VBP 3 aux, riding/VBG 0 root, horses/NNS 3 obj, and/CC 6 cc, racing/VBG 3 conj, against/IN 8 case, one/CD 6 obl, another/DT 8 dep",
        "people/riding/horses; people/is/racing",
    ),
    (
        "people/NNS 3 nsubj, are/VBP 3 cop, next/JJ 0 root, to/IN 6 case, each/DT 6 det, other/JJ 3 obl",
        "",
    ),
    (
        "a/DT 2 det, cat/NN 6 nsubj, is/VBZ 6 cop, under/IN 6 case, the/DT 6 det, bed/NN 0 root, licking/VBG 6 acl, its/PRP$ 9 nmod:poss, paw/NN 7 obj",
        "cat/under/bed; cat/licking/paw; cat/have/paw",
    ),
    (
        "a/DT 2 det, person/NN 3 nsubj, cooks/VBZ 0 root, while/IN 6 case, watching/JJ 6 amod, television/NN 3 obl",
        "person/is/cooks; person/watching/television",
    ),
    (
        "a/DT 2 det, man/NN 4 nsubj, is/VBZ 4 aux, driving/VBG 0 root, a/DT 6 det, car/NN 4 obj, and/CC 8 cc, speaking/NN 4 conj",
        "man/driving/car; man/is/speaking",
    ),
    (
        "a/DT 2 det, guy/NN 0 root, talking/VBG 2 acl, into/IN 6 case, a/DT 6 det, camera/NN 3 obl, and/CC 8 cc, drinking/NN 2 conj, something/NN 8 obj",
        "guy/talking into/camera; guy/drinking/something",
    ),
    (
        "a/DT 2 det, person/NN 4 nsubj, is/VBZ 4 aux, drawing/VBG 0 root, and/CC 6 cc, painting/VBG 4 conj, flowers/NNS 4 obj",
        "person/is/drawing; person/painting/flowers",
    ),
    (
        "a/DT 2 det, tutorial/NN 0 root, on/IN 5 case, making/VBG 5 amod, soap/NN 2 nmod",
        "tutorial/on/soap",
    ),
    (
        "some/DT 2 det, ideas/NNS 0 root, for/IN 4 case, decorating/VBG 2 acl, a/DT 6 det, room/NN 4 obj",
        "",
    ),
    (
        "women/NNS 3 nsubj, are/VBP 3 aux, folding/VBG 0 root, green/JJ 6 amod, plastic/NN 6 compound, bags/NNS 3 obj",
        "women/folding/plastic bags; plastic bags/is/green",
    ),
    (
        "lady/NN 2 nsubj, holds/VBZ 0 root, a/DT 4 det, baby/NN 8 nsubj, and/CC 7 cc, two/CD 7 nummod, people/NNS 4 conj, watch/VBP 2 ccomp, the/DT 10 det, show/NN 8 obj",
        "lady/holds/baby; people/is/two; people/watch/show",
    ),
    (
        "in/IN 4 case, the/DT 4 det, kitchen/NN 4 compound, someone/NN 6 obl, is/VBZ 6 aux, frying/VBG 0 root, potatoes/NNS 6 obj",
        "someone/frying in/kitchen; someone/frying/potatoes",
    ),
    (
        "an/DT 3 det, indian/JJ 3 amod, tv/NN 4 nsubj, show/VBP 0 root, with/IN 8 mark, a/DT 7 det, man/NN 8 nsubj, wearing/VBG 4 advcl, a/DT 10 det, hat/NN 8 obj",
        "tv show/is/indian; tv show/with/man; man/wearing/hat",
    ),
    (
        "a/DT 4 det, tired/JJ 4 amod, looking/VBG 4 amod, man/NN 5 nsubj, sleeps/VBZ 0 root",
        "man/is/tired; man/is/sleeps",
    ),
    (
        "a/DT 2 det, man/NN 3 nsubj, talks/VBZ 0 root, about/IN 6 case, a/DT 6 det, dog/NN 3 obl, running/VBG 6 acl, in/IN 10 case, the/DT 10 det, park/NN 7 obl",
        "man/talks about/dog; dog/running in/park",
    ),
    (
        "person/NN 0 root, handing/VBG 1 acl, a/DT 4 det, boy/NN 2 obj, some/DT 6 det, paint/NN 2 dep",
        "person/handing/boy; person/handing/paint",
    ),
    (
        "a/DT 2 det, man/NN 4 nsubj, is/VBZ 4 cop, rowing/NN 0 root, a/DT 6 det, boat/NN 4 dep",
        "man/rowing/boat",
    ),
    (
        "a/DT 2 det, man/NN 5 nsubj:pass, is/VBZ 5 aux:pass, sprinkling/NN 5 dep, shredded/VBN 0 root, cheese/NN 5 obj, on/IN 9 case, a/DT 9 det, pizza/NN 5 obl",
        "man/sprinkling/cheese; man/sprinkling on/pizza; cheese/is/shredded",
    ),
    (
        "a/DT 3 det, bird/NN 3 compound, pecks/NNS 0 root, at/IN 7 case, a/DT 7 det, dead/JJ 7 amod, rat/NN 3 nmod",
        "bird/pecks at/rat; rat/is/dead",
    ),
    (
        "a/DT 3 det, fat/NN 3 compound, dog/NN 0 root, eating/VBG 3 acl, in/IN 7 case, the/DT 7 det, garden/NN 4 obl",
        "dog/is/fat; dog/eating in/garden",
    ),
    (
        "a/DT 2 det, dog/NN 4 nsubj, is/VBZ 4 aux, running/VBG 0 root, up/RP 4 compound:prt, a/DT 7 det, flight/NN 4 obj, of/IN 9 case, stairs/NNS 7 nmod, carrying/VBG 9 acl, a/DT 12 det, ball/NN 10 obj, in/IN 15 case, his/PRP$ 15 nmod:poss, mouth/NN 10 obl",
        "dog/running up/flight; dog/carrying/ball; dog/carrying in/mouth; flight/of/stairs; dog/have/mouth",
    ),
    (
        "the/DT 2 det, person/NN 3 nsubj, held/VBD 0 root, the/DT 5 det, kitten/NN 3 obj, in/IN 8 case, his/PRP$ 8 nmod:poss, hand/NN 3 obl",
        "person/held/kitten; person/held in/hand; person/have/hand",
    ),
    (
        "a/DT 2 det, demonstration/NN 0 root, on/IN 6 mark, how/WRB 6 advmod, to/TO 6 mark, chop/VB 2 acl, an/DT 8 det, onion/NN 6 obj",
        "",
    ),
    (
        "the/DT 3 det, camera/NN 3 compound, pans/NNS 0 root, to/IN 6 case, the/DT 6 det, right/NN 3 nmod",
        "camera/pans to/right",
    ),
    (
        "brown/JJ 3 amod, duck/NN 3 compound, shifts/NNS 0 root, to/IN 6 case, the/DT 6 det, right/NN 3 nmod",
        "duck/is/brown; duck/shifts to/right",
    ),
    (
        "a/DT 3 det, dog/NN 3 compound, toy/NN 0 root, on/IN 6 case, the/DT 6 det, floor/NN 3 nmod",
        "dog toy/on/floor",
    ),
    (
        "a/DT 2 det, woman/NN 0 root, and/CC 5 cc, a/DT 5 det, man/NN 2 conj, walking/VBG 5 acl, on/IN 9 case, a/DT 9 det, street/NN 6 obl",
        "woman/walking on/street; man/walking on/street",
    ),
    (
        "a/DT 2 det, woman/NN 3 nsubj, gives/VBZ 0 root, instruction/NN 3 obj, while/IN 7 mark, preparing/VBG 7 amod, food/NN 3 advcl",
        "woman/gives/instruction; woman/preparing/food",
    ),
    (
        "two/CD 2 nummod, guys/NNS 0 root, trying/VBG 2 acl, a/DT 5 det, drink/NN 3 obj, and/CC 8 cc, two/CD 8 nummod, men/NNS 2 conj, talking/VBG 8 acl, about/IN 11 case, food/NN 9 obl",
        "guys/is/two; guys/trying/drink; men/is/two; men/talking about/food",
    ),
    (
        "pouring/VBG 2 amod, milk/NN 0 root, into/IN 5 case, a/DT 5 det, blender/NN 2 nmod",
        "milk/into/blender",
    ),
    (
        "a/DT 2 det, woman/NN 0 root, speaking/VBG 2 acl, a/DT 6 det, different/JJ 6 amod, language/NN 3 obj, doing/VBG 6 acl, a/DT 10 det, cooking/NN 10 compound, tutorial/NN 7 obj",
        "woman/speaking/language; woman/doing/cooking tutorial; language/is/different",
    ),
    (
        "a/DT 2 det, man/NN 0 root, holding/VBG 2 acl, a/DT 5 det, box/NN 3 obj, containing/VBG 5 acl, toys/NNS 6 obj",
        "man/holding/box; box/containing/toys",
    ),
]


@pytest.mark.parametrize(
    "rows, said", TREES, ids=[" ".join(word.split("/")[0] for word in rows.split(", ")) for rows, _ in TREES]
)
def test_a_caption_says_what_it_says_in_corenlps_trees(rows, said):
    found = derive(tree(rows.replace(", ", "\n")), settings({}))
    assert "; ".join("/".join(triplet[:3]) for triplet in found) == said
