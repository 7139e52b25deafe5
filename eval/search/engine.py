"""Answer sentences and pictures with the images and videos that match them, best first."""

# Axes: G items of one gallery.

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.search.answers import KINDS, LISTS, Answer, Hit, Query
from eval.search.bounds import Unbounded, bounded
from eval.search.calibration import (
    Asked,
    Calibration,
    choose_bank,
    identity,
    keep_calibration,
    measure,
    read_calibration,
)
from eval.search.catalog import Catalog, Item
from eval.search.duplicates import Duplicates
from eval.search.duplicates import fold as fold_alike
from eval.search.explain import Why, explain
from eval.search.filters import passing
from eval.search.gallery import Encoder, Gallery, gallery_key, read_features
from eval.search.moment import best_moment
from eval.search.recall import Recall
from eval.search.scored import Part, Scored, Terms
from eval.search.text import Reader, read_root
from eval.search.view import View, score_all
from eval.search.workers import Workers
from pipeline import progress
from pipeline.files import MissingError, ParamsError

REMEMBERED = 32  # queries whose scores are held, so that the next page costs nothing
UNTRAINED = "max_sim"  # what searches without a run
FOLDED = 96  # results among which near-duplicates are looked for
PICTURES = 16  # pictures handed in that are remembered


class Search:
    """One run over one library, ready for queries.

        search = Search(Path("cache/demo/runs/unitrim"), Path("cache/demo"))
        answer = search("a red ball", top=10)    # or search.ask(Query(...), top=10, skip=10)

    `run` None is `max_sim`, which learns nothing. The library may grow meanwhile: `refresh` takes up what is new. Calls may come
    from several threads.

    Errors: MissingError, CLIPError, ShardError that say what to type.
    """

    def __init__(
        self, run: Path | None, shards: Path, split: str = "all", device: str = "cpu", *, refresh: bool = True
    ):
        self.run, self.shards, self.split, self.device = run, Path(shards), split, device
        self.catalog = Catalog(self.shards)
        self.root = read_root(self.shards)
        self.method: Any = None
        self.name = run.name if run else UNTRAINED
        self.view = View([], [], np.empty((0, 2), np.int64))
        self.pictures: OrderedDict[str, NDArray] = OrderedDict()
        self.answers: OrderedDict[tuple, Scored] = OrderedDict()
        self.changing, self.asking, self.measuring = threading.Lock(), threading.Lock(), threading.Lock()
        self.calibration: Calibration | None = None
        self.calibrated_for, self.calibrated_by = "", ""  # what it depends on, and whose sentences: captions or list
        self.duplicates = Duplicates()
        self.workers = Workers()
        self.bounding = True  # whether scores within bounds will do where nobody looks; False once one was out of them
        self.factors: dict[str, float] | None = None  # of the run's joint list, by kind
        self.stamp: tuple = ()
        if refresh:
            for _ in self.refresh(meter=True):
                pass
            if not self.view.items:
                raise MissingError(f"{shards} has nothing in split {split!r}; try --split all")

    # --- what is searched

    def open(self) -> None:
        """Load the method, once there are shards that say of which CLIP it must be."""
        from eval.load import open_method, scores_name
        from eval.similarity import Scorer
        from train import checkpoint

        self.method, name, weights = open_method(self.run, self.shards, self.device)
        self.scorer = Scorer(self.method, None, self.device)
        frames = self.catalog.frames
        known = scores_name(self.run, self.shards) if self.run else name
        self.factors = checkpoint.facts(self.run).get("joint", {}).get("factors") if self.run else None
        self.recall = Recall(self.shards / "index" / known, weights, self.scorer)
        self.encoder = Encoder(self.method, frames, self.device)
        self.gallery = Gallery(self.shards / ".search", gallery_key(name, weights, frames))
        self.reader = Reader(self.shards, self.method, self.catalog.clip_sha256, self.device)

    def refresh(self, meter: bool = False) -> Iterator[int]:
        """Take up items that are new or have changed, and drop those that are gone; how many rows were encoded, in steps.

        One at a time; queries go on with the library as it was.
        """
        with self.changing:
            stamp = self.catalog.stamp()
            if stamp == self.stamp and self.method is not None:
                return
            items = self.catalog.read(self.split)
            if not items and not self.catalog.opened and not (self.shards / "visual").is_dir():
                raise MissingError(f"{self.shards} has no visual shards; run: dvc repro visual@{self.shards.name}")
            if items and self.method is None:
                self.open()
            if self.method is not None:
                self.gallery.read()
                todo = sum(item.mark not in self.gallery.place for item in items)
                line = progress.Progress(todo, "gallery", "item") if meter and todo else None
                for count in self.gallery.add(items, self.encoder):
                    if line:
                        line.add(count)
                    self.show(items)
                    yield count
                if line:
                    line.close()
                self.gallery.tidy({item.mark for item in items})
                self.show(items)
            self.stamp = stamp

    def take_up(self) -> None:
        """`refresh` to its end, for who does not count; where nothing stands yet, nothing happens."""
        if (self.shards / "visual").is_dir():
            for _ in self.refresh():
                pass

    def prepare(self) -> None:
        """Load what the first query would wait for, beside everything else."""

        def load() -> None:
            with contextlib.suppress(ValueError):  # said to whoever asks
                if self.method is not None:
                    self.reader.load()
                    self(" ".join(["warm"] * 8))
                    self.calibrate()

        threading.Thread(target=load, daemon=True, name="prepare").start()

    def show(self, items: list[Item]) -> None:
        """Let queries see the items that are encoded by now."""
        self.view = View.of(items, self.gallery, self.view.number + 1)

    @property
    def calibrated(self) -> bool:
        """Whether it is known how well sentences fit that have no answer here."""
        return self.calibration is not None

    def calibrate(self, bank: list[Asked] | None = None) -> Calibration | None:
        """Measure how well sentences fit that have no answer here, unless that is known; None where nothing is indexed yet.

        A few hundred queries, kept beside the gallery. Until it ends the calibration before counts.
        """
        with self.measuring:
            view = self.view
            if not view.items:
                return None
            bank = choose_bank(self.shards, view.items) if bank is None else bank
            name = identity(self.gallery.key, view, bank)
            if name != self.calibrated_for:
                found = read_calibration(self.gallery.folder, name)
                if found is None:
                    found = [one for one in measure(self, view, bank)][-1]
                    keep_calibration(self.gallery.folder, name, found)
                self.calibration, self.calibrated_for = found, name
                self.calibrated_by = "captions" if any(asked.right for asked in bank) else "list"
            return self.calibration

    @property
    def unkept(self) -> str | None:
        """Why the encoded gallery could not be kept for the next search; None where it was."""
        return self.gallery.unkept if self.method is not None else None

    # --- asking

    def __call__(self, sentence: str, top: int = 5) -> Answer:
        """The best images and videos for a sentence taken as it is. Errors: ParamsError for an empty one."""
        return self.ask(Query((sentence,)), top)

    def ask(self, query: Query, top: int = 24, skip: int = 0, lists: tuple[str, ...] = LISTS) -> Answer:
        """The best images, videos, and both in one list, as far as `lists` names them; `skip` of each are passed over."""
        query.check()
        try:
            return self.answer(query, top, skip, lists)
        except Unbounded:  # another kind of score than was thought: all by the method itself from now on
            self.bounding = False
            self.answers.clear()
            return self.answer(query, top, skip, lists)

    def answer(self, query: Query, top: int, skip: int, lists: tuple[str, ...]) -> Answer:
        """The same. Errors: Unbounded where scores that were made within bounds turn out not to be."""
        view = self.view
        said = "; ".join([*query.sentences, *(f"-{word}" for word in query.minus)])
        if not view.items:
            return Answer(said, [], [], [], [], 0)
        scored = self.scored(view, query)
        allowed = passing(view.items, query.filters)
        count = skip + top + (FOLDED if query.fold else 0)
        open_to = {kind: allowed[view.rows[kind]] & np.isfinite(scored.standing[kind]) for kind in KINDS}
        first = count if query.sort == "score" else 1
        self.settle(view, scored, {kind: scored.unsettled(kind, among, first) for kind, among in open_to.items()})
        order = {
            kind: rank(scored.standing[kind], allowed[view.rows[kind]], view, kind, query.sort, count) for kind in KINDS
        }
        own = {
            kind: self.hits(view, scored, [(kind, int(place), []) for place in order[kind]], top, skip)
            for kind in KINDS
            if f"{kind}s" in lists
        }
        joint = self.joint(view, scored, order, query, allowed, top, skip) if "joint" in lists else []
        fits = self.fits(view, scored, order, query.alarm)
        images, videos = own.get("image", []), own.get("video", [])
        return Answer(said, scored.phrases, images, videos, joint, int(allowed.sum()), fits)

    def fits(self, view: View, scored: Scored, order: dict[str, NDArray], alarm: float | None) -> bool | None:
        """Whether the best hit fits better than sentences without an answer do, of which a share `alarm` would pass."""
        if alarm is None or self.calibration is None or not scored.heights:
            return None
        first = {kind: places[scored.standing[kind][places].argmax()] for kind, places in order.items() if len(places)}
        best = [self.fit(scored, kind, int(place)) for kind, place in first.items()]
        return bool(best) and max(share or 0.0 for share in best) >= self.calibration.threshold(alarm)

    def fit(self, scored: Scored, kind: str, place: int) -> float | None:
        """Share of the other sentences whose best hit stands lower; of several sentences the least."""
        if self.calibration is None or not scored.heights:
            return None
        heights = [height[kind][place : place + 1] for height in scored.heights]
        shares = [float(self.calibration.fit(kind, height)[0]) for height in heights]
        return min(shares) if np.isfinite(shares).all() else None

    def why(self, sentence: str, name: str, kind: str = "video") -> Why:
        """Which words and phrases of a sentence an item shows, where and when. Errors: MissingError, ParamsError."""
        view = self.view
        if not sentence.strip():
            raise ParamsError("the sentence is empty")
        if kind not in KINDS:
            raise ParamsError(f"kind: expected image or video, got {kind!r}")
        if name not in view.by_id:
            raise MissingError(f"there is no item {name!r} here any more")
        item = view.items[view.by_id[name]]
        return self.workers.run(lambda: explain(self, item, sentence, "image" if item.photo else kind))

    def add_picture(self, data: bytes) -> str:
        """Remember a photo to search by; its id. Errors: DecodeError where the bytes are none."""
        from eval.search.gallery import digest

        self.require_open()
        vector = self.workers.run(lambda: self.reader.picture(data))
        name = digest(vector.tobytes().hex())
        self.pictures[name] = vector
        while len(self.pictures) > PICTURES:
            self.pictures.popitem(last=False)
        return name

    def require_open(self) -> None:
        """MissingError while nothing is indexed yet."""
        if self.method is None:
            raise MissingError(f"nothing of {self.root or self.shards} is indexed yet; wait a moment")

    # --- scoring

    def scored(self, view: View, query: Query) -> Scored:
        """Scores of a query, remembered for its next page."""
        name = (view.number, query.sentences, query.minus, query.like, query.pictures)
        name += () if view.exact else (query.filters,)  # of a large library only what passes is a candidate
        with self.asking:
            if name not in self.answers:
                self.answers[name] = self.score(view, query)
                while len(self.answers) > REMEMBERED:
                    self.answers.popitem(last=False)
            self.answers.move_to_end(name)
            return self.answers[name]

    def score(self, view: View, query: Query) -> Scored:
        """Each part of a query puts every item somewhere above or below the mean; the places are averaged."""
        import torch

        with torch.inference_mode():
            texts = self.workers.map(self.reader.encode, query.sentences)
            against = self.workers.map(self.reader.encode, query.minus)
            vectors = [self.vector(view, name) for name in query.like] + [self.picture(name) for name in query.pictures]
            likes = self.workers.map(lambda vector: standardise(view.near(vector)), vectors)
            among = {kind: view.rows[kind] for kind in KINDS}
            if not view.exact:
                coarse = np.stack([*(vector for _, vector in texts), *vectors])
                encoded = [text for text, _ in texts]
                allowed = passing(view.items, query.filters)
                short = self.workers.map(
                    lambda kind: self.recall.shortlist(view, kind, encoded, coarse, allowed), KINDS
                )
                among = dict(zip(KINDS, short))
            parts = self.parts(view, [text for text, _ in (*texts, *against)], among)
            terms = {
                kind: Terms(some, parts[kind][: len(texts)], parts[kind][len(texts) :], [like[some] for like in likes])
                for kind, some in among.items()
            }
        return Scored.of(view, terms, [phrase for text in query.sentences for phrase in self.reader.phrases(text)])

    def score_sentence(self, view: View, sentence: str) -> dict[str, NDArray]:
        """By kind: (G,) how far each item stands above the mean one for a sentence."""
        return self.score(view, Query((sentence,))).heights[0]

    def parts(self, view: View, texts: list[dict[str, Any]], among: dict[str, NDArray]) -> dict[str, list[Part]]:
        """By kind, each text against some places of a gallery; the scale is by all, or by a sample where not all is scored.

        By the method's own scores, or within bounds where that is much faster.
        """
        names = [(kind, number) for kind in KINDS for number in range(len(texts))]
        scales = {kind: None if view.exact or not len(view.rows[kind]) else view.sample(kind) for kind in KINDS}
        made: dict[tuple[str, int], tuple[NDArray, NDArray | None, NDArray | None]] = {}
        rough, exact = [], []
        for name in names:
            kind, text = name[0], texts[name[1]]
            if kind == "video" and self.method.recalled():
                made[name] = self.ranked_again(view, text, among[kind], scales[kind])
            elif self.bounding and len(among[kind]) and view.bounded_by(self.scorer, text, kind):
                rough.append(name)
            else:
                exact.append(name)
        if rough:
            within = bounded(view, [(texts[at], kind) for kind, at in rough], self.workers)
            made |= {name: (*found, None) for name, found in zip(rough, within)}
        asked = [(view, texts[at], kind, among[kind]) for kind, at in exact]
        asked += [(scales[kind], texts[at], kind, scales[kind].rows[kind]) for kind, at in exact if scales[kind]]
        found = [one[0] for one in score_all(self.scorer, asked, self.workers)]
        own, by = found[: len(exact)], iter(found[len(exact) :])
        made |= {name: (one, None, next(by) if scales[name[0]] else None) for name, one in zip(exact, own)}
        return {kind: [Part.of(text, *made[kind, at]) for at, text in enumerate(texts)] for kind in KINDS}

    def settle(self, view: View, scored: Scored, places: dict[str, NDArray]) -> None:
        """Let the method itself score some items, by kind, that were scored within bounds. Errors: Unbounded."""
        import torch

        with self.asking, torch.inference_mode():
            left = {kind: some[scored.rough[kind][some]] for kind, some in places.items()}
            asked = [
                (view, part.text, kind, view.rows[kind][some])
                for kind, some in left.items()
                for part in scored.terms[kind].parts
                if len(some)
            ]
            exact = iter(score_all(self.scorer, asked, self.workers))
            for kind, some in left.items():
                found = [next(exact)[0] for _ in scored.terms[kind].parts if len(some)]
                if found and not scored.settle(kind, some, found):
                    raise Unbounded

    def ranked_again(
        self, view: View, text: dict[str, Any], among: NDArray, scale: View | None
    ) -> tuple[NDArray, None, NDArray | None]:
        """Scores of videos by a coarse score, the best of them by a fine one, as the evaluation has it; also of a sample."""
        from eval.similarity import best_of_rows, put_first

        places = [(view, among)] + ([(scale, scale.rows["video"])] if scale else [])
        ends = np.cumsum([0, *(len(some) for _, some in places)])

        def score(scorer: Any, chosen: NDArray) -> NDArray:
            found = [
                one.score(scorer, text, "video", some[chosen[0, first:last]], self.workers)
                for (one, some), first, last in zip(places, ends, ends[1:])
            ]
            return np.concatenate(found, 1)

        coarse = score(replace(self.scorer, coarse=True), np.ones((1, ends[-1]), bool))
        chosen = best_of_rows(coarse, self.method.recalled())
        fine = np.full_like(coarse, np.nan)
        fine[chosen] = score(self.scorer, chosen)[0]
        made = put_first(coarse, fine, chosen)[0]
        return made[: len(among)], None, made[len(among) :] if scale else None

    def vector(self, view: View, name: str) -> NDArray:
        """What an item looks like."""
        if name not in view.by_id:
            raise MissingError(f"there is no item {name!r} here any more")
        return view.whole()[view.by_id[name]]

    def picture(self, name: str) -> NDArray:
        """A picture that was handed in."""
        if name not in self.pictures:
            raise MissingError("the picture is no longer remembered; hand it in again")
        return self.pictures[name]

    # --- results

    @property
    def rule(self) -> str:
        """How the joint list of one sentence is made (`eval.joint`): as the evaluation does by default."""
        return "pair" if self.factors and set(KINDS) <= set(self.factors) else "query"

    def joint(
        self,
        view: View,
        scored: Scored,
        order: dict[str, NDArray],
        query: Query,
        allowed: NDArray,
        top: int,
        skip: int,
    ) -> list[Hit]:
        """Both galleries in one list, videos before images where they stand equal, as the evaluation has it.

        By the run's own factors, where it has some and one sentence alone is asked for; else by how far each stands out.
        """
        if query.sort == "date":
            return self.joint_by_date(view, scored, order, top, skip)
        kinds = [kind for kind in ("video", "image") for _ in order[kind]]
        places = [int(place) for kind in ("video", "image") for place in order[kind]]
        if self.rule == "pair" and scored.terms["image"].single:
            found = [
                pair_gains(scored.score[kind], order[kind], allowed[view.rows[kind]], self.factors[kind])
                for kind in ("video", "image")
            ]
        else:
            found = [scored.standing[kind][order[kind]] for kind in ("video", "image")]
        ranked = np.argsort(-np.concatenate(found), kind="stable")
        listed = [(kinds[at], places[at]) for at in ranked]
        return self.rows_of(view, scored, listed, query.fold, top, skip)

    def rows_of(
        self, view: View, scored: Scored, listed: list[tuple[str, int]], fold: bool, top: int, skip: int
    ) -> list[Hit]:
        """Hits of a list of (kind, place); `fold`: an item, and what is nearly the same, in one row, where it comes first."""
        folded: list[tuple[str, int, list[Item]]] = [(kind, place, []) for kind, place in listed]
        if fold:
            each = first_of_each(view, listed)
            first = []
            for kind, place in each[:FOLDED]:
                row = int(view.rows[kind][place])
                self.duplicates.look(view.items[row], lambda row=row: view.small_pictures(row))
                first.append((kind, place, view.items[row]))
            folded = fold_alike(first, self.duplicates, self.workers, skip + top)
            folded += [(kind, place, []) for kind, place in each[FOLDED:]]
        return self.hits(view, scored, folded, top, skip)

    def joint_by_date(self, view: View, scored: Scored, order: dict[str, NDArray], top: int, skip: int) -> list[Hit]:
        """One row an item, as a video where it is one, the latest first."""
        photos = [("image", int(place)) for place in order["image"] if view.items[view.rows["image"][place]].photo]
        listed = [("video", int(place)) for place in order["video"]] + photos
        listed.sort(key=lambda one: view.items[int(view.rows[one[0]][one[1]])].taken or "", reverse=True)
        return self.rows_of(view, scored, listed, True, top, skip)

    def hits(
        self, view: View, scored: Scored, listed: list[tuple[str, int, list[Item]]], top: int, skip: int
    ) -> list[Hit]:
        """One page of a list of (kind, place, what is folded behind it)."""
        shown = listed[skip : skip + top]
        places = {one: [place for kind, place, _ in shown if kind == one] for one in KINDS}
        # a list by date may show what is far from the best
        self.settle(view, scored, {kind: np.array(some, np.int64) for kind, some in places.items()})
        films = [place for kind, place, _ in shown if kind == "video" and place not in scored.moments]
        self.find_moments(view, scored, films)
        return [
            self.hit(view, scored, kind, place, skip + number, tuple(item.key for item in behind))
            for number, (kind, place, behind) in enumerate(shown, 1)
        ]

    def hit(self, view: View, scored: Scored, kind: str, place: int, rank: int, folded: tuple[str, ...]) -> Hit:
        """One result with its path and time."""
        item = view.items[int(view.rows[kind][place])]
        times = np.asarray(item.row["time"])
        made = Hit(
            rank=rank,
            score=float(scored.score[kind][place]),
            standing=float(scored.standing[kind][place]),
            fit=self.fit(scored, kind, place),
            folded=folded,
            id=item.id,
            key=item.key,
            path=str(Path(self.root) / item.path),
            kind="photo" if item.photo else "keyframe" if kind == "image" else "video",
            time=None if item.photo else float(times[item.keyframe]),
            duration=item.duration,
            part=item.part,
            taken=item.taken,
            place=item.place,
        )
        if made.kind != "video":
            return made
        moment = scored.moments[place]
        return replace(made, time=moment.time, start=moment.start, end=moment.end)

    def find_moments(self, view: View, scored: Scored, places: list[int]) -> None:
        """The moments of some videos, by their places in the gallery: each frame is scored as an image, those of all together."""
        items = [view.items[int(view.rows["video"][place])] for place in places]
        if scored.text is None:
            found = [np.asarray(item.row["frame"], np.float32) for item in items]
            scores = [frame @ frame[item.keyframe] for frame, item in zip(found, items)]
        else:
            stills = [replace(item, keyframe=index) for item in items for index in range(len(item.row["time"]))]
            ends = np.cumsum([len(item.row["time"]) for item in items])[:-1]
            scores = np.split(self.workers.run(lambda: self.still_scores(stills, scored.text)), ends) if stills else []
        for place, item, score in zip(places, items, scores):
            scored.moments[place] = best_moment(score, np.asarray(item.row["time"]), item)

    def still_scores(self, stills: list[Item], text: dict[str, Any]) -> NDArray:
        """(stills,) scores of items as images."""
        features = read_features(stills, "image", self.method.needs, 0)
        image = self.encoder.encoders["image"]({name: one.to(self.device) for name, one in features.items()})
        return self.scorer.score(text, image, "image")[0]


