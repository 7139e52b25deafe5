"""Stage: captions and their triplets -> sentence, word and triplet tensors.

Each distinct caption of a shard and each distinct phrase of the dataset is encoded once. A caption's tensors are kept for as
long as its fingerprint (text, CLIP weights, precision, words, VERSION) stands; the rest is encoded, so that adding a caption
encodes one. Phrases are encoded in chunks that survive a crash.
"""

# Axes: C captions of a shard, L words of a caption, M triplets of a caption, U phrases, D embedding.

import shutil
from pathlib import Path
from typing import Any

from pipeline import files, params, progress, shards, stage
from pipeline.encoders.text import TextEncoder
from pipeline.files import WHOLE, Slice
from pipeline.shards.update_text import encode_rows, explain_text, is_same, list_phrases, read_known, update_phrases


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        why={
            "metavar": "ID",
            "help": "say why the row of this caption, or each of this video, is kept or stale, and stop",
        },
        slice=stage.SLICE,
    )
    part = Slice.parse(arguments.slice) if arguments.slice else WHOLE
    config = params.read_dataset(arguments.dataset)
    folder = params.cache_folder(config["name"], "text")
    manifest = stage.require(
        params.cache_folder(config["name"], "manifest", "captions.parquet"), "manifest", config["name"]
    )
    parsed = stage.require(params.cache_folder(config["name"], "triplets.parquet"), "triplets", config["name"])
    clip = stage.require(params.cache_folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    encoder = TextEncoder(clip.parent, arguments.device, config)
    captions = join_phrases(files.read_table(manifest), files.read_table(parsed, ["caption_id", "phrases"]))
    if arguments.why:
        for line in stage.explain_upstream(config, arguments.why):
            print(stage.visible(line))
        print(stage.visible(explain_text(folder, captions, encoder, arguments.why)))
        return
    with files.lock(folder, part):
        shards.remove_parts(folder, part)
        print(update_text(folder, captions, encoder, config, part))


def join_phrases(captions: Any, parsed: Any) -> list[dict[str, Any]]:
    """Captions in order, each with its phrases; both tables must name the same captions."""
    phrases = dict(zip(parsed["caption_id"].to_pylist(), parsed["phrases"].to_pylist()))
    rows = captions.select(["caption_id", "video_id", "text"]).to_pylist()
    absent = [row["caption_id"] for row in rows if row["caption_id"] not in phrases]
    if absent or len(phrases) != len(rows):
        example = f", {absent[0]} for one" if absent else ""
        raise files.MissingError(
            f"triplets.parquet has {len(phrases)} captions, the manifest {len(rows)}{example}; run the triplets stage again"
        )
    return [row | {"phrases": phrases[row["caption_id"]]} for row in rows]


def update_text(
    folder: Path,
    captions: list[dict[str, Any]],
    encoder: TextEncoder,
    config: dict[str, Any],
    part: Slice = WHOLE,
) -> str:
    """Write `folder`'s shards and phrases, or a slice of them; returns the line that sums the run up.

    A slice's phrases wait beside the shards for the run that writes phrases.h5.
    """
    if not part.whole:
        shards.require_dealt(folder, "text", config["shards"], part)
    distinct = list_phrases(captions)
    attributes = encoder.identity | {"dataset": config["name"]}
    spare = folder.parent / ".phrases"
    fresh = update_phrases(folder / "phrases.h5", spare, distinct, encoder, attributes, part)
    distinct = [phrase for phrase in distinct if part.has(shards.phrase_key(phrase))]
    # every shard number has a group, also an empty one: a shard that has lost its last caption must be written empty
    groups: dict[int, list[dict[str, Any]]] = {shard: [] for shard in part.of(config["shards"])}
    captions = [row for row in captions if part.has(shards.shard_number(row["video_id"], config["shards"]))]
    for row in sorted(captions, key=lambda row: row["caption_id"]):
        groups[shards.shard_number(row["video_id"], config["shards"])].append(row)
    kept = written = 0
    meter = progress.Progress(len(captions), "text", "caption")
    for shard, rows in groups.items():
        path = shards.shard_path(folder, shard)
        old = shards.read_sound(path, "text")
        tensors, reused = encode_rows(rows, read_known(old), encoder)
        kept += reused
        if not is_same(old, tensors, attributes):
            shards.write(path, "text", tensors, attributes)
            written += 1
        meter.add(len(rows))
    meter.close()
    if part.whole:
        for path in shards.shard_paths(folder):
            if int(path.stem) >= config["shards"]:  # left by a run with more shards; its rows are in others now
                path.unlink()
        shutil.rmtree(spare, ignore_errors=True)  # phrases.h5 holds them all
    return (
        f"text{'' if part.whole else f' {part.name}'}: {len(captions)} captions = {kept} kept + {len(captions) - kept} encoded; "
        f"{len(distinct)} phrases = {len(distinct) - fresh} kept + {fresh} encoded; {written} of {len(groups)} shards written"
    )


if __name__ == "__main__":
    main()
