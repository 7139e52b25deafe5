"""Whether incremental runs stay right under DVC, whichever way it links its cache.

    python -m tests.bench.links [--links copy hardlink symlink]

For each kind of link: build with `dvc repro`; add, change, rename and delete videos and change captions; damage a shard;
delete a shard; delete all and `dvc checkout`. After each, `dvc repro` must leave the bytes of a build from nothing, must have
encoded no more than what changed, and no object of DVC's cache may differ from its name.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.shards import Shard
from tests.bench.pipeline import copy
from tests.support import house, tiny

TARGETS = ("visual@bench", "keyframes@bench", "text@bench")
VIDEOS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--links", nargs="+", choices=("copy", "hardlink", "symlink"), default=["copy", "hardlink", "symlink"]
    )
    options = parser.parse_args()
    totals = {"checks": 0, "wrong": 0, "corrupt": 0, "over_encoded": 0}
    for link in options.links:
        place = Path(tempfile.mkdtemp(prefix=link))
        try:
            Trial(place, link, totals).run()
        finally:
            shutil.rmtree(place)
    print(json.dumps(totals))


class Trial:
    """One project under one kind of link."""

    def __init__(self, place: Path, link: str, totals: dict[str, int]):
        self.place, self.link, self.totals, self.project = place, link, totals, place / "project"
        copy(self.project)
        (place / "films").mkdir()
        self.root = house.build(place / "films", VIDEOS, 2, model=tiny.clip(place / "model"), distinct=VIDEOS)
        shutil.copyfile(place / "films" / "params.yaml", self.project / "params.yaml")
        self.dvc("config", "cache.type", link)

    def run(self) -> None:
        """All the harm, one after another."""
        self.check("from empty", VIDEOS)
        self.change()
        self.check("added, changed, renamed, deleted", 2)
        self.check("nothing", 0)
        visual = self.project / "cache/bench/visual"
        path = next(path for path in sorted(visual.glob("0*.h5")) if path.stat().st_size > 20_000)
        content = bytearray(path.read_bytes())
        content[Shard(path, "visual").place("patch").offset + 100] ^= 255
        path.unlink()  # an editor that saves writes a new file; one that does not would be stopped by DVC's write protection
        path.write_bytes(content)
        self.check("damaged", VIDEOS // 2)
        path.unlink()
        self.check("a shard deleted", VIDEOS // 2)
        shutil.rmtree(visual)
        shutil.rmtree(self.project / "cache/bench/text")
        self.dvc("checkout", *TARGETS)
        self.check("checked out", 0)

    def change(self) -> None:
        """Add one film, change one, rename one, delete one, and change a caption."""
        videos = self.root / "videos"
        house.clip(videos / "added.mp4", seed=1000)
        house.clip(videos / "video3.mp4", seed=1001)
        (videos / "video4.mp4").rename(videos / "renamed.mp4")
        (videos / "video5.mp4").unlink()
        path = self.root / "MSRVTT_data.json"
        whole = json.loads(path.read_text())
        whole["videos"] = [video for video in whole["videos"] if video["video_id"] not in ("video4", "video5")]
        whole["videos"] += [{"video_id": "added", "url": ""}, {"video_id": "renamed", "url": ""}]
        kept = [row for row in whole["sentences"] if row["video_id"] != "video5"]
        for row in kept:
            row["video_id"] = (
                row["video_id"].replace("video4", "renamed") if row["video_id"] == "video4" else row["video_id"]
            )
        kept[0]["caption"] = "a new dog rides a new car"
        whole["sentences"] = [*kept, {"video_id": "added", "caption": "a man paints a house"}]
        path.write_text(json.dumps(whole))
        path = self.root / "MSRVTT_train.csv"
        path.write_text(path.read_text().replace("video4\n", "renamed\n").replace("video5\n", "added\n"))

    def check(self, what: str, most: int) -> None:
        """Run, and compare with a build from nothing."""
        said = self.dvc("repro", *TARGETS)
        encoded = sum(int(count) for count in re.findall(r"visual: .* (\d+) encoded", said))
        folder, clean = self.project / "cache/bench", self.clean()
        wrong = [
            f"{name}/{path}"
            for name in ("visual", "text")
            for path in differing(tree(folder / name), tree(clean / name))
        ]
        corrupt = self.corrupt()
        self.totals["checks"] += 1
        self.totals["wrong"] += len(wrong)
        self.totals["corrupt"] += len(corrupt)
        self.totals["over_encoded"] += encoded > most
        print(f"{self.link:9} {what:35} encoded {encoded:3}  differing {wrong}  corrupt {len(corrupt)}", flush=True)

    def clean(self) -> Path:
        """The shards of a build from nothing, without DVC."""
        place = self.place / "clean"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copyfile(self.project / "params.yaml", place / "params.yaml")
        for stage in ("manifest", "clip", "visual", "triplets", "text"):
            command = [sys.executable, "-m", f"pipeline.{stage}", "--dataset", "bench"]
            environment = os.environ | {"PYTHONPATH": str(self.project)}
            subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
        return place / "cache/bench"

    def corrupt(self) -> list[str]:
        """Objects of DVC's cache that are not what their name says."""
        objects = (self.project / ".dvc/cache/files/md5").glob("??/*")
        return [
            str(path)
            for path in objects
            if path.is_file()
            and hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir")
        ]

    def dvc(self, *words: str) -> str:
        """What a dvc command prints."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": path, "DVC_SITE_CACHE_DIR": str(self.place / "site")}
        command = [sys.executable, "-m", "dvc", *words]
        ran = subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True)
        if ran.returncode:
            raise SystemExit(f"dvc {' '.join(words)}: {(ran.stdout + ran.stderr)[-3000:]}")
        return ran.stdout + ran.stderr


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that one tree lacks or that differ between two."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
