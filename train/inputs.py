"""Stage inputs: what a run of each method depends on, so that a change leaves alone every method that it does not touch.

python -m train.inputs --shards cache/demo
Writes cache/<dataset>/inputs/<method>.json: its settings in params.yaml, and a digest of each part of the shards that it needs,
of the train and val splits alone, so that an edited test caption trains nothing again; and inputs/scored/<method>.json, the same
of all splits, which its scores depend on.
"""

import argparse
import json
from pathlib import Path

from pipeline import files
from pipeline.command import command
from pipeline.shards import TAUGHT, identity
from train import methods
from train.data.cache import require_parts
from train.layers.clip_blocks import read_header
from train.settings import read_stored_settings, tune_word
from train.tuned import tuned_needs, tuned_towers


def write_inputs(shards: Path, names: list[str]) -> list[Path]:
    """One file a method; files of other methods are removed."""
    folder, digests = shards / "inputs", {}
    for name in names:
        needs = methods.load(name).needs
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
        if path.stem not in names:
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
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"inputs: {error}") from None
    print(f"inputs: of {', '.join(path.stem for path in written)}")


if __name__ == "__main__":
    main()
