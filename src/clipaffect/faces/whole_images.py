"""Find the end of a picture in a file: other data may follow it, and its end marker may be lost.

Phones append a short video or a trailer to a JPEG, and cameras pad it. OpenCV decodes what there is
of a truncated JPEG or PNG and greys the rest, without an error; that must not pass as a picture.
Some programs put an end marker behind a truncated JPEG, and interrupted copies zeros.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

JPEG, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", struct.pack(">I", 0) + b"IEND\xaeB`\x82"
RESTARTS = range(0xD0, 0xD8)  # markers that stand among the coded pixels of a JPEG
START_OF_SCAN, TEMPORARY = 0xDA, 0x01
FILLS = (0x00, 0x33, 0x55, 0x9C, 0xAA)  # bytes that are different codes
FILL = 4096  # of them, more than a JPEG's last block takes
GREY = 128  # what libjpeg puts in place of blocks that are not there
PROGRESSIVE = b"\xff\xc2"  # every scan covers the whole picture, so that nothing is grey
PADDING = bytes(16)  # more zeros than end a JPEG's pixels
NEAR_END = 256  # bytes in which the end marker mostly lies: there, nothing else is read

Decode = Callable[[bytes], np.ndarray | None]


def whole_image(data: bytes, decode: Decode) -> bytes | None:
    """The picture without what follows it, its end marker replaced if lost; None if truncated.

    Formats other than JPEG and PNG come back as they are: their decoders notice.

    Args:
        data: a file's bytes.
        decode: decodes an image as far as it goes.
    """
    if data.startswith(JPEG):
        if JPEG_END in data[-NEAR_END:]:
            return data
        end = _end_of_jpeg(data)
        return data[:end] if end else _with_jpeg_end(_without_padding(data), decode)
    if data.startswith(PNG):
        return data if PNG_END in data[-NEAR_END:] else _whole_png(data)
    return data or None


def may_lack_pixels(data: bytes, decoded: np.ndarray) -> bool:
    """Whether a JPEG with an end marker looks as if it was truncated before it got that marker.

    Then a corner is grey, whichever way the picture was turned, or the JPEG is progressive.
    """
    if not data.startswith(JPEG):
        return False
    corners = decoded[[0, 0, -1, -1], [0, -1, 0, -1]]
    return bool((corners == GREY).all(axis=1).any()) or PROGRESSIVE in data


def lacks_pixels(data: bytes, decode: Decode) -> bool:
    """Whether a JPEG with an end marker was truncated before it got that marker."""
    return _with_jpeg_end(data[: data.rfind(JPEG_END)], decode, FILLS[1:3]) is None


def _end_of_jpeg(data: bytes) -> int:
    """The position behind the end marker (ITU-T T.81, annex B); 0 if there is none."""
    at = len(JPEG)
    while 0 <= at < len(data) - 1:
        marker = data[at + 1]
        if data[at] != 0xFF:
            return 0
        if marker == JPEG_END[1]:
            return at + 2
        if marker == 0xFF:
            at += 1
        elif marker in RESTARTS or marker == TEMPORARY:
            at += 2
        else:
            if at + 4 > len(data):
                return 0
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
            if marker == START_OF_SCAN:
                at = _end_of_scan(data, at)
    return 0


def _end_of_scan(data: bytes, at: int) -> int:
    """The position of the marker behind coded pixels; -1 if there is none."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return -1
        if data[at + 1] != 0 and data[at + 1] not in RESTARTS:
            return at
        at += 2


def _without_padding(data: bytes) -> bytes:
    """The data without zeros at the end; one is kept, which may belong to the pixels."""
    return data.rstrip(b"\0") + b"\0" if data.endswith(PADDING) else data


def _with_jpeg_end(data: bytes, decode: Decode, fills: tuple[int, ...] = FILLS) -> bytes | None:
    """A JPEG without end marker, with one; None if pixels are lost.

    Decoders ignore bytes between the last pixel and the marker, so a whole picture does not depend
    on them. A truncated one takes them for pixels.
    """
    data = data.removesuffix(b"\xff")
    filled = (decode(data + bytes([fill]) * FILL + JPEG_END) for fill in fills)
    first = next(filled)
    if first is None or any(other is None or (other != first).any() for other in filled):
        return None
    return data + JPEG_END


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Start, type and content of each chunk of a PNG; the last content may be cut off."""
    at = len(PNG)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        yield at, data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _whole_png(data: bytes) -> bytes | None:
    """A PNG up to its end; one without end if its pixels are complete, else None."""
    header, pixels = b"", []
    for start, kind, content in _chunks(data):
        if kind == b"IEND":
            return data[:start] + PNG_END
        if kind == b"IDAT":
            header = header or data[:start]
            pixels.append(content)
    stream = zlib.decompressobj()
    try:
        stream.decompress(b"".join(pixels))
    except zlib.error:
        return None
    if not stream.eof:
        return None
    content = b"IDAT" + b"".join(pixels)
    length, check = struct.pack(">I", len(content) - 4), struct.pack(">I", zlib.crc32(content))
    return header + length + content + check + PNG_END
