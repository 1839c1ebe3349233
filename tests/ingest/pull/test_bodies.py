"""An image is found in whatever generation of body a camera answers, by its first bytes, at a bounded cost."""

import base64
import math
import pickle
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any, Final

import bson
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from frames import InvalidFrame, Limits, check_image
from ingest.pull.bodies import BASE64_PIECE_BYTES, MAX_FIELDS, is_plain, read_image
from pickles import PROTOCOLS, RUN, arrays
from pictures import picture

MAX_BYTES: Final = 100_000
IMAGES: Final = {extension: picture(extension) for extension in (".jpg", ".png", ".webp", ".bmp")}
JPEG: Final = IMAGES[".jpg"]


def refusal_of(body: bytes, max_bytes: int = MAX_BYTES) -> InvalidFrame:
    with pytest.raises(InvalidFrame) as refused:
        read_image(body, max_bytes)
    message = str(refused.value)
    assert len(message) < 300
    assert message.isprintable()
    return refused.value


def pickled(image: bytes, protocol: int = 4, level: int = -1) -> bytes:
    return zlib.compress(pickle.dumps(np.frombuffer(image, np.uint8).reshape(-1, 1), protocol), level)


def document(**fields: Any) -> bytes:
    return bson.encode(fields)


def as_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()


# All generations


@pytest.mark.parametrize("extension", IMAGES)
def test_a_plain_image_is_taken_as_it_is(extension: str) -> None:
    image = IMAGES[extension]
    assert is_plain(image)
    assert read_image(image, MAX_BYTES) is image


@pytest.mark.parametrize("extension", IMAGES)
@pytest.mark.parametrize("level", range(-1, 10))
def test_a_compressed_pickle_is_read_whatever_its_level(level: int, extension: str) -> None:
    for protocol in PROTOCOLS:
        for array in arrays(IMAGES[extension]).values():
            body = zlib.compress(pickle.dumps(array, protocol), level)
            assert read_image(body, MAX_BYTES) == IMAGES[extension]
            assert not is_plain(body)


@pytest.mark.parametrize("extra", range(-4, 5))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
def test_base64_of_several_pieces_is_read_wherever_they_end(extra: int, encode: Callable[[bytes], bytes]) -> None:
    image = JPEG + bytes(3 * BASE64_PIECE_BYTES + extra - len(JPEG))
    assert read_image(document(frame=encode(image)), 4 * BASE64_PIECE_BYTES) == image


@pytest.mark.parametrize("at", [BASE64_PIECE_BYTES, 2 * BASE64_PIECE_BYTES, BASE64_PIECE_BYTES - 4, 40])
def test_nothing_goes_on_behind_the_end_of_base64(at: int) -> None:
    text = base64.b64encode(JPEG + bytes(3 * BASE64_PIECE_BYTES))
    ended = text[: at - 4] + b"aa==" + text[at:]
    assert refusal_of(document(frame=ended), 4 * BASE64_PIECE_BYTES).code == "not_an_image"


@pytest.mark.parametrize("bits", range(9, 16))
def test_a_compressed_pickle_is_read_whatever_its_window(bits: int) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, bits)
    body = compressor.compress(zlib.decompress(pickled(JPEG))) + compressor.flush()
    assert read_image(body, MAX_BYTES) == JPEG


DOCUMENTS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "frame alone": lambda image: document(frame=as_base64(image)),
    "frame of bytes": lambda image: document(frame=base64.b64encode(image)),
    "frame in lines": lambda image: document(frame=base64.encodebytes(image)),
    "frame in lines with returns": lambda image: document(frame=base64.encodebytes(image).replace(b"\n", b"\r\n")),
    "with its shape and address": lambda image: document(
        frame=as_base64(image), shape=[48, 64, 3], ipaddress="192.168.7.20"
    ),
    "the other way round": lambda image: document(shape=(len(image), 1), ipaddress="::1", frame=as_base64(image)),
    "with everything else": lambda image: document(
        double=0.5, none=None, yes=True, int=1, long=1 << 40, id=bson.ObjectId(), time=bson.Timestamp(1, 2),
        date=bson.datetime_ms.DatetimeMS(0), decimal=bson.Decimal128("1.5"), more={"frame": "x", "deep": [{}, []]},
        bytes=b"", text="", kind=bson.Binary(b"abc", 128), frame=as_base64(image), umlaut="ä\0ö",
    ),
    "with as many as there may be": lambda image: document(
        **{f"f{n}": n for n in range(MAX_FIELDS - 2)}, frame=as_base64(image)
    ),
}  # fmt: skip


