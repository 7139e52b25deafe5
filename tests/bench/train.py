"""One UniTriM step, its memory, the test similarity, and the wait for data, against a straightforward implementation.

`python -m tests.bench.train [--threads 1] [--repeats 5] [--full]`. The peer, `Plain`, holds the same weights and computes the
same numbers (checked here: loss and gradients agree to rounding) as one would write it down from the paper: padded tensors,
einsum, [patch; video] concatenated, one-hot perturbed top-k. Rounds are interleaved; figures are medians. Memory is the
growth of the resident set's peak during a step, each in a process of its own. On a GPU, also samples/s and share of peak.
"""

# Axes: B batch, L words, M triplets, N frames, P patches, k chosen, K = N·k, D embedding, S samples.

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support import worlds
from train import methods
from train.data import Cache, Loader
from train.method import Features, Method
from train.optimizer import AdamW, parameter_groups

BATCH, FRAMES, WORDS, TRIPLETS, PATCHES, SIZE = 64, 12, 32, 8, 49, 512
MSRVTT_SAMPLES = 180_000  # captions of MSR-VTT's 9k split: one epoch
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bf16 FLOP/s


def batch(count: int = BATCH, seed: int = 0, patches: int = PATCHES) -> Features:
    """Random features; words 11 of 32 valid on average, as MSR-VTT's captions are, SOT and EOT counted."""
    made = torch.Generator().manual_seed(seed)
    length = torch.randint(6, 18, (count,), generator=made)
    triplets = torch.randint(1, 6, (count,), generator=made)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, SIZE, generator=made)

    return {
        "sentence": random(count),
        "word": random(count, WORDS),
        "word_mask": torch.arange(WORDS) < length[:, None],
        "triplet": random(count, TRIPLETS),
        "triplet_mask": torch.arange(TRIPLETS) < triplets[:, None],
        "frame": random(count, FRAMES),
        "frame_mask": torch.ones(count, FRAMES, dtype=torch.bool),
        "patch": random(count, FRAMES, patches),
        "image": random(count),
        "label": torch.arange(count),
    }


