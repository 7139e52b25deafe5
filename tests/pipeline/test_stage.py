"""What every stage shares: parameters, the lock, whole-or-nothing writes, progress."""

import argparse
import importlib
import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pytest

from pipeline import files, progress, stage
from pipeline.datasets import enable
from pipeline.files import LockedError, ParamsError
from pipeline.params import read_dataset, read_params

ROOT = Path(__file__).parents[2]


def params(tmp_path, monkeypatch, text):
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_a_datasets_section_lies_over_the_defaults(tmp_path, monkeypatch):
    params(
        tmp_path,
        monkeypatch,
        "defaults: {frames: 12, triplets: {cap: 8, form: surface}}\ndatasets: {d: {triplets: {cap: 16}}}",
    )
    config = read_dataset("d")
    assert (config["frames"], config["triplets"]["cap"], config["triplets"]["form"]) == (12, 16, "surface")
    assert config["name"] == "d"


def test_an_unset_root_says_what_to_type(tmp_path, monkeypatch):
    params(tmp_path, monkeypatch, "datasets: {d: {root: $NOWHERE_SET/x}}")
    monkeypatch.delenv("NOWHERE_SET", raising=False)
    with pytest.raises(ParamsError, match="export NOWHERE_SET=/path/to/d"):
        read_dataset("d")
    monkeypatch.setenv("NOWHERE_SET", "/data")
    assert read_dataset("d")["root"] == "/data/x"


def test_an_unknown_dataset_names_those_that_are_there(tmp_path, monkeypatch):
    params(tmp_path, monkeypatch, "datasets: {one: {}, two: {}}")
    with pytest.raises(ParamsError, match="one, two"):
        read_dataset("three")


def test_broken_yaml_is_named(tmp_path, monkeypatch):
    params(tmp_path, monkeypatch, "a: [")
    with pytest.raises(ParamsError, match="not valid YAML"):
        read_params()


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "x"
    files.write(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_same_bytes_are_not_written_again(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    files.write_table(path, table)
    before = path.stat().st_mtime_ns, path.read_bytes()
    files.write_table(path, table)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_a_second_process_is_told_who_writes_and_a_killed_one_leaves_no_lock(tmp_path):
    hold = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from pipeline import files\n"
    )
    hold += f"with files.lock(Path({str(tmp_path / 'visual')!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    first = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {first.pid}"), files.lock(tmp_path / "visual"):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with files.lock(tmp_path / "visual"):
        assert (tmp_path / ".locks" / "visual").read_text().split()[0] == str(os.getpid())


def test_progress_off_a_terminal_is_plain_lines_with_rate_and_remaining_time(capsys):
    meter = progress.Progress(10, "visual", "video", every=0.0)
    time.sleep(0.01)
    meter.add(5, "waits for decode")
    meter.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("visual: 5/10 videos (50 %), ") and lines[0].endswith(" s left, waits for decode")


def test_enabling_a_dataset_keeps_comments_and_order(tmp_path):
    path = tmp_path / "params.yaml"
    original = (ROOT / "params.yaml").read_text()
    path.write_text(original)
    enable.enable_dataset(path, "msvd", str(tmp_path))
    expected = original.replace("- demo\n", "- demo\n- msvd\n").replace("root: $MSVD", f"root: {tmp_path}")
    assert path.read_text() == expected
    enable.disable_dataset(path, "msvd")
    assert path.read_text() == expected.replace("- msvd\n", "")
    with pytest.raises(ValueError, match="no dataset 'nope'"):
        enable.enable_dataset(path, "nope", None)
    with pytest.raises(ValueError, match="is not a folder"):
        enable.enable_dataset(path, "msvd", str(tmp_path / "absent"))


def test_seeds_are_of_one_dataset_and_go_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(original)
    monkeypatch.setenv("MSVD", str(tmp_path))
    enable.enable_dataset(Path("params.yaml"), "msvd")
    enabled = Path("params.yaml").read_text()
    enable.set_seeds(Path("params.yaml"), "msvd", [2, 0, 1])
    enable.set_seeds(Path("params.yaml"), "demo", [3])
    assert [(row["dataset"], row["seed"]) for row in read_params()["seeds"]] == [("msvd", 1), ("msvd", 2), ("demo", 3)]
    assert "{dataset: msvd, seed: 1}" in Path("params.yaml").read_text() and read_dataset("demo")
    enable.set_seeds(Path("params.yaml"), "demo", [0])
    enable.set_seeds(Path("params.yaml"), "msvd", [0])
    assert Path("params.yaml").read_text() == enabled
    enable.set_seeds(Path("params.yaml"), "msvd", [1])
    enable.disable_dataset(Path("params.yaml"), "msvd")
    assert Path("params.yaml").read_text() == original


