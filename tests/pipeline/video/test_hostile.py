"""A text that names other files is no video: nothing outside the file is opened and nobody is called, by any decoder."""

import struct

import pytest
from PIL import Image

from pipeline.files import DecodeError
from pipeline.video.decode import DECODERS, decode
from tests.support import torture

SIDE = torture.SIDE
NAMES = ("x.mp4", "x.m3u8", "x.ffconcat", "x.mpd", "x.sdp", "x.ts", "x.jpg", "x%03d.png")


def texts(outside, address):
    """Texts that a willing demuxer follows, by name."""
    uri = f"file://{outside}"
    dash = (
        f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-main:2011" '
        f'type="static" mediaPresentationDuration="PT4S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1">'
        f"<BaseURL>{uri}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:4.8,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "hls": hls.format(outside),
        "hls_uri": hls.format(uri),
        "hls_http": hls.format(f"http://{address}/a.ts"),
        "hls_key": hls.format(f'a.ts\n#EXT-X-KEY:METHOD=AES-128,URI="http://{address}/key"\n#EXTINF:4,\n{outside}'),
        "hls_marked": "\ufeff" + hls.format(outside),
        "concat": f"ffconcat version 1.0\nfile '{outside}'\n",
        "concat_neighbour": "ffconcat version 1.0\nfile neighbour.ts\n",
        "concat_http": f"ffconcat version 1.0\nfile http://{address}/a.ts\n",
        "dash": dash,
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {address.split(':')[1]} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "imf": f'<?xml version="1.0"?><AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"><Path>{uri}</Path></AssetMap>',
        "asx": f'<asx version="3.0"><entry><ref href="http://{address}/a.wmv"/></entry></asx>',
        "smil": f'<smil><body><video src="{uri}"/></body></smil>',
        "avs": f'AVISource("{outside}")\n',
        "lavfi": f"movie={outside}\n",
    }


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", sorted(texts("", "127.0.0.1:1")))
def test_a_playlist_is_not_a_video(tmp_path, name, decoder):
    root = tmp_path / "root"
    root.mkdir()
    outside = torture.film(tmp_path / "outside.ts", *torture.CLOSED)
    neighbour = torture.film(root / "neighbour.ts", *torture.CLOSED)
    with torture.Watch(outside, neighbour) as watch:
        for file in NAMES:
            (root / file).write_text(texts(outside, watch.address)[name])
            with pytest.raises(DecodeError) as refused:
                decode(root / file, 3, SIDE, decoder=decoder)
            assert refused.value.reason == "not_a_video", (file, refused.value)
    assert not watch.opened and not watch.called


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("tail", ["film", "transport"])
def test_a_playlist_with_a_film_behind_it_is_not_followed(tmp_path, tail, decoder):
    outside = torture.film(tmp_path / "outside.ts", *torture.CLOSED)
    behind = torture.film(tmp_path / f"behind.{'mp4' if tail == 'film' else 'ts'}", *torture.CLOSED).read_bytes()
    with torture.Watch(outside) as watch:
        for name in ("hls", "concat", "sdp", "dash"):
            text = texts(outside, watch.address)[name].encode()
            for between in (b"", bytes(64), b"\n" * 200):
                (tmp_path / "x.mp4").write_bytes(text + between + behind)
                try:
                    clip = decode(tmp_path / "x.mp4", 3, SIDE, decoder=decoder)
                except DecodeError:
                    continue
                assert clip.decoder.startswith(decoder)  # it took the film that is in the file
    assert not watch.opened and not watch.called


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_movie_whose_pictures_lie_in_another_file_is_not_followed(tmp_path, decoder):
    """QuickTime's data reference: the samples are said to be in the file that an alias record names."""
    (tmp_path / "root").mkdir()
    outside = torture.film(tmp_path / "root" / "outside.mov", *torture.CLOSED)
    data = outside.read_bytes()
    place = data.index(b"dref") - 4
    (size,) = struct.unpack_from(">I", data, place)
    path = str(outside).encode()
    record = bytearray(150)
    struct.pack_into(">HH", record, 130, 1, 1)  # the same folder
    record += struct.pack(">HH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", len(record) + 12, b"alis", 0) + bytes(record)
    dref = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = len(dref) - size
    changed = bytearray(data[:place] + dref + data[place + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = changed.rindex(name, 0, place) - 4
        struct.pack_into(">I", changed, at, struct.unpack_from(">I", changed, at)[0] + grown)
    (tmp_path / "root" / "x.mov").write_bytes(changed)
    with torture.Watch(outside) as watch:
        try:
            decode(tmp_path / "root" / "x.mov", 3, SIDE, decoder=decoder)
        except DecodeError as refused:
            assert refused.reason in ("not_a_video", "no_video", "damaged", "no_frames", "no_times", "truncated")
    assert not watch.opened and not watch.called


@pytest.mark.parametrize("decoder", DECODERS)
def test_numbered_pictures_are_no_film(tmp_path, decoder):
    """A name with a pattern means the file of that name, not those that fit it."""
    for number in range(3):
        Image.fromarray(torture.picture(number)).save(tmp_path / f"x{number:03d}.png")
    Image.fromarray(torture.picture(77)).save(tmp_path / "x%03d.png")
    clip = decode(tmp_path / "x%03d.png", 3, SIDE, decoder=decoder)
    assert [torture.number_in(frame.numpy()) for frame in clip.frame] == [77]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["a$HOME", "~a", "50%", "%03d", "a b", "x?y=1#z", "-i"])
def test_a_folder_of_any_name_is_a_folder(tmp_path, name, decoder):
    (tmp_path / name).mkdir()
    film = torture.film(tmp_path / "film.mp4", *torture.CLOSED).rename(tmp_path / name / "film.mp4")
    clip = decode(film, 3, SIDE, decoder=decoder)
    assert [torture.number_in(frame.numpy()) for frame in clip.frame] == [8, 24, 40]
