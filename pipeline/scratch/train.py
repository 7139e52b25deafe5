"""A small CLIP trained here, for places where no weights can be had, saved as any Hugging Face CLIP is.

For `demo` it learns from captioned stills of the world that are no clips' frames, and from what is said of scripts that are
never rendered; for any other dataset from its own train frames and captions. Three losses:

- picture and caption by contrast (CLIP's own),
- patches and words by contrast (FILIP's late interaction, arXiv 2111.07783), so that tokens mean something in the shared space,
- retention: from a picture's and from a caption's vector one linear map, thrown away afterwards, names the phrases of one to
  three words that are said of the item. A still cannot show an event, and no caption is needed to tell where a thing is: by
  contrast alone the text tower drops its verbs and the image tower drops positions. So this CLIP is not purely contrastive.
"""

# Axes: B batch, L words, P patches, D embedding, S image side.

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import files, progress
from pipeline.encoders.weights import DEVIATION, MEAN
from pipeline.scratch.corpus import Batch, Corpus, corpus_of, read_footage, shuffle_phrases
from pipeline.scratch.model import build, tokenizer, whiten
from pipeline.scratch.muon import Muon
from pipeline.scratch.objective import training_losses
from pipeline.scratch.recipe import Recipe, recipe_of
from pipeline.scratch.shipped import SHIPPED, copy_shipped
from pipeline.scratch.stills import stills

VERSION = 1


def optimizers(model: Any, naming: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest."""
    inside = {id(p) for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in inside]
    others = [p for p in model.parameters() if id(p) not in inside] + list(naming.parameters())
    return [
        Muon(matrices, lr=10 * recipe.rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.rate, weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def fit(
    model: Any, words: Any, naming: nn.Module, batches: Iterator[Batch], recipe: Recipe, name: str = "scratch"
) -> None:
    """Train for the recipe's steps; warm-up, then cosine to zero."""
    sets = optimizers(model, naming, recipe)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in sets]
    meter = progress.Progress(recipe.steps, f"{name}: a small CLIP", "step")
    model.train()
    for step, batch in zip(range(recipe.steps), batches):
        share = step / recipe.steps
        factor = min((step + 1) / (recipe.warmup * recipe.steps), 1.0) * 0.5 * (1 + math.cos(math.pi * share))
        for optimizer, rates in zip(sets, base):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        terms = training_losses(model, words, naming, batch, recipe)
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in sets:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        meter.add(1, ", ".join(f"{key} {value.item():.2f}" for key, value in terms.items()) if step % 20 == 0 else None)
    meter.close()
    model.eval()


# ---- the stage's entry


def train(config: dict[str, Any], folder: Path, seed: int = 0, shipped: Path | None = SHIPPED) -> None:
    """Leave a trained CLIP, its tokenizer and its preprocessing in `folder`, whole or not at all.

    The demo's own comes with the repository (`shipped.py`); without `shipped` it is trained too.
    A folder that holds the CLIP of the same corpus, recipe and seed is kept. `config` is a dataset's parameters; its manifest
    must be there. `scratch` in it lays single values over the recipe.
    """
    recipe = recipe_of(config)
    about = {"version": VERSION, "seed": seed, "recipe": asdict(recipe), "corpus": corpus_of(config)}

    def make(part: Path) -> None:
        if shipped is None or not copy_shipped(about, part, shipped):
            corpus = (stills if config["reader"] == "demo" else read_footage)(config, recipe, seed)
            part.mkdir(parents=True)
            learn_dataset(corpus, recipe, part, seed, config["name"])

    keep_or_make(folder, about, make)


def keep_or_make(folder: Path, about: dict[str, Any], make: Callable[[Path], None]) -> None:
    """Leave a trained model in `folder`, whole or not at all: the one that stands if it is what `about` says, else a new one.

    `make` trains into a folder that is not there yet.
    """
    note = folder / "scratch.json"
    if note.is_file() and json.loads(note.read_text()) == about and (folder / "model.safetensors").is_file():
        return
    part = folder.with_name(folder.name + files.PART)
    shutil.rmtree(part, ignore_errors=True)
    with files.storage(folder):
        make(part)
    (part / note.name).write_text(json.dumps(about, indent=1) + "\n")
    files.open_to_others(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def learn_dataset(corpus: Corpus, recipe: Recipe, folder: Path, seed: int = 0, name: str = "scratch") -> None:
    """Train on a corpus, and save everything that `from_pretrained` reads."""
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            words = tokenizer(corpus.texts(), recipe.vocabulary, recipe.words)
            model = build(recipe, len(words))
            whiten(model, corpus.pictures[:1000, 0])
            naming = nn.Linear(recipe.dimension, recipe.phrases)
            nn.init.constant_(naming.bias, -4.0)  # few of the phrases are said of an item
            fit(model, words, naming, shuffle_phrases(corpus, recipe, seed), recipe, name)
    finally:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    side = {"shortest_edge": recipe.size}, {"height": recipe.size, "width": recipe.size}
    settings = {"do_resize": True, "size": side[0], "do_center_crop": True, "crop_size": side[1], "resample": 3}
    settings |= {"do_rescale": True, "do_normalize": True, "image_mean": MEAN, "image_std": DEVIATION}
    settings |= {"do_convert_rgb": True, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
