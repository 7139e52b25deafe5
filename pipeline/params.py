"""params.yaml: a dataset's section laid over the defaults."""

import os
from pathlib import Path
from typing import Any

CACHE = Path("cache")
PARAMS = Path("params.yaml")


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml."""
    import yaml

    if not path.exists():
        raise SystemExit(f"no {path} in {Path.cwd()}; run from the project's root")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SystemExit(f"{path} is not valid YAML: {error}") from None


def read_dataset(name: str) -> dict[str, Any]:
    """Parameters of one dataset: section `datasets.<name>` over `defaults`, nested sections merged, `root` expanded."""
    whole = read_params()
    known = whole.get("datasets") or {}
    if name not in known:
        raise SystemExit(f"{PARAMS} has no dataset {name!r}; it has: {', '.join(sorted(known))}")
    section = merge(whole.get("defaults") or {}, known[name] or {})
    root = os.path.expandvars(os.path.expanduser(str(section.get("root", ""))))
    if "$" in root:
        variable = root[root.index("$") + 1 :].split("/")[0].strip("{}")
        raise SystemExit(
            f"datasets.{name}.root in {PARAMS} is {section['root']}, and the environment variable {variable} is not set; "
            f"type: export {variable}=/path/to/{name}"
        )
    return section | {"name": name, "root": root}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def cache_folder(name: str, *parts: str) -> Path:
    """`cache/<dataset>/<parts>`."""
    return CACHE.joinpath(name, *parts)
