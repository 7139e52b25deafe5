"""Stage: videos and photos -> frame and patch tokens of the frozen CLIP, with times and thumbnails.

Workers decode beside the encoder; no frame touches the disk. A row is kept for as long as its fingerprint (file content,
span, sampling, decoder, CLIP weights, precision, VERSION) stands, so that adding ten videos decodes ten. A file that gives no
trustworthy frames becomes a row of rejects.parquet: items = kept + encoded + rejected.
"""

# Axes: N frames of a video, F frames of a shard, P patches, D embedding, S size.

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

from pipeline import engine, shards, stage
from pipeline.frames import Frames

VERSION = "1"
RESIZE = "shorter side, bicubic antialias, centre crop"
SECONDS, MEMORY = 120.0, 3 << 30  # of one item, before its worker is killed
WORKERS = 16  # at most; each holds some 250 MB
EACH = 8  # items a worker must have to be worth its start
REJECTS = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "stage", "reason", "detail")])


def main() -> None:
    arguments = stage.arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        retry={"metavar": "REASON", "help": "try the items again that were rejected for this reason, or `all`"},
        why={"metavar": "ID", "help": "say why this item's row is kept or made anew, and stop"},
    )
    config = stage.dataset(arguments.dataset)
    folder = stage.folder(config["name"], "visual")
    manifest = stage.need(stage.folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"])
    clip = stage.need(stage.folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    items = parquet.read_table(manifest).to_pylist()
    try:
        encoder = Encoder(clip.parent, arguments.device, config)
        if arguments.why:
            print(why(folder, items, encoder.recipe, arguments.why))
            return
        with stage.lock(folder):
            shards.sweep(folder)
            print(build(folder, items, encoder, config, arguments.retry))
    except (ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from None


class Encoder:
    """The vision tower, loaded when the first frame needs it; `recipe` is known without it."""

    def __init__(self, folder: Path, device: str | None, config: dict[str, Any]):
        import torch

        from pipeline import clip, decode

        record = json.loads((folder / "clip.json").read_text())
        self.folder, self.device = folder, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.size, self.patches, self.dimension = record["image_size"], record["patches"], record["dimension"]
        self.frames, self.name = config["frames"], record["name"]
        self.towers: Any = None
        self.recipe = {
            "clip_sha256": record["sha256"],
            "precision": clip.resolve(config["precision"], self.device),
            "frames": config["frames"],
            "size": self.size,
            "sampling": config["sampling"],
            "decoder": decode.version(config["decoder"]),
            "pictures": decode.version("pillow"),
            "resize": RESIZE,
            "thumbnail": config["thumbnail"],
            "version": VERSION,
        }

    def __call__(self, frame: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (N, D) and (N, P, D) float16 of frames (N, S, S, 3).

        A batch has the shape that its kind has, filled up with black, so that the bytes do not depend on other items.
        """
        import torch

        if self.towers is None:
            from pipeline.clip import Towers

            self.towers = Towers.load(self.folder, self.device, self.recipe["precision"])
        count = len(frame)
        batch = torch.zeros(1 if kind == "image" else self.frames, *frame.shape[1:], dtype=torch.uint8)
        batch[:count] = torch.from_numpy(frame)
        token, patch = self.towers.images(batch)
        return half(token[:count].numpy()), half(patch[:count].numpy())


def half(values: np.ndarray) -> np.ndarray:
    """float16 of `values`; a number that float16 cannot hold is a ValueError."""
    with np.errstate(over="ignore"):
        answer = values.astype(np.float16)
    if not np.isfinite(answer).all():
        raise ValueError(f"a CLIP token holds {np.abs(values).max()}, which float16 cannot; its weights are damaged")
    return answer


@dataclass
class Row:
    """What a shard holds of one item."""

    frame: np.ndarray  # (N, D)
    patch: np.ndarray  # (N, P, D)
    time: np.ndarray  # (N,)
    jpeg: list[np.ndarray]  # N times uint8
    notes: list[str] = field(default_factory=list)


def mark(recipe: dict[str, Any], item: dict[str, Any]) -> str:
    """Fingerprint of everything that an item's row depends on."""
    parts = {key: value for key, value in recipe.items() if key != "pictures" or item["kind"] == "image"}
    return shards.fingerprint(parts, item["hash"], item["kind"], item["start"], item["end"])


def build(
    folder: Path, items: list[dict[str, Any]], encoder: Encoder, config: dict[str, Any], retry: str | None
) -> str:
    """Bring the folder up to date with the items; returns the line that sums the run up. ValueError on too many rejects."""
    items = sorted(items, key=lambda item: item["video_id"])
    marks = {item["video_id"]: mark(encoder.recipe, item) for item in items}
    old = earlier(folder)
    refused = still_refused(folder, marks, retry)
    todo = [item for item in items if marks[item["video_id"]] not in old and item["video_id"] not in refused]
    todo.sort(key=lambda item: (shards.number(item["video_id"], config["shards"]), item["video_id"]))
    book = Book(folder, config, encoder, items, marks, old, refused, {item["video_id"] for item in todo})
    waits = Waits(len(todo))
    for outcome in waits.during("decode", decoded(todo, encoder, config)):
        name = outcome.item["video_id"]
        if outcome.ok:
            with waits.on("encode"):
                tokens = encoder(outcome.value["frame"], outcome.item["kind"])
            waits.frames += len(tokens[0])
            book.fresh[name] = Row(*tokens, outcome.value["time"], jpegs(outcome.value["jpeg"]), remarks(outcome.value))
        else:
            refused[name] = (outcome.reason, outcome.detail)
        with waits.on("disk"):
            book.settle(name)
        waits.tick()
    with waits.on("disk"):
        book.close()
    waits.close()
    said = book.sum_up(len(todo))
    allowed = config["max_rejects"] * len(items)
    if len(refused) > allowed:
        raise ValueError(
            f"{said}\n{len(refused)} rejects are more than max_rejects allows ({allowed:g}); {book.worst()}"
        )
    return said


def decoded(todo: list[dict[str, Any]], encoder: Encoder, config: dict[str, Any]) -> Iterator[engine.Outcome]:
    """Outcomes of decoding, from as many workers as there are cores and the work is worth."""
    work = Frames(
        config["root"], encoder.frames, encoder.size, config["sampling"], config["decoder"], config["thumbnail"]
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, WORKERS, 1 + len(todo) // EACH)
    return engine.run(work, todo, workers=workers, seconds=SECONDS, memory=MEMORY, ahead=2 * workers + 2)


def jpegs(files: list[bytes]) -> list[np.ndarray]:
    """JPEG files as uint8 arrays."""
    return [np.frombuffer(file, np.uint8) for file in files]


def remarks(value: dict[str, Any]) -> list[str]:
    """What is worth keeping about how an item was decoded."""
    return [f"decoder: {value['decoder']}"] * value["decoder"].startswith("pillow") + value["notes"]


def earlier(folder: Path) -> dict[str, tuple[shards.Shard, int]]:
    """{fingerprint: (shard, row)} of every sound shard there is; a damaged one counts as absent."""
    found = {}
    for path in shards.files(folder):
        shard = shards.sound(path, "visual")
        if shard is not None:
            for name in shards.TENSORS["visual"]:
                _ = shard[name]  # mapped now: the file may be replaced while its rows are still wanted
            found |= {mark: (shard, row) for _, row, mark in shards.rows(shard)}
    return found


def still_refused(folder: Path, marks: dict[str, str], retry: str | None) -> dict[str, tuple[str, str]]:
    """{id: (reason, detail)} of rejects that need no second look: the same content, and not asked for by `retry`."""
    table, record = folder / "rejects.parquet", folder / "visual.json"
    if not table.exists() or not record.exists():
        return {}
    known = json.loads(record.read_text()).get("rejected", {})
    rows = parquet.read_table(table).to_pylist()
    reasons = sorted({row["reason"] for row in rows})
    if retry and retry != "all" and retry not in reasons:
        raise ValueError(f"no item was rejected for {retry!r}; the reasons are: {', '.join(reasons) or 'none'}")
    return {
        row["id"]: (row["reason"], row["detail"])
        for row in rows
        if known.get(row["id"]) == marks.get(row["id"], "gone") and retry not in (row["reason"], "all")
    }


class Book:
    """The shards being made: each is written as soon as its last item is settled, beside the work on the next."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        encoder: Encoder,
        items: list[dict[str, Any]],
        marks: dict[str, str],
        old: dict[str, tuple[shards.Shard, int]],
        refused: dict[str, tuple[str, str]],
        todo: set[str],
    ):
        self.folder, self.encoder, self.marks, self.old, self.refused = folder, encoder, marks, old, refused
        self.config, self.count = config, config["shards"]
        self.members: dict[int, list[str]] = {shard: [] for shard in range(self.count)}
        self.open: Counter[int] = Counter()
        for item in items:
            shard = shards.number(item["video_id"], self.count)
            self.members[shard].append(item["video_id"])
            self.open[shard] += item["video_id"] in todo
        self.fresh: dict[str, Row] = {}
        self.written = self.frames = 0
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future | None = None
        self.before = {path: shards.sound(path, "visual") for path in shards.files(folder)}
        for shard in range(self.count):
            if not self.open[shard]:
                self.write(shard)

    def settle(self, name: str) -> None:
        """An item is encoded or rejected; the last one of a shard lets it be written."""
        shard = shards.number(name, self.count)
        self.open[shard] -= 1
        if not self.open[shard]:
            self.write(shard)

    def write(self, shard: int) -> None:
        """Hand a complete shard to the writer, unless the one on disk already is it."""
        path = shards.file_of(self.folder, shard)
        names = [name for name in self.members[shard] if name not in self.refused]
        rows = [self.fresh.pop(name, None) or self.kept(self.marks[name]) for name in names]
        self.frames += sum(len(row.time) for row in rows)
        notes = {name: row.notes for name, row in zip(names, rows) if row.notes}
        said = {"dataset": self.config["name"], "clip": self.encoder.name, "notes": json.dumps(notes, sort_keys=True)}
        attributes = self.encoder.recipe | said
        marks = [self.marks[name] for name in names]
        found = self.before.get(path)
        same = found is not None and all(found.attributes.get(key) == value for key, value in attributes.items())
        if same and found["video_id"] == names and found["fingerprint"] == marks:
            return
        self.wait()
        tensors = join(names, marks, rows, self.encoder)
        self.writing = self.writer.submit(shards.write, path, "visual", tensors, attributes)
        self.written += 1

    def kept(self, mark: str) -> Row:
        """A row of an earlier shard."""
        shard, row = self.old[mark]
        first, last = shard["offset"][row : row + 2]
        edges = shard["jpeg_offset"][first : last + 1]
        jpeg = [shard["jpeg"][a:b] for a, b in zip(edges, edges[1:])]
        notes = json.loads(shard.attributes.get("notes", "{}")).get(shard["video_id"][row], [])
        return Row(*(shard[name][first:last] for name in ("frame", "patch", "time")), jpeg, notes)

    def wait(self) -> None:
        """Until the shard before is on disk; an error of the writer is raised here."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def close(self) -> None:
        """The last shard, the rejects and the record; shards that are no longer counted are removed."""
        self.wait()
        self.writer.shutdown()
        for path in shards.files(self.folder):
            if int(path.stem) >= self.count:
                path.unlink()
        rows = [
            {"id": name, "stage": "visual", "reason": reason, "detail": detail}
            for name, (reason, detail) in sorted(self.refused.items())
        ]
        stage.write_table(self.folder / "rejects.parquet", pyarrow.Table.from_pylist(rows, REJECTS))
        reasons = Counter(reason for reason, _ in self.refused.values())
        record = self.encoder.recipe | {
            "dataset": self.config["name"],
            "clip": self.encoder.name,
            "items": len(self.marks),
            "ok": len(self.marks) - len(self.refused),
            "frames_in_all": self.frames,
            "reasons": dict(sorted(reasons.items())),
            "rejected": {name: self.marks[name] for name in sorted(self.refused)},
        }
        stage.write(self.folder / "visual.json", json.dumps(record, indent=1) + "\n")

    def sum_up(self, todo: int) -> str:
        """items = kept + encoded + rejected, checked."""
        rejected, items = len(self.refused), len(self.marks)
        on_disk = sum(len(shards.Shard(path, "visual")) for path in shards.files(self.folder))
        if on_disk + rejected != items:
            raise RuntimeError(f"{items} items, but {on_disk} rows and {rejected} rejects")
        encoded = on_disk - sum(self.marks[name] in self.old for names in self.members.values() for name in names)
        return (
            f"visual: {items} items = {on_disk - encoded} kept + {encoded} encoded + {rejected} rejected; "
            f"{self.frames} frames; {self.written} of {self.count} shards written"
        )

    def worst(self) -> str:
        """The reasons with their counts, and one example of the most frequent."""
        reasons = Counter(reason for reason, _ in self.refused.values())
        top = reasons.most_common(1)[0][0]
        name, detail = next((name, detail) for name, (reason, detail) in self.refused.items() if reason == top)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        return f"{counts}; for one, {name}: {detail}; all are in {self.folder / 'rejects.parquet'}"


def join(names: list[str], marks: list[str], rows: list[Row], encoder: Encoder) -> dict[str, Any]:
    """Rows as the tensors of one shard."""
    jpeg = [file for row in rows for file in row.jpeg]
    return {
        "video_id": names,
        "fingerprint": marks,
        "offset": np.cumsum([0, *(len(row.time) for row in rows)], dtype=np.int64),
        "frame": [row.frame for row in rows] or np.zeros((0, encoder.dimension), np.float16),
        "patch": [row.patch for row in rows] or np.zeros((0, encoder.patches, encoder.dimension), np.float16),
        "time": [row.time for row in rows] or np.zeros(0),
        "jpeg": jpeg or np.zeros(0, np.uint8),
        "jpeg_offset": np.cumsum([0, *map(len, jpeg)], dtype=np.int64),
    }


class Waits:
    """Where the time goes, and the progress line that says so."""

    def __init__(self, total: int):
        self.meter = stage.Progress(total, "visual", "item")
        self.spent: Counter[str] = Counter()
        self.frames = 0
        self.begin = time.monotonic()

    class Span:
        """Adds the time it is open to one name."""

        def __init__(self, spent: Counter[str], name: str):
            self.spent, self.name = spent, name

        def __enter__(self) -> None:
            self.since = time.monotonic()

        def __exit__(self, *_: object) -> None:
            self.spent[self.name] += time.monotonic() - self.since

    def on(self, name: str) -> "Waits.Span":
        """Count the time inside as spent on `name`."""
        return self.Span(self.spent, name)

    def during(self, name: str, stream: Iterator[Any]) -> Iterator[Any]:
        """Iterate, counting the wait for each next one."""
        while True:
            with self.on(name):
                value = next(stream, None)
            if value is None:
                return
            yield value

    def tick(self) -> None:
        """One item is done."""
        passed = max(time.monotonic() - self.begin, 1e-9)
        share = ", ".join(f"{name} {100 * spent / passed:.0f} %" for name, spent in self.spent.most_common())
        self.meter.add(note=f"{self.frames / passed:.0f} frames/s, waits for {share}")

    def close(self) -> None:
        """End the line."""
        self.meter.close()


def why(folder: Path, items: list[dict[str, Any]], recipe: dict[str, Any], name: str) -> str:
    """Why the row of one item stands or is made anew, in a sentence."""
    item = next((item for item in items if item["video_id"] == name), None)
    if item is None:
        return f"{name} is not in the manifest; its row, if there is one, will be dropped"
    now = mark(recipe, item)
    refused = still_refused(folder, {name: now}, None)
    if name in refused:
        return f"{name} was rejected and is not tried again: {': '.join(refused[name])}"
    for path in shards.files(folder):
        shard = shards.sound(path, "visual")
        if shard is None:
            print(f"{path} is damaged; its rows will be made anew")
            continue
        row = next((row for key, row, _ in shards.rows(shard) if key == name), None)
        if row is not None:
            return compare(shard, row, item, recipe)
    return f"{name} has no row yet; it will be decoded and encoded"


def compare(shard: shards.Shard, row: int, item: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What differs between the row and what would be written now."""
    name, found = item["video_id"], shard["fingerprint"][row]
    if found == mark(recipe, item):
        return f"{name} is up to date ({shard.path}, row {row})"
    then = {key: shard.attributes.get(key) for key in recipe}
    changes = [f"{key} was {then[key]}, is {recipe[key]}" for key in recipe if then[key] != recipe[key]]
    if found != mark(then, item):
        changes.append("the file's content or its span has changed")
    return f"{name} will be made anew: {'; '.join(changes)}"


if __name__ == "__main__":
    main()
