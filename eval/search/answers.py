"""What is asked and what is answered: the types of the Python call, of `--json` and of the server alike."""

from dataclasses import dataclass, field

from pipeline.files import ParamsError

LONGEST = 20_000  # characters of all sentences together
MOST_TERMS = 16  # sentences, minus words and items in one query
KINDS = ("image", "video")  # the two galleries
LISTS = ("images", "videos", "joint")
SORTS = ("score", "date")


@dataclass(frozen=True)
class Filters:
    """What of the library is searched; None, or an empty list, leaves all in."""

    kind: str | None = None  # photo or video
    folder: str | None = None  # a folder of the library, with all below it
    after: str | None = None  # the first day, 2024-05-31, by when it was taken
    before: str | None = None  # the last day
    shortest: float | None = None  # seconds; photos have no duration and are left out
    longest: float | None = None
    near: tuple[float, float, float] | None = None  # latitude, longitude in degrees, and a radius in km
    ids: tuple[str, ...] = ()  # items by id
    film: str | None = None  # all parts of the film of which the item of this id is one


@dataclass(frozen=True)
class Query:
    """What is looked for: sentences, what must not be there, items or pictures that it should look like."""

    sentences: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    like: tuple[str, ...] = ()  # items, by id
    pictures: tuple[str, ...] = ()  # pictures that were handed in before, by the id that `add_picture` gave
    filters: Filters = field(default_factory=Filters)
    sort: str = "score"
    fold: bool = False  # an item, and what is nearly the same, in one row of the joint list
    alarm: float | None = None  # share of queries without an answer that may still get one; None: none is held back

    @staticmethod
    def of(text: str, **more: object) -> "Query":
        """A query as a person types it: sentences between semicolons, a hyphen before what must not be there (`-snow`)."""
        sentences, minus = [], []
        for part in text.split(";"):
            words = part.split()
            left_out = [word[1:] for word in words if word.startswith("-") and len(word) > 1]
            kept = " ".join(word for word in words if not (word.startswith("-") and len(word) > 1))
            minus += left_out
            sentences += [kept] if kept else []
        if not sentences and not minus:
            raise ParamsError("the sentence is empty")
        if not sentences:
            raise ParamsError(f"only words to leave out ({', '.join(minus)}): say also what to look for")
        return Query(tuple(sentences), tuple(minus), **more)

    def check(self) -> None:
        """ParamsError where nothing is looked for, or far too much."""
        terms = self.sentences + self.minus
        if not (self.sentences or self.like or self.pictures):
            raise ParamsError("the sentence is empty")
        if any(not text.strip() for text in terms):
            raise ParamsError("the sentence is empty")
        if len(terms) + len(self.like) + len(self.pictures) > MOST_TERMS or sum(map(len, terms)) > LONGEST:
            raise ParamsError(f"a query has at most {MOST_TERMS} parts and {LONGEST} characters")
        if self.sort not in SORTS:
            raise ParamsError(f"sort: expected one of {', '.join(SORTS)}, got {self.sort!r}")
        if self.alarm is not None and not 0 < self.alarm <= 1:
            raise ParamsError(f"alarm: expected a share above 0 and at most 1, got {self.alarm}")
        if self.filters.kind not in (None, "photo", "video"):
            raise ParamsError(f"kind: expected photo or video, got {self.filters.kind!r}")


@dataclass(frozen=True)
class Hit:
    """One result."""

    rank: int
    score: float  # the method's own; of several sentences together their standing
    standing: float  # deviations above the mean of its kind for this query; the joint list's scale where a run has none
    fit: float | None  # share of other sentences whose best hit here stands lower; None where it is not measured
    id: str
    key: str  # what the server calls the item
    path: str
    kind: str  # photo, keyframe or video
    time: float | None  # seconds: the keyframe's, or the moment of the video that fits best; None for a photo
    start: float | None = None  # seconds between which the video fits
    end: float | None = None
    duration: float | None = None
    part: bool = False  # of a longer film, of which `Filters.film` finds the others
    taken: str | None = None  # when, as EXIF or the container says, 2024-05-31T12:30:00
    place: tuple[float, float] | None = None  # latitude and longitude
    folded: tuple[str, ...] = ()  # keys of what is nearly the same and stands behind this row


@dataclass(frozen=True)
class Answer:
    """The best of a library for one query, best first."""

    query: str
    phrases: list[str]  # what the sentences say, where the method reads phrases
    images: list[Hit]  # photos, and keyframes of videos
    videos: list[Hit]
    joint: list[Hit]  # both in one list, by the run's own factors for one sentence (`eval.joint`), else by standing
    total: int  # items that the filters leave in
    fits: bool | None = None  # whether anything does, at the query's `alarm`; None where none was asked for
