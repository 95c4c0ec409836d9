"""Reads photos and masks as a viewer shows them, and writes pictures that carry their settings."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import ExifTags, Image, PngImagePlugin

from pmagic import atomic_io
from pmagic.decoding import BROKEN, exif_tags, open_image, read_bytes, to_rgb
from pmagic.errors import NumericFailure, PhotoRefused, UsageError

ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # formats in which pictures are written
MIN_SIDE = 32
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_MAX_EXIF = 60_000  # bytes; a JPEG has room for 65533
# Tags in which other programs keep prompts and settings; some use the camera's make and model for them.
_TEXT_TAGS = (
    ExifTags.Base.UserComment, ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model,
    ExifTags.Base.Software, ExifTags.Base.Artist, ExifTags.Base.Copyright,
)  # fmt: skip


@dataclass(frozen=True)
class Photo:
    """One photograph, upright, RGB, 8 bits; `sha256` is that of the file's bytes."""

    image: Image.Image
    sha256: str
    path: Path
    see_through: bool = False  # the file has pixels that are not opaque; `image` shows them on white


def read_photo(path: Path) -> Photo:
    """The photo as a viewer shows it: turned by EXIF, 16 bits scaled, colour profile applied, transparency on white.

    A GIF shows its first frame, a TIFF its first page. Raises NotFound, or PhotoRefused for anything but one still
    picture of FORMATS or HEIC with 32 px a side to 64 megapixels.
    """
    return _photo(read_bytes(path), path)


def _photo(data: bytes, path: Path) -> Photo:
    image = open_image(data, path)
    if min(image.size) < MIN_SIDE:
        raise PhotoRefused(
            f"{path} has only {image.width} x {image.height} pixels", f"give a photo of at least {MIN_SIDE} px a side"
        )
    see_through = image.has_transparency_data and _extrema(image.convert("RGBA").getchannel("A"))[0] < 255
    return Photo(to_rgb(image), hashlib.sha256(data).hexdigest(), path, see_through)


