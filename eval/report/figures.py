"""The report's pictures of results: queries with their answers, keyframes, triplets, learning curves."""

import hashlib
import json
from pathlib import Path
from typing import Any

from eval.report import charts, page
from pipeline import params
from pipeline.files import read_table
from pipeline.shards import VideoReader, read_columns

SHOWN = 6  # queries
TOP = 5  # images and videos of a query, as in the paper's Figure 6
LETTERS = "abcdefgh"


def choose_queries(ranks: list[dict[str, Any]], group: dict[str, str]) -> list[dict[str, Any]]:
    """Which captions to show, by rule and not by taste: two that find image and video first, one each that finds only one
    of them first, two that find neither, and whatever else there is where these are fewer.

    Within each kind the order is that of a hash of the caption's id; no group of look-alikes is shown twice.
    """

    def first(row: dict[str, Any], kind: str) -> bool:
        return (row[f"{kind}_rank"] or 2) < 2

    def kind_of(row: dict[str, Any]) -> str:
        return f"{'image' if first(row, 'image') else ''}{'video' if first(row, 'video') else ''}"

    order = sorted(ranks, key=lambda row: hashlib.blake2b(row["caption_id"].encode()).digest())
    picked: list[dict[str, Any]] = []
    seen: set[str] = set()
    for kind, wanted in (("imagevideo", 2), ("video", 1), ("image", 1), ("", 2), (None, SHOWN)):
        for row in [row for row in order if kind is None or kind_of(row) == kind]:
            alike = group.get(row["video_id"]) or row["video_id"]
            if wanted and alike not in seen:
                picked, seen, wanted = [*picked, row], seen | {alike}, wanted - 1
    return picked[:SHOWN]


def figure_six(folder: Path, run: str, visual: VideoReader) -> list[page.Query]:
    """The chosen queries of one run, with what they found."""
    path = folder / "scores" / run / "ranks.parquet"
    rows = read_table(path).to_pylist()
    group = {
        name: alike
        for name, alike in read_columns(folder / "manifest/items.parquet", "video_id", "group").items()
        if alike
    }
    caption = read_columns(folder / "manifest" / "captions.parquet", "caption_id", "text")
    parsed = {row["caption_id"]: row for row in read_table(folder / "triplets.parquet").to_pylist()}

    def found_by(row: dict[str, Any], kind: str, name: str, score: float) -> page.Tile:
        own = row["video_id"]
        alike = group.get(own) is not None and group.get(own) == group.get(name)
        return tile(visual, name, kind, "right" if name == own else "alike" if alike else "wrong", score)

    queries = []
    for row in choose_queries(rows, group):
        grammar = parsed.get(row["caption_id"], {})
        found = {
            kind: [found_by(row, kind, *pair) for pair in list(zip(row[f"{kind}_top"], row[f"{kind}_score"]))[:TOP]]
            for kind in ("image", "video")
        }
        labels = [(label.split(":", 1), score) for label, score in zip(row["joint_top"], row["joint_score"])]
        queries.append(
            page.Query(
                caption[row["caption_id"]],
                [tuple(span) for span in grammar.get("nouns") or []],
                [tuple(span) for span in grammar.get("verbs") or []],
                [] if grammar.get("fallback") else [words(triplet) for triplet in grammar.get("triplets") or []],
                "; ".join(f"right {kind} at rank {row[f'{kind}_rank']:g}" for kind in found if row[f"{kind}_rank"]),
                found["image"],
                found["video"],
                [(kind, found_by(row, kind, name, score)) for (kind, name), score in labels],
            )
        )
    return queries


