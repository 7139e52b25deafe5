"""Open a trained run beside the shards that it reads."""

import json
from pathlib import Path
from typing import Any

from pipeline.files import MissingError
from pipeline.shards.layout import everything_command
from train import checkpoint, data


def load_run(run: Path, shards: Path, device: str) -> tuple[Any, Any, dict[str, Any]]:
    """The method of a run, the cache it reads, and run.json; UniTriMError says what to run first."""
    record_path = run / "run.json"
    if not (shards / "visual").is_dir() or not (shards / "text").is_dir():
        raise MissingError(f"{shards} has no visual and text shards; run: dvc repro text@{shards.name}")
    if not record_path.exists():
        method = run.name.split("-seed")[0]
        raise MissingError(
            f"{run} is no finished run; run: python -m train.run --shards {shards} --method {method}"
            f"   (or dvc repro train@{shards.name}-{method})"
        )
    record = json.loads(record_path.read_text())
    try:
        method = checkpoint.load(run, device)
        cache = data.Cache(shards, method.needs, words=method.config.words, triplets=method.config.triplets)
    except OSError as error:
        raise MissingError(str(error)) from None
    if record.get("clip_sha256", cache.clip_sha256) != cache.clip_sha256:
        raise MissingError(
            f"{run} was trained on features of another CLIP than {shards} holds; run: {everything_command(shards.name)}"
        )
    if cache.frames > method.config.frames:
        raise MissingError(
            f"{run} was trained for {method.config.frames} frames a video, {shards} has up to {cache.frames}; "
            f"for a cache of as many set datasets.{shards.name}.frames in params.yaml and type: dvc repro inputs@{shards.name}"
        )
    return method, cache, record


def scores_name(run: Path, shards: Path) -> str:
    """Folder name under scores/: the run's own, with its dataset before it where that is another one."""
    home = run.resolve().parent.parent
    return run.name if home == shards.resolve() else f"{home.name}-{run.name}"


def choose_device(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
