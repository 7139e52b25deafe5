"""Stage: which CLIP, pinned by the sha256 of its weights; and its frozen towers.

`cache/<dataset>/clip/clip.json` names the model; a `scratch` model lies beside it in the Hugging Face format, a hub name or a
local directory stays where it is. Whoever loads the towers checks the checksum, so no tensor ever comes from other weights.
"""

# Axes: N images of one call, S image side, P patches, L words of one text, D embedding.

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import stage

VERSION = "1"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is the one that counts
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, where preprocessor_config.json is silent
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
STEEP = 1.702  # CLIP's activation is x * sigmoid(1.702 x)
ROWS = 32  # texts in one batch: fixed, so that a text's bytes do not depend on its neighbours


class Towers:
    """The two frozen encoders of one CLIP.

    Tokens are after the final layer norm and the projection, and not normalised: row 0 of an image is what CLIP calls the
    image embedding, the last row (EOT) of a text the text embedding (X-CLIP, module_clip.py).
    """

    def __init__(self, model: Any, tokenizer: Any, record: dict[str, Any], device: str, precision: str):
        self.model, self.tokenizer, self.record = model, tokenizer, record
        self.device, self.precision = torch.device(device), precision
        vision = model.config.vision_config
        self.size: int = vision.image_size
        self.patches: int = (vision.image_size // vision.patch_size) ** 2
        self.dimension: int = model.config.projection_dim
        self.context: int = model.config.text_config.max_position_embeddings
        self.sha256: str = record["sha256"]
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.mean = torch.tensor(record["mean"], device=self.device).view(1, 3, 1, 1)
        self.deviation = torch.tensor(record["deviation"], device=self.device).view(1, 3, 1, 1)
        lighten(model)
        model.to(self.device, self.dtype).eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu", precision: str = "auto") -> "Towers":
        """Load the CLIP that `folder`/clip.json names.

        Errors: ValueError where clip.json is missing, the weights are not the pinned ones, or some are missing or surplus.
        """
        folder = Path(folder)
        path = folder / "clip.json"
        if not path.exists():
            raise ValueError(f"{path} is missing; run: dvc repro clip@{folder.parent.name}")
        record = json.loads(path.read_text())
        source = locate(record["name"], record["revision"], folder)
        found = checksum(weights(source))
        if found != record["sha256"]:
            raise ValueError(
                f"the weights in {source} have sha256 {found[:12]}…, {path} pins {record['sha256'][:12]}…; "
                f"run: dvc repro clip@{folder.parent.name} (everything encoded by the old weights is then encoded again)"
            )
        return cls(read_model(source), read_tokenizer(source), record, device, resolve(precision, device))

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        pixels: uint8 (N, S, S, 3). Returns frame (N, D) and patch (N, P, D), float32 on the CPU.
        """
        side = self.size
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"pixels: expected uint8 (N, {side}, {side}, 3), got {pixels.dtype} {tuple(pixels.shape)}")
        image = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        image = image.sub_(self.mean).div_(self.deviation).to(self.dtype)
        tower = self.model.vision_model
        token = tower(pixel_values=image).last_hidden_state  # (N, 1 + P, hidden)
        token = self.model.visual_projection(tower.post_layernorm(token)).float().cpu()
        return token[:, 0], token[:, 1:]

    def tokens(self, texts: Iterable[str], words: int) -> list[list[int]]:
        """Token ids of each text, SOT .. EOT, at most `words` of them (EOT is kept when a text is cut)."""
        words = min(words, self.context)
        clean = [text if text.strip() else "." for text in texts]
        return self.tokenizer(clean, truncation=True, max_length=words)["input_ids"] if clean else []

    @torch.inference_mode()
    def texts(self, texts: list[str], words: int = 77, rows: int = ROWS) -> list[tuple[np.ndarray, Tensor]]:
        """Encode texts: for each its token ids (L,) int32 and word tokens (L, D) float32, SOT .. EOT; the last is the sentence.

        Texts of equal length share a batch, so nothing is padded to a longer neighbour; a batch always has `rows` rows (the
        last is filled up), so that a text gives the same bytes whatever is encoded with it. `rows=1` answers a lone query.
        """
        ids = self.tokens(texts, words)
        answer: list[Any] = [None] * len(ids)
        for batch in buckets([len(row) for row in ids], rows):
            token = torch.tensor([ids[index] for index in batch])
            filled = torch.cat([token, token[:1].expand(rows - len(batch), -1)]) if rows > len(batch) else token
            hidden = self.model.text_model(input_ids=filled.to(self.device)).last_hidden_state
            word = self.model.text_projection(hidden[: len(batch)]).float().cpu()
            for row, index in enumerate(batch):
                answer[index] = (token[row].to(torch.int32).numpy(), word[row])
        return answer


@torch.no_grad()
def lighten(model: Any) -> None:
    """Let the towers compute CLIP's activation in one pass in place: x sigmoid(1.702 x) = silu(1.702 x) / 1.702.

    Both factors go into the weights around it. transformers makes three passes with two new tensors.
    """
    from transformers.models.clip.modeling_clip import CLIPMLP

    for layer in model.modules():
        if isinstance(layer, CLIPMLP) and layer.config.hidden_act == "quick_gelu":
            layer.fc1.weight.mul_(STEEP)
            layer.fc1.bias.mul_(STEEP)
            layer.fc2.weight.div_(STEEP)
            layer.activation_fn = torch.nn.SiLU(inplace=True)


def buckets(lengths: list[int], rows: int) -> list[list[int]]:
    """Indices grouped so that each group has one length and at most `rows` members, short texts first."""
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return [members[at : at + rows] for _, members in sorted(groups.items()) for at in range(0, len(members), rows)]


def half(values: np.ndarray) -> np.ndarray:
    """float16 of `values`; a number that float16 cannot hold is a ValueError."""
    with np.errstate(over="ignore"):
        answer = values.astype(np.float16)
    if not np.isfinite(answer).all():
        raise ValueError(f"a CLIP token holds {np.abs(values).max()}, which float16 cannot; its weights are damaged")
    return answer


def resolve(precision: str, device: str) -> str:
    """`auto` is fp32 on a CPU and bf16 on a GPU."""
    if precision == "auto":
        return "bf16" if torch.device(device).type == "cuda" else "fp32"
    if precision not in ("fp32", "bf16", "fp16"):
        raise ValueError(f"precision {precision!r} is not one of auto, fp32, bf16, fp16")
    return precision


def locate(name: str, revision: str | None, folder: Path) -> Path:
    """The Hugging Face directory of a model: `folder` itself for `scratch`, a local directory, or a hub snapshot."""
    if name == "scratch":
        return folder
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~")):
        raise ValueError(f"clip: {name} is not a directory")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        source = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt", WEIGHTS[0]]))
        if not (source / WEIGHTS[0]).exists():
            source = Path(snapshot_download(name, revision=revision, allow_patterns=["*.json", "*.txt", WEIGHTS[1]]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ValueError(
            f"clip: {name} is neither a local directory nor to be had from the Hugging Face hub ({type(error).__name__}); "
            "set `clip` in params.yaml to a directory with config.json, model.safetensors and the tokenizer, or to `scratch`"
        ) from error
    return source


def weights(source: Path) -> Path:
    """The weight file of a Hugging Face directory."""
    for name in WEIGHTS:
        if (source / name).exists():
            return source / name
    raise ValueError(f"{source} holds neither {' nor '.join(WEIGHTS)}; save the model with save_pretrained(…)")


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_model(source: Path) -> Any:
    """The CLIPModel of a directory; missing, surplus or mis-shaped weights are a ValueError, never a random tensor."""
    import transformers
    from transformers import CLIPModel

    transformers.utils.logging.disable_progress_bar()
    model, report = CLIPModel.from_pretrained(
        source, output_loading_info=True, local_files_only=True, dtype=torch.float32
    )
    buffers = "position_ids"  # older checkpoints carry this constant
    missing = sorted(report["missing_keys"])
    surplus = sorted(key for key in report["unexpected_keys"] if not key.endswith(buffers))
    shapes = sorted(str(key) for key in report["mismatched_keys"])
    for what, keys in (("misses", missing), ("has surplus", surplus), ("has mis-shaped", shapes)):
        if keys:
            raise ValueError(
                f"{weights(source)} {what} weights of a CLIPModel: {', '.join(keys[:4])} ({len(keys)} in all)"
            )
    return model


def read_tokenizer(source: Path) -> Any:
    """The CLIP tokenizer of a directory."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source} holds no CLIP tokenizer (vocab.json and merges.txt, or tokenizer.json): {error}"
        ) from error


