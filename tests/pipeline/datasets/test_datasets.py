"""Every dataset by its protocol: the counts of the real annotations are facts here, and broken files say how to mend them.

Real annotations lie in the folder that UNITRIM_DATA names; where it is absent, what needs them is skipped.
"""

import json
import os
import pickle
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from pipeline import datasets
from pipeline.datasets import Caption, didemo, folder, media, msrvtt, msvd

DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def real(name: str) -> Path:
    """A folder of real annotations, or a loud skip."""
    if not (DATA / name).exists():
        warnings.warn(f"NO {DATA / name}: facts about real annotations are not checked", stacklevel=2)
        pytest.skip("set UNITRIM_DATA to the folder of real annotations")
    return DATA / name


def config(root: Path, **more) -> dict:
    return {"name": "test", "root": str(root)} | more


def test_every_reader_loads_and_an_unknown_one_is_named():
    for name in datasets.READERS:
        assert callable(datasets.load(name).read)
    with pytest.raises(ValueError, match="'lsmdc'.*one of: demo, msrvtt, msvd, didemo, folder"):
        datasets.load("lsmdc")


# --- facts about the real annotations


def test_msrvtt_9k_and_7k_by_their_real_lists():
    root = real("annotations/msrvtt")
    for split, train in (("9k", 9000), ("7k", 7010)):
        members, sentences = msrvtt.lists(root, split, {})
        assert Counter(part for _, part in members) == {"train": train, "test": 1000}
        assert len(dict(members)) == train + 1000  # nothing twice, nothing in both
        assert len(sentences) == 1000 and len(set(sentences.values())) == 995
        assert sentences["video9770"] == "a person is connecting something to system"
        assert msrvtt.EXPECTED[split]["train"][0] == train
    nine, seven = ({key for key, _ in msrvtt.lists(root, split, {})[0]} for split in ("9k", "7k"))
    assert seven < nine and nine == {f"video{number}" for number in range(10_000)}


def test_msrvtt_mini_has_every_file_and_caption():
    items, captions = msrvtt.read(config(real("msrvtt_mini"), split="mini"))
    assert Counter(item.split for item in items) == {"train": 1047, "test": 300}
    assert not [item for item in items if item.problem or not item.path]
    split = {item.video_id: item.split for item in items}
    assert Counter(split[caption.video_id] for caption in captions) == {"train": 19_213, "test": 300}


def test_msvd_whole_by_its_real_annotations():
    root = real("annotations/msvd")
    items, captions = msvd.read(config(root))
    split = {item.video_id: item.split for item in items}
    found = Counter(split[caption.video_id] for caption in captions)
    for name, counts in msvd.expected({}).items():
        assert counts == {"videos": list(split.values()).count(name), "captions": found[name]}
    assert len(items) == len(split) == 1970 and len(captions) == 80_827
    assert not [item for item in items if item.problem]
    per_video = Counter(caption.video_id for caption in captions)
    assert (min(per_video.values()), max(per_video.values())) == (18, 81)
    assert captions[1] == Caption("-4wsuPCjDBc_5_15", 1, "a chipmunk is eating")
    assert msvd.names(root)["-4wsuPCjDBc_5_15"] == "vid1"


def double(path: Path) -> str:
    """A name of a video that the file knows by two extensions."""
    keys = Counter(media.key(name) for name in {row["video"] for row in media.read_json(path)})
    return next(key for key, count in keys.items() if count == 2)


def test_didemo_val_and_test_by_their_real_annotations():
    root = real("annotations/didemo")
    items, captions = didemo.read(config(root, splits=["test", "val"]))
    assert Counter(item.split for item in items) == {"val": 1065, "test": 1004}
    assert not [item for item in items if item.problem]
    assert len({item.video_id for item in items}) == len(captions) == 2069
    assert {(item.start, item.end) for item in items} == {(0.0, 31.0)}
    assert all(caption.text == " ".join(caption.parts) for caption in captions)
    for name, videos, spellings in (("val", 1065, 1094), ("test", 1004, 1037)):
        path = root / f"{name}_data.json"
        assert len(didemo.descriptions(path)) == videos  # some of which the JSON names with two extensions
        assert len({row["video"] for row in media.read_json(path)}) == spellings
    twice = double(root / "test_data.json")
    spoken = next(caption for caption in captions if caption.video_id == twice)
    names = [row["video"] for row in media.read_json(root / "test_data.json")]
    assert len(spoken.parts) == [media.key(name) for name in names].count(twice)
    listed = {
        name: {media.key(line) for line in media.read_lines(root / f"{name}_list.txt")} for name in datasets.SPLITS
    }
    assert {name: len(keys) for name, keys in listed.items()} == didemo.EXPECTED
    assert (
        not listed["train"] & listed["val"]
        and not listed["train"] & listed["test"]
        and not listed["val"] & listed["test"]
    )


