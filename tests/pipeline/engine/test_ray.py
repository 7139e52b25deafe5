"""A cluster of several machines on this one, whose machines, actors and workers really die."""

import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.files import Reject, WorkerError
from tests.pipeline.engine.test_engine import work as misbehave
from tests.support import machines as clusters

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
from pipeline.engine import driver  # noqa: E402
from pipeline.engine import ray as engine  # noqa: E402

STORE = 80 << 20  # bytes of a machine's object store, about the least that Ray takes
NO_DISK = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0001}  # for a full store


def prepare(item):
    """As the local engine's tests, and arrays of a size."""
    name, number = item
    if name == "large":
        return np.full((number, 1 << 20), 7, np.uint8)
    if name == "slow":
        time.sleep(0.3)
    if name.startswith("cut") and not os.path.exists(number):
        open(number, "w").close()
        server = os.getppid()
        actor = Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[1]
        os.kill(int(actor) if name == "cut actor" else server, signal.SIGKILL)
        time.sleep(600)
    return (
        number
        if name in ("slow", "cut actor", "cut server", "end", "end once", "refused", "wrong")
        else misbehave(item)
    )


class Finisher:
    """Adds where it was done."""

    def __init__(self, folder="."):
        self.folder, self.loaded = Path(folder), False

    def load(self):
        self.loaded = True

    def finish(self, item, value):
        assert self.loaded
        name, number = item
        if name == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "end once" and not (self.folder / "seen").exists():
            (self.folder / "seen").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "refused":
            raise Reject("too_dull", f"number {number}")
        if name == "wrong":
            raise WorkerError("a sentence")
        return value, ray.get_runtime_context().get_node_id(), os.getpid()


class Slow(Finisher):
    """Takes longer than preparing does."""

    def finish(self, item, value):
        time.sleep(0.4)
        return super().finish(item, value)


def facts():
    return {"release": "1"}


@pytest.fixture(scope="module")
def head():
    """One machine; the driver is on it."""
    with clusters.started(1, NO_DISK, object_store_memory=STORE) as one:
        yield one


@pytest.fixture
def machines(head):
    """Add machines to the cluster for one test."""
    added = []

    def add(count):
        added.extend(head.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(count))
        return added

    yield add
    for node in added:
        if node in head.worker_nodes:
            head.remove_node(node)


def run(items, finisher=None, **limits):
    return engine.Cluster().run(prepare, finisher or Finisher(), items, **({"facts": facts} | limits))


def outcomes(items, finisher=None, **limits):
    found = list(run(items, finisher, **limits))
    assert sorted(outcome.index for outcome in found) == list(range(len(items))), "each item once"
    return {outcome.index: outcome for outcome in found}


def test_every_machine_has_its_part_and_every_item_one_outcome(head, machines):
    machines(2)
    items = [("slow", number) for number in range(40)]
    found = outcomes(items)
    assert [found[index].value[0] for index in range(40)] == list(range(40))
    assert len({outcome.value[1] for outcome in found.values()}) == 3


def test_what_has_a_gpu_finishes_and_every_machine_prepares(head, monkeypatch):
    """Two finishers share the one GPU (there is none: Ray counts what a machine is said to have)."""
    node = head.add_node(num_cpus=2, num_gpus=1)
    prepared = set()

    class Driver(engine.Driver):
        def end(self, work, *rest):
            prepared.add(work.preparer.machine)
            return super().end(work, *rest)

    monkeypatch.setattr(engine, "Driver", Driver)
    assert engine.Cluster().device == "cuda"
    found = outcomes([("slow", number) for number in range(40)], Slow(), device="cuda", share=0.5)
    head.remove_node(node)
    assert {outcome.value[1] for outcome in found.values()} == {node.node_id} and len(prepared) == 2
    assert len({outcome.value[2] for outcome in found.values()}) == 2


