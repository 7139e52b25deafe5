"""Stage manifest: every item and caption of a dataset, its split and content hash, and what had to be left out and why.

The output is the same bytes for the same input. `--check` only prints what the protocol expects and what is there.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import datasets, files, params, progress, stage
from pipeline.datasets import media, protocol
from pipeline.datasets.facts import collect_facts
from pipeline.datasets.hashes import HashMemo, RunMemo
from pipeline.datasets.validate import Manifest, RejectRow, build, caption_id
from pipeline.rejects import write_rejects

FILM_SECONDS = 3600.0  # that cutting one film may take
OUTPUTS = ("items.parquet", "captions.parquet", "rejects.parquet", "manifest.json", "media.parquet")


def summarize(manifest: Manifest, config: dict[str, Any], expected: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What manifest.json holds: the counts by split, the protocol's, and the reasons of rejects."""
    items, captions = count(manifest)
    return {
        "dataset": config["name"],
        "reader": config["reader"],
        "split": config.get("split"),
        "counts": {
            "items": len(manifest.items),
            "videos": sum(item.kind == "video" for item, _, _ in manifest.items),
            "images": sum(item.kind == "image" for item, _, _ in manifest.items),
            "captions": len(manifest.captions),
            "rejected_items": len(manifest.rejected_items),
            "rejected_captions": len(manifest.rejected_captions),
        },
        "splits": {
            split: {"items": items[split], "captions": captions[split]} for split in datasets.SPLITS if items[split]
        },
        "expected": expected,
        "reasons": {
            "items": dict(sorted(Counter(reject.reason for reject in manifest.rejected_items).items())),
            "captions": dict(sorted(Counter(reject.reason for reject in manifest.rejected_captions).items())),
        },
    }


def count(manifest: Manifest) -> tuple[Counter, Counter]:
    """Items and captions by split."""
    return Counter(item.split for item, _, _ in manifest.items), Counter(split for _, split in manifest.captions)


def write_manifest(folder: Path, manifest: Manifest, facts: dict[str, Any]) -> None:
    """Write the three tables and manifest.json."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    seconds = pyarrow.float64()
    rows = [
        (i.video_id, i.path, i.split, i.kind, content, size, i.start, i.end, i.group, i.group_kind)
        for i, content, size in manifest.items
    ]
    columns = dict(video_id=text, path=text, split=text, kind=text, hash=text, size=number)
    columns |= dict(start=seconds, end=seconds, group=text, group_kind=text)
    files.write_table(folder / "items.parquet", build_table(rows, columns))
    rows = []
    for caption, split in manifest.captions:
        whole = caption.text.strip()
        parts = [part.strip() for part in caption.parts or [whole] if part.strip()]
        rows.append((caption_id(caption), caption.video_id, split, caption.index, whole, parts))
    columns = dict(
        caption_id=text, video_id=text, split=text, index=pyarrow.int32(), text=text, parts=pyarrow.list_(text)
    )
    files.write_table(folder / "captions.parquet", build_table(rows, columns))
    write_rejects(folder, "manifest", list_rejects(manifest))
    files.write(folder / "manifest.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def write_media(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write media.parquet: when and where each item was taken, and how many seconds it lasts, where its file says so."""
    import pyarrow

    number = pyarrow.float64()
    fields = [("video_id", pyarrow.string()), ("taken", pyarrow.string())]
    fields += [(name, number) for name in ("latitude", "longitude", "duration")]
    files.write_table(folder / "media.parquet", pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields)))


def list_rejects(manifest: Manifest) -> list[tuple[str, str, str]]:
    """(id, reason, detail) of every reject: items first, then captions."""
    return [(one.id, one.reason, one.detail) for one in (*manifest.rejected_items, *manifest.rejected_captions)]


def build_table(rows: list[tuple], columns: dict[str, Any]) -> Any:
    """A pyarrow table of rows."""
    import pyarrow

    data = zip(*rows) if rows else ((),) * len(columns)
    return pyarrow.table(
        [pyarrow.array(column, kind) for column, kind in zip(data, columns.values())], names=list(columns)
    )


def explain_rejects(manifest: Manifest, share: float) -> str:
    """What to say if more than `share` of the items were rejected, else an empty string."""
    rejected, total = len(manifest.rejected_items), len(manifest.rejected_items) + len(manifest.items)
    if not total:
        return "no items: the annotations name none and the folder holds none"
    if rejected <= share * total:
        return ""
    return f"{rejected} of {total} items rejected, more than max_rejects ({share:g}): {count_reasons(manifest.rejected_items)}"