class PlainTopK(torch.autograd.Function):
    """Perturbed top-k in the way of Cordonnier et al. 2021: every sample's one-hot choices are made, kept and averaged."""

    @staticmethod
    def forward(ctx, score: Tensor, k: int, samples: int, sigma: float) -> Tensor:
        noise = torch.randn(*score.shape[:1], samples, score.shape[1], device=score.device)
        index = (score[:, None] + sigma * noise).topk(k, -1).indices.sort(-1).values
        chosen = F.one_hot(index, score.shape[1]).float()  # (rows, S, k, P)
        ctx.save_for_backward(chosen, noise)
        ctx.scale = 1 / (samples * sigma)
        return chosen.mean(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        chosen, noise = ctx.saved_tensors
        return torch.einsum("rkp,rskp,rsq->rq", grad, chosen, noise) * ctx.scale, None, None, None


class Plain:
    """UniTriM's first phase by einsum over padded tensors, with the weights of a given UniTriM."""

    def __init__(self, model: Method):
        self.model = model

    def loss(self, features: Features, progress: float) -> dict[str, Tensor]:
        model, config = self.model, self.model.config
        mask = features["frame_mask"]
        text = self.text(features)
        encoded = model.temporal(features["frame"], mask)
        video = F.normalize((encoded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
        patch = self.select(F.normalize(features["patch"], dim=-1), video, config)
        scores = self.scores(text, {"video": video, "frame": encoded, "patch": patch, "frame_mask": mask})
        positive = features["label"][:, None] == features["label"]
        return {name: self.model.scale[name](score, positive, progress == 0) for name, score in scores.items()}

    def text(self, features: Features) -> Features:
        model = self.model
        return {
            "sentence": F.normalize(model.map_global(F.normalize(features["sentence"], dim=-1)), dim=-1),
            "triplet": F.normalize(model.map_global(F.normalize(features["triplet"], dim=-1)), dim=-1),
            "triplet_mask": features["triplet_mask"],
            "word": F.normalize(model.map_local(F.normalize(features["word"][:, 1:], dim=-1)), dim=-1),
            "word_mask": features["word_mask"][:, 1:],
        }

    def select(self, patch: Tensor, video: Tensor, config) -> Tensor:
        selector = self.model.selector
        both = torch.cat([patch, video[:, None, None].expand_as(patch)], -1)
        score = selector.out(F.relu(selector.hidden(both)))[..., 0]  # (B, N, P)
        share = PlainTopK.apply(score.flatten(0, 1), config.k, config.samples, config.sigma)
        chosen = torch.einsum("rkp,rpd->rkd", share, patch.flatten(0, 1))
        return F.normalize(chosen, dim=-1).view(len(patch), -1, patch.shape[-1])

    def scores(self, text: Features, video: Features) -> dict[str, Tensor]:
        model, frames = self.model, video["frame_mask"]
        patches = frames.repeat_interleave(video["patch"].shape[1] // frames.shape[1], 1)
        words, triplets = text["word_mask"], text["triplet_mask"]
        sentence_frame = torch.einsum("td,vnd->tvn", text["sentence"], video["frame"])
        triplet_video = torch.einsum("tmd,vd->tvm", text["triplet"], video["video"])
        triplet_frame = torch.einsum("tmd,vnd->tvmn", text["triplet"], video["frame"])
        word_patch = torch.einsum("tld,vkd->tvlk", text["word"], video["patch"])
        return {
            "sentence_video": torch.einsum("td,vd->tv", text["sentence"], video["video"]),
            "triplet_frame": self.both(model.triplet_frame.interact, triplet_frame, triplets, frames),
            "word_patch": self.both(model.word_patch.interact, word_patch, words, patches),
            "sentence_frame": self.isa(model.sentence_frame, sentence_frame, frames[None]),
            "triplet_video": self.isa(model.triplet_video, triplet_video, triplets[:, None]),
        }

    def both(self, interact, similarity: Tensor, text: Tensor, video: Tensor) -> Tensor:
        """Bi-ISA of (T, V, L, K)."""
        over_text = self.isa(interact.text, similarity.transpose(2, 3), text[:, None, None])  # (T, V, K)
        over_video = self.isa(interact.video, similarity, video[None, :, None])  # (T, V, L)
        by_text = self.isa(interact.video_last, over_text, video[None])
        return (by_text + self.isa(interact.text_last, over_video, text[:, None])) / 2

    def isa(self, module, similarity: Tensor, mask: Tensor) -> Tensor:
        """ISA over the last axis."""
        mix = module.mix[: similarity.shape[-1], : similarity.shape[-1]]
        weight = (similarity / module.inner).masked_fill(~mask, -1e4).softmax(-1)
        weight = torch.einsum("...k,qk->...q", weight, mix)
        weight = (weight / module.outer).masked_fill(~mask, -1e4).softmax(-1)
        return (weight * similarity).sum(-1)


def step(model: Method, loss: Callable, features: Features, optimizer: AdamW | None = None) -> Tensor:
    """Forward, backward, update; the loss."""
    torch.manual_seed(1)
    total = sum(loss(features, 0.5).values())
    total.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    return total.detach()


def peers(device: str) -> tuple[Method, dict[str, Callable], Features]:
    """The model, the two ways to compute its loss, and a batch."""
    torch.manual_seed(0)
    model = methods.build("unitrim", {}).to(device).train()
    features = {name: tensor.to(device) for name, tensor in batch().items()}
    phase = model.phases()[0]
    model.requires_grad_(False)
    for module in model.learned(phase).values():
        module.requires_grad_(True)
    phase.loss(features, 0.0)  # the biases
    return model, {"unitrim": phase.loss, "einsum": Plain(model).loss}, features


def agree(model: Method, losses: dict[str, Callable], features: Features) -> float:
    """Largest difference of the two gradients, relative to each parameter's largest; they must be the same mathematics."""
    grads = {}
    for name, loss in losses.items():
        step(model, loss, features)
        grads[name] = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
    assert len(grads["unitrim"]) == len(grads["einsum"])
    ratios = [
        ((one - other).abs().max() / other.abs().max().clamp(min=1e-4)).item()
        for one, other in zip(*grads.values())
        if one.numel() > 1  # the selector's last bias shifts all scores of a frame alike: its gradient is noise
    ]
    assert max(ratios) < 1e-2, f"gradients differ by {max(ratios):.1e}"
    return max(ratios)


def timed(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            wait()
            began = time.perf_counter()
            run()
            wait()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def steps(device: str, repeats: int) -> dict[str, float]:
    """Seconds a step of both, of the same model."""
    model, losses, features = peers(device)
    print(f"gradients agree to {agree(model, losses, features):.1e}")
    optimizer = AdamW(
        [group | {"lr": 0.0} for group in parameter_groups(model.learned(model.phases()[0]), model.config, 0.0)]
    )
    work = {name: lambda loss=loss: step(model, loss, features, optimizer) for name, loss in losses.items()}
    timed(work, 1)
    return {name: statistics.median(seconds) for name, seconds in timed(work, repeats).items()}


def peak(name: str) -> float:
    """MB that one step adds to the peak of a fresh process (CPU) or of the GPU's allocator."""
    model, losses, features = peers("cuda" if torch.cuda.is_available() else "cpu")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, losses[name], features)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step(model, losses[name], features)
    return (resident("VmHWM") - before) / 1e3


def resident(name: str) -> int:
    """A line of /proc/self/status, kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def memory(threads: int) -> dict[str, float]:
    """Peaks of both, each in a process of its own."""
    found = {}
    for name in ("unitrim", "einsum"):
        words = [sys.executable, "-m", "tests.bench.train", "--threads", str(threads), "--peak", name]
        found[name] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])
    return found


@torch.no_grad()
def similarity(device: str, texts: int, videos: int, repeats: int) -> dict[str, float]:
    """Seconds of all five scores of `texts` captions and `videos` videos, 96 patches each; the peer in blocks of 64 x 64."""
    model = methods.build("unitrim", {}).to(device).eval()
    plain = Plain(model)
    text = model.align_text({name: tensor.to(device) for name, tensor in batch(texts, patches=1).items()})
    made = torch.Generator().manual_seed(1)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, SIZE, generator=made), dim=-1).to(device)

    frames = torch.ones(videos, FRAMES, dtype=torch.bool, device=device)
    patches = torch.ones(videos, 8 * FRAMES, dtype=torch.bool, device=device)
    video = {"video": unit(videos), "frame": unit(videos, FRAMES), "patch": unit(videos, 8 * FRAMES)}
    video |= {"frame_mask": frames, "patch_mask": patches}

    def padded() -> Tensor:
        rows = []
        for at in range(0, texts, 64):
            some = {name: tensor[at : at + 64] for name, tensor in text.items()}
            blocks = [{name: tensor[v : v + 64] for name, tensor in video.items()} for v in range(0, videos, 64)]
            rows.append(torch.cat([torch.stack(list(plain.scores(some, part).values())).mean(0) for part in blocks], 1))
        return torch.cat(rows)

    work = {"unitrim": lambda: model.score_videos(text, video), "padded": padded}
    assert torch.allclose(work["unitrim"](), work["padded"](), atol=1e-5)
    return {name: statistics.median(seconds) for name, seconds in timed(work, repeats).items()}


def waiting(device: str, steps: int) -> float:
    """Share of the time of a real run's steps that waits for the loader, over MSR-VTT-like shards."""
    with tempfile.TemporaryDirectory() as folder:
        path = worlds.cache(Path(folder) / "like", 192, 10, SIZE, PATCHES, FRAMES, ragged=False)
        loader = Loader(Cache(path, methods.load("unitrim").needs), "train", BATCH, 0, device)
        model = methods.build("unitrim", {}).to(device).train()
        phase = model.phases()[0]
        optimizer = AdamW(parameter_groups(model.learned(phase), model.config, phase.learning_rate))
        began, waited, done = 0.0, 0.0, 0
        for epoch in range(1 + steps // loader.steps):
            for features in loader.epoch(epoch):
                if done == 1:  # the first batch of a run has nothing to hide behind
                    began, waited = time.perf_counter(), loader.waited
                step(model, phase.loss, features, optimizer)
                done += 1
        wait()
        return (loader.waited - waited) / (time.perf_counter() - began)


def gpu(seconds: float) -> str:
    """What a step under bf16 autocast makes of a GPU."""
    model, losses, features = peers("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        timed({"warm": lambda: step(model, losses["unitrim"], features)}, 3)
        fast = statistics.median(timed({"bf16": lambda: step(model, losses["unitrim"], features)}, 10)["bf16"])
    device = torch.cuda.get_device_name()
    rate = next((peak for name, peak in PEAK.items() if name in device), None)
    share = f", {operations() / fast / rate:.1%} of its bf16 peak" if rate else ""
    return (
        f"{device}: {BATCH / fast:.0f} samples/s in bf16 ({BATCH / seconds:.0f} in fp32){share}, "
        f"{60 * BATCH / fast / MSRVTT_SAMPLES:.2f} epochs of MSR-VTT a minute"
    )


def operations() -> float:
    """Floating point operations of a step's matrix products, forward and backward, padding not counted."""
    tokens, words = BATCH * FRAMES, BATCH * 10.5
    temporal = 6 * tokens * 12 * 4 * SIZE**2
    selector = 4 * tokens * PATCHES * SIZE * SIZE
    products = 6 * words * tokens * 8 * SIZE
    return temporal + selector + products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="all 1000 x 1000 pairs; otherwise 1000 texts x 128 videos")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # as the trainer does; the peer gains from it too
    if args.peak:
        print(peak(args.peak))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds, space = steps(device, args.repeats), memory(args.threads)
    videos = 1000 if args.full else 128
    pairs = similarity(device, 1000, videos, 1 if args.full else 3)
    share = waiting(device, 12)
    print(
        f"{device}, {args.threads} threads, batch {BATCH}, {FRAMES} frames x {PATCHES} patches, {WORDS} words (10.5 valid)"
    )
    print(f"{'':34}{'einsum':>10}{'unitrim':>10}{'ratio':>8}")
    print(
        f"{'step, ms':34}{seconds['einsum'] * 1e3:10.0f}{seconds['unitrim'] * 1e3:10.0f}{ratio(seconds, 'einsum'):8.2f}"
    )
    print(f"{'peak of a step, MB':34}{space['einsum']:10.0f}{space['unitrim']:10.0f}{ratio(space, 'einsum'):8.2f}")
    name = f"1000 x {videos} similarity, s"
    print(f"{name:34}{pairs['padded']:10.2f}{pairs['unitrim']:10.2f}{ratio(pairs, 'padded'):8.2f}")
    print(f"{'waiting for data':34}{'':10}{share:10.2%}")
    if device == "cuda":
        print(gpu(seconds["unitrim"]))
    figures = {
        "step_of_einsum": ratio(seconds, "einsum"),
        "memory_of_einsum": 1 / ratio(space, "einsum"),
        "similarity_of_padded": ratio(pairs, "padded"),
        "data_wait": share,
    }
    print(json.dumps({name: round(figure, 4) for name, figure in figures.items()}))


def ratio(figures: dict[str, float], peer: str) -> float:
    """How many times the peer's figure is ours."""
    return figures[peer] / figures["unitrim"]


if __name__ == "__main__":
    main()
