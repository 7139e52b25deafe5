"""Every key of params.yaml: what it may be, what it is where nobody says, and the nearest name to a wrong one.

A new key is one more row here. What `train` holds is read from the methods' own source: nothing of the trainer is imported.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.datasets import READERS, SPLITS

TRAINER = Path(__file__).parents[1] / "train"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Key:
    """What a key may hold: `says` ends the sentence "it must be ..."; a section has keys of its own."""

    says: str
    fits: Callable[[Any], bool]
    usual: Any = None


def whole(least: int, most: int | None = None, usual: int | None = None) -> Key:
    """A whole number."""
    says = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Key(says, lambda value: type(value) is int and least <= value and (most is None or value <= most), usual)


def number(least: float, most: float, usual: float) -> Key:
    """A number, perhaps written as YAML takes for text (1e-3)."""
    return Key(f"a number from {least:g} to {most:g}", lambda value: least <= as_number(value) <= most, usual)


def one_of(*allowed: Any, usual: Any = None) -> Key:
    """One of some words."""
    words = ["null" if value is None else str(value) for value in allowed]
    fits = {str: str, type(None): type(None), bool: bool}
    return Key(
        f"{', '.join(words[:-1])} or {words[-1]}",
        lambda value: type(value) in fits and value in allowed,
        usual if usual is not None else allowed[0],
    )


def text(says: str = "text", usual: str | None = "", empty: bool = False) -> Key:
    """Any text; with `empty` also null."""
    said = f"{says} or null" if empty else says
    return Key(said, lambda value: (isinstance(value, str) and bool(value)) or (empty and value is None), usual)


def names(what: str, allowed: Callable[[str], bool], usual: list[str] | None = None) -> Key:
    """A list of names, each once."""
    return Key(
        f"a list of {what}, each once",
        lambda value: (
            isinstance(value, list)
            and all(isinstance(one, str) and allowed(one) for one in value)
            and len(set(value)) == len(value)
        ),
        usual,
    )


KEYS: dict[str, Any] = {
    "reader": one_of(*READERS),
    "root": text("a path"),
    "split": one_of(None, "9k", "7k", "1k-B", "full", "mini"),
    "splits": Key(
        f"null or a list of some of {', '.join(SPLITS)}",
        lambda value: value is None or (isinstance(value, list) and value and all(one in SPLITS for one in value)),
    ),
    "val": whole(0, usual=0),
    "captions": text("the name of a CSV, JSONL or Parquet file", None, empty=True),
    "world": {
        "seed": whole(0, usual=0),
        "groups": {split: whole(0, usual=count) for split, count in zip(SPLITS, (700, 100, 334))},
    },
    "clip": text("a hub name, a folder or `scratch`", "openai/clip-vit-base-patch32"),
    "clip_revision": text("a commit of the hub's", None, empty=True),
    "lexicon": text("a hub name, a folder or `scratch`", "bert-base-uncased"),
    "lexicon_revision": text("a commit of the hub's", None, empty=True),
    "scratch": {},  # filled by `scratch_keys`
    "tail": dict.fromkeys(
        ("image", "text"),
        Key(
            "a whole number of at least 0, or all",
            lambda value: value == "all" or (type(value) is int and value >= 0),
            0,
        ),
    ),
    "precision": one_of("auto", "fp32", "bf16", "fp16"),
    "frames": whole(1, usual=12),
    "sampling": one_of("uniform", "clip4clip"),
    "segments": Key(
        "0, or a number of seconds from 4 to 86400", lambda value: value == 0 or 4 <= as_number(value) <= 86400, 0
    ),
    "decoder": one_of("pyav", "decord", "ffmpeg"),
    "thumbnail": whole(1, 4096, usual=224),
    "shards": whole(1, 100_000, usual=64),
    "max_rejects": number(0, 1, usual=0.02),
    "words": whole(3, 1024, usual=32),
    "engine": one_of("local", "ray"),
    "ray": {"address": text("local, auto or host:port", "local"), "gpu": number(0.01, 1, 1)},
    "triplets": {
        "parser": one_of("auto", "corenlp", "shallow"),
        "rules": one_of("extended", "stanford"),
        "conventions": one_of("video", "factual"),
        "style": one_of("paper", "reverse", "is"),
        "form": one_of("surface", "lemma"),
        "cap": whole(1, usual=8),
    },
    "train": {  # further keys, a method each, come from `method_keys`
        "processes": Key(
            "a whole number of at least 1, or auto",
            lambda value: value == "auto" or (type(value) is int and value >= 1),
            1,
        )
    },
}
TOP = ("enabled", "methods", "rivals", "seeds", "indexes", "defaults", "datasets")


def faults(whole: dict[str, Any], name: str) -> list[str]:
    """What is wrong with params.yaml as far as one dataset reads it, a line each; other datasets' sections stop nobody."""
    known = whole.get("datasets") or {}
    if not isinstance(known, dict):
        return ["datasets must be sections, a name each"]
    of_methods = {method: method_keys(method) for method in methods()}
    rows = KEYS | {"scratch": scratch_keys(), "train": KEYS["train"] | of_methods}
    top = {
        "enabled": names("datasets that params.yaml has", lambda one: one in known),
        "methods": names(f"methods ({', '.join(methods())})", lambda one: one in of_methods),
        "rivals": names(f"methods ({', '.join(methods())})", lambda one: one in of_methods),
        "seeds": Key(
            "a list as [{dataset: demo, seed: 1}], of enabled datasets and whole numbers above 0, each pair once",
            lambda value: are_seeds(value, whole.get("enabled") or []),
        ),
        "indexes": Key(
            "sections as {demo: {method: max_sim, recall: 0.99}}, of enabled datasets, listed methods and shares above 0",
            lambda value: are_indexes(value, whole.get("enabled") or [], whole.get("methods") or []),
        ),
    }
    found = [unknown(key, "", TOP) for key in whole if key not in TOP]
    found += [misfit(key, whole[key], top[key]) for key in top if key in whole and not top[key].fits(whole[key])]
    if not NAME.fullmatch(name):
        found.append(f"datasets.{name} is a folder's name in cache/: letters, digits, _, - and . only")
    found += check("defaults", whole.get("defaults"), rows)
    found += check(f"datasets.{name}", known.get(name), rows)
    return found


