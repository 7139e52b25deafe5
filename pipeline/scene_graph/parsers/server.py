"""A CoreNLP server of our own, and sentences parsed by it: supervised, private, restarted when it fails."""

import concurrent.futures
import contextlib
import http.client
import importlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.scene_graph.parsers import corenlp
from pipeline.scene_graph.sentence import MOST_WORDS, Sentence

ANNOTATORS = "tokenize,pos,lemma,depparse"
PROPERTIES = {
    "annotators": ANNOTATORS,
    "outputFormat": "json",
    "prettyPrint": "false",
    "tokenize.language": "en",
    "tokenize.options": "splitHyphenated=false",  # keeps "t-shirt" whole
    "ssplit.eolonly": "true",  # one line, one sentence
}
BATCH = 200  # sentences a request
CLIENTS = 2  # requests under way at once
START_SECONDS = 180  # 4 on an idle machine
REQUEST_SECONDS = 180  # a batch takes less than one second on an idle machine
# The shell lives as long as Java does, and ends Java when the pipe from this process closes, even by SIGKILL.
WATCH = """
exec 3<&0
"$@" </dev/null 3<&- & child=$!
(cat <&3 >/dev/null; kill -9 $child) 2>/dev/null &
watcher=$!
exec 3<&-
wait $child
kill $watcher 2>/dev/null
rm -rf "$FOLDER"
"""


class ServerError(RuntimeError):
    """The server did not start, did not answer, or answered something else than was asked."""


class MismatchError(ServerError):
    """The server answered, but not sentence by sentence: asking again helps nothing, asking less may."""


