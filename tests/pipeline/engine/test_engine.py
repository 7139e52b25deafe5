"""Workers that really hang, die and grow; each costs its own item."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pipeline.engine import connect, run
from pipeline.files import MissingError, Reject, WorkerError


def work(item):
    """What the items below ask for."""
    name, number = item
    if name == "hang":
        time.sleep(600)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "grow":
        hoard = []
        while True:
            hoard.append(np.ones(4 << 20))
    if name == "bug":
        raise KeyError("no such thing")
    if name == "refuse":
        raise Reject("too_dull", f"number {number}")
    if name == "leave":
        sys.exit(3)
    return {"square": np.full((300, 300), number**2), "pid": os.getpid()}


def once(item):
    """Dies on the first try only: `item` is a path that remembers."""
    if isinstance(item, str) and not os.path.exists(item):
        open(item, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def unimportable(item):
    """Never runs."""


def outcomes(items, **limits):
    return {outcome.index: outcome for outcome in run(work, items, **limits)}


def test_every_item_has_one_outcome_with_its_own_value():
    found = outcomes([("fine", number) for number in range(40)], workers=2)
    assert sorted(found) == list(range(40))
    assert all((found[number].value["square"] == number**2).all() for number in range(40))
    assert len({outcome.value["pid"] for outcome in found.values()}) <= 2


def test_a_refused_item_is_a_row_with_its_reason():
    found = outcomes([("fine", 1), ("refuse", 7)])
    assert found[0].ok and not found[1].ok
    assert (found[1].reason, found[1].detail) == ("too_dull", "number 7")


@pytest.mark.parametrize(
    ("name", "reason", "word"),
    [
        ("hang", "timeout", "0.5 s"),
        ("kill", "crashed", "SIGKILL"),
        ("fault", "crashed", "SIGSEGV"),
        ("grow", "memory", "300 MiB"),
        ("bug", "crashed", "no such thing"),
        ("leave", "crashed", "status 3"),
    ],
)
def test_a_worker_that_fails_costs_exactly_its_item(name, reason, word):
    items = [("fine", 1), ("fine", 2), (name, 3), ("fine", 4), ("fine", 5), ("fine", 6)]
    found = outcomes(items, workers=2, seconds=0.5 if name == "hang" else 20, memory=300 << 20)
    assert [index for index in sorted(found) if not found[index].ok] == [2]
    assert found[2].reason == reason
    assert word in found[2].detail and "twice" in found[2].detail
    assert (found[5].value["square"] == 36).all()


def test_an_item_that_fails_once_is_tried_again(tmp_path):
    found = list(run(once, [1, str(tmp_path / "seen"), 2], workers=2))
    assert all(outcome.ok for outcome in found) and len(found) == 3


def test_several_bad_items_in_a_row_all_get_their_reason():
    found = outcomes([("kill", 0), ("fault", 1), ("kill", 2), ("fine", 3)], workers=2)
    assert [found[index].reason for index in range(4)] == ["crashed", "crashed", "crashed", ""]


def test_a_caller_that_stops_early_leaves_no_process():
    stream = run(work, [("fine", 1)] + [("hang", 2)] * 3, workers=2)
    pid = next(stream).value["pid"]
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_results_wait_for_the_caller_only_so_far():
    stream = run(once, list(range(50)), workers=1, ahead=2)
    next(stream)
    time.sleep(0.3)
    supervisor = stream.gi_frame.f_locals["supervisor"]
    assert supervisor.finished.qsize() <= 3
    assert len(list(stream)) == 49


def test_a_function_that_cannot_be_imported_ends_with_words(monkeypatch):
    monkeypatch.setattr(unimportable, "__qualname__", "gone")
    monkeypatch.setattr(sys.modules[__name__], "gone", unimportable, raising=False)
    with pytest.raises(WorkerError, match="died before its first item.*gone"):
        list(run(unimportable, [1]))


def test_workers_die_with_a_killed_caller(tmp_path):
    code = (
        "from pipeline.engine import run; from tests.pipeline.engine.test_engine import work\n"
        "for outcome in run(work, [('fine', 1), ('hang', 2)]): print(outcome.value['pid'], flush=True)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"worker {pid} outlived its caller")


def alive(pid):
    """Whether a process runs (a zombie that nobody has collected yet does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nothing_to_do_is_nothing_done():
    assert list(run(work, [])) == []


def test_an_engine_whose_library_is_not_installed_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipeline.engine.ray", raising=False)
    monkeypatch.delattr("pipeline.engine.ray", raising=False)
    with pytest.raises(MissingError, match="pip install -r requirements-ray.txt"), connect("ray", "local"):
        pass


def test_the_local_engine_needs_no_library():
    with connect("local", "") as cluster:
        assert cluster is None
