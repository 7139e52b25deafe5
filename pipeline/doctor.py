"""What is in a cache, whether it is whole, how two differ, and mending one.

    python -m pipeline.shards info cache/msrvtt
    python -m pipeline.shards verify cache/msrvtt
    python -m pipeline.shards diff cache/msrvtt cache/other
    python -m pipeline.shards repair cache/msrvtt

`verify` ends with 1 if it finds anything. `repair` drops the damaged rows and what nobody asked for, and runs the stages,
which then make exactly the rows that are missing.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet

from pipeline import shards
from pipeline.shards import KEYS, TENSORS, Shard, ShardError
from pipeline.stage import PART, lock

EMBEDDINGS = {"visual": ("frame", "patch"), "text": ("sentence", "word"), "phrases": ("embedding",)}
LOUD = 1000.0  # a norm this many times the median is no CLIP token
WORST = 5


class Problem(NamedTuple):
    """Something wrong: what, and the stage that can put it right."""

    stage: str
    what: str


def opened(folder: Path) -> Iterator[Shard]:
    """All shards of a cache."""
    for kind in ("visual", "text"):
        yield from (Shard(path, kind) for path in shards.files(folder / kind))
    phrases = folder / "text" / "phrases.h5"
    if phrases.exists():
        yield Shard(phrases, "phrases")


# --- info


def info(folder: Path) -> list[str]:
    """Lines that say what a cache holds and how it was made."""
    lines = []
    for kind, stage in (("visual", "visual"), ("text", "text"), ("phrases", "text")):
        found = [shard for shard in opened(folder) if shard.kind == kind]
        if not found:
            lines.append(f"{kind}: none; run: dvc repro {stage}@{folder.name}")
            continue
        size = sum(shard.path.stat().st_size for shard in found)
        lines.append(f"{kind}: {sum(map(len, found))} rows in {len(found)} files, {size / 1e6:.1f} MB")
        for name, (dtype, axes) in TENSORS[kind].items():
            shapes = [shard.place(name).shape for shard in found]
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            lines.append(f"  {name:15} {dtype:8} ({axes.replace(' ', ', ')}) = {shape}")
        for name, value in sorted(found[0].attributes.items()):
            values = {shard.attributes.get(name) for shard in found}
            lines.append(f"  @{name:14} {value if len(values) == 1 else sorted(map(str, values))}")
    for path in sorted(folder.glob("*/rejects.parquet")):
        reasons = Counter(pyarrow.parquet.read_table(path).to_pydict()["reason"])
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none"
        lines.append(f"rejected by {path.parent.name}: {said}")
    return lines


# --- verify


def verify(folder: Path) -> list[Problem]:
    """Everything that is wrong with a cache: bytes, numbers, rows, and how its parts fit."""
    problems, whole = [], []
    for shard in opened(folder):
        stage = "visual" if shard.kind == "visual" else "text"
        try:
            shard.check()
            whole.append(shard)
        except ShardError as error:
            good = shard.good_rows()
            problems.append(Problem(stage, f"{error} ({len(good)} of its rows are good)"))
    for shard in whole:
        stage = "visual" if shard.kind == "visual" else "text"
        problems += [Problem(stage, f"{shard.path}: {what}") for what in oddities(shard)]
    try:
        shards.same_clip(whole)
    except ShardError as error:
        problems.append(Problem("text", str(error)))
    for part in sorted(folder.rglob(f"*{PART}")):
        problems.append(Problem(part.parent.name, f"{part}: left by a killed writer"))
    return problems + strangers(folder, whole) + misfits(folder, whole)


def oddities(shard: Shard) -> list[str]:
    """What is wrong with the numbers and the order of one shard."""
    found = []
    keys = list(shard[KEYS[shard.kind]])
    if keys != sorted(set(keys)):
        found.append("its rows are not sorted, or one is there twice")
    for name in EMBEDDINGS[shard.kind]:
        tensor = shard[name]
        if not tensor.size:
            continue
        bad = shards.infinite(np.asarray(tensor))
        if bad.any():
            rows = np.unique(np.argwhere(bad)[:, 0])
            found.append(f"{name}: NaN or infinity in {len(rows)} rows, the first {rows[0]}")
            continue
        size = norms(tensor)
        middle = float(np.median(size))
        if (size == 0).any():
            found.append(f"{name}: {int((size == 0).sum())} tokens are zero, the first at {int(np.argmin(size))}")
        if size.max() > LOUD * max(middle, 1e-6):
            found.append(f"{name}: norm {size.max():.3g} at {int(size.argmax())}, the median is {middle:.3g}")
    if shard.kind == "visual":
        empty = np.flatnonzero(np.diff(shard["offset"]) == 0)
        if len(empty):
            found.append(f"{len(empty)} videos have no frame, {keys[empty[0]]} first")
    return found


def norms(tensor: np.ndarray) -> np.ndarray:
    """Norm of every token, in order; read in pieces so that a shard need not fit in memory as float32."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    pieces = [flat[at : at + 65536].astype(np.float32) for at in range(0, len(flat), 65536)]
    return np.concatenate([np.linalg.norm(piece, axis=1) for piece in pieces])


