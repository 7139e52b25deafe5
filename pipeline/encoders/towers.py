"""CLIP's frozen image and text encoders; a result is bit-identical whatever else is in the batch."""

# Axes: N images of one call, S image side, P patches, R rows (tokens of all images or texts), W width, L words, D embedding.

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.encoders.prefix_tree import PrefixTree
from pipeline.encoders.transformer import Norm, Parameters, Transformer, Weights
from pipeline.encoders.weights import VERSION, locate, read_tokenizer, read_weights, weights_identity
from pipeline.files import everything_command

CPU_ROWS = {"image": 200, "text": 128}  # rows per chunk on a CPU, about: what fits its cache
GPU_ROWS = 1 << 13  # rows per chunk on a GPU, where a larger product is a faster one
TEXTS_PER_TREE = 4096  # texts encoded at a time, to bound the memory
GATHERED = 1 << 13  # query values per attention chunk of texts, so that the gathered keys and values fit the CPU cache


class FrozenCLIP:
    """The two frozen encoders of one CLIP.

    Tokens are after the final layer norm and the projection, and not normalised: row 0 of an image is what CLIP calls the
    image embedding, the last row (EOT) of a text the text embedding (X-CLIP, module_clip.py).
    """

    def __init__(self, source: Path, record: dict[str, Any], device: str, precision: str):
        self.source, self.record = source, record
        self.device, self.precision = torch.device(device), precision
        self.size: int = record["image_size"]
        self.patches: int = record["patches"]
        self.dimension: int = record["dimension"]
        self.context: int = record["context"]
        self.sha256: str = record["sha256"]
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.mean = torch.tensor(record["mean"], device=self.device).view(1, 3, 1, 1)
        self.deviation = torch.tensor(record["deviation"], device=self.device).view(1, 3, 1, 1)
        self.transformers: dict[tuple[str, int | None], Transformer] = {}

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu", precision: str = "auto") -> "FrozenCLIP":
        """Load the CLIP that `folder`/clip.json names.

        Errors: ValueError where clip.json is missing or of an older format, or the weights are not the pinned ones.
        """
        folder = Path(folder)
        path = folder / "clip.json"
        if not path.exists():
            raise ValueError(f"{path} is missing; run: dvc repro clip@{folder.parent.name}")
        record = json.loads(path.read_text())
        if record.get("version") != VERSION:
            raise ValueError(f"{path} is of an older format; run: {everything_command(folder.parent.name)}")
        source = locate(record["name"], record["revision"], folder)
        found = weights_identity(record["name"], record["revision"], source)
        for key, what in (("sha256", "weights"), ("files_sha256", "files beside the weights")):
            if found[key] != record[key]:
                raise ValueError(
                    f"the {what} in {source} have sha256 {found[key][:12]}…, {path} pins {record[key][:12]}…; "
                    f"run: {everything_command(folder.parent.name)}"
                )
        return cls(source, record, device, resolve_precision(precision, device))

    @cached_property
    def tokenizer(self) -> Any:
        """The CLIP's own; it and transformers come when the first text does."""
        return read_tokenizer(self.source)

    @cached_property
    def image(self) -> tuple[dict[str, Tensor], Norm, Parameters]:
        """The image tower: its embeddings by name, the norm behind them, its transformer."""
        weights = self.read_tower_weights("vision_model.", "visual_projection.", facts=self.record["vision"])
        names = {"class": "class_embedding", "patch": "patch_embedding.weight", "position": "position_embedding.weight"}
        embeddings = {name: weights[f"vision_model.embeddings.{long}"] for name, long in names.items()}
        parameters = Parameters.of(weights, "vision_model", "post_layernorm", "visual_projection.weight")
        return embeddings, weights.read_norm("vision_model.pre_layrnorm"), parameters

    @cached_property
    def text(self) -> tuple[dict[str, Tensor], Parameters]:
        """The text tower: its embeddings by name and its transformer."""
        weights = self.read_tower_weights("text_model.", "text_projection.", facts=self.record["text"])
        names = {name: f"text_model.embeddings.{name}_embedding.weight" for name in ("token", "position")}
        parameters = Parameters.of(weights, "text_model", "final_layer_norm", "text_projection.weight")
        return {name: weights[long] for name, long in names.items()}, parameters

    def read_tower_weights(self, *prefixes: str, facts: dict[str, Any]) -> Weights:
        """The weights of one tower, for the device and in the type of this CLIP."""
        return Weights(read_weights(self.source, *prefixes), facts, lambda part: part.to(self.device, self.dtype))

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        pixels: uint8 (N, S, S, 3). Returns frame (N, D) and patch (N, P, D), float32 on the CPU.
        """
        token, _ = self.encode_image_tokens(pixels)
        return token[:, 0], token[:, 1:]

    @torch.inference_mode()
    def encode_image_tokens(self, pixels: Tensor, before: int | None = None) -> tuple[Tensor, Tensor | None]:
        """All tokens (N, 1 + P, D) of images uint8 (N, S, S, 3), and what enters block `before`, (N, 1 + P, W); on the CPU."""
        side = self.size
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"pixels: expected uint8 (N, {side}, {side}, 3), got {pixels.dtype} {tuple(pixels.shape)}")
        image = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        image = image.sub_(self.mean).div_(self.deviation).to(self.dtype)
        embeddings, first, _ = self.image
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # on by default, where products have it off
            patch = F.conv2d(image, embeddings["patch"], stride=self.record["patch_size"]).flatten(2).transpose(1, 2)
        start = embeddings["class"].expand(len(patch), 1, -1)
        hidden = first(torch.cat([start, patch], 1) + embeddings["position"])  # (N, 1 + P, W)
        count, length, width = hidden.shape
        # whole images need not fill whole chunks: spread the rows evenly over as few chunks as needed, so that little is padding
        chunks = -(-count * length // self.chunk_rows("image"))
        transformer = self.build_transformer("image", -(-count * length // chunks))

        def attend(query: Tensor, memory: Tensor) -> Tensor:
            """Full attention within each image."""
            query = query.view(count, length, transformer.heads, -1).transpose(1, 2)  # (N, heads, 1 + P, W / heads)
            key, value = memory.view(count, length, 2, transformer.heads, -1).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(-1, width)

        token, entering = transformer(hidden.reshape(-1, width), attend, before)
        kept = None if entering is None else entering.float().cpu().view(count, length, -1)
        return token.float().cpu().view(count, length, -1), kept

    def tokenize(self, texts: Iterable[str], words: int) -> list[list[int]]:
        """Token ids of each text, SOT .. EOT, at most `words` of them (EOT is kept when a text is cut)."""
        words = min(words, self.context)
        clean = [text if text.strip() else "." for text in texts]  # a blank text is read as a full stop, to have a word
        return self.tokenizer(clean, truncation=True, max_length=words)["input_ids"] if clean else []

    def encode_texts(self, texts: list[str], words: int = 77, alone: bool = False) -> list[tuple[np.ndarray, Tensor]]:
        """Encode texts: for each its token ids (L,) int32 and word tokens (L, D) float32, SOT .. EOT; the last is the sentence.

        A token depends on itself and what stands before it, so that texts share the tokens of their common beginning, nothing
        is padded, and a text gives the same bytes whatever is encoded with it. `alone` answers a lone query sooner, with
        other bytes.
        """
        ids = self.tokenize(texts, words)
        order = sorted(range(len(ids)), key=ids.__getitem__)  # texts that begin alike come into the same tree
        answer: list[Any] = [None] * len(ids)
        for first in range(0, len(order), TEXTS_PER_TREE):
            some = order[first : first + TEXTS_PER_TREE]
            for index, word in zip(some, self.encode_tree([ids[index] for index in some], alone)):
                answer[index] = (np.array(ids[index], np.int32), word)
        return answer

    @torch.inference_mode()
    def encode_tree(self, ids: list[list[int]], alone: bool) -> list[Tensor]:
        """Word tokens (L, D) float32 of each text: one row of the transformer for each distinct beginning of a text."""
        tree, embeddings = PrefixTree.of(ids), self.text[0]
        hidden = embeddings["token"][tree.token.to(self.device)] + embeddings["position"][tree.depth.to(self.device)]
        transformer = self.build_transformer("text", None if alone else self.chunk_rows("text"))
        size = max(1, GATHERED // hidden.shape[1]) if self.device.type == "cpu" else GPU_ROWS
        paths = [part.to(self.device) for path in tree.paths for part in path.split(size)]

        def attend(query: Tensor, memory: Tensor) -> Tensor:
            """Causal attention along each path of the prefix tree."""
            heard, first = torch.empty_like(query), 0  # (R, W)
            for path in paths:  # nodes of one depth, which have equally long paths, so that nothing is masked
                count, length = path.shape
                own = query[first : first + count].view(count, 1, transformer.heads, -1).transpose(1, 2)
                around = memory.index_select(0, path.reshape(-1)).view(count, length, 2, transformer.heads, -1)
                key, value = around.permute(2, 0, 3, 1, 4)  # each (nodes, heads, length, W / heads)
                heard[first : first + count] = attend_alone(own, key, value).reshape(count, -1)
                first += count
            return heard

        word = transformer(hidden, attend)[0].float().cpu()
        return [word[path] for path in tree.ends]

    def chunk_rows(self, kind: str) -> int:
        """Rows per chunk of a tower, which its results' last bits depend on."""
        return CPU_ROWS[kind] if self.device.type == "cpu" else GPU_ROWS

    def build_transformer(self, kind: str, rows: int | None) -> Transformer:
        """A tower's layers for chunks of `rows` rows, made when first asked for."""
        if (kind, rows) not in self.transformers:
            self.transformers[kind, rows] = Transformer(self.read_tower(kind), rows)
        return self.transformers[kind, rows]

    def read_tower(self, kind: str) -> Parameters:
        """A tower's layers, read from the disk unless they are there."""
        return (self.image if kind == "image" else self.text)[-1]


def attend_alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one query a row over a row's keys.

    query (N, heads, 1, d); key, value (N, heads, L, d); returns (N, heads, 1, d).

    On a CPU this is written out: with several threads torch's own rounds the row at the border of two threads differently, so
    that a text's bytes would depend on the texts encoded with it.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    score = (key * (query * query.shape[-1] ** -0.5)).sum(-1, keepdim=True)  # (N, heads, L, 1)
    return (score.softmax(2) * value).sum(2, keepdim=True)


def to_half(values: np.ndarray) -> np.ndarray:
    """float16 of `values`; a number that float16 cannot hold is a ValueError."""
    with np.errstate(over="ignore"):
        answer = values.astype(np.float16)
    if not np.isfinite(answer).all():
        raise ValueError(f"a CLIP token holds {np.abs(values).max()}, which float16 cannot; its weights are damaged")
    return answer


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is fp32 on a CPU and bf16 on a GPU."""
    if precision == "auto":
        return "bf16" if torch.device(device).type == "cuda" else "fp32"
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r} is not one of auto, fp32, bf16, fp16")
    return precision
