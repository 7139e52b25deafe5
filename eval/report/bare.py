"""The page of a dataset without scores, as a folder without captions: what is in it, what was left out, how to search."""

import json
from html import escape
from pathlib import Path

from eval.report import page
from eval.report.figures import figure_five
from eval.stale import skipped_lines
from pipeline.files import read_table
from pipeline.shards import VideoReader, read_columns

SHOWN = 48  # pictures, and rejects of a table


def build_bare(folder: Path) -> str:
    """The whole page, the same bytes for the same files."""
    visual = VideoReader(folder)
    kind = read_columns(folder / "manifest" / "items.parquet", "video_id", "kind")
    clip = json.loads((folder / "clip" / "clip.json").read_text())
    names = sorted(visual.videos)
    photos = sum(kind.get(name) == "image" for name in names)
    header = (
        "<h1>UniTriM <small>one sentence finds the images and the videos</small></h1>"
        f'<p class="lead">{escape(folder.name)}: {len(names) - photos:,} videos and {photos:,} photos can be searched; CLIP '
        f"<code>{escape(Path(clip['name']).name)}</code>, weights {clip['sha256'][:12]}. There are no captions to score by.</p>"
    )
    command = f'python -m eval.search --run {folder}/runs/zero_shot --shards {folder} "a red ball"'
    why = "".join(f"<li>{escape(line)}</li>" for line in skipped_lines(folder))
    parts = [
        ("search", "Search", "What to type:", f"<pre>{escape(command)}</pre><ul>{why}</ul>"),
        (
            "items",
            "What is in it",
            f"The keyframe of each, the first {SHOWN} by name.",
            pictures(visual, names[:SHOWN]),
        ),
        ("rejects", "What was left out", "", rejects(folder)),
        ("keyframe", "How a video's image is chosen", "The frame most like all others.", figure_five(folder, visual)),
    ]
    sections = [(name, title, page.section(name, title, lead, body)) for name, title, lead, body in parts]
    return page.page(f"UniTriM: {folder.name}", (Path(__file__).parent / "report.css").read_text(), header, sections)


def pictures(visual: VideoReader, names: list[str]) -> str:
    """Keyframes beside each other."""
    return f'<div class="shots">{"".join(page.picture(visual.jpeg(name, visual.keyframe[name]), name) for name in names)}</div>'


def rejects(folder: Path) -> str:
    """A row for each item or caption that was left out, and why."""
    rows = [
        row
        for stage in ("manifest", "visual")
        if (folder / stage / "rejects.parquet").exists()
        for row in read_table(folder / stage / "rejects.parquet").to_pylist()
    ]
    if not rows:
        return '<p class="quiet">Nothing.</p>'
    lines = [
        f"<tr><td>{escape(row['id'])}</td><td>{escape(row['reason'])}</td><td>{escape(row['detail'] or '')}</td></tr>"
        for row in rows[:SHOWN]
    ]
    more = f"<p>and {len(rows) - SHOWN:,} more, in rejects.parquet</p>" if len(rows) > SHOWN else ""
    return f"<table><tr><th>file</th><th>reason</th><th>detail</th></tr>{''.join(lines)}</table>{more}"
