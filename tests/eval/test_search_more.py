"""What stands around the scores: whether anything fits, why a hit, what is nearly the same, filters, minus words, moments."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.search import calibration, duplicates
from eval.search.answers import Filters, Query
from eval.search.calibration import Asked, Calibration, share_below
from eval.search.duplicates import longest_in_order
from eval.search.filters import distance
from eval.search.moment import best_moment
from eval.search.sentences import sentences
from eval.search.workers import Workers
from pipeline.files import MissingError, ParamsError
from tests.support import album
from tests.support.album import wait_until

# --- whether anything fits


def test_a_fit_is_the_share_of_other_sentences_that_do_worse():
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert share_below(rising, np.array([0.0, 2.5, 9.0, 2.0])).tolist() == [0.0, 0.5, 1.0, 0.375]


def test_the_false_alarm_rate_is_what_it_says():
    """Of sentences like those of the bank, as many pass as was asked for."""
    random = np.random.default_rng(0)
    heights = {kind: random.normal(size=20_000) for kind in ("image", "video")}
    made = Calibration.of({kind: value[:10_000] for kind, value in heights.items()})
    for alarm in (0.05, 0.2, 0.5):
        fits = np.max([made.fit(kind, value[10_000:]) for kind, value in heights.items()], axis=0)
        assert (fits >= made.threshold(alarm)).mean() == pytest.approx(alarm, abs=0.02)


def test_a_kind_without_items_has_no_say():
    made = Calibration.of({"image": np.array([1.0, 2.0])})
    assert np.isnan(made.fit("video", np.array([1.0]))).all() and made.threshold(0.5) > 0
    assert Calibration.of({}).threshold(0.2) == 0


def test_sentences_of_the_list_are_many_and_always_the_same():
    assert len(set(sentences(200))) == 200 and sentences(200) == sentences(200)


def test_an_answer_that_stands_out_fits_and_one_that_does_not_is_held_back(served):
    """The bank's worst sentence against its best: at a false-alarm rate between them only the better one gets an answer."""
    search = served.search
    wait_until(lambda: search.calibrated)
    asked = sentences(40)
    made = search.calibrate([Asked(one) for one in asked])
    tops = [max(hit.fit for hit in search.ask(Query((one,)), 20).joint) for one in asked]
    best, worst = asked[int(np.argmax(tops))], asked[int(np.argmin(tops))]
    alarm = float(np.mean(made.either >= np.median(made.either)))
    assert search.ask(Query((best,), alarm=alarm)).fits is True
    assert search.ask(Query((worst,), alarm=alarm)).fits is False
    assert search.ask(Query((worst,), alarm=1.0)).fits is True, "a rate of one holds nothing back"
    assert search.ask(Query((worst,))).fits is None
    assert served.status().calibrated_by == "list", "a folder has no captions"
    passing = [search.ask(Query((one,), alarm=0.25)).fits for one in asked]
    assert np.mean(passing) == pytest.approx(0.25, abs=0.06)
    search.calibrated_for = ""
    search.calibrate()


def test_a_calibration_is_kept_and_forgotten_with_its_items(served):
    search = served.search
    wait_until(lambda: search.calibrated)
    kept = search.gallery.folder / "calibration.json"
    bank = calibration.choose_bank(search.shards, search.view.items)
    name = calibration.identity(search.gallery.key, search.view, bank)
    found = calibration.read_calibration(search.gallery.folder, name)
    assert found.either.tolist() == search.calibration.either.tolist()
    assert calibration.read_calibration(search.gallery.folder, "other") is None
    text = kept.read_text()
    kept.write_text(text[:50])
    assert calibration.read_calibration(search.gallery.folder, name) is None
    kept.write_text(text)
    less = replace(search.view, items=search.view.items[1:])
    assert calibration.identity(search.gallery.key, less, bank) != name


