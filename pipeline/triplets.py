"""Stage: captions -> scene-graph triplets, the phrases that say them, and where the nouns and verbs are.

python -m pipeline.triplets --dataset msrvtt
python -m pipeline.triplets --show "a man in a red shirt rides a horse"
python -m pipeline.triplets --text captions.txt --out triplets.jsonl --parser corenlp --rules extended
"""

import argparse
import json
import math
import shutil
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline import engine, files, params, progress, scene_graph, stage
from pipeline.scene_graph import CHOICES, describe
from pipeline.scene_graph.parsers.server import ServerError
from pipeline.scene_graph.parsers.trees import Trees
from pipeline.scene_graph.sentence import sentences

STORE = params.CACHE / ".parses" / "parses.sqlite"
MOST_SLICES = 64  # a machine each; less of the sentences than that is not worth a server's start
SLICES = ".triplets"  # beside triplets.parquet: what slices have parsed, until the run that takes it up
TRIPLET = pyarrow.struct([(name, pyarrow.string()) for name in ("subject", "relation", "object", "kind")])
SPANS = pyarrow.list_(pyarrow.list_(pyarrow.int32()))
SCHEMA = pyarrow.schema(
    [
        ("caption_id", pyarrow.string()),
        ("video_id", pyarrow.string()),
        ("parser", pyarrow.string()),
        ("fallback", pyarrow.bool_()),
        ("triplets", pyarrow.list_(TRIPLET)),
        ("phrases", pyarrow.list_(pyarrow.string())),
        ("nouns", SPANS),
        ("verbs", SPANS),
    ]
)
# FACTUAL's habits and lemmas for text files, so that rows can be held against human scene graphs
TEXT_SETTINGS = {"conventions": "factual", "form": "lemma", "cap": 1000}


@stage.command
def main() -> None:
    args = parse_arguments()
    try:
        if args.dataset and args.slice:
            parse_slice(args.dataset, args.parser, args.slice)
        elif args.dataset:
            run_slices(args)
            update_triplets(args.dataset, args.parser)
        elif args.text:
            write_rows(Path(args.text), Path(args.out), TEXT_SETTINGS | read_choices(args))
        else:
            print_sentence(args.show, read_choices(args))
    except ServerError as error:
        raise SystemExit(str(error)) from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="a name under `datasets` in params.yaml")
    what.add_argument("--show", metavar="SENTENCE", help="print the tokens, tree and triplets of a sentence")
    what.add_argument("--text", metavar="FILE", help="a text file, one caption a line; needs --out")
    parser.add_argument("--slice", **stage.SLICE)
    parser.add_argument("--engine", choices=engine.ENGINES, help="in place of params.yaml's")
    parser.add_argument("--out", metavar="FILE", help="where the rows of --text go, one JSON object a line")
    for name, allowed in CHOICES.items():
        parser.add_argument(
            f"--{name}", choices=allowed, help="in place of params.yaml's" if name == "parser" else None
        )
    args = parser.parse_args()
    if bool(args.text) != bool(args.out):
        parser.error("--text and --out go together")
    if (args.slice or args.engine) and not args.dataset:
        parser.error("--slice and --engine go with --dataset")
    if args.dataset and any(getattr(args, name) for name in CHOICES if name != "parser"):
        parser.error("with --dataset these settings come from params.yaml, section triplets")
    return args


def read_choices(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in CHOICES if getattr(args, name)}


def read_inputs(name: str, parser: str | None) -> tuple[dict[str, Any], pyarrow.Table, list[str]]:
    """The settings, the captions in the manifest's order, and the sentences in them."""
    config = scene_graph.settings(
        params.read_dataset(name).get("triplets", {}) | ({"parser": parser} if parser else {})
    )
    source = stage.require(params.cache_folder(name, "manifest", "captions.parquet"), "manifest", name)
    captions = files.read_table(source).select(["caption_id", "video_id", "text", "parts"])
    return config, captions, [line for parts in captions["parts"].to_pylist() for line in scene_graph.lines(parts)]


def run_slices(args: argparse.Namespace) -> None:
    """Have the sentences parsed on the machines of a cluster, if the engine is one of several."""
    config = params.read_dataset(args.dataset)
    command = [
        "-m",
        "pipeline.triplets",
        "--dataset",
        args.dataset,
        *(["--parser", args.parser] if args.parser else []),
    ]
    engine.run_slices(args.engine or config["engine"], config["ray"], command, most=MOST_SLICES, encodes=False)


def parse_slice(name: str, parser: str | None, words: str) -> None:
    """A slice of the stage's slow half: parse its part of the sentences into a file of its own, for the run that takes all up.

    The rules, and the shallow parser, are fast: both are left to that run.
    """
    part = files.Slice.parse(words)
    config, _, lines = read_inputs(name, parser)
    own = params.cache_folder(name, SLICES, f"{part.name}.sqlite")
    output = params.cache_folder(name, "triplets.parquet")
    with files.lock(output, part), Trees(config["parser"], STORE, own=own) as trees:
        mine = [line for line in dict.fromkeys(lines) if part.has(zlib.crc32(line.encode()))]
        parse_lines(trees, mine)
        print(f"triplets {part.name}: {len(mine)} sentences, {trees.parsed} newly parsed by {trees.parser}")


