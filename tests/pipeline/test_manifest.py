"""Every item and caption is in the manifest or is a reject with a reason, and the same input makes the same bytes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml

from pipeline import datasets, manifest
from pipeline.datasets import Caption, Item, media, validate
from pipeline.datasets.enable import enable_dataset
from pipeline.datasets.hashes import HashMemo, Unreadable
from pipeline.params import read_dataset

ROOT = Path(__file__).parents[2]
LONG = " ".join(f"word{number}" for number in range(3000))


def film(path: Path, shade: int) -> None:
    """Five H.264 frames of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with eight small clips in MSR-VTT's layout: six train, two test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.datasets.hashes.SETTLED", -60_000_000_000)
    root = tmp_path / "data"
    for number in range(8):
        film(root / "videos" / f"video{number}.mp4", 30 * number)
    annotate(root)
    params(tmp_path)
    return root


def annotate(root: Path, train=range(6), test=(6, 7), more=()):
    """Write the annotations of clips `train` and `test`, and `more` sentences."""
    names = [f"video{number}" for number in range(8)]
    said = [{"video_id": name, "caption": f" {name} moves {way} "} for name in names for way in ("left", "right")]
    data = {"videos": [{"video_id": name} for name in names], "sentences": said + list(more)}
    (root / "MSRVTT_data.json").write_text(json.dumps(data))
    (root / "MSRVTT_train.csv").write_text("\n".join(["video_id", *(f"video{number}" for number in train)]))
    rows = [f"ret,msr,video{number},the query of {number}" for number in test]
    (root / "MSRVTT_JSFUSION_test.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *rows]))


def params(folder: Path, **more) -> None:
    """Write params.yaml."""
    section = {"reader": "msrvtt", "root": "data", "split": "mini", "max_rejects": 0.7} | more
    (folder / "params.yaml").write_text(yaml.safe_dump({"datasets": {"small": section}}))


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["manifest", "--dataset", "small", *words])
    manifest.main()


def rows(name: str) -> list[dict]:
    return parquet.read_table(f"cache/small/manifest/{name}.parquet").to_pylist()


def rejects() -> dict[str, str]:
    return {row["id"]: row["reason"] for row in rows("rejects")}


def everything() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path("cache/small/manifest").iterdir()}


def test_items_captions_and_counts(project, monkeypatch):
    run(monkeypatch)
    items, captions = rows("items"), rows("captions")
    assert [item["video_id"] for item in items] == [f"video{number}" for number in range(8)]
    content = (project / "videos/video3.mp4").read_bytes()
    assert items[3] == {
        "video_id": "video3",
        "path": "videos/video3.mp4",
        "split": "train",
        "kind": "video",
        "hash": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "size": len(content),
        "start": None,
        "end": None,
        "group": None,
        "group_kind": None,
    }
    assert len(captions) == 14 and captions == sorted(captions, key=lambda row: row["caption_id"])
    assert captions[1] == {
        "caption_id": "video0#001",
        "video_id": "video0",
        "split": "train",
        "index": 1,
        "text": "video0 moves right",
        "parts": ["video0 moves right"],
    }
    assert captions[-1]["text"] == "the query of 7" and captions[-1]["split"] == "test"
    facts = json.loads(Path("cache/small/manifest/manifest.json").read_text())
    assert facts["counts"] == {
        "items": 8,
        "videos": 8,
        "images": 0,
        "captions": 14,
        "rejected_items": 0,
        "rejected_captions": 0,
    }
    assert facts["splits"] == {"train": {"items": 6, "captions": 12}, "test": {"items": 2, "captions": 2}}
    assert rejects() == {}


def test_column_types_are_those_of_the_contract(project, monkeypatch):
    run(monkeypatch)
    kinds = {
        "items": "string string string string string int64 double double string string",
        "captions": "string string string int32 string list<element: string>",
        "rejects": "string string string string",
    }
    for name, types in kinds.items():
        schema = parquet.read_schema(f"cache/small/manifest/{name}.parquet")
        assert " ".join(str(kind) for kind in schema.types) == types


