"""WebSocket (RFC 6455), the server's side: the handshake, and the connection that feeds a reader and sends.

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
from typing import Any, Final, NamedTuple

import eventlet
from eventlet import hubs, wsgi
from greenlet import GreenletExit

from engine.reader import (
    BINARY,
    CLOSE,
    INVALID_DATA,
    NO_STATUS,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    Buffer,
    MessageReader,
    WebSocketError,
)
from engine.unfinished import Unfinished

logger = logging.getLogger(__name__)

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
#: One receive reads at most so much beyond the frame under way. Larger ones were measured without gain.
SCRATCH_BYTES: Final = 64 * 1024
#: What waits for a client that reads slower than we send. Beyond that the connection ends: an ack is 60 bytes, so
#: this is far more than any working client leaves lying, and 1,000 stalled ones still fit into memory.
MAX_OUTGOING_BYTES: Final = 16 * 1024 * 1024
MAX_OUTGOING_MESSAGES: Final = 1_000
#: How long the peer may take to answer our close frame before the socket is closed all the same.
CLOSE_WAIT_SEC: Final = 2.0


class Limits(NamedTuple):
    """What one connection may do.

    Attributes:
        max_message_bytes: of a message's payload, all fragments together.
        max_text_bytes: the same of a message that is text; None for no other limit.
        max_outgoing_bytes: of what waits for a client that reads slower than we send.
    """

    max_message_bytes: int
    max_text_bytes: int | None = None
    max_outgoing_bytes: int = MAX_OUTGOING_BYTES


class WebSocket:
    """One accepted WebSocket on eventlet's sockets.

    Sending never waits: what the socket does not take at once is kept, within bounds, and sent by a greenlet that
    lives only as long as there is something to send.

    Args:
        sock: the green socket, after the handshake.
        scratch: as for `MessageReader`.
        unfinished: where it is counted what the connection holds of a message under way.
    """

    def __init__(self, sock: Any, limits: Limits, scratch: bytearray, unfinished: Unfinished | None = None) -> None:
        self._socket: socket.socket = sock.fd
        self._fileno: int = self._socket.fileno()
        self._max_outgoing_bytes = limits.max_outgoing_bytes
        self._unfinished = unfinished or Unfinished(limits.max_message_bytes * 2)
        self._reader = MessageReader(limits.max_message_bytes, scratch, limits.max_text_bytes, self._hold)
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
            self._send_frame(TEXT, message.encode("utf-8", "replace"))
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
            if self._sender is not None:  # or it would wait for a socket that is closed
                hubs.get_hub().schedule_call_global(0, self._sender.kill)
            self._unfinished.hold(self, 0)
            self._reader.forget()  # or all of it stays until Python looks for cycles
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster

    def give_way(self) -> None:
        """Others need the memory that this connection's unfinished message takes."""
        self.close_reason = "its unfinished message took most memory for longest, and others need it"
        self._messages.clear()
        self.abort()

    def _hold(self, size: int) -> None:
        if not self._ended:
            self._unfinished.hold(self, size)

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
            received = self._reader.received(count)
            if not self._ended:  # or it has given way meanwhile
                self._messages.extend(received)
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
            self._close_sent = True
            self._finish_sending()
        self._messages.clear()
        self.abort()

    def _fail(self, error: WebSocketError) -> None:
        if self._ended:
            return
        self.close_reason = str(error)
        self._messages.clear()
        self._reader.forget()
        self._unfinished.hold(self, 0)
        if not self._close_sent:
            self._send_frame(CLOSE, struct.pack("!H", error.code))
            self._close_sent = True
            self._finish_sending()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._drain()
        self.abort()

    def _finish_sending(self) -> None:
        """Wait until what is queued has been sent, at most `CLOSE_WAIT_SEC`."""
        if self._sender is not None:
            deadline = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)
            try:
                self._sender.wait()
            finally:
                deadline.cancel()

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
        if self._outgoing_bytes > self._max_outgoing_bytes or len(self._outgoing) > 2 * MAX_OUTGOING_MESSAGES:
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
        except GreenletExit:
            pass  # the connection has been aborted
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
    limits: Limits,
    scratch: bytearray,
    handler: Callable[[WebSocket], None],
    unfinished: Unfinished | None = None,
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
    websocket = WebSocket(sock, limits, scratch, unfinished)
    try:
        handler(websocket)
    finally:
        websocket.abort()
        wsgi.WSGI_LOCAL.already_handled = True  # eventlet.wsgi: nothing more to answer, close the socket
    return []
