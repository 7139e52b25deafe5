"""Bring the index of a run up to date with the shards: rows whose mark stands are kept, the others encoded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.index import store
from eval.index.coarse import Coarse, join, spread
from eval.index.search import CLOSE, COARSE, SCAN, Index, read_tensors, save_tensors
from eval.index.tokens import pack
from eval.load import load_run, scores_name
from eval.similarity import ROWS, Scorer, item_kinds
from pipeline import files
from pipeline.progress import Progress
from pipeline.shards import Shard, fingerprint, iterate_rows, shard_paths
from train import checkpoint

KINDS = ("video", "image")
TOP = 10
PAIRS = 2_000_000  # scores made to choose how many candidates: fewer queries where items are many
QUERIES = 200
STEPS = (10, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000, 3000, 5000, 8000)  # candidates that are tried


@torch.inference_mode()
def build_index(run: Path, shards: Path, device: str = "cpu", recall: float = 0.99) -> dict[str, Any]:
    """Write `shards`/index/<run>, and return index.json: for each kind the items, those encoded now, bytes, and what was chosen.

    recall: the wanted share of the exact top ten among the ten that a search answers. Errors: as `load_run`.
    """
    method, cache, record = load_run(run, shards, device)
    scorer, folder = Scorer(method, cache, device), shards / "index" / scores_name(run, shards)
    weights = record.get("checkpoint") or checkpoint.digest(run / "checkpoint.pt")
    key = fingerprint(store.VERSION, weights, cache.frames, cache.patches, cache.dimension)
    with files.lock(folder):
        before = store.read_facts(folder)
        if before.get("key") != key:
            for path in folder.glob("*/*.safetensors"):
                path.unlink()
        made = {kind: update_kind(folder, kind, scorer, before.get("key") == key) for kind in KINDS}
        facts = {
            "key": key,
            "weights": weights,
            "run": run.name,
            "wanted": recall,
            "kinds": {kind: one for kind, one in made.items() if one},
        }
        save(folder, facts)
        for kind, one in facts["kinds"].items():
            index = Index(folder, kind, scorer)
            one["compared"] = "as before" if index.scans.exists() else index.build_scan()
            one["bytes_per_item"] = round(index.nbytes() / len(index))
            one |= choose(index, recall)
        save(folder, facts)
    return facts


def save(folder: Path, facts: dict[str, Any]) -> None:
    """Write index.json."""
    files.write(folder / "index.json", json.dumps(facts, indent=1) + "\n")


def update_kind(folder: Path, kind: str, scorer: Scorer, same: bool) -> dict[str, Any] | None:
    """Bring the parts of one kind up to date; what index.json says of it, None where there are no such items."""
    cache = scorer.cache
    marks, shard = marks_of(cache)
    photo, _ = item_kinds(cache, np.arange(len(cache)))
    rows = np.flatnonzero(~photo) if kind == "video" else np.arange(len(cache))
    if not len(rows):
        return None
    coarse = read_coarse(folder, kind, scorer, rows, same)
    encoded, paths = 0, set()
    meter = Progress(len(rows), f"index of {kind}s", "item")
    for number in np.unique(shard[rows]).tolist():
        own = rows[shard[rows] == number]
        path = folder / kind / f"{number:05d}.safetensors"
        paths.add(path)
        encoded += update_part(path, kind, own, marks, scorer, coarse)
        meter.add(len(own))
    meter.close()
    for path in store.part_paths(folder, kind):
        if path not in paths:
            (folder / kind / SCAN).unlink(missing_ok=True)
            path.unlink()
    files.open_to_others(folder / kind)  # safetensors writes for its user alone
    return {"items": len(rows), "encoded": encoded}


def marks_of(cache: Any) -> tuple[list[str], NDArray]:
    """What each item's encoded row depends on beside the run: its visual row, and its keyframe; and the shard that it is in."""
    found, shard = {}, {}
    for path in shard_paths(Path(cache.folder) / "visual"):
        for name, _, mark in iterate_rows(Shard(path, "visual")):
            found[name], shard[name] = mark, int(path.stem)
    table = files.read_table(Path(cache.folder) / "keyframes.parquet", ["video_id", "index"]).to_pydict()
    keyframe = dict(zip(table["video_id"], table["index"]))
    names = [str(name) for name in cache.video_id]
    marks = [fingerprint(found[name], keyframe.get(name)) for name in names]
    return marks, np.array([shard[name] for name in names], np.int64)


def read_coarse(folder: Path, kind: str, scorer: Scorer, rows: NDArray, same: bool) -> Coarse:
    """The references that stand, where they are of this run; else new ones, of the train split or of what there is."""
    path, cache = folder / kind / COARSE, scorer.cache
    if same and path.exists():
        return Coarse.of(kind, read_tensors(path), scorer.device)
    split = next(name for name in ("train", "val", "test") if len(cache.captions(name)))
    items = rows[cache.video_split[rows] == split]
    made = Coarse.fit(scorer, kind, cache.captions(split), items if len(items) else rows)
    save_tensors(path, made.tensors())
    for old in store.part_paths(folder, kind):  # their vectors are of other references
        old.unlink()
    return made


