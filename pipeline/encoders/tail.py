"""tail.safetensors: CLIP's blocks in the form that a trainer reads without transformers."""

import json
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.encoders.weights import check_weight_file, join_block, read_weights

TAIL = "tail.safetensors"
START = 4  # first text blocks from which a temporal transformer may start, as CLIP4Clip's does
TOWERS = {  # where CLIPModel keeps a tower, its last norm and its projection
    "image": ("vision_model.", "vision_model.post_layernorm.", "visual_projection."),
    "text": ("text_model.", "text_model.final_layer_norm.", "text_projection."),
}
BLOCK = {  # what `train.layers.clip_blocks.CLIPBlock` calls the parts of a CLIPModel's block
    "norm_attention": "layer_norm1",
    "norm_mlp": "layer_norm2",
    "out": "self_attn.out_proj",
    "wide": "mlp.fc1",
    "narrow": "mlp.fc2",
}
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def write_tail(folder: Path, source: Path, record: dict[str, Any], tail: dict[str, int]) -> Path:
    """Write `folder`/tail.safetensors from the weights in `source`, float32, the same bytes for the same weights.

    `tail`: of the image and the text tower, how many last blocks a run may own. A tower that has any is there with every block,
    so that shards made for another number fit it. The first text blocks and the positions are there in any case, for
    `temporal_init`. The header has the sizes that a trainer builds the towers by, and `tail`. A file that is this one stays.
    """
    path = folder / TAIL
    if stands(path, record, tail):
        return path
    from safetensors.torch import save

    kept: dict[str, Any] = {}
    facts: dict[str, Any] = {"clip_sha256": record["sha256"], "tail": tail}
    for kind in TOWERS:
        if kind == "image" and not tail[kind]:
            continue
        tensors = read_weights(source, TOWERS[kind][0], TOWERS[kind][2])
        facts[kind] = tower_shape(kind, tensors, record)
        if kind == "text":
            kept["text.position"] = tensors["text_model.embeddings.position_embedding.weight"]
            kept |= read_blocks(kind, tensors, min(START, facts[kind]["layers"]))
        if tail[kind]:
            kept |= read_blocks(kind, tensors, facts[kind]["layers"]) | read_ends(kind, tensors)
    header = {"facts": json.dumps(facts, sort_keys=True)}
    kept = {name: tensor.contiguous() for name, tensor in sorted(kept.items())}
    files.write(path, save(kept, header))
    return path


def stands(path: Path, record: dict[str, Any], tail: dict[str, int]) -> bool:
    """Whether a file is whole, of these weights and for this tail; told without torch, from its header."""
    try:
        check_weight_file(path)
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        facts = json.loads(header["__metadata__"]["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return facts.get("clip_sha256") == record["sha256"] and facts.get("tail") == tail


def tower_shape(kind: str, tensors: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The fields of `train.layers.clip_blocks.TowerShape`."""
    model, norm, _ = TOWERS[kind]
    facts = record["vision" if kind == "image" else kind]
    words = tensors.get("text_model.embeddings.token_embedding.weight", ())
    return {
        "width": len(tensors[f"{norm}weight"]),
        "heads": facts["heads"],
        "layers": facts["layers"],
        "dimension": record["dimension"],
        "epsilon": facts["epsilon"],
        "activation": facts["activation"],
        "hidden": len(tensors[f"{model}encoder.layers.0.mlp.fc1.bias"]),
        "tokens": 1 + record["patches"] if kind == "image" else record["context"],
        "vocabulary": len(words),
    }


def read_blocks(kind: str, tensors: dict[str, Any], count: int) -> dict[str, Any]:
    """The first `count` blocks of a tower."""
    kept: dict[str, Any] = {}
    for number in range(count):
        at, to = f"{TOWERS[kind][0]}encoder.layers.{number}.", f"{kind}.blocks.{number}."
        kept |= join_block(tensors, at, to, BLOCK, ATTENTION)
    return kept


def read_ends(kind: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """A tower's last norm, its projection and, of text, the token embedding."""
    _, norm, projection = TOWERS[kind]
    kept = {f"{kind}.norm.{part}": tensors[f"{norm}{part}"] for part in ("weight", "bias")}
    kept[f"{kind}.projection"] = tensors[f"{projection}weight"]
    if kind == "text":
        kept["text.token"] = tensors["text_model.embeddings.token_embedding.weight"]
    return kept


def tail_blocks(kind: str, tail: dict[str, int | str], record: dict[str, Any]) -> int:
    """`tail.image` or `tail.text` of params.yaml as a number of blocks. ValueError where the tower has fewer."""
    wanted, layers = tail[kind], record["vision" if kind == "image" else kind]["layers"]
    if wanted != "all" and not 0 <= int(wanted) <= layers:
        raise ValueError(
            f"tail.{kind} is {wanted}, and this CLIP's {kind} tower has {layers} blocks; set it to 0 … {layers} or to all"
        )
    return layers if wanted == "all" else int(wanted)