def test_nothing_is_lost_whatever_is_wrong(project, monkeypatch):
    (project / "videos/video0.mp4").unlink()
    (project / "videos/video1.mp4").write_bytes(b"")
    (project / "videos/video2.mp4").write_text("this is not a film\n" * 50)  # passes here; decoding rejects it
    (project / "videos/video3.mp4").unlink()
    (project / "videos/video3.mp4").mkdir()
    (project / "videos/video4.mp4").unlink()
    (project / "videos/video4.mp4").symlink_to("video4.mp4")
    more = [
        {"video_id": "video5", "caption": LONG},
        {"video_id": "video5", "caption": "   "},
        {"video_id": "video5", "caption": 7},
        {"video_id": "video5", "caption": "half a \ud83d surrogate"},
    ]
    annotate(project, train=[*range(6), 5, 99], test=(6, 7, 98), more=more)
    run(monkeypatch)
    found = rows("rejects")
    assert {row["id"]: row["reason"] for row in found if "#" not in row["id"]} == {
        "video0": "missing video",
        "video1": "empty file",
        "video3": "not a file",
        "video4": "unreadable",
        "video5": "duplicate id",
        "video98": "unknown id",
        "video99": "unknown id",
    }
    reasons = {row["id"]: row["reason"] for row in found if "#" in row["id"]}
    assert reasons["video5#003"] == "empty caption"
    assert reasons["video5#004"] == reasons["video5#005"] == "not text"
    assert reasons["video0#000"] == reasons["video98#000"] == "video rejected"
    assert [item["video_id"] for item in rows("items")] == ["video2", "video5", "video6", "video7"]
    assert [row["text"] for row in rows("captions") if row["caption_id"] == "video5#002"] == [LONG]
    assert len(rows("items")) + sum("#" not in row["id"] for row in found) == 11  # rows of both lists
    assert len(rows("captions")) + len(reasons) == 6 * 2 + 4 + 3
    assert {row["stage"] for row in found} == {"manifest"}
    assert next(row["detail"] for row in found if row["id"] == "video3") == "videos/video3.mp4: a folder"


def test_the_same_input_makes_the_same_bytes_wherever_it_lies(project, monkeypatch, tmp_path):
    run(monkeypatch)
    before = everything()
    run(monkeypatch)
    assert everything() == before
    for path in Path("cache/small").rglob("*.parquet"):
        path.unlink()
    (tmp_path / "cache/small/.memo/manifest.json").unlink()
    project.rename(tmp_path / "elsewhere")
    params(tmp_path, root=str(tmp_path / "elsewhere"))
    run(monkeypatch)
    assert everything() == before


def test_a_second_run_reads_no_video_and_an_unchanged_one_no_annotation(project, monkeypatch, capsys):
    run(monkeypatch)
    assert "8 files hashed" in capsys.readouterr().err
    run(monkeypatch)
    assert "nothing changed" in capsys.readouterr().err
    annotate(project, test=(6,))
    run(monkeypatch)
    assert "7 items, 13 captions; 0 files hashed" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["content", "touch", "gone", "new", "annotation", "parameter", "output", "moved"])
