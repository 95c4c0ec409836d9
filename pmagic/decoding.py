"""Decoding: the pixels of an image file as viewers show them, for all supported formats.

Unreadable metadata is ignored. A file with unreadable pixels is refused, and the message names its format.
"""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import ExifTags, Image, ImageCms

from pmagic import image_formats, png_chunks
from pmagic.errors import NotFound, PhotoRefused

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs is also raised as an error

# Pillow's names of the supported formats, besides HEIF.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM")
PHOTO_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".bmp",
    ".dib", ".gif", ".jp2", ".j2k", ".jpx",
)  # fmt: skip
MAX_FILE_BYTES = 100 * 1024**2
MAX_PIXELS = 64_000_000
_ADVICE = "give a JPEG, PNG or WEBP photo"
_READ = "a JPEG, PNG or WEBP image, nor HEIC, AVIF, TIFF, BMP, GIF or JPEG 2000"
# The exceptions of Pillow's readers on damaged data; each reader has its own.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, ArithmeticError,
           AttributeError, struct.error, zlib.error)  # fmt: skip
# The transposition of each EXIF orientation (Exif 2.32, section 4.6.4); 1 is upright.
_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def looks_like_photo(path: Path) -> bool:
    """Whether a file has the header of a supported format; False if it cannot be opened."""
    try:
        with path.open("rb") as file:
            head = file.read(image_formats.HEAD)
            if image_formats.other_format(head) is not None:
                return False
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.open(file, formats=_formats(head, path))
    except (*BROKEN, Image.DecompressionBombError, PhotoRefused):
        return False
    return True


def read_bytes(path: Path) -> bytes:
    """Read a file of at most MAX_FILE_BYTES. Raises NotFound or PhotoRefused."""
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
    """Decode an image, in the mode of its file. path: its name in the messages of PhotoRefused.

    Its info has `texts_left_out` if the texts of a PNG or the EXIF of an AVIF were ignored.
    """
    refused = None
    for candidate, info in _candidates(data):
        try:
            image = _decode(candidate, path)
        except PhotoRefused as error:
            refused = error  # the last error concerns only the pixels
            continue
        image.info.update(info)
        return image
    assert refused is not None
    raise refused


def _candidates(data: bytes) -> Iterator[tuple[bytes, dict[str, object]]]:
    """The file, then versions without broken or large metadata, for which Pillow refuses a whole file.

    Each comes with the entries that the decoded image's info gets.
    """
    yield data, {}
    if data.startswith(png_chunks.SIGNATURE):
        for texts in (True, False):
            lean, profile = png_chunks.without_metadata(data, texts=texts)
            yield lean, {**({"icc_profile": profile} if profile else {}), "texts_left_out": not texts}
    elif image_formats.is_iso_media(data) and b"Exif" in data:
        # No reader knows this item type, so all ignore it.
        yield data.replace(b"Exif", b"skip", 1), {"texts_left_out": True}


