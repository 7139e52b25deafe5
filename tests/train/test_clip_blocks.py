"""CLIP's blocks in a trainer's hands give what the frozen tower gives, from any block on."""

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from pipeline.encoders import check
from pipeline.encoders.tail import write_tail
from pipeline.encoders.towers import FrozenCLIP
from tests.support import tiny
from train.layers.clip_blocks import TextTower, Tower, read_header


@pytest.fixture(scope="module", params=["tiny", "ViT-B/32"])
def clip(request, tmp_path_factory):
    """A frozen CLIP of random weights and its tail.safetensors; the larger one has the shape of OpenAI's ViT-B/32."""
    source = tiny.clip(tmp_path_factory.mktemp("hf") / "model")
    if request.param != "tiny":
        torch.manual_seed(1)
        tokens = json.loads((source / "config.json").read_text())["text_config"]
        text = {name: tokens[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
        CLIPModel(CLIPConfig(text_config=text, projection_dim=512)).save_pretrained(source)
    folder = tmp_path_factory.mktemp("cache") / "demo" / "clip"
    folder.mkdir(parents=True)
    record = check.build_record(str(source), None, source)
    (folder / "clip.json").write_text(json.dumps(record))
    return FrozenCLIP.load(folder), write_tail(folder, source, record, {"image": 1, "text": 1})


@torch.no_grad()
@pytest.mark.parametrize("last", [1, 2])
def test_blocks_from_any_on_give_the_towers_tokens(clip, last):
    frozen, path = clip
    pixels = torch.randint(0, 256, (2, frozen.size, frozen.size, 3), dtype=torch.uint8)
    shape = read_header(path)["image"]
    first = shape.layers - last
    token, hidden = frozen.encode_image_tokens(pixels, first)
    tower = Tower(shape, first, 1, causal=False)
    tower.read(path, "image")
    torch.testing.assert_close(tower(hidden), token, atol=2e-5, rtol=1e-4)
    # what is cached is float16: the bound on unit tokens that a run with no step differs by
    unit = torch.nn.functional.normalize
    assert (unit(tower(hidden.half().float()), dim=-1) - unit(token, dim=-1)).abs().max() < 2e-3


@torch.no_grad()
@pytest.mark.parametrize("owned", [1, 2])
def test_the_text_tower_gives_the_frozen_ones_tokens(clip, owned):
    """Padded to the longest, in one batch, as a trainer runs it."""
    frozen, path = clip
    texts = ["a dog", "a red ball rolls to the left of a dog", "two dogs run"]
    tower = TextTower(read_header(path)["text"], owned)
    tower.read(path)
    found = frozen.encode_texts(texts)
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(token) for token, _ in found], batch_first=True)
    for token, (_, expected) in zip(tower(ids), found):
        torch.testing.assert_close(token[: len(expected)], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [None, torch.tensor([[True, True, True], [True, True, False]])])
def test_one_token_of_each_is_what_the_whole_tower_makes_of_it(clip, frames):
    """Its gradients too, also where tokens shift between frames."""
    torch.manual_seed(0)
    header = read_header(clip[1])
    image, text = Tower(header["image"], 1, 1, causal=False), TextTower(header["text"], 2)
    for kind, tower in {"image": image, "text": text}.items():
        tower.read(clip[1], kind)
    image.shifted = 0 if frames is None else 1
    hidden = torch.randn(6, header["image"].tokens, header["image"].width)
    ids = torch.randint(0, header["text"].vocabulary, (6, 5))
    for tower, given, where in [
        (image, (hidden, frames), torch.zeros(6, dtype=torch.long)),
        (text, (ids,), torch.tensor([4, 0, 2, 3, 1, 4])),
    ]:
        found = []
        for token in (tower(*given)[torch.arange(6), where], tower(*given, place=where)[:, 0]):
            tower.zero_grad()
            token.square().sum().backward()
            found.append([token, *(value.grad for value in tower.parameters() if value.grad is not None)])
        assert len(found[0]) == len(found[1])
        for whole, alone in zip(*found):
            torch.testing.assert_close(alone, whole, atol=1e-4 * whole.abs().max().item(), rtol=1e-4)


def test_only_owned_blocks_get_a_gradient(clip):
    _, path = clip
    shape = read_header(path)["image"]
    tower = Tower(shape, shape.layers - 2, 1, causal=False)
    tower(torch.randn(1, shape.tokens, shape.width)).sum().backward()
    learned = {name.split(".")[0] for name, parameter in tower.named_parameters() if parameter.grad is not None}
    assert learned == {"blocks", "norm", "projection"}


def test_more_blocks_than_the_cache_allows_are_refused(clip):
    shape = read_header(clip[1])["image"]
    with pytest.raises(ValueError, match="own 1 to 1 blocks, not 2"):
        Tower(shape, shape.layers - 1, 2, causal=False)


def test_the_same_weights_make_the_same_file(clip, tmp_path):
    frozen, path = clip
    assert write_tail(tmp_path, frozen.source, frozen.record, {"image": 1, "text": 1}).read_bytes() == path.read_bytes()


def test_a_missing_file_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run: dvc repro clip@demo"):
        read_header(tmp_path / "demo" / "clip" / "tail.safetensors")