def test_captions_are_the_bank_where_there_are_enough(tmp_path):
    from eval.search.catalog import Catalog
    from tests.support import worlds

    worlds.cache(tmp_path / "toy", videos=40, captions_per_video=2)
    bank = calibration.choose_bank(tmp_path / "toy", Catalog(tmp_path / "toy").read())
    assert len(bank) == 80 and all(len(asked.right) == 8 for asked in bank), "look-alikes count as right"
    worlds.cache(tmp_path / "few", videos=20, captions_per_video=1)
    bank = calibration.choose_bank(tmp_path / "few", Catalog(tmp_path / "few").read())
    assert {asked.sentence for asked in bank} == set(sentences(200))


# --- why a hit


def test_why_names_every_word_and_where_it_is_shown(served):
    why = served.search.why("A red, very red wall!", "trip/long.mp4")
    assert [word.text for word in why.words] == ["a", "red", "very", "red", "wall"]
    assert why.side == 2 and all(
        len(word.map) == 4 and max(word.map) == pytest.approx(word.score, abs=1e-3) for word in why.words
    )
    times = np.asarray(served.search.view.items[served.search.view.by_id["trip/long.mp4"]].row["time"])
    assert all(word.time == times[word.frame] for word in why.words) and why.time == times[why.frame]
    photo = served.search.why("a wall", "red.jpg")
    assert photo.kind == "image" and photo.time is None and all(word.frame == 0 for word in photo.words)
    still = served.search.why("a wall", "red.mp4", "image")
    assert len({word.frame for word in still.words}) == 1


def test_why_is_a_sentence_where_there_is_nothing_to_explain(served):
    with pytest.raises(MissingError, match="no item"):
        served.search.why("a wall", "gone.jpg")
    with pytest.raises(ParamsError, match="empty"):
        served.search.why(" ", "red.jpg")


# --- what is nearly the same


def times(count, gap=1.0, begin=0.0):
    return begin + gap * np.arange(count)


def test_frames_count_as_found_again_only_at_one_distance_in_time():
    assert longest_in_order(np.eye(6, dtype=bool), times(6), times(6)) == 6
    later = np.zeros((3, 8), bool)
    later[[0, 1, 2], [4, 5, 6]] = True
    assert longest_in_order(later, times(3), times(8)) == 3, "a clip inside a longer film"
    scattered = np.zeros((3, 8), bool)
    scattered[[0, 1, 2], [7, 3, 0]] = True
    assert longest_in_order(scattered, times(3), times(8)) == 1, "the same pictures in another order"
    assert longest_in_order(np.zeros((2, 2), bool), times(2), times(2)) == 0


def test_it_does_not_matter_which_of_two_films_comes_first():
    """One frame of the first is found twice in the second, within the gap between two frames."""
    alike = np.zeros((3, 3), bool)
    alike[0, :2] = True
    assert longest_in_order(alike, times(3), times(3)) == longest_in_order(alike.T, times(3), times(3)) == 2


@pytest.mark.parametrize("count", [1, 2, 7, 30, 200])
def test_rows_are_those_that_comparing_all_with_all_would_give(count):
    """Films and photos drawn from a few turning pictures, of which neighbours are alike and those further on are not."""
    random = np.random.default_rng(0)
    same, listed = duplicates.Duplicates(), []
    for number in range(90):
        photo, about = bool(number % 3), random.integers(5)
        angle = np.radians(72 * about + 12 * random.integers(-1, 2, size=1 if photo else 6))
        turned = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
        item = SimpleNamespace(mark=f"{number}", photo=photo, row={"time": times(len(angle))})
        same.shown[item.mark] = duplicates.Look(turned, turned)
        listed.append(("image" if photo else "video", number, item))
    rows = []
    for kind, place, item in listed:
        twin = next((row for row in rows if same.same(listed[row[1]][2], item)), None)
        if twin is None:
            rows.append((kind, place, []))
        else:
            twin[2].append(item)
    assert 10 < len(rows) < 60 and sum(len(row[2]) > 1 for row in rows) > 5
    assert duplicates.fold(listed, same, Workers(), count) == rows[:count]
    assert duplicates.fold([], same, Workers(), count) == []


