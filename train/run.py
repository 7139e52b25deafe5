"""Train one method on one dataset's shards: `python -m train.run --shards cache/demo --method unitrim`.

Writes `cache/<dataset>/runs/<method>[-seed<k>]/`: checkpoint.pt after every epoch, history.jsonl, run.json. A run that was
stopped goes on with --resume and ends, on a CPU, with the very bits of a run that was not; --resume try starts again where
settings, shards or code have changed. On a GPU the steps run under bf16 autocast.
"""

import argparse
import ast
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from train import checkpoint, methods
from train.data import Cache, Loader
from train.method import Config, Method
from train.trainer import History, Trainer


def main() -> None:
    """Read the command line, train, and turn what a person can mend into one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    parser.add_argument("--method", default="unitrim", help=", ".join(methods.names()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="only",
        choices=("only", "try"),
        help="go on with a stopped run; `try`: if it is of these settings, shards and code, else start again",
    )
    parser.add_argument("--out", type=Path, help="the run's folder, if not cache/<dataset>/runs/<method>[-seed<k>]")
    parser.add_argument(
        "--set", nargs="*", type=pair, default=[], metavar="key=value", help="settings for this run alone"
    )
    args = parser.parse_args()
    suffix = f"-seed{args.seed}" if args.seed else ""
    folder = args.out or args.shards / "runs" / f"{args.method}{suffix}"
    try:
        settings = stored(args.shards.name, args.method) | dict(args.set)
        with lock(folder):
            print(run(args.shards, folder, args.method, args.seed, settings, resume=args.resume))
    except (ValueError, BlockingIOError) as error:
        raise SystemExit(f"train: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("train: stopped; the same command with --resume goes on from the last epoch") from None


def pair(word: str) -> tuple[str, str]:
    """`key=value` in two."""
    key, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not key=value")
    return key, value


def run(
    shards: Path, folder: Path, name: str, seed: int, settings: dict[str, Any], *, resume: str | None = None
) -> str:
    """Train and write a run; the answer says in one line what was done. `resume`: `only`, `try` or None, as above."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)  # sharp softmaxes leave weights near 1e-40, on which a CPU is 30 times slower
    method = methods.load(name)
    config = configure(method.Config, settings)
    cache = open_cache(shards, method.needed(config), config)
    config = replace(config, dimension=cache.dimension, frames=cache.frames, patches=cache.patches)
    torch.manual_seed(seed)
    model = method(config).to(device)
    facts = describe(shards, name, seed, model, cache)
    before = checkpoint.facts(folder)
    same = all(before.get(key) == facts[key] for key in ("config", "seed", "shards", "code"))
    if same and before.get("complete") and (folder / "checkpoint.pt").exists():
        return f"{folder} is complete with these settings; remove it to train it again"
    history = History(folder / "history.jsonl")
    training = resumed(folder, model, same) if resume == "only" or (resume == "try" and same) else None
    checkpoint.describe(folder, facts | {"complete": False})
    history.cut(training["history"] if training else 0)
    trainer = Trainer(folder, name, seed, model, device, history)
    trainer.train(Loader(cache, "train", config.batch, seed, device) if model.phases() else None, training)
    checkpoint.save(folder, name, model)
    checkpoint.describe(folder, facts | {"complete": True, "seconds": round(trainer.seconds, 1)})
    return f"{folder}: {facts['parameters']:,} parameters trained in {trainer.seconds:.0f} s"


def stored(dataset: str, method: str, path: Path = Path("params.yaml")) -> dict[str, Any]:
    """Settings in params.yaml: datasets.<dataset>.train.<method> over defaults.train.<method>; none without the file."""
    if not path.exists():
        return {}
    import yaml

    whole = yaml.safe_load(path.read_text()) or {}
    sections = [whole.get("defaults") or {}, (whole.get("datasets") or {}).get(dataset) or {}]
    settings: dict[str, Any] = {}
    for section in sections:
        shared = {"words": section.get("words"), "triplets": (section.get("triplets") or {}).get("cap")}
        settings |= {key: value for key, value in shared.items() if value is not None}
        settings |= (section.get("train") or {}).get(method) or {}
    return settings