def check(where: str, section: Any, rows: dict[str, Any]) -> Iterator[str]:
    """Each unknown key and wrong value of a section and the sections in it; an empty section is none."""
    if section is None:
        return
    if not isinstance(section, dict):
        yield f"{where} is {section!r}; it must be a section with some of: {', '.join(rows)}"
        return
    for key, value in section.items():
        if key not in rows:
            yield unknown(key, f"{where}.", rows)
        elif isinstance(rows[key], dict):
            yield from check(f"{where}.{key}", value, rows[key])
        elif not rows[key].fits(value):
            yield misfit(f"{where}.{key}", value, rows[key])


def unknown(key: Any, where: str, known: Any) -> str:
    """An unknown key, and its new name or the nearest real one."""
    if (new := renamed_settings().get(key)) in known:
        return f"there is no {where}{key}; it is called {new} now"
    near = get_close_matches(str(key), known, 1)
    return f"there is no {where}{key}; " + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}")


def misfit(key: str, value: Any, row: Key) -> str:
    """A wrong value, and what is allowed."""
    return f"{key} is {'null' if value is None else repr(value)}; it must be {row.says}"


def usual(rows: dict[str, Any] = KEYS) -> dict[str, Any]:
    """The value of each key where params.yaml says nothing."""
    return {key: usual(row) if isinstance(row, dict) else row.usual for key, row in rows.items()}


def tidy(config: dict[str, Any]) -> dict[str, Any]:
    """Numbers that YAML took for text as numbers."""
    return config | {"max_rejects": as_number(config["max_rejects"])}


def as_number(value: Any) -> float:
    """A number, also where YAML 1.1 reads `1e-3` as text; not a number otherwise."""
    if isinstance(value, bool):
        return float("nan")
    try:
        return value if isinstance(value, int | float) else float(value)
    except (TypeError, ValueError):
        return float("nan")


def are_seeds(value: Any, enabled: list[str]) -> bool:
    """Whether a list of further seeds, each of one of the enabled datasets; perhaps empty."""
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and set(one) == {"dataset", "seed"} for one in value
    ):
        return False
    pairs = [(one["dataset"], one["seed"]) for one in value]
    fit = all(dataset in enabled and type(seed) is int and seed > 0 for dataset, seed in pairs)
    return fit and len(set(pairs)) == len(pairs)


