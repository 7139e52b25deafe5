"""Score one trained run on one split: `metrics.json`, `ranks.parquet`, `recall.csv` and a table.

python -m eval.run --run cache/demo/runs/unitrim --shards cache/demo [--split test]
torchrun --nproc-per-node N -m eval.run --of cache/demo/runs/unitrim --shards cache/demo shares the gallery among N processes.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval import joint, metrics
from eval.attention import describe_attention
from eval.centre import Means, find_means
from eval.index import score_two_stages
from eval.load import load_run, scores_name
from eval.normalise import RULES, normalise
from eval.overview import run_table, to_text
from eval.similarity import Scorer, Scores, add_up, item_kinds, matrices
from eval.stale import facts_of
from eval.vectors import read_vocabulary, what_they_say
from pipeline import files, stage
from pipeline.shards import identity
from train import checkpoint, distributed
from train.method import Config

BANK = 2000  # train captions that a normalisation reads, at most
TOP = 10  # items of each gallery that ranks.parquet keeps


def measure(
    scores: Scores,
    rule: str = "query",
    moments: dict[str, tuple[float, float]] | None = None,
    factors: dict[str, float] | None = None,
) -> tuple[Any, Any]:
    """All numbers of metrics.json, and the columns of ranks.parquet.

    rule, moments, factors: how the joint gallery comes onto one scale (joint.merge).
    """
    numbers: dict[str, Any] = {}
    columns: dict[str, Any] = {"caption_id": list(scores.caption_id), "video_id": list(scores.owner)}
    for kind, there, back in (("video", "t2v", "v2t"), ("image", "t2i", "i2t")):
        matrix, truth = getattr(scores, kind), scores.truth(kind)
        none = [None] * len(truth)
        columns |= {f"{kind}_rank": none, f"{kind}_text_rank": none} | top_columns(matrix, scores.gallery(kind), kind)
        if not (truth >= 0).any():  # photos only, or captions of photos only
            continue
        rank, asked = metrics.text_to_item(matrix, truth)
        numbers[there] = metrics.summary(rank, matrix.shape[1])
        back_rank = metrics.item_to_text(scores.back.get(kind, matrix), truth)
        numbers[back] = metrics.summary(back_rank, len(back_rank))
        if scores.group:
            numbers[f"{there}_group"] = metrics.grouped(
                matrix[asked], truth[asked], scores.groups(kind), scores.group_kinds(kind)
            )
        columns[f"{kind}_rank"] = spread_ranks(rank, asked, len(truth))
        first = asked[np.unique(truth[asked], return_index=True)[1]]  # each item's rank stands at its first caption
        columns[f"{kind}_text_rank"] = spread_ranks(back_rank, first, len(truth))
    for name, part in scores.parts.items():
        alone, ranked = measure(replace(scores, **part, parts={}, active={}))
        numbers.setdefault("parts", {})[name] = alone
        columns |= {f"{name}_{column}": ranked[column] for column in ranked if column.endswith("_rank")}
    if scores.active:
        numbers["active"] = {name: round(value, 1) for name, value in scores.active.items()}
    numbers["joint"], more = joint_metrics(scores, rule, moments, factors)
    numbers["joint_rules"] = {
        each: numbers["joint"] if each == rule else joint_metrics(scores, each, moments, factors)[0]
        for each in joint.SHOWN
        if factors or each not in joint.FITTED
    }
    numbers["n"] = {"texts": len(scores.caption_id), "videos": len(scores.video_id), "images": len(scores.image_id)}
    return numbers, columns | more


def joint_metrics(
    scores: Scores, rule: str, moments: dict[str, tuple[float, float]] | None, factors: dict[str, float] | None
) -> tuple[Any, Any]:
    """The joint gallery's numbers and columns: videos first, then images."""
    kinds = [kind for kind in ("video", "image") if len(scores.gallery(kind))]
    both = joint.merge({kind: getattr(scores, kind) for kind in kinds}, rule, moments, factors)
    ids = np.concatenate([scores.gallery(kind) for kind in kinds])
    right = scores.owner[:, None] == ids[None, :]
    numbers = metrics.joint(both, right, images=len(scores.image_id)) | {"calibration": rule}
    labels = np.array([f"{kind}:{name}" for kind in kinds for name in scores.gallery(kind)], dtype=object)
    pair = np.flatnonzero(right.sum(1) > 1)
    whole = metrics.last_rank(both[pair], right[pair]) if len(pair) else []
    ranks = {"joint_rank": metrics.first_rank(both, right), "both_rank": spread_ranks(whole, pair, len(both))}
    return numbers, ranks | top_columns(both, labels, "joint")


