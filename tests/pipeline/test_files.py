"""Files of the cache: whole or not at all, and tables whose every byte is proven when they are read."""

import subprocess
import sys
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


def one_text(count, size=100_000):
    """The same text again and again, which Parquet writes once."""
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), pyarrow.array(["x" * size]))


BOMBS = {
    "twenty gigabytes of one text": lambda: {"caption": one_text(200_000)},
    "all of it in one row": lambda: {
        "parts": pyarrow.ListArray.from_arrays(pyarrow.array([0, 200_000], pyarrow.int32()), one_text(200_000))
    },
    "twenty million rows": lambda: {"index": pyarrow.array([1]).take(pyarrow.array([0] * 20_000_000, pyarrow.int32()))},
    "half a gigabyte of nothing": lambda: {"caption": pyarrow.array(["\0" * 100_000] * 5_000)},
}
MEASURE = """
import resource, sys
import pyarrow.parquet
from pipeline import files
from pipeline.datasets import folder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (files.read_table, folder.rows):
    try:
        read(files.Path(sys.argv[1]))
    except ValueError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_table_that_unpacks_to_gigabytes_is_refused(tmp_path, bomb):
    path = tmp_path / "captions.parquet"
    table = pyarrow.table(BOMBS[bomb]())
    pyarrow.parquet.write_table(
        table, path, compression="zstd", store_schema=False, use_dictionary="nothing" not in bomb
    )
    del table
    assert path.stat().st_size < 500_000
    words = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    assert len(said) == 2 and all("unpack" in line or "says that it has" in line for line in said)
    assert "is damaged" in said[0] and "is not whole Parquet" in said[1]
    assert int(grown) < 200
