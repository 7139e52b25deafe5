"""Scoring a run: whole matrices from bounded blocks, the files that are written, and what is said where something is missing."""

import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eval import load, overview, run, similarity
from tests.support import worlds
from train.data import Cache


class Mean(nn.Module):
    """The smallest method: sentence against the mean frame, sentence against the keyframe."""

    needs = frozenset({"sentence", "frame", "image"})
    vectors, sparse = (), frozenset()

    def fused(self, kind="video"):
        return []

    def recalled(self):
        return 0

    def encode_text(self, text):
        return {"sentence": F.normalize(text["sentence"], dim=-1)}

    def encode_video(self, video):
        frame = video["frame"].masked_fill(~video["frame_mask"][..., None], 0)
        return {"video": F.normalize(frame.sum(1), dim=-1)}

    def encode_image(self, image):
        return {"image": F.normalize(image["image"], dim=-1)}

    def score_videos(self, text, video):
        return text["sentence"] @ video["video"].T

    def score_images(self, text, image):
        return text["sentence"] @ image["image"].T


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(worlds.cache(tmp_path_factory.mktemp("cache") / "toy", videos=40, captions_per_video=3), Mean.needs)


class Twice(Mean):
    """Recalls by the mean frame and ranks again by the first frame."""

    def recalled(self):
        return 3

    def encode_video(self, video):
        return super().encode_video(video) | {"first": F.normalize(video["frame"][:, 0], dim=-1)}

    def score_coarse(self, text, video):
        return text["sentence"] @ video["video"].T

    def score_videos(self, text, video):
        return text["sentence"] @ video["first"].T


@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_the_best_of_a_coarse_score_are_ranked_again_above_all_others(cache, sparse, monkeypatch):
    """By hand from two whole matrices; a block scored whole and one scored pair by pair give the same."""
    monkeypatch.setattr(similarity, "SPARSE", sparse)
    scores = similarity.matrices(Twice(), cache, "test")
    captions, videos, method = cache.captions("test"), cache.videos("test"), Twice()
    text, video = method.encode_text(cache.text(captions)), method.encode_video(cache.video(videos))
    coarse, fine = method.score_coarse(text, video).numpy(), method.score_videos(text, video).numpy()
    for found, first, again in (
        (scores.video, coarse, fine),
        (scores.back["video"].T, coarse.T, fine.T),
    ):
        for row in range(len(first)):
            best = np.argsort(-first[row])[:3]
            rest = np.argsort(-first[row])[3:]
            assert np.argsort(-found[row]).tolist() == [*best[np.argsort(-again[row][best])], *rest]
            np.testing.assert_allclose(found[row][best], again[row][best], atol=1e-6)


@pytest.fixture(scope="module")
def scores(cache):
    return similarity.matrices(Mean(), cache, "test")


def test_scores_equal_one_great_product(cache, scores):
    captions, videos = cache.captions("test"), cache.videos("test")
    method = Mean()
    text = method.encode_text(cache.text(captions))
    whole = method.score_videos(text, method.encode_video(cache.video(videos))).numpy()
    assert scores.video.shape == (30, 10) and scores.video.dtype == np.float32
    np.testing.assert_allclose(scores.video, whole, atol=1e-6)
    np.testing.assert_allclose(
        scores.image, method.score_images(text, method.encode_image(cache.image(videos))).numpy(), atol=1e-6
    )


def test_blocks_of_any_size_give_the_same_scores(cache, scores, monkeypatch):
    for name, value in (("ROWS", 3), ("PAIRS", 5), ("HELD", 1)):
        monkeypatch.setattr(similarity, name, value)
    again = similarity.matrices(Mean(), cache, "test")
    np.testing.assert_allclose(again.video, scores.video, atol=1e-6)
    np.testing.assert_allclose(again.image, scores.image, atol=1e-6)


def test_blocks_are_held_up_to_a_limit():
    blocks = [{"x": torch.zeros(rows)} for rows in (10, 10, 30, 1)]
    lists = list(similarity.batch_by_bytes(iter(blocks), limit=80))
    assert [[len(block["x"]) for block in group] for group in lists] == [[10, 10], [30], [1]]


