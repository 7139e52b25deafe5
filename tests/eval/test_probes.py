"""Linear probes: what is there is read, what is not is not, and nobody is asked about what his fold was fitted on."""

import json

import pytest
import torch

from eval import probes
from eval.report import facts
from pipeline import datasets, params
from pipeline.datasets.demo import world
from tests.support import worlds
from train import run as train_run

pytestmark = pytest.mark.usefixtures("one_thread")


def coloured(texts=300, size=8):
    """Vectors of which the first three numbers tell a colour, the colours, and groups of three."""
    random = torch.Generator().manual_seed(0)
    colour = torch.randint(3, (texts,), generator=random)
    vector = torch.randn(texts, size, generator=random)
    vector[torch.arange(texts), colour] += 4
    return vector, [("red", "green", "blue")[one] for one in colour], [f"group{at // 3}" for at in range(texts)]


def test_a_probe_reads_what_is_there_and_nothing_where_nothing_is():
    vector, colour, groups = coloured()
    there, gone = probes.probe(vector, colour, groups), probes.probe(vector[:, 3:], colour, groups)
    assert there["right"] > 90 and there["texts"] == 300
    assert gone["right"] < 1.3 * gone["chance"]
    assert gone["chance"] == pytest.approx(100 * max(colour.count(one) for one in set(colour)) / 300, abs=0.01)


def test_look_alikes_never_teach_the_probe_that_is_asked_about_them():
    """Each group has a vector of its own and a label by chance: whoever has seen the group knows the answer."""
    random = torch.Generator().manual_seed(0)
    vector = torch.randn(60, 128, generator=random).repeat_interleave(5, 0)
    label = torch.randint(2, (60,), generator=random).repeat_interleave(5)
    answers, groups = [str(one) for one in label.tolist()], [f"group{at // 5}" for at in range(300)]
    assert probes.probe(vector, answers, groups)["right"] < 70
    assert probes.probe(vector, answers, [f"text{at}" for at in range(300)])["right"] > 95


def test_only_what_enough_texts_tell_is_probed():
    vector, colour, groups = coloured(60)
    known = [{"colour": one, "event": "grows"} | ({"place": "sand"} if at < 5 else {}) for at, one in enumerate(colour)]
    found = probes.probe_all({"T": vector, "T_spat": vector[:, 3:]}, known, groups)
    assert set(found) == {"colour"} and set(found["colour"]) == {"T", "T_spat"}


def test_demos_facts_are_those_of_its_captions():
    config = {"world": {"groups": {"train": 4, "val": 1, "test": 6}}}
    reader = datasets.load("demo")
    known, (_, captions) = datasets.known_facts(reader, config), reader.read(config)
    assert len(known) == len(captions)
    for caption in captions:
        told = known[f"{caption.video_id}#{caption.index:03d}"]
        assert told["shape"] in caption.text and told["colour"] in caption.text
        assert told["event"] in (*world.LONE, *world.PAIRED)
        assert ("place" in told) == any(place in caption.text.split() for place in world.PLACES)
    assert datasets.known_facts(datasets.load("folder"), {}) == {}


def test_a_run_is_probed_by_its_parts(tmp_path, monkeypatch, capsys):
    folder = worlds.cache(tmp_path / "cache" / "demo", videos=64)
    for name, settings in {"unitrim": {"image_text": "tokens"}, "raw": {"image_text": "raw_sentence"}}.items():
        small = {"epochs": 0, "alignments": ["sentence_video"], "image_epochs": 1, "disentangler_hidden": 8, "batch": 8}
        train_run.run(folder, folder / "runs" / name, "unitrim", 0, small | settings)
    # the world's captions, as if they were demo's: one fact that its sentences tell, by the video's number
    known = {f"video{at:04d}#{index:03d}": {"shape": str(at % 3)} for at in range(64) for index in range(2)}
    monkeypatch.setattr(params, "read_dataset", lambda name: {"reader": "demo", "name": name})
    monkeypatch.setattr(datasets, "known_facts", lambda module, config: known)
    words = ["probes", "--shards", str(folder), "--run"]
    monkeypatch.setattr("sys.argv", [*words, str(folder / "runs" / "unitrim")])
    probes.main()
    found = json.loads((folder / "scores" / "unitrim" / "probes.json").read_text())
    assert set(found["facts"]["shape"]) == {"T", "T_spat", "T_temp"} and found["split"] == "test"
    assert found["facts"]["shape"]["T"]["texts"] == 32 and "T_temp" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*words, str(folder / "runs" / "raw")])
    with pytest.raises(SystemExit, match="takes no text apart; unitrim does"):
        probes.main()


def test_the_report_shows_probes_of_the_runs_that_stand_and_no_others(tmp_path):
    def save(name, seed, right, run):
        home = tmp_path / "scores" / name
        home.mkdir(parents=True)
        (home / "metrics.json").write_text(json.dumps({"method": "unitrim", "seed": seed, "run": {"seed": seed}}))
        part = {
            "T": {"right": right, "chance": 25.0, "texts": 1200},
            "T_spat": {"right": 30.0, "chance": 25.0, "texts": 1200},
        }
        (home / "probes.json").write_text(json.dumps({"split": "test", "run": run, "facts": {"event": part}}))
        return {"method": "unitrim", "seed": seed, "run": {"seed": seed}}

    seeds = [save("unitrim", 0, 80.0, {"seed": 0}), save("unitrim-seed1", 1, 90.0, {"seed": 1})]
    table = facts.probes_table(tmp_path, "unitrim", seeds)
    assert "2 seeds" in table and "<td>85.0</td><td>30.0</td><td>25.0</td><td>1,200</td>" in table
    seeds.append(save("unitrim-seed2", 2, 10.0, {"seed": 2, "code": "another"}))
    assert facts.probes_table(tmp_path, "unitrim", seeds) == table
    assert facts.probes_table(tmp_path, "unitrim", seeds[2:]) == ""
