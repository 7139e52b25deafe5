"""A sentence as the text stage would have encoded it, and a picture as the visual stage would have."""

import io
import json
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.files import CLIPError, DecodeError, LexiconError, everything_command


class Reader:
    """Reads sentences and pictures by the CLIP that encoded a library's shards; the CLIP is loaded when first asked."""

    def __init__(self, shards: Path, method: Any, clip_sha256: str | None, device: str):
        self.shards, self.method, self.clip_sha256, self.device = shards, method, clip_sha256, device
        self.words, self.triplets = method.config.words, method.config.triplets
        self.settings = read_settings(shards)["triplets"]
        self.towers: Any = None

    def phrases(self, sentence: str) -> list[str]:
        """What the sentence says, by the shallow parser: it answers at once and needs no server."""
        if not {"triplet", "triplet_token"} & self.method.needs:
            return []
        from pipeline.scene_graph import parse

        return parse([sentence], self.settings | {"parser": "shallow"})[0]["phrases"][: self.triplets]

    def load(self) -> Any:
        """The CLIP; CLIPError where it is another one or gone."""
        if self.towers is None:
            from pipeline.encoders.towers import FrozenCLIP

            try:
                towers = FrozenCLIP.load(self.shards / "clip", self.device, "fp32")
            except (ValueError, OSError) as error:
                raise CLIPError(f"the sentence cannot be encoded: {error}") from None
            if towers.sha256 != self.clip_sha256:
                raise CLIPError(
                    f"{self.shards}/clip is not the CLIP that made the shards; run: {everything_command(self.shards.name)}"
                )
            self.towers = towers
        return self.towers

    def features(self, sentence: str, phrases: list[str]) -> dict[str, Any]:
        """sentence (1, D), word (1, L, D), triplet (1, M, D) with masks, rounded as the shards round.

        For a run that has a text tower of its own also token (1, L) and triplet_token (1, M, T), -1 behind each phrase's last.
        """
        import torch

        towers = self.load()
        _, word = towers.encode_texts([sentence], self.words, alone=True)[0]
        word = word.half().float()[None]
        made = {"sentence": word[:, -1], "word": word, "word_mask": torch.ones(word.shape[:2], dtype=torch.bool)}
        if "piece" in self.method.needs:
            made |= self.pieces(sentence)
        if phrases:
            triplet = [token[-1] for _, token in towers.encode_texts(phrases, self.words, alone=True)]
            made["triplet"] = torch.stack(triplet).half().float()[None]
            made["triplet_mask"] = torch.ones(made["triplet"].shape[:2], dtype=torch.bool)
        if "token" in self.method.needs:
            made["token"] = torch.tensor(towers.tokenize([sentence], self.words), dtype=torch.int32)
        if phrases and "triplet_token" in self.method.needs:
            ids = [torch.tensor(one, dtype=torch.int32) for one in towers.tokenize(phrases, self.words)]
            made["triplet_token"] = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)[None]
        made |= self.gaps(sentence)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def gaps(self, sentence: str) -> dict[str, Any]:
        """What the spans stage would have made of the sentence, as far as the method's scores read it: without_noun, noun, ..."""
        import torch

        wanted = (self.method.needs - self.method.taught_by) & {"noun", "verb"}
        if not wanted:
            return {}
        from pipeline.scene_graph import parse
        from pipeline.shards.update_spans import split_words

        found = parse([sentence], self.settings | {"parser": "shallow"})[0]
        row = split_words({"caption_id": "", "video_id": "", "text": sentence} | found)
        made = {}
        for kind in sorted(wanted):
            texts = [row[f"without_{kind}"], *row[kind]] if row[kind] else []
            word = [token for _, token in self.load().encode_texts(texts, self.words, alone=True)] if texts else []
            nothing = torch.zeros(1, self.load().dimension)
            left, lost = (word[0], torch.stack([one[-1] for one in word[1:]])) if word else (nothing, nothing)
            for name, tensor in ((f"without_{kind}", left), (kind, lost)):
                made[name] = tensor.half().float()[None]
                made[f"{name}_mask"] = torch.full(made[name].shape[:2], bool(word))
        return made

    def pieces(self, sentence: str) -> dict[str, Any]:
        """piece (1, L) with its mask, by the tokenizer of the lexicon. LexiconError where that is another one or gone."""
        import torch

        from pipeline.encoders.masked import PieceEncoder, read_record
        from pipeline.encoders.weights import locate

        home = self.shards / "lexicon"
        record = read_record(home)
        if record is None or record["sha256"] != self.method.config.language_model["sha256"]:
            raise LexiconError(
                f"{home} is not the lexicon of this run; run: python -m pipeline.lexicon --dataset {self.shards.name}"
            )
        source = locate(record["name"], record["revision"], home / "model", "lexicon")
        ids = torch.from_numpy(PieceEncoder(source, record, self.words)([sentence])[0])[None]
        return {"piece": ids, "piece_mask": torch.ones(ids.shape, dtype=torch.bool)}

    def encode(self, sentence: str) -> dict[str, Any]:
        """A sentence as the method compares it, with its plain CLIP vector as `coarse` (1, D)."""
        from train.layers import full_precision
        from train.method import unit

        features = self.features(sentence, self.phrases(sentence))
        return full_precision(self.method.encode_text)(features), unit(features["sentence"])[0].cpu().numpy()

    def picture(self, data: bytes) -> Any:
        """(D,) unit vector of a photo. Errors: DecodeError where the bytes are none."""
        import torch

        from pipeline.video import images
        from pipeline.video.resize import resize

        kind = images.picture_format(data[:64])
        if kind is None:
            raise DecodeError("not_a_photo", "it is no JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC or AVIF")
        try:
            with images.open_picture(io.BytesIO(data), kind) as image:
                images.shrink(image, self.load().size)
                pixels = resize(images.upright(image), self.load().size)[None]
        except images.BROKEN as error:
            raise error if isinstance(error, DecodeError) else DecodeError("damaged", str(error)) from None
        frame = self.load().encode_images(pixels)[0][0]
        return torch.nn.functional.normalize(frame, dim=-1).numpy()


def read_root(shards: Path) -> str:
    """The folder of the library's files; without one paths stay relative."""
    return read_settings(shards)["root"]


def read_settings(shards: Path) -> dict[str, Any]:
    """root and triplets of the dataset: from params.yaml, else from the params.json beside the shards."""
    known = (params.read_params().get("datasets") or {}) if params.PARAMS.exists() else {}
    beside = shards / "params.json"
    config: dict[str, Any] = {}
    if shards.name in known:
        config = params.read_dataset(shards.name)
    elif beside.exists():
        config = json.loads(beside.read_text(encoding="utf-8"))
    return {"root": config.get("root", ""), "triplets": config.get("triplets", {})}