def update_part(path: Path, kind: str, rows: NDArray, marks: list[str], scorer: Scorer, coarse: Coarse) -> int:
    """Write one part unless it stands; how many of its items were encoded."""
    old = store.read_part(path)
    known = {mark: row for row, mark in enumerate(old.mark)} if old else {}
    wanted = [marks[row] for row in rows]
    names = [str(scorer.cache.video_id[row]) for row in rows]
    if old and old.mark == wanted and old.id == names:
        return 0
    (path.parent / SCAN).unlink(missing_ok=True)  # it is of other rows from now on, also if this ends here
    fresh = [place for place, mark in enumerate(wanted) if mark not in known]
    vectors, blocks = [], []
    for at in range(0, len(fresh), ROWS):
        block = scorer.encode(rows[fresh[at : at + ROWS]], kind)
        vectors.append(coarse.items(scorer, block))
        blocks.append(block)
    kept_places = [place for place, mark in enumerate(wanted) if mark in known]
    kept = old.rows([known[wanted[place]] for place in kept_places]) if kept_places else {}
    tensors = [pack(join(blocks))] if blocks else []
    order = np.argsort(np.array([*kept_places, *fresh]), kind="stable")
    parts = ([kept] if kept_places else []) + tensors
    index = torch.from_numpy(order)
    whole = {name: value[index] for name, value in join(parts).items()}
    coarse_rows = [old.coarse[[known[wanted[place]] for place in kept_places]]] if kept_places else []
    store.write_part(path, names, wanted, np.concatenate([*coarse_rows, *vectors])[order], whole)
    return len(fresh)


def choose(index: Index, wanted: float) -> dict[str, Any]:
    """The fewest candidates, and the fewest scored from the shards, by which val finds the wanted share of its exact ten."""
    scorer, cache = index.scorer, index.scorer.cache
    split = next((name for name in ("val", "train", "test") if len(cache.captions(name))), None)
    if split is None:
        return {"candidates": 200, "close": CLOSE[-1], "recall": None}
    captions = spread(cache.captions(split), max(8, min(QUERIES, PAIRS // len(index))))
    row = {str(name): place for place, name in enumerate(cache.video_id)}
    score = scorer.matrix(captions, np.array([row[name] for name in index.id]), index.kind)
    truth = np.argsort(-score, axis=1, kind="stable")[:, :TOP]
    texts = [scorer.encode(captions[at : at + ROWS], "text") for at in range(0, len(captions), ROWS)]
    return fewest(index, texts, truth, wanted) | {"chosen_on": split}


def fewest(index: Index, texts: list[dict[str, torch.Tensor]], truth: NDArray, wanted: float) -> dict[str, Any]:
    """The fewest candidates, and the fewest of those scored from the shards, by which encoded texts find the wanted share of
    their true rows (Q, TOP). What is true and on the shortlist is found: that is put in order by the run's own score.

    Half of what may be missed is left for other queries than these."""
    wanted = (1 + wanted) / 2
    for candidates in [step for step in STEPS if step < 2 * len(index)] or [len(index)]:
        found = [index.shortlist(text, min(candidates, CLOSE[-1]), candidates)[0] for text in texts]
        row = np.concatenate(found)
        if (share := overlap(row, truth)) >= wanted:
            break
    near = {close: overlap(row[:, :close], truth) for close in CLOSE}
    close = next(close for close in CLOSE if near[close] == share)  # so many that 8 bits a number cost nothing
    return {"candidates": candidates, "close": min(close, candidates), "recall": near[close]}


@torch.inference_mode()
def score_two_stages(
    run: Path, shards: Path, split: str, exact: dict[str, list[str]], device: str = "cpu"
) -> dict[str, Any]:
    """Text to video in two stages among a split's videos, the index brought up to date before.

    exact: caption id -> the ids of its ten best videos by the run's own score. R@1, R@5, R@10 in percent; `recall10`, the share
    of the exact ten among the ten found; candidates of how many videos. Errors: ParamsError where the split has no videos.
    """
    facts = build_index(run, shards, device)
    method, cache, _ = load_run(run, shards, device)
    scorer, captions = Scorer(method, cache, device), cache.captions(split)
    own = {str(cache.video_id[row]) for row in cache.videos(split)}
    if "video" not in facts["kinds"] or not len(captions):
        raise files.ParamsError(f"split {split!r} of {shards} has no captions of videos to look for in two stages")
    index = Index(shards / "index" / scores_name(run, shards), "video", scorer)
    among = np.array([name in own for name in index.id])
    blocks = [captions[at : at + ROWS] for at in range(0, len(captions), ROWS)]
    found = np.concatenate([index.search(scorer.encode(block, "text"), TOP, among=among)[0] for block in blocks])
    named = np.where(found >= 0, index.id[found], "")
    right = named == cache.video_id[cache.video_of[captions]][:, None]
    made: dict[str, Any] = {f"R@{cut}": round(100 * float(right[:, :cut].any(1).mean()), 2) for cut in (1, 5, TOP)}
    best = [exact[str(cache.caption_id[row])] for row in captions]
    shares = [len(set(mine) & set(its)) / max(len(its), 1) for mine, its in zip(named.tolist(), best)]
    made["recall10"] = round(float(np.mean(shares)), 4)
    return made | {"candidates": min(index.candidates, int(among.sum())), "videos": int(among.sum())}


def overlap(found: NDArray, truth: NDArray) -> float:
    """Share of the exact top ten that are among the ten found."""
    hits = [len(np.intersect1d(one, other)) for one, other in zip(found, truth)]
    return round(float(np.mean(hits)) / truth.shape[1], 4)
