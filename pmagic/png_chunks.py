"""PNG chunks: the parts of a file that its pixels need, for one whose other parts are broken or too large.

A decoder may leave out every ancillary chunk (PNG specification, section 4.7.2), and viewers do so where one is broken.
"""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE = 16 * 1024**2  # bytes of a colour profile, unpacked
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# What an image shows, besides: transparent colours, its turn, and whether it is animated.
_SHOWING = (b"tRNS", b"eXIf", b"acTL")
# Bytes of a chunk of that kind, where only one number of them is right; of tRNS by the colour type of IHDR.
_LENGTHS = {b"acTL": 8}
_TRANSPARENCY = {0: 2, 2: 6}


def without_metadata(data: bytes, *, texts: bool) -> tuple[bytes, bytes]:
    """The PNG with the chunks alone that its look depends on, and its colour profile, b"" where it has none.

    texts: keep the text chunks whose checksum is right. The profile is unpacked here, since Pillow refuses large ones.
    """
    kept: list[bytes] = [SIGNATURE]
    profile: bytes | None = None  # the first chunk counts: a PNG has one, and unpacking costs time
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
    """(kind, start, end) of each chunk; the last may end beyond the data."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at, end
        at = end


def _is_whole(data: bytes, start: int, end: int) -> bool:
    return data[end - 4 : end] == zlib.crc32(data[start + 4 : end - 4]).to_bytes(4)


def _unpack_profile(content: bytes) -> bytes:
    """The profile of an iCCP chunk: a name, a zero, the method 0, deflated bytes; b"" where that is not so."""
    _, _, packed = content.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return b""
