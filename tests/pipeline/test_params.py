"""params.yaml: datasets over defaults, every key and value checked, and what the other stages see of it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline import keys, scene_graph
from pipeline.datasets import msrvtt
from pipeline.datasets.demo import reader
from pipeline.params import read_dataset, read_params, write_dataset
from tests.support.commands import command

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(text: str) -> str:
    """What a stage says of such a params.yaml."""
    Path("params.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        command("pipeline.manifest", "--dataset", "d")
    assert not Path("cache").exists() or not list(Path("cache").rglob("*.parquet"))
    return str(stopped.value)


def test_the_projects_own_params_are_right_and_say_what_the_code_would():
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    whole, usual = read_params(), keys.usual()
    assert all(keys.faults(whole, name) == [] for name in whole["datasets"])
    defaults = {key: value for key, value in whole["defaults"].items() if key != "train"}
    assert defaults == {key: usual[key] for key in defaults}
    assert set(defaults["triplets"]) == set(usual["triplets"])


def test_no_merge_keys_so_that_an_edit_by_dvc_is_one_line():
    from dvc.utils.hydra import apply_overrides

    text = (ROOT / "params.yaml").read_text()
    assert "<<" not in text and "&" not in text
    Path("params.yaml").write_text(text)
    apply_overrides("params.yaml", ["defaults.frames=4"])
    changed = [
        pair for pair in zip(text.splitlines(), Path("params.yaml").read_text().splitlines()) if pair[0] != pair[1]
    ]
    assert [(old.split()[:2], new.split()[:2]) for old, new in changed] == [(["frames:", "12"], ["frames:", "4"])]
    assert len(Path("params.yaml").read_text().splitlines()) == len(text.splitlines())
    assert read_dataset("demo")["frames"] == 4


def test_the_choices_of_a_key_are_those_of_the_code():
    usual = keys.usual()
    assert usual["triplets"] == scene_graph.DEFAULTS
    for name, allowed in scene_graph.CHOICES.items():
        assert all(keys.KEYS["triplets"][name].fits(one) for one in allowed)
        assert not keys.KEYS["triplets"][name].fits("other")
    assert all(keys.KEYS["split"].fits(one) for one in msrvtt.LISTS)
    assert usual["world"] == {"seed": reader.SEED, "groups": reader.GROUPS}


def test_a_methods_settings_are_those_of_its_config():
    from dataclasses import fields

    from train import methods

    assert keys.methods() == methods.names()
    for name in methods.names():
        kind = methods.load(name).Config
        named = {"preset"} if kind.presets() else set()
        assert set(keys.method_keys(name)) == {field.name for field in fields(kind)} | named
        if named:
            assert all(keys.method_keys(name)["preset"].fits(one) for one in (None, *kind.presets()))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("defaults: {smapling: uniform}", "there is no defaults.smapling; did you mean sampling?"),
        ("defaults: {sampling: unifrom}", "defaults.sampling is 'unifrom'; it must be uniform or clip4clip"),
        ("enabeld: [d]", "there is no enabeld; did you mean enabled?"),
        ("enabled: [e]", "enabled is ['e']; it must be a list of datasets that params.yaml has, each once"),
        ("defaults: {frames: 0}", "defaults.frames is 0; it must be a whole number of at least 1"),
        ("defaults: {frames: yes}", "defaults.frames is True; it must be a whole number of at least 1"),
        ("defaults: {max_rejects: 2}", "defaults.max_rejects is 2; it must be a number from 0 to 1"),
        (
            "defaults: {triplets: {parser: corenpl}}",
            "defaults.triplets.parser is 'corenpl'; it must be auto, corenlp or shallow",
        ),
        ("defaults: {triplets: 3}", "defaults.triplets is 3; it must be a section with some of: parser, rules"),
        ("defaults: {scratch: {step: 3}}", "there is no defaults.scratch.step; did you mean steps?"),
        ("defaults: {train: {unitrm: {}}}", "there is no defaults.train.unitrm; did you mean unitrim?"),
        ("defaults: {train: {unitrim: {batsh: 3}}}", "there is no defaults.train.unitrim.batsh; did you mean batch?"),
        (
            "defaults: {train: {unitrim: {rate: 1}}}",
            "there is no defaults.train.unitrim.rate; it is called learning_rate now",
        ),
        ("defaults: {train: {unitrim: {k: many}}}", "defaults.train.unitrim.k is 'many'; it must be a whole number"),
        (
            "defaults: {train: {unitrim: {fusion: vall}}}",
            "defaults.train.unitrim.fusion is 'vall'; it must be mean, t_weighted or val",
        ),
        (
            "defaults: {train: {unitrim: {alignments: [word_patch, words]}}}",
            "defaults.train.unitrim.alignments is ['word_patch', 'words']; it must be a list of some of sentence_video,",
        ),
        ("methods: [zeroshot]", "methods is ['zeroshot']; it must be a list of methods ("),
        (
            "seeds: [0]",
            "seeds is [0]; it must be a list as [{dataset: demo, seed: 1}], of enabled datasets and whole numbers",
        ),
        (
            "seeds: [{dataset: msvd, seed: 1}]",
            "seeds is [{'dataset': 'msvd', 'seed': 1}]; it must be a list as [{dataset: demo, seed: 1}], of enabled datasets",
        ),
        (
            "enabled: [d]\nmethods: [max_sim]\nindexes: {d: {method: unitrim, recall: 0.9}}",
            "indexes is {'d': {'method': 'unitrim', 'recall': 0.9}}; it must be sections as {demo: {method: max_sim,",
        ),
        (
            "enabled: [d]\nmethods: [max_sim]\nindexes: {d: {method: max_sim, recall: 99}}",
            "indexes is {'d': {'method': 'max_sim', 'recall': 99}}; it must be sections as {demo: {method: max_sim,",
        ),
        ("indexes: {d: {method: max_sim}}", "indexes is {'d': {'method': 'max_sim'}}; it must be sections as"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_before_anything_runs(text, line):
    answer = said(f"{text}\ndatasets: {{d: {{reader: folder, root: /nowhere}}}}\n")
    assert answer.startswith(f"params.yaml: {line}") and "\n" not in answer


def test_a_key_that_stands_twice_is_refused():
    answer = said(
        "defaults: {frames: 3}\ndatasets:\n  d: {reader: folder}\n  e: {reader: folder}\n  d: {reader: msvd}\n"
    )
    assert answer == "params.yaml: line 5: d stands here again, after line 3; remove one of them"


def test_all_faults_are_said_at_once():
    answer = said("defaults: {frames: 0, sampling: x}\ndatasets: {d: {reader: fodler}}\n")
    assert [line.split(" is ")[0] for line in answer.splitlines()] == [
        "params.yaml: defaults.frames",
        "params.yaml: defaults.sampling",
        "params.yaml: datasets.d.reader",
    ]


def test_another_datasets_fault_stops_nobody():
    Path("params.yaml").write_text("datasets: {d: {frames: 3}, e: {frames: none, nonsense: 1}}")
    assert read_dataset("d")["frames"] == 3


def test_tags_make_nothing():
    answer = said("defaults: !!python/object/apply:os.system ['touch made']\ndatasets: {d: {reader: folder}}\n")
    assert "not valid YAML" in answer and not Path("made").exists()


def test_a_partial_section_is_enough():
    Path("params.yaml").write_text(
        "methods: [zero_shot, unitrim]\ndefaults: {train: {unitrim: {k: 4, batch: 8}}}\ndatasets: {d: {train: {unitrim: {k: 2}}}}"
    )
    written = json.loads(write_dataset("d").read_text())
    assert written["train"] == {"processes": 1, "zero_shot": {}, "unitrim": {"k": 2, "batch": 8}}
    assert written["triplets"]["cap"] == 8 and "name" not in written


def test_numbers_that_yaml_takes_for_text_are_numbers():
    assert yaml.safe_load("1e-2") == "1e-2"
    Path("params.yaml").write_text("defaults: {max_rejects: 1e-2, train: {unitrim: {sigma: 1e-2}}}\ndatasets: {d: }")
    assert read_dataset("d")["max_rejects"] == 0.01


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("$HERE/clips", "/data/clips"),
        ("${HERE}", "/data"),
        ("/a/$HERE/b", "/a/$HERE/b"),
        ("/a/~/100 %d", "/a/~/100 %d"),
        ("relative/$HERE", "relative/$HERE"),
    ],
)
def test_a_variable_counts_at_the_beginning_of_a_root_only(root, path, monkeypatch):
    monkeypatch.setenv("HERE", "/data")
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": {"d": {"root": root}}}))
    assert read_dataset("d")["root"] == path


def test_a_root_is_asked_for_and_nothing_is_written_into_one_that_was_not_rendered(tmp_path):
    assert "datasets.d has no root; type: make dataset NAME=d ROOT=" in said("datasets: {d: {reader: folder}}")
    assert "lie in one another" in said(f"datasets: {{d: {{reader: folder, root: {ROOT / 'tests'}}}}}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.txt").touch()
    assert "were not rendered here" in said(f"datasets: {{d: {{reader: demo, root: {tmp_path / 'mine'}}}}}")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["holiday.txt"]
