"""Scores within bounds: the bounds hold, and an answer is the one that the method's own scores give."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval import joint
from eval.search.answers import Filters, Query
from eval.search.bounds import HIGHEST, Planes, bounded, exact_here
from eval.search.duplicates import Duplicates
from eval.search.engine import Search
from eval.search.gallery import Segment
from eval.search.scored import Part, Scored, Terms
from eval.search.view import View
from eval.search.workers import Workers
from tests.support.album import wait_until
from train.layers import best_match_mean

COUNT = 600


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_planes_say_what_they_leave_out():
    value = tokens(70, 5, 32).half()
    value[3] *= 1e-3
    made = Planes.of(value)
    whole = 256 * made.high.double() + made.low.double()
    assert whole.abs().max() == HIGHEST  # the largest number of each row uses all bits
    again = whole * torch.from_numpy(made.scale)[:, None, None]
    left = torch.linalg.vector_norm(value.double() - again, dim=2).amax(1).numpy()
    assert made.error == pytest.approx(left)
    assert (left < 1e-4 * made.length).all() and made.error[3] < 2e-3 * made.error[4]


def test_products_of_eight_bits_are_exact_or_not_used():
    one, other = (torch.randint(-128, 128, (n, 64), dtype=torch.int8) for n in (20, 300))
    if exact_here():
        assert torch.equal(torch._int_mm(one, other.T).long(), one.long() @ other.long().T)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["random", "like", "one number"])
def test_the_methods_score_lies_within_the_bound(kind, masked):
    gallery = tokens(90, 12, 128)
    word = tokens(1, 7, 128, seed=1)
    if kind == "like":  # every cosine near 1
        gallery = torch.nn.functional.normalize(word[:, :1] + 0.01 * gallery, dim=-1)
    if kind == "one number":  # all in one place, and nearly nothing elsewhere
        gallery = torch.nn.functional.normalize(torch.eye(128)[:12] + 1e-3 * gallery, dim=-1)
    mask = torch.rand(90, 12) < 0.5 if masked else torch.ones(90, 12, dtype=torch.bool)
    mask[:, 0] = True
    gallery = gallery.half()
    text = {"word": word, "word_mask": torch.tensor([[True] * 6 + [False]])}
    exact = best_match_mean(word, text["word_mask"], gallery.float(), mask)[0].numpy()
    assert_bounds(gallery, mask, text, exact, 5e-4)


def test_long_vectors_of_equal_numbers_stay_within_32_bits():
    """Of 520 numbers and more, two such tokens written with all 15 bits would have a product of over 2^31."""
    gallery = torch.full((90, 12, 1024), 1024**-0.5).half()
    gallery[::2] *= -1
    word, mask = torch.full((1, 7, 1024), 1024**-0.5), torch.ones(90, 12, dtype=torch.bool)
    text = {"word": word, "word_mask": torch.ones(1, 7, dtype=torch.bool)}
    exact = best_match_mean(word, text["word_mask"], gallery.float(), mask)[0].numpy()
    assert_bounds(gallery, mask, text, exact, 1e-3)


def assert_bounds(gallery, mask, text, exact, most):
    segment = Segment(["m"] * len(gallery), [], {"image": {"patch": gallery, "patch_mask": mask}}, None, None, None)
    places = np.arange(len(gallery))
    view = SimpleNamespace(
        rows={"image": places},
        segments=[segment],
        blocks=lambda kind, among: [(part, 0, part) for part in (places[:41], places[41:][::2], places[42::2])],
    )
    (score, bound), again = bounded(view, [(text, "image"), (text, "image")], Workers())
    assert np.array_equal([score, bound], again)
    assert (np.abs(score - exact) <= bound).all()
    assert 0 < bound.max() < most


def test_what_stands_out_from_nothing_is_scored_by_the_method_all_the_same():
    """Of one item, or of equal ones, every standing is 0 for certain; the score that is shown is not."""
    equal = Part.of({}, np.array([0.5, 0.5]), np.array([1e-4, 1e-4]))
    terms = Terms(np.arange(2), [equal], [], [])
    assert terms.standing(slice(None)).tolist() == terms.bound(slice(None)).tolist() == [0, 0]
    scored = Scored.of(SimpleNamespace(rows={"image": terms.among}), {"image": terms}, [])
    assert scored.unsettled("image", np.array([True, False]), 1).tolist() == [0]
    assert not scored.settle("image", np.array([0]), [np.array([0.6])])  # too far off
    assert scored.settle("image", np.array([0]), [np.array([0.50005])])
    assert scored.score["image"].tolist() == [0.50005, 0.5]
    assert scored.unsettled("image", np.array([True, True]), 1).tolist() == [1]


@pytest.fixture(scope="module")
def large(served):
    """A search over more items than a page shows, all scored: random rows, among them equal ones, in several segments."""
    search: Search = served.search
    wait_until(lambda: search.calibrated)
    yield from large_view(search)


def large_view(search: Search):
    sources, before, calibration = search.view.items, search.view, search.calibration
    size = search.view.segments[0].whole.shape[1]
    patches = search.view.segments[0].blocks["image"]["patch"].shape[1]
    frames = search.catalog.frames
    films = [item for item in sources if not item.photo]
    photos = [item for item in sources if item.photo]
    items, segments, place = [], [], []
    for number, at in enumerate(range(0, COUNT, 150)):
        rows = [films[row % len(films)] if row % 3 else photos[row % len(photos)] for row in range(at, at + 150)]
        own = [row for row, item in enumerate(rows) if not item.photo]
        patch = tokens(150, frames * patches, size, seed=number)
        patch[10:20] = patch[0]  # equal ones
        mask = torch.ones(patch.shape[:2], dtype=torch.bool)
        mask[30:40, patches:] = False
        whole = tokens(150, size, seed=100 + number)
        blocks = {
            "image": {"patch": patch[:, :patches].half(), "patch_mask": mask[:, :patches]},
            "video": {"patch": patch[own].half(), "patch_mask": mask[own]},
        }
        small = np.concatenate([search.view.small_pictures(before.by_id[item.id]) for item in rows])
        ends = np.cumsum([len(item.row["time"]) for item in rows])
        marks = [f"synthetic {at + row}" for row in range(150)]
        segments.append(
            Segment(marks, own, blocks, whole.half(), torch.from_numpy(small), torch.from_numpy(ends), None)
        )
        items += [
            dataclasses.replace(item, id=mark, key=mark, mark=mark, taken=f"2024-05-{1 + row % 28:02d}T00:00:00")
            for row, (item, mark) in enumerate(zip(rows, marks))
        ]
        place += [(number, row) for row in range(150)]
    rows = {
        "image": np.arange(COUNT),
        "video": np.array([at for at, item in enumerate(items) if not item.photo], np.int64),
    }
    search.view = View(items, segments, np.array(place), rows, before.number + 1000)
    search.calibration = None
    yield search
    search.view, search.calibration, search.bounding, search.factors = before, calibration, True, None
    search.answers.clear()


def both_ways(search: Search, query: Query, top: int, skip: int = 0):
    """An answer by bounds, and one by the method's own scores of everything."""
    answers = []
    for search.bounding in (True, False):
        search.answers.clear()
        answers.append(search.ask(query, top, skip))
    search.bounding = True
    return answers


