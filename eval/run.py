"""Score one trained run on one split: `metrics.json`, `ranks.parquet` and a table.

python -m eval.run --run cache/demo/runs/unitrim --shards cache/demo [--split test]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import metrics
from eval.similarity import Scores, matrices
from pipeline import stage

TOP = 10  # items of each gallery that ranks.parquet keeps
DIRECTIONS = {"t2v": "text → video", "v2t": "video → text", "t2i": "text → image", "i2t": "image → text"}


def measure(
    scores: Scores, rule: str = "query", moments: dict[str, tuple[float, float]] | None = None
) -> tuple[Any, Any]:
    """All numbers of metrics.json, and the columns of ranks.parquet.

    rule, moments: how the joint gallery is calibrated (metrics.calibrate).
    """
    told: dict[str, Any] = {}
    columns: dict[str, Any] = {"caption_id": list(scores.caption_id), "video_id": list(scores.owner)}
    for kind, there, back in (("video", "t2v", "v2t"), ("image", "t2i", "i2t")):
        matrix, truth = getattr(scores, kind), scores.truth(kind)
        columns |= {f"{kind}_rank": [None] * len(truth)} | best(matrix, scores.gallery(kind), kind)
        if not (truth >= 0).any():  # photos only, or captions of photos only
            continue
        rank, asked = metrics.text_to_item(matrix, truth)
        told[there] = metrics.summary(rank, matrix.shape[1])
        back_rank = metrics.item_to_text(matrix, truth)
        told[back] = metrics.summary(back_rank, len(back_rank))
        if scores.group:
            told[f"{there}_group"] = metrics.grouped(matrix[asked], truth[asked], scores.groups(kind))
        columns[f"{kind}_rank"] = spread(rank, asked, len(truth))
    told["joint"], more = together(scores, rule, moments or {})
    told["n"] = {"texts": len(scores.caption_id), "videos": len(scores.video_id), "images": len(scores.image_id)}
    return told, columns | more


def together(scores: Scores, rule: str, moments: dict[str, tuple[float, float]]) -> tuple[Any, Any]:
    """The joint gallery's numbers and columns: videos first, then images."""
    kinds = [kind for kind in ("video", "image") if len(scores.gallery(kind))]
    both = np.concatenate([metrics.calibrate(getattr(scores, kind), rule, moments.get(kind)) for kind in kinds], axis=1)
    ids = np.concatenate([scores.gallery(kind) for kind in kinds])
    right = scores.owner[:, None] == ids[None, :]
    told = metrics.joint(both, right, images=len(scores.image_id)) | {"calibration": rule}
    labels = np.array([f"{kind}:{name}" for kind in kinds for name in scores.gallery(kind)], dtype=object)
    return told, {"joint_rank": metrics.first_rank(both, right)} | best(both, labels, "joint")


def spread(rank: NDArray, asked: NDArray, count: int) -> list[float | None]:
    """Ranks laid out over all texts, None where the text's item is not in this gallery."""
    column: list[float | None] = [None] * count
    for place, value in zip(asked, rank):
        column[place] = float(value)
    return column


def best(matrix: NDArray, ids: NDArray, kind: str) -> dict[str, list]:
    """Columns `<kind>_top` and `<kind>_score`: each text's ten best items; equal scores in the gallery's order."""
    order = metrics.top(matrix, TOP)
    value = np.take_along_axis(matrix, order, axis=1).astype(np.float32)
    return {f"{kind}_top": [list(ids[row]) for row in order], f"{kind}_score": [list(map(float, row)) for row in value]}


def table(told: dict[str, Any]) -> str:
    """A run's numbers as a person reads them."""
    lines = [f"{'':<26}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'MdR':>7}{'MnR':>8}{'Rsum':>8}   n"]
    for name, label in DIRECTIONS.items():
        if name in told:
            lines.append(line(label, told[name]))
    for name, label in (("t2v_group", "  any look-alike video"), ("t2i_group", "  any look-alike image")):
        if name in told:
            lines.append(line(label, told[name]))
    lines.append(line("joint: either", told["joint"]))
    if "both" in told["joint"]:
        lines.append(line("joint: both (R@2 first)", told["joint"]["both"]))
    for name, label in (("t2v_group", "videos"), ("t2i_group", "images")):
        if "in_group" in told.get(name, {}):
            group = told[name]
            lines.append(
                f"the right one among its look-alike {label}: {group['in_group']:.1f} % of {group['in_group_queries']} "
                f"texts (chance {group['in_group_chance']:.1f} %)"
            )
    joint = told["joint"]
    lines.append(
        f"joint gallery calibrated by {joint['calibration']}; images in its first ten: {joint['images@10']:.0f} %"
    )
    return "\n".join(lines)


