"""The pieces of the report: numbers and JPEG bytes in, HTML and SVG text out. Nothing here reads a file."""

import base64
from dataclasses import dataclass
from html import escape

from numpy.typing import NDArray

from eval.report.charts import heatmap
from eval.tables import Cell, Table

PERCENT = ("R@", "group R@", "in-group", "images in 10")
MARKS = {"right": ("✓", "right"), "alike": ("✗", "wrong, but of the same look-alikes"), "wrong": ("✗", "wrong")}


@dataclass
class Tile:
    """One retrieved image or video."""

    name: str  # what it is: its id
    picture: bytes  # JPEG: the image, or the video's keyframe
    strip: list[bytes]  # a few frames of a video, none of an image
    mark: str  # right, alike or wrong
    score: float


@dataclass
class Query:
    """One caption and what it found."""

    text: str
    nouns: list[tuple[int, int]]  # character offsets
    verbs: list[tuple[int, int]]
    triplets: list[tuple[str, str, str]]
    facts: str
    images: list[Tile]
    videos: list[Tile]
    joint: list[tuple[str, Tile]]  # (image or video, tile)


def picture(jpeg: bytes, label: str) -> str:
    """An image as part of the page itself."""
    data = base64.b64encode(jpeg).decode()
    return f'<img alt="{escape(label, quote=True)}" src="data:image/jpeg;base64,{data}">'


def result(each: Tile, place: int, kind: str) -> str:
    """One tile: picture, mark, score."""
    sign, said = MARKS[each.mark]
    strip = "".join(picture(frame, "") for frame in each.strip)
    alike = '<span class="same">look-alike</span>' if each.mark == "alike" else ""
    return (
        f'<figure class="tile {each.mark} {kind}">{picture(each.picture, f"{kind} {each.name}, place {place}: {said}")}'
        f'<b class="mark" aria-hidden="true">{sign}</b>{alike}'
        + (f'<div class="strip" aria-hidden="true">{strip}</div>' if strip else "")
        + f'<figcaption title="{escape(each.name, quote=True)}"><span>{place}</span>{each.score:.3f}</figcaption></figure>'
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
    images = "".join(result(tile, place, "image") for place, tile in enumerate(each.images, 1))
    videos = "".join(result(tile, place, "video") for place, tile in enumerate(each.videos, 1))
    return (
        f'<article class="query"><h3><span class="letter">{letter}</span>{marked(each.text, each.nouns, each.verbs)}</h3>'
        f'{chips(each.triplets)}<div class="both"><div><h4>Images</h4><div class="tiles">{images}</div></div>'
        f'<div><h4>Videos</h4><div class="tiles">{videos}</div></div></div><p class="quiet">{escape(each.facts)}</p></article>'
    )


def joint(each: Query, letter: str) -> str:
    """The ten best of images and videos together."""
    tiles = "".join(
        f'<div class="kind"><span class="badge {kind}">{kind}</span>{result(tile, place, kind)}</div>'
        for place, (kind, tile) in enumerate(each.joint, 1)
    )
    head = f'<h3><span class="letter">{letter}</span>{escape(each.text)}</h3>'
    return f'<article class="together">{head}<div class="ten">{tiles}</div></article>'


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
    return (
        f'<section class="card"><table><caption>{escape(each.title)}{size}</caption><thead><tr><th scope="col">method</th>'
        f'<th scope="col">seeds</th>{head}</tr></thead><tbody>{rows}</tbody></table></section>'
    )


def number(one: Cell | None, label: str) -> str:
    """One cell."""
    if one is None:
        return "<td>–</td>"
    bar = f' class="bar" style="--v:{one.mean:.1f}"' if label.startswith(PERCENT) else ""
    spread = f"<small> ± {one.deviation:.1f}</small>" if one.deviation is not None else ""
    shown = f"<b>{one.mean:.1f}</b>" if one.best else f"{one.mean:.1f}"
    return f"<td{bar}>{shown}{spread}</td>"


def keyframe(name: str, frames: list[bytes], times: NDArray, similarity: NDArray, chosen: int) -> str:
    """The paper's Figure 5: a video's frames, their similarity matrix, the row sums, and the keyframe in red."""
    shots = "".join(
        f'<figure class="shot{" chosen" if index == chosen else ""}">'
        f"{picture(frame, f'frame {index + 1}' + (', the keyframe' if index == chosen else ''))}"
        f"<figcaption>{time:.2f} s</figcaption></figure>"
        for index, (frame, time) in enumerate(zip(frames, times))
    )
    return (
        f'<div class="shots">{shots}</div><div class="matrix">{heatmap(similarity, chosen)}<p class="quiet">Each square is the '
        f"cosine similarity of two frames of {escape(name)}, the stronger the more alike; each bar is the sum of its row. "
        f"Frame {chosen + 1} of {len(frames)}, at {times[chosen]:.2f} s, has the largest sum "
        f"({similarity.sum(1)[chosen]:.3f}): it is the most like all others, and becomes the video's image.</p></div>"
    )


def section(name: str, title: str, lead: str, body: str) -> str:
    """A section with an anchor, a heading and one sentence of explanation."""
    return f'<section id="{name}"><h2>{escape(title)}</h2><p class="lead">{lead}</p>{body}</section>'


def tiles(facts: list[tuple[str, str]]) -> str:
    """Large figures under the title."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
        + "</dl>"
    )


def page(title: str, style: str, header: str, sections: list[tuple[str, str, str]]) -> str:
    """The whole file. sections: (anchor, short name for the menu, HTML)."""
    menu = "".join(f'<a href="#{name}">{escape(short)}</a>' for name, short, _ in sections)
    body = "\n".join(html for _, _, html in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>{header}<nav>{menu}</nav></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
