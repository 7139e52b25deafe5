"""tail.safetensors: the blocks of CLIP's image tower in the form that a trainer reads without transformers."""

import json
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.encoders.weights import read_weights

TAIL = "tail.safetensors"


def write_tail(folder: Path, source: Path, record: dict[str, Any]) -> Path:
    """Write `folder`/tail.safetensors from the weights in `source`, float32, the same bytes for the same weights.

    It holds every block, so that shards made for any `tail` fit it. The header has the sizes that a trainer builds the tower by.
    """
    from safetensors.torch import save

    tensors = read_weights(source, "vision_model.", "visual_projection.")
    at = "vision_model.encoder.layers."
    layers = len({name[len(at) :].split(".")[0] for name in tensors if name.startswith(at)})
    kept: dict[str, Any] = {}
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
    files.write(folder / TAIL, save(kept, header))
    return folder / TAIL


def block_tensors(tensors: dict[str, Any], at: str, to: str) -> dict[str, Any]:
    """One block of a CLIPModel under the names of `train.layers.clip_blocks.CLIPBlock`."""
    import torch

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


def tail_blocks(wanted: int | str, layers: int) -> int:
    """`tail.image` of params.yaml as a number of blocks."""
    if wanted != "all" and not 0 <= int(wanted) <= layers:
        raise ValueError(
            f"tail.image is {wanted}, and this CLIP's image tower has {layers} blocks; set it to 0 … {layers} or to all"
        )
    return layers if wanted == "all" else int(wanted)
