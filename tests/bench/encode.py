"""How near the encoders come to what the machine can do.

    python -m tests.bench.encode [--videos 192] [--rounds 3]

A CLIP ViT-B/32 with random weights. `gemm_fp32` and `gemm_bf16`: the vision tower's share of the rate of a large matrix
product of the same type, measured in turns; `bf16_of_fp32`: how much faster bf16 is. `text_buckets`: texts a second against
padding everything to 77, for one shard's worth of MSR-VTT's captions in CLIP's own tokens (UNITRIM_DATA names the folder with
both); `text_random`: the same for random letters in MSR-VTT's lengths, which share two tokens of twelve. The numbers must be
equal. These are of one core and by the processor's clock, so that a busy machine changes little. `stage_of_encoder` is by
the wall clock on all cores: items a second of the whole visual stage (starting its workers, decoding, encoding, writing)
against the encoder alone on frames in memory; it needs a quiet machine.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.support import house, tiny

FRAMES, SIZE = 12, 224
WIDTH, TOKENS, LAYERS, DIMENSION = 768, 50, 12, 512
CAPTIONS = 200_000 // 64  # of one of MSR-VTT's shards
DATA = Path(os.environ.get("UNITRIM_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def flops() -> float:
    """Floating point operations of ViT-B/32 on one image, all tokens projected."""
    layer = 4 * TOKENS * WIDTH**2 + 2 * TOKENS * WIDTH * 4 * WIDTH + 2 * TOKENS**2 * WIDTH
    return 2.0 * (49 * 3 * 32 * 32 * WIDTH + LAYERS * layer + TOKENS * WIDTH * DIMENSION)


def rate(work: Callable[[], float], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Amount of work a second, over at least some seconds; `work` returns how much it did."""
    began, done = clock(), 0.0
    while clock() - began < seconds:
        done += work()
    return done / (clock() - began)


def gemm(dtype: torch.dtype) -> Callable[[], float]:
    """A product of the shape of the tower's largest, 64 images at once."""
    a, b = torch.randn(64 * TOKENS, WIDTH).to(dtype), torch.randn(WIDTH, 4 * WIDTH).to(dtype)
    out = torch.empty(64 * TOKENS, 4 * WIDTH, dtype=dtype)

    def work() -> float:
        torch.mm(a, b, out=out)
        return 2.0 * a.shape[0] * a.shape[1] * b.shape[1]

    return work


def model(folder: Path) -> Path:
    """A ViT-B/32 CLIP with random weights and a tokenizer that gives a token a letter."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tiny.clip(folder)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    letters = CLIPTokenizer.from_pretrained(
        folder
    ).get_vocab()  # and names for all other rows of the text tower's table
    rest = {f"<|unused{number}|>": number for number in range(len(letters), CLIPConfig().text_config.vocab_size)}
    CLIPTokenizer(vocab=letters | rest, merges=[]).save_pretrained(folder)
    facts = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


def images(towers: dict[str, object], rounds: int) -> dict[str, float]:
    """Shares of the machine's rate, and the ratio of the two types, each the median over rounds in turns."""
    pixels = torch.randint(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16}
    speeds: dict[str, list[float]] = {key: [] for name in names for key in (name, f"gemm {name}")}
    for turn in range(rounds + 1):
        for name, dtype in names.items():
            speeds[f"gemm {name}"].append(rate(gemm(dtype), 1.0))
            speeds[name].append(rate(lambda name=name: len(towers[name].encode_images(pixels)[0]), 2.0))
            if not turn:  # warming up
                speeds[f"gemm {name}"], speeds[name] = [], []
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    shares = {}
    for name in names:
        share = [one * flops() / whole for one, whole in zip(speeds[name], speeds[f"gemm {name}"])]
        shares[f"gemm_{name}"] = statistics.median(share)
        line = f"{name}: {middle[name]:.1f} images/s = {middle[name] * flops() / 1e9:.0f} GFLOP/s"
        print(f"{line} of {middle[f'gemm {name}'] / 1e9:.0f} in a matrix product")
    shares["bf16_of_fp32"] = statistics.median(b / a for a, b in zip(speeds["fp32"], speeds["bf16"]))
    return shares


def sentences(count: int) -> list[str]:
    """Texts whose token counts are MSR-VTT's (mean 11.6, at most 32)."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.round(random.lognormal(np.log(11), 0.33, count)), 4, 32).astype(int)
    return ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), length - 2)) for length in lengths]


def padded(towers, model, texts: list[str]) -> list[torch.Tensor]:
    """Everything padded to 77, 32 texts at a time, by transformers' model: the plain way."""
    answer = []
    for first in range(0, len(texts), 32):
        batch = towers.tokenizer(texts[first : first + 32], padding="max_length", max_length=77, return_tensors="pt")
        with torch.inference_mode():
            hidden = model.text_model(**batch).last_hidden_state
            word = model.text_projection(hidden)
        answer += [row[:length] for row, length in zip(word, batch["attention_mask"].sum(1).tolist())]
    return answer