def _decode(data: bytes, path: Path) -> Image.Image:
    """Decode one candidate of `open_image`. All checks that need only the header come before the pixels are decoded."""
    image = _read_header(data, path)
    if image.width * image.height > MAX_PIXELS:
        raise PhotoRefused(f"{path} has {image.width} x {image.height} pixels", f"scale it below {MAX_PIXELS:,} pixels")
    # In other formats further pictures are no animation but a depth map, a second view, pages or a thumbnail.
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1:
        raise PhotoRefused(f"{path} is animated", "save one frame as JPEG or PNG")
    try:
        raw = image_formats.raw_tiff(cast("TiffImageFile", image).tag_v2) if image.format == "TIFF" else None
        if raw is not None:
            raise PhotoRefused(f"{path} is {raw.name}", raw.next_step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image.load()
    except BROKEN as error:
        raise PhotoRefused(f"{path} is damaged or cut short: {error}", "take the original file again") from error
    if image.mode in ("P", "PA") and image.palette is None:
        raise PhotoRefused(f"{path} is damaged: it has no palette", "take the original file again")
    if image.mode == "F":
        raise PhotoRefused(
            f"{path} holds floating-point pixels, whose range it does not say, which is not read", image_formats.CONVERT
        )
    return image


def _read_header(data: bytes, path: Path) -> Image.Image:
    """Open the image by its header, without decoding. Raises PhotoRefused, which names an unsupported format."""
    other = image_formats.other_format(data[: image_formats.HEAD])
    if other is not None:
        raise PhotoRefused(f"{path} is {other.name}, which is not read", other.next_step)
    try:
        formats = _formats(data[: image_formats.HEAD], path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's warnings about metadata that it ignores
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=formats)
    except Image.UnidentifiedImageError as error:
        if data.startswith((png_chunks.SIGNATURE, b"\xff\xd8\xff")):
            raise PhotoRefused(f"{path} is damaged or cut short", "take the original file again") from error
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            what = "a TIFF image of a kind that is not read, or a camera's raw file"
            raise PhotoRefused(f"{path} is {what}", image_formats.CONVERT) from error
        raise PhotoRefused(f"{path} is not {_READ}", _ADVICE) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoRefused(f"{path} has too many pixels", f"scale it below {MAX_PIXELS:,} pixels") from error
    except BROKEN as error:
        raise PhotoRefused(f"{path} cannot be decoded: {error}", _ADVICE) from error


def _formats(head: bytes, path: Path) -> tuple[str, ...]:
    """The possible formats of a file with this head. Raises PhotoRefused for HEIC if its library cannot be loaded."""
    if not image_formats.is_heic(head):
        return FORMATS
    try:
        import pillow_heif  # imported only here: it loads a native library
    except ImportError as error:
        raise PhotoRefused(
            f"{path} is a HEIC image, and the package pillow-heif, which reads it, cannot be loaded: {error}",
            "install it with `pip install pillow-heif`, or save the photo as JPEG",
        ) from error
    pillow_heif.register_heif_opener()
    return ("HEIF", *FORMATS)


def to_rgb(image: Image.Image, behind: str = "white") -> Image.Image:
    """A decoded image as upright 8-bit sRGB; transparent pixels show the colour `behind`."""
    profile = image.info.get("icc_profile")
    tags = getattr(image, "tag_v2", {})  # only a TIFF has them
    image = _upright(image)
    if image.mode.startswith("I"):
        image = _to_grey(image, tags)
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


def _to_grey(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Scale integer grey of more than 8 bits to 8 bits. Pillow's `convert` would clip: 40000 would become 255.

    tags: those of a TIFF; without them a pixel has 16 bits. White is the largest value of the bit depth (TIFF 6.0). But
    if the values of a 32-bit image fit into 8 or 16 bits, they are scaled as such: some programs store them that way.
    """
    import numpy as np

    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    signed = tags.get(ExifTags.Base.SampleFormat, (1,))[0] == 2
    values = np.asarray(image.convert("I"))
    if bits == 32 and not signed:
        values = values.view(np.uint32)
    top = 2 ** (bits - signed) - 1
    if bits == 32:
        top = next((fewer for fewer in (2**8 - 1, 2**16 - 1) if values.max() <= fewer), top)
    return Image.fromarray((values.astype(np.float32).clip(0, top) * (255 / top) + 0.5).astype(np.uint8))


def _upright(image: Image.Image) -> Image.Image:
    """The image, turned upright by the orientation in its EXIF or XMP."""
    turn = _TURNS.get(exif_tags(image).get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def exif_tags(image: Image.Image) -> dict[int, Any]:
    """The tags of a picture and of its EXIF directory; unreadable tags are left out."""
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
    """Convert through the embedded colour profile; a profile that does not fit the image is ignored, as in viewers."""
    if image.mode == "LAB":  # a colour space of its own
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None  # it is None only with inPlace=True
            return converted
        except (ImageCms.PyCMSError, *BROKEN):
            pass
    return image.convert("RGB")
