"""Train one method on one dataset's shards: `python -m train.run --shards cache/demo --method unitrim`.

Writes `cache/<dataset>/runs/<method>[-seed<k>]/`: checkpoint.pt after every epoch, history.jsonl, run.json. A run that was
stopped goes on with --resume and ends, on a CPU, with the very bits of a run that was not; --resume try starts again where
settings, shards or code have changed. On a GPU the steps run under bf16 autocast. `torchrun --nproc-per-node N -m train.run ...`
trains on N processes, each with its own GPU: the same batches and the same loss, to rounding.
"""

import argparse
import contextlib
import hashlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pipeline import files
from pipeline.command import command
from pipeline.shards import TAUGHT, identity
from train import checkpoint, distributed, fusion, methods
from train.data import Cache, Loader, told_captions
from train.data.cache import require_parts
from train.history import History
from train.layers import TemporalEncoder
from train.layers.clip_blocks import read_header
from train.method import Config, Method
from train.settings import apply_preset, configure, count_processes, parse_setting, read_stored_settings
from train.trainer import Trainer
from train.tuned import Tuned, describe_tail, tuned_towers
from train.validation import Validation


@command
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
        "--set", nargs="*", type=parse_setting, default=[], metavar="key=value", help="settings for this run alone"
    )
    args = parser.parse_args()
    suffix = f"-seed{args.seed}" if args.seed else ""
    folder = args.out or args.shards / "runs" / f"{args.method}{suffix}"
    try:
        kind = methods.load(args.method)
        stored = read_stored_settings(args.shards, args.method, kind.needs, said=dict(args.set))
        settings = apply_preset(kind.Config, stored) | apply_preset(kind.Config, dict(args.set))
        if not distributed.launched() and (count := count_processes(args.shards, torch.cuda.device_count())) > 1:
            raise SystemExit(distributed.launch(count, "train.run", sys.argv[1:]))
        with distributed.group(), files.lock(folder) if distributed.is_first() else contextlib.nullcontext():
            said = run(args.shards, folder, args.method, args.seed, settings, resume=args.resume, said=dict(args.set))
            if distributed.is_first():
                print(said)
    except ValueError as error:
        raise SystemExit(f"train: {error}" if distributed.speaks() else 1) from None
    except KeyboardInterrupt:
        raise SystemExit("train: stopped; the same command with --resume goes on from the last epoch") from None


def run(
    shards: Path,
    folder: Path,
    name: str,
    seed: int,
    settings: dict[str, Any],
    *,
    resume: str | None = None,
    said: dict[str, str] | None = None,
) -> str:
    """Train and write a run; the answer says in one line what was done.

    resume: `only`, `try` or None, as above; said: settings that are this run's alone, for whoever makes it again.
    """
    device = distributed.device()
    torch.set_flush_denormal(True)  # sharp softmaxes leave weights near 1e-40, on which a CPU is 30 times slower
    model, cache = prepare(shards, name, seed, settings)
    model, config = model.to(device), model.config
    facts = describe(shards, name, seed, model, cache) | ({"set": said} if said else {})
    same, complete, sound = distributed.told(lambda: compare(folder, facts))
    if complete:
        return f"{folder} is complete with these settings; remove it to train it again"
    history = History(folder / "history.jsonl")
    if model.phases() and not len(cache.captions("train")):
        return skip(folder, facts, history)
    split = choosing_split(model, cache)  # before the batches are: what is held out does not train
    loader = load_batches(cache, config.batch, seed, device) if model.phases() else None
    wanted = resume == "only" or (resume == "try" and sound)
    with distributed.in_turn():
        training = load_resume(folder, model, same, history) if wanted else None
    distributed.wait()  # all have read what the first writes now
    if distributed.is_first():
        if not training:
            # were this run stopped before its first checkpoint, another's weights would be taken for its own
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        checkpoint.describe(folder, facts | {"complete": False})
        history.cut(training["history"] if training else 0)
    validate = Validation(model, cache, split, device) if split else None
    trainer = Trainer(folder, name, seed, model, device, history, validate)
    trainer.train(loader, training)
    chosen = fusion.settle(model, cache, split, device) if split else {}
    if kept := history.kept() if distributed.is_first() else {}:
        chosen["kept"] = {"by": config.select, "on": split, "phases": kept}
    said = f"{folder}: {facts['parameters']:,} parameters trained in {trainer.seconds:.0f} s"
    if not distributed.is_first():
        return said
    checkpoint.save(folder, name, model)
    written = chosen | {"checkpoint": checkpoint.digest(folder / "checkpoint.pt"), "seconds": round(trainer.seconds, 1)}
    checkpoint.describe(folder, facts | {"complete": True, "processes": distributed.world()} | written)
    return said


def prepare(shards: Path, name: str, seed: int, settings: dict[str, Any]) -> tuple[Method, Cache]:
    """A method at its start, on the CPU, and the shards that it reads. Errors: ValueError that says what to set or to run."""
    config = configure(methods.load(name).Config, settings)
    with distributed.in_turn():
        cache = open_cache(shards, methods.needed(name, config), config)
    config = replace(config, dimension=cache.dimension, frames=cache.frames, patches=cache.patches)
    if tuned_towers(config.tune):
        config = replace(config, tail=tail_facts(shards, cache, config.tune))
    config = methods.load(name).complete(config, shards)
    torch.manual_seed(seed)
    model = methods.build(name, vars(config))
    start_from_clip(model, shards, cache)
    model.begin(shards)
    if model.verbs():
        model.learn_verbs(told_captions(shards, config.words, config.triplets, model.verbs()))
    return model, cache


