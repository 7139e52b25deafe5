"""What a cache holds, in a few digests: read once while the files stand, and anew where one is another."""

import shutil

from pipeline.shards import identity, reader
from tests.support import worlds


def test_files_that_stand_are_read_once_and_others_anew(tmp_path, monkeypatch):
    home, other = worlds.cache(tmp_path / "toy", videos=30), worlds.cache(tmp_path / "other", videos=20)
    opened, own = [], reader.Shard
    monkeypatch.setattr(reader, "Shard", lambda *path: opened.append(path) or own(*path))
    before = identity(home)
    first = len(opened)
    before["visual"] += "changed by who asked"
    assert first > 0 and len(opened) == first
    again = identity(home)
    assert len(opened) == first and again | {"visual": before["visual"]} == before
    assert identity(home, ["sentence"]).keys() < again.keys() and identity(home, splits=["train"]) != again
    for path in (other / "visual").glob("*.h5"):  # as a stage replaces its files: by a rename
        shutil.copy(path, home / "new.part")
        (home / "new.part").replace(home / "visual" / path.name)
    now = identity(home)
    assert now["visual"] != again["visual"] and now["text"] == again["text"]
