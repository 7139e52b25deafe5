"""All runs of a dataset as tables: mean ± standard deviation over seeds, best in bold, n beside every row."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.stale import TABLE_ROW, find_stale, skipped_lines, stale_lines
from pipeline import params


def print_tables(folders: list[Path], render: Any) -> None:
    """The tables of each dataset that has scores."""
    for folder in folders:
        runs = gather_metrics(folder)
        if runs:
            print(f"\n{folder.name}, test split, mean ± standard deviation over seeds\n\n{render(build_tables(runs))}")
        for line in [*skipped_lines(folder), *stale_lines(folder)]:
            print(line)


SMALL_IS_GOOD = ("MdR", "MnR")
RANKED = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "MdR": "MdR", "MnR": "MnR", "Rsum": "Rsum"}
GROUPED = {
    "R@1": "group R@1",
    "R@5": "group R@5",
    "R@10": "group R@10",
    "in_group": "in-group",
    "in_group_chance": "chance",
}
RULED = [  # title, where in one rule's numbers, its columns
    (
        "joint gallery by rule, either",
        (),
        {name: name for name in ("R@1", "R@5", "R@10")} | {"images@10": "images in 10"},
    ),
    ("joint gallery by rule, both", ("both",), {name: name for name in ("R@2", "R@5", "R@10", "Rsum")}),
]
BY_KIND = "in_group:"  # what groups of one kind are counted by, the kind after it
ACTIVE = {f"lexicon_{kind}": f"in a {kind}" for kind in ("text", "video", "image")}  # words that are not 0, on average
SECTIONS = [  # title, where in metrics.json, its columns
    ("text → video", ("t2v",), RANKED),
    ("text → image", ("t2i",), RANKED),
    ("video → text", ("v2t",), RANKED),
    ("image → text", ("i2t",), RANKED),
    (
        "joint gallery, either",
        ("joint",),
        {name: name for name in RANKED if name != "MnR"} | {"images@10": "images in 10"},
    ),
    ("joint gallery, both", ("joint", "both"), {"R@2": "R@2"} | {name: RANKED[name] for name in list(RANKED)[1:]}),
    ("look-alike videos", ("t2v_group",), GROUPED),
    ("look-alike images", ("t2i_group",), GROUPED),
    ("active words of a lexicon", ("active",), ACTIVE),
]
FEW = {"t2v_R@1": (("t2v",), "R@1"), "t2i_R@1": (("t2i",), "R@1"), "both_R@10": (("joint", "both"), "R@10")}
NO_BEST = (*ACTIVE.values(), "chance", "images in 10")
# of one run alone, whose directions share their columns: label -> key
ALONE = {name: name for name in ("R@1", "R@2", "R@5", "R@10", "MdR", "MnR", "Rsum")}
ALONE |= {"in-group": "in_group", "chance": "in_group_chance", "images in 10": "images@10"}


@dataclass
class Cell:
    """Mean over seeds, and the standard deviation where there are two or more."""

    mean: float
    deviation: float | None = None
    best: bool = False

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + (f" ± {self.deviation:.1f}" if self.deviation is not None else "")


@dataclass
class Row:
    name: str
    seeds: int | None  # how many runs; None where one run is shown alone
    cells: list[Cell | None]
    size: str  # queries over gallery


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[Row] = field(default_factory=list)


def gather_metrics(folder: Path, *, table_rows: bool = False) -> dict[str, list[dict[str, Any]]]:
    """metrics.json of every run under `cache/<dataset>/scores`, by method, seeds in order; stale and empty ones left out.

    Rows of the papers' tables are runs of part of a method, which no other table should show: only with `table_rows`.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    stale = find_stale(folder)
    for path in sorted((folder / "scores").glob("*/metrics.json")):
        metrics = json.loads(path.read_text())
        if "skipped" in metrics or path.parent.name in stale:
            continue
        if path.parent.name.startswith(TABLE_ROW) and not table_rows:
            continue
        name, own = metrics["method"], path.parent.name.split("-seed")[0]
        runs.setdefault(name if own == name else own, []).append(metrics)
    order = params.read_params().get("methods", []) if params.PARAMS.exists() else []
    place = {name: index for index, name in enumerate(order)}
    ordered = sorted(runs, key=lambda name: (place.get(name, len(place)), name))
    return {name: sorted(runs[name], key=lambda metrics: metrics["seed"]) for name in ordered}


