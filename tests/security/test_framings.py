"""Requests that a proxy and a server might cut in two different ways are answered by a 400 and the connection's end.

Each is followed by a second request, which an attacker would like to have taken for somebody else's.
"""

import socket
import time
from collections.abc import Iterator
from typing import Final

import pytest

from probe import probing
from running import RunningServer, running_server

SECOND: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
#: One that reads its body, and one that does not.
PATHS: Final = (b"/api/v1/token", b"/healthz")


def _post(*lines: bytes, body: bytes = b"hello") -> bytes:
    return b"\r\n".join((b"POST %b HTTP/1.1", b"Host: x", *lines, b"", b"")) + body


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", body=body)


AMBIGUOUS: Final = {
    # lengths
    "two equal lengths": _post(b"Content-Length: 5", b"Content-Length: 5"),
    "two different lengths": _post(b"Content-Length: 5", b"Content-Length: 0"),
    "a list of lengths": _post(b"Content-Length: 5, 5"),
    "a length with a sign": _post(b"Content-Length: +5"),
    "a negative length": _post(b"Content-Length: -5"),
    "a hexadecimal length": _post(b"Content-Length: 0x5"),
    "a length with an underscore": _post(b"Content-Length: 0_5"),
    "a length that is no number": _post(b"Content-Length: five"),
    "an empty length": _post(b"Content-Length:"),
    "a length of other digits": _post(b"Content-Length: \xb2"),
    "an endless length": _post(b"Content-Length: " + b"9" * 30),
    # codings
    "a length and chunks": _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and a length": _post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "chunks twice": _post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks in a list": _post(b"Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n"),
    "another coding": _post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    "a coding that looks like chunked": _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunks after a vertical tab": _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "a coding on a continued line": _post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": _chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    # lines
    "a space before the colon": _post(b"Content-Length : 5"),
    "a tab before the colon": _post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "a space before the name": _post(b"X: a", b" Content-Length: 5"),
    "bare LF": _post(b"Content-Length: 5").replace(b"\r\n", b"\n"),
    "bare LF after a header": _post(b"X: a\nContent-Length: 5"),
    "bare CR in a header": _post(b"X: a\rContent-Length: 5"),
    "LF at the end of the head": _post(b"Content-Length: 5").replace(b"\r\n\r\n", b"\r\n\n"),
    "a NUL in a header": _post(b"X: a\0b", b"Content-Length: 5"),
    "a header without a colon": _post(b"Content-Length 5"),
    "a header without a name": _post(b": 5"),
    "two hosts": _post(b"Host: y", b"Content-Length: 5"),
    "no host": _post(b"Content-Length: 5").replace(b"Host: x\r\n", b""),
    "a request line with two spaces": _post(b"Content-Length: 5").replace(b"POST ", b"POST  "),
    "a request line without a version": _post(b"Content-Length: 5").replace(b" HTTP/1.1", b""),
    # chunks
    "a chunk size with 0x": _chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size with a sign": _chunked(b"+5\r\nhello\r\n0\r\n\r\n"),
    "a negative chunk size": _chunked(b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size with an underscore": _chunked(b"0_5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size after a space": _chunked(b" 5\r\nhello\r\n0\r\n\r\n"),
    "a chunk size before a space": _chunked(b"5 \r\nhello\r\n0\r\n\r\n"),
    "a chunk size with an extension": _chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n"),
    "an empty chunk size": _chunked(b"\r\nhello\r\n0\r\n\r\n"),
    "an endless chunk size": _chunked(b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n"),
    "a chunk size that ends with LF": _chunked(b"5\nhello\r\n0\r\n\r\n"),
    "a chunk that is longer than its size": _chunked(b"4\r\nhello\r\n0\r\n\r\n"),
    "a chunk that ends with LF": _chunked(b"5\r\nhello\n0\r\n\r\n"),
    "a second chunk with a wrong size": _chunked(b"5\r\nhello\r\n5x\r\nhello\r\n0\r\n\r\n"),
    "trailers": _chunked(b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "an end with LF": _chunked(b"5\r\nhello\r\n0\r\n\n"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


def talk(port: int, data: bytes) -> bytes:
    """Everything that the server says until it ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(data)
        said = b""
        while piece := client.recv(65536):
            said += piece
        return said


@pytest.mark.parametrize("path", PATHS, ids=bytes.decode)
@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_follows_it(
    server: RunningServer, request_: bytes, path: bytes
) -> None:
    said = talk(server.port, request_.replace(b"%b", path) + SECOND)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert said.count(b"HTTP/1.") == 1, said
    assert b"Traceback" not in said
    assert b".py" not in said


def test_they_harm_nobody_and_are_said_once_a_second() -> None:
    with running_server("-a") as server:
        began = time.monotonic()
        with probing(server.port) as probe:
            for _ in range(20):
                for request in AMBIGUOUS.values():
                    talk(server.port, request.replace(b"%b", PATHS[0]) + SECOND)
            took_sec = time.monotonic() - began
            figures = probe.stop()
        assert figures.kept == 1
        token = server.token("Alice", "123")
        assert f"imageserver_bad_requests_total {20 * len(AMBIGUOUS)}.0" in server.get("/metrics", token)
        said = sum("a request was not taken" in line for line in server.log)
        assert 1 <= said <= 1 + took_sec


def test_what_is_clear_is_taken_and_so_is_what_follows_it(server: RunningServer) -> None:
    login = b'{"username":"Alice","password":"123"}'
    for request in (
        _post(b"Content-Type: application/json", b"Content-Length: %d" % len(login), body=login),
        _post(b"Content-Type: application/json", b"Content-Length: 0%d \t" % len(login), body=login),
        _post(
            b"Content-Type: application/json", b"transfer-encoding:chunked",
            body=b"5\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (login[:5], len(login) - 5, login[5:]),
        ),
    ):  # fmt: skip
        said = talk(server.port, request.replace(b"%b", PATHS[0], 1) + SECOND.replace(b"1.1", b"1.0"))
        assert said.count(b"HTTP/1.1 200 ") == 2, said
