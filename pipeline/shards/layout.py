"""Which shard a row lives in, where the shards lie, and the command that makes them."""

import hashlib
from pathlib import Path

from pipeline.files import WHOLE, Slice


def shard_number(video_id: str, shards: int) -> int:
    """The shard in which a video's rows live: the same on every machine, whatever else is in the dataset."""
    return int.from_bytes(hashlib.blake2b(video_id.encode(), digest_size=8).digest(), "big") % shards


def shard_path(folder: Path, shard: int) -> Path:
    """`<folder>/NNNNN.h5`."""
    return folder / f"{shard:05d}.h5"


def shard_paths(folder: Path) -> list[Path]:
    """The numbered shards in a folder, in order."""
    return sorted(path for path in Path(folder).glob("*.h5") if path.stem.isdigit())


def remove_parts(folder: Path, part: Slice = WHOLE) -> None:
    """Remove what a killed writer left half done, of the shards of a slice only; call it with the stage's lock held."""
    for path in Path(folder).glob("*.part"):
        number = path.name.split(".")[0]
        if path.is_dir():  # a model that was being trained, whose trainer removes it itself
            continue
        if part.whole or (number.isdecimal() and part.has(int(number))):
            path.unlink(missing_ok=True)


def cache_of(path: Path) -> Path:
    """`cache/<dataset>` of a shard."""
    return Path(path).parent.parent


def rebuild_command(path: Path) -> str:
    """The command that makes a shard."""
    stage, name = Path(path).parent.name, cache_of(path).name
    # DVC makes these only where a listed method reads them
    return (
        f"python -m pipeline.{stage} --dataset {name}" if stage in ("lexicon", "spans") else f"dvc repro {stage}@{name}"
    )
