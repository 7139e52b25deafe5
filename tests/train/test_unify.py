"""UNIFY by its equations, its two phases, and a whole run over shards whose lexicon is a real masked language model."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import files, shards
from pipeline.lexicon import update_lexicon
from pipeline.scratch import sentences
from tests.support import worlds
from tests.support.features import SIZES, batch, train
from train import checkpoint, methods
from train.data import Cache
from train.methods import unify
from train.run import run

TINY = sentences.Recipe(width=16, heads=2, layers=2, vocabulary=90, positions=24, steps=3, batch=4, threads=1)


def build(**settings):
    torch.manual_seed(0)
    made = methods.build("unify", SIZES | methods.load("unify").Config.small() | settings)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Random features, their captions cut into the pieces of a language model that was trained on them."""
    folder = worlds.cache(tmp_path_factory.mktemp("cache") / "random")
    captions = files.read_table(folder / "manifest" / "captions.parquet").to_pylist()
    sentences.learn([row["text"] for row in captions] * 2, TINY, folder / "lm")
    config = {"name": "random", "lexicon": str(folder / "lm"), "lexicon_revision": None, "words": 32, "shards": 4}
    update_lexicon(folder / "lexicon", captions, config)
    return folder


@torch.no_grad()
def test_a_pairs_score_is_the_sum_of_two_cosines_made_as_the_equations_say():
    model, features = build(k=5, stem=1, own=1).eval(), batch(1)
    frame, patch = (F.normalize(features[name][0], dim=-1) for name in ("frame", "patch"))
    token = torch.cat([frame, patch.flatten(0, 1)])[None] * 16**0.5
    place = torch.cat([torch.arange(4), torch.arange(4).repeat_interleave(5)])
    all_valid = torch.ones(token.shape[:2], dtype=torch.bool)
    stem = model.stem.blocks[0](token + model.stem.position[place], all_valid)
    latent = F.normalize((token + model.latent.blocks[0](stem, all_valid))[0, :4], dim=-1).mean(0)
    hidden = model.project(model.lexicon.blocks[0](stem, all_valid))
    logit = model.text.head(hidden) @ model.text.word.T + model.text.head.bias
    shown = logit.relu().log1p()[0].amax(0)  # every frame and every patch may say a word
    mask = features["piece_mask"]
    logit = model.text.head(model.text(features["piece"], mask)) @ model.text.word.T + model.text.head.bias
    said = logit[mask].relu().log1p().amax(0)
    expected = F.cosine_similarity(features["sentence"][0], latent, dim=0) + F.cosine_similarity(said, shown, dim=0)
    found = model.score_videos(model.encode_text(features), model.encode_video(features))
    assert found[0, 0] == pytest.approx(expected.item(), abs=1e-5)


def test_the_text_stands_still_in_the_first_phase_and_its_last_blocks_learn_in_the_second():
    model = build()
    before = {name: value.clone() for name, value in model.text.state_dict().items()}
    train(model, 0, batch(), 3)
    assert all(torch.equal(value, before[name]) for name, value in model.text.state_dict().items())
    train(model, 1, batch(), 3)
    moved = {
        name.split(".")[0] for name, value in model.text.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"upper", "head"}
    assert [phase.epochs for phase in model.phases()] == [3, 7]
    assert [phase.name for phase in build(frozen_epochs=0).phases()] == ["joint"]


def test_the_weight_of_the_distillation_falls_linearly_over_both_phases():
    model, features = build(flops=0.0), batch()
    model.eval()  # no random patches
    grounding, joint = model.phases()
    whole = grounding.loss(features, 0.0)["distillation"].item()
    for phase, progress, left in ((grounding, 0.5, 0.85), (joint, 0.0, 0.7), (joint, 0.5, 0.35), (joint, 1.0, 0.0)):
        assert phase.loss(features, progress)["distillation"].item() == pytest.approx(left * whole, rel=1e-4)


