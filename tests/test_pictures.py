"""Photographs of every kind that a person may have, and what is written into a picture."""

import hashlib
import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pillow_heif
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from pmagic import pictures
from pmagic.errors import NotFound, NumericFailure, PhotoRefused, StorageFailed

SIZE = (48, 40)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def halves(left: object = RED, right: object = BLUE, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, SIZE, left)
    image.paste(right, (SIZE[0] // 2, 0, *SIZE))
    return image


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def corner(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    """The pixel near a corner: x, y of 0 or 1."""
    return image.getpixel((3 + x * (image.width - 7), 3 + y * (image.height - 7)))


@pytest.mark.parametrize("name", ["p.png", "p.webp", "p.jpg", "wrong-ending.txt"])
def test_the_three_formats_are_read_whatever_the_ending(tmp_path: Path, name: str) -> None:
    kind = {"webp": "WEBP", "jpg": "JPEG"}.get(name.rpartition(".")[2], "PNG")
    path = saved(tmp_path / name, halves(), format=kind, quality=95)
    photo = pictures.read_photo(path)
    assert photo.image.mode == "RGB"
    assert photo.image.size == SIZE
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    near(corner(photo.image, 0, 0), RED)


@pytest.mark.parametrize(
    ("orientation", "where_red"),
    [(1, [(0, 0), (0, 1)]), (3, [(1, 0), (1, 1)]), (6, [(0, 0), (1, 0)]), (8, [(0, 1), (1, 1)]), (2, [(1, 0), (1, 1)])],
)
def test_exif_turns_the_photo(tmp_path: Path, orientation: int, where_red: list[tuple[int, int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = pictures.read_photo(saved(tmp_path / "p.jpg", halves(), exif=exif, quality=95)).image
    assert image.size == (SIZE if orientation < 5 else SIZE[::-1])
    for x in (0, 1):
        for y in (0, 1):
            near(corner(image, x, y), RED if (x, y) in where_red else BLUE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.jpg", halves(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage", quality=95)
    assert pictures.read_photo(path).image.size == SIZE


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    grey = Image.new("I;16", SIZE, 40000)
    image = pictures.read_photo(saved(tmp_path / "p.png", grey)).image
    assert image.getpixel((5, 5)) == (156, 156, 156)  # 40000 / 257, where a plain conversion says 255


def test_cmyk_is_read_as_colours(tmp_path: Path) -> None:
    image = pictures.read_photo(saved(tmp_path / "p.jpg", halves().convert("CMYK"), quality=95)).image
    near(corner(image, 0, 0), RED, 12)
    near(corner(image, 1, 0), BLUE, 12)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = halves((255, 0, 0, 255), (0, 0, 255, 0), "RGBA")
    read = pictures.read_photo(saved(tmp_path / "p.png", image)).image
    assert corner(read, 0, 0) == RED
    assert corner(read, 1, 0) == WHITE


def test_palettes_are_read_with_and_without_a_transparent_colour(tmp_path: Path) -> None:
    palette = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    plain = pictures.read_photo(saved(tmp_path / "a.png", palette)).image
    assert (corner(plain, 0, 0), corner(plain, 1, 0)) == (RED, BLUE)
    hidden = palette.getpixel((SIZE[0] - 3, 3))
    clear = pictures.read_photo(saved(tmp_path / "b.png", palette, transparency=hidden)).image
    assert (corner(clear, 0, 0), corner(clear, 1, 0)) == (RED, WHITE)


@pytest.mark.parametrize(("mode", "value", "seen"), [("L", 90, 90), ("1", 1, 255), ("LA", (90, 255), 90)])
def test_grey_and_black_and_white(tmp_path: Path, mode: str, value: object, seen: int) -> None:
    image = pictures.read_photo(saved(tmp_path / "p.png", Image.new(mode, SIZE, value))).image
    assert image.getpixel((5, 5)) == (seen, seen, seen)


def test_an_embedded_profile_is_obeyed_and_a_broken_one_passed_over(tmp_path: Path) -> None:
    grey = Image.new("RGB", SIZE, (90, 90, 90))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = pictures.read_photo(saved(tmp_path / "a.png", grey, icc_profile=lab)).image
    near(same.getpixel((5, 5)), (90, 90, 90), 1)
    broken = pictures.read_photo(saved(tmp_path / "b.png", grey, icc_profile=b"nonsense")).image
    assert broken.getpixel((5, 5)) == (90, 90, 90)


def test_a_cut_photo_is_refused_at_every_length(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, kind)
        data = buffer.getvalue()
        for length in range(0, len(data) * 9 // 10, max(1, len(data) // 25)):
            (tmp_path / "cut").write_bytes(data[:length])
            with pytest.raises(PhotoRefused):
                pictures.read_photo(tmp_path / "cut")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_header(9_000, 8_000))
    for name in ("bomb.png", "large.png"):
        with pytest.raises(PhotoRefused, match="pixels"):
            pictures.read_photo(tmp_path / name)


def test_a_tiny_photo_and_an_animation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoRefused, match="only 31 x 40"):
        pictures.read_photo(saved(tmp_path / "s.png", Image.new("RGB", (31, 40))))
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE)]
    for kind in ("webp", "png"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
        with pytest.raises(PhotoRefused, match="animated"):
            pictures.read_photo(tmp_path / f"a.{kind}")


CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("ending", ["gif", "tiff", "bmp", "avif", "jp2", "ppm"])
def test_what_pillow_writes_is_read(tmp_path: Path, ending: str) -> None:
    image = pictures.read_photo(saved(tmp_path / f"p.{ending}", halves())).image
    assert (image.mode, image.size) == ("RGB", SIZE)
    near(corner(image, 0, 0), RED, 12)
    near(corner(image, 1, 0), BLUE, 12)


def test_a_phones_heic_is_read() -> None:
    image = pictures.read_photo(CASES / "photo.heic").image
    assert image.size == (512, 512)
    near(image.resize((1, 1)).getpixel((0, 0)), (142, 133, 132))


def test_a_gif_shows_its_first_frame_and_a_tiff_its_first_page(tmp_path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE)]
    for kind in ("gif", "tiff"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
        assert corner(pictures.read_photo(tmp_path / f"a.{kind}").image, 0, 0) == RED


def test_sixteen_bit_tiffs_are_scaled_and_floats_are_refused(tmp_path: Path) -> None:
    image = pictures.read_photo(saved(tmp_path / "p.tiff", Image.new("I;16", SIZE, 40000))).image
    assert image.getpixel((5, 5)) == (156, 156, 156)
    with pytest.raises(PhotoRefused, match="floating-point"):
        pictures.read_photo(saved(tmp_path / "f.tiff", Image.new("F", SIZE, 0.5)))


BROKEN_EXIF = {
    "zeros": bytes(40),
    "double": b"Exif\0\0Exif\0\0MM\0*\0\0\0\x08\0\0",
    "text": b"b'Exif\\x00\\x00MM'",
    "garbage": b"Exif\0\0garbage!garbage!",
    "empty": b"Exif\0\0",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01",
    "far": b"Exif\0\0MM\0*\xff\xff\xff\xff",
    "bigtiff": b"Exif\0\0II+\0\x08\0\0\0",
    "orientation-of-99": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
    "orientation-as-text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0\x36\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.filterwarnings("error::UserWarning")
def test_broken_exif_is_passed_over_in_every_format(tmp_path: Path, kind: str, exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own of what it is made to write
        halves().save(tmp_path / "p", kind, exif=exif)
    image = pictures.read_photo(tmp_path / "p").image
    assert image.size == SIZE
    near(corner(image, 0, 0), RED, 12)
    with pytest.raises(PhotoRefused, match="does not carry settings"):
        pictures.read_metadata(tmp_path / "p")


@pytest.mark.parametrize("kind", ["avif", "heif"])
@pytest.mark.parametrize("header", [b"garbage!", bytes(8), b"MM\0*\xff\xff\xff\xff", b"II*\0\0\0\0\x05"])
def test_broken_exif_is_passed_over_in_a_phones_formats(tmp_path: Path, kind: str, header: bytes) -> None:
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    halves().save(tmp_path / "p", kind, exif=exif)
    begin = exif.tobytes()[6:14]
    data = (tmp_path / "p").read_bytes()
    assert data.count(begin) == 1
    (tmp_path / "p").write_bytes(data.replace(begin, header))
    near(corner(pictures.read_photo(tmp_path / "p").image, 0, 0), RED, 12)


def test_a_broken_hexadecimal_exif_of_a_png_is_passed_over(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Raw profile type exif", "\nexif\n  6\nnothexadecimal\n")
    assert pictures.read_photo(saved(tmp_path / "p.png", halves(), pnginfo=notes)).image.size == SIZE


@pytest.mark.parametrize("behind", [False, True])
def test_large_texts_of_a_png_do_not_hide_its_pixels(tmp_path: Path, behind: bool) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "x" * 3_000_000, zip=True)
    path = saved(tmp_path / "p.png", halves(), pnginfo=notes)
    if behind:  # after the pixels, where a reader comes to it last
        data = path.read_bytes()
        at = data.index(b"zTXt") - 4
        end = at + 12 + int.from_bytes(data[at : at + 4])
        path.write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    assert corner(pictures.read_photo(path).image, 0, 0) == RED


def test_a_large_profile_of_a_png_is_still_obeyed(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")
    small = pictures.read_photo(saved(tmp_path / "a.png", halves(), icc_profile=swapped)).image
    assert corner(small, 0, 0) != RED
    large = pictures.read_photo(saved(tmp_path / "b.png", halves(), icc_profile=swapped + bytes(2_000_000))).image
    assert large.tobytes() == small.tobytes()


def test_heic_loads_its_library_only_for_heic(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.png", halves())
    code = "import sys; from pathlib import Path; from pmagic import pictures; pictures.read_photo(Path(sys.argv[1]));"
    done = subprocess.run([sys.executable, "-c", code + "print('pillow_heif' in sys.modules)", str(path)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "False\n"


def test_what_another_program_wrote_is_read(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "a cowboy\nSteps: 20")
    notes.add_text("workflow", "{}")
    path = saved(tmp_path / "p.png", halves(), pnginfo=notes)
    assert pictures.read_foreign_texts(path) == {"parameters": "a cowboy\nSteps: 20", "workflow": "{}"}
    exif = Image.Exif()
    exif[0x010F] = "workflow:{}"
    for order in ("utf-16-be", "utf-16-le"):
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cowboy".encode(order)
        for kind in ("jpg", "webp"):
            texts = pictures.read_foreign_texts(saved(tmp_path / f"p.{kind}", halves(), exif=exif))
            assert texts == {"UserComment": "a cowboy", "Make": "workflow:{}"}
    assert pictures.read_foreign_texts(saved(tmp_path / "q.png", halves())) == {}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("comment", [None, "a cowboy\nSteps: 20, Seed: 8"])
def test_json_of_another_program_is_no_story(tmp_path: Path, kind: str, comment: str | None) -> None:
    exif = Image.Exif()
    exif[0x010E] = '{"prompt": "a cowboy", "steps": 20, "seed": 7}'
    if comment:
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + comment.encode("utf-16-be")
    path = saved(tmp_path / "p", halves(), format=kind, exif=exif)
    with pytest.raises(PhotoRefused, match="does not carry settings"):
        pictures.read_metadata(path)
    assert pictures.read_foreign_texts(path)["ImageDescription"] == exif[0x010E]


def test_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg"):
        with pytest.raises(PhotoRefused, match="not a JPEG, PNG or WEBP"):
            pictures.read_photo(tmp_path / name)
    with pytest.raises(PhotoRefused, match="is a folder"):
        pictures.read_photo(tmp_path)
    with pytest.raises(NotFound, match=r"nosuch\.jpg"):
        pictures.read_photo(tmp_path / "nosuch.jpg")
    with pytest.raises(PhotoRefused, match="cannot be read"):
        pictures.read_photo(tmp_path / ("x" * 300))


def test_a_mask_has_the_photos_size_and_marks_something(tmp_path: Path) -> None:
    mask = pictures.read_mask(saved(tmp_path / "m.png", halves(0, 255, "L")), SIZE)
    assert (mask.mode, corner(mask, 0, 0), corner(mask, 1, 0)) == ("L", 0, 255)
    with pytest.raises(PhotoRefused, match="the photo is 10 x 10"):
        pictures.read_mask(tmp_path / "m.png", (10, 10))
    with pytest.raises(PhotoRefused, match="black everywhere"):
        pictures.read_mask(saved(tmp_path / "b.png", Image.new("L", SIZE, 0)), SIZE)


def test_what_is_transparent_in_a_mask_marks_nothing(tmp_path: Path) -> None:
    painted = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    painted.paste("white", (0, 0, 4, 4))
    mask = pictures.read_mask(saved(tmp_path / "m.png", painted))
    assert mask.getbbox() == (0, 0, 4, 4) and mask.getextrema() == (0, 255)


def test_a_photo_that_is_not_opaque_everywhere_says_so(tmp_path: Path) -> None:
    clear, opaque = (Image.new("RGBA", SIZE, (255, 0, 0, alpha)) for alpha in (254, 255))
    seen = [pictures.read_photo(saved(tmp_path / f"{k}.png", each)) for k, each in enumerate((clear, opaque, halves()))]
    assert [photo.see_through for photo in seen] == [True, False, False]


IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
STORY = {"prompt": "a photo of <zoë> as a cowboy", "negative": "blur", "steps": 50, "seed": 7, "size": [48, 40]}


def test_a_picture_says_how_it_was_made_and_that_a_machine_made_it(tmp_path: Path) -> None:
    path = pictures.write_picture(halves(), tmp_path / "new" / "p.png", STORY)
    assert pictures.read_metadata(path) == {**STORY, "format": "png"}
    with Image.open(path) as image:
        assert image.text["parameters"].startswith("a photo of <zoë> as a cowboy\nNegative prompt: blur\nSteps: 50")
        assert "Seed: 7, Size: 48x40" in image.text["parameters"]
        said = ElementTree.fromstring(image.text["XML:com.adobe.xmp"]).find(".//{*}Description").attrib
        assert said[f"{{{IPTC}}}DigitalSourceType"] == pictures.DIGITAL_SOURCE
        assert image.tobytes() == halves().tobytes()


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (pictures.write_picture(halves(), tmp_path / "p.png", STORY) for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_no_file_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_text("mine")
    (tmp_path / "p-3.png").symlink_to(tmp_path / "nowhere")
    names = [pictures.write_picture(halves(), tmp_path / "p.png", STORY).name for _ in range(3)]
    assert names == ["p-2.png", "p-4.png", "p-5.png"]
    assert (tmp_path / "p.png").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))  # nothing half written lies about


def test_a_picture_without_a_story_and_one_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(PhotoRefused, match="does not carry settings"):
        pictures.read_metadata(saved(tmp_path / "p.png", halves()))
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match="cannot store the picture"):
        pictures.write_picture(halves(), tmp_path / "file" / "p.png", STORY)
    with pytest.raises(NumericFailure):
        pictures.write_picture(halves(0, 1, "L"), tmp_path / "g.png", STORY)


def near(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 6) -> None:
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) <= by, (found, wanted)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds almost none."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return PngImagePlugin._MAGIC + chunk(b"IHDR", fields) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
