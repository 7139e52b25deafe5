"""Metrics, proved on matrices that a reader can rank by eye, and against a sort of every order of the ties."""

from itertools import permutations

import numpy as np
import pytest

from eval import metrics

DIAGONAL = np.arange(3)


def orders(row: np.ndarray) -> list[tuple[int, ...]]:
    """Every order of a gallery that sorts its scores downwards: ties in all their arrangements."""
    return [order for order in permutations(range(len(row))) if all(np.diff(row[list(order)]) <= 0)]


def test_ranks_by_eye():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.7, 0.3]])
    assert metrics.ranks(scores, DIAGONAL).tolist() == [1, 3, 2]


def test_summary_by_eye():
    told = metrics.summary(np.array([1.0, 3.0, 6.0, 20.0]), gallery=20)
    assert told == {
        "R@1": 25, "R@5": 50, "R@10": 75, "MdR": 4.5, "MnR": 7.5, "Rsum": 150, "queries": 4, "gallery": 20,
    }  # fmt: skip


def test_a_constant_model_earns_nothing():
    rank = metrics.ranks(np.zeros((20, 20)), np.arange(20))
    assert (rank == 10.5).all()
    assert metrics.summary(rank, 20)["R@10"] == 0


def test_a_duplicated_gallery_costs_half_a_place():
    scores = np.repeat(np.eye(4), 2, axis=1)
    assert (metrics.ranks(scores, np.arange(0, 8, 2)) == 1.5).all()


def test_the_first_of_ties_is_not_taken_for_granted():
    assert metrics.ranks(np.array([[0.5, 0.5, 0.5, 0.1, 0.9]]), np.array([0])).tolist() == [3]


def test_nan_is_an_error_that_says_where():
    scores = np.eye(3)
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN in 1 of 3 rows, the first is row 1"):
        metrics.ranks(scores, DIAGONAL)


def test_an_empty_gallery_and_a_query_without_an_answer_are_errors():
    with pytest.raises(ValueError, match="expected \\(queries, gallery\\)"):
        metrics.ranks(np.zeros((3, 0)), DIAGONAL)
    with pytest.raises(ValueError, match="1 queries have no right item"):
        metrics.first_rank(np.eye(2), np.array([[True, False], [False, False]]))


@pytest.mark.parametrize("seed", range(30))
def test_ranks_equal_the_mean_over_every_order_of_the_ties(seed):
    random = np.random.default_rng(seed)
    row = random.integers(0, 3, 6).astype(float)
    right = np.zeros(6, bool)
    right[random.choice(6, random.integers(1, 4), replace=False)] = True
    places = [[order.index(item) + 1 for item in np.flatnonzero(right)] for order in orders(row)]
    assert metrics.first_rank(row[None], right[None])[0] == pytest.approx(np.mean([min(place) for place in places]))
    assert metrics.last_rank(row[None], right[None])[0] == pytest.approx(np.mean([max(place) for place in places]))
    one = np.flatnonzero(right)[:1]
    own = np.mean([order.index(one[0]) + 1 for order in orders(row)])
    assert metrics.ranks(row[None], one)[0] == pytest.approx(own)


def test_every_caption_is_a_query_and_a_video_is_found_by_its_best_caption():
    # captions a, b of video 0; c of video 1
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.4]])
    truth = np.array([0, 0, 1])
    rank, asked = metrics.text_to_item(scores, truth)
    assert rank.tolist() == [1, 2, 1] and asked.tolist() == [0, 1, 2]
    # video 0: its own best caption .9, video 1's .3; video 1: its own .4, video 0's best .8
    assert metrics.item_to_text(scores, truth).tolist() == [1, 2]


def test_item_to_text_equals_brute_force():
    random = np.random.default_rng(0)
    owner = np.sort(random.integers(0, 7, 40))
    scores = random.normal(size=(40, 7)).round(1)
    for video, rank in zip(np.unique(owner), metrics.item_to_text(scores, owner)):
        best = [scores[owner == other, video].max() for other in np.unique(owner)]
        own = scores[owner == video, video].max()
        assert rank == 1 + sum(b > own for b in best) + (sum(b == own for b in best) - 1) / 2


def test_texts_without_an_item_are_left_out_and_items_without_a_text_are_rivals():
    scores = np.array([[0.5, 0.6, 0.1], [0.9, 0.9, 0.9]])
    rank, asked = metrics.text_to_item(scores, np.array([0, -1]))
    assert rank.tolist() == [2] and asked.tolist() == [0]
    assert metrics.item_to_text(scores, np.array([0, -1])).tolist() == [1]


