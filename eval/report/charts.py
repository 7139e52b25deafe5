"""SVG charts of the report."""

from itertools import count

import numpy as np
from numpy.typing import NDArray

from eval.report.text import escape


def heatmap(similarity: NDArray, chosen: int) -> str:
    """(N, N) cosines as squares, row sums as bars beside them, one row outlined in red."""
    size = len(similarity)
    side = min(40, 480 // size)
    low, high = float(similarity.min()), float(similarity.max())
    span = max(high - low, 1e-9)
    squares = []
    for row, column in np.ndindex(size, size):
        share = (similarity[row, column] - low) / span
        squares.append(
            f'<rect x="{column * side}" y="{row * side}" width="{side - 1}" height="{side - 1}" rx="2" '
            f'fill-opacity="{0.06 + 0.94 * share:.3f}"/>'
        )
        if side >= 28:
            squares.append(
                f'<text class="{"on" if share > 0.55 else "off"}" x="{column * side + side / 2 - 0.5}" '
                f'y="{row * side + side / 2 + 3}">{similarity[row, column]:.2f}</text>'.replace(">0.", ">.")
            )
    sums = similarity.sum(1)
    least, most = float(sums.min()), float(sums.max())
    left, gap = size * side + 14, min(3, side / 6)
    bars = []
    for row, value in enumerate(sums):
        width = 24 + 90 * (value - least) / max(most - least, 1e-9)
        kind = "sum chosen" if row == chosen else "sum"
        middle = row * side + side / 2
        bars.append(
            f'<rect class="{kind}" x="{left}" y="{row * side + gap:g}" width="{width:.1f}" '
            f'height="{side - 1 - 2 * gap:g}" rx="2"/>'
        )
        if side >= 12:
            bars.append(f'<text class="value" x="{left + width + 6:.1f}" y="{middle + 3}">{value:.3f}</text>')
    height, width = size * side, left + 180
    return (
        f'<svg viewBox="-3 -3 {width + 6} {height + 6}" style="max-width:{width + 6}px" role="img" '
        f'aria-label="similarity of {size} frames from {low:.2f} to {high:.2f}; frame {chosen + 1} has the largest sum">'
        f'<g class="squares">{"".join(squares)}</g>{"".join(bars)}'
        f'<rect class="outline" x="-2" y="{chosen * side - 2}" width="{size * side + 3}" height="{side + 3}" rx="3"/></svg>'
    )


Line = list[tuple[float, float]]  # (step, value)


def curves(method: str, terms: dict[str, list[Line]], phases: list[str], kept: dict[str, Line]) -> str:
    """Small charts of a method's loss terms and of how it stands after each epoch, one line a seed; what was kept is a dot."""
    charts = "".join(chart(name, lines, kept.get(name, [])) for name, lines in terms.items())
    phase = f'<span class="quiet">{escape(", then ".join(phases))}</span>' if phases else ""
    return f'<article class="curves"><h3>{escape(method)} {phase}</h3><div class="charts">{charts}</div></article>'


def chart(name: str, lines: list[Line], kept: Line = ()) -> str:
    """One term over training steps, a line a seed, on axes that fit them; a dot at each point that is kept."""
    lines = [line for line in lines if line]
    across = [step for line in lines for step, _ in line]
    up = [value for line in lines for _, value in line]
    left, right, low, high = min(across), max(across), min(up), max(up)

    def point(step: float, value: float) -> str:
        x = 4 + 212 * (step - left) / max(right - left, 1e-9)
        y = 66 - 60 * (value - low) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    drawn = "".join(
        f'<polyline class="seed{index % 3}" points="{" ".join(point(*pair) for pair in line)}"/>'
        for index, line in zip(count(), lines)
    )
    for place in kept:
        x, y = point(*place).split(",")
        drawn += f'<circle class="kept" cx="{x}" cy="{y}" r="3"/>'
    first, last = lines[0][0][1], lines[0][-1][1]
    return (
        f'<figure class="chart"><figcaption><b>{escape(name.replace("_", " "))}</b> {first:.3g} → {last:.3g}</figcaption>'
        f'<svg viewBox="0 0 220 72" role="img" aria-label="{escape(name)}: from {first:.3g} to {last:.3g} '
        f'over {right - left:.0f} steps"><path class="axis" d="M4 69.5H216"/>{drawn}</svg>'
        f'<div class="ends"><span>{low:.3g}–{high:.3g}</span><span>step {right:.0f}</span></div></figure>'
    )
