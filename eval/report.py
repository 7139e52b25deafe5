"""Stage: scores, runs and shards -> one self-contained HTML page; with `--table` the numbers alone.

python -m eval.report --dataset demo            writes cache/demo/report/index.html
python -m eval.report --table [--dataset demo]  prints the table of all runs; --markdown for a README
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet

from eval import page
from eval.table import gather, markdown, tables, text
from eval.visual import Visual, columns
from pipeline import stage

SHOWN = 6  # queries
TOP = 5  # images and videos of a query, as in the paper's Figure 6
LETTERS = "abcdefgh"


def chosen(ranks: list[dict[str, Any]], group: dict[str, str]) -> list[dict[str, Any]]:
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


def figure_six(folder: Path, run: str, visual: Visual) -> list[page.Query]:
    """The chosen queries of one run, with what they found."""
    path = folder / "scores" / run / "ranks.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    group = {
        name: alike for name, alike in columns(folder / "manifest/items.parquet", "video_id", "group").items() if alike
    }
    caption = columns(folder / "manifest" / "captions.parquet", "caption_id", "text")
    parsed = {row["caption_id"]: row for row in pyarrow.parquet.read_table(folder / "triplets.parquet").to_pylist()}

    def found_by(row: dict[str, Any], kind: str, name: str, score: float) -> page.Tile:
        own = row["video_id"]
        alike = group.get(own) is not None and group.get(own) == group.get(name)
        return tile(visual, name, kind, "right" if name == own else "alike" if alike else "wrong", score)

    queries = []
    for row in chosen(rows, group):
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


def tile(visual: Visual, name: str, kind: str, mark: str, score: float) -> page.Tile:
    """A result: the keyframe, and of a video its first, middle and last frame."""
    last = len(visual.times(name)) - 1
    strip = sorted({0, last // 2, last}) if kind == "video" and last else []
    image = visual.jpeg(name, visual.keyframe.get(name, 0))
    return page.Tile(name, image, [visual.jpeg(name, index) for index in strip], mark, score)


def words(triplet: dict[str, str | None]) -> tuple[str, str, str]:
    """Subject, relation and object, whatever is there."""
    return tuple(triplet.get(part) or "" for part in ("subject", "relation", "object"))


def figure_five(folder: Path, visual: Visual) -> str:
    """The test video whose keyframe leads by most: there the choice can be seen."""
    split = columns(folder / "manifest" / "items.parquet", "video_id", "split")
    names = [name for name in sorted(visual.place) if split.get(name) == "test" and len(visual.times(name)) > 2]
    names = names or [name for name in sorted(visual.place) if len(visual.times(name)) > 1]
    if not names:
        return '<p class="quiet">No video has two frames.</p>'
    margin = columns(folder / "keyframes.parquet", "video_id", "margin")
    name = max(names, key=lambda name: (margin[name], name))
    times = visual.times(name)
    frames = [visual.jpeg(name, index) for index in range(len(times))]
    drawn = page.keyframe(name, frames, times, visual.similarity(name), visual.keyframe[name])
    return f'<div class="frames">{drawn}</div>'


def history(folder: Path, method: str) -> str:
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
    return page.curves(method, terms, phases) if terms else ""


def facts(folder: Path, told: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
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
    items = pyarrow.parquet.read_table(folder / "manifest" / "items.parquet", columns=["split"])["split"].to_pylist()
    splits = ", ".join(f"{items.count(split):,} {split}" for split in ("train", "val", "test") if split in items)
    clip = json.loads((folder / "clip" / "clip.json").read_text())
    line = (
        f"{folder.name}: {len(items):,} items ({splits}); frozen CLIP <code>{Path(clip['name']).name}</code>, "
        f"weights {clip['sha256'][:12]}; figures of {told['method']}, seed {told['seed']}, {told['split']} split: "
        f"{told['n']['texts']:,} texts, {told['n']['videos']:,} videos, {told['n']['images']:,} images."
    )
    return numbers, line


READING = """<ul class="reading">
<li><b>R@K</b>: percentage of queries whose right item is among the first K. Every caption is a query. <b>MdR</b>, <b>MnR</b>:
median and mean rank. <b>Rsum</b>: R@1 + R@5 + R@10. Equal scores rank at their expectation.</li>
<li><b>video → text</b>, <b>image → text</b>: an item finds its captions; where there are several, the best one counts.</li>
<li><b>joint gallery</b>: all test videos and images in one list. Their scores are brought to one scale by standardising
each kind within the query (how far an item stands out from its own kind). <b>Either</b>: the video or its image;
<b>both</b>: the two of them within K. <b>images in 10</b>: percentage of images among the first ten.</li>
<li><b>look-alikes</b>: items made to differ in one thing only (what happens, or which thing does it). <b>group R@K</b>: any of
them counts. <b>in-group</b>: how often the right one leads its look-alikes; <b>chance</b> beside it.</li>
<li><b>n</b>: queries over gallery size. <b>±</b>: sample standard deviation over seeds. <b>Bold</b>: the best of a column.</li>
</ul>"""


def build(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The whole page, the same bytes for the same files."""
    run, told = shown(folder, runs)
    visual = Visual(folder)
    queries = figure_six(folder, run, visual)
    lettered = list(zip(queries, LETTERS))
    numbers, line = facts(folder, told)
    header = (
        "<h1>UniTriM <small>one sentence finds the images and the videos</small></h1>"
        f'<p class="lead">{line}</p>{page.tiles(numbers)}'
    )
    grids = '<div class="tables">' + "".join(map(page.table, tables(runs))) + "</div>"
    drawn = "".join(history(folder, method) for method in runs) or '<p class="quiet">Nothing was trained.</p>'
    parts = [
        ("results", "Results", "All methods on the same frozen features; mean over seeds.", grids),
        (
            "queries",
            "One sentence, images and videos",
            f"What {run} finds: nouns and verbs, triplets, the five best images and the five best videos (keyframe above "
            "first, middle and last frame). Shown by rule, hits and misses alike.",
            "".join(page.query(*pair) for pair in lettered),
        ),
        (
            "joint",
            "Images and videos in one list",
            "The ten best of the joint gallery; the right image and the right video both count. "
            "The score is calibrated: deviations above the mean of its own kind, for this query.",
            "".join(page.joint(*pair) for pair in lettered[:3]),
        ),
        (
            "keyframe",
            "How a video's image is chosen",
            "The keyframe is the frame most like all others: the largest row sum of the frames' cosine similarities.",
            figure_five(folder, visual),
        ),
        ("training", "Training", "Loss terms over steps; one line a seed, each chart on its own scale.", drawn),
        ("reading", "How to read the numbers", "", READING),
    ]
    sections = [(name, title, page.section(name, title, lead, body)) for name, title, lead, body in parts]
    style = (Path(__file__).parent / "report.css").read_text()
    return page.page(f"UniTriM: {folder.name}", style, header, sections)


