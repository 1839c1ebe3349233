"""Requests that a proxy and a server might cut in two different ways, and what is said to somebody who sends them."""

import socket
from typing import Final

SECOND: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
#: One that reads its body, and one that does not.
PATHS: Final = (b"/api/v1/token", b"/healthz")


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    return b"\r\n".join((b"POST %b HTTP/1.1", b"Host: x", *lines, b"", b"")) + body


def _chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


AMBIGUOUS: Final = {
    # lengths
    "two equal lengths": post(b"Content-Length: 5", b"Content-Length: 5"),
    "two different lengths": post(b"Content-Length: 5", b"Content-Length: 0"),
    "a list of lengths": post(b"Content-Length: 5, 5"),
    "a length with a sign": post(b"Content-Length: +5"),
    "a negative length": post(b"Content-Length: -5"),
    "a hexadecimal length": post(b"Content-Length: 0x5"),
    "a length with an underscore": post(b"Content-Length: 0_5"),
    "a length that is no number": post(b"Content-Length: five"),
    "an empty length": post(b"Content-Length:"),
    "a length of other digits": post(b"Content-Length: \xb2"),
    "an endless length": post(b"Content-Length: " + b"9" * 30),
    # codings
    "a length and chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and a length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "chunks twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks in a list": post(b"Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n"),
    "another coding": post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"),
    "a coding that looks like chunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunks after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "a coding on a continued line": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": _chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    # lines
    "a space before the colon": post(b"Content-Length : 5"),
    "a tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "a space before the name": post(b"X: a", b" Content-Length: 5"),
    "bare LF": post(b"Content-Length: 5").replace(b"\r\n", b"\n"),
    "bare LF after a header": post(b"X: a\nContent-Length: 5"),
    "bare CR in a header": post(b"X: a\rContent-Length: 5"),
    "LF at the end of the head": post(b"Content-Length: 5").replace(b"\r\n\r\n", b"\r\n\n"),
    "a NUL in a header": post(b"X: a\0b", b"Content-Length: 5"),
    "a header without a colon": post(b"Content-Length 5"),
    "a header without a name": post(b": 5"),
    "two hosts": post(b"Host: y", b"Content-Length: 5"),
    "no host": post(b"Content-Length: 5").replace(b"Host: x\r\n", b""),
    "a request line with two spaces": post(b"Content-Length: 5").replace(b"POST ", b"POST  "),
    "a request line without a version": post(b"Content-Length: 5").replace(b" HTTP/1.1", b""),
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


def talk(port: int, data: bytes) -> bytes:
    """Everything that the server says until it ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(data)
        said = b""
        while piece := client.recv(65536):
            said += piece
        return said
