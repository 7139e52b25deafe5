"""A run on disk: checkpoint.pt (weights, and while training all that a resume needs) and run.json (what was run)."""

import hashlib
import json
import pickle
import shlex
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pipeline.files import replacing, write
from pipeline.shards import ShardError, prove
from train import methods
from train.method import Method

VERSION = 1


def save(folder: Path, name: str, model: Method, training: dict[str, Any] | None = None) -> None:
    """Write `folder/checkpoint.pt` whole or not at all; `training` is the unfinished run's place and optimizer state."""
    content = {
        "version": VERSION,
        "method": name,
        "config": asdict(model.config),
        "model": model.state_dict(),
        "training": training,
    }
    with replacing(Path(folder) / "checkpoint.pt", room(content)) as part:
        torch.save(content, part)


def read(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint. Errors: ValueError that says what to run where it is missing, torn or foreign."""
    path = Path(folder) / "checkpoint.pt"
    if "skipped" in facts(folder):
        raise ValueError(f"{folder} was {facts(folder)['skipped']}")
    if not path.exists():
        raise ValueError(f"{path} is missing; run: {command(Path(folder))}")
    check_bytes(Path(folder))
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); run: {command(Path(folder))}"
        ) from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ValueError(f"{path} is of another format than this code's ({VERSION}); run: {command(Path(folder))}")
    return content


def check_bytes(folder: Path) -> None:
    """ValueError unless checkpoint.pt is as it was written; a finished run's is looked at once (`.proofs` of its cache)."""
    path, written = folder / "checkpoint.pt", facts(folder).get("checkpoint")

    def check() -> None:
        if not (digest(path) == written if written else is_whole(path)):
            raise ShardError(
                f"{path} is damaged: its bytes are not those with which it was written; run: {command(folder)}"
            )

    if written and folder.parent.name == "runs":
        prove(folder.parent.parent, {path: check})
    else:
        check()


def digest(path: Path) -> str:
    """What run.json says of a finished run's checkpoint.pt."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether the parts of a checkpoint have the checksums with which torch.save wrote them; torch.load does not look."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return False


def load(folder: Path, device: str | torch.device = "cpu") -> Method:
    """The trained method, ready to encode and score. Errors: as `read`; also a run that has not finished."""
    content = read(folder, device)
    if content["training"] is not None:
        raise ValueError(f"{folder} has not finished training; run: {command(Path(folder))} --resume")
    check_sizes(Path(folder), content)
    model = methods.build(content["method"], content["config"])
    model.load_state_dict(content["model"])
    return model.to(device).eval()


def check_sizes(folder: Path, content: dict[str, Any]) -> None:
    """ValueError unless the settings say weights of the shapes that are there.

    The model is built without memory first: a checkpoint from a stranger may ask for any size.
    """
    with torch.device("meta"), Unfilled():
        said = methods.build(content["method"], content["config"]).state_dict()
    there = content["model"]
    for name in sorted(said.keys() | there.keys()):
        shapes = [tuple(part[name].shape) if name in part else "nothing" for part in (said, there)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{folder / 'checkpoint.pt'} is not of one piece: its settings say {shapes[0]} for {name}, it holds {shapes[1]}; "
                f"run: {command(folder)}"
            )


class Unfilled(TorchFunctionMode):
    """Of starting values only the shapes: tensors without memory have none, and nobody draws or scales them.

    Most operations on such tensors first import torch's compiler, which takes seconds; those named here are what methods start
    from. One that is missing is slow, and still right.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The tensor itself where only its values would change, else what torch makes."""
        kwargs = kwargs or {}
        if function in FILLED:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if function in SCALED and not any(isinstance(other, torch.Tensor) for other in args[1:]):
            return args[0]
        return MADE.get(function, function)(*args, **kwargs)


def square(size: int, **settings: Any) -> torch.Tensor:
    """An unfilled square matrix."""
    return torch.empty(size, size, **settings)


FILLED = {torch.nn.init.normal_, torch.Tensor.normal_, torch.Tensor.log}
SCALED = {getattr(torch.Tensor, name) for name in ("mul", "__mul__", "__rmul__", "div", "__truediv__")}
MADE = {torch.randn: torch.empty, torch.eye: square}


def command(folder: Path) -> str:
    """What to type to make a run: as its run.json says; where there is none, as its folder's name `<method>[-seed<k>]` does."""
    name, _, digits = folder.name.partition("-seed")
    record = facts(folder)
    method = record.get("method") or next((one for one in reversed(methods.names()) if name.startswith(one)), name)
    seed = record.get("seed", int(digits) if digits.isdigit() else 0)
    words = ["--shards", folder.parent.parent, "--method", method, *(["--seed", seed] if seed else [])]
    if folder.name != (f"{method}-seed{seed}" if seed else method):
        words += ["--out", folder]
    if said := record.get("set"):
        words += ["--set", *(f"{key}={value}" for key, value in said.items())]
    return f"python -m train.run {shlex.join(map(str, words))}"


def room(content: Any) -> int:
    """Bytes that torch.save takes, at most."""
    if isinstance(content, torch.Tensor):
        return content.nbytes + 1024
    if isinstance(content, dict):
        return 512 + sum(512 + room(value) for value in content.values())
    return 512 + sum(map(room, content)) if isinstance(content, list | tuple) else 512


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write run.json."""
    write(Path(folder) / "run.json", json.dumps(facts, indent=1, sort_keys=True) + "\n")


def facts(folder: Path) -> dict[str, Any]:
    """What run.json says; empty where there is none."""
    path = Path(folder) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}
