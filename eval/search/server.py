"""The resident server behind the page: one process that has the models loaded, for this machine alone.

It is the standard library's ThreadingHTTPServer: one person asks, a framework would bring dozens of packages for eight paths, and
nothing here needs more than a thread a request. It listens on the loopback unless told otherwise, and then wants a token. Against
pages of other sites in the same browser it checks Host and Origin, sets no cookie, and takes JSON only as JSON. A browser names
items by keys, never by paths; what it may open are the files that the index lists, below the library's folder.
"""

import contextlib
import hmac
import json
import mimetypes
import re
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from eval.search import media
from eval.search.answers import Query
from eval.search.api import Ask, Begun, Handed, Status, WhyAsk, describe, read
from eval.search.catalog import Item
from eval.search.engine import Search
from eval.search.indexing import Indexing
from pipeline.files import MissingError, ParamsError, Reject, UniTriMError
from pipeline.stage import visible

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/app.js": "app.js", "/style.css": "style.css", "/icon.svg": "icon.svg"}
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
BODY = 64 << 20  # bytes of a request, at most: a photo
JSON_BODY = 1 << 20
CHUNK = 1 << 18
PREVIEWS = 96  # previews held in memory
CUTTING = 2  # previews and cuts made at once
SECONDS = 30.0  # a connection may stay silent
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' "
    "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
PICTURES = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/avif", "image/bmp"}  # that browsers show


