"""Answer sentences with the images and videos that match them, best first."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.search.gallery import gallery_identity, keep_gallery, read_gallery, to_full, to_half
from pipeline import params, progress
from pipeline.files import CLIPError, MissingError, ParamsError


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
        from eval.load import load_run
        from eval.similarity import Scorer, item_kinds
        from pipeline.shards import VideoReader

        self.shards, self.device = shards, device
        self.method, self.cache, record = load_run(run, shards, device)
        self.scorer = Scorer(self.method, self.cache, device)
        rows = np.arange(len(self.cache)) if split == "all" else self.cache.videos(split)
        if not len(rows):
            raise MissingError(f"{shards} has nothing in split {split!r}; try --split all")
        photo, _ = item_kinds(self.cache, rows)
        self.rows = {"image": rows, "video": rows[~photo]}
        self.photos = {str(self.cache.video_id[row]) for row in rows[photo]}
        self.visual = VideoReader(shards)
        self.config = count_parameters(shards.name)
        self.unkept: str | None = None  # why the encoded gallery could not be kept
        self.gallery = self.encoded(run, split, record.get("method", run.name))
        self.towers: Any = None

    def encoded(self, run: Path, split: str, name: str) -> dict[str, list[dict[str, Any]]]:
        """Encoded items of both galleries, from the kept file if neither data nor code (of method `name`) has changed."""
        import torch

        path = self.shards / ".search" / f"{run.parent.parent.name}-{run.name}-{split}.pt"
        key = gallery_identity(run, self.shards, name)
        if (before := read_gallery(path, key)) is not None:
            return before
        gallery: dict[str, list[dict[str, Any]]] = {}
        meter = progress.Progress(sum(map(len, self.rows.values())), "gallery", "item")
        with torch.inference_mode():
            for kind, rows in self.rows.items():
                gallery[kind] = []
                for block in self.scorer.encode_gallery(rows, kind):
                    gallery[kind].append({name: to_half(tensor) for name, tensor in block.items()})
                    meter.add(len(next(iter(block.values()))))
        meter.close()
        self.unkept = keep_gallery(path, key, gallery)
        return gallery

    def __call__(self, query: str, top: int = 5) -> dict[str, Any]:
        """The best images and videos for a sentence, and the phrases it was read as.

        Errors: ValueError for an empty sentence.
        """
        import torch

        if not query.strip():
            raise ParamsError("the sentence is empty")
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
        _, word = self.towers.encode_texts([query], self.cache.words, alone=True)[0]
        word = word.half().float()[None]
        made = {"sentence": word[:, -1], "word": word, "word_mask": torch.ones(word.shape[:2], dtype=torch.bool)}
        if phrases:
            triplet = [token[-1] for _, token in self.towers.encode_texts(phrases, self.cache.words, alone=True)]
            made["triplet"] = torch.stack(triplet).half().float()[None]
            made["triplet_mask"] = torch.ones(made["triplet"].shape[:2], dtype=torch.bool)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def load_towers(self) -> Any:
        """The CLIP that encoded the shards; CLIPError where it is another one or gone."""
        from pipeline.encoders.towers import FrozenCLIP

        try:
            towers = FrozenCLIP.load(self.shards / "clip", self.device, "fp32")
        except (ValueError, OSError) as error:
            raise CLIPError(f"the sentence cannot be encoded: {error}") from None
        if towers.sha256 != self.cache.clip_sha256:
            raise CLIPError(
                f"{self.shards}/clip is not the CLIP that made the shards; run: dvc repro text@{self.shards.name}"
            )
        return towers

    def best(self, kind: str, text: dict[str, Any], top: int) -> list[dict[str, Any]]:
        """The `top` items of one gallery; equal scores in the order of their ids."""
        blocks = (
            {name: to_full(tensor, self.device) for name, tensor in block.items()} for block in self.gallery[kind]
        )
        parts = [self.scorer.score(text, block, kind)[0] for block in blocks]
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

        of = {"image": "frame", "image_patch": "patch"}
        frames = {
            image: torch.from_numpy(np.asarray(self.visual.videos[name][tensor], np.float32)).to(self.device)
            for image, tensor in of.items()
            if image in self.method.needs
        }
        return int(self.method.score_images(text, self.method.encode_image(frames))[0].argmax())


def count_parameters(name: str) -> dict[str, Any]:
    """root and triplets of the dataset in params.yaml; without it paths stay relative."""
    known = params.read_params().get("datasets", {}) if params.PARAMS.exists() else {}
    config = params.read_dataset(name) if name in known else {}
    return {"root": config.get("root", ""), "triplets": config.get("triplets", {})}