def test_every_change_is_seen(project, monkeypatch, tmp_path, change, capsys):
    run(monkeypatch)
    before, videos = everything(), project / "videos"
    if change == "content":  # same size, and the old time put back
        status = (videos / "video0.mp4").stat()
        content = bytearray((videos / "video0.mp4").read_bytes())
        content[-1] ^= 1
        (videos / "video0.mp4").write_bytes(content)
        os.utime(videos / "video0.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "touch":
        os.utime(videos / "video0.mp4")
    elif change == "gone":
        (videos / "video0.mp4").unlink()
    elif change == "new":
        film(videos / "video0.webm.mkv", 3)  # not one of the protocol's
    elif change == "annotation":
        annotate(project, train=range(5))
    elif change == "parameter":
        params(tmp_path, val=1)
    elif change == "output":
        Path("cache/small/manifest/items.parquet").unlink()
    elif change == "moved":
        (videos / "video0.mp4").rename(project / "video0.mp4")
    capsys.readouterr()
    run(monkeypatch)
    assert "nothing changed" not in capsys.readouterr().err
    assert (everything() == before) == (change in ("touch", "new", "output"))


def test_a_changed_rule_runs_the_stage_again(project, tmp_path):
    """In a copy of the code: the memo of a run must not outlive the rules that made it."""
    code = tmp_path / "code" / "pipeline"
    shutil.copytree(Path(manifest.__file__).parent, code)
    shutil.copytree(ROOT / "train", code.with_name("train"))

    def stage() -> str:
        begin = "from pipeline.datasets import hashes; hashes.SETTLED = -60_000_000_000; import sys; "
        begin += "sys.argv = ['manifest', '--dataset', 'small']; from pipeline import manifest; manifest.main()"
        environment = os.environ | {"PYTHONPATH": str(code.parent)}
        return subprocess.run([sys.executable, "-c", begin], env=environment, capture_output=True, text=True).stderr

    assert "8 items" in stage() and rejects() == {}
    assert "nothing changed" in stage()
    rule = code / "datasets" / "validate.py"
    rule.write_text(rule.read_text().replace("if not caption.text.strip():", 'if "left" in caption.text:'))
    assert "8 items, 8 captions" in stage()
    assert rejects()["video0#000"] == "empty caption"


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    memo = HashMemo(tmp_path / "memo.json")
    memo.contents([str(path)])
    memo.save()
    again = HashMemo(tmp_path / "memo.json")
    assert again.recall(str(path)) is None


def test_a_damaged_memo_only_costs_time(tmp_path):
    for content in ("{", "[]", "\xff"):
        (tmp_path / "memo.json").write_text(content, encoding="latin-1")
        assert HashMemo(tmp_path / "memo.json").old == {}


def test_many_files_at_once_keep_their_order(tmp_path):
    paths = []
    for number in range(50):
        paths.append(str(tmp_path / f"{number}.mp4"))
        Path(paths[-1]).write_bytes(b"" if number % 10 == 0 else b"%d" % number)
    answers = HashMemo(tmp_path / "memo.json").contents(paths)
    for number, answer in enumerate(answers):
        right = hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest()
        assert answer == (Unreadable("empty file", "0 bytes") if number % 10 == 0 else (right, len(str(number))))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_reject(project, monkeypatch):
    (project / "videos/video0.mp4").chmod(0)
    run(monkeypatch)
    assert rejects()["video0"] == "unreadable"


def test_a_pipe_is_not_waited_for(project, monkeypatch):
    (project / "videos/video0.mp4").unlink()
    os.mkfifo(project / "videos/video0.mp4")
    run(monkeypatch)
    assert rejects()["video0"] == "not a file"


def test_a_name_that_is_not_unicode_is_a_reject(tmp_path):
    path = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / path).write_bytes(b"x")
    found = validate.build(
        tmp_path, [Item(path, "test", path)], [Caption(path, 0, "coffee")], HashMemo(tmp_path / "memo")
    )
    assert [(reject.id, reject.reason) for reject in found.rejected_items] == [
        ("caf\\xe9.mp4".replace("\\x", "\\udc"), "unreadable name")
    ]
    assert [reject.reason for reject in found.rejected_captions] == ["video rejected"]


def test_too_many_rejected_videos_stop_the_stage(project, monkeypatch, tmp_path):
    params(tmp_path, max_rejects=0.2)
    (project / "videos/video0.mp4").unlink()
    annotate(project, more=[{"video_id": "video5", "caption": ""}] * 50)  # captions do not count
    run(monkeypatch)
    (project / "videos/video1.mp4").write_bytes(b"")
    with pytest.raises(
        SystemExit, match=r"2 of 8 items rejected, more than max_rejects \(0.2\): 1 missing video \(as 'video0'\)"
    ):
        run(monkeypatch)
    assert rejects()["video1"] == "empty file"  # the table says which, even so


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("MSRVTT_data.json", '{"videos": [', "MSRVTT_data.json is not whole JSON"),
        ("MSRVTT_train.csv", "nonsense\n", "MSRVTT_train.csv, line 1: no column video_id"),
    ],
)
def test_a_broken_annotation_ends_the_stage_with_its_name(project, monkeypatch, name, content, says):
    (project / name).write_text(content)
    with pytest.raises(SystemExit, match=f"manifest of small: .*{says}"):
        run(monkeypatch)


