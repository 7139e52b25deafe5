"""The demo's CLIP comes with the repository: it is of the present world and recipe, whole, and copied in place of training."""

import json
import shutil

import pytest

from pipeline import files
from pipeline.scratch import release, shipped, stills, train

DEMO = {"name": "demo", "reader": "demo"}


def test_the_shipped_clip_is_of_the_present_world_and_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learn_dataset", lambda *_: pytest.fail("it was trained"))
    train.train(DEMO, tmp_path / "clip")
    assert shipped.checksums(tmp_path / "clip") == (shipped.SHIPPED / shipped.SUMS).read_text()
    assert not (tmp_path / "clip" / shipped.SUMS).exists()


def test_another_recipe_is_not_shipped_and_a_damaged_file_is_named(tmp_path):
    about = json.loads((shipped.SHIPPED / "scratch.json").read_text())
    assert not shipped.copy_shipped(about | {"seed": 1}, tmp_path / "part")
    shutil.copytree(shipped.SHIPPED, tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(files.CLIPError, match="is damaged"):
        shipped.copy_shipped(about, tmp_path / "part", tmp_path / "clip")


def test_training_anew_says_whether_the_bits_are_the_same(tmp_path, monkeypatch):
    drawn = stills.stills
    monkeypatch.setattr(train, "stills", lambda config, recipe, seed: drawn(config, recipe, seed, 40, 200))
    few = DEMO | {"scratch": {"steps": 1, "batch": 4, "scripts": 2, "phrases": 20, "width": 16, "threads": 1}}
    assert "holds none" in release.release(tmp_path / "one", few, tmp_path / "nowhere")
    assert "is, bit for bit, what" in release.release(tmp_path / "two", few, tmp_path / "one")
    assert "is not bit for bit what" in release.release(tmp_path / "three", few, shipped.SHIPPED)
    assert not (tmp_path / "three").with_name("three.part").exists()
