"""Names, ids and captions that would be markup, steer a terminal, turn the reading order or climb out of a folder."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import files
from pipeline.export import image_name
from pipeline.files import Reject
from pipeline.stage import visible
from pipeline.video.extract import locate
from tests.eval.test_search import PARAMS, film
from tests.support import tiny
from tests.support.commands import command

NAMES = [
    "<img src=x onerror=alert(1)>.png",
    '"><svg onload=alert(1)>.png',
    "\x1b[2J\x1b]0;owned\x07.png",
    "\u202egnp.exe.png",
    "a..%2f..%2fetc.png",
    "-abc.png",
    "'; touch owned; '.png",
    "two\nlines.png",
]
CAPTIONS = [
    "<script>alert(1)</script> a red wall",
    "a \x1b[31mred\x1b[0m wall \x9b2J",
    "a wall \u202e?dlrow eht\u202c \u2066here\u2069",
    "a wall & a <b>dog</b> 'in' \"quotes\"",
]
STEER = set("\x1b\x07\x9b\u202e\u202c\u2066\u2069")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Such a folder of photos and one film, and everything that the stages make of it."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("hostile")
    (base / "media").mkdir()
    lines = []
    for place, name in enumerate(NAMES):
        photo = np.random.default_rng(place).integers(0, 255, (40, 56, 3)).astype(np.uint8)
        Image.fromarray(photo).save(base / "media" / name)
        lines.append({"file": name, "caption": CAPTIONS[place % len(CAPTIONS)], "split": "test"})
    film(base / "media" / "\u202efilm<b>.mp4", (200, 30, 30))
    lines.append({"file": "\u202efilm<b>.mp4", "caption": CAPTIONS[0], "split": "test"})
    lines.append({"file": "../outside.png", "caption": "a secret", "split": "test"})
    Image.fromarray(photo).save(base / "outside.png")
    (base / "media" / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tiny.clip(base / "model")
    (base / "params.yaml").write_text(PARAMS.format(clip=base / "model", root=base / "media"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        for stage in ("manifest", "clip", "visual", "keyframes", "triplets", "text"):
            command(f"pipeline.{stage}", "--dataset", "mine")
        command("train.run", "--shards", "cache/mine", "--method", "zero_shot")
        command("eval.run", "--run", "cache/mine/runs/zero_shot", "--shards", "cache/mine")
        command("eval.report", "--dataset", "mine")
        yield base


class Tags(HTMLParser):
    """The tags of a page and the names of their attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.names = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}


def test_no_name_and_no_caption_is_markup(home):
    page = (home / "cache/mine/report/index.html").read_text()
    found = Tags()
    found.feed(page)
    assert not found.tags & {"script", "iframe", "object", "embed", "b2", "x"}
    assert not [name for name in found.names if name.startswith("on")]
    assert "&lt;script&gt;" in page and not STEER & set(page)
    assert page.count("<script") == 0 and "<svg onload" not in page and "<img src=x" not in page


def test_no_answer_steers_a_terminal(home, capsys):
    words = ["--run", "cache/mine/runs/zero_shot", "--shards", "cache/mine", "--top", "20"]
    command("eval.search", *words, "a \x1b[2J wall\u202e")
    said = capsys.readouterr()
    assert not STEER & set(said.out + said.err)
    assert "“a \\x1b[2J wall\\u202e”" in said.out and "\\u202egnp.exe.png" in said.out
    assert said.out.count("media/") == 10, "a name of two lines is one line"
    for name in (NAMES[2], NAMES[3], "no such \x1b[2J id"):
        command("pipeline.visual", "--dataset", "mine", "--why", name)
    assert not STEER & set(capsys.readouterr().out)


def test_an_error_does_not_steer_a_terminal_either(home):
    with pytest.raises(SystemExit) as end:
        command("pipeline.visual", "--dataset", "mine", "--retry", "\x1b[2J")
    assert not STEER & set(str(end.value))


def test_no_id_is_a_path(home):
    from pipeline.export import export

    before = {path for path in home.rglob("*") if "cache" not in path.parts}
    export(home / "images", "mine")
    made = {path for path in home.rglob("*") if "cache" not in path.parts} - before
    assert {path.parent for path in made} == {home, home / "images"} and len(made) == 11
    items = files.read_table(home / "cache/mine/manifest/items.parquet")["path"].to_pylist()
    assert len(items) == 9 and "../outside.png" not in items
    assert image_name("../../x") == "..%2F..%2Fx.jpg" and image_name("/etc/passwd") == "%2Fetc%2Fpasswd.jpg"


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/passwd", "a\0b"])
def test_a_manifest_from_a_stranger_leads_nowhere(name):
    with pytest.raises(Reject, match="outside: .* leads out of the dataset's root"):
        locate(Path("media"), name)
    assert locate(Path("media"), "a..b/c.png") == Path("media/a..b/c.png")


def test_what_steers_is_spelt_out_and_what_reads_stays():
    assert visible("a\x1b[2J\u202eb") == "a\\x1b[2J\\u202eb"
    assert visible("שלום مرحبا 👩‍👩‍👧 naïve\n\tx") == "שלום مرحبا 👩‍👩‍👧 naïve\n\tx"
