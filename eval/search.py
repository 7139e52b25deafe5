"""Find images and videos by one sentence.

python -m eval.search --run cache/demo/runs/unitrim --shards cache/demo "a red ball rolls to the left"

Without a sentence it reads one a line, so that the models are loaded once. The encoded gallery is kept beside the shards,
in `.search/`, for as long as the checkpoint and the shards stay what they are.
"""

import argparse
import hashlib
import json
import os
import pickle
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import shards as files
from pipeline import stage

VERSION = 1  # of the kept gallery
SPLITS = ("all", "train", "val", "test")


@dataclass
class Found:
    """One result."""

    rank: int
    score: float
    id: str
    path: str
    kind: str  # photo, keyframe or video
    time: float | None  # seconds: the keyframe's, or the moment of the video that fits best; None for a photo


class Search:
    """One run over one dataset, ready for queries."""

    def __init__(self, run: Path, shards: Path, split: str = "all", device: str = "cpu"):
        from eval.run import opened
        from eval.similarity import kinds
        from eval.visual import Visual

        self.shards, self.device = shards, device
        self.method, self.cache, _ = opened(run, shards, device)
        rows = np.arange(len(self.cache)) if split == "all" else self.cache.videos(split)
        if not len(rows):
            raise SystemExit(f"{shards} has nothing in split {split!r}; try --split all")
        photo, _ = kinds(self.cache, rows)
        self.rows = {"image": rows, "video": rows[~photo]}
        self.photos = {str(self.cache.video_id[row]) for row in rows[photo]}
        self.visual = Visual(shards)
        self.config = parameters(shards.name)
        self.gallery = self.encoded(run, split)
        self.towers: Any = None

    def encoded(self, run: Path, split: str) -> dict[str, list[dict[str, Any]]]:
        """Encoded items of both galleries, from the kept file if nothing has changed."""
        import torch

        from eval.similarity import encoded

        path = self.shards / ".search" / f"{run.parent.parent.name}-{run.name}-{split}.pt"
        key = identity(run, self.shards)
        if (before := kept(path, key)) is not None:
            return before
        gallery: dict[str, list[dict[str, Any]]] = {}
        meter = stage.Progress(sum(map(len, self.rows.values())), "gallery", "item")
        with torch.inference_mode():
            for kind, rows in self.rows.items():
                gallery[kind] = []
                for block in encoded(self.method, self.cache, rows, kind, self.device):
                    gallery[kind].append({name: half(tensor) for name, tensor in block.items()})
                    meter.add(len(next(iter(block.values()))))
        meter.close()
        own = path.with_suffix(f".{os.getpid()}")  # two searches may encode at once
        with stage.replacing(own) as part:
            torch.save({"key": key, "gallery": gallery}, part)
        os.replace(own, path)
        return gallery

    def __call__(self, query: str, top: int = 5) -> dict[str, Any]:
        """The best images and videos for a sentence, and the phrases it was read as.

        Errors: ValueError for an empty sentence.
        """
        import torch

        if not query.strip():
            raise ValueError("the sentence is empty")
        phrases = self.phrases(query)
        with torch.inference_mode():
            text = self.method.encode_text(self.features(query, phrases))
            found = {kind: self.best(kind, text, top) for kind in ("image", "video")}
        return {"query": query, "phrases": phrases, "images": found["image"], "videos": found["video"]}

    def phrases(self, query: str) -> list[str]:
        """What the sentence says, by the shallow parser: it answers at once and needs no server."""
        if "triplet" not in self.method.needs:
            return []
        from pipeline.scene_graph import parse

        return parse([query], self.config["triplets"] | {"parser": "shallow"})[0]["phrases"][: self.cache.triplets]

    def features(self, query: str, phrases: list[str]) -> dict[str, Any]:
        """The sentence as the text stage would have encoded it: sentence, words, triplets of one row."""
        import torch

        if self.towers is None:
            self.towers = self.load_towers()
        _, word = self.towers.texts([query], self.cache.words, alone=True)[0]
        word = word.half().float()[None]
        made = {"sentence": word[:, -1], "word": word, "word_mask": torch.ones(word.shape[:2], dtype=torch.bool)}
        if phrases:
            triplet = [token[-1] for _, token in self.towers.texts(phrases, self.cache.words, alone=True)]
            made["triplet"] = torch.stack(triplet).half().float()[None]
            made["triplet_mask"] = torch.ones(made["triplet"].shape[:2], dtype=torch.bool)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def load_towers(self) -> Any:
        """The CLIP that encoded the shards; SystemExit where it is another one or gone."""
        from pipeline.towers import Towers

        try:
            towers = Towers.load(self.shards / "clip", self.device, "fp32")
        except (ValueError, OSError) as error:
            raise SystemExit(f"the sentence cannot be encoded: {error}") from None
        if towers.sha256 != self.cache.clip_sha256:
            raise SystemExit(
                f"{self.shards}/clip is not the CLIP that made the shards; run: dvc repro text@{self.shards.name}"
            )
        return towers

    def best(self, kind: str, text: dict[str, Any], top: int) -> list[dict[str, Any]]:
        """The `top` items of one gallery; equal scores in the order of their ids."""
        from eval.similarity import score

        blocks = ({name: full(tensor, self.device) for name, tensor in block.items()} for block in self.gallery[kind])
        parts = [score(self.method, kind, text, block)[0] for block in blocks]
        scores = np.concatenate(parts) if parts else np.empty(0, np.float32)
        order = np.argsort(-scores, kind="stable")[:top]
        return [
            asdict(self.found(place, kind, int(self.rows[kind][item]), float(scores[item]), text))
            for place, item in enumerate(order, 1)
        ]

    def found(self, place: int, kind: str, row: int, score: float, text: dict[str, Any]) -> Found:
        """One result with its path and time."""
        name = str(self.cache.video_id[row])
        path = str(Path(self.config["root"]) / self.cache.path[row])
        if name in self.photos:
            return Found(place, score, name, path, "photo", None)
        times = self.visual.times(name)
        index = self.visual.keyframe[name] if kind == "image" else self.moment(name, text)
        return Found(place, score, name, path, "keyframe" if kind == "image" else "video", float(times[index]))

    def moment(self, name: str, text: dict[str, Any]) -> int:
        """The frame of a video that fits best, each scored as an image."""
        import torch

        frame = torch.from_numpy(self.visual.frame(name)).to(self.device)
        return int(self.method.score_images(text, self.method.encode_image({"image": frame}))[0].argmax())


