"""What one caption more, or another wording of one, costs in a dataset as large as MSR-VTT.

    python -m tests.bench.captions [--items 10000] [--captions 20] [--stage text|spans]

The text stage's own update over 10,000 items with 20 captions each (64 shards, as by default), by the demo's CLIP: from nothing,
with nothing to do, with one caption added, with one reworded; with `--stage spans` that of the spans stage. Captions are
synthetic and nearly all distinct; each says two phrases, and has two nouns and a verb. `share` is a run's share of the full one
in CPU time, which says more than the clock on a busy machine. The demo's text tower is 2 layers of 96: by a larger CLIP a full
run takes longer and one caption does not, so that the shares shrink.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import spans, text
from pipeline.encoders.check import build_record
from pipeline.encoders.text import TextEncoder
from pipeline.scratch.train import train
from pipeline.shards.update_spans import split_words
from tests.support import house

SHARDS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--captions", type=int, default=20)
    parser.add_argument("--stage", choices=["text", "spans"], default="text")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="captions"))
    try:
        result = measure(place, write_captions(options.items, options.captions), options.stage)
    finally:
        shutil.rmtree(place)
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def measure(place: Path, captions: list[dict[str, Any]], stage: str) -> dict[str, float]:
    """Seconds of each run, its share of the full one, and how many files it wrote."""
    clip = place / "clip"
    train({"name": "demo", "reader": "demo"}, clip)
    (clip / "clip.json").write_text(json.dumps(build_record("scratch", None, clip)))
    folder, result = place / "cache" / "bench" / stage, {}
    update = text.update_text if stage == "text" else update_spans
    first = captions[0]
    more = first | {"caption_id": f"{first['video_id']}#99999", "text": "a zebra rides", "phrases": ["zebra ride"]}
    other = first | {"text": "a whale sings", "phrases": ["whale sing"]}
    for name, rows in {
        "full": captions,
        "nothing": captions,
        "one_more": [*captions, more],
        "reworded": [other, *captions[1:], more],
    }.items():
        before = stamps(folder)
        encoder = TextEncoder(clip, "cpu", {"words": 32, "precision": "fp32"})
        began, busy = time.perf_counter(), time.process_time()
        said = update(folder, rows, encoder, {"name": "bench", "shards": SHARDS})
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        files = sum(before.get(path) != stamp for path, stamp in stamps(folder).items())
        print(f"{name:9} {seconds:8.2f} s, {files} files written, {encoder.encoded} texts encoded; {said}", flush=True)
        result |= {f"{name}_seconds": seconds, f"{name}_cpu": cpu, f"{name}_files": files}
        if name != "full":
            result[f"{name}_share"] = cpu / result["full_cpu"]
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{size / 1e6:.0f} MB in {len(stamps(folder))} files")
    return result


def update_spans(folder: Path, captions: list[dict[str, Any]], encoder: TextEncoder, config: dict[str, Any]) -> str:
    """The spans stage's update of captions of which the third, fourth and seventh word are a noun, a verb and a noun."""
    rows = []
    for caption in captions:
        word = [match.span() for match in re.finditer(r"\w+", caption["text"])]
        rows.append(split_words(caption | {"nouns": [word[2], *word[6:7]], "verbs": word[3:4]}))
    return spans.update_spans(folder, rows, encoder, config)


def write_captions(items: int, each: int) -> list[dict[str, Any]]:
    """Rows as the text stage has them, by item."""
    random = np.random.default_rng(0)
    rows = []
    for item in range(items):
        for index in range(each):
            words = house.sentence(random).split()  # a red man rides a blue dog number 7
            phrases = [f"{words[2]} {words[3]} {words[6]}", f"{words[2]} {words[1]} {words[8]}"]
            name = f"video{item}"
            rows.append(
                {"caption_id": f"{name}#{index:05d}", "video_id": name, "text": " ".join(words), "phrases": phrases}
            )
    return rows


def stamps(folder: Path) -> dict[Path, int]:
    """When each shard was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}


if __name__ == "__main__":
    main()