def line(label: str, told: dict[str, Any]) -> str:
    """One row of the table; n is queries over gallery."""
    recall = [value for name, value in told.items() if name.startswith("R@")]
    cells = "".join(f"{value:7.1f}" for value in recall)
    return (
        f"{label:<26}{cells}{told['MdR']:7.1f}{told['MnR']:8.1f}{told['Rsum']:8.1f}   "
        f"{told['queries']} over {told['gallery']}"
    )


def opened(run: Path, shards: Path, device: str) -> tuple[Any, Any, dict[str, Any]]:
    """The method of a run, the cache it reads, and run.json; SystemExit says what to run first."""
    record_path = run / "run.json"
    if not (shards / "visual").is_dir() or not (shards / "text").is_dir():
        raise SystemExit(f"{shards} has no visual and text shards; run: dvc repro text@{shards.name}")
    if not record_path.exists():
        method = run.name.split("-seed")[0]
        raise SystemExit(
            f"{run} is no finished run; run: python -m train.run --shards {shards} --method {method}"
            f"   (or dvc repro train@{shards.name})"
        )
    from train import checkpoint, data

    record = json.loads(record_path.read_text())
    try:
        method = checkpoint.load(run, device)
        cache = data.Cache(shards, method.needs, words=method.config.words, triplets=method.config.triplets)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    if record.get("clip_sha256", cache.clip_sha256) != cache.clip_sha256:
        raise SystemExit(
            f"{run} was trained on features of another CLIP than {shards} holds; train again or encode again"
        )
    if cache.frames > method.config.frames:
        raise SystemExit(
            f"{run} was trained for {method.config.frames} frames a video, {shards} has up to {cache.frames}"
        )
    return method, cache, record


def name_of(run: Path, shards: Path) -> str:
    """Folder name under scores/: the run's own, with its dataset before it where that is another one."""
    home = run.resolve().parent.parent
    return run.name if home == shards.resolve() else f"{home.name}-{run.name}"


def device_of(wanted: str) -> str:
    """`auto` is the GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def other_moments(method: Any, cache: Any, split: str, device: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """Mean and deviation of each modality's scores on a split that is not the scored one: val, else train."""
    for other in ("val", "train"):
        if other != split and len(cache.captions(other)):
            scores = matrices(method, cache, other, device)
            kinds = [kind for kind in ("video", "image") if len(scores.gallery(kind))]
            return other, {
                kind: (float(getattr(scores, kind).mean()), float(getattr(scores, kind).std())) for kind in kinds
            }
    raise ValueError(f"there is no split but {split!r} to take the calibration from; use --joint query")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    parser.add_argument("--split", default="test", help="test (default), val or train")
    parser.add_argument(
        "--joint", default="query", choices=metrics.CALIBRATIONS, help="calibration of the joint gallery"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    device = device_of(args.device)
    method, cache, record = opened(args.run, args.shards, device)
    try:
        origin, moments = other_moments(method, cache, args.split, device) if args.joint == "split" else (None, None)
        told, columns = measure(matrices(method, cache, args.split, device), args.joint, moments)
    except ValueError as error:
        raise SystemExit(f"{args.run} on {args.shards}: {error}") from None
    if origin:
        told["joint"]["calibrated_on"] = origin
    name = record.get("method", args.run.name)
    told = {"method": name, "seed": record.get("seed", 0), "split": args.split} | told
    save(args.shards / "scores" / name_of(args.run, args.shards), args.split, told, columns)
    print(f"{name}, seed {told['seed']}, {args.split} split of {args.shards}")
    print(table(told))


def save(folder: Path, split: str, told: dict[str, Any], columns: dict[str, Any]) -> None:
    """Write metrics.json and ranks.parquet; those of another split than test carry its name."""
    import pyarrow

    types = {"id": pyarrow.string(), "rank": pyarrow.float64(), "top": pyarrow.list_(pyarrow.string())}
    types["score"] = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema([(name, types[name.rsplit("_", 1)[1]]) for name in columns])
    suffix = "" if split == "test" else f"-{split}"
    stage.write_table(folder / f"ranks{suffix}.parquet", pyarrow.table(columns, schema))
    stage.write(folder / f"metrics{suffix}.json", json.dumps(told, indent=1) + "\n")
    print(f"wrote {folder / f'metrics{suffix}.json'} and ranks{suffix}.parquet")


if __name__ == "__main__":
    main()
