"""The index on disk: `cache/<dataset>/index/<run>/<kind>/NNNNN.safetensors`, a part a visual shard, mapped when it is read.

A part holds the coarse vectors and the compact tokens of its shard's items, and a mark an item: what they were made from.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.files import replacing

VERSION = 2


class Part:
    """A part, opened: its items' ids and marks, and its tensors as mapped arrays."""

    def __init__(self, path: Path):
        self.path = path
        with safe_open(str(path), "pt") as file:
            said = file.metadata() or {}
            if said.get("version") != str(VERSION):
                raise ValueError(f"{path} is of another version")
            self.id: list[str] = json.loads(said["id"])
            self.mark: list[str] = json.loads(said["mark"])
            self.tensors = {name: file.get_tensor(name) for name in list(file.keys())}  # mapped, not read

    def __len__(self) -> int:
        return len(self.id)

    @property
    def coarse(self) -> NDArray:
        """(G, C) float16."""
        return self.tensors["coarse"].numpy()

    def rows(self, some: NDArray) -> dict[str, torch.Tensor]:
        """Compact tokens of some of its items."""
        index = torch.from_numpy(np.asarray(some, np.int64))
        return {name: tensor[index] for name, tensor in self.tensors.items() if name != "coarse"}


def write_part(path: Path, ids: list[str], marks: list[str], coarse: NDArray, kept: dict[str, torch.Tensor]) -> None:
    """Write a part whole or not at all."""
    tensors = kept | {"coarse": torch.from_numpy(np.ascontiguousarray(coarse))}
    said = {"id": json.dumps(ids), "mark": json.dumps(marks), "version": str(VERSION)}
    with replacing(path, sum(tensor.nbytes for tensor in tensors.values()) + 200 * len(ids) + 65536) as part:
        save_file(tensors, part, said)


def read_part(path: Path) -> Part | None:
    """A part; None where there is none, or it is damaged, so that its rows are made anew."""
    try:
        return Part(path) if path.exists() else None
    except (SafetensorError, ValueError, KeyError, OSError):
        return None


def part_paths(folder: Path, kind: str) -> list[Path]:
    """The parts of one kind, in order."""
    return sorted((folder / kind).glob("[0-9]*.safetensors"))


def read_facts(folder: Path) -> dict[str, Any]:
    """What index.json says; empty where there is none."""
    path = folder / "index.json"
    return json.loads(path.read_text()) if path.exists() else {}