def test_an_empty_folder_is_an_error(project, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    params(tmp_path, reader="folder", root="empty")
    with pytest.raises(SystemExit, match="no items"):
        run(monkeypatch)
    params(tmp_path, reader="folder", root="nowhere")
    with pytest.raises(SystemExit, match="nowhere is not a folder; set `root`"):
        run(monkeypatch)


def test_a_folder_with_odd_names_photos_and_loops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = 'it\'s "odd"\nname, видео 東京.mp4'
    film(tmp_path / "data" / odd, 3)
    (tmp_path / "data" / "photo.JPG").write_bytes(b"x")
    (tmp_path / "data" / "loop").symlink_to(".")
    (tmp_path / "data" / ".DS_Store").write_bytes(b"x")
    lines = [{"file": odd, "caption": "odd"}, {"file": str(Path("data") / "photo.JPG"), "caption": "a photo"}]
    (tmp_path / "data" / "captions.jsonl").write_text(
        "\n".join(map(json.dumps, [*lines, {"file": "gone", "caption": "x"}]))
    )
    params(tmp_path, reader="folder")
    run(monkeypatch)
    assert [(item["video_id"], item["kind"]) for item in rows("items")] == [(odd, "video"), ("photo.JPG", "image")]
    assert [caption["caption_id"] for caption in rows("captions")] == [f"{odd}#000", "photo.JPG#000"]
    assert rejects() == {"gone#000": "unknown id"}


def test_what_was_passed_over_is_said_and_counted(project, monkeypatch, capsys):
    for name in ("videos/@eaDir/video0.mp4", "more/a.mxf", "more/b.mxf"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).touch()
    run(monkeypatch)
    assert "manifest: skipped: 2 × .mxf, 1 × @eaDir/" in capsys.readouterr().err
    assert json.loads(Path("cache/small/manifest/manifest.json").read_text())["skipped"] == {".mxf": 2, "@eaDir/": 1}
    code, said = checked(monkeypatch, capsys)
    assert code == 0 and "skipped: 2 × .mxf" in said


def test_where_no_caption_matches_the_stage_fails_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "data" / "holiday one.mp4", 3)
    params(tmp_path, reader="folder", max_rejects=1)
    (tmp_path / "data" / "captions.csv").write_text("file,caption\nholiday_one.mp4,a beach\nother.mp4,a dog\n")
    with pytest.raises(SystemExit, match="none of 2 captions names an item; .*the nearest name is 'holiday one.mp4'"):
        run(monkeypatch)
    assert set(rejects().values()) == {"unknown id"}


@pytest.mark.parametrize("name", ["a$HOME", "$b", "~c", "50%", "%d {x}", "a: b # c", "'q' \"r\"", "caf\u00e9", "- x"])
def test_a_root_of_any_name_is_written_and_read_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / name / "50% $HOME ~.mp4", 3)
    (tmp_path / "params.yaml").write_text("enabled: []\ndatasets:\n  small:\n    reader: folder\n    root: $NOWHERE\n")
    enable_dataset(Path("params.yaml"), "small", str(tmp_path / name))
    run(monkeypatch)
    assert [item["path"] for item in rows("items")] == ["50% $HOME ~.mp4"]


def test_a_folder_without_captions_is_all_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "data" / "a.mp4", 3)
    params(tmp_path, reader="folder")
    run(monkeypatch)
    assert [item["split"] for item in rows("items")] == ["test"] and rows("captions") == []


def test_a_folder_that_cannot_be_listed_is_one_reject():
    closed = manifest.closed_folders(media.Survey(closed=[("deep/private", "Permission denied")]))
    found = validate.build(Path("data"), [Item("a.mp4", "test", "a.mp4"), *closed], [], None)
    assert [(one.id, one.reason) for one in found.rejected_items] == [("deep/private/", "unreadable folder")]
    assert "deep/private: Permission denied; give access" in found.rejected_items[0].detail


def test_a_made_dataset_is_made_by_the_stage_not_by_its_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params(tmp_path, reader="demo")
    with pytest.raises(SystemExit, match="data is not made yet; run: python -m pipeline.manifest --dataset small"):
        run(monkeypatch, "--check")


def test_val_is_held_out(project, monkeypatch, tmp_path):
    params(tmp_path, val=2)
    run(monkeypatch)
    facts = json.loads(Path("cache/small/manifest/manifest.json").read_text())
    assert facts["splits"] == {
        "train": {"items": 4, "captions": 8},
        "val": {"items": 2, "captions": 4},
        "test": {"items": 2, "captions": 2},
    }


# --- --check


