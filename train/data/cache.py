"""One dataset's shards as rows of captions and videos, and the features of any of them."""

# Axes: B batch, N frames, P patches, L words, M triplets, T tokens of a triplet, D embedding, W width of the image tower.

from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import torch

from pipeline.files import read_table
from pipeline.shards import Shard, ShardError, prove_shards, rebuild_command, require_one_clip, shard_path, shard_paths
from pipeline.shards.identity import PHRASES
from train.data.ragged import Indexed, Memory, PaddedColumn, Ragged, ShardColumn, collect, upload
from train.method import Features

TEXT = ("sentence", "word", "triplet", "token", "triplet_token", "piece")
SPANS = ("without_noun", "noun", "without_verb", "verb")  # of captions too; a caption may have none of a kind
VIDEO = ("frame", "patch", "hidden")
IMAGE = ("image", "image_patch", "image_hidden")
SINGLE = ("sentence", "image", "image_patch", "image_hidden")  # one row a sample: no length axis, no mask
MASKS = dict.fromkeys(VIDEO, "frame_mask") | {"token": "word_mask", "triplet_token": "triplet_mask"}


def allocate(name: str, shape: tuple[int, ...], limit: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """A fresh tensor; nothing is reused."""
    return torch.empty(shape, dtype=dtype)


class Cache:
    """One dataset's shards, opened for what `needs` names: rows of captions and videos, and their features.

    Videos and captions are numbered as in the manifest, those left out that the visual or the text stage rejected.
    """

    def __init__(self, folder: Path | str, needs: Iterable[str], words: int = 32, triplets: int = 8):
        self.folder, self.needs = Path(folder), frozenset(needs)
        unknown = self.needs - {*TEXT, *SPANS, *VIDEO, *IMAGE}
        if unknown:
            raise ValueError(
                f"no such features: {', '.join(sorted(unknown))}; there are {TEXT + SPANS + VIDEO + IMAGE}"
            )
        self.words, self.triplets = words, triplets
        visual = self._shards("visual", "visual")
        text = self._shards("text", "text")
        phrases = [Shard(self.folder / "text" / "phrases.h5", "phrases")] if self.needs & PHRASES else []
        spans = self._shards("spans", "spans") if self.needs & set(SPANS) else []
        removed = [Shard(self.folder / "spans" / "removed.h5", "removed")] if spans else []
        lexicon = self._shards("lexicon", "lexicon") if "piece" in self.needs else []
        prove_shards(self.folder, [*visual, *text, *phrases, *spans, *removed, *lexicon])
        self.clip_sha256 = require_one_clip([*visual, *text, *spans, *removed])
        self._rows(visual, text)
        self.features: dict[str, Ragged | Indexed] = {}
        self.tail = 0  # of CLIP's last image blocks, how many `hidden` lets a run own; 0 where it is not needed
        self._open_visual(visual)
        self._open_text(text)
        if spans:
            self._open_spans(spans, removed[0])
        self._open_lexicon(lexicon)
        self.dimension = visual[0].place("frame").shape[1]
        self.patches = visual[0].place("patch").shape[1]
        self.frames = max(int(visual[0].attributes["frames"]), int(self.frame_count.max(initial=1)))

    def __len__(self) -> int:
        return len(self.video_id)

    def captions(self, split: str) -> np.ndarray:
        """Rows of the captions of a split."""
        return np.flatnonzero(self.video_split[self.video_of] == split)

    def videos(self, split: str) -> np.ndarray:
        """Rows of the videos of a split."""
        return np.flatnonzero(self.video_split == split)

    def text(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """Those of sentence (B, D), word (B, L, D), triplet (B, M, D) and of SPANS, that are needed, with masks.

        Of a lexicon: piece (B, L) int32. For who runs the text tower itself: token (B, L) int32, triplet_token (B, M, T) int32
        with -1 behind each phrase's last.
        """
        return self.collect(TEXT + SPANS, rows, allocate, dtype)

    def video(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """Those of frame (B, N, D), patch (B, N, P, D), hidden (B, N, 1 + P, W) that are needed, with frame_mask."""
        return self.collect(VIDEO, rows, allocate, dtype)

    def image(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Features:
        """Those of image (B, D), image_patch (B, P, D), image_hidden (B, 1 + P, W) that are needed: of the keyframe."""
        return self.collect(IMAGE, rows, allocate, dtype)

    def collect(
        self,
        names: Iterable[str],
        rows: np.ndarray,
        memory: Memory,
        dtype: torch.dtype,
        readers: Executor | None = None,
        beside: np.ndarray | None = None,
    ) -> Features:
        """Features `names` of some rows, as far as they are needed, as long as the longest of these or of the rows `beside`."""
        rows, batch = np.asarray(rows, np.int64), {}
        for name in names:
            if name not in self.features:
                continue
            tensor, counts = collect(name, self.features[name], rows, memory, readers, beside)
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            batch[name] = tensor[:, 0] if name in SINGLE else tensor
            if name not in SINGLE:
                mask = torch.from_numpy(np.arange(tensor.shape[1]) < counts[:, None])
                batch[MASKS.get(name, f"{name}_mask")] = upload(mask, tensor.device)
        return batch

    def columns(self) -> list[ShardColumn]:
        """Those that are needed, the smallest first."""
        found = {id(feature.column): feature.column for feature in self.features.values()}
        return sorted(found.values(), key=lambda column: column.nbytes)

    def nbytes(self) -> int:
        """Bytes of everything needed."""
        return sum(column.nbytes for column in self.columns())

    def preload(self, device: torch.device, limit: int | None = None) -> None:
        """Bring everything needed to the device, or the smallest columns that take at most `limit` bytes together."""
        for column in self.columns():
            if limit is not None:
                limit -= column.nbytes
                if limit < 0:
                    return
            if column.resident is None:
                column.preload(device)

    # --- opening

    def _shards(self, name: str, kind: str) -> list[Shard]:
        found = [Shard(path, kind) for path in shard_paths(self.folder / name)]
        if not found:
            raise ShardError(
                f"{self.folder} has no {name} shards; run: {rebuild_command(shard_path(self.folder / name, 0))}"
            )
        return found

    def _table(self, name: str, stage: str) -> dict[str, list]:
        path = self.folder / name
        if not path.exists():
            raise ShardError(f"{path} is missing; run: dvc repro {stage}@{self.folder.name}")
        return read_table(path).to_pydict()

    def _rejected(self, *stages: str) -> set[str]:
        paths = [self.folder / stage / "rejects.parquet" for stage in stages]
        found = [read_table(path, ["id"]) for path in paths if path.exists()]
        return {name for table in found for name in table["id"].to_pylist()}

    def _rows(self, visual: list[Shard], text: list[Shard]) -> None:
        """Number videos and captions, and check that each is in a shard or among the rejects."""
        items = self._table("manifest/items.parquet", "manifest")
        at = {name: row for row, name in enumerate(name for shard in visual for name in shard["video_id"])}
        rejected = self._rejected("visual")
        kept = [row for row, name in enumerate(items["video_id"]) if name in at and name not in rejected]
        self._complete("visual", items["video_id"], rejected | set(at))
        self.video_id = np.array([items["video_id"][row] for row in kept], dtype=object)
        self.video_split = np.array([items["split"][row] for row in kept], dtype=object)
        self.group = np.array([items["group"][row] for row in kept], dtype=object)
        self.path = np.array([items["path"][row] for row in kept], dtype=object)
        self.visual_row = np.array([at[name] for name in self.video_id], np.int64)

        captions = self._table("manifest/captions.parquet", "manifest")
        at = {name: row for row, name in enumerate(name for shard in text for name in shard["caption_id"])}
        video = {name: row for row, name in enumerate(self.video_id)}
        rejected = self._rejected("text", "triplets")
        shown = [row for row, name in enumerate(captions["video_id"]) if name in video]
        self._complete("text", [captions["caption_id"][row] for row in shown], rejected | set(at))
        kept = [row for row in shown if captions["caption_id"][row] in at]
        self.caption_id = np.array([captions["caption_id"][row] for row in kept], dtype=object)
        self.caption = np.array([captions["text"][row] for row in kept], dtype=object)
        self.video_of = np.array([video[captions["video_id"][row]] for row in kept], np.int64)
        self.text_row = np.array([at[name] for name in self.caption_id], np.int64)
        self.left_out = {  # what the manifest names and no batch will show
            "videos": len(items["video_id"]) - len(self.video_id),
            "captions": len(captions["caption_id"]) - len(self.caption_id),
        }

    def _complete(self, stage: str, wanted: list[str], known: set[str]) -> None:
        missing = [name for name in wanted if name not in known]
        if missing:
            raise ShardError(
                f"{len(missing)} of {len(wanted)} are neither in {self.folder / stage} nor rejected there, "
                f"{missing[0]!r} first; run: dvc repro {stage}@{self.folder.name}"
            )

    def _open_visual(self, visual: list[Shard]) -> None:
        start, count = _ragged(visual, "offset")
        start, self.frame_count = start[self.visual_row], count[self.visual_row]
        column = ShardColumn("frame", visual)
        longest = int(self.frame_count.max(initial=1))
        if "frame" in self.needs:
            self.features["frame"] = Ragged(column, start, self.frame_count, longest)
        patches = ShardColumn("patch", visual) if self.needs & {"patch", "image_patch"} else None
        if "patch" in self.needs:
            self.features["patch"] = Ragged(patches, start, self.frame_count, longest)
        if self.needs & {"hidden", "image_hidden"}:
            hidden = self._hidden(visual)
        if "hidden" in self.needs:
            self.features["hidden"] = Ragged(hidden, start, self.frame_count, longest)
        keyframe = start + self._keyframe() if self.needs & set(IMAGE) else start
        if "image" in self.needs:
            self.features["image"] = Ragged(column, keyframe, np.ones_like(start), 1)
        if "image_patch" in self.needs:
            self.features["image_patch"] = Ragged(patches, keyframe, np.ones_like(start), 1)
        if "image_hidden" in self.needs:
            self.features["image_hidden"] = Ragged(hidden, keyframe, np.ones_like(start), 1)

    def _hidden(self, visual: list[Shard]) -> ShardColumn:
        tails = {shard.attributes.get("tail", 0) for shard in visual}
        if len(tails) != 1 or tails == {0}:
            name = self.folder.name
            raise ShardError(
                f"{self.folder} holds nothing that enters CLIP's last blocks, so no run can own them; set "
                f"datasets.{name}.tail.image in params.yaml and run: dvc repro clip@{name} visual@{name}"
            )
        self.tail = tails.pop()
        return ShardColumn("hidden", visual)

    def _keyframe(self) -> np.ndarray:
        table = self._table("keyframes.parquet", "keyframes")
        index = dict(zip(table["video_id"], table["index"], strict=True))
        keyframe = np.array([index.get(name, -1) for name in self.video_id], np.int64)
        bad = np.flatnonzero((keyframe < 0) | (keyframe >= self.frame_count))
        if len(bad):
            raise ShardError(
                f"{self.folder / 'keyframes.parquet'} does not fit the visual shards (video {self.video_id[bad[0]]!r}); "
                f"run: dvc repro keyframes@{self.folder.name}"
            )
        return keyframe

    def _open_text(self, text: list[Shard]) -> None:
        if "sentence" in self.needs:
            one = np.ones_like(self.text_row)
            self.features["sentence"] = Ragged(ShardColumn("sentence", text), self.text_row, one, 1)
        if "word" in self.needs:
            start, count = (part[self.text_row] for part in _ragged(text, "word_offset"))
            self.features["word"] = Ragged(ShardColumn("word", text), start, count, self.words)
        if "token" in self.needs:
            start, count = (part[self.text_row] for part in _ragged(text, "word_offset"))
            self.features["token"] = Ragged(ShardColumn("token", text), start, count, self.words)
        if self.needs & PHRASES:
            phrases = Shard(self.folder / "text" / "phrases.h5", "phrases")
            require_one_clip([text[0], phrases])
            row = _table_rows(text, "triplet", phrases)
            start, count = (part[self.text_row] for part in _ragged(text, "triplet_offset"))
            columns = {name: self._phrases(name, phrases) for name in self.needs & PHRASES}
            self.features |= {
                name: Indexed(column, row, start, count, self.triplets) for name, column in columns.items()
            }

    def _phrases(self, name: str, phrases: Shard) -> ShardColumn:
        if name == "triplet":
            return ShardColumn("embedding", [phrases])
        if "token" not in phrases.names:
            raise ShardError(f"{phrases.path} holds no token ids; run: {rebuild_command(phrases.path)}")
        return PaddedColumn("triplet_token", phrases["token"], phrases["token_offset"])

    def _open_spans(self, spans: list[Shard], removed: Shard) -> None:
        at = {name: row for row, name in enumerate(name for shard in spans for name in shard["caption_id"])}
        self._complete("spans", list(self.caption_id), set(at))
        own, words = np.array([at[name] for name in self.caption_id], np.int64), ShardColumn("embedding", [removed])
        for name in SPANS:
            if name not in self.needs:
                continue
            start, count = (part[own] for part in _ragged(spans, f"{name}_offset"))
            if name.startswith("without"):
                self.features[name] = Ragged(ShardColumn(name, spans), start, count, self.words)
            else:
                most = int(count.max(initial=1))
                self.features[name] = Indexed(words, _table_rows(spans, name, removed), start, count, most)

    def _open_lexicon(self, lexicon: list[Shard]) -> None:
        if not lexicon:
            return
        marks = {str(shard.attributes["lexicon_sha256"]) for shard in lexicon}
        at = {name: row for row, name in enumerate(name for shard in lexicon for name in shard["caption_id"])}
        missing = [name for name in self.caption_id if name not in at]
        if missing or len(marks) != 1:
            what = f"{len(missing)} captions are missing, {missing[0]!r} first" if missing else "they are of two models"
            raise ShardError(f"{self.folder / 'lexicon'}: {what}; run: {rebuild_command(lexicon[0].path)}")
        row = np.array([at[name] for name in self.caption_id], np.int64)
        start, count = (part[row] for part in _ragged(lexicon, "piece_offset"))
        self.features["piece"] = Ragged(ShardColumn("piece", lexicon), start, count, self.words)
        self.lexicon_sha256 = marks.pop()


def _table_rows(of: list[Shard], name: str, table: Shard) -> np.ndarray:
    """Rows of a table of embeddings for the keys in a tensor of all shards; ShardError where the two do not fit."""
    wanted, known = np.concatenate([np.asarray(shard[name]) for shard in of]), np.asarray(table["key"])
    row = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    if len(wanted) and (not len(known) or (known[row] != wanted).any()):
        raise ShardError(f"{table.path} does not fit the {of[0].kind} shards; run: {rebuild_command(table.path)}")
    return row


def _ragged(of: list[Shard], name: str) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of rows of each sample, running through all shards."""
    offsets = [np.asarray(shard[name]) for shard in of]
    ends = np.cumsum([0] + [offset[-1] for offset in offsets])
    start = np.concatenate([offset[:-1] + end for offset, end in zip(offsets, ends)])
    return start, np.concatenate([np.diff(offset) for offset in offsets])


def require_parts(shards: Path) -> None:
    """ValueError that says what to run where a part of a dataset's cache is not there."""
    for part, stage in (
        ("manifest", "manifest"),
        ("visual", "visual"),
        ("keyframes.parquet", "keyframes"),
        ("text", "text"),
    ):
        if not (shards / part).exists():
            raise ValueError(f"{shards / part} is missing; run: dvc repro {stage}@{shards.name}")