def shown(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """The run whose answers the page shows, and its numbers: the last method of params.yaml, its first seed."""
    listed = stage.parameters()["methods"] if stage.PARAMS.exists() else []
    told = runs[([name for name in listed if name in runs] or list(runs))[-1]][0]
    paths = sorted((folder / "scores").glob("*/metrics.json"))
    return next(path.parent.name for path in paths if json.loads(path.read_text()) == told), told


def print_tables(folders: list[Path], render: Any) -> None:
    """The tables of each dataset that has scores."""
    for folder in folders:
        runs = gather(folder)
        if runs:
            print(f"\n{folder.name}, test split, mean ± standard deviation over seeds\n\n{render(tables(runs))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a name under `datasets` in params.yaml; --table without it takes all")
    parser.add_argument("--table", action="store_true", help="print the numbers of all runs and write nothing")
    parser.add_argument("--markdown", action="store_true", help="the same as Markdown")
    args = parser.parse_args()
    if not args.dataset and not (args.table or args.markdown):
        parser.error("--dataset is needed to write a report")
    every = sorted(path for path in stage.CACHE.glob("*") if path.is_dir())
    folders = [stage.folder(args.dataset)] if args.dataset else every
    found = [folder for folder in folders if gather(folder)]
    if not found:
        where = args.dataset or "any dataset"
        raise SystemExit(
            f"no scores of {where} in {stage.CACHE}; run: dvc repro   (or python -m eval.run --run … --shards …)"
        )
    if args.table or args.markdown:
        print_tables(found, markdown if args.markdown else text)
        return
    try:
        written = build(found[0], gather(found[0]))
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"report of {args.dataset}: {error}; run: dvc repro report@{args.dataset}") from None
    path = found[0] / "report" / "index.html"
    stage.write(path, written)
    print(f"wrote {path} ({len(written) / 1e6:.1f} MB, self-contained)")


if __name__ == "__main__":
    main()
