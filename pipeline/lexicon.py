"""Stage: which masked language model, pinned by checksum, and every caption as ids of its word pieces.

Only methods that read `piece` need it. `cache/<dataset>/lexicon/` holds lexicon.json (which model), lexicon.safetensors (its
weights, for a trainer that has no transformers), vocabulary.json (the word of each dimension) and shards NNNNN.h5; a `scratch`
model lies in `model/` there. A caption's row is kept for as long as its fingerprint (text, model, words, VERSION) stands.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline import files, params, shards, stage
from pipeline.encoders.masked import PieceEncoder, write_lexicon
from pipeline.encoders.weights import locate
from pipeline.shards.update_captions import update_captions
from pipeline.shards.update_lexicon import is_same_lexicon, piece_rows, read_pieces

FEATURE = "piece"


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__,
        if_needed={"action": "store_true", "help": f"do nothing where no method of params.yaml reads `{FEATURE}`"},
    )
    config = params.read_dataset(arguments.dataset)
    folder = params.cache_folder(config["name"], "lexicon")
    if arguments.if_needed and not params.needed_by_methods(FEATURE):
        stage.leave_out(folder, "lexicon: no listed method reads it")
        return
    manifest = stage.require(
        params.cache_folder(config["name"], "manifest", "captions.parquet"), "manifest", config["name"]
    )
    with files.lock(folder):
        shards.remove_parts(folder)
        (folder / stage.UNUSED).unlink(missing_ok=True)
        print(update_lexicon(folder, files.read_table(manifest).to_pylist(), config))


def update_lexicon(folder: Path, captions: list[dict[str, Any]], config: dict[str, Any]) -> str:
    """Write `folder`'s model and shards; returns the line that sums the run up."""
    name, revision = config["lexicon"], config["lexicon_revision"]
    if name == "scratch":
        from pipeline.scratch import sentences

        sentences.train(config, folder / "model")
    else:
        shutil.rmtree(folder / "model", ignore_errors=True)
    source = locate(name, revision, folder / "model", "lexicon")
    record = write_lexicon(folder, name, revision, source)
    encoder = PieceEncoder(source, record, config["words"])
    attributes = encoder.identity | {"dataset": config["name"]}
    tally = update_captions(
        folder,
        "lexicon",
        captions,
        lambda rows, old: piece_rows(rows, read_pieces(old), encoder),
        lambda old, tensors: is_same_lexicon(old, tensors, attributes),
        attributes,
        config["shards"],
    )
    return (
        f"lexicon: {Path(record['name']).name}, {record['vocabulary']} words, {record['parameters'] / 1e6:.2f} M parameters, "
        f"sha256 {record['sha256'][:12]}; {tally.rows('cut')}; {tally.files()}"
    )


if __name__ == "__main__":
    main()
