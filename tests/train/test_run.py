"""The trainer: runs that resume bit by bit, settings, errors that say what to type."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline import files
from pipeline.files import read_table
from pipeline.shards import identity, shard_paths, write
from tests.support import worlds
from train import checkpoint, inputs, methods, trainer, validation
from train import run as train_run
from train.history import History, height
from train.method import Config
from train.optimizer import AdamW, parameter_groups, schedule
from train.settings import configure, read_stored_settings

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return worlds.lexicon(worlds.cache(tmp_path_factory.mktemp("cache") / "world", videos=32))


def settings(name):
    own = {"samples": 8, "image_epochs": 2, "image_alike": 2} if name == "unitrim" else {}
    return methods.load(name).Config.small() | {"epochs": 3, "batch": 8} | own


def go(shards, folder, name="unitrim", seed=0, resume=None, **more):
    return train_run.run(shards, folder, name, seed, settings(name) | more, resume=resume)


def lines(folder):
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [
        {key: line.get(key) for key in ("phase", "epoch", "step", "loss", "terms", "lr", "validation", "kept")}
        for line in history
    ]


def same_run(one, other):
    first, second = (checkpoint.read(folder)["model"] for folder in (one, other))
    equal = all(torch.equal(first[key], second[key]) for key in first)
    return equal and first.keys() == second.keys() and lines(one) == lines(other)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unitrim"
    go(shards, folder)
    return folder


@pytest.mark.parametrize("name", methods.names())
def test_every_method_trains_and_loads(shards, tmp_path, name):
    go(shards, tmp_path / name, name)
    model = checkpoint.load(tmp_path / name)
    assert not model.training
    facts = checkpoint.facts(tmp_path / name)
    assert facts["complete"] and facts["method"] == name
    assert facts["config"] | {"dimension": 16, "frames": 3, "patches": 4} == facts["config"]
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_loss_falls(whole):
    for phase in ("alignment", "disentanglement"):
        losses = [line["terms"] for line in lines(whole) if line["phase"] == phase and line["terms"]]
        assert sum(losses[-1].values()) < sum(losses[0].values())


def test_a_run_repeats_itself_and_a_seed_changes_it(shards, whole, tmp_path):
    go(shards, tmp_path / "again")
    assert same_run(whole, tmp_path / "again")
    go(shards, tmp_path / "other", seed=1)
    assert not same_run(whole, tmp_path / "other")


class Stop(Exception):
    """The power fails."""


def test_numbers_too_small_to_matter_are_zero_while_training(shards, tmp_path):
    torch.set_flush_denormal(False)
    go(shards, tmp_path / "unitrim", epochs=1)
    assert (torch.full((4,), 1e-40) * 1).max() == 0


def stopped(monkeypatch, step, run):
    """Let `run` train until the power fails after so many steps."""
    taken, update = [], trainer.Trainer.step

    def failing(self, *arguments):
        taken.append(1)
        if len(taken) > step:
            raise Stop
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", failing)
        with pytest.raises(Stop):
            run()


@pytest.mark.parametrize("step", [0, 3, 4, 7, 13, 18])  # 4 steps an epoch; phase 2 begins at step 12
def test_a_stopped_run_goes_on_to_the_same_bits(shards, whole, tmp_path, monkeypatch, step):
    stopped(monkeypatch, step, lambda: go(shards, tmp_path / "unitrim"))
    if step >= 4:
        with pytest.raises(ValueError, match="has not finished training; run: .*--resume"):
            checkpoint.load(tmp_path / "unitrim")
    go(shards, tmp_path / "unitrim", resume="only")
    assert same_run(whole, tmp_path / "unitrim")


@pytest.fixture(scope="module")
def best(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "best"
    go(shards, folder, select="best", image_text="tokens", fusion="val")
    return folder


def test_history_has_each_epochs_recalls_on_val_and_what_was_kept(whole, best):
    for folder in (whole, best):
        said = [line for line in lines(folder) if line["validation"] and line["kept"] is None]
        assert [(line["phase"], line["epoch"], line["step"]) for line in said] == [
            *(("alignment", epoch, 4 * epoch + 3) for epoch in range(3)),
            *(("disentanglement", epoch, 4 * epoch + 3) for epoch in range(2)),
        ]
        assert set(said[0]["validation"]) == {"text_video"} and set(said[-1]["validation"]) == {"text_image"}
    kept = checkpoint.facts(whole)["kept"]
    assert kept["by"] == "last" and kept["on"] == "val" and kept["phases"]["alignment"]["kept"] == 2
    for phase, kept in checkpoint.facts(best)["kept"]["phases"].items():
        heights = [
            height(line["validation"])
            for line in lines(best)
            if line["phase"] == phase and line["validation"] and line["kept"] is None
        ]
        assert kept["kept"] == heights.index(max(heights)) and height(kept["validation"]) == max(heights)


def test_what_is_kept_is_the_best_epoch_of_equal_ones_the_first_and_other_modules_stay(shards, tmp_path, monkeypatch):
    """Recalls are given, so that the second of four epochs is the best."""
    model, cache = train_run.prepare(shards, "clip4clip", 0, settings("clip4clip") | {"epochs": 4, "select": "best"})
    device, given, seen, save = torch.device("cpu"), iter([10.0, 30.0, 20.0, 30.0]), [], checkpoint.save

    def watch(folder, name, model, at=None):
        seen.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        save(folder, name, model, at)

    monkeypatch.setattr(checkpoint, "save", watch)
    history = History(tmp_path / "history.jsonl")
    validate = lambda tasks: {task: {"R@1": next(given)} for task in tasks}  # noqa: E731
    made = trainer.Trainer(tmp_path, "clip4clip", 0, model, device, history, validate)
    made.train(train_run.load_batches(cache, 8, 0, device), None)
    assert len(seen) == 4 and all(torch.equal(tensor, seen[1][key]) for key, tensor in model.state_dict().items())
    assert not all(torch.equal(seen[1][key], seen[2][key]) for key in seen[1])
    assert all(torch.equal(seen[3][key], seen[1][key]) for key in seen[1])  # what was written last is what is kept
    assert history.kept() == {"alignment": {"kept": 1, "of": 4, "validation": {"text_video": {"R@1": 30.0}}}}


@pytest.mark.parametrize("step", [5, 9, 14, 18])
def test_a_stopped_run_that_keeps_its_best_epoch_goes_on_to_the_same_bits(shards, best, tmp_path, monkeypatch, step):
    more = {"select": "best", "image_text": "tokens", "fusion": "val"}
    stopped(monkeypatch, step, lambda: go(shards, tmp_path / "unitrim", **more))
    go(shards, tmp_path / "unitrim", resume="only", **more)
    assert same_run(best, tmp_path / "unitrim")
    assert checkpoint.facts(tmp_path / "unitrim")["kept"] == checkpoint.facts(best)["kept"]


@pytest.mark.parametrize(("more", "held"), [({}, False), ({"select": "best"}, True), ({"fusion": "val"}, True)])
def test_without_val_what_chooses_is_held_out_and_does_not_train(shards, tmp_path, monkeypatch, more, held):
    read, trained, batches = train_run.prepare, [], train_run.load_batches

    def without_val(*words):
        model, cache = read(*words)
        cache.video_split[cache.video_split == "val"] = "test"
        trained.append(len(cache.captions("train")))
        return model, cache

    def count(*words):
        loader = batches(*words)
        trained.append(len(loader.samples))
        return loader

    monkeypatch.setattr(train_run, "prepare", without_val)
    monkeypatch.setattr(train_run, "load_batches", count)
    go(shards, tmp_path / "unitrim", epochs=1, image_epochs=0, **more)
    assert (trained[1] < trained[0]) == held
    kept = checkpoint.facts(tmp_path / "unitrim").get("kept", {})
    assert kept.get("on") == ("held out" if held else None)


def test_recalls_by_hand_equal_scores_at_their_expectation():
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.9, 0.8, 0.1]])
    told = validation.recalls(torch.cat([scores, torch.zeros(3, 9)], 1), torch.tensor([0, 1, 2]))
    assert told == {"R@1": 33.3333, "R@5": 100.0, "R@10": 100.0}


def test_a_killed_process_leaves_a_run_that_goes_on(shards, tmp_path):
    folder, chosen = tmp_path / "runs" / "unitrim", [f"{key}={value}" for key, value in settings("unitrim").items()]
    words = [
        sys.executable,
        "-m",
        "train.run",
        "--shards",
        str(shards),
        "--out",
        str(folder),
        "--set",
        *chosen,
        "epochs=12",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (folder / "checkpoint.pt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()
    assert checkpoint.read(folder)["training"] is not None
    assert not checkpoint.facts(folder)["complete"]
    go(shards, folder, epochs=12, resume="only")
    go(shards, tmp_path / "whole", epochs=12)
    assert same_run(folder, tmp_path / "whole")


def test_a_complete_run_is_left_alone_and_another_one_is_not(shards, whole):
    before = (whole / "checkpoint.pt").stat().st_mtime_ns
    assert "is complete" in go(shards, whole)
    assert "is complete" in go(shards, whole, resume="only")
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before


def test_resuming_with_other_settings_is_refused(shards, tmp_path):
    go(shards, tmp_path / "clip4clip", "clip4clip", epochs=1)
    with pytest.raises(ValueError, match="other settings"):
        go(shards, tmp_path / "clip4clip", "clip4clip", epochs=2, resume="only")
    assert "trained" in go(shards, tmp_path / "clip4clip", "clip4clip", epochs=2)


def test_trying_to_resume_goes_on_or_starts_again(shards, tmp_path, monkeypatch):
    """What `dvc repro` does after Ctrl-C, and after a change."""
    folder = tmp_path / "clip4clip"
    stopped(monkeypatch, 10, lambda: go(shards, folder, "clip4clip"))
    stopped(monkeypatch, 3, lambda: go(shards, folder, "clip4clip", resume="try"))  # no more than 4 are left of 12
    assert "trained" in go(shards, folder, "clip4clip", resume="try")
    go(shards, tmp_path / "whole", "clip4clip")
    assert same_run(folder, tmp_path / "whole")
    assert "is complete" in go(shards, folder, "clip4clip", resume="try")
    stopped(monkeypatch, 10, lambda: go(shards, folder, "clip4clip", epochs=4))
    assert "trained" in go(shards, folder, "clip4clip", epochs=3, resume="try")
    assert same_run(folder, tmp_path / "whole")


def test_a_run_stopped_in_its_first_epoch_does_not_take_up_a_finished_one_of_other_settings(
    shards, tmp_path, monkeypatch
):
    folder = tmp_path / "clip4clip"
    go(shards, folder, "clip4clip", epochs=2)
    stopped(
        monkeypatch, 2, lambda: go(shards, folder, "clip4clip", resume="try")
    )  # before the first checkpoint of its own
    assert "trained" in go(shards, folder, "clip4clip", resume="try")
    go(shards, tmp_path / "whole", "clip4clip")
    assert same_run(folder, tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(shards, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["run", "--shards", str(shards), "--out", str(tmp_path / "runs" / "x")])
    with pytest.raises(SystemExit, match="stopped; the same command with --resume goes on"):
        train_run.main()


def test_other_triplets_are_another_run(tmp_path):
    shards = worlds.cache(tmp_path / "toy", videos=8)
    before, without = identity(shards, ["triplet", "frame"]), identity(shards, ["sentence", "frame"])
    assert identity(shards, ["triplet", "frame"]) == before
    path = shard_paths(shards / "text")[0]
    tensors, attributes = worlds.taken(path, "text")
    assert len(tensors["triplet"])
    tensors["triplet"][0] += 1
    write(path, "text", tensors, attributes)
    after = identity(shards, ["triplet", "frame"])
    assert {part for part in before if after[part] != before[part]} == {"triplet"}
    assert identity(shards, ["sentence", "frame"]) == without, "a method that reads no triplets is left alone"


@pytest.mark.parametrize("split, again", [("test", False), ("val", True), ("train", True)])
def test_another_caption_trains_again_only_what_may_have_read_it(tmp_path, split, again):
    shards = worlds.cache(tmp_path / "toy", videos=8)
    assert "trained in" in go(shards, tmp_path / "run", epochs=1, image_epochs=0)
    names = ["unitrim", "clip4clip"]
    before = {path: path.read_bytes() for path in inputs.write_inputs(shards, names)}
    whole = identity(shards)
    items = read_table(shards / "manifest" / "items.parquet").to_pydict()
    name = next(name for name, own in zip(items["video_id"], items["split"]) if own == split)
    for path in shard_paths(shards / "text"):
        tensors, attributes = worlds.taken(path, "text")
        if name in tensors["video_id"]:
            tensors["fingerprint"][list(tensors["video_id"]).index(name)] = "0" * 32
            write(path, "text", tensors, attributes)
    said = go(shards, tmp_path / "run", epochs=1, image_epochs=0, resume="try")
    assert ("trained in" in said, "is complete" in said) == (again, not again)
    assert identity(shards)["text"] != whole["text"], "its scores are of other captions all the same"
    for path in inputs.write_inputs(shards, names):
        assert (path.read_bytes() != before[path]) == again
        assert identity(shards, json.loads(path.read_text())["needs"]) == json.loads(
            (path.parent / "scored" / path.name).read_text()
        )


def test_inputs_are_what_the_settings_ask_for(tmp_path, monkeypatch):
    """max_sim reads triplets only where they look for images; how many there may be is then a setting of its."""
    shards = worlds.cache(tmp_path / "toy", videos=8)
    monkeypatch.chdir(tmp_path)
    for section, reads in (("{}", False), ("{image_alignments: [word_patch, triplet_patch]}", True)):
        (tmp_path / "params.yaml").write_text(f"defaults: {{triplets: {{cap: 5}}, train: {{max_sim: {section}}}}}\n")
        (path,) = inputs.write_inputs(shards, ["max_sim"])
        said = json.loads(path.read_text())
        assert [part in said[where] for part, where in (("triplet", "needs"), ("triplets", "settings"))] == [reads] * 2
        assert ("triplet" in said["shards"]) == reads


@pytest.mark.parametrize("name", inputs.SHOWN)
def test_the_report_is_told_of_each_fact_that_it_shows_beside_the_scores(tmp_path, name):
    path = tmp_path / name
    before = json.loads(inputs.write_shown(tmp_path).read_text())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    after = json.loads(inputs.write_shown(tmp_path).read_text())
    path.write_bytes(b"two")
    last = json.loads(inputs.write_shown(tmp_path).read_text())
    assert (
        {key for key in before if before[key] != after[key]}
        == {key for key in after if after[key] != last[key]}
        == {name}
    )
    (tmp_path / "params.json").write_text('{"root": "/films"}')
    assert json.loads(inputs.write_shown(tmp_path).read_text()) == last | {"root": "/films"}


def test_the_second_phase_can_be_trained_alone(shards, tmp_path):
    go(shards, tmp_path / "run", epochs=0, image_text="sentence_linear")
    assert {line["phase"] for line in lines(tmp_path / "run")} == {"disentanglement"}


def test_a_second_trainer_is_told_who_has_the_run(tmp_path):
    with files.lock(tmp_path / "run"):
        with pytest.raises(files.LockedError, match=f"process {os.getpid()}"), files.lock(tmp_path / "run"):
            pass
    with files.lock(tmp_path / "run"):
        pass


def main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train.run", *map(str, words)])
    train_run.main()


def test_errors_say_what_to_type(shards, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="run: dvc repro manifest@nothing"):
        main(monkeypatch, "--shards", tmp_path / "nothing")
    with pytest.raises(SystemExit, match="no method 'bert'; there are: clip4clip"):
        main(monkeypatch, "--shards", shards, "--method", "bert")
    with pytest.raises(SystemExit, match="no setting kk; there are"):
        main(monkeypatch, "--shards", shards, "--set", "kk=3")
    with pytest.raises(SystemExit, match="no setting rate: it is called learning_rate now"):
        main(monkeypatch, "--shards", shards, "--set", "rate=1e-3")
    with pytest.raises(SystemExit, match="no setting frame: it is called frame_features now"):
        main(monkeypatch, "--shards", shards, "--set", "frame=before")
    with pytest.raises(SystemExit, match="k is a int, like 8; not 'many'"):
        main(monkeypatch, "--shards", shards, "--set", "k=many")
    with pytest.raises(SystemExit):
        main(monkeypatch, "--shards", shards, "--set", "k")
    assert "'k' is not key=value" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match="is missing; run: python -m train.run --shards .*world --method unitrim --seed 2"
    ):
        checkpoint.load(shards / "runs" / "unitrim-seed2")


def test_what_makes_a_run_again_names_its_method_seed_folder_and_settings(shards, monkeypatch, capsys):
    folder = Path(shards) / "runs" / "try a"
    own = [f"{key}={value}" for key, value in settings("clip4clip").items()]
    words = ["--shards", shards, "--method", "clip4clip", "--seed", 3, "--out", folder, "--set", *own]
    main(monkeypatch, *words)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="is missing; run: python -m train.run ") as caught:
        checkpoint.load(folder)
    told = shlex.split(str(caught.value).partition("run: python -m train.run ")[2])
    assert told[:9] == [str(word) for word in words[:9]] and sorted(told[9:]) == sorted(own)
    main(monkeypatch, *told)
    assert checkpoint.load(folder).config.epochs == 3
    for name, method in {"xclip": "xclip", "unify-a": "unify", "max_sim-seed2": "max_sim"}.items():
        assert f" --method {method}" in checkpoint.command(Path(shards) / "runs" / name), "before there is a run.json"


def test_a_checkpoint_that_asks_for_more_than_it_holds_is_refused_before_anything_is_made(tmp_path):
    model = methods.build("clip4clip", {"dimension": 16, "layers": 1})
    checkpoint.save(tmp_path, "clip4clip", model)
    assert checkpoint.load(tmp_path).config.dimension == 16
    model.config.dimension = 10**6  # a temporal encoder of 48 TB
    checkpoint.save(tmp_path, "clip4clip", model)
    with pytest.raises(ValueError, match="is not of one piece: its settings say .*1000000.* it holds .*16"):
        checkpoint.load(tmp_path)


def test_a_torn_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04torn")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.read(tmp_path)


def flip(path, at=0.5):
    """Change a bit of the part of a checkpoint that lies at this share of the file; what lies between the parts nobody reads."""
    with zipfile.ZipFile(path) as parts:
        place = at * path.stat().st_size
        part = min((one for one in parts.infolist() if one.file_size), key=lambda one: abs(one.header_offset - place))
    content = bytearray(path.read_bytes())
    name, extra = (int.from_bytes(content[part.header_offset + at :][:2], "little") for at in (26, 28))  # their lengths
    content[part.header_offset + 30 + name + extra + part.file_size // 2] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_in_a_finished_run_is_not_scored_and_the_run_is_trained_again(shards, tmp_path):
    folder = Path(shards) / "runs" / "flipped"
    go(shards, folder)
    good = (folder / "checkpoint.pt").read_bytes()
    flip(folder / "checkpoint.pt")
    with pytest.raises(
        ValueError, match="checkpoint.pt is damaged: .* run: python -m train.run --shards .*world --method"
    ):
        checkpoint.load(folder)
    assert "trained in" in go(shards, folder, resume="try")
    assert (folder / "checkpoint.pt").read_bytes() == good
    assert "is complete" in go(shards, folder, resume="try")


@pytest.mark.parametrize("at", [0.02, 0.3, 0.5, 0.8])
def test_a_flipped_bit_in_a_stopped_run_is_found_by_the_checksums_of_torch(shards, tmp_path, monkeypatch, at):
    folder, save = tmp_path / "stopped", checkpoint.save

    def stop(*words):
        save(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        go(shards, folder)
    monkeypatch.undo()
    flip(folder / "checkpoint.pt", at)
    with pytest.raises(ValueError, match="checkpoint.pt is damaged|cannot be read"):
        go(shards, folder, resume="only")
    go(shards, folder, resume="try")
    go(shards, tmp_path / "calm")
    assert same_run(folder, tmp_path / "calm")


def test_a_finished_checkpoint_is_looked_at_once(shards, monkeypatch):
    folder, looked, digest = Path(shards) / "runs" / "looked", [], checkpoint.digest
    go(shards, folder)
    os.utime(folder / "checkpoint.pt", (1, 1))
    monkeypatch.setattr(checkpoint, "digest", lambda path: looked.append(path) or digest(path))
    for _ in range(3):
        checkpoint.load(folder)
    assert looked == [folder / "checkpoint.pt"]


def test_a_run_killed_before_it_could_say_that_it_was_complete_is_not_trained_twice(shards, tmp_path):
    folder = tmp_path / "late"
    go(shards, folder)
    before, history = (folder / "checkpoint.pt").read_bytes(), (folder / "history.jsonl").read_bytes()
    said = checkpoint.facts(folder)
    checkpoint.describe(folder, {key: said[key] for key in said if key != "checkpoint"} | {"complete": False})
    go(shards, folder, resume="try")
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert (folder / "history.jsonl").read_bytes() == history and checkpoint.facts(folder)["complete"]


def test_the_datasets_settings_lie_over_the_defaults(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "defaults: {words: 32, triplets: {cap: 8}, train: {unitrim: {k: 8, learning_rate: 1e-4}}}\n"
        "datasets: {demo: {words: 24, train: {unitrim: {k: 2}}}}\n"
    )
    demo, every = tmp_path / "demo", ("word", "triplet")
    assert read_stored_settings(demo, "unitrim", every, path) == {
        "words": 24,
        "triplets": 8,
        "k": 2,
        "learning_rate": "1e-4",
    }
    assert read_stored_settings(demo, "unitrim", ["sentence"], path) == {"k": 2, "learning_rate": "1e-4"}
    assert read_stored_settings(demo, "unitrim", every, tmp_path / "none.yaml") == {}
    demo.mkdir()
    (demo / "params.json").write_text(json.dumps({"words": 16, "triplets": {"cap": 4}, "train": {"unitrim": {"k": 3}}}))
    of_shards = read_stored_settings(demo, "unitrim", every, tmp_path / "none.yaml")
    assert of_shards == {"words": 16, "triplets": 4, "k": 3}
    config = configure(methods.load("unitrim").Config, read_stored_settings(demo, "unitrim", every, path))
    assert (config.words, config.triplets, config.k, config.learning_rate) == (24, 8, 2, 1e-4)


def test_settings_take_the_type_of_their_field():
    kind = methods.load("unitrim").Config
    config = configure(kind, {"k": "4", "learning_rate": "1e-3", "outer": 2, "alignments": "sentence_video,word_patch"})
    assert (config.k, config.learning_rate, config.outer, config.alignments) == (
        4,
        1e-3,
        2.0,
        ["sentence_video", "word_patch"],
    )
    with pytest.raises(ValueError, match="k is a int"):
        configure(kind, {"k": 2.5})
    with pytest.raises(ValueError, match="fusion: 'vall' is not one of mean, t_weighted, val"):
        configure(kind, {"fusion": "vall"})
    with pytest.raises(ValueError, match="alignments: 'words' is not one of sentence_video"):
        configure(kind, {"alignments": "word_patch,words"})


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert rates == rates[:10] + sorted(rates[10:], reverse=True) and rates[-1] < 1e-3


def test_adamw_is_its_formula():
    """Loshchilov and Hutter 2019, algorithm 2, with the bias correction."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = AdamW([{"params": [parameter], "lr": 0.1, "weight_decay": 0.2}], betas=(0.9, 0.98), eps=1e-6)
    value, mean, square = parameter.detach().double(), 0.0, 0.0
    for step in range(1, 6):
        grad = torch.sin(value * step + 1)
        parameter.grad = grad.float()
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * grad, 0.98 * square + 0.02 * grad**2
        value = value * (1 - 0.1 * 0.2)
        value = value - 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.98**step)).sqrt() + 1e-6)
        assert torch.allclose(parameter.double(), value, atol=1e-6)


