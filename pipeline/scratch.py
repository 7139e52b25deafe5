"""A small CLIP trained here, for places where no weights can be had, saved as any Hugging Face CLIP is.

For `demo` it learns from captioned stills of the world that are no clips' frames, and from what is said of scripts that are
never rendered; for any other dataset from its own train frames and captions. Three losses:

- picture and caption by contrast (CLIP's own),
- patches and words by contrast (FILIP's late interaction, arXiv 2111.07783), so that tokens mean something in the shared space,
- retention: from a picture's and from a caption's vector one linear map, thrown away afterwards, names the phrases of one to
  three words that are said of the item. A still cannot show an event, and no caption is needed to tell where a thing is: by
  contrast alone the text tower drops its verbs and the image tower drops positions. So this CLIP is not purely contrastive.

`python -m pipeline.scratch --probe --dataset demo` prints what the features hold.
"""

# Axes: B batch, L words, P patches, D embedding, S image side.

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import stage

VERSION = 1
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VIEWS = 4  # frames taken from a train video
MOST = 3000  # train videos a CLIP learns from, at most
STILLS, SCRIPTS = 20000, 12000  # of `demo`: pictures, and scripts that are told but not rendered
SMALL = set(
    ["a", "an", "the", "at", "and", "on", "near", "over", "upon", "of", "is", "to", "in", "that", "while", "as"]
)  # words without which phrases are counted
START, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """The size of the model and how it learns."""

    size: int = 48  # pixels
    patch: int = 12
    width: int = 96
    heads: int = 4
    vision_layers: int = 4
    text_layers: int = 2
    dimension: int = 128
    words: int = 32
    vocabulary: int = 2000
    steps: int = 700
    batch: int = 64
    rate: float = 2e-3  # AdamW; the layers' matrices learn by Muon at ten times this
    warmup: float = 0.1  # share of the steps
    words_weight: float = 0.5  # of patches and words
    retention: float = 5.0  # of naming what is said; at 0.4 contrast drowns it, and position is lost
    scripts: int = 24  # captions of scripts in a batch
    phrases: int = 600  # that retention names
    threads: int = 2


@dataclass
class Corpus:
    """Pictures (items, views, S, S, 3) uint8 with their captions, and items that are only told: lists of captions."""

    pictures: np.ndarray
    captions: list[list[str]]
    told: list[list[str]]

    def texts(self) -> list[str]:
        """Every caption."""
        return [text for item in (*self.captions, *self.told) for text in item]


@dataclass
class Batch:
    """Pictures (B, S, S, 3) uint8, captions (those of the pictures first), and the phrases said of each caption's item."""

    pictures: np.ndarray
    captions: list[str]
    said: Tensor  # (captions, phrases), 0 or 1


# ---- the model


def tokenizer(texts: list[str], vocabulary: int, words: int) -> Any:
    """A CLIP tokenizer (byte-level BPE, lower case) learnt from texts; the end token has the largest id, as CLIP's has."""
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = CLIPTokenizer().backend_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="")
    learner.model = model
    learner.decoder = decoders.ByteLevel()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) if not isinstance(merge, str) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    pieces = letters + [f"{letter}</w>" for letter in letters] + ["".join(merge) for merge in merges]
    table = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    table |= {START: len(table), END: len(table) + 1}
    return CLIPTokenizer(vocab=table, merges=merges, model_max_length=words)


