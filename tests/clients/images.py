"""A hundred JPEG files, each a little larger than the one before: from the smallest that there is to 2 MiB."""

import hashlib
import random
from pathlib import Path
from typing import Final

#: The image itself is one grey pixel, progressive, of a single scan that gives no more than its brightness.
_START: Final = bytes.fromhex("ffd8")
_PIXEL: Final = (
    bytes.fromhex("ffdb 0043 00") + bytes([1]) * 64  # one quantisation table, all ones
    + bytes.fromhex("ffc2 000b 08 0001 0001 01 01 11 00")  # SOF2: 8 bits, 1 × 1, one component
    + bytes.fromhex("ffc4 0014 00 01000000000000000000000000000000 00")  # one Huffman code: no difference
    + bytes.fromhex("ffda 0008 01 01 00 00 00 00") + bytes.fromhex("7f")  # the scan: that code, and padding
    + bytes.fromhex("ffd9")
)  # fmt: skip

SMALLEST: Final = _START + _PIXEL
LARGEST_BYTES: Final = 2 * 1024 * 1024
COUNT: Final = 100

#: What a comment segment holds at most: its length field counts itself and has 16 bits.
_COMMENT_MAX: Final = 0xFFFF - 2


def make_jpeg(size: int, seed: int = 0) -> bytes:
    """The smallest JPEG, padded to exactly this many bytes by comments of noise, markers and all."""
    missing = size - len(SMALLEST)
    if missing and missing < 4:
        raise ValueError(f"{size} bytes can't be reached, a comment takes at least 4 more than the smallest JPEG")
    noise = random.Random(seed)
    comments = bytearray()
    while missing:
        length = min(missing - 4, _COMMENT_MAX)
        if 0 < missing - 4 - length < 4:
            length -= 4
        comments += b"\xff\xfe" + (length + 2).to_bytes(2, "big") + noise.randbytes(length)
        missing -= 4 + length
    return _START + bytes(comments) + _PIXEL


def sizes() -> list[int]:
    """Evenly spread over the orders of magnitude, so that all hundred together are 22 MB."""
    growth = (LARGEST_BYTES / len(SMALLEST)) ** (1 / (COUNT - 1))
    return [round(len(SMALLEST) * growth**step) for step in range(COUNT)]


def write_images(folder: Path) -> list[str]:
    """Write the files, in the order of their names, and return their SHA-256 in that order."""
    digests = []
    for number, size in enumerate(sizes()):
        image = make_jpeg(size, seed=number)
        (folder / f"{number:03}.jpg").write_bytes(image)
        digests.append(hashlib.sha256(image).hexdigest())
    return digests
