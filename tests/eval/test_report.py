"""Tables of all runs, and the page: what it shows, that it is the same twice, and that it needs nobody."""

import html
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image

from eval import overview, run, similarity, stale
from eval.report import __main__, charts, facts, figures, page
from eval.report.bare import search_command
from pipeline import files, shards
from pipeline.shards import TAUGHT, Shard, VideoReader, identity, shard_paths
from tests.eval.test_run import Mean
from tests.support import worlds
from tests.support.commands import command as run_command
from train.data import Cache


def metrics(t2v: float, seed: int = 0, method: str = "unitrim") -> dict:
    part = {"R@1": t2v, "R@5": 80.0, "R@10": 90.0, "MdR": 2.0, "MnR": 3.0, "Rsum": 200.0, "queries": 20, "gallery": 10}
    return {
        "method": method,
        "seed": seed,
        "split": "test",
        "t2v": part,
        "joint": part | {"both": part | {"R@2": 40.0}},
    }


def write(folder, **runs):
    for name, numbers in runs.items():
        path = folder / "scores" / name.replace("_seed", "-seed") / "metrics.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(numbers))


def test_seeds_are_gathered_and_variants_keep_their_name(tmp_path):
    write(tmp_path, unitrim=metrics(40), unitrim_seed1=metrics(44, 1), unitrim_raw=metrics(10))
    runs = overview.gather_metrics(tmp_path)
    assert {name: [numbers["seed"] for numbers in seeds] for name, seeds in runs.items()} == {
        "unitrim": [0, 1],
        "unitrim_raw": [0],
    }


def test_rows_of_the_papers_tables_have_their_curves_and_no_row_of_their_own(tmp_path):
    runs = {"unitrim": metrics(40), "table-k4": metrics(10)}
    write(tmp_path, **runs)
    for name in runs:
        line = {"phase": "alignment", "step": 0, "terms": {f"loss of {name}": 1.0}}
        files.write(tmp_path / "runs" / name / "history.jsonl", json.dumps(line) + "\n")
    gathered = overview.gather_metrics(tmp_path)
    assert list(gathered) == ["unitrim"]
    folded = __main__.table_rows(tmp_path, gathered)
    assert "1 rows of the papers" in folded and "loss of table-k4" in folded and "loss of unitrim" not in folded
    assert __main__.table_rows(tmp_path, overview.gather_metrics(tmp_path, table_rows=True)) == ""