def count_reasons(rejects: Iterable[RejectRow]) -> str:
    """Rejects counted by reason, each with an example."""
    rejects = list(rejects)
    examples = {reject.reason: reject.id for reject in reversed(rejects)}
    counts = Counter(reject.reason for reject in rejects).most_common()
    return "; ".join(f"{number} {reason} (as {examples[reason]!r})" for reason, number in counts)


@stage.command
def main() -> None:
    args = stage.parse_arguments(
        __doc__,
        check=dict(action="store_true", help="print expected and found counts, write nothing"),
        annotations_only=dict(action="store_true", help="with --check: do not look for the files"),
    )
    if args.annotations_only and not args.check:
        raise files.ParamsError("--annotations-only goes with --check: a manifest without its files is of no use")
    config, folder = params.read_dataset(args.dataset), params.cache_folder(args.dataset, "manifest")
    try:
        with files.lock(folder):
            if args.check:
                sys.exit(print_check(config, not args.annotations_only))
            params.write_dataset(args.dataset)
            require_root(config)
            update_manifest(config, folder)
    except ValueError as error:
        raise SystemExit(f"manifest of {args.dataset}: {error}") from None


def require_root(config: dict[str, Any]) -> None:
    """A root there must be, and, unless it is rendered here, outside of this project's own files."""
    project, root = Path(__file__).resolve().parents[1], Path(config["root"]).resolve()
    name = config["name"]
    if config.get("segments") and config["reader"] != "folder":
        raise files.ParamsError(
            f"datasets.{name}.segments: only a folder's films are cut, a protocol names whole videos"
        )
    if not config["root"]:
        raise files.ParamsError(f"datasets.{name} has no root; type: make dataset NAME={name} ROOT=/path/to/{name}")
    inside = root == project or project in root.parents or root in project.parents
    if inside and not hasattr(datasets.load(config["reader"]), "prepare"):
        raise files.ParamsError(
            f"its root {root} and this project ({project}) lie in one another; move its files elsewhere"
        )


def update_manifest(config: dict[str, Any], folder: Path) -> None:
    """Write the manifest, unless nothing changed since the last time."""
    standing = memo_of(config, folder)
    if standing.unchanged():
        print("manifest: nothing changed", file=sys.stderr)
        return
    memo = HashMemo(memo_folder(config) / "manifest.json")
    manifest, facts = collect(config, memo)
    if trouble := explain_unmatched(manifest):
        write_rejects(folder, "manifest", list_rejects(manifest))
        raise files.RejectsError(f"{trouble}; see {folder / 'rejects.parquet'} and mend the names in the captions")
    if trouble := explain_rejects(manifest, config.get("max_rejects", 0.02)):
        write_rejects(folder, "manifest", list_rejects(manifest))
        raise files.RejectsError(
            f"{trouble}; see {folder / 'rejects.parquet'}, mend them or raise max_rejects in params.yaml"
        )
    write_manifest(folder, manifest, facts)
    if hasattr(datasets.load(config["reader"]), "FACTS"):
        write_media(folder, collect_facts(Path(config["root"]), manifest.items, memo_folder(config) / "media.json"))
    standing.save()
    for line in closing_lines(manifest, len(memo.hashed), facts["skipped"]):
        print(f"manifest: {stage.visible(line)}", file=sys.stderr)


def memo_of(config: dict[str, Any], folder: Path) -> RunMemo:
    """Whether anything is otherwise than when the manifest last ended well."""
    # all of the package, not a list of what the stage uses: a list is forgotten when a rule moves to another file, and a run
    # that was not needed costs a second and writes the same bytes
    code = sorted(Path(__file__).parent.rglob("*.py"))
    outputs = [folder / name for name in OUTPUTS]
    return RunMemo(memo_folder(config) / "manifest.state", config, Path(config["root"]), code + outputs)


def explain_item(config: dict[str, Any], name: str) -> list[str]:
    """What --why of a later stage says first: whether the manifest left the item or caption out, and whether it is of today."""
    folder = params.cache_folder(config["name"], "manifest")
    lines = [
        f"{row['id']} was left out by the manifest: {row['reason']}{': ' * bool(row['detail'])}{row['detail'] or ''}"
        for row in read_rows(folder / "rejects.parquet")
        if name in (row["id"], row["id"].split("#")[0])
    ]
    if not memo_of(config, folder).unchanged():
        lines += list_changes(config, folder, name) or [f"nothing of {name}, but something else has changed"]
        lines[-1] += (
            "; the manifest has not run since, and what follows speaks of its last run, type: "
            f"dvc repro report@{config['name']}"
        )
    return lines


