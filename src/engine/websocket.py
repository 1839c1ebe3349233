"""WebSocket (RFC 6455), the server's side: a parser that knows no sockets, and the connection that feeds it.

A client's frame, section 5.2; lengths are big-endian, and a client always masks:

    FIN RSV1 RSV2 RSV3 opcode(4) | MASK length(7) | [length 16 or 64] | mask(32) | payload

No extension is ever agreed on: images are compressed already, and permessage-deflate would only cost time.
"""

import base64
import binascii
import hashlib
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import eventlet
from eventlet import hubs, wsgi
from websockets.speedups import apply_mask

logger = logging.getLogger(__name__)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, NO_STATUS, INVALID_DATA, TOO_BIG = 1000, 1002, 1005, 1007, 1009

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
#: One receive reads at most so much beyond the frame under way. Larger ones were measured without gain.
SCRATCH_BYTES: Final = 64 * 1024
#: A payload's buffer begins with at most so much and doubles as bytes arrive: a length that is announced and never
#: sent costs this, and not the length. Most cameras' frames fit into it.
FIRST_BUFFER_BYTES: Final = 64 * 1024
#: What waits for a client that reads slower than we send. Beyond that the connection ends: an ack is 60 bytes, so
#: this is far more than any working client leaves lying, and 1,000 stalled ones still fit into memory.
MAX_OUTGOING_BYTES: Final = 16 * 1024 * 1024
MAX_OUTGOING_MESSAGES: Final = 1_000
#: Of what one receive brings, so many WebSocket frames are read before others have their turn: 64 KB hold 10,000 pings,
#: and reading and answering all of them stops everybody for 0.1 s. Images do not come in such numbers.
FRAMES_PER_TURN: Final = 64
#: How long the peer may take to answer our close frame before the socket is closed all the same.
CLOSE_WAIT_SEC: Final = 2.0

Buffer = bytes | bytearray | memoryview


