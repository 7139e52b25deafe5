"""Stage inputs: what a run of each method depends on, so that a change leaves alone every method that it does not touch.

python -m train.inputs --shards cache/demo
Writes cache/<dataset>/inputs/<method>.json: its settings in params.yaml, and a digest of each part of the shards that it needs,
of the train and val splits alone, so that an edited test caption trains nothing again; and inputs/scored/<method>.json, the same
of all splits, which its scores depend on. inputs/report.json is of what the report shows beside scores, so that in `dvc dag` it
hangs on this stage alone: which CLIP, what was rejected, where the pictures lie.
"""

import argparse
import hashlib
import json
from pathlib import Path

from pipeline import files
from pipeline.command import command
from pipeline.shards import TAUGHT, identity
from train import methods
from train.data.cache import require_parts
from train.layers.clip_blocks import read_header
from train.settings import configure, read_stored_settings, tune_word
from train.tuned import tuned_needs, tuned_towers

SHOWN = (
    "clip/clip.json",
    "manifest/rejects.parquet",
    "visual/rejects.parquet",
)  # files that the report reads beside scores


def write_shown(shards: Path) -> Path:
    """inputs/report.json: a digest of each file in SHOWN (null where there is none), and the root that pictures link to."""
    params = shards / "params.json"
    root = json.loads(params.read_text())["root"] if params.exists() else None
    found = {name: shards / name for name in SHOWN}
    digests = {
        name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if path.exists() else None
        for name, path in found.items()
    }
    files.write(
        shards / "inputs" / "report.json", json.dumps(digests | {"root": root}, indent=1, sort_keys=True) + "\n"
    )
    return shards / "inputs" / "report.json"


def write_inputs(shards: Path, names: list[str]) -> list[Path]:
    """One file a method; files of other methods are removed."""
    folder, digests = shards / "inputs", {}
    for name in names:
        kind = methods.load(name)
        needs = kind.needed(configure(kind.Config, read_stored_settings(shards, name, kind.needs)))
        settings = read_stored_settings(shards, name, needs)
        tune = tune_word(settings)
        needs = tuned_needs(needs, tune)
        if needs not in digests:
            digests[needs] = identity(shards, needs, TAUGHT), identity(shards, needs)
        taught, scored = digests[needs]
        said = {"settings": settings, "needs": sorted(needs), "shards": taught}
        if tuned_towers(tune):  # how many blocks it may own
            said["tail"] = read_header(shards / "clip" / "tail.safetensors")["tail"]
        files.write(folder / f"{name}.json", json.dumps(said, indent=1, sort_keys=True) + "\n")
        files.write(folder / "scored" / f"{name}.json", json.dumps(scored, indent=1, sort_keys=True) + "\n")
    for path in (*folder.glob("*.json"), *folder.glob("scored/*.json")):
        if path.stem not in {*names, "report"}:
            path.unlink()
    return [folder / f"{name}.json" for name in names]


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    args = parser.parse_args()
    try:
        require_parts(args.shards)
        written = write_inputs(args.shards, methods.names())
        write_shown(args.shards)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"inputs: {error}") from None
    print(f"inputs: of {', '.join(path.stem for path in written)}")


if __name__ == "__main__":
    main()
