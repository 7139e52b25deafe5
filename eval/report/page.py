"""The pieces of the report: numbers and JPEG bytes in, HTML and SVG text out. Nothing here reads a file."""

import base64
from dataclasses import dataclass

from numpy.typing import NDArray

from eval.overview import Cell, Table
from eval.report.charts import heatmap
from eval.report.text import escape

PERCENT = ("R@", "group R@", "in-group", "images in 10")
MARKS = {"right": ("✓", "right"), "alike": ("✗", "wrong, but of the same look-alikes"), "wrong": ("✗", "wrong")}


@dataclass
class Shot:
    """One frame: a JPEG, and where the file shows it."""

    jpeg: bytes
    link: str | None = None  # relative to the page, with the moment; None where the file is not beside it


@dataclass
class Tile:
    """One retrieved image or video."""

    name: str  # what it is: its id
    shot: Shot  # the image, or the video's keyframe
    strip: list[Shot]  # a few frames of a video, none of an image
    mark: str  # right, alike or wrong
    score: float | None  # None of what is not among the first ten
    place: float


@dataclass
class Query:
    """One caption and what it found."""

    name: str  # the caption's id
    text: str
    nouns: list[tuple[int, int]]  # character offsets
    verbs: list[tuple[int, int]]
    triplets: list[tuple[str, str, str]]
    found: dict[str, list[Tile]]  # image and video: the best of each
    missed: dict[str, Tile]  # image and video: the right one, where it is not among them
    joint: list[tuple[str, Tile]]  # (image or video, tile)
    joint_rank: float


@dataclass
class Headline:
    """One large figure and what it is to be held against."""

    label: str
    value: str
    against: dict[str, str]


def picture(shot: Shot, label: str) -> str:
    """An image as part of the page itself, which opens its file at its moment."""
    data = base64.b64encode(shot.jpeg).decode()
    shown = f'<img alt="{escape(label)}" src="data:image/jpeg;base64,{data}">'
    return shown if shot.link is None else f'<a href="{escape(shot.link)}">{shown}</a>'


def result(each: Tile, kind: str) -> str:
    """One tile: picture and strip; under them place, mark and score, then the id as text. Nothing lies on a picture."""
    sign, meaning = MARKS[each.mark]
    place = f"{each.place:g}"
    strip = "".join(picture(shot, "") for shot in each.strip)
    score = "" if each.score is None else f'<span class="score">{each.score:.3f}</span>'
    alike = '<span class="same">look-alike</span>' if each.mark == "alike" else ""
    name = f'<span class="id" title="{escape(each.name)}">{escape(each.name)}</span>'
    return (
        f'<figure class="tile {each.mark} {escape(kind)}">{picture(each.shot, f"{kind} {each.name}, place {place}: {meaning}")}'
        + (f'<div class="strip">{strip}</div>' if strip else "")
        + f'<figcaption><span class="place">{place} <b class="mark" aria-hidden="true">{sign}</b></span> {score} '
        f"{alike} {name}</figcaption></figure>"
    )


def answers(each: Query, kind: str) -> str:
    """The best of one gallery, and beside them the right one where it is not among them."""
    tiles = "".join(result(tile, kind) for tile in each.found[kind])
    missed = each.missed.get(kind)
    beside = ""
    if missed:
        beside = f'<div class="missed"><h4>right, at rank {missed.place:g}</h4>{result(missed, kind)}</div>'
    title = {"image": "Images", "video": "Videos"}[kind]
    return (
        f'<div class="answers{" wide" if missed else ""}"><div><h4>{title}</h4>'
        f'<div class="tiles">{tiles}</div></div>{beside}</div>'
    )


def marked(text: str, nouns: list[tuple[int, int]], verbs: list[tuple[int, int]]) -> str:
    """The caption with its nouns and verbs told apart; overlapping spans lose."""
    parts, at = [], 0
    for begin, end, kind in sorted([(*span, "noun") for span in nouns] + [(*span, "verb") for span in verbs]):
        if at <= begin < end <= len(text):
            parts += [escape(text[at:begin]), f'<span class="{kind}">{escape(text[begin:end])}</span>']
            at = end
    return "".join(parts) + escape(text[at:])


def chips(triplets: list[tuple[str, str, str]]) -> str:
    """Triplets as a list; a caption without any says so."""
    if not triplets:
        return '<p class="quiet">No triplet found: the caption itself is the only phrase.</p>'
    rows = "".join(
        "<li>"
        + '<span aria-hidden="true"> · </span>'.join(f"<span>{escape(word)}</span>" for word in triplet if word)
        + "</li>"
        for triplet in triplets
    )
    return f'<ul class="triplets">{rows}</ul>'


