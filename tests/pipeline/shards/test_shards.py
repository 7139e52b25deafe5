"""The HDF5 contract: what is written is what anyone reads; all else is an error that says what to type."""

import os
import pickle

import h5py
import numpy as np
import pytest

from pipeline import shards
from pipeline.shards import Shard, ShardError, reader

ATTRIBUTES = {
    "dataset": "toy",
    "clip": "tiny",
    "clip_sha256": "ab" * 32,
    "version": 1,
    "frames": 3,
    "sampling": "uniform",
    "decoder": "pyav",
    "resize": "bicubic",
    "precision": "fp32",
}


def visual(frames=(3, 1), patches=4, dimension=8, seed=0):
    """Tensors of a visual shard with one video per entry of `frames`."""
    random = np.random.default_rng(seed)
    total = sum(frames)
    jpeg = [bytes([index] * (index + 1)) for index in range(total)]
    return {
        "video_id": [f"video{index}" for index in range(len(frames))],
        "fingerprint": [f"{index:032x}" for index in range(len(frames))],
        "offset": np.cumsum([0, *frames]),
        "frame": random.normal(size=(total, dimension)).astype(np.float16),
        "patch": random.normal(size=(total, patches, dimension)).astype(np.float16),
        "time": np.arange(total, dtype=np.float64),
        "jpeg": np.frombuffer(b"".join(jpeg), np.uint8),
        "jpeg_offset": np.cumsum([0, *map(len, jpeg)]),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "toy" / "visual" / "00000.h5"
    shards.write(path, "visual", visual(), ATTRIBUTES)
    return path


def test_what_is_written_is_read(path):
    tensors = shards.read(path, "visual")
    for name, value in visual().items():
        assert np.array_equal(tensors[name], value), name
    assert list(path.parent.iterdir()) == [path]


def test_plain_h5py_and_pread_see_the_same_bytes(path):
    patch = visual()["patch"]
    with h5py.File(path) as file:
        assert np.array_equal(file["patch"][:], patch)
        assert file["video_id"].asstr()[:].tolist() == ["video0", "video1"]
        assert file.attrs["clip"] == "tiny"
    place = Shard(path, "visual").place("patch")
    with open(path, "rb") as file:
        file.seek(place.offset)
        assert file.read(patch.nbytes) == patch.tobytes()


def test_large_tensors_are_page_aligned(tmp_path):
    path = tmp_path / "00000.h5"
    shards.write(path, "visual", visual((40, 2), patches=16, dimension=32), ATTRIBUTES)
    assert Shard(path, "visual").place("patch").offset % 4096 == 0


def test_the_same_tensors_make_the_same_bytes(path, tmp_path):
    again = tmp_path / "again.h5"
    in_parts = visual()
    in_parts["patch"] = [in_parts["patch"][:3], in_parts["patch"][3:]]
    shards.write(again, "visual", in_parts, dict(reversed(ATTRIBUTES.items())))
    assert again.read_bytes() == path.read_bytes()


def test_a_shard_may_be_empty(tmp_path):
    path = tmp_path / "00000.h5"
    shards.write(path, "visual", visual(frames=()), ATTRIBUTES)
    shard = Shard(path, "visual")
    shard.check()
    assert len(shard) == 0 and shard["patch"].shape == (0, 4, 8) and shard["video_id"] == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("frame", np.zeros((4, 8), np.float32), "expected float16"),
        ("frame", np.zeros((3, 8), np.float16), "axis F"),
        ("patch", np.zeros((4, 8), np.float16), "got shape"),
        ("offset", np.array([0, 5, 4]), "rise from 0 to 4"),
        ("video_id", [1, 2], "list of strings"),
        ("patch", np.full((4, 4, 8), np.nan, np.float16), "NaN"),
    ],
)
def test_what_does_not_fit_the_table_is_not_written(tmp_path, name, value, says):
    with pytest.raises(ValueError, match=says):
        shards.write(tmp_path / "00000.h5", "visual", visual() | {name: value}, ATTRIBUTES)
    assert not list(tmp_path.iterdir())


def test_a_shard_must_say_how_it_was_made(tmp_path):
    with pytest.raises(ValueError, match="clip_sha256"):
        shards.write(tmp_path / "00000.h5", "visual", visual(), {"dataset": "toy"})


def test_a_missing_shard_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ShardError, match=r"run: dvc repro visual@toy"):
        shards.read(tmp_path / "toy" / "visual" / "00000.h5", "visual")


def test_every_flipped_byte_of_a_tensor_is_found(path):
    good = path.read_bytes()
    for name in ("frame", "patch", "time", "offset", "jpeg"):
        place = Shard(path, "visual").place(name)
        bad = bytearray(good)
        bad[place.offset + 1] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(ShardError, match=r"repair .*toy"):
            Shard(path, "visual").check()
        assert shards.read_sound(path, "visual") is None
        path.write_bytes(good)
    assert shards.read_sound(path, "visual", clip="tiny") is not None
    assert shards.read_sound(path, "visual", clip="other") is None


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_cut_shard_is_damaged_not_a_crash(path, keep):
    good = path.read_bytes()
    path.write_bytes(good[: keep if isinstance(keep, int) else int(len(good) * keep)])
    with pytest.raises(ShardError, match="damaged"):
        Shard(path, "visual").check()


def test_random_damage_is_never_read_as_something_else(path):
    good, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[random.integers(len(bad))] ^= 1 << random.integers(8)
        path.write_bytes(bad)
        shard = shards.read_sound(path, "visual")  # either refused or, where the flip hit padding, unchanged
        if shard is not None:
            assert all(np.array_equal(shard[name], value) for name, value in visual().items())
            assert shard.attributes == ATTRIBUTES | {"format": 1, "kind": "visual"}


