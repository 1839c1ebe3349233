"""JPEGs of an exact size for the load generator, made without an encoder: one grey for each client, and padding.

They have the segments that cameras write, so that reading their header costs as much: baseline JPEG (ITU-T T.81) of
three components, two quantization and four Huffman tables. The tables know what the picture needs and no more:

    DC   0 = no difference    10 = a difference of 8 bits, which follow
    AC   0 = end of block

So the first block is `10 <8 bits of grey> 0` and each other one is `00`. Behind the last block lies padding, without
any ff: decoders skip it up to the end mark, some with a warning.
"""

import random
import struct
from typing import Final

#: Pixels, and from how many bytes of the file on: phones send 160x120 to 1280x960.
_SIZES_WH: Final = ((5_000, (640, 480)), (0, (160, 120)))
_COMPONENTS: Final = 3
_BLOCK_PIXELS: Final = 8
#: The grey's 8 bits are steps of 4 / 8 on a scale of -127 to 127 around the middle.
_QUANTIZER: Final = 4

_DC_TABLE: Final = bytes((1, 1, *bytes(14), 0, 8))  # one code of 1 bit, one of 2; they mean 0 and 8 bits
_AC_TABLE: Final = bytes((1, 0, *bytes(14), 0))  # one code of 1 bit


def jpeg(image_bytes: int, number: int) -> bytes:
    """A file of exactly so many bytes, another one for each number; 256 that follow one another look different.

    Raises:
        ValueError: there is no room for a picture in so few bytes.
    """
    width, height = next(size_wh for from_bytes, size_wh in _SIZES_WH if image_bytes >= from_bytes)
    blocks = -(-width // _BLOCK_PIXELS) * -(-height // _BLOCK_PIXELS) * _COMPONENTS
    grey = number * 101 % 256  # neighbours are far apart
    first_blocks = struct.pack(">H", 0b10 << 14 | grey << 6)
    scan = first_blocks + bytes(-(-(11 + 2 * (blocks - 1)) // 8) - len(first_blocks))
    components = [(number, table) for number, table in enumerate((0, 1, 1), 1)]
    head = (
        b"\xff\xd8"
        + _segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
        + b"".join(_segment(0xDB, bytes((table, *[_QUANTIZER] * 64))) for table in (0, 1))
        + _segment(
            0xC0,
            struct.pack(">BHHB", 8, height, width, _COMPONENTS)
            + b"".join(bytes((number, 0x11, table)) for number, table in components),
        )
        + b"".join(
            _segment(0xC4, bytes((0x00 | table,)) + _DC_TABLE) + _segment(0xC4, bytes((0x10 | table,)) + _AC_TABLE)
            for table in (0, 1)
        )
        + _segment(
            0xDA,
            bytes((_COMPONENTS,))
            + b"".join(bytes((number, table * 0x11)) for number, table in components)
            + b"\0\x3f\0",
        )
    )
    end = b"\xff\xd9"
    padding_bytes = image_bytes - len(head) - len(scan) - len(end)
    if padding_bytes < 0:
        raise ValueError(f"an image of {image_bytes} bytes, expected at least {image_bytes - padding_bytes}")
    padding = random.Random(number).randbytes(padding_bytes).replace(b"\xff", b"\x7f")
    return head + scan + padding + end


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
