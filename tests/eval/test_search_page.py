"""The page in a real Chromium: search, open, filter, keyboard, a phone's width, and a console without errors."""

import json
import warnings
from pathlib import Path

import pytest

from eval.search.calibration import Calibration
from tests.support import album
from tests.support.browser import Browser, find

if find() is None:
    warnings.warn(
        "no Chromium here: the page is NOT tested; type: apt-get install chromium-headless-shell", stacklevel=1
    )
pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium: apt-get install chromium-headless-shell")


@pytest.fixture(scope="module")
def chromium():
    browser = Browser(find())
    yield browser
    browser.close()
    assert not browser.lives()


@pytest.fixture
def page(served, chromium):
    """The page, fresh, in a desktop's window; whatever a test does, the console stays silent and nothing leaves."""
    chromium.size(1280, 900)
    chromium.errors.clear()
    chromium.requested.clear()
    chromium.open(served.address)
    chromium.wait("document.getElementById('about').textContent")
    yield chromium
    chromium.run("1")
    assert not chromium.errors
    own = (served.origin, "data:", "blob:", "about:")
    assert not [address for address in chromium.requested if not address.startswith(own)]


def search(page, text):
    page.run("document.getElementById('text').value = ''; document.getElementById('text').focus()")
    page.type(text)
    page.press("Enter")
    page.wait(f"state.ask && state.ask.text === {json.dumps(text)} && !state.busy && document.querySelector('.hit')")


def paths(page):
    return page.run("state.hits.map((one) => one.hit.path.split('/').pop())")


def test_a_sentence_finds_photos_and_videos_in_one_list(page):
    assert "in a sentence" in page.run("document.getElementById('said').textContent")
    search(page, "a red wall")
    said = page.run("document.getElementById('said').textContent")
    assert len(paths(page)) == 9 and (
        "9 items searched" in said or "Nothing fits" in said
    )  # as far as it is calibrated
    assert page.wait(
        "[...document.querySelectorAll('.hit img')].slice(0, 4).every((one) => one.complete && one.naturalWidth)"
    )


def test_the_address_holds_nothing_of_what_is_looked_for(page):
    search(page, "a secret wall")
    assert "secret" not in page.run(
        "location.href + document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
    )


def test_a_click_opens_the_video_at_its_moment(page):
    search(page, "a wall")
    at = page.run("state.hits.findIndex((one) => one.hit.path.endsWith('long.mp4'))")
    page.run(f"state.hits[{at}].id = 'chosen'")
    page.click("#chosen")
    assert page.wait(
        "document.getElementById('viewer').open && document.querySelector('#stage video')?.readyState >= 1"
    )
    moment = page.run("[state.open.start ?? state.open.time, document.querySelector('#stage video').currentTime]")
    assert moment[1] == pytest.approx(moment[0], abs=0.7) or moment[1] > moment[0]
    assert "/cut?" in page.run("document.getElementById('cut').href")
    width, height, stage, native, fit = page.run(
        "(() => { const film = document.querySelector('#stage video'); return [film.clientWidth, film.clientHeight, "
        "document.getElementById('stage').clientWidth, film.videoWidth, getComputedStyle(film).objectFit]; })()"
    )
    assert width == stage > 2 * native, "a small film fills the dialog's width"
    assert height == pytest.approx(0.62 * 900, abs=1) and fit == "contain", "and keeps its shape"
    page.press("Escape")
    assert page.wait("!document.getElementById('viewer').open")


def test_hovering_plays_the_moment(page):
    search(page, "a wall")
    at = page.run("state.hits.findIndex((one) => one.hit.path.endsWith('red.mp4'))")
    page.run(f"state.hits[{at}].id = 'chosen'")
    page.hover("#chosen")
    assert page.wait("document.querySelector('#chosen video')?.currentTime > 0")
    page.hover("#said")
    assert page.wait("!document.querySelector('#chosen video')")


