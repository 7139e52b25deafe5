"""What the Ray engine does on the driver: hand items out to the actors of a cluster, listen, look after machines and clocks.

Actors are lost with their process or with their machine. An item that was in a lost process is tried once more with nothing
beside it in the whole cluster, and the second loss is its outcome. A lost machine is nobody's fault: its items go back into the
queue, and only what loses one machine after another is suspected.
"""

import copy
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.engine.pool import Outcome
from pipeline.engine.stations import Finisher, Preparer
from pipeline.engine.workers import START_SECONDS
from pipeline.files import WorkerError

POLL_SECONDS = 0.2  # between looks at clocks and machines
LOOK_SECONDS = 1.0  # between looks at which machines there are
FINISHING = 3  # items at a finisher: one is worked on, the values of the others travel meanwhile
BLAME = {"process": 2, "machine": 1}  # points of an item for what was lost while it was there
SUSPECT, GUILTY = 2, 4  # points with which it runs alone, and with which it is given up if it was lost alone
FALLS = 3  # actors that may be lost before they have begun, until their machine is left out
ROOM = "start its machines with a larger --object-store-memory, or end what else fills it"
FULL = (ObjectStoreFullError, OutOfDiskError)
DIED = (RayActorError, OutOfMemoryError, WorkerCrashedError)


@dataclass(eq=False)
class Work:
    """One item on its way: at a preparer, prepared, at a finisher."""

    index: int
    item: Any
    blame: int = 0
    preparer: "Station | None" = None
    said: Any = None  # references to an actor's answer, and to what it made
    value: Any = None
    fetched: bool = False  # the finisher's answer is known, and what it made is on its way to the caller


@dataclass(eq=False)
class Station:
    """An actor, the machine that it is on, and what it has to do."""

    role: str  # preparer | finisher
    machine: str
    actor: Any
    most: int  # items that it may have
    begun: bool = False
    busy: set[Work] = field(default_factory=set)  # what it was asked and has not answered
    kept: set[Work] = field(default_factory=set)  # of a preparer: what it has made and is still on its way
    since: float = field(default_factory=time.monotonic)  # when it last gave a sign of life, or was idle

    @property
    def free(self) -> bool:
        """Whether it may have one more item."""
        return self.begun and len(self.busy) + len(self.kept) < self.most


