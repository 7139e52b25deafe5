"""Train one method on one dataset's shards: `python -m train.run --shards cache/demo --method unitrim`.

Writes `cache/<dataset>/runs/<method>[-seed<k>]/`: checkpoint.pt after every epoch, history.jsonl, run.json. A run that was
stopped goes on with --resume and ends, on a CPU, with the very bits of a run that was not. On a GPU the steps run under
bf16 autocast.
"""

import argparse
import ast
import contextlib
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from train import checkpoint, methods
from train.data import Cache, Loader
from train.method import Config, Features, Method, Phase, groups

EVERY = 10  # steps between two lines of history


def main() -> None:
    """Read the command line, train, and turn what a person can mend into one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>")
    parser.add_argument("--method", default="unitrim", help=", ".join(methods.names()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with a stopped run")
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


def pair(word: str) -> tuple[str, str]:
    """`key=value` in two."""
    key, equals, value = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word!r} is not key=value")
    return key, value


def run(shards: Path, folder: Path, name: str, seed: int, settings: dict[str, Any], *, resume: bool = False) -> str:
    """Train and write a run; the answer says in one line what was done."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    training = resumed(folder, model, same) if resume else None
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
    """A digest of which rows the shards hold: their fingerprints say content, sampling, CLIP and stage version."""
    from pipeline.shards import Shard, files

    digest = hashlib.blake2b(digest_size=16)
    for kind in ("visual", "text"):
        for path in files(shards / kind):
            digest.update("\n".join(map(str, Shard(path, kind)["fingerprint"])).encode())
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


