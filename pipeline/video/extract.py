"""What a worker does with one item: its sampled frames, their times, their thumbnails."""

# Axes: N frames, S size; colours last.

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.files import Reject, leads_out
from pipeline.video.decode import decode, describe_decoders

QUALITY = 85  # of the thumbnails' JPEG


@dataclass(frozen=True)
class FrameExtractor:
    """Called with one row of the manifest; sent to the workers once."""

    root: str
    frames: int
    size: int  # CLIP's, pixels
    sampling: str
    decoder: str
    thumbnail: int  # pixels

    def facts(self) -> dict[str, str]:
        """What machines that share the work must be alike in: where the files are, and what rows are made with."""
        there = "there" if os.path.isdir(self.root) else "missing"
        return {"folder of the videos": f"{self.root}, {there}"} | describe_decoders(self.decoder)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """frame (N, S, S, 3) uint8, time (N,) seconds, N jpegs, the decoder and its notes. Raises Reject."""
        path = locate(Path(self.root), item["path"])
        require_unchanged(path, item["size"])
        frames = 1 if item["kind"] == "image" else self.frames
        span = {"start": item["start"], "end": item["end"]}
        clip = decode(path, frames, self.size, sampling=self.sampling, decoder=self.decoder, **span)
        frame = shown = clip.frame.numpy()
        if self.thumbnail > self.size:
            # only a CLIP that was trained here sees so little; decoding its small world twice costs next to nothing
            shown = decode(
                path, frames, self.thumbnail, sampling=self.sampling, decoder=self.decoder, **span
            ).frame.numpy()
        jpeg = [make_thumbnail(picture, self.thumbnail) for picture in shown]
        return {"frame": frame, "time": clip.time, "jpeg": jpeg, "decoder": clip.decoder, "notes": clip.notes}


def locate(root: Path, name: str) -> Path:
    """An item's file. Reject for a name that leads out of the dataset's root, which no manifest made here has."""
    if leads_out(name):
        raise Reject("outside", f"{name!r} leads out of the dataset's root; run the manifest stage again")
    return root / name


def require_unchanged(path: Path, size: int) -> None:
    """Reject a file that is not the one whose content the manifest describes."""
    try:
        found = os.stat(path).st_size
    except OSError:
        return  # decode says it better
    if found != size:
        raise Reject(
            "changed", f"{path.name!r} has {found} bytes, the manifest says {size}; run the manifest stage again"
        )


def make_thumbnail(picture: np.ndarray, side: int) -> bytes:
    """A picture (S, S, 3) as a JPEG of at most `side` pixels."""
    image = Image.fromarray(picture)
    if side < image.width:
        image = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