def tile(visual: VideoReader, name: str, kind: str, mark: str, score: float) -> page.Tile:
    """A result: the keyframe, and of a video its first, middle and last frame."""
    last = len(visual.times(name)) - 1
    strip = sorted({0, last // 2, last}) if kind == "video" and last else []
    image = visual.jpeg(name, visual.keyframe.get(name, 0))
    return page.Tile(name, image, [visual.jpeg(name, index) for index in strip], mark, score)


def words(triplet: dict[str, str | None]) -> tuple[str, str, str]:
    """Subject, relation and object, whatever is there."""
    return tuple(triplet.get(part) or "" for part in ("subject", "relation", "object"))


def figure_five(folder: Path, visual: VideoReader) -> str:
    """The test video whose keyframe leads by most: there the choice can be seen."""
    split = read_columns(folder / "manifest" / "items.parquet", "video_id", "split")
    names = [name for name in sorted(visual.videos) if split.get(name) == "test" and len(visual.times(name)) > 2]
    names = names or [name for name in sorted(visual.videos) if len(visual.times(name)) > 1]
    if not names:
        return '<p class="quiet">No video has two frames.</p>'
    margin = read_columns(folder / "keyframes.parquet", "video_id", "margin")
    name = max(names, key=lambda name: (margin[name], name))
    times = visual.times(name)
    frames = [visual.jpeg(name, index) for index in range(len(times))]
    drawn = page.keyframe(name, frames, times, visual.similarity(name), visual.keyframe[name])
    return f'<div class="frames">{drawn}</div>'


def read_history(folder: Path, method: str) -> str:
    """Training curves of all seeds of a method; nothing for one that is not trained."""
    terms: dict[str, list[list[tuple[float, float]]]] = {}
    phases: list[str] = []
    paths = sorted((folder / "runs").glob(f"{method}*/history.jsonl"))
    for seed, path in enumerate(path for path in paths if path.parent.name.split("-seed")[0] == method):
        for line, record in enumerate(map(json.loads, filter(str.strip, path.read_text().splitlines()))):
            phase = str(record.get("phase", ""))
            if phase and phase not in phases:
                phases.append(phase)
            for name, value in record.get("terms", {}).items():
                lines = terms.setdefault(name, [])
                lines += [[] for _ in range(seed + 1 - len(lines))]
                lines[seed].append((float(record.get("step", line)), float(value)))
    return charts.curves(method, terms, phases) if terms else ""


def run_facts(folder: Path, told: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """The large figures under the title, and the line that says what they are about."""
    ways = [
        (name, f"{label} R@1") for name, label in (("t2v", "text → video"), ("t2i", "text → image")) if name in told
    ]
    numbers = [(label, f"{told[name]['R@1']:.1f}") for name, label in ways]
    numbers.append(("joint gallery, either R@1", f"{told['joint']['R@1']:.1f}"))
    if "both" in told["joint"]:
        numbers.append(("joint gallery, both R@10", f"{told['joint']['both']['R@10']:.1f}"))
    if "in_group" in told.get("t2v_group", {}):
        group = told["t2v_group"]
        chance = f"right among look-alike videos (chance {group['in_group_chance']:.0f} %)"
        numbers.append((chance, f"{group['in_group']:.1f} %"))
    items = read_table(folder / "manifest" / "items.parquet", ["split"])["split"].to_pylist()
    splits = ", ".join(f"{items.count(split):,} {split}" for split in ("train", "val", "test") if split in items)
    clip = json.loads((folder / "clip" / "clip.json").read_text())
    line = (
        f"{folder.name}: {len(items):,} items ({splits}); frozen CLIP <code>{Path(clip['name']).name}</code>, "
        f"weights {clip['sha256'][:12]}; figures of {told['method']}, seed {told['seed']}, {told['split']} split: "
        f"{told['n']['texts']:,} texts, {told['n']['videos']:,} videos, {told['n']['images']:,} images."
    )
    return numbers, line


def choose_runs(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """The run whose answers the page shows, and its numbers: the last method of params.yaml, its first seed."""
    listed = params.read_params()["methods"] if params.PARAMS.exists() else []
    told = runs[([name for name in listed if name in runs] or list(runs))[-1]][0]
    paths = sorted((folder / "scores").glob("*/metrics.json"))
    return next(path.parent.name for path in paths if json.loads(path.read_text()) == told), told