class History:
    """history.jsonl: a line a few steps. A resume cuts what was written after its checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.truncate(size)

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def size(self) -> int:
        """Bytes so far, on disk."""
        checkpoint.sync(self.path)
        return self.path.stat().st_size


class AdamW:
    """AdamW over groups of parameters; torch's own class takes seconds to import what it needs to be compiled."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-6):
        self.groups, self.betas, self.eps = groups, betas, eps
        for group in groups:
            group["mean"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["square"] = [torch.zeros_like(parameter) for parameter in group["params"]]
            group["steps"] = [torch.zeros((), device=parameter.device) for parameter in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient, in one pass over its memory."""
        for group in self.groups:
            rows = zip(group["params"], group["mean"], group["square"], group["steps"])
            found = [(row[0], row[0].grad, *row[1:]) for row in rows if row[0].grad is not None]
            if not found:
                continue
            parameter, grad, mean, square, steps = map(list, zip(*found))
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameter, grad, mean, square, [], steps, lr=group["lr"], beta1=self.betas[0], beta2=self.betas[1],
                weight_decay=group["weight_decay"], eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip

    def forget(self) -> None:
        """Drop all gradients."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state(self) -> list[dict[str, list[Tensor]]]:
        """What a resume needs; learning rates follow from the step."""
        return [{name: group[name] for name in ("mean", "square", "steps")} for group in self.groups]

    def load(self, state: list[dict[str, list[Tensor]]]) -> None:
        """Take up a state."""
        for group, saved in zip(self.groups, state, strict=True):
            for name, tensors in saved.items():
                torch._foreach_copy_(group[name], tensors)


@dataclass
class Trainer:
    """The loop over phases, epochs and steps."""

    folder: Path
    name: str
    seed: int
    model: Method
    device: torch.device
    history: History
    seconds: float = 0.0

    def train(self, loader: Loader | None, training: dict[str, Any] | None) -> None:
        """All phases, from where `training` says."""
        began = time.monotonic()
        place = training or {"phase": 0, "epoch": 0, "seconds": 0.0}
        epochs_before = 0
        for number, phase in enumerate(self.model.phases()):
            if number >= place["phase"] and phase.epochs > 0:
                resume = training if training and number == place["phase"] else None
                self.phase(number, phase, loader, epochs_before, resume, began - place["seconds"])
            epochs_before += phase.epochs
        self.seconds = time.monotonic() - began + place["seconds"]

    def phase(self, number: int, phase: Phase, loader: Loader, before: int, resume: dict | None, began: float) -> None:
        """One phase: only what it names moves."""
        modules = self.model.learned(phase)
        optimizer = AdamW(groups(modules, self.model.config, phase.rate))
        first = 0
        if resume is not None and resume["optimizer"] is not None:
            optimizer.load(resume["optimizer"])
            first = resume["epoch"]
        moving(self.model, modules)
        self.model.train()
        meter = Meter(phase, loader, first)
        for epoch in range(first, phase.epochs):
            for step, batch in enumerate(loader.epoch(before + epoch)):
                done = epoch * loader.steps + step
                total = phase.epochs * loader.steps
                torch.manual_seed((self.seed * 1_000_003 + (before * loader.steps + done)) % 2**63)
                terms = self.step(phase, modules, optimizer, batch, done, total)
                meter.add()
                if done % EVERY == 0 or done == total - 1:
                    self.history.add(meter.line(epoch, done, optimizer.groups[0]["lr"], terms))
            if epoch + 1 < phase.epochs:
                at = {"phase": number, "epoch": epoch + 1, "optimizer": optimizer.state()}
            else:
                at = {"phase": number + 1, "epoch": 0, "optimizer": None}
            at |= {"history": self.history.size(), "seconds": time.monotonic() - began}
            checkpoint.save(self.folder, self.name, self.model, at)
        meter.close()

    def step(
        self,
        phase: Phase,
        modules: dict[str, nn.Module],
        optimizer: AdamW,
        batch: Features,
        done: int,
        total: int,
    ) -> dict[str, Tensor]:
        """One update; the terms of its loss."""
        config = self.model.config
        factor = schedule(done, total, config.warmup)
        for group in optimizer.groups:
            group["lr"] = group["base_lr"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            terms = phase.loss(batch, done / total)
        optimizer.forget()
        sum(terms.values()).backward()
        for module in modules.values():  # each its own: a loss that reaches one module must not shrink another's step
            nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}


def schedule(done: int, total: int, warmup: float) -> float:
    """Share of the full learning rate at a step: a linear rise, then a cosine to 0."""
    rise = max(1, round(total * warmup))
    if done < rise:
        return (done + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(1, total - rise)))


def moving(model: Method, modules: dict[str, nn.Module]) -> None:
    """Let exactly these modules learn."""
    model.requires_grad_(False)
    for module in modules.values():
        module.requires_grad_(True)


class Meter:
    """Samples a second, seconds waited for data, and the bar."""

    def __init__(self, phase: Phase, loader: Loader, first: int):
        self.phase, self.loader = phase, loader
        self.bar = tqdm(
            total=phase.epochs * loader.steps,
            initial=first * loader.steps,
            desc=phase.name,
            unit="step",
            mininterval=1.0,
        )
        self.waited, self.since, self.steps = loader.waited, time.monotonic(), 0

    def add(self) -> None:
        """Count a step."""
        self.steps += 1
        self.bar.update()

    def line(self, epoch: int, done: int, rate: float, terms: dict[str, Tensor]) -> dict[str, Any]:
        """One line of history; the figures are of the steps since the last."""
        numbers = {name: round(value, 6) for name, value in zip(terms, torch.stack(list(terms.values())).tolist())}
        passed = time.monotonic() - self.since
        line = {
            "phase": self.phase.name,
            "epoch": epoch,
            "step": done,
            "loss": round(sum(numbers.values()), 6),
            "terms": numbers,
            "lr": rate,
            "samples_per_second": round(self.steps * self.loader.batch / passed, 1),
            "data_wait": round((self.loader.waited - self.waited) / passed, 4),  # share of the time
        }
        self.bar.set_postfix_str(
            f"loss {line['loss']:.3f}, {line['samples_per_second']:.0f} samples/s, waiting {line['data_wait']:.1%}",
            refresh=False,
        )
        self.waited, self.since, self.steps = self.loader.waited, time.monotonic(), 0
        return line

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


if __name__ == "__main__":
    main()
