"""The triplets stage: rows for every caption, the same bytes whatever the order or batch, parses kept between runs."""

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from pipeline import triplets
from pipeline.scene_graph.parsers import corenlp, trees
from pipeline.scene_graph.parsers import server as parsers_server
from pipeline.scene_graph.parsers.server import Server

DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
CAPTIONS = {
    "video1": ["a man rides a horse", "two dogs run on the beach", "hello"],
    "video2": ["a woman is slicing an onion.", "a man rides a horse", "the car is parked near a tree"],
    "video3": ["a man is singing. then a girl is throwing a ball", "🎉", "a\nman sleeps"],
}
PARAMS = """
defaults: {root: "."}
datasets:
  toy: {triplets: {parser: %s}}
  wrong: {triplets: {parser: shallow, cap: many}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder with a params.yaml; returns a function that runs the stage's command line."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str, parser: str = "shallow") -> None:
        Path("params.yaml").write_text(PARAMS % parser)
        monkeypatch.setattr(sys, "argv", ["triplets", *arguments])
        triplets.main()

    return go


def manifest(captions: dict[str, list[str]], name: str = "toy") -> None:
    """Write captions.parquet as the manifest stage does."""
    rows = [
        {
            "caption_id": f"{video}#{index:03d}",
            "video_id": video,
            "split": "train",
            "index": index,
            "text": text,
            "parts": [text],
        }
        for video, texts in sorted(captions.items())
        for index, text in enumerate(texts)
    ]
    schema = pyarrow.schema(
        [(key, pyarrow.string()) for key in ("caption_id", "video_id", "split")]
        + [("index", pyarrow.int32()), ("text", pyarrow.string()), ("parts", pyarrow.list_(pyarrow.string()))]
    )
    path = Path("cache") / name / "manifest" / "captions.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def output() -> Path:
    return Path("cache/toy/triplets.parquet")


def need_corenlp() -> None:
    reason = corenlp.missing()
    if reason:
        warnings.warn(f"CORENLP IS ABSENT, SO ITS TESTS ARE SKIPPED: {reason}", stacklevel=2)
        pytest.skip(reason)


def test_every_caption_has_a_row_with_phrases(project, capsys):
    manifest(CAPTIONS)
    project("--dataset", "toy")
    table = pyarrow.parquet.read_table(output())
    assert table.schema == triplets.SCHEMA
    rows = {row["caption_id"]: row for row in table.to_pylist()}
    assert sorted(rows) == [f"video{video}#{index:03d}" for video in (1, 2, 3) for index in range(3)]
    assert rows["video1#000"]["triplets"] == [
        {"subject": "man", "relation": "rides", "object": "horse", "kind": "relation"}
    ]
    assert rows["video1#000"]["nouns"] == [[2, 5], [14, 19]]
    assert rows["video1#000"]["verbs"] == [[6, 11]]
    assert rows["video1#002"]["fallback"] and rows["video1#002"]["phrases"] == ["hello"]
    assert rows["video3#000"]["phrases"] == ["man singing", "girl throwing ball"]
    assert rows["video3#001"]["fallback"] and rows["video3#001"]["phrases"] == ["🎉"]
    assert {row["parser"] for row in rows.values()} == {"shallow"}
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("triplets: 9 captions in") and "without a triplet 22.2 %" in line and "p95" in line


def test_an_unchanged_run_writes_nothing(project):
    manifest(CAPTIONS)
    project("--dataset", "toy")
    before = output().stat().st_mtime_ns
    project("--dataset", "toy")
    assert output().stat().st_mtime_ns == before
    assert sorted(path.name for path in Path("cache/toy").iterdir()) == [".locks", "manifest", "triplets.parquet"]


def test_the_parts_of_a_paragraph_are_parsed_apart_and_joined(project):
    manifest({"video1": ["x"]})
    table = pyarrow.parquet.read_table("cache/toy/manifest/captions.parquet")
    text = "the dog runs the dog jumps over a log"
    parts = ["the dog runs", "the dog jumps over a log"]
    table = table.set_column(4, "text", [[text]]).set_column(5, "parts", pyarrow.array([parts]))
    pyarrow.parquet.write_table(table, "cache/toy/manifest/captions.parquet")
    project("--dataset", "toy")
    (row,) = pyarrow.parquet.read_table(output()).to_pylist()
    assert row["phrases"] == ["dog runs", "dog jumps over log"]
    assert [text[start:end] for start, end in row["nouns"]] == ["dog", "dog", "log"]


def test_an_empty_dataset_gives_an_empty_table(project):
    manifest({})
    project("--dataset", "toy")
    assert pyarrow.parquet.read_table(output()).schema == triplets.SCHEMA


def test_what_is_missing_or_wrong_is_said(project):
    with pytest.raises(SystemExit, match="captions.parquet is missing; run: dvc repro manifest@toy"):
        project("--dataset", "toy")
    with pytest.raises(SystemExit, match="triplets.cap is 'many'; it must be a whole number of at least 1"):
        project("--dataset", "wrong")
    with pytest.raises(SystemExit, match="there is no file none.txt"):
        project("--text", "none.txt", "--out", "rows.jsonl")


def test_any_text_file_becomes_rows(project):
    Path("captions.txt").write_text("white stove in a kitchen\n\nTwo giraffes eating.\r\nlast")
    project("--text", "captions.txt", "--out", "rows.jsonl", "--parser", "shallow")
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == ["white stove in a kitchen", "", "Two giraffes eating.", "last"]
    assert list(rows[0]) == ["caption", "parser", "triplets", "nouns", "verbs"]
    assert [tuple(triplet.values()) for triplet in rows[0]["triplets"]] == [
        ("stove", "is", "white", "attribute"),
        ("stove", "in", "kitchen", "relation"),
    ]
    assert rows[0]["nouns"] == [[6, 11], [17, 24]] and rows[1]["triplets"] == []


def test_show_prints_tokens_tree_and_triplets(project, capsys):
    project("--show", "a man rides a horse", "--parser", "shallow")
    shown = capsys.readouterr().out
    assert "rides            ride           VBZ   root" in shown
    assert "(man, rides, horse)" in shown


def test_without_java_the_shallow_parser_runs_and_says_so(project, monkeypatch, capsys):
    monkeypatch.setattr(corenlp, "java", lambda: None)
    manifest(CAPTIONS)
    project("--dataset", "toy", parser="auto")
    assert "shallow parser, as there is no Java: install one" in capsys.readouterr().err
    assert set(pyarrow.parquet.read_table(output())["parser"].to_pylist()) == {"shallow"}
    with pytest.raises(SystemExit, match="parser: corenlp cannot run: no Java"):
        project("--dataset", "toy", parser="corenlp")


def test_a_server_that_does_not_start_is_no_failure_for_auto(project, monkeypatch, capsys):
    need_corenlp()
    monkeypatch.setattr(corenlp, "java", lambda: shutil.which("false"))
    manifest(CAPTIONS)
    project("--dataset", "toy", parser="auto")
    assert "shallow parser for what is left, as CoreNLP failed: CoreNLP ended while starting" in capsys.readouterr().err
    assert set(pyarrow.parquet.read_table(output())["parser"].to_pylist()) == {"shallow"}


def test_corenlp_parses_once_and_the_bytes_depend_on_nothing_else(project, monkeypatch, capsys):
    """A second run, a changed rule, other batches, threads and order: no parse is repeated, no byte differs."""
    need_corenlp()
    manifest(CAPTIONS)
    project("--dataset", "toy", parser="auto")
    first = output().read_bytes()
    table = pyarrow.parquet.read_table(output())
    assert set(table["parser"].to_pylist()) == {"corenlp"}
    assert "(corenlp 9; 8 sentences newly parsed)" in capsys.readouterr().out

    def started(self):
        raise AssertionError("the server was started for nothing")

    with monkeypatch.context() as patch:
        patch.setattr(Server, "start", started)
        output().unlink()
        project("--dataset", "toy", parser="corenlp")  # every parse is kept
        assert output().read_bytes() == first
        Path("params.yaml").write_text((PARAMS % "corenlp").replace("corenlp}", "corenlp, rules: stanford}"))
        triplets.update_triplets("toy")  # other rules, same parses
        assert output().read_bytes() != first

    shutil.rmtree("cache/.parses")

    def one_by_one(self, texts):
        return shuffled(self, random.Random(1).sample(texts, len(texts)))

    shuffled = trees.Trees.annotate
    monkeypatch.setattr(trees.Trees, "annotate", one_by_one)
    monkeypatch.setattr(parsers_server, "Parser", lambda server: parsers_server.Parser(server, batch=2, clients=3))
    project("--dataset", "toy", parser="corenlp")
    assert output().read_bytes() == first


# facts about real captions


@pytest.fixture(scope="module")
def real():
    """A few hundred captions of each corpus, if they are here."""
    from tests.bench import triplets

    if not (DATA / "annotations").exists():
        warnings.warn(f"{DATA} IS ABSENT, SO REAL CAPTIONS ARE NOT TESTED; set UNITRIM_DATA", stacklevel=1)
        pytest.skip(f"no data in {DATA}; set UNITRIM_DATA")
    return {name: random.Random(0).sample(captions, 800) for name, captions in triplets.corpora(DATA).items()}


@pytest.mark.parametrize(("name", "most"), [("msrvtt", 0.035), ("msvd", 0.05), ("didemo", 0.07)])
def test_few_real_captions_are_without_a_triplet(real, name, most):
    from pipeline.scene_graph import parse

    rows = parse(real[name], {"parser": "shallow"})
    assert len(rows) == 800
    assert sum(row["fallback"] for row in rows) / 800 < most + 0.015  # a sample's error
    for caption, row in zip(real[name], rows):
        assert all(caption[start:end].strip() for start, end in row["nouns"] + row["verbs"])


def test_the_shallow_parser_reads_factual(real):
    from tests.bench import triplets

    rows = triplets.factual(DATA, "dev")
    score = triplets.score(
        [gold for _, gold in rows], triplets.parsed([text for text, _ in rows], "shallow", "extended")
    )
    assert score["f1"] > 0.70 and score["noun_f1"] > 0.90


def test_slices_parse_each_sentence_once_and_the_last_run_none(project, capsys):
    need_corenlp()
    manifest(CAPTIONS)
    project("--dataset", "toy", parser="corenlp")
    before = output().read_bytes()
    shutil.rmtree("cache")
    manifest(CAPTIONS)
    capsys.readouterr()
    for part in ("1/2", "2/2", "2/2"):
        project("--dataset", "toy", "--slice", part, parser="corenlp")
    said = [[int(word) for word in line.split() if word.isdigit()] for line in capsys.readouterr().out.splitlines()]
    (one, fresh), (two, more), (_, again) = said
    assert one + two == fresh + more == 8 and one and two and again == 0
    assert not output().exists() and not Path("cache/.parses").exists()
    Path("cache/toy/.triplets/1-of-1.sqlite").write_bytes(b"no database")  # one that is none costs nothing
    project("--dataset", "toy", parser="corenlp")
    assert "0 sentences newly parsed" in capsys.readouterr().out
    assert output().read_bytes() == before
    assert not Path("cache/toy/.triplets").exists()
    project("--dataset", "toy", "--slice", "1/2", parser="corenlp")  # what all runs share is known to a slice
    assert " 0 newly parsed" in capsys.readouterr().out


def test_a_slice_of_no_dataset_is_refused(project):
    with pytest.raises(SystemExit):
        project("--show", "a man", "--slice", "1/2")
    manifest(CAPTIONS)
    project("--dataset", "toy", "--slice", "1/2")  # the shallow parser is as fast as the rules: nothing waits
    assert not output().exists()
