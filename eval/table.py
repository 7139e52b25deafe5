"""All runs of a dataset as tables: mean ± standard deviation over seeds, best in bold, n beside every row."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import stage

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


def gather(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """metrics.json of every run under `cache/<dataset>/scores`, by method, seeds in order."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / "scores").glob("*/metrics.json")):
        told = json.loads(path.read_text())
        name, own = told["method"], path.parent.name.split("-seed")[0]
        runs.setdefault(name if own == name else own, []).append(told)
    order = stage.parameters().get("methods", []) if stage.PARAMS.exists() else []
    place = {name: index for index, name in enumerate(order)}
    ordered = sorted(runs, key=lambda name: (place.get(name, len(place)), name))
    return {name: sorted(runs[name], key=lambda told: told["seed"]) for name in ordered}


def tables(runs: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """One table a direction, of those directions that any run has."""
    made = []
    for title, path, columns in SECTIONS:
        found = {name: [part for part in (reach(told, path) for told in seeds) if part] for name, seeds in runs.items()}
        if any(found.values()):
            made.append(table(title, columns, {name: parts for name, parts in found.items() if parts}))
    return made


def reach(told: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The section of metrics.json at `path`."""
    for key in path:
        told = told.get(key) or {}
    return told or None


def table(title: str, columns: dict[str, str], parts: dict[str, list[dict[str, Any]]]) -> Table:
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
                name, len(seeds), [cell([part[key] for part in seeds if key in part]) for key in keys], "; ".join(sizes)
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


def cell(values: list[float]) -> Cell | None:
    """Mean and sample standard deviation."""
    if not values:
        return None
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def text(made: list[Table]) -> str:
    """The tables for a terminal; the best of a column is starred."""
    blocks = []
    for each in made:
        head = [each.title, "seeds", *each.columns, "n"]
        body = [[row.name, str(row.seeds), *(star(one) for one in row.cells), row.size] for row in each.rows]
        width = [max(len(line[at]) for line in [head, *body]) for at in range(len(head))]
        width[0] = max(width[0], 24)
        for line in [head, *body]:
            first, *middle, last = line
            cells = "  ".join(f"{one:>{width[at + 1]}}" for at, one in enumerate(middle))
            blocks.append(f"{first:<{width[0]}}  {cells}  {last}")
        blocks.append("")
    return "\n".join(blocks)


def star(one: Cell | None) -> str:
    """A cell in plain text."""
    return "–" if one is None else f"{one}{'*' if one.best else ' '}"


def markdown(made: list[Table]) -> str:
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
