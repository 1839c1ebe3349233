"""MJPEG over HTTP: an answer `multipart/x-mixed-replace` whose parts are images (RFC 2046, section 5.1); no sockets.

    --BOUNDARY                       the header's boundary may have the dashes already, or the line may lack them
    Content-Type: image/jpeg
    Content-Length: 4711             optional: without it a part goes on to the next boundary
                                     an empty line
    4711 bytes
    --BOUNDARY                       and so on; --BOUNDARY-- is the end

Rule 1. The first line says what the boundary is: the headers of cameras are often wrong about it.
Rule 2. Lines may end with LF alone. What stands between a part of known length and the next boundary is skipped.
Rule 3. Parts and their headers are bounded, and a part costs no more than its bytes: nothing is searched twice.
"""

import re
from collections import deque
from typing import Final

from frames import InvalidFrame, too_many_bytes
from ingest.pull.answer import Malformed

#: Of a part. Cameras send three headers.
MAX_PART_HEADERS_BYTES: Final = 8 * 1024
#: What may stand before the first boundary.
MAX_PREAMBLE_BYTES: Final = 4 * 1024
#: RFC 2046 allows 70.
MAX_BOUNDARY_BYTES: Final = 200
#: In what is received at once, 64 KiB. No image is so small; a part costs 4 us, and nobody else runs meanwhile.
MAX_PARTS_AT_ONCE: Final = 1_000

