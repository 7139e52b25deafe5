"""What a photo or a video says of itself: when and where it was taken, and how long it lasts. No pixel is decoded."""

import datetime
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av

from pipeline.files import DecodeError
from pipeline.video import demux, images
from pipeline.video.decode import read_head
from pipeline.video.extract import locate

VERSION = 1
EXIF, GPS = 0x8769, 0x8825  # blocks of EXIF
TAKEN, DIGITISED, CHANGED = (
    0x9003,
    0x9004,
    0x0132,
)  # DateTimeOriginal and DateTimeDigitized of EXIF, DateTime of the file
LATITUDE, LONGITUDE = (1, 2), (3, 4)  # of GPS: N or S, E or W, and degrees, minutes, seconds
FILM_TIMES = ("com.apple.quicktime.creationdate", "creation_time", "date")
FILM_PLACES = ("com.apple.quicktime.location.iso6709", "location", "location-eng")
PLACE = re.compile(r"\s*([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)")  # ISO 6709, in degrees
MOMENT = re.compile(r"\s*(\d{4})[-:/](\d\d)[-:/](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")
YEARS = range(1971, 2200)  # a clock that was never set says 1970 or earlier


@dataclass(frozen=True)
class Facts:
    """None where the file does not say."""

    taken: str | None = None  # 2024-05-31T12:30:00, by the clock of the camera
    latitude: float | None = None  # degrees, north positive
    longitude: float | None = None  # degrees, east positive
    duration: float | None = None  # seconds; None of a photo


@dataclass(frozen=True)
class FactReader:
    """Called with one row of the manifest, in a worker: a file is a stranger's, and is opened where that can do no harm."""

    root: str

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """The fields of `Facts`. Errors: Reject."""
        return asdict(read_facts(locate(Path(self.root), item["path"])))


def read_facts(path: Path) -> Facts:
    """What the header of a file says. Errors: DecodeError where it is no photo and no video."""
    head = read_head(path)
    if images.is_picture(head, path):
        return photo_facts(path, images.picture_format(head, path))
    with demux.open_container(path) as container:
        return film_facts(container)


def photo_facts(path: Path, kind: str) -> Facts:
    """Of a picture, by its EXIF; what is broken in it counts as not said."""
    try:
        with open(path, "rb") as file, images.open_picture(file, kind) as image:
            exif = image.getexif()
            own, place = exif.get_ifd(EXIF), exif.get_ifd(GPS)
    except images.BROKEN as error:
        if isinstance(error, DecodeError) and error.reason == "no_reader":
            raise
        return Facts()
    taken = next((said for tag in (TAKEN, DIGITISED) if (said := moment(own.get(tag)))), None)
    spot = [degrees(place.get(mark), place.get(value)) for mark, value in (LATITUDE, LONGITUDE)]
    return Facts(taken or moment(exif.get(CHANGED)), *known_place(*spot))


def film_facts(container: av.container.InputContainer) -> Facts:
    """Of a video, by its container."""
    said = {name.lower(): value for name, value in container.metadata.items()}
    taken = next((found for name in FILM_TIMES if (found := moment(said.get(name)))), None)
    place = next((found for name in FILM_PLACES if (found := PLACE.match(said.get(name, "")))), None)
    spot = (float(place[1]), float(place[2])) if place else (None, None)
    return Facts(taken, *known_place(*spot), film_duration(container))


def film_duration(container: av.container.InputContainer) -> float | None:
    """Seconds that a video lasts by its own header."""
    stream = demux.find_stream(container)
    if stream.duration and stream.time_base:
        return round(float(stream.duration * stream.time_base), 3)
    return round(container.duration / av.time_base, 3) if container.duration and container.duration > 0 else None


def moment(said: Any) -> str | None:
    """A time as EXIF or a container writes it, as 2024-05-31T12:30:00; None for what is none."""
    found = MOMENT.match(said) if isinstance(said, str) else None
    if not found:
        return None
    numbers = [int(part or 0) for part in found.groups()]
    try:
        time = datetime.datetime(*numbers)
    except ValueError:
        return None
    return time.isoformat() if time.year in YEARS else None


def degrees(mark: Any, value: Any) -> float | None:
    """Degrees, minutes and seconds with N, S, E or W as one number."""
    try:
        parts = [float(part) for part in value]
        whole = sum(part / 60**power for power, part in enumerate(parts))
        return -whole if str(mark).strip("\0 ").upper() in ("S", "W") else whole
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def known_place(latitude: float | None, longitude: float | None) -> tuple[float | None, float | None]:
    """A place on the earth, or none; 0, 0 is what a receiver without a signal says."""
    if latitude is None or longitude is None or not (math.isfinite(latitude) and math.isfinite(longitude)):
        return None, None
    if abs(latitude) > 90 or abs(longitude) > 180 or (latitude == 0 and longitude == 0):
        return None, None
    return round(latitude, 6), round(longitude, 6)
