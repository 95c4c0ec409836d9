"""Decoding: the pixels of an image file as viewers show them, of every format that is read.

Metadata that cannot be read is passed over; a file whose pixels cannot be read is refused, with the format named.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import ExifTags, Image, ImageCms

from pmagic.errors import NotFound, PhotoRefused

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

# Pillow's names of what is read, besides HEIF.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM")
PHOTO_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".bmp",
    ".dib", ".gif", ".jp2", ".j2k", ".jpx",
)  # fmt: skip
MAX_FILE_BYTES = 100 * 1024**2
MAX_PIXELS = 64_000_000
_PNG = b"\x89PNG\r\n\x1a\n"  # how every PNG begins
_MAX_PROFILE = 16 * 1024**2  # bytes of a PNG's colour profile that is larger than Pillow reads
_ADVICE = "give a JPEG, PNG or WEBP photo"
_READ = "a JPEG, PNG or WEBP image, nor HEIC, AVIF, TIFF, BMP, GIF or JPEG 2000"
# What Pillow's readers raise on damaged data, each as it likes.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, ArithmeticError,
           AttributeError, struct.error, zlib.error)  # fmt: skip
# The first bytes of files that people take for photos and that are not read: (offset, bytes, what it is).
_OTHERS = (
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (4, b"ftypcrx", "a camera's raw file (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (0, b"IIU\0", "a camera's raw file (RW2)"),
    (4, b"ftypqt", "a film"),
    (4, b"ftypisom", "a film"),
    (4, b"ftypmp4", "a film"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"PK\x03\x04", "a ZIP archive"),
)  # fmt: skip
_CONVERT = "open it in a picture program and save it as JPEG or PNG"
# What an EXIF orientation asks for, as in Exif 2.32, section 4.6.4; 1 is upright.
_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def looks_like_photo(path: Path) -> bool:
    """Whether a file begins as one of FORMATS does; False where it cannot be opened."""
    try:
        with path.open("rb") as file:
            formats = _formats(file.read(12))
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.open(file, formats=formats)
    except (*BROKEN, Image.DecompressionBombError):
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """A file of at most MAX_FILE_BYTES. Raises NotFound or PhotoRefused."""
    try:
        if path.is_dir():
            raise PhotoRefused(f"{path} is a folder, not a photo", _ADVICE)
        if not path.exists():
            raise NotFound(f"there is no file {path}", "check the path of the photo")
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise PhotoRefused(f"{path} is not a file of at most {MAX_FILE_BYTES // 1024**2} MB", _ADVICE)
        return path.read_bytes()
    except OSError as error:
        raise PhotoRefused(f"{path} cannot be read: {error.strerror}", "check its permissions") from error


def open_image(data: bytes, path: Path) -> Image.Image:
    """The decoded image, in the mode of its file; `path` is what PhotoRefused calls it.

    Its info has `texts_left_out` where a PNG's texts or an AVIF's EXIF were passed over.
    """
    try:
        return _decoded(data, path)
    except PhotoRefused:
        # Pillow gives up a PNG whose text or profile is large once unpacked and an AVIF whose EXIF is broken, though
        # nothing is wrong with their pixels.
        lean, profile = _without_texts(data) if data.startswith(_PNG) else (_without_exif(data), b"")
        if lean is None:
            raise
        image = _decoded(lean, path)
        image.info.update(texts_left_out=True)
        if profile:
            image.info.update(icc_profile=profile)
        return image


def _decoded(data: bytes, path: Path) -> Image.Image:
    """As `open_image` of a whole file: whatever the header alone can refuse is refused before a pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's, of metadata that is passed over
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_formats(data))
    except Image.UnidentifiedImageError as error:
        other = next((what for at, begin, what in _OTHERS if data[at : at + len(begin)] == begin), None)
        if other is not None:
            raise PhotoRefused(f"{path} is {other}, which is not read", _CONVERT) from error
        raise PhotoRefused(f"{path} is not {_READ}", _ADVICE) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoRefused(f"{path} has too many pixels", f"scale it below {MAX_PIXELS:,} pixels") from error
    except BROKEN as error:
        raise PhotoRefused(f"{path} cannot be decoded: {error}", _ADVICE) from error
    if image.width * image.height > MAX_PIXELS:
        raise PhotoRefused(f"{path} has {image.width} x {image.height} pixels", f"scale it below {MAX_PIXELS:,} pixels")
    # Others than these hold further pictures that are no animation: a depth map, a second view, pages, a thumbnail.
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1:
        raise PhotoRefused(f"{path} is animated", "save one frame as JPEG or PNG")
    try:
        if image.format == "TIFF" and _page_kind(image) & 1:  # the page is a thumbnail
            raise PhotoRefused(f"{path} is a camera's raw file or begins with a small preview", _CONVERT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image.load()
    except BROKEN as error:
        raise PhotoRefused(f"{path} is damaged or cut short: {error}", "take the original file again") from error
    if image.mode in ("F", "LAB"):
        kind = "floating-point pixels, whose range it does not say" if image.mode == "F" else "colours in Lab"
        raise PhotoRefused(f"{path} holds {kind}, which is not read", _CONVERT)
    return image


def _formats(data: bytes) -> tuple[str, ...]:
    """What a file that begins so may be. HEIF is asked before AVIF, for both begin with a box `ftyp`."""
    if data[4:8] != b"ftyp":
        return FORMATS
    import pillow_heif  # here alone: it loads a library of its own

    pillow_heif.register_heif_opener()
    return ("HEIF", *FORMATS)


def _without_texts(data: bytes) -> tuple[bytes | None, bytes]:
    """A PNG without its text and profile chunks, and its profile; None where it has none of them."""
    kept, profile, at = [_PNG], b"", len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if kind == b"iCCP":
            profile = _unpacked_profile(content)
        elif kind not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[at:end])
        at = end
    lean = b"".join(kept)
    return (None if len(lean) >= len(data) else lean), profile


