"""The house keeps its shape: who may import whom, and each DVC stage declares the code and the parameters it uses."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline import keys
from pipeline.params import read_params, write_dataset
from train.inputs import SHOWN
from train.run import code_files

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "train", "eval")
TRAINER = {"torch", "h5py", "pyarrow", "numpy", "tqdm", "safetensors", "yaml"}  # yaml only where a params.yaml is
# From top to bottom: a file imports from its own room or from a lower floor, never sideways, never up. A file that is named
# stands there whatever room it lies in.
FLOORS = (
    "eval/tables",
    "eval/run.py eval/probes.py eval/report eval/search",
    "eval/index",
    "eval/attention.py eval/load.py eval/similarity.py eval/overview.py eval/experiments.py",
    "eval/joint.py eval/centre.py",
    "eval/metrics.py eval/vectors.py eval/stale.py eval/normalise.py",
    "train/run.py",
    "train/validation.py",
    "train/trainer.py train/fusion.py train/inputs.py",
    "train/history.py train/settings.py",
    "train/checkpoint.py train/optimizer.py",
    "train/methods",
    "train/tuned.py",
    "train/data",
    "train/method.py",
    "train/losses.py",
    "train/layers",
    "train/distributed.py",
    "pipeline/manifest.py pipeline/clip.py pipeline/visual.py pipeline/keyframes.py pipeline/triplets.py pipeline/text.py",
    "pipeline/lexicon.py pipeline/spans.py",
    "pipeline/export.py pipeline/datasets/enable.py pipeline/shards/__main__.py",
    "pipeline/scratch",
    "pipeline/stage.py pipeline/datasets pipeline/scene_graph",
    "pipeline/encoders pipeline/engine pipeline/video pipeline/shards",
    "pipeline/params.py",
    "pipeline/keys.py",
    "pipeline/command.py pipeline/progress.py pipeline/rejects.py pipeline/datasets/__init__.py pipeline/scratch/recipe.py",
    "pipeline/files.py",
)
HOW = {"engine", "ray"}  # keys that say how a stage is run and change nothing that it makes
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Dotted names that a file imports; without `lazy`, only what is imported when the file is."""
    tree = ast.parse(path.read_text())
    if not lazy:
        guard = [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
        bodies = [node for node in tree.body if node not in guard]
        nodes = [
            inner for node in bodies if not isinstance(node, ast.FunctionDef | ast.ClassDef) for inner in ast.walk(node)
        ]
    else:
        nodes = list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def file_of(dotted: str) -> Path | None:
    """The project file of a dotted name, be it a module or something in one."""
    parts = dotted.split(".")
    if parts[0] not in PACKAGES:
        return None
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").exists():
            return path.with_suffix(".py")
        if (path / "__init__.py").exists():
            return path / "__init__.py"
    raise AssertionError(f"{dotted} is not in the project")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project_imports(path: Path, lazy: bool = True) -> set[str]:
    return {name(file) for file in map(file_of, imports(path, lazy)) if file is not None}


@pytest.mark.parametrize("path", modules(), ids=name)
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = {
        "pipeline": ("pipeline/",),
        "train": ("train/", "pipeline/shards/", "pipeline/files.py", "pipeline/command.py", "pipeline/progress.py"),
        "eval": PACKAGES,
    }[package]
    for other in project_imports(path):
        assert other.startswith(allowed), f"{name(path)} imports {other}"


def room(path: str) -> str:
    """`pipeline/video` of `pipeline/video/decode.py`; a file that lies in no room, or that FLOORS names, is its own."""
    named = path in " ".join(FLOORS).split()
    return path if named else "/".join(path.split("/")[:2])


@pytest.mark.parametrize(
    "path", [path for path in modules() if path.parent.name not in PACKAGES or path.stem != "__init__"], ids=name
)
def test_a_file_imports_from_its_own_room_or_a_lower_floor(path):
    floor = {room: number for number, line in enumerate(FLOORS) for room in line.split()}
    here = room(name(path))
    assert here in floor, f"{here} stands on no floor; add it to FLOORS"
    for other in project_imports(path):
        there = room(other)
        if there != here and not other.endswith(f"{other.split('/')[0]}/__init__.py"):
            assert floor[there] > floor[here], f"{name(path)} imports {other}, which stands no lower"


def test_no_circle_of_imports():
    """Also within a room, and lazy imports counted."""
    graph = {name(path): project_imports(path) - {name(path)} for path in modules()}
    done: set[str] = set()

    def visit(file: str, trail: tuple[str, ...]) -> None:
        assert file not in trail, " -> ".join([*trail[trail.index(file) :], file])
        if file not in done:
            for other in sorted(graph[file]):
                visit(other, (*trail, file))
            done.add(file)

    for file in graph:
        visit(file, ())


def test_the_architecture_page_names_every_room_and_every_version():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {room(name(path)) for path in modules() if room(name(path)).count(".") == 0}
    missing = [where for where in rooms if where not in page]
    assert not missing, f"docs/architecture.md says nothing of {missing}"
    for path in modules():
        for line in path.read_text().splitlines():
            found = re.match(r"(\w*VERSION|FORMAT) = ", line)
            if found and path.stem != "corenlp":  # that is the release of a program, not of ours
                assert f"`{name(path)}` {found[1]}" in page, f"{name(path)} {found[1]} is not in docs/architecture.md"


def test_the_architecture_page_names_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(r"`((?:pipeline|train|eval|tests|docs)/[\w/]+\.py)`", page):
        assert (ROOT / path).exists(), f"docs/architecture.md speaks of {path}"


@pytest.mark.parametrize("path", sorted((ROOT / "train").rglob("*.py")), ids=name)
def test_the_trainer_needs_little(path):
    outside = {dotted.split(".")[0] for dotted in imports(path)} - set(PACKAGES)
    standard = __import__("sys").stdlib_module_names
    assert outside - set(standard) <= TRAINER


def test_what_the_trainer_reads_shards_with_needs_no_torch_and_no_transformers():
    import subprocess
    import sys

    code = "import sys, pipeline.shards; print(sorted({'torch', 'transformers', 'av', 'stanza'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_a_method_is_one_file_that_nobody_imports():
    for path in (ROOT / "train" / "methods").glob("[!_]*.py"):
        train = {other for other in project_imports(path) if other.startswith("train/")}
        assert all(other.startswith(("train/layers/", "train/losses.py", "train/method.py")) for other in train), (
            f"{name(path)} imports {train}"
        )
    for path in modules():
        methods = {other for other in project_imports(path) if re.match(r"train/methods/[^_]", other)}
        assert not methods, f"{name(path)} imports {methods}; use train.methods.load(name)"


def test_the_readme_has_a_line_for_every_file_and_no_other():
    """Read as a tree: two spaces deeper is one folder deeper."""
    block = (ROOT / "README.md").read_text().split("## The files")[1].split("```")[1]
    trail: list[str] = []
    found = set()
    for line in filter(str.strip, block.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        trail = [*trail[:depth], line.split()[0]]
        found.add("".join(trail))
    listed = {path for path in found if path.endswith(".py")}
    assert listed == {name(path) for path in modules() if path.name != "__init__.py"}


def test_there_is_no_drawer_for_odds_and_ends():
    assert not [name(path) for path in modules() if path.stem in ("utils", "helpers", "misc", "common")]


def raises_exit(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node) for node in ast.walk(tree))


@pytest.mark.parametrize("path", modules(), ids=name)
def test_only_a_main_ends_the_process(path):
    """Libraries raise errors of the tree in pipeline/files.py; `command` turns them into an end."""
    bodies = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") != "main"]
    assert name(path) == "pipeline/command.py" or not any(map(raises_exit, bodies))


def parts(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


def entries(stage: str) -> list[Path]:
    """The files of a stage's commands."""
    found = [file_of(name) for name in re.findall(r"python -m ([\w.]+)", str(parts(stage)["cmd"]))]
    return [path.with_name("__main__.py") if path.name == "__init__.py" else path for path in found]


def closure(start: Path) -> set[str]:
    """Project files that a stage runs: its own imports, lazy ones too, and what those import when they are imported."""
    found, waiting = {name(start)}, [(start, True)]
    while waiting:
        path, lazy = waiting.pop()
        for other in project_imports(path, lazy) - found:
            found.add(other)
            waiting.append((ROOT / other, False))
    return {path for path in found if not path.endswith("__init__.py")}


def runs(stage: str) -> set[str]:
    """Project files that a stage runs, those of its method (any of them may be loaded by name) with their imports."""
    methods = [ROOT / "train" / "methods" / "unitrim.py"] if "item.method" in str(parts(stage)["cmd"]) else []
    return set().union(*map(closure, [*entries(stage), *methods]))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "manifest"])  # which runs every time