def test_every_caption_knows_its_video(cache, scores):
    truth = scores.truth("video")
    assert (truth >= 0).all()
    assert [scores.video_id[index] for index in truth] == [name.split("#")[0] for name in scores.caption_id]
    assert set(scores.groups("video")) == {0, 1, 2, 3, 4}


def test_a_method_that_gives_another_shape_is_named(cache):
    class Crooked(Mean):
        def score_videos(self, text, video):
            return super().score_videos(text, video).T

    with pytest.raises(ValueError, match="score_videos: expected"):
        similarity.matrices(Crooked(), cache, "test")


def test_nan_is_an_error_and_no_number(cache):
    class Broken(Mean):
        def score_images(self, text, image):
            return super().score_images(text, image).fill_(float("nan"))

    with pytest.raises(ValueError, match="NaN"):
        run.measure(similarity.matrices(Broken(), cache, "test"))


def test_a_split_without_captions_is_an_error(cache):
    with pytest.raises(ValueError, match="split 'holdout' has 0 captions"):
        similarity.matrices(Mean(), cache, "holdout")


def test_a_photo_is_among_the_images_only(tmp_path):
    folder = worlds.cache(tmp_path / "toy", videos=24)
    path = folder / "manifest" / "items.parquet"
    table = pyarrow.parquet.read_table(path)
    kind = ["image" if name == "video0003" else "video" for name in table["video_id"].to_pylist()]
    pyarrow.parquet.write_table(table.set_column(table.schema.get_field_index("kind"), "kind", [kind]), path)
    scores = similarity.matrices(Mean(), Cache(folder, Mean.needs), "test")
    assert "video0003" not in scores.video_id and "video0003" in scores.image_id
    measured, columns = run.measure(scores)
    assert measured["n"] == {"texts": 12, "videos": 5, "images": 6}
    assert measured["t2v"]["queries"] == 10 and measured["t2i"]["queries"] == 12
    assert measured["joint"]["gallery"] == 11 and measured["joint"]["both"]["queries"] == 10
    assert columns["video_rank"][columns["video_id"].index("video0003")] is None


def test_a_dataset_of_photos_alone_has_images_and_no_videos(cache):
    scores = similarity.matrices(Mean(), cache, "test")
    scores.video, scores.video_id = scores.video[:, :0], scores.video_id[:0]
    measured, columns = run.measure(scores)
    assert "t2v" not in measured and measured["t2i"]["queries"] == 30 and measured["joint"]["images@10"] == 100
    assert "both" not in measured["joint"] and columns["video_top"] == [[]] * 30
    assert "text → image" in overview.to_text([overview.run_table(measured)])


@pytest.fixture(scope="module")
def measured(scores):
    return run.measure(scores)


def test_numbers_stand_in_every_direction(measured):
    numbers, _ = measured
    for direction in ("t2v", "v2t", "t2i", "i2t", "joint"):
        assert {"R@1", "R@5", "R@10", "MdR", "MnR", "Rsum", "queries", "gallery"} <= set(numbers[direction])
    assert numbers["n"] == {"texts": 30, "videos": 10, "images": 10}
    assert numbers["t2v"]["queries"] == 30 and numbers["v2t"]["queries"] == 10
    assert numbers["joint"]["gallery"] == 20 and numbers["joint"]["both"]["queries"] == 30
    assert numbers["t2v_group"]["R@1"] >= numbers["t2v"]["R@1"]
    assert numbers["t2v_group"]["in_group_chance"] == 50
    own = {word: numbers["t2v_group"][f"in_group_queries:{word}"] for word in ("motion", "swap")}
    unsaid = numbers["t2v_group"]["in_group_queries"] - sum(
        own.values()
    )  # look-alikes of which nobody says what differs
    assert own == {"motion": 12, "swap": 12} and unsaid == 6


def test_the_ten_best_agree_with_the_rank(measured, scores):
    _, columns = measured
    for owner, rank, top, score in zip(
        columns["video_id"], columns["video_rank"], columns["video_top"], columns["video_score"]
    ):
        assert top[int(rank) - 1] == owner
        assert score == sorted(score, reverse=True)
    for owner, rank, top in zip(columns["video_id"], columns["joint_rank"], columns["joint_top"]):
        place = next((at for at, name in enumerate(top) if name.split(":", 1)[1] == owner), 10)
        assert place == min(int(rank) - 1, 10)


