"""Long films in a folder become segments: rows with their own frames, named after their film and when they begin."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import files
from pipeline.params import read_dataset
from pipeline.shards import Shard, shard_paths, stored_videos
from tests.support import album, tiny
from tests.support.commands import command

PARAMS = """
defaults: {{clip: {clip}, precision: fp32, frames: 4, shards: 2, segments: {seconds}}}
datasets:
  folder: {{reader: folder, root: {root}, max_rejects: 1}}
  msvd: {{reader: msvd, root: {root}}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A film of 20 s, one of 4 s, one of 20 s that a caption names, one of 20 s without its end, and a photo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.datasets.hashes.SETTLED", -60_000_000_000)
    root = tmp_path / "media"
    root.mkdir()
    album.film(root / "long.mp4", album.COLOURS["red"], seconds=20)
    album.film(root / "short.mp4", album.COLOURS["blue"], seconds=4)
    album.film(root / "said.mp4", album.COLOURS["green"], seconds=20)
    album.film(root / "torn.mp4", album.COLOURS["white"], seconds=20)
    whole = (root / "torn.mp4").read_bytes()
    (root / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    album.photo(root / "photo.jpg", 0, album.COLOURS["red"])
    (root / "captions.csv").write_text("file,caption\nsaid.mp4,a wall turns green\n")
    tiny.clip(tmp_path / "model")
    write_params(root, 8)
    return root


def write_params(root: Path, seconds: int) -> None:
    (root.parent / "params.yaml").write_text(PARAMS.format(clip=root.parent / "model", root=root, seconds=seconds))


def listed() -> dict[str, tuple]:
    rows = files.read_table(Path("cache/folder/manifest/items.parquet")).to_pylist()
    return {row["video_id"]: (row["path"], row["start"], row["end"]) for row in rows}


def test_segments_are_items_with_frames_of_their_own(folder, capsys):
    for stage in ("manifest", "clip", "visual"):
        command(f"pipeline.{stage}", "--dataset", "folder")
    assert "1 long films cut into 4 segments" in capsys.readouterr().err
    assert [name for name in listed() if name.startswith("long")] == [
        f"long.mp4@00:00:{second}" for second in ("00.000", "05.000", "10.000", "15.000")
    ]
    assert listed()["long.mp4@00:00:10.000"] == ("long.mp4", 10.0, 15.0)
    assert {"short.mp4", "said.mp4", "photo.jpg"} <= listed().keys()
    rows = {
        row.video_id: row
        for path in shard_paths(Path("cache/folder/visual"))
        for row in stored_videos(Shard(path, "visual"))
    }
    times = np.asarray(rows["long.mp4@00:00:10.000"]["time"])
    assert len(times) == 4 and (times >= 10).all() and (times < 15).all()
    rejected = files.read_table(Path("cache/folder/visual/rejects.parquet")).to_pylist()
    assert [row["id"] for row in rejected] == ["torn.mp4"]


def test_a_film_is_cut_once_for_its_content(folder, monkeypatch):
    command("pipeline.manifest", "--dataset", "folder")
    before = listed()
    monkeypatch.setattr("pipeline.video.segments.Segmenter.__call__", lambda *words: pytest.fail("cut again"))
    (folder / "long.mp4").rename(folder / "renamed.mp4")
    command("pipeline.manifest", "--dataset", "folder")
    assert {name.replace("renamed", "long") for name in listed()} == set(before)
    memo = json.loads(Path("cache/folder/.memo/segments.json").read_text())
    assert len(memo) == 1


def test_another_length_cuts_anew_and_none_makes_it_whole(folder):
    command("pipeline.manifest", "--dataset", "folder")
    write_params(folder, 11)
    command("pipeline.manifest", "--dataset", "folder")
    assert sum(name.startswith("long") for name in listed()) == 2
    write_params(folder, 0)
    command("pipeline.manifest", "--dataset", "folder")
    assert listed()["long.mp4"] == ("long.mp4", None, None)


def test_a_protocol_knows_whole_videos_only(folder):
    with pytest.raises(SystemExit, match="datasets.msvd.segments: only a folder's films are cut"):
        command("pipeline.manifest", "--dataset", "msvd")
    with pytest.raises(SystemExit, match="segments is 2; it must be 0, or a number of seconds"):
        write_params(folder, 2)
        command("pipeline.manifest", "--dataset", "folder")
    write_params(folder, 8)
    assert read_dataset("folder")["segments"] == 8
