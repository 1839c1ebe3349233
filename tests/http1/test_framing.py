"""Heads of requests and sizes of chunks: what is read, and what is not."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from http1.framing import (
    MAX_CHUNK_DIGITS,
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_LENGTH_DIGITS,
    MAX_URL_BYTES,
    BadRequest,
    Head,
    chunk_size,
    find_head,
    read_head,
)


def head(first: str = "GET / HTTP/1.1", *headers: str, host: str | None = "a") -> bytes:
    lines = [first, *([f"Host: {host}"] if host is not None else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def read(data: bytes) -> Head:
    assert find_head(data) == len(data)
    return read_head(data)


def refused(data: bytes) -> str:
    with pytest.raises(BadRequest) as refusal:
        read(data)
    return refusal.value.status[:3]


def test_a_head_is_method_target_version_and_headers() -> None:
    got = read(head("POST /a/b?c=d%20e&f HTTP/1.1", "X-One: 1", "x-two:2 ", "X-Empty:", "Content-Length: 7"))
    assert got == Head(
        "POST",
        "/a/b?c=d%20e&f",
        "HTTP/1.1",
        {"host": "a", "x-one": "1", "x-two": "2", "x-empty": "", "content-length": "7"},
        7,
    )


def test_headers_that_come_twice_are_joined() -> None:
    got = read(head("GET / HTTP/1.1", "Accept: a", "Cookie: b=1", "Accept: c", "Cookie: d=2"))
    assert got.headers == {"host": "a", "accept": "a,c", "cookie": "b=1; d=2"}


def test_a_chunked_body_has_no_length() -> None:
    assert read(head("POST / HTTP/1.1", "Transfer-Encoding: chunked")).body_length is None
    assert read(head("GET / HTTP/1.1")).body_length == 0


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("HTTP/1.1", None, True),
        ("HTTP/1.1", "close", False),
        ("HTTP/1.1", "Upgrade, CLOSE", False),
        ("HTTP/1.1", "keep-alive", True),
        ("HTTP/1.0", None, False),
        ("HTTP/1.0", "Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_as_the_client_says(version: str, connection: str | None, kept: bool) -> None:
    headers = [f"Connection: {connection}"] if connection else []
    assert read(head(f"GET / {version}", *headers)).keep_alive is kept


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://a/b?c", "/b?c"), ("HTTP://A", "/"), ("https://a?c", "/?c"), ("//a/b", "//a/b")],
)
def test_an_absolute_address_is_taken_for_its_path(target: str, path: str) -> None:
    assert read(head(f"GET {target} HTTP/1.1")).target == path


def test_an_absolute_address_of_another_host_is_refused() -> None:
    assert refused(head("GET http://b/ HTTP/1.1")) == "400"


@pytest.mark.parametrize("host", ["example.org:8080", "[::1]:80", "127.0.0.1", "under_score", ""])
def test_hosts_are_names_and_addresses(host: str) -> None:
    assert read(head(host=host)).headers["host"] == host


@pytest.mark.parametrize("host", ["a b", "a,b", "a/b", "a@b", "a\tb", "é", "<a>", None])
def test_what_is_no_host_is_refused(host: str | None) -> None:
    assert refused(head(host=host)) == "400"


def test_http_1_0_needs_no_host() -> None:
    assert read(head("GET / HTTP/1.0", host=None)).headers == {}


@pytest.mark.parametrize(
    "line",
    [
        "GET /", "GET  / HTTP/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET /\tHTTP/1.1", "GET HTTP/1.1",
        "/ HTTP/1.1", "GET / http/1.1", "GET / HTTP/1.10", "GET / HTTP/01.1", "GET / HTTP/1", "GET / HTTP1.1",
        "GET /a b HTTP/1.1",
        "G(T / HTTP/1.1", "GET * HTTP/1.1", "GET a:80 HTTP/1.1", "GET /\xe9 HTTP/1.1", "GET /#a HTTP/1.1", "",
        "A" * 33 + " / HTTP/1.1",
    ],
)  # fmt: skip
def test_what_is_no_request_line_is_refused(line: str) -> None:
    assert refused(head(line)) == "400"


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2"])
def test_other_versions_are_named_as_such(version: str) -> None:
    assert refused(head(f"GET / {version}")) == "505"


@pytest.mark.parametrize(
    "line", ["X : a", " X: a", "X", ": a", "X: a\r\n b", "X: a\r\n\tb", "X\xe9: a", "X(: a", "X/Y: a", "X Y: a"]
)
def test_what_is_no_header_is_refused(line: str) -> None:
    assert refused(head("GET / HTTP/1.1", line)) == "400"


@pytest.mark.parametrize("byte", [*range(0x00, 0x09), 0x0A, 0x0B, 0x0C, 0x0D, *range(0x0E, 0x20), 0x7F])
@pytest.mark.parametrize("where", ["GET /{} HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\nHost: a\r\nX: a{}b"])
def test_control_bytes_are_refused_before_the_head_is_complete(byte: int, where: str) -> None:
    data = where.format(chr(byte)).encode("latin-1")
    with pytest.raises(BadRequest):
        find_head(data)


def test_a_lf_without_cr_is_refused_at_once() -> None:
    with pytest.raises(BadRequest):
        find_head(b"GET / HTTP/1.1\n")
    assert find_head(b"GET / HTTP/1.1\r") == -1, "the LF may follow"


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5 5",),
        ("Content-Length: 5.0",),
        ("Content-Length: 5_0",),
        ("Content-Length: ",),
        ("Content-Length: \xb2",),  # a digit to Python
        ("Content-Length: " + "9" * (MAX_LENGTH_DIGITS + 1),),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: Chunked",),
        ("Transfer-Encoding: ",),
        ('Transfer-Encoding: "chunked"',),
    ],
    ids=" and ".join,
)
def test_a_body_that_may_be_read_in_two_ways_is_refused(lines: tuple[str, ...]) -> None:
    assert refused(head("POST / HTTP/1.1", *lines)) == "400"


def test_chunks_are_not_for_http_1_0() -> None:
    assert refused(head("POST / HTTP/1.0", "Transfer-Encoding: chunked")) == "400"


@pytest.mark.parametrize("name", ["Host", "Content-Type", "Origin"])
def test_what_may_be_said_once_is_refused_twice(name: str) -> None:
    assert refused(head("GET / HTTP/1.1", f"{name}: a", f"{name}: a")) == "400"


def test_an_address_may_be_so_long_and_no_longer() -> None:
    longest = "/" + "a" * (MAX_URL_BYTES - 1)
    assert read(head(f"GET {longest} HTTP/1.1")).target == longest
    assert refused(head(f"GET {longest}a HTTP/1.1")) == "414"
    with pytest.raises(BadRequest, match="address") as refusal:
        find_head(b"GET " + b"/" * (MAX_URL_BYTES + 100))
    assert refusal.value.status.startswith("414")


def test_headers_may_be_so_large_and_no_larger() -> None:
    start = head("GET / HTTP/1.1")[:-2]
    room = MAX_HEADERS_BYTES - (len(start) - start.index(b"\r\n")) - len(b"X: \r\n") + len(b"\r\n\r\n") - len(b"\r\n")
    assert read(start + b"X: " + b"a" * room + b"\r\n\r\n").headers["x"] == "a" * room
    assert refused(start + b"X: " + b"a" * (room + 1) + b"\r\n\r\n") == "431"
    with pytest.raises(BadRequest) as refusal:
        find_head(start + b"X: " + b"a" * (room + 10))
    assert refusal.value.status.startswith("431")


def test_there_may_be_so_many_headers_and_no_more() -> None:
    lines = [f"X-{number}: a" for number in range(MAX_HEADERS - 1)]
    assert len(read(head("GET / HTTP/1.1", *lines)).headers) == MAX_HEADERS
    assert refused(head("GET / HTTP/1.1", *lines, "X: a")) == "431"


@pytest.mark.parametrize(("line", "size"), [(b"0", 0), (b"a", 10), (b"1F", 31), (b"000", 0), (b"f" * 10, 2**40 - 1)])
def test_a_chunk_has_a_size_in_hexadecimal_digits(line: bytes, size: int) -> None:
    assert chunk_size(line) == size


@pytest.mark.parametrize(
    "line",
    [b"", b" 5", b"5 ", b"0x5", b"+5", b"-5", b"5_0", b"5;a=b", b"5\t", b"g", b"\n5", b"5\n",
     b"f" * (MAX_CHUNK_DIGITS + 1)],
)  # fmt: skip
def test_a_chunk_with_another_size_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        chunk_size(line)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", [14, 15, 16, 25, 26])
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\n", [25, 26])
def test_a_head_in_pieces_is_found_as_it_is_in_one(data: bytes, cuts: list[int]) -> None:
    def outcome(pieces: list[int]) -> object:
        seen = 0
        for end in pieces:
            try:
                found = find_head(data[:end], seen)
            except BadRequest as refusal:
                return refusal.status
            if found >= 0:
                return found
            seen = end
        return -1

    assert outcome([*sorted(cut for cut in cuts if cut < len(data)), len(data)]) == outcome([len(data)])


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_head_or_is_refused(data: bytes) -> None:
    data = data.replace(b"\r\n\r\n", b"")
    try:
        end = find_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")
        read_head((b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")[:end])
    except BadRequest:
        pass
