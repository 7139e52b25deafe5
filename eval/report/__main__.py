"""Stage: scores, runs and shards -> one self-contained HTML page; with `--table` the numbers alone.

python -m eval.report --dataset demo            writes cache/demo/report/index.html, and summary.json for DVC
python -m eval.report --table [--dataset demo]  prints the table of all runs; --markdown for a README
"""

import argparse
import json
from pathlib import Path
from typing import Any

from eval.overview import build_tables, gather_metrics, print_tables, summarize, to_markdown, to_text
from eval.report import facts, page
from eval.report.bare import build_bare, search_command
from eval.report.figures import (
    LETTERS,
    choose_lead,
    figure_five,
    figure_six,
    figure_three,
    figure_words,
    open_source,
    pick_captions,
    read_history,
)
from eval.stale import skipped_lines
from pipeline import files, params, stage

READING = """<ul class="reading">
<li><b>R@K</b>: percentage of queries whose right item is among the first K. Every caption is a query. <b>MdR</b>, <b>MnR</b>:
median and mean rank. <b>Rsum</b>: R@1 + R@5 + R@10. Equal scores rank at their expectation.</li>
<li><b>video → text</b>, <b>image → text</b>: an item finds its captions; where there are several, the best one counts.</li>
<li><b>joint gallery</b>: all test videos and images in one list. <b>Either</b>: the video or its image;
<b>both</b>: the two of them within K. <b>images in 10</b>: percentage of images among the first ten. How their scores come
together is said for each run under <b>What was run</b>. <b>pair</b>: a softmax of the query's own scores, by a factor a kind
that was fitted on val, says how likely an item is the right one of its kind, and the list is the one whose every beginning is
likeliest to hold both; <b>posterior</b>: by that probability alone; <b>query</b>: each kind standardised within the query (how
far an item stands out from its own kind); <b>apart</b>: each kind ranked by itself, and the two lists laid into each other.</li>
<li><b>look-alikes</b>: items made to differ in one thing only (what happens, or which thing does it). <b>group R@K</b>: any of
them counts. <b>in-group</b>: how often the right one leads its look-alikes; <b>chance</b> beside it.
Where the dataset says what look-alikes differ in, a column each: on demo <b>motion</b>, another event or order, and
<b>swap</b>, attributes exchanged between the things.</li>
<li><b>✓</b> and a green frame: the right one. <b>✗</b>: another one; <b>look-alike</b>: of the same look-alikes as the right
one. Under each picture its place, its score and its id. A picture opens its file at its moment, where the files are at hand.
<b>chance</b> under a large figure: what drawing at random would get.</li>
<li><b>n</b>: queries over gallery size. <b>±</b>: sample standard deviation over seeds. <b>Bold</b>: the best of a column, if
anything was found at all.</li>
</ul>"""


