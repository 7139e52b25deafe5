"""The server over a real folder that it indexed itself: its API as its description says it, and who is turned away."""

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import jsonschema
import pytest
from openapi_spec_validator import validate
from PIL import Image

from eval.search import api
from eval.search.library import require_folder
from eval.search.server import Server
from pipeline.files import ParamsError
from tests.support import album
from tests.support.album import wait_until

ROOT = Path(__file__).parents[2]


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    data = json.dumps(body).encode() if isinstance(body, dict | list) else body
    kind = {"Content-Type": "application/json"} if isinstance(body, dict | list) else {}
    connection.request(method, path, data, kind | headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), content


def found(server, **body):
    status, _, content = ask(server, "POST", "/api/search", body)
    assert status == 200, content
    return json.loads(content)


def hit_of(server, end):
    return next(hit for hit in found(server, text="a wall", top=50)["joint"] if hit["path"].endswith(end))


def test_the_description_is_sound_and_names_what_is_answered(served):
    status, _, content = ask(served, "GET", "/openapi.json")
    described = json.loads(content)
    validate(described)
    assert status == 200 and set(described["paths"]) == {route.path for route in api.ROUTES}


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", "/api/status", None),
        ("POST", "/api/search", {"text": "a red wall"}),
        ("POST", "/api/search", {"sentences": ["a red wall", "the sea"], "minus": ["snow"], "fold": False, "top": 3}),
        ("POST", "/api/search", {"text": " "}),
        ("POST", "/api/search", {"text": "a wall", "filters": {"near": [48.8, 2.3, 50]}}),
    ],
)
def test_answers_are_as_described(served, method, path, body):
    described = json.loads(ask(served, "GET", "/openapi.json")[2])
    status, _, content = ask(served, method, path, body)
    responses = described["paths"][path][method.lower()]["responses"]
    schema = responses["200" if status == 200 else "default"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(described | schema).validate(json.loads(content))


def test_an_answers_body_does_not_wait_until_its_head_is_acknowledged(served):
    """Which takes a client some 40 ms, unless it has something to say."""
    connection = http.client.HTTPConnection("127.0.0.1", served.server_address[1], timeout=60)
    took = []
    for _ in range(30):  # the first few are acknowledged at once
        began = time.perf_counter()
        connection.request("GET", "/api/status")
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
    connection.close()
    assert min(took[-10:]) < 0.03


def test_everything_readable_is_found_and_the_rest_is_named(served):
    status = json.loads(ask(served, "GET", "/api/status")[2])
    assert (status["items"], status["photos"], status["videos"]) == (9, 5, 4)
    assert [one["id"] for one in status["indexing"]["rejected"]] == ["broken.jpg"] and not status["indexing"]["error"]
    assert status["folders"] == {"trip": 4}
    answer = found(served, text="a red wall", top=50)
    assert len(answer["joint"]) == 9 == answer["total"] and len(answer["images"]) == 9 and len(answer["videos"]) == 4


def test_the_next_page_goes_on_where_the_first_ended(served):
    whole = [hit["key"] for hit in found(served, text="a wall", top=9)["joint"]]
    pages = [found(served, text="a wall", top=4, skip=skip)["joint"] for skip in (0, 4, 8, 12)]
    assert [hit["key"] for page in pages for hit in page] == whole
    assert [hit["rank"] for page in pages for hit in page] == list(range(1, 10))


def test_files_come_whole_and_in_parts(served):
    for end, kind in (("red.jpg", "image/jpeg"), ("red.mp4", "video/mp4")):
        path = f"/api/items/{hit_of(served, end)['key']}/file"
        status, headers, content = ask(served, "GET", path)
        assert status == 200 and headers["Content-Type"] == kind
        assert content == (Path(served.search.root) / end).read_bytes()
        status, headers, part = ask(served, "GET", path, Range="bytes=10-19")
        assert status == 206 and part == content[10:20] and headers["Content-Range"] == f"bytes 10-19/{len(content)}"
        assert ask(served, "GET", path, Range="bytes=-5")[2] == content[-5:]
        assert ask(served, "GET", path, Range=f"bytes={len(content)}-")[0] == 416
        status, headers, body = ask(served, "HEAD", path)
        assert status == 200 and body == b"" and int(headers["Content-Length"]) == len(content)


@pytest.mark.parametrize(
    "end, copied", [("red.mp4", True), ("blue.webm", True), ("old.avi", False), ("long.mp4", True)]
)
def test_a_moment_is_cut_out_as_a_film_of_its_own(served, end, copied):
    from eval.search import media

    hit = hit_of(served, end)
    status, headers, content = ask(served, "GET", f"/api/items/{hit['key']}/cut?start=2.0&end=3.5")
    assert status == 200 and headers["Content-Type"] == ("video/webm" if end.endswith("webm") else "video/mp4")
    assert "attachment" in headers["Content-Disposition"]
    with av.open(io.BytesIO(content)) as film:
        times = [frame.time for frame in film.decode(video=0)]
    assert 1.2 <= times[-1] - times[0] <= 2.6
    part = media.cut(Path(served.search.root) / hit["id"], 2.0, 3.5)
    assert part.copied == copied and 1.0 <= part.start <= 2.0
    status, _, content = ask(served, "GET", f"/api/items/{hit['key']}/preview?start=2.0&end=3.5")
    with av.open(io.BytesIO(content)) as film:
        assert status == 200 and not film.streams.audio and next(film.decode(video=0)).width <= 320


def test_a_preview_that_would_begin_long_before_its_moment_is_encoded(tmp_path):
    from eval.search import media

    path = tmp_path / "one group.mp4"
    album.film(path, (200, 0, 0), seconds=8)
    sparse = tmp_path / "sparse.mp4"
    subprocess.run([imageio_ffmpeg(), "-v", "error", "-i", path, "-g", "1000", "-c:v", "libx264", sparse], check=True)
    assert media.preview(path, 5.2, 6.0).copied
    part = media.preview(sparse, 5.2, 6.0)
    assert not part.copied and part.start == 5.2 and media.cut(sparse, 5.2, 6.0).copied


def imageio_ffmpeg():
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def test_a_thumbnail_is_a_frame_of_its_item(served):
    key = hit_of(served, "long.mp4")["key"]
    for frame in range(4):
        status, headers, content = ask(served, "GET", f"/api/items/{key}/thumb?frame={frame}")
        assert status == 200 and Image.open(io.BytesIO(content)).size[0] > 0
    assert ask(served, "GET", f"/api/items/{key}/thumb?frame=4")[0] == 404


def test_a_photo_that_is_handed_in_finds_itself(served):
    data = (Path(served.search.root) / "trip" / "green.jpg").read_bytes()
    status, _, content = ask(served, "POST", "/api/pictures", data)
    picture = json.loads(content)["picture"]
    assert found(served, pictures=[picture])["joint"][0]["path"].endswith("green.jpg")
    key = hit_of(served, "green.jpg")["key"]
    assert found(served, like=[key])["joint"][0]["key"] == key
    assert ask(served, "POST", "/api/pictures", b"GIF89a no picture")[0] == 400
    assert ask(served, "POST", "/api/pictures", b"#!/bin/sh")[0] == 400
    assert ask(served, "POST", "/api/search", {"pictures": ["never"]})[0] == 404


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("evil.example:{port}", 421),
        ("evil.example", 421),
        ("127.0.0.1", 421),
        ("127.0.0.1:1", 421),
        ("127.0.0.1.evil.example:{port}", 421),
        ("", 421),
    ],
)
def test_only_its_own_names_are_answered(served, host, status):
    host = host.format(port=served.server_address[1])
    assert ask(served, "GET", "/api/status", Host=host)[0] == status
    assert ask(served, "GET", "/", Host=host)[0] == status


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "file://"]
)
def test_other_sites_are_turned_away(served, origin):
    origin = origin.format(port=served.server_address[1])
    assert ask(served, "POST", "/api/search", {"text": "a wall"}, Origin=origin)[0] == 403
    assert ask(served, "GET", "/api/status", Origin=origin)[0] == 403
    assert ask(served, "GET", "/api/status", **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    own = f"http://127.0.0.1:{served.server_address[1]}"
    assert ask(served, "POST", "/api/search", {"text": "a wall"}, Origin=own)[0] == 200


def test_json_is_taken_as_json_only(served):
    body = json.dumps({"text": "a wall"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(served, "POST", "/api/search", body, **{"Content-Type": kind})[0] == 415
    assert ask(served, "POST", "/api/index", body, **{"Content-Type": "text/plain"})[0] == 415


def test_no_cookie_and_nothing_from_elsewhere(served):
    for path in ("/", "/app.js", "/style.css", "/icon.svg", "/api/status", "/api/none"):
        _, headers, content = ask(served, "GET", path)
        assert "Set-Cookie" not in headers and "Access-Control-Allow-Origin" not in headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/../params.yaml",
        "/%2e%2e/params.yaml",
        "/api/items/..%2f..%2fparams.yaml/file",
        "/api/items/red.jpg/file",
        "/api/items/0123456789abcdef/file",
        "/api/items/0123456789abcdef/../../../etc/passwd",
        "/app.py",
        "/page/index.html",
        "//etc/passwd",
    ],
)
def test_no_path_of_the_browser_is_ever_opened(served, path):
    assert ask(served, "GET", path)[0] == 404


def test_a_link_that_leads_out_of_the_folder_is_not_opened(served):
    key = hit_of(served, "blue.png")["key"]
    inside = Path(served.search.root) / "blue.png"
    outside = Path(served.search.root).parent / "outside.png"
    shutil.copy(inside, outside)
    kept = inside.read_bytes()
    inside.unlink()
    inside.symlink_to(outside)
    try:
        status, _, content = ask(served, "GET", f"/api/items/{key}/file")
        assert status == 400 and b"link to outside" in content
    finally:
        inside.unlink()
        inside.write_bytes(kept)


@pytest.mark.parametrize(
    "body, says",
    [
        ({"text": "a wall", "colour": "red"}, "there is no colour"),
        ({"text": 7}, "text: expected string"),
        ({"text": "a wall", "top": 0}, "top is from 1 to 200"),
        ({"text": "a wall", "top": 10**9}, "top is from 1 to 200"),
        ({"text": "a wall", "skip": -1}, "skip"),
        ({"text": "-wall"}, "only words to leave out"),
        ({"text": "a wall", "sort": "size"}, "sort"),
        ({"text": "a wall", "alarm": 0}, "alarm"),
        ({"text": "a wall", "filters": {"near": [1, 2]}}, "expected a list of 3"),
        ({"text": "a wall", "filters": {"near": [91, 0, 1]}}, "near"),
        ({"text": "a wall", "filters": {"after": "yesterday"}}, "after"),
        ({"text": "a wall", "like": ["../x"]}, "there is no item"),
        ({"text": "x" * 30_000}, "at most"),
        ({"text": "a \ud800 wall"}, "not valid text"),
        ([], "expected an object"),
    ],
)
def test_what_cannot_be_asked_is_answered_with_a_sentence(served, body, says):
    status, _, content = ask(served, "POST", "/api/search", body)
    assert status == 400 and says in json.loads(content)["error"]


def test_bodies_that_are_none_end_with_a_sentence(served):
    kind = {"Content-Type": "application/json"}
    assert ask(served, "POST", "/api/search", b"{", **kind)[0] == 400
    assert ask(served, "POST", "/api/search", b"[" * 100_000, **kind)[0] == 400
    assert ask(served, "POST", "/api/search", b"\xff\xfe", **kind)[0] == 400
    assert ask(served, "POST", "/api/search", b"{}", **kind | {"Content-Length": str(1 << 40)})[0] == 413


def test_elsewhere_than_on_the_loopback_it_wants_a_token(served):
    other = Server(served.search, None, "0.0.0.0")
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        assert other.token and other.token in other.address
        assert ask(other, "GET", "/")[0] == 200, "the page itself says nothing"
        assert ask(other, "GET", "/api/status")[0] == 401
        assert ask(other, "GET", "/api/status?token=wrong")[0] == 401
        assert ask(other, "POST", "/api/search", {"text": "a wall"})[0] == 401
        assert ask(other, "GET", f"/api/status?token={other.token}")[0] == 200
        bearer = {"Authorization": f"Bearer {other.token}"}
        assert ask(other, "POST", "/api/search", {"text": "a wall"}, **bearer)[0] == 200
        assert ask(other, "GET", "/api/status", Origin="http://evil.example", **bearer)[0] == 403
    finally:
        other.shutdown()
        other.server_close()
    assert served.token is None


def test_queries_from_many_threads_get_the_same_answer(served):
    wait_until(lambda: served.search.calibrated)  # from when on each hit says how well it fits
    first = found(served, text="a blue wall", top=9)["joint"]
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(found(served, text="a blue wall", top=9)["joint"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [first] * 8


def test_two_more_files_cost_two_and_are_found_without_a_restart(served):
    media = Path(served.search.root)
    before = served.search.gallery.encoded
    album.photo(media / "new one.png", 11, (90, 90, 0))
    album.film(media / "new two.mp4", (90, 0, 90))
    (media / "trip" / "white.webp").rename(media / "white again.webp")
    try:
        assert json.loads(ask(served, "POST", "/api/index", {"begun": True})[2]) == {"begun": True}
        wait_until(lambda: not served.indexing.progress.running, 120)
        paths = [hit["path"].rpartition("/")[2] for hit in found(served, text="a wall", top=50)["joint"]]
        assert len(paths) == 11 and {"new one.png", "new two.mp4", "white again.webp"} <= set(paths)
        assert served.search.gallery.encoded == before + 2, "what was only moved is not encoded again"
    finally:
        (media / "new one.png").unlink()
        (media / "new two.mp4").unlink()
        (media / "white again.webp").rename(media / "trip" / "white.webp")
        ask(served, "POST", "/api/index", {"begun": True})
        wait_until(lambda: not served.indexing.progress.running, 120)
    assert json.loads(ask(served, "GET", "/api/status")[2])["items"] == 9


def test_a_long_film_is_found_by_its_parts(served):
    """A part has a start and an end of its own, plays from there, and leads to the others of its film."""
    path = Path(served.search.root) / "hour.mp4"
    album.film(path, (0, 160, 160), seconds=80, rate=4, hold=40)
    try:
        served.indexing.start()
        wait_until(lambda: not served.indexing.progress.running, 120)
        parts = [hit for hit in found(served, text="a wall", top=50)["videos"] if hit["path"].endswith("hour.mp4")]
        assert len(parts) >= 3 and all(hit["part"] and hit["duration"] <= 30.01 for hit in parts)
        assert len({hit["key"] for hit in parts}) == len(parts)
        parts.sort(key=lambda hit: hit["start"])
        assert all(one["end"] <= two["start"] + 0.3 for one, two in zip(parts, parts[1:])) and parts[-1]["end"] > 50
        status, _, content = ask(
            served, "GET", f"/api/items/{parts[-1]['key']}/cut?start={parts[-1]['start']}&end={parts[-1]['end']}"
        )
        assert status == 200 and len(content) > 500
        only = found(served, text="a wall", top=50, fold=False, lists=["videos"], filters={"film": parts[0]["key"]})
        assert {hit["key"] for hit in only["videos"]} == {hit["key"] for hit in parts} and only["total"] == len(parts)
        assert not any(hit["part"] for hit in found(served, text="a wall", filters={"kind": "photo"})["joint"])
    finally:
        path.unlink()
        served.indexing.start()
        wait_until(lambda: not served.indexing.progress.running, 120)


def test_a_folder_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(ParamsError, match="--folder .* is not a folder"):
        require_folder(str(tmp_path / "nowhere"))
    with pytest.raises(ParamsError, match="lie in one another"):
        require_folder(str(ROOT / "pipeline"))


def test_an_empty_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "eval.search.library", "--folder", str(tmp_path / "empty")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and "no items" in last["error"] and "Traceback" not in done.stderr
