"""Methods that own CLIP's last image blocks: nothing changes before the first step, and only what a run owns moves."""

import json

import numpy as np
import pytest
import torch

from eval.similarity import matrices
from pipeline import shards
from pipeline.encoders import check
from pipeline.encoders.tail import write_tail
from tests.support import tiny, worlds
from train import checkpoint, methods
from train import run as train_run
from train.data import Cache
from train.layers.clip_blocks import Tower, read_header

LEARNING = [name for name in methods.names() if methods.build(name, {}).phases()]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache whose frames and patches are what a tiny CLIP's two blocks make of its hidden states."""
    folder = worlds.cache(tmp_path_factory.mktemp("cache") / "world", videos=32, dimension=24)
    source = tiny.clip(tmp_path_factory.mktemp("hf"))
    record = check.build_record(str(source), None, source) | {"sha256": worlds.SHA}
    (folder / "clip" / "clip.json").write_text(json.dumps(record))
    path = write_tail(folder / "clip", source, record)
    tower = Tower(read_header(path)["image"], 0, 1, causal=False)
    tower.read(path, "image")
    random = np.random.default_rng(0)
    for path in shards.shard_paths(folder / "visual"):
        tensors, attributes = worlds.taken(path, "visual")
        hidden = random.normal(size=(len(tensors["frame"]), 5, 32)).astype(np.float16)
        with torch.no_grad():
            token = tower(torch.from_numpy(hidden.astype(np.float32))).numpy().astype(np.float16)
        tensors |= {"hidden": hidden, "frame": token[:, 0], "patch": token[:, 1:]}
        shards.write(path, "visual", tensors, attributes | {"tail": 2})
    return folder


def go(world, folder, name="clip4clip", **settings):
    return train_run.run(
        world, folder, name, 0, {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "tune": "image"} | settings
    )


@pytest.mark.parametrize("name", LEARNING)
def test_with_no_step_the_scores_are_the_frozen_ones(world, name, tmp_path):
    """But for float16, in which the tokens are cached: a thousandth of a score, ten times that where a softmax is sharp."""
    found = {}
    for tune in ("", "image"):
        config = methods.load(name).Config(dimension=24, frames=3, patches=4, tune=tune)
        cache = Cache(world, methods.needed(name, config))
        if tune:
            config.tail = train_run.tail_facts(world, cache)
        torch.manual_seed(0)
        model = methods.build(name, vars(config)).eval()
        if tune:
            model.read(world / "clip" / "tail.safetensors")
        found[tune] = matrices(model, cache, "test")
    np.testing.assert_allclose(found["image"].video, found[""].video, atol=1e-2)
    np.testing.assert_allclose(found["image"].image, found[""].image, atol=1e-2)


@pytest.mark.parametrize("name", LEARNING)
def test_only_what_a_run_owns_moves(world, name, tmp_path):
    go(world, tmp_path / "run", name, tune_blocks=1, tune_rate=1e-3)
    start = Tower(read_header(world / "clip" / "tail.safetensors")["image"], 0, 1, causal=False)
    start.read(world / "clip" / "tail.safetensors", "image")
    now = checkpoint.read(tmp_path / "run")["model"]
    moved = {key for key, value in start.state_dict().items() if not torch.equal(value, now[f"tower.{key}"])}
    assert moved == {key for key in start.state_dict() if not key.startswith("frozen")}
    assert matrices(checkpoint.load(tmp_path / "run"), Cache(world, checkpoint.load(tmp_path / "run").needs), "test")


def test_a_stopped_run_goes_on_to_the_same_bits(world, tmp_path, monkeypatch):
    go(world, tmp_path / "whole")
    save, count = checkpoint.save, []

    def stopping(*args):
        save(*args)
        count.append(1)
        if len(count) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        go(world, tmp_path / "run")
    settings = {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "tune": "image"}
    train_run.run(world, tmp_path / "run", "clip4clip", 0, settings, resume="only")
    one, other = (checkpoint.read(tmp_path / name)["model"] for name in ("whole", "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_computing_again_in_place_of_holding_changes_nothing(world, tmp_path):
    go(world, tmp_path / "held")
    go(world, tmp_path / "again", tune_recompute=True)
    one, other = (checkpoint.read(tmp_path / name)["model"] for name in ("held", "again"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_lower_block_learns_at_a_lower_rate():
    shape = {"width": 8, "heads": 2, "layers": 3, "dimension": 16, "epsilon": 1e-5, "activation": "gelu", "hidden": 16}
    tail = {"shape": shape | {"tokens": 6, "vocabulary": 0}, "first": 0}
    model = methods.build("clip4clip", {"tune": "image", "tail": tail, "tune_rate": 1e-4, "tune_decay": 0.5})
    rates = model.phases()[0].learning_rates
    assert [rates[f"tower.blocks.{number}"] for number in range(3)] == [2.5e-5, 5e-5, 1e-4]
    assert rates["tower.projection"] == 1e-4


def test_shards_without_hidden_states_are_refused(tmp_path):
    folder = worlds.cache(tmp_path / "plain")
    (folder / "clip" / "tail.safetensors").touch()
    with pytest.raises(ValueError, match=r"set datasets.plain.tail.image .* dvc repro clip@plain visual@plain"):
        go(folder, tmp_path / "run")


def test_a_tail_of_another_clip_says_all_that_must_run(world, tmp_path):
    path, source = world / "clip" / "tail.safetensors", tiny.clip(tmp_path / "other", seed=5)
    before = path.read_bytes()
    write_tail(world / "clip", source, check.build_record(str(source), None, source))
    try:
        with pytest.raises(
            ValueError, match=f"another CLIP than the shards.*report@{world.name} .*visual, keyframes, text"
        ):
            go(world, tmp_path / "run")
    finally:
        path.write_bytes(before)


def test_more_blocks_than_the_shards_allow_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match="a run can own 1 to 2 blocks, not 3"):
        go(world, tmp_path / "run", tune_blocks=3)


def test_settings_that_do_not_go_together_are_named(world, tmp_path):
    with pytest.raises(ValueError, match="set tune=image beside it"):
        go(world, tmp_path / "run", tune="", tune_blocks=1)
    with pytest.raises(ValueError, match="tune is `image` or empty"):
        go(world, tmp_path / "run", tune="all")