def build(recipe: Recipe, vocabulary: int) -> Any:
    """A CLIPModel of the recipe's size; `vocabulary` counts the tokenizer's tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    shared = {"hidden_size": recipe.width, "intermediate_size": 4 * recipe.width, "num_attention_heads": recipe.heads}
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=recipe.words,
        num_hidden_layers=recipe.text_layers,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        projection_dim=recipe.dimension,
        **shared,
    )
    vision = CLIPVisionConfig(
        image_size=recipe.size,
        patch_size=recipe.patch,
        num_hidden_layers=recipe.vision_layers,
        projection_dim=recipe.dimension,
        **shared,
    )
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=recipe.dimension)
    )
    model.config.logit_scale_init_value = math.log(10)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        grid = recipe.size // recipe.patch
        positions = model.vision_model.embeddings.position_embedding.weight
        positions.copy_(torch.cat([torch.zeros(1, recipe.width), waves(grid, recipe.width)]) * 0.6)
    return model


def waves(grid: int, width: int) -> Tensor:
    """Sine and cosine positions of a square grid, (grid * grid, width): HF's own start is too small to be learnt soon."""
    rates = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    one = torch.arange(grid)[:, None] * rates[None]
    line = torch.cat([one.sin(), one.cos()], 1)  # (grid, width / 2)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], -1).reshape(grid * grid, width)


def whiten(model: Any, pictures: np.ndarray) -> None:
    """Start the patch embedding at the leading whitened components of real patches."""
    conv = model.vision_model.embeddings.patch_embedding
    side, width = conv.kernel_size[0], conv.out_channels
    patch = F.unfold(normal(pictures), side, stride=side).transpose(1, 2).flatten(0, 1)
    patch = patch[torch.randperm(len(patch))[:20000]]
    values, vectors = torch.linalg.eigh((patch - patch.mean(0)).T.cov())
    lead = vectors[:, -width:].T / (values[-width:, None] + 1e-2 * values[-1]).sqrt()
    with torch.no_grad():
        conv.weight[: len(lead)].copy_(lead.reshape(-1, 3, side, side) * 0.3)


