"""Training on several processes: real ones, by torchrun over gloo. The gradients, the run and the scores are those of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support import ranks, worlds
from train import checkpoint, distributed
from train import run as train_run
from train.settings import count_processes

ROOT = Path(__file__).parents[2]
WORLDS = (2, 3)


def torchrun(count: int, module: str, *words, wait: bool = True, folder: Path = ROOT, **environment: str):
    """`torchrun --nproc-per-node count -m module words`, its output, or the process where nobody waits for it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    started = subprocess.Popen(
        [*command, module, *map(str, words)], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment, start_new_session=True,
    )  # fmt: skip
    if not wait:
        return started
    out, error = started.communicate(timeout=600)
    assert started.returncode == 0, error[-3000:]
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each process of each world computed: {world: [of a rank]}."""
    found = {}
    for world in WORLDS:
        folder = tmp_path_factory.mktemp(f"world{world}")
        torchrun(world, "tests.support.ranks", folder)
        found[world] = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    return found


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "case",
    ranks.cases(),
    ids=lambda case: "-".join([case[0], *(str(value) for key, value in case[1].items() if key != "tail")]),
)
def test_gradients_are_those_of_one_process(case, world, made):
    alone = ranks.gradients(*case)
    for process in made[world]:
        of_phases = process[f"{case[0]} {case[1]}"]
        assert of_phases.keys() == alone.keys()
        for phase, grads in alone.items():
            assert of_phases[phase].keys() == grads.keys()
            largest = max(grad.abs().max() for grad in grads.values())
            for name, grad in grads.items():
                assert (of_phases[phase][name] - grad).abs().max() <= 1e-6 * largest, (phase, name)


def test_the_comparison_can_fail(made):
    """Gradients of different parts of a batch are not alike: had each process kept its own, the test above would see it."""
    alone = ranks.gradients("clip4clip", {})["alignment"]
    with distributed.sharing(ranks.SAMPLES):  # one process, as outside of torchrun
        features = ranks.part_of(ranks.whole_batch(), distributed.Share(ranks.SAMPLES, 0, 1))
    assert len(features["frame"]) == ranks.SAMPLES
    assert any(grad.abs().max() > 1e-3 for grad in alone.values())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return worlds.cache(tmp_path_factory.mktemp("cache") / "world", videos=32)


WORDS = {  # batches of 5 are shared unevenly; 16 train videos with 2 captions leave 2 captions over
    "clip4clip": {"epochs": 3, "batch": 5, "learning_rate": 1e-3},
    "unitrim": {
        "epochs": 2,
        "batch": 5,
        "k": 2,
        "samples": 8,
        "disentangler_hidden": 16,
        "selector_hidden": 8,
        "image_epochs": 1,
        "image_batch": 7,
        "image_alike": 2,
    }
    | {"inner_video": 0.1, "outer_video": 1.0, "fusion": "val"},
}


def words(shards: Path, name: str, out: Path, *more: str) -> list[str]:
    settings = [f"{key}={value}" for key, value in WORDS[name].items()]
    return ["--shards", str(shards), "--method", name, "--out", str(out), *more, "--set", *settings]


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, settings in WORDS.items():
        train_run.run(shards, folder / name, name, 0, settings)
    return folder


def assert_alike(one: Path, other: Path):
    """Weights and losses of two runs are the same to rounding, which Adam makes larger: it divides small gradients by their size.

    A relative change of 1e-6 in the first weights moves a bias of the unitrim run of one process by 2e-3.
    """
    first, second = (checkpoint.read(folder)["model"] for folder in (one, other))
    for name, weight in first.items():
        assert torch.allclose(weight, second[name], rtol=5e-3, atol=5e-3), (name, (weight - second[name]).abs().max())
    histories = [
        [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    assert len(histories[0]) == len(histories[1])
    for place, (a, b) in enumerate(zip(*histories)):
        assert a.get("step") == b.get("step") and a.keys() == b.keys()
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-3 if place else 1e-6)


@pytest.mark.parametrize(("name", "world"), [("clip4clip", 2), ("unitrim", 3)])
def test_a_run_on_several_processes_is_the_run_of_one(name, world, shards, alone, tmp_path):
    said = torchrun(world, "train.run", *words(shards, name, tmp_path / name))
    assert said.count("parameters trained in") == 1  # one process speaks
    assert_alike(alone / name, tmp_path / name)
    record = checkpoint.facts(tmp_path / name)
    assert record["processes"] == world and record["complete"]
    if name == "unitrim":
        weights = [checkpoint.facts(folder / name)["fusion"]["weights"] for folder in (alone, tmp_path)]
        assert weights[1] == pytest.approx(weights[0], abs=0.02)
    again = torchrun(1, "train.run", *words(shards, name, tmp_path / name))
    assert "is complete with these settings" in again  # of how many processes does not matter


def test_a_run_that_is_killed_goes_on_with_another_number_of_processes(shards, alone, tmp_path):
    out = tmp_path / "clip4clip"
    started = torchrun(3, "train.run", *words(shards, "clip4clip", out), wait=False)
    while not (out / "checkpoint.pt").exists() and started.poll() is None:
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    place = checkpoint.read(out)["training"]
    torchrun(2, "train.run", *words(shards, "clip4clip", out, "--resume"))
    assert_alike(alone / "clip4clip", out)
    assert place is None or place["epoch"] >= 1 or place["phase"] == 1


def test_scores_on_several_processes_are_the_same_bits(shards, alone, tmp_path):
    big = worlds.cache(tmp_path / "big", videos=560)  # 140 test videos are three blocks
    run = big / "runs" / "unitrim"
    shutil.copytree(alone / "unitrim", run)
    record = checkpoint.facts(run)
    checkpoint.describe(run, record | {"dataset": "big"})
    found = []
    for world in (1, 2, 3):
        said = torchrun(world, "eval.run", "--of", run, "--shards", big)
        assert said.count("the joint gallery is calibrated") == 1
        scores = big / "scores" / "unitrim"
        found.append({path.name: path.read_bytes() for path in sorted(scores.iterdir())})
        shutil.rmtree(scores)
    assert found[0] == found[1] == found[2]


def test_a_batch_smaller_than_the_processes_ends_with_one_sentence(shards, tmp_path):
    started = torchrun(3, "train.run", *words(shards, "clip4clip", tmp_path / "run"), "batch=2", wait=False)
    _, error = started.communicate(timeout=300)
    assert started.returncode and error.count("train: a batch of 2 cannot be shared by 3 ranks") == 1


def test_how_many_processes_train_is_said_in_params(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("defaults: {train: {processes: auto}}\ndatasets: {few: {train: {processes: 2}}, all: {}}")
    assert [count_processes(Path("cache/all"), gpus, params) for gpus in (0, 1, 4)] == [1, 1, 4]
    assert [count_processes(Path("cache/few"), gpus, params) for gpus in (0, 1, 4)] == [2, 1, 2]
    assert count_processes(Path("cache/all"), 4, tmp_path / "none.yaml") == 1


def test_params_start_the_processes(shards, alone, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").write_text("datasets: {world: {train: {processes: 2}}}")
    command = [sys.executable, "-m", "train.run", *words(shards, "clip4clip", tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    assert checkpoint.facts(tmp_path / "run")["processes"] == 2
    assert_alike(alone / "clip4clip", tmp_path / "run")
