"""The papers' tables on one dataset: what is missing is trained and scored, every number stands beside the paper's own.

python -m eval.tables --dataset demo [--seeds 3] [--only 1 5 8] [--quick] [--as-is] [--export mteb]

Writes cache/<dataset>/tables/index.html, tables.md and tables.csv, and three numbers a run to metrics.json, which
`dvc metrics show cache/<dataset>/tables/metrics.json` shows. The rows are eval/experiments.yaml. Killed anywhere, the same
command goes on; what is finished costs nothing.
"""

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

from eval.experiments import PaperTable, nearest, read_experiments
from eval.overview import gather_metrics, summarize
from eval.tables.build import Made, build
from eval.tables.mteb import export_mteb
from eval.tables.plan import Plan, make
from eval.tables.speed import build_speed
from eval.tables.write import Heading, write
from pipeline import files, params, stage
from pipeline.files import ParamsError

SEEDS = 3


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name under `datasets` in params.yaml")
    parser.add_argument("--seeds", type=int, help=f"how many, from 0 ({SEEDS}; 1 with --quick)")
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="train for these tables only, as 1 5 8")
    parser.add_argument("--quick", action="store_true", help="one seed, half the grid, fewer rows")
    parser.add_argument("--as-is", action="store_true", help="train and time nothing: tables of what is finished")
    parser.add_argument("--jobs", type=int, help="runs at a time (a core each; on a GPU one)")
    parser.add_argument("--export", choices=["mteb"], help="also write the scores as MTEB's TaskResult JSON")
    args = parser.parse_args()
    home = params.cache_folder(args.dataset)
    seeds = args.seeds or (1 if args.quick else SEEDS)
    if seeds < 1 or (args.jobs or 1) < 1:
        parser.error("--seeds and --jobs must be 1 or more")
    tables, experiments = read_experiments()
    chosen = choose(tables, args.dataset, args.only)
    plan = Plan(home, experiments)
    tasks = [] if args.as_is else plan.tasks([tables[number] for number in chosen], seeds, args.quick)
    failed = make(tasks, plan, args.jobs or usual_jobs())
    shown = list(dict.fromkeys([*choose(tables, args.dataset, None), *chosen]))
    made = [
        build_speed(table, plan, home / "tables", machine(), number in chosen and not args.as_is)
        if table.kind == "speed"
        else build(table, plan, seeds)
        for number, table in tables.items()
        if number in shown
    ]
    for path in write(home / "tables", Heading(args.dataset, about(seeds, made)), made):
        print(f"wrote {path}")
    runs = gather_metrics(home, table_rows=True)
    files.write(home / "tables" / "metrics.json", json.dumps(summarize(runs, list(runs)), indent=1) + "\n")
    if args.export:
        config = params.read_dataset(args.dataset)
        written = export_mteb(home, home / "tables" / "mteb", str(config.get("split") or ""))
        print(f"wrote {len(written)} results under {home / 'tables' / 'mteb'}")
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} of {len(tasks)} runs failed", *failed]))


def choose(tables: dict[str, PaperTable], dataset: str, only: list[str] | None) -> list[str]:
    """Numbers of the tables to fill: those named, else those of this dataset, and of MSR-VTT where the papers have none."""
    for number in only or []:
        if number not in tables:
            raise ParamsError(f"no table {number}{nearest(number, tables)}; there are: {', '.join(tables)}")
    if only:
        return only
    of = dataset if any(table.dataset == dataset for table in tables.values()) else "msrvtt"
    return [number for number, table in tables.items() if table.dataset == of and table.rows]


def usual_jobs() -> int:
    """One run a core, each with one thread; on a GPU one."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    return 1 if torch.cuda.is_available() or threads == 1 else len(os.sched_getaffinity(0))


def about(seeds: int, made: list[Made]) -> list[str]:
    """What the numbers are of: commit, machine, seeds."""
    most = max((len(line.seeds) for each in made for line in each.lines), default=0)
    return [
        f"Seeds: up to {min(seeds, most)} a row. Commit {commit()}. Machine: {machine()}; torch {torch.__version__}.",
    ]


def commit() -> str:
    """The commit that stands, and whether files differ from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def machine() -> str:
    """What it ran on, in kind: the GPU, or the processor and how many cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


if __name__ == "__main__":
    main()
