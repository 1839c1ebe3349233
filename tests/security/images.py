"""Image files that were made to do harm: bombs, files cut or damaged so that they still pass for whole, files that may
be read in two ways."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

EOI: Final = b"\xff\xd9"
SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def encoded(
    format_name: str,
    mode: str = "RGB",
    size_wh: tuple[int, int] = (320, 240),
    colour: tuple[int, int, int] | None = None,
    **options: object,
) -> bytes:
    """An image file by Pillow: blocks of random colours, or one colour."""
    width, height = size_wh
    if colour is None:
        blocks = np.random.default_rng(5).integers(0, 256, (height // 2 + 1, width // 2 + 1, 3), dtype=np.uint8)
        pixels = blocks.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    else:
        pixels = np.full((height, width, 3), colour, np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if options.pop("animated", False):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]}
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


# JPEG


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(payload)) + payload


def sof(width: int, height: int, marker: int = 0xC0) -> bytes:
    components = b"\1\x11\0\2\x11\1\3\x11\1"
    return segment(marker, struct.pack(">BHHB", 8, height, width, 3) + components)


@cache
def _jpeg_parts() -> tuple[bytes, bytes]:
    """The tables that encoders use (T.81 annex K) and the head of a scan, cut out of a picture of one colour."""
    whole = encoded("JPEG", size_wh=(8, 8), colour=(90, 90, 90), subsampling=0)
    tables, scan, at = b"", b"", 2
    while not scan:
        (length,) = struct.unpack(">H", whole[at + 2 : at + 4])
        part = whole[at : at + 2 + length]
        if part[1] in (0xDB, 0xC4):
            tables += part
        elif part[1] == 0xDA:
            scan = part
        at += 2 + length
    return tables, scan


def jpeg(width: int, height: int, size: int = 0) -> bytes:
    """A JPEG with everything that a decoder needs for a start, and next to nothing to decode; padded to a size."""
    tables, scan = _jpeg_parts()
    head = b"\xff\xd8" + tables + sof(width, height) + scan
    return head + b"\x12" * max(size - len(head) - len(EOI), 4) + EOI


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ihdr(width: int, height: int, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, int(interlaced)))


def png(width: int, height: int, more: bytes = b"") -> bytes:
    return SIGNATURE + ihdr(width, height) + more + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        yield image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        at += 12 + length


# WebP and BMP


def webp(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8 ", b"\x50\1\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(40)


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8L", struct.pack("<BI", 0x2F, (width - 1) | (height - 1) << 14) + bytes(40)


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<I", flags) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, pixels: bytes = b"\0\0\0\1") -> bytes:
    palette = b"".join(bytes((i, 255 - i, i // 2, 0)) for i in range(1 << bits)) if bits <= 8 else b""
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 54 + len(palette) + len(pixels), 0, 0, 54 + len(palette))
        + header
        + palette
        + pixels
    )


#: Small files that declare images of up to 4,611,686,014,132,420,609 pixels, 12 exabytes.
BOMBS: Final = {
    "a JPEG of 631 bytes": jpeg(30_000, 30_000, size=631),
    "a JPEG of the largest size": jpeg(65_535, 65_535),
    "a JPEG just beyond the limit": jpeg(10_001, 5_000),
    "a progressive JPEG": jpeg(30_000, 30_000).replace(b"\xff\xc0", b"\xff\xc2", 1),
    "a JPEG with its size behind 60,000 bytes": jpeg(30_000, 30_000).replace(
        b"\xff\xd8", b"\xff\xd8" + segment(0xE1, b"Exif\0\0" + jpeg(8, 8) + bytes(60_000)), 1
    ),
    "a PNG": png(30_000, 30_000),
    "a PNG of the largest size": png((1 << 31) - 1, (1 << 31) - 1),
    "a PNG of one line": png((1 << 31) - 1, 1),
    "an interlaced PNG": SIGNATURE + ihdr(30_000, 30_000, True) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "an animated PNG": png(30_000, 30_000, chunk(b"acTL", struct.pack(">II", 1_000_000, 0))),
    "a lossy WebP": webp(vp8(16_383, 16_383)),
    "a lossless WebP": webp(vp8l(16_384, 16_384)),
    "an extended WebP": webp(vp8x(30_000, 30_000), vp8(16_383, 16_383)),
    "an animated WebP": webp(vp8x(1 << 24, 1 << 24, flags=2), (b"ANIM", bytes(6)), (b"ANMF", bytes(16))),
    "a BMP": bmp(30_000, 30_000),
    "a BMP from the top down": bmp(30_000, -30_000),
    "a BMP of the largest size": bmp((1 << 31) - 1, (1 << 31) - 1),
    "a BMP of the lowest height": bmp((1 << 31) - 1, -(1 << 31), bits=1),
    "a run-length coded BMP": bmp(30_000, 30_000, 8, compression=1),
}


# Good images, and what damage makes of them.


def _interlaced() -> bytes:
    """A PNG in seven passes (Adam7), which Pillow reads and does not write."""
    rows = np.asarray(Image.open(io.BytesIO(encoded("PNG"))))
    lines = b"".join(
        b"\0" + line.tobytes()
        for x, y, dx, dy in (
            (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
        )
        for line in rows[y::dy, x::dx]
    )  # fmt: skip
    return SIGNATURE + ihdr(320, 240, True) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@cache
def good_images() -> dict[str, bytes]:
    """One of every kind that decoders treat in a way of its own, all of 320 x 240."""
    return {
        "JPEG": encoded("JPEG"),
        "progressive JPEG": encoded("JPEG", progressive=True),
        "JPEG with restarts": encoded("JPEG", restart_marker_blocks=3),
        "CMYK JPEG": encoded("JPEG", "CMYK"),
        "grey JPEG": encoded("JPEG", "L"),
        "PNG": encoded("PNG"),
        "PNG with a palette": encoded("PNG", "P"),
        "PNG with alpha": encoded("PNG", "RGBA"),
        "interlaced PNG": _interlaced(),
        "animated PNG": encoded("PNG", animated=True),
        "lossy WebP": encoded("WEBP"),
        "lossless WebP": encoded("WEBP", lossless=True),
        "WebP with alpha": encoded("WEBP", "RGBA"),
        "animated WebP": encoded("WEBP", animated=True),
        "BMP": encoded("BMP"),
        "run-length coded BMP": bmp(320, 240, 8, compression=1, pixels=(b"\xff\x07\x41\x09\0\0") * 240 + b"\0\1"),
    }


def cut_and_closed(image: bytes, share: float) -> bytes:
    """The first part of an image with an end put to it, so that it passes for whole."""
    size = int(len(image) * share)
    if image[:2] == b"\xff\xd8":
        return image[:size] + EOI
    if image[:4] == b"RIFF":
        cut = image[: size + size % 2]
        cut = cut[:4] + struct.pack("<I", len(cut) - 8) + cut[8:]
        return cut if cut[12:16] == b"VP8X" else cut[:16] + struct.pack("<I", len(cut) - 20) + cut[20:]
    if image[:2] == b"BM":
        return image[:size].ljust(len(image), b"\0")
    parts = [SIGNATURE]
    for kind, data in chunks(image):
        if kind == b"IDAT":
            data = data[: int(len(data) * share)]
        elif kind == b"fdAT":
            data = data[: 4 + int((len(data) - 4) * share)]
        parts.append(chunk(kind, data))
    return b"".join(parts)


def animated_without_its_first_picture() -> bytes:
    """An animated PNG whose first picture has a byte of its data only."""
    parts = [SIGNATURE]
    for kind, data in chunks(good_images()["animated PNG"]):
        parts.append(chunk(kind, data[:1] if kind == b"IDAT" else data))
    return b"".join(parts)


def damaged(image: bytes, seed: int) -> bytes:
    """The image with a few of its bytes changed; a PNG's checksums are put right, so that its decoder goes on."""
    dice = random.Random(seed)
    changed = bytearray(image)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    if image[:8] == SIGNATURE and dice.random() < 0.7:
        try:
            return bytes(changed[:8]) + b"".join(chunk(kind, data) for kind, data in chunks(bytes(changed)))
        except struct.error:
            pass  # the damage has hit a length
    return bytes(changed)