def rung_metrics(
    scores: Scores, rungs: list[dict[str, float]]
) -> tuple[list[dict[str, Any]], dict[str, list[float | None]]]:
    """Text to video by fewer parts of a fused score, each rung by the weights that were chosen for it.

    Its numbers, and its column `rung<place>_rank` of ranks.parquet.
    """
    truth = scores.truth("video")
    if not (truth >= 0).any():
        return [], {}
    made, columns = [], {}
    for place, weights in enumerate(rungs):
        matrix = add_up(scores.fused, weights)
        rank, asked = metrics.text_to_item(matrix, truth)
        columns[f"rung{place}_rank"] = spread_ranks(rank, asked, len(truth))
        made.append(
            {"parts": list(weights), "weights": list(weights.values())} | metrics.summary(rank, matrix.shape[1])
        )
    return made, columns


def spread_ranks(rank: Sequence[float], asked: NDArray, count: int) -> list[float | None]:
    """Ranks laid out over all texts, None where a text has none, as where its item is not in this gallery."""
    column: list[float | None] = [None] * count
    for place, value in zip(asked, rank):
        column[place] = float(value)
    return column


def top_columns(matrix: NDArray, ids: NDArray, kind: str) -> dict[str, list]:
    """Columns `<kind>_top` and `<kind>_score`: each text's ten best items; equal scores in the gallery's order."""
    order = metrics.top(matrix, TOP)
    value = np.take_along_axis(matrix, order, axis=1).astype(np.float32)
    return {f"{kind}_top": [list(ids[row]) for row in order], f"{kind}_score": [list(map(float, row)) for row in value]}


