"""Stage: videos and photos -> frame and patch tokens of the frozen CLIP, with times and thumbnails.

Workers decode beside the encoder; no frame touches the disk. A row is kept for as long as its fingerprint (file content,
span, sampling, decoder, CLIP weights, precision, VERSION) stands, so that adding ten videos decodes ten. A file that gives no
trustworthy frames becomes a row of rejects.parquet: items = kept + encoded + rejected.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import engine, params, shards, stage
from pipeline.encoders.image import ImageEncoder
from pipeline.files import WHOLE, RejectsError, Slice, lock, read_table
from pipeline.progress import WaitMeter
from pipeline.shards.update_visual import VisualPlan, VisualRow, VisualWriter, explain_visual, read_standing_tail
from pipeline.video.decode import describe_decoders
from pipeline.video.extract import FrameExtractor

ITEM_SECONDS, ITEM_MEMORY = 120.0, 3 << 30  # what one item may take, before its worker is killed
MAX_WORKERS = 16  # each holds some 250 MB
ITEMS_PER_WORKER = 8  # at least, or its start costs more than it brings


@stage.command
def main() -> None:
    arguments = stage.parse_arguments(
        __doc__,
        device={"default": None, "help": "cpu or cuda; a GPU is used where there is one"},
        retry={"metavar": "REASON", "help": "try the items again that were rejected for this reason, or `all`"},
        why={"metavar": "ID", "help": "say why this item's row is kept or made anew, and stop"},
        slice=stage.SLICE,
    )
    part = Slice.parse(arguments.slice) if arguments.slice else WHOLE
    config = params.read_dataset(arguments.dataset)
    folder = params.cache_folder(config["name"], "visual")
    manifest = stage.require(
        params.cache_folder(config["name"], "manifest", "items.parquet"), "manifest", config["name"]
    )
    clip = stage.require(params.cache_folder(config["name"], "clip", "clip.json"), "clip", config["name"])
    items = read_table(manifest).to_pylist()
    encoder = ImageEncoder(clip.parent, arguments.device, config, describe_decoders(config["decoder"]))
    encoder.keep_tail(read_standing_tail(folder))
    if arguments.why:
        for line in stage.explain_upstream(config, arguments.why):
            print(stage.visible(line))
        print(stage.visible(explain_visual(folder, items, encoder.recipe, arguments.why)))
        return
    with lock(folder, part):
        shards.remove_parts(folder, part)
        print(update_visual(folder, items, encoder, config, arguments.retry, part))


def update_visual(
    folder: Path,
    items: list[dict[str, Any]],
    encoder: ImageEncoder,
    config: dict[str, Any],
    retry: str | None,
    part: Slice = WHOLE,
) -> str:
    """Bring the folder, or a slice of it, up to date with the items; returns the line that sums the run up.

    Errors: RejectsError on too many. A slice stops where it alone has more than all slices may have together.
    """
    plan = VisualPlan(folder, items, encoder.recipe, config["shards"], retry, part)
    waits = WaitMeter(len(plan.todo))
    allowed = config["max_rejects"] * len(items)
    with VisualWriter(plan, encoder, config) as writer, ThreadPoolExecutor(1) as ahead, ExitStack() as workers:
        stop_early(writer, allowed)
        if plan.todo:
            ahead.submit(encoder.load)  # while the workers start; an error shows at the first frame
        decoded = workers.enter_context(closing(decode_items(plan.todo, encoder, config)))
        for outcome in waits.during("decode", decoded):
            name = outcome.item["video_id"]
            if outcome.ok:
                with waits.on("encode"):
                    tokens = encoder(outcome.value["frame"], outcome.item["kind"])
                waits.frames += len(tokens[0])
                jpeg, notes = to_arrays(outcome.value["jpeg"]), collect_notes(outcome.value)
                writer.fresh[name] = VisualRow(*tokens[:2], outcome.value["time"], jpeg, tokens[2], notes)
            else:
                plan.rejected[name] = (outcome.reason, outcome.detail)
                stop_early(writer, allowed)
            with waits.on("disk"):
                writer.settle(name)
            waits.tick()
        with waits.on("disk"):
            writer.close()
    waits.close()
    return writer.sum_up()


def stop_early(writer: VisualWriter, allowed: float) -> None:
    """RejectsError as soon as there are more rejects than max_rejects allows, for they only become more."""
    if len(writer.rejected) > allowed:
        writer.give_up()
        raise RejectsError(
            f"visual: stopped, for {len(writer.rejected)} rejects are more than max_rejects allows ({allowed:g} of "
            f"{len(writer.fingerprints)}); the shards that stand are as they were; {writer.name_worst()}"
        )


def decode_items(todo: list[dict[str, Any]], encoder: ImageEncoder, config: dict[str, Any]) -> Iterator[engine.Outcome]:
    """Outcomes of decoding, from as many workers as there are cores and the work is worth."""
    work = FrameExtractor(
        config["root"], encoder.frames, encoder.size, config["sampling"], config["decoder"], config["thumbnail"]
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MAX_WORKERS, 1 + len(todo) // ITEMS_PER_WORKER)
    return engine.run(work, todo, workers=workers, seconds=ITEM_SECONDS, memory=ITEM_MEMORY, ahead=2 * workers + 2)


def to_arrays(files: list[bytes]) -> list[np.ndarray]:
    """JPEG files as uint8 arrays."""
    return [np.frombuffer(file, np.uint8) for file in files]


def collect_notes(value: dict[str, Any]) -> list[str]:
    """What is worth keeping about how an item was decoded."""
    return [f"decoder: {value['decoder']}"] * value["decoder"].startswith("pillow") + value["notes"]


if __name__ == "__main__":
    main()