def normal(pictures: np.ndarray) -> Tensor:
    """uint8 (B, S, S, 3) as the tower takes it, float (B, 3, S, S)."""
    image = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    return (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def image_tokens(model: Any, image: Tensor) -> Tensor:
    """(B, 1 + P, D): CLS and patches after the final layer norm and the projection."""
    hidden = model.vision_model(pixel_values=image).last_hidden_state
    return model.visual_projection(model.vision_model.post_layernorm(hidden))


def text_tokens(model: Any, words: Any, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Sentence (B, D), word (B, L, D) and which words are words: neither start nor end nor padding (B, L)."""
    ids = words(texts, padding=True, truncation=True, return_tensors="pt")
    token, mask = ids["input_ids"], ids["attention_mask"].bool()
    word = model.text_projection(model.text_model(input_ids=token, attention_mask=mask).last_hidden_state)
    last = mask.sum(1) - 1
    inner = mask & (token < len(words) - 2)
    return word[torch.arange(len(word)), last], word, inner


# ---- learning


def contrast(one: Tensor, two: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of two lists of vectors (B, D)."""
    logits = scale * F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).T
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def late(word: Tensor, inner: Tensor, patch: Tensor) -> Tensor:
    """Mean over a text's words of the best patch, for all pairs: (texts, pictures)."""
    word, patch = F.normalize(word, dim=-1)[inner], F.normalize(patch, dim=-1)
    best = torch.einsum("wd,bpd->wbp", word, patch).amax(2)  # (words of all texts, pictures)
    text = inner.nonzero()[:, 0]
    total = best.new_zeros(len(inner), best.shape[1]).index_add(0, text, best)
    return total / inner.sum(1, keepdim=True).clamp(min=1)


def losses(model: Any, words: Any, naming: nn.Module, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """The named terms of one batch."""
    scale, count = model.logit_scale.exp(), len(batch.pictures)
    image = image_tokens(model, normal(batch.pictures))
    sentence, word, inner = text_tokens(model, words, batch.captions)
    terms = {"picture": contrast(sentence[:count], image[:, 0], scale)}
    if recipe.words_weight:
        scores = scale * late(word[:count], inner[:count], image[:, 1:])
        truth = torch.arange(count)
        both = F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)
        terms["words"] = recipe.words_weight * both / 2
    if recipe.retention:
        local = naming(image[:, 1:]).amax(1)  # something in the picture is called so
        named = torch.cat([naming(torch.cat([image[:, 0], sentence])), local])
        said = torch.cat([batch.said[:count], batch.said, batch.said[:count]])
        missed = F.binary_cross_entropy_with_logits(named, said, reduction="sum")
        terms["retention"] = recipe.retention * missed / said.sum()
    return terms


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal (Keller Jordan, 2024), as torch.optim.Muon but in float32 and equal shapes at once.

    torch's turns matrices into bfloat16, which a CPU without it does at a quarter of the speed.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix; those of one shape are made orthogonal together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in (held for held in group["params"] if held.grad is not None):
                shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                for matrix in matrices:
                    held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    held.lerp_(matrix.grad, 1 - group["momentum"])
                    matrix.grad.lerp_(held, group["momentum"])  # Nesterov
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                steps = orthogonal(torch.stack([matrix.grad for matrix in matrices]))
                size = max(1, matrices[0].shape[0] / matrices[0].shape[1]) ** 0.5
                for matrix, step in zip(matrices, steps):
                    matrix.add_(step, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly: five Newton-Schulz steps on a stack of matrices."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


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
    meter = stage.Progress(recipe.steps, f"{name}: a small CLIP", "step")
    model.train()
    for step, batch in zip(range(recipe.steps), batches):
        share = step / recipe.steps
        factor = min((step + 1) / (recipe.warmup * recipe.steps), 1.0) * 0.5 * (1 + math.cos(math.pi * share))
        for optimizer, rates in zip(sets, base):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
        terms = losses(model, words, naming, batch, recipe)
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in sets:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        meter.add(1, ", ".join(f"{key} {value.item():.2f}" for key, value in terms.items()) if step % 20 == 0 else None)
    meter.close()
    model.eval()


# ---- what it learns from


@dataclass(frozen=True)
class Still:
    """A picture of the world: what is shown where (thing, x, y, scale), the zone nearest to each, and the place."""

    shown: tuple[tuple[Any, float, float, float], ...]
    zones: tuple[str, ...]
    place: str


def still_scene(random: Random, count: int) -> Still:
    """`count` things anywhere, apart from each other, some larger or smaller than their kind."""
    from pipeline.datasets import world

    shown, zones = [], []
    for thing in world.draw_things(random, count):
        while True:
            zone = random.choice(sorted(world.ZONES))
            x, y = (min(max(value + random.uniform(-0.14, 0.14), 0.1), 0.9) for value in world.ZONES[zone])
            if all(math.hypot(x - other[1], y - other[2]) > 0.26 for other in shown):
                break
        shown.append((thing, x, y, random.choice((1.0, 1.0, 1.0, 0.6, 1.5))))
        zones.append(zone)
    return Still(tuple(shown), tuple(zones), random.choice(world.PLACES))


def draw(scene: Still, size: int, random: Random) -> np.ndarray:
    """The picture (S, S, 3) uint8, through one of the widths and lights that clips have."""
    from PIL import Image

    from pipeline.datasets import demo, world

    drawn = world.picture(scene.place, list(scene.shown), random.choice(demo.WIDTHS))
    pixels = np.asarray(drawn.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
    return (pixels + random.randint(-14, 14)).clip(0, 255).astype(np.uint8)


def stills(config: dict[str, Any], recipe: Recipe, seed: int, count: int = STILLS, scripts: int = SCRIPTS) -> Corpus:
    """The corpus of `demo`: stills told in every way of speaking, and scripts that are told so and not rendered."""
    from pipeline.datasets import wording, world

    random = Random(f"stills {seed}")
    pictures, captions = np.empty((count, 1, recipe.size, recipe.size, 3), np.uint8), []
    for index in stage.progress(range(count), f"{config['name']}: stills", "picture"):
        scene = still_scene(random, random.choice((1, 1, 2, 2, 3)))
        pictures[index, 0] = draw(scene, recipe.size, random)
        said = [(thing, zone) for (thing, *_), zone in zip(scene.shown, scene.zones)]
        captions.append(wording.still_captions(said, scene.place, random))
    told = [
        [
            *(wording.caption(scene, way, random) for way in wording.WAYS),
            wording.script_phrase(scene, random.choice(wording.WAYS), random),
        ]
        for _ in range(scripts // 3)
        for scene in world.draw_group(random)
    ]
    return Corpus(pictures, captions, told)


def phrases(text: str) -> set[str]:
    """The phrases of one to three words in a text, small words left out."""
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in SMALL]
    return {" ".join(words[at : at + size]) for size in (1, 2, 3) for at in range(len(words) - size + 1)}


def shuffled(corpus: Corpus, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """Batches without end: each pass over the items in another order, one view and one caption each, and some told items."""
    counts: Counter[str] = Counter()
    for item in (*corpus.captions, *corpus.told):
        counts.update(sorted(set().union(*map(phrases, item))))
    number = {phrase: index for index, (phrase, _) in enumerate(counts.most_common(recipe.phrases))}
    said = [
        sorted(number[phrase] for phrase in set().union(*map(phrases, item)) if phrase in number)
        for item in (*corpus.captions, *corpus.told)
    ]
    random = np.random.default_rng(seed)
    items, scripts = len(corpus.captions), recipe.scripts if corpus.told else 0
    size = min(recipe.batch, items)
    while True:
        order = random.permutation(items)
        for at in range(0, items - size + 1, size):
            rows = order[at : at + size]
            views = random.integers(corpus.pictures.shape[1], size=size)
            members = [*rows, *(items + random.integers(max(len(corpus.told), 1), size=scripts))]
            texts, target = [], torch.zeros(len(members), recipe.phrases)
            for line, member in enumerate(members):
                captions = corpus.captions[member] if member < items else corpus.told[member - items]
                texts.append(captions[random.integers(len(captions))])
                target[line, said[member]] = 1
            yield Batch(corpus.pictures[rows, views], texts, target)


# ---- the stage's entry


def train(config: dict[str, Any], folder: Path, seed: int = 0) -> None:
    """Leave a trained CLIP, its tokenizer and its preprocessing in `folder`, whole or not at all.

    A folder that holds the CLIP of the same corpus, recipe and seed is kept. `config` is a dataset's parameters; its manifest
    must be there. `scratch` in it lays single values over the recipe.
    """
    recipe = recipe_of(config)
    about = {"version": VERSION, "seed": seed, "recipe": asdict(recipe), "corpus": corpus_of(config)}
    note = folder / "scratch.json"
    if note.is_file() and json.loads(note.read_text()) == about and (folder / "model.safetensors").is_file():
        return
    corpus = (stills if config["reader"] == "demo" else footage)(config, recipe, seed)
    part = folder.with_name(folder.name + stage.PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    learn(corpus, recipe, part, seed, config["name"])
    (part / note.name).write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe for a dataset: `demo`'s own, one with more words for any other, and what `scratch` in params.yaml says."""
    base = Recipe(words=max(Recipe.words, config.get("words", 0)))
    if config["reader"] != "demo":
        base = replace(base, vocabulary=6000)
    known = {name: value for name, value in (config.get("scratch") or {}).items()}
    if unknown := sorted(set(known) - set(asdict(base))):
        raise ValueError(f"scratch: unknown {', '.join(unknown)}; a recipe has {', '.join(asdict(base))}")
    return replace(base, **known)


def corpus_of(config: dict[str, Any]) -> str:
    """What the corpus is made from, as a hash: the world's version, or the train rows of the manifest."""
    import hashlib

    import pyarrow.parquet as parquet

    if config["reader"] == "demo":
        from pipeline.datasets import world

        return f"world {world.VERSION}"
    digest = hashlib.sha256()
    for file, columns in (("items", ["video_id", "hash", "split"]), ("captions", ["caption_id", "text", "split"])):
        table = parquet.read_table(stage.folder(config["name"], "manifest", f"{file}.parquet"), columns=columns)
        for row in zip(*table.to_pydict().values()):
            if row[2] == "train":
                digest.update("\0".join(row).encode())
    return digest.hexdigest()


def learn(corpus: Corpus, recipe: Recipe, folder: Path, seed: int = 0, name: str = "scratch") -> None:
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
            fit(model, words, naming, shuffled(corpus, recipe, seed), recipe, name)
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


def footage(config: dict[str, Any], recipe: Recipe, seed: int) -> Corpus:
    """The corpus of any other dataset: `VIEWS` frames of each train video, all its captions."""
    import pyarrow.parquet as parquet

    items = parquet.read_table(stage.folder(config["name"], "manifest", "items.parquet")).to_pylist()
    rows = parquet.read_table(stage.folder(config["name"], "manifest", "captions.parquet")).to_pylist()
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["video_id"], []).append(row["text"])
    wanted = [item for item in items if item["split"] == "train" and item["video_id"] in texts]
    wanted = Random(seed).sample(wanted, min(len(wanted), MOST))
    tasks = [
        (Path(config["root"]) / item["path"], recipe.size, config["decoder"], item["start"], item["end"])
        for item in wanted
    ]
    pictures, captions = [], []
    with ThreadPoolExecutor(2) as pool:  # decoders leave the interpreter to others
        name = f"{config['name']}: train frames"
        for item, frames in zip(wanted, stage.progress(pool.map(look, tasks), name, "video", len(tasks))):
            if frames is not None:
                pictures.append(frames)
                captions.append(texts[item["video_id"]])
    if not pictures:
        raise ValueError(
            f"{config['name']}: no train video with a caption can be decoded, so no CLIP can be trained on them"
        )
    return Corpus(np.stack(pictures), captions, [])


def look(task: tuple[Path, int, str, float | None, float | None]) -> np.ndarray | None:
    """Some frames of a video (VIEWS, S, S, 3) uint8, repeated where it has fewer; None if it cannot be decoded."""
    from pipeline.decode import DecodeError, decode

    path, size, decoder, start, end = task
    try:
        frame = decode(path, VIEWS, size, start=start, end=end, decoder=decoder).frame.numpy()
    except DecodeError:  # the visual stage says why
        return None
    return frame[np.arange(VIEWS) % len(frame)]


# ---- what the features hold


def ridge(features: Tensor, target: Tensor, half: int) -> Tensor:
    """Fit a linear map on the first `half` rows; its answer for the rest."""
    features = F.normalize(features, dim=-1).double()
    features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
    known = features[:half]
    weight = torch.linalg.solve(known.T @ known + 1e-3 * torch.eye(known.shape[1]), known.T @ target[:half].double())
    return features[half:] @ weight


def determined(features: Tensor, values: list[float]) -> float:
    """R² of a number, on rows that the map was not fitted on."""
    target, half = torch.tensor(values)[:, None], len(values) * 2 // 3
    rest = target[half:].double()
    error = (ridge(features, target, half) - rest).square().sum()
    return 1 - (error / (rest - rest.mean()).square().sum()).item()


def told(features: Tensor, labels: list[str]) -> tuple[float, float]:
    """Share of labels that a linear map names right, and the share of the commonest label, which is chance."""
    names, half = sorted(set(labels)), len(labels) * 2 // 3
    target = F.one_hot(torch.tensor([names.index(label) for label in labels]), len(names))
    right = ridge(features, target, half).argmax(1) == target[half:].argmax(1)
    return right.double().mean().item(), target[half:].double().mean(0).max().item()


@torch.inference_mode()
def probe(folder: Path, count: int = 1500, seed: int = 1) -> list[tuple[str, str, str, str]]:
    """Rows of (features, what is asked of them, answer, chance), by linear maps on stills and scripts never trained on."""
    from pipeline.datasets import wording, world
    from pipeline.towers import Towers

    towers = Towers.load(folder, precision="fp32")
    random, rows = Random(f"probe {seed}"), []

    def add(source: str, asked: str, features: Tensor, labels: list[str]) -> None:
        right, chance = told(features, labels)
        rows.append((source, asked, f"{100 * right:.0f} %", f"{100 * chance:.0f} %"))

    for things, source in ((1, "frame, one thing"), (3, "frame, three things")):
        scenes = [still_scene(random, things) for _ in range(count)]
        pixels = np.stack([draw(scene, towers.size, random) for scene in scenes])
        frame = torch.cat([towers.images(torch.from_numpy(some))[0] for some in np.array_split(pixels, count // 50)])
        if things == 1:
            thing, x, y, scale = zip(*(scene.shown[0] for scene in scenes))
            rows.append((source, "x", f"R² {determined(frame, x):.2f}", "0"))
            rows.append((source, "y", f"R² {determined(frame, y):.2f}", "0"))
            width = [world.SIZES[t.size] * s for t, s in zip(thing, scale)]
            rows.append((source, "width", f"R² {determined(frame, width):.2f}", "0"))
            for name in ("shape", "colour"):
                add(source, name, frame, [getattr(t, name) for t in thing])
        else:
            add(
                source, "is there a ring", frame, [str("ring" in {s[0].shape for s in scene.shown}) for scene in scenes]
            )
            add(
                source,
                "is there a red thing",
                frame,
                [str("red" in {s[0].colour for s in scene.shown}) for scene in scenes],
            )
            red = [(i, s[0]) for i, scene in enumerate(scenes) for s in scene.shown if s[0].colour == "red"]
            add(source, "shape of the red thing", frame[[i for i, _ in red]], [t.shape for _, t in red])
        add(source, "place", frame, [scene.place for scene in scenes])
    scenes = [scene for _ in range(count) for scene in world.draw_group(random)[:1]]
    texts = [wording.caption(scene, random.choice(wording.WAYS), random) for scene in scenes]
    sentence = torch.stack([word[-1] for _, word in towers.texts(texts)])
    add("sentence", "first event", sentence, [scene.steps[0].event for scene in scenes])
    two = [i for i, scene in enumerate(scenes) if len(scene.steps) == 2]
    add("sentence", "second event", sentence[two], [scenes[i].steps[1].event for i in two])
    moves = []
    while len(moves) < count:
        scene = world.draw_group(random)[0]
        if len(scene.steps) == 1 and scene.steps[0].event == "move":
            moves.append(scene)
    actors = [scene.things[scene.steps[0].actor] for scene in moves]
    texts = [wording.caption(scene, "train", random) for scene in moves]
    sentence = torch.stack([word[-1] for _, word in towers.texts(texts)])
    add("sentence", "start zone of a move", sentence, [actor.zone for actor in actors])
    add("sentence", "end zone of a move", sentence, [scene.steps[0].zone for scene in moves])
    add("sentence", "shape that moves", sentence, [actor.shape for actor in actors])
    add("sentence", "colour that moves", sentence, [actor.colour for actor in actors])
    return rows


def main() -> None:
    arguments = stage.arguments(
        __doc__, probe={"action": "store_true", "help": "print what the features of a trained CLIP hold"}
    )
    config = stage.dataset(arguments.dataset)
    folder = stage.folder(config["name"], "clip")
    if not arguments.probe:
        raise SystemExit(
            f"nothing to do; train it with: python -m pipeline.clip --dataset {config['name']}, or add --probe"
        )
    stage.need(folder / "clip.json", "clip", config["name"])
    print(f"{'features':<22}{'asked':<26}{'answer':>9}{'chance':>9}")
    for source, asked, answer, chance in probe(folder):
        print(f"{source:<22}{asked:<26}{answer:>9}{chance:>9}")


if __name__ == "__main__":
    main()