def test_group_recall_takes_any_look_alike_and_in_group_only_the_right_one():
    group = np.array([0, 0, 1, 1, -1])
    truth = np.array([0, 2, 4])
    scores = np.array(
        [
            [0.5, 0.9, 0.1, 0.2, 0.3],  # its look-alike leads: group right, in-group wrong
            [0.8, 0.1, 0.7, 0.6, 0.2],  # second, but leads its own group
            [0.1, 0.2, 0.3, 0.4, 0.9],  # no group: right, and not asked in-group
        ]
    )
    told = metrics.grouped(scores, truth, group)
    assert told["R@1"] == pytest.approx(200 / 3, abs=1e-3)
    assert told["in_group"] == 50 and told["in_group_queries"] == 2 and told["in_group_chance"] == 50


def test_in_group_accuracy_is_counted_apart_for_what_look_alikes_differ_in():
    kind = np.array(["motion", "motion", "swap", "swap", ""], dtype=object)
    scores = np.array([[0.5, 0.9, 0.1, 0.2, 0.3], [0.1, 0.9, 0, 0, 0], [0.8, 0.1, 0.7, 0.6, 0.2], [0, 0, 0, 0, 1]])
    told = metrics.grouped(scores, np.array([0, 1, 2, 4]), np.array([0, 0, 1, 1, -1]), kind)
    assert told["in_group:motion"] == 50 and told["in_group_queries:motion"] == 2
    assert told["in_group:swap"] == 100 and told["in_group_queries:swap"] == 1
    assert told["in_group_queries"] == 3 and not [name for name in told if name.endswith(":")]


def test_two_items_without_a_group_are_not_look_alikes():
    alike = metrics.look_alikes(np.array([0, 1]), np.array([-1, -1]))
    assert alike.tolist() == [[True, False], [False, True]]


def test_ties_within_a_group_earn_nothing():
    assert metrics.grouped(np.zeros((2, 2)), np.array([0, 1]), np.array([0, 0]))["in_group"] == 0


def test_calibration_by_query_undoes_any_scale_and_shift_of_one_modality():
    random = np.random.default_rng(1)
    video, image = random.normal(size=(5, 8)), random.normal(size=(5, 8))
    right = np.concatenate([np.eye(5, 8, dtype=bool)] * 2, axis=1)

    def told(scale: float, shift: float) -> dict:
        both = np.concatenate([metrics.calibrate(video), metrics.calibrate(scale * image + shift)], axis=1)
        return metrics.joint(both, right, images=8)

    assert told(1, 0) == told(0.01, 7)
    assert told(1, 0)["images@10"] == pytest.approx(50, abs=15)


def test_a_constant_row_is_calibrated_to_nought():
    assert (metrics.calibrate(np.full((2, 3), 0.1, np.float32)) == 0).all()
    for moments in (metrics.row_moments(np.full((2, 3), 0.1)), metrics.row_moments(np.empty((2, 0)))):
        assert [one.shape for one in moments] == [(2, 1)] * 2 and np.isinf(moments[1]).all()
    assert [one.item() for one in metrics.row_moments(np.array([[1, 3]]))] == [2, 1]


def test_calibration_by_another_split_is_one_line_for_all_queries():
    assert metrics.calibrate(np.array([[1.0, 3.0]]), "split", (1.0, 2.0)).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="another split"):
        metrics.calibrate(np.eye(2), "split")
    with pytest.raises(ValueError, match="expected one of query, split, raw"):
        metrics.calibrate(np.eye(2), "softmax")


def test_joint_by_eye_either_and_both():
    # columns: videos 0, 1, then their images
    scores = np.array([[0.9, 0.8, 0.1, 0.2], [0.1, 0.9, 0.2, 0.8]])
    right = np.array([[True, False, True, False], [False, True, False, True]])
    told = metrics.joint(scores, right, images=2)
    assert told["R@1"] == 100 and told["MnR"] == 1
    # first text: video first, image last (rank 4); second: ranks 1 and 2
    assert told["both"]["R@2"] == 50 and told["both"]["R@5"] == 100 and told["both"]["MnR"] == 3


def test_a_photo_has_no_video_so_it_is_not_asked_for_both():
    told = metrics.joint(np.array([[0.1, 0.9], [0.9, 0.1]]), np.array([[False, True], [True, True]]), images=1)
    assert told["queries"] == 2 and told["both"]["queries"] == 1


def test_the_highest_in_order_ties_as_the_gallery_has_them():
    scores = np.array([[0.1, 0.5, 0.5, 0.9]] * 3)
    assert metrics.top(scores, 3, rows=2).tolist() == [[3, 1, 2]] * 3


def test_the_highest_are_those_of_a_whole_sort_however_many_are_level():
    scores = np.random.default_rng(0).integers(0, 6, (50, 40)).astype(np.float64)
    scores[0], scores[1, 5:] = 2.0, -np.inf
    for count in (1, 3, 10, 39, 40, 60):
        whole = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        assert (metrics.top(scores, count, rows=16) == whole).all(), count