def summarize(runs: dict[str, list[dict[str, Any]]], names: list[str]) -> dict[str, dict[str, float]]:
    """The few numbers by which runs are compared, of the methods `names`: means over seeds, in percent."""
    found: dict[str, dict[str, float]] = {}
    for name in [name for name in names if name in runs]:
        parts = {label: [read_section(one, path) for one in runs[name]] for label, (path, _) in FEW.items()}
        values = {label: [part[FEW[label][1]] for part in parts[label] if part] for label in FEW}
        found[name] = {label: round(statistics.fmean(each), 2) for label, each in values.items() if each}
    return found


def build_tables(runs: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """One table a direction, of those directions that any run has."""
    made, runs = [], add_parts(runs)
    for title, path, columns in SECTIONS:
        found = {
            name: [part for part in (read_section(metrics, path) for metrics in seeds) if part]
            for name, seeds in runs.items()
        }
        if any(found.values()):
            columns = columns | kind_columns(part for parts in found.values() for part in parts)
            made.append(build_table(title, columns, {name: parts for name, parts in found.items() if parts}))
    return made + build_rules(runs) + build_rungs(runs)


def build_rungs(runs: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Text to video by the parts of a fused score, added one by one and each left out, as the paper's Table 5 has them."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, seeds in runs.items():
        for place in range(len(seeds[0].get("rungs", [])) if seeds else 0):
            parts = [metrics["rungs"][place] for metrics in seeds if len(metrics.get("rungs", [])) > place]
            rows[f"{name}: {name_rung(place, [set(one['parts']) for one in seeds[0]['rungs']])}"] = parts
    columns = {name: name for name in ("R@1", "R@5", "R@10", "MdR", "Rsum")}
    return [build_table("text → video by part", columns, rows)] if rows else []


def name_rung(place: int, rungs: list[set[str]]) -> str:
    """What sets a rung apart: the part that it adds to the one before it, or the one that it lacks."""
    every = max(rungs, key=len)
    if place < len(every):
        (added,) = rungs[place] - (rungs[place - 1] if place else set())
        return f"{'+ ' if place else ''}{added.replace('_', '–')}" + (" (all)" if rungs[place] == every else "")
    (lacking,) = every - rungs[place]
    return f"all but {lacking.replace('_', '–')}"


def build_rules(runs: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """The joint gallery by each rule that was tried, a row a method and rule: none where nothing but one rule was."""
    made = []
    for title, path, columns in RULED:
        rows: dict[str, list[dict[str, Any]]] = {}
        for name, seeds in runs.items():
            for rule in seeds[0].get("joint_rules", {}) if seeds else ():
                parts = [read_section(metrics, ("joint_rules", rule, *path)) for metrics in seeds]
                rows[f"{name}: {rule}"] = [part for part in parts if part]
        if any(rows.values()):
            made.append(build_table(title, columns, {name: parts for name, parts in rows.items() if parts}))
    return made


def kind_columns(sections: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Key -> label of the in-group accuracies by what look-alikes differ in, of those that any section has."""
    words = {key.removeprefix(BY_KIND) for section in sections for key in section if key.startswith(BY_KIND)}
    return {f"{BY_KIND}{word}": f"in-group {word}" for word in sorted(words)}


def add_parts(runs: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The runs, before each whose score is a sum a row for each part of it: `unify (latent)`."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, seeds in runs.items():
        for part in seeds[0].get("parts", {}) if seeds else ():
            rows[f"{name} ({part})"] = [metrics["parts"][part] for metrics in seeds if part in metrics.get("parts", {})]
        rows[name] = seeds
    return rows


def read_section(metrics: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The section of metrics.json at `path`."""
    for key in path:
        metrics = metrics.get(key) or {}
    return metrics or None


def run_table(metrics: dict[str, Any]) -> Table:
    """One run's numbers, a row a direction."""
    found = [(title, read_section(metrics, path)) for title, path, columns in SECTIONS if columns is not ACTIVE]
    found = [(title, section) for title, section in found if section]
    alone = ALONE | {label: key for key, label in kind_columns(section for _, section in found).items()}
    labels = [label for label in alone if any(alone[label] in section for _, section in found)]
    made = Table("", labels)
    for title, section in found:
        cells = [format_cell([section[alone[label]]] if alone[label] in section else []) for label in labels]
        made.rows.append(Row(title, None, cells, format_size(section)))
    return made


def format_size(section: dict[str, Any]) -> str:
    """n: queries over gallery; of what is no ranking, nothing."""
    if "queries" not in section:
        return "–"
    return f"{section['queries']} over {section['gallery']}"


def build_table(title: str, columns: dict[str, str], parts: dict[str, list[dict[str, Any]]]) -> Table:
    """One section of all methods, the best of each column marked."""
    made = Table(
        title,
        [label for key, label in columns.items() if any(key in part for seeds in parts.values() for part in seeds)],
    )
    keys = [key for key, label in columns.items() if label in made.columns]
    for name, seeds in parts.items():
        sizes = sorted({format_size(part) for part in seeds})
        made.rows.append(
            Row(
                name,
                len(seeds),
                [format_cell([part[key] for part in seeds if key in part]) for key in keys],
                "; ".join(sizes),
            )
        )
    for column, label in enumerate(made.columns):
        cells = [row.cells[column] for row in made.rows if row.cells[column]]
        if len(cells) > 1 and label not in NO_BEST:
            choose = min if label in SMALL_IS_GOOD else max
            top = round(choose(each.mean for each in cells), 1)
            for each in cells:
                each.best = top > 0 and round(each.mean, 1) == top  # nobody leads where all have found nothing
    return made


def format_cell(values: list[float]) -> Cell | None:
    """Mean and sample standard deviation."""
    if not values:
        return None
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def to_text(made: list[Table]) -> str:
    """The tables for a terminal; the best of a column is starred."""
    blocks = []
    for each in made:
        seeded = any(row.seeds for row in each.rows)
        head = [each.title, *(["seeds"] if seeded else []), *each.columns, "n"]
        body = [
            [row.name, *([str(row.seeds)] if seeded else []), *(star_best(one) for one in row.cells), row.size]
            for row in each.rows
        ]
        width = [max(len(line[at]) for line in [head, *body]) for at in range(len(head))]
        width[0] = max(width[0], 24)
        for line in [head, *body]:
            first, *middle, last = line
            cells = "  ".join(f"{one:>{width[at + 1]}}" for at, one in enumerate(middle))
            blocks.append(f"{first:<{width[0]}}  {cells}  {last}")
        blocks.append("")
    return "\n".join(blocks)


def star_best(one: Cell | None) -> str:
    """A cell in plain text."""
    return "–" if one is None else f"{one}{'*' if one.best else ' '}"


def to_markdown(made: list[Table]) -> str:
    """The tables for a README; the best of a column is bold."""
    lines = []
    for each in made:
        lines.append(f"| {each.title} | seeds | {' | '.join(each.columns)} | n |")
        lines.append(f"|---|--:|{'--:|' * len(each.columns)}---|")
        for row in each.rows:
            cells = ["–" if one is None else f"**{one}**" if one.best else str(one) for one in row.cells]
            lines.append(f"| {row.name} | {row.seeds} | {' | '.join(cells)} | {row.size} |")
        lines.append("")
    return "\n".join(lines)
