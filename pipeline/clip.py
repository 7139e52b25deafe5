"""Stage: which CLIP, pinned by the sha256 of its weights.

`cache/<dataset>/clip/clip.json` names the model; a `scratch` model lies beside it in the Hugging Face format, a hub name or a
local directory stays where it is. Whoever loads the towers checks the checksum, so no tensor ever comes from other weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import files, params, stage
from pipeline.encoders.check import build_record
from pipeline.encoders.tail import TOWERS, tail_blocks, write_tail
from pipeline.encoders.weights import locate, weights_identity


def read_record(path: Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier run, if it speaks of the very same files; a model proven whole need not be loaded again."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return (
        record if isinstance(record, dict) and all(record.get(key) == value for key, value in found.items()) else None
    )


def pin_clip(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write `folder`/clip.json, unless it already speaks of the CLIP that the config names; its record. Errors: CLIPError."""
    name, revision = config["clip"], config["clip_revision"]
    if name == "scratch":
        from pipeline.scratch import train

        stage.require(params.cache_folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"])
        train.train(config, folder)
    source = locate(name, revision, folder)
    record = read_record(folder / "clip.json", weights_identity(name, revision, source))
    if record is None:
        record = build_record(name, revision, source)
        if name != "scratch" and folder.exists():
            shutil.rmtree(folder)
        files.write(folder / "clip.json", json.dumps(record, indent=1) + "\n")
    write_tail(folder, source, record, {kind: tail_blocks(kind, config["tail"], record) for kind in TOWERS})
    return record


@stage.command
def main() -> None:
    config = params.read_dataset(stage.parse_arguments(__doc__).dataset)
    folder = params.cache_folder(config["name"], "clip")
    with files.lock(folder):
        record = pin_clip(config, folder)
    print(
        f"clip: {record['name']}, {record['parameters'] / 1e6:.2f} M parameters, {record['image_size']} px, "
        f"{record['patches']} patches, {record['dimension']} dimensions, sha256 {record['sha256'][:12]}"
    )


if __name__ == "__main__":
    main()
