"""What README tells a reader to type is there: commands with their flags, make targets, stages, keys and settings."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline import keys
from tests.support import worlds
from tests.support.commands import command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FENCED = re.findall(r"```(?:sh|yaml)\n(.*?)```", README, re.DOTALL)
INLINE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
LINES = [line.split(" #")[0].strip() for block in FENCED for line in block.splitlines()] + INLINE
COMMANDS = sorted({line[line.index("python -m ") :] for line in LINES if "python -m " in line and line[-1] != "."})
BENCHES = re.findall(r"^\|([^|\n]*)\|[^|\n]*\|[^|\n]*\|[^|\n]*\|$", README.split("tests.bench.`")[-1], re.MULTILINE)


def flags_of(module: str, capsys: pytest.CaptureFixture) -> set[str]:
    """The flags that a command knows."""
    with pytest.raises(SystemExit):
        command(module, "--help")
    return set(re.findall(r"--[a-z][a-z-]*|(?<=[ \[])-[a-z]\b", capsys.readouterr().out))


def bench_flags(module: str) -> set[str]:
    """The flags of a bench, which may need peers that are not there."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    return set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source))


def test_every_row_of_the_table_of_benches_names_one_that_is_there_with_its_flags():
    named = [line for cell in BENCHES for line in re.findall(r"`(.+)`", cell)]
    assert len(named) > 8
    for line in named:
        module, *words = line.split()
        assert {word for word in words if word.startswith("--")} <= bench_flags(f"tests.bench.{module}")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_there_and_has_the_flags(line, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    module, *words = shlex.split(line.removeprefix("python -m ").replace("...", ""))
    known = bench_flags(module) if module.startswith("tests.bench.") else flags_of(module, capsys)
    used = {word.split("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
    assert used <= known, f"{module} has no {', '.join(sorted(used - known))}"


def test_every_make_target_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {found for line in LINES for found in re.findall(r"\bmake ([a-z]+)", line)}
    assert named and named <= targets
    phony = (ROOT / "Makefile").read_text().split(".PHONY:")[1].splitlines()[0].split()
    assert named <= set(phony)


def test_every_stage_is_there():
    named = {stage for line in LINES for stage in re.findall(r"\b([a-z]+)@[<\w]", line)}
    assert named and named <= set(STAGES)


def test_every_key_may_hold_what_is_said():
    """`frames: 64` in running text, whichever section it is of."""
    rows = keys.KEYS | keys.KEYS["triplets"] | keys.KEYS["tail"] | keys.KEYS["ray"] | {"scratch": keys.scratch_keys()}
    rows |= {key: row for method in keys.methods() for key, row in keys.method_keys(method).items()}
    seen = set()
    for line in INLINE:
        for key, value in re.findall(r"^([a-z_]+): ([^\s{]\S*)$", line):
            assert key in rows, f"README speaks of {line}"
            assert rows[key].fits(yaml.safe_load(value)), f"README: {line}; it must be {rows[key].says}"
            seen.add(key)
    assert {"frames", "words", "clip"} <= seen


def test_every_setting_of_a_run_is_there():
    for line in COMMANDS:
        if "--set " not in line:
            continue
        method = (re.findall(r"--method (\w+)", line) or ["unitrim"])[0]
        known = set(keys.method_keys(method)) | {"preset"}
        named = set(re.findall(r"\b([a-z_]+)=", line.split("--set ")[1]))
        assert named and named <= known


def test_every_method_named_with_a_command_is_there():
    named = {method for line in LINES for method in re.findall(r"--method (\w+)", line)}
    assert named and named <= set(keys.methods())


def test_a_run_is_scored_on_another_dataset_as_it_is_told(tmp_path, monkeypatch):
    """The target has fewer frames and words than the source, and the same CLIP."""
    monkeypatch.chdir(tmp_path)
    worlds.cache(Path("cache/msrvtt"), frames=3)
    worlds.cache(Path("cache/msvd"), frames=2, seed=1)
    command("train.run", "--shards", "cache/msrvtt", "--method", "clip4clip", "--set", "epochs=1", "batch=8")
    command("eval.run", "--run", "cache/msrvtt/runs/clip4clip", "--shards", "cache/msvd")
    assert Path("cache/msvd/scores/msrvtt-clip4clip/metrics.json").exists()
    with pytest.raises(SystemExit, match="set datasets.msrvtt.frames"):
        command("train.run", "--shards", "cache/msvd", "--method", "clip4clip", "--set", "epochs=1", "batch=8")
        command("eval.run", "--run", "cache/msvd/runs/clip4clip", "--shards", "cache/msrvtt")
