"""Kill the stages at random points, again and again, and count what is lost, doubled or torn.

    python -m tests.bench.crash [--kills 120] [--seed 0] [--only visual text triplets train repro disks]

Each run of a stage is a process that gets SIGKILL (the process alone; what it started must end by itself) at a random
moment, mostly within 0.1 s after a random item; the next run goes on with what is there. After every kill: each shard
that exists is whole and equal, row for row, to a build that was never disturbed, rows that were there before the kill are
still there, and no process is left. Now and then rows are taken out of finished shards, so that kills also hit the
updating of an earlier result. When a run gets through, its output must be the undisturbed build's, byte for byte.
`repeated` is the most encoded work that one kill cost, in shards. Encoders are slowed down to 30 ms an item so that there
is something to hit; nothing else is changed.

`repro`: a fifth of the kills hit a whole `dvc repro`, all its processes at once or the running stage alone; what ends is the
clean build's bytes, no process is left after a kill, no lock is held and nothing half written. `disks`: every stage is run
on a full disk, a read-only one, and with 64 and 24 file handles: it ends with a sentence or goes on, and what was there is
as it was.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet

from pipeline import shards
from pipeline.encoders.image import ImageEncoder
from pipeline.encoders.text import TextEncoder
from pipeline.shards import Shard, ShardError
from tests.bench import crash_repro
from tests.support import house, worlds

NAME, SLOW = "bench", 0.03
SHARES = {"visual": 0.35, "text": 0.3, "triplets": 0.1, "train": 0.25}
WHOLE = ("repro", "disks")
VIDEOS, SHARDS = 36, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*SHARES, *WHOLE], default=[*SHARES, *WHOLE])
    options = parser.parse_args()
    for part in WHOLE:
        if part in options.only:
            whole(part, options)
    options.only = [stage for stage in options.only if stage in SHARES]
    if not options.only:
        return
    before, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="crash"))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(house.ROOT), "TQDM_DISABLE": "1"}
    try:
        os.chdir(place)
        if options.only == ["train"]:  # on random shards, so that no other stage has to run
            worlds.cache(Path("cache") / NAME, VIDEOS, 4)
            house.settings(place, name=NAME)
        else:
            house.build(place, VIDEOS, shards=SHARDS, parser="auto")
        stages = prepare(options.only)
        results = {}
        for stage in stages:
            if stage.name not in options.only:
                if not stage.output.exists():
                    stage.ready()
                continue
            count = round(options.kills * SHARES[stage.name])
            results[stage.name] = Siege(stage, random.Random(f"{options.seed} {stage.name}")).run(count)
            print(f"{stage.name:9}", results[stage.name], flush=True)
    finally:
        os.chdir(before)
        shutil.rmtree(place)
    totals = {key: sum(result[key] for result in results.values()) for key in ("kills", "lost", "duplicated", "torn")}
    totals |= {"orphans": sum(result["orphans"] for result in results.values())}
    print(json.dumps(totals | {"repeated": {name: result["repeated"] for name, result in results.items()}}))


def whole(part: str, options: argparse.Namespace) -> None:
    """`repro` or `disks`, in a folder of its own."""
    place = Path(tempfile.mkdtemp(prefix="crash"))
    try:
        if part == "repro":
            found = crash_repro.besiege(place, round(options.kills / 5), random.Random(options.seed))
        else:
            found = crash_repro.starve(place)
        print(f"{part:9}", found, flush=True)
    finally:
        shutil.rmtree(place)


# --- running a stage in a process of its own


def start(module: str, words: list[str], log: Path) -> int:
    """Fork a process that runs `python -m module words` and logs what its encoder was given; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        quiet = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        slow(module, log)
        sys.argv = [module, *words]
        importlib.import_module(module).main()
        code = 0
    except SystemExit as end:
        print(end, file=sys.stderr)
        code = 0 if end.code in (None, 0) else 2
    finally:
        sys.stderr.flush()
        os._exit(code)


def slow(module: str, log: Path) -> None:
    """Make a stage's encoder take its time and write down how much it did."""
    if module == "train.run":
        from train import checkpoint

        save = checkpoint.save

        def noted(*args, **kwargs):
            save(*args, **kwargs)
            note(log, "epoch")

        checkpoint.save = noted
    elif module in ("pipeline.visual", "pipeline.text"):
        encoder = ImageEncoder if module == "pipeline.visual" else TextEncoder
        encode = encoder.__call__

        def watched(self, what, *rest):
            answer = encode(self, what, *rest)
            if len(what):
                time.sleep(SLOW if rest else SLOW * len(what) / 8)
                note(log, "1" if rest else str(len(what)))
            return answer

        encoder.__call__ = watched


def note(log: Path, line: str) -> None:
    """Append a line that outlives the process."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def wait(child: int, seconds: float | None = None) -> int | None:
    """Exit status of a child, None if it is still running after some seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            return None
        time.sleep(0.002)


