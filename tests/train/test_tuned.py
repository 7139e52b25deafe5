"""Methods that own CLIP's last blocks: nothing changes before the first step, and only what a run owns moves."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel

from eval.load import load_run
from eval.similarity import matrices
from pipeline import shards
from pipeline.encoders import check
from pipeline.encoders.tail import write_tail
from tests.support import tiny, worlds
from tests.support.features import TOWER
from train import checkpoint, methods
from train import run as train_run
from train.data import Cache
from train.inputs import write_inputs
from train.layers.clip_blocks import TextTower, Tower, read_header

TUNE = ("image", "text", "true")
LEARNING = [name for name in methods.names() if methods.build(name, {}).phases()]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cache whose tokens are what a tiny CLIP's two blocks make of its hidden states, and of its token ids."""
    folder = worlds.lexicon(worlds.cache(tmp_path_factory.mktemp("cache") / "world", videos=32, dimension=24))
    source = tiny.clip(tmp_path_factory.mktemp("hf"))
    record = check.build_record(str(source), None, source) | {"sha256": worlds.SHA}
    (folder / "clip" / "clip.json").write_text(json.dumps(record))
    tail = write_tail(folder / "clip", source, record, {"image": 2, "text": 2})
    tower, reads = starting_towers(folder).values()
    random = np.random.default_rng(0)
    for path in shards.shard_paths(folder / "visual"):
        tensors, attributes = worlds.taken(path, "visual")
        hidden = random.normal(size=(len(tensors["frame"]), 5, 32)).astype(np.float16)
        with torch.no_grad():
            token = tower(torch.from_numpy(hidden.astype(np.float32))).numpy().astype(np.float16)
        tensors |= {"hidden": hidden, "frame": token[:, 0], "patch": token[:, 1:]}
        shards.write(path, "visual", tensors, attributes | {"tail": 2})
    most = read_header(tail)["text"].vocabulary
    for path in shards.shard_paths(folder / "text"):
        tensors, attributes = worlds.taken(path, "text")
        tensors["token"] = random.integers(0, most, len(tensors["token"])).astype(np.int32)
        words = [encoded(reads, ids) for ids in np.split(tensors["token"], tensors["word_offset"][1:-1]) if len(ids)]
        if words:
            tensors |= {"word": np.concatenate(words), "sentence": np.stack([word[-1] for word in words])}
        shards.write(path, "text", tensors, attributes)
    tensors, attributes = worlds.taken(folder / "text" / "phrases.h5", "phrases")
    ids = [random.integers(0, most, 3 + index % 4).astype(np.int32) for index in range(len(tensors["phrase"]))]
    tensors |= {"token_offset": np.cumsum([0, *map(len, ids)]), "token": np.concatenate(ids)}
    tensors["embedding"] = np.stack([encoded(reads, one)[-1] for one in ids])
    shards.write(folder / "text" / "phrases.h5", "phrases", tensors, attributes)
    return folder


def starting_towers(folder):
    """Both towers as CLIP has them, each with its last block owned."""
    path = folder / "clip" / "tail.safetensors"
    header = read_header(path)
    towers = {"image": Tower(header["image"], 0, 1, causal=False), "text": TextTower(header["text"], 1)}
    for kind, tower in towers.items():
        tower.read(path, kind)
    return towers


@torch.no_grad()
def encoded(tower, ids):
    """float16 word tokens (L, D) of one text."""
    return tower(torch.from_numpy(np.array(ids))[None])[0].numpy().astype(np.float16)


def go(world, folder, name="clip4clip", **settings):
    return train_run.run(
        world, folder, name, 0, {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "tune": "image"} | settings
    )


@pytest.mark.parametrize("wanted", TUNE)
@pytest.mark.parametrize("name", LEARNING)
def test_with_no_step_the_scores_are_the_frozen_ones(world, name, wanted):
    """But for float16, in which the tokens are cached: a thousandth of a score, ten times that where a softmax is sharp."""
    found = {}
    for tune in ("", wanted):
        config = methods.load(name).Config(dimension=24, frames=3, patches=4, tune=tune)
        if hasattr(config, "token_shift"):  # which makes other tokens from the first step on, as published
            config.token_shift = 0
        cache = Cache(world, methods.needed(name, config))
        if tune:
            config.tail = train_run.tail_facts(world, cache, tune)
        config = methods.load(name).complete(config, world)
        torch.manual_seed(0)
        model = methods.build(name, vars(config)).eval()
        if tune:
            model.read(world / "clip" / "tail.safetensors")
        found[tune] = matrices(model, cache, "test")
    np.testing.assert_allclose(found[wanted].video, found[""].video, atol=1e-2)
    np.testing.assert_allclose(found[wanted].image, found[""].image, atol=1e-2)