def captions(count: int) -> list[str]:
    """Distinct captions of msrvtt_mini in random order."""
    said = json.loads((DATA / "msrvtt_mini" / "MSRVTT_data.json").read_text())["sentences"]
    distinct = sorted({row["caption"] for row in said})
    return np.random.default_rng(0).permutation(distinct)[:count].tolist()


def own_tokenizer():
    """CLIP's tokenizer, from the list of merges that OpenAI published."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    lines = gzip.decompress((DATA / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().splitlines()
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={entry: row for row, entry in enumerate(entries)}, merges=merges)


def text(towers, model, texts: list[str], rounds: int) -> float:
    """How many times faster a tree of texts is than padding each to 77; ValueError if the numbers differ."""
    plain, ours = padded(towers, model, texts[:32]), towers.encode_texts(texts[:32], 77)
    apart = max(float((one - two).abs().max()) for one, (_, two) in zip(plain, ours))
    if apart > 1e-4:
        raise ValueError(f"texts in a tree and padded texts differ by {apart}")
    slow, fast = [], []
    for turn in range(rounds):
        part = texts[32 * turn : 32 * turn + 32]
        slow.append(rate(lambda part=part: len(padded(towers, model, part)), 0.1))
        fast.append(rate(lambda: len(towers.encode_texts(texts, 77)), 0.1))
        slow[-1] = (slow[-1] + rate(lambda part=part: len(padded(towers, model, part)), 0.1)) / 2
    tokens = sum(map(len, towers.tokenize(texts, 77))) / len(texts)
    print(
        f"text: {statistics.median(fast):.0f} texts/s as a tree, {statistics.median(slow):.1f} padded to 77; "
        f"{tokens:.1f} tokens a text; apart {apart:.1e}"
    )
    return statistics.median(one / two for one, two in zip(fast, slow))


def stage(place: Path, towers, videos: int) -> float:
    """The stage's rate as a share of the encoder's, which is measured before and after it."""
    import pyarrow.parquet

    from pipeline import visual
    from pipeline.encoders import image
    from pipeline.params import read_dataset
    from pipeline.video.decode import describe_decoders

    config = read_dataset("bench")
    items = pyarrow.parquet.read_table("cache/bench/manifest/items.parquet").to_pylist()[:videos]
    encoder = image.ImageEncoder(place / "cache/bench/clip", "cpu", config, describe_decoders(config["decoder"]))
    encoder.towers = towers
    frame = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE, SIZE, 3), np.uint8)
    alone = [rate(lambda: len(encoder(frame, "video")[:1]), 10.0, time.perf_counter)]
    began = time.perf_counter()
    visual.update_visual(Path("cache/bench/visual"), items, encoder, config, None)
    whole = len(items) / (time.perf_counter() - began)
    alone.append(rate(lambda: len(encoder(frame, "video")[:1]), 10.0, time.perf_counter))
    print(f"visual stage: {whole:.2f} items/s; encoder alone: {alone[0]:.2f} before, {alone[1]:.2f} after")
    return whole / statistics.mean(alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=192, help="of the stage; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    before, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="encode"))
    try:
        film = {"count": 300, "width": 320, "height": 240}
        clip = model(place / "model")
        house.build(place, max(options.videos, 8), 1, frames=FRAMES, distinct=8, model=clip, film=film)
        os.chdir(place)
        result = measure(place, options)
    finally:
        os.chdir(before)
        shutil.rmtree(place)
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


def measure(place: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures."""
    import subprocess
    import sys

    for name in ("manifest", "clip"):
        command = [sys.executable, "-m", f"pipeline.{name}", "--dataset", "bench"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(house.ROOT)})
    from pipeline.encoders.check import read_model
    from pipeline.encoders.towers import FrozenCLIP

    folder = place / "cache/bench/clip"
    towers = {name: FrozenCLIP.load(folder, "cpu", name) for name in ("fp32", "bf16")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = images(towers, options.rounds)
    del towers["bf16"]
    plain = read_model(towers["fp32"].source).eval().requires_grad_(False)
    result["text_random"] = text(towers["fp32"], plain, sentences(CAPTIONS), options.rounds)
    if (DATA / "msrvtt_mini").is_dir():
        letters, towers["fp32"].tokenizer = towers["fp32"].tokenizer, own_tokenizer()
        result["text_buckets"] = text(towers["fp32"], plain, captions(CAPTIONS), options.rounds)
        towers["fp32"].tokenizer = letters
    else:
        print(f"{DATA} has no msrvtt_mini: text_buckets is left out")
    if not options.videos:
        return result
    torch.set_num_threads(threads)
    result["stage_of_encoder"] = stage(place, towers["fp32"], options.videos)
    return result


if __name__ == "__main__":
    main()
