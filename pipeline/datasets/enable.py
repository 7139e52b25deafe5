"""Add a dataset to `enabled` in params.yaml, and say where its videos are; comments and order stay as they are.

python -m pipeline.datasets.enable msrvtt --root /data/MSRVTT
"""

import argparse
import io
from pathlib import Path

from pipeline import files
from pipeline.params import PARAMS


def enable_dataset(path: Path, name: str, root: str | None) -> None:
    """Rewrite the params file at `path` with `name` enabled and, where given, `root` as its folder (made absolute)."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    params = yaml.load(path.read_text(encoding="utf-8"))
    if name not in params["datasets"]:
        raise ValueError(f"{path} has no dataset {name!r}; it has: {', '.join(params['datasets'])}")
    if root is not None:
        folder = Path(root).expanduser().resolve()
        if not folder.is_dir():
            raise ValueError(f"--root {root} is not a folder")
        params["datasets"][name]["root"] = str(folder)
    if name not in params["enabled"]:
        params["enabled"].append(name)
    text = io.StringIO()
    yaml.dump(params, text)
    files.write(path, text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a name under `datasets` in params.yaml")
    parser.add_argument("--root", help="the folder with its annotations and videos")
    arguments = parser.parse_args()
    try:
        enable_dataset(PARAMS, arguments.name, arguments.root)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{arguments.name} is enabled; run: dvc repro report@{arguments.name}")


if __name__ == "__main__":
    main()
