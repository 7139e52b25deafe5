"""When, where and how long: what cameras write, what is broken, and what a folder's manifest makes of it."""

import datetime
import math
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from pipeline.files import DecodeError, read_table
from pipeline.video import facts
from pipeline.video.facts import Facts, read_facts
from tests.support import album
from tests.support.commands import command


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "heic", "avif", "tif"])
def test_a_photo_says_when_and_where(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    exif = album.exif("2023:07:14 12:30:05", -33.8568, 151.2153)
    if suffix == "heic":
        pillow_heif.from_pillow(Image.new("RGB", (64, 64))).save(path, exif=exif.tobytes())
    elif suffix == "tif":
        Image.new("RGB", (64, 64)).save(path, exif=read_back(exif))
    else:
        Image.new("RGB", (64, 64)).save(path, exif=exif)
    found = read_facts(path)
    assert found.taken == "2023-07-14T12:30:05" and found.duration is None
    assert found.latitude == pytest.approx(-33.8568, abs=1e-4) and found.longitude == pytest.approx(151.2153, abs=1e-4)


def read_back(exif: Image.Exif) -> Image.Exif:
    """The same as a file would give it: Pillow writes the blocks of EXIF and GPS into a TIFF only of what it has read itself."""
    again = Image.Exif()
    again.load(exif.tobytes())
    return again


@pytest.mark.parametrize("big", [False, True])
def test_a_scan_says_when_it_was_made_and_a_broken_block_hides_nothing_else(tmp_path, big):
    """A TIFF's own DateTime stands in its first directory; one of BigTIFF has longer numbers."""
    path = tmp_path / "scan.tif"
    Image.new("RGB", (64, 64)).save(path, tiffinfo={306: "2021:02:03 04:05:06"}, big_tiff=big)
    assert read_facts(path) == Facts("2021-02-03T04:05:06")
    Image.new("RGB", (64, 64)).save(path, exif=read_back(album.exif("2023:07:14 12:30:05", 48.5, 2.5)), big_tiff=big)
    assert read_facts(path).latitude == 48.5
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"2023:07:14 12:30:05", b"2023:07:14 99:30:05"))
    assert read_facts(path) == Facts(None, 48.5, 2.5)


def test_a_film_says_when_where_and_how_long(tmp_path):
    path = tmp_path / "film.mp4"
    about = {"creation_time": "2022-05-06T07:08:09.000000Z", "location": "+48.8584-002.2945+35.0/"}
    album.film(path, (200, 0, 0), seconds=3, **about)
    assert read_facts(path) == Facts("2022-05-06T07:08:09", 48.8584, -2.2945, pytest.approx(3.0, abs=0.11))


def test_files_that_say_nothing_say_nothing(tmp_path):
    album.photo(tmp_path / "plain.png", 0, (1, 2, 3))
    assert read_facts(tmp_path / "plain.png") == Facts()
    album.film(tmp_path / "plain.webm", (1, 2, 3), codec="libvpx")
    assert read_facts(tmp_path / "plain.webm").taken is None
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(DecodeError):
        read_facts(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    "said, meant",
    [
        ("2023:07:14 12:30:05", "2023-07-14T12:30:05"),
        ("2023-07-14T12:30:05+02:00", "2023-07-14T12:30:05"),
        ("2023-07-14", "2023-07-14T00:00:00"),
        ("2023:07:14 12:30", "2023-07-14T12:30:00"),
        ("2023:13:14 12:30:05", None),
        ("2023:02:30 12:30:05", None),
        ("0000:00:00 00:00:00", None),
        ("1904-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z", None),
        ("<script>alert(1)</script>", None),
        ("", None),
        (b"2023:07:14 12:30:05", None),
        (None, None),
    ],
)
def test_times_as_cameras_write_them(said, meant):
    assert facts.moment(said) == meant
    assert meant is None or datetime.datetime.fromisoformat(meant)


@pytest.mark.parametrize(
    "mark, value, meant",
    [
        ("N", (48.0, 51.0, 30.0), 48.858333),
        ("S", (33.0, 51.0, 24.5), -33.856806),
        ("W\0", (2.0, 17.0, 40.2), -2.294500),
        ("N", (48.5,), 48.5),
        ("N", None, None),
        ("N", ("a", "b"), None),
        (None, (10, 0, 0), 10.0),
    ],
)
def test_degrees(mark, value, meant):
    found = facts.degrees(mark, value)
    assert (found is None) == (meant is None) and (meant is None or found == pytest.approx(meant, abs=1e-5))


@pytest.mark.parametrize("place", [(91, 0), (0, 181), (0, 0), (math.nan, 1), (1, math.inf), (None, 1)])
def test_places_that_are_none(place):
    assert facts.known_place(*place) == (None, None)


def test_broken_exif_is_no_crash(tmp_path):
    path = tmp_path / "photo.jpg"
    album.photo(path, 0, (9, 9, 9), album.exif("2023:07:14 12:30:05", 48.8, 2.3))
    whole = path.read_bytes()
    begin = whole.index(b"Exif\0\0")
    for at in range(begin, begin + 200):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = read_facts(path)
        assert found.taken is None or datetime.datetime.fromisoformat(found.taken)
        assert found.latitude is None or abs(found.latitude) <= 90


def test_the_manifest_of_a_folder_holds_them_and_reads_each_file_once(tmp_path, monkeypatch, capfd):
    media = album.build(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "params.yaml").read_text().replace("root: nowhere", f"root: {media}")
    (tmp_path / "params.yaml").write_text(text)
    command("pipeline.manifest", "--dataset", "folder")
    table = Path("cache/folder/manifest/media.parquet")
    rows = {row["video_id"]: row for row in read_table(table).to_pylist()}
    assert len(rows) == 10 and rows["red.jpg"]["taken"] == "2023-07-14T12:30:00"
    assert rows["trip/green.jpg"]["latitude"] == pytest.approx(-33.8568, abs=1e-3)
    assert rows["trip/long.mp4"]["duration"] == pytest.approx(20, abs=0.2)
    assert rows["broken.jpg"]["taken"] is None and rows["red.mp4"]["taken"] == "2022-05-06T07:08:09"
    capfd.readouterr()
    album.photo(media / "more.jpg", 9, (0, 9, 9), album.exif("2020:02:02 02:02:02", 1, 2))
    before = table.read_bytes()
    command("pipeline.manifest", "--dataset", "folder")
    assert "times and places: 1/1 files" in capfd.readouterr().err
    assert read_table(table).num_rows == 11
    (media / "more.jpg").unlink()
    command("pipeline.manifest", "--dataset", "folder")
    assert table.read_bytes() == before
