"""What travels through the server: an image as its client sent it, and what its header says, read without decoding.

Every way in checks its images here, before any decoder sees them. Four formats are known, each drawn above its reader:
JPEG (ITU-T T.81), PNG (W3C), WebP (RFC 9649) and BMP (Microsoft and OS/2 headers).

Rule 1. Nothing is decoded, and nothing of the image's size is allocated: the cost is that of a few look-ups.
Rule 2. No input costs more per byte than receiving it did: loops over what a client wrote are bounded, or run in C.
Rule 3. The size that is read is the one that a decoder will allocate; a file that may be read in two ways is refused.
"""

import re
import sys
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Final, Literal, NamedTuple, Protocol

Code = Literal["not_an_image", "truncated", "too_many_bytes", "too_many_pixels"]


JPEG: Final = "image/jpeg"
BMP: Final = "image/bmp"


class InvalidFrame(ValueError):
    """What a client sent is not an image that the server takes; the message says what came and what was expected.

    Attributes:
        code: the reason as docs/protocol.md names it, told to the client.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code


class ImageInfo(NamedTuple):
    """What an image's header says: at least 1 pixel each way, as stored; an EXIF orientation is not applied."""

    media_type: str
    width: int
    height: int


class Limits(NamedTuple):
    """The largest image that is taken, compressed and in pixels (decoded, a pixel takes 3 bytes)."""

    max_frame_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 50_000_000


