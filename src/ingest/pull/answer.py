"""An HTTP answer (RFC 9112) as cameras give it: where its head and its body end; no sockets.

Rule 1. What a client must know is read strictly: status, length, chunks. An answer that may end in two places has none.
Rule 2. Everything else is let pass: cameras end lines with LF alone, write lines that are no headers, and headers that
        are no words of HTTP (`Content-Enconded: b`).
Rule 3. A head is bounded, and nothing is kept of a body: whoever receives it says how long it may be.
"""

import re
from typing import Final, NamedTuple

from http1.framing import MAX_CHUNK_DIGITS, MAX_LENGTH_DIGITS

#: Of all heads of an answer together, `100 Continue` among them, and of what follows the last chunk. Cameras send 500.
MAX_HEAD_BYTES: Final = 16 * 1024
#: Of a chunk's first line: its size, and extensions that nobody reads.
MAX_CHUNK_LINE_BYTES: Final = 256
#: In what is received at once. A camera's chunks are of some KB; each costs 1 us, and nobody else runs meanwhile.
MAX_CHUNKS_AT_ONCE: Final = 1_000

_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_END_OF_LINE: Final = re.compile(rb"\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01])[ \t]+([1-9][0-9]{2})(?:[ \t][^\r\n]*)?")
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,%d})[ \t]*(?:;.*)?" % MAX_CHUNK_DIGITS)
_LENGTH: Final = re.compile(rf"[0-9]{{1,{MAX_LENGTH_DIGITS}}}")


class Malformed(Exception):
    """What came is no HTTP answer; the message says what it is instead."""


class Head(NamedTuple):
    """The head of an answer.

    Args:
        headers: names in lower case, each once; values of those that came several times are joined by `, `.
    """

    status: int
    minor_version: int
    headers: dict[str, str]

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on this connection, if the answer has an end of its own."""
        options = {option.strip() for option in self.headers.get("connection", "").lower().split(",")}
        return "close" not in options and (self.minor_version == 1 or "keep-alive" in options)


class Answer:
    """One answer, as its bytes come.

    Attributes:
        head: None until it is all there.
        ended: the body is all there.
        length: of the body, where the head tells it.
        left_over: bytes came behind the end.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.ended = False
        self.length: int | None = None
        self.left_over = False
        self._line = bytearray()  # a head, or a line between chunks, that is not all there
        self._heads_bytes = 0
        self._left = 0  # of the body, or of the chunk under way
        self._chunked = False
        self._chunk_ended = False  # and its CRLF has to come
        self._last_chunk_came = False

    @property
    def tells_its_end(self) -> bool:
        """Whether it ends by itself, and not with the connection."""
        return self._chunked or self.length is not None

    @property
    def can_be_followed(self) -> bool:
        """Whether the connection can be asked again."""
        return self.ended and not self.left_over and self.head is not None and self.head.keeps_alive

    def receive_data(self, data: bytes) -> bytes:
        """The bytes of the body that are in these.

        Raises:
            Malformed: this is no answer, or has no certain end.
        """
        if self.head is None:
            data = self._receive_head(data)
            if self.head is None:
                return b""
        if self.ended:
            self.left_over = self.left_over or bool(data)
            return b""
        if self._chunked:
            return self._receive_chunks(data)
        if self.length is None:
            return data
        body = data if len(data) <= self._left else data[: self._left]
        self._left -= len(body)
        self.left_over = len(body) < len(data)
        self.ended = not self._left
        return body

    def receive_eof(self) -> None:
        """The connection was closed; `ended` if the body ends so."""
        if self.head is not None and not self.tells_its_end:
            self.ended = True

    def _receive_head(self, data: bytes) -> bytes:
        """What follows the head; nothing if that is not all there."""
        while self.head is None:
            seen = max(len(self._line) - 3, 0)
            self._line += data
            end = _END_OF_HEAD.search(self._line, seen)
            if self._heads_bytes + (len(self._line) if end is None else end.end()) > MAX_HEAD_BYTES:
                raise Malformed(f"a head of more than {MAX_HEAD_BYTES} bytes")
            if end is None:
                self._check_beginning()
                return b""
            data = bytes(self._line[end.end() :])
            self._heads_bytes += end.end()
            head = _read_head(bytes(self._line[: end.start()]))
            self._line.clear()
            if head.status >= 200 or head.status == 101:
                self._begin_body(head)
        return data

    def _check_beginning(self) -> None:
        # What is no HTTP need not be waited for.
        if not bytes(self._line[:5]) == b"HTTP/"[: len(self._line)]:
            raise _no_http(bytes(self._line[:16]))

    def _begin_body(self, head: Head) -> None:
        self.head = head
        coding = head.headers.get("transfer-encoding", "identity").lower()
        if coding == "chunked":
            self._chunked = True
        elif coding != "identity":
            raise Malformed("a Transfer-Encoding that is not `chunked`")
        elif "content-length" in head.headers:
            # Some write it twice; where both say the same it is certain (RFC 9110, section 8.6).
            lengths = {length.strip() for length in head.headers["content-length"].split(",")}
            if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
                raise Malformed(f"a Content-Length that is not 1 to {MAX_LENGTH_DIGITS} digits")
            self.length = self._left = int(length)
            self.ended = not self._left
        if head.status in (204, 304):
            self._chunked, self.length, self.ended = False, 0, True

    def _receive_chunks(self, data: bytes) -> bytes:
        parts = []
        at = chunks = 0
        while not self.ended and at < len(data):
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self._chunk_ended = not self._left
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if len(self._line) > (MAX_HEAD_BYTES if self._last_chunk_came else MAX_CHUNK_LINE_BYTES):
                raise Malformed("a chunk whose first line does not end")
            if end:
                chunks += not self._last_chunk_came
                if chunks > 2 * MAX_CHUNKS_AT_ONCE:  # two lines each
                    raise Malformed(f"chunks of less than {len(data) // MAX_CHUNKS_AT_ONCE} bytes")
                line = bytes(self._line).rstrip(b"\r\n")
                self._line.clear()
                self._receive_chunk_line(line)
        self.left_over = at < len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _receive_chunk_line(self, line: bytes) -> None:
        if self._chunk_ended:
            if line:
                raise Malformed("a chunk that is longer than its size")
            self._chunk_ended = False
        elif self._last_chunk_came:
            self._heads_bytes += len(line) + 2
            if self._heads_bytes > MAX_HEAD_BYTES:
                raise Malformed(f"more than {MAX_HEAD_BYTES} bytes after the last chunk")
            self.ended = not line
        else:
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise Malformed("a chunk whose size is no hexadecimal number")
            self._left = int(match[1], 16)
            self._last_chunk_came = not self._left


def _read_head(data: bytes) -> Head:
    status_line, *lines = _END_OF_LINE.split(data)
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise _no_http(status_line[:16])
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.replace("\t", " ").strip()
        if colon and name and value.isprintable():
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(int(match[2]), int(match[1]), headers)


def _no_http(beginning: bytes) -> Malformed:
    return Malformed(f"the first bytes are {beginning!r}, expected an answer in HTTP/1")
