"""Find images and videos by one sentence, on a page or in the terminal.

python -m eval.search --folder ~/Pictures                     # a page over any folder: it is indexed first, nothing is trained
python -m eval.search --run cache/demo/runs/unitrim --shards cache/demo --serve             # a page over a dataset
python -m eval.search --run cache/demo/runs/unitrim --shards cache/demo "a red ball rolls to the left"

In the terminal, without a sentence, it reads one a line, so that the models are loaded once. The encoded gallery is kept beside
the shards, in `.search/`, row by row: what is new is encoded, the rest is mapped.
"""

import argparse
import json
import sys
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.search.answers import Answer
from eval.search.engine import Search
from pipeline import params, stage
from pipeline.files import ParamsError, StorageError
from pipeline.stage import visible

SPLITS = ("all", "train", "val", "test")
PORT = 8123


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


def parse_arguments() -> argparse.Namespace:
    """The command line, checked as far as it can be without a library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", help="a sentence; without it, one a line is read")
    parser.add_argument("--folder", help="any folder of photos and videos: it is indexed, and a page opens")
    parser.add_argument("--run", type=Path, help="cache/<dataset>/runs/<run>; with --folder, max_sim if left out")
    parser.add_argument("--shards", type=Path, help="cache/<dataset>: what is searched")
    parser.add_argument("--serve", action="store_true", help="a page, as with --folder")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page ({PORT}; the next free one, 0 any)")
    parser.add_argument(
        "--bind", default="127.0.0.1", metavar="HOST", help="listen elsewhere; it then asks for a token"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page, say where it is")
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
    if bool(args.folder) == bool(args.shards):
        parser.error("say what to search: --folder ~/Pictures, or --run cache/demo/runs/unitrim --shards cache/demo")
    if args.shards and not args.run and not args.serve:
        parser.error("--shards goes with --run cache/<dataset>/runs/<run>")
    return args


@stage.command
def main() -> None:
    args = parse_arguments()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # where the terminal knows less than UTF-8
    if args.folder and args.query is None:
        serve_folder(args)
    elif args.folder:
        from eval.load import choose_device
        from eval.search.library import require_folder, update_library

        args.shards = update_library(require_folder(args.folder), choose_device(args.device), quiet=True)
        answer_queries(open_search(args), args)
    elif args.serve:
        serve(open_search(args), None, args)
    else:
        answer_queries(open_search(args), args)


def open_search(args: argparse.Namespace) -> Search:
    """The library, ready for queries."""
    from eval.load import choose_device

    search = Search(args.run, args.shards, args.split, choose_device(args.device))
    if search.unkept:
        print(f"the gallery is not kept for the next search: {search.unkept}", file=sys.stderr)
    return search


def answer_queries(search: Search, args: argparse.Namespace) -> None:
    """Answer the sentence of the command line, or those that come in."""
    for query in [args.query] if args.query is not None else read_queries():
        if not is_text(query):
            refuse(query, args.json)
            continue
        answer = search(query, args.top)
        print(json.dumps(asdict(answer), ensure_ascii=False) if args.json else format_answer(answer), flush=True)


def serve_folder(args: argparse.Namespace) -> None:
    """A page over a folder that is indexed meanwhile."""
    from eval.load import choose_device
    from eval.search.indexing import Indexing
    from eval.search.library import library_name, require_folder

    root, device = require_folder(args.folder), choose_device(args.device)
    home = params.cache_folder(library_name(root))
    search = Search(args.run, home, device=device, refresh=False)
    search.root = str(root)
    search.take_up()
    indexing = Indexing(root, home, device, search.take_up, search.calibrate)
    indexing.start()
    try:
        serve(search, indexing, args)
    finally:
        indexing.stop()


def serve(search: Search, indexing: Any, args: argparse.Namespace) -> None:
    """Answer until Ctrl-C."""
    server = open_server(search, indexing, args.bind, args.port)
    search.prepare()
    print(f"search {search.root or search.shards} at {server.address}   (Ctrl-C ends)", file=sys.stderr, flush=True)
    if not args.no_browser:
        webbrowser.open(server.address)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def open_server(search: Search, indexing: Any, host: str, port: int) -> Any:
    """A server at the port, or at one of the next few where others are already there. Errors: StorageError."""
    from eval.search.server import Server

    for tried in range(port, port + 20 if port else 1):
        try:
            return Server(search, indexing, host, tried)
        except OSError as error:
            said = error.strerror
        except OverflowError:
            raise ParamsError(f"--port {port} is none; it is a number up to 65535") from None
    raise StorageError(f"cannot listen at {host}, port {port}: {said}; choose another by --port")


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
