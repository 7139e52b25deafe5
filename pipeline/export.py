"""Write keyframes as JPEGs beside a table of text, image and video: the text-image-video dataset of UniTriM 4.1.1.

python -m pipeline.export --dataset msrvtt DIR
"""

import csv
import io
from pathlib import Path
from urllib.parse import quote

from pipeline import files, params, progress, shards, stage
from pipeline.files import DecodeError

QUALITY = 95  # of the JPEGs
MOMENT = 0.002  # seconds in which only the keyframe is on screen
TABLE = "triplets.csv"


@stage.command
def main() -> None:
    args = stage.parse_arguments(__doc__, "DIR")
    stage.require(params.cache_folder(args.dataset, "keyframes.parquet"), "keyframes", args.dataset)
    print(export(Path(args.DIR), args.dataset))


def export(folder: Path, dataset: str) -> str:
    """Write `<video_id>.jpg` of every video, and triplets.csv with a row for every caption; returns what was done.

    An image is the centre square that CLIP saw, in the file's own resolution; where the file cannot be read any more, it
    is the thumbnail of the shard.
    """
    cache, root = params.cache_folder(dataset), Path(params.read_dataset(dataset)["root"])
    items = {row["video_id"]: row for row in files.read_table(cache / "manifest" / "items.parquet").to_pylist()}
    chosen = {row["video_id"]: row for row in files.read_table(cache / "keyframes.parquet").to_pylist()}
    folder.mkdir(parents=True, exist_ok=True)
    small = 0
    visual = shards.VideoReader(cache)
    for video_id in progress.progress(visual.videos, "export", "image"):
        image = read_square(root / items[video_id]["path"], chosen[video_id]["time"])
        small += image is None
        files.write(folder / image_name(video_id), image or visual.jpeg(video_id, chosen[video_id]["index"]))
    captions = [
        row
        for row in files.read_table(cache / "manifest" / "captions.parquet").to_pylist()
        if row["video_id"] in chosen
    ]
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(("text", "image", "video"))
    for caption in captions:
        writer.writerow((caption["text"], image_name(caption["video_id"]), items[caption["video_id"]]["path"]))
    files.write(folder / TABLE, lines.getvalue())
    return (
        f"{folder}: {len(visual.videos)} images ({small} of them thumbnails), {len(captions)} text-image-video triplets"
    )


def read_square(path: Path, time: float) -> bytes | None:
    """The centre square of what the file shows at `time` seconds, as JPEG; None where the file cannot be decoded."""
    from PIL import Image

    from pipeline.video.decode import decode

    try:
        frame = decode(path, 1, read_side(path), start=time, end=time + MOMENT).frame[0]
    except DecodeError:
        return None
    sink = io.BytesIO()
    Image.fromarray(frame.numpy()).save(sink, "JPEG", quality=QUALITY, subsampling=0)
    return sink.getvalue()


def read_side(path: Path) -> int:
    """Pixels of the shorter side of a video or photo. Raises DecodeError."""
    from PIL import Image

    from pipeline.video import decode, demux, images

    if images.is_picture(decode.read_head(path), path):
        try:
            with Image.open(path) as image:
                return min(image.size)
        except OSError as error:
            raise DecodeError("damaged", str(error)) from None
    with demux.open_container(path) as file:
        context = demux.find_stream(file).codec_context
        return max(1, min(context.width, context.height))


def image_name(video_id: str) -> str:
    """`<video_id>.jpg`; what a file name cannot or should not hold is percent-encoded."""
    return f"{quote(video_id, safe=' @+,=()[]')}.jpg"


if __name__ == "__main__":
    main()
