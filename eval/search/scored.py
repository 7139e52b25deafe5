"""What a query gets in both galleries: the scores of its parts on one scale, and which are the method's own to the bit."""

# Axes: A items that were scored, G items of a gallery.

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import row_moments
from eval.search.moment import Moment
from eval.search.view import View


@dataclass
class Part:
    """One sentence, or what must not be there, against some items of a gallery."""

    text: dict[str, Any]  # encoded
    score: NDArray  # (A,) the method's own, or within `bound` of it
    bound: NDArray  # (A,) 0 where it is the method's own
    mean: float
    deviation: float  # inf where all are equal

    @classmethod
    def of(cls, text: dict[str, Any], score: NDArray, bound: NDArray | None, by: NDArray | None = None) -> "Part":
        """On a scale by all its scores, or by those of other items. Once set the scale stays, whichever scores are made exact."""
        mean, deviation = (float(one.item()) for one in row_moments(score[None] if by is None else by[None]))
        return cls(text, score.astype(np.float64), np.zeros(len(score)) if bound is None else bound, mean, deviation)

    def standing(self, at: Any) -> NDArray:
        """Deviations above the mean of the items `at`."""
        return (self.score[at] - self.mean) / self.deviation


@dataclass
class Terms:
    """All parts of a query against one gallery."""

    among: NDArray  # (A,) places among the view's items
    wanted: list[Part]
    against: list[Part]
    likes: list[NDArray]  # (A,) standings by items and pictures

    @property
    def single(self) -> bool:
        """Whether it is one sentence and nothing else, whose score is then the query's."""
        return len(self.wanted) == 1 and not self.against and not self.likes

    @property
    def parts(self) -> list[Part]:
        """All that is scored by a text."""
        return [*self.wanted, *self.against]

    def standing(self, at: Any) -> NDArray:
        """Where each part puts the items `at`, averaged. What must not be there counts only where it stands out."""
        total = np.mean([part.standing(at) for part in self.wanted] + [like[at] for like in self.likes], axis=0)
        for part in self.against:
            total = total - np.maximum(part.standing(at), 0)
        return total

    def bound(self, at: Any) -> NDArray:
        """How far `standing` may be from what exact scores would give on the same scale."""
        count = len(self.wanted) + len(self.likes)
        made = sum((part.bound[at] / part.deviation for part in self.wanted), np.zeros(len(self.among))[at]) / count
        return made + sum(part.bound[at] / part.deviation for part in self.against)

    def rough(self, at: Any) -> NDArray:
        """Whether any part's score of the items `at` is not the method's own; also where all are equal and nothing stands out."""
        found = np.zeros(len(self.among), bool)[at]
        for part in self.parts:
            found |= part.bound[at] > 0
        return found


@dataclass
class Scored:
    """By kind, in the gallery's order; NaN where an item was not on the shortlist."""

    terms: dict[str, Terms]
    score: dict[str, NDArray]  # (G,) the method's; of several parts together their standing
    standing: dict[str, NDArray]  # (G,) deviations above the mean
    bound: dict[str, NDArray]  # (G,) of the standing
    rough: dict[str, NDArray]  # (G,) bool, whether any score is not the method's own
    heights: list[dict[str, NDArray]]  # of each sentence: (G,) above the mean item
    phrases: list[str]
    text: dict[str, Any] | None  # the first sentence, encoded
    moments: dict[int, Moment] = field(default_factory=dict)  # of videos, as far as they were shown

    @classmethod
    def of(cls, view: View, terms: dict[str, Terms], phrases: list[str]) -> "Scored":
        """From the parts of both galleries."""
        count = len(next(iter(terms.values())).wanted)
        made = cls(terms, {}, {}, {}, {}, [{} for _ in range(count)], phrases, None)
        for kind, own in terms.items():
            standing = own.standing(slice(None))
            value = own.wanted[0].score if own.single else standing
            made.standing[kind] = spread(standing, own.among, view, kind)
            made.score[kind] = spread(value, own.among, view, kind)
            made.bound[kind] = spread(own.bound(slice(None)), own.among, view, kind)
            made.rough[kind] = spread(own.rough(slice(None)), own.among, view, kind) == 1
            for height, part in zip(made.heights, own.wanted):
                height[kind] = spread(part.score - part.mean, own.among, view, kind)
            made.text = own.wanted[0].text if own.wanted else None
        return made

    def unsettled(self, kind: str, allowed: NDArray, count: int) -> NDArray:
        """Places of the items, not yet exact, that may be among the `count` best of those that are `allowed` (G,)."""
        standing, bound, rough = self.standing[kind], self.bound[kind], self.rough[kind]
        if not rough.any():
            return np.empty(0, np.int64)
        low = standing[allowed] - bound[allowed]
        floor = np.partition(low, len(low) - count)[len(low) - count] if count < len(low) else -np.inf
        return np.flatnonzero(allowed & rough & (standing + bound >= floor))

    def settle(self, kind: str, places: NDArray, exact: list[NDArray]) -> bool:
        """Take up exact scores of some items, of all parts in turn; whether they lie where they must."""
        own = self.terms[kind]
        for part, found in zip(own.parts, exact):
            if (np.abs(found - part.score[places]) > part.bound[places]).any():
                return False
            part.score[places], part.bound[places] = found, 0.0
        self.standing[kind][places] = own.standing(places)
        self.score[kind][places] = own.wanted[0].score[places] if own.single else self.standing[kind][places]
        for height, part in zip(self.heights, own.wanted):
            height[kind][places] = part.score[places] - part.mean
        self.bound[kind][places], self.rough[kind][places] = own.bound(places), False
        return True


def spread(values: NDArray, among: NDArray, view: View, kind: str) -> NDArray:
    """Values of some items as values of the whole gallery, NaN where there is none."""
    rows = view.rows[kind]
    if among is rows:
        return values.copy()
    place = np.full(len(view.items), -1)
    place[rows] = np.arange(len(rows))
    made = np.full(len(rows), np.nan)
    made[place[among]] = values
    return made
