"""The frozen towers: pinned, whole, equal to CLIP's own outputs, and the same bytes whatever is encoded beside."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import clip
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "demo" / "clip"
    folder.mkdir(parents=True)
    (folder / "clip.json").write_text(json.dumps(clip.describe(str(model), None, model)))
    return folder


def pixels(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_frame_and_sentence_are_clips_own_embeddings(folder, model):
    towers = clip.Towers.load(folder)
    frame, patch = towers.images(pixels(3))
    assert frame.shape == (3, 24) and patch.shape == (3, 4, 24)
    reference = clip.read_model(model).eval()
    image = ((pixels(3).permute(0, 3, 1, 2) / 255) - 0.5) / 0.25
    with torch.inference_mode():
        expected = reference.get_image_features(pixel_values=image)
        ids = towers.tokenizer(["a red ball"], return_tensors="pt")
        sentence = reference.get_text_features(**ids)
    expected, sentence = (getattr(value, "pooler_output", value) for value in (expected, sentence))
    torch.testing.assert_close(frame, expected, atol=1e-5, rtol=1e-4)
    token, word = towers.texts(["a red ball"])[0]
    assert token.tolist() == ids["input_ids"][0].tolist()
    torch.testing.assert_close(word[-1], sentence[0], atol=1e-5, rtol=1e-4)


def test_a_text_gives_the_same_bytes_whatever_is_encoded_with_it(folder):
    towers = clip.Towers.load(folder)
    texts = ["a red ball", "a dog runs", "x", "a blue box", "first left, then right"]
    together = towers.texts(texts)
    for text, (token, word) in zip(texts, together):
        alone_token, alone_word = towers.texts([text])[0]
        assert np.array_equal(token, alone_token)
        assert torch.equal(word, alone_word)


def test_a_long_text_is_cut_and_keeps_its_end(folder):
    towers = clip.Towers.load(folder)
    token, word = towers.texts(["word " * 3000], words=32)[0]
    assert len(token) == len(word) == 32
    assert token[0] == towers.tokenizer.bos_token_id and token[-1] == towers.tokenizer.eos_token_id


def test_buckets_hold_one_length_each_and_lose_nothing():
    lengths = [3, 5, 3, 3, 5, 9]
    groups = clip.buckets(lengths, rows=2)
    assert sorted(index for group in groups for index in group) == [0, 1, 2, 3, 4, 5]
    assert all(len({lengths[index] for index in group}) == 1 and len(group) <= 2 for group in groups)


def test_other_weights_under_the_same_name_are_refused(folder, model, tmp_path):
    record = json.loads((folder / "clip.json").read_text())
    record["name"] = str(tiny.clip(tmp_path / "other", seed=5))
    (folder / "clip.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="sha256"):
        clip.Towers.load(folder)


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
        clip.describe(str(source), None, source)


def test_what_is_not_a_model_says_what_to_type(tmp_path):
    with pytest.raises(ValueError, match="is not a directory"):
        clip.locate("./nowhere", None, tmp_path)
    with pytest.raises(ValueError, match=r"model.safetensors"):
        clip.weights(tmp_path)
    with pytest.raises(ValueError, match="dvc repro clip@demo"):
        clip.Towers.load(tmp_path / "demo" / "clip")


def test_pixels_of_the_wrong_size_are_refused(folder):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 32, 32, 3\)"):
        clip.Towers.load(folder).images(pixels(1, side=31))