def describe(name: str, revision: str | None, source: Path) -> dict[str, Any]:
    """What clip.json says of a model that loads whole."""
    model = read_model(source)
    read_tokenizer(source)
    vision, text = model.config.vision_config, model.config.text_config
    preprocess = source / "preprocessor_config.json"
    settings = json.loads(preprocess.read_text()) if preprocess.exists() else {}
    return {
        "name": name
        if name == "scratch" or not Path(name).expanduser().is_dir()
        else str(Path(name).expanduser().resolve()),
        "revision": revision,
        "sha256": checksum(weights(source)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "patches": (vision.image_size // vision.patch_size) ** 2,
        "dimension": model.config.projection_dim,
        "context": text.max_position_embeddings,
        "logit_scale": float(model.logit_scale.detach().exp()),
        "mean": list(settings.get("image_mean", MEAN)),
        "deviation": list(settings.get("image_std", DEVIATION)),
    }


def main() -> None:
    config = stage.dataset(stage.arguments(__doc__).dataset)
    folder = stage.folder(config["name"], "clip")
    with stage.lock(folder):
        try:
            if config["clip"] == "scratch":
                from pipeline import scratch

                stage.need(stage.folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"])
                scratch.train(config, folder)
            elif folder.exists():
                shutil.rmtree(folder)
            source = locate(config["clip"], config["clip_revision"], folder)
            record = describe(config["clip"], config["clip_revision"], source)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        stage.write(folder / "clip.json", json.dumps(record, indent=1) + "\n")
    print(
        f"clip: {record['name']}, {record['parameters'] / 1e6:.2f} M parameters, {record['image_size']} px, "
        f"{record['patches']} patches, {record['dimension']} dimensions, sha256 {record['sha256'][:12]}"
    )


if __name__ == "__main__":
    main()
