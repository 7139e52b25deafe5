"""The page of a dataset without scores, as a folder without captions: what is in it, what was left out, how to search."""

import json
from pathlib import Path

from eval.report import facts, page
from eval.report.figures import Source, figure_five, open_source
from eval.report.text import escape
from eval.stale import find_stale
from pipeline.shards import read_columns

SHOWN = 48  # pictures


def build_bare(folder: Path) -> str:
    """The whole page, the same bytes for the same files."""
    source = open_source(folder)
    kind = read_columns(folder / "manifest" / "items.parquet", "video_id", "kind")
    clip = json.loads((folder / "clip" / "clip.json").read_text())
    names = sorted(source.visual.videos)
    photos = sum(kind.get(name) == "image" for name in names)
    lack = "No scores are of what stands now." if find_stale(folder) else "There are no captions to score by."
    header = (
        "<h1>UniTriM <small>one sentence finds the images and the videos</small></h1>"
        f'<p class="lead">{escape(folder.name)}: {len(names) - photos:,} videos and {photos:,} photos can be searched; CLIP '
        f"<code>{escape(Path(clip['name']).name)}</code>, weights {clip['sha256'][:12]}. {lack}</p>{facts.warnings(folder)}"
    )
    parts = [
        ("search", "Search", "What to type:", f"<pre>{escape(search_command(folder))}</pre>"),
        (
            "items",
            "What is in it",
            f"The keyframe of each, the first {SHOWN} by name.",
            pictures(source, names[:SHOWN]),
        ),
        ("rejects", "What was left out", "", facts.rejects(folder)),
        ("keyframe", "How a video's image is chosen", "The frame most like all others.", figure_five(folder, source)),
    ]
    sections = [(name, title, page.section(name, title, lead, body)) for name, title, lead, body in parts]
    style = (Path(__file__).parent / "report.css").read_text()
    return page.page(f"UniTriM: {folder.name}", style, header, "", sections)


def search_command(folder: Path) -> str:
    """What finds something in a dataset: by the run that finds most videos, where no scores count by the baseline, which needs
    no training, else by any run; empty where there is none.
    """
    past = find_stale(folder)
    runs = sorted(path.parent for path in (folder / "runs").glob("*/checkpoint.pt"))
    found = {
        path: -1.0 if path.name in past else recall(folder / "scores" / path.name / "metrics.json") for path in runs
    }
    run = max(runs, key=lambda path: (found[path], path.name == facts.BASELINE), default=None)
    return "" if run is None else f'python -m eval.search --run {run} --shards {folder} "a red ball"'


def recall(path: Path) -> float:
    """R@1 text → video of scores; -1 where there are none."""
    said = json.loads(path.read_text()) if path.exists() else {}
    return said.get("t2v", {}).get("R@1", -1.0)


def pictures(source: Source, names: list[str]) -> str:
    """Keyframes beside each other, each over its id."""
    shown = "".join(
        f'<figure class="shot">{page.picture(source.shot(name, source.visual.keyframe.get(name, 0)), name)}'
        f'<figcaption class="id">{escape(name)}</figcaption></figure>'
        for name in names
    )
    return f'<div class="shots">{shown}</div>'