def kept(path: Path, key: str) -> Any:
    """The encoded gallery in a file, None where there is none, it is damaged, or it was made from something else."""
    import torch

    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
        return None
    return content["gallery"] if isinstance(content, dict) and content.get("key") == key else None


def half(tensor: Any) -> Any:
    """Float tensors as float16 on the CPU: what is kept takes half the room."""
    return (tensor.half() if tensor.is_floating_point() else tensor).cpu()


def full(tensor: Any, device: str) -> Any:
    """Float tensors as float32 on the device."""
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device)


def identity(run: Path, shards: Path) -> str:
    """What an encoded gallery depends on: the checkpoint, every visual row, the keyframes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{VERSION}".encode())
    digest.update((run / "checkpoint.pt").read_bytes())
    for path in files.files(shards / "visual"):
        digest.update("\n".join(files.Shard(path, "visual")["fingerprint"]).encode() + b"\0")
    for path in (shards / "keyframes.parquet", shards / "manifest" / "items.parquet"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parameters(name: str) -> dict[str, Any]:
    """root and triplets of the dataset in params.yaml; without it paths stay relative."""
    known = stage.parameters().get("datasets", {}) if stage.PARAMS.exists() else {}
    config = stage.dataset(name) if name in known else {}
    return {"root": config.get("root", ""), "triplets": config.get("triplets", {})}


def readable(answer: dict[str, Any]) -> str:
    """Results as a person reads them."""
    lines = [f"“{answer['query']}”"]
    if answer["phrases"]:
        lines.append(f"  {' · '.join(answer['phrases'])}")
    for kind in ("images", "videos"):
        lines += ["", kind]
        for one in answer[kind]:
            where = {
                "photo": "",
                "keyframe": f"  keyframe at {clock(one['time'])}",
                "video": f"  best at {clock(one['time'])}",
            }
            lines.append(f"{one['rank']:>3}  {one['score']:6.3f}  {one['path']}{where[one['kind']]}")
        if not answer[kind]:
            lines.append("     none")
    return "\n".join(lines)


def clock(seconds: float | None) -> str:
    """Seconds as 4.2 s or 12:05."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", help="a sentence; without it, one a line is read")
    parser.add_argument("--run", type=Path, required=True, help="cache/<dataset>/runs/<run>")
    parser.add_argument("--shards", type=Path, required=True, help="cache/<dataset>: what is searched")
    parser.add_argument("--top", type=int, default=5, help="how many images and how many videos")
    parser.add_argument("--split", default="all", choices=SPLITS, help="what of the dataset is searched")
    parser.add_argument("--json", action="store_true", help="one JSON object a sentence")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    if args.top < 1:
        parser.error("--top must be 1 or more")
    if args.query is not None and not args.query.strip():
        parser.error("the sentence is empty")
    from eval.run import device_of

    search = Search(args.run, args.shards, args.split, device_of(args.device))
    for query in [args.query] if args.query is not None else asked():
        answer = search(query, args.top)
        print(json.dumps(answer, ensure_ascii=False) if args.json else readable(answer), flush=True)


def asked() -> Any:
    """Sentences from the terminal or a pipe, one a line, blank lines left out."""
    while True:
        if sys.stdin.isatty():
            print("\nsentence (Ctrl-D ends): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    main()
