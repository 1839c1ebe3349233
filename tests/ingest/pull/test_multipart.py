"""MJPEG answers, without sockets: as cameras give them, in every chunking."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkings import chunkings
from frames import InvalidFrame
from ingest.pull.answer import Malformed
from ingest.pull.multipart import (
    MAX_PART_HEADERS_BYTES,
    MAX_PARTS_AT_ONCE,
    MAX_PREAMBLE_BYTES,
    Multipart,
    boundary_of,
)

ONE, TWO = b"\xff\xd8 one \r\n--fram\r\n\n --\xff\xd9", b"\xff\xd8 two \r\n--frames\xff\xd9"
IMAGE = b"Content-Type: image/jpeg\r\n"


def counted(image: bytes) -> bytes:
    return IMAGE + b"Content-Length: %d\r\n\r\n" % len(image) + image


def parts_of(boundary: bytes, pieces: list[bytes], max_bytes: int = 1_000) -> tuple[list[bytes], Multipart]:
    multipart = Multipart(boundary, max_bytes)
    parts = []
    for piece in pieces:
        multipart.receive_data(piece)
        while (part := multipart.next_part()) is not None:
            parts.append(part)
    return parts, multipart


# The boundary that the header names, what comes, and whether it has come to its end; it is always ONE and TWO.
STREAMS = {
    "as in the book": (
        b"frame", b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n--frame--\r\n", True,
    ),
    "an end of line first": (
        b"frame", b"\r\n--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n--frame--", True,
    ),
    "no lengths": (
        b"frame",
        b"--frame\r\n" + IMAGE + b"\r\n" + ONE + b"\r\n--frame\r\n" + IMAGE + b"\r\n" + TWO + b"\r\n--frame--", True,
    ),
    "no headers": (
        b"frame", b"--frame\r\n\r\n" + ONE + b"\r\n--frame\r\n\r\n" + TWO + b"\r\n--frame--", True,
    ),
    "lines that end with LF, no lengths": (
        b"frame", b"--frame\nContent-Type: image/jpeg\n\n" + ONE + b"\n--frame\n\n" + TWO + b"\n--frame--\n", True,
    ),
    "lines that end with LF": (
        b"frame",
        b"--frame\nContent-Length: %d\n\n" % len(ONE) + ONE + b"\n--frame\ncontent-length:%d\n\n" % len(TWO) + TWO,
        False,
    ),
    "dashes in the header as well": (
        b"--frame", b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n--frame--", True,
    ),
    "four dashes": (
        b"--frame", b"----frame\r\n" + counted(ONE) + b"\r\n----frame\r\n" + counted(TWO) + b"\r\n----frame--", True,
    ),
    "no dashes": (
        b"frame", b"frame\r\n" + counted(ONE) + b"\r\nframe\r\n" + counted(TWO) + b"\r\nframe--", True,
    ),
    "no dashes, dashes in the header": (
        b"--frame", b"frame\r\n" + counted(ONE) + b"\r\nframe\r\n" + counted(TWO), False,
    ),
    "another boundary than the header's": (
        b"other", b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n", False,
    ),
    "none in the header": (b"", b"--frame\r\n" + counted(ONE) + b"--frame\r\n" + counted(TWO), False),
    "no end of line after a part": (
        b"frame", b"--frame\r\n" + counted(ONE) + b"--frame\r\n" + counted(TWO) + b"--frame--", True,
    ),
    "spaces after the boundary": (
        b"frame", b"--frame  \r\n" + counted(ONE) + b"\r\n--frame \t\r\n" + counted(TWO) + b"\r\n--frame\r\n", False,
    ),
    "a greeting before the first boundary": (
        b"frame", b"hello\r\n\r\n" + b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO), False,
    ),
    "text between the images": (
        b"frame",
        b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\nContent-Type: text/plain\r\n\r\nmotion\r\n--frame\r\n"
        b"Content-Length: 6\r\ncontent-type:text/xml\r\n\r\nmotion\r\n--frame\r\n" + counted(TWO), False,
    ),
    "empty parts": (
        b"frame",
        b"--frame\r\n\r\n--frame\r\n\r\n\r\n--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(b"")
        + b"\r\n--frame\r\n" + counted(TWO), False,
    ),
    "a length that is too short": (
        b"frame",
        b"--frame\r\n" + counted(ONE) + b"and more" * 50 + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n--frame--", True,
    ),
    "more after the end": (
        b"frame",
        b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO) + b"\r\n--frame--\r\n--frame\r\n\r\nx",
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_the_parts_are_the_same_in_every_chunking(name: str) -> None:
    boundary, data, ended = STREAMS[name]
    for pieces in chunkings(data):
        parts, multipart = parts_of(boundary, pieces)
        assert parts == [ONE, TWO], pieces
        assert multipart.ended == ended


def test_a_counted_part_is_there_with_its_last_byte() -> None:
    data = b"--frame\r\n" + counted(ONE)
    parts, multipart = parts_of(b"frame", [data[:-1]])
    assert parts == []
    assert multipart.unfinished_bytes == len(ONE) - 1
    multipart.receive_data(data[-1:])
    assert (multipart.next_part(), multipart.next_part()) == (ONE, None)
    assert multipart.unfinished_bytes == 0


# What came before the end of the answer, the parts in it, and whether they were whole.
ENDS = {
    "nothing": (b"", [], True),
    "after a part": (b"--frame\r\n" + counted(ONE) + b"\r\n", [ONE], True),
    "in a boundary": (b"--frame\r\n" + counted(ONE) + b"\r\n--fra", [ONE], True),
    "after a boundary": (b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n", [ONE], True),
    "after the last boundary": (b"--frame\r\n" + counted(ONE) + b"\r\n--frame--", [ONE], True),
    "in the first boundary": (b"--fra", [], False),
    "in headers": (b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\nContent-", [ONE], False),
    "in a counted part": (b"--frame\r\n" + counted(ONE) + b"\r\n--frame\r\n" + counted(TWO)[:-1], [ONE], False),
    "in a part without length, whose end it is": (b"--frame\r\n\r\n" + ONE, [ONE], True),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_ends_between_parts_or_within_one(name: str) -> None:
    data, expected, whole = ENDS[name]
    parts, multipart = parts_of(b"frame", [data])
    assert multipart.receive_eof() == whole
    assert multipart.ended == whole
    part = multipart.next_part()
    assert [*parts, *([part] if part else [])] == expected


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"x" * (MAX_PREAMBLE_BYTES + 1), "no boundary in the first 4096 bytes"),
        (b"x\r\n" * MAX_PREAMBLE_BYTES, "no boundary in the first 4096 bytes"),
        (b"--" + b"x" * 300 + b"\r\n" * MAX_PREAMBLE_BYTES, "no boundary in the first 4096 bytes"),
        (b"--frame\r\nA: " + b"x" * MAX_PART_HEADERS_BYTES, "more than 8192 bytes of headers"),
        (b"--frame\r\n" + b"A: b\r\n" * 2_000 + b"\r\n", "more than 8192 bytes of headers"),
        (b"--frame\r\n" + b"\r\n--frame\r\n" * (MAX_PARTS_AT_ONCE + 2), "more than 1000 parts in"),
        (b"--frame\r\n" + (counted(b"x") + b"--frame\r\n") * (MAX_PARTS_AT_ONCE + 1), "more than 1000 parts in"),
    ],
)
def test_what_are_no_parts_is_refused_with_its_reason(data: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        parts_of(b"frame", [data])


@pytest.mark.parametrize(
    "data",
    [
        b"--frame\r\nContent-Length: 1001\r\n\r\n",
        b"--frame\r\nContent-Length: 999999999999999\r\n\r\n",
        b"--frame\r\n\r\n" + b"x" * 1_100,
        b"--frame\r\n\r\n" + b"x" * 1_001 + b"\r\n--frame\r\n",
    ],
)
def test_a_part_that_is_too_long_is_an_invalid_frame(data: bytes) -> None:
    with pytest.raises(InvalidFrame, match="at most 1000 are taken") as raised:
        parts_of(b"frame", [data])
    assert raised.value.code == "too_many_bytes"


def test_a_part_of_the_largest_size_is_taken() -> None:
    image = b"x" * 1_000
    for data in (b"--frame\r\n" + counted(image), b"--frame\r\n\r\n" + image + b"\r\n--frame\r\n"):
        assert parts_of(b"frame", [data])[0] == [image]


def test_a_boundary_in_the_middle_of_a_line_is_none() -> None:
    for pieces in chunkings(b"--frame\r\n" + counted(ONE) + b" --frame--\r\n--frame\r\n" + counted(TWO)):
        parts, multipart = parts_of(b"frame", pieces)
        assert (parts, multipart.ended) == ([ONE, TWO], False), pieces


def test_what_is_skipped_before_a_boundary_is_not_kept() -> None:
    _, multipart = parts_of(b"frame", [b"--frame\r\n" + counted(ONE), *[b"x" * 1_000] * 1_000])
    assert multipart.unfinished_bytes < 100


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/x-mixed-replace; boundary=frame", b"frame"),
        ("multipart/x-mixed-replace;boundary=--frame", b"--frame"),
        ('Multipart/X-Mixed-Replace; charset=utf-8; Boundary="a b"; more=1', b"a b"),
        ("multipart/mixed ;boundary = frame;", b"frame"),
        ("multipart/x-mixed-replace", b""),
        ("multipart/x-mixed-replace; boundary=", b""),
        ("image/jpeg", None),
        ("", None),
    ],
)
def test_the_boundary_stands_in_the_content_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"--frame", b"\r\n", b"\n", b"\r", b"--", b"Content-Length:3\n", b"\n\r\nabc", b"Content-Type: text/"]
            ),
        ),
        max_size=16,
    )
)  # fmt: skip
def test_whatever_comes_is_parts_or_malformed_in_every_chunking(pieces: list[bytes]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            parts, multipart = parts_of(b"frame", [b"--frame\r\n", *pieces], max_bytes=20)
        except (Malformed, InvalidFrame):
            return "refused"
        return parts, multipart.ended

    whole = b"".join(pieces)
    single = outcome([whole[at : at + 1] for at in range(len(whole))])
    assert outcome([whole]) == single
    assert outcome(pieces) == single


def test_a_long_part_that_comes_in_small_pieces_costs_no_more_than_its_bytes() -> None:
    data = b"--frame\r\n\r\n" + b"\r\n--fram" * 250_000 + b"\r\n--frame\r\n"
    began = time.process_time()
    parts, _ = parts_of(b"frame", [data[at : at + 1_000] for at in range(0, len(data), 1_000)], max_bytes=len(data))
    assert time.process_time() - began < 0.5  # 20 ms
    assert len(parts[0]) == 2_000_000