def test_rivals_join_the_methods_and_the_report_opens_with_the_same_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    before = read_params()
    for _ in range(2):
        enable.add_rivals(Path("params.yaml"), "demo")
        after = read_params()
        assert set(after["methods"]) == {*before["methods"], *before["rivals"]} and read_dataset("demo")
        assert len(after["methods"]) == len(set(after["methods"])) and after["methods"][-1] == before["methods"][-1]
    assert after | {"methods": 0} == before | {"methods": 0}


def test_a_root_that_works_is_never_rewritten_and_one_that_does_not_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    original = (ROOT / "params.yaml").read_text()
    path.write_text(original)
    monkeypatch.setenv("MSVD", str(tmp_path))
    enable.enable_dataset(path, "msvd", "")
    assert path.read_text() == original.replace("- demo\n", "- demo\n- msvd\n")
    monkeypatch.delenv("FOLDER", raising=False)
    with pytest.raises(ValueError, match="type: make dataset NAME=folder ROOT=/path/to/folder"):
        enable.enable_dataset(path, "folder", "")
    with pytest.raises(ValueError, match="renders its own clips"):
        enable.enable_dataset(path, "demo", str(tmp_path))
    for inside in (ROOT, ROOT / "tests", ROOT.parent):
        with pytest.raises(ValueError, match="lie in one another"):
            enable.enable_dataset(path, "folder", str(inside))


@pytest.mark.parametrize("name", ["pay $HOME 100%", "~", "a b", "it's", "#1", "{x: y}", "$MSVD"])
def test_a_root_is_read_back_as_it_was_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "data" / name).mkdir(parents=True)
    enable.enable_dataset(Path("params.yaml"), "folder", f"data/{name}")
    assert read_dataset("folder")["root"] == str(tmp_path / "data" / name)


def test_the_makefile_hands_a_root_on_as_it_is():
    for root in ("/a/pay $HOME $(shell ls) 100%", "/a/it's"):
        done = subprocess.run(["make", "-n", "dataset", f"ROOT={root}"], cwd=ROOT, capture_output=True, text=True)
        line = next(line for line in done.stdout.splitlines() if "datasets.enable" in line)
        assert shlex.split(line)[-1] == root


COMMANDS = [  # whatever `python -m` runs
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("pipeline", "train", "eval")
    for path in sorted((ROOT / package).rglob("*.py"))
    if '\nif __name__ == "__main__":' in path.read_text()
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_with_a_sentence_on_ctrl_c_and_shows_its_own_faults_whole(name, monkeypatch):
    main = importlib.import_module(name).main
    for error, end, says in (
        (KeyboardInterrupt(), SystemExit, "stopped; the same command goes on from here"),
        (files.MissingError("run: dvc repro"), SystemExit, "run: dvc repro"),
        (KeyError("x"), KeyError, "x"),
    ):
        with pytest.raises(end, match=says), monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", Mock(side_effect=error))
            main()


@pytest.mark.parametrize(
    "error", [files.Reject("odd", "of no use"), files.DecodeError("damaged", "half"), files.PlanError("no times")]
)
def test_an_items_error_comes_back_from_another_process_as_it_was(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert (again.reason, again.detail) == (error.reason, error.detail)


def test_the_errors_are_one_tree():
    kinds = {one for one in vars(files).values() if isinstance(one, type) and issubclass(one, Exception)}
    assert all(issubclass(one, files.UniTriMError) for one in kinds) and issubclass(files.UniTriMError, ValueError)


def run_unread(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """A command whose output is a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    try:
        return subprocess.run(
            [sys.executable, *words], cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_seen_enough_gets_no_traceback(name):
    done = run_unread("-m", name, "--help")
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_nor_does_one_who_leaves_in_the_midst_of_real_output():
    show = ("-m", "pipeline.triplets", "--parser", "shallow", "--show", "a red ball rolls")
    for python in ((), ("-u",)):  # the pipe breaks when all is flushed, or at the first line
        done = run_unread(*python, *show)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_broken_pipe_that_is_not_the_readers_is_a_fault_and_shown_whole():
    @stage.command
    def main():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        main()