def are_indexes(value: Any, enabled: list[str], listed: list[str]) -> bool:
    """Whether enabled datasets, each with a listed method and the share of the exact top ten that is wanted; perhaps none."""
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        return False
    return all(
        dataset in enabled
        and set(one) == {"method", "recall"}
        and one["method"] in listed
        and 0 < as_number(one["recall"]) <= 1
        for dataset, one in value.items()
    )


def are_some(value: Any, known: tuple[str, ...]) -> bool:
    """Whether a list of some of the words that are known."""
    return isinstance(value, list) and bool(value) and all(word in known for word in value)


def scratch_keys() -> dict[str, Key]:
    """The settings of a CLIP trained here."""
    from pipeline.scratch.recipe import Recipe

    return {one.name: of_type(one.type.__name__, None) for one in fields(Recipe)}


def methods() -> list[str]:
    """The methods there are, by their files."""
    return sorted(path.stem for path in (TRAINER / "methods").glob("[!_]*.py"))


def needed(method: str, feature: str) -> bool:
    """Whether a method may read a feature of the shards: the `needs` of the class in its file, which is a literal."""
    for node in ast.walk(ast.parse((TRAINER / "methods" / f"{method}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "needs":
            return feature in {part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)}
    return False


def method_keys(method: str) -> dict[str, Key]:
    """The settings of a method: the fields of `Config` in its file, over those that all methods have."""
    rows: dict[str, Key] = {}
    for path in (TRAINER / "method.py", TRAINER / "methods" / f"{method}.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {  # a Literal that the file gives a name to
            ast.unparse(node.targets[0]): ast.unparse(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
        }
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Config":
                given = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                if named_presets := presets(node):
                    rows["preset"] = one_of(None, *named_presets)
                for line in given:
                    kind = ast.unparse(line.annotation)
                    for name, meaning in named.items():
                        kind = re.sub(rf"\b{name}\b", lambda _, meaning=meaning: meaning, kind)
                    rows[ast.unparse(line.target)] = of_type(kind, None)
    return rows


def presets(config: ast.ClassDef) -> list[str]:
    """Names of the settings that a method's `Config` has under one name each: the keys of what its `presets` returns."""
    for node in config.body:
        if isinstance(node, ast.FunctionDef) and node.name == "presets":
            made = [
                line.value for line in node.body if isinstance(line, ast.Return) and isinstance(line.value, ast.Dict)
            ]
            return [key.value for one in made for key in one.keys if isinstance(key, ast.Constant)]
    return []


def renamed_settings() -> dict[str, str]:
    """Old name -> new name of methods' settings: the RENAMED of each `Config`."""
    renamed: dict[str, str] = {}
    for path in (TRAINER / "method.py", *(TRAINER / "methods").glob("[!_]*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RENAMED":
                renamed |= ast.literal_eval(node.value)
    return renamed


def of_type(kind: str, usual: Any) -> Key:
    """A key that holds a value of a type, as a dataclass annotates it."""
    if kind.startswith("Literal["):
        words = ast.literal_eval(f"({kind[len('Literal[') : -1]},)")
        # of a word like `true` YAML makes a truth value, which the trainer reads as the word again
        said = one_of(*words, usual=usual)
        return Key(said.says, lambda value: said.fits(str(value).lower() if isinstance(value, bool) else value), usual)
    if kind.startswith("list[Literal["):
        known = ast.literal_eval(f"({kind[len('list[Literal[') : -2]},)")
        return Key(f"a list of some of {', '.join(known)}", lambda value: are_some(value, known), usual)
    if kind == "int":
        return Key("a whole number", lambda value: type(value) is int, usual)
    if kind == "float":
        return Key("a number", lambda value: as_number(value) == as_number(value), usual)
    if kind == "bool":
        return Key("true or false", lambda value: isinstance(value, bool), usual)
    if kind == "str":
        return Key("a word", lambda value: isinstance(value, str), usual)
    return Key("a list of words", lambda value: isinstance(value, list | tuple), usual)
