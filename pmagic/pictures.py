"""Photographs in, pictures out: what a file shows is read right or refused, and what is written says what it is."""

import hashlib
import io
import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from pmagic.errors import NotFound, NumericFailure, PhotoRefused, UsageProblem
from pmagic.library import durable

FORMATS = ("JPEG", "PNG", "WEBP")
ENDINGS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}  # of pictures that are written
MAX_FILE_BYTES = 100 * 1024**2
MAX_PIXELS = 64_000_000
MIN_SIDE = 32
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_MAX_EXIF = 60_000  # bytes; a JPEG has room for 65533
_ADVICE = "give a JPEG, PNG or WEBP photo"


@dataclass(frozen=True)
class Photo:
    """One photograph, upright, RGB, 8 bits; `sha256` is that of the file's bytes."""

    image: Image.Image
    sha256: str
    path: Path
    see_through: bool = False  # the file has pixels that are not opaque; `image` shows them over white


def read_photo(path: Path) -> Photo:
    """The photo as a viewer shows it: turned by EXIF, 16 bits scaled, profiles obeyed, transparency over white.

    Raises NotFound, or PhotoRefused for anything but one still JPEG, PNG or WEBP of 32 px to 64 megapixels.
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
    """Bytes of a JPEG, PNG or WEBP as an upright RGB picture; PhotoRefused calls it `name`."""
    return _rgb(_opened(data, Path(name)))


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
        told = image.info["pmagic"] if image.format == "PNG" else image.getexif()[ExifTags.Base.ImageDescription]
        story = json.loads(told)
        json.dumps(story, allow_nan=False)  # NaN and infinity are no JSON, though Python reads them
        if not isinstance(story, dict):
            raise TypeError
    except (KeyError, ValueError, TypeError, RecursionError, OSError, SyntaxError, struct.error) as error:
        raise PhotoRefused(
            f"{path} does not carry settings of pmagic", "give a picture that pmagic has written"
        ) from error
    return {**story, "format": str(image.format).lower()}


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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise PhotoRefused(f"{path} is not a JPEG, PNG or WEBP image", _ADVICE) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoRefused(f"{path} has too many pixels", f"scale it below {MAX_PIXELS:,} pixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise PhotoRefused(f"{path} cannot be decoded: {error}", _ADVICE) from error
    if image.width * image.height > MAX_PIXELS:
        raise PhotoRefused(f"{path} has {image.width} x {image.height} pixels", f"scale it below {MAX_PIXELS:,} pixels")
    # MPO is a phone's JPEG with a second view or a depth map behind the photo: not an animation.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise PhotoRefused(f"{path} is animated", "save one frame as JPEG or PNG")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PhotoRefused(f"{path} is damaged or cut short: {error}", "take the original file again") from error
    return image


def _rgb(image: Image.Image, behind: str = "white") -> Image.Image:
    """Upright 8-bit sRGB of a decoded image; what is transparent shows the colour `behind` it."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
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


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded colour profile; a profile that does not fit the image is passed over, as viewers do."""
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None  # it is None only with inPlace=True
            return converted
        except (ImageCms.PyCMSError, OSError):
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
