"""Photographs in, pictures out: what a file shows is read right or refused, and what is written says what it is."""

import hashlib
import io
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from pmagic.errors import NotFound, NumericFailure, PhotoRefused, UsageProblem
from pmagic.library import durable

# Pillow's names of what is read, besides HEIF.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM")
PHOTO_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".heic", ".heif", ".hif", ".avif", ".tif", ".tiff", ".bmp",
    ".dib", ".gif", ".jp2", ".j2k", ".jpx",
)  # fmt: skip
ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # of pictures that are written
MAX_FILE_BYTES = 100 * 1024**2
MAX_PIXELS = 64_000_000
MIN_SIDE = 32
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_MAX_EXIF = 60_000  # bytes; a JPEG has room for 65533
_PNG = b"\x89PNG\r\n\x1a\n"  # how every PNG begins
_MAX_PROFILE = 16 * 1024**2  # bytes of a PNG's colour profile that is larger than Pillow reads
_ADVICE = "give a JPEG, PNG or WEBP photo"
_READ = "a JPEG, PNG or WEBP image, nor HEIC, AVIF, TIFF, BMP, GIF or JPEG 2000"
# What Pillow's readers raise on damaged data, each as it likes.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError, ArithmeticError,
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
# Where other programs put what they tell; some write a prompt and a workflow as the camera's make and model.
_TEXT_TAGS = (
    ExifTags.Base.UserComment, ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model,
    ExifTags.Base.Software, ExifTags.Base.Artist, ExifTags.Base.Copyright,
)  # fmt: skip
# What an EXIF orientation asks for, as in Exif 2.32, section 4.6.4; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Photo:
    """One photograph, upright, RGB, 8 bits; `sha256` is that of the file's bytes."""

    image: Image.Image
    sha256: str
    path: Path
    see_through: bool = False  # the file has pixels that are not opaque; `image` shows them over white


def read_photo(path: Path) -> Photo:
    """The photo as a viewer shows it: turned by EXIF, 16 bits scaled, profiles obeyed, transparency over white.

    A GIF shows its first frame, a TIFF its first page. Raises NotFound, or PhotoRefused for anything but one still
    picture of FORMATS or HEIC with 32 px a side to 64 megapixels.
    """
    return _photo(_bytes(path), path)


def _photo(data: bytes, path: Path) -> Photo:
    image = _opened(data, path)
    if min(image.size) < MIN_SIDE:
        raise PhotoRefused(
            f"{path} has only {image.width} x {image.height} pixels", f"give a photo of at least {MIN_SIDE} px a side"
        )
    see_through = image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    return Photo(_rgb(image), hashlib.sha256(data).hexdigest(), path, see_through)