def test_a_folder_of_real_photos_with_captions():
    items, captions = folder.read(config(real("images")))
    assert [item.kind for item in items] == ["image"] * 12 and {item.split for item in items} == {"test"}
    assert len(captions) == 60 and Counter(caption.index for caption in captions) == dict.fromkeys(range(5), 12)
    assert captions[0].text == "A giraffe standing outside of a building next to a tree."


# --- MSR-VTT


@pytest.fixture
def small(tmp_path):
    """Eight videos in MSR-VTT's layout, all lists of all splits, files of four."""
    names = [f"video{number}" for number in range(8)]
    fields = ["train"] * 4 + ["validate"] * 2 + ["test"] * 2
    videos = [{"video_id": name, "split": field} for name, field in zip(names, fields)]
    said = [{"video_id": name, "caption": f"{name} says {number}"} for number in range(2) for name in names]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": said}))
    (tmp_path / "MSRVTT_train.9k.csv").write_text("\n".join(["video_id", *names[:6]]))
    (tmp_path / "MSRVTT_train.7k.csv").write_text("\n".join(["video_id", *names[:5]]))
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(
        'key,vid_key,video_id,sentence\r\nret0,msr6,video6,"a ""quoted"", sentence"\r\nret1,msr7,video7,a plain one\r\n'
    )
    (tmp_path / "train_list_miech.txt").write_text("\n".join(names[:4]))
    (tmp_path / "test_list_miech.txt").write_text("\n".join(names[4:]))
    for place in ("videos/video0.mp4", "videos/deep/video1.webm", "video6.MP4", "videos/video7.avi"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    return tmp_path


def splits(root, **more):
    items, captions = msrvtt.read(config(root, **more))
    split = {item.video_id: item.split for item in items}
    return Counter(split.values()), Counter(split[caption.video_id] for caption in captions), captions


def test_train_speaks_all_captions_and_test_the_sentence_of_the_csv(small):
    videos, spoken, captions = splits(small)
    assert videos == {"train": 6, "test": 2} and spoken == {"train": 12, "test": 2}
    assert [caption.text for caption in captions[-2:]] == ['a "quoted", sentence', "a plain one"]
    assert captions[:2] == [Caption("video0", 0, "video0 says 0"), Caption("video0", 1, "video0 says 1")]


def test_each_split_by_its_name(small):
    assert splits(small, split="7k")[:2] == ({"train": 5, "test": 2}, {"train": 10, "test": 2})
    assert splits(small, split="full")[:2] == ({"train": 4, "val": 2, "test": 2}, {"train": 8, "val": 4, "test": 4})
    videos, spoken, captions = splits(small, split="1k-B")
    assert (videos, spoken) == ({"train": 4, "test": 4}, {"train": 8, "test": 4})
    assert captions[-1].text == "video7 says 0"  # Miech's: the first caption is the query
    with pytest.raises(ValueError, match="'8k'; MSR-VTT has: 9k, 7k, mini, 1k-B, full"):
        splits(small, split="8k")


def test_expected_counts_are_those_of_the_papers():
    def counts(**more):
        return {part: tuple(both.values()) for part, both in msrvtt.expected(config(Path(), **more)).items()}

    assert counts() == {"train": (9000, 180_000), "test": (1000, 1000)}
    assert counts(val=100) == {"train": (8900, 178_000), "val": (100, 2000), "test": (1000, 1000)}
    assert sum(videos for videos, _ in counts(split="full").values()) == 10_000
    assert counts(split="full")["test"] == (2990, 59_800)
    assert counts(split="mini") == {}


def test_val_is_held_out_of_train_by_hash_alone(small):
    videos, spoken, _ = splits(small, val=2)
    assert videos == {"train": 4, "val": 2, "test": 2} and spoken == {"train": 8, "val": 4, "test": 2}
    members = [(f"video{number}", "train") for number in range(40)]
    chosen = {key for key, part in msrvtt.hold_out(members, 10) if part == "val"}
    assert chosen == {key for key, part in msrvtt.hold_out(members[::-1], 10) if part == "val"}
    assert chosen > {key for key, part in msrvtt.hold_out(members, 5) if part == "val"}
    with pytest.raises(ValueError, match="more than half"):
        splits(small, val=4)


def test_files_are_found_by_stem_wherever_they_lie(small):
    items, _ = msrvtt.read(config(small))
    paths = {item.video_id: item.path for item in items}
    assert paths["video0"] == "videos/video0.mp4" and paths["video1"] == "videos/deep/video1.webm"
    assert paths["video6"] == "video6.MP4" and paths["video2"] == ""


def test_an_id_that_the_json_does_not_know_is_marked(small):
    (small / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo99\n")
    items, _ = msrvtt.read(config(small))
    assert [(item.video_id, item.problem) for item in items if item.problem] == [("video99", "unknown id")]


@pytest.mark.parametrize(
    "name, content, says",
    [
        (
            "MSRVTT_data.json",
            '{"videos": [{"video_id": "vid',
            r"MSRVTT_data.json is not whole JSON: .* line 1, column 26",
        ),
        ("MSRVTT_data.json", '{"videos": []}', r"MSRVTT_data.json: expected an object with 'sentences'"),
        ("MSRVTT_data.json", '{"videos": [{"id": 1}], "sentences": []}', r"MSRVTT_data.json, video 0: .*'video_id'"),
        ("MSRVTT_data.json", "[]", r"MSRVTT_data.json: expected an object with 'videos'"),
        ("MSRVTT_data.json", "", r"MSRVTT_data.json is not whole JSON: .* \(character 0 of 0\)"),
        ("MSRVTT_train.9k.csv", "id\nvideo0\n", r"MSRVTT_train.9k.csv, line 1: no column video_id in the header"),
        ("MSRVTT_train.9k.csv", "", r"MSRVTT_train.9k.csv, line 1: no column video_id"),
        (
            "MSRVTT_JSFUSION_test.csv",
            "video_id,sentence\nvideo6\n",
            r"JSFUSION_test.csv, line 2: 1 fields, the header has 2",
        ),
        (
            "MSRVTT_JSFUSION_test.csv",
            'video_id,sentence\nvideo6,"a man',
            r"JSFUSION_test.csv, line 2: .*left open\?",
        ),
        ("MSRVTT_JSFUSION_test.csv", b"video_id,sentence\nvideo6,caf\xe9\n", r"is not UTF-8 text at byte 28"),
        (
            "MSRVTT_JSFUSION_test.csv",
            None,
            r"1 of 3 annotation files .* MSRVTT_JSFUSION_test.csv: in https.* Put them there",
        ),
    ],
)
def test_a_broken_annotation_says_which_where_and_what_to_do(small, name, content, says):
    if content is None:
        (small / name).unlink()
    else:
        (small / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says):
        msrvtt.read(config(small))


# --- MSVD


class Malice:
    """A pickle of it runs a command where pickles are trusted."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def msvd_folder(root: Path, content: bytes) -> Path:
    (root / "raw-captions.pkl").write_bytes(content)
    for split, video_id in (("train", "aa_1_2"), ("val", "-b_3_4"), ("test", "cc_5_6")):
        (root / f"{split}_list.txt").write_text(f"{video_id}\n")
    return root


GOOD = {"aa_1_2": [["a", "man", "runs"], ["it", "rains"]], "-b_3_4": [["b"]], "cc_5_6": [["c"], ["d"], ["e"]]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_msvd_joins_words_and_every_test_caption_is_a_query(tmp_path, protocol):
    root = msvd_folder(tmp_path, pickle.dumps(GOOD, protocol))
    (root / "-b_3_4.avi").touch()
    (root / "vid7.mp4").touch()
    (root / "youtube_mapping.txt").write_text("cc_5_6 vid7\n")
    items, captions = msvd.read(config(root))
    assert [(item.video_id, item.split, item.path) for item in items] == [
        ("aa_1_2", "train", ""),
        ("-b_3_4", "val", "-b_3_4.avi"),
        ("cc_5_6", "test", "vid7.mp4"),
    ]
    assert [caption.text for caption in captions] == ["a man runs", "it rains", "b", "c", "d", "e"]


def test_a_malicious_pickle_is_refused_and_never_run(tmp_path):
    for number, bad in enumerate((Malice(tmp_path / "ran"), {"aa_1_2": [Malice(tmp_path / "ran")]})):
        for protocol in (0, 2, 5):
            path = tmp_path / f"{number}.pkl"
            path.write_bytes(pickle.dumps(bad, protocol))
            with pytest.raises(ValueError, match=r"pkl is refused: it asks for posix.system"):
                msvd.unpickle(path)
    for function in (eval, exec, open, getattr, __import__):  # of builtins, containers only
        path.write_bytes(pickle.dumps(function))
        with pytest.raises(ValueError, match="is refused: it asks for (builtins|io)"):
            msvd.unpickle(path)
    assert not (tmp_path / "ran").exists()


def test_a_broken_pickle_is_an_error_that_names_it(tmp_path):
    whole = pickle.dumps(GOOD)
    path = tmp_path / "raw-captions.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="raw-captions.pkl"):
            msvd.captions(path)
    for wrong in ([1, 2], {"a": "b"}, {"a": [[1]]}, {1: [["a"]]}):
        path.write_bytes(pickle.dumps(wrong))
        with pytest.raises(ValueError, match="raw-captions.pkl.*expected"):
            msvd.captions(path)


def test_msvd_marks_a_listed_video_without_captions(tmp_path):
    root = msvd_folder(tmp_path, pickle.dumps({key: GOOD[key] for key in ("aa_1_2", "cc_5_6")}))
    items, _ = msvd.read(config(root))
    assert [item.problem for item in items] == ["", "unknown id", ""]


# --- DiDeMo


def test_didemo_joins_descriptions_in_json_order_and_forgets_extensions(tmp_path):
    rows = [
        {"video": "1@N0_2_a.mov", "description": "the dog turns. "},
        {"video": "1@N0_3_b.", "description": "first"},
        {"video": "1@N0_2_a.mov", "description": "a cat"},
        {"video": "1@N0_2_a.mov", "description": " "},
        {"video": "1@N0_9_z.avi", "description": "in the JSON, not in the list"},
    ]
    (tmp_path / "test_data.json").write_text(json.dumps(rows))
    (tmp_path / "test_list.txt").write_text("1@N0_2_a.mov\n1@N0_3_b.\n1@N0_4_c.3gp\n")
    (tmp_path / "1@N0_2_a.mov.mp4").touch()  # as some mirrors name it
    (tmp_path / "1@N0_3_b").touch()
    items, captions = didemo.read(config(tmp_path, splits=["test"]))
    assert [(item.video_id, item.path, item.problem) for item in items] == [
        ("1@N0_2_a", "1@N0_2_a.mov.mp4", ""),
        ("1@N0_3_b", "1@N0_3_b", ""),
        ("1@N0_4_c", "", "unknown id"),
    ]
    assert captions[0] == Caption("1@N0_2_a", 0, "the dog turns. a cat", ["the dog turns.", "a cat"])
    assert didemo.expected(config(tmp_path, splits=["test"])) == {"test": {"videos": 1004, "captions": 1004}}
    with pytest.raises(ValueError, match="splits names dev; it may name train, val, test"):
        didemo.read(config(tmp_path, splits=["dev"]))
    with pytest.raises(ValueError, match="4 of 6 annotation files are neither in .* train_data.json: in data/ of"):
        didemo.read(config(tmp_path))


# --- any folder


@pytest.fixture
def photos(tmp_path):
    names = (
        "a.jpg",
        "b/a.mp4",
        'b/it\'s "odd"\nname.webm',
        "b/видео 東京.MOV",
        ".hidden.mp4",
        ".git/c.mp4",
        "notes.txt",
        "a.srt",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_needs_no_captions(photos):
    items, captions = folder.read(config(photos))
    assert captions == []
    assert [(item.video_id, item.kind, item.split) for item in items] == [
        ("a.jpg", "image", "test"),
        ("b/a.mp4", "video", "test"),
        ('b/it\'s "odd"\nname.webm', "video", "test"),
        ("b/видео 東京.MOV", "video", "test"),
    ]


def test_captions_from_csv_name_files_by_path_name_or_stem(photos):
    odd = '"it\'s ""odd""\nname.webm",odd,test'
    table = f"file,caption,split\na.jpg,a photo,train\nb/a.mp4,moving,dev\nвидео 東京,Tokyo,test\n{odd}\n"
    (photos / "captions.csv").write_text("\ufeff" + table)
    items, captions = folder.read(config(photos))
    assert {item.video_id: item.split for item in items if item.split != "test"} == {"a.jpg": "train", "b/a.mp4": "val"}
    assert [caption.video_id for caption in captions] == [
        "a.jpg",
        "b/a.mp4",
        "b/видео 東京.MOV",
        'b/it\'s "odd"\nname.webm',
    ]


def test_captions_from_jsonl_and_parquet(photos):
    lines = [{"path": "./a.jpg", "captions": ["one", "two"]}, {"path": "gone.mp4", "captions": ["three", None]}]
    (photos / "captions.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    _, from_lines = folder.read(config(photos))
    assert from_lines == [
        Caption("a.jpg", 0, "one"),
        Caption("a.jpg", 1, "two"),
        Caption("gone.mp4", 0, "three", problem="unknown id", detail="no file 'gone.mp4'; the nearest name is 'a.mp4'"),
        Caption("gone.mp4", 1, "", problem="unknown id", detail="no file 'gone.mp4'; the nearest name is 'a.mp4'"),
    ]
    parquet.write_table(pyarrow.Table.from_pylist(lines), photos / "mine.parquet")
    assert folder.read(config(photos, captions="mine.parquet"))[1] == from_lines


@pytest.mark.parametrize(
    "name, content, says",
    [
        (
            "captions.csv",
            "file,words\na.jpg,x\n",
            r"captions.csv: no column caption \| text \| sentence .* it has: file, words",
        ),
        ("captions.csv", "title,caption\nx,y\n", r"captions.csv: no column file \| path"),
        (
            "captions.csv",
            "file,caption,split\na.jpg,x,exam\n",
            r"row 1: 'a.jpg' has split 'exam', expected train, val, test",
        ),
        (
            "captions.csv",
            "file,caption,split\na.jpg,x,train\na.jpg,y,test\n",
            r"row 2: 'a.jpg' has split 'test', and 'train' before",
        ),
        ("captions.csv", "file,caption\na,x\n", r"row 1: 'a' may be a.jpg or b/a.mp4; write its path"),
        ("captions.jsonl", '{"file": "a.jpg", "capt', r"captions.jsonl, line 1 is not whole JSON"),
        ("captions.jsonl", "[1]", r"captions.jsonl, line 1: expected an object"),
        ("captions.parquet", "PAR1", r"captions.parquet is not whole Parquet"),
    ],
)
def test_a_broken_table_says_which_where_and_what_to_do(photos, name, content, says):
    (photos / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        folder.read(config(photos))


def test_two_tables_or_none_of_that_name_are_errors(photos):
    for name in ("captions.csv", "captions.jsonl"):
        (photos / name).write_text("file,caption\n" if name.endswith("csv") else "")
    with pytest.raises(ValueError, match="captions.csv and captions.jsonl; say which"):
        folder.read(config(photos))
    with pytest.raises(ValueError, match="must name a CSV"):
        folder.read(config(photos, captions="else.csv"))


def test_moving_pictures_are_videos(tmp_path):
    from PIL import Image

    one, two = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    one.save(tmp_path / "still.webp")
    one.save(tmp_path / "moving.webp", save_all=True, append_images=[two])
    one.save(tmp_path / "moving.gif", save_all=True, append_images=[two])
    one.save(tmp_path / "still.PNG")
    one.save(tmp_path / "moving.PNG", save_all=True, append_images=[two])
    one.save(tmp_path / "still.avif")
    one.save(tmp_path / "moving.avif", save_all=True, append_images=[two])
    one.save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=[two])
    Image.new("RGB", (8, 8)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    items, _ = folder.read(config(tmp_path))
    assert {item.video_id: item.kind for item in items} == {
        "moving.gif": "video",
        "moving.webp": "video",
        "still.webp": "image",
        "moving.PNG": "video",
        "still.PNG": "image",
        "moving.avif": "video",
        "still.avif": "image",
        "two.jpg": "image",
        "pages.tif": "image",
    }


# --- names as people write them


def named(root, *names, **more):
    """What a table makes of names: the file of each, or why there is none."""
    rows = [{"file": name, "caption": "x"} for name in names]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [caption.problem or caption.video_id for caption in folder.read(config(root, **more))[1]]


@pytest.fixture
def library(tmp_path):
    """A root with names of every kind."""
    root = tmp_path / "root"
    for name in (
        "cafe\u0301.mp4",
        "naïve.jpg",
        "b/My Film.MP4",
        "0001.mp4",
        "0012.mp4",
        "012.jpg",
        "x/a.png",
        "X/A.png",
        "50%25.jpg",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_names_match_as_people_and_programs_write_them(library):
    assert named(library, "caf\u00e9.mp4", "caf\u00e9", "nai\u0308ve") == ["cafe\u0301.mp4"] * 2 + ["naïve.jpg"]
    assert named(library, "b\\My Film.MP4", ".\\b\\My Film", "b/./My Film") == ["b/My Film.MP4"] * 3
    assert named(library, "b/My%20Film.MP4", "caf%C3%A9.mp4") == ["b/My Film.MP4", "cafe\u0301.mp4"]
    assert named(library, "50%25.jpg") == ["50%25.jpg"]  # as it is written, before anything else
    assert named(library, "my film", "B/MY FILM.mp4", "CAFÉ.MP4") == ["b/My Film.MP4"] * 2 + ["cafe\u0301.mp4"]
    assert named(library, "x/a.png", "X/A.png") == ["x/a.png", "X/A.png"]
    with pytest.raises(ValueError, match=r"'x/A' may be X/A.png or x/a.png; write its path"):
        named(library, "x/A")


def test_a_number_without_its_zeros_means_the_file_where_only_one_fits(library):
    assert named(library, "1", "01", "1.mp4", "1.MP4", "1.jpg") == ["0001.mp4"] * 4 + ["unknown id"]
    assert named(library, "0012", "12", "12.jpg") == ["0012.mp4", "unknown id", "012.jpg"]  # 0012.mp4 or 012.jpg
    assert named(library, "9" * 5000, "0") == ["unknown id", "unknown id"]


def test_a_name_that_no_file_can_have_is_unknown(library):
    odd = ["/a\0b/c.mp4", "/\ud83d/x.mp4", "", ".", "..", "/", "%", "\\", "../root/0001.mp4/.."]
    assert named(library, *odd) == ["unknown id"] * len(odd)


def test_paths_through_a_link_to_the_root_match(library, tmp_path):
    (tmp_path / "link").symlink_to(library)
    through = [f"{tmp_path}/link/b/My Film.MP4", f"{library}/b/My Film.MP4", f"file://{library}/b/My%20Film.MP4"]
    assert named(library, *through) == ["b/My Film.MP4"] * 3
    items, captions = folder.read(config(tmp_path / "link"))
    assert [caption.video_id for caption in captions] == ["b/My Film.MP4"] * 3


def test_an_unknown_name_says_the_nearest_and_an_unread_kind_says_so(library):
    (library / "clip.MXF").write_bytes(b"x")
    assert named(library, "naive", "clip", "clip.mxf", "nothing like it") == [
        "unknown id", "kind not read", "kind not read", "unknown id",
    ]  # fmt: skip
    details = [caption.detail for caption in folder.read(config(library))[1]]
    assert details[0] == "no file 'naive'; the nearest name is 'naïve'"
    assert details[1] == "clip.MXF is there, but .mxf files are not read; convert it"
    assert details[3] == "no file 'nothing like it'"


# --- tables as programs save them


def test_a_table_in_utf16_or_with_semicolons_is_read(photos):
    for code, mark in (("utf-16", ","), ("utf-16-be", ","), ("utf-8", ";"), ("utf-8-sig", "\t")):
        text = mark.join(("file", "caption")) + "\r\n" + mark.join(("a.jpg", "ein Käfer")) + "\r\n"
        marked = ("\ufeff" + text).encode(code) if code == "utf-16-be" else text.encode(code)
        (photos / "captions.csv").write_bytes(marked)
        assert folder.read(config(photos))[1] == [Caption("a.jpg", 0, "ein Käfer")], code


@pytest.mark.parametrize(
    "content, says",
    [
        (
            "file,caption\nb/a.mp4,x\na.jpg,Käfer\n".encode("cp1252"),
            r"byte 30 \(line 3\); if it is Windows-1252.*iconv -f CP1252",
        ),
        ("file,caption\na.jpg,x\n".encode("utf-16-le"), "is UTF-16 without its mark; type: iconv -f UTF-16-LE"),
        (
            b"file,caption\na.jpg,one\na.jpg,a dog, running\n",
            "line 3: 3 fields, the header has 2; .*comma must stand in double",
        ),
        (b'file,caption\na.jpg,"two\nlines"\na.jpg\n', "line 4: 1 fields"),
        (b'file,caption\na.jpg,x\na.jpg,"open\n' + b"b/a.mp4,more words\n" * 20_000, "line 3: field larger.*left open"),
        (b'file,caption\na.jpg,x\na.jpg,"open\nb/a.mp4,y\n', "line 3: .*left open"),
    ],
)
def test_a_table_that_cannot_be_read_says_the_line_and_guesses_nothing(photos, content, says):
    (photos / "captions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        folder.read(config(photos))
    assert "download" not in str(error.value)


# --- finding files


def test_annotations_in_a_folder_of_the_system_are_not_those(tmp_path):
    for name in ("@eaDir", "real"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.txt").write_text(name)
    assert media.annotation(tmp_path, "list.txt") == tmp_path / "real" / "list.txt"


def test_folders_of_the_system_are_left_out_and_counted(tmp_path):
    names = ("@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", ".Trashes", "System Volume Information", "b/@eaDir")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.mp4").touch()
    for number in range(14):
        (tmp_path / "b" / f"{number}.MXF").touch()
    (tmp_path / "b" / "a.HEIC").touch()
    (tmp_path / "lost+found.mp4").touch()
    (tmp_path / "notes.txt").touch()
    found = media.survey(tmp_path)
    assert found.paths == ["b/a.HEIC", "lost+found.mp4"]
    skipped = {".mxf": 14, "@eaDir/": 2} | {f"{name}/": 1 for name in names[1:6]}
    assert found.skipped() == skipped


def test_a_folder_that_cannot_be_listed_is_noted_and_the_rest_is_read():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for inside in ("open", "closed"):
            (root / inside).mkdir()
            (root / inside / "a.mp4").touch()
        root.chmod(0o755)
        (root / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may list everything
        try:
            found = media.survey(root)
        finally:
            os.seteuid(user)
            (root / "closed").chmod(0o755)
    assert found.paths == ["open/a.mp4"] and found.closed == [("closed", "Permission denied")]


def test_loops_of_links_end_and_real_paths_win(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.mp4").touch()
    (tmp_path / "a_link").symlink_to("deep", target_is_directory=True)
    (tmp_path / "deep" / "er" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "ghost.mp4").symlink_to("gone")
    (tmp_path / "folder.mp4").mkdir()
    assert media.media(tmp_path) == ["deep/er/a.mp4", "folder.mp4", "ghost.mp4", "self.mp4"]


def test_a_linked_folder_outside_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.mp4").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "videos").symlink_to(tmp_path / "far", target_is_directory=True)
    assert media.media(tmp_path / "root") == ["videos/a.mp4"]
    with pytest.raises(ValueError, match="is not a folder; set `root`"):
        media.media(tmp_path / "nowhere")


def test_of_several_files_of_one_video_the_better_suffix_wins(tmp_path):
    for name in ("a.avi", "a.mp4", "x/a.webm", "a.txt", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert media.videos(tmp_path) == {"a": ["a.mp4", "x/a.webm", "a.avi", "a"]}


def test_the_key_of_a_name_is_without_video_suffixes():
    names = ("a.mov", "a.mov.mp4", "a.", "a", "deep/a.MPG", "a.b.mp4")
    assert [media.key(name) for name in names] == ["a", "a", "a", "a", "a", "a.b"]
