"""The stages on a cluster of several machines: the local engine's bytes, whatever dies in mid-run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from pipeline import visual
from tests.pipeline.test_visual import World, made, spoil  # noqa: F401
from tests.support import house, machines
from tests.support.commands import command

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
from pipeline.engine import ray as engine  # noqa: E402

MARK = "UNITRIM_TEST_RUN"  # in the environment of whatever a test starts


@pytest.fixture(scope="module")
def cluster():
    """Three machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visual, "ITEMS_PER_WORKER", 2)  # a machine for two items
        with machines.started(3) as three:
            yield three


@pytest.fixture(scope="module")
def local(tmp_path_factory, made):  # noqa: F811
    """What the local engine makes of fourteen films, two of which are none, and a photo."""
    world = World(tmp_path_factory.mktemp("local"), made)
    spoil(world)
    world.run()
    return world.files()


@pytest.fixture
def world(tmp_path, made):  # noqa: F811
    world = World(tmp_path, made)
    spoil(world)
    return world


def test_three_machines_make_the_bytes_of_one(world, local, cluster, capsys):
    world.run("--engine", "ray")
    assert "15 items = 0 kept + 13 encoded + 2 rejected" in capsys.readouterr().out
    assert world.files() == local
    world.run("--engine", "local")
    assert "13 kept + 0 encoded" in capsys.readouterr().out, "another engine makes nothing anew"
    assert world.files() == local


def test_a_machine_killed_in_mid_run_changes_no_byte(world, local, cluster, monkeypatch, capsys):
    lost = []

    class Driver(engine.Driver):
        """Kills a machine that has work, once."""

        def take(self, reference):
            nodes = {node.node_id: node for node in cluster.worker_nodes}
            busy = [station for station in self.stations if station.machine in nodes and station.busy and station.begun]
            if busy and not lost:
                lost.append(len(busy[0].busy))
                cluster.remove_node(nodes[busy[0].machine], allow_graceful=False)
            return super().take(reference)

    monkeypatch.setattr(engine, "Driver", Driver)
    world.run("--engine", "ray")
    cluster.add_node(num_cpus=1)
    assert lost and world.files() == local
    assert re.search(r"[\d.]+ is lost; what it had goes to the others", capsys.readouterr().err)


def stage(world, *words, **environment):
    """The stage as a process of its own."""
    command = [sys.executable, "-m", "pipeline.visual", "--dataset", "films", "--device", "cpu", *words]
    return subprocess.Popen(
        command,
        cwd=world.folder,
        env=os.environ | {"PYTHONPATH": str(machines.ROOT), "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(world, process, count):
    """Until so many shards are written, or the process has ended."""
    until = time.monotonic() + 180  # a busy machine starts a cluster slowly
    while len(list((world.cache / "visual").glob("*.h5"))) < count and process.poll() is None:
        assert time.monotonic() < until, "no shard was written"
        time.sleep(0.02)


def survivors(mark):
    """Processes that bear the mark and run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def none_is_left(mark, but="\0"):
    """Within a minute: on a busy machine some of Ray's processes need half of one to see that their driver is gone."""
    until = time.monotonic() + 60
    while any(not line.startswith(but) for line in survivors(mark)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_a_driver_that_is_killed_is_run_again(world, local, cluster, capsys):
    world.set(shards=8, ray={"address": cluster.address}, engine="ray")
    process = stage(world)
    wait_for_shards(world, process, 2)
    process.kill()
    process.communicate()
    standing = {name: data for name, data in world.files().items() if name.endswith(".h5")}
    assert 0 < len(standing) < 8, "it was killed in mid-run"
    world.run()
    said = capsys.readouterr().out
    kept = int(said.split("items = ")[1].split()[0])
    assert 0 < kept < 13, said
    assert {name: data for name, data in world.files().items() if name in standing} == standing
    world.set(shards=3)
    world.run("--engine", "local")  # deals the rows out anew and makes none
    assert "13 kept + 0 encoded" in capsys.readouterr().out and world.files() == local


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_local_cluster_ends_with_its_driver_and_leaves_no_process(world, end):
    mark = uuid.uuid4().hex
    world.set(shards=8)
    process = stage(world, "--engine", "ray", **{MARK: mark})
    wait_for_shards(world, process, 1)
    assert len(survivors(mark)) > 4
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does
        said = process.communicate(timeout=30)[1].strip().splitlines()
        assert said[-1] == "stopped; the same command goes on from here"
        assert none_is_left(mark), survivors(mark)
    else:
        process.kill()
        process.communicate()
        # an agent of Ray's own first tries for a minute to tell a cluster that is no more, and then ends too
        assert none_is_left(mark, but="ray::DashboardAgent"), survivors(mark)


def test_a_run_says_nothing_but_what_the_stage_says(world, local):
    world.set(engine="ray")
    process = stage(world)
    said, warned = process.communicate(timeout=180)
    assert said.startswith("visual: 15 items") and said.count("\n") == 1
    lines = [line for line in warned.splitlines() if not line.startswith("visual: ")]
    assert not lines and "left" in warned, warned
    assert json.loads((world.cache / "visual" / "visual.json").read_text())["ok"] == 13
    assert world.files() == local


# --- the stages whose items are too small to travel: their slices do


@pytest.fixture
def sentences(tmp_path, monkeypatch):
    """A dataset of sixteen films with captions, its manifest and its CLIP."""
    house.build(tmp_path, 16, shards=4)
    monkeypatch.chdir(tmp_path)
    for name in ("manifest", "clip"):
        command(f"pipeline.{name}", "--dataset", "bench")
    return Path("cache/bench")


def test_captions_are_parsed_and_encoded_by_slices_to_the_same_bytes(sentences, cluster, capfd):
    def content():
        paths = [sentences / "triplets.parquet", *sorted((sentences / "text").glob("*.h5"))]
        return {path.name: path.read_bytes() for path in paths}

    command("pipeline.triplets", "--dataset", "bench")
    command("pipeline.text", "--dataset", "bench", "--device", "cpu")
    before = content()
    shutil.rmtree(sentences / "text")
    (sentences / "triplets.parquet").unlink()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(f"{text}    engine: ray\n    ray: {{address: '{cluster.address}'}}\n")
    capfd.readouterr()
    command("pipeline.triplets", "--dataset", "bench")
    command("pipeline.text", "--dataset", "bench", "--device", "cpu")
    said, shown = capfd.readouterr()
    assert "triplets: 3/3 slices" in shown and "text: 3/3 slices" in shown and "failed" not in shown
    assert "61 kept + 0 encoded; 123 phrases = 123 kept + 0 encoded; 0 of 4 shards written" in said
    assert content() == before
    command("pipeline.text", "--dataset", "bench", "--device", "cpu", "--engine", "local")
    assert content() == before and "61 kept + 0 encoded" in capfd.readouterr().out