QUERIES = {
    "one": Query(("a red ball",)),
    "several": Query(("a red ball", "the sea")),
    "minus": Query(("a red ball",), ("wall", "snow")),
    "like": Query(("a red ball",), like=("synthetic 7",)),
    "photos": Query(("a red ball",), filters=Filters(kind="photo")),
    "few": Query(("a red ball",), filters=Filters(ids=("synthetic 1", "synthetic 2", "synthetic 400"))),
    "none": Query(("a red ball",), filters=Filters(folder="nowhere")),
    "date": Query(("a red ball",), sort="date"),
    "folded": Query(("a red ball",), fold=True),
}


@pytest.mark.skipif(not exact_here(), reason="this CPU's products of 8-bit integers saturate: nothing is bounded")
@pytest.mark.parametrize("factors", [None, {"video": 40.0, "image": 23.0}])
@pytest.mark.parametrize("name", QUERIES)
def test_an_answer_by_bounds_is_the_exact_one(large, name, factors):
    large.factors = factors
    for skip in (0, 30):
        one, two = both_ways(large, QUERIES[name], 15, skip)
        for kind in ("images", "videos", "joint"):
            mine, its = getattr(one, kind), getattr(two, kind)
            assert [(hit.id, hit.kind, hit.folded) for hit in mine] == [(hit.id, hit.kind, hit.folded) for hit in its]
            assert [hit.score for hit in mine] == pytest.approx([hit.score for hit in its], abs=2e-5)
        assert len(one.images) == {"few": 3, "none": 0}.get(name, 15) * (skip == 0 or name not in ("few", "none"))


