"""Images that come compressed: zlib and gzip, inflated within a bound. Runs in threads: zlib lets others run meanwhile.

Rule 1. No more comes out than may: what a bomb's few bytes would become is never made.
Rule 2. What is compressed is one stream with its end, and nothing behind it.

zlib-ng says the same of every stream as zlib does, in two thirds to two fifths of the time (bench/tcp.py).
"""

from typing import Final

from zlib_ng import zlib_ng

from frames import InvalidFrame

#: How zlib is told what comes (zlib manual, inflateInit2): a window of 2^15 bytes, and for gzip 16 more.
_ZLIB: Final = 15
_GZIP: Final = 16 + 15

#: So much comes out at once: zlib has a piece twice for a moment, and a bomb shall not be there twice. An image of 640
#: x 480 pixels is one piece.
PIECE_BYTES: Final = 1 << 20
#: So much goes in at once from the second piece on: zlib copies what is left of it.
STEP_BYTES: Final = 64 * 1024

Buffer = bytes | bytearray | memoryview


def gunzip(data: Buffer, max_bytes: int) -> bytes:
    """What was compressed as gzip (RFC 1952).

    Raises:
        InvalidFrame: it is no gzip (`not_an_image`), has not come to its end (`truncated`), or is more than `max_bytes`
            (`too_many_bytes`).
    """
    return _inflate(data, max_bytes, _GZIP, "gzip")


def inflate(data: Buffer, max_bytes: int) -> bytes:
    """The same of what was compressed as zlib (RFC 1950)."""
    return _inflate(data, max_bytes, _ZLIB, "zlib")


def _inflate(data: Buffer, max_bytes: int, wbits: int, name: str) -> bytes:
    inflater = zlib_ng.decompressobj(wbits)
    pieces = []
    left, at, step = max_bytes + 1, 0, len(data)
    view = memoryview(data)
    try:
        while left:
            data_in, at_most = view[at : at + step], min(left, PIECE_BYTES)
            piece = inflater.decompress(data_in, at_most)
            pieces.append(piece)
            left -= len(piece)
            at += len(data_in) - len(inflater.unconsumed_tail)
            if inflater.eof or (at == len(data) and len(piece) < at_most):
                break
            step = STEP_BYTES
    except zlib_ng.error as error:  # type: ignore[misc]  # the stub takes the class for an instance
        raise InvalidFrame("not_an_image", f"no whole {name} data: {error}") from None
    if not left:
        raise InvalidFrame("too_many_bytes", f"more than {max_bytes} bytes come out of {len(data)} of {name}")
    if not inflater.eof:
        raise InvalidFrame("truncated", f"the {name} data end after {len(data)} bytes, expected more")
    if behind := len(inflater.unused_data) + len(data) - at:
        raise InvalidFrame("not_an_image", f"{behind} bytes came behind the end of the {name} data, expected none")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
