"""Which items a query may find: by folder, kind, day, duration and place."""

import math
import re

import numpy as np
from numpy.typing import NDArray

from eval.search.answers import Filters
from eval.search.catalog import Item
from pipeline.files import ParamsError

EARTH = 6371.0  # km, mean radius
DAY = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


def passing(items: list[Item], filters: Filters) -> NDArray:
    """(items,) bool. An item of which something is not known does not pass a filter that asks for it."""
    check(filters)
    if filters == Filters():
        return np.ones(len(items), bool)
    ids = set(filters.ids)
    if filters.film is not None:
        path = next((item.path for item in items if item.id == filters.film), None)
        items_of = {item.id for item in items if item.path == path}
        ids = ids & items_of if ids else items_of or {filters.film}
    return np.array([passes(item, filters, ids) for item in items], bool)


def check(filters: Filters) -> None:
    """ParamsError for a day or a place that is none."""
    for name in ("after", "before"):
        day = getattr(filters, name)
        if day is not None and not DAY.fullmatch(day):
            raise ParamsError(f"{name}: expected a day as 2024-05-31, a month or a year, got {day!r}")
    if filters.near is not None:
        latitude, longitude, radius = filters.near
        if not (abs(latitude) <= 90 and abs(longitude) <= 180 and radius > 0):
            raise ParamsError(f"near: expected latitude, longitude and a radius in km, got {filters.near}")


def passes(item: Item, filters: Filters, ids: set[str]) -> bool:
    """Whether one item passes."""
    if filters.kind is not None and item.photo != (filters.kind == "photo"):
        return False
    if ids and item.id not in ids:
        return False
    if filters.folder and not f"{item.folder}/".startswith(f"{filters.folder.strip('/')}/"):
        return False
    if filters.after is not None and (item.taken is None or item.taken[:10] < filters.after):
        return False
    if filters.before is not None and (item.taken is None or item.taken[: len(filters.before)] > filters.before):
        return False
    if filters.shortest is not None and (item.duration is None or item.duration < filters.shortest):
        return False
    if filters.longest is not None and (item.duration is None or item.duration > filters.longest):
        return False
    return filters.near is None or (
        item.place is not None and distance(item.place, filters.near[:2]) <= filters.near[2]
    )


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Kilometres over the ground between two places in degrees (haversine)."""
    first, second = math.radians(one[0]), math.radians(other[0])
    across = math.radians(other[1] - one[1])
    chord = math.sin((second - first) / 2) ** 2 + math.cos(first) * math.cos(second) * math.sin(across / 2) ** 2
    return 2 * EARTH * math.asin(min(1.0, math.sqrt(chord)))
