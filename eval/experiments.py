"""eval/experiments.yaml, read strictly: the papers' tables, and the runs that fill their rows."""

import itertools
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from eval.stale import TABLE_ROW
from pipeline.files import ParamsError

HERE = Path(__file__).with_name("experiments.yaml")
KINDS = ("scores", "grid", "speed", "transfer")
SECTIONS = {  # of metrics.json, and the column of ranks.parquet that has its queries
    "t2v": (("t2v",), "video_rank"),
    "t2i": (("t2i",), "image_rank"),
    "v2t": (("v2t",), "video_text_rank"),
    "i2t": (("i2t",), "image_text_rank"),
    "joint": (("joint",), "joint_rank"),
    "both": (("joint", "both"), "both_rank"),
}
NUMBERS = ("R@1", "R@2", "R@5", "R@10", "MdR", "MnR", "Rsum")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Experiment:
    """One run but for its seed."""

    name: str  # of its folder under runs/
    method: str
    settings: dict[str, Any] = field(hash=False)
    quick: bool = True  # whether --quick has it


@dataclass(frozen=True)
class Row:
    """A row of a table, or a cell of a grid."""

    label: str
    experiment: str
    paper: tuple[float | None, ...]  # the paper's numbers, a column each
    target: str = ""  # the dataset that the run is scored on, where it is another
    cell: tuple[str, str] = ("", "")  # of a grid: the two values
    parts: tuple[str, ...] = ()  # of a sum those that count: of a score that val weighed, or one of a method's vectors


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper."""

    number: str
    title: str
    source: str
    dataset: str  # on which the paper filled it
    columns: tuple[str, ...]
    more: tuple[str, ...] = ()
    kind: str = "scores"
    note: str = ""
    rows: tuple[Row, ...] = ()


def read_experiments(path: Path | None = None) -> tuple[dict[str, PaperTable], dict[str, Experiment]]:
    """The tables by number and the experiments by name, both in the file's order.

    Errors: ParamsError that names the place and the nearest right word.
    """
    import yaml

    path = path or HERE
    try:
        whole = yaml.load(path.read_text(encoding="utf-8"), unique_keys(yaml))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    check_keys(path.name, whole, ("tables", "experiments"), ("tables", "experiments"))
    tables = {number: read_table(number, told) for number, told in whole["tables"].items()}
    experiments: dict[str, Experiment] = {}
    rows: dict[str, list[Row]] = {number: [] for number in tables}
    plain: dict[str, dict[str, Any]] = {}  # settings by the name that `base` calls
    for name, told in whole["experiments"].items():
        check_keys(name, told, ("method", "base", "settings", "each", "quick", "in"), ("method", "in"))
        base = told.get("base")
        if base is not None and base not in plain:
            raise ParamsError(f"{name}: no experiment {base!r} stands before it{nearest(base, plain)}")
        plain[name] = (plain[base] if base else {}) | (told.get("settings") or {})
        for one, cell in expand(name, told, plain[name]):
            if one.name in experiments:
                raise ParamsError(f"{name}: there are two experiments {one.name}")
            if not NAME.fullmatch(one.name) or "-seed" in one.name:
                raise ParamsError(f"{one.name!r} cannot name a run: letters, digits, '.', '_' and '-', without '-seed'")
            if one.name != one.method and not one.name.startswith(TABLE_ROW):
                raise ParamsError(f"{one.name}: a name other than its method's begins with {TABLE_ROW!r}")
            experiments[one.name] = one
            for number, row in place(one, told, cell, tables):
                rows[number].append(row)
    return {number: with_rows(table, rows[number]) for number, table in tables.items()}, experiments


def unique_keys(yaml: Any) -> Any:
    """A safe loader that refuses a key said twice; YAML itself would take the last in silence."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is said twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader


def check_keys(where: str, told: Any, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> None:
    """Refuse what is no mapping, a key that does not exist, and one that is missing."""
    if not isinstance(told, dict):
        raise ParamsError(f"{where}: expected `key: value`, with some of {', '.join(known)}; not {told!r}")
    for key in told:
        if key not in known:
            raise ParamsError(f"{where}: no key {key!r}{nearest(key, known)}; there are: {', '.join(known)}")
    for key in needed:
        if key not in told:
            raise ParamsError(f"{where}: {key} is missing")


def nearest(word: Any, known: Any) -> str:
    """`; the nearest is 'x'`, or nothing."""
    near = get_close_matches(str(word), list(known), 1)
    return f"; the nearest is {near[0]!r}" if near else ""


def read_table(number: str, told: Any) -> PaperTable:
    """One table without its rows."""
    keys = ("title", "source", "dataset", "columns", "more", "kind", "note")
    check_keys(f"table {number}", told, keys, ("title", "source", "dataset", "columns"))
    if not isinstance(number, str):
        raise ParamsError(f'table {number}: write its number as text, "{number}"')
    if told.get("kind", "scores") not in KINDS:
        raise ParamsError(f"table {number}: kind is one of {', '.join(KINDS)}; not {told['kind']!r}")
    if told.get("kind") != "speed":
        for column in [*told["columns"], *told.get("more", [])]:
            split_column(f"table {number}", column)
    parts = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return PaperTable(number, **parts)


def split_column(where: str, column: str) -> tuple[tuple[str, ...], str, str]:
    """`t2v R@1` as its path and key in metrics.json, and its column in ranks.parquet."""
    section, _, number = str(column).partition(" ")
    if section not in SECTIONS or number not in NUMBERS:
        known = [f"{one} {other}" for one in SECTIONS for other in NUMBERS]
        raise ParamsError(f"{where}: no column {column!r}{nearest(column, known)}")
    path, ranks = SECTIONS[section]
    return path, number, ranks


def expand(name: str, told: dict[str, Any], settings: dict[str, Any]) -> list[tuple[Experiment, dict[str, Any]]]:
    """The experiments of an entry, each with its values of `each`."""
    each, quick = told.get("each") or {}, told.get("quick", True)
    if not each:
        if not isinstance(quick, bool):
            raise ParamsError(f"{name}: quick is true or false where there is no `each`")
        return [(Experiment(name, told["method"], settings, quick), {})]
    if not all(isinstance(values, list) and values for values in each.values()):
        raise ParamsError(f"{name}: `each` has a list of values for every setting")
    kept = quick if isinstance(quick, dict) else {}
    check_keys(f"{name}, quick", kept, tuple(each))
    made = []
    for values in itertools.product(*each.values()):
        cell = dict(zip(each, values))
        own = name.format(**cell)
        if own == name:
            raise ParamsError(f"{name}: its name must hold {{{next(iter(each))}}}, so that each run has its own")
        keep = all(cell[key] in some for key, some in kept.items()) and quick is not False
        made.append((Experiment(own, told["method"], settings | cell, keep), cell))
    return made


def place(
    one: Experiment, told: dict[str, Any], cell: dict[str, Any], tables: dict[str, PaperTable]
) -> list[tuple[str, Row]]:
    """(table, row) for each place in which an experiment stands."""
    found = []
    for number, places in told["in"].items():
        if number not in tables:
            raise ParamsError(f"{one.name}: no table {number!r}{nearest(number, tables)}")
        table = tables[number]
        for told_row in places if isinstance(places, list) else [places]:
            where = f"{one.name}, table {number}"
            check_keys(
                where, told_row, ("row", "paper", "target", "only", "parts"), () if table.kind == "grid" else ("row",)
            )
            if table.kind == "transfer" and "target" not in told_row:
                raise ParamsError(f"{where}: target is missing, the dataset that the run is scored on")
            if any(cell.get(key) != value for key, value in (told_row.get("only") or {}).items()):
                continue
            numbers = told_row.get("paper")
            if table.kind == "grid":
                if len(cell) != 2:
                    raise ParamsError(f"{where}: a grid needs an `each` of two settings")
                at = [values.index(cell[key]) for key, values in told["each"].items()]
                numbers = None if numbers is None else [grid_number(where, numbers, at)]
                labels = tuple(f"{value:g}" for value in cell.values())
                row = Row(" · ".join(labels), one.name, paper_numbers(where, numbers, table), "", labels)
            else:
                parts = tuple(told_row.get("parts") or ())
                row = Row(told_row["row"], one.name, paper_numbers(where, numbers, table), told_row.get("target", ""))
                row = replace(row, parts=parts)
            found.append((number, row))
    return found


def grid_number(where: str, numbers: Any, at: list[int]) -> float:
    """The paper's number in a cell."""
    try:
        return numbers[at[0]][at[1]]
    except (IndexError, TypeError, KeyError):
        raise ParamsError(f"{where}: paper has no number in row {at[0] + 1}, column {at[1] + 1}") from None


def paper_numbers(where: str, numbers: Any, table: PaperTable) -> tuple[float | None, ...]:
    """One number or None a column."""
    if numbers is None:
        return (None,) * len(table.columns)
    sound = isinstance(numbers, list) and all(number is None or type(number) in (int, float) for number in numbers)
    if not sound or len(numbers) != len(table.columns):
        raise ParamsError(f"{where}: paper must have {len(table.columns)} numbers, one for each of its columns")
    return tuple(numbers)


def with_rows(table: PaperTable, rows: list[Row]) -> PaperTable:
    """The table with its rows."""
    return replace(table, rows=tuple(rows))