def photo_of(image: Image.Image) -> Photo:
    """A picture in memory as a photo; `sha256` is that of a PNG of its pixels. Raises PhotoRefused for a small one."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _photo(buffer.getvalue(), Path("the given picture"))


def decoded(data: bytes, name: str) -> Image.Image:
    """Bytes of a picture of FORMATS, upright and RGB; PhotoRefused calls it `name`."""
    return _rgb(_opened(data, Path(name)))


def looks_like_photo(path: Path) -> bool:
    """Whether a file begins as one of FORMATS does; False where it cannot be opened."""
    try:
        with path.open("rb") as file:
            formats = _formats(file.read(12))
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.open(file, formats=formats)
    except (*_BROKEN, Image.DecompressionBombError):
        return False
    return True


def read_mask(given: Path | Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """A mask in 8-bit grey, white where the subject is; must have the photo's `size` (width, height), where given.

    Transparency marks nothing, as black.
    """
    path = given if isinstance(given, Path) else Path("the given mask")
    opened = _opened(_bytes(given), given) if isinstance(given, Path) else given
    mask = _rgb(opened, behind="black").convert("L")
    if size is not None and mask.size != size:
        raise PhotoRefused(
            f"the mask {path} is {mask.width} x {mask.height}, the photo is {size[0]} x {size[1]}",
            "give a mask of the photo's size, white where the subject is",
        )
    if mask.getextrema()[1] == 0:
        raise PhotoRefused(f"the mask {path} is black everywhere", "paint the subject white")
    return mask


def write_picture(image: Image.Image, path: Path, story: Mapping[str, object]) -> Path:
    """A picture that says it is machine-made and how; never replaces a file, returns the (numbered) path it got.

    path: its ending decides the format, see ENDINGS. story: prompt, negative, steps, scheduler, guidance, seed, base,
    persona, ...; plain values. Raises StorageFailed; the picture is on the disk when this returns.
    """
    data = encoded(image, ENDINGS[path.suffix.lower()], story)
    with durable.storing(f"the picture {path}"):
        return durable.publish_file(data, path)


def encoded(image: Image.Image, kind: str, story: Mapping[str, object]) -> bytes:
    """The picture as a file of `kind` "png", "jpeg" or "webp"; the same picture and story give the same bytes.

    PNG carries the story as text chunks, the others as EXIF: ImageDescription (JSON) and UserComment (`parameters`).
    """
    if image.mode != "RGB":
        raise NumericFailure(f"a picture must be RGB, not {image.mode}")
    buffer = io.BytesIO()
    if kind == "png":
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("pmagic", json.dumps(dict(story), ensure_ascii=False, sort_keys=True))
        notes.add_itxt("parameters", parameters(story))
        notes.add_itxt("XML:com.adobe.xmp", MARK)
        image.save(buffer, "PNG", pnginfo=notes)
        return buffer.getvalue()
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps(dict(story), sort_keys=True)  # ASCII, as this tag must be
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + parameters(story).encode("utf-16-be")
    if len(exif.tobytes()) > _MAX_EXIF:
        raise UsageProblem("the prompt is too long for this format", "shorten it, or write PNG")
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True}
    image.save(buffer, kind.upper(), exif=exif, xmp=MARK.encode(), **options)
    return buffer.getvalue()


def read_story(path: Path) -> dict[str, object]:
    """The story that `write_picture` put into a picture, and its `format`; PhotoRefused where there is none."""
    image = _opened(_bytes(path), path)
    try:
        told = image.info["pmagic"] if image.format == "PNG" else _exif(image)[ExifTags.Base.ImageDescription]
        story = json.loads(told)
        json.dumps(story, allow_nan=False)  # NaN and infinity are no JSON, though Python reads them
        if not isinstance(story, dict):
            raise TypeError
    except _BROKEN as error:
        raise PhotoRefused(
            f"{path} does not carry settings of pmagic", "give a picture that pmagic has written"
        ) from error
    return {**story, "format": str(image.format).lower()}


def read_foreign_texts(path: Path) -> dict[str, str]:
    """What a picture of another program carries, by name: a PNG's texts, or EXIF's descriptions, comment and software.

    Empty where there is nothing. Raises NotFound or PhotoRefused.
    """
    image = _opened(_bytes(path), path)
    if image.info.get("texts_left_out"):
        raise PhotoRefused(f"the texts in {path} are too large to be shown", "look at them with a metadata viewer")
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    tags = _exif(image)
    for tag in _TEXT_TAGS:
        text = _exif_text(tags.get(tag))
        if text:
            texts.setdefault(tag.name, text)
    comment = image.info.get("comment")  # of a JPEG or a GIF
    if isinstance(comment, bytes) and comment.strip(b"\0 "):
        texts.setdefault("comment", comment.decode("utf-8", "replace"))
    return texts


def _exif_text(value: object) -> str:
    """The text of a tag; a UserComment begins with eight bytes that name its encoding (Exif 2.32, section 4.6.5)."""
    if isinstance(value, str):
        return value.strip("\0 ")
    if not isinstance(value, bytes):
        return ""
    encoding, text = value[:8].rstrip(b"\0 "), value[8:]
    if encoding == b"UNICODE":  # big-endian as a rule; an ASCII text in the other order has its zeros behind
        little = text[1:2] == b"\0"
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0 ")
    if encoding in (b"ASCII", b""):
        return text.decode("utf-8", "replace").strip("\0 ")
    return value.decode("utf-8", "replace").strip("\0 ")


def parameters(story: Mapping[str, object]) -> str:
    """The settings in the words that other programs read from a picture's `parameters` text."""
    names = {
        "steps": "Steps",
        "scheduler": "Sampler",
        "guidance": "CFG scale",
        "seed": "Seed",
        "size": "Size",
        "base": "Model",
        "persona": "Persona",
    }
    rest = ", ".join(f"{shown}: {_shown(story[key])}" for key, shown in names.items() if story.get(key) is not None)
    negative = f"\nNegative prompt: {story['negative']}" if story.get("negative") else ""
    return f"{story.get('prompt', '')}{negative}\n{rest}"


def _shown(value: object) -> str:
    return "x".join(str(side) for side in value) if isinstance(value, list | tuple) else str(value)


def _bytes(path: Path) -> bytes:
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


def _opened(data: bytes, path: Path) -> Image.Image:
    """The decoded image, after everything that can be refused by looking at the header alone."""
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
    except _BROKEN as error:
        raise PhotoRefused(f"{path} cannot be decoded: {error}", _ADVICE) from error
    if image.width * image.height > MAX_PIXELS:
        raise PhotoRefused(f"{path} has {image.width} x {image.height} pixels", f"scale it below {MAX_PIXELS:,} pixels")
    # Others than these hold further pictures that are no animation: a depth map, a second view, pages, a thumbnail.
    if image.format in ("PNG", "WEBP", "AVIF") and getattr(image, "n_frames", 1) > 1:
        raise PhotoRefused(f"{path} is animated", "save one frame as JPEG or PNG")
    try:
        if image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & 1:  # the page is a thumbnail
            raise PhotoRefused(f"{path} is a camera's raw file or begins with a small preview", _CONVERT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image.load()
    except _BROKEN as error:
        raise PhotoRefused(f"{path} is damaged or cut short: {error}", "take the original file again") from error
    if image.mode == "F":
        raise PhotoRefused(f"{path} holds floating-point pixels, whose range it does not say", _CONVERT)
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


def _rgb(image: Image.Image, behind: str = "white") -> Image.Image:
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


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF or XMP asks for."""
    turn = _TURNS.get(_exif(image).get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _exif(image: Image.Image) -> dict[int, Any]:
    """The tags of a picture and of its EXIF folder; what cannot be read of them is not there."""
    tags: dict[int, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            exif = image.getexif()
            tags.update(exif)
            tags.update(exif.get_ifd(ExifTags.IFD.Exif))
        except _BROKEN:
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
        except (ImageCms.PyCMSError, *_BROKEN):
            pass
    return image.convert("RGB")


# The XMP that says so: that a machine made it.
MARK = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
