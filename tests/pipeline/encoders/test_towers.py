"""The frozen towers: the pinned weights, CLIP's own outputs, and the same bytes whatever is encoded beside."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import files
from pipeline.encoders import check
from pipeline.encoders.towers import FrozenCLIP
from tests.support import tiny

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("hf") / "model")


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "demo" / "clip"
    folder.mkdir(parents=True)
    (folder / "clip.json").write_text(json.dumps(check.build_record(str(model), None, model)))
    return folder


def pixels(count: int, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_frame_and_sentence_are_clips_own_embeddings(folder, model):
    towers = FrozenCLIP.load(folder)
    frame, patch = towers.encode_images(pixels(3))
    assert frame.shape == (3, 24) and patch.shape == (3, 4, 24)
    reference = check.read_model(model).eval()
    image = ((pixels(3).permute(0, 3, 1, 2) / 255) - 0.5) / 0.25
    with torch.inference_mode():
        expected = reference.get_image_features(pixel_values=image)
        ids = towers.tokenizer(["a red ball"], return_tensors="pt")
        sentence = reference.get_text_features(**ids)
    expected, sentence = (getattr(value, "pooler_output", value) for value in (expected, sentence))
    torch.testing.assert_close(frame, expected, atol=1e-5, rtol=1e-4)
    token, word = towers.encode_texts(["a red ball"])[0]
    assert token.tolist() == ids["input_ids"][0].tolist()
    torch.testing.assert_close(word[-1], sentence[0], atol=1e-5, rtol=1e-4)


def test_a_text_gives_the_same_bytes_whatever_is_encoded_with_it(folder, threads):
    towers = FrozenCLIP.load(folder)
    texts = ["a red ball", "a dog runs", "x", "a blue box", "first left, then right", *some_texts(40)]
    together = towers.encode_texts(texts)
    for text, (token, word) in zip(texts, together):
        alone_token, alone_word = towers.encode_texts([text])[0]
        assert np.array_equal(token, alone_token)
        assert torch.equal(word, alone_word)


def test_a_long_text_is_cut_and_keeps_its_end(folder):
    towers = FrozenCLIP.load(folder)
    token, word = towers.encode_texts(["word " * 3000], words=32)[0]
    assert len(token) == len(word) == 32
    assert token[0] == towers.tokenizer.bos_token_id and token[-1] == towers.tokenizer.eos_token_id


def test_other_weights_under_the_same_name_are_refused(folder, model, tmp_path):
    record = json.loads((folder / "clip.json").read_text())
    record["name"] = str(tiny.clip(tmp_path / "other", seed=5))
    (folder / "clip.json").write_text(json.dumps(record))
    with pytest.raises(ValueError) as said:
        FrozenCLIP.load(folder)
    assert "sha256" in str(said.value) and files.everything_command(folder.parent.name) in str(said.value)


def test_a_clip_that_is_not_there_says_what_to_type(tmp_path):
    with pytest.raises(ValueError, match="dvc repro clip@demo"):
        FrozenCLIP.load(tmp_path / "demo" / "clip")


def test_pixels_of_the_wrong_size_are_refused(folder):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 32, 32, 3\)"):
        FrozenCLIP.load(folder).encode_images(pixels(1, side=31))


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> FrozenCLIP:
    """Towers as wide as real ones, so that products and their blocks are real ones too."""
    model = tiny.clip(tmp_path_factory.mktemp("wide") / "model", width=512, dimension=512)
    return FrozenCLIP(model, check.build_record(str(model), None, model), "cpu", "fp32")


def some_texts(count: int) -> list[str]:
    """Texts of 4 to 40 tokens, many of them with a common beginning."""
    random = np.random.default_rng(0)
    heads = ["a man is ", "a man in a red shirt ", "two dogs ", "", "a "]
    letters = list("abcdefghij ")
    return [f"{random.choice(heads)}{''.join(random.choice(letters, random.integers(1, 20)))}x" for _ in range(count)]


def test_order_and_company_change_no_byte_of_a_text(wide, threads):
    texts = some_texts(300)
    together = wide.encode_texts(texts)
    order = np.random.default_rng(1).permutation(300)
    for index, (_, word) in zip(order, wide.encode_texts([texts[index] for index in order])):
        assert torch.equal(word, together[index][1])
    for first in range(0, 300, 7):
        assert torch.equal(wide.encode_texts(texts[first : first + 1])[0][1], together[first][1])
    for (_, word), (_, other) in zip(wide.encode_texts(texts[100:163]), together[100:163]):
        assert torch.equal(word, other)


def test_a_tree_of_texts_says_what_clip_says_of_each(wide):
    texts, model = [*some_texts(20), "word " * 30], check.read_model(wide.source).eval()
    answers, lone = wide.encode_texts(texts), wide.encode_texts(texts, alone=True)
    for (token, word), (_, other) in zip(answers, lone):
        ids = torch.from_numpy(token)[None].long()
        with torch.inference_mode():
            expected = model.text_projection(model.text_model(input_ids=ids).last_hidden_state)[0]
        torch.testing.assert_close(word, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other, expected, atol=1e-4, rtol=1e-4)


def test_other_images_change_no_byte_of_an_image(wide, threads):
    shown = pixels(12)
    frame, patch = wide.encode_images(shown)
    other, around = wide.encode_images(torch.cat([pixels(6) // 2, shown[6:]]))
    assert torch.equal(frame[6:], other[6:]) and torch.equal(patch[6:], around[6:])
    assert not torch.equal(frame[:6], other[:6])


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_either_activation_is_clips_own(tmp_path, act):
    """OpenAI's towers have quick_gelu, others gelu; the first is folded into the weights around it."""
    source = tiny.clip(tmp_path / "model")
    settings = json.loads((source / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        settings[part]["hidden_act"] = act
    (source / "config.json").write_text(json.dumps(settings))
    reference = check.read_model(source).eval()
    towers = FrozenCLIP(source, check.build_record(str(source), None, source), "cpu", "fp32")
    token, word = towers.encode_texts(["a red ball"])[0]
    with torch.inference_mode():
        hidden = reference.text_model(input_ids=torch.from_numpy(token)[None].long()).last_hidden_state
        expected = reference.text_projection(hidden)[0]
    torch.testing.assert_close(word, expected, atol=1e-5, rtol=1e-4)


def test_half_precision_is_near(folder):
    fine = FrozenCLIP.load(folder, precision="fp32").encode_texts(["a red ball"])[0][1]
    coarse = FrozenCLIP.load(folder, precision="bf16").encode_texts(["a red ball"])[0][1]
    torch.testing.assert_close(coarse, fine, atol=0.1, rtol=0.1)


def test_no_text_is_no_answer(folder):
    assert FrozenCLIP.load(folder).encode_texts([]) == []


def test_weights_in_a_bin_file_are_the_same(tmp_path):
    source = tiny.clip(tmp_path / "model")
    first = FrozenCLIP(source, check.build_record(str(source), None, source), "cpu", "fp32")
    expected = first.encode_texts(["a red ball"])[0][1], first.encode_images(pixels(2))[1]
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    towers = FrozenCLIP(source, check.build_record(str(source), None, source), "cpu", "fp32")
    assert torch.equal(towers.encode_texts(["a red ball"])[0][1], expected[0])
    assert torch.equal(towers.encode_images(pixels(2))[1], expected[1])


def test_frames_are_encoded_without_transformers(folder):
    """Importing CLIPModel takes two seconds of every start."""
    code = (
        "import sys, torch; from pathlib import Path; from pipeline.encoders.towers import FrozenCLIP\n"
        f"towers = FrozenCLIP.load(Path({str(folder)!r})); towers.encode_images(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))\n"
        "assert not [name for name in sys.modules if name.startswith('transformers')]\n"
        "towers.encode_texts(['a red ball'])\n"
        "assert 'transformers.models.clip.modeling_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