def test_the_epoch_that_is_kept_is_a_dot_on_its_curve_and_a_row(tmp_path):
    """Of three epochs the second: the dot stands at its step and value, for rows of the papers' tables too."""
    write(tmp_path, **{"table-k4": metrics(10)})
    stood = [{"text_video": {"R@1": value, "R@5": 50.0, "R@10": 60.0}} for value in (10.0, 30.0, 20.0)]
    lines = [{"phase": "alignment", "epoch": at, "step": 10 * at, "validation": one} for at, one in enumerate(stood)]
    lines.append({"phase": "alignment", "kept": 1, "of": 3, "validation": stood[1]})
    folder = tmp_path / "runs" / "table-k4"
    files.write(folder / "history.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    phases = {"alignment": {"kept": 1, "of": 3, "validation": stood[1]}}
    files.write(folder / "run.json", json.dumps({"kept": {"by": "best", "on": "val", "phases": phases}}))
    folded = __main__.table_rows(tmp_path, {})
    (dot,) = re.findall(r'<circle class="kept" cx="([\d.]+)" cy="([\d.]+)"', folded)
    points = re.search(r'<polyline class="seed0" points="([^"]+)"', folded)[1].split()
    assert ",".join(dot) == points[1] and len(points) == 3
    assert "the best on val" in folded and "alignment 2 of 3: 30.0/50.0/60.0" in folded


def test_runs_that_train_blocks_of_clip_are_named_beside_the_frozen_ones(tmp_path):
    runs = {"clip4clip": metrics(30), "clip4clip-tuned": metrics(31)}
    write(tmp_path, **runs)
    gathered = overview.gather_metrics(tmp_path)
    assert facts.features_line(tmp_path, gathered) == "All methods on the same frozen features. Mean over seeds."
    record = {"owned": {"image": [2, 3], "text": [1]}}
    files.write(tmp_path / "runs" / "clip4clip-tuned" / "run.json", json.dumps(record))
    said = facts.features_line(tmp_path, gathered)
    assert "clip4clip-tuned (2 of its image tower and 1 of its text tower). Mean" in said and "clip4clip (" not in said


def test_mean_and_deviation_by_eye():
    one = overview.format_cell([40.0, 44.0, 42.0])
    assert str(one) == "42.0 ± 2.0" and str(overview.format_cell([40.0])) == "40.0" and overview.format_cell([]) is None


def test_the_best_is_the_highest_recall_and_the_lowest_rank():
    low, high = metrics(40)["t2v"], metrics(50)["t2v"] | {"MdR": 5.0}
    made = overview.build_table("text → video", overview.RANKED, {"a": [low], "b": [high]})
    assert [row.cells[0].best for row in made.rows] == [False, True]
    assert [row.cells[3].best for row in made.rows] == [True, False]
    assert all(row.cells[4].best for row in made.rows), "equal means are both best"


def test_nobody_is_best_where_all_have_found_nothing():
    nothing = metrics(0)["t2v"]
    made = overview.build_table("text → video", overview.RANKED, {"a": [nothing], "b": [nothing]})
    assert not any(row.cells[0].best for row in made.rows) and all(row.cells[1].best for row in made.rows)


def test_text_and_markdown_say_the_same_with_n(tmp_path):
    write(tmp_path, zero_shot=metrics(20, method="zero_shot"), unitrim=metrics(40), unitrim_seed1=metrics(44, 1))
    made = overview.build_tables(overview.gather_metrics(tmp_path))
    assert [each.title for each in made] == ["text → video", "joint gallery, either", "joint gallery, both"]
    assert "42.0 ± 2.8*" in overview.to_text(made) and "20 over 10" in overview.to_text(made)
    assert "| unitrim | 2 | **42.0 ± 2.8** |" in overview.to_markdown(made)


def test_runs_of_different_test_sets_are_not_hidden():
    other = metrics(50)["t2v"] | {"gallery": 9}
    made = overview.build_table("text → video", overview.RANKED, {"a": [metrics(40)["t2v"], other]})
    assert made.rows[0].size == "20 over 10; 20 over 9"


def test_queries_are_shown_by_rule_and_no_group_twice():
    ranks = [
        {"caption_id": f"{name}#000", "video_id": name, "image_rank": image, "video_rank": video}
        for name, image, video in (
            ("a", 1, 1),
            ("b", 1, 1),
            ("c", 1, 1),
            ("d", 4, 1),
            ("e", 1, 3),
            ("f", 9, 9),
            ("g", 2, 2),
        )
    ]
    picked = [row["video_id"] for row in figures.choose_queries(ranks, {"a": "x", "b": "x", "c": "y"})]
    assert len(picked) == 6 and "c" in picked and len({"a", "b"} & set(picked)) == 1
    assert picked[2:4] == ["d", "e"] and set(picked[4:]) == {"f", "g"}
    assert picked == [row["video_id"] for row in figures.choose_queries(ranks[::-1], {"a": "x", "b": "x", "c": "y"})]


def test_nouns_and_verbs_are_marked_and_text_is_escaped():
    said = page.marked("a <b> dog runs", [(6, 9)], [(10, 14), (8, 12)])
    assert said == 'a &lt;b&gt; <span class="noun">dog</span> <span class="verb">runs</span>'


def test_the_keyframe_is_outlined_and_its_row_sum_is_told():
    similarity_matrix = np.array([[1, 0.5, 0.2], [0.5, 1, 0.6], [0.2, 0.6, 1]])
    drawn = page.keyframe("v", [page.Shot(b"x")] * 3, np.array([0.5, 1.5, 2.5]), similarity_matrix, 1)
    assert "Frame 2 of 3, at 1.50 s" in drawn and "2.100" in drawn and drawn.count('class="shot chosen"') == 1


@pytest.mark.parametrize("frames", [2, 12, 64])
def test_a_matrix_of_any_size_has_squares_and_bars(frames):
    drawn = charts.heatmap(np.eye(frames), 0)
    sizes = [float(size) for size in re.findall(r'(?:width|height)="([-0-9.]+)"', drawn)]
    assert min(sizes) > 0 and drawn.count("<rect") == frames * frames + frames + 1


def test_chance_by_hand():
    whole = {"queries": 20, "gallery": 10}
    numbers = {
        "t2v": whole,
        "joint": {"queries": 20, "gallery": 20, "both": {"queries": 20, "gallery": 20}},
        "t2v_group": whole | {"in_group_chance": 25.0},
    }
    assert facts.chance(numbers, ("t2v",), "R@1") == 10 and facts.chance(numbers, ("t2v",), "R@10") == 100
    assert facts.chance(numbers, ("joint",), "R@1") == 10, "two of twenty are right"
    assert facts.chance(numbers, ("joint", "both"), "R@10") == pytest.approx(100 * 10 * 9 / (20 * 19))
    assert facts.chance(numbers, ("t2v_group",), "in_group") == 25
    assert [facts.format_chance(value) for value in (33.33, 0.33, 0.025)] == ["33.3", "0.3", "0.025"]


def test_a_headline_has_the_baseline_and_chance_beside_it():
    runs = {"zero_shot": [metrics(20, method="zero_shot")], "unitrim": [metrics(40), metrics(44, 1)]}
    first = facts.headlines("unitrim", runs)[0]
    assert (first.label, first.value) == ("text → video R@1", "42.0 ± 2.8")
    assert first.against == {"zero_shot": "20.0", "chance": "10.0"}
    assert facts.headlines("zero_shot", runs)[0].against == {"chance": "10.0"}, "nothing is its own baseline"
    shown = page.headlines([first])
    assert "42.0 ± 2.8" in shown and "zero_shot 20.0" in shown and "chance 10.0" in shown


def test_a_picture_opens_its_file_at_its_moment_where_it_lies_beside_the_page(tmp_path):
    class Visual:
        def times(self, name):
            return np.array([0.0]) if name == "photo" else np.array([0.5, 1.25])

        def jpeg(self, name, index):
            return b"x"

    paths = {"clip": "my films/a #1?.mp4", "photo": "a.png", "gone": "gone.mp4"}
    for name in ("clip", "photo"):
        (tmp_path / "media" / paths[name]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "media" / paths[name]).touch()
    source = figures.Source(Visual(), paths, {}, tmp_path / "media", tmp_path / "cache/toy/report")
    assert source.shot("clip", 1).link == "../../../media/my%20films/a%20%231%3F.mp4#t=1.25"
    assert source.shot("photo", 0).link == "../../../media/a.png"
    assert source.shot("gone", 0).link is None
    shown = page.picture(source.shot("clip", 1), 'a "name" <b>')
    assert shown.startswith('<a href="../../../media/my%20films/') and "&quot;name&quot; &lt;b&gt;" in shown


def draw_thumbnails(folder):
    """Every frame of the world a small picture of one colour."""
    for path in shard_paths(folder / "visual"):
        tensors, attributes = worlds.taken(path, "visual")
        drawn = []
        for row in range(len(tensors["time"])):
            file = io.BytesIO()
            Image.new("RGB", (112, 112), (40 * row % 256, 120, 90)).save(file, "JPEG")
            drawn.append(np.frombuffer(file.getvalue(), np.uint8))
        tensors["jpeg"] = np.concatenate([np.zeros(0, np.uint8), *drawn])
        tensors["jpeg_offset"] = np.cumsum([0, *map(len, drawn)])
        shards.write(path, "visual", tensors, attributes)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A dataset with two seeds of one method and one of another, their settings and histories, and something rejected."""
    base = tmp_path_factory.mktemp("home")
    folder = worlds.cache(base / "cache" / "toy", videos=40)
    draw_thumbnails(folder)
    rejected = {"id": ["<bad>.mp4"], "stage": ["visual"], "reason": ["unreadable"], "detail": ["no moov atom"]}
    files.write_table(folder / "visual" / "rejects.parquet", pyarrow.table(rejected))
    scores = similarity.matrices(Mean(), Cache(folder, Mean.needs), "test")
    texts = np.arange(0, len(scores.caption_id), 2)
    scores.video[texts, scores.truth("video")[texts]] = 1  # features of this world are random: let half be found
    scores.image[texts[::2], scores.truth("image")[texts[::2]]] = 1
    for name, seed in (("zero_shot", 0), ("mean", 0), ("mean-seed1", 1)):
        method = name.split("-")[0]
        numbers, columns = run.measure(scores)
        run.save_scores(
            folder / "scores" / name, "test", {"method": method, "seed": seed, "split": "test"} | numbers, columns
        )
        record = {"method": method, "seed": seed, "parameters": 1234567, "seconds": 12.3, "torch": "2.9.1"}
        record |= {"config": {"batch": 48, "alignments": ["sentence_video"]}, "code": "c0de" * 8}
        if method == "mean":
            weights = {"sentence_video": 0.25, "word_patch": 0.75 - 0.1 * seed}
            record["fusion"] = {"chosen_on": "val", "texts": 1600, "weights": weights}
        files.write(folder / "runs" / name / "run.json", json.dumps(record))
        if method == "zero_shot":
            continue
        lines = [
            {"phase": "alignment", "epoch": 0, "step": step, "terms": {"sentence_video": 2 - step / 9}}
            for step in range(9)
        ]
        (folder / "runs" / name / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return base


def command(home, monkeypatch, *words: str) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["eval.report", *words])
    __main__.main()


class Outline(html.parser.HTMLParser):
    """Every opened tag is closed again, in order."""

    VOID = {"meta", "link", "img", "path", "rect", "polyline", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def written(home, monkeypatch):
    command(home, monkeypatch, "--dataset", "toy")
    return (home / "cache/toy/report/index.html").read_text()


def test_the_page_is_whole_and_needs_no_network(written):
    outline = Outline()
    outline.feed(written)
    assert not outline.open
    links = [attributes.get(name, "") for _, attributes in outline.seen for name in ("src", "href", "srcset")]
    assert all(link == "" or link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"@import|url\(|<script|https?:", written)
    assert all(attributes.get("alt") is not None for tag, attributes in outline.seen if tag == "img")


def test_the_page_has_every_part(written):
    for part in ("results", "queries", "joint", "keyframe", "training", "runs", "reading"):
        assert f'id="{part}"' in written and f'href="#{part}"' in written
    for said in ("text → video", "✓", "✗", "look-alike", "sentence video", "alignment", "prefers-color-scheme: dark"):
        assert said in written
    assert "over 10" in written and written.count("<polyline") == 2


def classes(written: str, tag: str, wanted: str) -> list[dict]:
    outline = Outline()
    outline.feed(written)
    return [attributes for name, attributes in outline.seen if name == tag and wanted in attributes.get("class", "")]


def test_a_reader_switches_between_methods_without_a_script(written):
    outline = Outline()
    outline.feed(written)
    radios = [attributes for tag, attributes in outline.seen if tag == "input"]
    assert [radio["name"] for radio in radios] == ["run", "run"] and sum("checked" in radio for radio in radios) == 1
    for index in range(2):
        assert f"body:has(#run-{index}:checked) .of-run:not(.run-{index}) {{ display: none; }}" in written
        assert len(classes(written, "div", f"of-run run-{index}")) == 3, "headlines, queries, joint lists"
    blocks = re.split(r'<div class="of-run run-\d">', written)[3:5]
    captions = [re.findall(r"caption <span class=\"id\">([^<]+)", block) for block in blocks]
    assert captions[0] == captions[1] and len(captions[0]) == 5, "every method is asked the same"


def test_nothing_lies_on_a_picture_and_ids_are_text(written):
    for tile in re.findall(r'<figure class="tile.*?</figure>', written, re.S):
        above, caption = tile.split("<figcaption>")
        assert "mark" not in above and "look-alike" not in re.sub(r'alt="[^"]*"', "", above)
        assert re.search(r'<span class="id" title="(video\d+)">\1</span>', caption)


def test_a_missed_right_one_stands_beside_the_row_with_its_rank(home, written):
    ranks = files.read_table(home / "cache/toy/scores/mean/ranks.parquet").to_pylist()
    rank = {row["caption_id"]: row for row in ranks}
    articles = re.findall(r'<article class="query">.*?</article>', written, re.S)
    seen = 0
    for article in articles:
        row = rank[re.search(r'caption <span class="id">([^<]+)', article)[1]]
        for kind in ("image", "video"):
            beside = f'right, at rank {row[f"{kind}_rank"]:g}</h4><figure class="tile right {kind}">'
            missed = row["video_id"] not in row[f"{kind}_top"][: figures.TOP]
            assert (beside in article) == missed
            seen += missed
    assert seen > 0 and "right, at rank 1<" not in written


def test_runs_settings_versions_and_rejects_have_a_place(written):
    runs = written[written.index('id="runs"') :]
    for shown in ("1,234,567", "2.9.1", "c0dec0dec0de", "settings of mean", "<dd>48</dd>", "sentence_video"):
        assert shown in runs
    assert "What each part of mean&#x27;s score counts, chosen on val, by 1,600 texts" in runs
    assert "sentence–video" in runs and all(f"<td>{share} %</td>" in runs for share in (25, 75, 65))
    assert "unreadable" in runs and "&lt;bad&gt;.mp4" in runs and "no moov atom" in runs and "<bad>" not in written


def test_a_stale_run_is_named_above_the_numbers(home, monkeypatch, written):
    assert '<ul class="warnings">' not in written
    path = home / "cache/toy/scores/mean-seed1/metrics.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"run": {"config": {"batch": 7}}}))
    try:
        command(home, monkeypatch, "--dataset", "toy")
        said = (home / "cache/toy/report/index.html").read_text()
    finally:
        path.write_text(before)
    assert said.index('<ul class="warnings">') < said.index('class="facts"')
    assert "left out: mean-seed1 was trained again since it was scored" in said


def test_a_table_scrolls_by_itself_and_says_so(written):
    tables_shown, scrollers = written.count("<table"), classes(written, "div", "scroll")
    assert tables_shown and written.count('class="hint"') == len(scrollers) == tables_shown + 1  # the matrix too
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in scrollers)


MEASURE = """<script>
addEventListener("load", () => {
  const outside = [...document.querySelectorAll("body *")].filter(
    (each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll, .switch"));
  const meets = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const box = (each) => each.getBoundingClientRect();
  const collisions = [...document.querySelectorAll(".tile")].filter((tile) => {
    const parts = [...tile.querySelectorAll("img, .place, .score, .same, .id")].filter((each) => box(each).width);
    return parts.some((a, i) => parts.slice(i + 1).some((b) => meets(box(a), box(b))));
  });
  const visible = [...document.querySelectorAll("#queries .of-run")].filter((each) => each.offsetHeight).length;
  const broken = [...document.images].filter((each) => !each.naturalWidth).length;
  document.documentElement.dataset.found = JSON.stringify({
    width: innerWidth, wide: document.documentElement.scrollWidth, outside: outside.length,
    collisions: collisions.length, visible, broken,
    five: new Set([...document.querySelectorAll("#queries .of-run:not([hidden]) .tiles")]
      .filter((each) => each.offsetHeight).map((each) => getComputedStyle(each).gridTemplateColumns.split(" ").length)).size,
  });
});
</script>"""


def look(page: str, folder: Path, width: int) -> dict:
    """What a browser of some width makes of a page, which must not complain."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        warnings.warn("no Chromium on the PATH: nobody has looked at the report in a browser", stacklevel=1)
        pytest.skip("no Chromium on the PATH")
    (folder / "index.html").write_text(page.replace("</body>", f"{MEASURE}</body>"))
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    words += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", f"--window-size={width},900"]
    done = subprocess.run([*words, f"file://{folder}/index.html"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return json.loads(html.unescape(re.search(r'data-found="([^"]*)"', done.stdout)[1]))


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_a_browser_shows_it_without_errors_overflow_or_overlap(written, tmp_path, width):
    many = written.replace("<span>mean</span>", "<span>mean of_many_methods whose_buttons_take_a_whole_line</span>")
    found = look(re.sub(r">(video\d{4})<", r">a folder/of a name that is long/\1.mp4<", many), tmp_path, width)
    assert found["width"] == width and found["wide"] <= width
    assert (found["outside"], found["collisions"], found["broken"]) == (0, 0, 0)
    assert found["visible"] == 1 and found["five"] == 1


def test_the_same_files_make_the_same_page(home, monkeypatch, written):
    path = home / "cache/toy/report/index.html"
    path.unlink()
    command(home, monkeypatch, "--dataset", "toy")
    assert path.read_text() == written


def test_a_thumbnail_is_the_frame_it_says(home):
    visual = VideoReader(home / "cache/toy")
    shard = next(Shard(path, "visual") for path in shard_paths(home / "cache/toy/visual") if len(Shard(path, "visual")))
    name = shard["video_id"][0]
    assert visual.jpeg(name, 0) == shard["jpeg"][: shard["jpeg_offset"][1]].tobytes()
    np.testing.assert_allclose(np.diag(visual.similarity(name)), 1, atol=1e-5)


def test_the_table_goes_to_the_terminal(home, monkeypatch, capsys):
    command(home, monkeypatch, "--table")
    said = capsys.readouterr().out
    assert "toy, test split" in said and "± 0.0" in said and "over 10" in said
    command(home, monkeypatch, "--dataset", "toy", "--markdown")
    assert "| text → video | seeds |" in capsys.readouterr().out


def test_without_scores_the_next_command_is_told(home, monkeypatch):
    with pytest.raises(SystemExit, match=r"no scores of nothing.*dvc repro"):
        command(home, monkeypatch, "--dataset", "nothing")


def test_a_dataset_without_captions_has_a_page_and_a_sentence_a_method(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = worlds.cache(Path("cache/toy"), videos=6)
    why = "not trained: the train split has no captions"
    for path in (folder / "scores").glob("*"):
        shutil.rmtree(path)
    run.skip(folder / "scores" / "unitrim", "test", {"method": "unitrim", "seed": 0, "split": "test", "skipped": why})
    for name in ("max_sim", "zero_shot"):
        files.write(folder / "runs" / name / "checkpoint.pt", "weights")
    run_command("eval.report", "--dataset", "toy")
    drawn = (folder / "report" / "index.html").read_text()
    assert (
        why in drawn and "python -m eval.search --run cache/toy/runs/zero_shot" in drawn and "can be searched" in drawn
    )
    assert look(drawn, tmp_path, 390)["wide"] <= 390, "the command to type is longer than a phone is wide"
    run_command("eval.report", "--table")
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [
        f"unitrim: {why}",
        f"report: {(folder / 'report' / 'index.html').absolute()}",
        'search: python -m eval.search --run cache/toy/runs/zero_shot --shards cache/toy "a red ball"',
    ]


def test_every_part_of_the_shards_has_a_name_to_be_said(tmp_path):
    assert set(identity(worlds.cache(tmp_path / "toy", videos=6))) <= set(stale.PARTS)


def test_scores_that_are_not_of_what_stands_are_left_out_with_a_sentence(tmp_path):
    folder = worlds.cache(tmp_path / "toy", videos=6)
    parts, taught = identity(folder, ["frame"]), identity(folder, ["frame"], TAUGHT)
    facts = {"config": {"frames": 16}, "seed": 0, "shards": taught, "code": "a"}

    def scored(name, seed=0, **changed):
        own = metrics(40 + seed, seed) | {"dataset": "toy", "run": facts | {"seed": seed} | changed, "shards": parts}
        files.write(folder / "scores" / name / "metrics.json", json.dumps(own))

    scored("unitrim")
    scored("unitrim-seed1", 1)
    scored("unitrim-seed2", 2, config={"frames": 4})
    scored("clip4clip", shards=taught | {"visual": "other"})
    scored("again")
    files.write(folder / "runs" / "again" / "run.json", json.dumps(facts | {"code": "b"}))
    assert stale.find_stale(folder) == {
        "again": "was trained again since it was scored",
        "clip4clip": "was trained on other frames",
        "unitrim-seed2": "has other settings: frames 4, seed 0 has 16",
    }
    assert [told["seed"] for told in overview.gather_metrics(folder)["unitrim"]] == [0, 1]
    assert stale.stale_lines(folder)[-1].startswith("to bring them up to date type: make seeds NAME=toy   (or remove ")
    for name in ("unitrim", "unitrim-seed1", "unitrim-seed2"):
        files.write(folder / "runs" / name / "checkpoint.pt", b"")
    assert "runs/unitrim-seed1 " in search_command(folder), "seed 2 has the highest recall, of other frames"
