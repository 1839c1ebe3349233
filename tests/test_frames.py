"""The header check against images that OpenCV and Pillow write and decode, and against hostile bytes."""

import io
import time
from struct import pack
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from frames import Frame, ImageInfo, InvalidFrame, Limits, check_image, end_of_bmp, read_header
from pictures import picture

LIMITS = Limits()
SMALL = Limits(max_frame_bytes=1_000_000, max_pixels=1_000_000)

EOI = b"\xff\xd9"
THUMBNAIL = b"\xff\xd8\xff\xdb\x00\x02" + EOI
"""A JPEG within a JPEG's EXIF: its end must not pass for the end of the image around it."""


def segment(marker: int, payload: bytes) -> bytes:
    return pack(">BBH", 0xFF, marker, 2 + len(payload)) + payload


def sof(marker: int, width: int, height: int, components: int = 3) -> bytes:
    return segment(marker, pack(">BHHB", 8, height, width, components) + bytes(3 * components))


EXIF = segment(0xE1, b"Exif\0\0" + THUMBNAIL)
SCAN = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\xff\x00\x34"


def jpeg(header: bytes = sof(0xC0, 7, 5), scan: bytes = SCAN, end: bytes = EOI) -> bytes:
    return b"\xff\xd8" + header + scan + end


def png(width: int, height: int, first: bytes = b"IHDR", length: int = 13) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + pack(">I4sII", length, first, width, height) + bytes(9) + IEND


IEND = b"\0\0\0\0IEND\xaeB`\x82"


def webp(name: bytes, payload: bytes, length: int | None = None, riff_bytes: int | None = None) -> bytes:
    chunk = name + pack("<I", len(payload) if length is None else length) + payload
    return b"RIFF" + pack("<I", 4 + len(chunk) if riff_bytes is None else riff_bytes) + b"WEBP" + chunk


def vp8(width: int, height: int, tag: bytes = b"\x10\0\0", start: bytes = b"\x9d\x01\x2a") -> bytes:
    return webp(b"VP8 ", tag + start + pack("<HH", width, height))


def vp8l(width: int, height: int, signature: int = 0x2F, version: int = 0) -> bytes:
    return webp(b"VP8L", pack("<BI", signature, (width - 1) | (height - 1) << 14 | version << 29) + b"\0")


def vp8x(width: int, height: int) -> bytes:
    return webp(b"VP8X", bytes(4) + pack("<I", width - 1)[:3] + pack("<I", height - 1)[:3])