def choosing_split(model: Method, cache: Cache) -> str:
    """The split on which what is left is chosen after training; "" where all of train trains and there is no val.

    A method with weights or an epoch to choose holds out part of train where it must; one that learns nothing may choose on train
    itself.
    """
    chooses = model.config.select == "best" and model.phases()
    if chooses or any(model.fused(kind) for kind in fusion.KINDS):
        return fusion.hold_out(cache)
    return "val" if len(cache.captions("val")) else "" if model.phases() else "train"


def load_batches(cache: Cache, batch: int, seed: int, device: torch.device) -> Loader:
    """The train split's batches, this process's part of each."""
    return Loader(cache, "train", batch, seed, device, distributed.rank(), distributed.world())


def compare(folder: Path, facts: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Whether the run that stands is of these settings, shards and code; whether it is also complete; whether it can go on."""
    before = checkpoint.facts(folder)
    same = all(before.get(key) == facts[key] for key in ("config", "seed", "shards", "code"))
    sound = same and is_sound(folder)
    return same, bool(sound and before.get("complete")), sound


def skip(folder: Path, facts: dict[str, Any], history: History) -> str:
    """Write a run of a method that has nothing to learn from; what was not done."""
    why = "not trained: the train split has no captions; a method that learns nothing can search"
    if distributed.is_first():
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        checkpoint.describe(folder, facts | {"complete": True, "skipped": why})
        history.cut(0)
    return f"{folder}: {why}"


def open_cache(shards: Path, needs: frozenset[str], config: Config) -> Cache:
    """The dataset's shards, checked to be there."""
    require_parts(shards)
    return Cache(shards, needs, words=config.words, triplets=config.triplets)


def start_from_clip(model: Method, shards: Path, cache: Cache) -> None:
    """What starts from CLIP's own weights: blocks that the run owns, and with `temporal_init: clip` temporal encoders.

    Errors: ValueError where there is no temporal encoder, or CLIP's blocks do not fit it.
    """
    path = shards / "clip" / "tail.safetensors"
    if isinstance(model, Tuned):
        model.read(path)
    if model.config.temporal_init == "clip":
        tail_header(shards, cache)
        encoders = [module for module in model.modules() if isinstance(module, TemporalEncoder)]
        if not encoders:
            raise ValueError("temporal_init: clip, but this method has no temporal encoder; leave it out")
        for encoder in encoders:
            encoder.read(path)


def tail_header(shards: Path, cache: Cache) -> dict[str, Any]:
    """What tail.safetensors says of itself. ValueError where it is missing or of another CLIP than the shards."""
    header = read_header(shards / "clip" / "tail.safetensors")
    if header["clip_sha256"] != cache.clip_sha256:
        raise ValueError(
            f"{shards / 'clip'} is another CLIP than the shards'; run: {files.everything_command(shards.name)}"
        )
    return header


def tail_facts(shards: Path, cache: Cache, tune: str) -> dict[str, Any]:
    """The sizes of CLIP's towers that learn, and how many of their last blocks a run may own. ValueError as `tail_header`."""
    return describe_tail(tail_header(shards, cache), tune, cache.tail, shards.name)


def describe(shards: Path, name: str, seed: int, model: Method, cache: Cache) -> dict[str, Any]:
    """What run.json holds: enough to say whether another run would be the same."""
    return {
        "method": name,
        "dataset": shards.name,
        "seed": seed,
        "config": asdict(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "clip_sha256": cache.clip_sha256,
        "shards": identity(shards, cache.needs, TAUGHT),
        "code": code_digest(name),
        "torch": torch.__version__,
    } | ({"owned": model.owned()} if isinstance(model, Tuned) else {})


def code_files(name: str) -> list[Path]:
    """The files that training a method runs: the trainer's but the other methods and the `inputs` stage, as in dvc.yaml."""
    home, others = Path(__file__).parent, Path(methods.__path__[0])
    paths = [path for path in sorted(home.rglob("*.py")) if path != home / "inputs.py"]
    return [path for path in paths if path.parent != others or path.stem in ("__init__", name)]


def code_digest(name: str) -> str:
    """One hash of the code that trains a method."""
    paths = code_files(name)
    return hashlib.blake2b(b"\0".join(path.read_bytes() for path in paths), digest_size=16).hexdigest()


def is_sound(folder: Path) -> bool:
    """Whether there is a checkpoint, as it was written."""
    try:
        checkpoint.check_bytes(folder)
    except (ValueError, FileNotFoundError):
        return False
    return True


def load_resume(folder: Path, model: Method, same: bool, history: History) -> dict[str, Any] | None:
    """The place of a stopped run, its weights loaded; None where it never reached its first checkpoint."""
    if not (folder / "checkpoint.pt").exists():
        return None
    if not same:
        raise ValueError(f"{folder} was run with other settings, shards or code; leave out --resume to start again")
    content = checkpoint.read(folder)
    model.load_state_dict(content["model"])
    size = history.size() if history.path.exists() else 0
    ended = {"phase": len(model.phases()), "epoch": 0, "optimizer": None, "history": size, "seconds": 0.0}
    return content["training"] or ended  # the last checkpoint was written, and the run killed before it could say so


if __name__ == "__main__":
    main()