def test_filters_narrow_and_say_when_nothing_is_left(page):
    page.click("#more")
    page.run("document.querySelector('[name=kind]').value = 'video'")
    search(page, "a wall")
    assert all(not name.endswith((".jpg", ".png", ".webp")) for name in paths(page)) and len(paths(page)) == 4
    page.run("document.querySelector('[name=folder]').value = 'trip'")
    search(page, "the wall")
    assert sorted(paths(page)) == ["blue.webm", "long.mp4"]
    page.run("document.querySelector('[name=after]').value = '2031-01-01'")
    page.run("search()")
    assert page.wait("document.getElementById('said').textContent.includes('Nothing passes these filters')")
    page.click("[type=reset]")
    assert page.wait("state.hits.length === 9")


def test_two_columns_are_images_and_videos(page):
    page.run("document.querySelector('[name=layout]').value = 'columns'")
    search(page, "a wall")
    assert page.run("[...document.querySelectorAll('.columns .grid')].map((one) => one.children.length)") == [9, 4]


def test_the_keyboard_is_enough(page):
    page.run("document.activeElement.blur()")
    page.press("/")
    assert page.run("document.activeElement.id") == "text"
    page.type("a wall")
    page.press("Enter")
    page.wait("state.hits.length === 9")
    page.press("ArrowDown")
    assert page.run("state.hits.indexOf(document.activeElement)") == 0
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    assert page.run("state.hits.indexOf(document.activeElement)") == 1
    page.press("Enter")
    assert page.wait("document.getElementById('viewer').open")
    page.press("Escape")
    assert page.wait("!document.getElementById('viewer').open && state.hits.indexOf(document.activeElement) === 1")
    name = page.run("document.activeElement.hit.path")
    page.press("s")
    assert page.wait("state.like.length === 1 && state.hits.length === 9")
    assert page.run("state.hits[0].hit.path") == name, "nothing is more like an item than itself"
    page.click("#like button")
    assert page.wait("!state.like.length && !state.hits.length")


def test_pages_come_without_end(page, served):
    search(page, "a wall")

    page.run(
        "state.skip = 3, state.done = false, document.querySelector('.grid').replaceChildren(), state.hits = [], next()"
    )
    assert page.wait("state.hits.length === 6 && state.done")
    assert page.run("state.hits[0].hit.rank") == 4


def test_on_a_phone_nothing_sticks_out(page):
    page.size(360, 740, phone=True)
    search(page, "a wall")
    assert len(paths(page)) == 9
    page.click("#more")
    assert page.run("document.documentElement.scrollWidth <= 360")
    assert page.run("getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length") == 2
    page.run("state.hits[0].id = 'chosen'")
    page.click("#chosen")
    assert page.wait("document.getElementById('viewer').open")
    assert page.run("document.getElementById('viewer').getBoundingClientRect().right <= 360")


def test_it_is_dark_where_that_is_preferred(page):
    colours = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        colours.append(page.run("getComputedStyle(document.body).backgroundColor"))
    page.prefer("light")
    assert colours == ["rgb(251, 250, 248)", "rgb(22, 20, 18)"]


def test_a_hostile_name_is_text(page):
    search(page, "a red wall")
    assert page.run("!document.querySelector('.hit img[src=x]') && !document.querySelector('[onerror]')")
    shown = page.run("[...document.querySelectorAll('.hit .name')].map((one) => one.textContent)")
    assert album.HOSTILE.replace("\u202e", "\\u202e") in shown
    at = page.run("state.hits.findIndex((one) => one.hit.path.includes('onerror'))")
    page.run(f"state.hits[{at}].id = 'chosen'")
    page.click("#chosen")
    assert page.wait("document.querySelector('#stage img')?.naturalWidth > 0")
    assert "\\u202e" in page.run("document.getElementById('caption').textContent")


