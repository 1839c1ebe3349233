"""A request's body comes out as it went in, however it is cut on the way, and leaves what follows it alone."""

import io
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http1 import body
from http1.body import SMALL_BODY_BYTES, BadBody, Body, Gone, Wire

NEXT = b"GET / HTTP/1.1\r\n"


class Pieces:
    """A socket whose bytes come in these pieces, and then end."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        ends = [*sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
        self.pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces[0][:size]
        self.pieces[0] = self.pieces[0][size:]
        if not self.pieces[0]:
            self.pieces.pop(0)
        return piece


def wire(data: bytes, cuts: list[int] | None = None) -> Wire:
    sock: Any = Pieces(data, cuts or [])
    return Wire(sock)


def rest(wire: Wire) -> bytes:
    """What is left on the wire."""
    left = bytes(wire.received)
    while piece := wire.socket.recv(65536):
        left += piece
    return left


def chunked(data: bytes, sizes: list[int]) -> bytes:
    out, position = b"", 0
    while position < len(data):
        size = sizes[position % len(sizes)] if sizes else len(data)
        part = data[position : position + size]
        out += b"%x\r\n%b\r\n" % (len(part), part)
        position += size
    return out + b"0\r\n\r\n"


bodies = st.binary(max_size=300).map(lambda data: data.replace(b"a", b"\n"))
cuts = st.lists(st.integers(1, 600), max_size=8)
sizes = st.lists(st.integers(1, 80), max_size=4)


@given(bodies, cuts, st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_a_body_of_some_length_is_read_in_parts(data: bytes, cuts: list[int], wanted: list[int]) -> None:
    on = wire(data + NEXT, cuts)
    body, expected = Body(on, len(data), False), io.BytesIO(data)
    for size in wanted:
        assert body.read(size) == expected.read(size)
    assert body.read() == expected.read()
    assert body.read(1) == b""
    assert body.all_read
    assert rest(on) == NEXT


@given(bodies, cuts, sizes, st.booleans())
def test_a_body_in_chunks_is_the_same(data: bytes, cuts: list[int], sizes: list[int], ahead: bool) -> None:
    on = wire(chunked(data, sizes) + NEXT, cuts)
    body = Body(on, None, False)
    if ahead:
        body.read_ahead()
    assert body.read(7) + body.read() == data
    assert body.all_read
    assert rest(on) == NEXT


@given(bodies, cuts, sizes)
def test_lines_are_as_in_any_file(data: bytes, cuts: list[int], sizes: list[int]) -> None:
    for coded, length in ((data, len(data)), (chunked(data, sizes), None)):
        assert list(Body(wire(coded, cuts), length, False)) == list(io.BytesIO(data))
        assert Body(wire(coded, cuts), length, False).readlines() == io.BytesIO(data).readlines()
        assert Body(wire(coded, cuts), length, False).readlines(20) == io.BytesIO(data).readlines(20)
        short, expected = Body(wire(coded, cuts), length, False), io.BytesIO(data)
        for _ in range(20):
            assert short.readline(5) == expected.readline(5)


@given(bodies, cuts, sizes)
def test_what_was_not_read_is_skipped(data: bytes, cuts: list[int], sizes: list[int]) -> None:
    for coded, length in ((data, len(data)), (chunked(data, sizes), None)):
        on = wire(coded + NEXT, cuts)
        body = Body(on, length, False)
        body.read(3)
        body.skip()
        assert body.all_read
        assert rest(on) == NEXT


@pytest.mark.parametrize("coded", [b"5\r\nhel", b"5", b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b""])
def test_chunks_that_end_too_early_are_no_body(coded: bytes) -> None:
    body = Body(wire(coded), None, False)
    with pytest.raises(BadBody):
        body.read()
    assert body.failed
    assert not body.can_be_skipped


def test_a_body_that_ends_too_early_is_none() -> None:
    with pytest.raises(BadBody, match="2 bytes too early"):
        Body(wire(b"hel"), 5, False).read()


def test_only_the_beginning_of_a_large_chunked_body_is_read_ahead() -> None:
    on = wire(chunked(bytes(3 * SMALL_BODY_BYTES), [SMALL_BODY_BYTES]))
    body = Body(on, None, False)
    body.read_ahead()
    assert not body.can_be_skipped
    assert len(rest(on)) > SMALL_BODY_BYTES


def test_others_have_their_turn_between_many_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    monkeypatch.setattr(body, "sleep", turns.append)
    on = wire(b"1\r\na\r\n" * 5_500 + b"0\r\n\r\n")
    assert Body(on, None, False).read() == b"a" * 5_500
    assert len(turns) >= 5_500 // body.CHUNKS_PER_TURN


def test_nobody_is_told_to_go_on_before_somebody_reads() -> None:
    server, client = socket.socketpair()
    with server, client:
        client.setblocking(False)
        body = Body(Wire(server), 5, True)
        with pytest.raises(BlockingIOError):
            client.recv(100)
        client.send(b"hello")
        assert body.read() == b"hello"
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_client_that_has_gone_is_nobodys_error() -> None:
    server, client = socket.socketpair()
    with server:
        client.close()
        with pytest.raises(Gone):
            Wire(server).send(b"x" * 1_000_000)
