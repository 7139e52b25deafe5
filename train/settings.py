"""A method's settings: the dataset's section, then the command line's, each cast to the type of its field."""

import argparse
import ast
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from train import methods
from train.method import Config, check_settings
from train.tuned import tuned_towers


def parse_setting(word: str) -> tuple[str, str]:
    """`key=value` in two."""
    key, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not key=value")
    return key, value


def read_sections(shards: Path, path: Path) -> list[dict[str, Any]]:
    """What params.yaml says of a dataset, the later over the earlier."""
    if path.exists():
        import yaml

        whole = yaml.safe_load(path.read_text()) or {}
        return [whole.get("defaults") or {}, (whole.get("datasets") or {}).get(shards.name) or {}]
    if (shards / "params.json").exists():
        return [json.loads((shards / "params.json").read_text())]
    return []


def read_stored_settings(
    shards: Path,
    method: str,
    needs: Iterable[str] = ("word", "triplet"),
    path: Path = Path("params.yaml"),
    said: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Settings in params.yaml: datasets.<dataset>.train.<method> over defaults.train.<method>, and over both the preset that one
    of them names: it stands for settings as somebody published them, whatever recipe lies beside it.

    Where there is no such file, as on a machine that has nothing but the shards, they are those in the shards' params.json.
    How many words and triplets a caption may have counts for methods that need them only, and words for all that run the text
    tower; `said` beside the stored settings may ask for that.
    """
    settings: dict[str, Any] = {}
    sections = read_sections(shards, path)
    own = [(section.get("train") or {}).get(method) or {} for section in sections]
    preset = next((part["preset"] for part in reversed(own) if part.get("preset")), None)
    own.append(apply_preset(methods.load(method).Config, {"preset": preset}))
    tune = tune_word(dict(pair for part in [*own, said or {}] for pair in part.items()))
    needs = {*needs, "word"} if "text" in tuned_towers(tune) else set(needs)
    for section in sections:
        shared = {"words": section.get("words"), "triplets": (section.get("triplets") or {}).get("cap")}
        feature = {"words": {"word", "piece"}, "triplets": {"triplet"}}
        settings |= {key: value for key, value in shared.items() if value is not None and feature[key] & set(needs)}
        settings |= (section.get("train") or {}).get(method) or {}
    settings.pop("preset", None)
    return settings | own[-1]


def count_processes(shards: Path, gpus: int, path: Path = Path("params.yaml")) -> int:
    """How many processes train at once on this machine: `train.processes` in params.yaml; `auto` is one a GPU, more never are."""
    said: Any = 1
    for section in read_sections(shards, path):
        said = (section.get("train") or {}).get("processes", said)
    wanted = max(gpus, 1) if said == "auto" else int(said)
    return min(wanted, gpus) if gpus else wanted


def tune_word(settings: dict[str, Any]) -> str:
    """The setting `tune`, which YAML may have read as true or false."""
    return cast("tune", settings.get("tune", ""), "")


def apply_preset(kind: type[Config], settings: dict[str, Any]) -> dict[str, Any]:
    """`preset: <name>` replaced by the settings that it stands for; those beside it win."""
    name, settings = settings.get("preset"), {key: value for key, value in settings.items() if key != "preset"}
    if name is None:
        return settings
    if name not in kind.presets():
        raise ValueError(f"no preset {name!r}; there are: {', '.join(kind.presets()) or 'none'}")
    return kind.presets()[name] | settings


def configure(kind: type[Config], settings: dict[str, Any]) -> Config:
    """A Config with these settings; text from the command line becomes the type that the field has."""
    default = kind()
    check_settings(kind, settings)
    return kind(**{key: cast(key, value, getattr(default, key)) for key, value in settings.items()})


def cast(key: str, value: Any, like: Any) -> Any:
    """`value` as the type of `like`; a list may be written a,b,c."""
    try:
        if isinstance(like, list):
            return value.split(",") if isinstance(value, str) else list(value)
        if isinstance(value, bool) and isinstance(like, str):
            return str(value).lower()
        if isinstance(value, str) and not isinstance(like, str):
            value = ast.literal_eval(value)
        if isinstance(like, bool) != isinstance(value, bool) or (isinstance(like, int) and value != int(value)):
            raise ValueError
        return type(like)(value)
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"{key} is a {type(like).__name__}, like {like!r}; not {value!r}") from None