def column(folder: Path, name: str, key: str) -> list[Any] | None:
    """One column of a Parquet file of the cache, None if the file is not there."""
    path = folder / name
    return pyarrow.parquet.read_table(path, columns=[key])[key].to_pylist() if path.exists() else None


def strangers(folder: Path, whole: list[Shard]) -> list[Problem]:
    """Rows that nobody asked for, rows that are nowhere, rows in the wrong file."""
    problems = []
    for stage, table, key in (("visual", "items", "video_id"), ("text", "captions", "caption_id")):
        wanted = column(folder, f"manifest/{table}.parquet", key)
        mine = [shard for shard in whole if shard.kind == stage]
        if wanted is None or not mine:
            continue
        have = Counter(name for shard in mine for name in shard[key])
        rejected = set(column(folder, f"{stage}/rejects.parquet", "id") or ())
        sets = {
            "twice": {name for name, count in have.items() if count > 1},
            "not in the manifest": set(have) - set(wanted),
            "missing and not rejected": set(wanted) - set(have) - rejected,
            "present and rejected": set(have) & rejected,
        }
        if len(mine) < len(shards.files(folder / stage)):
            del sets["missing and not rejected"]  # they are in the damaged shards
        problems += [
            Problem(stage, f"{folder / stage}: {len(names)} rows are {what}, {min(names)} first")
            for what, names in sets.items()
            if names
        ]
        count = 1 + max(int(path.stem) for path in shards.files(folder / stage))
        wrong = [
            name for shard in mine for name in shard["video_id"] if shards.number(name, count) != int(shard.path.stem)
        ]
        if wrong:
            problems.append(
                Problem(stage, f"{folder / stage}: {len(wrong)} rows are in the wrong file, {wrong[0]} first")
            )
    return problems


def misfits(folder: Path, whole: list[Shard]) -> list[Problem]:
    """Keyframes and phrases that do not fit the shards."""
    problems = []
    frames = {
        name: count
        for shard in whole
        if shard.kind == "visual"
        for name, count in zip(shard["video_id"], np.diff(shard["offset"]).tolist())
    }
    ids, index = (column(folder, "keyframes.parquet", name) for name in ("video_id", "index"))
    if ids is not None and frames:
        bad = set(frames) ^ set(ids) | {name for name, at in zip(ids, index) if at >= frames.get(name, 0)}
        if bad:
            what = f"{folder / 'keyframes.parquet'}: {len(bad)} videos do not fit the visual shards, {min(bad)} first"
            problems.append(Problem("keyframes", what))
    phrases = next((shard for shard in whole if shard.kind == "phrases"), None)
    text = [shard for shard in whole if shard.kind == "text"]
    if phrases and text:
        used = np.unique(np.concatenate([shard["triplet"] for shard in text]))
        if len(used) and (used[0] < 0 or used[-1] >= len(phrases)):
            problems.append(Problem("text", f"{phrases.path}: captions name phrases that are not there"))
        elif len(used) < len(phrases):
            problems.append(
                Problem("text", f"{phrases.path}: {len(phrases) - len(used)} phrases are used by no caption")
            )
        if {shard.attributes.get("phrases") for shard in text} != {phrases.attributes.get("identity")}:
            problems.append(Problem("text", f"{phrases.path} was written for other captions than the text shards hold"))
    return problems


# --- diff


def diff(one: Path, two: Path) -> list[str]:
    """How far two caches are apart: rows that only one has, cosines of the others, the worst items."""
    lines = []
    for kind in TENSORS:
        left, right = rows_of(one, kind), rows_of(two, kind)
        both = sorted(set(left) & set(right))
        lines.append(
            f"{kind}: {len(both)} rows in both, {len(left) - len(both)} only in {one}, {len(right) - len(both)} only in {two}"
        )
        for name in EMBEDDINGS[kind]:
            apart, other = [], []
            for key in both:
                a, b = part(left[key], name), part(right[key], name)
                if a.shape != b.shape:
                    other.append(key)
                else:
                    apart.append((cosine(a, b), key))
            if apart:
                lines.append(said(name, apart))
            if other:
                lines.append(f"  {name}: {len(other)} rows of another shape, {other[0]} first")
    return lines


