"""The keyframe is the frame most like all others, and the exported folder is a text-image-video dataset."""

import csv
import io
import sys

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from pipeline import export, files, keyframes, params, shards
from tests.support import worlds
from tests.support.commands import command as run_command


def by_matrix(frame):
    """The same by the whole cosine matrix, as the paper writes it."""
    frame = frame.astype(np.float64)
    unit = frame / np.linalg.norm(frame, axis=1, keepdims=True)
    return (unit @ unit.T).sum(axis=1)


def test_three_alike_outvote_one_that_differs():
    frame = np.array([[0, 1], [1, 0.1], [1, 0], [1, -0.1]], dtype=np.float16)
    chosen = keyframes.pick(frame)
    assert chosen.index == 1  # closest to the odd one among the three alike
    cosines = [0.0995, 1, 0.995, 0.9802]  # of frame 1 with all four
    assert chosen.score == pytest.approx(sum(cosines) / 4, abs=1e-3)


def test_equal_to_the_full_matrix():
    random = np.random.default_rng(0)
    for count in (2, 3, 12, 64):
        for _ in range(20):
            frame = (random.normal(size=(count, 32)) + 1).astype(np.float16)
            sums = by_matrix(frame)
            chosen = keyframes.pick(frame)
            order = np.sort(sums)
            assert sums[chosen.index] == pytest.approx(order[-1], abs=1e-9)
            assert chosen.score == pytest.approx(order[-1] / count, abs=1e-9)
            assert chosen.margin == pytest.approx((order[-1] - order[-2]) / count, abs=1e-9)


def test_a_tie_goes_to_the_first():
    random = np.random.default_rng(1)
    for _ in range(50):
        assert keyframes.pick(random.normal(size=(2, 16)).astype(np.float16)).index == 0  # two frames always tie
        assert keyframes.pick(np.tile(random.normal(size=16).astype(np.float16), (12, 1))).index == 0


def test_one_frame_is_its_own_keyframe_and_has_no_margin():
    assert keyframes.pick(np.ones((1, 8), np.float16)) == keyframes.Keyframe(0, pytest.approx(1), None)


def test_length_does_not_count_only_direction():
    frame = np.array([[100, 0], [0, 1], [0, 1]], dtype=np.float16)
    assert keyframes.pick(frame).index == 1


@pytest.mark.parametrize("frame", [np.empty((0, 4)), np.full((2, 4), np.nan)])
def test_nothing_to_choose_from_is_an_error(frame):
    with pytest.raises(ValueError, match="finite numbers"):
        keyframes.pick(frame)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of random features in a project of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("datasets: {small: {reader: folder, root: .}}")
    return worlds.cache(tmp_path / "cache" / "small", videos=12)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["keyframes", "--dataset", "small", *words])
    keyframes.main()


def test_the_table_has_every_video_once_and_its_own_frame_times(cache, monkeypatch):
    command(monkeypatch)
    rows = parquet.read_table(cache / "keyframes.parquet").to_pylist()
    assert [row["video_id"] for row in rows] == [f"video{number:04d}" for number in range(12)]
    times = {}
    for path in shards.shard_paths(cache / "visual"):
        shard = shards.Shard(path, "visual")
        for row, video_id in enumerate(shard["video_id"]):
            times[video_id] = shard["time"][shard["offset"][row] : shard["offset"][row + 1]]
    for row in rows:
        assert row["time"] == times[row["video_id"]][row["index"]]
        assert (row["margin"] is None) == (len(times[row["video_id"]]) == 1)
    schema = parquet.read_schema(cache / "keyframes.parquet")
    assert [str(kind) for kind in schema.types] == ["string", "int32", "double", "float", "float"]


def test_a_second_run_writes_the_same_bytes(cache, monkeypatch):
    command(monkeypatch)
    before = (cache / "keyframes.parquet").read_bytes()
    command(monkeypatch)
    assert (cache / "keyframes.parquet").read_bytes() == before


def table(folder):
    return list(csv.DictReader(io.StringIO((folder / "triplets.csv").read_text(), newline="")))


def test_export_makes_text_image_video_triplets(cache, monkeypatch, tmp_path, capsys):
    command(monkeypatch)
    run_command("pipeline.export", "--dataset", "small", "out")
    rows = table(tmp_path / "out")
    captions = parquet.read_table(cache / "manifest" / "captions.parquet").to_pylist()
    assert [row["text"] for row in rows] == [caption["text"] for caption in captions]
    assert {row["image"] for row in rows} == {path.name for path in (tmp_path / "out").glob("*.jpg")}
    assert rows[0] == {"text": captions[0]["text"], "image": "video0000.jpg", "video": "video0000.mp4"}
    assert "12 images (12 of them thumbnails), 24 text-image-video triplets" in capsys.readouterr().out


def film(path, shades, size=(48, 32)):
    """One frame a shade, ten a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for shade in shades:
            picture = np.full((size[1], size[0], 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_export_takes_the_picture_from_the_video_itself(cache, monkeypatch, tmp_path):
    shades = range(0, 250, 10)
    film(tmp_path / "video0000.mp4", shades)
    film(tmp_path / "video0001.mp4", shades)
    (tmp_path / "video0002.mp4").write_text("not a film")
    command(monkeypatch)
    rows = parquet.read_table(cache / "keyframes.parquet").to_pylist()
    for row, time in zip(rows, (0.0, 1.7)):  # as if these were the frames chosen
        row["time"] = time
    files.write_table(cache / "keyframes.parquet", keyframes.build_table(rows))
    said = export.export(tmp_path / "out", "small")
    assert "12 images (10 of them thumbnails)" in said
    for name, shade in (("video0000", 0), ("video0001", 170)):
        image = Image.open(tmp_path / "out" / f"{name}.jpg")
        assert image.size == (32, 32) and abs(np.asarray(image).astype(int) - shade).max() <= 4


def test_a_photo_is_exported_in_its_own_resolution(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    image = Image.open(io.BytesIO(export.read_square(tmp_path / "a.png", 0.0)))
    assert image.size == (200, 200) and image.getpixel((100, 100))[0] > 250
    assert export.read_square(tmp_path / "gone.png", 0.0) is None


def test_image_names_are_safe_whatever_the_video_is_called():
    assert export.image_name("10052357@N03_7585070382") == "10052357@N03_7585070382.jpg"
    assert export.image_name("../a/b\n.mp4") == "..%2Fa%2Fb%0A.mp4.jpg"
    assert export.image_name("Ünïcode") == "%C3%9Cn%C3%AFcode.jpg"


def test_without_shards_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("datasets: {small: {reader: folder, root: .}}")
    with pytest.raises(SystemExit, match="dvc repro visual@small"):
        command(monkeypatch)
    params.cache_folder("small", "visual").mkdir(parents=True)
    with pytest.raises(SystemExit, match="has no shards"):
        command(monkeypatch)