@pytest.mark.parametrize("extension", IMAGES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_s_frame_is_read_whatever_else_is_in_it(name: str, extension: str) -> None:
    body = DOCUMENTS[name](IMAGES[extension])
    assert read_image(body, MAX_BYTES) == IMAGES[extension]
    assert not is_plain(body)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"BM", "a BMP"), (b"\x78\x9c", "zlib"), (b"\x78\x01", "zlib"), (b"\x78\xda", "zlib")]
)
def test_a_document_whose_length_looks_like_something_else_is_read(start: bytes, kind: str) -> None:
    (length,) = struct.unpack("<H", start)
    if length < len(document(frame=as_base64(JPEG), filler="")):
        length += 1 << 16
    body = document(frame=as_base64(JPEG), filler="x" * (length - len(document(frame=as_base64(JPEG), filler=""))))
    assert body.startswith(start), kind
    assert read_image(body, MAX_BYTES) == JPEG
    assert not is_plain(body)


# Limits


@pytest.mark.parametrize("extra", [0, 1])
def test_the_longest_image_is_taken_in_every_generation_and_none_longer(extra: int) -> None:
    image = JPEG + bytes(range(256)) * 400
    image = image[: MAX_BYTES + extra]
    bodies = [
        image,
        *(pickled(image, protocol, level) for protocol in PROTOCOLS for level in (0, 9)),
        *(make(image) for make in DOCUMENTS.values()),
    ]
    for body in bodies:
        if extra:
            refused = refusal_of(body)
            assert refused.code == "too_many_bytes"
            assert str(MAX_BYTES) in str(refused)
        else:
            assert read_image(body, MAX_BYTES) == image


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bombs = [zlib.compress(bytes(100_000_000), 9), pickled(bytes(100_000_000))]
    assert max(map(len, bombs)) < 110_000
    for bomb in bombs:
        tracemalloc.start()
        try:
            assert refusal_of(bomb).code == "too_many_bytes"
            assert tracemalloc.get_traced_memory()[1] < 10 * MAX_BYTES
        finally:
            tracemalloc.stop()


def nested(depth: int) -> bytes:
    inner = b"\5\0\0\0\0"
    for _ in range(depth):
        inner = struct.pack("<i", len(inner) + 8) + b"\3a\0" + inner + b"\0"
    return inner


