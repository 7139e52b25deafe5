"""Find, hash and read the weights and the tokenizer of a Hugging Face CLIP."""

import hashlib
from pathlib import Path
from typing import Any

VERSION = "3"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is the one that counts
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where preprocessor_config.json is silent
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def locate(name: str, revision: str | None, folder: Path) -> Path:
    """The Hugging Face directory of a model: `folder` itself for `scratch`, a local directory, or a hub snapshot."""
    if name == "scratch":
        return folder
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~")):
        raise ValueError(f"clip: {name} is not a directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        source = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt", WEIGHTS[0]]))
        if not (source / WEIGHTS[0]).exists():
            source = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt", WEIGHTS[1]]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ValueError(
            f"clip: {name} is neither a local directory nor to be had from the Hugging Face hub ({type(error).__name__}); "
            "set `clip` in params.yaml to a directory with config.json, model.safetensors and the tokenizer, or to `scratch`"
        ) from error
    return source


def weight_files(source: Path) -> Path:
    """The weight file of a Hugging Face directory."""
    for name in WEIGHTS:
        if (source / name).exists():
            return source / name
    raise ValueError(f"{source} holds neither {' nor '.join(WEIGHTS)}; save the model with save_pretrained(…)")


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(source: Path, *prefixes: str) -> dict[str, Any]:
    """Float32 tensors of a directory whose names begin so."""
    import torch
    from safetensors import safe_open

    path = weight_files(source)
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118
    else:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: tensor for name, tensor in whole.items() if name.startswith(prefixes)}
    return {name: tensor.float() for name, tensor in found.items()}


def read_tokenizer(source: Path) -> Any:
    """The CLIP tokenizer of a directory."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} holds no CLIP tokenizer (vocab.json and merges.txt, or tokenizer.json): {error}"
        ) from error


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
        "sha256": checksum(weight_files(source)),
        "files_sha256": beside.hexdigest(),
    }
