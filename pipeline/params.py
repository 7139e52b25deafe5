"""params.yaml: a dataset's section laid over the defaults, every key and value of it checked."""

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import files

CACHE = Path("cache")
PARAMS = Path("params.yaml")
MOST = 100_000  # values; a page of aliases of aliases can stand for more than there is memory
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))(?=/|$)")


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole of params.yaml; its tags make nothing but plain values."""
    import yaml

    if not path.exists():
        raise files.ParamsError(f"no {path} in {Path.cwd()}; run from the project's root")
    try:
        text = path.read_text(encoding="utf-8")
        whole = yaml.safe_load(text)
        if count_values(whole, {}) > MOST:
            raise files.ParamsError(
                f"{path} unfolds to more than {MOST} values; write out what its aliases (*name) stand for"
            )
    except RecursionError:
        raise files.ParamsError(f"{path} is nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise files.ParamsError(f"{path} is not valid YAML: {error}") from None
    if twice := [f"{path}: {one}" for one in repeated(yaml.compose(text, yaml.SafeLoader))]:
        raise files.ParamsError("\n".join(twice))
    if not isinstance(whole, dict):
        raise files.ParamsError(f"{path} must be a list of `key: value`, with the sections defaults and datasets")
    return whole


def repeated(node: Any) -> Iterator[str]:
    """Each key that a section has twice: YAML would take the last in silence."""
    known: dict[str, int] = {}
    for key, value in node.value if node is not None and node.id == "mapping" else []:
        line = key.start_mark.line + 1
        if key.value in known:
            yield f"line {line}: {key.value} stands here again, after line {known[key.value]}; remove one of them"
        known[key.value] = line
        yield from repeated(value)


def count_values(value: Any, known: dict[int, float]) -> float:
    """How many values there are once every alias stands for itself; infinitely many in what holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(count_values(part, known) for part in parts)
    return known[id(value)]


def read_dataset(name: str) -> dict[str, Any]:
    """Parameters of one dataset: section `datasets.<name>` over `defaults`, nested sections merged, `root` expanded."""
    config = settings_of(name, read_params())
    return config | {"name": name, "root": expand(config["root"], name)}


def settings_of(name: str, whole: dict[str, Any]) -> dict[str, Any]:
    """What params.yaml says of a dataset, checked, its root as written."""
    from pipeline import keys  # here, so that a new key does not make every stage run again

    known = whole.get("datasets") or {}
    if name not in known:
        raise files.ParamsError(f"{PARAMS} has no dataset {name!r}; it has: {', '.join(sorted(known))}")
    if faults := keys.faults(whole, name):
        raise files.ParamsError("\n".join(f"{PARAMS}: {fault}" for fault in faults))
    said = merge(whole.get("defaults") or {}, known[name] or {})
    return keys.tidy(merge(keys.usual(), said))


def write_dataset(name: str) -> Path:
    """Write `cache/<dataset>/params.json`: the other stages depend on its keys, so that DVC sees what counts in the end."""
    whole = read_params()
    said = settings_of(name, whole)
    said["train"] = {method: {} for method in whole.get("methods") or []} | said["train"]
    path = cache_folder(name, "params.json")
    files.write(path, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    return path


def needed_by_methods(feature: str) -> list[str]:
    """The methods that params.yaml lists and that read a feature of the shards."""
    from pipeline import keys

    return [name for name in read_params().get("methods") or [] if keys.needed(name, feature)]


def expand(root: str, name: str) -> str:
    """A root as a path: `~` and a variable count at its beginning only, so that an absolute path is always literal."""
    if root.startswith("~"):
        return os.path.expanduser(root)
    found = VARIABLE.match(root)
    if not found:
        return root
    variable = found[1] or found[2]
    if variable not in os.environ:
        raise files.ParamsError(
            f"datasets.{name}.root in {PARAMS} is {root}, and the environment variable {variable} is not set; "
            f"type: export {variable}=/path/to/{name}"
        )
    return os.environ[variable] + root[found.end() :]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dictionaries merged key by key; an empty section changes nothing."""
    merged = dict(base)
    for key, value in over.items():
        section = isinstance(merged.get(key), dict)
        merged[key] = (
            merge(merged[key], value or {}) if section and (value is None or isinstance(value, dict)) else value
        )
    return merged


def cache_folder(name: str, *parts: str) -> Path:
    """`cache/<dataset>/<parts>`."""
    return CACHE.joinpath(name, *parts)
