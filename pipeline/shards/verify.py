"""Check a cache: every byte against its checksum, then numbers, rows, and whether its parts fit each other."""

# Axes: R tokens of a tensor, D embedding.

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.files import PART, ShardError, read_table
from pipeline.shards import layout, reader
from pipeline.shards.reader import Shard, open_cache
from pipeline.shards.rows import find_infinite, phrase_key
from pipeline.shards.schema import EMBEDDINGS, KEYS, TABLES

STAGES = ("manifest", "visual", "keyframes", "triplets", "text", "lexicon", "spans")  # in the order in which they run
MAKERS = {  # kind of shard: stage
    "visual": "visual",
    "text": "text",
    "phrases": "text",
    "lexicon": "lexicon",
    "spans": "spans",
    "removed": "spans",
}
LOUD_NORM = 1000.0  # a token with this many times the median norm did not come from CLIP


class Problem(NamedTuple):
    """Something wrong: what, and the stage that can put it right."""

    stage: str
    what: str


def verify(folder: Path) -> list[Problem]:
    """Everything that is wrong with a cache: bytes, numbers, rows, and how its parts fit."""
    problems, whole = [], []
    for shard in open_cache(folder):
        stage = MAKERS[shard.kind]
        try:
            shard.check()
            whole.append(shard)
        except ShardError as error:
            good = shard.good_rows()
            problems.append(Problem(stage, f"{error} ({len(good)} of its rows are good)"))
    for shard in whole:
        stage = MAKERS[shard.kind]
        problems += [Problem(stage, f"{shard.path}: {what}") for what in check_values(shard)]
    for stage in ("text", "spans"):
        try:
            reader.require_one_clip(shard for shard in whole if MAKERS[shard.kind] in ("visual", stage))
        except ShardError as error:
            problems.append(Problem(stage, str(error)))
    for part in sorted(folder.rglob(f"*{PART}")):
        problems.append(Problem(part.parent.name, f"{part}: left by a killed writer"))
    return (
        problems
        + check_lexicon(folder, whole)
        + check_tables(folder)
        + check_rows(folder, whole)
        + check_references(folder, whole)
    )


def check_lexicon(folder: Path, whole: list[Shard]) -> list[Problem]:
    """A masked language model that is not as it was written, or not that of the shards beside it."""
    mine, home = [shard for shard in whole if shard.kind == "lexicon"], folder / "lexicon"
    if not mine:
        return []
    try:
        record = json.loads((home / "lexicon.json").read_text())
        written, made, words = record["checksums"], record["sha256"], record["vocabulary"]
    except (OSError, ValueError, KeyError, TypeError):
        return [Problem("lexicon", f"{home / 'lexicon.json'} is missing or damaged")]
    problems = []
    for name, digest in written.items():
        if not (home / name).is_file() or file_digest(home / name) != digest:
            problems.append(Problem("lexicon", f"{home / name} is not as it was written"))
    for shard in mine:
        piece = np.asarray(shard["piece"])
        if shard.attributes["lexicon_sha256"] != made:
            problems.append(Problem("lexicon", f"{shard.path} is of another model than {home / 'lexicon.json'}"))
        elif len(piece) and not 0 <= piece.min() <= piece.max() < words:
            problems.append(Problem("lexicon", f"{shard.path}: piece: ids beyond the {words} words of the lexicon"))
    return problems


def file_digest(path: Path) -> str:
    """blake2b of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_tables(folder: Path) -> list[Problem]:
    """Tables of the stages whose bytes are not as they were written."""
    problems = []
    for stage, path in list_tables(folder):
        try:
            read_table(path)
        except ValueError as error:
            problems.append(Problem(stage, str(error)))
    return problems


def list_tables(folder: Path) -> list[tuple[str, Path]]:
    """The stages' tables, each with the stage that makes it."""
    own = [(path.stem, path) for path in folder.glob("*.parquet")]
    return sorted(own + [(stage, path) for stage in STAGES for path in (folder / stage).glob("*.parquet")])


def check_values(shard: Shard) -> list[str]:
    """What is wrong with the numbers and the order of one shard."""
    found = []
    keys = list(shard["key" if shard.kind in TABLES else KEYS[shard.kind]])
    if keys != sorted(set(keys)):
        found.append("its rows are not sorted, or one is there twice")
    for name in EMBEDDINGS[shard.kind]:
        tensor = shard[name] if name in shard.names else np.empty(0)
        if not tensor.size:
            continue
        bad = find_infinite(np.asarray(tensor))
        if bad.any():
            rows = np.unique(np.argwhere(bad)[:, 0])
            found.append(f"{name}: NaN or infinity in {len(rows)} rows, the first {rows[0]}")
            continue
        size = token_norms(tensor)
        middle = float(np.median(size))
        if (size == 0).any():
            found.append(f"{name}: {int((size == 0).sum())} tokens are zero, the first at {int(np.argmin(size))}")
        if size.max() > LOUD_NORM * max(middle, 1e-6):
            found.append(f"{name}: norm {size.max():.3g} at {int(size.argmax())}, the median is {middle:.3g}")
    if "token" in shard.names:
        offset = shard["token_offset" if shard.kind == "phrases" else "word_offset"]
        if len(empty := np.flatnonzero(np.diff(offset) == 0)):
            found.append(f"{len(empty)} rows have no token id, {keys[empty[0]]} first")
        if shard["token"].size and shard["token"].min() < 0:
            found.append("token: an id is below 0")
    if shard.kind == "visual":
        empty = np.flatnonzero(np.diff(shard["offset"]) == 0)
        if len(empty):
            found.append(f"{len(empty)} videos have no frame, {keys[empty[0]]} first")
    return found