@pytest.mark.parametrize("name", QUERIES)
def test_an_answer_is_the_same_to_the_bit_whatever_was_asked_before_and_by_how_many_threads(large, name):
    before, workers = torch.get_num_threads(), large.workers
    answers = []
    try:
        for threads, others in ((1, ()), (1, ("several", "minus")), (3, ("folded",)), (2, ())):
            torch.set_num_threads(threads)
            large.workers, large.duplicates = Workers(), Duplicates()
            for other in others:
                large.ask(QUERIES[other], 40)
            large.answers.clear()
            answers.append(large.ask(QUERIES[name], 20))
    finally:
        torch.set_num_threads(before)
        large.workers = workers
    assert answers == answers[:1] * 4


@pytest.mark.skipif(not exact_here(), reason="this CPU's products of 8-bit integers saturate: nothing is bounded")
def test_only_what_may_be_shown_is_scored_by_the_method(large):
    query = QUERIES["one"]
    large.answers.clear()
    answer = large.ask(query, 15)
    scored = large.scored(large.view, query)
    left = {kind: bound > 0 for kind, bound in scored.bound.items()}
    assert all(0.8 * len(one) < one.sum() < len(one) for one in left.values())
    text = scored.text
    for kind in ("image", "video"):
        exact = large.view.score(large.scorer, text, kind, large.view.rows[kind], large.workers)[0]
        # a product's rounding depends on how many rows it has
        assert scored.score[kind][~left[kind]] == pytest.approx(exact[~left[kind]], abs=1e-6)
        assert scored.score[kind][left[kind]] == pytest.approx(exact[left[kind]], abs=2e-5)
    best = {large.view.items[large.view.rows["video"][place]].id for place in np.flatnonzero(~left["video"])}
    assert {hit.id for hit in answer.videos} <= best


@pytest.mark.skipif(not exact_here(), reason="this CPU's products of 8-bit integers saturate: nothing is bounded")
def test_another_score_of_the_same_tokens_is_found_out(large, monkeypatch):
    """A method that takes the third power is no mean of best matches; its answers are its own all the same."""
    plain = large.method.score_videos
    monkeypatch.setattr(large.method, "score_videos", lambda text, video: plain(text, video) ** 3)
    large.answers.clear()
    answer = large.ask(QUERIES["one"], 15)
    assert not large.bounding
    exact = large.view.score(
        large.scorer, large.reader.encode("a red ball")[0], "video", large.view.rows["video"], large.workers
    )[0]
    assert [hit.score for hit in answer.videos] == pytest.approx(np.sort(exact)[::-1][:15], abs=1e-6)
    large.bounding = True


@pytest.mark.parametrize("bounding", [True, False])
def test_the_joint_list_is_the_evaluations_where_the_run_has_factors(large, bounding):
    large.bounding, large.factors = bounding, {"video": 40.0, "image": 23.0}
    large.answers.clear()
    view = large.view
    with torch.inference_mode():
        text = large.reader.encode("the light goes on")[0]
        scores = {
            kind: view.score(large.scorer, text, kind, view.rows[kind], large.workers) for kind in ("video", "image")
        }
    merged = joint.merge(scores, "pair", factors=large.factors)[0]
    names = [(view.items[row].id, kind) for kind in ("video", "image") for row in view.rows[kind]]
    wanted = [names[at] for at in np.argsort(-merged, kind="stable")[:40]]
    found = large.ask(Query(("the light goes on",)), 40).joint
    assert large.rule == "pair"
    assert [(hit.id, "video" if hit.kind == "video" else "image") for hit in found] == wanted
    large.factors = None
    assert large.rule == "query"
    by_query = large.ask(Query(("the light goes on",)), 40).joint
    assert [hit.standing for hit in by_query] == sorted([hit.standing for hit in by_query], reverse=True)
    large.bounding = True
