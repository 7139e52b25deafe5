"""A folder put on a disk that is small, full or read-only, for one command: a tmpfs in a mount namespace of its own."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
set -e
mkdir "$after"
cp -a "$folder/." "$after"
mount -t tmpfs -o size="$size" tmpfs "$folder"
cp -a "$after/." "$folder"
rm -rf "$after"
if [ "$state" = full ]; then head -c 1G /dev/zero > "$folder/.filler" 2>/dev/null || true; fi
if [ "$state" = readonly ]; then mount -o remount,ro "$folder"; fi
set +e
ulimit -n "$handles"
"$@"
code=$?
mkdir "$after"
cp -a "$folder/." "$after"
rm -f "$after/.filler"
exit $code
"""


@dataclass
class Ended:
    """What a command left."""

    code: int
    out: str
    said: str  # on stderr
    after: Path  # what was in the folder then


@cache
def can_mount() -> bool:
    """Whether this user may have a mount namespace."""
    return (
        shutil.which("unshare") is not None and not subprocess.run([*unshare(), "true"], capture_output=True).returncode
    )


def unshare() -> list[str]:
    """The command before one that mounts."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def run(folder: Path, *words: str, state: str, size: str = "64m", handles: int = 1024, **environment: str) -> Ended:
    """Run `python words` with `folder` on a disk that is `full`, `readonly` or just of that `size` (state `small`)."""
    after = folder.with_name(f"{folder.name}.after")
    shutil.rmtree(after, ignore_errors=True)
    said = {"folder": str(folder), "after": str(after), "state": state, "size": size, "handles": str(handles)}
    said |= {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"} | environment
    command = [*unshare(), "sh", "-c", SCRIPT, "sh", sys.executable, *words]
    done = subprocess.run(command, env=os.environ | said, capture_output=True, text=True)
    return Ended(done.returncode, done.stdout, done.stderr, after)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, locks left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".locks" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