def test_copies_are_folded_and_others_are_not(served):
    """A photo saved again smaller, a film encoded anew, a clip of a longer film; a photo of the same colour is another one."""
    media = Path(served.search.root)
    with Image.open(media / "red.jpg") as photo:
        photo.resize((64, 48)).save(media / "smaller.jpg", quality=70)
    from eval.search import media as parts

    long = media / "trip" / "long.mp4"
    (media / "again.mp4").write_bytes(parts.encode(long, 0.0, 20.0, 96).content)
    (media / "clip.mp4").write_bytes(parts.encode(long, 4.0, 18.0, 96).content)
    added = ("smaller.jpg", "again.mp4", "clip.mp4")
    try:
        served.indexing.start()
        wait_until(lambda: not served.indexing.progress.running, 120)
        search = served.search
        items = {item.id: item for item in search.view.items}
        twins = duplicates.Duplicates()
        assert twins.same(items["red.jpg"], items["smaller.jpg"])
        assert twins.same(items["trip/long.mp4"], items["again.mp4"])
        assert twins.same(items["trip/long.mp4"], items["clip.mp4"])
        assert not twins.same(items["red.jpg"], items[album.HOSTILE]), "as red, but another photo"
        assert not twins.same(items["red.jpg"], items["trip/green.jpg"])
        assert not twins.same(items["red.mp4"], items["trip/long.mp4"])
        folded = search.ask(Query(("a wall",), fold=True), 50).joint
        behind = {hit.id: {search.view.items[search.view.by_key[key]].id for key in hit.folded} for hit in folded}
        rows = [{name} | names for name, names in behind.items()]
        assert {"red.jpg", "smaller.jpg"} in rows and {"trip/long.mp4", "again.mp4", "clip.mp4"} in rows
        assert len(folded) == 9 and sum(map(len, rows)) == 12
    finally:
        for name in added:
            (media / name).unlink()
        served.indexing.start()
        wait_until(lambda: not served.indexing.progress.running, 120)


def test_a_damaged_thumbnail_is_like_nothing():
    nothing = duplicates.small_picture(b"no jpeg")
    assert not duplicates.contrast(nothing[None]).any()
    flat = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 9, 9)).save(flat, "JPEG")
    black = duplicates.small_picture(flat.getvalue())
    assert black.any() and not duplicates.contrast(black[None]).any(), "black frames are not all the same film"


# --- what is looked for


@pytest.mark.parametrize(
    "text, sentences_, minus",
    [
        ("a red ball", ("a red ball",), ()),
        ("a red ball; the sea ;", ("a red ball", "the sea"), ()),
        ("a dog -snow", ("a dog",), ("snow",)),
        ("a dog -snow; -people a cat", ("a dog", "a cat"), ("snow", "people")),
        ("a well-known dog - here", ("a well-known dog - here",), ()),
    ],
)
def test_a_query_is_read_as_it_is_typed(text, sentences_, minus):
    query = Query.of(text)
    assert (query.sentences, query.minus) == (sentences_, minus)


@pytest.mark.parametrize("text", ["", " ", ";", "-snow", "-snow;"])
def test_a_query_for_nothing_is_refused(text):
    with pytest.raises(ParamsError, match="empty|only words to leave out"):
        Query.of(text)


def test_a_minus_word_pushes_down_what_shows_it_and_lifts_nothing(served):
    search = served.search
    plain = {hit.id: hit.standing for hit in search.ask(Query(("a wall",)), 50).images}
    alone = {hit.id: hit.standing for hit in search.ask(Query(("red",)), 50).images}
    less = {hit.id: hit.standing for hit in search.ask(Query(("a wall",), ("red",)), 50).images}
    for name, standing in less.items():
        assert standing == pytest.approx(plain[name] - max(alone[name], 0), abs=1e-6)


