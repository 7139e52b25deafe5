"""The spans stage: what is left of a caption without its nouns or its verbs, and the words removed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import files, shards
from pipeline.encoders import check, text
from pipeline.shards.diff import diff
from pipeline.shards.update_spans import shorten, split_words
from pipeline.shards.verify import verify
from pipeline.spans import explain, join_spans, update_spans
from tests.support import tiny

CAPTIONS = {  # text, nouns, verbs
    "video1#000": ("a red Ball rolls to a ball", [[6, 10], [22, 26]], [[11, 16]]),
    "video2#000": ("dogs", [[0, 4]], []),
    "video3#000": ("it is red", [], []),
    "video4#000": ("picking up a ball", [[13, 17]], [[0, 10]]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.clip(folder)
    files.write(folder / "clip.json", json.dumps(check.build_record(str(folder), None, folder)))
    return folder


@pytest.fixture
def run(model, tmp_path):
    """Run the stage on some captions; returns the encoder, whose `encoded` counts what the tower saw, and the summary."""

    def go(captions, folder=tmp_path / "cache" / "spans", part=files.WHOLE, why=None):
        config = {"name": "demo", "words": 32, "precision": "fp32", "shards": 3}
        encoder = text.TextEncoder(model, "cpu", config)
        names = sorted(captions)
        videos = [name.split("#")[0] for name in names]
        table = pa.table({"caption_id": names, "video_id": videos, "text": [captions[name][0] for name in names]})
        columns = {"nouns": [captions[name][1] for name in names], "verbs": [captions[name][2] for name in names]}
        rows = join_spans(table, pa.table({"caption_id": names} | columns))
        said = explain(folder, rows, encoder, why) if why else update_spans(folder, rows, encoder, config, part)
        return encoder, said

    return go


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.h5")}


def rows_of(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in shards.shard_paths(folder):
        shard = shards.read(path, "spans")
        for row, name in enumerate(shard["caption_id"]):
            found[name] = {
                tensor: shard[tensor][slice(*shard[f"{tensor}_offset"][row : row + 2])]
                for tensor in ("without_noun", "noun", "without_verb", "verb")
            }
    return found


def test_words_are_cut_out_with_the_room_they_leave():
    assert shorten("a man rides a horse", [[2, 5], [14, 19]]) == "a rides a"
    assert shorten("a man rides", [[2, 8], [2, 11]]) == "a"
    row = split_words(
        {"caption_id": "a", "video_id": "b", "text": "A Man, a man", "nouns": [[2, 5], [9, 12]], "verbs": []}
    )
    assert (row["noun"], row["without_noun"], row["verb"], row["without_verb"]) == (["man"], "A , a", [], None)


def test_each_caption_has_what_is_left_and_what_was_removed(run, model, tmp_path):
    encoder, _ = run(CAPTIONS)
    rows = rows_of(tmp_path / "cache" / "spans")
    (_, left), (_, without_verb) = encoder(["a red rolls to a", "a red Ball to a ball"])
    assert np.array_equal(rows["video1#000"]["without_noun"], left)
    assert np.array_equal(rows["video1#000"]["without_verb"], without_verb)
    table = shards.read(tmp_path / "cache" / "spans" / "removed.h5", "removed")
    words = dict(zip(table["key"].tolist(), table["phrase"]))
    said = {
        name: [[words[key] for key in row[kind].tolist()] for kind in ("noun", "verb")] for name, row in rows.items()
    }
    assert said == {
        "video1#000": [["ball"], ["rolls"]],
        "video2#000": [["dogs"], []],
        "video3#000": [[], []],
        "video4#000": [["ball"], ["picking up"]],
    }
    assert {name: len(row["without_verb"]) > 0 for name, row in rows.items()} == {
        name: bool(CAPTIONS[name][2]) for name in CAPTIONS
    }
    assert len(rows["video2#000"]["without_noun"]) > 0, "nothing is left of it: a question all the same"
    place = np.searchsorted(table["key"], shards.phrase_key("ball"))
    assert np.array_equal(table["embedding"][place], encoder(["ball"])[0][1][-1])


def test_a_second_run_encodes_nothing_and_one_more_caption_gives_the_bytes_of_a_clean_run(run, tmp_path):
    run({name: row for name, row in CAPTIONS.items() if name != "video4#000"})
    encoder, said = run(CAPTIONS)
    assert encoder.encoded == 1 + 2  # "picking up" among the words, and the caption without either
    assert "3 kept + 1 encoded; 4 removed words = 3 kept + 1 encoded" in said
    encoder, said = run(CAPTIONS)
    assert encoder.encoded == 0 and said.endswith("0 of 3 shards written")
    run(CAPTIONS, folder=tmp_path / "clean" / "spans")
    assert digest(tmp_path / "cache" / "spans") == digest(tmp_path / "clean" / "spans")


def test_other_spans_make_a_row_anew_and_why_says_so(run, tmp_path):
    run(CAPTIONS)
    other = CAPTIONS | {"video3#000": ("it is red", [[6, 9]], [])}
    assert (
        "video3#000 will be encoded anew: its text, its nouns or its verbs have changed" in run(other, why="video3")[1]
    )
    run(other)
    assert "video3#000 is up to date" in run(other, why="video3#000")[1]
    assert len(rows_of(tmp_path / "cache" / "spans")["video3#000"]["noun"]) == 1


def test_slices_make_the_bytes_of_a_whole_run(run, tmp_path):
    for number in (1, 2):
        run(CAPTIONS, part=files.Slice.parse(f"{number}/2"))
    encoder, _ = run(CAPTIONS)
    assert encoder.encoded == 0
    run(CAPTIONS, folder=tmp_path / "clean" / "spans")
    assert digest(tmp_path / "cache" / "spans") == digest(tmp_path / "clean" / "spans")


def test_damage_is_found_told_apart_and_mended(run, tmp_path):
    run(CAPTIONS)
    home = tmp_path / "cache"
    whole = digest(home / "spans")
    assert verify(home) == []
    path = next(path for path in shards.shard_paths(home / "spans") if len(shards.Shard(path, "spans")["without_noun"]))
    shard = shards.Shard(path, "spans")
    place = shard.place("without_noun").offset
    data = bytearray(path.read_bytes())
    data[place] ^= 255
    path.write_bytes(data)
    assert {problem.stage for problem in verify(home)} == {"spans"}
    run(CAPTIONS)
    assert digest(home / "spans") == whole and verify(home) == []
    run(
        CAPTIONS | {"video1#000": ("a red Ball falls to a ball", [[6, 10], [22, 26]], [[11, 16]])},
        tmp_path / "two" / "spans",
    )
    said = diff(home, tmp_path / "two")
    assert "spans: 4 rows in both, 0 only in" in "\n".join(said)
    assert any("without_noun: 3 of 4 rows equal" in line for line in said)
    assert any("without_verb: 4 of 4 rows equal" in line for line in said)