def test_a_shard_of_another_format_or_kind_is_refused(path):
    with pytest.raises(ShardError, match="expected format 1, kind text"):
        shards.read(path, "text")
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = 99
    with pytest.raises(ShardError, match="format 99"):
        shards.read(path, "visual")


def test_a_compressed_tensor_is_refused(path):
    with h5py.File(path, "r+") as file:
        patch = file["patch"][:]
        del file["patch"]
        file.create_dataset("patch", data=patch, compression="gzip").attrs["blake2b"] = "0"
    with pytest.raises(ShardError, match="chunked"):
        shards.read(path, "visual")


def test_two_clips_in_one_cache_are_refused(path):
    other = path.with_name("00001.h5")
    shards.write(other, "visual", visual(), ATTRIBUTES | {"clip": "large", "clip_sha256": "cd" * 32})
    with pytest.raises(ShardError, match=r"tiny \(abab.*large \(cdcd.*dvc repro report@toy .*visual, keyframes, text"):
        shards.require_one_clip([Shard(path, "visual"), Shard(other, "visual")])


def test_a_failed_write_leaves_the_old_shard(path):
    before = path.read_bytes()
    with pytest.raises(ValueError):
        shards.write(path, "visual", visual() | {"offset": np.array([0, 1])}, ATTRIBUTES)
    assert path.read_bytes() == before


def test_a_shard_travels_to_another_process(path):
    shard = Shard(path, "visual")
    assert shard["frame"].shape == (4, 8)
    assert len(pickle.dumps(shard)) < 5000
    assert np.array_equal(pickle.loads(pickle.dumps(shard))["patch"], visual()["patch"])


def test_a_video_has_one_shard_everywhere():
    assert [shards.shard_number(f"video{index}", 16) for index in range(6)] == [5, 3, 7, 14, 5, 6]
    counts = np.bincount([shards.shard_number(f"video{index}", 16) for index in range(1600)], minlength=16)
    assert counts.min() > 60


def test_a_fingerprint_hears_every_part():
    seen = {
        shards.fingerprint(*parts)
        for parts in [("a", 1), ("a", 2), ("a", "1"), ("a",), ("a1",), (["a", 1],), ("a", None)]
    }
    assert len(seen) == 7
    assert shards.fingerprint({"x": 1, "y": 2}) == shards.fingerprint({"y": 2, "x": 1})


def test_damage_costs_the_rows_that_it_hit(tmp_path):
    path = tmp_path / "toy" / "visual" / "00000.h5"
    tensors = visual(frames=(3, 1, 2, 2))
    shards.write(path, "visual", tensors, ATTRIBUTES)
    assert Shard(path, "visual").good_rows() == [0, 1, 2, 3]
    place, bad = Shard(path, "visual").place("patch"), bytearray(path.read_bytes())
    bad[place.offset + 2 * 4 * 8 * 4] ^= 1  # frame 4 is the first of video 2
    path.write_bytes(bad)
    assert Shard(path, "visual").good_rows() == [0, 1, 3]
    path.write_bytes(path.read_bytes()[:5000])
    assert Shard(path, "visual").good_rows() == []


def test_taking_rows_is_writing_only_them(tmp_path):
    whole = visual(frames=(3, 1, 2, 2))
    part = shards.take_rows("visual", whole, [1, 3])
    assert part["video_id"] == ["video1", "video3"] and part["offset"].tolist() == [0, 1, 3]
    assert np.array_equal(part["patch"], whole["patch"][[3, 6, 7]])
    lengths = np.diff(whole["jpeg_offset"])[[3, 6, 7]]
    assert np.diff(part["jpeg_offset"]).tolist() == lengths.tolist() and len(part["jpeg"]) == lengths.sum()
    rows = shards.row_checksums("visual", whole)
    assert shards.row_checksums("visual", part).tolist() == rows[[1, 3]].tolist()
    shards.write(tmp_path / "00000.h5", "visual", part, ATTRIBUTES)
    nothing = shards.take_rows("visual", whole, [])
    assert nothing["patch"].shape == (0, 4, 8) and nothing["jpeg_offset"].tolist() == [0]


@pytest.mark.parametrize("link", ["hardlink_to", "symlink_to"])
def test_writing_over_a_link_into_a_store_leaves_the_store_alone(path, tmp_path, link):
    stored = tmp_path / "store" / "object"
    stored.parent.mkdir()
    path.rename(stored)
    stored.chmod(0o444)
    getattr(path, link)(stored)
    before = stored.read_bytes()
    assert shards.read_sound(path, "visual") is not None
    shards.write(path, "visual", visual(seed=1), ATTRIBUTES)
    assert stored.read_bytes() == before and not path.is_symlink() and path.stat().st_nlink == 1
    assert np.array_equal(Shard(path, "visual")["patch"], visual(seed=1)["patch"])


def test_rows_taken_from_an_old_shard_outlive_its_replacement(path):
    old = Shard(path, "visual")
    patch = old["patch"]
    shards.write(path, "visual", visual(seed=1), ATTRIBUTES)
    assert np.array_equal(patch, visual()["patch"])


def test_a_shard_found_whole_is_looked_at_again_once_it_changes(path, monkeypatch):
    monkeypatch.setattr(reader, "SETTLED", -1.0)
    os.utime(path, (1, 1))
    place, good = Shard(path, "visual").place("patch"), path.read_bytes()
    assert shards.read_sound(path, "visual") is not None and shards.read_sound(path, "visual") is not None
    bad = bytearray(good)
    bad[place.offset] ^= 1
    path.write_bytes(bad)
    assert shards.read_sound(path, "visual") is None