def test_the_ranks_of_items_and_of_pairs_are_those_of_the_numbers(measured):
    """From every kept column come the recalls of its section, so that p speaks of the numbers that are shown."""
    numbers, columns = measured
    kept = {"t2v": "video_rank", "t2i": "image_rank", "v2t": "video_text_rank", "i2t": "image_text_rank"}
    sections = {column: numbers[name] for name, column in kept.items()}
    sections |= {"joint_rank": numbers["joint"], "both_rank": numbers["joint"]["both"]}
    for column, section in sections.items():
        rank = np.array([value for value in columns[column] if value is not None])
        assert len(rank) == section["queries"], column
        assert 100 * np.mean(rank <= 5) == pytest.approx(section["R@5"], abs=1e-3), column
        assert np.mean(rank) == pytest.approx(section["MnR"], abs=1e-3), column


def test_a_table_says_n_beside_every_number(measured):
    text = overview.to_text([overview.run_table(measured[0])])
    assert "text → video" in text and "30 over 10" in text and "10 over 10" in text and "30 over 20" in text
    made = {table.title: [row.name for row in table.rows] for table in overview.build_tables({"mean": [measured[0]]})}
    assert made["joint gallery by rule, both"] == ["mean: apart", "mean: query"]
    assert "in-group motion" in text and "in-group swap" in text
    assert "joint gallery, both" in text and "look-alike videos" in text and "seeds" not in text
    shown = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert shown["joint gallery, both"][0] == "–", "two items are not found at rank 1"
    assert float(shown["text → video"][0]) == round(measured[0]["t2v"]["R@1"], 1)


def test_files_are_the_same_bytes_twice_and_other_splits_keep_apart(tmp_path, measured):
    numbers, columns = measured
    run.save_scores(tmp_path, "test", numbers, columns)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run.save_scores(tmp_path, "test", numbers, columns)
    run.save_scores(tmp_path, "val", numbers, columns)
    names = ("metrics.json", "ranks.parquet", "recall.csv", "attention.json")
    assert first == {name: (tmp_path / name).read_bytes() for name in names}
    assert (tmp_path / "metrics-val.json").exists() and (tmp_path / "ranks-val.parquet").exists()
    assert json.loads(first["metrics.json"])["n"]["texts"] == 30


def test_calibration_may_come_from_another_split(cache, scores):
    origin, moments = run.moments_of_other_split(Mean(), cache, "test", "cpu")
    assert origin == "val"
    numbers, _ = run.measure(scores, "split", moments)
    assert numbers["joint"]["calibration"] == "split"
    assert run.moments_of_other_split(Mean(), cache, "val", "cpu")[0] == "train"


def test_a_run_of_another_dataset_keeps_its_name(tmp_path):
    shards = tmp_path / "msvd"
    assert load.scores_name(shards / "runs" / "unitrim", shards) == "unitrim"
    assert load.scores_name(tmp_path / "msrvtt" / "runs" / "unitrim", shards) == "msrvtt-unitrim"


def command(*words: str) -> None:
    before, sys.argv = sys.argv, ["eval.run", *words]
    try:
        run.main()
    finally:
        sys.argv = before


def test_a_run_of_another_clip_says_all_that_must_run(tmp_path):
    with pytest.raises(
        ValueError, match="another CLIP.*report@toy .*visual, keyframes, text, inputs, train, eval and report"
    ):
        load.require_fit(tmp_path / "runs" / "unitrim", tmp_path / "toy", None, False, 12)


def test_missing_shards_and_a_missing_run_say_what_to_type(tmp_path, cache):
    with pytest.raises(SystemExit, match="dvc repro text@none"):
        command("--run", str(tmp_path / "none/runs/unitrim"), "--shards", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"python -m train.run --shards .*toy --method unitrim"):
        command("--run", str(cache.folder / "runs" / "unitrim-seed2"), "--shards", str(cache.folder))