class Server:
    """CoreNLP in its own process; use as a context manager. Start takes 3 to 6 s; memory stays near 1 GB."""

    preload = ANNOTATORS  # models loaded before the port opens

    def __init__(self, folder: Path = corenlp.FOLDER, memory: str = "1g"):
        self.folder, self.memory = folder, memory
        self.user, self.password = "unitrim", secrets.token_hex(16)
        self.process: subprocess.Popen | None = None
        self.client: Any = None
        self.work = ""

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start Java, wait until it answers, and have it parse one sentence, which loads the models."""
        reason = corenlp.missing(self.folder)
        if reason:
            raise ServerError(reason)
        self.work = tempfile.mkdtemp(prefix="unitrim-corenlp-")
        self.port = free_port()
        threads = str(os.cpu_count() or 1)
        command = [corenlp.java(), f"-Xmx{self.memory}", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={self.work}"]
        command += ["-cp", os.pathsep.join(map(str, corenlp.installed(self.folder)))]
        command += ["edu.stanford.nlp.pipeline.StanfordCoreNLPServer", "-port", str(self.port), "-threads", threads]
        command += ["-timeout", str(REQUEST_SECONDS * 1000), "-maxCharLength", "1000000", "-quiet", "true"]
        command += ["-username", self.user, "-password", self.password, "-preload", self.preload]
        with open(Path(self.work) / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", WATCH, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.work,
                env=os.environ | {"FOLDER": self.work},
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        try:
            self.connect()
        except BaseException:
            self.stop()
            raise

    def connect(self) -> None:
        """Wait for the port, make the client, warm up."""
        client = threading.Thread(target=importlib.import_module, args=("stanza.server",), daemon=True)
        client.start()  # 3.5 s, as it brings torch: meanwhile Java loads its models
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self.process.poll() is not None:
                raise ServerError(f"CoreNLP ended while starting: {self.log()}")
            if time.monotonic() > deadline:
                raise ServerError(f"CoreNLP did not answer within {START_SECONDS} s: {self.log()}")
            time.sleep(0.1)
        client.join()
        from stanza.server import CoreNLPClient, StartServer

        self.client = CoreNLPClient(
            start_server=StartServer.DONT_START,
            endpoint=f"http://127.0.0.1:{self.port}",
            timeout=REQUEST_SECONDS * 500,  # milliseconds, and stanza waits twice as long
            output_format="json",
        )
        self.parse(["a man is riding a horse"])

    def stop(self) -> None:
        """End Java and wait for it; nothing stays behind."""
        if self.process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
        self.process = None
        shutil.rmtree(self.work, ignore_errors=True)

    def log(self) -> str:
        """The last lines that Java wrote."""
        with contextlib.suppress(OSError):
            return (Path(self.work) / "log").read_text(errors="replace")[-400:].strip()
        return "no log"

    def parse(self, texts: list[str]) -> list[Sentence]:
        """One tree for each sentence; ServerError unless exactly that many come back."""
        from stanza.server.client import AnnotationException, TimeoutException

        try:
            answer = self.client.annotate(
                "\n".join(texts),
                properties=PROPERTIES,
                username=self.user,
                password=self.password,
                proxies={"http": "", "https": ""},  # never through the environment's proxy
            )
        except (AnnotationException, TimeoutException, ValueError, OSError) as error:
            raise ServerError(str(error)[:300]) from error
        if len(answer["sentences"]) != len(texts):
            raise MismatchError(f"{len(texts)} sentences went in, {len(answer['sentences'])} came out")
        begin, trees = 0, []
        for text, sentence in zip(texts, answer["sentences"], strict=True):
            trees.append(tree(sentence, begin, len(text)))
            begin += len(text) + 1
        return trees


def tree(answer: dict[str, Any], begin: int, length: int) -> Sentence:
    """A sentence of CoreNLP's JSON; its character offsets, made relative, must lie within the line."""
    tokens = answer["tokens"]
    head, relation = [-1] * len(tokens), ["dep"] * len(tokens)
    for edge in answer["basicDependencies"]:
        head[edge["dependent"] - 1] = edge["governor"] - 1
        relation[edge["dependent"] - 1] = "root" if edge["governor"] == 0 else edge["dep"]
    start = [token["characterOffsetBegin"] - begin for token in tokens]
    end = [token["characterOffsetEnd"] - begin for token in tokens]
    if start and (start[0] < 0 or end[-1] > length):
        raise MismatchError("a sentence came back outside its own line")
    return Sentence(
        [token["word"] for token in tokens],
        [token["lemma"].lower() for token in tokens],
        [token["pos"] for token in tokens],
        head,
        relation,
        start,
        end,
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Whether a CoreNLP server on this port says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Parser:
    """Trees for any number of sentences: batches over a few clients, restart and bisection when a request fails."""

    def __init__(self, server: Server, batch: int = BATCH, clients: int = CLIENTS, retries: int = 2):
        self.server, self.batch, self.clients, self.retries = server, batch, clients, retries
        self.mended = threading.Lock()
        self.restarts = 0
        self.over = False

    def parse(self, texts: list[str]) -> Iterator[tuple[list[str], list[Sentence | None]]]:
        """Batches in order, each with its trees; None where even a single sentence failed."""
        batches = [texts[begin : begin + self.batch] for begin in range(0, len(texts), self.batch)]
        self.over = False
        pool = concurrent.futures.ThreadPoolExecutor(self.clients)
        waiting: list[concurrent.futures.Future] = []
        try:
            for index, batch in enumerate(batches):
                while len(waiting) <= self.clients and index + len(waiting) < len(batches):
                    waiting.append(pool.submit(self.bisect, batches[index + len(waiting)]))
                yield batch, waiting.pop(0).result()
        finally:  # on Ctrl-C nothing is waited for, and nothing restarts the server that is about to be stopped
            self.over = True
            pool.shutdown(wait=False, cancel_futures=True)

    def bisect(self, batch: list[str]) -> list[Sentence | None]:
        """Parse a batch; when it fails in spite of restarts, its halves; a sentence that fails alone is None."""
        for _ in range(0 if self.over else self.retries):
            seen = self.restarts
            try:
                return [capped(tree) for tree in self.server.parse(batch)]
            except MismatchError:
                break
            except ServerError:
                self.mend(seen)
        if len(batch) == 1:
            return [None]
        middle = len(batch) // 2
        return self.bisect(batch[:middle]) + self.bisect(batch[middle:])

    def mend(self, seen: int) -> None:
        """Restart the server, once for all clients that noticed."""
        with self.mended:
            if seen == self.restarts and not self.over:
                self.server.stop()
                self.server.start()
                self.restarts += 1


def capped(sentence: Sentence) -> Sentence:
    """The tree of a very long sentence without its later words."""
    if len(sentence) <= MOST_WORDS:
        return sentence
    head = [place if place < MOST_WORDS else -1 for place in sentence.head[:MOST_WORDS]]
    rest = [getattr(sentence, name)[:MOST_WORDS] for name in ("word", "lemma", "tag")]
    return Sentence(*rest, head, *(getattr(sentence, n)[:MOST_WORDS] for n in ("relation", "start", "end")))
