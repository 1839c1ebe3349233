"""HTTP answers, without sockets: as cameras give them, in every chunking."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkings import chunkings
from ingest.pull.answer import MAX_CHUNKS_AT_ONCE, MAX_HEAD_BYTES, Answer, Malformed

PICTURE = b"\xff\xd8 picture \r\n\r\n 0\r\n\r\n \xff\xd9"
LENGTH = b"Content-Length: %d\r\n" % len(PICTURE)


def receive(pieces: list[bytes]) -> tuple[Answer, bytes]:
    answer = Answer()
    return answer, b"".join(answer.receive_data(piece) for piece in pieces)


# What comes, and the status, the body, whether it ended, and whether the connection may be used again.
ANSWERS = {
    "a length": (b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + PICTURE, 200, PICTURE, True, True),
    "lines that end with LF": (
        b"HTTP/1.1 200 OK\nContent-Length: 4\nConnection: keep-alive\n\nabcd", 200, b"abcd", True, True,
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", True, True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True, False),
    "HTTP/1.0 that is kept": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True, True,
    ),
    "a connection that will be closed": (
        b"HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True, False,
    ),
    "a length twice": (b"HTTP/1.1 200 OK\r\n" + LENGTH * 2 + b"\r\n" + PICTURE, 200, PICTURE, True, True),
    "more than its length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabX", 200, b"ab", True, False),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab\r\n\r\n00c;a=b\r\n0123456789ab\r\n0\r\n\r\n",
        200, b"ab\r\n0123456789ab", True, True,
    ),
    "chunks whose lines end with LF, and trailers": (
        b"HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n1 \nx\n0\nA: b\nC: d\n\n", 200, b"x", True, True,
    ),
    "chunks and more": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nX", 200, b"x", True, False,
    ),
    "chunks and a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        200, b"x", True, True,
    ),
    "chunks that are not at their end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", 200, b"abc", False, False,
    ),
    "neither length nor chunks": (b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE, 200, PICTURE, False, False),
    "100 Continue before it": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        200, b"x", True, True,
    ),
    "no content, whatever it says": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b"", True, True,
    ),
    "headers that are none, and headers of ConvergeCast": (
        b"HTTP/1.1 200 OK\r\nContent-Enconded: b\r\nContent-Encoding: b\r\nContent: B\r\nno header\r\n : x\r\n"
        b"\tfolded\r\nContent-Length : 1\r\nX: \x00\x80\r\n\r\nx",
        200, b"x", True, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_in_every_chunking(name: str) -> None:
    data, status, body, ended, can_be_followed = ANSWERS[name]
    for pieces in chunkings(data):
        answer, received = receive(pieces)
        assert answer.head is not None
        assert (answer.head.status, received, answer.ended) == (status, body, ended), pieces
        assert answer.can_be_followed == can_be_followed, pieces


def test_an_answer_without_length_ends_with_the_connection_and_others_do_not() -> None:
    answer, _ = receive([b"HTTP/1.1 200 OK\r\n\r\nabc"])
    answer.receive_eof()
    assert answer.ended
    for begun in (
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ):
        answer, _ = receive([begun])
        answer.receive_eof()
        assert not answer.ended, begun


def test_headers_are_read_by_their_names_in_lower_case_and_joined() -> None:
    answer, _ = receive([b"HTTP/1.1 401 no\r\nWWW-Authenticate: Basic\r\nwww-authenticate:\tDigest  \r\nA:b:c\r\n\r\n"])
    assert answer.head is not None
    assert answer.head.headers == {"www-authenticate": "Basic, Digest", "a": "b:c"}


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

# What comes, and a word of what is said of it.
NONE_OF_HTTP = {
    "another protocol": (b"RTSP/1.0 200 OK\r\n\r\n", "expected an answer in HTTP/1"),
    "a picture at once": (b"\xff\xd8\xff", "expected an answer in HTTP/1"),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "expected an answer in HTTP/1"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "expected an answer in HTTP/1"),
    "a status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "expected an answer in HTTP/1"),
    "an endless header": (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES, "a head of more than 16384 bytes"),
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 3_000, "a head of more than 16384 bytes"),
    "a head that is too long": (
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", "a head of more than 16384 bytes",
    ),
    "endless heads": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, "a head of more than 16384 bytes"),
    "two lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length that is not 1",
    ),
    "a negative length": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
    "an endless length": (b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 15 + b"\r\n\r\n", "Content-Length"),
    "a length in other digits": ("HTTP/1.1 200 OK\r\nContent-Length: ¹\r\n\r\n".encode("latin-1"), "Content-Length"),
    "an unknown coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding"),
    "a chunk of no size": (CHUNKED + b"x\r\n", "a chunk whose size is no hexadecimal number"),
    "a chunk of a negative size": (CHUNKED + b"-1\r\n", "a chunk whose size is no hexadecimal number"),
    "a chunk with an endless size": (CHUNKED + b"1" * 300, "a chunk whose first line does not end"),
    "a chunk longer than its size": (CHUNKED + b"1\r\nxx\r\n", "a chunk that is longer than its size"),
    "endless trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 3_000, "more than 16384 bytes after the last chunk"),
    "one endless trailer": (CHUNKED + b"0\r\nA: " + b"b" * 20_000, "a chunk whose first line does not end"),
    "tiny chunks": (CHUNKED + b"1\r\nx\r\n" * 10_000, "chunks of less than 60 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE_OF_HTTP)
def test_what_is_no_answer_is_refused_with_its_reason(name: str) -> None:
    data, said = NONE_OF_HTTP[name]
    with pytest.raises(Malformed, match=said):
        receive([data])


def test_a_head_of_the_largest_size_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nA: "
    answer, body = receive([head + b"x" * (MAX_HEAD_BYTES - len(head) - 4) + b"\r\n\r\ny"])
    assert (answer.ended, body) == (True, b"y")


def test_as_many_chunks_as_may_come_at_once_are_read() -> None:
    _, body = receive([CHUNKED, b"1\r\nx\r\n" * MAX_CHUNKS_AT_ONCE, b"1\r\nx\r\n" * MAX_CHUNKS_AT_ONCE])
    assert body == b"x" * 2 * MAX_CHUNKS_AT_ONCE


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"HTTP/1.1 200 OK\r\n", b"\r\n", b"\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
                 b"3\r\nabc\r\n", b"0\r\n", b"HTTP/1.0 100 x\r\n\r\n", b":", b";"]
            ),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_whatever_comes_is_an_answer_or_malformed_in_every_chunking(pieces: list[bytes]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            answer, body = receive(pieces)
        except Malformed:
            return "malformed"
        return answer.head, body, answer.ended, answer.can_be_followed

    whole = b"".join(pieces)
    for cut in ([whole], [whole[at : at + 1] for at in range(len(whole))]):
        assert outcome(cut) == outcome(pieces)


def test_a_head_that_comes_byte_by_byte_costs_no_more_than_its_bytes() -> None:
    data = b"HTTP/1.1 200 OK\r\nA: " + b"x" * (MAX_HEAD_BYTES - 40)
    began = time.process_time()
    receive([data[at : at + 1] for at in range(len(data))])
    assert time.process_time() - began < 0.5  # 16,000 receives; 20 ms
