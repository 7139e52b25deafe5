"""The lexicon stage: a real BertForMaskedLM on disk, rows kept by fingerprint, the same bytes as a clean run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertTokenizerFast

from pipeline import files, keys, params, shards
from pipeline.datasets.demo import world
from pipeline.lexicon import main, update_lexicon
from pipeline.scratch import sentences
from pipeline.shards.__main__ import info
from pipeline.shards.diff import diff
from pipeline.shards.verify import check_lexicon
from tests.support import worlds

CAPTIONS = [
    {"caption_id": f"video{index}#000", "video_id": f"video{index}", "text": text}
    for index, text in enumerate(["a red ball rolls", "a ball", "a dog chases a red ball", "word " * 3000, "a ball"])
]
TINY = sentences.Recipe(width=16, heads=2, layers=2, vocabulary=200, positions=24, steps=3, batch=4, threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    said = ["a red ball rolls", "a dog chases a red ball", "the small dog sits beside a ball"] * 4
    sentences.learn(said, TINY, folder)
    return folder


@pytest.fixture
def config(model):
    return {"name": "demo", "lexicon": str(model), "lexicon_revision": None, "words": 32, "shards": 3}


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def pieces(folder: Path) -> dict[str, list[int]]:
    found = {}
    for path in shards.shard_paths(folder):
        shard = shards.read(path, "lexicon")
        for row, name in enumerate(shard["caption_id"]):
            found[name] = shard["piece"][slice(*shard["piece_offset"][row : row + 2])].tolist()
    return found


def test_a_captions_pieces_are_those_of_the_models_own_tokenizer(model, config, tmp_path):
    update_lexicon(tmp_path / "lexicon", CAPTIONS, config)
    found, own = pieces(tmp_path / "lexicon"), BertTokenizerFast.from_pretrained(model)
    assert found == {
        row["caption_id"]: own(row["text"], truncation=True, max_length=24)["input_ids"] for row in CAPTIONS
    }
    assert len(found["video3#000"]) == 24  # as many as the model has positions, fewer than `words`
    words = json.loads((tmp_path / "lexicon" / "vocabulary.json").read_text())
    assert [words[piece] for piece in found["video0#000"]] == ["[CLS]", "a", "red", "ball", "rolls", "[SEP]"]


def test_a_second_run_writes_nothing_and_a_new_caption_costs_its_own_row(config, tmp_path):
    folder = tmp_path / "lexicon"
    assert "5 captions = 0 kept + 5 cut; 3 of 3 shards written" in update_lexicon(folder, CAPTIONS[:5], config)
    before = digest(folder)
    assert "5 captions = 5 kept + 0 cut; 0 of 3 shards written" in update_lexicon(folder, CAPTIONS, config)
    assert digest(folder) == before
    more = [*CAPTIONS, {"caption_id": "video9#000", "video_id": "video9", "text": "a dog sits"}]
    assert "6 captions = 5 kept + 1 cut; 1 of 3 shards written" in update_lexicon(folder, more, config)
    clean = tmp_path / "clean" / "lexicon"
    update_lexicon(clean, more, config)
    assert digest(folder) == digest(clean)


def test_a_killed_training_is_no_obstacle(tmp_path):
    folder = tmp_path / "cache" / "demo" / "lexicon"
    (folder / "model.part").mkdir(parents=True)
    (folder / "00000.h5.part").write_text("half")
    shards.remove_parts(folder)
    assert [path.name for path in folder.iterdir()] == ["model.part"]


def test_another_model_makes_every_row_anew(config, model, tmp_path):
    folder = tmp_path / "lexicon"
    update_lexicon(folder, CAPTIONS, config)
    other = tmp_path / "other"
    BertForMaskedLM.from_pretrained(model).save_pretrained(other)
    BertTokenizerFast.from_pretrained(model).save_pretrained(other)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    said = update_lexicon(folder, CAPTIONS, config | {"lexicon": str(other)})
    assert "5 captions = 0 kept + 5 cut" in said


def test_a_model_of_another_kind_or_without_its_head_is_refused(config, model, tmp_path):
    other = tmp_path / "other"
    BertForMaskedLM.from_pretrained(model).save_pretrained(other)
    with pytest.raises(files.LexiconError, match="holds no BERT tokenizer"):
        update_lexicon(tmp_path / "lexicon", CAPTIONS, config | {"lexicon": str(other)})
    BertTokenizerFast.from_pretrained(model).save_pretrained(other)
    whole = load_file(other / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in whole.items() if "transform.dense" not in name},
        other / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(
        files.LexiconError, match="misses weights of a BertForMaskedLM: cls.predictions.transform.dense"
    ):
        update_lexicon(tmp_path / "lexicon", CAPTIONS, config | {"lexicon": str(other)})
    about = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(about | {"model_type": "roberta"}))
    with pytest.raises(files.LexiconError, match="of kind roberta"):
        update_lexicon(tmp_path / "lexicon", CAPTIONS, config | {"lexicon": str(other)})
    with pytest.raises(files.CLIPError, match="lexicon: ./nowhere is not a directory"):
        update_lexicon(tmp_path / "lexicon", CAPTIONS, config | {"lexicon": "./nowhere"})


def test_old_checkpoints_with_gamma_and_beta_load_whole(config, model, tmp_path):
    """bert-base-uncased itself names its norms so."""
    other = tmp_path / "other"
    BertForMaskedLM.from_pretrained(model).save_pretrained(other)
    BertTokenizerFast.from_pretrained(model).save_pretrained(other)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(other / "model.safetensors").items()
    }
    save_file(old, other / "model.safetensors", {"format": "pt"})
    update_lexicon(tmp_path / "new" / "lexicon", CAPTIONS, config)
    update_lexicon(tmp_path / "old" / "lexicon", CAPTIONS, config | {"lexicon": str(other)})
    one, two = (load_file(tmp_path / age / "lexicon" / "lexicon.safetensors") for age in ("new", "old"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_verify_diff_and_info_know_the_lexicon(config, tmp_path):
    cache = worlds.cache(tmp_path / "demo")
    captions = files.read_table(cache / "manifest" / "captions.parquet").to_pylist()
    update_lexicon(cache / "lexicon", captions, config)
    opened = [shard for shard in shards.open_cache(cache) if shard.kind == "lexicon"]
    assert len(opened) == 3 and check_lexicon(cache, opened) == []
    assert any(line.startswith("lexicon: 48 rows in 3 files") for line in info(cache))
    said = diff(cache, cache)
    first = next(number for number, line in enumerate(said) if line.startswith("lexicon"))
    assert said[first : first + 2] == [
        f"lexicon: 48 rows in both, 0 only in {cache}, 0 only in {cache}",
        "  piece: 0 of 48 rows differ",
    ]
    weights = cache / "lexicon" / "lexicon.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (found,) = check_lexicon(cache, opened)
    assert found.stage == "lexicon" and "lexicon.safetensors is not as it was written" in found.what
    update_lexicon(cache / "lexicon", captions, config)
    assert check_lexicon(cache, opened) == []


def test_it_does_nothing_where_no_listed_method_reads_it(monkeypatch, tmp_path, capsys):
    root = Path(params.__file__).parents[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    monkeypatch.setattr("sys.argv", ["lexicon", "--dataset", "demo", "--if-needed"])
    main()
    assert capsys.readouterr().out == "lexicon: no listed method reads it\n"
    (left,) = (tmp_path / "cache" / "demo" / "lexicon").iterdir()
    assert left.read_text() == "lexicon: no listed method reads it\n", "DVC warns of an empty folder, again and again"


def test_which_method_reads_what_is_known_from_its_file():
    assert keys.needed("unitrim", "triplet") and not keys.needed("zero_shot", "triplet")
    assert keys.needed("unify", "piece") and not keys.needed("unitrim", "piece")


def test_the_scratch_model_knows_what_a_hidden_word_can_be(tmp_path):
    """Some steps on the demo's sentences: before a thing it expects a size or a colour."""
    said = sentences.demo_sentences(0, scripts=600, stills=300)
    recipe = sentences.Recipe(width=64, heads=2, layers=1, steps=90, batch=32, rate=5e-3, threads=1)
    sentences.learn(said, recipe, tmp_path)
    model, words = BertForMaskedLM.from_pretrained(tmp_path).eval(), BertTokenizerFast.from_pretrained(tmp_path)
    ids = words("a [MASK] ball appears at the left", return_tensors="pt")
    hidden = (ids["input_ids"][0] == words.mask_token_id).nonzero()[0, 0]
    best = words.convert_ids_to_tokens(model(**ids).logits[0, hidden].topk(3).indices.tolist())
    sizes_and_colours = {"huge", "large", "small", "tiny", "big", "little", *world.COLOURS}
    assert best[0] in sizes_and_colours, best
    ids = words(said[:64], return_tensors="pt", padding=True)
    spread = model(**ids).logits[ids["attention_mask"].bool()].logsumexp(1)
    assert abs(spread.mean().item() + np.log(recipe.present)) < 0.3, "a logit of 0 stands for that probability"
    again = sentences.demo_sentences(0, scripts=600, stills=300)
    assert again == said and np.mean([len(text.split()) for text in said]) > 5


def test_of_the_pieces_asked_for_half_are_hidden_and_no_special_one_is_asked_for(model):
    words = BertTokenizerFast.from_pretrained(model)
    token = torch.full((200, 50), words.vocab["a"])
    token[:, 0], token[:, -1] = words.cls_token_id, words.sep_token_id
    mask = torch.ones_like(token)
    mask[:, 40:] = 0
    torch.manual_seed(0)
    shown, truth = sentences.hide(token, mask, words, sentences.Recipe())
    asked = truth != -100
    assert not asked[:, 0].any() and not asked[:, 40:].any()
    assert asked[:, 1:40].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(truth[asked], token[asked]) and torch.equal(shown[~asked], token[~asked])
    assert (shown[asked] == words.mask_token_id).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (shown[asked] == token[asked]).float().mean().item() == pytest.approx(0.4, abs=0.03)