def checked(monkeypatch, capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--check", *words)
    return end.value.code, capsys.readouterr().out


def test_check_says_that_all_is_there_and_writes_nothing(project, monkeypatch, capsys):
    code, said = checked(monkeypatch, capsys)
    assert code == 0 and said.endswith("as the protocol says\n")
    assert not list(Path("cache/small/manifest").glob("*")) and "missing files: 0" in said


def test_check_counts_against_the_protocol(project, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(datasets.load("msrvtt").EXPECTED, "mini", {"train": (6, 12), "test": (2, 2)})
    assert checked(monkeypatch, capsys)[0] == 0
    (project / "videos/video6.mp4").unlink()
    film(project / "more/video50.mp4", 3)
    code, said = checked(monkeypatch, capsys)
    assert code == 1
    assert "DIFFERS: test videos: expected 2, found 1" in said and "missing files: 1 ('video6')" in said
    assert "surplus media files: 1 ('more/video50.mp4')" in said
    assert checked(monkeypatch, capsys, "--annotations-only")[0] == 0


def test_check_finds_what_splits_share(project, monkeypatch, capsys):
    (project / "videos/video6.mp4").write_bytes((project / "videos/video0.mp4").read_bytes())
    annotate(project, train=[*range(6), 7], more=[{"video_id": "video0", "caption": "the query of 6"}])
    code, said = checked(monkeypatch, capsys)
    assert code == 1  # an id in both lists can only be kept once
    assert "ids in two splits: 1 ('video7')" in said
    assert "same content in two splits: 1 ('videos/video0.mp4')" in said
    assert "same caption in two splits: 1 ('the query of 6')" in said


def test_annotations_alone_make_no_manifest(project, monkeypatch):
    with pytest.raises(SystemExit, match="goes with --check"):
        run(monkeypatch, "--annotations-only")


def test_check_of_a_folder_counts_photos_apart_and_has_no_protocol(project, monkeypatch, capsys, tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 32)).save(project / "photo.png")
    (project / "broken.mp4").touch()
    (tmp_path / "params.yaml").write_text(f"datasets: {{small: {{reader: folder, root: {project}, max_rejects: 1}}}}")
    code, said = checked(monkeypatch, capsys)
    assert code == 0 and "rejected: empty file: 1" in said
    assert re.search(r"^test +videos +- +8$", said, re.MULTILINE) and re.search(
        r"^test +photos +- +1$", said, re.MULTILINE
    )
    assert "test: 8 videos without a caption" in said and "test: 1 photos without a caption" in said
    assert "no protocol to differ from; 1 left out" in said


def test_all_missing_annotation_files_are_named_at_once_each_with_where_it_is_to_be_had(project, monkeypatch):
    for path in project.glob("MSRVTT_*"):
        path.unlink()
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--check")
    said = str(end.value)
    assert "\n" not in said and "3 of 3 annotation files" in said and "MSRVTT_train.csv: yours to make" in said
    for name in ("MSRVTT_data.json", "MSRVTT_JSFUSION_test.csv"):
        assert f"{name}: in https://github.com/ArrowLuo/CLIP4Clip/releases/download/v0.0/msrvtt_data.zip" in said


def test_what_the_manifest_left_out_and_whether_it_is_of_today_is_said_to_whom_asks_why(project, monkeypatch):
    (project / "videos/video6.mp4").write_bytes(b"")
    params(Path("."), max_rejects=0.5)
    run(monkeypatch)
    config = read_dataset("small")
    assert (
        manifest.explain_item(config, "video6")[0]
        == "video6 was left out by the manifest: empty file: videos/video6.mp4: 0 bytes"
    )
    assert manifest.explain_item(config, "video1") == []
    annotate(project, more=[{"video_id": "video1", "caption": "one more"}])
    assert manifest.explain_item(config, "video1")[0].startswith(
        "the caption video1#002 was not there and is “one more”; the manifest has not run since"
    )
    assert manifest.explain_item(config, "video1#002") == manifest.explain_item(config, "video1")
    assert manifest.explain_item(config, "video2")[0].startswith("nothing of video2, but something else has changed; ")


def test_whom_asks_why_is_told_what_is_otherwise_since_the_manifest_ran(project, monkeypatch):
    run(monkeypatch)
    config = read_dataset("small")
    told = json.loads((project / "MSRVTT_data.json").read_text())
    told["sentences"][0]["caption"] = "the clip moves up"
    (project / "MSRVTT_data.json").write_text(json.dumps(told))
    (project / "videos/video1.mp4").write_bytes(b"another film")
    (project / "videos/video2.mp4").unlink()
    annotations = project / "MSRVTT_train.csv"
    annotations.write_text(annotations.read_text().replace("video3\n", ""))

    def why(name: str) -> str:
        return "\n".join(manifest.explain_item(config, name))

    assert "the caption video0#000 was “video0 moves left” and is “the clip moves up”; the manifest has not" in why(
        "video0"
    )
    assert "nothing of video0#001, but something else" in why("video0#001")
    assert "video1: its content has changed; the manifest" in why("video1")
    assert "video2 will be left out: missing video" in why("video2")
    assert "video3 is gone" in why("video3") and "was “video3 moves left” and is not there" in why("video3")
    (project / "MSRVTT_train.csv").unlink()
    assert "the manifest cannot be made any more: " in why("video0") and "MSRVTT_train.csv" in why("video0")