def rows_of(folder: Path, kind: str) -> dict[str, tuple[Shard, int]]:
    """Where each row of a cache is."""
    found = [shard for shard in opened(folder) if shard.kind == kind]
    return {key: (shard, row) for shard in found for row, key in enumerate(shard[KEYS[kind]])}


def part(where: tuple[Shard, int], name: str) -> np.ndarray:
    """One row's part of a tensor, (tokens, D) float32."""
    shard, row = where
    begin = begins(shard, name)
    rows = shard[name][begin[row] : begin[row + 1]]
    return rows.reshape(-1, rows.shape[-1]).astype(np.float32)


@cache
def begins(shard: Shard, name: str) -> np.ndarray:
    """(rows + 1,) where each row begins in a tensor."""
    tensors = {cut: shard[cut] for cut in shards.OFFSETS[shard.kind]} | {KEYS[shard.kind]: shard[KEYS[shard.kind]]}
    return shards.bounds(shard.kind, tensors, TENSORS[shard.kind][name][1].split()[0])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between tokens at the same place; 1 where both are equal."""
    if np.array_equal(a, b):
        return 1.0
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(size, 1e-12)).min())


def said(name: str, apart: list[tuple[float, str]]) -> str:
    """One line on a tensor: how many rows are equal, the mean and the worst cosines."""
    cosines = np.array([value for value, _ in apart])
    equal = f"{int((cosines == 1.0).sum())} of {len(cosines)} rows equal"
    line = f"  {name}: {equal}, cosine mean {cosines.mean():.6f}, least {cosines.min():.6f}"
    worst = [f"{key} {value:.6f}" for value, key in sorted(apart)[:WORST] if value < 1.0]
    return line + (f"; worst: {', '.join(worst)}" if worst else "")


# --- repair


def repair(folder: Path) -> list[str]:
    """Drop what is damaged, then run the stages that are short of something; returns what was done."""
    problems = verify(folder)
    if not problems:
        return [f"{folder} is whole"]
    done = []
    for stage in ("visual", "text"):
        if any(problem.stage == stage for problem in problems):
            with lock(folder / stage):
                shards.sweep(folder / stage)
                done += [
                    prune(shard) for shard in opened(folder) if shard.path.parent.name == stage and not sound(shard)
                ]
    for stage in ("visual", "keyframes", "text"):
        if any(problem.stage == stage for problem in problems):
            command = [sys.executable, "-m", f"pipeline.{stage}", "--dataset", folder.name]
            done.append(f"ran python -m pipeline.{stage} --dataset {folder.name}")
            if subprocess.run(command, check=False).returncode:
                raise ShardError(f"the {stage} stage failed; {folder} is not mended yet")
    left = verify(folder)
    if left:
        raise ShardError("still wrong: " + "; ".join(problem.what for problem in left))
    return [*done, f"{folder} is whole again"]


def sound(shard: Shard) -> bool:
    """Whether every byte is as written."""
    return shards.sound(shard.path, shard.kind) is not None


def prune(shard: Shard) -> str:
    """Rewrite a damaged shard with its good rows only, or delete it where nothing can be told."""
    good = shard.good_rows()
    if not good:
        shard.path.unlink()
        return f"deleted {shard.path}"
    tensors = {name: shard[name] for name in TENSORS[shard.kind]}
    count = len(shard)
    kept = shards.take(shard.kind, tensors, good)
    attributes = dict(shard.attributes)
    if shard.kind == "phrases":
        attributes["identity"] = "pruned"
    shards.write(shard.path, shard.kind, kept, attributes)
    return f"dropped {count - len(good)} of {count} rows of {shard.path}"


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m pipeline.shards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("info", "verify", "diff", "repair"))
    parser.add_argument("cache", type=Path, nargs="+", help="cache/<dataset>; two of them for diff")
    options = parser.parse_args()
    if len(options.cache) != (2 if options.do == "diff" else 1):
        parser.error("diff takes two caches, the others one")
    for folder in options.cache:
        if next(opened(folder), None) is None:
            raise SystemExit(f"{folder} has no shards; run: dvc repro visual@{folder.name} text@{folder.name}")
    try:
        lines = {"info": info, "diff": diff, "repair": repair, "verify": said_by_verify}[options.do](*options.cache)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(lines))
    if options.do == "verify" and lines[-1].startswith("{"):
        raise SystemExit(1)


def said_by_verify(folder: Path) -> list[str]:
    """The problems as lines; the last line counts them, in JSON, if there are any."""
    problems = verify(folder)
    if not problems:
        return [f"{folder} is whole"]
    lines = [f"{problem.what}" for problem in problems]
    counts = dict(Counter(problem.stage for problem in problems))
    return [*lines, f"to mend it: python -m pipeline.shards repair {folder}", json.dumps(counts)]
