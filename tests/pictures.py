"""Small real images for tests, made by OpenCV once."""

from functools import cache

import cv2
import numpy as np


@cache
def picture(extension: str = ".jpg", width: int = 64, height: int = 48, seed: int = 1) -> bytes:
    """A noisy image file of that size; another seed gives another image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return bytes(cv2.imencode(extension, pixels)[1])


def padded(jpeg: bytes, size: int) -> bytes:
    """The same picture as a file of exactly `size` bytes, by comment segments after its first mark."""
    missing = size - len(jpeg)
    segments = []
    while missing:
        length = min(missing, 65_000)
        if 0 < missing - length < 4:
            length -= 4
        assert length >= 4, "a comment segment has at least 4 bytes"
        segments.append(b"\xff\xfe" + (length - 2).to_bytes(2, "big") + bytes(length - 4))
        missing -= length
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def padded_bmp(bmp: bytes, size: int) -> bytes:
    """The same picture as a file of exactly `size` bytes, which its head says."""
    return bmp[:2] + size.to_bytes(4, "little") + bmp[6:] + bytes(size - len(bmp))
