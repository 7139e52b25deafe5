"""Train the demo's CLIP anew, some minutes, and say whether it is, bit for bit, the one that the repository holds.

python -m pipeline.scratch.release FOLDER      train it into FOLDER, which must not be there yet, and compare
python -m pipeline.scratch.release --replace   put it in the repository's place, after the recipe or the world has changed

The same code, recipe and seed give the same bits where torch and the kind of processor are the same; elsewhere sums are
rounded in another order, and the weights differ.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from pipeline import stage
from pipeline.files import ParamsError
from pipeline.scratch.shipped import SHIPPED, SUMS, checksums
from pipeline.scratch.train import train


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="a new folder, which gets the trained CLIP"
    )
    what.add_argument("--replace", action="store_true", help=f"put the trained CLIP into {SHIPPED}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        folder = arguments.folder or Path(spare) / "clip"
        if folder.exists():
            raise ParamsError(f"{folder} is there already; name a folder that is not")
        print(release(folder, {"name": "demo", "reader": "demo"}, SHIPPED))
        if arguments.replace:
            shutil.rmtree(SHIPPED, ignore_errors=True)
            shutil.copytree(folder, SHIPPED)


def release(folder: Path, config: dict, shipped: Path) -> str:
    """Train into `folder`, with its checksums; the answer says how it compares with `shipped`."""
    train(config, folder, shipped=None)
    sums = checksums(folder)
    (folder / SUMS).write_text(sums)
    if not (shipped / SUMS).is_file():
        return f"{folder} holds a CLIP; {shipped} holds none"
    if (shipped / SUMS).read_text() == sums:
        return f"{folder} is, bit for bit, what {shipped} holds"
    return f"{folder} is not bit for bit what {shipped} holds: another recipe, world, torch or processor"


if __name__ == "__main__":
    main()