def list_changes(config: dict[str, Any], folder: Path, name: str) -> list[str]:
    """What would be otherwise in the manifest's rows of an item, or of a caption, if it ran now; a line each."""
    try:
        now = look(config, HashMemo(memo_folder(config) / "manifest.json"))[0]
    except ValueError as error:
        return [f"the manifest cannot be made any more: {error}"]
    item = name if any(one.video_id == name for one, _, _ in now.items) else name.rsplit("#", 1)[0]
    there = {row["video_id"]: row for row in read_rows(folder / "items.parquet")}.get(item)
    here = next(((one, content) for one, content, _ in now.items if one.video_id == item), None)
    lines = [
        f"{row.id} will be left out: {row.reason}{': ' * bool(row.detail)}{row.detail}"
        for row in (*now.rejected_items, *now.rejected_captions)
        if row.id in (item, name) and (there or row.id != item)
    ]
    if there and here:
        said = vars(here[0]) | {"hash": here[1]}
        for key, what in {"hash": "content", "path": "path", "split": "split", "start": "start", "end": "end"}.items():
            if said[key] != there[key]:
                was = "has changed" if key == "hash" else f"was {there[key]} and is {said[key]}"
                lines.append(f"{item}: its {what} {was}")
    elif bool(there) != bool(here) and not lines:
        lines.append(f"{item} is {'new' if here else 'gone'}")
    old = {row["caption_id"]: row["text"] for row in read_rows(folder / "captions.parquet")}
    new = {caption_id(caption): caption.text.strip() for caption, _ in now.captions}
    for one in sorted(old | new):
        if name in (one, one.rsplit("#", 1)[0]) and old.get(one) != new.get(one):
            lines.append(f"the caption {one} was {quote(old.get(one))} and is {quote(new.get(one))}")
    return lines


def read_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of one of the manifest's tables; none where there is none."""
    return files.read_table(table).to_pylist() if table.exists() else []


def quote(text: str | None) -> str:
    """A caption's words, or that there are none."""
    return "not there" if text is None else f"“{text}”"


def print_check(config: dict[str, Any], look: bool) -> int:
    """Print how the dataset stands against its protocol; 0 if it is as it should be, else 1."""
    reader = datasets.load(config["reader"])
    root = Path(config["root"])
    if hasattr(reader, "prepare") and not root.is_dir():
        raise files.MissingError(f"{root} is not made yet; run: python -m pipeline.manifest --dataset {config['name']}")
    items, captions = reader.read(config)
    memo = HashMemo(memo_folder(config) / "manifest.json") if look else None
    found = media.survey(root) if look else media.Survey()
    manifest = build(root, items + closed_folders(found), captions, memo)
    surplus = sorted(set(found.paths) - {item.path for item in items})
    if memo:
        memo.save()
    counts = reader.expected(config) if hasattr(reader, "expected") else None
    lines, differences = protocol.compare(counts, items, manifest, surplus)
    print(f"{config['name']}: reader {config['reader']}, split {config.get('split') or 'its own'}, {root}")
    print(stage.visible("\n".join([*lines, *spell_skipped(found.skipped())])))
    return 1 if differences else 0


def collect(config: dict[str, Any], memo: HashMemo) -> tuple[Manifest, dict[str, Any]]:
    """Read a dataset: its manifest and the facts of manifest.json."""
    reader = datasets.load(config["reader"])
    if hasattr(reader, "prepare"):
        reader.prepare(Path(config["root"]), config)
    manifest, found = look(config, memo)
    memo.save()
    return manifest, summarize(manifest, config, datasets.expected(reader, config)) | {"skipped": found.skipped()}


def look(config: dict[str, Any], memo: HashMemo) -> tuple[Manifest, media.Survey]:
    """A dataset's manifest as it would be written now, and what lies under its root."""
    root = Path(config["root"])
    items, captions = datasets.load(config["reader"]).read(config)
    found = media.survey(root)
    manifest = build(root, items + closed_folders(found), captions, memo)
    return (cut_films(manifest, config) if config.get("segments") else manifest), found


