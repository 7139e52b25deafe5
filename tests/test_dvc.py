"""DVC as its users know it: a tiny folder of clips through the real `dvc`, without captions, beside a dataset that fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import house, tiny

ROOT = Path(__file__).parents[1]


def dvc(home: Path, *words: str) -> str:
    """What a dvc command says; it must end well."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(["dvc", *words], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(home: Path, *words: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *words], cwd=home, check=True, capture_output=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A copy of the project with a folder of five clips without captions, the same with captions that name no split, and another
    dataset whose root is nowhere."""
    home = tmp_path_factory.mktemp("project")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        if not name.startswith(("tests/", ".venv", "tools")):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / name)
    films = tmp_path_factory.mktemp("my films 100%")
    for seed in range(5):
        house.clip(films / f"{seed}.mp4", seed)
    (films / "bad.mp4").write_text("no film")
    told = tmp_path_factory.mktemp("told")
    shutil.copytree(films, told, dirs_exist_ok=True)
    (told / "worse.jpg").write_bytes(b"\xff\xd8\xff no photo")
    lines = [f"{seed}.mp4,a man rides a red horse number {seed}" for seed in range(5)]
    (told / "captions.csv").write_text("\n".join(["file,caption", *lines, "bad.mp4,a film that is none"]) + "\n")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"enabled": ["folder", "told", "msvd"], "methods": ["zero_shot", "clip4clip"]}
    params["indexes"] = {"told": {"method": "zero_shot", "recall": 0.9}}
    params["defaults"] |= {
        "frames": 3,
        "shards": 2,
        "thumbnail": 32,
        "clip": str(tiny.clip(tmp_path_factory.mktemp("clip"))),
    }
    params["datasets"]["folder"]["root"] = str(films)
    params["datasets"]["told"] = params["datasets"]["folder"] | {"root": str(told)}
    params["datasets"]["msvd"]["root"] = "/nowhere"
    (home / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(home, "init", "-q")
    git(home, "add", "-A")
    git(home, "commit", "-qm", "project")
    dvc(home, "repro", "report@folder", "report@told")
    git(home, "add", "-A")
    git(home, "commit", "-qm", "run")
    return home


def test_a_folder_without_captions_ends_with_a_cache_and_a_report_whatever_another_dataset_does(home):
    cache = home / "cache" / "folder"
    assert json.loads((cache / "visual" / "visual.json").read_text())["reasons"] == {"not_a_video": 1}
    assert (
        "not trained: the train split has no captions"
        in json.loads((cache / "runs/clip4clip/run.json").read_text())["skipped"]
    )
    assert (cache / "runs" / "zero_shot" / "checkpoint.pt").exists()
    assert "can be searched" in (cache / "report" / "index.html").read_text()


def test_captions_without_a_split_are_searched_and_scored_and_bad_files_cost_themselves(home):
    cache = home / "cache" / "told"
    assert json.loads((cache / "visual" / "visual.json").read_text())["reasons"] == {"damaged": 1, "not_a_video": 1}
    assert json.loads((cache / "scores/zero_shot/metrics.json").read_text())["n"]["texts"] == 5
    assert "not trained: the train split has no captions" in (cache / "report" / "index.html").read_text()


def test_metrics_are_a_row_a_dataset_and_three_numbers_a_method(home):
    shown = json.loads(dvc(home, "metrics", "show", "--json"))[""]["data"]
    few = shown["cache/told/summary.json"]["data"]
    assert set(few) == {"zero_shot"} and set(few["zero_shot"]) == {"t2v_R@1", "t2i_R@1", "both_R@10"}
    assert shown["cache/folder/summary.json"]["data"] == {}, "nothing to score by"
    (home / "cache/told/summary.json").unlink()
    (home / "cache/told/summary.json").write_text(json.dumps({"zero_shot": few["zero_shot"] | {"t2v_R@1": 0.5}}))
    changed = json.loads(dvc(home, "metrics", "diff", "--json"))["cache/told/summary.json"]
    assert changed["zero_shot.t2v_R@1"]["new"] == 0.5, "the commit's own numbers are still there to compare with"
    dvc(home, "checkout", "--force", "cache/told/summary.json")


def test_a_second_run_has_nothing_to_do_but_look(home):
    said = dvc(home, "repro", "report@folder")
    assert [line.split("'")[1] for line in said.splitlines() if line.startswith("Running")] == ["manifest@folder"]


def test_another_test_caption_is_scored_and_trains_nothing_again(home):
    told = Path(yaml.safe_load((home / "params.yaml").read_text())["datasets"]["told"]["root"]) / "captions.csv"
    before = told.read_text()
    told.write_text(before.replace("number 3", "which is the third"))
    said = dvc(home, "repro", "report@told")
    run = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running")]
    assert {"text@told", "inputs@told", "eval@told-zero_shot", "report@told"} <= set(run)
    assert not any(name.startswith("train") for name in run)
    told.write_text(before)


def test_a_default_reruns_what_it_must_and_changes_nothing_else(home):
    before = yaml.safe_load((home / "params.yaml").read_text())
    said = dvc(home, "exp", "run", "-S", "defaults.triplets.cap=2", "report@folder")
    run = [line.split("'")[1] for line in said.splitlines() if line.startswith("Running")]
    assert run[:2] == ["manifest@folder", "triplets@folder"]
    assert not any(name.startswith(("visual", "train", "eval")) for name in run), "no method here needs triplets"
    before["defaults"]["triplets"]["cap"] = 2
    assert yaml.safe_load((home / "params.yaml").read_text()) == before
    assert "defaults.triplets.cap" in dvc(home, "params", "diff")


def test_the_stages_of_one_dataset_fit_a_screen(home):
    lines = dvc(home, "dag", "--collapse-foreach-matrix", "report@folder").splitlines()
    assert len(lines) <= 50 and max(len(line.rstrip()) for line in lines) <= 165


def test_rows_of_the_papers_tables_are_shown_by_their_paths(home):
    """Their runs are no stages; `dvc metrics` and `dvc plots` read them all the same, and nothing is fetched."""
    scores, row = home / "cache/told/scores/zero_shot", home / "cache/told/scores/table-row"
    row.mkdir()
    (row / "recall.csv").write_text("K,recall\n1,20.25\n2,60.5\n")
    shutil.copy(scores / "metrics.json", row / "metrics.json")
    words = ["--dataset", "told", "--as-is"]
    subprocess.run(
        [sys.executable, "-m", "eval.tables", *words], cwd=home, check=True, capture_output=True, env=os.environ
    )
    shown = json.loads(dvc(home, "metrics", "show", "--json", "cache/told/tables/metrics.json"))[""]["data"]
    few = shown["cache/told/tables/metrics.json"]["data"]
    assert set(few) == {"zero_shot", "table-row"} and few["table-row"] == few["zero_shot"]
    dvc(home, "plots", "show", "cache/told/scores/table-row/recall.csv", "-x", "K", "-y", "recall", "-o", "drawn")
    page = (home / "drawn" / "index.html").read_text()
    assert "20.25" in page and "60.5" in page and 'src="http' not in page and "<link" not in page
    shutil.rmtree(row)
    shutil.rmtree(home / "cache/told/tables")


def test_the_index_of_a_dataset_is_a_stage_that_encodes_what_is_new(home):
    """The last that uses `home`: a film comes and goes, and the scores that stand are of other shards then."""
    films = Path(yaml.safe_load((home / "params.yaml").read_text())["datasets"]["told"]["root"])
    where = home / "cache/told/index/zero_shot/index.json"

    def encoded() -> dict[str, tuple[int, int]]:
        kinds = json.loads(where.read_text())["kinds"]
        return {kind: (one["items"], one["encoded"]) for kind, one in kinds.items()}

    again = "Running stage 'index@told'"
    assert again in dvc(home, "repro", "index@told")
    assert encoded() == {"video": (5, 5), "image": (5, 5)}
    assert again not in dvc(home, "repro", "index@told")
    house.clip(films / "sixth.mp4", 6)
    dvc(home, "repro", "index@told")
    assert encoded() == {"video": (6, 1), "image": (6, 1)}
    (films / "sixth.mp4").unlink()


def test_plots_are_drawn_without_a_network():
    page = (ROOT / ".dvc" / "plots.html").read_text()
    assert "{plot_divs}" in page and "https://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "{scripts}" not in page and "html_template = plots.html" in (ROOT / ".dvc" / "config").read_text()
