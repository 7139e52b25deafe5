"""Photos as phones, scanners and painters write them: the right picture, upright, in 8 bits, or the true reason."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from pipeline.files import DecodeError
from pipeline.video import images
from pipeline.video.decode import decode
from tests.support import torture

SIDE = torture.SIDE
SHOWN, OTHER = 77, 1234  # the photo, and what lies beside it in the file


def photo(number=SHOWN, height=128, width=192):
    return Image.fromarray(torture.picture(number, height, width))


def shown(path, frames=5):
    """The numbers that the frames of a file show."""
    return [torture.number_in(frame.numpy()) for frame in decode(path, frames, SIDE).frame]


def refusal(path):
    with pytest.raises(DecodeError) as refused:
        decode(path, 1, SIDE)
    return refused.value


def turned(number=SHOWN):
    """A picture that lies on its side, and the EXIF that says so."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    return photo(number).rotate(90, expand=True), exif


def grey_of(path):
    """The mean grey of each quarter of a picture whose quarters are each of one shade."""
    frame = decode(path, 1, 8).frame[0].numpy()
    return [int(frame[y, x].mean()) for y in (1, 6) for x in (1, 6)]


def quarters(values, dtype):
    """A picture with a shade in each quarter."""
    return np.array(values, dtype).reshape(2, 2).repeat(8, 0).repeat(8, 1)


# --- which picture


@pytest.mark.parametrize("name", ["photo.mpo", "photo.jpg"])
def test_of_several_pictures_in_a_jpeg_the_first_is_the_photo(tmp_path, name):
    photo().save(tmp_path / name, "MPO", save_all=True, append_images=[photo(OTHER, 64, 96), photo(OTHER)])
    assert Image.open(tmp_path / name).n_frames == 3
    assert shown(tmp_path / name) == [SHOWN]


def test_pages_of_a_tiff_are_no_animation(tmp_path):
    photo().save(tmp_path / "scan.tif", save_all=True, append_images=[photo(OTHER), photo(OTHER)])
    assert shown(tmp_path / "scan.tif") == [SHOWN]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_is_one_where_the_format_has_them(tmp_path, kind):
    path = tmp_path / f"moving.{kind.lower()}"
    photo(1).save(path, kind, save_all=True, append_images=[photo(2), photo(3)], duration=100)
    assert shown(path) == [1, 2, 3]


def test_the_stand_in_of_an_animated_png_is_not_shown(tmp_path):
    more = [photo(1), photo(2), photo(3)]
    photo(OTHER).save(tmp_path / "moving.png", save_all=True, append_images=more, default_image=True, duration=100)
    assert shown(tmp_path / "moving.png") == [1, 2, 3]


@pytest.fixture
def heif():
    """pillow-heif as an encoder; Pillow's own list of formats is left as it was."""
    before = dict(Image.SAVE), dict(Image.SAVE_ALL), dict(Image.EXTENSION), dict(Image.OPEN), list(Image.ID)
    library = pytest.importorskip("pillow_heif")
    library.register_heif_opener()
    yield library
    library.options.GRID_TILE_SIZE = 0
    Image.SAVE, Image.SAVE_ALL, Image.EXTENSION, Image.OPEN, Image.ID = before


@pytest.mark.parametrize("name", ["photo.heic", "PHOTO.HEIC", "photo.jpg", "photo.mp4", "photo.png"])
def test_a_heic_of_tiles_is_read_whole_whatever_its_name(tmp_path, heif, name):
    heif.options.GRID_TILE_SIZE = 256
    photo(SHOWN, 512, 768).save(tmp_path / name, "HEIF", quality=90)
    assert b"grid" in (tmp_path / name).read_bytes()
    assert shown(tmp_path / name) == [SHOWN]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_primary_picture_of_a_heic_is_the_photo_wherever_it_lies(tmp_path, heif, place):
    pictures = [photo(OTHER), photo(OTHER), photo(OTHER)]
    pictures[place] = photo()
    pictures[0].save(tmp_path / "x.heic", save_all=True, append_images=pictures[1:], primary_index=place, quality=90)
    assert shown(tmp_path / "x.heic") == [SHOWN]


def test_a_turned_heic_is_upright_once(tmp_path, heif):
    lying, exif = turned()
    lying.save(tmp_path / "x.heic", exif=exif.tobytes(), quality=90)
    assert b"irot" in (tmp_path / "x.heic").read_bytes()
    assert shown(tmp_path / "x.heic") == [SHOWN]


def test_a_heic_of_ten_bits_is_no_darker(tmp_path, heif):
    deep = np.asarray(photo()).astype(np.uint16) * 257
    heif.from_bytes("RGB;16", (192, 128), deep.tobytes()).save(tmp_path / "x.heic", quality=90)
    assert shown(tmp_path / "x.heic") == [SHOWN]