def family() -> set[int]:
    """Live processes whose working directory is here, this one left out."""
    found = set()
    for path in Path("/proc").iterdir():
        try:
            here = path.name.isdigit() and os.readlink(path / "cwd") == str(Path.cwd())
            if here and int(path.name) != os.getpid() and (path / "stat").read_text().split()[2] != "Z":
                found.add(int(path.name))
        except OSError:
            continue
    return found


# --- the stages and what must hold of each


class Stage:
    """A stage that writes shards."""

    def __init__(self, name: str, module: str, words: list[str], output: Path):
        self.name, self.module, self.words, self.output = name, module, words, output

    def ready(self) -> None:
        """Run undisturbed."""
        if wait(start(self.module, self.words, Path("log.txt").absolute())):
            raise SystemExit(f"{self.name} fails without being killed: {Path('out.txt').read_text()[-2000:]}")

    def good(self) -> dict[str, bytes]:
        """The undisturbed output, by file."""
        files = [self.output] if self.output.is_file() else sorted(self.output.rglob("*"))
        return {str(path.relative_to(self.output)): path.read_bytes() for path in files if path.is_file()}

    def rows(self, torn: Callable[[str], None]) -> dict[tuple[str, str], int]:
        """Every row on disk by (kind, key) with its checksum; `torn` is told of files that are not whole, and of doubles."""
        found: dict[tuple[str, str], int] = {}
        for path in sorted(self.output.glob("*.h5")):
            kind = "phrases" if path.stem == "phrases" else self.name
            shard = Shard(path, kind)
            try:
                shard.check()
            except ShardError as error:
                torn(str(error))
                continue
            tensors = {name: shard[name] for name in shard.names}
            for key, value in zip(shard[shards.KEYS[kind]], shards.row_checksums(kind, tensors).tolist()):
                if (kind, key) in found:
                    torn(f"{key} is there twice")
                found[kind, key] = value
        return found

    def spoil(self, dice: random.Random) -> None:
        """Take rows out of finished shards, as if they were of an earlier time."""
        for path in sorted(self.output.glob("0*.h5")):
            if dice.random() < 0.7:
                shard = Shard(path, self.name)
                kept = [row for row in range(len(shard)) if dice.random() < 0.5]
                tensors = {name: shard[name] for name in shard.names}
                shards.write(path, self.name, shards.take_rows(self.name, tensors, kept), shard.attributes)

    def unit(self) -> float:
        """Rows of the largest shard: what one kill may cost."""
        sizes = [len(Shard(path, self.name)) for path in sorted(self.output.glob("0*.h5"))]
        return float(max(sizes))

    def reset(self) -> None:
        """Start from nothing."""
        shutil.rmtree(self.output, ignore_errors=True)


class Table(Stage):
    """The triplets stage: one Parquet file, and the store of parses beside it."""

    def rows(self, torn: Callable[[str], None]) -> dict[tuple[str, str], int]:
        if not self.output.exists():
            return {}
        try:
            rows = pyarrow.parquet.read_table(self.output).to_pylist()
        except (OSError, ValueError) as error:
            torn(str(error))
            return {}
        found = {("triplets", row["caption_id"]): hash(json.dumps(row)) for row in rows}
        if len(found) != len(rows):
            torn("a caption is there twice")
        return found

    def good(self) -> dict[str, bytes]:
        return {"": self.output.read_bytes()} if self.output.exists() else {}

    def spoil(self, dice: random.Random) -> None:
        self.reset()

    def unit(self) -> float:
        return 1.0

    def reset(self) -> None:
        self.output.unlink(missing_ok=True)
        shutil.rmtree("cache/.parses", ignore_errors=True)


class Run(Stage):
    """Training: the checkpoint must always load, and the end must be the undisturbed run's, bit for bit."""

    def ready(self) -> None:
        if not Path("cache", NAME, "keyframes.parquet").exists():
            Stage("keyframes", "pipeline.keyframes", ["--dataset", NAME], self.output).ready()
        super().ready()

    def rows(self, torn: Callable[[str], None]) -> dict[tuple[str, str], int]:
        from train import checkpoint

        if not (self.output / "checkpoint.pt").exists():
            return {}
        try:
            checkpoint.read(self.output)
        except ValueError as error:
            torn(str(error))
        return {}

    def good(self) -> dict[str, bytes]:
        from train import checkpoint

        if not (self.output / "checkpoint.pt").exists():
            return {}
        content = checkpoint.read(self.output)
        if content["training"] is not None:
            return {}
        names = sorted(content["model"])
        weights = b"".join(content["model"][name].numpy().tobytes() for name in names)
        lines = [json.loads(line) for line in (self.output / "history.jsonl").read_text().splitlines()]
        steps = [(line["phase"], line.get("step"), line.get("loss"), line.get("validation")) for line in lines]
        return {"weights": weights, "history": json.dumps(steps).encode()}

    def spoil(self, dice: random.Random) -> None:
        self.reset()

    def unit(self) -> float:
        return 1.0


