"""Parts cut out of a film: which frames they hold, and that these stand upright."""

import pytest

from eval.search import media
from pipeline.video.decode import decode
from tests.support import torture


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_cut_of_a_film_held_sideways_stands_upright(degrees, tmp_path):
    """A frame's number can only be read when it stands upright: copied by its rotation written down, or turned and encoded."""
    film = torture.film(tmp_path / "base.mp4", *torture.CLOSED)
    built = torture.Built(tmp_path, film)
    path = getattr(built, f"rotated_{degrees}")().path
    copied, encoded = media.cut(path, 1.2, 2.3), media.encode(path, 1.2, 2.3, 96)
    assert copied.copied and not encoded.copied
    for part in (copied, encoded):
        file = tmp_path / f"part{part.copied}.mp4"
        file.write_bytes(part.content)
        shown = [torture.number_in(frame.numpy()) for frame in decode(file, 3, torture.SIDE).frame]
        assert None not in shown and shown == sorted(shown) and shown[0] >= 11 and shown[-1] <= 24
