"""Find, hash and read the weights and the tokenizer of a Hugging Face CLIP; nothing that it brings is ever run."""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from pipeline.files import CLIPError

VERSION = "4"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")  # the first that is there counts
PARTS = "model-*-of-*.safetensors"  # what an index speaks of
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
POINTER = b"version https://git-lfs"
HEADER = 100 << 20  # bytes; safetensors itself reads no longer one
PADDING = 128  # rows that a text tower may have beyond its words, for the sake of round numbers
KNOWN = "a photo of two dogs on green grass"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where preprocessor_config.json is silent
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def locate(name: str, revision: str | None, folder: Path, key: str = "clip") -> Path:
    """The Hugging Face directory of a model: `folder` itself for `scratch`, a local directory, or a hub snapshot.

    key: of params.yaml, which an error names.
    """
    if name == "scratch":
        return folder
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~")):
        raise CLIPError(f"{key}: {name} is not a directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for weights in (WEIGHTS[0], PARTS, WEIGHTS[2]):
            source = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt", weights]))
            if any(source.glob(weights)):
                break
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CLIPError(
            f"{key}: {name} is neither a local directory nor to be had from the Hugging Face hub ({type(error).__name__}); "
            f"set `{key}` in params.yaml to a directory with config.json, model.safetensors and the tokenizer, or to `scratch`"
        ) from error
    return source


def weight_files(source: Path) -> list[Path]:
    """The weight files of a Hugging Face directory, each looked at: they are there, whole, and no pointers to themselves."""
    found = next((source / name for name in WEIGHTS if (source / name).exists()), None)
    if found is None:
        some = ", ".join(sorted(path.name for path in source.glob("*.bin*"))) if source.is_dir() else ""
        raise CLIPError(
            f"{source} holds neither {', '.join(WEIGHTS[:-1])} nor {WEIGHTS[-1]}{f' (but {some})' if some else ''}; "
            "save the model with save_pretrained(…)"
        )
    files = [source / name for name in index_names(found)] if found.suffix == ".json" else [found]
    for path in files:
        check_weight_file(path)
    return files


def index_names(index: Path) -> list[str]:
    """The files that a sharded model's index names, which lie beside it and nowhere else."""
    refuse_pointer(index)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CLIPError(f"{index} is no index of weights; download it again") from None
    beside = [isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") for name in names]
    if not names or not all(beside):
        wrong = "no file of weights" if not names else f"{names[beside.index(False)]!r}"
        raise CLIPError(f"{index} names {wrong}; what it names must be files of safetensors that lie beside it")
    absent = [name for name in names if not (index.parent / name).exists()]
    if absent:
        raise CLIPError(
            f"{index} names {len(names)} files of weights, and {', '.join(absent[:3])} is not there; download the model again"
        )
    return names


def refuse_pointer(path: Path) -> None:
    """CLIPError for what `git clone` leaves in a file's place where git-lfs is not installed."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CLIPError(
                f"{path} is a Git LFS pointer, not the weights themselves; type: git -C {path.parent} lfs pull"
            )


def check_weight_file(path: Path) -> None:
    """CLIPError unless a file of weights has as many bytes as it says of itself."""
    refuse_pointer(path)
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        if not size or (zipped and not zipfile.is_zipfile(path)):
            raise CLIPError(f"{path} ({size} bytes) is cut off; download it again")
        return
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER:
                raise ValueError("it begins with no header of safetensors")
            entries = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CLIPError(f"{path} ({size} bytes) is cut off or damaged ({error}); download it again") from None
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise CLIPError(f"{path} has {size} bytes, and its header says {whole}; it was cut off: download it again")


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_checksum(source: Path) -> str:
    """sha256 of a directory's weights: of the one file, or of the names and checksums of several."""
    files = weight_files(source)
    if len(files) == 1:
        return checksum(files[0])
    return hashlib.sha256("".join(f"{path.name} {checksum(path)}\n" for path in files).encode()).hexdigest()


def read_weights(source: Path, *prefixes: str) -> dict[str, Any]:
    """Float32 tensors of a directory whose names begin so."""
    import torch
    from safetensors import safe_open

    found = {}
    for path in weight_files(source):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
        else:
            try:
                whole = torch.load(path, map_location="cpu", weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                raise refused_pickle(path, error) from None
            found |= {name: tensor for name, tensor in whole.items() if name.startswith(prefixes)}
    return {name: tensor.float() for name, tensor in found.items()}


def join_block(
    tensors: dict[str, Any], at: str, to: str, names: dict[str, str], attention: tuple[str, str, str]
) -> dict[str, Any]:
    """The weights and biases of the transformer block `at`, under `to` and the names of a trainer's block.

    names: the trainer's names, and those there; attention: the names of query, key and value there, which become one, `qkv`.
    """
    import torch

    kept = {}
    for kind in ("weight", "bias"):
        kept |= {f"{to}{own}.{kind}": tensors[f"{at}{theirs}.{kind}"] for own, theirs in names.items()}
        kept[f"{to}qkv.{kind}"] = torch.cat([tensors[f"{at}{part}.{kind}"] for part in attention])
    return kept


def refused_pickle(path: Path, error: Exception) -> CLIPError:
    """What to say of a file of torch.save that is damaged, or holds more than tensors."""
    if isinstance(error, pickle.UnpicklingError):
        why = "holds more than tensors, which is never run"
    else:
        why = f"is damaged ({str(error).splitlines()[0]})"
    return CLIPError(f"{path} {why}; save the model with save_pretrained(…), which writes model.safetensors")


def load_pretrained(kind: Any, source: Path) -> tuple[Any, dict[str, Any]]:
    """A transformers model of a class from a directory, float32, and what transformers reports of its weights; no code is run."""
    first = weight_files(source)[0]
    try:
        return kind.from_pretrained(
            source,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=first.suffix == ".safetensors",
            dtype="float32",
        )
    except pickle.UnpicklingError as error:
        raise refused_pickle(first, error) from None


def read_tokenizer(source: Path) -> Any:
    """The CLIP tokenizer of a directory; transformers would make an empty one where its files are missing."""
    from transformers import CLIPTokenizer

    if not any(all((source / name).exists() for name in names) for names in TOKENIZERS):
        raise CLIPError(
            f"{source} holds no CLIP tokenizer (tokenizer.json, or vocab.json and merges.txt); copy it from where the "
            "weights came from"
        )
    for path in (source / name for names in TOKENIZERS for name in names):
        if path.exists():
            refuse_pointer(path)
    try:
        return CLIPTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CLIPError(f"the tokenizer in {source} cannot be read ({error}); download it again") from error


def check_tokenizer(source: Path, tokenizer: Any, rows: int) -> None:
    """CLIPError unless the tokenizer fits a text tower of `rows` words and tells the words of a sentence apart."""
    table = tokenizer.get_vocab()
    last = max(table.values(), default=-1)
    if not rows - PADDING < last + 1 <= rows:
        raise CLIPError(
            f"the tokenizer in {source} knows {last + 1} tokens, and the text tower {rows}: they are not of one model; "
            "copy the tokenizer from where the weights came from"
        )
    words = KNOWN.split()
    spelt = [tuple(ids[1:-1]) for ids in tokenizer(words)["input_ids"]]
    special = set(tokenizer.all_special_ids)
    if len(set(spelt)) < len(words) or any(not ids or special & set(ids) for ids in spelt):
        raise CLIPError(
            f"the tokenizer in {source} does not tell the words of “{KNOWN}” apart; copy it from where the weights came from"
        )


def weights_identity(name: str, revision: str | None, source: Path) -> dict[str, Any]:
    """What a record stands or falls with: the name, and checksums of the weights and of the files beside them."""
    beside = hashlib.sha256()
    for path in sorted([*source.glob("*.json"), *source.glob("*.txt")]):
        if path.name not in ("clip.json", "scratch.json"):
            beside.update(f"{path.name} {checksum(path)}\n".encode())
    local = name != "scratch" and Path(name).expanduser().is_dir()
    return {
        "version": VERSION,
        "name": str(Path(name).expanduser().resolve()) if local else name,
        "revision": revision,
        "sha256": weights_checksum(source),
        "files_sha256": beside.hexdigest(),
    }
