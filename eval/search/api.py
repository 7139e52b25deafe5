"""What the server answers, described in OpenAPI: the paths, and the types of Python that their JSON is."""

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eval.search.answers import LISTS, Answer, Filters, Query
from eval.search.explain import Why
from eval.search.indexing import Progress
from pipeline.files import ParamsError

MOST = 200  # results of one request
PLAIN = {str: "string", float: "number", int: "integer", bool: "boolean"}


@dataclass(frozen=True)
class Ask:
    """A request for results."""

    text: str = ""  # as typed: sentences between semicolons, `-word` for what must not be there
    sentences: list[str] = field(default_factory=list)  # in place of `text`
    minus: list[str] = field(default_factory=list)
    like: list[str] = field(default_factory=list)  # keys of items to look like
    pictures: list[str] = field(default_factory=list)  # ids that /api/pictures gave
    filters: Filters = Filters()
    sort: str = "score"
    fold: bool = True
    alarm: float | None = None
    lists: list[str] = field(default_factory=lambda: list(LISTS))  # those that are wanted
    top: int = 24
    skip: int = 0

    def query(self, ids: Callable[[str], str | None]) -> Query:
        """The query; `ids` says which item has a key, None where none has. Errors: ParamsError."""
        if not (1 <= self.top <= MOST and self.skip >= 0):
            raise ParamsError(f"top is from 1 to {MOST} and skip at least 0")
        if not set(self.lists) <= set(LISTS):
            raise ParamsError(f"lists: expected some of {', '.join(LISTS)}")
        film = self.filters.film
        gone = [key for key in (*self.like, *self.filters.ids, *([film] if film else [])) if ids(key) is None]
        if gone:
            raise ParamsError(f"there is no item {gone[0]!r} here any more")
        keys = tuple(ids(key) for key in self.filters.ids)
        filters = dataclasses.replace(self.filters, ids=keys, film=ids(film) if film else None)
        more = {"filters": filters, "sort": self.sort, "fold": self.fold, "alarm": self.alarm}
        more |= {"like": tuple(ids(key) for key in self.like), "pictures": tuple(self.pictures)}
        if self.sentences or self.minus or not self.text.strip():
            return Query(tuple(self.sentences), tuple(self.minus), **more)
        return Query.of(self.text, **more) if not (more["like"] or more["pictures"]) else of_loosely(self.text, more)


def of_loosely(text: str, more: dict[str, Any]) -> Query:
    """A typed text beside a picture, of which minus words alone are enough."""
    try:
        return Query.of(text, **more)
    except ParamsError:
        minus = [word[1:] for word in text.replace(";", " ").split() if word.startswith("-") and len(word) > 1]
        return Query((), tuple(minus), **more)


@dataclass(frozen=True)
class Status:
    """What is searched, and how far its indexing is."""

    folder: str
    method: str
    items: int
    photos: int
    videos: int
    folders: dict[str, int]  # with how many items below each
    first_day: str | None
    last_day: str | None
    longest: float  # seconds
    places: int  # items of which a place is known
    indexing: Progress | None  # None where the library is not a folder's
    calibrated: bool  # whether `alarm` can be asked for yet
    calibrated_by: (
        str  # captions of this library, or a list of other sentences, by which more false alarms come through
    )
    version: int  # rises when items come or go


@dataclass(frozen=True)
class Handed:
    """A picture that was handed in."""

    picture: str


@dataclass(frozen=True)
class WhyAsk:
    """A hit that is to be explained."""

    text: str  # as typed
    key: str
    kind: str = "video"  # video: on all frames; image: on the keyframe


@dataclass(frozen=True)
class Begun:
    """Whether looking for new files has begun; false where it was under way."""

    begun: bool


@dataclass(frozen=True)
class Problem:
    """Why there is no answer."""

    error: str


@dataclass(frozen=True)
class Route:
    """One path of the server."""

    method: str
    path: str  # {key} is an item's
    summary: str
    answer: Any  # a type, or a media type as text
    ask: Any = None  # a type, or a media type as text
    words: dict[str, str] = field(default_factory=dict)  # of the query string: name -> meaning


