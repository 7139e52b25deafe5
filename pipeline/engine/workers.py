"""Worker processes: how one is started, asked, watched and ended, and what it runs.

Workers are forked from a fork server: a fresh interpreter that has imported what their function needs and does nothing else, so
that a new worker costs milliseconds and shares its memory with the others.
"""

import contextlib
import ctypes
import importlib
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pipeline.files import Reject, WorkerError

START_SECONDS = 180.0  # seconds a worker may take to import what its function needs
EXIT_SECONDS = 5.0  # seconds a worker that closed its pipe is given to end
OUTPUT_BYTES = 2000  # bytes of a dead worker's last output that are read for the reason
REQUEST = struct.Struct("q")  # what the fork server is asked, and what it answers
PAGE = os.sysconf("SC_PAGE_SIZE")


class Worker:
    """One child process, the pipe to it, and the shared memory its results come through."""

    def __init__(self, function: bytes, fork_server: "ForkServer"):
        self.index: int | None = None  # the item it holds
        self.code: int | None = None  # how it ended
        self.started = False
        self.since = time.monotonic()
        self.fork_server = fork_server
        self.share, self.output = anonymous_file(), anonymous_file()
        self.pipe, theirs = Pipe()
        self.pid = fork_server.ask(0, [theirs.fileno(), self.share, self.output])
        theirs.close()
        self.pipe.send_bytes(function)

    def send(self, index: int, item: Any) -> None:
        """Hand over an item; the clock starts when the worker has started."""
        self.index = index
        if self.started:
            self.since = time.monotonic()
        with contextlib.suppress(OSError):  # a dead worker is noticed by its closed pipe
            self.pipe.send(item)

    def receive(self) -> tuple[Any, str, str] | None:
        """The next message: None once it has started, else (value, reason, detail). EOFError when it is dead."""
        data = self.pipe.recv_bytes()
        if not self.started:
            self.started, self.since = True, time.monotonic()
            return None
        sizes, payload = pickle.loads(data)
        with open(self.share, "rb", closefd=False) as shared:
            shared.seek(0)
            buffers = [bytearray(shared.read(size)) for size in sizes]
        return pickle.loads(payload, buffers=buffers)

    def memory(self) -> int:
        """Bytes the process holds for itself; 0 where the system does not say."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                _, resident, shared = file.read().split()[:3]
        except (OSError, ValueError):
            return 0
        return (int(resident) - int(shared)) * PAGE

    def explain_death(self) -> str:
        """How it died and what it said last; it is gone afterwards."""
        if self.code is None:
            self.code = self.fork_server.ask(-self.pid, [])
        code = self.code
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        size = os.fstat(self.output).st_size
        lines = (
            os.pread(self.output, OUTPUT_BYTES, max(size - OUTPUT_BYTES, 0))
            .decode(errors="replace")
            .strip()
            .splitlines()
        )
        named = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
        return f"{how} ({named[0][:200]})" if named else how

    def end(self) -> None:
        """End the process and whatever it started, and free what it held."""
        if self.code is None:
            self.code = self.fork_server.ask(self.pid, [])
        self.pipe.close()
        os.close(self.share)
        os.close(self.output)


class ForkServer:
    """A process that imports a module once and forks workers that have it; asked and answered through a socket."""

    known: dict[str, "ForkServer"] = {}  # kept for the next run

    @classmethod
    def of(cls, function: Callable) -> "ForkServer":
        """The server that has imported the function's module."""
        module = function.__module__
        if module not in cls.known or not cls.known[module].alive():
            cls.known[module] = cls(module)
        return cls.known[module]

    def __init__(self, module: str):
        self.socket, theirs = socket.socketpair()
        self.output = anonymous_file()
        single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # no threads before a fork
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from pipeline.engine.workers import serve_forks; serve_forks({theirs.fileno()}, {module!r})",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            pass_fds=[theirs.fileno()],
            env=os.environ | single | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONFAULTHANDLER": "1"},
            start_new_session=True,  # Ctrl-C goes to the caller, who ends the workers
        )
        theirs.close()
        self.socket.settimeout(START_SECONDS)

    def alive(self) -> bool:
        """Whether it still answers."""
        return self.process.poll() is None

    def ask(self, number: int, handles: list[int]) -> int:
        """What `serve_forks` answers to a number and descriptors. WorkerError if it is dead."""
        try:
            socket.send_fds(self.socket, [REQUEST.pack(number)], handles)
            answer = self.socket.recv(REQUEST.size, socket.MSG_WAITALL)
        except OSError:
            answer = b""
        if len(answer) < REQUEST.size:
            words = os.pread(self.output, 1 << 16, 0).decode(errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"the workers cannot start: {' '.join(words) or 'their fork server died'}")
        return REQUEST.unpack(answer)[0]


def anonymous_file() -> int:
    """A descriptor of a file without a name, which the system frees with its last holder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("results")
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    return descriptor


def serve_forks(handle: int, module: str) -> None:
    """The fork server: import; then for 0 fork a worker that gets the descriptors and answer its pid, for a pid kill it, for
    the negative of a pid let it die; both answer its exit code.
    """
    asked = socket.socket(fileno=handle)
    importlib.import_module(module)
    while True:
        data, handles, _, _ = socket.recv_fds(asked, REQUEST.size, 3)
        if len(data) < REQUEST.size:
            return  # the caller is gone
        (pid,) = REQUEST.unpack(data)
        if pid:
            answer = reap(abs(pid), 0.0 if pid > 0 else EXIT_SECONDS)
        else:
            answer = os.fork()
            if not answer:
                asked.close()
                serve(*handles)
                os._exit(0)
            for descriptor in handles:
                os.close(descriptor)
        asked.sendall(REQUEST.pack(answer))


def reap(pid: int, patience: float) -> int:
    """Exit code of a child, negative for a signal; it is killed, with what it started, if it lives longer than `patience`."""
    last = time.monotonic() + patience
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < last:
        time.sleep(0.001)
        done, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may not have become a group yet
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def serve(handle: int, share: int, output: int) -> None:
    """The worker: take an item, send what became of it, until the caller is gone."""
    os.setsid()
    die_with_parent()
    for stream in (1, 2):
        os.dup2(output, stream)
    pipe = Connection(handle)
    function = pickle.loads(pipe.recv_bytes())
    pipe.send_bytes(b"started")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        for stream in (1, 2):  # what is kept of its output belongs to this item
            os.lseek(stream, 0, os.SEEK_SET)
            os.ftruncate(stream, 0)
        try:
            message = (function(item), "", "")
        except Reject as refused:
            message = (None, refused.reason, refused.detail)
        pipe.send_bytes(pack(message, share))


def pack(message: Any, share: int) -> bytes:
    """Pickle a message, its arrays into the shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    total = sum(view.nbytes for view in raw)
    if os.fstat(share).st_size < total:
        os.ftruncate(share, total)
    if total:
        with mmap.mmap(share, total) as memory:
            place = 0
            for view in raw:
                memory[place : place + view.nbytes] = view
                place += view.nbytes
    return pickle.dumps(([view.nbytes for view in raw], payload))


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent ends, which ends when the caller does."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
