"""Image files of every kind: what is wrong beside the pixels is passed over, and what is not read is named."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from pmagic import decoding, image_formats, pictures
from pmagic.errors import PhotoRefused

SIZE = (48, 40)
RED, BLUE = (255, 0, 0), (0, 0, 255)
HEIC = Path(__file__).parent / "cases" / "photo.heic"
BEFORE_PIXELS = 33  # of a PNG: behind its signature and IHDR


def halves() -> Image.Image:
    image = Image.new("RGB", SIZE, RED)
    image.paste(BLUE, (SIZE[0] // 2, 0, *SIZE))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder: Path, data: bytes) -> Image.Image:
    (folder / "photo").write_bytes(data)
    return pictures.read_photo(folder / "photo").image


def chunk(kind: bytes, content: bytes, *, wrong: int = 0) -> bytes:
    """A PNG chunk, whose checksum is right unless `wrong` is 1."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)


def with_chunk(data: bytes, added: bytes, *, behind: bool = False) -> bytes:
    """A PNG with a chunk more, before its pixels or behind them."""
    at = len(data) - 12 if behind else BEFORE_PIXELS
    return data[:at] + added + data[at:]


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
BROKEN_CHUNKS = {
    "pHYs-short": chunk(b"pHYs", b"short"),
    "pHYs-checksum": chunk(b"pHYs", struct.pack(">IIB", 1, 1, 1), wrong=1),
    "cHRM-short": chunk(b"cHRM", b"x"),
    "cHRM-checksum": chunk(b"cHRM", bytes(32), wrong=1),
    "sRGB-empty": chunk(b"sRGB", b""),
    "sRGB-checksum": chunk(b"sRGB", b"\0", wrong=1),
    "gAMA-short": chunk(b"gAMA", b"\1"),
    "gAMA-checksum": chunk(b"gAMA", struct.pack(">I", 45455), wrong=1),
    "eXIf-cut": chunk(b"eXIf", b"II*\0"),
    "eXIf-checksum": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0", wrong=1),
    "tIME-short": chunk(b"tIME", b"\1"),
    "tIME-checksum": chunk(b"tIME", bytes(7), wrong=1),
    "tRNS-short": chunk(b"tRNS", b"\1"),
    "tRNS-checksum": chunk(b"tRNS", bytes(6), wrong=1),
    "private-checksum": chunk(b"prVt", b"x", wrong=1),
    "tEXt-checksum": chunk(b"tEXt", b"name\0text", wrong=1),
    "iTXt-short": chunk(b"iTXt", b"name\0"),
    "iCCP-no-zlib": chunk(b"iCCP", b"name\0\0no"),
    "iCCP-checksum": chunk(b"iCCP", b"name\0\0" + zlib.compress(PROFILE), wrong=1),
    "iCCP-100-MB": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(100_000_000))),
    "acTL-short": chunk(b"acTL", b"\0\0\0\2"),
    "acTL-checksum": chunk(b"acTL", bytes([0, 0, 0, 2, 0, 0, 0, 0]), wrong=1),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("broken", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_a_broken_chunk_does_not_hide_the_pixels_of_a_png(tmp_path: Path, broken: bytes, behind: bool) -> None:
    image = read(tmp_path, with_chunk(encoded(halves(), "PNG"), broken, behind=behind))
    assert image.tobytes() == halves().tobytes()


def test_a_broken_chunk_takes_nothing_else_with_it(tmp_path: Path) -> None:
    """A PNG keeps its turn, its profile, its transparent colour and its texts."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    swapped = PROFILE.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cowboy")
    whole = encoded(halves(), "PNG", exif=exif, icc_profile=swapped, transparency=BLUE, pnginfo=texts)
    broken = with_chunk(whole, BROKEN_CHUNKS["pHYs-short"])
    shown = read(tmp_path, broken)
    assert shown.tobytes() == read(tmp_path, whole).tobytes()
    assert shown.size == SIZE[::-1] and shown.getpixel((5, 5)) != RED and shown.getpixel((5, 40)) == (255, 255, 255)
    assert pictures.read_foreign_texts(tmp_path / "photo") == {"parameters": "a cowboy"}


def test_a_story_is_read_beside_a_broken_chunk(tmp_path: Path) -> None:
    data = pictures.encode_image(halves(), "png", {"prompt": "a cowboy"})
    (tmp_path / "p.png").write_bytes(with_chunk(data, BROKEN_CHUNKS["gAMA-checksum"]))
    assert pictures.read_metadata(tmp_path / "p.png") == {"prompt": "a cowboy", "format": "png"}


def test_an_animation_with_a_broken_chunk_is_still_an_animation(tmp_path: Path) -> None:
    moving = encoded(halves(), "PNG", save_all=True, append_images=[halves().rotate(180)])
    with pytest.raises(PhotoRefused, match="animated"):
        read(tmp_path, with_chunk(moving, BROKEN_CHUNKS["tEXt-checksum"]))


def test_a_png_whose_pixels_are_damaged_is_refused_as_before(tmp_path: Path) -> None:
    data = encoded(halves(), "PNG")
    at = data.index(b"IDAT") + 8
    for damaged in (data[: at + 9], data[:at] + bytes(20) + data[at + 20 :], data[:20]):
        with pytest.raises(PhotoRefused, match=r"damaged or cut short|cannot be decoded"):
            read(tmp_path, damaged)
    palette = encoded(halves().convert("P"), "PNG")
    start = palette.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(palette[start : start + 4])
    with pytest.raises(PhotoRefused, match="has no palette"):
        read(tmp_path, palette[:start] + palette[end:])


def tiff_of_integers(values: np.ndarray) -> bytes:
    """A grey TIFF of 32 bits a pixel, written by hand, as Pillow writes signed ones only."""
    kind = {"u": 1, "i": 2}[values.dtype.kind]
    tags = [(256, SIZE[0]), (257, SIZE[1]), (258, 32), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1)]
    tags += [(279, values.nbytes), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values.tobytes()


@pytest.mark.parametrize(
    ("kind", "white", "value", "seen"),
    [
        ("<u4", 2**32 - 1, 2**31, 128),  # half of the whole range
        ("<u4", 65535, 40000, 156),  # 16 bits that a program has widened
        ("<u4", 255, 90, 90),
        ("<i4", 2**31 - 1, 2**30, 128),
        ("<i4", 65535, 40000, 156),
        ("<i4", 255, -5, 0),
    ],
)
def test_integers_of_32_bits_are_scaled(tmp_path: Path, kind: str, white: int, value: int, seen: int) -> None:
    values = np.full(SIZE[::-1], value, kind)
    values[0, 0] = white
    image = read(tmp_path, tiff_of_integers(values))
    assert image.getpixel((0, 0)) == (255, 255, 255) and image.getpixel((5, 5)) == (seen, seen, seen)


def test_a_tiff_in_lab_is_read_as_colours(tmp_path: Path) -> None:
    """L* 0 to 100 as 0 to 255, a* and b* as signed bytes (TIFF 6.0, section 23); the colours of sRGB in CIELab, D50."""
    known = {(255, 0, 0): (255, 255, 255), (138, 81, 70): RED, (136, 0, 0): (128, 128, 128), (0, 0, 0): (0, 0, 0)}
    for (light, a, b), colour in known.items():
        lab = Image.new("LAB", SIZE, (light, 128 + a, 128 + b))
        near(read(tmp_path, encoded(lab, "TIFF")).getpixel((5, 5)), colour)


def test_an_orientation_turns_a_tiff_once(tmp_path: Path) -> None:
    for options in ({}, {"compression": "tiff_lzw"}):
        image = read(tmp_path, encoded(halves(), "TIFF", tiffinfo={274: 6}, **options))
        assert image.size == SIZE[::-1] and image.getpixel((5, 5)) == RED and image.getpixel((5, 40)) == BLUE


OTHERS = {
    "CR2": b"II*\0\x10\0\0\0CR\x02\0",
    "CR3": b"\0\0\0\x18ftypcrx ",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0",
    "MOV": b"\0\0\0\x14ftypqt  ",
    "M4V": b"\0\0\0\x18ftypM4V ",
    "MP4": b"\0\0\0\x18ftypmp42",
    "MP4 of a phone": b"\0\0\0\x18ftypisom",
    "3GP": b"\0\0\0\x18ftyp3gp5",
    "MKV": b"\x1aE\xdf\xa3",
    "AVI": b"RIFF\x10\0\0\0AVI LIST",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'>",
    "SVG after XML": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns=',
    "HTML": b"\n<!DOCTYPE html>\n<html><body><svg>",
    "HTML as XML": b'<?xml version="1.0"?>\n<html xmlns=',
    "ICO": b"\0\0\1\0\1\0",
    "QOI": b"qoif\0\0",
    "JPEG XR": b"II\xbc\x01",
    "JPEG XL": b"\xff\x0a",
    "FITS": b"SIMPLE  =                    T",
    "PDF": b"%PDF-1.7",
    "Photoshop": b"8BPS",
    "ISO media": b"\0\0\0\x18ftypxxxx",
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    data = OTHERS[name] + bytes(200)
    with pytest.raises(PhotoRefused) as caught:
        read(tmp_path, data)
    assert name.split()[0] in caught.value.what and "which is not read" in caught.value.what
    assert "JPEG" in caught.value.next_step or name.startswith("HTML")
    assert not decoding.looks_like_photo(tmp_path / "photo")


def test_many_comments_cost_no_time() -> None:
    assert image_formats.other_format(b"<!---->" * (image_formats.HEAD // 7)) is None


def test_a_raw_photo_is_not_learned_from_its_preview(tmp_path: Path) -> None:
    cases = {"DNG": {50706: b"\1\4\0\0"}, "NEF": {254: 1, 271: "NIKON CORPORATION"}, "small preview": {254: 1}}
    for name, tags in cases.items():
        with pytest.raises(PhotoRefused, match=name) as caught:
            read(tmp_path, encoded(halves(), "TIFF", tiffinfo=tags))
        assert "raw file" in caught.value.what and "export it as JPEG" in caught.value.next_step


def test_heic_without_its_library_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoRefused, match="is a HEIC image, and the package pillow-heif") as caught:
        read(tmp_path, HEIC.read_bytes())
    assert "pip install pillow-heif" in caught.value.next_step and not decoding.looks_like_photo(HEIC)
    near(read(tmp_path, encoded(halves(), "AVIF")).getpixel((5, 5)), RED)
    with pytest.raises(PhotoRefused, match="is a film"):
        read(tmp_path, OTHERS["MP4"] + bytes(100))


@pytest.mark.parametrize("brand", [b"mif1", b"msf1"])
def test_an_avif_that_calls_itself_by_its_container_is_read(tmp_path: Path, brand: bytes) -> None:
    data = encoded(halves(), "AVIF")
    near(read(tmp_path, data[:8] + brand + data[12:]).getpixel((5, 5)), RED)
    assert decoding.looks_like_photo(tmp_path / "photo")


def near(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 6) -> None:
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= by, (found, wanted)
