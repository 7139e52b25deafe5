"""The papers' tables with the numbers of the runs that stand: mean and deviation over seeds, the paper's own, what is shown."""

# Axes: Q queries, R rows of a table.

import json
import statistics
from dataclasses import dataclass, field
from functools import cache as remember
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from eval.experiments import PaperTable, Row, split_column
from eval.overview import format_size, read_section
from eval.tables.plan import Plan, Task
from eval.tables.significance import LEVEL, gains, p_values, say_p
from pipeline.files import read_table

SMALL_IS_GOOD = ("MdR", "MnR")


@dataclass
class Figure:
    """One number of a table, over seeds, beside the paper's."""

    values: list[float]
    paper: float | None = None
    bold: bool = False  # above every other row of its column at LEVEL
    p: float | None = None  # of the best of a column: that another row is as good, the largest over the others

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation, of two seeds or more."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass
class Line:
    """A row of a table as it is shown."""

    label: str
    run: str
    seeds: list[int]
    figures: list[Figure]  # a column each
    size: str  # queries over gallery
    lacks: str = ""  # why there are no numbers
    cell: tuple[str, str] = ("", "")


@dataclass
class Made:
    """A table with its numbers, and what can be said of them."""

    table: PaperTable
    columns: list[str]
    lines: list[Line]
    said: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing was run for it."""
        return not any(line.seeds for line in self.lines)


def build(table: PaperTable, plan: Plan, seeds: int) -> Made:
    """One table of scores."""
    columns = [*table.columns, *table.more]
    lines, ranks = [], []
    for row in table.rows:
        done = [] if plan.lacks(row) else [task for task in by_seed(plan, row, seeds) if plan.is_done(task)]
        lines.append(read_line(row, columns, done, plan))
        ranks.append(done)
    made = Made(table, columns, lines)
    made.said += compare(made, ranks)
    if table.kind == "grid":
        made.said += flat_row(made)
    return made


def by_seed(plan: Plan, row: Row, seeds: int) -> list[Task]:
    """The runs of a row."""
    return [plan.task(row, seed) for seed in range(seeds)]


def read_line(row: Row, columns: list[str], done: list[Task], plan: Plan) -> Line:
    """A row's numbers."""
    scored = [read_scores(task, row) for task in done]
    paper = [*row.paper, *[None] * (len(columns) - len(row.paper))]
    figures = []
    for column, number in zip(columns, paper):
        path, key, _ = split_column(column, column)
        sections = [read_section(one, path) or {} for one in scored]
        figures.append(Figure([section[key] for section in sections if key in section], number))
    path = split_column(columns[0], columns[0])[0]
    sizes = sorted({format_size(section) for one in scored if (section := read_section(one, path))})
    why = next((one["skipped"] for one in scored if "skipped" in one), plan.lacks(row))
    return Line(
        row.label,
        plan.same[row.experiment],
        [task.seed for task in done],
        figures,
        "; ".join(sizes),
        "" if sizes else why or "not run",
        row.cell,
    )


def read_scores(task: Task, row: Row) -> dict[str, Any]:
    """The numbers of a run; of a row that asks for some parts of its score those of these parts."""
    whole = json.loads((task.scores / "metrics.json").read_text())
    if not row.parts:
        return whole
    if (alone := whole.get("parts", {}).get(row.parts[0])) and len(row.parts) == 1:
        return alone
    place = find_rung(whole, row)
    return {"skipped": f"no part {', '.join(row.parts)}"} if place is None else {"t2v": whole["rungs"][place]}


def find_rung(whole: dict[str, Any], row: Row) -> int | None:
    """Which of a run's rungs has a row's parts."""
    parts = [set(rung["parts"]) for rung in whole.get("rungs", [])]
    return parts.index(set(row.parts)) if set(row.parts) in parts else None


def rank_column(task: Task, row: Row, column: str) -> str:
    """The column of ranks.parquet for a column of a table; parts of a score have their own."""
    kept = split_column(column, column)[2]
    if not row.parts:
        return kept
    whole = json.loads((task.scores / "metrics.json").read_text())
    if len(row.parts) == 1 and row.parts[0] in whole.get("parts", {}):
        return f"{row.parts[0]}_{kept}"
    return f"rung{find_rung(whole, row)}_rank" if kept == "video_rank" else ""


def per_query(rows: tuple[Row, ...], ranks: list[list[Task]], column: str) -> list[NDArray | None]:
    """(Q,) gains of each row, the mean over its seeds; None where no query has a rank, or the number is no mean."""
    number = split_column(column, column)[1]
    found: list[NDArray | None] = []
    for row, tasks in zip(rows, ranks):
        parts = [gains(read_ranks(task.scores, rank_column(task, row, column)), number) for task in tasks]
        there = parts and all(part is not None and len(part) for part in parts)
        found.append(np.mean(parts, axis=0) if there else None)
    return found


@remember
def read_ranks(scores: Path, column: str) -> NDArray:
    """(Q,) ranks of the captions that have one, in the order of their ids; an item's stands at its first caption."""
    if column not in pyarrow.parquet.read_schema(scores / "ranks.parquet").names:  # of a run that has no scores
        return np.zeros(0)
    table = read_table(scores / "ranks.parquet", ["caption_id", column]).to_pydict()
    order = np.argsort(np.array(table["caption_id"], dtype=object), kind="stable")
    rank = np.array(table[column], dtype=np.float64)[order]
    return rank[~np.isnan(rank)]


