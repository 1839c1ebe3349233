"""Where an HTTP/1 request begins and ends (RFC 9112), read strictly; no sockets.

A proxy and a server that read the same bytes differently can be made to disagree about which request is whose. So a
request that could be read in two ways is not read at all:

Rule 1. Lines end with CRLF. No control byte stands in a head, no space before a colon, no line is continued.
Rule 2. A body has one `Content-Length` of ASCII digits, or it is `Transfer-Encoding: chunked`, exactly so, once, and
        in HTTP/1.1; never both. Chunks have sizes of hexadecimal digits, no extensions, and no trailers follow them.
Rule 3. What breaks a rule ends the connection: whatever follows it is nobody's request.
"""

import re
from typing import Final, NamedTuple

MAX_URL_BYTES: Final = 16 * 1024
MAX_HEADERS_BYTES: Final = 16 * 1024
#: A browser sends 20; each costs time and memory, however short it is.
MAX_HEADERS: Final = 100
#: Of a chunk's size: 2^40 bytes and more are nobody's chunk.
MAX_CHUNK_DIGITS: Final = 10
#: Of a Content-Length: 10^15 bytes are nobody's body.
MAX_LENGTH_DIGITS: Final = 15

END_OF_LINE: Final = b"\r\n"
END_OF_HEAD: Final = b"\r\n\r\n"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_MAX_METHOD_BYTES: Final = 32
_MAX_REQUEST_LINE_BYTES: Final = _MAX_METHOD_BYTES + 1 + MAX_URL_BYTES + len(" HTTP/1.1")
_REQUEST_LINE: Final = re.compile(
    rb"(%b{1,%d}) ([\x21\x22\x24-\x7e]+) (HTTP/[0-9]\.[0-9])" % (_TOKEN, _MAX_METHOD_BYTES)
)
_ABSOLUTE: Final = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_HEADER: Final = re.compile(rb"(%b+):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
#: Nothing that goes on like this can become a head.
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
#: Headers that would say two things if they came twice.
_ONCE: Final = frozenset(("content-length", "transfer-encoding", "content-type", "host", "origin"))
_HOST: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{1,%d}" % MAX_CHUNK_DIGITS)


class BadRequest(Exception):
    """A request that is not taken, and the connection with it.

    Attributes:
        status: for the answer, as `400 Bad Request`.
    """

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


class Head(NamedTuple):
    """The head of a request.

    Args:
        target: path and query.
        headers: names in lower case, each once; values of headers that came several times are joined by commas.
        body_length: in bytes; None when the body is chunked.
    """

    method: str
    target: str
    version: str
    headers: dict[str, str]
    body_length: int | None

    @property
    def keep_alive(self) -> bool:
        """Whether the client expects to send another request on this connection."""
        options = self._connection_options
        return "close" not in options and (self.version == "HTTP/1.1" or "keep-alive" in options)

    @property
    def _connection_options(self) -> set[str]:
        return {option.strip() for option in self.headers.get("connection", "").lower().split(",")}

    @property
    def is_websocket(self) -> bool:
        """Whether it asks for a WebSocket; other upgrades are nobody's here, and such a request is one like others."""
        return "upgrade" in self._connection_options and self.headers.get("upgrade", "").lower() == "websocket"


def find_head(data: bytes | bytearray, seen: int = 0) -> int:
    """Where the head at the beginning of `data` ends, its empty line included; -1 when it is not all there yet.

    Args:
        seen: how many bytes of `data` an earlier call has seen.

    Raises:
        BadRequest: what is there cannot become a head: a forbidden byte, or too long.
    """
    end = data.find(END_OF_HEAD, max(seen - len(END_OF_HEAD) + 1, 0))
    stop = len(data) if end < 0 else end + len(END_OF_HEAD)
    wrong = _FORBIDDEN.search(data, max(seen - 1, 0), stop)
    if wrong is not None:
        raise BadRequest(f"a head with {bytes(wrong[0])!r}: lines end with CRLF and hold no control bytes")
    line_end = data.find(END_OF_LINE, 0, stop)
    if (stop if line_end < 0 else line_end) > _MAX_REQUEST_LINE_BYTES:
        raise _url_too_long()
    if line_end >= 0 and stop - line_end > MAX_HEADERS_BYTES + len(END_OF_HEAD):
        raise _headers_too_large(f"of more than {MAX_HEADERS_BYTES} bytes")
    return -1 if end < 0 else stop


def read_head(data: bytes | bytearray) -> Head:
    """Read a head that `find_head` has found, from its first byte to the end of its empty line.

    Raises:
        BadRequest: it is none, or could be read in two ways.
    """
    request_line, *lines = bytes(data[: -len(END_OF_HEAD)]).split(END_OF_LINE)
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        raise BadRequest("a request line that is not a method, a path and a version")
    method, target, version = (part.decode("ascii") for part in match.groups())
    if len(target) > MAX_URL_BYTES:
        raise _url_too_long()
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(f"version {version[5:]}, expected 1.1 or 1.0", "505 HTTP Version Not Supported")
    headers = _read_headers(lines)
    return Head(method, _path_of(target, headers, version), version, headers, _body_length(headers, version))


def _read_headers(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise _headers_too_large(f"{len(lines)} of them, at most {MAX_HEADERS} are taken")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise BadRequest("a header that is not `Name: value` on one line")
        name, value = match[1].decode("ascii").lower(), match[2].decode("latin-1").strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in _ONCE:
            raise BadRequest(f"{name} more than once")
        else:
            headers[name] += ("; " if name == "cookie" else ",") + value
    return headers


def _path_of(target: str, headers: dict[str, str], version: str) -> str:
    host = headers.get("host")
    if host is None and version == "HTTP/1.1":
        raise BadRequest("no Host header")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest("a Host header that is not a host and a port")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        if absolute[1].lower() != (host or "").lower():
            raise BadRequest("an absolute address whose host is not that of the Host header")
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not target.startswith("/"):
        raise BadRequest("a target that does not begin with /")
    return target


def _body_length(headers: dict[str, str], version: str) -> int | None:
    length, encoding = headers.get("content-length"), headers.get("transfer-encoding")
    if encoding is not None:
        if length is not None:
            raise BadRequest("both a Content-Length and a Transfer-Encoding")
        if encoding != "chunked" or version != "HTTP/1.1":
            raise BadRequest("a Transfer-Encoding that is not `chunked`, or in a version that has none")
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > MAX_LENGTH_DIGITS:
        raise BadRequest(f"a Content-Length that is not 1 to {MAX_LENGTH_DIGITS} digits")
    return int(length)


def chunk_size(line: bytes | bytearray) -> int:
    """The size that a chunk's first line announces, given without its CRLF.

    Raises:
        BadRequest: it is not hexadecimal digits alone.
    """
    if not _HEX.fullmatch(line):
        raise BadRequest(f"a chunk whose size is not 1 to {MAX_CHUNK_DIGITS} hexadecimal digits")
    return int(line, 16)


def _url_too_long() -> BadRequest:
    return BadRequest(f"an address of more than {MAX_URL_BYTES} bytes", "414 URI Too Long")


def _headers_too_large(what: str) -> BadRequest:
    return BadRequest(f"headers {what}", "431 Request Header Fields Too Large")
