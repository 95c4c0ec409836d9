"""PNG chunks: reduce a PNG to the chunks that its pixels need, if its other chunks are broken or too large.

A decoder may ignore all ancillary chunks (PNG specification, section 4.7.2), and viewers ignore broken ones.
"""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE = 16 * 1024**2  # bytes of a decompressed colour profile
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# Ancillary chunks that affect the display: transparent colours, orientation, and animation.
_SHOWING = (b"tRNS", b"eXIf", b"acTL")
# Chunk lengths in bytes, for kinds with only one valid length; for tRNS by the colour type of IHDR.
_LENGTHS = {b"acTL": 8}
_TRANSPARENCY = {0: 2, 2: 6}


def without_metadata(data: bytes, *, texts: bool) -> tuple[bytes, bytes]:
    """The PNG with only the chunks that affect its display, and its colour profile, b"" without one.

    texts: keep also the text chunks with a correct checksum. The profile is decompressed here because Pillow refuses
    large profiles.
    """
    kept: list[bytes] = [SIGNATURE]
    profile: bytes | None = None  # only the first chunk is used: a PNG has one, and decompression takes time
    transparency = _TRANSPARENCY.get(data[25]) if len(data) > 25 else None
    lengths = _LENGTHS | ({b"tRNS": transparency} if transparency else {})
    wanted = (*_SHOWING, *TEXTS) if texts else _SHOWING
    for kind, start, end in _chunks(data):
        if kind in _CRITICAL:
            kept.append(data[start:end])
        elif kind in (*wanted, b"iCCP") and _is_whole(data, start, end):
            content = data[start + 8 : end - 4]
            if kind == b"iCCP":
                profile = _unpack_profile(content) if profile is None else profile
            elif len(content) == lengths.get(kind, len(content)):
                kept.append(data[start:end])
    return b"".join(kept), profile or b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk; the end of the last may be beyond the data."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at, end
        at = end


def _is_whole(data: bytes, start: int, end: int) -> bool:
    return data[end - 4 : end] == zlib.crc32(data[start + 4 : end - 4]).to_bytes(4)


def _unpack_profile(content: bytes) -> bytes:
    """The profile in an iCCP chunk (a name, a zero byte, the method 0, deflated bytes); b"" if it is broken."""
    _, _, packed = content.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return b""
