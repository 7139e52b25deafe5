"""The report's pictures of results: queries with their answers, keyframes, triplets, learning curves."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eval.report import charts, page
from pipeline import params
from pipeline.files import ParamsError, leads_out, read_table
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


@dataclass
class Source:
    """What the pictures of a page are taken from, and where their files lie."""

    visual: VideoReader
    path: dict[str, str]  # item -> its file, as the manifest has it
    group: dict[str, str]  # item -> its group of look-alikes, where it has one
    root: Path | None  # None where the files are not to be found
    page: Path  # folder of the page

    def shot(self, name: str, index: int) -> page.Shot:
        """One frame, linked to the file at its moment; a photo has none."""
        times = self.visual.times(name)
        here = self.root and name in self.path and not leads_out(self.path[name])
        file = self.root / self.path[name] if here else None
        link = None
        if file is not None and file.exists():
            link = quote(os.path.relpath(os.path.abspath(file), os.path.abspath(self.page)))
            link += f"#t={times[index]:.2f}" if len(times) > 1 else ""
        return page.Shot(self.visual.jpeg(name, index), link)

    def tile(self, name: str, kind: str, own: str, place: float, score: float | None, strip: bool = True) -> page.Tile:
        """A result of a query whose right item is `own`: the keyframe; of a video also its first, middle and last frame."""
        last = len(self.visual.times(name)) - 1
        frames = sorted({0, last // 2, last}) if strip and kind == "video" and last else []
        alike = self.group.get(own) is not None and self.group.get(own) == self.group.get(name)
        mark = "right" if name == own else "alike" if alike else "wrong"
        shot = self.shot(name, self.visual.keyframe.get(name, 0))
        return page.Tile(name, shot, [self.shot(name, index) for index in frames], mark, score, place)


def open_source(folder: Path) -> Source:
    """The shards of a dataset, and its files where params.yaml says that they are."""
    items = read_table(folder / "manifest" / "items.parquet", ["video_id", "path", "group"]).to_pylist()
    group = {row["video_id"]: row["group"] for row in items if row["group"]}
    root = find_root(folder.name)
    return Source(VideoReader(folder), {row["video_id"]: row["path"] for row in items}, group, root, folder / "report")


def find_root(dataset: str) -> Path | None:
    """Folder of a dataset's files; None where params.yaml does not know it, or an unset variable names it."""
    if not params.PARAMS.exists() or dataset not in params.read_params().get("datasets", {}):
        return None
    try:
        root = params.read_dataset(dataset).get("root")
    except ParamsError:
        return None
    return Path(root) if root else None


def pick_captions(folder: Path, run: str, group: dict[str, str]) -> list[str]:
    """Ids of the captions that the page shows, chosen by the ranks of one run and shown of all."""
    rows = read_table(folder / "scores" / run / "ranks.parquet").to_pylist()
    return [row["caption_id"] for row in choose_queries(rows, group)]


def figure_six(folder: Path, run: str, shown: list[str], source: Source) -> list[page.Query]:
    """The captions `shown` with what one run found for them."""
    rows = {row["caption_id"]: row for row in read_table(folder / "scores" / run / "ranks.parquet").to_pylist()}
    caption = read_columns(folder / "manifest" / "captions.parquet", "caption_id", "text")
    parsed = {row["caption_id"]: row for row in read_table(folder / "triplets.parquet").to_pylist()}
    return [build_query(rows[name], caption[name], parsed.get(name, {}), source) for name in shown if name in rows]


def build_query(row: dict[str, Any], caption: str, grammar: dict[str, Any], source: Source) -> page.Query:
    """One row of ranks.parquet with its pictures."""
    own = row["video_id"]
    found, missed = {}, {}
    for kind in ("image", "video"):
        best = list(zip(row[f"{kind}_top"], row[f"{kind}_score"]))[:TOP]
        found[kind] = [source.tile(name, kind, own, place, score) for place, (name, score) in enumerate(best, 1)]
        rank = row[f"{kind}_rank"]
        if rank is not None and own not in [name for name, _ in best]:
            missed[kind] = source.tile(own, kind, own, rank, None)
    labels = [(label.split(":", 1), score) for label, score in zip(row["joint_top"], row["joint_score"])]
    joint = [
        (kind, source.tile(name, kind, own, place, score, strip=False))
        for place, ((kind, name), score) in enumerate(labels, 1)
    ]
    return page.Query(
        row["caption_id"],
        caption,
        [tuple(span) for span in grammar.get("nouns") or []],
        [tuple(span) for span in grammar.get("verbs") or []],
        [] if grammar.get("fallback") else [words(triplet) for triplet in grammar.get("triplets") or []],
        found,
        missed,
        joint,
        row["joint_rank"],
    )


