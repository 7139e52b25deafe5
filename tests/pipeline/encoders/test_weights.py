"""A CLIP's directory as it comes from strangers and from downloads that broke off: loaded whole, or refused in a sentence."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

from pipeline.encoders import check, weights
from pipeline.encoders.towers import FrozenCLIP
from tests.support import tiny


@pytest.fixture
def source(tmp_path):
    return tiny.clip(tmp_path / "model")


def load(source: Path) -> FrozenCLIP:
    return FrozenCLIP(source, check.build_record(str(source), None, source), "cpu", "fp32")


def shard(source: Path) -> list[Path]:
    """Save a model's weights again as transformers does where they are large: in several files and an index."""
    CLIPModel.from_pretrained(source).save_pretrained(source, max_shard_size="40KB")
    (source / "model.safetensors").unlink(missing_ok=True)
    return sorted(source.glob("model-*.safetensors"))


def refusal(source: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load(source)
    return str(caught.value)


class Trap:
    """A pickle that leaves a file behind when it is run."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_directory_without_its_tokenizer_is_refused(source):
    (source / "tokenizer.json").unlink()
    assert "holds no CLIP tokenizer" in refusal(source)
    with pytest.raises(ValueError, match="copy it from where the weights came from"):
        weights.read_tokenizer(source)


@pytest.mark.parametrize("tokens", [3, 300, 515, 49408])
def test_a_tokenizer_of_another_model_is_refused(source, tokens):
    table = {f"word{index}": index for index in range(tokens - 2)} | {"<|startoftext|>": tokens - 2}
    CLIPTokenizer(vocab=table | {"<|endoftext|>": tokens - 1}, merges=[]).save_pretrained(source)
    assert f"knows {tokens} tokens, and the text tower 514" in refusal(source)


def test_a_tokenizer_that_knows_no_word_is_refused(source):
    table = {f"<{index}>": index for index in range(512)} | {"<|startoftext|>": 512, "<|endoftext|>": 513}
    CLIPTokenizer(vocab=table, merges=[]).save_pretrained(source)
    assert "does not tell the words of “a photo of two dogs on green grass” apart" in refusal(source)


def test_the_words_of_a_known_sentence_have_ids_of_their_own(source):
    ids = load(source).tokenize(weights.KNOWN.split(), 77)
    assert len({tuple(one) for one in ids}) == len(ids) == 8


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(source, name):
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 605143884\n")
    assert f"{source / name} is a Git LFS pointer" in refusal(source) and f"git -C {source} lfs pull" in refusal(source)


@pytest.mark.parametrize("keep", [0, 5, 600, 0.5, -1])
def test_half_a_file_says_so(source, keep):
    path = source / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert "cut off" in refusal(source) and "download it again" in refusal(source)


@pytest.mark.parametrize("header", [b"\xff" * 8, (1 << 40).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"[]"])
def test_a_header_of_absurd_size_is_not_believed(source, header):
    (source / "model.safetensors").write_bytes(header + b"\0" * 100)
    assert "cut off or damaged" in refusal(source)


def test_sharded_weights_give_the_same_answers(source):
    one = load(source).encode_texts(["a red ball"])[0][1]
    record = check.build_record(str(source), None, source)
    assert len(shard(source)) > 1
    assert torch.equal(load(source).encode_texts(["a red ball"])[0][1], one)
    assert weights.weights_identity(str(source), None, source)["sha256"] != record["sha256"]


def test_every_shard_of_the_weights_counts(source):
    parts = shard(source)
    before = weights.weights_checksum(source)
    tensors = load_file(parts[1])
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, parts[1], metadata={"format": "pt"})
    assert weights.weights_checksum(source) != before
    parts[1].unlink()
    assert f"{parts[1].name} is not there" in refusal(source)


@pytest.mark.parametrize("name", ["../model/model.safetensors", "/etc/passwd", "..", "setup.py", 7])
def test_an_index_names_files_beside_it_only(source, name):
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": name}}))
    assert "that lie beside it" in refusal(source)


def test_an_index_that_is_none_is_named(source):
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text("[]")
    assert "is no index of weights" in refusal(source)


def test_weights_of_torch_are_read_and_code_in_them_is_not_run(source, tmp_path):
    expected = load(source).encode_texts(["a red ball"])[0][1]
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    assert torch.equal(load(source).encode_texts(["a red ball"])[0][1], expected)
    witness = tmp_path / "run"
    torch.save(tensors | {"logit_scale": Trap(witness)}, source / "pytorch_model.bin")
    assert "holds more than tensors, which is never run" in refusal(source)
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(witness)))
    assert "which is never run" in refusal(source)
    assert not witness.exists()


def test_half_a_file_of_torch_says_so(source):
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    whole = (source / "pytorch_model.bin").read_bytes()
    (source / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "is cut off; download it again" in refusal(source)


def test_code_in_a_directory_is_not_run(source, tmp_path):
    """What a repository that wants `trust_remote_code` brings: classes of its own, named in its settings."""
    expected = load(source).encode_texts(["a red ball"])[0][1]
    witness = tmp_path / "run"
    (source / "stranger.py").write_text(f"import os\nos.mkdir({str(witness)!r})\n\nclass Model:\n    pass\n")
    for name, auto in (
        ("config.json", {"AutoModel": "stranger.Model", "AutoConfig": "stranger.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["stranger.Model", "stranger.Model"]}),
    ):
        settings = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(settings | {"auto_map": auto, "trust_remote_code": True}))
    assert torch.equal(load(source).encode_texts(["a red ball"])[0][1], expected)
    assert not witness.exists()
