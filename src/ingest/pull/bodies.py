"""What cameras answer when they are asked for an image, in all generations of them (docs/cameras.md).

    newest       zlib (RFC 1950) of a pickle of a numpy uint8 array of shape (N,) or (N, 1), the bytes of the image
    documented   BSON   {frame: the image in Base64, as a text or as bytes; and what else the camera likes to tell}
    plain        the image itself

The headers that come with them say wrong things, so that the first bytes decide. BSON (bsonspec.org), little-endian:

    i32 length of it all | elements | 00      an element: u8 type | its name | 00 | value
    text   i32 length with the 00 | UTF-8 | 00
    bytes  i32 length | u8 kind | bytes

It is walked through here, and not made into objects by a library: 11 MB of small elements would take hundreds.
"""

import re
from struct import Struct
from struct import error as StructError
from typing import Final, Literal

import pybase64

from frames import InvalidFrame, too_many_bytes
from ingest.inflate import inflate
from ingest.pull.array_pickle import OVERHEAD_BYTES, read_array

#: A byte from 80 on is two in protocol 2's text.
_PICKLED_BYTES_A_BYTE: Final = 2
#: Cameras tell three: frame, shape and ipaddress. A document is read up to its end, and no further than this.
MAX_FIELDS: Final = 64
#: Base64 is decoded in such pieces: nobody else runs meanwhile, and one takes 0.3 ms, with line breaks.
BASE64_PIECE_BYTES: Final = 256 * 1024

_IMAGE: Final = re.compile(rb"\xff\xd8|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM", re.DOTALL)
_BSON: Final = re.compile(rb"....[\x01-\x13][ -~]{1,64}\0", re.DOTALL)
_SHOWN_BYTES: Final = 12

_LENGTH: Final = Struct("<i")
_TEXT: Final = 0x02
_BYTES: Final = 0x05
_PLAIN_BYTES: Final = 0
#: How long values are: double, id, truth, time, null, i32, timestamp, i64, decimal.
_FIXED: Final = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
#: Others begin with a length: what comes beside it, and the least that it may be. That of a document counts all of it.
_COUNTED: Final = {_TEXT: (4, 1), 0x03: (0, 5), 0x04: (0, 5), _BYTES: (5, 0)}

Kind = Literal["image", "pickle", "bson"]


def is_plain(body: bytes) -> bool:
    """Whether the image stands there as it is, so that reading it costs nothing.

    Raises:
        InvalidFrame: as `read_image`.
    """
    return _kind(body) == "image"


def read_image(body: bytes, max_bytes: int) -> bytes:
    """The image in an answer, of which only the first bytes have been looked at. Costs time and memory in proportion to
    the body and `max_bytes`.

    Args:
        max_bytes: the longest image that is taken.

    Raises:
        InvalidFrame: there is no image in it (`not_an_image`), no whole one (`truncated`), or one that is too long
            (`too_many_bytes`).
    """
    match _kind(body):
        case "image":
            image = body
        case "pickle":
            image = read_array(inflate(body, _PICKLED_BYTES_A_BYTE * max_bytes + OVERHEAD_BYTES))
        case "bson":
            image = _decoded(_frame_of(body))
    if len(image) > max_bytes:
        raise InvalidFrame("too_many_bytes", too_many_bytes(len(image), max_bytes))
    return image


def _kind(body: bytes) -> Kind:
    # A document of 19,778 bytes begins with "BM", one of 40,056 as zlib's data may. Those do not begin with their own
    # length, but for one in billions.
    looks_like_bson = _BSON.match(body) is not None
    if looks_like_bson and _LENGTH.unpack_from(body)[0] == len(body):
        return "bson"
    if _IMAGE.match(body):
        return "image"
    # RFC 1950: method 8, a window of at most 2^15, no preset dictionary, and a checksum over all this.
    if len(body) > 1 and body[0] & 0x8F == 8 and not body[1] & 0x20 and (body[0] << 8 | body[1]) % 31 == 0:
        return "pickle"
    if looks_like_bson:
        return "bson"
    raise InvalidFrame(
        "not_an_image",
        f"the first bytes are '{body[:_SHOWN_BYTES].hex(' ')}',"
        " expected a JPEG, PNG, WebP or BMP image, a compressed pickle of one, or BSON with one",
    )


def _frame_of(document: bytes) -> memoryview:
    """What stands under `frame`."""
    (length,) = _LENGTH.unpack_from(document)
    if length > len(document):
        raise InvalidFrame("truncated", f"the BSON ends after {len(document)} bytes, expected {length}")
    if length < len(document):
        raise _wrong(f"{len(document) - length} bytes came behind its end")
    try:
        return _frame_among(document)
    except (IndexError, StructError):  # of reading beyond the end, where an element would be
        raise _wrong("it ends within an element") from None


def _frame_among(document: bytes) -> memoryview:
    frame: memoryview | None = None
    at = _LENGTH.size
    for _ in range(MAX_FIELDS):
        kind = document[at]
        if kind == 0:
            if at + 1 != len(document):
                raise _wrong(f"it ends at byte {at}, and not with its last")
            if frame is None:
                raise _wrong("there is no 'frame' in it")
            return frame
        ends_at = document.find(b"\0", at + 1)
        if ends_at < 0:
            raise _wrong("it ends within an element's name")
        is_frame = document.startswith(b"frame\0", at + 1)
        start = ends_at + 1
        at = start + _size_of_value(document, kind, start)
        if is_frame:
            if frame is not None:
                raise _wrong("there are two 'frame' in it")
            frame = _value(document, kind, start, at)
    raise _wrong(f"it has more than {MAX_FIELDS} elements")


def _size_of_value(document: bytes, kind: int, at: int) -> int:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind not in _COUNTED:
        raise _wrong(f"an element in it has type {kind:02x}")
    (length,) = _LENGTH.unpack_from(document, at)
    assert isinstance(length, int)
    beside, least = _COUNTED[kind]
    if length < least:
        raise _wrong(f"an element in it has length {length}")
    return length + beside


def _value(document: bytes, kind: int, start: int, end: int) -> memoryview:
    view = memoryview(document)
    if kind == _TEXT and document[end - 1] == 0:
        return view[start + _LENGTH.size : end - 1]
    if kind == _BYTES and document[start + _LENGTH.size] == _PLAIN_BYTES:
        return view[start + _LENGTH.size + 1 : end]
    raise _wrong("its 'frame' is neither text nor bytes")


def _decoded(encoded: memoryview) -> bytes:
    pieces: list[bytes] = []
    rest, padded = b"", False
    for at in range(0, len(encoded), BASE64_PIECE_BYTES):
        text = rest + encoded[at : at + BASE64_PIECE_BYTES]
        if b"\n" in text or b"\r" in text:  # MIME's comes in lines (RFC 2045)
            text = text.translate(None, b"\r\n")
        if padded and text:
            raise _wrong("its 'frame' goes on behind the end of its Base64")
        whole = len(text) // 4 * 4
        try:
            pieces.append(pybase64.b64decode(text[:whole], validate=True))
        except ValueError:
            raise _wrong("its 'frame' is no Base64") from None
        rest, padded = text[whole:], text.endswith(b"=", 0, whole)
    if rest:
        raise _wrong("its 'frame' is no Base64")
    return b"".join(pieces)


def _wrong(message: str) -> InvalidFrame:
    return InvalidFrame("not_an_image", f"no BSON with an image: {message}")