def photo_of(image: Image.Image) -> Photo:
    """A picture in memory as a photo; `sha256` is that of a PNG of its pixels. Raises PhotoRefused for a small one."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return _photo(buffer.getvalue(), Path("the given picture"))


def decode_image(data: bytes, name: str) -> Image.Image:
    """Bytes of a picture of FORMATS, upright and RGB; PhotoRefused calls it `name`."""
    return to_rgb(open_image(data, Path(name)))


def read_mask(source: Path | Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """A mask in 8-bit grey, white where the subject is.

    size: the photo's (width, height), which the mask must have. Transparent pixels count as black.
    """
    path = source if isinstance(source, Path) else Path("the given mask")
    image = open_image(read_bytes(source), source) if isinstance(source, Path) else source
    mask = to_rgb(image, behind="black").convert("L")
    if size is not None and mask.size != size:
        raise PhotoRefused(
            f"the mask {path} is {mask.width} x {mask.height}, the photo is {size[0]} x {size[1]}",
            "give a mask of the photo's size, white where the subject is",
        )
    if _extrema(mask)[1] == 0:
        raise PhotoRefused(f"the mask {path} is black everywhere", "paint the subject white")
    return mask


def _extrema(grey: Image.Image) -> tuple[int, int]:
    """The darkest and the lightest value of a picture of one channel."""
    return cast(tuple[int, int], grey.getextrema())


def write_picture(image: Image.Image, path: Path, metadata: Mapping[str, object]) -> Path:
    """Writes a picture that says it is machine-made, and how. Returns its path, numbered where the name was taken.

    path: its ending decides the format, see ENDINGS. metadata: prompt, negative, steps, scheduler, guidance, seed,
    base, persona, ...; plain values. It never replaces a file; once it returns, the
    picture is on the disk. Raises StorageFailed.
    """
    data = encode_image(image, ENDINGS[path.suffix.lower()], metadata)
    with atomic_io.storing(f"the picture {path}"):
        return atomic_io.publish_file(data, path)


def encode_image(image: Image.Image, kind: str, metadata: Mapping[str, object]) -> bytes:
    """The picture as a file of `kind` "png", "jpeg" or "webp"; the same picture and metadata give the same bytes.

    PNG carries the metadata as text chunks, the others as EXIF: ImageDescription (JSON) and UserComment (`parameters`).
    """
    if image.mode != "RGB":
        raise NumericFailure(f"a picture must be RGB, not {image.mode}")
    buffer = io.BytesIO()
    if kind == "png":
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("pmagic", json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True))
        notes.add_itxt("parameters", parameters(metadata))
        notes.add_itxt("XML:com.adobe.xmp", MARK)
        image.save(buffer, "PNG", pnginfo=notes)
        return buffer.getvalue()
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = json.dumps(dict(metadata), sort_keys=True)  # ASCII, as this tag must be
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + parameters(metadata).encode("utf-16-be")
    if len(exif.tobytes()) > _MAX_EXIF:
        raise UsageError("the prompt is too long for this format", "shorten it, or write PNG")
    options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True}
    image.save(buffer, kind.upper(), exif=exif, xmp=MARK.encode(), **options)
    return buffer.getvalue()


def read_metadata(path: Path) -> dict[str, object]:
    """The metadata that `write_picture` wrote into a picture, and its `format`; PhotoRefused without any."""
    image = open_image(read_bytes(path), path)
    try:
        metadata = json.loads(_written_metadata(image))
        json.dumps(metadata, allow_nan=False)  # NaN and infinity are no JSON, though Python reads them
        if not isinstance(metadata, dict) or not _is_own(image, metadata):
            raise TypeError
    except BROKEN as error:
        raise PhotoRefused(
            f"{path} does not carry settings of pmagic", "give a picture that pmagic has written"
        ) from error
    return {**metadata, "format": str(image.format).lower()}


def _written_metadata(image: Image.Image) -> str:
    return image.info["pmagic"] if image.format == "PNG" else exif_tags(image)[ExifTags.Base.ImageDescription]


def _is_own(image: Image.Image, metadata: Mapping[str, object]) -> bool:
    """Whether pmagic wrote the metadata: other programs put JSON into EXIF's description too, but not both texts."""
    if image.format == "PNG":  # whose text has pmagic's name
        return True
    comment = _exif_text(exif_tags(image).get(ExifTags.Base.UserComment))
    return image.format in ("JPEG", "WEBP") and comment == parameters(metadata).strip("\0 ")


def read_foreign_texts(path: Path) -> dict[str, str]:
    """Texts in a picture of another program, by name: a PNG's texts, or EXIF's descriptions, comment and software.

    Empty without any, and for a picture that pmagic has written. Raises NotFound or PhotoRefused.
    """
    image = open_image(read_bytes(path), path)
    if image.info.get("texts_left_out"):
        raise PhotoRefused(f"the texts in {path} are too large to be shown", "look at them with a metadata viewer")
    texts = {str(key): str(value) for key, value in getattr(image, "text", {}).items()}
    if "pmagic" in texts:
        return {}
    tags = exif_tags(image)
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
    if encoding == b"UNICODE":  # usually big-endian; in little-endian ASCII the second byte is zero
        little = text[1:2] == b"\0"
        return text.decode("utf-16-le" if little else "utf-16-be", "replace").strip("\0 ")
    if encoding in (b"ASCII", b""):
        return text.decode("utf-8", "replace").strip("\0 ")
    return value.decode("utf-8", "replace").strip("\0 ")


def parameters(metadata: Mapping[str, object]) -> str:
    """The settings as the `parameters` text that other programs read from a picture."""
    names = {
        "steps": "Steps",
        "scheduler": "Sampler",
        "guidance": "CFG scale",
        "seed": "Seed",
        "size": "Size",
        "base": "Model",
        "persona": "Persona",
    }
    used = {label: metadata[key] for key, label in names.items() if metadata.get(key) is not None}
    rest = ", ".join(f"{label}: {_value_text(value)}" for label, value in used.items())
    negative = f"\nNegative prompt: {metadata['negative']}" if metadata.get("negative") else ""
    return f"{metadata.get('prompt', '')}{negative}\n{rest}"


def _value_text(value: object) -> str:
    return "x".join(str(side) for side in value) if isinstance(value, list | tuple) else str(value)


# XMP that marks a picture as machine-made.
MARK = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