class Refused(Exception):
    """A request that is not answered: its status and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status, self.why = status, why


class Server(ThreadingHTTPServer):
    """Answers for one search. `token` is asked for where it does not listen on the loopback alone."""

    daemon_threads = True

    def __init__(self, search: Search, indexing: Indexing | None, host: str = "127.0.0.1", port: int = 0):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.search, self.indexing, self.host = search, indexing, host
        self.token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        self.previews: OrderedDict[tuple, media.Part] = OrderedDict()
        self.cutting = threading.BoundedSemaphore(CUTTING)
        self.holding = threading.Lock()

    @property
    def origin(self) -> str:
        """How a browser on this machine writes its address."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_address[1]}"

    @property
    def address(self) -> str:
        """What to open: with the token, where one is asked for."""
        return f"{self.origin}/" + (f"?token={self.token}" if self.token else "")

    def known_host(self, host: str) -> bool:
        """Whether a Host header names this server; another name that leads here is a trick (DNS rebinding)."""
        name, _, port = host.rpartition(":")
        if port != str(self.server_address[1]):
            return False
        return name in LOOPBACK if self.token is None else True  # with a token the token decides

    def status(self) -> Status:
        """What is searched."""
        search, view = self.search, self.search.view
        folders: dict[str, int] = {}
        for item in view.items:
            folder = item.folder
            while folder:
                folders[folder] = folders.get(folder, 0) + 1
                folder = folder.rpartition("/")[0]
        days = sorted(item.taken[:10] for item in view.items if item.taken)
        photos = sum(item.photo for item in view.items)
        return Status(
            folder=visible(str(search.root or search.shards)),
            method=search.name,
            items=len(view.items),
            photos=photos,
            videos=len(view.items) - photos,
            folders=dict(sorted(folders.items())[:500]),
            first_day=days[0] if days else None,
            last_day=days[-1] if days else None,
            longest=max([item.duration for item in view.items if item.duration], default=0.0),
            places=sum(item.place is not None for item in view.items),
            indexing=self.indexing.progress if self.indexing else None,
            calibrated=search.calibrated,
            calibrated_by=search.calibrated_by,
            version=view.number,
        )

    def item(self, key: str) -> Item:
        """An item of the library as it is now. Errors: Refused."""
        view = self.search.view
        if key not in view.by_key:
            raise Refused(404, "there is no such item here any more")
        return view.items[view.by_key[key]]

    def preview(self, item: Item, start: float, end: float) -> media.Part:
        """A preview, held for the next time."""
        name = (item.mark, round(start, 2), round(end, 2))
        with self.holding:
            if name in self.previews:
                self.previews.move_to_end(name)
                return self.previews[name]
        with self.cutting:
            made = media.preview(media.find_file(self.search.root, item), start, end)
        with self.holding:
            self.previews[name] = made
            while len(self.previews) > PREVIEWS:
                self.previews.popitem(last=False)
        return made


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "UniTriM", ""
    timeout = SECONDS
    disable_nagle_algorithm = True  # else an answer's body waits some 40 ms until the client has acknowledged its head

    def log_message(self, *words: Any) -> None:
        """Say nothing: what is looked for is nobody's business."""

    def do_GET(self) -> None:
        self.answer(self.get)

    def do_HEAD(self) -> None:
        self.answer(self.get)

    def do_POST(self) -> None:
        self.answer(self.post)

    def answer(self, work: Callable[[str, dict[str, str]], None]) -> None:
        """Check where a request comes from, do it, and turn errors into JSON."""
        try:
            parts = urlsplit(self.path)
            words = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            self.admit(parts.path, words)
            work(parts.path, words)
        except Refused as error:
            self.refuse(error.status, error.why)
        except MissingError as error:
            self.refuse(404, str(error))
        except (UniTriMError, UnicodeError) as error:
            self.refuse(400, str(error))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def admit(self, path: str, words: dict[str, str]) -> None:
        """Refuse what another site sent, or who lacks the token."""
        if not self.server.known_host(self.headers.get("Host", "")):
            raise Refused(421, "this server does not go by that name")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            raise Refused(403, "another site asked")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Refused(403, "another site asked")
        if self.server.token and path not in FILES:
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ") or words.get("token", "")
            if not hmac.compare_digest(bearer.encode(), self.server.token.encode()):
                raise Refused(401, "open the address that the terminal shows, with its token")

    # --- reading

    def get(self, path: str, words: dict[str, str]) -> None:
        """A GET, or its headers alone."""
        if path in FILES:
            file = PAGE / FILES[path]
            self.send(file.read_bytes(), f"{mimetypes.guess_type(file.name)[0]}; charset=utf-8")
        elif path == "/openapi.json":
            self.send_object(describe())
        elif path == "/api/status":
            self.send_object(asdict(self.server.status()))
        elif found := re.fullmatch(r"/api/items/([0-9a-f]{16})/(thumb|preview|cut|file)", path):
            getattr(self, f"get_{found[2]}")(self.server.item(found[1]), words)
        else:
            raise Refused(404, "there is nothing of that name; /openapi.json says what there is")

    def get_thumb(self, item: Item, words: dict[str, str]) -> None:
        """A frame as the index keeps it."""
        pictures = item.row.jpegs()
        frame = int(number(words, "frame", item.keyframe))
        if not 0 <= frame < len(pictures):
            raise Refused(404, f"it has {len(pictures)} frames")
        self.send(pictures[frame].tobytes(), "image/jpeg", {"Cache-Control": "private, max-age=600"})

    def get_preview(self, item: Item, words: dict[str, str]) -> None:
        """A few seconds."""
        require_video(item)
        start = number(words, "start", 0.0)
        made = self.server.preview(item, start, number(words, "end", start + 4))
        self.send_range(made.content, made.mime, {"Cache-Control": "private, max-age=600"})

    def get_cut(self, item: Item, words: dict[str, str]) -> None:
        """A part to keep, named after its file and its time."""
        require_video(item)
        start = number(words, "start", 0.0)
        with self.server.cutting:
            made = media.cut(media.find_file(self.server.search.root, item), start, number(words, "end", start + 4))
        name = f"{Path(item.path).stem} {made.start:.1f}s{made.suffix}"
        self.send_range(made.content, made.mime, {"Content-Disposition": attachment(name)})

    def get_file(self, item: Item, words: dict[str, str]) -> None:
        """The file; what a browser would not show as a picture or a film it is told to keep."""
        path = media.find_file(self.server.search.root, item)
        kind = mimetypes.guess_type(path.name)[0] or ""
        headers = {}
        if not (kind in PICTURES or kind.startswith("video/")):
            kind, headers = "application/octet-stream", {"Content-Disposition": attachment(path.name)}
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            first, last = self.wanted(size)
            partial = "Range" in self.headers
            self.begin(206 if partial else 200, kind, last - first + 1, headers | self.range_headers(first, last, size))
            if self.command == "HEAD":
                return
            file.seek(first)
            left = last - first + 1
            while left > 0 and (part := file.read(min(CHUNK, left))):
                self.wfile.write(part)
                left -= len(part)

    # --- asking

    def post(self, path: str, words: dict[str, str]) -> None:
        """A POST."""
        if path == "/api/search":
            ask = read(Ask, self.body_object())
            search = self.server.search
            query = ask.query(search.view.id_of)
            self.send_object(asdict(search.ask(query, ask.top, ask.skip, tuple(ask.lists))))
        elif path == "/api/why":
            asked = read(WhyAsk, self.body_object())
            item = self.server.item(asked.key)
            sentence = " ".join(Query.of(asked.text).sentences)
            self.send_object(asdict(self.server.search.why(sentence, item.id, asked.kind)))
        elif path == "/api/pictures":
            try:
                self.send_object(asdict(Handed(self.server.search.add_picture(self.body(BODY)))))
            except Reject as error:
                raise ParamsError(f"the picture cannot be read: {error.detail}") from None
        elif path == "/api/index":
            self.body_object()
            if self.server.indexing is None:
                raise ParamsError("this library is not a folder's; dvc repro brings it up to date")
            self.send_object(asdict(Begun(self.server.indexing.start())))
        else:
            raise Refused(404, "there is nothing of that name; /openapi.json says what there is")

    def body(self, most: int) -> bytes:
        """The body of a request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            raise Refused(411, "how long is it?")
        if int(length) > most:
            self.close_connection = True
            raise Refused(413, f"more than {most >> 20} MiB")
        return self.rfile.read(int(length))

    def body_object(self) -> Any:
        """The JSON of a request; only sent as such, which no other site's form can."""
        if self.headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
            self.close_connection = True
            raise Refused(415, "expected application/json")
        try:
            return json.loads(self.body(JSON_BODY))
        except (ValueError, RecursionError):
            raise ParamsError("the body is not JSON") from None

    # --- sending

    def send(self, content: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200) -> None:
        """A whole answer."""
        self.begin(status, kind, len(content), {"Cache-Control": "no-store"} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_object(self, value: Any, status: int = 200) -> None:
        """JSON; what is not a number is null."""
        self.send(json.dumps(finite(value), ensure_ascii=True).encode(), "application/json", status=status)

    def send_range(self, content: bytes, kind: str, headers: dict[str, str]) -> None:
        """Bytes, or the range of them that is asked for."""
        first, last = self.wanted(len(content))
        partial = "Range" in self.headers
        headers = headers | self.range_headers(first, last, len(content))
        self.begin(206 if partial else 200, kind, last - first + 1, headers)
        if self.command != "HEAD":
            self.wfile.write(content[first : last + 1])

    def wanted(self, size: int) -> tuple[int, int]:
        """First and last byte that are asked for. Errors: Refused."""
        found = RANGE.fullmatch(self.headers.get("Range", "bytes=0-"))
        if not found or not (found[1] or found[2]):
            raise Refused(416, "expected one range of bytes")
        first = int(found[1]) if found[1] else max(0, size - int(found[2]))
        last = min(size - 1, int(found[2])) if found[1] and found[2] else size - 1
        if not 0 <= first <= last:
            raise Refused(416, f"it has {size} bytes")
        return first, last

    def range_headers(self, first: int, last: int, size: int) -> dict[str, str]:
        """What says which part of how much it is."""
        said = {"Content-Range": f"bytes {first}-{last}/{size}"} if "Range" in self.headers else {}
        return said | {"Accept-Ranges": "bytes"}

    def refuse(self, status: int, why: str) -> None:
        """Why there is no answer."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.command == "POST" and status in (401, 403, 404, 421):
                self.close_connection = True  # its body was not read
            self.send_object({"error": visible(why)}, status)

    def begin(self, status: int, kind: str, length: int, headers: dict[str, str]) -> None:
        """The head of an answer."""
        self.send_response(status)
        lines = {"Content-Type": kind, "Content-Length": str(length)} | HEADERS | headers
        if self.close_connection:
            lines["Connection"] = "close"
        for name, value in lines.items():
            self.send_header(name, value)
        self.end_headers()


def require_video(item: Item) -> None:
    """Refused for a photo."""
    if item.photo:
        raise Refused(404, "a photo has no moments")


def number(words: dict[str, str], name: str, usual: float) -> float:
    """A number of the query string. Errors: ParamsError."""
    try:
        value = float(words.get(name, usual))
    except ValueError:
        raise ParamsError(f"{name}: expected a number") from None
    if not 0 <= value < 1e7:
        raise ParamsError(f"{name}: expected a number of seconds or of a frame")
    return value


def attachment(name: str) -> str:
    """A header that names the file to be kept, whatever is in the name."""
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(visible(name), safe='')}"


def finite(value: Any) -> Any:
    """JSON knows no infinities."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not -1e300 < value < 1e300:
        return None
    return value
