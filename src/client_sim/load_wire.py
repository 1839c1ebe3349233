"""What the load generator says and hears, as bytes, without sockets: HTTP answers, WebSocket frames, packets.

A frame over Socket.IO is two messages, the second one with the image (`04` before it in protocol 3):

    451-<id>["receiveImage",{"_placeholder":true,"num":0}]       the id only where an ack is asked for
    <image>
"""

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from websockets.speedups import apply_mask

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
#: An HTTP head or an answer to a poll is never longer, unless the server is something else.
_MAX_ANSWER_BYTES: Final = 1 << 20

SEPARATOR: Final = b"\x1e"


def frame_text(ack_id: int | None) -> bytes:
    """The first of a frame's two messages, as a packet of Engine.IO."""
    return b'451-%s["receiveImage",{"_placeholder":true,"num":0}]' % (b"" if ack_id is None else b"%d" % ack_id)


def login_text(user: str, password: str, event: str) -> str:
    return "42" + json.dumps(["authenticate", user, password, event])


def masked_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + mask + apply_mask(payload, mask)


class FrameReader:
    """Takes a server's WebSocket frames apart, in whatever pieces they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of each message that is whole.

        Raises:
            ValueError: a frame is masked or part of a message; no server of ours sends such.
        """
        self._data += data
        at = 0
        while (ends := self._frame_at(at)) is not None:
            start, end = ends
            yield self._data[at] & 0x0F, bytes(self._data[start:end])
            at = end
        del self._data[:at]

    def _frame_at(self, at: int) -> tuple[int, int] | None:
        """Where the payload of the frame at this byte begins and ends; None while it is not there."""
        data = self._data
        if len(data) - at < 2:
            return None
        if data[at] & 0xF0 != 0x80 or data[at + 1] & 0x80:
            raise ValueError(f"a WebSocket frame begins with {data[at : at + 2].hex(' ')}, expected a whole message")
        size, start = data[at + 1], at + 2
        if size >= 126:
            number = struct.Struct("!H" if size == 126 else "!Q")
            if len(data) < start + number.size:
                return None
            (size,) = number.unpack_from(data, start)
            start += number.size
        return (start, start + size) if len(data) >= start + size else None


class Answer(NamedTuple):
    """An answer to an HTTP request.

    Args:
        headers: by their names in lower case.
    """

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    def refusal(self, address: str) -> str:
        """What to tell a person for whom this is not what was hoped for."""
        said = " ".join(self.body[:200].decode("utf-8", "replace").split())
        more = f" ({said})" if said and not said.startswith("<") else ""
        return f"{address} answers {self.status} {self.reason}{more}"


class AnswerReader:
    """Takes HTTP/1.1 answers apart, in whatever pieces they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """The answer, as soon as it is whole.

        Raises:
            ValueError: it is none of HTTP/1.1 with a Content-Length.
        """
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            if not self._data.startswith(b"HTTP/1."[: len(self._data)]) or len(self._data) > _MAX_ANSWER_BYTES:
                raise ValueError(f"an answer that begins with {bytes(self._data[:20])!r}, expected HTTP/1.1")
            return None
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = (status_line + "  ").split(" ", 2)
        if not version.startswith("HTTP/1.") or not status.isdecimal():
            raise ValueError(f"an answer that begins with {status_line[:40]!r}, expected HTTP/1.1")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = 0
        if status not in ("101", "204", "304"):
            length = headers.get("content-length", "")
            if not length.isdecimal():
                raise ValueError(f"an answer {status} without a Content-Length")
            size = int(length)
        if len(rest) < size:
            return None
        self._data = rest[size:]
        return Answer(int(status), reason.strip(), headers, bytes(rest[:size]))

    def rest(self) -> bytes:
        """What came behind the answer: the first WebSocket frames."""
        return bytes(self._data)


def upgrade_request(target: str, host: str, key: str) -> bytes:
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def accept_of(key: str) -> str:
    """What a WebSocket server answers to this key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def get_request(target: str, host: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def post_head(target: str, host: str, content_type: str, size: int) -> bytes:
    return (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()
