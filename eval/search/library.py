"""From any folder of photos and videos to a library that can be searched: manifest, clip, visual, keyframes; no captions.

A process of its own beside the server, so that a page answers while it works: `python -m eval.search.library --folder ROOT`.
What stands is kept: five new files cost five. It says on stdout, a JSON object a line, what it does and what is odd.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import files, keys, params, stage
from pipeline.files import CLIPError, ParamsError

SHIPPED = Path(__file__).parents[2] / "pipeline" / "datasets" / "demo" / "clip"
SHIPPED_SIDE = 112  # pixels of thumbnails where CLIP sees only 48
SEGMENTS = 30  # seconds of a part of a long film, at most, where params.yaml keeps films whole
SIDE = 224  # pixels of thumbnails: sharp on every screen
SEGMENT_SECONDS = 30  # parts that a long film is cut into, where params.yaml does not say otherwise
STEPS = ("reading the folder", "preparing CLIP", "looking at photos and videos", "picking keyframes")


def library_name(root: Path) -> str:
    """What a folder's library is called below `cache/`: its own name as far as it can be one, and a few digits of its path."""
    word = re.sub(r"[^A-Za-z0-9]+", "-", root.name).strip("-").lower()[:40]
    return f"search-{word or 'files'}-{hashlib.blake2b(str(root).encode(), digest_size=4).hexdigest()}"


def library_config(root: Path) -> dict[str, Any]:
    """Settings of a folder's library: those of `folder` in params.yaml where there is one, without captions."""
    whole = params.read_params() if params.PARAMS.exists() else {}
    said = params.merge(whole.get("defaults") or {}, (whole.get("datasets") or {}).get("folder") or {})
    config = params.merge(keys.usual(), said | {"reader": "folder", "root": str(root), "max_rejects": 1})
    seconds = config["segments"] or SEGMENT_SECONDS
    return config | {"name": library_name(root), "thumbnail": max(SIDE, config["thumbnail"]), "segments": seconds}


def require_folder(root: str) -> Path:
    """The folder, absolute. Errors: ParamsError where there is none, or it and this project lie in one another."""
    from pipeline.datasets.enable import usable

    try:
        return usable(root)
    except ParamsError as error:
        raise ParamsError(str(error).replace("--root", "--folder")) from None


def update_library(root: Path, device: str | None = None, quiet: bool = False) -> Path:
    """Bring a folder's library up to date; its place below `cache/`. `quiet` says warnings alone. Errors: those of the stages."""
    from pipeline.encoders.image import ImageEncoder
    from pipeline.keyframes import update_keyframes
    from pipeline.manifest import update_manifest
    from pipeline.shards import remove_parts
    from pipeline.video.decode import describe_decoders
    from pipeline.visual import update_visual

    say = warn if quiet else tell
    config = library_config(root)
    home = params.cache_folder(config["name"])
    say(step=0)
    with files.lock(home / "manifest"):
        update_manifest(config, home / "manifest")
    say(step=1)
    config = choose_clip(config, home / "clip", say)
    files.write(home / "params.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    say(step=2)
    items = files.read_table(home / "manifest" / "items.parquet").to_pylist()
    encoder = ImageEncoder(home / "clip", device, config, describe_decoders(config["decoder"]))
    with files.lock(home / "visual"):
        remove_parts(home / "visual")
        say(line=update_visual(home / "visual", items, encoder, config, None))
    say(step=3)
    update_keyframes(home)
    say(finished=True)
    return home


def choose_clip(config: dict[str, Any], folder: Path, say: Callable[..., None]) -> dict[str, Any]:
    """Pin the CLIP that is configured; where it cannot be had, the demo's, with a warning that says what that means."""
    from pipeline.clip import pin_clip

    with files.lock(folder):
        if config["clip"] != "scratch":
            try:
                pin_clip(config, folder)
                return config
            except CLIPError as error:
                why = str(error).split("; set `clip`")[0].removeprefix("clip: ")
        else:
            why = "`clip: scratch` learns from captions, and a folder has none"
        say(
            warning=f"{why}. Search goes on with the demo's small CLIP, which has seen nothing but drawn shapes: it finds red "
            "balls, not faces or beaches. With a network, or with `clip` in params.yaml set to a CLIP's folder, start again."
        )
        config = config | {"clip": str(SHIPPED), "clip_revision": None, "thumbnail": SHIPPED_SIDE}
        pin_clip(config, folder)
        return config


def tell(**facts: Any) -> None:
    """Tell the process that started this one what goes on."""
    print(json.dumps(facts), flush=True)


def warn(**facts: Any) -> None:
    """Tell a person at a terminal what is odd."""
    if "warning" in facts:
        print(facts["warning"], file=sys.stderr)


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="the folder of photos and videos")
    parser.add_argument("--device", help="cpu or cuda; a GPU is used where there is one")
    args = parser.parse_args()
    try:
        update_library(require_folder(args.folder), args.device)
    except ValueError as error:
        tell(error=stage.visible(str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