class Driver:
    """Hands items out, listens, and looks after machines and clocks."""

    made_of: tuple[bytes, bytes, bytes]
    limits: tuple[float, int]
    facts: dict[str, str]
    tell: Callable[[str], None]

    def __init__(self, cluster: Any, items: list[Any], device: str, share: float, workers: int, least: int):
        self.cluster, self.device, self.share, self.workers, self.least = cluster, device, share, workers, least
        self.waiting = deque(Work(index, item) for index, item in enumerate(items))
        self.suspects: deque[Work] = deque()
        self.alone: Work | None = None  # the suspect that runs with nothing beside it
        self.prepared: deque[Work] = deque()
        self.open = len(items)  # items without an outcome
        self.stations: list[Station] = []
        self.calls: dict[Any, tuple[Station, Work | None]] = {}  # by reference; without work: its beginning
        self.falls: Counter[str] = Counter()  # by machine
        self.lost: set[str] = set()  # machines of which it was told
        self.why = "no machine has a free core"  # the last reason for which a machine did not begin
        self.looked = 0.0
        self.fruitful = time.monotonic()  # when there last were actors of both roles
        self.moved = time.monotonic()  # when an outcome came in, or none was on its way
        self.crowded = self.pause = 0.0  # since when there is no room for results; until when nothing new begins

    def outcomes(self) -> Iterator[Outcome]:
        """Until every item has an outcome."""
        while self.open:
            self.look_at_machines()
            self.hand_out()
            if not self.calls:
                time.sleep(POLL_SECONDS)
                continue
            references = list(self.calls)
            ready, _ = ray.wait(references, timeout=POLL_SECONDS)
            if ready:  # and what else is
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ready:
                outcome = self.take(reference)
                if outcome is not None:
                    self.open -= 1
                    before = time.monotonic()
                    yield outcome
                    self.forgive(time.monotonic() - before)
            self.look_at_clocks()

    def stop(self) -> None:
        """End every actor."""
        for station in self.stations:
            ray.kill(station.actor)
        self.stations, self.calls = [], {}

    # --- machines

    def look_at_machines(self) -> None:
        """Begin on machines that are new; forget those that are gone. WorkerError if none can run."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        machines = self.cluster.machines()
        for station in list(self.stations):
            if station.begun and not station.busy and station.machine not in machines:
                self.stations.remove(station)  # of the others, the calls say so
        for machine, node in machines.items():
            if self.falls[machine] < FALLS:
                self.begin(machine, node["Resources"])
        if self.ready("preparer") and self.ready("finisher"):
            self.fruitful = self.looked
        left_out = bool(machines) and all(self.falls[machine] >= FALLS for machine in machines)
        if left_out or self.looked - self.fruitful > START_SECONDS:
            raise WorkerError(f"no machine of the Ray cluster can do the work: {self.why}")

    def begin(self, machine: str, resources: dict[str, float]) -> None:
        """Start what a machine lacks of a preparer and its finishers, if there is work for one more machine."""
        function, finisher, facts = self.made_of
        folder, threads = os.getcwd(), os.environ.get("OMP_NUM_THREADS")
        cores, gpu = resources["CPU"], self.device == "cuda"
        finishers = int(resources.get("GPU", 0) / self.share + 1e-6) if gpu else 1
        # a GPU's finisher needs a core at most; without GPUs it is what takes longest
        core = min(1.0, cores / 2 / max(finishers, 1)) if gpu else cores / 2
        here = [station.role for station in self.stations if station.machine == machine]
        for _ in range(finishers - here.count("finisher") if gpu or self.worth("finisher") else 0):
            kind = self.place(Finisher, machine, num_cpus=core, num_gpus=self.share if gpu else 0)
            self.add(Station("finisher", machine, kind.remote(finisher, folder, threads), FINISHING))
        if "preparer" not in here and self.worth("preparer"):
            left = cores - core * finishers
            workers = max(1, min(self.workers, int(left if gpu else cores)))
            most = 3 * workers + 2  # at work, and done ahead of the finisher
            kind = self.place(Preparer, machine, num_cpus=left, max_concurrency=most + 1)
            self.add(Station("preparer", machine, kind.remote(function, folder, workers, *self.limits), most), facts)

    def add(self, station: Station, *words: bytes) -> None:
        """Ask a new actor to begin."""
        self.stations.append(station)
        self.calls[station.actor.begin.remote(*words)] = station, None

    def worth(self, role: str) -> bool:
        """Whether there is work for one more machine."""
        return sum(station.role == role for station in self.stations) * self.least < self.open

    def place(self, kind: type, machine: str, **resources: float) -> Any:
        """A class of actors that live on one machine and are not begun again by themselves."""
        where = NodeAffinitySchedulingStrategy(machine, soft=False)
        return ray.remote(kind).options(scheduling_strategy=where, max_restarts=0, max_task_retries=0, **resources)

    def look_at_clocks(self) -> None:
        """Give up an actor that has had work and said nothing for longer than any of its items may take."""
        patience = START_SECONDS + 3 * self.limits[0]  # an item, its last neighbour, and once more alone
        now = time.monotonic()
        for station in list(self.stations):
            if not station.busy and station.begun:
                station.since = now
            elif now - station.since > patience:
                self.why = f"an actor said nothing for {patience:.0f} s"
                station.since = now
                ray.kill(station.actor)  # its calls come back as lost
        if not any(work and work.fetched for _, work in self.calls.values()):
            self.moved = now
        elif now - self.moved > patience:
            raise WorkerError(f"nothing has come from the machines of the Ray cluster for {patience:.0f} s; {ROOM}")

    def forgive(self, seconds: float) -> None:
        """Time that the caller took for itself is nobody's silence."""
        self.fruitful += seconds
        self.moved += seconds
        for station in self.stations:
            station.since += seconds

    # --- items

    def hand_out(self) -> None:
        """Give finishers what is prepared and preparers items; a suspect runs with nothing beside it."""
        while self.prepared and (free := [station for station in self.ready("finisher") if station.free]):
            work = self.prepared.popleft()
            home = work.preparer.machine
            self.call(min(free, key=lambda one: (one.machine != home, len(one.busy))), work, work.value)
        if self.alone or not self.ready("finisher") or time.monotonic() < self.pause:
            return
        preparers = self.ready("preparer")
        if self.suspects:
            if preparers and not any(station.busy or station.kept for station in self.stations):
                self.alone = self.suspects.popleft()
                self.give(preparers[0], self.alone)
            return
        while self.waiting and (free := [station for station in preparers if station.free]):
            self.give(min(free, key=lambda one: len(one.busy) / one.most), self.waiting.popleft())

    def ready(self, role: str) -> list[Station]:
        """The actors of a role that have begun."""
        return [station for station in self.stations if station.begun and station.role == role]

    def give(self, station: Station, work: Work) -> None:
        """Give a preparer an item; it counts against it until its outcome is taken."""
        work.preparer = station
        self.call(station, work)

    def call(self, station: Station, work: Work, *value: Any) -> None:
        """Ask an actor; what it makes stays with it until somebody wants it."""
        station.busy.add(work)
        work.said, work.value = station.actor.call.options(num_returns=2).remote(work.item, *value)
        self.calls[work.said] = station, work

    def take(self, reference: Any) -> Outcome | None:
        """Take an answer; an outcome where it is one. WorkerError, and whatever a finisher raises but Reject."""
        station, work = self.calls.pop(reference)
        station.since = time.monotonic()
        try:
            answer = ray.get(reference)
        except (*DIED, ObjectLostError) as error:
            return self.lose(station, work, error)
        except RayTaskError as error:
            if isinstance(error.cause, FULL):
                return self.wait_for_room(station, work, error.cause)
            if isinstance(error.cause, WorkerError) and station.role == "preparer":
                return self.lose(station, work, error.cause)
            raise (error.cause or error) from None
        if work is None:
            self.compare(station, answer)
            station.begun = True
            return None
        station.busy.discard(work)
        if work.fetched:
            return self.end(work, copy.deepcopy(answer))  # as long as a view of it lives, so does Ray's own
        if answer != ("", ""):
            return self.end(work, None, *answer)
        if station.role == "preparer":
            station.kept.add(work)
            self.prepared.append(work)
        else:
            work.fetched = True
            self.calls[work.value] = station, work
        return None

    def end(self, work: Work, value: Any, reason: str = "", detail: str = "") -> Outcome:
        """An item's outcome; there is room for another."""
        self.crowded, self.moved = 0.0, time.monotonic()
        self.falls[work.preparer.machine] = 0
        self.release(work)
        return Outcome(work.index, work.item, value, reason, detail)

    def release(self, work: Work) -> None:
        """Nobody works on an item any more, and what was made of it is let go."""
        for station in self.stations:
            station.busy.discard(work)
            station.kept.discard(work)
        self.alone = None if self.alone is work else self.alone
        work.value = work.said = work.preparer = None
        work.fetched = False

    def compare(self, station: Station, answer: dict[str, str]) -> None:
        """WorkerError where a machine says something else of itself than this one."""
        for key, value in answer.items():
            if value != self.facts[key]:
                raise WorkerError(
                    f"{key} of {self.name(station.machine)}: {value}; here: {self.facts[key]}; all machines that share "
                    "the work must be alike in this"
                )

    def name(self, machine: str) -> str:
        """A machine's address."""
        return next((node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == machine), machine)

    # --- losses

    def lose(self, station: Station, work: Work | None, error: Exception) -> Outcome | None:
        """An actor, its workers or what it had made are gone: the item is tried again, alone if suspected, or has its outcome."""
        gone = station.machine not in self.cluster.machines()
        died, broken = isinstance(error, DIED), isinstance(error, WorkerError)
        if (died or broken) and station in self.stations:
            self.stations.remove(station)  # if its machine lives, another one takes its place
            self.looked = 0.0
            ray.kill(station.actor)  # it may only be out of reach
            if broken and not gone:
                self.fall(station, error)
        if gone and station.machine not in self.lost:
            self.lost.add(station.machine)
            self.tell(f"{self.name(station.machine)} is lost; what it had goes to the others")
        if work is None:
            if not gone:
                self.fall(station, error)
            return None
        # where none is known to have died, one is out of reach, has no workers, or what it had made went with another machine
        certain = died and not isinstance(error, ActorUnavailableError)
        what = "process" if certain and not gone else "machine"
        alone = work is self.alone
        work.blame += BLAME[what]
        if alone and work.blame >= GUILTY:
            return self.end(work, None, "crashed", f"the {what} that worked on it died, twice")
        self.release(work)
        (self.suspects if work.blame >= SUSPECT else self.waiting).append(work)
        return None

    def fall(self, station: Station, error: Exception) -> None:
        """Nothing began on a machine; it is left out after some of these without an item between them."""
        self.falls[station.machine] += 1
        self.why = f"{self.name(station.machine)}: {last_line(error)}"
        if self.falls[station.machine] == FALLS:
            self.tell(f"left out, for nothing begins there: {self.why}")

    def wait_for_room(self, station: Station, work: Work, error: Exception) -> None:
        """There was no room for what was made: the item waits, and from now on its preparer has fewer at a time."""
        now = time.monotonic()
        self.crowded = self.crowded or now
        if now - self.crowded > START_SECONDS:
            raise WorkerError(
                f"Ray's object store has been full for {START_SECONDS:.0f} s on {self.name(station.machine)}; {ROOM}"
            )
        work.preparer.most = max(1, work.preparer.most // 2)
        again = self.suspects if work is self.alone else self.waiting
        self.release(work)
        again.append(work)
        self.pause = now + POLL_SECONDS


def last_line(error: Exception) -> str:
    """What an error comes to."""
    return str(error).strip().splitlines()[-1].strip()[:300]
