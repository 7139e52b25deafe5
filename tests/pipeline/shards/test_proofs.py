"""Every reader proves a shard once before it trusts it, and remembers that for as long as the file is the same."""

import os
import shutil
from pathlib import Path

import pytest

from pipeline import shards
from pipeline.shards import Shard, ShardError, VideoReader, proofs
from tests.support import worlds
from tests.support.commands import command
from train.data import Cache


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    base = tmp_path_factory.mktemp("good")
    folder = worlds.cache(base / "cache" / "toy", videos=16, count=3)
    command("train.run", "--shards", str(folder), "--method", "zero_shot")
    command("eval.run", "--run", str(folder / "runs" / "zero_shot"), "--shards", str(folder))
    (folder / ".proofs").unlink(missing_ok=True)
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A cache that a test may spoil, written long ago."""
    monkeypatch.chdir(tmp_path)
    made = Path(shutil.copytree(good, Path("cache") / "toy"))
    age(made)
    return made


@pytest.fixture
def reads(monkeypatch):
    """The files that have been read whole."""
    found, check = [], Shard.check
    monkeypatch.setattr(Shard, "check", lambda shard: found.append(shard.path.name) or check(shard))
    return found


def age(folder):
    for shard in shards.open_cache(folder):
        os.utime(shard.path, ns=(1, shard.path.stat().st_ino))


def flip(path, kind, name, at=3):
    content = bytearray(path.read_bytes())
    content[Shard(path, kind).place(name).offset + at] ^= 4
    path.write_bytes(content)


def forget(monkeypatch):
    """As another process would begin."""
    monkeypatch.setattr(proofs, "_proven", {})


READERS = {
    "train": ["train.run", "--shards", "cache/toy", "--method", "unitrim"],
    "eval": ["eval.run", "--run", "cache/toy/runs/zero_shot", "--shards", "cache/toy"],
    "search": ["eval.search", "--run", "cache/toy/runs/zero_shot", "--shards", "cache/toy", "a thing"],
    "report": ["eval.report", "--dataset", "toy"],
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_uses_a_flipped_bit(folder, reader):
    path = shards.shard_paths(folder / "visual")[1]
    flip(path, "visual", "frame")
    name = Shard(path, "visual")["video_id"][0]
    with pytest.raises(SystemExit) as end:
        command(*READERS[reader])
    assert "cache/toy/visual/00001.h5 is damaged (frame does not have the checksum" in str(end.value)
    assert f"rows are damaged: {name!r}" in str(end.value)
    assert "run: python -m pipeline.shards repair cache/toy" in str(end.value)


@pytest.mark.parametrize("kind, name", [("text", "word"), ("text", "sentence"), ("phrases", "embedding")])
def test_texts_and_phrases_are_proven_too(folder, kind, name):
    path = folder / "text" / ("phrases.h5" if kind == "phrases" else "00000.h5")
    flip(path, kind, name)
    with pytest.raises(ShardError, match=rf"{path.name} is damaged \({name} .* of .* rows are damaged: '"):
        Cache(folder, ["frame", "sentence", "word", "triplet"])


def test_many_damaged_rows_are_counted(folder):
    path = shards.shard_paths(folder / "text")[0]
    count = len(Shard(path, "text"))
    for row in range(count):
        flip(path, "text", "sentence", at=32 * row)
    with pytest.raises(ShardError, match=rf"\({count} of {count}|damaged"):
        Cache(folder, ["frame", "sentence"])


def test_the_second_time_costs_nothing(folder, reads, monkeypatch):
    needs = ["frame", "sentence", "triplet"]
    Cache(folder, needs)
    assert len(reads) == 7 and (folder / ".proofs").exists()
    forget(monkeypatch)
    Cache(folder, needs)
    VideoReader(folder)
    assert len(reads) == 7


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_file_that_is_another_one_is_proven_again(folder, reads, monkeypatch, change):
    VideoReader(folder)
    path = shards.shard_paths(folder / "visual")[0]
    stat = path.stat()
    if change == "inode":
        other = path.with_name("other")
        shutil.copyfile(path, other)
        other.replace(path)
    if change == "size":
        path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(1, stat.st_mtime_ns + (change == "mtime")))
    forget(monkeypatch)
    reads.clear()
    VideoReader(folder)
    assert reads == ["00000.h5"]


def test_a_file_just_written_is_not_remembered(folder, reads, monkeypatch):
    """It may be written again within what its times can tell apart."""
    path = shards.shard_paths(folder / "visual")[0]
    os.utime(path)
    VideoReader(folder)
    reads.clear()
    VideoReader(folder)
    assert reads == ["00000.h5"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"visual/00000.h5": null, "visual/00001.h5": {"a": []}}', b"\xff"]
)
def test_damaged_memory_is_no_proof(folder, reads, content):
    (folder / ".proofs").write_bytes(content)
    VideoReader(folder)
    assert len(reads) == 3


def test_what_was_proven_and_is_gone_is_forgotten(folder):
    VideoReader(folder)
    assert "00002" in (folder / ".proofs").read_text()
    (folder / "visual" / "00002.h5").unlink()
    os.utime(folder / "visual" / "00000.h5", (5, 5))
    VideoReader(folder)
    assert "00002" not in (folder / ".proofs").read_text()


def test_damage_in_one_shard_does_not_cost_the_proofs_of_the_others(folder, reads, monkeypatch):
    flip(shards.shard_paths(folder / "visual")[1], "visual", "patch")
    with pytest.raises(ShardError):
        VideoReader(folder)
    forget(monkeypatch)
    reads.clear()
    with pytest.raises(ShardError):
        VideoReader(folder)
    assert reads == ["00001.h5"]
