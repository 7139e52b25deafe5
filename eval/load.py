"""Open a trained run beside the shards that it reads."""

import json
from pathlib import Path
from typing import Any

from pipeline.files import MissingError, everything_command
from pipeline.shards import Shard, shard_paths
from train import checkpoint, data, methods

UNTRAINED = "max_sim"  # the best scorer that learns nothing


def load_run(run: Path, shards: Path, device: str) -> tuple[Any, Any, dict[str, Any]]:
    """The method of a run, the cache it reads, and run.json; UniTriMError says what to run first."""
    if not (shards / "visual").is_dir() or not (shards / "text").is_dir():
        raise MissingError(f"{shards} has no visual and text shards; run: dvc repro text@{shards.name}")
    require_run(run)
    record = json.loads((run / "run.json").read_text())
    try:
        method = checkpoint.load(run, device)
        needs = method.needs - method.taught_by
        cache = data.Cache(shards, needs, words=method.config.words, triplets=method.config.triplets)
        if cache.tail:
            method.enter(cache.tail)
    except OSError as error:
        raise MissingError(str(error)) from None
    same_clip = record.get("clip_sha256", cache.clip_sha256) == cache.clip_sha256
    require_fit(run, shards, method, same_clip, cache.frames)
    return method, cache, record


def open_method(run: Path | None, shards: Path, device: str) -> tuple[Any, str, str]:
    """The method of a run, its name, and what its weights are; captions and text shards need not be there.

    Without a run it is `max_sim`, which learns nothing. Errors: as `load_run`.
    """
    found = [Shard(path, "visual") for path in shard_paths(shards / "visual")]
    if not found:
        raise MissingError(f"{shards} has no visual shards; run: dvc repro visual@{shards.name}")
    clip, frames = found[0].attributes["clip_sha256"], max(int(shard.attributes["frames"]) for shard in found)
    if run is None:
        sizes = {"dimension": found[0].place("frame").shape[1], "patches": found[0].place("patch").shape[1]}
        model = methods.build(UNTRAINED, sizes | {"frames": frames})
        return model.to(device).eval(), UNTRAINED, "untrained"
    require_run(run)
    record = json.loads((run / "run.json").read_text())
    method = checkpoint.load(run, device)
    require_fit(run, shards, method, record.get("clip_sha256", clip) == clip, frames)
    if {"hidden", "image_hidden"} & method.needs:
        method.enter(int(found[0].attributes.get("tail", 0)))
    return method, record.get("method", run.name), record.get("checkpoint") or checkpoint.digest(run / "checkpoint.pt")


def require_run(run: Path) -> None:
    """MissingError unless the run is finished."""
    if not (run / "run.json").exists():
        raise MissingError(f"{run} is no finished run; run: {checkpoint.command(run)}")


def require_fit(run: Path, shards: Path, method: Any, same_clip: bool, frames: int) -> None:
    """MissingError unless the run was trained on this CLIP's features, and for as many frames."""
    if not same_clip:
        raise MissingError(
            f"{run} was trained on features of another CLIP than {shards} holds; run: {everything_command(shards.name)}"
        )
    if frames > method.config.frames:
        raise MissingError(
            f"{run} was trained for {method.config.frames} frames a video, {shards} has up to {frames}; "
            f"for a cache of as many set datasets.{shards.name}.frames in params.yaml and type: dvc repro inputs@{shards.name}"
        )


def scores_name(run: Path, shards: Path) -> str:
    """Folder name under scores/: the run's own, with its dataset before it where that is another one."""
    home = run.resolve().parent.parent
    return run.name if home == shards.resolve() else f"{home.name}-{run.name}"


def choose_device(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
