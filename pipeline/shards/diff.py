"""Compare two caches row by row: which rows only one has, and how close the embeddings of the others are."""

# Axes: L tokens of a row, D embedding.

from functools import cache
from pathlib import Path

import numpy as np

from pipeline.shards import schema
from pipeline.shards.reader import Shard, open_cache
from pipeline.shards.rows import row_bounds
from pipeline.shards.schema import EMBEDDINGS, KEYS, TENSORS

SHOWN = 5


def diff(one: Path, two: Path) -> list[str]:
    """How far two caches are apart: rows that only one has, cosines of the others, the worst items."""
    lines = []
    for kind in TENSORS:
        left, right = locate_rows(one, kind), locate_rows(two, kind)
        if kind not in ("visual", "text", "phrases") and not (left or right):  # the others few methods read
            continue
        both = sorted(set(left) & set(right))
        lines.append(
            f"{kind}: {len(both)} rows in both, {len(left) - len(both)} only in {one}, {len(right) - len(both)} only in {two}"
        )
        if kind != "visual" and (line := compare_tokens(left, right, both)):
            lines.append(line)
        for name in EMBEDDINGS[kind]:
            apart, other = [], []
            for key in both:
                if not all(name in side[key][0].names for side in (left, right)):
                    continue  # an optional tensor that only one of the caches has, or neither
                a, b = read_part(left[key], name), read_part(right[key], name)
                if a.shape != b.shape:
                    other.append(key)
                else:
                    apart.append((cosine(a, b), key))
            if apart:
                lines.append(format_distance(name, apart))
            if other:
                lines.append(f"  {name}: {len(other)} rows of another shape, {other[0]} first")
            having = [folder for folder, side in ((one, left), (two, right)) if holds(side, name)]
            if both and len(having) == 1:
                lines.append(f"  {name}: only in {having[0]}")
        if kind == "lexicon":
            apart = [key for key in both if not np.array_equal(read_pieces(left[key]), read_pieces(right[key]))]
            some = f", {apart[0]} first" if apart else ""
            lines.append(f"  piece: {len(apart)} of {len(both)} rows differ{some}")
    return lines


def compare_tokens(
    left: dict[str, tuple[Shard, int]], right: dict[str, tuple[Shard, int]], both: list[str]
) -> str | None:
    """How many texts have the same token ids in two caches; None where one of the caches has none."""
    held = [key for key in both if all("token" in side[key][0].names for side in (left, right))]
    if not held:
        return None
    other = [key for key in held if not np.array_equal(read_ids(left[key]), read_ids(right[key]))]
    return f"  token: {len(held) - len(other)} of {len(held)} rows equal" + (f"; {other[0]} differs" if other else "")


def read_ids(where: tuple[Shard, int]) -> np.ndarray:
    """(L,) token ids of one row."""
    shard, row = where
    begin = row_starts(shard, "token")
    return shard["token"][begin[row] : begin[row + 1]]


def locate_rows(folder: Path, kind: str) -> dict[str, tuple[Shard, int]]:
    """Where each row of a cache is."""
    found = [shard for shard in open_cache(folder) if shard.kind == kind]
    return {key: (shard, row) for shard in found for row, key in enumerate(shard[KEYS[kind]])}


def holds(rows: dict[str, tuple[Shard, int]], name: str) -> bool:
    """Whether any of a cache's shards has an optional tensor."""
    return any(name in shard.names for shard in {shard.path: shard for shard, _ in rows.values()}.values())


def read_part(where: tuple[Shard, int], name: str) -> np.ndarray:
    """One row's part of a tensor, (L, D) float32."""
    shard, row = where
    begin = row_starts(shard, name)
    rows = shard[name][begin[row] : begin[row + 1]]
    return rows.reshape(-1, rows.shape[-1]).astype(np.float32)


def read_pieces(where: tuple[Shard, int]) -> np.ndarray:
    """One caption's pieces (L,)."""
    shard, row = where
    return shard["piece"][slice(*shard["piece_offset"][row : row + 2])]


@cache
def row_starts(shard: Shard, name: str) -> np.ndarray:
    """(rows + 1,) where each row begins in a tensor."""
    tensors = {cut: shard[cut] for cut in schema.offset_names(shard.kind, shard.names)} | {
        KEYS[shard.kind]: shard[KEYS[shard.kind]]
    }
    return row_bounds(shard.kind, tensors, TENSORS[shard.kind][name][1].split()[0])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between tokens at the same place; 1 where both are equal."""
    if np.array_equal(a, b):
        return 1.0
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(size, 1e-12)).min())


def format_distance(name: str, apart: list[tuple[float, str]]) -> str:
    """One line on a tensor: how many rows are equal, the mean and the worst cosines."""
    cosines = np.array([value for value, _ in apart])
    equal = f"{int((cosines == 1.0).sum())} of {len(cosines)} rows equal"
    line = f"  {name}: {equal}, cosine mean {cosines.mean():.6f}, least {cosines.min():.6f}"
    worst = [f"{key} {value:.6f}" for value, key in sorted(apart)[:SHOWN] if value < 1.0]
    return line + (f"; worst: {', '.join(worst)}" if worst else "")
