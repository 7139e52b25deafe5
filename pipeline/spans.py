"""Stage: captions without their nouns, captions without their verbs, and the words removed, as tensors.

Where the nouns and verbs are says the triplets stage. A caption that has none of a kind has no row of that kind: a method masks
it out of that term. Rows are kept by fingerprint, as those of the text stage; what was removed is encoded once a distinct word.
DVC calls it with --if-needed: nothing is made where no listed method reads it.
"""

# Axes: C captions of a shard, A and B words of shortened captions, N nouns, E verbs, D embedding.

import shutil
from pathlib import Path
from typing import Any

from pipeline import files, params, shards, stage
from pipeline.encoders.text import TextEncoder
from pipeline.files import WHOLE, Slice
from pipeline.shards.update_captions import update_captions
from pipeline.shards.update_spans import encode_spans, explain_spans, is_same_spans, outline_spans, split_words
from pipeline.shards.update_text import list_phrases, update_phrases

FEATURE = "without_noun"


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        why={"metavar": "ID", "help": "say why the rows of this caption or video are kept or stale, and stop"},
        slice=stage.SLICE,
        if_needed={"action": "store_true", "help": "only where a method that params.yaml lists reads them"},
    )
    part = Slice.parse(arguments.slice) if arguments.slice else WHOLE
    config = params.read_dataset(arguments.dataset)
    folder = params.cache_folder(config["name"], "spans")
    if arguments.if_needed and not params.needed_by_methods(FEATURE):
        stage.leave_out(folder, "spans: no listed method reads them; nothing to do")
        return
    manifest = stage.require(
        params.cache_folder(config["name"], "manifest", "captions.parquet"), "manifest", config["name"]
    )
    parsed = stage.require(params.cache_folder(config["name"], "triplets.parquet"), "triplets", config["name"])
    clip = stage.require(params.cache_folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    encoder = TextEncoder(clip.parent, arguments.device, config)
    captions = join_spans(files.read_table(manifest), files.read_table(parsed, ["caption_id", "nouns", "verbs"]))
    if arguments.why:
        for line in stage.explain_upstream(config, arguments.why):
            print(stage.visible(line))
        print(stage.visible(explain(folder, captions, encoder, arguments.why)))
        return
    with files.lock(folder, part):
        shards.remove_parts(folder, part)
        (folder / stage.UNUSED).unlink(missing_ok=True)
        print(update_spans(folder, captions, encoder, config, part))


def join_spans(captions: Any, parsed: Any) -> list[dict[str, Any]]:
    """Captions in order, each without its nouns and verbs; MissingError where the two tables name other captions."""
    found = {row["caption_id"]: row for row in parsed.to_pylist()}
    rows = captions.select(["caption_id", "video_id", "text"]).to_pylist()
    if found.keys() != {row["caption_id"] for row in rows}:
        raise files.MissingError(
            f"triplets.parquet has {len(found)} captions, the manifest {len(rows)}, not all the same; "
            "run the triplets stage again"
        )
    return [split_words(row | found[row["caption_id"]]) for row in rows]


def update_spans(
    folder: Path,
    captions: list[dict[str, Any]],
    encoder: TextEncoder,
    config: dict[str, Any],
    part: Slice = WHOLE,
) -> str:
    """Write `folder`'s shards and removed.h5, or a slice of them; returns the line that sums the run up."""
    if not part.whole:
        shards.require_dealt(folder, "spans", config["shards"], part)
    distinct = list_phrases(captions)
    attributes = encoder.identity | {"dataset": config["name"]}
    spare = folder.parent / ".removed"
    fresh = update_phrases(folder / "removed.h5", spare, distinct, encoder, attributes, part, "removed")
    distinct = [phrase for phrase in distinct if part.has(shards.phrase_key(phrase))]

    def encode(rows: list[dict[str, Any]], old: shards.Shard | None) -> tuple[dict[str, Any], int]:
        outline = outline_spans(rows, encoder)
        if is_same_spans(old, outline, attributes):  # and no word of it is read
            return outline, len(rows)
        return encode_spans(rows, outline, old, encoder)

    tally = update_captions(
        folder,
        "spans",
        captions,
        encode,
        lambda old, tensors: is_same_spans(old, tensors, attributes),
        attributes,
        config["shards"],
        part,
    )
    if part.whole:
        shutil.rmtree(spare, ignore_errors=True)  # removed.h5 holds them all
    return (
        f"spans{'' if part.whole else f' {part.name}'}: {tally.rows('encoded')}; "
        f"{len(distinct)} removed words = {len(distinct) - fresh} kept + {fresh} encoded; {tally.files()}"
    )


def explain(folder: Path, captions: list[dict[str, Any]], encoder: TextEncoder, name: str) -> str:
    """Why the row of a caption, or of each caption of a video, stands or is made anew: a sentence each."""
    wanted = [row for row in captions if name in (row["caption_id"], row["video_id"])]
    if not wanted:
        return f"{name} is no caption and no video of the manifest; its rows, if there are any, will be dropped"
    sound = [shards.read_sound(path, "spans") for path in shards.shard_paths(folder)]
    held = {caption: (shard, row) for shard in sound if shard for row, caption in enumerate(shard["caption_id"])}
    return "\n".join(explain_spans(row, held.get(row["caption_id"]), encoder) for row in wanted)


if __name__ == "__main__":
    main()
