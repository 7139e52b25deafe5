"""tables.md, tables.csv and index.html: every number beside the paper's own."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from eval.report import page
from eval.report.text import escape
from eval.tables.build import Figure, Made, facts
from pipeline import files

READING = (
    "In brackets the paper's own number, on its own dataset with CLIP fine-tuned; ours are of a frozen CLIP.",
    "± is the sample standard deviation over seeds. n is queries over gallery.",
    "Bold is the best of a column, only where it is above every other row at p < .05: a paired bootstrap over queries, seeds "
    "averaged (of video to text and image to text a query is an item). A median has no p and no bold.",
)


@dataclass
class Heading:
    """What stands above the tables."""

    dataset: str
    about: list[str]  # commit, machine, seeds: a sentence each


def write(folder: Path, heading: Heading, made: list[Made]) -> list[Path]:
    """All three files, the same bytes for the same numbers."""
    shown = [each for each in made if not each.empty or any(line.lacks for line in each.lines)]
    parts = {
        "tables.md": to_markdown(heading, shown),
        "tables.csv": to_csv(shown),
        "index.html": to_html(heading, shown),
    }
    for name, text in parts.items():
        files.write(folder / name, text)
    return [folder / name for name in parts]


def say(figure: Figure, digits: int = 1) -> str:
    """A number with its deviation."""
    if figure.mean is None:
        return "–"
    spread = f" ± {figure.deviation:.{digits}f}" if figure.deviation is not None else ""
    return f"{figure.mean:.{digits}f}{spread}"


def to_markdown(heading: Heading, made: list[Made]) -> str:
    """The tables for a README."""
    lines = [
        f"# The papers' tables on `{heading.dataset}`",
        "",
        *heading.about,
        "",
        *(f"- {one}" for one in READING),
        "",
    ]
    for each in made:
        lines += [f"## Table {each.table.number}: {each.table.title}", "", f"{each.table.source}."]
        lines += [each.table.note] if each.table.note else []
        lines += ["", *(grid_rows(each) if each.table.kind == "grid" else table_rows(each)), ""]
        lines += [f"- {one}" for one in each.said] + ([""] if each.said else [])
    return "\n".join(lines)


def digits(each: Made) -> int:
    """After the point."""
    return 2 if each.table.kind == "speed" else 1


def mark(figure: Figure, places: int) -> str:
    """A cell of Markdown, the paper's number in brackets."""
    text = f"**{say(figure, places)}**" if figure.bold else say(figure, places)
    return text if figure.paper is None else f"{text} ({figure.paper:g})"


def table_rows(each: Made) -> list[str]:
    """A row a line."""
    lines = [f"| | seeds | {' | '.join(each.columns)} | n |", f"|---|--:|{'--:|' * len(each.columns)}---|"]
    for line in each.lines:
        cells = " | ".join(mark(figure, digits(each)) for figure in line.figures)
        lines.append(f"| {line.label} | {len(line.seeds)} | {cells} | {line.size or line.lacks} |")
    return lines


def axes(each: Made) -> tuple[list[str], list[str]]:
    """The grid's values, down and across."""
    return tuple(list(dict.fromkeys(line.cell[at] for line in each.lines)) for at in (0, 1))


def grid_rows(each: Made) -> list[str]:
    """A grid as it is printed; n and seeds under it, which all cells share."""
    down, across = axes(each)
    cell = {line.cell: line.figures[0] for line in each.lines}
    lines = [f"| λ1 \\ λ2 | {' | '.join(across)} |", f"|--:|{'--:|' * len(across)}"]
    for one in down:
        lines.append(f"| {one} | {' | '.join(mark(cell[one, other], 1) for other in across)} |")
    return [*lines, "", grid_facts(each)]


def grid_facts(each: Made) -> str:
    """What the cells share."""
    sizes = sorted({line.size for line in each.lines if line.size})
    seeds = sorted({len(line.seeds) for line in each.lines if line.seeds})
    return (
        f"{each.columns[0]}; seeds: {', '.join(map(str, seeds)) or 'none'}; n: {'; '.join(sizes) or 'nothing was run'}."
    )


def to_csv(made: list[Made]) -> str:
    """A record a number."""
    records = [record for each in made for record in facts(each)]
    out = io.StringIO()
    if records:
        writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: round_off(value) for key, value in record.items()} for record in records)
    return out.getvalue()


def round_off(value: object) -> object:
    """A number to four digits; nothing for what there is none of."""
    return "" if value is None else round(value, 4) if isinstance(value, float) else value


def to_html(heading: Heading, made: list[Made]) -> str:
    """One page without scripts, in the report's dress."""
    style = (Path(page.__file__).parent / "report.css").read_text()
    lead = "".join(f'<p class="lead">{escape(one)}</p>' for one in heading.about)
    header = f"<h1>UniTriM <small>the papers’ tables on {escape(heading.dataset)}</small></h1>{lead}"
    sections = []
    for each in made:
        name, title = f"table-{each.table.number}", f"Table {each.table.number}: {each.table.title}"
        said = "".join(f"<li>{escape(one)}</li>" for one in each.said)
        note = f"{escape(each.table.source)}. {escape(each.table.note)}"
        body = html_table(each, title) + (f'<ul class="reading">{said}</ul>' if said else "")
        sections.append((name, f"Table {each.table.number}", page.section(name, title, note, body)))
    reading = "".join(f"<li>{escape(one)}</li>" for one in READING)
    link = '<li>Figures: <a href="../report/index.html">the report</a> has keyframes, queries with answers, and curves.</li>'
    body = f'<ul class="reading">{reading}{link}</ul>'
    sections.append(("reading", "How to read", page.section("reading", "How to read the numbers", "", body)))
    return page.page(f"UniTriM: tables of {heading.dataset}", style, header, "", sections)


def html_table(each: Made, title: str) -> str:
    """A table, or the grid and what its cells share."""
    if each.table.kind == "grid":
        down, across = axes(each)
        cell = {line.cell: line.figures[0] for line in each.lines}
        head = ["λ1 \\ λ2", *across]
        rows = [[one, *(html_cell(cell[one, other], 1) for other in across)] for one in down]
        return html_rows(title, head, rows) + page.quiet(grid_facts(each))
    rows = [
        [
            f'{escape(line.label)}<br><span class="id">{escape(line.run)}</span>',
            str(len(line.seeds)),
            *(html_cell(figure, digits(each)) for figure in line.figures),
            escape(line.size or line.lacks),
        ]
        for line in each.lines
    ]
    return html_rows(title, ["", "seeds", *each.columns, "n"], rows)


def html_cell(figure: Figure, places: int) -> str:
    """A number, and the paper's under it."""
    text = f"<b>{say(figure, places)}</b>" if figure.bold else say(figure, places)
    return text if figure.paper is None else f'{text}<br><span class="id">paper {figure.paper:g}</span>'


def html_rows(title: str, head: list[str], rows: list[list[str]]) -> str:
    """Cells that are HTML already."""
    top = "".join(f'<th scope="col">{escape(label)}</th>' for label in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return page.scroller(title, "", f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")
