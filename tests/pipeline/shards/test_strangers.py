"""Shards from strangers: nothing outside the file is opened, and memory is bounded by what is on the disk."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import shards
from pipeline.shards import Shard, ShardError
from tests.support import worlds

ROOT = Path(__file__).parents[3]
OPENED, READ = 0x20, 0x01


class Watch:
    """Tells whether a file has been opened or read, by anyone."""

    def __init__(self, path: Path):
        self.libc = ctypes.CDLL(None)
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK)
        self.libc.inotify_add_watch(self.handle, os.fsencode(path), OPENED | READ)

    def touched(self) -> bool:
        try:
            return bool(os.read(self.handle, 4096))
        except BlockingIOError:
            return False


@pytest.fixture
def folder(tmp_path):
    return worlds.cache(tmp_path / "cache" / "toy", videos=8, count=1)


@pytest.fixture
def secret(tmp_path):
    """A file outside of the cache, as HDF5 and as bytes the same."""
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["frame"] = np.ones((4, 16), np.float16)
        file["video_id"] = ["a secret"] * 4
    return path


def link(file, name, secret, shape):
    file[name] = h5py.ExternalLink(str(secret), "frame")


def soft(file, name, secret, shape):
    file[name] = h5py.SoftLink("/time")


def external(file, name, secret, shape):
    file.create_dataset(name, shape, "f2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, secret, shape):
    layout = h5py.VirtualLayout(shape, "f2")
    layout[:4] = h5py.VirtualSource(str(secret), "frame", (4, 16))[: min(4, shape[0])]
    file.create_virtual_dataset(name, layout)


def growing(file, name, secret, shape):
    layout = h5py.VirtualLayout(shape, "f2", maxshape=(None, 16))
    source = h5py.VirtualSource(str(secret), "frame", (4, 16), maxshape=(None, 16))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("make", [link, soft, external, virtual, growing])
def test_nothing_outside_of_a_shard_is_opened(folder, secret, make):
    path = shards.shard_path(folder / "visual", 0)
    with h5py.File(path, "r+") as file:
        shape, written = file["frame"].shape, dict(file["frame"].attrs)
        del file["frame"]
        make(file, "frame", secret, shape)
        if make not in (link, soft):
            file["frame"].attrs.update(written)
    watch = Watch(secret)
    for read in (lambda: Shard(path, "visual")["frame"], lambda: Shard(path, "visual").check()):
        with pytest.raises(ShardError, match="is no shard of this project .*delete it and run: dvc repro visual@toy"):
            read()
    assert Shard(path, "visual").good_rows() == [] and shards.read_sound(path, "visual") is None
    assert not watch.touched()


@pytest.mark.parametrize("name", ["row_checksum", "video_id"])
def test_strings_and_checksums_are_no_way_out_either(folder, secret, name):
    path = shards.shard_path(folder / "visual", 0)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(secret), "video_id")
    watch = Watch(secret)
    assert Shard(path, "visual").good_rows() == []
    assert not watch.touched()


BOMB = """
import resource, sys
from pathlib import Path
from pipeline.shards import Shard, ShardError
path, kind = Path(sys.argv[1]), sys.argv[2]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (Shard.check, Shard.good_rows, lambda shard: shard["video_id"], lambda shard: shard["patch"]):
    try:
        read(Shard(path, kind))
    except ShardError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def grown_by(path) -> tuple[str, int]:
    """What is said of a shard, and by how many MB its reader grew."""
    words = [sys.executable, "-c", BOMB, str(path), "visual"]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    said, _, grown = done.stdout.strip().rpartition("\n")
    return said, int(grown)


def test_a_tensor_that_says_it_is_huge_is_not_believed(folder):
    path = shards.shard_path(folder / "visual", 0)
    with h5py.File(path, "r+") as file:
        shape = file["patch"].shape
        del file["patch"]
        file.create_dataset("patch", (1 << 40, *shape[1:]), "f2")  # late allocation: no byte of it is there
    said, grown = grown_by(path)
    assert "chunked or compressed" in said and grown < 200


def test_a_tensor_longer_than_its_file_is_not_believed(folder):
    path = shards.shard_path(folder / "visual", 0)
    with h5py.File(path, "r+") as file:
        shape = file["patch"].shape
        del file["patch"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        file.create_dataset("patch", (1 << 33, *shape[1:]), "f2", dcpl=made)
    os.truncate(path, 1 << 20)
    said, grown = grown_by(path)
    assert "damaged" in said and grown < 200


def test_many_names_for_one_long_string_are_not_read(folder):
    """A thousand video ids that all point at the same 10 MB: ten gigabytes from a file of ten megabytes."""
    path = shards.shard_path(folder / "visual", 0)
    with h5py.File(path, "r+") as file:
        for name in ("video_id", "fingerprint"):
            del file[name]
            made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(name, (1000,), h5py.string_dtype(), dcpl=made)
            file[name][0] = "x" * 10_000_000
            offset = file[name].id.get_offset()
            file.flush()
            with open(path, "r+b") as raw:
                raw.seek(offset)
                one = raw.read(16)
                raw.seek(offset)
                raw.write(one * 1000)
    shard = Shard(path, "visual")
    place = shards.TensorPlace(offset, (1000,), "str")
    with pytest.raises(ShardError, match="strings say that they have 10000000000 bytes, which is more than there are"):
        shard._check_strings(place)
    said, grown = grown_by(path)
    assert grown < 200, (said, grown)
