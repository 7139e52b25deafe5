"""Drop what is damaged and run the stages that make it again."""

import subprocess
import sys
from pathlib import Path

from pipeline.files import ShardError, lock, read_table
from pipeline.shards import layout, reader, rows, writer
from pipeline.shards.reader import Shard, open_cache
from pipeline.shards.verify import STAGES, list_tables, verify


def repair(folder: Path) -> list[str]:
    """Drop what is damaged, then run the stages that are short of something; returns what was done."""
    problems = verify(folder)
    if not problems:
        return [f"{folder} is whole"]
    done = []
    for stage in ("visual", "text", "lexicon", "spans"):
        if any(problem.stage == stage for problem in problems):
            # under the stage's own lock, given back before the stage runs: it takes the lock itself
            with lock(folder / stage):
                layout.remove_parts(folder / stage)
                done += [
                    prune(shard)
                    for shard in open_cache(folder)
                    if shard.path.parent.name == stage and not is_sound(shard)
                ]
    done += [drop_table(stage, path) for stage, path in list_tables(folder) if is_damaged(path)]
    for stage in STAGES:
        if any(problem.stage == stage for problem in problems):
            command = [sys.executable, "-m", f"pipeline.{stage}", "--dataset", folder.name]
            done.append(f"ran python -m pipeline.{stage} --dataset {folder.name}")
            if subprocess.run(command, check=False).returncode:
                raise ShardError(f"the {stage} stage failed; {folder} is not mended yet")
    left = verify(folder)
    if left:
        raise ShardError("still wrong: " + "; ".join(problem.what for problem in left))
    return [*done, f"{folder} is whole again"]


def is_sound(shard: Shard) -> bool:
    """Whether every byte is as written."""
    return reader.read_sound(shard.path, shard.kind) is not None


def is_damaged(path: Path) -> bool:
    """Whether the bytes of a table are not as they were written."""
    try:
        read_table(path)
    except ValueError:
        return True
    return False


def drop_table(stage: str, path: Path) -> str:
    """Delete a damaged table; its stage then makes it again."""
    with lock(path if path.stem == stage else path.parent):
        path.unlink()
    return f"deleted {path}"


def prune(shard: Shard) -> str:
    """Rewrite a damaged shard with its good rows only; delete it where it cannot be told which those are."""
    good = shard.good_rows()
    if not good:
        shard.path.unlink()
        return f"deleted {shard.path}"
    tensors = {name: shard[name] for name in shard.names}
    count = len(shard)
    kept = rows.take_rows(shard.kind, tensors, good)
    writer.write(shard.path, shard.kind, kept, dict(shard.attributes))
    return f"dropped {count - len(good)} of {count} rows of {shard.path}"
