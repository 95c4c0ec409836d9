"""Image formats, recognised by a file's first bytes, so that the refusal of a file can name its format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = 4096  # the number of bytes that are examined


@dataclass(frozen=True)
class OtherFormat:
    """An unsupported format. name: with its article. next_step: how to turn such a file into a supported photo."""

    name: str
    next_step: str


CONVERT = "open it in a picture program and save it as JPEG or PNG"
_EXPORT = "export it as JPEG from the camera's own program, darktable or RawTherapee"
_STILL = "save one of its frames as JPEG or PNG"
# (offset, bytes, name, next step), specific signatures before general ones.
_SIGNATURES = (
    (8, b"CR\x02", "a camera's raw file (CR2)", _EXPORT),
    (4, b"ftypcrx", "a camera's raw file (CR3)", _EXPORT),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)", _EXPORT),
    (0, b"IIU\0", "a camera's raw file (RW2)", _EXPORT),
    (0, b"IIRO", "a camera's raw file (ORF)", _EXPORT),
    (0, b"IIRS", "a camera's raw file (ORF)", _EXPORT),
    (0, b"MMOR", "a camera's raw file (ORF)", _EXPORT),
    (0, b"FOVb", "a camera's raw file (X3F)", _EXPORT),
    (4, b"ftypqt", "a film (MOV)", _STILL),
    (4, b"moov", "a film (MOV)", _STILL),
    (4, b"ftypM4V", "a film (M4V)", _STILL),
    (4, b"ftyp3g", "a film (3GP)", _STILL),
    (4, b"ftypiso", "a film (MP4)", _STILL),
    (4, b"ftypmp4", "a film (MP4)", _STILL),
    (4, b"ftypavc", "a film (MP4)", _STILL),
    (4, b"ftypdash", "a film (MP4)", _STILL),
    (0, b"\x1aE\xdf\xa3", "a film (MKV or WEBM)", _STILL),
    (8, b"AVI ", "a film (AVI)", _STILL),
    (0, b"\xff\x0a", "a JPEG XL image", CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", CONVERT),
    (0, b"II\xbc", "a JPEG XR image", CONVERT),
    (0, b"\0\0\1\0", "an icon (ICO)", CONVERT),
    (0, b"8BPS", "a Photoshop document", CONVERT),
    (0, b"gimp xcf", "a GIMP document", CONVERT),
    (0, b"qoif", "a QOI image", CONVERT),
    (0, b"SIMPLE  =", "a FITS image", CONVERT),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR image", CONVERT),
    (0, b"DDS ", "a DDS image", CONVERT),
    (0, b"%PDF", "a PDF document", CONVERT),
    (0, b"%!PS", "a PostScript document", CONVERT),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it, and give a photo from it"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
# Endings of raw files that are TIFF files beginning with a preview, by the first word of EXIF's Make.
_RAW_OF_MAKER = {"NIKON": "NEF", "SONY": "ARW", "PENTAX": "PEF", "SAMSUNG": "SRW", "HASSELBLAD": "3FR"}


def other_format(head: bytes) -> OtherFormat | None:
    """The format of a file beginning with `head`, if it is a known unsupported format; None otherwise."""
    for offset, begin, name, next_step in _SIGNATURES:
        if head[offset : offset + len(begin)] == begin:
            return OtherFormat(name, next_step)
    if is_iso_media(head) and not is_avif(head) and not is_heic(head):
        return OtherFormat("a film or another ISO media file", _STILL)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    drawing, page = text.find(b"<svg"), max(text.find(b"<!doctype html"), text.find(b"<html"))
    if text.startswith(b"<") and page >= 0 and not 0 <= drawing < page:  # a web page can contain SVG drawings
        return OtherFormat("a web page (HTML)", "save the photo itself from the page")
    if text.startswith(b"<") and drawing >= 0:  # possibly after an XML declaration, a comment or a document type
        return OtherFormat("an SVG drawing", CONVERT)
    return None


def raw_tiff(tags: Mapping[int, Any]) -> OtherFormat | None:
    """The raw format of a TIFF file with these tags; its first page is then only a preview. None for a picture.

    tags: the tags of the first page, by number. 254 is NewSubfileType of TIFF 6.0, 50706 DNGVersion of DNG 1.7.
    """
    if 50706 in tags:
        return OtherFormat("a camera's raw file (DNG)", _EXPORT)
    if not tags.get(254, 0) & 1:
        return None
    maker = str(tags.get(271, "")).upper().split()
    ending = _RAW_OF_MAKER.get(maker[0]) if maker else None
    name = f"a camera's raw file ({ending})" if ending else "a camera's raw file or begins with a small preview"
    return OtherFormat(name, _EXPORT)


def is_iso_media(head: bytes) -> bool:
    """Whether a file begins with the box `ftyp`, as HEIC, AVIF and films do."""
    return head[4:8] == b"ftyp"


def is_avif(head: bytes) -> bool:
    """Whether an ISO media file is an AVIF, even if its main brand is that of the container, such as `mif1`.

    The `ftyp` box lists the compatible brands (ISO 14496-12, section 4.3).
    """
    brands = head[8 : int.from_bytes(head[:4])]
    return is_iso_media(head) and (b"avif" in brands or b"avis" in brands)


def is_heic(head: bytes) -> bool:
    """Whether an ISO media file is a HEIC by its main brand, and not an AVIF."""
    return is_iso_media(head) and head[8:12] in _HEIC_BRANDS and not is_avif(head)