class Source(Protocol):
    """What a frame's readers may know of the stream that it belongs to; the hub's `Stream` is one."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def user(self) -> str: ...


class Frame:
    """One image of a stream.

    Args:
        image: the compressed bytes as sent; they never change.
        info: what their header says.
        stream: where the frame comes from.
        seq: its number in the stream, from 1; refused frames were numbered too.
        received_at: seconds since 1970.
        reply_to: where a result of this frame goes; means something to the stream's gateway only.
    """

    __slots__ = ("image", "info", "received_at", "reply_to", "seq", "stream")

    def __init__(
        self,
        image: bytes | bytearray | memoryview,
        info: ImageInfo,
        stream: Source,
        seq: int,
        received_at: float,
        reply_to: object = None,
    ) -> None:
        self.image = image
        self.info = info
        self.stream = stream
        self.seq = seq
        self.received_at = received_at
        self.reply_to = reply_to


def check_image(image: bytes | bytearray | memoryview, limits: Limits) -> ImageInfo:
    """Read an image's header and see that the image is within the limits and has its end.

    Raises:
        InvalidFrame: it is too long, no image, too large, or cut off; the first of these that holds.
    """
    if len(image) > limits.max_frame_bytes:
        raise InvalidFrame("too_many_bytes", too_many_bytes(len(image), limits.max_frame_bytes))
    info, needed, end_mark, _ = _read(image)
    if info.width * info.height > limits.max_pixels:
        raise InvalidFrame(
            "too_many_pixels", f"{info.width} x {info.height} pixels came, at most {limits.max_pixels} are taken"
        )
    if len(image) < needed:
        raise InvalidFrame("truncated", f"the image ends after {len(image)} bytes, expected at least {needed}")
    if end_mark and image[-len(end_mark) :] != end_mark:
        tail = bytes(image[max(needed - len(end_mark), len(image) - _MAX_TAIL_BYTES) :])
        if end_mark not in tail:
            raise InvalidFrame(
                "truncated", f"the image ends after {len(image)} bytes, expected its end mark {end_mark.hex(' ')}"
            )
    return info


#: The width and height of a whole JPEG with nothing unusual about it, as `check_image` would find them; None for every
#: other image.
ReadJpeg = Callable[[bytes], tuple[int, int] | None]


class ImageCheck:
    """`check_image` for the images of one camera: a call takes the same and raises the same.

    A camera's headers are mostly the same ones, byte for byte, so that the last one need not be read again.

    Args:
        read_jpeg: reads headers faster, where there is something that does.
    """

    __slots__ = ("_head", "_info", "_limits", "_max_bytes", "_needed", "_read_jpeg")

    def __init__(self, limits: Limits, read_jpeg: ReadJpeg | None = None) -> None:
        self._limits = limits
        self._max_bytes = limits.max_frame_bytes
        self._read_jpeg = read_jpeg
        self._head = b""  # of the last image
        self._info = ImageInfo("", 0, 0)
        self._needed = sys.maxsize  # no image is as long

    def __call__(self, image: bytes | bytearray | memoryview) -> ImageInfo:
        if (
            self._needed <= len(image) <= self._max_bytes
            and isinstance(image, bytes)
            and image.startswith(self._head)
            and image.endswith(_JPEG_EOI)
        ):
            return self._info
        if self._read_jpeg is not None and isinstance(image, bytes):
            size = self._read_jpeg(image)
            if size is not None and size == self._info[1:] and len(image) <= self._max_bytes:
                return self._info
        self._needed = sys.maxsize
        info = check_image(image, self._limits)
        header = _read(image)
        if 0 < header.read_bytes <= _MAX_KEPT_HEADER_BYTES:
            self._head, self._needed = bytes(image[: header.read_bytes]), header.needed
        if info.media_type == JPEG:
            self._info = info
        return info


def too_many_bytes(size: int, at_most: int) -> str:
    """What is said of an image of so many bytes."""
    return f"{size} bytes came, at most {at_most} are taken"


def read_header(image: bytes | bytearray | memoryview) -> ImageInfo:
    """Read the type and the size of an image; what follows its header is not looked at.

    Raises:
        InvalidFrame: it is `not_an_image`, or `truncated` within the header.
    """
    return _read(image)[0]


def end_of_bmp(image: bytes) -> int:
    """Where a BMP file ends: behind its pixels, or where its head says, if that is later; what is there may be less.

    Raises:
        InvalidFrame: it is no BMP (`not_an_image`), or ends within its header (`truncated`).
    """
    header = _read(image)
    if header.info.media_type != BMP:
        raise _not_an_image(f"a file of type {header.info.media_type}, expected {BMP}")
    (file_bytes,) = _BMP_FILE_BYTES.unpack_from(image)
    assert isinstance(file_bytes, int)
    return max(header.needed, file_bytes)


class _Header(NamedTuple):
    info: ImageInfo
    needed: int
    """The image is whole if it has this many bytes …"""
    end_mark: bytes = b""
    """… and this after its header, as the last bytes or near them."""
    read_bytes: int = 0
    """All of this follows from so many bytes at the beginning, if they are worth keeping."""


#: Cameras and phones append to an image what no decoder reads: zeros up to a block's end, the CRLF of a multipart body,
#: makers' notes. So the end mark is looked for in this many last bytes, which takes 60 us at worst, but never in the
#: header, where the thumbnail of a JPEG has one of its own.
_MAX_TAIL_BYTES: Final = 65_536
#: Longer headers hold what changes with each image. And in so few bytes there are no more segments than any image may
#: have, however short: the same header cannot be good in one and bad in another.
_MAX_KEPT_HEADER_BYTES: Final = 1_900


def _read(image: bytes | bytearray | memoryview) -> _Header:
    try:
        header = _read_format(image)
    except (IndexError, StructError) as error:
        raise InvalidFrame("truncated", f"the image ends after {len(image)} bytes, within its header") from error
    media_type, width, height = header.info
    if width <= 0 or height <= 0:
        raise _not_an_image(f"the {media_type} is {width} x {height} pixels, expected at least 1 x 1")
    return header


def _read_format(image: bytes | bytearray | memoryview) -> _Header:
    if image[:2] == b"\xff\xd8":
        return _read_jpeg(image)
    if image[:8] == b"\x89PNG\r\n\x1a\n":
        return _read_png(image)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return _read_webp(image)
    if image[:2] == b"BM":
        return _read_bmp(image)
    raise _not_an_image(f"the first bytes are '{bytes(image[:12]).hex(' ')}', expected a JPEG, PNG, WebP or BMP image")


def _not_an_image(message: str) -> InvalidFrame:
    return InvalidFrame("not_an_image", message)


# JPEG (T.81 annex B): FF D8, then segments, each   FF.. | u8 marker | u16 length, counting itself | length - 2 bytes
#
#     frame header (SOF)   u16 length = 8 + 3 n | u8 precision | u16 height | u16 width | u8 n components | 3 n bytes
#     fill                 any number of FF before a marker
#     no length            01 (TEM), D0-D7 (RST), D8 (SOI), D9 (EOI)
#     scan data            after DA (SOS); an FF within is followed by 00 or D0-D7, so that FF D9 is the end
#
# Decoders search for the next FF where a segment doesn't start with one; here that is no image (rule 3). Nor is a file
# with two frame headers before its scan: of those libjpeg makes nothing, and Pillow an image of the second one's size.

_JPEG_SOF: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # Huffman tables, reserved, arithmetic coding
_JPEG_SOS: Final = 0xDA
_JPEG_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
#: Stuffing, a second start, the end, a scan before any SOF; and DE, the full size of a hierarchical image, whose frames
#: are smaller at first, and which no decoder reads.
_JPEG_NO_HEADER: Final = frozenset({0x00, 0xD8, 0xD9, _JPEG_SOS, 0xDE})
_JPEG_FILL: Final = re.compile(rb"\xff+")
_JPEG_LENGTH: Final = Struct(">H")
_JPEG_FRAME: Final = Struct(">HxHHB")
_JPEG_EOI: Final = b"\xff\xd9"


def _read_jpeg(image: bytes | bytearray | memoryview) -> _Header:
    at = 2
    header: _Header | None = None
    # Rule 2: metadata and padding take hundreds of segments at most; more are paid for by the bytes between them.
    for _ in range(1_000 + len(image) // 256):
        if image[at] != 0xFF:
            raise _not_an_image(f"JPEG byte {at} is {image[at]:02x}, expected the ff of a marker")
        marker = image[at + 1]
        if marker == 0xFF:
            fill = _JPEG_FILL.match(image, at)
            assert fill is not None
            at = fill.end() - 1
            marker = image[at + 1]
        at += 2
        if marker == _JPEG_SOS and header is not None:
            return header._replace(read_bytes=at)
        if marker in _JPEG_NO_LENGTH:
            continue
        if marker in _JPEG_NO_HEADER:
            wanted = "a scan" if header is not None else "a frame header"
            raise _not_an_image(f"the JPEG has marker {marker:02x} at byte {at - 1}, expected {wanted} before it")
        (length,) = _JPEG_LENGTH.unpack_from(image, at)
        if length < 2:
            raise _not_an_image(f"the JPEG's segment at byte {at - 2} has length {length}, expected at least 2")
        if marker in _JPEG_SOF:
            if header is not None:
                raise _not_an_image(f"the JPEG has a second frame header at byte {at - 2}, expected one")
            _, height, width, components = _JPEG_FRAME.unpack_from(image, at)
            if length != 8 + 3 * components or not components:
                raise _not_an_image(f"the JPEG's frame header of {components} components has {length} bytes")
            header = _Header(ImageInfo(JPEG, width, height), at + length + len(_JPEG_EOI), _JPEG_EOI)
        at += length
    raise _not_an_image(f"the first {at} bytes of the JPEG have too many segments, and no frame header with a scan")


# PNG: 8 bytes of signature, then chunks, each   u32 length | 4 letters | length bytes | u32 CRC
#
#     the first   13 | IHDR | u32 width | u32 height | 5 bytes
#     the last     0 | IEND | ae 42 60 82
#
# A second IHDR before the pixels (IDAT) is refused: of those libpng makes nothing, and Pillow an image of its size.

_PNG_IHDR: Final = Struct(">8xI4sII")
_PNG_CHUNK: Final = Struct(">I4s")
_PNG_HEADER_BYTES: Final = 8 + 12 + 13
_PNG_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"


def _read_png(image: bytes | bytearray | memoryview) -> _Header:
    length, name, width, height = _PNG_IHDR.unpack_from(image)
    if length != 13 or name != b"IHDR":
        raise _not_an_image(f"the PNG's first chunk is {name!r} of {length} bytes, expected IHDR of 13")
    if max(width, height) >= 1 << 31:
        raise _not_an_image(f"the PNG is {width} x {height} pixels, expected sides below 2^31")
    at, name = _PNG_HEADER_BYTES, b""
    for _ in range(1_000 + len(image) // 256):  # rule 2, as above
        if at + _PNG_CHUNK.size > len(image) or name in (b"IDAT", b"IEND"):
            break
        length, name = _PNG_CHUNK.unpack_from(image, at)
        if name == b"IHDR":
            raise _not_an_image(f"the PNG has a second IHDR at byte {at}, expected one")
        at += 12 + length
    else:
        raise _not_an_image(f"the first {at} bytes of the PNG have too many chunks and no pixels")
    return _Header(ImageInfo("image/png", width, height), _PNG_HEADER_BYTES + len(_PNG_IEND), _PNG_IEND)


# WebP, little-endian:   RIFF | u32 size of the rest | WEBP | chunks, each   4 letters | u32 length | bytes
# The first chunk is one of
#
#     "VP8 "   u24 frame tag, bit 0 clear in a key frame | 9d 01 2a | u16 width | u16 height, 14 bits each, 2 of scaling
#     "VP8L"   2f | u32: 14 bits of width - 1, 14 of height - 1, 1 of alpha, 3 of version, which is 0
#     "VP8X"   u32 flags | u24 width - 1 | u24 height - 1; of an animation, or of the image chunk that follows

_WEBP_RIFF: Final = Struct("<4xI4x4sI")
_WEBP_FIRST_BYTES: Final = 20
_WEBP_LOSSY: Final = Struct("<B2x3sHH")
_WEBP_LOSSLESS: Final = Struct("<BI")
_WEBP_EXTENDED: Final = Struct("<4xHBHB")


def _read_webp(image: bytes | bytearray | memoryview) -> _Header:
    riff_bytes, name, length = _WEBP_RIFF.unpack_from(image)
    if name == b"VP8 ":
        tag, start, width, height = _WEBP_LOSSY.unpack_from(image, _WEBP_FIRST_BYTES)
        known = start == b"\x9d\x01\x2a" and not tag & 1 and length >= _WEBP_LOSSY.size
        width, height = width & 0x3FFF, height & 0x3FFF
    elif name == b"VP8L":
        signature, bits = _WEBP_LOSSLESS.unpack_from(image, _WEBP_FIRST_BYTES)
        known = signature == 0x2F and not bits >> 29 and length >= _WEBP_LOSSLESS.size
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif name == b"VP8X":
        width_low, width_high, height_low, height_high = _WEBP_EXTENDED.unpack_from(image, _WEBP_FIRST_BYTES)
        known = length == _WEBP_EXTENDED.size
        width, height = (width_high << 16 | width_low) + 1, (height_high << 16 | height_low) + 1
    else:
        raise _not_an_image(f"the WebP's first chunk is {name!r}, expected b'VP8 ', b'VP8L' or b'VP8X'")
    needed = 8 + riff_bytes
    if not known or needed < _WEBP_FIRST_BYTES + length:
        raise _not_an_image(f"the WebP's {name.decode()} chunk of {length} bytes is malformed")
    return _Header(ImageInfo("image/webp", width, height), needed)


# BMP, little-endian:   BM | u32 file size | u32 reserved | u32 offset of the pixels | u32 header bytes | header
#
#     12 (core)                  u16 width | u16 height | u16 planes | u16 bits a pixel
#     40, 52, 56, 64, 108, 124   i32 width | i32 height, negative if the top row comes first | u16 planes
#                                | u16 bits a pixel | u32 compression | u32 pixel bytes | …
#
# Rows are padded to 4 bytes. The file size is wrong in too many files to mean anything; the pixels must be there.

_BMP_FILE: Final = Struct("<10xII")
_BMP_FILE_BYTES: Final = Struct("<2xI")
_BMP_HEADER_AT: Final = 14
_BMP_CORE: Final = Struct("<4xHH2xH")
_BMP_INFO: Final = Struct("<4xii2xHII")
_BMP_INFO_BYTES: Final = frozenset({40, 52, 56, 64, 108, 124})
_BMP_BITS: Final = frozenset({1, 4, 8, 16, 24, 32})
_BMP_PLAIN: Final = frozenset({0, 3, 6})  # RGB, with bit fields, with bit fields and alpha
_BMP_RLE: Final = frozenset({1, 2})


def _read_bmp(image: bytes | bytearray | memoryview) -> _Header:
    pixels_at, header_bytes = _BMP_FILE.unpack_from(image)
    if header_bytes == 12:
        width, height, bits = _BMP_CORE.unpack_from(image, _BMP_HEADER_AT)
        compression = 0
    elif header_bytes in _BMP_INFO_BYTES:
        width, height, bits, compression, pixel_bytes = _BMP_INFO.unpack_from(image, _BMP_HEADER_AT)
    else:
        raise _not_an_image(f"the BMP's header has {header_bytes} bytes, expected 12, 40, 52, 56, 64, 108 or 124")
    if bits not in _BMP_BITS or pixels_at < _BMP_HEADER_AT + header_bytes:
        raise _not_an_image(f"the BMP has {bits} bits a pixel, from byte {pixels_at} on")
    if compression in _BMP_PLAIN:
        pixel_bytes = (width * bits + 31) // 32 * 4 * abs(height)
    elif compression not in _BMP_RLE:
        raise _not_an_image(f"the BMP has compression {compression}, expected 0 to 3, or 6")
    return _Header(ImageInfo(BMP, width, abs(height)), pixels_at + pixel_bytes)
