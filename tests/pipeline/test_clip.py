"""Which CLIP: pinned by checksums, proven whole once, refused in words where it is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipeline import clip
from pipeline.encoders import check, weights
from tests.support import house, tiny


@pytest.mark.parametrize("change, word", [("drop", "misses"), ("add", "surplus"), ("reshape", "mis-shaped")])
def test_weights_that_do_not_fit_are_an_error_never_random(tmp_path, change, word):
    source = tiny.clip(tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    if change == "drop":
        del tensors["visual_projection.weight"]
    if change == "add":
        tensors["stranger.weight"] = torch.zeros(2)
    if change == "reshape":
        tensors["visual_projection.weight"] = torch.zeros(3, 3)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=f"{word}|size mismatch|mismatched"):
        check.build_record(str(source), None, source)


def test_what_is_not_a_model_says_what_to_type(tmp_path):
    with pytest.raises(ValueError, match="is not a directory"):
        weights.locate("./nowhere", None, tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors"):
        weights.weight_files(tmp_path)


def test_a_record_stands_until_a_file_changes(tmp_path):
    source = tiny.clip(tmp_path / "model")
    record = check.build_record(str(source), None, source)
    path = tmp_path / "clip.json"
    assert clip.read_record(path, weights.weights_identity(str(source), None, source)) is None
    path.write_text(json.dumps(record))
    assert clip.read_record(path, weights.weights_identity(str(source), None, source)) == record
    assert clip.read_record(path, weights.weights_identity(str(source), "main", source)) is None
    settings = source / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.25", "0.5"))
    assert clip.read_record(path, weights.weights_identity(str(source), None, source)) is None
    path.write_text(path.read_text()[:40])
    assert clip.read_record(path, weights.weights_identity(str(source), None, source)) is None


def test_a_model_that_stands_is_not_loaded_again(tmp_path):
    """A second run reads the files and neither torch nor transformers, which take seconds to come."""
    source = tiny.clip(tmp_path / "model")
    text = house.PARAMS.format(name="bench", root="videos", clip=source, frames=2, shards=1, parser="shallow")
    (tmp_path / "params.yaml").write_text(text)
    code = "import runpy, sys; runpy.run_module('pipeline.clip', run_name='__main__'); print('torch' in sys.modules)"

    def run() -> tuple[str, bytes]:
        command = [sys.executable, "-c", code, "--dataset", "bench"]
        environment = os.environ | {"PYTHONPATH": str(house.ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return done.stdout, (tmp_path / "cache/bench/clip/clip.json").read_bytes()

    first, record = run()
    second, same = run()
    assert first.endswith("True\n") and second.endswith("False\n")
    assert first.splitlines()[0] == second.splitlines()[0] and record == same


def test_another_model_takes_the_place_of_a_scratch_one(tmp_path, monkeypatch):
    source = tiny.clip(tmp_path / "model")
    text = house.PARAMS.format(name="bench", root="videos", clip=source, frames=2, shards=1, parser="shallow")
    assert yaml.safe_load(text)["datasets"]["bench"]["clip"] == str(source)
    (tmp_path / "params.yaml").write_text(text)
    folder = tmp_path / "cache/bench/clip"
    tiny.clip(folder, seed=3)
    (folder / "clip.json").write_text(json.dumps(check.build_record("scratch", None, folder)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clip", "--dataset", "bench"])
    clip.main()
    assert sorted(path.name for path in folder.iterdir()) == ["clip.json", "tail.safetensors"]
    assert Path(json.loads((folder / "clip.json").read_text())["name"]) == source


def test_a_clip_that_is_computed_otherwise_is_refused(tmp_path, monkeypatch):
    source = tiny.clip(tmp_path / "model")
    monkeypatch.setattr("pipeline.encoders.transformer.QUICK_GELU", 1.6)
    with pytest.raises(ValueError, match="image tower's answer is .* off what transformers computes"):
        check.build_record(str(source), None, source)
    monkeypatch.undo()
    settings = json.loads((source / "config.json").read_text())
    settings["text_config"]["hidden_act"] = "relu"
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(
        ValueError, match="its text tower has the unsupported activation relu; supported: quick_gelu, gelu"
    ):
        check.build_record(str(source), None, source)