def moments_of_other_split(
    method: Any, cache: Any, split: str, device: str
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Mean and deviation of each modality's scores on a split that is not the scored one: val, else train."""
    for other in ("val", "train"):
        if other != split and len(cache.captions(other)):
            scores = matrices(method, cache, other, device)
            kinds = [kind for kind in ("video", "image") if len(scores.gallery(kind))]
            return other, {
                kind: (float(getattr(scores, kind).mean()), float(getattr(scores, kind).std())) for kind in kinds
            }
    raise files.ParamsError(f"there is no split but {split!r} to take the calibration from; use --joint query")


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # torchrun takes `--run` for one of its own flags, half said; `--of` is for it
    parser.add_argument("--run", "--of", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    parser.add_argument("--split", default="test", help="test (default), val or train")
    parser.add_argument(
        "--joint",
        choices=joint.RULES,
        help="how the joint gallery's kinds come onto one scale; `pair` where the run allows it",
    )
    parser.add_argument("--norm", choices=RULES, help="normalise the scores, as a row of its own: scores/<run>+<rule>")
    parser.add_argument(
        "--two-stage",
        action="store_true",
        help="then look for the split's videos by the run's index as well: what few candidates find of the exact top ten",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    if args.two_stage and distributed.launched():
        raise files.ParamsError("--two-stage is for one process; run it without torchrun")
    with distributed.group():
        numbers = score_run(args.run, args.shards, args.split, args.joint, args.device, args.norm)
        first = distributed.is_first()
    if "skipped" in numbers or not first:
        return
    print(f"{numbers['method']}, seed {numbers['seed']}, {args.split} split of {args.shards}")
    print(to_text([run_table(numbers)]))
    print(f"the joint gallery is calibrated by {numbers['joint']['calibration']}")
    if args.two_stage:
        print(two_stages(args.run, args.shards, args.split, args.device))


def two_stages(run: Path, shards: Path, split: str, device: str = "auto") -> str:
    """Write scores/<run>/two_stage.json beside the scores that stand; what it says, in a sentence."""
    home = shards / "scores" / scores_name(run, shards)
    exact = files.read_table(home / "ranks.parquet", ["caption_id", "video_top"]).to_pydict()
    device = str(distributed.device()) if device == "auto" else device
    made = score_two_stages(run, shards, split, dict(zip(exact["caption_id"], exact["video_top"])), device)
    files.write(home / "two_stage.json", json.dumps(made, indent=1) + "\n")
    recalls = ", ".join(f"R@{cut} {made[f'R@{cut}']}" for cut in (1, 5, 10))
    return (
        f"text to video in two stages, {made['candidates']} candidates of {made['videos']}: {recalls}; "
        f"{made['recall10']:.1%} of the exact top ten"
    )


def score_run(
    run: Path, shards: Path, split: str = "test", rule: str | None = None, device: str = "auto", norm: str | None = None
) -> dict[str, Any]:
    """Score a run on a split and write the scores; the numbers of metrics.json, of a run that has none with `skipped`.

    rule: of the joint gallery (joint.RULES). By default `pair` by the factors that the run was fitted with; `query` where there
    are none, and for scores that a normalisation has changed, but `raw` after mean removal, which is a scale itself.

    Errors: UniTriMError that says what to run first; ValueError where the scores cannot be ranked.
    """
    device = str(distributed.device()) if device == "auto" else device
    home = shards / "scores" / with_rule(scores_name(run, shards), norm)
    if "skipped" in (record := checkpoint.facts(run)):
        return skip(home, split, identify(run, record, shards, split, {}) | {"skipped": record["skipped"]})
    with distributed.in_turn():
        method, cache, record = load_run(run, shards, device)
    facts = identify(run, record, shards, split, identity(shards, method.needs - method.taught_by))
    if split == "test" and not len(cache.captions("test")):
        return skip(home, split, facts | {"skipped": "not scored: the test split has no captions"})
    factors = None if norm else record.get("joint", {}).get("factors")
    rule = rule or ("raw" if norm == "mean" else "pair" if factors else "query")
    try:
        origin, moments = moments_of_other_split(method, cache, split, device) if rule == "split" else (None, None)
        means = train_means(method, cache, device) if norm == "mean" else None
        scores = matrices(method, cache, split, device, means)
        if norm and norm != "mean":
            scores = normalised(norm, scores, method, cache, split, device)
        numbers, columns = measure(scores, rule, moments, factors)
    except ValueError as error:
        raise ValueError(f"{run} on {shards}: {error}") from None
    if origin:
        numbers["joint"]["calibrated_on"] = origin
    if factors:
        numbers["joint"]["fitted"] = record["joint"]
    if scores.fused and not norm:
        numbers["rungs"], more = rung_metrics(scores, record.get("fusion", {}).get("rungs", []))
        columns |= more
    for name in sorted(method.sparse):
        numbers["says"] = words_of(method, cache, split, record.get("seed", 0), name, device)
    if norm:
        numbers = {"normalisation": norm} | numbers
        if norm in ("qb", "sk"):  # a bank of captions says nothing of how texts compare for a video
            numbers = {name: part for name, part in numbers.items() if name not in ("v2t", "i2t")}
    numbers = facts | numbers
    if distributed.is_first():
        save_scores(home, split, numbers, columns, describe_attention(method, shards, split, device))
    return numbers


def words_of(method: Any, cache: Any, split: str, seed: int, name: str, device: str) -> list[dict[str, Any]]:
    """What some captions and videos of a split say in the words of a lexicon, before training and after it."""
    start = None
    if method.config.tune == Config.tune:  # of tuned blocks the start lies in another file
        kind = type(method)
        torch.manual_seed(seed)
        fresh = kind(method.config).to(device).eval()
        fresh.begin(cache.folder)
        start = Scorer(fresh, cache, device)
    with torch.inference_mode():
        return what_they_say(
            Scorer(method, cache, device), start, cache.captions(split), read_vocabulary(cache.folder), name
        )


def train_means(method: Any, cache: Any, device: str) -> Means:
    """Mean vectors of train's captions and items, of BANK of each at most. ParamsError where there are none."""
    captions, items = cache.captions("train"), cache.videos("train")
    if not len(captions):
        raise files.ParamsError("--norm mean reads train captions, and there are none")
    step = [-(-len(rows) // BANK) for rows in (captions, items)]
    with torch.inference_mode():
        return find_means(Scorer(method, cache, device), captions[:: step[0]], items[:: step[1]])


def normalised(norm: str, scores: Scores, method: Any, cache: Any, split: str, device: str) -> Scores:
    """Scores normalised by a rule; its bank is train captions, evenly spread. ParamsError where there are none."""
    bank: dict[str, Any] = {"video": None, "image": None}
    if norm != "dsl":
        captions = cache.captions("train")
        if not len(captions):
            raise files.ParamsError(f"--norm {norm} reads train captions, and there are none")
        captions = captions[:: -(-len(captions) // BANK)]
        items = cache.videos(split)
        photo, _ = item_kinds(cache, items)
        scorer = Scorer(method, cache, device)
        with torch.inference_mode():
            bank = {
                "video": scorer.matrix(captions, items[~photo], "video"),
                "image": scorer.matrix(captions, items, "image"),
            }
    made = {kind: normalise(norm, getattr(scores, kind), bank[kind]) for kind in bank if len(scores.gallery(kind))}
    back = {kind: normalise(norm, getattr(scores, kind).T).T for kind in made} if norm == "dsl" else {}
    return replace(scores, **made, back=back, parts={})


def with_rule(name: str, norm: str | None) -> str:
    """The name of a run's scores, a rule's before its seed: ucofia+sk-seed1."""
    own, seed, number = name.partition("-seed")
    return f"{own}+{norm}{seed}{number}" if norm else name


def identify(run: Path, record: dict[str, Any], shards: Path, split: str, parts: dict[str, str]) -> dict[str, Any]:
    """Of which run and which shards the scores are, so that a table can tell when they are no longer of those that stand."""
    method, seed = record.get("method", run.name), record.get("seed", 0)
    home = {"dataset": record.get("dataset", shards.name), "run": facts_of(record), "shards": parts}
    return {"method": method, "seed": seed, "split": split} | home


def skip(folder: Path, split: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Scores of a run that has none: the reason, and no rows."""
    if not distributed.is_first():
        return numbers
    save_scores(folder, split, numbers, {"caption_id": [], "video_id": []})
    print(f"{numbers['method']}, seed {numbers['seed']}: {numbers['skipped']}")
    return numbers


def recall_curve(columns: dict[str, Any]) -> str:
    """Lines of K and the share of texts whose video (or image, where there is none) is among the first K, up to 50."""
    ranks = [
        np.array([rank for rank in columns.get(f"{kind}_rank", []) if rank is not None]) for kind in ("video", "image")
    ]
    rank = next((one for one in ranks if len(one)), np.zeros(0))
    lines = [f"{place},{100 * float(np.mean(rank <= place)):.2f}" for place in range(1, 51)] if len(rank) else []
    return "\n".join(["K,recall", *lines]) + "\n"


def save_scores(
    folder: Path, split: str, numbers: dict[str, Any], columns: dict[str, Any], attention: Sequence[dict[str, Any]] = ()
) -> None:
    """Write metrics.json, ranks.parquet, recall.csv and attention.json; those of another split than test carry its name."""
    import pyarrow

    types = {"id": pyarrow.string(), "rank": pyarrow.float64(), "top": pyarrow.list_(pyarrow.string())}
    types["score"] = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema([(name, types[name.rsplit("_", 1)[1]]) for name in columns])
    suffix = "" if split == "test" else f"-{split}"
    files.write_table(folder / f"ranks{suffix}.parquet", pyarrow.table(columns, schema))
    files.write(folder / f"metrics{suffix}.json", json.dumps(numbers, indent=1) + "\n")
    files.write(folder / f"recall{suffix}.csv", recall_curve(columns))
    files.write(folder / f"attention{suffix}.json", json.dumps(list(attention)) + "\n")
    print(f"wrote {folder / f'metrics{suffix}.json'} and ranks{suffix}.parquet")


if __name__ == "__main__":
    main()