def bmp(
    width: int,
    height: int,
    bits: int = 24,
    header_bytes: int = 40,
    compression: int = 0,
    pixel_bytes: int = 0,
    pixels: bytes | None = None,
    pixels_at: int | None = None,
) -> bytes:
    if header_bytes == 12:
        header = pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = pack("<IiiHHII", header_bytes, width, height, 1, bits, compression, pixel_bytes)
        header = header.ljust(header_bytes, b"\0")[:header_bytes]
    if pixels is None:
        pixels = bytes((width * bits + 31) // 32 * 4 * abs(height))
    return b"BM" + pack("<IHHI", 0, 0, 0, 14 + len(header) if pixels_at is None else pixels_at) + header + pixels


SOF_MARKERS = [0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF]

TAKEN: dict[str, tuple[bytes, str, int, int]] = {
    **{f"JPEG with SOF {marker:02x}": (jpeg(sof(marker, 7, 5)), "image/jpeg", 7, 5) for marker in SOF_MARKERS},
    "JPEG of one component": (jpeg(sof(0xC0, 7, 5, components=1)), "image/jpeg", 7, 5),
    "JPEG with EXIF and its thumbnail": (jpeg(EXIF + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with comments": (jpeg(segment(0xFE, b"\xff\xc0 no header") * 40 + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with an empty segment": (jpeg(segment(0xFE, b"") + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with the longest segment": (jpeg(segment(0xFE, bytes(65_533)) + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with a fill byte": (jpeg(b"\xff" + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with 100,000 fill bytes": (jpeg(b"\xff" * 100_000 + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with tables first": (
        jpeg(segment(0xDB, bytes(65)) + segment(0xC4, bytes(28)) + segment(0xCC, bytes(2)) + sof(0xC9, 7, 5)),
        "image/jpeg",
        7,
        5,
    ),
    "JPEG with markers of no length": (jpeg(b"\xff\x01\xff\xd0\xff\xd7" + sof(0xC0, 7, 5)), "image/jpeg", 7, 5),
    "JPEG with a fill byte before its end": (jpeg(end=b"\xff" + EOI), "image/jpeg", 7, 5),
    "JPEG with zeros behind it": (jpeg(end=EOI + bytes(4096)), "image/jpeg", 7, 5),
    "JPEG with a multipart's CRLF behind it": (jpeg(end=EOI + b"\r\n"), "image/jpeg", 7, 5),
    "JPEG with a maker's note behind it": (jpeg(end=EOI + bytes(65_534)), "image/jpeg", 7, 5),
    "largest JPEG": (jpeg(sof(0xC0, 65_535, 700)), "image/jpeg", 65_535, 700),
    "PNG": (png(7, 5), "image/png", 7, 5),
    "PNG with bytes behind it": (png(7, 5) + b"\r\n", "image/png", 7, 5),
    "lossy WebP": (vp8(7, 5), "image/webp", 7, 5),
    "lossy WebP with upscaling bits": (vp8(7 | 0x4000, 5 | 0xC000), "image/webp", 7, 5),
    "lossless WebP": (vp8l(7, 5), "image/webp", 7, 5),
    "largest lossless WebP": (vp8l(16_384, 3_000), "image/webp", 16_384, 3_000),
    "extended WebP": (vp8x(7, 5), "image/webp", 7, 5),
    "wide extended WebP": (vp8x(1 << 24, 2), "image/webp", 1 << 24, 2),
    "WebP with bytes behind it": (vp8(7, 5) + b"\0\0", "image/webp", 7, 5),
    **{f"BMP with a header of {n} bytes": (bmp(7, 5, header_bytes=n), "image/bmp", 7, 5) for n in (12, 40, 52, 56)},
    **{f"BMP with a header of {n} bytes": (bmp(7, 5, header_bytes=n), "image/bmp", 7, 5) for n in (64, 108, 124)},
    **{f"BMP of {bits} bits": (bmp(7, 5, bits), "image/bmp", 7, 5) for bits in (1, 4, 8, 16, 24, 32)},
    "BMP from the top down": (bmp(7, -5), "image/bmp", 7, 5),
    "BMP with bit fields": (bmp(7, 5, 16, compression=3), "image/bmp", 7, 5),
    "run-length coded BMP": (bmp(7, 5, 8, compression=1, pixel_bytes=2, pixels=b"\0\1"), "image/bmp", 7, 5),
    "tall core BMP": (bmp(1, 40_000, 1, header_bytes=12), "image/bmp", 1, 40_000),
    "BMP with a gap before its pixels": (
        bmp(7, 5, pixels=bytes(1024 + 120), pixels_at=54 + 1024),
        "image/bmp",
        7,
        5,
    ),
}

REFUSED: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "not_an_image", "the first bytes are '', expected a JPEG, PNG, WebP or BMP image"),
    "text": (b"hello", "not_an_image", "the first bytes are '68 65 6c 6c 6f', expected a JPEG"),
    "GIF": (b"GIF89a" + bytes(99), "not_an_image", "the first bytes are '47 49 46"),
    "sound in RIFF": (b"RIFF\0\0\0\0WAVE", "not_an_image", "the first bytes are"),
    "half a PNG signature": (png(7, 5)[:5], "not_an_image", "the first bytes are"),
    "only the start of a JPEG": (b"\xff\xd8", "truncated", "ends after 2 bytes, within its header"),
    "only fill bytes": (b"\xff\xd8" + b"\xff" * 9, "truncated", "ends after 11 bytes, within its header"),
    "JPEG cut within a segment": (jpeg(EXIF)[:12], "truncated", "ends after 12 bytes, within its header"),
    "JPEG without its end": (jpeg(end=b""), "truncated", "expected its end mark ff d9"),
    "JPEG with half its end": (jpeg(end=b"\xff"), "truncated", "expected its end mark ff d9"),
    "JPEG whose thumbnail alone has an end": (jpeg(EXIF + sof(0xC0, 7, 5), end=b""), "truncated", "expected its end"),
    "JPEG ending in its frame header": (jpeg(scan=b"", end=b""), "truncated", "ends after 21 bytes, within its header"),
    "JPEG ending where its scan begins": (jpeg(scan=SCAN[:2], end=b""), "truncated", "expected its end mark ff d9"),
    "JPEG whose end is too far from the end": (jpeg(end=EOI + bytes(70_000)), "truncated", "expected its end mark"),
    "JPEG cut and filled up with zeros": (jpeg(end=bytes(4096)), "truncated", "expected its end mark"),
    "JPEG with garbage between segments": (jpeg(b"\0" + sof(0xC0, 7, 5)), "not_an_image", "byte 2 is 00, expected"),
    "JPEG with a scan first": (jpeg(b""), "not_an_image", "marker da at byte 3, expected a frame header"),
    "JPEG of nothing": (b"\xff\xd8" + EOI, "not_an_image", "marker d9 at byte 3, expected a frame header"),
    "JPEG that starts twice": (b"\xff\xd8" + jpeg(), "not_an_image", "marker d8 at byte 3"),
    "JPEG with a stuffed byte as marker": (jpeg(b"\xff\0"), "not_an_image", "marker 00 at byte 3"),
    "JPEG with a segment of length 1": (jpeg(b"\xff\xfe\0\1"), "not_an_image", "at byte 2 has length 1, expected at"),
    "JPEG of no components": (jpeg(sof(0xC0, 7, 5, components=0)), "not_an_image", "of 0 components has 8 bytes"),
    "JPEG frame header of a wrong length": (
        jpeg(segment(0xC0, pack(">BHHB", 8, 5, 7, 3) + bytes(8))),
        "not_an_image",
        "of 3 components has 16 bytes",
    ),
    "JPEG whose height follows later (DNL)": (jpeg(sof(0xC0, 7, 0)), "not_an_image", "7 x 0 pixels, expected at least"),
    "JPEG of no width": (jpeg(sof(0xC0, 0, 5)), "not_an_image", "0 x 5 pixels, expected at least 1 x 1"),
    "JPEG of segments only": (jpeg(b"\xff\xd0" * 4000), "not_an_image", "too many segments, and no frame header"),
    "JPEG of a frame header and segments only": (
        jpeg(sof(0xC0, 7, 5) + b"\xff\xd0" * 4000),
        "not_an_image",
        "too many segments, and no frame header with a scan",
    ),
    "hierarchical JPEG": (jpeg(sof(0xDE, 70, 50) + sof(0xC0, 7, 5)), "not_an_image", "marker de at byte 3"),
    "JPEG with two frame headers": (jpeg(sof(0xC0, 7, 5) + sof(0xC2, 7, 5)), "not_an_image", "second frame header"),
    "JPEG that starts again before its scan": (
        jpeg(sof(0xC0, 7, 5) + b"\xff\xd8"),
        "not_an_image",
        "marker d8 at byte 22, expected a scan before it",
    ),
    "JPEG with garbage before its scan": (jpeg(sof(0xC0, 7, 5) + b"\0"), "not_an_image", "byte 21 is 00, expected"),
    "PNG of no height": (png(7, 0), "not_an_image", "7 x 0 pixels"),
    "PNG with a side of 2^31": (png(7, 1 << 31), "not_an_image", "expected sides below 2^31"),
    "PNG with another first chunk": (png(7, 5, first=b"CgBI"), "not_an_image", "first chunk is b'CgBI' of 13 bytes"),
    "PNG with a long first chunk": (png(7, 5, length=14), "not_an_image", "of 14 bytes, expected IHDR of 13"),
    "PNG with two headers": (
        png(7, 5)[:-12] + pack(">I4sII", 13, b"IHDR", 70, 50) + bytes(9) + IEND,
        "not_an_image",
        "a second IHDR at byte 33",
    ),
    "PNG with two headers and something between": (
        png(7, 5)[:-12]
        + pack(">I", 4)
        + b"tEXtIDAT"
        + bytes(4)
        + pack(">I4sII", 13, b"IHDR", 70, 50)
        + bytes(9)
        + IEND,
        "not_an_image",
        "a second IHDR at byte 49",
    ),
    "PNG of chunks only": (
        png(7, 5)[:-12] + (bytes(4) + b"tEXt" + bytes(4)) * 4000 + IEND,
        "not_an_image",
        "too many chunks and no pixels",
    ),
    "PNG cut in its header": (png(7, 5)[:20], "truncated", "ends after 20 bytes, within its header"),
    "PNG without its end": (png(7, 5)[:-1], "truncated", "expected at least 45"),
    "PNG with its end cut off after data": (png(7, 5)[:-12] + bytes(99), "truncated", "expected its end mark 00 00"),
    "WebP without an image": (webp(b"VP8 ", b""), "truncated", "within its header"),
    "WebP with another first chunk": (webp(b"ALPH", bytes(20)), "not_an_image", "first chunk is b'ALPH'"),
    "WebP that is no key frame": (vp8(7, 5, tag=b"\x11\0\0"), "not_an_image", "VP8  chunk of 10 bytes is malformed"),
    "WebP without its start code": (vp8(7, 5, start=b"\0\0\0"), "not_an_image", "is malformed"),
    "WebP of no width": (vp8(0, 5), "not_an_image", "0 x 5 pixels"),
    "lossless WebP without its signature": (vp8l(7, 5, signature=0), "not_an_image", "VP8L chunk of 6 bytes"),
    "lossless WebP of a later version": (vp8l(7, 5, version=1), "not_an_image", "is malformed"),
    "extended WebP with a short chunk": (webp(b"VP8X", bytes(10), length=9), "not_an_image", "VP8X chunk of 9 bytes"),
    "WebP chunk longer than its file says": (webp(b"VP8X", bytes(10), riff_bytes=20), "not_an_image", "is malformed"),
    "WebP shorter than it says": (vp8l(7, 5)[:-1], "truncated", "ends after 25 bytes, expected at least 26"),
    "BMP of an unknown header": (bmp(7, 5, header_bytes=41), "not_an_image", "header has 41 bytes, expected 12, 40"),
    "BMP of 2 bits": (bmp(7, 5, bits=2), "not_an_image", "has 2 bits a pixel"),
    "BMP whose pixels overlap its header": (bmp(7, 5, pixels_at=53), "not_an_image", "from byte 53 on"),
    "BMP around a JPEG": (bmp(7, 5, compression=4), "not_an_image", "compression 4, expected 0 to 3, or 6"),
    "BMP of a negative width": (bmp(-7, 5, pixels=bytes(200)), "not_an_image", "-7 x 5 pixels"),
    "BMP of no height": (bmp(7, 0), "not_an_image", "7 x 0 pixels"),
    "BMP that lacks its last byte": (bmp(7, 5)[:-1], "truncated", "ends after 173 bytes, expected at least 174"),
    "BMP cut in its header": (bmp(7, 5)[:20], "truncated", "ends after 20 bytes, within its header"),
    "run-length coded BMP cut off": (
        bmp(7, 5, 8, compression=1, pixel_bytes=9, pixels=b"\0\1"),
        "truncated",
        "expected at least 63",
    ),
}

BOMBS = {
    "JPEG": jpeg(sof(0xC0, 30_000, 30_000)).ljust(631, b"\0"),
    "PNG": png(30_000, 30_000),
    "PNG with the largest sides": png((1 << 31) - 1, (1 << 31) - 1),
    "WebP": vp8x(30_000, 30_000),
    "lossy WebP": vp8(16_383, 16_383),
    "lossless WebP": vp8l(16_384, 16_384),
    "BMP": bmp(30_000, 30_000, pixels=b""),
    "BMP from the top down": bmp(30_000, -30_000, pixels=b""),
    "BMP with the largest height": bmp(1, -(1 << 31), bits=1, pixels=b""),
    "run-length coded BMP": bmp(30_000, 30_000, 8, compression=1, pixel_bytes=2, pixels=b"\0\1"),
}


def refusal_of(image: bytes | bytearray | memoryview, limits: Limits = LIMITS) -> InvalidFrame:
    with pytest.raises(InvalidFrame) as raised:
        check_image(image, limits)
    return raised.value


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("name", TAKEN)
def test_every_legal_form_is_taken_and_its_size_read(name: str, kind: Any) -> None:
    image, media_type, width, height = TAKEN[name]
    assert check_image(kind(image), LIMITS) == read_header(kind(image)) == ImageInfo(media_type, width, height)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_image_is_refused_with_its_reason(name: str, kind: Any) -> None:
    image, code, message = REFUSED[name]
    refusal = refusal_of(kind(image))
    assert refusal.code == code
    assert message in str(refusal)


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_declares_a_huge_image_is_refused_for_its_pixels(name: str) -> None:
    assert len(BOMBS[name]) < 1_000
    refusal = refusal_of(BOMBS[name])
    assert refusal.code == "too_many_pixels"
    assert "pixels came, at most 50000000 are taken" in str(refusal)


def test_the_limits_themselves_are_allowed_and_one_more_is_not() -> None:
    image = png(100, 50)
    assert check_image(image, Limits(len(image), 5_000)).width == 100
    assert refusal_of(image, Limits(len(image), 4_999)).code == "too_many_pixels"
    refusal = refusal_of(image, Limits(len(image) - 1, 5_000))
    assert (refusal.code, str(refusal)) == ("too_many_bytes", "45 bytes came, at most 44 are taken")


def test_the_length_is_looked_at_before_anything_else() -> None:
    assert refusal_of(b"no image", Limits(max_frame_bytes=7)).code == "too_many_bytes"


def test_the_header_alone_is_enough_to_read_the_size() -> None:
    assert read_header(jpeg(scan=SCAN[:2], end=b"")) == ImageInfo("image/jpeg", 7, 5)
    assert read_header(bmp(7, 5, pixels=b"")) == ImageInfo("image/bmp", 7, 5)


def test_a_frame_carries_its_image_and_nothing_can_be_added_to_it() -> None:
    image = memoryview(png(7, 5))
    frame = Frame(image, read_header(image), stream=None, seq=3, received_at=1.5, reply_to="event")  # type: ignore[arg-type]
    assert (frame.image is image, frame.info.width, frame.seq, frame.received_at) == (True, 7, 3, 1.5)
    assert frame.reply_to == "event"
    with pytest.raises(AttributeError):
        frame.note = "x"  # type: ignore[attr-defined]


# What real encoders write.

# Pillow guesses how much an optimised JPEG takes, and fails when noise and a profile take more.
ImageFile.MAXBLOCK = 1 << 20


def cv2_image(extension: str, pixels: np.ndarray, params: list[int]) -> bytes:
    done, encoded = cv2.imencode(extension, pixels, params)
    assert done
    return encoded.tobytes()


def pillow_image(format_name: str, mode: str, size_wh: tuple[int, int], seed: int, **options: Any) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    if options.pop("animated", False):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    if options.pop("exif", False):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees: the header's size is still the stored one
        options["exif"] = exif.tobytes()
    out = io.BytesIO()
    image.save(out, format_name, **options)
    return out.getvalue()


sides = st.integers(1, 70)
seeds = st.integers(0, 3)
maybe = st.booleans()
metadata = st.sampled_from([b"", b"\xff\xd8 profile \xff\xd9", bytes(70_000)])


@st.composite
def cv2_images(draw: st.DrawFn) -> tuple[bytes, ImageInfo]:
    width, height = draw(sides), draw(sides)
    channels = draw(st.sampled_from([1, 3, 4]))
    pixels = np.random.default_rng(draw(seeds)).integers(0, 256, (height, width, channels), dtype=np.uint8)
    quality = draw(st.integers(1, 100))
    extension, media_type, params = draw(
        st.sampled_from(
            [
                (".jpg", "image/jpeg", [cv2.IMWRITE_JPEG_QUALITY, quality]),
                (".jpg", "image/jpeg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]),
                (".jpg", "image/jpeg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
                (".png", "image/png", [cv2.IMWRITE_PNG_COMPRESSION, quality // 12]),
                (".webp", "image/webp", [cv2.IMWRITE_WEBP_QUALITY, quality]),
                (".webp", "image/webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
                (".bmp", "image/bmp", []),
            ]
        )
    )
    return cv2_image(extension, pixels, params), ImageInfo(media_type, width, height)


@st.composite
def pillow_images(draw: st.DrawFn) -> tuple[bytes, ImageInfo]:
    size_wh = draw(sides), draw(sides)
    format_name = draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]))
    options: dict[str, Any] = {}
    if format_name == "JPEG":
        mode = draw(st.sampled_from(["L", "RGB", "CMYK"]))
        options = {
            "quality": draw(st.integers(1, 100)),
            "progressive": draw(maybe),
            "optimize": draw(maybe),
            "restart_marker_blocks": draw(st.integers(0, 2)),
            "comment": draw(st.binary(max_size=40)),
            "icc_profile": draw(metadata),
            "exif": draw(maybe),
        }
    elif format_name == "PNG":
        mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]))
        options = {"exif": draw(maybe), "icc_profile": draw(metadata), "animated": draw(maybe)}
    elif format_name == "WEBP":
        mode = draw(st.sampled_from(["L", "RGB", "RGBA"]))
        options = {"lossless": draw(maybe), "exif": draw(maybe), "icc_profile": draw(metadata), "animated": draw(maybe)}
    else:
        mode = draw(st.sampled_from(["1", "L", "P", "RGB", "RGBA"]))
    image = pillow_image(format_name, mode, size_wh, draw(seeds), **options)
    return image, ImageInfo(f"image/{format_name.lower()}", *size_wh)


images = st.one_of(cv2_images(), pillow_images())


@given(images)
def test_what_opencv_and_pillow_write_is_taken_and_its_size_read(made: tuple[bytes, ImageInfo]) -> None:
    image, info = made
    assert check_image(image, LIMITS) == check_image(memoryview(image), LIMITS) == info


@given(images, st.data())
def test_an_image_that_was_cut_anywhere_is_refused(made: tuple[bytes, ImageInfo], data: st.DataObject) -> None:
    image, _ = made
    cut = image[: data.draw(st.integers(0, len(image) - 1))]
    assert refusal_of(cut).code == "truncated" or len(cut) < 12


@pytest.mark.parametrize(
    "image", [made[0] for made in TAKEN.values() if len(made[0]) < 200], ids=lambda image: len(image)
)
def test_a_small_image_cut_at_any_byte_is_refused_or_lacks_only_what_no_decoder_reads(image: bytes) -> None:
    for length in range(len(image)):
        try:
            check_image(image[:length], LIMITS)
        except InvalidFrame:
            continue
        rest = image[length:]
        assert rest in (b"\r\n", b"\n", b"\0\0", b"\0")


@given(images, st.binary(max_size=300))
def test_bytes_behind_an_image_change_nothing(made: tuple[bytes, ImageInfo], behind: bytes) -> None:
    image, info = made
    assert check_image(image + behind, LIMITS) == info


# What nobody's encoder wrote.

starts = st.sampled_from(
    [b"", b"\xff\xd8", b"\xff\xd8\xff", png(7, 5)[:16], vp8(7, 5)[:16], vp8x(7, 5)[:20], b"BM", bmp(7, 5)]
)


@given(starts, st.binary(max_size=200))
@example(b"\xff\xd8", b"\xff")
def test_whatever_comes_is_either_taken_or_an_invalid_frame(start: bytes, rest: bytes) -> None:
    try:
        info = check_image(start + rest, LIMITS)
    except InvalidFrame:
        return
    assert info.width > 0
    assert info.height > 0


def assert_decodes_to_its_size(image: bytes, info: ImageInfo) -> None:
    """Where a decoder makes anything of the image at all, it makes what the header check read."""
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is not None:
        assert decoded.shape[:2] == (info.height, info.width)
    try:
        with Image.open(io.BytesIO(image), formats=["JPEG", "PNG", "WEBP", "BMP"]) as opened:
            opened.load()
            assert opened.size == (info.width, info.height)
    except (OSError, SyntaxError, ValueError):
        pass


@given(images, st.data())
def test_a_damaged_image_that_is_taken_decodes_to_the_size_that_was_read(
    made: tuple[bytes, ImageInfo], data: st.DataObject
) -> None:
    damaged = bytearray(made[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        info = check_image(damaged, SMALL)
    except InvalidFrame:
        return
    assert_decodes_to_its_size(bytes(damaged), info)


@given(st.integers(0, 2), st.lists(st.sampled_from([b"\xff", EXIF, segment(0xFE, b"x"), b"\xff\xd3"]), max_size=20))
def test_segments_and_fill_before_the_frame_header_hide_nothing(which: int, extra: list[bytes]) -> None:
    pixels = np.full((9, 16, 3), 90, np.uint8)
    image = cv2_image(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, which % 2])
    image = image[:2] + b"".join(extra) + image[2:]
    info = check_image(image, LIMITS)
    assert info == ImageInfo("image/jpeg", 16, 9)
    assert_decodes_to_its_size(image, info)


HOSTILE = {
    "fill bytes": b"\xff\xd8" + b"\xff" * (8 << 20),
    "empty segments": b"\xff\xd8" + segment(0xFE, b"") * (2 << 20),
    "restart markers": b"\xff\xd8" + b"\xff\xd0" * (4 << 20),
    "segments behind the frame header": b"\xff\xd8" + sof(0xC0, 7, 5) + segment(0xFE, b"") * (2 << 20),
    "empty chunks": png(7, 5)[:-12] + (bytes(4) + b"tEXt" + bytes(4)) * (700_000),
    "an end that nearly comes": jpeg(end=b"\xff" * (8 << 20)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_image_made_to_be_slow_costs_no_more_than_receiving_it(name: str) -> None:
    # Receiving 8 MiB takes 6 ms; the bound leaves room for a busy machine, and is far from the second that
    # a look at each byte would take.
    image = HOSTILE[name]
    costs = []
    for _ in range(3):
        start = time.process_time()
        refusal_of(image, Limits(max_frame_bytes=len(image)))
        costs.append(time.process_time() - start)
    assert min(costs) < 0.1


@pytest.mark.parametrize(
    ("declared", "end"),
    [(0, 9_270), (54, 9_270), (9_270, 9_270), (9_272, 9_272), (0xFFFFFFFF, 0xFFFFFFFF)],
    ids=["nothing", "the head", "all", "two more", "4 GiB"],
)
def test_a_bmp_ends_with_its_pixels_or_later_where_its_head_says_so(declared: int, end: int) -> None:
    bmp = picture(".bmp", 64, 48)
    assert len(bmp) == 9_270
    assert end_of_bmp(bmp[:2] + declared.to_bytes(4, "little") + bmp[6:]) == end


def test_what_is_no_bmp_has_no_end_of_one() -> None:
    with pytest.raises(InvalidFrame, match="a file of type image/jpeg, expected image/bmp"):
        end_of_bmp(picture())
    with pytest.raises(InvalidFrame, match="within its header"):
        end_of_bmp(picture(".bmp")[:20])
