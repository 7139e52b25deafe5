"""What is in a cache, whether it is whole, how two differ, and mending one.

    python -m pipeline.shards info cache/msrvtt
    python -m pipeline.shards verify cache/msrvtt
    python -m pipeline.shards diff cache/msrvtt cache/other
    python -m pipeline.shards repair cache/msrvtt

`verify` ends with 1 if it finds anything. `repair` drops the damaged rows and what nobody asked for, and runs the stages,
which then make exactly the rows that are missing.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from pipeline import stage
from pipeline.files import MissingError, read_table
from pipeline.shards.diff import diff
from pipeline.shards.reader import open_cache
from pipeline.shards.repair import repair
from pipeline.shards.schema import TENSORS
from pipeline.shards.verify import MAKERS, verify


def info(folder: Path) -> list[str]:
    """Lines that say what a cache holds and how it was made."""
    lines = []
    kinds = {shard.kind for shard in open_cache(folder)} | {
        "visual",
        "text",
        "phrases",
    }  # others are there for methods that read them
    for kind, maker in MAKERS.items():
        found = [shard for shard in open_cache(folder) if shard.kind == kind]
        if kind not in kinds:
            continue
        if not found:
            lines.append(f"{kind}: none; run: dvc repro {maker}@{folder.name}")
            continue
        size = sum(shard.path.stat().st_size for shard in found)
        lines.append(f"{kind}: {sum(map(len, found))} rows in {len(found)} files, {size / 1e6:.1f} MB")
        for name in found[0].names:
            dtype, axes = TENSORS[kind][name]
            shapes = [shard.place(name).shape for shard in found]
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            lines.append(f"  {name:15} {dtype:8} ({axes.replace(' ', ', ')}) = {shape}")
        for name, value in sorted(found[0].attributes.items()):
            values = {shard.attributes.get(name) for shard in found}
            lines.append(f"  @{name:14} {value if len(values) == 1 else sorted(map(str, values))}")
    for path in sorted(folder.glob("*/rejects.parquet")):
        reasons = Counter(read_table(path).to_pydict()["reason"])
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none"
        lines.append(f"rejected by {path.parent.name}: {said}")
    return lines


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m pipeline.shards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("info", "verify", "diff", "repair"))
    parser.add_argument("cache", type=Path, nargs="+", help="cache/<dataset>; two of them for diff")
    options = parser.parse_args()
    if len(options.cache) != (2 if options.do == "diff" else 1):
        parser.error("diff takes two caches, the others one")
    for folder in options.cache:
        if next(open_cache(folder), None) is None:
            raise MissingError(f"{folder} has no shards; run: dvc repro visual@{folder.name} text@{folder.name}")
    lines = {"info": info, "diff": diff, "repair": repair, "verify": report_problems}[options.do](*options.cache)
    print(stage.visible("\n".join(lines)))
    if options.do == "verify" and lines[-1].startswith("{"):
        raise SystemExit(1)


def report_problems(folder: Path) -> list[str]:
    """The problems as lines; the last line counts them, in JSON, if there are any."""
    problems = verify(folder)
    if not problems:
        return [f"{folder} is whole"]
    lines = [f"{problem.what}" for problem in problems]
    counts = dict(Counter(problem.stage for problem in problems))
    return [*lines, f"to mend it: python -m pipeline.shards repair {folder}", json.dumps(counts)]


if __name__ == "__main__":
    main()
