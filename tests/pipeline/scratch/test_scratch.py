"""The scratch CLIP: trained small here, it loads as any Hugging Face CLIP does."""

import json
from random import Random

import numpy as np
import pyarrow
import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from pipeline import files, params
from pipeline.datasets.demo import reader
from pipeline.encoders import check, weights
from pipeline.encoders.towers import FrozenCLIP
from pipeline.scratch import muon, objective, stills, train
from pipeline.scratch.corpus import VIEWS, Corpus, phrases, read_footage, shuffle_phrases
from pipeline.scratch.model import build, tokenizer
from pipeline.scratch.recipe import Recipe, recipe_of

TINY = {
    "steps": 6,
    "batch": 8,
    "scripts": 2,
    "threads": 1,
    "width": 32,
    "heads": 2,
    "dimension": 16,
    "vision_layers": 1,
}
DEMO = {"name": "demo", "reader": "demo", "words": 32, "scratch": TINY}


@pytest.fixture(scope="module")
def corpus():
    return stills.stills(DEMO, recipe_of(DEMO), seed=0, count=60, scripts=10)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "clip"
    path.mkdir()
    train.learn_dataset(corpus, recipe_of(DEMO), path)
    (path / "clip.json").write_text(json.dumps(check.build_record("scratch", None, path)))
    return path


def test_it_loads_as_a_hugging_face_clip(folder):
    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    words = CLIPTokenizer.from_pretrained(folder)
    ids = words(["a red ring at the left", "a Ball"], padding=True, return_tensors="pt")
    assert ids["input_ids"].shape == (2, 8)  # six words between start and end
    last = ids["input_ids"][0, -1].item()
    assert last == words.eos_token_id == len(words) - 1 == model.config.text_config.eos_token_id
    pooled = model.text_projection(model.text_model(**ids).pooler_output)
    tokens = model.text_projection(model.text_model(**ids).last_hidden_state)
    torch.testing.assert_close(pooled[1], tokens[1, 3])  # the end token of the shorter text, not the padding


def test_the_towers_read_it(folder):
    towers = FrozenCLIP.load(folder)
    frame, patch = towers.encode_images(torch.zeros(2, 48, 48, 3, dtype=torch.uint8))
    assert frame.shape == (2, 16) and patch.shape == (2, 16, 16)
    token, word = towers.encode_texts(["a red ring"])[0]
    assert len(token) == 5 and word.shape == (5, 16)


def test_words_that_no_caption_had_are_spelled_not_lost(folder):
    words = CLIPTokenizer.from_pretrained(folder)
    ids = words("zebra über 7%")["input_ids"][1:-1]
    assert words.eos_token_id not in ids and words.decode(ids).replace(" ", "") == "zebraüber7%"


def test_the_same_seed_gives_the_same_weights(corpus, folder, tmp_path):
    train.learn_dataset(corpus, recipe_of(DEMO), tmp_path)
    assert weights.checksum(tmp_path / "model.safetensors") == weights.checksum(folder / "model.safetensors")


def test_it_learns(corpus):
    recipe = Recipe(**TINY | {"steps": 40})
    torch.manual_seed(0)
    words = tokenizer(corpus.texts(), 600, 32)
    model, naming = build(recipe, len(words)), torch.nn.Linear(recipe.dimension, recipe.phrases)
    batch = next(shuffle_phrases(corpus, recipe, 0))
    before = {
        name: term.item() for name, term in objective.training_losses(model, words, naming, batch, recipe).items()
    }
    train.fit(model, words, naming, iter([batch] * 40), recipe)
    after = {name: term.item() for name, term in objective.training_losses(model, words, naming, batch, recipe).items()}
    assert set(before) == {"picture", "words", "retention"}
    assert all(after[name] < 0.8 * before[name] for name in before)


def test_phrases_are_of_one_to_three_words_that_matter():
    assert phrases("a red ball at the top left") == {
        *("red", "ball", "top", "left"),
        *("red ball", "ball top", "top left"),
        *("red ball top", "ball top left"),
    }


def test_an_orthogonal_step_has_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 8, 8), (2, 8, 32), (2, 32, 8)):
        values = torch.linalg.svdvals(muon.orthogonal(torch.randn(shape)))
        assert values.min() > 0.4 and values.max() < 1.3


def test_a_kept_clip_is_not_trained_again_and_a_changed_recipe_is(tmp_path, monkeypatch):
    random = Random(0)
    scenes = [stills.still_scene(random, 1) for _ in range(8)]
    pictures = np.stack([stills.draw(scene, 48, random) for scene in scenes])[:, None]
    small = Corpus(pictures, [["a ball"] for _ in scenes], [])
    monkeypatch.setattr(stills, "stills", lambda *_: small)
    train.train(DEMO, tmp_path / "clip")
    first = (tmp_path / "clip" / "model.safetensors").stat().st_ino
    train.train(DEMO, tmp_path / "clip")
    assert (tmp_path / "clip" / "model.safetensors").stat().st_ino == first
    train.train(DEMO | {"scratch": TINY | {"steps": 3}}, tmp_path / "clip")
    assert (tmp_path / "clip" / "model.safetensors").stat().st_ino != first
    assert not (tmp_path / "clip.part").exists()


def test_an_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="scratch: unknown stepz"):
        recipe_of(DEMO | {"scratch": {"stepz": 3}})


def test_any_dataset_trains_on_its_own_train_frames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = {"name": "other", "world": {"groups": {"train": 2, "val": 1, "test": 1}}}
    reader.prepare(tmp_path / "source", world)
    items, captions = reader.read(world)
    split = {item.video_id: item.split for item in items}
    rows = [
        {"video_id": i.video_id, "path": i.path, "split": i.split, "hash": i.video_id, "start": None, "end": None}
        for i in items
    ]
    rows[0]["path"] = "gone.mp4"  # the visual stage will reject it; training goes on without it
    texts = [
        {"caption_id": f"{c.video_id}#{c.index}", "video_id": c.video_id, "text": c.text, "split": split[c.video_id]}
        for c in captions
    ]
    folder = params.cache_folder("other", "manifest")
    files.write_table(folder / "items.parquet", pyarrow.Table.from_pylist(rows))
    files.write_table(folder / "captions.parquet", pyarrow.Table.from_pylist(texts))
    config = {"name": "other", "reader": "folder", "root": "source", "decoder": "pyav", "words": 32, "scratch": TINY}
    corpus = read_footage(config, recipe_of(config), 0)
    assert corpus.pictures.shape == (5, VIEWS, 48, 48, 3) and not corpus.told
    assert all(len(item) == reader.CAPTIONS["train"] for item in corpus.captions)
    train.train(config, params.cache_folder("other", "clip"))
    assert CLIPModel.from_pretrained(params.cache_folder("other", "clip")).config.projection_dim == 16
