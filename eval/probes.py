"""What can be read from the parts of a text that a method tells apart, by linear probes on the known truth of a dataset.

python -m eval.probes --run cache/demo/runs/unitrim --shards cache/demo [--split test]

From a spatial part one should read what a picture shows (shape, colour, place) and not what happens; from a temporal part the
opposite. A probe is a multinomial logistic regression from (D,) vectors, fitted and scored across folds of the split's captions;
look-alikes share a fold. It says what is linearly there, in words that no training has seen; fitted on fewer captions it reads
less, so that splits of different sizes do not compare. It writes cache/<dataset>/scores/<run>/probes.json, which the report
shows. Chance is the share of the commonest answer.
"""

# Axes: T captions, D embedding, C classes.

import argparse
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eval.load import load_run, scores_name
from eval.stale import facts_of
from pipeline import datasets, files, params, stage
from train.layers import full_precision

FOLDS = 5
RIDGE = 1e-3  # of the squared weights over standardised features
ITERATIONS = 100
ROWS = 256  # captions encoded at a time
FEWEST = 10  # captions that a fact must be told of, and groups of them, before it is probed


def fit(vector: Tensor, label: Tensor, classes: int) -> Tensor:
    """(D + 1, C) weights of a logistic regression, the last row the bias; convex, so the same for the same numbers."""
    weight = torch.zeros(vector.shape[1] + 1, classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(vector @ weight[:-1] + weight[-1], label) + RIDGE * weight[:-1].square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return weight.detach()


def probe(vector: Tensor, answers: list[str], groups: list[str]) -> dict[str, float]:
    """Percent of `answers` (T,) that a probe reads from vectors (T, D) of groups that it was not fitted on, and chance."""
    names, label = np.unique(answers, return_inverse=True)
    fold, label = torch.from_numpy(fold_of(groups)), torch.from_numpy(label)
    hit = torch.zeros(len(label), dtype=torch.bool)
    for number in fold.unique():
        held = fold == number
        mean, spread = vector[~held].mean(0), vector[~held].std(0).clamp(min=1e-6)
        unit = (vector - mean) / spread
        weight = fit(unit[~held], label[~held], len(names))
        hit[held] = (unit[held] @ weight[:-1] + weight[-1]).argmax(1) == label[held]
    chance = float(np.bincount(label).max() / len(label))
    return {"right": round(100 * hit.float().mean().item(), 2), "chance": round(100 * chance, 2), "texts": len(label)}


def fold_of(groups: list[str]) -> NDArray:
    """(T,) the fold of each text, the same for all of a group."""
    return np.array([zlib.crc32(group.encode()) % FOLDS for group in groups])


def probe_all(
    parts: dict[str, Tensor], facts: list[dict[str, str]], groups: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """{fact: {part: probe}} of each fact that enough of the texts (T,) are known to tell."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for fact in dict.fromkeys(name for known in facts for name in known):
        told = [at for at, known in enumerate(facts) if fact in known]
        own = [groups[at] for at in told]
        if len(told) >= FEWEST and len(set(fold_of(own))) > 1 and len({facts[at][fact] for at in told}) > 1:
            answers = [facts[at][fact] for at in told]
            found[fact] = {name: probe(part[told], answers, own) for name, part in parts.items()}
    return found


@torch.no_grad()
def encode(method: Any, cache: Any, rows: NDArray, device: str) -> dict[str, Tensor]:
    """{part: (T, D)} on the CPU."""
    blocks = []
    for at in range(0, len(rows), ROWS):
        features = {name: tensor.to(device) for name, tensor in cache.text(rows[at : at + ROWS]).items()}
        blocks.append(full_precision(method.text_parts)(features))
    return {name: torch.cat([block[name] for block in blocks]).float().cpu() for name in blocks[0]} if blocks else {}


def probe_run(run: Path, shards: Path, split: str, device: str = "cpu") -> dict[str, Any]:
    """Everything that probes.json holds. ParamsError where the dataset has no known truth or the method no parts."""
    config = params.read_dataset(shards.name)
    known = datasets.known_facts(datasets.load(config["reader"]), config)
    if not known:
        raise files.ParamsError(f"of {shards.name} nothing is known to be true but its captions; demo has such facts")
    method, cache, record = load_run(run, shards, device)
    rows = cache.captions(split)
    parts = encode(method, cache, rows, device)
    if not parts:
        raise files.ParamsError(f"{run} takes no text apart; unitrim does, with image_text: tokens or disentangled")
    facts = [known.get(str(name), {}) for name in cache.caption_id[rows]]
    groups = [str(cache.group[video] or cache.video_id[video]) for video in cache.video_of[rows]]
    return {"split": split, "run": facts_of(record), "facts": probe_all(parts, facts, groups)}


def to_text(found: dict[str, Any]) -> str:
    """The table for a terminal."""
    facts = found["facts"]
    names = list(next(iter(facts.values()), {}))
    head = ["read from", *names, "chance", "n"]
    body = [
        [
            fact,
            *(f"{own[name]['right']:.1f}" for name in names),
            f"{own[names[0]]['chance']:.1f}",
            str(own[names[0]]["texts"]),
        ]
        for fact, own in facts.items()
    ]
    return "\n".join(f"{line[0]:<12}" + "".join(f"{cell:>10}" for cell in line[1:]) for line in [head, *body])


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    parser.add_argument("--split", default="test", help="test (default), val or train")
    args = parser.parse_args()
    found = probe_run(args.run, args.shards, args.split)
    suffix = "" if args.split == "test" else f"-{args.split}"
    path = args.shards / "scores" / scores_name(args.run, args.shards) / f"probes{suffix}.json"
    files.write(path, json.dumps(found, indent=1) + "\n")
    print(to_text(found))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
