"""Stage: videos and photos -> frame and patch tokens of the frozen CLIP, with times and thumbnails.

Workers decode beside the encoder; no frame touches the disk. A row is kept for as long as its fingerprint (file content,
span, sampling, decoder, CLIP weights, precision, VERSION) stands, so that adding ten videos decodes ten. A file that gives no
trustworthy frames becomes a row of rejects.parquet: items = kept + encoded + rejected.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
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
        engine={"choices": engine.ENGINES, "help": "in place of params.yaml's"},
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
    chosen, address = arguments.engine or config["engine"], config["ray"]["address"]
    if arguments.why and address == "local":
        chosen = "local"  # the same device, at once
    with engine.connect(chosen, address) as cluster:
        device = arguments.device or (cluster.device if cluster else None)
        encoder = ImageEncoder(clip.parent, device, config, describe_decoders(config["decoder"]))
        encoder.keep_tail(read_standing_tail(folder))
        if arguments.why:
            for line in stage.explain_upstream(config, arguments.why):
                print(stage.visible(line))
            print(stage.visible(explain_visual(folder, items, encoder.recipe, arguments.why)))
            return
        with lock(folder, part):
            shards.remove_parts(folder, part)
            print(update_visual(folder, items, encoder, config, arguments.retry, part, cluster))


def update_visual(
    folder: Path,
    items: list[dict[str, Any]],
    encoder: ImageEncoder,
    config: dict[str, Any],
    retry: str | None,
    part: Slice = WHOLE,
    cluster: Any = None,
) -> str:
    """Bring the folder, or a slice of it, up to date with the items; returns the line that sums the run up.

    Rows are made on this machine, or on those of a cluster, and written by this process.

    Errors: RejectsError on too many. A slice stops where it alone has more than all slices may have together.
    """
    plan = VisualPlan(folder, items, encoder.recipe, config["shards"], retry, part)
    waits = WaitMeter(len(plan.todo))
    allowed = config["max_rejects"] * len(items)
    with VisualWriter(plan, encoder, config) as writer, ExitStack() as engines:
        stop_early(writer, allowed)
        make = make_here if cluster is None else partial(make_on, cluster)
        for outcome in engines.enter_context(closing(make(plan.todo, encoder, config, waits))):
            name = outcome.item["video_id"]
            if outcome.ok:
                waits.frames += len(outcome.value["frame"])
                writer.fresh[name] = to_row(outcome.value)
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


def make_here(
    todo: list[dict[str, Any]], encoder: ImageEncoder, config: dict[str, Any], waits: WaitMeter
) -> Iterator[engine.Outcome]:
    """Outcomes of decoding, by as many workers as there are cores and the work is worth, and of encoding, in this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MAX_WORKERS, 1 + len(todo) // ITEMS_PER_WORKER)
    work, limits = frame_extractor(encoder, config), {"seconds": ITEM_SECONDS, "memory": ITEM_MEMORY}
    with ThreadPoolExecutor(1) as ahead, ExitStack() as decoders:
        if todo:
            ahead.submit(encoder.load)  # while the workers start; an error shows at the first frame
        decoded = engine.run(work, todo, workers=workers, ahead=2 * workers + 2, **limits)
        for outcome in waits.during("decode", decoders.enter_context(closing(decoded))):
            if outcome.ok:
                with waits.on("encode"):
                    outcome.value = encoder.finish(outcome.item, outcome.value)
            yield outcome


def make_on(
    cluster: Any, todo: list[dict[str, Any]], encoder: ImageEncoder, config: dict[str, Any], waits: WaitMeter
) -> Iterator[engine.Outcome]:
    """Outcomes of decoding and encoding on the machines of a cluster."""
    work = frame_extractor(encoder, config)
    made = cluster.run(
        work,
        encoder,
        todo,
        facts=work.facts,
        device=encoder.device,
        share=float(config["ray"]["gpu"]),
        workers=MAX_WORKERS,
        seconds=ITEM_SECONDS,
        memory=ITEM_MEMORY,
        least=ITEMS_PER_WORKER,
        tell=partial(print, file=sys.stderr),
    )
    with closing(made):
        yield from waits.during("machines", made)


def frame_extractor(encoder: ImageEncoder, config: dict[str, Any]) -> FrameExtractor:
    """What decodes an item for the encoder."""
    return FrameExtractor(
        config["root"], encoder.frames, encoder.size, config["sampling"], config["decoder"], config["thumbnail"]
    )


def to_row(value: dict[str, Any]) -> VisualRow:
    """What was decoded and encoded of an item, as its row."""
    jpeg = [np.frombuffer(file, np.uint8) for file in value["jpeg"]]
    return VisualRow(value["frame"], value["patch"], value["time"], jpeg, value["hidden"], collect_notes(value))


def collect_notes(value: dict[str, Any]) -> list[str]:
    """What is worth keeping about how an item was decoded."""
    return [f"decoder: {value['decoder']}"] * value["decoder"].startswith("pillow") + value["notes"]


if __name__ == "__main__":
    main()
