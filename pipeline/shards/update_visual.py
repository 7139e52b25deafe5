"""Bring the visual shards up to date: plan which rows to keep and which to make, then write shard by shard."""

# Axes: N frames of a video, F frames of a shard, P patches, D embedding.

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline import files
from pipeline.files import WHOLE, ParamsError, ShardError, Slice
from pipeline.rejects import write_rejects
from pipeline.shards import layout, reader, writer
from pipeline.shards.rows import describe_changes, fingerprint
from pipeline.shards.videos import StoredVideo

WAITING = ".visual"  # beside the shards: those that replace rows that stand, until the run is known to succeed
CHECKERS = 4  # shards read at once to see whether they are whole
MOVING = (".gif", ".webp", ".png", ".apng", ".avif")  # names of animations, which the reader of photos reads


class VisualEncoder(Protocol):
    """What the shards ask of the encoder that fills them: what it was made of, and its sizes."""

    name: str
    recipe: dict[str, Any]  # everything that a row depends on beside its item; goes into fingerprints and attributes
    patches: int
    dimension: int
    width: int  # of the hidden states of a tail


@dataclass
class VisualRow:
    """What a shard holds of one item."""

    frame: np.ndarray  # (N, D)
    patch: np.ndarray  # (N, P, D)
    time: np.ndarray  # (N,)
    jpeg: list[np.ndarray]  # N times uint8
    hidden: np.ndarray | None = None  # (N, 1 + P, W)
    notes: list[str] = field(default_factory=list)


def row_fingerprint(recipe: dict[str, Any], item: dict[str, Any]) -> str:
    """Fingerprint of everything that an item's row depends on."""
    parts = item_recipe(recipe, item)
    parts.pop("tail", None)  # the other tensors do not depend on it; whether a row has it is asked of its shard
    return fingerprint(parts, item["hash"], item["kind"], item["start"], item["end"])