def cut_films(manifest: Manifest, config: dict[str, Any]) -> Manifest:
    """The manifest with each long film as its segments, which are remembered by the film's content.

    A film that a caption names stays whole, for the caption speaks of all of it; so does one that cannot be read, for the visual
    stage to reject.
    """
    from pipeline import engine
    from pipeline.video.demux import pyav_version
    from pipeline.video.segments import VERSION, Segmenter

    named = {caption.video_id for caption, _ in manifest.captions}
    films = {
        i.video_id: h for i, h, _ in manifest.items if i.kind == "video" and i.video_id not in named and i.end is None
    }
    key = f"{config['segments']:g} s, version {VERSION}, {pyav_version()}"
    path = memo_folder(config) / "segments.json"
    known = read_segments(path).get(key, {})
    paths = {content: item.path for item, content, _ in manifest.items if item.video_id in films}
    todo = [
        {"path": paths[content], "hash": content} for content in dict.fromkeys(films.values()) if content not in known
    ]
    work = Segmenter(config["root"], float(config["segments"]))
    outcomes = engine.run(work, todo, workers=os.cpu_count() or 1, seconds=FILM_SECONDS) if todo else ()
    for outcome in progress.progress(outcomes, "cut", "film", total=len(todo)):
        known[outcome.item["hash"]] = outcome.value if outcome.ok else []
    known = {content: known[content] for content in sorted(set(films.values()))}
    files.write(path, json.dumps({key: known}, separators=(",", ":")))
    items = []
    for item, content, size in manifest.items:
        spans = known[films[item.video_id]] if item.video_id in films else []
        parts = [replace(item, video_id=segment_id(item.video_id, start), start=start, end=end) for start, end in spans]
        items += [(part, content, size) for part in parts or [item]]
    return replace(manifest, items=sorted(items, key=lambda row: row[0].video_id))


def read_segments(path: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Segments by what they were cut by and by the film's content; none where the file is missing or torn."""
    try:
        said = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return said if isinstance(said, dict) else {}


def segment_id(film: str, start: float) -> str:
    """A segment's name: its film and when it begins, as `holiday.mp4@00:12:30.500`."""
    whole = round(start * 1000)
    hours, minutes, seconds = whole // 3_600_000, whole // 60_000 % 60, whole // 1000 % 60
    return f"{film}@{hours:02d}:{minutes:02d}:{seconds:02d}.{whole % 1000:03d}"


def closed_folders(found: media.Survey) -> list[datasets.Item]:
    """One item, to be rejected, for each folder that cannot be listed: what is in it nobody knows."""
    mend = "give access to it or move it away"
    return [
        datasets.Item(f"{path}/", "test", path=path, problem="unreadable folder", detail=f"{path}: {why}; {mend}")
        for path, why in found.closed
    ]


def explain_unmatched(manifest: Manifest) -> str:
    """What to say if there are captions and not one of them names an item, else an empty string."""
    if manifest.captions or not manifest.rejected_captions or not manifest.items:
        return ""
    if any(reject.reason not in ("unknown id", "kind not read") for reject in manifest.rejected_captions):
        return ""
    example = manifest.rejected_captions[0]
    return f"none of {len(manifest.rejected_captions)} captions names an item; for one, {example.id}: {example.detail}"


def memo_folder(config: dict[str, Any]) -> Path:
    """Where this stage remembers; never an output."""
    return params.cache_folder(config["name"], ".memo")


def closing_lines(manifest: Manifest, hashed: int, skipped: dict[str, int]) -> list[str]:
    """What a run says in the end."""
    lines = [f"{len(manifest.items)} items, {len(manifest.captions)} captions; {hashed} files hashed"]
    segments = [item.path for item, _, _ in manifest.items if "@" in item.video_id and item.end is not None]
    if segments:
        lines.append(f"{len(set(segments))} long films cut into {len(segments)} segments")
    for name, rejects in (("items", manifest.rejected_items), ("captions", manifest.rejected_captions)):
        if rejects:
            lines.append(f"rejected {name}: {count_reasons(rejects)}")
    return lines + spell_skipped(skipped)


def spell_skipped(skipped: dict[str, int]) -> list[str]:
    """What was passed over, in a line: `skipped: 14 × .mxf, 2 × @eaDir/`."""
    said = ", ".join(f"{count} × {kind}" for kind, count in skipped.items())
    return [f"skipped: {said}"] if said else []


if __name__ == "__main__":
    main()