def _without_exif(data: bytes) -> bytes | None:
    """An AVIF whose EXIF item has a type that no reader knows, and so passes over; None of any other file."""
    at = data.find(b"Exif") if data[4:8] == b"ftyp" else -1
    return None if at < 0 else data[:at] + b"skip" + data[at + 4 :]


def _unpacked_profile(content: bytes) -> bytes:
    """The profile of an iCCP chunk: a name, a zero, the method 0, deflated bytes; b"" where that is not so."""
    _, _, packed = content.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], _MAX_PROFILE)
    except zlib.error:
        return b""


def to_rgb(image: Image.Image, behind: str = "white") -> Image.Image:
    """Upright 8-bit sRGB of a decoded image; what is transparent shows the colour `behind` it."""
    profile = image.info.get("icc_profile")
    image = _upright(image)
    if image.mode.startswith("I"):  # 16-bit grey; `convert` alone would clip it: 40000 would become 255
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "1", "LA", "PA", "YCbCr"):
        image = image.convert("RGB")
    image = _to_srgb(image, profile)
    if alpha is None:
        return image
    whole = Image.new("RGB", image.size, behind)
    whole.paste(image, mask=alpha)
    return whole


def _page_kind(image: Image.Image) -> int:
    """The NewSubfileType of a TIFF's first page: bit 0 says that it is a smaller version of another one."""
    return cast("TiffImageFile", image).tag_v2.get(ExifTags.Base.NewSubfileType, 0)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF or XMP asks for."""
    turn = _TURNS.get(exif_tags(image).get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def exif_tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a picture and of its EXIF folder; what cannot be read of them is not there."""
    tags: dict[int, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            exif = image.getexif()
            tags.update(exif)
            tags.update(exif.get_ifd(ExifTags.IFD.Exif))
        except BROKEN:
            pass
    return tags


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded colour profile; a profile that does not fit the image is passed over, as viewers do."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None  # it is None only with inPlace=True
            return converted
        except (ImageCms.PyCMSError, *BROKEN):
            pass
    return image.convert("RGB")