def item_recipe(recipe: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """What of the recipe an item's row depends on: how photos are read counts for photos only."""
    other = {"pictures"} if item["kind"] != "image" else set()
    if not reads_photos(item):
        other.add("photos")
    return {key: value for key, value in recipe.items() if key not in other}


def reads_photos(item: dict[str, Any]) -> bool:
    """Whether the item is a photo, or named like an animated one."""
    return item["kind"] == "image" or item["path"].lower().endswith(MOVING)


def read_standing_rejects(folder: Path, fingerprints: dict[str, str], retry: str | None) -> dict[str, tuple[str, str]]:
    """{id: (reason, detail)} of rejects that need no second look: the same content, and not asked for by `retry`."""
    found: dict[str, tuple[str, str]] = {}
    reasons: set[str] = set()
    for place in (folder, *waiting_folders(folder)):  # and of a run that gave up, of slices that have ended
        table, record = place / "rejects.parquet", place / "visual.json"
        if not table.exists() or not record.exists():
            continue
        known = json.loads(record.read_text()).get("rejected", {})
        try:
            rows = files.read_table(table).to_pylist()
        except ValueError:  # damaged: all of them are tried again
            continue
        reasons |= {row["reason"] for row in rows}
        for row in rows:
            if known.get(row["id"]) == fingerprints.get(row["id"], "gone") and retry not in (row["reason"], "all"):
                found[row["id"]] = (row["reason"], row["detail"])
    if retry and retry != "all" and retry not in reasons:
        raise ParamsError(
            f"no item was rejected for {retry!r}; the reasons are: {', '.join(sorted(reasons)) or 'none'}"
        )
    return found


def waiting_folders(folder: Path) -> list[Path]:
    """Where shards and rejects wait for the run that takes them up: of the whole stage, and of each slice."""
    waiting = folder.parent / WAITING
    return [waiting, *sorted(waiting.glob("*-of-*"))]


def read_standing_tail(folder: Path) -> int:
    """How many of CLIP's last image blocks a trainer can own on the shards that stand; 0 where no run has ended."""
    record = folder / "visual.json"
    return json.loads(record.read_text()).get("tail", 0) if record.exists() else 0


def has_tail(shard: reader.Shard, recipe: dict[str, Any]) -> bool:
    """Whether a shard's rows hold the hidden states that the recipe asks for, if it asks for any."""
    return "tail" not in recipe or shard.attributes.get("tail") == recipe["tail"]


class VisualPlan:
    """Which rows to keep, which items to decode and encode, and which to leave out."""

    def __init__(
        self,
        folder: Path,
        items: list[dict[str, Any]],
        recipe: dict[str, Any],
        count: int,
        retry: str | None = None,
        part: Slice = WHOLE,
    ):
        items = sorted(items, key=lambda item: (layout.shard_number(item["video_id"], count), item["video_id"]))
        self.folder, self.part = folder, part
        if not part.whole:
            reader.require_dealt(folder, "visual", count, part)
        items = [item for item in items if part.has(layout.shard_number(item["video_id"], count))]
        self.photos = {item["video_id"] for item in items if reads_photos(item)}
        self.fingerprints = {
            item["video_id"]: row_fingerprint(recipe, item) for item in items
        }  # {id: fingerprint}, in the order of the work
        self.before: dict[Path, reader.Shard] = {}  # the sound shards there are; a damaged one counts as absent
        self.old: dict[str, tuple[reader.Shard, int]] = {}  # {fingerprint: (shard, row)} of their rows
        self.waiting = folder.parent / WAITING / ("" if part.whole else part.name)
        places = [folder, *waiting_folders(folder)]
        paths = [path for place in places for path in layout.shard_paths(place) if part.has(int(path.stem))]
        with ThreadPoolExecutor(CHECKERS) as checkers:
            found = list(checkers.map(lambda path: reader.read_sound(path, "visual"), paths))
        for path, shard in zip(paths, found):
            if shard is not None:
                for name in shard.names:
                    _ = shard[name]  # mapped now: the file may be replaced while its rows are still wanted
                if path.parent == folder:
                    self.before[path] = shard
                if has_tail(shard, recipe):
                    self.old |= {mark: (shard, row) for _, row, mark in reader.iterate_rows(shard)}
        standing = read_standing_rejects(folder, self.fingerprints, retry)
        # {id: (reason, detail)}; one that a slice has tried again with success has a row by now
        self.rejected = {name: why for name, why in standing.items() if self.fingerprints[name] not in self.old}
        self.todo = [item for item in items if self.is_new(item["video_id"])]

    def is_new(self, name: str) -> bool:
        """Whether an item must be decoded and encoded."""
        return self.fingerprints[name] not in self.old and name not in self.rejected


class VisualWriter:
    """Writes the visual shards, each in a background thread once all of its items are encoded or rejected."""

    def __init__(self, plan: VisualPlan, encoder: VisualEncoder, config: dict[str, Any]):
        self.folder, self.plan, self.encoder = plan.folder, plan, encoder
        self.config, self.count = config, config["shards"]
        self.fingerprints, self.rejected = plan.fingerprints, plan.rejected
        self.own = plan.part.of(self.count)  # numbers of the shards that this run writes
        self.members: dict[int, list[str]] = {shard: [] for shard in self.own}
        self.unsettled: Counter[int] = Counter()
        for name in sorted(self.fingerprints):
            shard = layout.shard_number(name, self.count)
            self.members[shard].append(name)
            self.unsettled[shard] += plan.is_new(name)
        self.fresh: dict[str, VisualRow] = {}
        self.written = self.frames = 0
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future | None = None
        self.replacements: list[Path] = []  # of shards that stand, made by this run
        for shard in self.own:
            if not self.unsettled[shard]:
                self.write(shard)

    def __enter__(self) -> "VisualWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.shutdown()  # a shard that is being written is finished, whatever happened

    def settle(self, name: str) -> None:
        """Note that an item is encoded or rejected; after the last one of its shard, write the shard."""
        shard = layout.shard_number(name, self.count)
        self.unsettled[shard] -= 1
        if not self.unsettled[shard]:
            self.write(shard)

    def write(self, shard: int) -> None:
        """Hand a complete shard to the writer, unless the one on disk already is it."""
        path = layout.shard_path(self.folder, shard)
        names = [name for name in self.members[shard] if name not in self.rejected]
        rows = [self.fresh.pop(name, None) or self.read_kept(self.fingerprints[name]) for name in names]
        self.frames += sum(len(row.time) for row in rows)
        notes = {name: row.notes for name, row in zip(names, rows) if row.notes}
        facts = {"dataset": self.config["name"], "clip": self.encoder.name, "notes": json.dumps(notes, sort_keys=True)}
        attributes = self.shared_recipe(names) | facts
        fingerprints = [self.fingerprints[name] for name in names]
        found = self.plan.before.get(path)
        same = found is not None and all(found.attributes.get(key) == value for key, value in attributes.items())
        same = same and ("tail" in found.attributes) == ("tail" in attributes)
        if same and found["video_id"] == names and found["fingerprint"] == fingerprints:
            return
        self.wait()
        tensors = join_rows(names, fingerprints, rows, self.encoder)
        if found is not None and self.loses(found, set(fingerprints)):
            path = layout.shard_path(self.plan.waiting, shard)
            self.replacements.append(path)
        self.writing = self.writer.submit(writer.write, path, "visual", tensors, attributes)
        self.written += 1

    def loses(self, found: reader.Shard, fingerprints: set[str]) -> bool:
        """Whether a shard that stands has a row of a listed item that its successor would not have."""
        return any(
            name in self.fingerprints and mark not in fingerprints for name, _, mark in reader.iterate_rows(found)
        )

    def shared_recipe(self, names: Iterable[str]) -> dict[str, Any]:
        """The recipe of these items; where none is a photo, how photos are read is no part of it."""
        without = () if self.plan.photos.intersection(names) else ("photos",)
        return {key: value for key, value in self.encoder.recipe.items() if key not in without}

    def read_kept(self, mark: str) -> VisualRow:
        """A row of an earlier shard."""
        shard, row = self.plan.old[mark]
        video = StoredVideo(shard, row)
        notes = json.loads(shard.attributes.get("notes", "{}")).get(video.video_id, [])
        hidden = video["hidden"] if "tail" in self.encoder.recipe else None
        return VisualRow(video["frame"], video["patch"], video["time"], video.jpegs(), hidden, notes)

    def wait(self) -> None:
        """Wait until the previous shard is on disk, so that at most two are in memory; the writer's errors are raised here."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None

    def give_up(self) -> None:
        """Leave the shards that stand alone; what was encoded waits beside them, with the rejects, for another run."""
        self.wait()
        for shard, members in self.members.items():
            path = layout.shard_path(self.plan.waiting, shard)
            earlier = {mark for mark, (found, _) in self.plan.old.items() if found.path == path}
            names = [name for name in members if name in self.fresh or self.fingerprints[name] in earlier]
            if any(name in self.fresh for name in names):
                rows = [self.fresh.get(name) or self.read_kept(self.fingerprints[name]) for name in names]
                facts = {"dataset": self.config["name"], "clip": self.encoder.name}
                tensors = join_rows(names, [self.fingerprints[name] for name in names], rows, self.encoder)
                writer.write(path, "visual", tensors, self.shared_recipe(names) | facts)
        self.save_rejects(self.plan.waiting)

    def close(self) -> None:
        """Finish the last shard, write rejects and record, and remove shards beyond `shards` of params.yaml."""
        self.wait()
        for path in self.replacements:
            path.replace(self.folder / path.name)
        if not self.plan.part.whole:  # its rejects wait for the run that sees all of them
            for path in layout.shard_paths(self.plan.waiting):
                path.unlink()
            self.save_rejects(self.plan.waiting)
            return
        for path in layout.shard_paths(self.folder):
            if int(path.stem) >= self.count:
                path.unlink()
        self.save_rejects(self.folder)
        shutil.rmtree(self.plan.waiting, ignore_errors=True)

    def save_rejects(self, folder: Path) -> None:
        """rejects.parquet, and visual.json, which says of which content they are."""
        write_rejects(folder, "visual", ((name, *why) for name, why in sorted(self.rejected.items())))
        reasons = Counter(reason for reason, _ in self.rejected.values())
        record = self.shared_recipe(self.fingerprints) | {
            "dataset": self.config["name"],
            "clip": self.encoder.name,
            "items": len(self.fingerprints),
            "ok": len(self.fingerprints) - len(self.rejected),
            "frames_in_all": self.frames,
            "reasons": dict(sorted(reasons.items())),
            "rejected": {name: self.fingerprints[name] for name in sorted(self.rejected)},
        }
        files.write(folder / "visual.json", json.dumps(record, indent=1) + "\n")

    def sum_up(self) -> str:
        """The closing line. It checks that items = kept + encoded + rejected, counted on the disk: nothing may be lost."""
        rejected, items = len(self.rejected), len(self.fingerprints)
        paths = [layout.shard_path(self.folder, shard) for shard in self.own]
        on_disk = sum(len(reader.Shard(path, "visual")) for path in paths)
        if on_disk + rejected != items:
            raise ShardError(f"{items} items, but {on_disk} rows and {rejected} rejects")
        encoded = sum(item["video_id"] not in self.rejected for item in self.plan.todo)
        return (
            f"visual{'' if self.plan.part.whole else f' {self.plan.part.name}'}: "
            f"{items} items = {on_disk - encoded} kept + {encoded} encoded + {rejected} rejected; "
            f"{self.frames} frames; {self.written} of {len(self.own)} shards written"
        )

    def name_worst(self) -> str:
        """The reasons of rejects with their counts, and one example of the most frequent."""
        reasons = Counter(reason for reason, _ in self.rejected.values())
        top = reasons.most_common(1)[0][0]
        name, detail = next((name, detail) for name, (reason, detail) in self.rejected.items() if reason == top)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        return f"{counts}; for one, {name}: {detail}; all are in {self.plan.waiting / 'rejects.parquet'}"


def join_rows(
    names: list[str], fingerprints: list[str], rows: list[VisualRow], encoder: VisualEncoder
) -> dict[str, Any]:
    """Rows as the tensors of one shard."""
    jpeg = [file for row in rows for file in row.jpeg]
    return {
        "video_id": names,
        "fingerprint": fingerprints,
        "offset": np.cumsum([0, *(len(row.time) for row in rows)], dtype=np.int64),
        "frame": [row.frame for row in rows] or np.zeros((0, encoder.dimension), np.float16),
        "patch": [row.patch for row in rows] or np.zeros((0, encoder.patches, encoder.dimension), np.float16),
        "time": [row.time for row in rows] or np.zeros(0),
        "jpeg": jpeg or np.zeros(0, np.uint8),
        "jpeg_offset": np.cumsum([0, *map(len, jpeg)], dtype=np.int64),
    } | join_hidden(rows, encoder)


def join_hidden(rows: list[VisualRow], encoder: VisualEncoder) -> dict[str, Any]:
    """The optional tensor of a shard made with a tail."""
    if "tail" not in encoder.recipe:
        return {}
    return {"hidden": [row.hidden for row in rows] or np.zeros((0, 1 + encoder.patches, encoder.width), np.float16)}


def explain_visual(folder: Path, items: list[dict[str, Any]], recipe: dict[str, Any], name: str) -> str:
    """Why one item's row is kept or made anew, in a sentence."""
    item = next((item for item in items if item["video_id"] == name), None)
    if item is None:
        return f"{name} is not in the manifest; its row, if there is one, will be dropped"
    now = row_fingerprint(recipe, item)
    rejected = read_standing_rejects(folder, {name: now}, None)
    if name in rejected:
        return f"{name} was rejected and is not tried again: {': '.join(rejected[name])}"
    for path in layout.shard_paths(folder):
        shard = reader.read_sound(path, "visual")
        if shard is None:
            print(f"{path} is damaged; its rows will be made anew")
            continue
        row = next((row for key, row, _ in reader.iterate_rows(shard) if key == name), None)
        if row is not None:
            return explain_visual_row(shard, row, item, recipe)
    return f"{name} has no row yet; it will be decoded and encoded"


def explain_visual_row(shard: reader.Shard, row: int, item: dict[str, Any], recipe: dict[str, Any]) -> str:
    """What differs between the row and what would be written now."""
    name, found = item["video_id"], shard["fingerprint"][row]
    if found == row_fingerprint(recipe, item) and has_tail(shard, recipe):
        return f"{name} is up to date ({shard.path}, row {row})"
    recipe = item_recipe(recipe, item)
    then = {key: shard.attributes[key] for key in recipe if key in shard.attributes}
    changes = describe_changes(then, recipe)
    if found != row_fingerprint(then, item):
        changes.append("the file's content or its span has changed")
    return f"{name} will be made anew: {'; '.join(changes)}"