def test_scalars_have_their_own_rate_and_only_plain_matrices_decay():
    unitrim = methods.build("unitrim", {"dimension": 16, "patches": 4})
    found = {
        group["lr"]: group for group in parameter_groups(dict(unitrim.named_children()), Config(weight_decay=0.5), 1e-4)
    }
    assert all(parameter.ndim == 0 for parameter in found[0.05]["params"])
    every = parameter_groups(dict(unitrim.named_children()), Config(weight_decay=0.5), 1e-4)
    decayed = {id(parameter) for group in every if group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in unitrim.named_parameters() if id(parameter) in decayed}
    assert "selector.hidden.weight" in names and "temporal.blocks.0.qkv.weight" in names
    assert not any("mix" in name or "bias" in name or "norm" in name for name in names)
    assert sum(len(group["params"]) for group in every) == len(list(unitrim.parameters()))


def test_the_papers_preset_is_one_word_over_a_datasets_recipe():
    from train import methods
    from train.settings import apply_preset, configure

    kind = methods.load("unitrim").Config
    recipe = {"k": 4, "fusion": "val", "word_patch": "all", "words": 20, "batch": 32}
    paper = configure(kind, apply_preset(kind, recipe) | apply_preset(kind, {"preset": "paper", "batch": "16"}))
    assert (paper.k, paper.fusion, paper.word_patch, paper.learning_rate) == (8, "mean", "selected", 1e-4)
    assert (paper.batch, paper.words) == (16, 20)
    with pytest.raises(ValueError, match="no preset 'best'; there are: paper"):
        apply_preset(kind, {"preset": "best"})


