"""The encoded gallery, kept beside the cache for the next search."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.shards import Shard, shard_paths


def read_gallery(path: Path, key: str) -> Any:
    """The encoded gallery in a file, None where there is none, it is damaged, or it was made from something else."""
    import torch

    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError):
        return None
    except (AssertionError, MemoryError, pickle.UnpicklingError):
        return None
    if not isinstance(content, dict) or content.get("key") != key:
        return None
    return content["gallery"] if is_gallery(content.get("gallery"), path.stat().st_size) else None


def is_gallery(found: Any, size: int) -> bool:
    """Whether this is blocks of named tensors by kind that have, each of them, no more bytes than their file."""
    import torch

    try:
        blocks = [block for kind in ("image", "video") for block in found[kind]]
        tensors = [tensor for block in blocks for tensor in block.values()]
    except (AttributeError, KeyError, TypeError):
        return False
    return all(isinstance(one, torch.Tensor) and one.is_contiguous() and one.nbytes <= size for one in tensors)


def keep_gallery(path: Path, key: str, gallery: dict[str, list[dict[str, Any]]]) -> str | None:
    """Keep an encoded gallery for the next search; where that cannot be, it says why, and the search goes on."""
    import torch

    own = path.with_suffix(f".{os.getpid()}")  # two searches may encode at once
    tensors = [tensor for blocks in gallery.values() for block in blocks for tensor in block.values()]
    try:
        with files.replacing(own, sum(tensor.nbytes + 2048 for tensor in tensors) + 4096) as part:
            torch.save({"key": key, "gallery": gallery}, part)
        os.replace(own, path)
    except files.StorageError as error:
        return str(error).replace(str(own), str(path))
    return None


def to_half(tensor: Any) -> Any:
    """Float tensors as float16 on the CPU: what is kept takes half the room."""
    return (tensor.half() if tensor.is_floating_point() else tensor).cpu()


def to_full(tensor: Any, device: str) -> Any:
    """Float tensors as float32 on the device."""
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device)


def gallery_identity(run: Path, shards: Path, method: str) -> str:
    """What an encoded gallery depends on: the code that encodes, the checkpoint, every visual row, the keyframes."""
    from eval import similarity
    from train.run import code_digest  # torch comes with it, and is slow to import

    digest = hashlib.blake2b(digest_size=16)
    for path in (Path(similarity.__file__), Path(__file__)):
        digest.update(path.read_bytes() + b"\0")
    digest.update(code_digest(method).encode())
    digest.update((run / "checkpoint.pt").read_bytes())
    for path in shard_paths(shards / "visual"):
        digest.update("\n".join(Shard(path, "visual")["fingerprint"]).encode() + b"\0")
    for path in (shards / "keyframes.parquet", shards / "manifest" / "items.parquet"):
        digest.update(path.read_bytes())
    return digest.hexdigest()