def update_triplets(name: str, parser: str | None = None) -> None:
    """The stage: cache/<name>/manifest/captions.parquet -> cache/<name>/triplets.parquet."""
    config, captions, lines = read_inputs(name, parser)
    output = params.cache_folder(name, "triplets.parquet")
    slices = params.cache_folder(name, SLICES)
    begin = time.monotonic()
    with files.lock(output), Trees(config["parser"], STORE) as trees:
        for path in sorted(slices.glob("*.sqlite")) if trees.store else []:
            trees.store.adopt(path)
        parse_lines(trees, lines)
        shutil.rmtree(slices, ignore_errors=True)
        table = derive_rows(captions, trees, config)
        files.write_table(output, table)
        print(describe_coverage(table, trees, time.monotonic() - begin))


def parse_lines(trees: Trees, lines: Iterable[str]) -> None:
    """Parse what no earlier run has, with progress."""
    distinct = list(dict.fromkeys(lines))
    meter = None
    for count in trees.prepare(distinct):
        meter = meter or progress.Progress(trees.lacking, "parse", "sentence")
        meter.add(count)
    if meter:
        meter.close()


def derive_rows(captions: pyarrow.Table, trees: Trees, config: dict[str, Any]) -> pyarrow.Table:
    """One row a caption, in the manifest's order; captions with the same words share the work."""
    batches, known = [], {}
    for batch in captions.to_batches(max_chunksize=5000):
        rows = []
        for row in batch.to_pylist():
            key = (row["text"], *row["parts"])
            if key not in known:
                known[key] = to_columns(describe(row["text"], row["parts"], trees, config))
            rows.append({"caption_id": row["caption_id"], "video_id": row["video_id"]} | known[key])
        batches.append(pyarrow.RecordBatch.from_pylist(rows, schema=SCHEMA))
    return pyarrow.Table.from_batches(batches, schema=SCHEMA)


def to_columns(found: dict[str, Any]) -> dict[str, Any]:
    return found | {"triplets": [triplet._asdict() for triplet in found["triplets"]]}


def describe_coverage(table: pyarrow.Table, trees: Trees, seconds: float) -> str:
    """The line that ends a run: speed, backends, share without triplets, how many triplets a caption has."""
    parsers = table["parser"].to_pylist()
    counts = sorted(
        0 if empty else len(found) for empty, found in zip(table["fallback"].to_pylist(), table["phrases"].to_pylist())
    )
    total = max(len(counts), 1)
    backends = ", ".join(f"{name} {parsers.count(name)}" for name in ("corenlp", "shallow") if name in parsers)
    return (
        f"triplets: {len(parsers)} captions in {seconds:.1f} s, {len(parsers) / max(seconds, 1e-9):.0f}/s "
        f"({backends or 'none'}; {trees.parsed} sentences newly parsed); without a triplet "
        f"{100 * counts.count(0) / total:.1f} %; phrases a caption: mean {sum(counts) / total:.2f}, "
        f"p95 {counts[math.ceil(0.95 * total) - 1] if counts else 0}"
    )


def write_rows(source: Path, output: Path, config: dict[str, Any]) -> None:
    """A row a line of a text file; a blank line is a row without triplets."""
    config = scene_graph.settings(config)
    if not source.is_file():
        raise files.MissingError(f"there is no file {source}")
    captions = source.read_text(encoding="utf-8", errors="replace").split("\n")
    captions = captions[:-1] if captions[-1] == "" else captions
    captions = [caption.rstrip("\r") for caption in captions]
    with Trees(config["parser"]) as trees, files.replacing(output) as part:
        parse_lines(trees, (line for caption in captions for line in scene_graph.lines([caption])))
        with open(part, "w", encoding="utf-8") as file:
            for caption in captions:
                found = to_columns(describe(caption, [caption], trees, config))
                row = {"caption": caption} | {name: found[name] for name in ("parser", "triplets", "nouns", "verbs")}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_sentence(caption: str, config: dict[str, Any]) -> None:
    """Print what the parser sees."""
    config = scene_graph.settings(config)
    with Trees(config["parser"]) as trees:
        list(trees.prepare(scene_graph.lines([caption])))
        for line, _ in sentences(caption):
            parser, tree = trees.tree(line)
            print(f"{line}   ({parser})")
            for index, word in enumerate(tree.word):
                head = tree.word[tree.head[index]] if tree.head[index] >= 0 else "-"
                print(
                    f"  {index + 1:3} {word:16} {tree.lemma[index]:14} {tree.tag[index]:5} {tree.relation[index]:12} {head}"
                )
        found = describe(caption, [caption], trees, config)
    for triplet in found["triplets"]:
        print(f"  {triplet.kind:10} ({triplet.subject}, {triplet.relation}, {triplet.object})")
    print("  phrases    " + " | ".join(found["phrases"]))
    print("  nouns      " + " | ".join(caption[start:end] for start, end in found["nouns"]))
    print("  verbs      " + " | ".join(caption[start:end] for start, end in found["verbs"]))


if __name__ == "__main__":
    main()
