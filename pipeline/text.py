"""Stage: captions and their triplets -> sentence, word and triplet tensors.

Each distinct caption of a shard and each distinct phrase of the dataset is encoded once. A caption's tensors are kept for as
long as its fingerprint (text, CLIP weights, precision, words, VERSION) stands; the rest is encoded, so that adding a caption
encodes one. Phrases are encoded in chunks that survive a crash.
"""

# Axes: C captions of a shard, L words of a caption, M triplets of a caption, U phrases, D embedding.

import shutil
from pathlib import Path
from typing import Any

from pipeline import engine, files, params, shards, stage
from pipeline.encoders.text import TextEncoder
from pipeline.files import WHOLE, Slice
from pipeline.shards.update_captions import update_captions
from pipeline.shards.update_text import (
    encode_rows,
    explain_text,
    is_same,
    list_phrases,
    outline_rows,
    read_known,
    update_phrases,
)


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        why={
            "metavar": "ID",
            "help": "say why the row of this caption, or each of this video, is kept or stale, and stop",
        },
        engine={"choices": engine.ENGINES, "help": "in place of params.yaml's"},
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
    device, chosen = arguments.device, arguments.engine or config["engine"]
    if part.whole and not arguments.why:
        command = ["-m", "pipeline.text", "--dataset", config["name"]]
        device = engine.run_slices(chosen, config["ray"], command, config["shards"], device)
    encoder = TextEncoder(clip.parent, device, config)
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

    def encode(rows: list[dict[str, Any]], old: shards.Shard | None) -> tuple[dict[str, Any], int]:
        outline = outline_rows(rows, encoder)
        if is_same(old, outline, attributes):  # and no word of it is read
            return outline, len(rows)
        return encode_rows(rows, outline, read_known(old), encoder)

    tally = update_captions(
        folder,
        "text",
        captions,
        encode,
        lambda old, tensors: is_same(old, tensors, attributes),
        attributes,
        config["shards"],
        part,
    )
    if part.whole:
        shutil.rmtree(spare, ignore_errors=True)  # phrases.h5 holds them all
    return (
        f"text{'' if part.whole else f' {part.name}'}: {tally.rows('encoded')}; "
        f"{len(distinct)} phrases = {len(distinct) - fresh} kept + {fresh} encoded; {tally.files()}"
    )


if __name__ == "__main__":
    main()
