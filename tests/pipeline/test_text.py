"""The text stage: whole, incremental by caption, and the same bytes as a clean run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from pipeline import files, shards
from pipeline.encoders import check, text
from pipeline.shards.update_text import explain_text
from pipeline.text import join_phrases, main, update_text
from tests.support import tiny

CAPTIONS = {
    "video1#000": ("a red ball rolls", ["ball rolls", "ball color red"]),
    "video1#001": ("a ball", ["a ball"]),
    "video2#000": ("a dog chases a red ball", ["dog chases ball", "ball color red"]),
    "video3#000": ("word " * 3000, ["word"]),
    "video4#000": ("a ball", ["a ball"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.clip(folder)
    files.write(folder / "clip.json", json.dumps(check.build_record(str(folder), None, folder)))
    return folder


@pytest.fixture
def run(model, tmp_path):
    """Run the stage on some captions; returns the encoder, whose `encoded` counts what the tower saw, and the summary.

    With `why`, the summary is what `--why` says of that ID.
    """

    def go(captions, folder=tmp_path / "text", why=None, part=files.WHOLE, **config):
        config = {"name": "demo", "words": 32, "precision": "fp32", "shards": 3} | config
        encoder = text.TextEncoder(model, "cpu", config)
        names = sorted(captions)
        table = pa.table(
            {
                "caption_id": names,
                "video_id": [name.split("#")[0] for name in names],
                "text": [captions[name][0] for name in names],
            }
        )
        parsed = pa.table({"caption_id": names, "phrases": [captions[name][1] for name in names]})
        rows = join_phrases(table, parsed)
        said = explain_text(folder, rows, encoder, why) if why else update_text(folder, rows, encoder, config, part)
        return encoder, said

    return go


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.h5")}


def everything(folder: Path) -> dict[str, tuple]:
    """{caption_id: (token, word, sentence, phrases)} of all shards."""
    table = shards.read(folder / "phrases.h5", "phrases")
    phrases = dict(zip(table["key"].tolist(), table["phrase"]))
    rows = {}
    for path in shards.shard_paths(folder):
        shard = shards.read(path, "text")
        for row, name in enumerate(shard["caption_id"]):
            words = slice(*shard["word_offset"][row : row + 2])
            triplets = shard["triplet"][slice(*shard["triplet_offset"][row : row + 2])]
            rows[name] = (
                shard["token"][words],
                shard["word"][words],
                shard["sentence"][row],
                [phrases[key] for key in triplets.tolist()],
            )
    return rows


def test_every_caption_has_its_words_its_sentence_and_its_phrases(run, tmp_path):
    run(CAPTIONS)
    rows = everything(tmp_path / "text")
    assert sorted(rows) == sorted(CAPTIONS)
    for name, (token, word, sentence, phrases) in rows.items():
        assert len(token) == len(word) <= 32
        assert np.array_equal(word[-1], sentence)
        assert phrases == CAPTIONS[name][1]


def test_each_distinct_phrase_is_there_once_and_equals_its_sentence(run, tmp_path):
    run(CAPTIONS)
    phrases = shards.read(tmp_path / "text" / "phrases.h5", "phrases")
    assert sorted(phrases["phrase"]) == ["a ball", "ball color red", "ball rolls", "dog chases ball", "word"]
    assert phrases["key"].tolist() == sorted(map(shards.phrase_key, phrases["phrase"]))
    row = np.searchsorted(phrases["key"], shards.phrase_key("a ball"))
    assert np.array_equal(phrases["embedding"][row], everything(tmp_path / "text")["video4#000"][2])


def test_phrases_have_the_token_ids_that_a_caption_of_these_words_has(run, tmp_path):
    run(CAPTIONS)
    phrases = shards.read(tmp_path / "text" / "phrases.h5", "phrases")
    for row, phrase in enumerate(phrases["phrase"]):
        ids = phrases["token"][slice(*phrases["token_offset"][row : row + 2])]
        if phrase == "a ball":
            assert np.array_equal(ids, everything(tmp_path / "text")["video4#000"][0])
        assert len(ids) == len(phrase.replace(" ", "")) + 2  # each byte a token, between SOT and EOT


def test_a_file_of_phrases_without_token_ids_is_made_anew(run, tmp_path):
    run(CAPTIONS)
    whole, path = digest(tmp_path / "text"), tmp_path / "text" / "phrases.h5"
    tensors = {name: value for name, value in shards.read(path, "phrases").items() if not name.startswith("token")}
    shards.write(path, "phrases", tensors, shards.Shard(path, "phrases").attributes)
    assert "phrases.h5 is damaged or another one" in run(CAPTIONS, why="video4#000")[1]
    encoder, said = run(CAPTIONS)
    assert encoder.encoded == 5 and "5 captions = 5 kept" in said and digest(tmp_path / "text") == whole


def test_a_second_run_encodes_and_writes_nothing(run):
    run(CAPTIONS)
    encoder, said = run(CAPTIONS)
    assert encoder.encoded == 0 and encoder.towers is None
    assert "5 kept + 0 encoded; 5 phrases = 5 kept + 0 encoded; 0 of 3" in said


def test_one_more_caption_encodes_one_and_makes_the_bytes_of_a_clean_run(run, tmp_path):
    fewer = {name: row for name, row in CAPTIONS.items() if name != "video2#000"}
    run(fewer)
    before = digest(tmp_path / "text")
    encoder, said = run(CAPTIONS)
    assert encoder.encoded == 2  # the caption and its one new phrase
    changed = {name for name, value in digest(tmp_path / "text").items() if value != before[name]}
    assert changed == {"phrases.h5", shards.shard_path(tmp_path, shards.shard_number("video2", 3)).name}
    assert said.endswith("1 of 3 shards written")
    run(CAPTIONS, folder=tmp_path / "clean")
    assert digest(tmp_path / "text") == digest(tmp_path / "clean")


def test_removed_captions_and_other_words_give_the_bytes_of_a_clean_run(run, tmp_path):
    run(CAPTIONS)
    fewer = {name: row for name, row in CAPTIONS.items() if name != "video1#001"}
    encoder, _ = run(fewer)
    assert encoder.encoded == 0
    encoder, _ = run(fewer, words=8)
    assert encoder.encoded == 4 + 5
    run(fewer, folder=tmp_path / "clean", words=8)
    assert digest(tmp_path / "text") == digest(tmp_path / "clean")


def test_a_damaged_shard_is_made_again(run, tmp_path):
    run(CAPTIONS)
    whole = digest(tmp_path / "text")
    for path in (tmp_path / "text").glob("*.h5"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 255
        data[4096] ^= 255
        path.write_bytes(data)
    run(CAPTIONS)
    assert digest(tmp_path / "text") == whole


def test_why_says_what_has_become_of_a_row(run, tmp_path, capsys):
    assert run(CAPTIONS, why="video4#000")[1] == "video4#000 has no row yet; it will be encoded"
    run(CAPTIONS)
    encoder, said = run(CAPTIONS, why="video1")
    assert [line.split(" (")[0] for line in said.split("\n")] == [
        "video1#000 is up to date",
        "video1#001 is up to date",
    ]
    assert encoder.towers is None
    assert "no caption and no video" in run(CAPTIONS, why="nobody")[1]
    changed = CAPTIONS | {"video4#000": ("a cube", ["a ball"]), "video1#001": ("a ball", ["something else"])}
    assert run(changed, why="video4#000")[1] == "video4#000 will be encoded anew: its text has changed, to “a cube”"
    were, are = ", ".join(CAPTIONS["video1#001"][1]) or "none", "something else"
    assert (
        f"triplets alone have changed, in triplets.parquet, and will be written anew: they were {were} and are {are}"
        in (run(changed, why="video1#001")[1])
    )
    said = run(changed, why="video4#000", words=8)[1]
    assert said == "video4#000 will be encoded anew: words was 32, is 8; its text has changed, to “a cube”"
    assert "up to date" in run(changed, why="video3#000")[1]
    run(changed)
    assert "up to date" in run(changed, why="video3#000")[1]
    assert "up to date" in run(changed, why="video4#000")[1]
    (tmp_path / "text" / "phrases.h5").unlink()
    assert "phrases.h5 is damaged or another one" in run(changed, why="video4#000")[1]


def test_fewer_shards_leave_no_orphans(run, tmp_path):
    run(CAPTIONS)
    run(CAPTIONS, shards=1)
    assert [path.name for path in shards.shard_paths(tmp_path / "text")] == ["00000.h5"]
    assert sorted(everything(tmp_path / "text")) == sorted(CAPTIONS)


def test_a_dataset_without_captions_has_empty_shards(run, tmp_path):
    assert run({})[1].startswith("text: 0 captions = 0 kept + 0 encoded; 0 phrases")
    for path in shards.shard_paths(tmp_path / "text"):
        shard = shards.read(path, "text")
        assert len(shard["caption_id"]) == 0 and shard["sentence"].shape[0] == shard["word"].shape[0] == 0
    before = digest(tmp_path / "text")
    assert run({})[1].endswith("0 of 3 shards written") and digest(tmp_path / "text") == before
    run(CAPTIONS)
    assert len(everything(tmp_path / "text")) == len(CAPTIONS)


def test_captions_without_triplets_stop_the_stage(tmp_path):
    captions = pa.table({"caption_id": ["a#000", "b#000"], "video_id": ["a", "b"], "text": ["x", "y"]})
    with pytest.raises(ValueError, match="triplets.parquet has 1 captions, the manifest 2, b#000"):
        join_phrases(captions, pa.table({"caption_id": ["a#000"], "phrases": [["x"]]}))


def test_parquet_is_where_the_stage_looks(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("datasets: {demo: {root: x, words: 32, precision: fp32, shards: 2}}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["text", "--dataset", "demo"])
    with pytest.raises(SystemExit, match="dvc repro manifest@demo"):
        main()
    path = Path("cache/demo/manifest/captions.parquet")
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.table({"caption_id": ["a#000"]}), path)
    with pytest.raises(SystemExit, match="dvc repro triplets@demo"):
        main()


def test_slices_make_the_bytes_of_one_run_and_the_last_run_encodes_nothing(run, tmp_path):
    run(CAPTIONS, tmp_path / "whole" / "text")
    apart = tmp_path / "apart" / "text"
    counts = [run(CAPTIONS, apart, part=files.Slice(index, 2))[0].encoded for index in (1, 2, 2)]
    assert counts[0] and counts[1] and not counts[2]  # run again, a slice finds its own done
    assert not (apart / "phrases.h5").exists()
    encoder, said = run(CAPTIONS, apart)
    assert not encoder.encoded and "= 5 kept + 0 encoded" in said and "0 of 3 shards written" in said
    assert digest(apart) == digest(tmp_path / "whole" / "text")
    assert not (apart.parent / ".phrases").exists()


def test_a_slice_of_text_moves_no_rows_between_shards(run, tmp_path):
    run(CAPTIONS)
    with pytest.raises(ValueError, match="another number of shards than 4.*once without --slice"):
        [run(CAPTIONS, part=files.Slice(index, 2), shards=4) for index in (1, 2)]