_END_OF_HEADERS: Final = re.compile(rb"\r?\n\r?\n")
_EMPTY_LINE: Final = re.compile(rb"\r?\n")
_LENGTH: Final = re.compile(rb"(?:^|\n)content-length[ \t]*:[ \t]*([0-9]{1,15})[ \t]*(?:\r|\n|$)", re.IGNORECASE)
_TEXT: Final = re.compile(rb"(?:^|\n)content-type[ \t]*:[ \t]*text/", re.IGNORECASE)
_BOUNDARY: Final = re.compile(r';\s*boundary\s*=\s*(?:"([^"]*)"|([^\s;]*))', re.IGNORECASE)
#: What follows a boundary: the dashes of the last one, or the end of the line; and the beginnings of these.
_AFTER_BOUNDARY: Final = re.compile(rb"(--)|[ \t]{0,16}\r?\n")
_AFTER_BOUNDARY_BEGINS: Final = re.compile(rb"-|[ \t]{0,16}\r?")


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names, empty if none; None where it is no multipart."""
    if not content_type.lower().startswith("multipart/"):
        return None
    match = _BOUNDARY.search(content_type)
    return (match[1] or match[2] or "").encode("latin-1") if match else b""


class Multipart:
    """The parts of one answer, as its bytes come.

    Args:
        boundary: as the header names it; empty where it names none.
        max_bytes: of a part.

    Attributes:
        ended: the last boundary has come; nothing follows.
    """

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self.ended = False
        self._max_bytes = max_bytes
        self._named = boundary.strip(b"-")
        self._buffer = bytearray()
        self._parts: deque[bytes] = deque()
        # A function, not a method: one that is bound to this would keep it, with its buffer, for the garbage collector.
        self._step = Multipart._read_preamble
        self._boundary = b""  # with its dashes, after the preamble
        self._is_text = False  # of the part under way: what is no image
        self._left = 0  # of a part whose length is known
        self._searched = 0  # so many bytes at the buffer's beginning hold no boundary
        self._may_begin = False  # a boundary at the buffer's beginning is one: it is the first after a part, or of one

    @property
    def unfinished_bytes(self) -> int:
        """What is kept of a part that is not all there."""
        return len(self._buffer)

    @property
    def are_taken(self) -> bool:
        """Whether there is no other part at the moment."""
        return not self._parts

    def next_part(self) -> bytes | None:
        """The next image that is all there; None if there is none yet."""
        return self._parts.popleft() if self._parts else None

    def receive_data(self, data: bytes) -> None:
        """Take in what came of the body.

        Raises:
            Malformed: these are no parts.
            InvalidFrame: a part is `too_many_bytes`.
        """
        self._buffer += data
        parts = 0
        while not self.ended and self._step(self):
            parts += self._step is Multipart._read_headers
            if parts > MAX_PARTS_AT_ONCE:
                raise Malformed(f"more than {MAX_PARTS_AT_ONCE} parts in {len(data)} bytes")

    def receive_eof(self) -> bool:
        """The answer has come to its end, and so has a part of which nothing else tells the end; False if that was in
        the middle of a part."""
        if not self.ended and self._step is Multipart._search_end:
            self._finish_part(len(self._buffer))
        elif not self.ended and self._step is not Multipart._skip_to_boundary and self._buffer.strip():
            return False
        self.ended = True
        return True

    # Each of these reads on if it can, and says whether it could.

    def _read_preamble(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_PREAMBLE_BYTES:
                raise Malformed(f"no boundary in the first {MAX_PREAMBLE_BYTES} bytes")
            return False
        line = bytes(self._buffer[:end]).strip()
        self._searched += end + 1
        del self._buffer[: end + 1]
        if len(line) <= MAX_BOUNDARY_BYTES and (line.startswith(b"--") or (line and line == self._named)):
            self._boundary = line
            self._searched = 0
            self._step = Multipart._read_headers
        elif self._searched > MAX_PREAMBLE_BYTES:
            raise Malformed(f"no boundary in the first {MAX_PREAMBLE_BYTES} bytes")
        return True

    def _read_headers(self) -> bool:
        end = _EMPTY_LINE.match(self._buffer) or _END_OF_HEADERS.search(self._buffer, max(self._searched - 3, 0))
        if (len(self._buffer) if end is None else end.start()) > MAX_PART_HEADERS_BYTES:
            raise Malformed(f"a part with more than {MAX_PART_HEADERS_BYTES} bytes of headers")
        if end is None:
            self._searched = len(self._buffer)
            return False
        headers = bytes(self._buffer[: end.start()])
        del self._buffer[: end.end()]
        self._searched = 0
        self._is_text = _TEXT.search(headers) is not None
        length = _LENGTH.search(headers)
        self._left = int(length[1]) if length else 0
        if self._left > self._max_bytes:
            raise self._too_many_bytes(self._left)
        self._may_begin = True
        self._step = Multipart._read_counted if self._left else Multipart._search_end
        return True

    def _read_counted(self) -> bool:
        if len(self._buffer) < self._left:
            return False
        self._finish_part(self._left)
        del self._buffer[: self._left]
        self._step = Multipart._skip_to_boundary
        return True

    def _search_end(self) -> bool:
        found = self._find_boundary()
        if found is None:
            if self._searched > self._max_bytes:
                raise self._too_many_bytes(self._searched)
            return False
        end, next_at = found
        if end > self._max_bytes:
            raise self._too_many_bytes(end)
        self._finish_part(end)
        self._go_on_from(next_at)
        return True

    def _skip_to_boundary(self) -> bool:
        found = self._find_boundary()
        if found is None:
            self._may_begin = self._may_begin and not self._searched
            del self._buffer[: self._searched]
            self._searched = 0
            return False
        self._go_on_from(found[1])
        return True

    def _find_boundary(self) -> tuple[int, int] | None:
        """Where what stands before the next boundary ends, and where what follows it begins."""
        while True:
            if self._may_begin and not self._searched and self._buffer.startswith(self._boundary):
                at = begin = 0
            else:
                line_end = self._buffer.find(b"\n" + self._boundary, self._searched)
                if line_end < 0:
                    self._searched = max(len(self._buffer) - len(self._boundary) - 1, self._searched)
                    return None
                begin = line_end + 1
                at = line_end - (line_end > 0 and self._buffer[line_end - 1] == 0x0D)
            follows = begin + len(self._boundary)
            match = _AFTER_BOUNDARY.match(self._buffer, follows)
            if match is not None:
                self.ended = match[1] is not None
                return at, match.end()
            if _AFTER_BOUNDARY_BEGINS.fullmatch(self._buffer, follows):
                self._searched = at
                return None
            self._searched = follows  # it only looks like one

    def _finish_part(self, end: int) -> None:
        if end and not self._is_text:
            with memoryview(self._buffer) as view:
                self._parts.append(bytes(view[:end]))

    def _go_on_from(self, at: int) -> None:
        del self._buffer[:at]
        self._searched = 0
        self._step = Multipart._read_headers

    def _too_many_bytes(self, size: int) -> InvalidFrame:
        return InvalidFrame("too_many_bytes", too_many_bytes(size, self._max_bytes))
