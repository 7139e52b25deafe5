"""`python -m pipeline.shards info|verify|diff|repair`: each kind of harm is found, named, and costs only the rows it hit."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pipeline import shards
from pipeline.shards import Shard, ShardError, __main__, diff, repair, verify
from tests.support import house, worlds

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return worlds.cache(tmp_path_factory.mktemp("good") / "toy", videos=16, rejected=1, count=3)


@pytest.fixture
def folder(good, tmp_path):
    """A cache that a test may spoil."""
    return Path(shutil.copytree(good, tmp_path / "toy"))


def flip(path, kind, name, at=3):
    """Damage one byte of a tensor on the disk."""
    content = bytearray(path.read_bytes())
    content[Shard(path, kind).place(name).offset + at] ^= 4
    path.write_bytes(content)


def rewrite(path, kind, change):
    """Write a shard again with some tensors changed: a mistake that has the right checksums."""
    shard = Shard(path, kind)
    tensors = {name: shard[name] for name in shard.names}
    shards.write(path, kind, tensors | change(tensors), shard.attributes)


def said(folder):
    return "\n".join(problem.what for problem in verify.verify(folder))


def test_a_whole_cache_has_nothing_to_report(good):
    assert verify.verify(good) == []


def test_info_says_what_is_there_and_how_it_was_made(good):
    text = "\n".join(__main__.info(good))
    frames = sum(len(Shard(path, "visual")["time"]) for path in shards.shard_paths(good / "visual"))
    assert "visual: 15 rows in 3 files" in text and f"(F, P, D) = ({frames}, 4, 16)" in text
    assert "@clip_sha256    5e5e" in text and "rejected by visual: 1 unreadable" in text


def test_damage_is_found_and_counted(folder):
    path = shards.shard_paths(folder / "visual")[1]
    flip(path, "visual", "patch")
    assert f"({len(Shard(path, 'visual')) - 1} of its rows are good)" in said(folder)
    assert "missing" not in said(folder)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("visual", lambda t: {"frame": np.zeros_like(t["frame"])}, "tokens are zero"),
        (
            "visual",
            lambda t: {"frame": np.concatenate([t["frame"][:-1], np.full((1, 16), 60000, np.float16)])},
            "norm 2.4e",
        ),
        ("visual", lambda t: {"video_id": ["a", *t["video_id"][1:]]}, "1 rows are not in the manifest, a first"),
        ("visual", lambda t: {"video_id": ["a", *t["video_id"][1:]]}, "missing and not rejected, video"),
        ("visual", lambda t: {"video_id": ["video0015", *t["video_id"][1:]]}, "present and rejected, video0015"),
        ("visual", lambda t: {"video_id": t["video_id"][::-1]}, "not sorted"),
        ("text", lambda t: {"video_id": t["video_id"][:-1] + ["video0003"]}, "in the wrong file"),
        ("text", lambda t: {"token": -1 - t["token"]}, "token: an id is below 0"),
        ("text", lambda t: {"triplet": np.full_like(t["triplet"], 9999)}, "phrases that are not there"),
    ],
)
def test_mistakes_with_good_checksums_are_found(folder, kind, change, says):
    rewrite(shards.shard_paths(folder / kind)[0], kind, change)
    assert says in said(folder)


def test_a_missing_shard_two_clips_leftovers_and_old_keyframes_are_found(folder):
    shards.shard_paths(folder / "text")[2].unlink()
    assert "rows are missing and not rejected" in said(folder)
    (folder / "visual" / "00000.h5.part").touch()
    assert "left by a killed writer" in said(folder)
    table = pyarrow.parquet.read_table(folder / "keyframes.parquet")
    pyarrow.parquet.write_table(table.slice(1), folder / "keyframes.parquet")
    assert "1 videos do not fit the visual shards, video0000 first" in said(folder)
    path = shards.shard_paths(folder / "visual")[0]
    tensors = {name: value for name, value in shards.read(path, "visual").items()}
    shards.write(path, "visual", tensors, Shard(path, "visual").attributes | {"clip": "large", "clip_sha256": "0" * 64})
    assert "was made by CLIP large" in said(folder)


def test_diff_names_the_rows_that_are_furthest_apart(good, folder):
    assert all("only in" not in line or "0 only in" in line for line in diff.diff(good, folder))
    assert "frame: 15 of 15 rows equal" in "\n".join(diff.diff(good, folder))
    path = shards.shard_paths(folder / "visual")[0]
    name = Shard(path, "visual")["video_id"][0]

    def turn(tensors):
        frame = tensors["frame"].copy()
        frame[0] *= -1
        return {"frame": frame}

    rewrite(path, "visual", turn)
    text = "\n".join(diff.diff(good, folder))
    assert f"frame: 14 of 15 rows equal, cosine mean 0.866667, least -1.000000; worst: {name} -1.000000" in text
    assert "patch: 15 of 15 rows equal" in text


def test_diff_names_texts_of_other_token_ids(good, folder):
    assert "token: 32 of 32 rows equal" in "\n".join(diff.diff(good, folder))
    path = folder / "text" / "phrases.h5"
    last = Shard(path, "phrases")["phrase"][-1]
    rewrite(path, "phrases", lambda t: {"token": np.append(t["token"][:-1], t["token"][-1:] + 1)})
    assert f"; {last} differs" in "\n".join(diff.diff(good, folder))


def test_hidden_states_are_proved_compared_and_kept_where_they_are_good(good, folder):
    def add(tensors):
        frames, patches, _ = tensors["patch"].shape
        random = np.random.default_rng(frames)
        return {"hidden": random.normal(size=(frames, patches + 1, 8)).astype(np.float16)}

    for path in shards.shard_paths(folder / "visual"):
        rewrite(path, "visual", add)
    assert said(folder) == ""
    assert f"hidden: only in {folder}" in "\n".join(diff.diff(good, folder))
    assert "hidden: 15 of 15 rows equal" in "\n".join(diff.diff(folder, folder))
    path = shards.shard_paths(folder / "visual")[1]
    before, rows = shards.read(path, "visual"), len(Shard(path, "visual"))
    kept = before["hidden"][before["offset"][1] :].copy()
    flip(path, "visual", "hidden")
    assert "hidden does not have the checksum" in said(folder) and f"({rows - 1} of its rows are good)" in said(folder)
    repair.prune(Shard(path, "visual"))
    assert np.array_equal(shards.read(path, "visual")["hidden"], kept)


def test_pruning_phrases_keeps_the_token_ids_of_the_others(folder):
    path = folder / "text" / "phrases.h5"
    before = Shard(path, "phrases")
    kept = before["token"][before["token_offset"][1] :].copy()
    flip(path, "phrases", "embedding")
    repair.prune(Shard(path, "phrases"))
    after = Shard(path, "phrases")
    after.check()
    assert np.array_equal(after["token"], kept) and after["token_offset"][-1] == len(kept)


def test_pruning_keeps_the_good_rows(folder):
    path = shards.shard_paths(folder / "visual")[0]
    before = Shard(path, "visual")
    names, patch = before["video_id"], before["patch"][before["offset"][1] :].copy()
    flip(path, "visual", "frame")
    assert repair.prune(Shard(path, "visual")) == f"dropped 1 of {len(names)} rows of {path}"
    after = Shard(path, "visual")
    after.check()
    assert after["video_id"] == names[1:] and np.array_equal(after["patch"], patch)
    path.write_bytes(b"nothing of it is left")
    assert repair.prune(Shard(path, "visual")) == f"deleted {path}" and not path.exists()


def test_the_commands_answer_and_fail_as_they_should(good, folder):
    def command(*words):
        ran = subprocess.run(
            [sys.executable, "-m", "pipeline.shards", *map(str, words)], cwd=ROOT, capture_output=True, text=True
        )
        return ran.returncode, ran.stdout + ran.stderr

    assert command("verify", good) == (0, f"{good} is whole\n")
    flip(shards.shard_paths(folder / "text")[0], "text", "word")
    code, text = command("verify", folder)
    assert code == 1 and f"python -m pipeline.shards repair {folder}" in text
    code, text = command("info", folder.parent / "nowhere")
    assert code == 1 and "run: dvc repro visual@nowhere text@nowhere" in text and "Traceback" not in text


def test_a_repair_makes_the_bytes_that_were_there(tmp_path, monkeypatch):
    house.build(tmp_path, videos=5, captions=1, shards=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for stage in ("manifest", "clip", "visual"):
        monkeypatch.setattr(sys, "argv", [stage, "--dataset", "bench"])
        importlib.import_module(f"pipeline.{stage}").main()
    path = shards.shard_path(Path("cache/bench/visual"), 0)
    before = path.read_bytes()
    flip(path, "visual", "patch", at=700)
    path.with_name("00007.h5.part").write_bytes(b"half a shard")
    table = Path("cache/bench/manifest/items.parquet")
    rows, content = table.read_bytes(), bytearray(table.read_bytes())
    content[40] ^= 1
    table.write_bytes(content)
    done = repair.repair(Path("cache/bench"))
    assert done[0] == f"dropped 1 of 5 rows of {path}" and done[-1] == "cache/bench is whole again"
    assert f"deleted {table}" in done and table.read_bytes() == rows
    assert path.read_bytes() == before and verify.verify(Path("cache/bench")) == []


def test_a_repair_that_cannot_run_the_stage_says_so(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flip(shards.shard_paths(folder / "visual")[0], "visual", "frame")
    with pytest.raises(ShardError, match="the visual stage failed"):
        repair.repair(folder)