def test_several_sentences_are_averaged(served):
    search = served.search
    one, two, both = (
        {hit.id: hit.standing for hit in search.ask(Query(said), 50).images}
        for said in (("a wall",), ("the sea",), ("a wall", "the sea"))
    )
    assert both == pytest.approx({name: (one[name] + two[name]) / 2 for name in one}, abs=1e-6)


@pytest.mark.parametrize(
    "filters, left",
    [
        (Filters(kind="photo"), 5),
        (Filters(kind="video"), 4),
        (Filters(folder="trip"), 4),
        (Filters(folder="tri"), 0),
        (Filters(after="2023-07-14"), 2),
        (Filters(after="2023-07-15"), 1),
        (Filters(before="2023-07-14"), 2),
        (Filters(before="2023"), 2),
        (Filters(after="2022", before="2022"), 1),
        (Filters(shortest=10), 1),
        (Filters(longest=10), 3),
        (Filters(near=(48.86, 2.30, 5)), 2),
        (Filters(near=(-33.9, 151.2, 20)), 1),
        (Filters(ids=("red.jpg", "old.avi")), 2),
        (Filters(kind="video", folder="trip", shortest=10), 1),
    ],
)
def test_filters(served, filters, left):
    answer = served.search.ask(Query(("a wall",), filters=filters, fold=True), 50)
    assert answer.total == left == len(answer.joint)


def test_the_latest_come_first_where_that_is_asked(served):
    days = [hit.taken or "" for hit in served.search.ask(Query(("a wall",), sort="date"), 50).joint]
    assert days == sorted(days, reverse=True) and days[0].startswith("2024-01-02") and len(days) == 9


def test_distance_is_over_the_ground():
    assert distance((48.8584, 2.2945), (51.5007, -0.1246)) == pytest.approx(340.5, abs=2)
    assert distance((0, 179.9), (0, -179.9)) == pytest.approx(22.2, abs=0.1)


# --- the moment


def test_a_moment_is_the_best_frame_and_its_like_neighbours():
    class Item:
        start = end = None
        duration = 10.0

    score = np.array([0.0, 0.1, 0.9, 1.0, 0.2])
    moment = best_moment(score, np.array([1.0, 3.0, 5.0, 7.0, 9.0]), Item)
    assert (moment.time, moment.start, moment.end) == (7.0, 4.0, 8.0)
    moment = best_moment(np.ones(1), np.array([0.0]), Item)
    assert (moment.start, moment.end) == (0.0, 10.0)
    last = best_moment(score[::-1] * [1, 1, 1, 1, 9], np.array([1.0, 3.0, 5.0, 7.0, 9.0]), Item)
    assert last.end <= 10.0


# --- while indexing goes on


def test_what_is_indexed_can_be_found_before_the_rest_is(tmp_path):
    """Shards come one by one, and keyframes last; each is taken up as it comes, and encodes its own rows alone."""
    from eval.search.engine import Search
    from pipeline.shards import Shard, shard_paths
    from tests.support import worlds

    home = worlds.cache(tmp_path / "toy", videos=24, count=4)
    shards = shard_paths(home / "visual")
    sizes = {path: len(Shard(path, "visual")) for path in shards}
    later = [(path, path.read_bytes()) for path in (*shards[1:], home / "keyframes.parquet")]
    for path, _ in later:
        path.unlink()
    search = Search(None, home, refresh=False)
    search.take_up()
    assert len(search.view.items) == sizes[shards[0]] == search.gallery.encoded
    for number, (path, content) in enumerate(later[:-1], 2):
        path.write_bytes(content)
        search.take_up()
        assert len(search.view.items) == sum(sizes[one] for one in shards[:number]) == search.gallery.encoded
    assert len(search.view.items) == 24
