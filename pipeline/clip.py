"""Stage: which CLIP, pinned by the sha256 of its weights.

`cache/<dataset>/clip/clip.json` names the model; a `scratch` model lies beside it in the Hugging Face format, a hub name or a
local directory stays where it is. Whoever loads the towers checks the checksum, so no tensor ever comes from other weights.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import stage

VERSION = "3"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is the one that counts
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where preprocessor_config.json is silent
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
NEAR = 1e-3  # share by which a tower's answer may differ from transformers'


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


def weights(source: Path) -> Path:
    """The weight file of a Hugging Face directory."""
    for name in WEIGHTS:
        if (source / name).exists():
            return source / name
    raise ValueError(f"{source} holds neither {' nor '.join(WEIGHTS)}; save the model with save_pretrained(…)")


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_model(source: Path) -> Any:
    """The CLIPModel of a directory; missing, surplus or mis-shaped weights are a ValueError, never a random tensor."""
    import transformers
    from transformers import CLIPModel

    transformers.utils.logging.disable_progress_bar()
    model, report = CLIPModel.from_pretrained(source, output_loading_info=True, local_files_only=True, dtype="float32")
    buffers = "position_ids"  # older checkpoints carry this constant
    missing = sorted(report["missing_keys"])
    surplus = sorted(key for key in report["unexpected_keys"] if not key.endswith(buffers))
    shapes = sorted(str(key) for key in report["mismatched_keys"])
    for what, keys in (("misses", missing), ("has surplus", surplus), ("has mis-shaped", shapes)):
        if keys:
            raise ValueError(
                f"{weights(source)} {what} weights of a CLIPModel: {', '.join(keys[:4])} ({len(keys)} in all)"
            )
    return model


def read_weights(source: Path, *prefixes: str) -> dict[str, Any]:
    """Float32 tensors of a directory whose names begin so."""
    import torch
    from safetensors import safe_open

    path = weights(source)
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


def describe(name: str, revision: str | None, source: Path) -> dict[str, Any]:
    """What clip.json says of a model that loads whole and whose towers, as this project computes them, are transformers'."""
    model = read_model(source)
    vision, text = model.config.vision_config, model.config.text_config
    preprocess = source / "preprocessor_config.json"
    settings = json.loads(preprocess.read_text()) if preprocess.exists() else {}
    record = identity(name, revision, source) | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "patches": (vision.image_size // vision.patch_size) ** 2,
        "dimension": model.config.projection_dim,
        "context": text.max_position_embeddings,
        "logit_scale": float(model.logit_scale.detach().exp()),
        "mean": list(settings.get("image_mean", MEAN)),
        "deviation": list(settings.get("image_std", DEVIATION)),
    }
    for part, own in (("vision", vision), ("text", text)):
        facts = {"heads": own.num_attention_heads, "epsilon": own.layer_norm_eps, "activation": own.hidden_act}
        record[part] = facts
    agree(model, source, record)
    return record


def agree(model: Any, source: Path, record: dict[str, Any]) -> None:
    """ValueError if the towers do not give what transformers' model gives for a picture and a text."""
    import torch

    from pipeline.towers import Towers
    from pipeline.transformer import ACTIVATIONS

    for part in ("vision", "text"):
        if record[part]["activation"] not in ACTIVATIONS:
            raise ValueError(
                f"{source}: its {part} tower has the activation {record[part]['activation']}, of which nothing is known"
            )
    towers = Towers(source, record, "cpu", "fp32")
    side = towers.size
    picture = (torch.arange(side * side * 3) * 7919 % 256).to(torch.uint8).view(1, side, side, 3)
    ids = torch.tensor(towers.tokens(["a photo of two dogs"], towers.context))
    model.eval()
    with torch.inference_mode():
        image = (picture.permute(0, 3, 1, 2).float() / 255 - towers.mean) / towers.deviation
        hidden = model.vision_model(pixel_values=image).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(hidden))[0]
        word = model.text_projection(model.text_model(input_ids=ids).last_hidden_state)[0]
    frame, patch = towers.images(picture)
    found = torch.cat([frame[:, None], patch], 1)[0], towers.texts(["a photo of two dogs"], towers.context)[0][1]
    for part, ours, theirs in zip(("image", "text"), found, (expected, word)):
        apart = float((ours - theirs).norm() / theirs.norm())
        if not apart < NEAR:
            raise ValueError(f"{source}: the {part} tower's answer is {apart:.1e} off what transformers computes")


def identity(name: str, revision: str | None, source: Path) -> dict[str, Any]:
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
        "sha256": checksum(weights(source)),
        "files_sha256": beside.hexdigest(),
    }


def recorded(path: Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier run, if it speaks of the very same files; a model proven whole need not be loaded again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return (
        record if isinstance(record, dict) and all(record.get(key) == value for key, value in found.items()) else None
    )


def main() -> None:
    config = stage.dataset(stage.arguments(__doc__).dataset)
    folder = stage.folder(config["name"], "clip")
    name, revision = config["clip"], config["clip_revision"]
    with stage.lock(folder):
        try:
            if name == "scratch":
                from pipeline import scratch

                stage.need(stage.folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"])
                scratch.train(config, folder)
            source = locate(name, revision, folder)
            record = recorded(folder / "clip.json", identity(name, revision, source))
            if record is None:
                record = describe(name, revision, source)
                if name != "scratch" and folder.exists():
                    shutil.rmtree(folder)
                stage.write(folder / "clip.json", json.dumps(record, indent=1) + "\n")
        except ValueError as error:
            raise SystemExit(str(error)) from None
    print(
        f"clip: {record['name']}, {record['parameters'] / 1e6:.2f} M parameters, {record['image_size']} px, "
        f"{record['patches']} patches, {record['dimension']} dimensions, sha256 {record['sha256'][:12]}"
    )


if __name__ == "__main__":
    main()