def token_norms(tensor: np.ndarray) -> np.ndarray:
    """Norm of every token, in order; read in pieces so that a shard need not fit in memory as float32."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    pieces = [flat[at : at + 65536].astype(np.float32) for at in range(0, len(flat), 65536)]
    return np.concatenate([np.linalg.norm(piece, axis=1) for piece in pieces])


def read_column(folder: Path, name: str, key: str) -> list[Any] | None:
    """One column of a table of the cache, None if it is not there or damaged."""
    path = folder / name
    try:
        return read_table(path, [key])[key].to_pylist()
    except (FileNotFoundError, ValueError):  # check_tables speaks of what is damaged
        return None


def check_rows(folder: Path, whole: list[Shard]) -> list[Problem]:
    """Rows that are duplicated, not in the manifest, missing, or in the wrong shard."""
    problems = []
    for stage, table, key in (
        ("visual", "items", "video_id"),
        ("text", "captions", "caption_id"),
        ("lexicon", "captions", "caption_id"),
        ("spans", "captions", "caption_id"),
    ):
        wanted = read_column(folder, f"manifest/{table}.parquet", key)
        mine = [shard for shard in whole if shard.kind == stage]
        if wanted is None or not mine:
            continue
        have = Counter(name for shard in mine for name in shard[key])
        rejected = set(read_column(folder, f"{stage}/rejects.parquet", "id") or ())
        sets = {
            "twice": {name for name, count in have.items() if count > 1},
            "not in the manifest": set(have) - set(wanted),
            "missing and not rejected": set(wanted) - set(have) - rejected,
            "present and rejected": set(have) & rejected,
        }
        if len(mine) < len(layout.shard_paths(folder / stage)):
            del sets["missing and not rejected"]  # they are in the damaged shards
        problems += [
            Problem(stage, f"{folder / stage}: {len(names)} rows are {what}, {min(names)} first")
            for what, names in sets.items()
            if names
        ]
        count = 1 + max(int(path.stem) for path in layout.shard_paths(folder / stage))
        wrong = [
            name
            for shard in mine
            for name in shard["video_id"]
            if layout.shard_number(name, count) != int(shard.path.stem)
        ]
        if wrong:
            problems.append(
                Problem(stage, f"{folder / stage}: {len(wrong)} rows are in the wrong file, {wrong[0]} first")
            )
    return problems


def check_references(folder: Path, whole: list[Shard]) -> list[Problem]:
    """Keyframes and phrases that do not fit the shards."""
    problems = []
    frames = {
        name: count
        for shard in whole
        if shard.kind == "visual"
        for name, count in zip(shard["video_id"], np.diff(shard["offset"]).tolist())
    }
    ids, index = (read_column(folder, "keyframes.parquet", name) for name in ("video_id", "index"))
    if ids is not None and frames:
        bad = set(frames) ^ set(ids) | {name for name, at in zip(ids, index) if at >= frames.get(name, 0)}
        if bad:
            what = f"{folder / 'keyframes.parquet'}: {len(bad)} videos do not fit the visual shards, {min(bad)} first"
            problems.append(Problem("keyframes", what))
    for table, (stage, _, columns) in TABLES.items():
        phrases = next((shard for shard in whole if shard.kind == table), None)
        rows = [shard for shard in whole if shard.kind == stage]
        if not phrases or not rows:
            continue
        used = np.unique(np.concatenate([shard[column] for shard in rows for column in columns]))
        known = np.asarray(phrases["key"])
        if len(absent := np.setdiff1d(used, known)):
            problems.append(Problem(stage, f"{phrases.path}: captions name {len(absent)} phrases that are not there"))
        if len(unused := np.setdiff1d(known, used)):
            problems.append(Problem(stage, f"{phrases.path}: {len(unused)} phrases are used by no caption"))
        if (np.diff(known) <= 0).any() or known.tolist() != [phrase_key(phrase) for phrase in phrases["phrase"]]:
            problems.append(Problem(stage, f"{phrases.path}: its keys are not those of its phrases, rising"))
    return problems