def configure(kind: type[Config], settings: dict[str, Any]) -> Config:
    """A Config with these settings; text from the command line becomes the type that the field has."""
    default = kind()
    if unknown := set(settings) - {field.name for field in fields(kind)}:
        raise ValueError(f"no setting {', '.join(sorted(unknown))}; there are: {', '.join(asdict(default))}")
    return kind(**{key: cast(key, value, getattr(default, key)) for key, value in settings.items()})


def cast(key: str, value: Any, like: Any) -> Any:
    """`value` as the type of `like`; a list may be written a,b,c."""
    try:
        if isinstance(like, list):
            return value.split(",") if isinstance(value, str) else list(value)
        if isinstance(value, str) and not isinstance(like, str):
            value = ast.literal_eval(value)
        if isinstance(like, bool) != isinstance(value, bool) or (isinstance(like, int) and value != int(value)):
            raise ValueError
        return type(like)(value)
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"{key} is a {type(like).__name__}, like {like!r}; not {value!r}") from None


def open_cache(shards: Path, needs: frozenset[str], config: Config) -> Cache:
    """The dataset's shards, checked to be there."""
    for part, stage in (
        ("manifest", "manifest"),
        ("visual", "visual"),
        ("keyframes.parquet", "keyframes"),
        ("text", "text"),
    ):
        if not (shards / part).exists():
            raise ValueError(f"{shards / part} is missing; run: dvc repro {stage}@{shards.name}")
    return Cache(shards, needs, words=config.words, triplets=config.triplets)


def describe(shards: Path, name: str, seed: int, model: Method, cache: Cache) -> dict[str, Any]:
    """What run.json holds: enough to say whether another run would be the same."""
    return {
        "method": name,
        "dataset": shards.name,
        "seed": seed,
        "config": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "clip_sha256": cache.clip_sha256,
        "shards": identity(shards),
        "code": digest(sorted(Path(__file__).parent.glob("*.py")) + [Path(methods.__path__[0]) / f"{name}.py"]),
        "torch": torch.__version__,
    }


def identity(shards: Path) -> str:
    """A digest of which rows the shards hold: their fingerprints say content, sampling, CLIP and stage version; which phrases
    belong to a caption stands beside.
    """
    from pipeline.shards import Shard, files

    digest = hashlib.blake2b(digest_size=16)
    for kind in ("visual", "text"):
        for path in files(shards / kind):
            shard = Shard(path, kind)
            digest.update("\n".join(map(str, shard["fingerprint"])).encode())
            if kind == "text":
                digest.update(str(shard.attributes.get("phrases")).encode())
                digest.update(shard["triplet_offset"].tobytes() + shard["triplet"].tobytes())
    digest.update((shards / "keyframes.parquet").read_bytes())
    return digest.hexdigest()


def digest(paths: list[Path]) -> str:
    """One hash of some files."""
    return hashlib.blake2b(b"\0".join(path.read_bytes() for path in paths), digest_size=16).hexdigest()


def resumed(folder: Path, model: Method, same: bool) -> dict[str, Any] | None:
    """The place of a stopped run, its weights loaded; None where it never reached its first checkpoint."""
    if not (folder / "checkpoint.pt").exists():
        return None
    if not same:
        raise ValueError(f"{folder} was run with other settings, shards or code; leave out --resume to start again")
    content = checkpoint.read(folder)
    model.load_state_dict(content["model"])
    return content["training"]


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run's lock, beside its folder; the kernel drops it with the process. A second holder gets BlockingIOError."""
    path = folder.parent / ".locks" / folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise BlockingIOError(f"{folder} is being trained by process {holder}; wait for it to end") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


if __name__ == "__main__":
    main()
