"""All runs of a dataset as tables: mean ± standard deviation over seeds, best in bold, n beside every row."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.stale import find_stale, skipped_lines, stale_lines
from pipeline import params


def print_tables(folders: list[Path], render: Any) -> None:
    """The tables of each dataset that has scores."""
    for folder in folders:
        runs = gather_metrics(folder)
        if runs:
            print(f"\n{folder.name}, test split, mean ± standard deviation over seeds\n\n{render(build_tables(runs))}")
        for line in [*skipped_lines(folder), *stale_lines(folder)]:
            print(line)


DIRECTIONS = {"t2v": "text → video", "v2t": "video → text", "t2i": "text → image", "i2t": "image → text"}


def format_metrics(metrics: dict[str, Any]) -> str:
    """A run's numbers as a person reads them."""
    lines = [f"{'':<26}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'MdR':>7}{'MnR':>8}{'Rsum':>8}   n"]
    for name, label in DIRECTIONS.items():
        if name in metrics:
            lines.append(format_row(label, metrics[name]))
    for name, label in (("t2v_group", "  any look-alike video"), ("t2i_group", "  any look-alike image")):
        if name in metrics:
            lines.append(format_row(label, metrics[name]))
    lines.append(format_row("joint: either", metrics["joint"]))
    if "both" in metrics["joint"]:
        lines.append(format_row("joint: both (R@2 first)", metrics["joint"]["both"]))
    for name, label in (("t2v_group", "videos"), ("t2i_group", "images")):
        if "in_group" in metrics.get(name, {}):
            group = metrics[name]
            lines.append(
                f"the right one among its look-alike {label}: {group['in_group']:.1f} % of {group['in_group_queries']} "
                f"texts (chance {group['in_group_chance']:.1f} %)"
            )
    joint = metrics["joint"]
    lines.append(
        f"joint gallery calibrated by {joint['calibration']}; images in its first ten: {joint['images@10']:.0f} %"
    )
    return "\n".join(lines)


def format_row(label: str, metrics: dict[str, Any]) -> str:
    """One row of the table; n is queries over gallery."""
    recall = [value for name, value in metrics.items() if name.startswith("R@")]
    cells = "".join(f"{value:7.1f}" for value in recall)
    return (
        f"{label:<26}{cells}{metrics['MdR']:7.1f}{metrics['MnR']:8.1f}{metrics['Rsum']:8.1f}   "
        f"{metrics['queries']} over {metrics['gallery']}"
    )


SMALL_IS_GOOD = ("MdR", "MnR")
RANKED = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "MdR": "MdR", "MnR": "MnR", "Rsum": "Rsum"}
GROUPED = {
    "R@1": "group R@1",
    "R@5": "group R@5",
    "R@10": "group R@10",
    "in_group": "in-group",
    "in_group_chance": "chance",
}
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
]
NO_BEST = ("chance", "images in 10")


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
    seeds: int
    cells: list[Cell | None]
    size: str  # queries over gallery


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[Row] = field(default_factory=list)


def gather_metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """metrics.json of every run under `cache/<dataset>/scores`, by method, seeds in order; stale and empty ones left out."""
    runs: dict[str, list[dict[str, Any]]] = {}
    stale = find_stale(folder)
    for path in sorted((folder / "scores").glob("*/metrics.json")):
        metrics = json.loads(path.read_text())
        if "skipped" in metrics or path.parent.name in stale:
            continue
        name, own = metrics["method"], path.parent.name.split("-seed")[0]
        runs.setdefault(name if own == name else own, []).append(metrics)
    order = params.read_params().get("methods", []) if params.PARAMS.exists() else []
    place = {name: index for index, name in enumerate(order)}
    ordered = sorted(runs, key=lambda name: (place.get(name, len(place)), name))
    return {name: sorted(runs[name], key=lambda metrics: metrics["seed"]) for name in ordered}


def build_tables(runs: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """One table a direction, of those directions that any run has."""
    made = []
    for title, path, columns in SECTIONS:
        found = {
            name: [part for part in (read_section(metrics, path) for metrics in seeds) if part]
            for name, seeds in runs.items()
        }
        if any(found.values()):
            made.append(build_table(title, columns, {name: parts for name, parts in found.items() if parts}))
    return made


def read_section(metrics: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The section of metrics.json at `path`."""
    for key in path:
        metrics = metrics.get(key) or {}
    return metrics or None


def build_table(title: str, columns: dict[str, str], parts: dict[str, list[dict[str, Any]]]) -> Table:
    """One section of all methods, the best of each column marked."""
    made = Table(
        title,
        [label for key, label in columns.items() if any(key in part for seeds in parts.values() for part in seeds)],
    )
    keys = [key for key, label in columns.items() if label in made.columns]
    for name, seeds in parts.items():
        sizes = sorted({f"{part['queries']} over {part['gallery']}" for part in seeds})
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
                each.best = round(each.mean, 1) == top
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
        head = [each.title, "seeds", *each.columns, "n"]
        body = [[row.name, str(row.seeds), *(star_best(one) for one in row.cells), row.size] for row in each.rows]
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