def test_what_could_not_be_read_is_said(page):
    assert page.wait("document.getElementById('warning').textContent.includes('broken.jpg')")


def test_an_error_is_a_sentence(page):
    page.run("document.getElementById('text').value = '-snow'; search()")
    assert page.wait("document.getElementById('said').textContent.includes('only words to leave out')")
    page.errors.clear()  # the browser itself reports a status of 400


def test_why_lays_a_map_over_the_frame(page):
    search(page, "a red wall")
    page.run("document.activeElement.blur(); state.hits[0].focus()")
    page.press("w")
    assert page.wait("document.querySelectorAll('#why .words button').length === 3 && state.open")
    page.run("document.querySelectorAll('#why .words button')[1].click()")
    assert page.run("document.querySelector('#why .words [aria-pressed=true]').textContent.startsWith('red ')")
    inked = (
        "document.querySelector('#why canvas').getContext('2d').getImageData(0, 0, 2, 2).data.some((one) => one > 0)"
    )
    assert page.run(inked)


def test_where_nothing_fits_the_nearest_are_grey(page, served):
    page.wait("state.status?.calibrated")
    page.run("document.querySelector('[name=alarm]').value = 1")
    made = served.search.calibration
    served.search.calibration = Calibration({kind: best + 9 for kind, best in made.best.items()}, made.either + 9)
    try:
        search(page, "a purple elephant")
        assert "Nothing fits." in page.run("document.getElementById('said').textContent")
        assert page.run("state.hits.length === 9 && state.hits.every((one) => one.classList.contains('pale'))")
        page.run("document.querySelector('[name=alarm]').value = 100")
        search(page, "a purple elephant again")
        assert page.run("state.hits.every((one) => !one.classList.contains('pale'))")
        assert page.run("!document.getElementById('alarm-hint').hidden"), "it says how far the rate can be trusted"
    finally:
        served.search.calibration = made


def test_a_part_of_a_film_leads_to_the_others(page, served):
    """The button that is only there for a part: it narrows the list to the film, and a chip takes that away again."""
    path = Path(served.search.root) / "hour.mp4"
    album.film(path, (0, 160, 160), seconds=80, rate=4, hold=40)
    try:
        served.indexing.start()
        album.wait_until(lambda: not served.indexing.progress.running, 120)
        parts = sum(item.path == "hour.mp4" for item in served.search.view.items)
        assert parts >= 3
        page.run("document.querySelector('[name=fold]').checked = false")
        for name, hidden in (("long.mp4", True), ("hour.mp4", False)):
            search(page, f"a wall in {name}")
            at = page.run(f"state.hits.findIndex((one) => one.hit.kind === 'video' && one.hit.path.endsWith('{name}'))")
            page.run(
                f"document.querySelectorAll('#chosen').forEach((one) => one.id = ''); state.hits[{at}].id = 'chosen'"
            )
            page.click("#chosen")
            assert page.wait("document.getElementById('viewer').open")
            assert page.run("document.getElementById('film').hidden") is hidden
            if hidden:
                page.press("Escape")
                assert page.wait("!document.getElementById('viewer').open")
        shown = "[...document.querySelectorAll('#stage video, #stage img')]"  # what loads later moves the button
        assert page.wait(f"{shown}.length && {shown}.every((one) => one.readyState >= 1 || one.complete)")
        page.click("#film")
        assert page.wait("!document.getElementById('viewer').open && state.film && !state.busy && state.hits.length")
        assert set(paths(page)) == {"hour.mp4"} and len(paths(page)) == 2 * parts  # as videos and as keyframes
        assert "only hour.mp4" in page.run("document.getElementById('like').textContent")
        page.click("#like button")
        assert page.wait("!state.film && state.hits.some((one) => !one.hit.path.endsWith('hour.mp4'))")
    finally:
        path.unlink()
        served.indexing.start()
        album.wait_until(lambda: not served.indexing.progress.running, 120)
