"""What was run: headline numbers with what they are to be held against, settings, versions, seeds, and what was left out."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from eval.overview import format_cell, read_section
from eval.report import page
from eval.report.text import escape
from eval.stale import skipped_lines, stale_lines
from pipeline.files import read_table

BASELINE = "zero_shot"
HEADLINES = [  # label, where in metrics.json, key
    ("text → video R@1", ("t2v",), "R@1"),
    ("text → image R@1", ("t2i",), "R@1"),
    ("joint gallery, either R@1", ("joint",), "R@1"),
    ("joint gallery, both R@10", ("joint", "both"), "R@10"),
    ("right among look-alike videos", ("t2v_group",), "in_group"),
]
NAMED = 10  # rejected items that are named for each reason


def chance(metrics: dict[str, Any], path: tuple[str, ...], key: str) -> float:
    """What drawing at random would get, in percent."""
    section = read_section(metrics, path) or {}
    size = section["gallery"]
    if key == "in_group":
        return section["in_group_chance"]
    first = min(int(key.removeprefix("R@")), size)
    if path == ("joint", "both"):  # both of two right items among the first
        return 100 * first * (first - 1) / max(size * (size - 1), 1)
    if path == ("joint",):  # of those queries that have a video and an image, either of two may come first
        pairs = section.get("both", {}).get("queries", 0) / section["queries"]
        return 100 * (1 + pairs) / size
    return 100 * first / size


def headlines(name: str, runs: dict[str, list[dict[str, Any]]]) -> list[page.Headline]:
    """The large figures of one method: means over its seeds, the baseline's, and chance."""
    made = []
    for label, path, key in HEADLINES:
        own, base = (
            format_cell([part[key] for part in parts if part and key in part])
            for parts in ([read_section(one, path) for one in runs.get(each, [])] for each in (name, BASELINE))
        )
        if own is not None:
            against = {BASELINE: f"{base}"} if base is not None and name != BASELINE else {}
            luck = chance(next(one for one in runs[name] if read_section(one, path)), path, key)
            made.append(page.Headline(label, f"{own}", against | {"chance": format_chance(luck)}))
    return made


def format_chance(percent: float) -> str:
    """A percentage that never reads as nothing."""
    return f"{percent:.1f}" if percent >= 0.05 else f"{percent:.2g}"


def dataset_line(folder: Path, metrics: dict[str, Any]) -> str:
    """What the page is about, in one sentence of HTML."""
    items = read_table(folder / "manifest" / "items.parquet", ["split"])["split"].to_pylist()
    splits = ", ".join(f"{items.count(split):,} {split}" for split in ("train", "val", "test") if split in items)
    clip = read_json(folder / "clip" / "clip.json")
    count = metrics["n"]
    return (
        f"{escape(folder.name)}: {len(items):,} items ({splits}); frozen CLIP "
        f"<code>{escape(Path(str(clip.get('name'))).name)}</code>; {escape(metrics['split'])} split: "
        f"{count['texts']:,} texts, {count['videos']:,} videos, {count['images']:,} images."
    )


