"""The index: candidates by coarse vectors, ranked by the run's own score; rows are kept, and the exact answer is met."""

import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from eval import run as eval_run
from eval.index import Index, build, coarse, search, store, tokens
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
    for name in ("max_sim", "zero_shot", "unitrim"):
        few = {"epochs": 1, "image_epochs": 1, "k": 2, "samples": 4} if name == "unitrim" else {}
        train_run.run(shards, shards / "runs" / name, name, 0, few)
    return shards


def opened(shards: Path, name: str):
    method, cache, _ = load_run(shards / "runs" / name, shards, "cpu")
    scorer = Scorer(method, cache, "cpu")
    return Index(shards / "index" / name, "video", scorer), scorer, cache


@pytest.mark.parametrize("name", ["max_sim", "zero_shot", "unitrim"])
def test_few_candidates_hold_the_exact_top_ten(library, name):
    facts = build.build_index(library / "runs" / name, library, recall=0.98)
    assert facts["kinds"]["video"]["recall"] >= 0.98 and facts["kinds"]["video"]["candidates"] <= 120
    index, scorer, cache = opened(library, name)
    captions = cache.captions("test")[:40]
    row = {str(video): place for place, video in enumerate(cache.video_id)}
    with torch.inference_mode():
        exact = scorer.matrix(captions, np.array([row[video] for video in index.id]), "video")
        found, score = index.search(scorer.encode(captions, "text"))
    assert build.overlap(found, np.argsort(-exact, 1)[:, :10]) >= 0.97
    np.testing.assert_allclose(score, np.take_along_axis(exact, found, 1), atol=1e-6)  # the run's own
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


def test_four_bits_find_what_comparing_all_finds(tmp_path, monkeypatch):
    require_faiss()
    monkeypatch.setattr(search, "EXACT", 100)
    vectors = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float16)
    assert search.build_scan(tmp_path / "x.faiss", vectors) == "scanned in 4 bits a number"
    query = vectors[:20].astype(np.float32)
    exact = search.highest(search.product(query, vectors), 10)
    assert (exact == np.argsort(-(query @ vectors.astype(np.float32).T), 1, "stable")[:, :10]).all()
    found = search.read_scan(tmp_path / "x.faiss", len(vectors)).search(query, 100)[1]
    assert np.mean([np.isin(mine, its).mean() for mine, its in zip(exact, found)]) >= 0.98
    assert search.read_scan(tmp_path / "x.faiss", 19_999) is None  # of other vectors
    assert search.build_scan(tmp_path / "x.faiss", vectors[:100]) == "exact" and not (tmp_path / "x.faiss").exists()


def require_faiss():
    if importlib.util.find_spec("faiss") is None:
        warnings.warn("FAISS IS ABSENT, SO ITS SCAN IS NOT TESTED: pip install -r requirements-index.txt", stacklevel=1)
        pytest.skip("no faiss")


def test_many_items_are_found_by_four_bits_as_by_sixteen(library, tmp_path, monkeypatch):
    require_faiss()
    build.build_index(library / "runs" / "max_sim", library)
    index, scorer, cache = opened(library, "max_sim")
    monkeypatch.setattr(search, "EXACT", 100)
    with torch.inference_mode():
        text = scorer.encode(cache.captions("test")[:40], "text")
        plain = index.search(text, candidates=40)
        search.build_scan(tmp_path / "x.faiss", index.vectors)
        index.scan = search.read_scan(tmp_path / "x.faiss", len(index))
        monkeypatch.setattr(index, "_vectors", index.vectors.copy())
        scanned = index.search(text, candidates=40)
    assert build.overlap(scanned[0], plain[0]) >= 0.98


def test_the_four_bits_are_made_anew_when_a_part_was_also_after_a_stop_between_the_two(library, monkeypatch):
    require_faiss()
    monkeypatch.setattr(search, "EXACT", 100)

    def compared():
        return build.build_index(library / "runs" / "zero_shot", library)["kinds"]["video"]["compared"]

    folder = library / "index" / "zero_shot" / "video"
    compared()
    assert compared() == "as before"
    store.part_paths(library / "index" / "zero_shot", "video")[0].unlink()
    with monkeypatch.context() as patch:
        patch.setattr(build, "Index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            compared()
    assert not (folder / search.SCAN).exists()
    assert compared() == "scanned in 4 bits a number" and (folder / search.SCAN).exists()
    (folder / search.SCAN).unlink()


def test_coarse_vectors_are_the_ridge_regression_in_a_basis_of_its_own():
    """Written out, for a few references: what the text's scores say of the item's by those of the references."""
    random = np.random.default_rng(0)
    score, item, query = random.normal(size=(30, 8)), random.normal(size=30), random.normal(size=8)
    of_item, of_query = coarse.maps(score)
    centred = score - score.mean(0)
    gram = centred.T @ centred
    ridge = coarse.RIDGE * np.trace(gram) / 8
    weight = np.linalg.solve(gram + ridge * np.eye(8), centred.T @ (item - item.mean()))
    mine = (of_query @ [*query, 1]) @ (of_item @ [*item, 1])
    assert mine == pytest.approx(query @ weight + item.mean() - score.mean())


def test_a_shortlist_is_put_in_order_by_the_runs_own_score(library, monkeypatch):
    """However rough the tokens are: here a part of them is gone."""
    monkeypatch.setattr(build, "pack", lambda features: tokens.pack(features, budget=150))
    run = library / "runs" / "max_sim"
    shutil.rmtree(library / "index" / "max_sim", ignore_errors=True)
    facts = build.build_index(run, library)["kinds"]["video"]
    index, scorer, cache = opened(library, "max_sim")
    captions = cache.captions("test")[:20]
    row = {str(video): place for place, video in enumerate(cache.video_id)}
    exact = scorer.matrix(captions, np.array([row[video] for video in index.id]), "video")
    with torch.inference_mode():
        text = scorer.encode(captions, "text")
        rough, said = index.shortlist(text, 40, 120)
        found, score = index.search(text, candidates=120)
    assert facts["close"] > 10 and np.abs(said - np.take_along_axis(exact, rough, 1)).max() > 0.01
    np.testing.assert_allclose(score, np.take_along_axis(exact, found, 1), atol=1e-6)
    assert build.overlap(found, np.argsort(-exact, 1)[:, :10]) > build.overlap(
        rough[:, :10], np.argsort(-exact, 1)[:, :10]
    )
    index._place = np.where(np.arange(len(index)) == found[0, 0], -1, index.place)  # gone since: its tokens must do
    with torch.inference_mode():
        again = index.search(text, candidates=120)
    assert again[1][0].max() != score[0].max() and np.isin(found[0, 0], rough[0])
    shutil.rmtree(library / "index" / "max_sim")


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


def test_only_what_may_be_found_is(library):
    build.build_index(library / "runs" / "zero_shot", library)
    index, scorer, cache = opened(library, "zero_shot")
    among = np.arange(len(index)) % 3 == 0
    with torch.inference_mode():
        text = scorer.encode(cache.captions("test")[:5], "text")
    found = index.search(text, among=among)[0]
    assert among[found].all() and found.shape == (5, 10)
    assert (found == index.search(text, candidates=len(index), among=among)[0]).mean() > 0.9
