"""Whether the scores of a dataset are of the runs and the shards that stand; those that are not are never averaged."""

import json
from pathlib import Path
from typing import Any

from pipeline import params, shards

TABLE_ROW = "table-"  # how names of runs begin that are rows of eval/experiments.yaml, and of no other table
FACTS = ("config", "seed", "shards", "code")  # what makes two runs the same
READS = {"trained": shards.TAUGHT, "scored": None}  # what is done with which splits; None: all
PARTS = {
    "splits": "splits",
    "text": "captions",
    "triplet": "triplets",
    "spans": "nouns and verbs",
    "lexicon": "word pieces",
    "visual": "frames",
    "image": "keyframes",
    "tail": "hidden states",
}


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """Of a run's run.json what its scores must agree with."""
    return {name: record[name] for name in FACTS if name in record}


def find_stale(folder: Path) -> dict[str, str]:
    """{name of a run under scores/: why its scores count no more}, in order of name."""
    scored = {
        path.parent.name: json.loads(path.read_text()) for path in sorted((folder / "scores").glob("*/metrics.json"))
    }
    ran = any("run" in one for one in scored.values())
    now = {word: current_parts(folder, splits) if ran else {} for word, splits in READS.items()}
    found: dict[str, str] = {}
    for name, one in scored.items():
        if why := what_changed(folder, name, one, now):
            found[name] = why
    lead: dict[str, dict[str, Any]] = {}
    for name in sorted(scored, key=lambda name: (name.split("-seed")[0], scored[name].get("seed", 0))):
        if name not in found and "run" in scored[name]:
            first = lead.setdefault(name.split("-seed")[0], scored[name]["run"])
            if why := disagreement(first, scored[name]["run"]):
                found[name] = why
    return dict(sorted(found.items()))


def current_parts(folder: Path, splits: tuple[str, ...] | None) -> dict[str, str]:
    """Digests of the shards that stand, of some splits or all; none where there are no shards."""
    try:
        return shards.identity(folder, splits=splits)
    except (OSError, ValueError):
        return {}


def what_changed(folder: Path, name: str, scored: dict[str, Any], now: dict[str, dict[str, str]]) -> str:
    """Why one run's scores are stale by themselves, or an empty string."""
    run = scored.get("run", {})
    own, seed, number = name.partition("-seed")
    place = (
        folder / "runs" / f"{own.split('+')[0]}{seed}{number}" / "run.json"
    )  # scores may carry a normalisation's name
    record = facts_of(json.loads(place.read_text())) if place.exists() else {}
    if run and record and record != run:
        return "was trained again since it was scored"
    home = scored.get("dataset", folder.name) == folder.name
    for word, then in (("trained", run.get("shards", {}) if home else {}), ("scored", scored.get("shards", {}))):
        parts = [PARTS[part] for part in then if part in now[word] and then[part] != now[word][part]]
        if parts:
            return f"was {word} on other {', '.join(parts)}"
    return ""


def disagreement(first: dict[str, Any], other: dict[str, Any]) -> str:
    """What two seeds of one method must not differ in, or an empty string."""
    here, there = first.get("config", {}), other.get("config", {})
    if keys := [key for key in here if here[key] != there.get(key)]:
        said = ", ".join(f"{key} {there.get(key)}, seed {first.get('seed', 0)} has {here[key]}" for key in keys[:3])
        return f"has other settings: {said}"
    if first.get("shards") != other.get("shards"):
        return "was trained on other shards than the first seed"
    if first.get("code") != other.get("code"):
        return "was trained by other code than the first seed"
    return ""


def stale_lines(folder: Path) -> list[str]:
    """A sentence for each stale run, and one that says what to type."""
    whole = find_stale(folder)
    found = {name: why for name, why in whole.items() if not name.startswith(TABLE_ROW)}
    rows = len(whole) - len(found)
    about = [f"{rows} rows of the papers' tables are out of date; type: make tables NAME={folder.name}"] if rows else []
    if not found:
        return about
    lines = [f"left out: {name} {why}" for name, why in found.items()]
    rows = params.read_params().get("seeds") or [] if params.PARAMS.exists() else []
    own = [row["seed"] for row in rows if row["dataset"] == folder.name]
    loose = [name for name in found if "-seed" in name and not any(name.endswith(f"-seed{seed}") for seed in own)]
    again = f"dvc repro report@{folder.name}"
    if loose:
        again = (
            f"make seeds NAME={folder.name}   (or remove {', '.join(str(folder / 'runs' / name) for name in loose)})"
        )
    return [*lines, f"to bring them up to date type: {again}", *about]


def skipped_lines(folder: Path) -> list[str]:
    """A sentence for each run that has no scores, and why."""
    scored = {
        path.parent.name: json.loads(path.read_text()) for path in sorted((folder / "scores").glob("*/metrics.json"))
    }
    return [f"{name}: {one['skipped']}" for name, one in scored.items() if "skipped" in one]
