"""A whole `dvc repro` killed at random points, and every stage on a disk that is full or read-only, or short of file handles.

Both are parts of `python -m tests.bench.crash`, which says what must hold.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import pipeline
from tests.support import disks, house

NAME, VIDEOS = "bench", 10
HIDDEN = (".locks", ".memo", ".proofs", ".search", ".parses")  # what stages remember; no output
STAGES = {
    stage: [f"pipeline.{stage}", "--dataset", NAME]
    for stage in ("manifest", "clip", "visual", "keyframes", "triplets", "text")
} | {
    "train": ["train.run", "--shards", f"cache/{NAME}", "--method", "unitrim"],
    "eval": ["eval.run", "--run", f"cache/{NAME}/runs/unitrim", "--shards", f"cache/{NAME}"],
    "report": ["eval.report", "--dataset", NAME],
}


def make(place: Path) -> Path:
    """A project of its own with a small dataset; returns its folder."""
    project = place / "project"
    pipeline.copy(project)
    (place / "films").mkdir()
    house.build(place / "films", VIDEOS, 2, shards=2, frames=3, parser="auto")
    text = (place / "films" / "params.yaml").read_text().replace("[zero_shot]", "[zero_shot, unitrim]")
    (project / "params.yaml").write_text(text)
    if (house.ROOT / "tools").exists():
        (project / "tools").symlink_to((house.ROOT / "tools").resolve())
    return project


# --- kills


def besiege(place: Path, kills: int, dice: random.Random) -> dict[str, float]:
    """Kill `dvc repro` again and again, and let it end now and then; what was found."""
    project = make(place)
    seconds = pipeline.repro(project)
    truth = content(project)
    found = {
        "kills": 0,
        "ends": 0,
        "different": 0,
        "orphans": 0,
        "locks": 0,
        "parts": 0,
        "dvc": 0,
        "seconds": round(seconds, 1),
    }
    wipe(project)
    while found["kills"] < kills:
        if attempt(project, dice, seconds, found):
            compare(project, truth, found)
            wipe(project)
    forget_rwlock(project, found)
    pipeline.repro(project)
    compare(project, truth, found)
    return found


def forget_rwlock(project: Path, found: dict[str, float]) -> None:
    """DVC empties its own list of locks before it writes it, and a kill between the two leaves it empty: `make` removes it."""
    path = project / ".dvc" / "tmp" / "rwlock"
    if path.exists() and not path.stat().st_size:
        found["dvc"] += 1
        path.unlink()


def attempt(project: Path, dice: random.Random, seconds: float, found: dict[str, float]) -> bool:
    """One `dvc repro`, killed at a random moment or, now and then, let through; whether it got through."""
    forget_rwlock(project, found)
    child = start(project)
    try:
        code = child.wait(None if dice.random() < 0.05 else dice.uniform(0, seconds / 2))
        if code:
            raise SystemExit(f"dvc repro fails after a kill: {(project.parent / 'out.txt').read_text()[-3000:]}")
        return True
    except subprocess.TimeoutExpired:
        pass
    whole = dice.random() < 0.5
    victims = family(project) if whole else [pid for pid in family(project) if is_stage(pid)][:1] or [child.pid]
    for pid in [child.pid, *victims] if whole else victims:
        kill(pid)
    child.wait(seconds * 3)
    found["kills"] += 1
    end = time.monotonic() + 30
    while (left := family(project)) and time.monotonic() < end:
        time.sleep(0.05)
    found["orphans"] += len(left)
    for pid in left:
        kill(pid)
    print(f"kill {found['kills']}: {'all of it' if whole else 'its stage'}, {len(left)} left", flush=True)
    return False


def start(project: Path) -> subprocess.Popen:
    """`dvc repro` in a session of its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "DVC_SITE_CACHE_DIR": str(project.parent / "site")}
    with open(project.parent / "out.txt", "w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=project,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def family(project: Path) -> list[int]:
    """Live processes whose working directory is the project, the oldest first."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and os.readlink(path / "cwd") == str(project) and state(path) != "Z":
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(found)


def state(path: Path) -> str:
    """Of a process: running, sleeping, dead and not yet buried (Z)."""
    return (path / "stat").read_text().rpartition(")")[2].split()[0]


def is_stage(pid: int) -> bool:
    """Whether a process is a stage's own, not DVC, nor its shell."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"-m" in words[:3] and words[2:3] != [b"dvc"]


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wipe(project: Path) -> None:
    """Back to before the first run."""
    for path in (project / "cache" / NAME, project / ".dvc" / "cache", project / ".dvc" / "tmp"):
        for part in [path, *path.rglob("*")] if path.exists() else ():
            if part.is_dir() and not part.is_symlink():
                part.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
    (project / "dvc.lock").unlink(missing_ok=True)


def compare(project: Path, truth: dict[str, object], found: dict[str, float]) -> None:
    """After a run that got through: the clean build's bytes, no lock held, nothing half written."""
    found["ends"] += 1
    now = content(project)
    different = sorted(name for name in set(now) | set(truth) if now.get(name) != truth.get(name))
    if different:
        print("different:", ", ".join(different), flush=True)
    found["different"] += len(different)
    cache = project / "cache" / NAME
    found["parts"] += len(list(cache.rglob("*.part")))
    found["locks"] += sum(map(is_held, [path for path in cache.rglob("*") if path.parent.name == ".locks"]))


def content(project: Path) -> dict[str, object]:
    """Every output, by file; of runs what is not a time."""
    cache, found = project / "cache" / NAME, {}
    for path in sorted(cache.rglob("*")):
        name = str(path.relative_to(cache))
        if not path.is_file() or set(HIDDEN) & set(path.relative_to(cache).parts):
            continue
        if path.name == "run.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
        elif path.name == "history.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [(line["phase"], line["step"], line["loss"], line["terms"]) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def is_held(path: Path) -> bool:
    """Whether a process holds a lock."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- disks and handles


def starve(place: Path) -> dict[str, int]:
    """Run every stage where it cannot write, then as it should be; what was found."""
    project = make(place)
    folder = project / "cache" / NAME
    folder.mkdir(parents=True)
    found = {"runs": 0, "sentences": 0, "went_on": 0, "tracebacks": 0, "silent": 0, "changed": 0}
    before = Path.cwd()
    os.chdir(project)
    try:
        for stage, words in STAGES.items():
            kept = disks.content(folder)
            for state, handles in (("full", 1024), ("readonly", 1024), ("small", 64), ("small", 24)):
                ended = disks.run(folder, "-m", *words, state=state, size="256m", handles=handles)
                judge(stage, f"{state} {handles}", ended, kept, found)
            done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{stage} fails undisturbed: {done.stderr[-2000:]}")
    finally:
        os.chdir(before)
    return found


def judge(stage: str, what: str, ended: disks.Ended, kept: dict[str, bytes], found: dict[str, int]) -> None:
    """One run: it went on, or ended with a sentence; what was there is as it was."""
    lines = ended.said.strip().splitlines()
    found["runs"] += 1
    after = disks.content(ended.after)
    changed = [name for name, value in kept.items() if after.get(name) != value and ended.code]
    changed += [name for name in after if name.endswith(".part")]
    found["changed"] += bool(changed)
    if ended.code == 0:
        found["went_on"] += 1
    elif any("Traceback" in line for line in lines) or ended.code < 0 or ended.code > 128:
        found["tracebacks"] += 1
    elif lines:
        found["sentences"] += 1
    else:
        found["silent"] += 1
    print(f"{stage} {what}: {ended.code} {lines[-1] if lines else ''} {changed or ''}", flush=True)
