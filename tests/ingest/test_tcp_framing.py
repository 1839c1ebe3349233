"""The messages of cameras over plain TCP, read in every layout, however they are cut."""

import gzip
import itertools
import random
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from frames import InvalidFrame
from ingest.inflate import gunzip
from ingest.tcp_framing import Head, MalformedMessage, TcpMessages

MAX_BYTES = 200_000
#: As clients write them; those of "BI" depend on the machine that they run on.
LAYOUTS = {
    "!BI": ">BI",
    "<BI": "<BI",
    "=BI": "=BI",
    "BI": "BI",
    "BI, little-endian": "<B3xI",
    "BI, big-endian": ">B3xI",
}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)

Image = tuple[int, bytes]


def message(layout: str, camera: int, image: bytes, padding: bytes = b"\0\0\0") -> bytes:
    head = bytearray(struct.pack(layout, camera, len(image)))
    if len(head) == 8:
        head[1:4] = padding
    return bytes(head) + image


def packed(size: int, seed: int = 1) -> bytes:
    """Gzip data of exactly so many bytes: what the file name lacks, its head makes up for."""
    plain = gzip.compress(random.Random(seed).randbytes(max(size - 60, 0) // 2), mtime=0)
    missing = size - len(plain)
    assert missing > 0
    return plain[:3] + b"\x08" + plain[4:10] + b"n" * (missing - 1) + b"\0" + plain[10:]


def read(messages: TcpMessages, passed_over: frozenset[int] = frozenset()) -> Iterator[Image]:
    """All images that are there, as a gateway takes them."""
    while not messages.skipping and (head := messages.head()) is not None:
        if head.camera in passed_over:
            messages.skip()
            continue
        body = messages.body()
        if body is None:
            return
        with body:
            try:
                gunzip(body, 10 * MAX_BYTES)
            except InvalidFrame as error:
                code, image = error.code, b""
            else:
                code, image = "", bytes(body)
        if not code:
            yield head.camera, image
            messages.end()
        elif not messages.reads_otherwise(code == "truncated"):
            raise MalformedMessage(code)


def feed(messages: TcpMessages, data: bytes, passed_over: frozenset[int] = frozenset()) -> list[Image]:
    """What comes of these bytes, which came at once."""
    came: list[Image] = []
    while data:
        if messages.skipping:
            size = min(len(data), messages.skipping)
            messages.skipped(size)
        else:
            size = len(data)
            messages.receive(data)
        data = data[size:]
        came += read(messages, passed_over)
    return came


def conversation(layout: str) -> tuple[bytes, list[Image]]:
    images = [(1, packed(100)), (255, packed(40, 2)), (0, packed(70, 3)), (1, packed(55, 4))]
    return b"".join(message(layout, *image) for image in images), images


# -- which layout


@layouts
def test_each_layout_is_recognised_and_kept(layout: str) -> None:
    sent, images = conversation(layout)
    assert feed(TcpMessages(MAX_BYTES), sent) == images


@layouts
def test_it_does_not_matter_how_the_bytes_are_cut(layout: str) -> None:
    sent, images = conversation(layout)
    messages = TcpMessages(MAX_BYTES)
    assert [image for byte in sent for image in feed(messages, bytes((byte,)))] == images
    for cut in range(1, len(sent)):
        messages = TcpMessages(MAX_BYTES)
        assert feed(messages, sent[:cut]) + feed(messages, sent[cut:]) == images, cut
    rng = random.Random(7)
    for _ in range(200):
        messages = TcpMessages(MAX_BYTES)
        cuts = [0, *sorted(rng.randrange(len(sent)) for _ in range(rng.randrange(8))), len(sent)]
        pieces = [sent[begin:end] for begin, end in itertools.pairwise(cuts)]
        assert [image for piece in pieces for image in feed(messages, piece)] == images, cuts


@layouts
@pytest.mark.parametrize("size", [256, 512, 65_536, 0x10200, 0x20100, 0x101, 0x10001, 0x30200])
def test_a_size_that_reads_either_way_is_decided_by_the_body(layout: str, size: int) -> None:
    """0x100 is 65,536 in the other byte order: a message in 256 is of that kind."""
    images = [(7, packed(size)), (7, packed(64)), (8, packed(256))]
    sent = b"".join(message(layout, *image) for image in images)
    for step in (len(sent), 1_448, 4_096):
        messages = TcpMessages(MAX_BYTES)
        came = [image for at in range(0, len(sent), step) for image in feed(messages, sent[at : at + step])]
        assert came == images, step


@pytest.mark.parametrize("layout", ["<B3xI", ">B3xI"])
@pytest.mark.parametrize("padding", [b"\xff\xff\xff", b"\x1f\x8b\x08", b"abc", b"\0\x1f\x8b"])
def test_padding_may_hold_anything(layout: str, padding: bytes) -> None:
    sent = b"".join(message(layout, 3, packed(size), padding) for size in (100, 60))
    assert feed(TcpMessages(MAX_BYTES), sent) == [(3, packed(100)), (3, packed(60))]


def test_a_size_that_looks_like_gzip_is_a_size() -> None:
    """In a padded head of big-endian, 00 1f 8b 08 bytes: 2,067,208. And gzip seems to begin at byte 5 too."""
    size = 0x001F8B08
    image = packed(size)
    messages = TcpMessages(3_000_000)
    assert feed(messages, message(">B3xI", 1, image) + message(">B3xI", 1, packed(60))) == [
        (1, image),
        (1, packed(60)),
    ]


@layouts
def test_what_is_gzip_in_no_layout_is_malformed(layout: str) -> None:
    for image in (b"BM" + bytes(100), bytes(100), b"\x1f\x8b\x07" + bytes(100), b"\x1f\x8c\x08" + bytes(100)):
        with pytest.raises(MalformedMessage, match="expected a number, a size and gzip"):
            feed(TcpMessages(MAX_BYTES), message(layout, 1, image))


@layouts
def test_of_a_damaged_first_image_nothing_more_is_waited_for(layout: str) -> None:
    damaged = bytearray(packed(256))
    damaged[-8] ^= 1  # its checksum
    sent = message(layout, 1, bytes(damaged))
    with pytest.raises(MalformedMessage, match="not_an_image"):
        feed(TcpMessages(MAX_BYTES), sent)
    with pytest.raises(MalformedMessage, match="not_an_image"):  # bytes behind the gzip data
        feed(TcpMessages(MAX_BYTES), message(layout, 1, packed(250) + b"behind"))


@layouts
def test_a_first_image_without_its_end_is_malformed_when_no_size_fits(layout: str) -> None:
    messages = TcpMessages(MAX_BYTES)
    with pytest.raises(MalformedMessage, match="truncated"):
        feed(messages, message(layout, 1, packed(1_000)[:-1]) + bytes(MAX_BYTES))


# -- sizes


@layouts
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFF01, 203_225])
def test_a_size_that_no_image_has_is_malformed_as_soon_as_it_is_there(layout: str, size: int) -> None:
    head = struct.pack(layout, 1, size)
    messages = TcpMessages(MAX_BYTES)
    with pytest.raises(MalformedMessage, match=f"{size}.*expected 1 to 201224"):
        feed(messages, head + packed(50)[:6])
    messages = TcpMessages(MAX_BYTES)
    feed(messages, message(layout, 1, packed(100)))
    with pytest.raises(MalformedMessage, match=f"{size} bytes, expected 1 to 201224"):
        feed(messages, head)