def compare(made: Made, ranks: list[list[Task]]) -> list[str]:
    """Mark the best of each column where it holds against every other row, and say how the paper's order stands."""
    said = []
    groups: dict[tuple[int, ...], list[tuple[int, NDArray]]] = {}  # columns by the rows that have them
    for at, column in enumerate(made.columns):
        values = per_query(made.table.rows, ranks, column)
        rows = tuple(index for index, value in enumerate(values) if value is not None)
        if len(rows) > 1 and len({len(values[index]) for index in rows}) == 1:
            groups.setdefault((len(values[rows[0]]), *rows), []).append((at, np.stack([values[row] for row in rows])))
    for (_, *rows), parts in groups.items():
        for (at, values), p in zip(parts, p_values(np.stack([values for _, values in parts]))):
            mean = values.mean(1)
            said.append((at, say_best(made, at, made.columns[at], rows, mean, p)))
            told = [made.lines[index].figures[at].paper for index in rows]
            if sum(number is not None for number in told) > 1:
                order = say_order(made.columns[at], [made.lines[index].label for index in rows], told, mean, p)
                said.append((at, order))
    return [text for _, text in sorted(said, key=lambda pair: pair[0])]


def say_best(made: Made, at: int, column: str, rows: list[int], mean: NDArray, p: NDArray) -> str:
    """The best of a column, its runner-up, and p."""
    order = np.argsort(-mean, kind="stable")
    first, second = int(order[0]), int(order[1])
    worst = max(float(p[first, other]) for other in range(len(rows)) if other != first)
    best = made.lines[rows[first]].figures[at]
    best.p, best.bold = worst, worst < LEVEL
    names = [made.lines[rows[index]].label for index in (first, second)]
    shown = [show_mean(made.lines[rows[index]].figures[at]) for index in (first, second)]
    holds = "" if best.bold else ", which does not hold"
    return f"{column}: best {names[0]} {shown[0]}, next {names[1]} {shown[1]}: {say_p(worst)}{holds}"


def show_mean(figure: Figure) -> str:
    """A mean to one digit."""
    return "–" if figure.mean is None else f"{figure.mean:.1f}"


def say_order(column: str, labels: list[str], told: list[float | None], mean: NDArray, p: NDArray) -> str:
    """How many of the pairs that the paper orders stand so here, and of the paper's best, above whom."""
    pairs = [
        (a, b)
        for a in range(len(told))
        for b in range(len(told))
        if told[a] is not None and told[b] is not None and told[a] > told[b]
    ]
    same = [(a, b) for a, b in pairs if mean[a] > mean[b] + 1e-9]
    other = [(a, b) for a, b in pairs if mean[b] > mean[a] + 1e-9]
    sure = sum(p[a, b] < LEVEL for a, b in same)
    against = sum(p[b, a] < LEVEL for a, b in other)
    lead = max((index for index, number in enumerate(told) if number is not None), key=lambda index: told[index])
    above = [f"{labels[b]} ({say_p(p[lead, b])})" for a, b in same if a == lead]
    below = [f"{labels[b]} ({say_p(p[b, lead])})" for a, b in pairs if a == lead and (a, b) not in same]
    text = (
        f"{column}: of the {len(pairs)} pairs that the paper orders, {len(same)} stand so here ({sure} at p < {LEVEL:g}), "
        f"{len(other)} the other way round ({against} at p < {LEVEL:g})"
    )
    if len(told) > 12:  # a grid: nobody reads the pairs
        return text
    text += f"; the paper's best, {labels[lead]}, is above {', '.join(above) or 'none'}"
    return text + (f", not above {', '.join(below)}" if below else "")


def flat_row(made: Made) -> list[str]:
    """Of the grid's first row, in which the second loss cannot reach what is scored: how far its numbers lie apart."""
    first = made.lines[0].cell[0]
    row = [line.figures[0] for line in made.lines if line.cell[0] == first]
    here = [[figure.values[seed] for figure in row if len(figure.values) > seed] for seed in range(len(row[0].values))]
    widest = max((max(values) - min(values) for values in here), default=None)
    told = [figure.paper for figure in row if figure.paper is not None]
    if widest is None:
        return []
    flat = "is flat, as it must be" if widest == 0 else f"is not flat: it must be, and spans {widest:.2f} within a seed"
    paper = f"; the paper's spans {max(told) - min(told):.1f}, which is what chance does to its numbers" if told else ""
    return [f"row {first} {flat}{paper}"]


def facts(made: Made) -> list[dict[str, Any]]:
    """A record a number, for a table that a program reads."""
    return [
        {
            "table": made.table.number,
            "source": made.table.source,
            "row": line.label,
            "run": line.run,
            "column": column,
            "mean": figure.mean,
            "sd": figure.deviation,
            "seeds": len(figure.values),
            "n": line.size,
            "paper": figure.paper,
            "paper_dataset": made.table.dataset,
            "best": figure.bold,
            "p": figure.p,
        }
        for line in made.lines
        for column, figure in zip(made.columns, line.figures)
    ]