class Siege:
    """One stage, its undisturbed output, and the kills."""

    def __init__(self, stage: Stage, dice: random.Random):
        self.stage, self.dice, self.log = stage, dice, Path("log.txt").absolute()
        began = time.monotonic()
        self.once()
        self.seconds = time.monotonic() - began
        self.good = stage.good()
        self.truth = stage.rows(self.torn)
        self.unit = stage.unit()
        self.found = {"kills": 0, "runs": 0, "lost": 0, "duplicated": 0, "torn": 0, "orphans": 0, "repeated": 0.0}

    def torn(self, why: str) -> None:
        """Something on disk is not whole, or is there twice."""
        print(f"{self.stage.name}: {why}", flush=True)
        self.found["duplicated" if "twice" in why else "torn"] += 1

    def once(self) -> None:
        """Run undisturbed."""
        self.stage.reset()
        self.stage.ready()

    def run(self, kills: int) -> dict[str, float]:
        """Kill until there were `kills` kills, then let it end."""
        self.stage.reset()
        while self.found["kills"] < kills:
            if self.attempt(kill=True):
                self.stage.reset() if self.dice.random() < 0.4 else self.stage.spoil(self.dice)
        self.attempt(kill=False)
        return self.found

    def attempt(self, kill: bool) -> bool:
        """One run, killed or not, and the look at what it left; whether it got through."""
        self.log.unlink(missing_ok=True)
        before = self.stage.rows(self.torn)
        began = time.monotonic()
        child = start(self.stage.module, self.stage.words + self.resume(), self.log)
        code = self.watch(child, len(self.truth) - len(before)) if kill else wait(child)
        self.found["runs"] += 1
        if code is None:
            os.kill(child, signal.SIGKILL)
            wait(child)
            self.found["kills"] += 1
            self.bury()
            self.look(before)
        elif code:
            raise SystemExit(f"{self.stage.name} failed after a kill: {Path('out.txt').read_text()[-2000:]}")
        else:
            self.seconds = min(self.seconds, time.monotonic() - began)
            self.compare()
            return True
        return False

    def watch(self, child: int, work: int) -> int | None:
        """Wait for a random moment, by the clock or by what has been encoded; None if the process is still running then."""
        if self.stage.name not in ("visual", "text") or self.dice.random() < 0.2:
            return wait(child, self.dice.uniform(0, 1.1 * self.seconds))
        target, code = self.dice.uniform(0, work), None
        while code is None and sum(map(int, self.done())) < target:
            code = wait(child, 0.005)
        return wait(child, self.dice.uniform(0, 0.1)) if code is None else code

    def done(self) -> list[str]:
        """What the encoder has written down."""
        return self.log.read_text().split() if self.log.exists() else []

    def resume(self) -> list[str]:
        return ["--resume"] if self.stage.module == "train.run" else []

    def bury(self) -> None:
        """Everything that the killed process had started must end by itself."""
        end = time.monotonic() + 10
        while (left := family()) and time.monotonic() < end:
            time.sleep(0.05)
        self.found["orphans"] += len(left)
        for process in left:
            os.kill(process, signal.SIGKILL)

    def look(self, before: dict[tuple[str, str], int]) -> None:
        """After a kill: no row is gone, none differs from the undisturbed build, little work was lost."""
        after = self.stage.rows(self.torn)
        kept = {key for key in before if key[0] != "phrases"}
        self.found["lost"] += len(kept - set(after))
        self.found["torn"] += sum(self.truth.get(key) != value for key, value in after.items())
        if self.stage.name in ("visual", "text"):
            wasted = sum(map(int, self.done())) - sum(key not in before for key in after)
            self.found["repeated"] = max(self.found["repeated"], round(wasted / self.unit, 2))

    def compare(self) -> None:
        """After a run that got through: the undisturbed output, byte for byte."""
        now = self.stage.good()
        after = self.stage.rows(self.torn)
        self.found["lost"] += len(set(self.truth) - set(after))
        if now != self.good:
            different = [name for name in set(now) | set(self.good) if now.get(name) != self.good.get(name)]
            self.torn(f"not the undisturbed output: {', '.join(sorted(different))}")


def prepare(only: list[str]) -> list[Stage]:
    """Run the stages before, import what the forked processes need, and name the stages to be killed."""
    cache, dataset = Path("cache") / NAME, ["--dataset", NAME]
    modules = {stage: "train.run" if stage == "train" else f"pipeline.{stage}" for stage in SHARES}
    for name in ("manifest", "clip") if only != ["train"] else ():
        if wait(start(f"pipeline.{name}", dataset, Path("log.txt").absolute())):
            raise SystemExit(Path("out.txt").read_text()[-2000:])
    for module in ("torch", *(("transformers",) if only != ["train"] else ()), *map(modules.get, only)):
        importlib.import_module(module)

    visual = Stage("visual", "pipeline.visual", dataset, cache / "visual")
    triplets = Table("triplets", "pipeline.triplets", dataset, cache / "triplets.parquet")
    text = Stage("text", "pipeline.text", dataset, cache / "text")
    words = ["--shards", str(cache), "--method", "unitrim"]
    train = Run("train", "train.run", words, cache / "runs" / "unitrim")
    return [visual, triplets, text, train]


if __name__ == "__main__":
    main()