@pytest.mark.parametrize("level", range(10))
def test_an_image_of_the_largest_size_fits_at_every_level(level: int) -> None:
    image = random.Random(1).randbytes(MAX_BYTES)  # which gzip can only make larger
    body = gzip.compress(image, level)
    assert len(body) > MAX_BYTES
    assert feed(TcpMessages(MAX_BYTES), message(">BI", 1, body)) == [(1, body)]


def test_an_announced_body_takes_no_memory_before_it_comes() -> None:
    sent = struct.pack("!BI", 1, 0x10203040) + packed(1_000)
    tracemalloc.start()
    try:
        messages = TcpMessages(1 << 30)
        messages.receive(sent)
        assert messages.head() == Head(1, 0x10203040)
        assert messages.missing == 0x10203040 - 1_000
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


# -- what is there


@layouts
def test_it_tells_what_is_missing_and_held(layout: str) -> None:
    head = struct.calcsize(layout)
    messages = TcpMessages(MAX_BYTES)
    assert (messages.begun, messages.missing, messages.held) == (False, 11, 0)
    feed(messages, message(layout, 1, packed(99))[:6])
    assert (messages.begun, messages.missing, messages.held) == (True, 5, 6)
    feed(messages, message(layout, 1, packed(99))[6:30])
    assert (messages.begun, messages.missing, messages.held) == (True, head + 99 - 30, 30)
    feed(messages, message(layout, 1, packed(99))[30:])
    assert (messages.begun, messages.missing, messages.held) == (False, head, 0), "the layout is known"
    feed(messages, message(layout, 1, packed(99))[:2])
    assert (messages.begun, messages.missing, messages.held) == (True, head - 2, 2)


@layouts
def test_a_message_may_be_passed_over(layout: str) -> None:
    sent = message(layout, 1, packed(50)) + message(layout, 2, bytes(70_000)) + message(layout, 1, packed(60))
    expected = [(1, packed(50)), (1, packed(60))]
    for step in (1, 7, 1_448, 65_536, len(sent)):
        messages = TcpMessages(MAX_BYTES)
        pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
        assert [image for piece in pieces for image in feed(messages, piece, frozenset({2}))] == expected, step


def test_a_message_that_is_passed_over_has_begun_until_its_end() -> None:
    messages = TcpMessages(MAX_BYTES)
    feed(messages, message("!BI", 1, packed(50)) + message("!BI", 2, bytes(1_000))[:10], frozenset({2}))
    assert (messages.begun, messages.missing, messages.held, messages.skipping) == (True, 995, 0, 995)
    feed(messages, bytes(994), frozenset({2}))
    assert (messages.begun, messages.missing) == (True, 1)
    feed(messages, bytes(1), frozenset({2}))
    assert (messages.begun, messages.missing) == (False, 5)


def test_everything_can_be_let_go_while_a_body_is_looked_at() -> None:
    messages = TcpMessages(MAX_BYTES)
    messages.receive(message("!BI", 1, packed(5_000)))
    messages.head()
    body = messages.body()
    assert body is not None
    messages.forget()
    assert (messages.held, messages.begun, messages.body()) == (0, False, None)
    assert bytes(body) == packed(5_000)