def test_a_stage_declares_the_code_it_runs(stage):
    code = [dep.replace("${item.method}", "unitrim") for dep in parts(stage)["deps"] if not dep.startswith("cache/")]
    folders = tuple(f"{dep}/" for dep in code if (ROOT / dep).is_dir()) or ("\0",)
    declared = {dep for dep in code if dep.endswith(".py")}
    assert {path for path in runs(stage) if not path.startswith(folders)} == declared


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "foreach" in STAGES[stage] and stage != "manifest"])
def test_a_stage_declares_the_parameters_it_reads(stage):
    """`config["key"]` in a stage's own file is a dependency on datasets.<name>.<key>."""
    tree = ast.parse(entries(stage)[0].read_text())
    used = set()
    for node in ast.walk(tree):
        subscript = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "config"
        if subscript and isinstance(node.slice, ast.Constant):
            used.add(node.slice.value)
    declared = {param.split(".")[0] for param in watched(stage)}
    usual = keys.usual()
    declared |= {key for section in declared if isinstance(usual.get(section), dict) for key in usual[section]}
    assert used - {"name"} - HOW <= declared, f"{stage} reads parameters that dvc.yaml does not name"


@pytest.mark.parametrize("stage", STAGES)
def test_how_a_stage_is_run_makes_no_stage_run_again(stage):
    assert set(keys.KEYS) >= HOW
    assert not {param.split(".")[0] for param in watched(stage)} & HOW


