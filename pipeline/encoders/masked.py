"""The masked language model whose vocabulary is the lexicon: found, pinned, its tokenizer, and its weights for a trainer.

`lexicon.json` names the model by checksums; `lexicon.safetensors` has its weights under the names of `train.layers.masked_lm`,
so that a trainer runs it without transformers; `vocabulary.json` has the word of every dimension.
"""

# Axes: L pieces of a caption, V words of the lexicon, W width.

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.encoders.weights import join_block, load_pretrained, weight_files, weights_identity
from pipeline.files import LexiconError

VERSION = "1"
RECORD, WEIGHTS, VOCABULARY = "lexicon.json", "lexicon.safetensors", "vocabulary.json"
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
PATTERNS = ("bert.embeddings", "bert.encoder", "cls.predictions")
BLOCK = {  # what `train.layers.masked_lm.MaskedBlock` calls the parts of a BERT's block
    "out": "attention.output.dense",
    "norm_attention": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm_mlp": "output.LayerNorm",
}
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value")


def write_lexicon(folder: Path, name: str, revision: str | None, source: Path) -> dict[str, Any]:
    """Write the three files into `folder` from the Hugging Face directory `source`; the record. What stands is kept.

    Errors: LexiconError where the directory holds no BertForMaskedLM, or one with parts that a trainer here does not have.
    """
    found = weights_identity(name, revision, source) | {"lexicon_version": VERSION}
    record = read_record(folder)
    if record is not None and all(record.get(key) == value for key, value in found.items()) and is_whole(folder):
        return record
    model, words = read_model(source), read_tokenizer(source)
    tensors, shape = own_tensors(model, source)
    table = words.convert_ids_to_tokens(range(shape["vocabulary"]))
    if len(words) > shape["vocabulary"] or words.mask_token_id is None:
        raise LexiconError(
            f"the tokenizer in {source} knows {len(words)} pieces, the model {shape['vocabulary']}, and its [MASK] is "
            f"{words.mask_token_id}: they are not of one model; copy the tokenizer from where the weights came from"
        )
    facts = {"sha256": found["sha256"], "shape": shape, "mask": words.mask_token_id, "special": special_ids(words)}
    write_weights(folder / WEIGHTS, tensors, facts)
    listed = [word if isinstance(word, str) else f"[{index}]" for index, word in enumerate(table)]
    files.write(folder / VOCABULARY, json.dumps(listed, ensure_ascii=False, indent=0) + "\n")
    record = found | shape | {"parameters": sum(tensor.numel() for tensor in tensors.values())}
    record |= {"checksums": {name: checksum(folder / name) for name in (WEIGHTS, VOCABULARY)}}
    files.write(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """What lexicon.json says; None where it is missing or no JSON."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def is_whole(folder: Path) -> bool:
    """Whether weights and vocabulary are as they were written."""
    written = (read_record(folder) or {}).get("checksums", {})
    return set(written) == {WEIGHTS, VOCABULARY} and all(
        (folder / name).is_file() and checksum(folder / name) == digest for name, digest in written.items()
    )


def checksum(path: Path) -> str:
    """blake2b of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_model(source: Path) -> Any:
    """The BertForMaskedLM of a directory; weights that are missing or mis-shaped are a LexiconError, never a random tensor."""
    import transformers
    from transformers import AutoConfig, BertForMaskedLM

    transformers.utils.logging.disable_progress_bar()
    first = weight_files(source)[0]
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        kind = config.model_type
        if kind != "bert":
            raise LexiconError(f"{source} is a model of kind {kind}; a lexicon is the vocabulary of a BertForMaskedLM")
        model, report = load_pretrained(BertForMaskedLM, source)
    except (OSError, KeyError, TypeError) as error:
        raise LexiconError(f"{source} cannot be read as a BertForMaskedLM ({error}); download it again") from None
    missing = sorted(str(key) for key in report["missing_keys"] if str(key).startswith(PATTERNS))
    shapes = sorted(str(key) for key in report["mismatched_keys"])
    for what, keys in (("misses", missing), ("has mis-shaped", shapes)):
        if keys:
            raise LexiconError(
                f"{first} {what} weights of a BertForMaskedLM: {', '.join(keys[:4])} ({len(keys)} in all)"
            )
    return model.eval()


def read_tokenizer(source: Path) -> Any:
    """The BERT tokenizer of a directory. Errors: LexiconError."""
    from transformers import BertTokenizerFast

    if not any((source / name).exists() for name in ("tokenizer.json", "vocab.txt")):
        raise LexiconError(
            f"{source} holds no BERT tokenizer (tokenizer.json or vocab.txt); copy it from where the weights came from"
        )
    try:
        return BertTokenizerFast.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LexiconError(f"the tokenizer in {source} cannot be read ({error}); download it again") from error


def special_ids(words: Any) -> list[int]:
    """Ids that stand for no word and are never hidden: padding, start, end, unknown, mask."""
    return sorted(set(words.all_special_ids))


def own_tensors(model: Any, source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A BertForMaskedLM's weights under the names of `train.layers.masked_lm.MaskedLM`, and its sizes."""
    config, state = model.config, model.state_dict()
    position = getattr(config, "position_embedding_type", "absolute")
    if config.hidden_act not in ACTIVATIONS or position not in ("absolute", None) or config.is_decoder:
        raise LexiconError(
            f"{source}: its activation is {config.hidden_act}, its positions are {position}; "
            f"supported: {', '.join(ACTIVATIONS)}, absolute positions, an encoder"
        )
    at, head = "bert.embeddings.", "cls.predictions."
    table = state[f"{at}word_embeddings.weight"]
    if not state[f"{head}decoder.weight"].equal(table):
        raise LexiconError(f"{source}: its output weights are not its word embeddings, as they are in a BERT")
    tensors = {
        "word": table,
        "position": state[f"{at}position_embeddings.weight"] + state[f"{at}token_type_embeddings.weight"][0],
        "bias": state[f"{head}bias"],
    }
    for kind in ("weight", "bias"):
        tensors[f"norm.{kind}"] = state[f"{at}LayerNorm.{kind}"]
        tensors[f"head.dense.{kind}"] = state[f"{head}transform.dense.{kind}"]
        tensors[f"head.norm.{kind}"] = state[f"{head}transform.LayerNorm.{kind}"]
    for number in range(config.num_hidden_layers):
        tensors |= join_block(state, f"bert.encoder.layer.{number}.", f"blocks.{number}.", BLOCK, ATTENTION)
    shape = {
        "vocabulary": len(table),
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "hidden": config.intermediate_size,
        "positions": config.max_position_embeddings,
        "epsilon": config.layer_norm_eps,
        "activation": config.hidden_act,
    }
    return tensors, shape


def write_weights(path: Path, tensors: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write lexicon.safetensors, float32, the same bytes for the same weights; its header says its sizes and ids."""
    from safetensors.torch import save

    kept = {name: tensor.detach().float().contiguous().clone() for name, tensor in sorted(tensors.items())}
    files.write(path, save(kept, {"facts": json.dumps(facts, sort_keys=True)}))


class PieceEncoder:
    """The lexicon's tokenizer as its stage uses it; `identity` is known without it."""

    def __init__(self, source: Path, record: dict[str, Any], words: int):
        self.source, self.words = source, min(words, record["positions"])
        self.record = record
        self.tokenizer: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a caption's pieces, and what the model says of them, depend on beside the caption."""
        known = {"lexicon": self.record["name"], "lexicon_sha256": self.record["sha256"]}
        return known | {"files_sha256": self.record["files_sha256"], "words": self.words, "version": VERSION}

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """For each text its piece ids (L,) int32, [CLS] to [SEP]."""
        if not texts:
            return []
        self.tokenizer = self.tokenizer or read_tokenizer(self.source)
        ids = self.tokenizer(texts, truncation=True, max_length=self.words)["input_ids"]
        return [np.array(row, np.int32) for row in ids]