class WebSocketError(Exception):
    """The peer broke the protocol or a limit; the connection closes with `code` (section 7.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class MessageReader:
    """Turns received bytes into messages, in whatever pieces they come.

    The caller receives into `buffers()` and says how much came: the rest of a frame under way goes straight into its
    own buffer, what follows it into a scratch buffer that all connections share. So `received` leaves nothing in
    there: as soon as it returns, another connection may receive.

    Args:
        max_message_bytes: limit of a message's payload, all fragments together.
        scratch: the shared buffer, at least 14 bytes (the longest header).

    Attributes:
        more: what came holds more than is read in one turn; call `received(0)` for the rest before receiving again.
    """

    def __init__(self, max_message_bytes: int, scratch: bytearray) -> None:
        self._max = max_message_bytes
        self._scratch = memoryview(scratch)
        self.more = False
        self._leftover = b""  # the beginning of a header, or what the next turn is for
        self._payload: bytearray | None = None  # of the frame under way
        self._filled = 0
        self._length = 0
        self._mask = b""
        self._first_byte = 0
        self._message: bytearray | None = None  # the fragments so far
        self._message_opcode = 0

    def buffers(self) -> tuple[memoryview, ...]:
        """Where the next bytes belong, in this order."""
        if self._payload is None:
            return (self._scratch,)
        rest = memoryview(self._payload)[self._filled :]
        return (rest, self._scratch) if len(self._payload) == self._length else (rest,)

    def received(self, count: int) -> list[tuple[int, bytes]]:
        """Take note of bytes received into `buffers()`; returns the messages that they complete, control frames among
        them.

        Raises:
            WebSocketError: close with its code; the reader is of no further use.
        """
        messages: list[tuple[int, bytes]] = []
        if self._payload is not None:
            taken = min(count, len(self._payload) - self._filled)
            self._filled += taken
            count -= taken
            if self._filled < self._length:
                if self._filled == len(self._payload):
                    grown = bytearray(min(self._length, 2 * self._filled))
                    grown[: self._filled] = self._payload
                    self._payload = grown
                return messages
            payload, self._payload = self._payload, None
            self._add_frame(messages, self._first_byte, apply_mask(payload, self._mask))
        view = self._scratch[:count]
        data: Buffer = self._leftover + bytes(view) if self._leftover else view
        self._leftover = b""
        self.more = False
        position, end = 0, len(data)
        for _ in range(FRAMES_PER_TURN):
            start = self._read_header(data, position, end)
            if start < 0:
                self._leftover = bytes(data[position:end])
                return messages
            stop = start + self._length
            if stop > end:
                self._begin_payload(data, start, end)
                return messages
            self._add_frame(messages, self._first_byte, apply_mask(data[start:stop], self._mask))
            position = stop
        self._leftover = bytes(data[position:end])
        self.more = True
        return messages

    def _read_header(self, data: Buffer, position: int, end: int) -> int:
        """Read the header at `position`; returns where its payload begins, -1 when the header is not all there."""
        if end - position < 2:
            return -1
        first, second = data[position], data[position + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit is set, but no extension was agreed on")
        if not second & 0x80:
            raise WebSocketError(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise WebSocketError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if length > 125 or not first & 0x80:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame is fragmented or longer than 125 bytes")
        elif opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._message is not None):
            raise WebSocketError(
                PROTOCOL_ERROR, "a continuation without a beginning, or a beginning inside of a message"
            )
        position += 2
        if length == 126:
            if end - position < 2:
                return -1
            length = data[position] << 8 | data[position + 1]
            position += 2
        elif length == 127:
            if end - position < 8:
                return -1
            length = int.from_bytes(data[position : position + 8], "big")
            position += 8
        total = length if self._message is None or opcode >= CLOSE else length + len(self._message)
        if total > self._max:
            raise WebSocketError(TOO_BIG, f"a message of {total} bytes or more, at most {self._max} are taken")
        if end - position < 4:
            return -1
        self._mask = bytes(data[position : position + 4])
        self._first_byte = first
        self._length = length
        return position + 4

    def _begin_payload(self, data: Buffer, start: int, end: int) -> None:
        self._filled = end - start
        self._payload = bytearray(min(self._length, max(FIRST_BUFFER_BYTES, 2 * self._filled)))
        self._payload[: self._filled] = data[start:end]

    def _add_frame(self, messages: list[tuple[int, bytes]], first_byte: int, payload: bytes) -> None:
        opcode = first_byte & 0x0F
        if opcode >= CLOSE:
            messages.append((opcode, payload))
        elif first_byte & 0x80:
            if self._message is not None:
                self._message += payload
                opcode, payload = self._message_opcode, bytes(self._message)
                self._message = None
            messages.append((opcode, payload))
        elif self._message is None:
            self._message = bytearray(payload)
            self._message_opcode = opcode
        else:
            self._message += payload


class WebSocket:
    """One accepted WebSocket on eventlet's sockets.

    Sending never waits: what the socket does not take at once is kept, within bounds, and sent by a greenlet that
    lives only as long as there is something to send.

    Args:
        sock: the green socket, after the handshake.
        max_message_bytes, scratch: as for `MessageReader`.
    """

    def __init__(self, sock: Any, max_message_bytes: int, scratch: bytearray) -> None:
        self._socket: socket.socket = sock.fd
        self._fileno: int = self._socket.fileno()
        self._reader = MessageReader(max_message_bytes, scratch)
        self._messages: deque[tuple[int, bytes]] = deque()
        self._outgoing: deque[Buffer] = deque()
        self._outgoing_bytes = 0
        self._sender: Any = None
        self._close_sent = False
        self._ended = False
        self._close_timer: Any = None
        #: When bytes of any kind last came from the peer (time.monotonic).
        self.last_receive = time.monotonic()
        #: Why the connection was closed from our side, for the log; empty when the peer closed it.
        self.close_reason = ""

    def receive(self) -> str | bytes | None:
        """Wait for the next message; None when the connection has ended, whoever ended it. Pings are answered here."""
        while True:
            while self._messages:
                opcode, payload = self._messages.popleft()
                if opcode == BINARY:
                    return payload
                if opcode == TEXT:
                    try:
                        return payload.decode()
                    except UnicodeDecodeError:
                        self._fail(WebSocketError(INVALID_DATA, "text that is not UTF-8"))
                elif opcode == PING:
                    self._send_frame(PONG, payload)
                elif opcode == CLOSE:
                    self._receive_close(payload)
            if self._ended or not self._receive_once():
                self.abort()
                return None

    def _drain(self) -> None:
        """Read and forget until the peer has seen our close frame: a socket closed with unread bytes takes it back."""
        deadline = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)
        try:
            while not self._ended:
                hubs.trampoline(self._fileno, read=True)
                if not self._socket.recv(SCRATCH_BYTES):
                    break
        except OSError:
            pass
        finally:
            deadline.cancel()

    def send(self, message: str | Buffer) -> None:
        """Send a message, or queue it behind what is being sent; never waits. Nothing is sent once it is closed."""
        if isinstance(message, str):
            self._send_frame(TEXT, message.encode())
        else:
            self._send_frame(BINARY, message)

    def ping(self) -> None:
        """Ask for a sign of life; `last_receive` shows it."""
        self._send_frame(PING, b"")

    def close(self, code: int = NORMAL) -> None:
        """Begin the closing handshake; the socket is closed when the peer has answered, or after `CLOSE_WAIT_SEC`."""
        if not self._close_sent:
            self._send_frame(CLOSE, struct.pack("!H", code))
            self._close_sent = True
            self._close_timer = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)

    def abort(self) -> None:
        """Close the socket now; whoever waits in `receive` gets None. Harmless when it is closed."""
        if not self._ended:
            self._ended = self._close_sent = True
            if self._close_timer is not None:
                self._close_timer.cancel()
            self._outgoing.clear()
            self._outgoing_bytes = 0
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    def _receive_once(self) -> bool:
        """Wait until something is there and receive once; False at the end.

        One receive a turn keeps connections fair: the others run while this one waits, even when more is there already.
        """
        if self._reader.more:
            eventlet.sleep(0)
            return not self._ended and self._read(0)
        try:
            hubs.trampoline(self._fileno, read=True)
            count = self._socket.recvmsg_into(self._reader.buffers())[0]
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not count or self._ended:
            return False
        self.last_receive = time.monotonic()
        return self._read(count)

    def _read(self, count: int) -> bool:
        try:
            self._messages.extend(self._reader.received(count))
        except WebSocketError as error:
            self._fail(error)
            return False
        return True

    def _receive_close(self, payload: bytes) -> None:
        error = _check_close(payload)
        if error is not None:
            self._fail(error)
        elif not self._close_sent:
            self._send_frame(CLOSE, payload[:2])  # section 5.5.1: the code is echoed
        self._messages.clear()
        self.abort()

    def _fail(self, error: WebSocketError) -> None:
        self.close_reason = str(error)
        self._messages.clear()
        if not self._close_sent:
            self._send_frame(CLOSE, struct.pack("!H", error.code))
            self._close_sent = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._drain()
        self.abort()

    def _send_frame(self, opcode: int, payload: Buffer) -> None:
        if self._close_sent:
            return
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | opcode, size))
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
        if self._outgoing:
            self._queue(head, payload)
            return
        try:
            sent = self._socket.sendmsg((head, payload))
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(head):
            self._queue(head[sent:], payload)
        elif sent < len(head) + size:
            self._queue(memoryview(payload)[sent - len(head) :])

    def _queue(self, *buffers: Buffer) -> None:
        self._outgoing.extend(buffers)
        self._outgoing_bytes += sum(map(len, buffers))
        if self._outgoing_bytes > MAX_OUTGOING_BYTES or len(self._outgoing) > 2 * MAX_OUTGOING_MESSAGES:
            self.close_reason = (
                f"it does not read: {self._outgoing_bytes} bytes in {len(self._outgoing)} pieces wait for it"
            )
            self.abort()
        elif self._sender is None:
            self._sender = eventlet.spawn(self._send_queued)

    def _send_queued(self) -> None:
        try:
            while self._outgoing:
                hubs.trampoline(self._fileno, write=True)
                if not self._outgoing:
                    break
                buffer = self._outgoing[0]
                try:
                    sent = self._socket.send(buffer)
                except BlockingIOError:
                    continue
                self._outgoing_bytes -= sent
                if sent == len(buffer):
                    self._outgoing.popleft()
                else:
                    self._outgoing[0] = memoryview(buffer)[sent:]
        except OSError:
            self.abort()
        finally:
            self._sender = None


def _check_close(payload: bytes) -> WebSocketError | None:
    """What is wrong with a close frame's payload, if anything (sections 5.5.1 and 7.4)."""
    if not payload:
        return None
    if len(payload) == 1:
        return WebSocketError(PROTOCOL_ERROR, "a close frame of one byte")
    code = payload[0] << 8 | payload[1]
    if not ((1000 <= code <= 1014 and code not in (1004, NO_STATUS, 1006)) or 3000 <= code <= 4999):
        return WebSocketError(PROTOCOL_ERROR, f"close code {code} may not be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return WebSocketError(INVALID_DATA, "a close reason that is not UTF-8")
    return None


def is_upgrade(environ: dict[str, Any]) -> bool:
    """Whether a request asks for a WebSocket."""
    connection = environ.get("HTTP_CONNECTION", "").lower().split(",")
    return (
        "upgrade" in (token.strip() for token in connection) and environ.get("HTTP_UPGRADE", "").lower() == "websocket"
    )


def serve(
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    max_message_bytes: int,
    scratch: bytearray,
    handler: Callable[[WebSocket], None],
) -> list[bytes]:
    """Answer a handshake (section 4.2) and run `handler` with the connection; a WSGI application on eventlet.wsgi."""
    version = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
    if version != "13":
        start_response("426 Upgrade Required", [("Sec-WebSocket-Version", "13"), ("Connection", "close")])
        return [b"WebSocket version 13 is needed\n"]
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
    try:
        key_size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        key_size = 0
    if key_size != 16 or not is_upgrade(environ):
        start_response("400 Bad Request", [("Connection", "close")])
        return [b"not a WebSocket handshake\n"]
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()
    sock = environ["eventlet.input"].get_socket()
    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    try:
        sock.sendall(answer.encode())
        # Or an ack that follows another message waits for the peer's delayed TCP acknowledgement, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # the handler sees the end at once
    websocket = WebSocket(sock, max_message_bytes, scratch)
    try:
        handler(websocket)
    finally:
        websocket.abort()
        wsgi.WSGI_LOCAL.already_handled = True  # eventlet.wsgi: nothing more to answer, close the socket
    return []