def words(triplet: dict[str, str | None]) -> tuple[str, str, str]:
    """Subject, relation and object, whatever is there."""
    return tuple(triplet.get(part) or "" for part in ("subject", "relation", "object"))


def figure_five(folder: Path, source: Source) -> str:
    """The test video whose keyframe leads by most: there the choice can be seen."""
    visual = source.visual
    split = read_columns(folder / "manifest" / "items.parquet", "video_id", "split")
    names = [name for name in sorted(visual.videos) if split.get(name) == "test" and len(visual.times(name)) > 2]
    names = names or [name for name in sorted(visual.videos) if len(visual.times(name)) > 1]
    if not names:
        return '<p class="quiet">No video has two frames.</p>'
    margin = read_columns(folder / "keyframes.parquet", "video_id", "margin")
    name = max(names, key=lambda name: (margin[name], name))
    times = visual.times(name)
    frames = [source.shot(name, index) for index in range(len(times))]
    drawn = page.keyframe(name, frames, times, visual.similarity(name), visual.keyframe[name])
    return f'<div class="frames">{drawn}</div>'


def figure_three(folder: Path, run: str, source: Source) -> str:
    """Where a run looks for the words that some captions have lost, the paper's Figure 3; empty for most runs."""
    path = folder / "scores" / run / "attention.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    caption = read_columns(folder / "manifest" / "captions.parquet", "caption_id", "text") if rows else {}
    parsed = {row["caption_id"]: row for row in read_table(folder / "triplets.parquet").to_pylist()} if rows else {}
    drawn = []
    for row in rows:
        spans = [tuple(span) for span in parsed[row["caption_id"]][f"{row['kind']}s"]]
        marks = {"nouns": [], "verbs": []} | {f"{row['kind']}s": spans}
        shots = [source.shot(row["video_id"], index) for index in range(len(row["map"]))]
        times = source.visual.times(row["video_id"])
        drawn.append(page.attention(caption[row["caption_id"]], marks, row, list(zip(shots, times, row["map"]))))
    return "".join(drawn)


def figure_words(folder: Path, run: str, says: list[dict[str, Any]], source: Source) -> str:
    """What some videos say in the words of a lexicon, beside their frames, UNIFY's Figure 5; empty for most runs."""
    caption = read_columns(folder / "manifest" / "captions.parquet", "caption_id", "text") if says else {}
    drawn = []
    for one in says:
        name = one["video_id"]
        last = len(source.visual.times(name)) - 1
        shots = [source.shot(name, index) for index in sorted({0, last // 3, 2 * last // 3, last})]
        drawn.append(page.spoken(run, caption.get(one["caption_id"], one["caption_id"]), one, shots))
    return "".join(drawn)


def read_history(folder: Path, method: str) -> str:
    """Training curves of all seeds of a method, the kept epoch marked; nothing for one that is not trained."""
    terms: dict[str, list[list[tuple[float, float]]]] = {}
    kept: dict[str, list[tuple[float, float]]] = {}
    phases: list[str] = []
    paths = sorted((folder / "runs").glob(f"{method}*/history.jsonl"))
    for seed, path in enumerate(path for path in paths if path.parent.name.split("-seed")[0] == method):
        stood: dict[tuple[str, int], dict[str, tuple[float, float]]] = {}  # by phase and epoch
        for line, record in enumerate(map(json.loads, filter(str.strip, path.read_text().splitlines()))):
            phase = str(record.get("phase", ""))
            if phase and phase not in phases:
                phases.append(phase)
            if "kept" in record:
                for name, point in stood.get((phase, record["kept"]), {}).items():
                    kept.setdefault(name, []).append(point)
                continue
            place = float(record.get("step", line))
            held = {f"R@1 {task}, held-out split": each["R@1"] for task, each in record.get("validation", {}).items()}
            if held:
                stood[phase, record["epoch"]] = {name: (place, float(value)) for name, value in held.items()}
            for name, value in (record.get("terms", {}) | held).items():
                lines = terms.setdefault(name, [])
                lines += [[] for _ in range(seed + 1 - len(lines))]
                lines[seed].append((place, float(value)))
    return charts.curves(method, terms, phases, kept) if terms else ""


def choose_lead(runs: dict[str, Any]) -> int:
    """Which method's answers the page opens with: the last of params.yaml that has any."""
    listed = params.read_params()["methods"] if params.PARAMS.exists() else []
    return list(runs).index(([name for name in listed if name in runs] or list(runs))[-1])