def bad_images(damages: int) -> Iterator[tuple[str, bytes]]:
    """Every good image cut and closed at many places, and damaged so many times."""
    for name, image in good_images().items():
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            yield f"{name}, cut at {share:.0%}", cut_and_closed(image, share)
        for seed in range(damages):
            yield f"{name}, damage {seed}", damaged(image, seed)
    yield "animated PNG without its first picture", animated_without_its_first_picture()
    dice = random.Random(7)
    for number in range(damages):
        codes = bytes(dice.choice((0, 0, 0, 1, 2, dice.randrange(256))) for _ in range(dice.randrange(200)))
        yield f"run-length codes {number}", bmp(320, 240, dice.choice((4, 8)), dice.choice((1, 2)), codes)


#: Files whose size may be read in two ways.
AMBIGUOUS: Final = {
    "two frame headers": jpeg(64, 48).replace(sof(64, 48), sof(64, 48) + sof(3_000, 2_000), 1),
    "two frame headers, the larger one first": jpeg(64, 48).replace(sof(64, 48), sof(3_000, 2_000) + sof(64, 48), 1),
    "a frame header behind the scan": jpeg(64, 48)[:-2] + sof(3_000, 2_000) + _jpeg_parts()[1] + b"\x12\x34" + EOI,
    "a frame header in a comment": jpeg(64, 48).replace(
        sof(64, 48), segment(0xFE, sof(3_000, 2_000)) + sof(64, 48), 1
    ),
    "a second image behind the first": jpeg(64, 48) + jpeg(3_000, 2_000),
    "a second start behind the first": jpeg(64, 48).replace(sof(64, 48), sof(64, 48) + jpeg(3_000, 2_000), 1),
    "a height told later": jpeg(64, 48).replace(
        _jpeg_parts()[1], segment(0xDC, struct.pack(">H", 2_000)) + _jpeg_parts()[1], 1
    ),
    "a height told behind the scan": jpeg(64, 48)[:-2] + segment(0xDC, struct.pack(">H", 2_000)) + EOI,
    "a hierarchical size": jpeg(64, 48).replace(sof(64, 48), sof(3_000, 2_000, 0xDE) + sof(64, 48), 1),
    "an arithmetic and a plain header": jpeg(64, 48).replace(sof(64, 48), sof(3_000, 2_000, 0xC9) + sof(64, 48), 1),
    "garbage before the frame header": jpeg(64, 48).replace(sof(64, 48), b"\0\0" + sof(3_000, 2_000) + sof(64, 48), 1),
    "two IHDR": SIGNATURE + ihdr(64, 48) + ihdr(3_000, 2_000) + chunk(b"IDAT", zlib.compress(bytes(64 * 48 * 3 + 48)))
    + chunk(b"IEND", b""),
    "two IHDR, the larger one first": SIGNATURE + ihdr(3_000, 2_000) + ihdr(64, 48)
    + chunk(b"IDAT", zlib.compress(bytes(64 * 48 * 3 + 48))) + chunk(b"IEND", b""),
    "an IHDR behind the data": SIGNATURE + ihdr(64, 48) + chunk(b"IDAT", zlib.compress(bytes(64 * 48 * 3 + 48)))
    + ihdr(3_000, 2_000) + chunk(b"IEND", b""),
    "an animation frame larger than its canvas": SIGNATURE + ihdr(64, 48) + chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 3_000, 2_000, 0, 0, 1, 1, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(64 * 48 * 3 + 48))) + chunk(b"IEND", b""),
    "a lossy WebP in a smaller canvas": webp(vp8x(64, 48), vp8(3_000, 2_000)),
    "a lossless WebP in a smaller canvas": webp(vp8x(64, 48), vp8l(3_000, 2_000)),
    "an animation in a smaller canvas": webp(
        vp8x(64, 48, flags=2), (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + struct.pack("<I", 2_999)[:3] + struct.pack("<I", 1_999)[:3] + bytes(4)
         + b"".join((vp8l(3_000, 2_000)[0], struct.pack("<I", 45), vp8l(3_000, 2_000)[1], b"\0"))),
    ),
    "two canvases": webp(vp8x(64, 48), vp8x(3_000, 2_000), vp8(3_000, 2_000)),
    "two lossy WebP": webp(vp8(64, 48), vp8(3_000, 2_000)),
    "a BMP that is also the start of an AVIF": b"BM\0\x18ftypavif" + bmp(64, 48, pixels=bytes(64 * 48 * 3))[12:],
    "a BMP with a palette for its pixels": bmp(64, 48, 8, pixels=bytes(64 * 48))[:54] + bytes(64 * 48),
}  # fmt: skip