def query(each: Query, letter: str) -> str:
    """One row of the paper's Figure 6: caption and triplets, five images, five videos."""
    return (
        f'<article class="query"><h3><span class="letter">{letter}</span>{marked(each.text, each.nouns, each.verbs)}</h3>'
        f'{chips(each.triplets)}<div class="both">{answers(each, "image")}{answers(each, "video")}</div>'
        f'<p class="quiet">caption <span class="id">{escape(each.name)}</span></p></article>'
    )


def joint(each: Query, letter: str) -> str:
    """The ten best of images and videos together."""
    tiles = "".join(
        f'<div class="kind"><span class="badge {escape(kind)}">{escape(kind)}</span>{result(tile, kind)}</div>'
        for kind, tile in each.joint
    )
    head = f'<h3><span class="letter">{letter}</span>{escape(each.text)}</h3>'
    rank = f'<p class="quiet">the first right one at rank {each.joint_rank:g}</p>'
    return f'<article class="together">{head}<div class="ten">{tiles}</div>{rank}</article>'


def table(each: Table) -> str:
    """One table; percentages have a bar behind them, the best is bold; n stands in the caption where all rows share it."""
    sizes = {row.size for row in each.rows}
    shared = len(sizes) == 1
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in [*each.columns, *([] if shared else ["n"])])
    rows = ""
    for row in each.rows:
        cells = "".join(number(one, label) for one, label in zip(row.cells, each.columns))
        own = "" if shared else f'<td class="n">{escape(row.size)}</td>'
        rows += f'<tr><th scope="row">{escape(row.name)}</th><td>{row.seeds}</td>{cells}{own}</tr>'
    size = f"<span>n = {escape(each.rows[0].size)}</span>" if shared else ""
    return scroller(
        each.title,
        f"<h3>{escape(each.title)}{size}</h3>",
        f'<table><thead><tr><th scope="col">method</th><th scope="col">seeds</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def plain_table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A table of words, the first column its rows' names."""
    top = "".join(f'<th scope="col">{escape(label)}</th>' for label in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    inner = f'<table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return scroller(title, f"<h3>{escape(title)}</h3>", inner)


def scroller(name: str, head: str, inner: str) -> str:
    """A card whose table scrolls sideways where it is too wide, and says so; the keyboard can scroll it too."""
    return (
        f'<section class="card">{head}<p class="hint" aria-hidden="true">scroll sideways for all columns →</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{inner}</div></section>'
    )


def details(title: str, body: str) -> str:
    """Something folded away."""
    return f'<details class="card"><summary>{escape(title)}</summary>{body}</details>'


def pairs(values: dict[str, str]) -> str:
    """Names and values."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="pairs">{rows}</dl>'


def quiet(words: str) -> str:
    """A small remark."""
    return f'<p class="quiet">{escape(words)}</p>'


def warnings(lines: list[str]) -> str:
    """What a reader must know before the numbers."""
    return f'<ul class="warnings">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def number(one: Cell | None, label: str) -> str:
    """One cell."""
    if one is None:
        return "<td>–</td>"
    bar = f' class="bar" style="--v:{one.mean:.1f}"' if label.startswith(PERCENT) else ""
    spread = f"<small> ± {one.deviation:.1f}</small>" if one.deviation is not None else ""
    shown = f"<b>{one.mean:.1f}</b>" if one.best else f"{one.mean:.1f}"
    return f"<td{bar}>{shown}{spread}</td>"


def keyframe(name: str, shots: list[Shot], times: NDArray, similarity: NDArray, chosen: int) -> str:
    """The paper's Figure 5: a video's frames, their similarity matrix, the row sums, and the keyframe in red."""
    drawn = "".join(
        f'<figure class="shot{" chosen" if index == chosen else ""}">'
        f"{picture(shot, f'frame {index + 1}' + (', the keyframe' if index == chosen else ''))}"
        f"<figcaption>{time:.2f} s</figcaption></figure>"
        for index, (shot, time) in enumerate(zip(shots, times))
    )
    return (
        f'<div class="shots">{drawn}</div><div class="matrix"><div><p class="hint" aria-hidden="true">scroll sideways for '
        f'the sums →</p><div class="scroll" tabindex="0" role="region" aria-label="similarity of the frames">'
        f'{heatmap(similarity, chosen)}</div></div><p class="quiet">Each square is the '
        f'cosine similarity of two frames of <span class="id">{escape(name)}</span>, the stronger the more alike; each bar is '
        f"the sum of its row. Frame {chosen + 1} of {len(shots)}, at {times[chosen]:.2f} s, has the largest sum "
        f"({similarity.sum(1)[chosen]:.3f}): it is the most like all others, and becomes the video's image.</p></div>"
    )


def attention(text: str, marks: dict[str, list], row: dict, shots: list[tuple[Shot, float, list[float]]]) -> str:
    """A caption with the words that were taken out of it, and where in the frames they were looked for: the redder, the more."""
    drawn = "".join(
        f'<figure class="shot looked">{picture(shot, f"frame at {time:.2f} s")}{weights(grid)}'
        f"<figcaption>{time:.2f} s</figcaption></figure>"
        for shot, time, grid in shots
    )
    return (
        f'<article class="attention"><h3>{marked(text, marks["nouns"], marks["verbs"])}</h3>'
        f'<p class="quiet">{escape(row["kind"])}s removed; video <span class="id">{escape(row["video_id"])}</span></p>'
        f'<div class="shots">{drawn}</div></article>'
    )


def spoken(run: str, text: str, row: dict, shots: list[Shot]) -> str:
    """A caption, frames of its video, and the words that both weigh most; those of the caption are marked in the video's."""
    own = {word for word, _ in row["caption"]}
    frames = "".join(f'<figure class="shot">{picture(shot, "")}</figure>' for shot in shots)
    lists = "".join(
        f"<div><h4>{title}</h4>{word_list(row[part], own if part != 'caption' else set())}</div>"
        for part, title in (("before", "video, before"), ("after", "video, after"), ("caption", "caption"))
        if row[part]
    )
    return (
        f'<article class="attention spoken"><h3>{escape(text)}</h3>'
        f'<p class="quiet">{escape(run)}; video <span class="id">{escape(row["video_id"])}</span></p>'
        f'<div class="said"><div class="strip">{frames}</div>{lists}</div></article>'
    )


def word_list(words: list, own: set[str]) -> str:
    """Words with bars as long as their weights."""
    most = max((weight for _, weight in words), default=1) or 1
    rows = "".join(
        f'<li class="{"own" if word in own else ""}" style="--v:{100 * weight / most:.0f}">{escape(word)}</li>'
        for word, weight in words
    )
    return f'<ol class="words">{rows}</ol>'


def weights(grid: list[float]) -> str:
    """Weights of a frame's patches over its picture, row by row."""
    side = round(len(grid) ** 0.5)
    squares = "".join(
        f'<rect x="{place % side}" y="{place // side}" width="1" height="1" fill-opacity="{0.75 * weight:.3f}"/>'
        for place, weight in enumerate(grid)
        if weight >= 0.01
    )
    return f'<svg class="weights" viewBox="0 0 {side} {side}" aria-hidden="true">{squares}</svg>'


def section(name: str, title: str, lead: str, body: str) -> str:
    """A section with an anchor, a heading and one sentence of explanation."""
    return f'<section id="{name}"><h2>{escape(title)}</h2><p class="lead">{lead}</p>{body}</section>'


def headlines(facts: list[Headline]) -> str:
    """Large figures, each over what it is to be held against."""
    blocks = []
    for each in facts:
        against = " ".join(f"<span>{escape(name)} {escape(value)}</span>" for name, value in each.against.items())
        blocks.append(
            f'<div><dt>{escape(each.label)}</dt><dd>{escape(each.value)}</dd><dd class="against">{against}</dd></div>'
        )
    return f'<dl class="facts">{"".join(blocks)}</dl>'


def switch(names: list[str], chosen: int) -> str:
    """Which method's answers are shown: radio buttons, so that it needs no script."""
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="run" id="run-{index}"{" checked" if index == chosen else ""}>'
        f"<span>{escape(name)}</span></label>"
        for index, name in enumerate(names)
    )
    return f'<fieldset class="switch"><legend>answers of</legend>{buttons}</fieldset>'


def of_runs(parts: list[str]) -> str:
    """The same part of the page for each method; the switch shows one of them."""
    return "".join(f'<div class="of-run run-{index}">{part}</div>' for index, part in enumerate(parts))


def switch_style(count: int) -> str:
    """Where a browser knows no :has(), all methods are shown, one after another."""
    return "".join(
        f"body:has(#run-{index}:checked) .of-run:not(.run-{index}) {{ display: none; }}\n" for index in range(count)
    )


def page(title: str, style: str, header: str, bar: str, sections: list[tuple[str, str, str]]) -> str:
    """The whole file. sections: (anchor, short name for the menu, HTML)."""
    menu = "".join(f'<a href="#{name}">{escape(short)}</a>' for name, short, _ in sections)
    body = "\n".join(html for _, _, html in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>{header}<nav>{menu}</nav></header>\n{bar}\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