def standardise(scores: NDArray) -> NDArray:
    """Deviations above the mean."""
    from eval.metrics import calibrate

    return calibrate(scores[None])[0] if len(scores) else scores


def rank(standing: NDArray, allowed: NDArray, view: View, kind: str, sort: str, count: int) -> NDArray:
    """Places in a gallery of what the filters leave in: the `count` best, or all by date; equal ones in the library's order."""
    places = np.flatnonzero(allowed & np.isfinite(standing))
    if sort == "date":
        places = places[np.argsort(-standing[places], kind="stable")]
        taken = [view.items[int(view.rows[kind][place])].taken or "" for place in places]
        return places[sorted(range(len(places)), key=lambda at: taken[at], reverse=True)]
    if count < len(places):
        value = standing[places]
        places = places[value >= np.partition(value, len(value) - count)[len(value) - count]]
    return places[np.argsort(-standing[places], kind="stable")][:count]


def pair_gains(score: NDArray, best: NDArray, allowed: NDArray, factor: float) -> NDArray:
    """What each of the `best` places of a gallery, best first, adds to a joint list by the rule `pair` (`eval.joint`).

    score: (G,), allowed: (G,) bool: the gallery is what the filters leave in.
    """
    from eval import joint

    if not len(best):
        return np.empty(0)
    shown = allowed & np.isfinite(score)
    log = np.full(len(score), -np.inf)
    log[shown] = joint.log_probability(score[shown][None], factor)[0]
    return joint.spread(log[best][None], joint.pair_gain)[0]


def first_of_each(view: View, listed: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Each item once, where it comes first: a video is in the list as a video and as its keyframe."""
    seen: set[int] = set()
    return [one for one in listed if not ((row := int(view.rows[one[0]][one[1]])) in seen or seen.add(row))]