def build(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """The whole page, the same bytes for the same files."""
    names, lead = list(runs), choose_lead(runs)
    source = open_source(folder)
    folders = [facts.run_name(folder, name, runs[name][0]["seed"]) for name in names]
    shown = pick_captions(folder, folders[lead], source.group)
    answers = [list(zip(figure_six(folder, run, shown, source), LETTERS)) for run in folders]
    tiles = page.of_runs([page.headlines(facts.headlines(name, runs)) for name in names])
    header = (
        "<h1>UniTriM <small>one sentence finds the images and the videos</small></h1>"
        f'<p class="lead">{facts.dataset_line(folder, runs[names[lead]][0])}</p>{facts.warnings(folder)}{tiles}'
    )
    grids = '<div class="tables">' + "".join(map(page.table, build_tables(runs))) + "</div>"
    drawn = "".join(read_history(folder, method) for method in runs) or page.quiet("Nothing was trained.")
    drawn += table_rows(folder, runs)
    looked = "".join(figure_three(folder, run, source) for run in folders)
    spoken = "".join(figure_words(folder, name, runs[name][0].get("says", []), source) for name in names)
    parts = [
        ("results", "Results", facts.features_line(folder, runs), grids),
        (
            "queries",
            "One sentence, images and videos",
            "Nouns and verbs, triplets, the five best images and the five best videos (keyframe above first, middle and "
            "last frame). A right one that is not among them stands beside them with its rank. The sentences are chosen by "
            "rule, hits and misses alike, and are the same for all methods.",
            page.of_runs(["".join(page.query(*pair) for pair in pairs) for pairs in answers]),
        ),
        (
            "joint",
            "Images and videos in one list",
            "The ten best of the joint gallery; the right image and the right video both count. "
            "The score is what the list is ordered by; how it is made is said under How to read the numbers.",
            page.of_runs(["".join(page.joint(*pair) for pair in pairs[:3]) for pairs in answers]),
        ),
        (
            "keyframe",
            "How a video's image is chosen",
            "The keyframe is the frame most like all others: the largest row sum of the frames' cosine similarities.",
            figure_five(folder, source),
        ),
        *(
            [
                (
                    "attention",
                    "Where a removed word is looked for",
                    "The caption without the marked words asks, the video answers; the redder a patch, the more the answer "
                    "came from it (Grad-CAM of the cross-modal encoder). The captions are chosen by rule.",
                    looked,
                )
            ]
            if looked
            else []
        ),
        *(
            [
                (
                    "words",
                    "What a video says",
                    "The ten words of the lexicon that weigh most in a video before and after grounding, and in its caption "
                    "(UNIFY's Figure 5). A word in blue is said by the caption too. The captions are chosen by rule.",
                    spoken,
                )
            ]
            if spoken
            else []
        ),
        (
            "training",
            "Training",
            "Loss terms over steps, R@1 after each epoch where a split is held out, with a dot at the epoch that is kept; a line "
            "a seed, each chart on its own scale.",
            drawn,
        ),
        (
            "runs",
            "What was run",
            "Every run that counts, with its seed, settings and versions; and what was left out.",
            facts.runs_section(folder, runs),
        ),
        ("reading", "How to read the numbers", "", READING),
    ]
    sections = [(name, title, page.section(name, title, about, body)) for name, title, about, body in parts]
    style = (Path(__file__).parent / "report.css").read_text() + page.switch_style(len(names))
    return page.page(f"UniTriM: {folder.name}", style, header, page.switch(names, lead), sections)


def table_rows(folder: Path, runs: dict[str, list[dict[str, Any]]]) -> str:
    """Curves and kept epochs of the runs that fill the papers' tables, folded away, and where their numbers are."""
    found = gather_metrics(folder, table_rows=True)
    rows = {name: seeds for name, seeds in found.items() if name not in runs}
    if not rows:
        return ""
    link = '<p>Their numbers: <a href="../tables/index.html">the papers’ tables</a>.</p>'
    curves = "".join(read_history(folder, name) for name in rows)
    return page.details(f"{len(rows)} rows of the papers’ tables", link + facts.kept_epochs(folder, rows) + curves)


def where_next(folder: Path) -> list[str]:
    """What a person does after the numbers, where it can be done: look at the report, search."""
    report = folder / "report" / "index.html"
    command = search_command(folder)
    return [f"report: {report.absolute()}"] * report.exists() + [f"search: {command}"] * bool(command)


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a name under `datasets` in params.yaml; --table without it takes all")
    parser.add_argument("--table", action="store_true", help="print the numbers of all runs and write nothing")
    parser.add_argument("--markdown", action="store_true", help="the same as Markdown")
    args = parser.parse_args()
    if not args.dataset and not (args.table or args.markdown):
        parser.error("--dataset is needed to write a report")
    every = sorted(path for path in params.CACHE.glob("*") if path.is_dir())
    folders = [params.cache_folder(args.dataset)] if args.dataset else every
    found = [folder for folder in folders if gather_metrics(folder) or skipped_lines(folder)]
    if not found:
        where = args.dataset or "any dataset"
        raise SystemExit(
            f"no scores of {where} in {params.CACHE}; run: dvc repro   (or python -m eval.run --run … --shards …)"
        )
    if args.table or args.markdown:
        print_tables(found, to_markdown if args.markdown else to_text)
        if not args.markdown:
            print("\n".join(line for folder in found for line in where_next(folder)))
        return
    try:
        runs = gather_metrics(found[0])
        written = build(found[0], runs) if runs else build_bare(found[0])
    except (ValueError, FileNotFoundError) as error:
        more = "" if "run:" in str(error) else f"; run: dvc repro report@{args.dataset}"
        raise SystemExit(f"report of {args.dataset}: {error}{more}") from None
    path = found[0] / "report" / "index.html"
    files.write(path, written)
    few = summarize(runs, params.read_params().get("methods") or [] if params.PARAMS.exists() else list(runs))
    files.write(found[0] / "summary.json", json.dumps(few, indent=1) + "\n")
    print(f"wrote {path} ({len(written) / 1e6:.1f} MB, self-contained)")


if __name__ == "__main__":
    main()