@pytest.mark.parametrize("tune", TUNE)
@pytest.mark.parametrize("name", LEARNING)
def test_only_what_a_run_owns_moves(world, name, tune, tmp_path):
    go(world, tmp_path / "run", name, tune=tune, tune_blocks=1, tune_rate=1e-3)
    now, owned = checkpoint.read(tmp_path / "run")["model"], checkpoint.facts(tmp_path / "run")["owned"]
    assert owned == {kind: [1] for kind in ("image", "text") if tune in (kind, "true")}
    for kind, start in starting_towers(world).items():
        if kind not in owned:
            assert not any(key.startswith(f"towers.{kind}") for key in now)
            continue
        moved = {
            key for key, value in start.state_dict().items() if not torch.equal(value, now[f"towers.{kind}.{key}"])
        }
        assert moved == {key for key in start.state_dict() if key.split(".")[0] in ("blocks", "norm", "projection")}
    assert matrices(checkpoint.load(tmp_path / "run"), Cache(world, checkpoint.load(tmp_path / "run").needs), "test")


@pytest.mark.parametrize("name", ["ts2net", "ucofia"])
def test_tokens_shift_where_a_run_owns_both_blocks(world, name, tmp_path):
    for blocks, shifted in ((1, 0), (2, 2)):
        go(world, tmp_path / "run", name, tune_blocks=blocks, epochs=1)
        method, cache, _ = load_run(tmp_path / "run", world, "cpu")
        assert method.towers["image"].shifted == shifted
        with torch.inference_mode():
            rows = cache.videos("test")[cache.frame_count[cache.videos("test")] > 1]
            features = cache.video(rows)
            seen = method.expand(features)["frame"]
            alone = [
                method.expand(
                    cache.video(rows)
                    | {"hidden": features["hidden"][:, :1], "frame_mask": features["frame_mask"][:, :1]}
                )
            ]
        assert torch.allclose(seen[:, :1], alone[0]["frame"], atol=1e-5) is (shifted == 0)


def test_a_temporal_encoder_may_start_from_clips_text_blocks(tmp_path):
    """Of a CLIP whose text blocks have the temporal encoder's shape, before any step."""
    source, settings = tiny.clip(tmp_path / "hf", dimension=32), {"epochs": 0, "temporal_init": "clip", "layers": 3}

    def start(text):
        config = json.loads((source / "config.json").read_text())
        towers = {"text_config": config["text_config"] | text, "vision_config": config["vision_config"]}
        CLIPModel(CLIPConfig(**towers, projection_dim=32)).save_pretrained(source)
        record = check.build_record(str(source), None, source) | {"sha256": worlds.SHA}
        path = write_tail(folder / "clip", source, record, {"image": 0, "text": 0})
        train_run.run(folder, tmp_path / "run", "clip4clip", 0, settings)
        return path

    folder = worlds.cache(tmp_path / "wide", dimension=32)
    with pytest.raises(ValueError, match="text blocks of heads 1, hidden 128; this CLIP's have 2, 64"):
        start({})
    (folder / "clip" / "tail.safetensors").unlink()
    path = start({"num_attention_heads": 1, "intermediate_size": 128})
    state = checkpoint.read(tmp_path / "run")["model"]
    with safe_open(path, "pt") as file:
        assert torch.equal(state["temporal.position"][:77], file.get_tensor("text.position"))
        for number in range(2):
            name = f"blocks.{number}.qkv.weight"
            assert torch.equal(state[f"temporal.{name}"], file.get_tensor(f"text.{name}"))
    assert not state[
        "temporal.blocks.2.out.weight"
    ].any()  # this tower has two blocks; the third starts as the identity


def test_where_the_blocks_learn_so_do_words_and_patches_that_nothing_else_maps(world, tmp_path):
    """Else the other alignments would move the patches, and nothing would hold them to the words."""
    alone = {"word_patch": "all", "alignments": ["word_patch"]}
    with pytest.raises(ValueError, match="word_patch: all learns nothing"):
        methods.build("unitrim", alone)
    go(world, tmp_path / "run", "unitrim", tune="true", tune_rate=1e-3, image_epochs=0, **alone)
    now = checkpoint.read(tmp_path / "run")["model"]
    for kind, start in starting_towers(world).items():
        for name in ("blocks.0.qkv.weight", "projection.weight"):
            assert not torch.equal(start.state_dict()[name], now[f"towers.{kind}.{name}"])


def test_a_method_without_a_temporal_encoder_cannot_start_it(world, tmp_path):
    with pytest.raises(ValueError, match="has no temporal encoder"):
        go(world, tmp_path / "run", "zero_shot", tune="", temporal_init="clip")