def watched(stage: str) -> list[str]:
    """The keys of cache/<dataset>/params.json that DVC compares for a stage."""
    files = [file for file in parts(stage).get("params", []) if "params.yaml" not in file]
    return [param for file in files for names in file.values() for param in names]


def test_the_report_is_made_again_when_any_of_its_facts_change():
    """The scores say of which runs and shards they are; what it reads beside them is digested in inputs/report.json."""
    report, inputs = parts("report"), parts("inputs")
    assert "cache/${item}/inputs/report.json" in report["deps"] and {"params.yaml": ["methods"]} in report["params"]
    assert set(SHOWN) == {"clip/clip.json", "manifest/rejects.parquet", "visual/rejects.parquet"}
    assert {"cache/${item}/manifest", "cache/${item}/visual"} <= set(inputs["deps"])
    assert {"root", "clip", "clip_revision", "tail"} <= set(watched("inputs")), "the weights are in what visual writes"


def test_a_run_is_told_by_the_files_that_dvc_trains_it_again_for():
    """Seeds of one table are of one code: what DVC does not count must not set them apart, nor the other way round."""
    named = [
        ROOT / dep.replace("${item.method}", "unitrim") for dep in parts("train")["deps"] if dep.startswith("train/")
    ]
    named = {file for path in named for file in ([path] if path.suffix else path.rglob("*.py"))}
    counted = {path for path in code_files("unitrim") if path.name != "__init__.py"}
    assert {path for path in named if path.name != "__init__.py"} == counted


def test_every_parameter_that_dvc_watches_is_written(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    whole = read_params()
    for dataset in whole["datasets"]:
        written = json.loads(write_dataset(dataset).read_text())
        for param in (param for stage in STAGES for param in watched(stage)):
            for method in whole["methods"]:
                value = written
                for key in param.replace("${item.method}", method).split("."):
                    assert key in value, f"params.json of {dataset} has no {param}"
                    value = value[key]


def test_the_methods_are_listed_in_one_place():
    methods = read_params(ROOT / "params.yaml")["methods"]
    assert set(methods) <= {path.stem for path in (ROOT / "train" / "methods").glob("[!_]*.py")}
    assert not re.search(r"zero_shot|clip4clip", (ROOT / "Makefile").read_text() + (ROOT / "dvc.yaml").read_text())


def test_nothing_of_the_research_data_is_in_the_project():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    media = (".mp4", ".avi", ".webm", ".pkl", ".h5", ".pt", ".safetensors", ".jar")
    ours = "pipeline/datasets/demo/clip/model.safetensors"  # made by pipeline/scratch/release.py from the rendered world alone
    assert [path for path in listed if path.endswith(media)] == [ours]
