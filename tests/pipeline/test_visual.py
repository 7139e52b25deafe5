"""The visual stage: rows are kept, redone and rejected for the right reasons, and a rerun equals a clean run, byte for byte."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from pipeline import files, params, shards, visual
from pipeline.encoders import check
from pipeline.encoders.image import ImageEncoder
from pipeline.encoders.tail import write_tail
from pipeline.encoders.towers import FrozenCLIP
from pipeline.video.decode import decode
from pipeline.video.extract import FrameExtractor
from tests.support import tiny, torture
from train.layers.clip_blocks import Tower, read_header

SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("video_id", "path", "split", "kind", "hash")]
    + [("size", pyarrow.int64()), ("start", pyarrow.float64()), ("end", pyarrow.float64()), ("group", pyarrow.string())]
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fourteen films, a photo, and a CLIP, to be copied from."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(14):
        frames = range(100 * number, 100 * number + (3 if number == 5 else 20))
        torture.film(folder / f"film{number:02d}.mp4", *torture.CLOSED, numbers=frames)
    Image.fromarray(torture.picture(3000)).save(folder / "photo.jpg", quality=90)
    (folder / "clip").mkdir()
    tiny.clip(folder / "clip")
    (folder / "clip" / "clip.json").write_text(json.dumps(check.build_record("scratch", None, folder / "clip")))
    return folder


class World:
    """A project folder with one dataset, `films`."""

    def __init__(self, folder, made):
        self.folder, self.cache = folder, folder / "cache" / "films"
        self.settings = {
            "clip": "scratch", "precision": "fp32", "frames": 4, "sampling": "uniform", "decoder": "pyav",
            "thumbnail": 32, "shards": 3, "tail": {"image": 0}, "max_rejects": 0.5, "root": str(folder / "films"),
        }  # fmt: skip
        shutil.copytree(made, folder / "films", ignore=shutil.ignore_patterns("clip"))
        shutil.copytree(made / "clip", self.cache / "clip")
        self.set()
        self.manifest(sorted(path.name for path in (folder / "films").iterdir()))

    def set(self, **changes):
        self.settings |= changes
        (self.folder / "params.yaml").write_text(json.dumps({"datasets": {"films": self.settings}}))

    def manifest(self, names, **changes):
        """Items for these files; `changes` overrides columns by id."""
        rows = []
        for name in names:
            path = self.folder / "films" / name
            data = path.read_bytes() if path.is_file() else b""
            row = {
                "video_id": Path(name).stem,
                "path": name,
                "split": "train",
                "start": None,
                "end": None,
                "group": None,
            }
            row |= {
                "kind": "image" if path.suffix == ".jpg" else "video",
                "hash": shards.fingerprint(data.hex()),
                "size": len(data),
            }
            rows.append(row | changes.get(row["video_id"], {}))
        table = pyarrow.Table.from_pylist(rows, SCHEMA)
        files.write_table(self.cache / "manifest" / "items.parquet", table)

    def run(self, *arguments):
        """The stage in its own words; SystemExit as it comes."""
        command = ["visual", "--dataset", "films", "--device", "cpu", *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", command)
            visual.main()

    def files(self):
        return {path.name: path.read_bytes() for path in sorted((self.cache / "visual").iterdir())}

    def rows(self):
        found = {}
        for path in shards.shard_paths(self.cache / "visual"):
            shard = shards.Shard(path, "visual")
            for name, row, _ in shards.iterate_rows(shard):
                first, last = shard["offset"][row : row + 2]
                found[name] = {key: np.array(shard[key][first:last]) for key in ("frame", "patch", "time")}
        return found

    def rejects(self):
        table = parquet.read_table(self.cache / "visual" / "rejects.parquet").to_pylist()
        return {row["id"]: row["reason"] for row in table}


@pytest.fixture
def world(tmp_path, made):
    return World(tmp_path, made)


@pytest.fixture(scope="module")
def clean(tmp_path_factory, made):
    """A world that has been run once; tests look and do not touch."""
    world = World(tmp_path_factory.mktemp("clean"), made)
    world.run()
    return world


def test_every_item_has_its_row_with_the_tokens_of_its_own_frames(clean):
    rows = clean.rows()
    assert len(rows) == 15 and clean.rejects() == {}
    towers = FrozenCLIP.load(clean.cache / "clip", "cpu", "fp32")
    for name in ("film00", "film05", "film13"):
        seen = decode(clean.folder / "films" / f"{name}.mp4", 4, towers.size)
        batch = torch.zeros(4, towers.size, towers.size, 3, dtype=torch.uint8)
        batch[: len(seen.frame)] = seen.frame
        frame, patch = towers.encode_images(batch)
        count = len(seen.frame)
        assert np.array_equal(rows[name]["frame"], frame[:count].numpy().astype(np.float16))
        assert np.array_equal(rows[name]["patch"], patch[:count].numpy().astype(np.float16))
        assert np.array_equal(rows[name]["time"], seen.time)
    assert len(rows["film05"]["time"]) == 3 and len(rows["photo"]["time"]) == 1


def test_the_tower_is_read_before_the_first_frame(clean):
    """The stage does so beside the start of its workers; what is left to the first frame would keep everything waiting."""
    encoder = ImageEncoder(clean.cache / "clip", "cpu", clean.settings, {})
    encoder.load()
    assert {"image"} == {"image", "text", "tokenizer"} & set(vars(encoder.towers))


def test_thumbnails_are_small_jpegs_of_the_frames(clean):
    path = shards.shard_paths(clean.cache / "visual")[0]
    shard = shards.Shard(path, "visual")
    first, last = shard["jpeg_offset"][:2]
    (clean.folder / "thumbnail.jpg").write_bytes(bytes(shard["jpeg"][first:last]))
    with Image.open(clean.folder / "thumbnail.jpg") as image:
        assert image.format == "JPEG" and image.size == (32, 32)


@pytest.mark.parametrize("name", ["photo.jpg", "film00.mp4"])
def test_a_thumbnail_larger_than_what_clip_sees_is_of_the_file(made, name):
    item = {"path": name, "size": (made / name).stat().st_size, "start": None, "end": None}
    item["kind"] = "image" if name == "photo.jpg" else "video"
    small, large = (FrameExtractor(str(made), 4, 16, "uniform", "pyav", side)(item) for side in (16, 48))
    np.testing.assert_array_equal(small["frame"], large["frame"], "what CLIP sees is the same")
    shown = decode(made / name, 1 if item["kind"] == "image" else 4, 48).frame.numpy()
    for jpeg, picture in zip(large["jpeg"], shown, strict=True):
        with Image.open(io.BytesIO(jpeg)) as image:
            assert image.size == (48, 48)
            assert np.abs(np.asarray(image).astype(int) - picture).mean() < 6


def test_a_second_run_decodes_nothing_and_changes_nothing(clean, capsys):
    before = clean.files()
    clean.run()
    assert "15 kept + 0 encoded + 0 rejected" in capsys.readouterr().out
    assert clean.files() == before


def test_an_update_redoes_what_changed_and_equals_a_clean_run(world, tmp_path_factory, made, capsys):
    world.run()
    films = world.folder / "films"
    shutil.copy(films / "film01.mp4", films / "renamed.mp4")
    (films / "film01.mp4").unlink()
    shutil.copy(films / "film02.mp4", films / "film03.mp4")  # changed content
    (films / "film04.mp4").unlink()
    torture.film(films / "new.mp4", *torture.CLOSED, numbers=range(7, 30))
    names = sorted(path.name for path in films.iterdir())
    world.manifest(names)
    capsys.readouterr()
    world.run()
    assert "15 items = 14 kept + 1 encoded + 0 rejected" in capsys.readouterr().out  # film03 now is film02
    updated = world.files()
    shutil.rmtree(world.cache / "visual")
    world.run()
    assert world.files() == updated


def test_the_order_of_the_manifest_does_not_matter(clean, tmp_path, made):
    other = World(tmp_path, made)
    other.manifest(sorted((path.name for path in (tmp_path / "films").iterdir()), reverse=True))
    other.run()
    assert other.files() == clean.files()


def test_a_damaged_or_lost_shard_is_made_again(world, capsys):
    world.run()
    before = world.files()
    lost, damaged, _ = shards.shard_paths(world.cache / "visual")
    lost.unlink()
    data = bytearray(damaged.read_bytes())
    data[shards.Shard(damaged, "visual").place("patch").offset + 100] ^= 1
    damaged.write_bytes(data)
    capsys.readouterr()
    world.run()
    assert "2 of 3 shards written" in capsys.readouterr().out
    assert world.files() == before


def test_other_shards_or_thumbnails_or_sampling_redo_what_depends_on_them(world, capsys):
    world.run()
    world.set(shards=2)
    world.run()
    assert "15 kept + 0 encoded" in capsys.readouterr().out.splitlines()[-1]
    assert len(shards.shard_paths(world.cache / "visual")) == 2
    world.set(frames=3)
    world.run("--why", "film00")
    assert "frames was 4, is 3" in capsys.readouterr().out
    world.run()
    assert "0 kept + 15 encoded" in capsys.readouterr().out.splitlines()[-1]


def test_another_way_of_reading_photos_redoes_photos_and_leaves_the_shards_of_films(world, capsys, monkeypatch):
    world.run()
    before = world.files()
    monkeypatch.setattr("pipeline.video.images.VERSION", "another")
    world.run("--why", "photo")
    said = capsys.readouterr().out
    assert "photos was" in said and "another" in said and "content" not in said
    world.run()
    assert "14 kept + 1 encoded" in capsys.readouterr().out.splitlines()[-1]
    after = world.files()
    changed = [name for name in before if name.endswith(".h5") and before[name] != after[name]]
    assert len(changed) == 1 and "photo" in shards.Shard(world.cache / "visual" / changed[0], "visual")["video_id"]


def test_how_photos_are_read_is_nowhere_in_a_cache_of_films(world):
    world.manifest([f"film{number:02d}.mp4" for number in range(14)])
    world.run()
    for path in shards.shard_paths(world.cache / "visual"):
        assert "photos" not in shards.Shard(path, "visual").attributes
    assert "photos" not in json.loads((world.cache / "visual" / "visual.json").read_text())


def test_a_bad_file_is_a_row_with_a_reason_and_is_not_tried_again_until_asked(world, capsys):
    films = world.folder / "films"
    (films / "text.mp4").write_text("no film\n" * 50)
    (films / "empty.mp4").touch()
    whole = (films / "film06.mp4").read_bytes()
    (films / "film06.mp4").write_bytes(whole[: len(whole) // 3])
    world.manifest([path.name for path in films.iterdir()] + ["gone.mp4"])
    world.run()
    assert world.rejects() == {"text": "not_a_video", "empty": "empty", "gone": "missing", "film06": "not_a_video"}
    assert set(world.rows()) & set(world.rejects()) == set()
    torture.film(films / "gone.mp4", *torture.CLOSED, numbers=range(9))  # the manifest is not made again
    world.run()
    assert "gone" in world.rejects()
    world.run("--why", "gone")
    assert "is not tried again: missing" in capsys.readouterr().out
    world.run("--retry", "missing")
    assert world.rejects()["gone"] == "changed"  # and not the file that the manifest knows
    with pytest.raises(SystemExit, match="the reasons are: changed, empty, not_a_video"):
        world.run("--retry", "boredom")


def test_too_many_rejects_stop_the_stage_early_and_what_is_encoded_is_not_lost(world, capsys):
    films = world.folder / "films"
    for number in range(3):
        (films / f"film{number:02d}.mp4").write_text("no film")
    world.manifest([path.name for path in films.iterdir()])
    world.set(max_rejects=0.1)
    with pytest.raises(
        SystemExit, match=r"2 rejects are more than max_rejects allows \(1.5 of 15\).*not_a_video 2; for one"
    ):
        world.run()
    with pytest.raises(SystemExit, match="2 rejects are more"):
        world.run()  # at once: what was rejected is known
    world.set(max_rejects=0.2)
    capsys.readouterr()
    world.run()
    assert len(world.rows()) == 12 and len(world.rejects()) == 3 and "+ 3 rejected" in capsys.readouterr().out
    assert not (world.cache / ".visual").exists()


def test_a_run_that_fails_by_its_rejects_leaves_the_shards_that_stand(world, capsys):
    world.manifest([f"film{number:02d}.mp4" for number in range(14)])
    world.run()
    before = world.files()
    films = world.folder / "films"
    whole = {path: path.read_bytes() for path in sorted(films.iterdir())[:8]}
    for path in whole:
        path.write_text("no film")  # a disk that is gone, a setting that no file bears
    world.manifest([f"film{number:02d}.mp4" for number in range(14)])
    world.set(max_rejects=0.4)
    with pytest.raises(SystemExit, match="the shards that stand are as they were"):
        world.run()
    assert world.files() == before
    for path, content in whole.items():
        path.write_bytes(content)
    world.manifest([f"film{number:02d}.mp4" for number in range(14)])
    capsys.readouterr()
    world.run()
    assert "14 kept + 0 encoded + 0 rejected" in capsys.readouterr().out
    assert world.files() == before


def test_only_the_asked_seconds_of_a_film_are_sampled(world):
    world.manifest(["film00.mp4", "film01.mp4"], film00={"start": 0.5, "end": 1.3})
    world.run()
    assert world.rows()["film00"]["time"].tolist() == pytest.approx([0.6, 0.8, 1.0, 1.2])


def test_a_run_that_ends_midway_is_finished_by_the_next_one(world, clean, monkeypatch, capsys):
    encode, encoded = ImageEncoder.__call__, []

    def tired(self, frame, kind):
        encoded.append(kind)
        if len(encoded) == 15:
            raise KeyboardInterrupt
        return encode(self, frame, kind)

    monkeypatch.setattr(ImageEncoder, "__call__", tired)
    with pytest.raises(SystemExit, match="stopped; the same command goes on from here"):
        world.run()
    (world.cache / "visual" / "00002.h5.part").write_bytes(b"half")  # what a killed writer leaves
    monkeypatch.undo()
    capsys.readouterr()
    world.run()
    assert "= 0 kept" not in capsys.readouterr().out
    assert world.files() == clean.files()


def test_why_speaks_of_items_that_are_new_unknown_changed_or_fine(clean, capsys):
    clean.run("--why", "film00")
    clean.run("--why", "nobody")
    said = capsys.readouterr().out
    assert "film00 is up to date" in said and "nobody is not in the manifest" in said


def test_two_runs_at_once_do_not_mix(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    with files.lock(params.cache_folder("films", "visual")):
        with pytest.raises(SystemExit, match=f"process {os.getpid()}"):
            world.run()


def test_what_enters_a_block_is_cached_and_gives_the_tokens(clean):
    clean.set(tail={"image": 1})
    clean.run()
    record = json.loads((clean.cache / "clip/clip.json").read_text())
    path = write_tail(clean.cache / "clip", clean.cache / "clip", record, {"image": 1, "text": 0})
    tower = Tower(read_header(path)["image"], 1, 1, causal=False)
    tower.read(path, "image")
    for path in shards.shard_paths(clean.cache / "visual"):
        shard = shards.Shard(path, "visual")
        assert shard.attributes["tail"] == 1 and shard["hidden"].shape[1:] == (5, 32)
        with torch.inference_mode():
            token = tower(torch.from_numpy(shard["hidden"].astype(np.float32)))
        np.testing.assert_allclose(token[:, 0], shard["frame"], atol=4e-3)
        np.testing.assert_allclose(token[:, 1:], shard["patch"], atol=4e-3)


def test_a_longer_tail_encodes_again_and_a_shorter_one_does_not(clean, capsys):
    clean.set(tail={"image": 0})
    clean.run()
    before = clean.files()
    capsys.readouterr()

    def said():
        clean.run()
        return capsys.readouterr().out

    clean.set(tail={"image": 1})
    clean.run("--why", "film00")
    assert "film00 will be made anew: tail was None, is 1" in capsys.readouterr().out
    assert "0 kept + 15 encoded" in said()
    clean.set(tail={"image": 2})
    assert "0 kept + 15 encoded" in said()
    longest = clean.files()
    clean.set(tail={"image": 1})
    clean.run("--why", "film00")
    assert "film00 is up to date" in capsys.readouterr().out
    assert "15 kept + 0 encoded" in said() and clean.files() == longest
    clean.set(tail={"image": 0})
    assert "15 kept + 0 encoded" in said() and clean.files() == before


def test_more_blocks_than_the_tower_has_are_refused(clean):
    clean.set(tail={"image": 3})
    with pytest.raises(SystemExit, match="tower has 2 blocks"):
        clean.run()
    clean.set(tail={"image": 0})


def slice_of(world, word, **more):
    """A slice as a process of its own, as on another machine."""
    command = [sys.executable, "-m", "pipeline.visual", "--dataset", "films", "--device", "cpu", "--slice", word]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, cwd=world.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def spoil(world):
    """Two films that are none, and a manifest that knows them."""
    for name in ("film03.mp4", "film11.mp4"):
        (world.folder / "films" / name).write_text(f"{name} is no film")
    world.manifest(sorted(path.name for path in (world.folder / "films").iterdir()))


def test_slices_beside_each_other_make_the_bytes_of_one_run(world, tmp_path_factory, made, capsys):
    spoil(world)
    parts = [slice_of(world, f"{part}/3") for part in (1, 2, 3)]
    said = [part.communicate()[0].strip().splitlines()[-1] for part in parts]
    assert all(line.startswith(f"visual {number}-of-3: ") for number, line in enumerate(said, 1)), said
    assert sorted(path.name for path in (world.cache / "visual").iterdir()) == [f"{shard:05d}.h5" for shard in range(3)]
    world.run()
    assert "15 items = 13 kept + 0 encoded + 2 rejected" in capsys.readouterr().out
    other = World(tmp_path_factory.mktemp("other"), made)
    spoil(other)
    other.run()
    assert world.files() == other.files()
    assert not (world.cache / ".visual").exists()


def test_a_slice_that_is_killed_again_and_again_is_run_again_alone(world, tmp_path_factory, made, capsys):
    spoil(world)
    world.set(shards=8)
    world.run("--slice", "1/2")
    untouched = world.files()
    kills = 0
    for seconds in np.arange(2.0, 40.0, 1.3):
        part = slice_of(world, "2/2", start_new_session=True)
        try:
            part.communicate(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)
            part.communicate()
            kills += 1
    assert part.returncode == 0 and kills
    assert {name: data for name, data in world.files().items() if name in untouched} == untouched
    capsys.readouterr()
    world.run()
    assert "13 kept + 0 encoded + 2 rejected" in capsys.readouterr().out
    other = World(tmp_path_factory.mktemp("other"), made)
    spoil(other)
    other.set(shards=8)
    other.run()
    assert world.files() == other.files()


def test_a_slice_touches_no_shard_of_another_and_leaves_what_another_is_writing(world):
    (world.cache / "visual").mkdir()
    for shard in range(3):
        (world.cache / "visual" / f"{shard:05d}.h5.part").write_bytes(b"half")
    world.run("--slice", "2/3")
    found = sorted(path.name for path in (world.cache / "visual").iterdir())
    assert found == ["00000.h5.part", "00001.h5", "00002.h5.part"]


def test_what_a_slice_tried_again_is_not_taken_for_rejected(world, capsys):
    films = world.folder / "films"
    whole = (films / "film03.mp4").read_bytes()
    (films / "film03.mp4").rename(films / "away")
    world.run()
    assert world.rejects() == {"film03": "missing"}
    (films / "film03.mp4").write_bytes(whole)
    for part in range(1, 4):
        world.run("--slice", f"{part}/3", "--retry", "missing")
    capsys.readouterr()
    world.run()
    assert "15 kept + 0 encoded + 0 rejected" in capsys.readouterr().out


def test_slices_that_would_write_the_same_shards_are_told(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    visual_folder = params.cache_folder("films", "visual")
    with files.lock(visual_folder, files.Slice(1, 3)):
        with files.lock(visual_folder, files.Slice(2, 3)):
            pass
        with pytest.raises(SystemExit, match=f"slice 1-of-3 of .*visual is being written by process {os.getpid()} on "):
            world.run("--slice", "1/3")
        with pytest.raises(SystemExit, match="slice 1-of-3 of .* is being written"):
            world.run("--slice", "2/4")
        with pytest.raises(SystemExit, match="is being written"):
            world.run()
    with files.lock(visual_folder), pytest.raises(SystemExit, match="is being written"):
        world.run("--slice", "1/3")


def test_a_slice_moves_no_rows_between_shards_and_knows_its_numbers(world):
    world.run()
    for count in (2, 5):
        world.set(shards=count)
        with pytest.raises(SystemExit, match=f"another number of shards than {count}.* once without --slice"):
            world.run("--slice", "1/2")
    for wrong in ("0/3", "4/3", "3", "a/b", "-1/3", "1/0"):
        with pytest.raises(SystemExit, match="i from 1 to n"):
            world.run(f"--slice={wrong}")


def test_a_file_system_without_locks_excludes_nobody(world, monkeypatch):
    def without(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", without)
    world.run("--slice", "1/1")
    assert len(world.rows()) == 15
