"""The demo's CLIP comes with the repository: it is of the present world and recipe, whole, and copied in place of training."""

import json
import shutil

import pytest

from pipeline import files
from pipeline.scratch import shipped, train

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
