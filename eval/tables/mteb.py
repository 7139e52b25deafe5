"""Scores in the layout of MTEB's TaskResult JSON, so that a run can stand beside what the embedding community publishes.

Every number is of our own split, whose sizes differ from MTEB's (its MSR-VTT has 879 pairs, 1k-A has 1,000): the split's name
says which and how many, and is never MTEB's own. Values are 0 to 1.
"""

# Axes: Q queries.

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.overview import gather_metrics
from eval.tables.build import read_ranks
from pipeline import files
from train import checkpoint

CUTS = (1, 3, 5, 10, 20, 100)
TASKS = {  # by dataset and direction: MTEB's name where it has the task
    ("msrvtt", "t2v"): "MSRVTTT2V",
    ("msvd", "t2v"): "MSVDT2VRetrieval",
    ("didemo", "t2v"): "DiDeMoT2VRetrieval",
}
KEPT = {"t2v": "video_rank", "t2i": "image_rank"}
LANGUAGES = ["eng-Latn"]


def export_mteb(home: Path, folder: Path, split: str) -> list[Path]:
    """A file a run and direction: `<folder>/<run>/<checkpoint>/<task>.json`; of all runs whose scores are of what stands."""
    written = []
    for name, seeds in gather_metrics(home, table_rows=True).items():
        for metrics in seeds:
            run = f"{name}-seed{metrics['seed']}" if metrics["seed"] else name
            record = checkpoint.facts(home / "runs" / run)
            for direction, column in KEPT.items():
                if direction not in metrics:
                    continue
                rank = read_ranks(home / "scores" / run, column)
                task = TASKS.get((home.name, direction), f"{home.name}-{direction}")
                told = task_result(task, rank, metrics[direction], metrics["split"], split, record)
                path = folder / run / record.get("checkpoint", "untrained") / f"{task}.json"
                files.write(path, json.dumps(told, indent=1) + "\n")
                written.append(path)
    return written


def task_result(
    task: str, rank: NDArray, section: dict[str, Any], split: str, protocol: str, record: dict[str, Any]
) -> dict[str, Any]:
    """One TaskResult. `dataset_revision` is a digest of the very items and captions, as the run knows them."""
    name = "-".join(filter(None, [split, protocol, f"{section['queries']}x{section['gallery']}"]))
    parts = record.get("shards", {})
    subset = retrieval_scores(rank) | {"hf_subset": "default", "languages": LANGUAGES}
    return {
        "dataset_revision": f"{parts.get('splits', '')}-{parts.get('text', '')}",
        "task_name": task,
        "mteb_version": None,  # MTEB did not compute these
        "scores": {name: [subset | {"queries": section["queries"], "gallery": section["gallery"]}]},
        "evaluation_time": None,
        "kg_co2_emissions": None,
    }


def retrieval_scores(rank: NDArray) -> dict[str, float]:
    """Of queries with one right item each, by its rank (Q,): nDCG, MAP, MRR, recall and precision at each cut."""
    found: dict[str, float] = {}
    for cut in CUTS:
        hit = rank <= cut
        reciprocal = float(np.mean(np.where(hit, 1 / rank, 0)))
        found |= {
            f"ndcg_at_{cut}": float(np.mean(np.where(hit, 1 / np.log2(1 + rank), 0))),
            f"map_at_{cut}": reciprocal,
            f"mrr_at_{cut}": reciprocal,
            f"recall_at_{cut}": float(np.mean(hit)),
            f"precision_at_{cut}": float(np.mean(hit)) / cut,
        }
    found = {name: round(value, 5) for name, value in found.items()}
    return found | {"main_score": found["ndcg_at_10"]}
