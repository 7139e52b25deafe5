"""What the Ray engine costs beside the local one, and whether more machines share the work.

    python -m tests.bench.ray [--items 96] [--rounds 3] [--width 768]

The visual stage's own decoding and encoding, without its shards: H.264 films of 4 s at 320x240, 12 frames, rows of the size
that ViT-B/32 gives them (615 KB), through a tower of two blocks of its width (`--width 32`: next to nothing to encode, so that
what is left is mostly transport). The engines take turns; a machine is a node of `ray.cluster_utils.Cluster` on the loopback with
two cores to its name. `fixed` is what a run lasts beyond its items at the rate of its second half: the local engine forks and
loads, Ray starts actors that import torch; `start` is the start of a cluster of this machine alone, which `address: local` pays
on top. `lost` is the share of the local engine's rate that is lost, which a machine with other work blurs; `cpu_lost` is the
share of the CPU time of all processes that one node spends on being a cluster, `cpu_extra_ms` the same in ms an item.

On a machine with two cores two or three nodes share the same two cores: the figures say that work gets to all of them and what
that costs, not how much faster a real second machine is.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from pipeline import files, params, visual
from pipeline.encoders.image import ImageEncoder
from pipeline.engine import ray as engine
from pipeline.progress import WaitMeter
from pipeline.video.decode import describe_decoders
from tests.support import house, tiny
from tests.support.commands import command

MACHINES = (1, 2, 3)
FILM = {"count": 24, "width": 320, "height": 240}  # 6 frames a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=768, help="of the tower's two blocks")
    options = parser.parse_args()
    before, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="ray"))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(house.ROOT), "TQDM_DISABLE": "1"}
    try:
        model = tiny.clip(place / "model", size=224, patch=32, width=options.width, dimension=512)
        house.build(place, options.items, 1, frames=12, distinct=8, model=model, film=FILM)
        os.chdir(place)
        for stage in ("manifest", "clip"):
            command(f"pipeline.{stage}", "--dataset", "bench")
        result = measure(options.rounds)
    finally:
        os.chdir(before)
        shutil.rmtree(place)
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


class Few(engine.Cluster):
    """The first so many machines of a cluster."""

    def __init__(self, count: int):
        self.count = count

    def machines(self) -> dict:
        return dict(sorted(super().machines().items())[: self.count])


def measure(rounds: int) -> dict[str, float]:
    """All figures, from runs that take turns."""
    began = time.perf_counter()
    with engine.connect("local"):
        start = time.perf_counter() - began
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in MACHINES[1:]:
        nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    found = {machines: [] for machines in (0, *MACHINES)}
    try:
        for turn in range(rounds):
            for machines in found if turn % 2 == 0 else reversed(found):
                found[machines].append(run(machines))
    finally:
        ray.shutdown()
        nodes.shutdown()
    print(f"start of a cluster of this machine: {start:.1f} s\n")
    print("| engine | items/s | fixed, s | CPU s an item | machines that had work |\n|---|--:|--:|--:|--:|")
    middle = {
        machines: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        for machines, runs in found.items()
    }
    for machines, one in middle.items():
        name = f"Ray, {machines} node{'s' * (machines > 1)}" if machines else "local"
        print(f"| {name} | {one['rate']:.2f} | {one['fixed']:.1f} | {one['cpu']:.3f} | {one['used']:.0f} |")

    def share(name: str, machines: int) -> float:
        """The median of the ratios within a round."""
        return statistics.median(one[name] / here[name] for one, here in zip(found[machines], found[0]))

    print(f"\n{os.cpu_count()} cores in all: more nodes are no more cores here")
    return {
        "local_rate": middle[0]["rate"],
        "start_seconds": start,
        "local_fixed_seconds": middle[0]["fixed"],
        "ray_fixed_seconds": middle[1]["fixed"],
        **{f"lost_{machines}": 1 - share("rate", machines) for machines in MACHINES},
        "cpu_lost": 1 - 1 / share("cpu", 1),
        "cpu_extra_ms": 1000 * statistics.median(one["cpu"] - here["cpu"] for one, here in zip(found[1], found[0])),
    }


class Seen(engine.Driver):
    """Remembers which machines have prepared an item."""

    places: set[str] = set()

    def end(self, work, *rest):
        self.places.add(work.preparer.machine)
        return super().end(work, *rest)


engine.Driver = Seen


def run(machines: int) -> dict[str, float]:
    """One run of all items by the local engine (0) or so many machines."""
    config = params.read_dataset("bench")
    items = files.read_table(params.cache_folder("bench", "manifest", "items.parquet")).to_pylist()
    encoder = ImageEncoder(params.cache_folder("bench", "clip"), "cpu", config, describe_decoders(config["decoder"]))
    waits, times, half = WaitMeter(len(items)), [], len(items) // 2
    make = partial(visual.make_on, Few(machines)) if machines else visual.make_here
    Seen.places.clear()
    began = time.perf_counter()
    with closing(make(items, encoder, config, waits)) as made:
        for outcome in made:
            if not outcome.ok:
                raise ValueError(f"{outcome.reason}: {outcome.detail}")
            times.append(time.perf_counter())
            if len(times) == half:
                before = cpu_seconds()
        spent = cpu_seconds() - before
    rest = len(items) - half
    rate = rest / (times[-1] - times[half - 1])
    return {
        "rate": rate,
        "fixed": times[-1] - began - len(items) / rate,
        "cpu": spent / rest,
        "used": len(Seen.places) or 1,
    }


def cpu_seconds() -> float:
    """CPU time of this process and of all that come from it and live."""
    parent, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            parent[int(path.parent.name)], spent[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    ours = {os.getpid()}
    while more := {pid for pid, above in parent.items() if above in ours} - ours:
        ours |= more
    return sum(spent[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
