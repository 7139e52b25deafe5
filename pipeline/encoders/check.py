"""Prove once that a model loads whole and that our encoders reproduce what transformers computes."""

import json
from pathlib import Path
from typing import Any

from pipeline.encoders.weights import (
    DEVIATION,
    MEAN,
    check_tokenizer,
    load_pretrained,
    read_tokenizer,
    weight_files,
    weights_identity,
)
from pipeline.files import CLIPError

TOLERANCE = 1e-3  # share by which a tower's answer may differ from transformers'


def read_model(source: Path) -> Any:
    """The CLIPModel of a directory; missing, surplus or mis-shaped weights are a CLIPError, never a random tensor."""
    import transformers
    from transformers import CLIPModel

    transformers.utils.logging.disable_progress_bar()
    first = weight_files(source)[0]
    model, report = load_pretrained(CLIPModel, source)
    buffers = "position_ids"  # older checkpoints carry this constant
    missing = sorted(report["missing_keys"])
    surplus = sorted(key for key in report["unexpected_keys"] if not key.endswith(buffers))
    shapes = sorted(str(key) for key in report["mismatched_keys"])
    for what, keys in (("misses", missing), ("has surplus", surplus), ("has mis-shaped", shapes)):
        if keys:
            raise CLIPError(f"{first} {what} weights of a CLIPModel: {', '.join(keys[:4])} ({len(keys)} in all)")
    return model


def build_record(name: str, revision: str | None, source: Path) -> dict[str, Any]:
    """Build the clip.json record; CLIPError unless the weights load completely and our encoders agree with transformers."""
    tokenizer = read_tokenizer(source)
    model = read_model(source)
    vision, text = model.config.vision_config, model.config.text_config
    check_tokenizer(source, tokenizer, text.vocab_size)
    preprocess = source / "preprocessor_config.json"
    settings = json.loads(preprocess.read_text()) if preprocess.exists() else {}
    record = weights_identity(name, revision, source) | {
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
        facts |= {"layers": own.num_hidden_layers, "width": own.hidden_size}
        record[part] = facts
    check_against_transformers(model, source, record)
    return record


def check_against_transformers(model: Any, source: Path, record: dict[str, Any]) -> None:
    """CLIPError if the towers do not give what transformers' model gives for a picture and a text."""
    import torch

    from pipeline.encoders.towers import FrozenCLIP
    from pipeline.encoders.transformer import ACTIVATIONS

    for part in ("vision", "text"):
        if record[part]["activation"] not in ACTIVATIONS:
            raise CLIPError(
                f"{source}: its {part} tower has the unsupported activation {record[part]['activation']}; "
                f"supported: {', '.join(ACTIVATIONS)}"
            )
    towers = FrozenCLIP(source, record, "cpu", "fp32")
    side = towers.size
    # any picture with many different values will do; a prime step spreads them
    picture = (torch.arange(side * side * 3) * 7919 % 256).to(torch.uint8).view(1, side, side, 3)
    ids = torch.tensor(towers.tokenize(["a photo of two dogs"], towers.context))
    model.eval()
    with torch.inference_mode():
        image = (picture.permute(0, 3, 1, 2).float() / 255 - towers.mean) / towers.deviation
        hidden = model.vision_model(pixel_values=image).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(hidden))[0]
        word = model.text_projection(model.text_model(input_ids=ids).last_hidden_state)[0]
    frame, patch = towers.encode_images(picture)
    found = torch.cat([frame[:, None], patch], 1)[0], towers.encode_texts(["a photo of two dogs"], towers.context)[0][1]
    for part, ours, theirs in zip(("image", "text"), found, (expected, word)):
        apart = float((ours - theirs).norm() / theirs.norm())
        if not apart < TOLERANCE:
            raise CLIPError(f"{source}: the {part} tower's answer is {apart:.1e} off what transformers computes")
