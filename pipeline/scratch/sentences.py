"""A small masked language model trained here, where no weights can be had, saved as any Hugging Face BERT is.

It learns from a dataset's train captions; for `demo` from what is said of stills and of scripts, in every way of speaking, as the
CLIP that is trained here does. Its vocabulary of word pieces is learnt from the same sentences.
"""

# Axes: B batch, L pieces.

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from pipeline import files, params, progress
from pipeline.scratch.train import keep_or_make

VERSION = 2
PAD, UNKNOWN, START, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SCRIPTS, STILLS = 6000, 3000  # of `demo`: told, not drawn
MOST = 60_000  # sentences it learns from, at most
SOME = 512  # of them, by which its logits are anchored


@dataclass(frozen=True)
class Recipe:
    """The size of the model and how it learns."""

    width: int = 64
    heads: int = 4
    layers: int = 2
    vocabulary: int = 4000
    positions: int = 128
    steps: int = 450
    batch: int = 64
    rate: float = 4e-3
    warmup: float = 0.1  # share of the steps
    masked: float = 0.3  # share of the pieces that are asked for
    shown: float = 0.4  # share of those that are shown as they are: a lexicon asks what a word that is there means
    decay: float = 0.01
    present: float = 0.01  # the probability of a word whose logit is 0
    threads: int = 1  # two would wait for each other where the machine has other work


def train(config: dict[str, Any], folder: Path, recipe: Recipe = Recipe(), seed: int = 0) -> None:
    """Leave a trained BertForMaskedLM and its tokenizer in `folder`, whole or not at all.

    A folder that holds the model of the same sentences, recipe and seed is kept. Errors: MissingError where there are none.
    """
    sentences = read_sentences(config, seed)
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    about = {"version": VERSION, "seed": seed, "recipe": asdict(recipe), "sentences": digest}

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        learn(sentences, recipe, part, seed, config["name"])

    keep_or_make(folder, about, make)


def read_sentences(config: dict[str, Any], seed: int = 0) -> list[str]:
    """What a dataset's masked language model learns from: the same sentences in the same order for the same manifest."""
    if config["reader"] == "demo":
        return demo_sentences(seed)
    table = files.read_table(params.cache_folder(config["name"], "manifest", "captions.parquet"), ["text", "split"])
    said = [row["text"] for row in table.to_pylist() if row["split"] == "train"]
    if not said:
        raise files.MissingError(
            f"{config['name']}: the train split has no captions, so no masked language model can be trained on them; "
            "set `lexicon` in params.yaml to one that exists, as bert-base-uncased"
        )
    return Random(seed).sample(said, min(len(said), MOST))


def demo_sentences(seed: int, scripts: int = SCRIPTS, stills: int = STILLS) -> list[str]:
    """What is said of scripts and stills of the demo world, in every way of speaking; no clip of the dataset is among them."""
    from pipeline.datasets.demo import captions, world
    from pipeline.scratch.stills import still_scene

    random, said = Random(f"sentences {seed}"), []
    for _ in range(scripts // 3):
        for scene in world.draw_group(random):
            said += [captions.caption(scene, way, random) for way in captions.WAYS]
    for _ in range(stills):
        scene = still_scene(random, random.choice((1, 1, 2, 2, 3)))
        shown = [(thing, zone) for (thing, *_), zone in zip(scene.shown, scene.zones)]
        said += captions.still_captions(shown, scene.place, random)
    random.shuffle(said)
    return said[:MOST]


def learn(sentences: list[str], recipe: Recipe, folder: Path, seed: int = 0, name: str = "scratch") -> None:
    """Train on sentences, and save everything that `from_pretrained` reads."""
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            words = tokenizer(sentences, recipe)
            model = build(recipe, len(words))
            pieces = words(sentences, truncation=True, max_length=recipe.positions)["input_ids"]
            fit(model, pieces, words, recipe, name)
            anchor(model, pieces[:SOME], recipe.present)
    finally:
        torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def tokenizer(sentences: list[str], recipe: Recipe) -> Any:
    """A BERT tokenizer (word pieces, lower case) learnt from sentences; the special tokens come first, [PAD] is 0."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(
        sentences, vocab_size=recipe.vocabulary, special_tokens=list(SPECIAL), show_progress=False
    )
    return BertTokenizerFast(tokenizer_object=learner._tokenizer, model_max_length=recipe.positions)


def build(recipe: Recipe, vocabulary: int) -> Any:
    """A BertForMaskedLM of the recipe's size."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.width,
            max_position_embeddings=recipe.positions,
            pad_token_id=0,
        )
    )


def fit(model: Any, pieces: list[list[int]], words: Any, recipe: Recipe, name: str) -> None:
    """Train for the recipe's steps on masked pieces; warm-up, then linearly to zero."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    meter = progress.Progress(recipe.steps, f"{name}: a small masked language model", "step")
    order = torch.randperm(len(pieces)).tolist()
    model.train()
    for step in range(recipe.steps):
        factor = min((step + 1) / (recipe.warmup * recipe.steps), (recipe.steps - step) / recipe.steps, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * factor
        begin = step * recipe.batch % len(order)
        some = [pieces[row] for row in (order + order)[begin : begin + recipe.batch]]
        token, mask = pad(some)
        shown, truth = hide(token, mask, words, recipe)
        loss = model(input_ids=shown, attention_mask=mask, labels=truth).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        meter.add(1, f"loss {loss.item():.2f}" if step % 20 == 0 else None)
    meter.close()
    model.eval()
    if not math.isfinite(loss.item()):
        raise files.UniTriMError(f"{name}: the masked language model did not learn (its loss is {loss.item()})")


@torch.inference_mode()
def anchor(model: Any, pieces: list[list[int]], present: float) -> None:
    """Shift every word's bias by one number, so that a logit is 0 where its probability is about `present`.

    The probabilities stay as they are, and so no training settles this number; but a lexicon takes what is above 0 for words that
    are there. Left as it falls out, a third of all words is there in every sentence.
    """
    token, mask = pad(pieces)
    logit = model(input_ids=token, attention_mask=mask).logits[mask.bool()]
    model.cls.predictions.bias -= logit.logsumexp(1).mean() + math.log(present)


def pad(pieces: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Sentences as (B, L) ids, 0 as padding, and their mask."""
    length = max(map(len, pieces))
    token = torch.tensor([row + [0] * (length - len(row)) for row in pieces])
    return token, (torch.arange(length) < torch.tensor([[len(row)] for row in pieces])).long()


def hide(token: Tensor, mask: Tensor, words: Any, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Pieces with some of them hidden, and the truth of those, -100 elsewhere.

    As in BERT a tenth of those asked for show another word; more than BERT's tenth show themselves, because a small model that
    learns for a minute would else never learn to name the word that it sees.
    """
    special = torch.tensor(words.all_special_ids)
    asked = (torch.rand(token.shape) < recipe.masked) & mask.bool() & ~torch.isin(token, special)
    way = torch.rand(token.shape)
    other = torch.randint(len(special), len(words), token.shape)
    shown = torch.where(asked & (way >= recipe.shown + 0.1), torch.tensor(words.mask_token_id), token)
    shown = torch.where(asked & (way >= recipe.shown) & (way < recipe.shown + 0.1), other, shown)
    return shown, torch.where(asked, token, -100)