@pytest.mark.parametrize("name", ["clip4clip", "unitrim"])
def test_a_stopped_run_goes_on_to_the_same_bits(world, name, tmp_path, monkeypatch):
    go(world, tmp_path / "whole", name, tune="true")
    save, count = checkpoint.save, []

    def stopping(*args):
        save(*args)
        count.append(1)
        if len(count) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        go(world, tmp_path / "run", name, tune="true")
    settings = {"epochs": 2, "batch": 8, "learning_rate": 1e-3, "tune": "true"}
    train_run.run(world, tmp_path / "run", name, 0, settings, resume="only")
    one, other = (checkpoint.read(tmp_path / name)["model"] for name in ("whole", "run"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_computing_again_in_place_of_holding_changes_nothing(world, tmp_path):
    go(world, tmp_path / "held", tune="true")
    go(world, tmp_path / "again", tune="true", tune_recompute=True)
    one, other = (checkpoint.read(tmp_path / name)["model"] for name in ("held", "again"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_lower_block_learns_at_a_lower_rate():
    tail = {kind: {"shape": TOWER, "most": 3} for kind in ("image", "text")}
    model = methods.build("clip4clip", {"tune": "true", "tail": tail, "tune_rate": 1e-4, "tune_decay": 0.5})
    rates = model.phases()[0].learning_rates
    for kind in ("image", "text"):
        assert [rates[f"towers.{kind}.blocks.{number}"] for number in range(3)] == [2.5e-5, 5e-5, 1e-4]
        assert rates[f"towers.{kind}.projection"] == 1e-4


def test_shards_of_a_shorter_tail_serve_as_far_as_the_run_owns(world, tmp_path):
    """What enters the last block, made by the first; a run that owns both cannot go on from there."""
    first = starting_towers(world)["image"].frozen[0]
    shorter = tmp_path / "shorter"
    shutil.copytree(world, shorter)
    for path in shards.shard_paths(shorter / "visual"):
        tensors, attributes = worlds.taken(path, "visual")
        with torch.no_grad():
            tensors["hidden"] = first(torch.from_numpy(tensors["hidden"].astype(np.float32))).numpy().astype(np.float16)
        shards.write(path, "visual", tensors, attributes | {"tail": 1})
    for blocks in (1, 2):
        go(world, tmp_path / "run", tune_blocks=blocks, tune_rate=1e-3)
        method, cache, _ = load_run(tmp_path / "run", world, "cpu")
        expected = matrices(method, cache, "test").video
        if blocks == 2:
            with pytest.raises(ValueError, match="set tail.image in params.yaml to 2"):
                load_run(tmp_path / "run", shorter, "cpu")
        else:
            method, cache, _ = load_run(tmp_path / "run", shorter, "cpu")
            np.testing.assert_allclose(matrices(method, cache, "test").video, expected, atol=1e-2)


def test_inputs_of_a_tuned_method_are_hidden_states_token_ids_and_how_many_blocks_it_may_own(
    world, tmp_path, monkeypatch
):
    """`tune: true` as YAML reads it; who does not tune is left alone."""
    said = "defaults: {words: 9, train: {clip4clip: {tune: true}, xclip: {}}}\n"
    (tmp_path / "params.yaml").write_text(said)
    monkeypatch.chdir(tmp_path)
    tuned, frozen = (json.loads(path.read_text()) for path in write_inputs(world, ["clip4clip", "xclip"]))
    assert tuned["needs"] == ["hidden", "image_hidden", "token"] and tuned["tail"] == {"image": 2, "text": 2}
    assert tuned["settings"]["words"] == 9  # which a run of sentences alone does not ask for
    assert "hidden" not in frozen["needs"] and "tail" not in frozen


def test_shards_without_hidden_states_are_refused(tmp_path):
    folder = worlds.cache(tmp_path / "plain")
    (folder / "clip" / "tail.safetensors").touch()
    with pytest.raises(ValueError, match=r"set datasets.plain.tail.image .* dvc repro clip@plain visual@plain"):
        go(folder, tmp_path / "run")


def test_a_tail_of_another_clip_says_all_that_must_run(world, tmp_path):
    path, source = world / "clip" / "tail.safetensors", tiny.clip(tmp_path / "other", seed=5)
    before = path.read_bytes()
    write_tail(world / "clip", source, check.build_record(str(source), None, source), {"image": 2, "text": 2})
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
    with pytest.raises(ValueError, match="set tune=image, text or true beside it"):
        go(world, tmp_path / "run", tune="", tune_blocks=1)
    with pytest.raises(ValueError, match="tune: 'all' is not one of"):
        go(world, tmp_path / "run", tune="all")
    with pytest.raises(ValueError, match="zero_shot learns nothing"):
        go(world, tmp_path / "run", "zero_shot")
