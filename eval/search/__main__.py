"""Find images and videos by one sentence.

python -m eval.search --run cache/demo/runs/unitrim --shards cache/demo "a red ball rolls to the left"

Without a sentence it reads one a line, so that the models are loaded once. The encoded gallery is kept beside the shards,
in `.search/`, for as long as the checkpoint, the shards and the code that encodes stay what they are.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.search.answers import Answer
from eval.search.engine import Search
from pipeline import stage
from pipeline.stage import visible

SPLITS = ("all", "train", "val", "test")


def format_answer(answer: Answer) -> str:
    """Results as a person reads them."""
    lines = [f"“{answer.query}”".replace("\n", " ")]
    if answer.phrases:
        lines.append(f"  {' · '.join(answer.phrases)}")
    for kind, hits in (("images", answer.images), ("videos", answer.videos)):
        lines += ["", kind]
        for hit in hits:
            where = {
                "photo": "",
                "keyframe": f"  keyframe at {format_clock(hit.time)}",
                "video": f"  best at {format_clock(hit.time)}",
            }
            lines.append(f"{hit.rank:>3}  {hit.score:6.3f}  {hit.path.replace(chr(10), ' ')}{where[hit.kind]}")
        if not hits:
            lines.append("     none")
    return visible("\n".join(lines))


def format_clock(seconds: float | None) -> str:
    """Seconds as 4.2 s or 12:05."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", help="a sentence; without it, one a line is read")
    parser.add_argument("--run", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>: what is searched")
    parser.add_argument("--top", type=int, default=5, help="how many images and how many videos")
    parser.add_argument("--split", default="all", choices=SPLITS, help="what of the dataset is searched")
    parser.add_argument("--json", action="store_true", help="one JSON object a sentence")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    if args.top < 1:
        parser.error("--top must be 1 or more")
    if args.query is not None and not args.query.strip():
        parser.error("the sentence is empty")
    if args.query is not None and not is_text(args.query):
        parser.error("the sentence is not valid UTF-8")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # where the terminal knows less than UTF-8
    from eval.load import choose_device

    search = Search(args.run, args.shards, args.split, choose_device(args.device))
    if search.unkept:
        print(f"the gallery is not kept for the next search: {search.unkept}", file=sys.stderr)
    for query in [args.query] if args.query is not None else read_queries():
        if not is_text(query):
            refuse(query, args.json)
            continue
        answer = search(query, args.top)
        print(json.dumps(asdict(answer), ensure_ascii=False) if args.json else format_answer(answer), flush=True)


def is_text(query: str) -> bool:
    """Whether a sentence came as valid UTF-8: what did not is kept as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in query)


def refuse(query: str, as_json: bool) -> None:
    """Say which sentence is not answered, where its answer would have been."""
    shown = query.encode(errors="surrogateescape").decode(errors="backslashreplace")
    why = "not valid UTF-8; it is left out"
    if as_json:
        print(json.dumps({"query": shown, "error": why}, ensure_ascii=False), flush=True)
    else:
        print(f"“{visible(shown)}”: {why}", file=sys.stderr)


def read_queries() -> Any:
    """Sentences from the terminal or a pipe, one a line, blank lines left out."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    while True:
        if sys.stdin.isatty():
            print("\nsentence (Ctrl-D ends): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    main()