@pytest.mark.parametrize("name", ["x.avif", "x.AVIF", "x.jpg"])
def test_an_avif_is_read_and_upright(tmp_path, name):
    lying, exif = turned()
    lying.save(tmp_path / name, "AVIF", exif=exif.tobytes(), quality=90)
    assert shown(tmp_path / name) == [SHOWN]


def test_where_the_reader_of_heic_is_missing_the_reject_says_what_to_install(tmp_path, heif, monkeypatch):
    photo().save(tmp_path / "x.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    error = refusal(tmp_path / "x.heic")
    assert error.reason == "no_reader" and "python -m pip install pillow-heif" in error.detail


# --- which shade


def test_sixteen_bits_of_grey_are_scaled_by_their_depth(tmp_path):
    deep = quarters([0, 65535 // 4, 65535 // 2, 65535], np.uint16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert grey_of(tmp_path / name) == [0, 64, 127, 255], name
    Image.fromarray(deep).save(tmp_path / "big.tif", big_tiff=True)
    assert (tmp_path / "big.tif").read_bytes()[:4] == b"II+\0"
    assert grey_of(tmp_path / "big.tif") == [0, 64, 127, 255]


def test_a_tiff_says_how_many_bits_it_uses_and_which_end_is_white(tmp_path):
    for bits, values in ((32, [0, 2**30, 2**31 - 1, 2**32 - 1]), (16, [0, 2**14, 2**15 - 1, 2**16 - 1])):
        data = quarters(values, f"<u{bits // 8}").tobytes()
        for white_is_zero, right in ((False, [0, 64, 127, 255]), (True, [255, 191, 128, 0])):
            if bits == 32 and white_is_zero:
                continue  # Pillow reads no such file
            tiff(tmp_path / "x.tif", data, bits, {262: 0 if white_is_zero else 1})
            assert grey_of(tmp_path / "x.tif") == right, (bits, white_is_zero)


def tiff(path, data, bits, tags):
    """A grey TIFF of 16 x 16 samples, by hand."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: 16, 279: len(data)} | tags
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4) + data)


def test_floats_are_black_at_0_and_white_at_1_or_spread(tmp_path):
    Image.fromarray(quarters([0, 0.25, 0.5, 1], np.float32)).save(tmp_path / "unit.tif")
    assert grey_of(tmp_path / "unit.tif") == [0, 64, 128, 255]
    Image.fromarray(quarters([-50, 0, 50, 150], np.float32)).save(tmp_path / "wide.tif")
    assert grey_of(tmp_path / "wide.tif") == [0, 64, 128, 255]
    Image.fromarray(quarters([np.nan, 0.25, 0.5, 1], np.float32)).save(tmp_path / "holes.tif")
    assert grey_of(tmp_path / "holes.tif") == [0, 64, 128, 255]
    Image.fromarray(quarters([0, 100, 200, 400], np.float32)).save(
        tmp_path / "said.tif", tiffinfo=tag(TiffImagePlugin.ImageFileDirectory_v2(), {340: 0.0, 341: 400.0})
    )
    assert grey_of(tmp_path / "said.tif") == [0, 64, 128, 255]


def tag(directory, values):
    for number, value in values.items():
        directory.tagtype[number] = 12
        directory[number] = value
    return directory


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif", "x.avif"])
def test_what_is_transparent_is_black_whatever_lies_under_it(tmp_path, name):
    values = quarters([0, 0, 255, 128], np.uint8)
    image = Image.fromarray(np.stack([np.full_like(values, 255)] * 3 + [values], 2))
    image.save(tmp_path / name, **({"lossless": True, "exact": True} if name == "x.webp" else {}))
    found = grey_of(tmp_path / name)
    assert found[:2] == [0, 0] and found[2] > 250 and abs(found[3] - 128) < 6


def test_a_palette_with_transparency_and_grey_with_alpha_lie_on_black(tmp_path):
    image = Image.fromarray(quarters([0, 1, 2, 3], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 200, 200, 200, 100, 100, 100, 255, 255, 255])
    for name in ("x.png", "x.gif"):
        image.save(tmp_path / name, transparency=0)
        assert grey_of(tmp_path / name) == [0, 200, 100, 255], name
    image.save(tmp_path / "graded.png", transparency=bytes([0, 128, 255, 255]))
    assert grey_of(tmp_path / "graded.png") == [0, 100, 100, 255]
    two = Image.merge("LA", [Image.new("L", (16, 16), 255), Image.fromarray(quarters([0, 64, 128, 255], np.uint8))])
    two.save(tmp_path / "two.png")
    assert grey_of(tmp_path / "two.png") == [0, 64, 128, 255]


def test_a_grey_that_a_deep_png_calls_clear_is_black(tmp_path):
    Image.fromarray(quarters([65535, 16384, 32768, 49152], np.uint16)).save(tmp_path / "x.png", transparency=65535)
    assert grey_of(tmp_path / "x.png") == [0, 64, 128, 191]


# --- tags


def test_tags_of_a_tiff_are_heeded_or_passed_over(tmp_path):
    lying, exif = turned()
    exif[296] = 3  # ResolutionUnit: centimetres
    lying.save(tmp_path / "lying.tif", exif=exif)
    assert shown(tmp_path / "lying.tif") == [SHOWN]
    lying.save(tmp_path / "packed.tiff", exif=exif, compression="tiff_lzw")
    assert shown(tmp_path / "packed.tiff") == [SHOWN]
    photo().convert("RGBA").save(tmp_path / "extra.tif")  # ExtraSamples
    assert shown(tmp_path / "extra.tif") == [SHOWN]
    photo().convert("CMYK").save(tmp_path / "ink.tif")
    assert shown(tmp_path / "ink.tif") == [SHOWN]


def broken_exif(turn):
    """EXIF with Orientation, and resolutions that are 0 / -1, as some cameras write them."""
    entries = [(274, 3, 1, struct.pack("<HH", turn, 0)), (282, 10, 1, struct.pack("<I", 50)), (283, 5, 1, b"\xff" * 4)]
    body = struct.pack("<H", 3) + b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + body + bytes(4) + struct.pack("<ii", 0, -1)


@pytest.mark.parametrize("cut", [None, 60, 40, 18, 14, 7])
def test_broken_exif_costs_no_photo(tmp_path, cut):
    lying, _ = turned()
    whole = cut is None
    (lying if whole else photo()).save(tmp_path / "x.jpg", quality=92, exif=broken_exif(6 if whole else 1)[:cut])
    assert shown(tmp_path / "x.jpg") == [SHOWN]
    photo().save(tmp_path / "x.png", exif=broken_exif(1)[6:cut])
    assert shown(tmp_path / "x.png") == [SHOWN]
    photo().save(tmp_path / "x.webp", exif=broken_exif(1)[:cut], quality=92)
    assert shown(tmp_path / "x.webp") == [SHOWN]


def test_large_texts_and_profiles_cost_no_photo(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    text.add_itxt("more", "y" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    photo().save(tmp_path / "text.png", pnginfo=text)
    with pytest.raises(ValueError, match="too large"):
        Image.open(tmp_path / "text.png")
    assert shown(tmp_path / "text.png") == [SHOWN]
    profile = bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1)
    for name in ("profile.png", "profile.jpg", "profile.webp", "profile.tif"):
        photo().save(tmp_path / name, icc_profile=profile)
        assert shown(tmp_path / name) == [SHOWN], name


# --- size


def test_a_jpeg_of_200_megapixels_is_a_photo(tmp_path):
    photo(SHOWN, 10_000, 20_000).save(tmp_path / "x.jpg", quality=60)
    assert shown(tmp_path / "x.jpg") == [SHOWN]


def test_any_other_picture_beyond_the_limit_says_the_limit(tmp_path):
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = io.BytesIO(b"")
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(10))), (b"IEND", b"")):
        data.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data.getvalue())
    error = refusal(tmp_path / "bomb.png")
    assert error.reason == "too_large" and "60000 x 60000 is 3600 megapixels; the limit is 179" in error.detail


def test_a_tiff_that_pillow_cannot_read_says_so(tmp_path):
    tiff(tmp_path / "x.tif", quarters([0, 1, 2, 3], "<f8").tobytes(), 64, {339: 3})
    error = refusal(tmp_path / "x.tif")
    assert error.reason == "unsupported" and "8 or 16 bits" in error.detail


# --- hostile


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.svg", "x.heic", "x.tif", "x.mp4"])
@pytest.mark.parametrize("kind", ["svg", "postscript", "pdf", "mvg"])
def test_a_drawing_reaches_no_interpreter(tmp_path, name, kind):
    outside = tmp_path / "outside.png"
    photo().save(outside)
    said = {
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{outside}" width="9" height="9"/></svg>',
        "postscript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({outside}) (r) file closefile showpage\n",
        "pdf": "%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n",
        "mvg": f"push graphic-context\nimage over 0,0 0,0 '{outside}'\npop graphic-context\n",
    }[kind]
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / name).write_text(said)
    with torture.Watch(outside) as watch:
        assert refusal(tmp_path / "root" / name).reason == "not_a_video"
    assert not watch.opened


def test_a_jpeg_that_is_also_postscript_is_a_jpeg(tmp_path):
    photo().save(tmp_path / "x.jpg", comment=b"\n%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n", quality=92)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes() + b"\n<svg/>%!PS\nshowpage\n")
    assert shown(tmp_path / "x.jpg") == [SHOWN]