SPAN = {"start": "seconds", "end": "seconds"}
ROUTES = (
    Route("GET", "/api/status", "What is searched, and how far indexing is", Status),
    Route("POST", "/api/search", "Images and videos for sentences, pictures or items", Answer, Ask),
    Route("POST", "/api/why", "Which words and phrases a hit shows, where and when", Why, WhyAsk),
    Route("POST", "/api/pictures", "Hand in a photo to search by", Handed, "application/octet-stream"),
    Route("POST", "/api/index", "Look for new, changed and deleted files", Begun, Begun),
    Route("GET", "/api/items/{key}/thumb", "A frame, small", "image/jpeg", words={"frame": "which, else the keyframe"}),
    Route("GET", "/api/items/{key}/preview", "A few silent seconds of a video", "video/mp4", words=SPAN),
    Route("GET", "/api/items/{key}/cut", "A part of a video to keep", "video/mp4", words=SPAN),
    Route("GET", "/api/items/{key}/file", "The file itself, or a range of it", "application/octet-stream"),
    Route("GET", "/openapi.json", "This description", "application/json"),
)


def describe(title: str = "UniTriM search") -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        told = {
            "summary": route.summary,
            "parameters": parameters(route),
            "responses": {
                "200": {"description": "as asked", "content": content(route.answer, schemas)},
                "default": {"description": "why not", "content": content(Problem, schemas)},
            },
        }
        if route.ask is not None:
            told["requestBody"] = {"required": True, "content": content(route.ask, schemas)}
        paths.setdefault(route.path, {})[route.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def parameters(route: Route) -> list[dict[str, Any]]:
    """What stands in a path and behind it."""
    found = [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "number"}}
        for name, meaning in route.words.items()
    ]
    if "{key}" in route.path:
        found.insert(0, {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}})
    return found


def content(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A body: JSON of a type, or bytes of a media type."""
    if isinstance(kind, str):
        return {kind: {}}
    return {"application/json": {"schema": schema(kind, schemas)}}


def schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of a type; dataclasses are put among `schemas` and referred to."""
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if kind is type(None):
        return {"type": "null"}
    if dataclasses.is_dataclass(kind):
        if kind.__name__ not in schemas:
            schemas[kind.__name__] = {}  # for a type that holds itself
            hints = typing.get_type_hints(kind)
            schemas[kind.__name__] = {
                "type": "object",
                "description": (kind.__doc__ or "").strip(),
                "properties": {one.name: schema(hints[one.name], schemas) for one in dataclasses.fields(kind)},
                "required": [one.name for one in dataclasses.fields(kind) if not has_default(one)],
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(one, schemas) for one in inner]}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(inner[1], schemas)}
    if origin is tuple and inner[-1] is not Ellipsis:
        length = {"minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "prefixItems": [schema(one, schemas) for one in inner]} | length
    return {"type": "array", "items": schema(inner[0], schemas)}


def has_default(one: dataclasses.Field) -> bool:
    """Whether a field may be left out."""
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


def read(kind: Any, value: Any, where: str = "") -> Any:
    """A value of JSON as a type. Errors: ParamsError that names what does not fit."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return read(next(one for one in inner if one is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        return read_object(kind, value, where)
    if origin in (list, tuple):
        fixed = origin is tuple and inner[-1] is not Ellipsis
        if not isinstance(value, list) or (fixed and len(value) != len(inner)):
            raise ParamsError(f"{where}: expected a list{f' of {len(inner)}' if fixed else ''}")
        kinds = inner if fixed else [inner[0]] * len(value)
        return origin(read(one, part, f"{where}[{at}]") for at, (one, part) in enumerate(zip(kinds, value)))
    if kind is float and type(value) in (int, float) and value == value and abs(value) != float("inf"):
        return float(value)
    if type(value) is not kind:
        raise ParamsError(f"{where or 'the body'}: expected {PLAIN[kind]}")
    if kind is str and any("\ud800" <= character <= "\udfff" for character in value):
        raise ParamsError(f"{where}: not valid text")
    return value


def read_object(kind: Any, value: Any, where: str) -> Any:
    """An object of JSON as a dataclass; what it does not have is an error, not forgotten."""
    if not isinstance(value, dict):
        raise ParamsError(f"{where or 'the body'}: expected an object")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise ParamsError(f"there is no {where + '.' if where else ''}{unknown[0]}; there are: {', '.join(hints)}")
    missing = [one.name for one in dataclasses.fields(kind) if not has_default(one) and one.name not in value]
    if missing:
        raise ParamsError(f"{missing[0]} is missing")
    return kind(**{name: read(hints[name], part, f"{where}.{name}".strip(".")) for name, part in value.items()})
