"""Disks that are full, read-only or somebody else's: one sentence that says which, and the data is as it was."""

import errno
import os
import re
import sqlite3
from pathlib import Path

import pytest

from pipeline import files, stage
from tests.support import disks, worlds
from tests.support.commands import command

WRITE = """
from pathlib import Path
from pipeline import shards, stage
from tests.support import worlds
tensors, attributes = worlds.taken(Path("cache/toy/visual/00000.h5"), "visual")
tensors["jpeg"] = __import__("numpy").random.default_rng(0).integers(0, 255, 30_000_000, "uint8")
tensors["jpeg_offset"][-1] = 30_000_000
stage.command(lambda: shards.write(Path("cache/toy/visual/00000.h5"), "visual", tensors, attributes))()
"""
mounts = pytest.mark.skipif(not disks.can_mount(), reason="this user may not mount")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    base = tmp_path_factory.mktemp("storage")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        folder = worlds.cache(Path("cache/toy"), videos=16, count=3)
        command("train.run", "--shards", "cache/toy", "--method", "zero_shot")
        (folder / ".proofs").unlink(missing_ok=True)
        yield base


def run(*words, state, **more):
    return disks.run(Path("cache/toy").absolute(), *words, state=state, **more)


def one_sentence(ended):
    lines = [
        line for line in ended.said.strip().splitlines() if not re.match(r"[\w -]+: \d+/\d+ ", line)
    ]  # of progress
    assert ended.code == 1 and len(lines) == 1, (ended.code, ended.said)
    return lines[0]


@mounts
def test_a_shard_that_does_not_fit_says_what_is_missing(home):
    """HDF5 itself ends the process here, after a thousand lines."""
    ended = run("-c", WRITE, state="small", size="24m")
    said = one_sentence(ended)
    assert (
        "cache/toy/visual/00000.h5 cannot be written: the file system at" in said
        and f"{home}/cache/toy is full" in said
    )
    assert "MB of the 30." in said and "more are missing" in said
    assert disks.content(ended.after) == disks.content(Path("cache/toy"))


@mounts
@pytest.mark.parametrize("state, says", [("full", "is full"), ("readonly", "is read-only")])
@pytest.mark.parametrize(
    "words",
    [
        ["train.run", "--shards", "cache/toy", "--method", "unitrim"],
        ["eval.run", "--run", "cache/toy/runs/zero_shot", "--shards", "cache/toy"],
    ],
)
def test_training_and_scoring_say_which_disk(home, state, says, words):
    ended = run("-m", *words, state=state)
    assert f"the file system at {home}/cache/toy {says}" in one_sentence(ended)
    left = disks.content(ended.after)
    assert {name: left[name] for name in disks.content(Path("cache/toy"))} == disks.content(Path("cache/toy"))
    assert not [name for name in left if name.endswith(".part")]


@mounts
def test_too_few_file_handles_for_many_shards_say_what_to_type(home):
    worlds.cache(Path("cache/many"), videos=96, count=90)
    words = ["-m", "train.run", "--shards", "cache/many", "--method", "unitrim"]
    ended = disks.run(Path("cache/many").absolute(), *words, state="small", handles=64)
    assert "this process has the 64 files open that it may have; type: ulimit -n 4096" in one_sentence(ended)


@mounts
@pytest.mark.parametrize("state", ["full", "readonly"])
def test_a_cache_that_cannot_be_written_is_searched(home, state):
    words = ["-m", "pipeline.shards", "verify", "cache/toy"]
    ended = run(*words, state=state)
    assert (ended.code, ended.out) == (0, "cache/toy is whole\n")
    code = "from pathlib import Path; from eval.search.engine import Search; from pipeline.shards import proofs"
    code += "; one = Search(Path('cache/toy/runs/zero_shot'), Path('cache/toy')); print(len(one.gallery.segments), one.unkept)"
    code += "; print(sorted(path.name for path in proofs._proven))"
    ended = run("-c", code, state=state)
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert "1 cache/toy/.search/" in ended.out and f"the file system at {home}/cache/toy" in ended.out
    assert disks.content(ended.after) == disks.content(Path("cache/toy"))


@mounts
def test_parses_that_cannot_be_kept_say_so(home):
    code = """
from pathlib import Path
from pipeline import stage
from pipeline.scene_graph.parsers.store import Store
from tests.support.trees import tree

def main():
    store = Store(Path("cache/toy/.parses/all.sqlite"), "toy")
    store.put({f"{number} dogs": tree("dogs/NNS 0 root") for number in range(20_000)})

stage.command(main)()
"""
    for state in ("full", "readonly"):
        assert "cache/toy/.parses/all.sqlite cannot be written: the file system" in one_sentence(
            run("-c", code, state=state)
        )
    ended = run("-c", code, state="small", size="1m")
    assert "cache/toy/.parses/all.sqlite cannot be written: the file system" in one_sentence(ended)


@pytest.mark.parametrize(
    "error, number",
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space'"), 28),
        (Exception("I/O error: No space left on device (os error 28)"), 28),
        (sqlite3.OperationalError("database or disk is full"), errno.ENOSPC),
        (ValueError("something else"), None),
    ],
)
def test_the_same_error_is_known_in_every_dialect(error, number):
    assert files.read_errno(error) == number


def test_other_peoples_files_say_whose_they_are(tmp_path):
    said = files.explain_storage(PermissionError(errno.EACCES, "Permission denied"), tmp_path / "toy" / "x.h5")
    assert said.startswith(f"{tmp_path / 'toy' / 'x.h5'} cannot be written (permission denied): it belongs to user ")


def test_too_many_open_files_say_what_to_type():
    with pytest.raises(files.StorageError, match="has the .* files open that it may have; type: ulimit -n 4096"):
        with files.storage(Path("x")):
            raise OSError(errno.EMFILE, "Too many open files")


def test_an_error_of_something_else_passes():
    with pytest.raises(KeyError):
        with files.storage(Path("x")):
            raise KeyError("y")


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "model.safetensors").touch(0o600)
        files.open_to_others(tmp_path / "folder")
        files.write(tmp_path / "written", "x")
        with files.lock(tmp_path / "toy" / "visual"):
            pass
    finally:
        os.umask(before)
    for path in (
        tmp_path / "folder" / "model.safetensors",
        tmp_path / "written",
        tmp_path / "toy" / ".locks" / "visual",
    ):
        assert path.stat().st_mode & 0o777 == mode, path


def test_an_id_may_begin_as_an_option_does():
    flags = ["--dataset", "--why", "--retry", "-h"]
    words = ["--why", "-abc", "--dataset", "x", "--retry", "all"]
    assert stage.join_ids(words, ["--why"], flags) == ["--why=-abc", "--dataset", "x", "--retry", "all"]
    assert stage.join_ids(["--why", "--dataset", "x"], ["--why"], flags) == ["--why", "--dataset", "x"]
    assert stage.join_ids(["--why", "--id--", "--dataset=x"], ["--why"], flags) == ["--why=--id--", "--dataset=x"]