def test_a_machine_that_is_killed_costs_no_item(head, machines):
    nodes = machines(2)
    stream, found = run([("slow", number) for number in range(60)]), []
    for outcome in stream:
        found.append(outcome)
        if len({one.value[1] for one in found}) == 3 and nodes[0] in head.worker_nodes:
            head.remove_node(nodes[0], allow_graceful=False)
    assert nodes[0] not in head.worker_nodes, "it was killed in mid-run"
    assert sorted(outcome.value[0] for outcome in found) == list(range(60))


def test_machines_that_die_one_after_another_while_an_item_is_alone_on_them_are_its_fault(head):
    work, one = driver.Work(0, "item"), driver.Driver(engine.Cluster(), [], "cpu", 1.0, 1, 1)
    one.cluster.machines, one.tell = dict, print
    error = ray.exceptions.ActorDiedError()
    for alone, expected in ((False, "waiting"), (False, "suspects"), (True, "suspects"), (True, "crashed")):
        one.alone = work if alone else None
        station = driver.Station("preparer", "gone", None, 1)
        work.preparer = station
        outcome = one.lose(station, work, error)
        where = [name for name in ("waiting", "suspects") if work in getattr(one, name)]
        assert where == [expected] if outcome is None else outcome.reason == expected
        one.waiting.clear()
        one.suspects.clear()


@pytest.mark.parametrize("name", ["kill", "hang"])
def test_an_item_that_ruins_its_worker_is_tried_alone_and_rejected(head, name):
    items = [("slow", 0), (name, 1), ("slow", 2), ("slow", 3)]
    found = outcomes(items, seconds=1.0)
    assert [index for index in found if not found[index].ok] == [1]
    assert found[1].reason == {"kill": "crashed", "hang": "timeout"}[name] and "twice" in found[1].detail


def test_an_item_that_kills_the_actor_costs_itself(head):
    items = [("slow", 0), ("end", 1), ("slow", 2), ("refused", 3), ("slow", 4)]
    found = outcomes(items)
    assert {index: found[index].reason for index in range(5) if not found[index].ok} == {1: "crashed", 3: "too_dull"}
    assert found[1].detail == "the process that worked on it died, twice"


