"""One list of two galleries, by hand, and what each rule promises."""

import itertools

import numpy as np
import pytest

from eval import joint, metrics

FACTORS = {"video": 1.0, "image": 1.0}


def galleries(queries: int = 6, videos: int = 5, images: int = 7) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"video": random.normal(size=(queries, videos)) * 2, "image": random.normal(size=(queries, images))}


def test_apart_lays_one_list_into_the_other_the_video_first():
    merged = joint.merge({"video": np.array([[0.1, 0.3, 0.2]]), "image": np.array([[9.0, 8.0]])}, "apart")
    assert np.argsort(-merged[0]).tolist() == [1, 3, 2, 4, 0]


@pytest.mark.parametrize("rule", joint.SHOWN)
def test_no_rule_changes_the_order_within_a_gallery_and_equal_scores_stay_equal(rule):
    both = galleries()
    both["video"][:, 1] = both["video"][:, 3]
    merged = joint.merge(both, rule, factors={"video": 3.0, "image": 0.5})
    for place, scores in ((slice(0, 5), both["video"]), (slice(5, None), both["image"])):
        assert np.array_equal(merged[:, place].argsort(1, kind="stable"), scores.argsort(1, kind="stable"))
    assert np.array_equal(merged[:, 1], merged[:, 3])


def test_a_constant_model_earns_nothing_by_any_rule():
    right = np.concatenate([np.eye(20, dtype=bool)] * 2, axis=1)
    for rule in joint.SHOWN:
        merged = joint.merge({"video": np.zeros((20, 20)), "image": np.zeros((20, 20))}, rule, factors=FACTORS)
        told = metrics.joint(merged, right, images=20)
        assert told["R@5"] == 0 and told["both"]["R@10"] == 0


def test_posterior_is_a_softmax_within_the_gallery():
    merged = joint.merge(
        {"video": np.log([[1.0, 3.0]]), "image": np.log([[2.0, 2.0, 4.0]])}, "posterior", factors=FACTORS
    )
    assert np.exp(merged)[0].tolist() == pytest.approx([0.25, 0.75, 0.25, 0.25, 0.5])


def test_every_beginning_of_pair_is_likeliest_to_hold_both():
    """Against all beginnings of each length, tried one by one."""
    both = galleries()
    merged = joint.merge(both, "pair", factors={"video": 1.5, "image": 0.7})
    chance = [np.exp(joint.log_probability(both[kind], factor)) for kind, factor in (("video", 1.5), ("image", 0.7))]
    for row, order in enumerate(np.argsort(-merged, axis=1)):
        for length in range(2, 12):
            held = [
                chance[0][row][order[:length][order[:length] < 5]].sum(),
                chance[1][row][order[:length][order[:length] >= 5] - 5].sum(),
            ]
            best = max(
                chance[0][row][list(some)].sum() * np.sort(chance[1][row])[::-1][: length - len(some)].sum()
                for count in range(max(1, length - 7), min(5, length - 1) + 1)
                for some in itertools.combinations(range(5), count)
            )
            assert held[0] * held[1] == pytest.approx(best)


def test_pair_begins_with_the_likelier_of_the_two_best():
    merged = joint.merge({"video": np.log([[0.6, 0.4]]), "image": np.log([[0.1, 0.9]])}, "pair", factors=FACTORS)
    assert np.argsort(-merged[0]).tolist()[:2] == [3, 0]


def test_probabilities_too_small_for_a_number_keep_their_order():
    scores = -np.arange(6.0)[None]
    merged = joint.merge({"video": scores, "image": scores}, "pair", factors={"video": 1e4, "image": 1e4})
    assert len(set(merged[0, :6])) == 6 and np.array_equal(np.argsort(-merged[0, :6]), np.arange(6))


def test_a_rule_without_its_factors_is_named():
    with pytest.raises(ValueError, match="factors"):
        joint.merge(galleries(), "pair", factors={"video": 1.0})
    with pytest.raises(ValueError, match="expected one of"):
        joint.merge(galleries(), "softmax")