@pytest.mark.parametrize("where", ["defaults", "demo"])
def test_one_word_in_params_makes_a_datasets_recipe_the_papers(tmp_path, where):
    import yaml

    from pipeline import keys

    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = whole["defaults"] if where == "defaults" else whole["datasets"]["demo"]
    section["train"]["unitrim"]["preset"] = "paper"
    whole["datasets"]["demo"]["train"]["unitrim"]["tune"] = "image"
    assert keys.faults(whole, "demo") == []
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(whole))
    kind = methods.load("unitrim")
    made = configure(kind.Config, read_stored_settings(Path("demo"), "unitrim", kind.needs, tmp_path / "params.yaml"))
    published = kind.Config()
    assert vars(made) == vars(published) | {
        "words": 32,
        "triplets": 8,
        "tune": "image",
    }  # its sizes stay, and what is tuned
    section["train"]["unitrim"]["preset"] = "papr"
    assert keys.faults(whole, "demo") == [
        f"{'defaults' if where == 'defaults' else 'datasets.demo'}.train.unitrim.preset is 'papr'; it must be null or paper"
    ]
    whole["datasets"]["demo"]["train"]["clip4clip"]["preset"] = "paper"
    assert any("there is no datasets.demo.train.clip4clip.preset" in fault for fault in keys.faults(whole, "demo"))
