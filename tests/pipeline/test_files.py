"""Files of the cache: whole or not at all, and tables whose every byte is proven when they are read."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import files


@pytest.fixture
def table():
    return pyarrow.table(
        {
            "video_id": [f"video{index}" for index in range(40)],
            "index": pyarrow.array(range(40), pyarrow.int32()),
            "parts": [["a", "b"], []] * 20,
        }
    )


@pytest.fixture
def path(tmp_path, table):
    path = tmp_path / "toy" / "keyframes.parquet"
    files.write_table(path, table)
    return path


def test_what_is_written_is_read_by_anyone(path, table):
    assert files.read_table(path).equals(table)
    assert files.read_table(path, ["index"]).column_names == ["index"]
    assert pyarrow.parquet.read_table(path).equals(table)


def test_the_same_rows_make_the_same_bytes(path, table, tmp_path):
    other = tmp_path / "other.parquet"
    files.write_table(other, table)
    assert other.read_bytes() == path.read_bytes()


def test_every_flipped_byte_of_a_table_is_found(path, table):
    good, harmless = path.read_bytes(), []
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        try:
            assert files.read_table(path).equals(table)
            harmless.append(at)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged (")
            assert str(error).endswith("; delete it and run: dvc repro keyframes@toy")
    mark = files.DIGEST.search(good)
    assert set(harmless) <= set(range(mark.start(), mark.start() + 9)), "only the digest's own name may change"


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_cut_table_is_damaged_not_a_crash(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is damaged"):
        files.read_table(path)


def test_a_table_of_another_writer_is_read(path, table):
    pyarrow.parquet.write_table(table, path)
    assert files.read_table(path).equals(table)


@pytest.mark.parametrize(
    "name, command",
    [
        ("cache/toy/keyframes.parquet", "dvc repro keyframes@toy"),
        ("cache/toy/triplets.parquet", "dvc repro triplets@toy"),
        ("cache/toy/manifest/items.parquet", "dvc repro manifest@toy"),
        ("cache/toy/visual/rejects.parquet", "dvc repro visual@toy"),
        (
            "cache/toy/scores/unitrim/ranks.parquet",
            "python -m eval.run --run cache/toy/runs/unitrim --shards cache/toy",
        ),
    ],
)
def test_a_damaged_table_names_what_makes_it(name, command):
    assert files.remake_command(Path(name)) == command
