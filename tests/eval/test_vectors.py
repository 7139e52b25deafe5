"""Sums of dot products: the inverted index against a plain product, and a run of UNIFY through scores, tables and report."""

import json

import numpy as np
import pytest
import torch
from scipy import sparse

from eval import overview, run, similarity, vectors
from eval.load import load_run
from eval.report import figures
from eval.search import text
from pipeline import files
from pipeline.lexicon import update_lexicon
from pipeline.scratch import sentences
from tests.support import worlds
from train import run as train_run

SETTINGS = {"batch": 8, "epochs": 2, "frozen_epochs": 1, "stem": 1, "own": 1, "k": 2, "owned": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = worlds.lexicon(worlds.cache(tmp_path_factory.mktemp("cache") / "world", videos=40))
    train_run.run(folder, folder / "runs" / "unify", "unify", 0, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def numbers(shards):
    return run.score_run(shards / "runs" / "unify", shards, device="cpu")


def test_the_index_gives_the_dot_products():
    text = sparse.csr_array(np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0]], np.float32))
    items = sparse.csr_array(np.array([[0, 1, 5, 0], [1, 0, 0, 2]], np.float32))
    index = vectors.InvertedIndex(items)
    assert index.score(text).tolist() == [[2, 2], [0, 0], [0, 3]]
    assert index.postings[[1]].indices.tolist() == [0], "word 1 is in item 0 alone"
    assert vectors.mean_active(text) == pytest.approx(1)


def test_the_scores_are_those_of_the_method_itself(shards):
    method, cache, _ = load_run(shards / "runs" / "unify", shards, "cpu")
    found = similarity.matrices(method, cache, "test")
    scorer = similarity.Scorer(method, cache)
    captions, items = cache.captions("test"), cache.videos("test")
    with torch.inference_mode():
        plain = {kind: scorer.matrix(captions, items, kind) for kind in ("video", "image")}
    np.testing.assert_allclose(found.video, plain["video"], atol=1e-5)
    np.testing.assert_allclose(found.image, plain["image"], atol=1e-5)
    np.testing.assert_allclose(found.parts["latent"]["video"] + found.parts["lexicon"]["video"], found.video, atol=1e-6)


def test_each_part_is_a_row_and_sparsity_a_table(numbers):
    assert set(numbers["parts"]) == {"latent", "lexicon"} and "R@1" in numbers["parts"]["lexicon"]["t2v"]
    assert all(0 < numbers["active"][f"lexicon_{kind}"] <= 40 for kind in ("text", "video", "image"))
    tables = {table.title: table for table in overview.build_tables({"unify": [numbers]})}
    rows = [row.name for row in tables["text → video"].rows]
    assert rows == ["unify (latent)", "unify (lexicon)", "unify"]
    (row,) = tables["active words of a lexicon"].rows
    assert row.cells[0].mean == numbers["active"]["lexicon_text"] and row.size == "–"
    assert "unify (lexicon)" in overview.to_text(list(tables.values()))


def test_videos_say_ten_words_before_and_after(numbers, shards):
    words = json.loads((shards / "lexicon" / "vocabulary.json").read_text())
    said = numbers["says"]
    assert 1 <= len(said) <= vectors.SHOWN
    for one in said:
        for part in ("caption", "before", "after"):
            weights = [weight for _, weight in one[part]]
            assert 0 < len(weights) <= vectors.TOP and weights == sorted(weights, reverse=True)
            assert all(word in words for word, _ in one[part])
    assert any(one["before"] != one["after"] for one in said)
    assert len({one["video_id"] for one in said}) == len(said)


def test_the_report_shows_the_words_beside_the_frames(shards, numbers):
    drawn = figures.figure_words(shards, "unify", numbers["says"], figures.open_source(shards))
    one = numbers["says"][0]
    assert drawn.count('class="attention spoken"') == len(numbers["says"])
    assert all(f">{word}</li>" in drawn for word, _ in [*one["before"], *one["after"], *one["caption"]])
    assert figures.figure_words(shards, "clip4clip", [], None) == ""


def test_a_sentence_is_read_by_the_lexicons_own_tokenizer(tmp_path):
    """The pieces of a sentence that is searched for are those that the stage would have written."""
    cache = worlds.cache(tmp_path / "world")
    captions = files.read_table(cache / "manifest" / "captions.parquet").to_pylist()
    tiny = sentences.Recipe(width=16, heads=2, layers=2, vocabulary=90, positions=24, steps=2, batch=4, threads=1)
    sentences.learn([row["text"] for row in captions], tiny, tmp_path / "lm")
    config = {"name": "world", "lexicon": str(tmp_path / "lm"), "lexicon_revision": None, "words": 32, "shards": 4}
    update_lexicon(cache / "lexicon", captions, config)
    model, opened = train_run.prepare(cache, "unify", 0, SETTINGS)
    found = text.Reader(cache, model, None, "cpu").pieces(captions[0]["text"])
    row = list(opened.caption_id).index(captions[0]["caption_id"])
    assert torch.equal(found["piece"], opened.text(np.array([row]))["piece"])
    model.config.language_model["sha256"] = "another"
    with pytest.raises(files.LexiconError, match="run: python -m pipeline.lexicon --dataset world"):
        text.Reader(cache, model, None, "cpu").pieces("a ball")


def test_the_words_before_are_those_of_the_run_at_its_start(numbers, shards):
    method, cache, _ = load_run(shards / "runs" / "unify", shards, "cpu")
    start, _ = train_run.prepare(shards, "unify", 0, SETTINGS)
    rows = np.array([list(cache.video_id).index(one["video_id"]) for one in numbers["says"]])
    with torch.inference_mode():
        encoded = start.eval().encode_video(cache.video(rows))["lexicon"]
    words = vectors.read_vocabulary(shards)
    for vector, one in zip(encoded, numbers["says"]):
        assert vectors.top_words(vector, words) == [tuple(pair) for pair in one["before"]]
