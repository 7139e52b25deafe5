"""Build or bring up to date the index of a run, by which a large library is searched in two stages.

python -m eval.index --run cache/demo/runs/unitrim --shards cache/demo [--recall 0.99]
Writes cache/<dataset>/index/<run>/. Only items that are new or have changed are encoded.
"""

import argparse
from pathlib import Path

from eval.index.build import build_index
from eval.load import choose_device
from pipeline.command import command
from pipeline.files import ParamsError


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>: what is to be searched")
    parser.add_argument("--recall", type=float, default=0.99, help="wanted share of the exact top ten (default 0.99)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    if not 0 < args.recall <= 1:
        raise ParamsError(f"--recall is a share above 0 and up to 1, not {args.recall:g}")
    facts = build_index(args.run, args.shards, choose_device(args.device), args.recall)
    for kind, one in facts["kinds"].items():
        print(
            f"{kind}s: {one['items']} items, {one['encoded']} encoded now, {one['bytes_per_item']:,} bytes an item; "
            f"{one['candidates']} candidates, {one['close']} of them scored from the shards, "
            f"find {share(one['recall'])} of the exact top ten"
        )


def share(value: float | None) -> str:
    """A measured share in percent, where there were captions to measure it by."""
    return "an unmeasured share" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