SLOW: Final = {
    "many elements": b"".join(b"\x10a\0\1\0\0\0" for _ in range(1_000_000)),
    "many elements of nothing": b"\x0aa\0" * 2_000_000,
    "many documents of no length": b"\3a\0\0\0\0\0" * 1_000_000,
    "a long name": b"\x10a\0\1\0\0\0\x10" + b"a" * 8_000_000 + b"\0\1\0\0\0",
    "no end of a name": b"\x10a\0\1\0\0\0\x10" + b"a" * 8_000_000,
    "deep": b"\3a\0" + nested(1_000),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_document_that_is_made_to_be_slow_costs_next_to_nothing(name: str) -> None:
    body = struct.pack("<i", len(SLOW[name]) + 5) + SLOW[name] + b"\0"
    tracemalloc.start()
    try:
        costs = []
        for _ in range(3):
            start = time.process_time()
            assert refusal_of(body).code == "not_an_image"
            costs.append(time.process_time() - start)
        assert min(costs) < 0.02
        assert tracemalloc.get_traced_memory()[1] < len(body) + 100_000
    finally:
        tracemalloc.stop()


# What is none


def doctored(old: bytes, new: bytes, **fields: Any) -> bytes:
    """A document with something in it exchanged, and its length put right."""
    made = document(**fields)
    assert old in made
    made = made.replace(old, new, 1)
    return struct.pack("<i", len(made)) + made[4:]


NOT_AN_IMAGE: Final = {
    "nothing": b"",
    "one byte": b"\xff",
    "a text": b"GIF89a, or so it says",
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "JSON": b'{"frame": "abcd"}',
    "an image behind a byte": b"\0" + JPEG,
    "a pickle that is not compressed": pickle.dumps(np.frombuffer(JPEG, np.uint8)),
    "gzip": b"\x1f\x8b\x08" + zlib.compress(JPEG),
    "zlib of an image": zlib.compress(JPEG),
    "zlib of a text": zlib.compress(b"an array, or so it says"),
    "zlib with a wrong checksum": pickled(JPEG)[:-1] + b"\0",
    "zlib with a byte behind it": pickled(JPEG) + b"\0",
    "zlib that wants a dictionary": zlib.compressobj(9, zlib.DEFLATED, 15, 9, 0, b"numpy").flush(),
    "zlib with another method": b"\x79\x9b" + pickled(JPEG)[2:],
    "zlib of a pickle of a list": zlib.compress(pickle.dumps(list(JPEG))),
    "zlib of a pickle of a picture's pixels": zlib.compress(pickle.dumps(np.zeros((48, 64, 3), np.uint8))),
    "zlib of a pickle of floats": zlib.compress(pickle.dumps(np.zeros(48))),
    "zlib of a harmful pickle": zlib.compress(RUN["REDUCE"]("/nowhere")),
    "an empty document": b"\5\0\0\0\0",
    "a document without frame": document(ipaddress="127.0.0.1"),
    "a document with a frame in another": document(more={"frame": as_base64(JPEG)}),
    "a frame with a longer name": document(frames=as_base64(JPEG)),
    "a frame of another name": document(Frame=as_base64(JPEG)),
    "a frame that is a number": document(frame=7),
    "a frame that is none": document(frame=None),
    "a frame that is a list": document(frame=[as_base64(JPEG)]),
    "a frame of some kind of bytes": document(frame=bson.Binary(base64.b64encode(JPEG), 128)),
    "a frame that is the image itself": document(frame=JPEG),
    "a frame that is no Base64": document(frame="Ähm"),
    "a frame with spaces": document(frame=as_base64(JPEG).replace("/", " /")),
    "a frame cut off": document(frame=as_base64(JPEG)[:-1]),
    "a frame in the other alphabet": document(frame=base64.urlsafe_b64encode(b"\xff\xfe" * 30)),
    "a frame that is a data URL": document(frame="data:image/jpeg;base64," + as_base64(JPEG)),
    "too many elements": document(**{f"f{n}": n for n in range(MAX_FIELDS)}, frame=as_base64(JPEG)),
    "two frames": doctored(b"fra", b"fra", frame=as_base64(JPEG))[:-1] + b"\x02frame\0\5\0\0\0abcd\0\0",
    "two frames, and the right length": doctored(b"\x02grame", b"\x02frame", frame="abcd", grame="abcd"),
    "an element of an old type": document(frame=as_base64(JPEG), code=bson.Code("1")),
    "an element of an expression": document(frame=as_base64(JPEG), regex=bson.Regex("a")),
    "an element of an unknown type": doctored(b"\x10n\0", b"\x20n\0", frame=as_base64(JPEG), n=1),
    "a text that is too long": doctored(b"\5\0\0\0abcd", b"\xff\0\0\0abcd", frame="abcd"),
    "a text of less than nothing": doctored(b"\5\0\0\0abcd", b"\xff\xff\xff\xffabcd", frame="abcd"),
    "a text of 2 GiB": doctored(b"\5\0\0\0abcd", b"\xff\xff\xff\x7fabcd", frame="abcd"),
    "a text without its end": doctored(b"abcd\0", b"abcde", frame="abcd"),
    "a text of no length": doctored(b"\5\0\0\0abcd", b"\0\0\0\0abcd", frame="abcd"),
    "a document of four bytes": doctored(b"\3n\0\5", b"\3n\0\4", frame=as_base64(JPEG), n={}),
    "bytes of less than none": doctored(b"\4\0\0\0\0abcd", b"\xff\xff\xff\xff\0abcd", frame=b"abcd"),
    "bytes of no kind": doctored(b"\5frame\0\0\0\0\0\0", b"\5frame\0\0\0\0\0", frame=b""),
    "bytes that are too long": doctored(b"\4\0\0\0\0abcd", b"\5\0\0\0\0abcd", frame=b"abcd"),
    "an element without its value": b"\x0c\0\0\0\x02frame\0\0",
    "an end within": b"\x0f\0\0\0\x02a\0\1\0\0\0\0\0\0\0",
    "an end within a name": b"\x0f\0\0\0\x10a\0aaaa\x10aaa",
    "an end before its end": doctored(b"x\0", b"x\0\0\0", frame=as_base64(JPEG), more="x"),
    "a document that is longer than it says": b"\5" + document(frame=as_base64(JPEG))[1:],
    "a document with a byte behind it": document(frame=as_base64(JPEG)) + b"\0",
    "a document of no length": b"\0\0\0\0\x02frame\0" + bytes(20),
}


@pytest.mark.parametrize("name", NOT_AN_IMAGE)
def test_anything_else_is_not_an_image(name: str) -> None:
    refused = refusal_of(NOT_AN_IMAGE[name])
    assert refused.code == "not_an_image", refused


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_half_a_body_is_truncated(part: float) -> None:
    whole = [pickled(JPEG), pickled(JPEG, 5, 0), document(frame=as_base64(JPEG)), document(ipaddress="::1", frame="/")]
    for body in whole:
        cut = body[: max(math.floor(len(body) * part), 20)]
        assert refusal_of(cut).code == "truncated"


def test_a_pickle_that_ends_too_early_is_truncated() -> None:
    assert refusal_of(zlib.compress(zlib.decompress(pickled(JPEG))[:-30])).code == "truncated"
    assert refusal_of(zlib.compress(b"")).code == "truncated"


def test_what_came_and_what_was_expected_is_said() -> None:
    assert str(refusal_of(b"GIF89a, or so it says")) == (
        "the first bytes are '47 49 46 38 39 61 2c 20 6f 72 20 73',"
        " expected a JPEG, PNG, WebP or BMP image, a compressed pickle of one, or BSON with one"
    )
    # A window of 64 KiB, a dictionary, a wrong checksum: no zlib either.
    for start in ("88 1c", "78 bb", "78 9d"):
        assert f"the first bytes are '{start}" in str(refusal_of(bytes.fromhex(start) + pickled(JPEG)[2:]))
    assert "names 'os.system'" in str(refusal_of(NOT_AN_IMAGE["zlib of a harmful pickle"]))
    assert "ends within an element's name" in str(refusal_of(NOT_AN_IMAGE["an end within a name"]))
    assert "ends within an element" in str(refusal_of(NOT_AN_IMAGE["a text of 2 GiB"]))
    for name in (
        "a text of less than nothing",
        "a text of no length",
        "a document of four bytes",
        "bytes of less than none",
    ):
        assert "an element in it has length" in str(refusal_of(NOT_AN_IMAGE[name]))
    assert "there is no 'frame' in it" in str(refusal_of(NOT_AN_IMAGE["a document without frame"]))


# Whatever comes

GOOD: Final = [JPEG, pickled(JPEG), *(make(JPEG) for make in DOCUMENTS.values())]
many = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@many
@given(st.sampled_from(GOOD), st.data())
def test_a_damaged_body_is_an_image_or_refused(body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(damaged), 120) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    assert_bytes_or_refused(bytes(damaged))


@many
@given(st.binary(max_size=60))
@example(b"\x0d\0\0\0\x02frame\0\0\0")
def test_noise_is_an_image_or_refused(noise: bytes) -> None:
    assert_bytes_or_refused(noise)
    assert_bytes_or_refused(struct.pack("<i", len(noise) + 12) + b"\x02frame\0" + noise + b"\0")
    assert_bytes_or_refused(struct.pack("<i", len(noise) + 5) + noise + b"\0")


def assert_bytes_or_refused(body: bytes) -> None:
    try:
        image = read_image(body, MAX_BYTES)
    except InvalidFrame:
        refusal_of(body)
        return
    assert type(image) is bytes
    assert len(image) <= MAX_BYTES


fields = st.dictionaries(
    st.text("abframe", min_size=1, max_size=6),
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats() | st.text(max_size=8) | st.binary()
    | st.lists(st.text(max_size=3), max_size=3) | st.dictionaries(st.just("a"), st.integers(0, 9)),
    max_size=6,
)  # fmt: skip


@many
@given(fields, fields)
def test_the_frame_is_found_in_whatever_document_bson_writes(before: dict[str, Any], after: dict[str, Any]) -> None:
    before.pop("frame", None)
    after.pop("frame", None)
    body = bson.encode({**before, "frame": as_base64(JPEG), **{k: v for k, v in after.items() if k not in before}})
    assert read_image(body, MAX_BYTES) == JPEG


def test_what_is_read_can_be_checked_as_any_other_image() -> None:
    info = check_image(read_image(pickled(JPEG), MAX_BYTES), Limits())
    assert info == ("image/jpeg", 64, 48)