def test_an_item_that_kills_the_actor_once_costs_nothing(head, tmp_path):
    """Alone in this: where another kills an actor that also has it, its own first time may be its second."""
    found = outcomes([("slow", 0), ("end once", 1), ("slow", 2)], Finisher(tmp_path))
    assert (tmp_path / "seen").exists() and [found[index].value[0] for index in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("what", ["actor", "server"])
def test_an_actor_or_its_fork_server_that_is_killed_with_all_that_it_has_loses_none_of_it(head, tmp_path, what):
    items = [("slow", 0), ("slow", 1), (f"cut {what}", str(tmp_path / "cut")), ("slow", 3), ("slow", 4)]
    found = outcomes(items)
    assert (tmp_path / "cut").exists() and all(outcome.ok for outcome in found.values())


class Homesick(Finisher):
    """Cannot be unpacked in another process."""

    def __reduce__(self):
        return stay_in, (os.getpid(),)


def stay_in(process):
    if os.getpid() != process:
        raise ImportError("there is no such library here")
    return Homesick()


def test_where_nothing_begins_it_is_told_why(head):
    said = []
    with pytest.raises(WorkerError, match="no machine of the Ray cluster can do the work: .*no such library here"):
        list(run([("slow", 0)], Homesick(), tell=said.append))
    assert len(said) == 1 and said[0].startswith("left out, for nothing begins there: ")


def test_a_full_object_store_makes_the_run_slower_and_loses_nothing(head):
    ballast = ray.put(np.ones(STORE - (22 << 20), np.uint8))
    found = outcomes([("large", 7)] * 12)
    assert all(outcome.ok and outcome.value[0].shape == (7, 1 << 20) for outcome in found.values())
    del ballast


def test_an_object_store_that_stays_full_ends_the_run_with_a_sentence(head, monkeypatch):
    monkeypatch.setattr(driver, "START_SECONDS", 20.0)  # actors of a busy machine start in less
    ballast = ray.put(np.ones(STORE - (6 << 20), np.uint8))
    with pytest.raises(WorkerError, match="object store has been full for 20 s on .*--object-store-memory"):
        list(run([("large", 7)] * 3, seconds=100))
    del ballast


def test_what_the_finisher_raises_is_raised(head):
    with pytest.raises(WorkerError, match="a sentence"):
        list(run([("slow", 0), ("wrong", 1)]))


def release_in(process):
    return {"release": "1" if os.getpid() == process else "2"}


def test_a_machine_that_is_not_like_this_one_is_named(head):
    with pytest.raises(WorkerError, match=r"release of [\d.]+: 2; here: 1"):
        list(run([("slow", 0)], facts=partial(release_in, os.getpid())))


def test_no_free_core_is_told(head, monkeypatch):
    monkeypatch.setattr(driver, "START_SECONDS", 2.0)
    taken = ray.remote(num_cpus=1)(Finisher).remote()
    ray.get(taken.load.remote())
    with pytest.raises(WorkerError, match="no machine has a free core"):
        list(run([("slow", 0)]))
    ray.kill(taken)


def test_a_caller_that_stops_early_leaves_no_actor(head):
    stream = run([("slow", number) for number in range(20)])
    next(stream)
    stream.close()
    for _ in range(50):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return
        time.sleep(0.1)
    pytest.fail("an actor still holds its core")


def test_no_cluster_where_one_is_named_is_told(head, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody answers")))
    with pytest.raises(WorkerError, match="no Ray cluster at 192.0.2.1:6379 .nobody answers"):
        with engine.connect("192.0.2.1:6379"):
            pass


def test_nothing_to_do_starts_nothing(head):
    assert list(run([])) == []


def test_a_machine_that_comes_in_mid_run_gets_its_part(head, machines):
    places = set()
    for number, outcome in enumerate(run([("slow", number) for number in range(60)])):
        places.add(outcome.value[1])
        if number == 1:
            new = machines(1)[0].node_id
    assert new in places and len(places) == 2


SLICE = """
import os, pathlib, sys, time
word = sys.argv[-1].replace("/", "-of-")
tries = pathlib.Path(f"{word}.tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
time.sleep(float(sys.argv[2]))
if sys.argv[1] != "never" and word.startswith("1-") and (sys.argv[1] == "always" or len(tries.read_text()) == 1):
    sys.exit("slice one is no good")
pathlib.Path(word).touch()
"""


def slices(how, seconds, cluster=None):
    said = []
    Path("job.py").write_text(SLICE)
    (cluster or engine.Cluster()).run_slices(["-m", "job", how, seconds], 8, None, said.append)
    return said, {path.name: len(path.read_text()) for path in Path().glob("*.tries")}


@pytest.mark.parametrize("how", ["once", "always"])
def test_a_slice_that_fails_is_run_once_more_and_then_left_to_the_last_run(head, machines, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    machines(1)
    said, tries = slices(how, "0")
    assert tries == {"1-of-2.tries": 2, "2-of-2.tries": 1}
    assert Path("2-of-2").exists() and Path("1-of-2").exists() == (how == "once")
    lacks = ["slice 1/2 failed (slice one is no good); what it lacks is made here"]
    assert said == (lacks if how == "always" else [])


def test_a_slice_whose_machine_dies_goes_to_another(head, machines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = machines(1)[0]

    class Dying(engine.Cluster):
        """One of whose machines is killed once both have a slice."""

        def machines(self):
            if len(list(tmp_path.glob("*.tries"))) == 2 and node in head.worker_nodes:
                head.remove_node(node, allow_graceful=False)
            return super().machines()

    said, tries = slices("never", "4", Dying())
    assert sorted(tries.values()) == [1, 2], (said, tries)
    assert re.fullmatch("the process of slice [12]/2, or its machine, is lost; it goes to another", said[0])
    assert len(said) == 1
    assert Path("1-of-2").exists() and Path("2-of-2").exists()
