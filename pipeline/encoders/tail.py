"""tail.safetensors: the blocks of CLIP's image tower in the form that a trainer reads without transformers."""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline import files
from pipeline.encoders.weights import read_weights

NAME = "tail.safetensors"


def write_tail(folder: Path, source: Path, record: dict[str, Any]) -> Path:
    """Write `folder`/tail.safetensors from the weights in `source`, float32, the same bytes for the same weights.

    It holds every block, so that shards made for any `tail` fit it. The header has the sizes that a trainer builds the tower by.
    """
    from safetensors.torch import save

    tensors = read_weights(source, "vision_model.", "visual_projection.")
    at = "vision_model.encoder.layers."
    layers = len({name[len(at) :].split(".")[0] for name in tensors if name.startswith(at)})
    kept: dict[str, torch.Tensor] = {}
    for number in range(layers):
        kept |= block_tensors(tensors, f"{at}{number}.", f"image.blocks.{number}.")
    kept |= {f"image.norm.{kind}": tensors[f"vision_model.post_layernorm.{kind}"] for kind in ("weight", "bias")}
    kept["image.projection"] = tensors["visual_projection.weight"]
    facts = record["vision"]
    shape = {
        "width": len(tensors["vision_model.post_layernorm.weight"]),
        "heads": facts["heads"],
        "layers": layers,
        "dimension": record["dimension"],
        "epsilon": facts["epsilon"],
        "activation": facts["activation"],
        "hidden": len(tensors[f"{at}0.mlp.fc1.bias"]),
        "tokens": 1 + record["patches"],
    }
    header = {"facts": json.dumps({"clip_sha256": record["sha256"], "image": shape}, sort_keys=True)}
    kept = {name: tensor.contiguous() for name, tensor in sorted(kept.items())}
    files.write(folder / NAME, save(kept, header))
    return folder / NAME


def block_tensors(tensors: dict[str, Any], at: str, to: str) -> dict[str, Any]:
    """One block of a CLIPModel under the names of `train.layers.clip_blocks.CLIPBlock`."""
    names = {
        "norm_attention": "layer_norm1",
        "norm_mlp": "layer_norm2",
        "out": "self_attn.out_proj",
        "wide": "mlp.fc1",
        "narrow": "mlp.fc2",
    }
    kept = {}
    for kind in ("weight", "bias"):
        kept |= {f"{to}{own}.{kind}": tensors[f"{at}{theirs}.{kind}"] for own, theirs in names.items()}
        kept[f"{to}qkv.{kind}"] = torch.cat([tensors[f"{at}self_attn.{part}_proj.{kind}"] for part in "qkv"])
    return kept