def test_distillation_teaches_the_lexicon_and_not_the_latent_branch():
    model, features = build(), batch()
    term = model.phases()[0].loss(features, 0.0)["distillation"]
    grads = torch.autograd.grad(term, [*model.latent.parameters(), *model.lexicon.parameters()], allow_unused=True)
    count = len(list(model.latent.parameters()))
    assert all(grad is None or not grad.any() for grad in grads[:count])
    assert any(grad is not None and grad.any() for grad in grads[count:])


def test_settings_leave_out_what_the_ablations_leave_out():
    names = {name for name, _ in build().named_children()}
    assert {name for name, _ in build(share=False).named_children()} - names == {"other_stem"}
    assert set(build().phases()[1].loss(batch(), 0.0)) == {"latent", "lexicon", "flops", "distillation", "masked"}
    bare = build(distillation=0.0, masked_weight=0.0)
    assert set(bare.phases()[1].loss(batch(), 0.0)) == {"latent", "lexicon", "flops"}


def test_flops_are_the_squared_means_of_the_words_weights():
    assert unify.flops(torch.tensor([[2.0, 0.0, 4.0], [0.0, 0.0, 2.0]])).item() == 1 + 0 + 9


def test_hidden_pieces_are_words_and_their_loss_is_that_of_the_model_itself(monkeypatch):
    model, asked = build(masked=0.999).eval(), []
    logits = model.text.logits
    monkeypatch.setattr(model.text, "logits", lambda token: asked.append(logits(token)) or asked[-1])
    features = batch()
    loss = model.fill_gaps(features["piece"], features["piece_mask"])
    truth = features["piece"][features["piece_mask"] & (features["piece"] >= 5)].long()
    assert len(asked[0]) == len(truth)
    assert loss.item() == pytest.approx(F.cross_entropy(asked[0], truth).item(), rel=1e-5)


def test_a_cache_gives_each_captions_pieces(cache):
    opened = Cache(cache, {"piece"}, words=5)
    rows = np.array([3, 0, 30])
    found = opened.text(rows)
    assert found["piece"].dtype == torch.int32
    whole = {}
    for path in shards.shard_paths(cache / "lexicon"):
        shard = shards.read(path, "lexicon")
        for row, name in enumerate(shard["caption_id"]):
            whole[name] = shard["piece"][slice(*shard["piece_offset"][row : row + 2])].tolist()
    for row, piece, mask in zip(rows, found["piece"], found["piece_mask"]):
        expected = whole[opened.caption_id[row]]
        expected = expected if len(expected) <= 5 else [*expected[:4], expected[-1]]
        assert piece[mask].tolist() == expected


SETTINGS = {"batch": 8, "epochs": 2, "frozen_epochs": 1, "stem": 1, "own": 1, "k": 2, "owned": 1, "learning_rate": 1e-3}


def test_a_run_starts_from_the_language_model_and_keeps_what_must_not_move(cache, tmp_path):
    said = run(cache, tmp_path / "unify", "unify", 0, SETTINGS)
    assert "parameters trained" in said
    model = checkpoint.load(tmp_path / "unify")
    start = methods.build("unify", vars(model.config))
    start.begin(cache)
    assert torch.equal(model.text.word, start.text.word) and model.text.word.std() > 0
    assert all(torch.equal(a, b) for a, b in zip(model.text.lower.buffers(), start.text.lower.buffers()))
    assert not torch.equal(model.text.upper[0].qkv.weight, start.text.upper[0].qkv.weight)
    record = json.loads((tmp_path / "unify" / "run.json").read_text())
    assert record["config"]["language_model"]["shape"]["width"] == 16 and "lexicon" in record["shards"]
    assert "is complete" in run(cache, tmp_path / "unify", "unify", 0, SETTINGS)


def test_without_a_lexicon_the_stage_to_run_is_named(tmp_path):
    folder = worlds.cache(tmp_path / "random")
    with pytest.raises(ValueError, match="run: python -m pipeline.lexicon --dataset random"):
        run(folder, tmp_path / "run", "unify", 0, SETTINGS)