def features_line(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """On which features the methods stand, in HTML: a frozen CLIP's, but for runs that own blocks of it, which are named."""
    owning = []
    for name, seeds in runs.items():
        owned = read_json(folder / "runs" / run_name(folder, name, seeds[0]["seed"]) / "run.json").get("owned", {})
        if blocks := " and ".join(f"{len(numbers)} of its {kind} tower" for kind, numbers in owned.items()):
            owning.append(f"{escape(name)} ({blocks})")
    but = f", but for those that train blocks of CLIP too, its last ones: {'; '.join(owning)}" if owning else ""
    return f"All methods on the same frozen features{but}. Mean over seeds."


def warnings(folder: Path) -> str:
    """Runs that are in no table, and why: said above all numbers."""
    lines = [*stale_lines(folder), *skipped_lines(folder)]
    return page.warnings(lines) if lines else ""


def runs_section(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row a run, its settings folded under the table; then the cache's own facts and the rejects."""
    rows, settings, weights = [], [], []
    for name, seeds in runs.items():
        records = [
            read_json(folder / "runs" / run_name(folder, name, metrics["seed"]) / "run.json") for metrics in seeds
        ]
        rows += [run_row(name, *pair) for pair in zip(seeds, records)]
        if config := records[0].get("config"):  # seeds of other settings are stale, and not here
            settings.append((name, {key: format_setting(value) for key, value in sorted(config.items())}))
        weights.append(part_weights(name, [(one["seed"], record) for one, record in zip(seeds, records)]))
        weights.append(probes_table(folder, name, seeds))
    head = ["method", "seed", "parameters", "seconds", "joint calibration", "torch", "code", "shards"]
    table = page.plain_table("Runs", head, rows)
    folded = "".join(page.details(f"settings of {name}", page.pairs(values)) for name, values in settings)
    return f"{table}{''.join(weights)}{folded}{page.pairs(cache_facts(folder))}{rejects(folder)}"


def part_weights(name: str, runs: list[tuple[int, dict[str, Any]]]) -> str:
    """What each part of a method's score counts in each of its runs, in percent, the factors of its joint gallery, and which
    epoch was kept; nothing where nobody chose that."""
    made = ""
    chosen = [(seed, record["fusion"]) for seed, record in runs if "fusion" in record]
    for key, what in (("weights", "score"), ("image_weights", "score of images")):
        if not chosen or key not in chosen[0][1]:
            continue
        parts = list(chosen[0][1][key])
        rows = [[f"seed {seed}", *(f"{100 * one[key][part]:.0f} %" for part in parts)] for seed, one in chosen]
        head = ["run", *(part.replace("_", "–") for part in parts)]
        made += page.plain_table(f"What each part of {name}'s {what} counts, {chosen_where(chosen[0][1])}", head, rows)
    fitted = [(seed, record["joint"]) for seed, record in runs if "joint" in record]
    if fitted:
        kinds = list(fitted[0][1]["factors"])
        rows = [[f"seed {seed}", *(f"{one['factors'][kind]:.3g}" for kind in kinds)] for seed, one in fitted]
        title = f"What {name}'s scores are multiplied by, so that their softmax is a probability, {chosen_where(fitted[0][1])}"
        made += page.plain_table(title, ["run", *kinds], rows)
    kept = [(seed, record["kept"]) for seed, record in runs if "kept" in record]
    if kept:
        phases = list(kept[0][1]["phases"])
        rows = [[f"seed {seed}", *(kept_epoch(one["phases"][phase]) for phase in phases)] for seed, one in kept]
        title = f"Which epoch of {name} was kept: the {kept[0][1]['by']} on {kept[0][1]['on']}, and its R@1/5/10 there"
        made += page.plain_table(title, ["run", *phases], rows)
    return made


def kept_epochs(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """A row a run: which epoch of each of its phases was kept, by what, and where it stood; nothing where none says so."""
    rows = []
    for name, seeds in runs.items():
        for metrics in seeds:
            record = read_json(folder / "runs" / run_name(folder, name, metrics["seed"]) / "run.json")
            if kept := record.get("kept"):
                said = "; ".join(f"{phase} {kept_epoch(one)}" for phase, one in kept["phases"].items())
                rows.append([name, str(metrics["seed"]), f"the {kept['by']} on {kept['on']}", said])
    head = ["run", "seed", "kept", "phase, epoch, R@1/5/10 there"]
    return page.plain_table("Which epoch was kept", head, rows) if rows else ""


def kept_epoch(facts: dict[str, Any]) -> str:
    """An epoch, counted from 1, and its recalls on the split that chose it."""
    recalls = "; ".join("/".join(f"{value:.1f}" for value in each.values()) for each in facts["validation"].values())
    return f"{facts['kept'] + 1} of {facts['of']}: {recalls}"


def chosen_where(facts: dict[str, Any]) -> str:
    """On which split something was chosen, and by how many texts."""
    return f"chosen on {facts['chosen_on']}, by {facts['texts']:,} texts"


def probes_table(folder: Path, name: str, seeds: list[dict[str, Any]]) -> str:
    """What linear probes read from the parts of a text, a mean over the seeds that were probed; nothing where none was."""
    found = [
        (metrics, read_json(folder / "scores" / run_name(folder, name, metrics["seed"]) / "probes.json"))
        for metrics in seeds
    ]
    probed = [one["facts"] for metrics, one in found if one and one["run"] == metrics.get("run")]
    if not probed:
        return ""
    parts = list(next(iter(probed[0].values()), {}))
    rows = []
    for fact, own in probed[0].items():
        means = [sum(one[fact][part]["right"] for one in probed) / len(probed) for part in parts]
        rows.append(
            [fact, *(f"{mean:.1f}" for mean in means), f"{own[parts[0]]['chance']:.1f}", f"{own[parts[0]]['texts']:,}"]
        )
    seeded = f"{len(probed)} seeds" if len(probed) > 1 else "one seed"
    title = f"What linear probes read from the texts of {name}, in percent, {seeded}"
    return page.plain_table(title, ["read", *parts, "chance", "texts"], rows)


def run_row(name: str, metrics: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """One run of the table of runs."""
    parameters = record.get("parameters")
    seconds = record.get("seconds")
    return [
        name,
        str(metrics["seed"]),
        "–" if parameters is None else f"{parameters:,}",
        "–" if seconds is None else f"{seconds:.0f}",
        str(metrics.get("joint", {}).get("calibration", "–")),
        str(record.get("torch", "–")),
        str(record.get("code", "–"))[:12],
        digest_of(record.get("shards")),
    ]


def digest_of(value: Any) -> str:
    """The beginning of a digest; of several, of the first of each kind."""
    if isinstance(value, dict):
        return " ".join(f"{key} {str(part)[:6]}" for key, part in sorted(value.items()))
    return str(value)[:12] if value else "–"


def format_setting(value: Any) -> str:
    """A setting as a person would write it."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def cache_facts(folder: Path) -> dict[str, str]:
    """CLIP, sampling and versions with which the cache was made."""
    clip, visual = read_json(folder / "clip" / "clip.json"), read_json(folder / "visual" / "visual.json")
    facts = {
        "CLIP": clip.get("name"),
        "CLIP's revision": clip.get("revision"),
        "CLIP's weights, sha256": clip.get("sha256"),
        "frames a video": visual.get("frames"),
        "sampling": visual.get("sampling"),
        "decoder": visual.get("decoder"),
        "resize": visual.get("resize"),
        "precision": visual.get("precision"),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def rejects(folder: Path) -> str:
    """What was left out of the dataset, counted by reason, with the first few named."""
    found: list[dict[str, Any]] = []
    for path in (folder / "manifest" / "rejects.parquet", folder / "visual" / "rejects.parquet"):
        found += read_table(path).to_pylist() if path.exists() else []
    if not found:
        return page.quiet("Nothing was rejected: every item of the manifest is in the shards.")
    counts = Counter((row["stage"], row["reason"]) for row in found)
    rows = []
    for (stage, reason), count in sorted(counts.items()):
        alike = [row for row in found if (row["stage"], row["reason"]) == (stage, reason)]
        for row in sorted(alike, key=lambda row: row["id"])[:NAMED]:
            rows.append([reason, stage, f"{count:,}", row["id"], row["detail"] or ""])
        if count > NAMED:
            rows.append([reason, stage, f"{count:,}", f"and {count - NAMED:,} more, in rejects.parquet", ""])
    return page.plain_table("Left out, and why", ["reason", "stage", "of this reason", "which", "detail"], rows)


def run_name(folder: Path, name: str, seed: int) -> str:
    """Folder of a method's run of one seed, under scores/ and runs/."""
    for path in sorted((folder / "scores").glob("*/metrics.json")):
        if path.parent.name.split("-seed")[0] == name and read_json(path).get("seed") == seed:
            return path.parent.name
    return name


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says; empty where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}
