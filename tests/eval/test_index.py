"""The index: candidates by coarse vectors, ranked by the run's own score; rows are kept, and the exact answer is met."""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from eval import run as eval_run
from eval.index import Index, build, search, store, tokens
from eval.load import load_run
from eval.similarity import Scorer
from tests.support import worlds
from train import run as train_run


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    """As many as a moment allows."""
    monkeypatch.setattr(build, "QUERIES", 30)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    shards = worlds.cache(tmp_path_factory.mktemp("cache") / "big", videos=240, captions_per_video=2)
    for name in ("max_sim", "zero_shot"):
        train_run.run(shards, shards / "runs" / name, name, 0, {})
    return shards


def opened(shards: Path, name: str):
    method, cache, _ = load_run(shards / "runs" / name, shards, "cpu")
    scorer = Scorer(method, cache, "cpu")
    return Index(shards / "index" / name, "video", scorer), scorer, cache


@pytest.mark.parametrize("name", ["max_sim", "zero_shot"])
def test_few_candidates_hold_the_exact_top_ten(library, name):
    facts = build.build_index(library / "runs" / name, library, recall=0.98)
    assert facts["kinds"]["video"]["recall"] >= 0.98 and facts["kinds"]["video"]["candidates"] <= 120
    index, scorer, cache = opened(library, name)
    captions = cache.captions("test")[:40]
    row = {str(video): place for place, video in enumerate(cache.video_id)}
    exact = scorer.matrix(captions, np.array([row[video] for video in index.id]), "video")
    with torch.inference_mode():
        found, score = index.search(scorer.encode(captions, "text"))
    assert build.overlap(found, np.argsort(-exact, 1)[:, :10]) >= 0.97
    np.testing.assert_allclose(score, np.take_along_axis(exact, found, 1), atol=0.01)  # 8 bits a number
    assert (np.diff(score, axis=1) <= 0).all()


def test_fewer_candidates_find_less(library):
    build.build_index(library / "runs" / "max_sim", library)
    index, scorer, cache = opened(library, "max_sim")
    captions = cache.captions("val")[:60]
    row = {str(video): place for place, video in enumerate(cache.video_id)}
    truth = np.argsort(-scorer.matrix(captions, np.array([row[one] for one in index.id]), "video"), 1)[:, :10]
    with torch.inference_mode():
        text = scorer.encode(captions, "text")
        shares = [build.overlap(index.search(text, 10, count)[0], truth) for count in (10, 40, len(index))]
    assert shares[0] < shares[1] <= shares[2] and shares[2] > 0.97


def test_a_second_run_encodes_nothing_and_a_changed_row_alone(library, tmp_path):
    run = library / "runs" / "zero_shot"
    build.build_index(run, library)
    assert build.build_index(run, library)["kinds"]["video"]["encoded"] == 0
    parts = sorted((library / "index" / "zero_shot" / "video").glob("0*.safetensors"))
    before = store.Part(parts[0])
    tensors = {name: tensor.clone() for name, tensor in before.tensors.items()}
    parts[0].write_bytes(parts[0].read_bytes()[:100])  # a torn part is made anew, and holds the same
    again = build.build_index(run, library)["kinds"]["video"]
    now = store.Part(parts[0])
    assert 0 < again["encoded"] < 240 and (now.id, now.mark) == (before.id, before.mark)
    assert all(now.tensors[name].equal(tensor) for name, tensor in tensors.items())


def test_tokens_in_eight_bits_are_near_and_never_more_than_the_budget():
    made = torch.Generator().manual_seed(0)
    patch = torch.nn.functional.normalize(torch.randn(3, 40, 64, generator=made), dim=-1)
    mask = torch.arange(40) < torch.tensor([40, 7, 25])[:, None]
    features = {"patch": patch, "patch_mask": mask, "video": patch[:, 0]}
    back = tokens.unpack(tokens.pack(features), "cpu")
    assert back["patch_mask"].equal(mask) and (back["patch"] - patch).abs().max() < 0.003
    kept = tokens.pack(features, budget=1500)
    assert sum(tensor[0].nbytes for tensor in kept.values()) <= 1500 < tokens.bytes_per_item(features)
    assert kept["patch_mask"].sum(1)[1] == 7  # what is there is kept before padding
    with pytest.raises(ValueError, match="more than the 100 that it may have"):
        tokens.pack(features, budget=100)


def test_an_inverted_file_finds_what_comparing_all_finds(tmp_path, monkeypatch):
    if importlib.util.find_spec("faiss") is None:
        warnings.warn(
            "FAISS IS ABSENT, SO THE INVERTED FILE IS NOT TESTED: pip install -r requirements-index.txt", stacklevel=1
        )
        pytest.skip("no faiss")
    monkeypatch.setattr(search, "EXACT", 100)
    vectors = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float16)
    assert search.build_inverted(tmp_path / "x.faiss", vectors) == "252 lists"
    import faiss

    query = vectors[:20].astype(np.float32)
    exact = np.argsort(-(query @ vectors.astype(np.float32).T), 1)[:, :10]
    found = search.read_inverted(tmp_path / "x.faiss", 4000).search(
        query, 10, params=faiss.SearchParametersIVF(nprobe=252)
    )[1]
    assert build.overlap(found, exact) >= 0.99
    assert search.read_inverted(tmp_path / "x.faiss", 3999) is None  # of other vectors


def test_two_stages_find_what_all_scores_do(library, monkeypatch, capsys):
    """`eval.run --two-stage`, over the test split alone, though the index holds every item."""
    words = ["eval.run", "--run", str(library / "runs" / "zero_shot"), "--shards", str(library), "--two-stage"]
    monkeypatch.setattr("sys.argv", words)
    eval_run.main()
    home = library / "scores" / "zero_shot"
    found, exact = (json.loads((home / name).read_text()) for name in ("two_stage.json", "metrics.json"))
    assert found["videos"] == exact["n"]["videos"] < 240 and found["candidates"] < found["videos"]
    assert found["recall10"] >= 0.97 and f"{found['recall10']:.1%} of the exact top ten" in capsys.readouterr().out
    for cut in (1, 5, 10):
        assert found[f"R@{cut}"] == pytest.approx(exact["t2v"][f"R@{cut}"], abs=2.0)
    assert 0 < found["R@1"] < found["R@10"]


def test_only_what_may_be_found_is(tmp_path, library, monkeypatch):
    """Also by an inverted file."""
    build.build_index(library / "runs" / "zero_shot", library)
    index, scorer, cache = opened(library, "zero_shot")
    among = np.arange(len(index)) % 3 == 0
    with torch.inference_mode():
        text = scorer.encode(cache.captions("test")[:5], "text")
    plain = index.search(text, among=among)[0]
    assert among[plain].all() and plain.shape == (5, 10)
    if not importlib.util.find_spec("faiss"):
        warnings.warn(
            "faiss is not installed (pip install -r requirements-index.txt): its inverted file is not tested",
            stacklevel=1,
        )
        return
    monkeypatch.setattr(search, "EXACT", 100)
    search.build_inverted(tmp_path / "x.faiss", index.vectors)
    index.inverted = search.read_inverted(tmp_path / "x.faiss", len(index))
    assert (index.search(text, probes=1000, among=among)[0] == plain).all()
