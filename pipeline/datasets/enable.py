"""Add a dataset to `enabled` in params.yaml, and say where its videos are; comments and order stay as they are.

python -m pipeline.datasets.enable msrvtt --root /data/MSRVTT
python -m pipeline.datasets.enable msrvtt --off       # its cache stays until it is deleted
python -m pipeline.datasets.enable msrvtt --rivals    # the methods under `rivals` are trained and scored too
python -m pipeline.datasets.enable msrvtt --seeds 1 2 # every method is also trained on it with these
"""

import argparse
import io
from pathlib import Path
from typing import Any

from pipeline import datasets, files, stage
from pipeline.files import ParamsError
from pipeline.params import PARAMS, expand

PROJECT = Path(__file__).resolve().parents[2]


def enable_dataset(path: Path, name: str, root: str | None = None) -> None:
    """Rewrite the params file at `path` with `name` enabled and, where given, `root` as its folder (made absolute).

    Without `root` the one that is written must work, and stays as it is written.
    """
    yaml, params = load(path, name)
    section = params["datasets"][name]
    renders = hasattr(datasets.load(section["reader"]), "prepare")
    if root:
        if renders:
            raise ParamsError(f"{name} renders its own clips in {section.get('root')}; leave out --root (ROOT=)")
        section["root"] = str(usable(root))
    elif not renders:
        require_root(name, section.get("root"))
    if name not in params.setdefault("enabled", []):
        params["enabled"].append(name)
    save(path, yaml, params)


def set_seeds(path: Path, name: str, seeds: list[int]) -> None:
    """Write a dataset's further seeds, sorted, in place of those it had; none of them is 0, which every method has."""
    yaml, params = load(path, name)
    replace_seeds(params, name, sorted(set(seeds) - {0}))
    save(path, yaml, params)


def replace_seeds(params: Any, name: str, seeds: list[int]) -> None:
    """The seeds of one dataset in `seeds`; those of others, and the comment, stay."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if params.get("seeds") is None:
        params["seeds"] = CommentedSeq()
    rows = [row for row in params["seeds"] if row["dataset"] != name]
    params["seeds"][:] = rows + [CommentedMap(dataset=name, seed=seed) for seed in seeds]
    params["seeds"].fa.set_flow_style()  # on one line, and [] where there is none


def add_rivals(path: Path, name: str) -> None:
    """Add `rivals` to `methods`, before the last, whose answers a report shows first."""
    yaml, params = load(path, name)
    for rival in params.get("rivals") or []:
        if rival not in params["methods"]:
            params["methods"].insert(max(0, len(params["methods"]) - 1), rival)
    save(path, yaml, params)


def disable_dataset(path: Path, name: str) -> None:
    """Take `name` out of `enabled`, its further seeds out of `seeds` and its index out of `indexes`."""
    yaml, params = load(path, name)
    if name in params.get("enabled", []):
        params["enabled"].remove(name)
        replace_seeds(params, name, [])
        (params.get("indexes") or {}).pop(name, None)
        save(path, yaml, params)


def usable(root: str) -> Path:
    """The folder, absolute; ParamsError where there is none, or where it and this project lie in one another."""
    folder = Path(root) if Path(root).is_dir() else Path(root).expanduser()
    if not folder.is_dir():
        raise ParamsError(f"--root {root} is not a folder")
    folder = folder.resolve()
    if folder == PROJECT or PROJECT in folder.parents or folder in PROJECT.parents:
        raise ParamsError(
            f"--root {root} and this project ({PROJECT}) lie in one another; videos belong in a folder of their own"
        )
    return folder


def require_root(name: str, written: str | None) -> None:
    """ParamsError unless the root that params.yaml has is a folder."""
    type_this = f"type: make dataset NAME={name} ROOT=/path/to/{name}   (or pipeline.datasets.enable {name} --root ...)"
    try:
        folder = expand(str(written or ""), name)
    except ParamsError:
        raise ParamsError(f"datasets.{name}.root is {written}, and there is no such variable; {type_this}") from None
    if not written or not Path(folder).is_dir():
        raise ParamsError(f"datasets.{name}.root is {written}, which is no folder; {type_this}")


def load(path: Path, name: str) -> tuple[Any, Any]:
    """The reader of YAML that keeps comments, and what it read; ParamsError for a dataset that params.yaml does not have."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 200
    params = yaml.load(path.read_text(encoding="utf-8"))
    if name not in params["datasets"]:
        raise ParamsError(f"{path} has no dataset {name!r}; it has: {', '.join(params['datasets'])}")
    return yaml, params


def save(path: Path, yaml: Any, params: Any) -> None:
    """Write it back."""
    text = io.StringIO()
    yaml.dump(params, text)
    files.write(path, text.getvalue())


@stage.command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a name under `datasets` in params.yaml")
    parser.add_argument("--root", help="the folder with its annotations and videos, if not the one in params.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, help="further seeds that every method is trained with on it")
    parser.add_argument("--rivals", action="store_true", help="add the methods under `rivals` to `methods`")
    parser.add_argument("--off", action="store_true", help="take it out of `enabled`")
    arguments = parser.parse_args()
    if arguments.off:
        disable_dataset(PARAMS, arguments.name)
        print(f"{arguments.name} is off; its cache stays until you type: rm -r cache/{arguments.name}")
        return
    if arguments.seeds:
        set_seeds(PARAMS, arguments.name, arguments.seeds)
    if arguments.rivals:
        add_rivals(PARAMS, arguments.name)
    enable_dataset(PARAMS, arguments.name, arguments.root)
    print(f"{arguments.name} is enabled; run: dvc repro report@{arguments.name}")


if __name__ == "__main__":
    main()
