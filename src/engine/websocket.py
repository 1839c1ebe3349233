"""WebSocket (RFC 6455), the server's side: the handshake, and the connection that feeds a reader and sends.

No extension is ever agreed on: images are compressed already, and permessage-deflate would only cost time.
"""

import base64
import binascii
import hashlib
import itertools
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import eventlet
from eventlet import hubs
from greenlet import GreenletExit

from engine.reader import (
    BINARY,
    CLOSE,
    IMAGE,
    INVALID_DATA,
    NO_STATUS,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    REFUSED,
    TEXT,
    Announcements,
    Buffer,
    ImageSink,
    Message,
    MessageReader,
    WebSocketError,
)
from engine.readers import MakeReader
from engine.transport import transport_of
from engine.unfinished import Unfinished

logger = logging.getLogger(__name__)

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
#: One receive reads at most so much beyond the frame under way. When many frames wait in a socket, the calls and turns
#: that this saves are worth a quarter of a frame of 50 KB, and still the buffer stays in a core's second cache.
SCRATCH_BYTES: Final = 512 * 1024
#: What waits for a client that reads slower than we send. Beyond that the connection ends: an ack is 60 bytes, so
#: this is far more than any working client leaves lying, and 1,000 stalled ones still fit into memory.
MAX_OUTGOING_BYTES: Final = 16 * 1024 * 1024
MAX_OUTGOING_MESSAGES: Final = 1_000
#: How long the peer may take to answer our close frame before the socket is closed all the same.
CLOSE_WAIT_SEC: Final = 2.0


#: Not of the protocol: what a reader found wrong, in its place among the messages.
FAULT: Final = 0xF

#: Of the rest of a frame so few bytes are not worth the two calls that it takes to be told when all are there.
SMALL_REST_BYTES: Final = 2048
#: And at most so many are waited for, which is all of most cameras' frames: the socket must have room for them.
MAX_WAKE_BYTES: Final = 256 * 1024
#: Of refused images so many receives are made in one turn: nothing of them is copied, and each takes two.
RECEIVES_OF_REFUSED: Final = 32
#: What waits for a slow reader is sent in so many pieces at once.
BUFFERS_A_SEND: Final = 64


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


class ReaderKind(NamedTuple):
    """How messages are read.

    Attributes:
        make: makes a `MessageReader`, or what does the same.
        announcements: of images, which then take the short way.
    """

    make: MakeReader = MessageReader
    announcements: Announcements | None = None


ANY_READER: Final = ReaderKind()


class Handler(Protocol):
    """Gets what comes over a WebSocket."""

    def receive(self, message: str | bytes) -> None:
        """A message has come. May wait: nothing more is received meanwhile."""

    def receive_image(self, kind: int, image: Any, number: str | None, event: str | None) -> None:
        """An image has come the short way, or gone by, see `MessageReader`. May not wait."""

    def sink(self) -> ImageSink | None:
        """Asked when everything that came has been handled: who takes images on the short way, if anybody."""

    def ended(self) -> None:
        """The connection has ended, whoever ended it. May wait."""


class WebSocket:
    """One accepted WebSocket, driven by the loop.

    While nothing comes there is no greenlet for it. Images are handed on by the loop itself; for a message one begins,
    and ends when everything that came has been handled. Sending never waits either: what the socket does not take at
    once is kept, within bounds, and sent by a greenlet that lives only as long as there is something to send.

    Args:
        sock: the green socket, after the handshake; nothing else may use it any more.
        scratch: as for `MessageReader`.
        unfinished: where it is counted what the connection holds of a message under way.
        reader_kind: how messages are read.
        prefix: as for `MessageReader`.
        close_socket: called once when all is over.

    Attributes:
        close_reason: why the connection was closed from our side, for the log; empty when the peer closed it.
    """

    __slots__ = (
        "__weakref__", "_close_sent", "_close_socket", "_close_timer", "_corked", "_ended", "_fileno", "_handler",
        "_last_receive", "_listener", "_max_outgoing_bytes", "_messages", "_more_due", "_outgoing", "_outgoing_bytes",
        "_reader", "_sender", "_socket", "_transport", "_unfinished", "_wake_at", "_working", "close_reason",
    )  # fmt: skip

    def __init__(
        self,
        sock: Any,
        limits: Limits,
        scratch: bytearray,
        unfinished: Unfinished | None = None,
        reader_kind: ReaderKind = ANY_READER,
        prefix: bytes = b"",
        close_socket: Callable[[], object] | None = None,
    ) -> None:
        self._socket = sock  # it would be closed when nobody has it any more
        self._transport = transport_of(sock)
        self._fileno: int = self._transport.fileno
        self._close_socket = close_socket or sock.close
        self._max_outgoing_bytes = limits.max_outgoing_bytes
        self._unfinished = unfinished or Unfinished(limits.max_message_bytes * 2)
        self._reader = reader_kind.make(
            limits.max_message_bytes, scratch, limits.max_text_bytes, self._hold, reader_kind.announcements, prefix
        )
        self._handler: Handler | None = None
        self._listener: Any = None
        self._working = False  # a greenlet handles what came
        self._more_due = False  # what came before is read on in the next turn
        self._wake_at = 1
        self._messages: deque[Message] = deque()
        self._outgoing: deque[Buffer] = deque()
        self._outgoing_bytes = 0
        self._corked: list[Buffer] | None = None
        self._sender: Any = None
        self._close_sent = False
        self._ended = False
        self._close_timer: Any = None
        self._last_receive = time.monotonic()
        self.close_reason = ""

    # -- receiving

    def start(self, handler: Handler) -> None:
        """From now on this handler gets what comes; called again by a handler, the new one takes over."""
        self._handler = handler
        if self._working:
            return
        self._resume()
        if self._ended:
            self._work()
        else:
            self._listen()

    @property
    def started(self) -> bool:
        return self._handler is not None

    def heard_at(self) -> float:
        """When bytes of any kind last came from the peer (time.monotonic)."""
        if self._wake_at > 1:
            self._receive()  # or those that are fewer than we wanted to be told of
        return self._last_receive

    def _listen(self) -> None:
        if self._listener is None and not self._ended:
            hub = hubs.get_hub()
            self._listener = hub.add(hub.READ, self._fileno, self._receive, _nothing_thrown, None)

    def _unlisten(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            hubs.get_hub().remove(listener)

    def _receive(self, _fileno: int = -1) -> None:
        """Receive once, as something is there. Called by the loop: one receive a turn keeps connections fair."""
        if self._working or self._ended:
            self._unlisten()  # it waits in its socket until what came before has been handled
            return
        if self._more_due:
            return  # it has its turn already
        reader = self._reader
        messages: list[Message] | None
        try:
            messages = reader.receive(self._transport)
            if reader.skipping or (messages and messages[-1][0] == REFUSED):
                self._receive_refused(messages)
        except BlockingIOError:
            return
        except WebSocketError as error:
            messages = [(FAULT, error)]
        except OSError:
            messages = None
        except Exception:
            logger.exception("a connection could not be read")
            messages = None
        if messages is None:
            self.abort()
            return
        self._last_receive = time.monotonic()
        if messages:
            self._act_on(messages)
        wake_at = reader.missing
        wake_at = 1 if wake_at < SMALL_REST_BYTES else min(wake_at, MAX_WAKE_BYTES)
        if wake_at != self._wake_at and not self._ended:
            self._wake_at = wake_at
            self._transport.wake_at(wake_at)
        self._look_for_more()

    def _receive_refused(self, messages: list[Message] | None) -> None:
        """Go on where images are refused: a few more receives cost less than a turn each."""
        reader = self._reader
        for _ in range(RECEIVES_OF_REFUSED):
            if messages is None or reader.more or not (reader.skipping or (messages and messages[-1][0] == REFUSED)):
                break
            try:
                messages += reader.receive(self._transport) or ()
            except WebSocketError as error:
                messages.append((FAULT, error))
            except OSError:
                break  # nothing is there, or the end, which the next turn will see

    def _resume(self) -> None:
        """All that came has been handled, so images may take their short way; not those behind a message that is half
        there, for it may change what they mean."""
        assert self._handler is not None
        self._reader.resume(None if self._reader.missing else self._handler.sink())

    def _look_for_more(self) -> None:
        """Go on with what the socket will not tell of, in the next turn."""
        if not self._more_due and (self._reader.more or self._transport.pending):
            self._more_due = True
            hubs.get_hub().schedule_call_global(0, self._receive_more)

    def _receive_more(self) -> None:
        self._more_due = False
        if not (self._working or self._ended) and (self._reader.more or self._transport.pending):
            self._receive()

    def _act_on(self, messages: list[Message]) -> None:
        """Hand on images, answer pings; the first message and all that follows it is for a greenlet, as it may take
        its time."""
        handler = self._handler
        assert handler is not None
        if len(messages) > 1:
            self._corked = []
        try:
            for number, message in enumerate(messages):
                kind = message[0]
                if kind >= IMAGE:
                    handler.receive_image(*message)
                elif kind == PING:
                    self._send_frame(PONG, message[1])
                elif kind != PONG:
                    self._messages.extend(messages[number:] if number else messages)
                    self._begin_work()
                    break
        except Exception:
            logger.exception("an image could not be taken")
            self.abort()
        corked, self._corked = self._corked, None
        if corked and not self._ended:
            self._write(corked)

    def _begin_work(self) -> None:
        if not self._working:  # or it has given way while it received this
            self._working = True
            eventlet.spawn_n(self._work)

    def _work(self) -> None:
        """Handle what came, in its order, and the end; in a greenlet."""
        self._working = True
        handler = self._handler
        assert handler is not None
        try:
            while self._messages or self._read_on():
                self._handle(self._messages.popleft())
        except Exception:
            logger.exception("a message could not be handled")
            self.abort()
        finally:
            if self._ended:
                self._finish()
            else:
                self._working = False
                self._resume()
                self._listen()
                self._look_for_more()

    def _read_on(self) -> bool:
        """Whether more messages came with those that have been handled."""
        while not self._ended and self._reader.more:
            eventlet.sleep(0)
            try:
                self._messages.extend(self._reader.received(0))
            except WebSocketError as error:
                self._messages.append((FAULT, error))
            if self._messages:
                return not self._ended  # or it has given way meanwhile
        return False

    def _handle(self, message: Message) -> None:
        kind, payload = message[0], message[1]
        handler = self._handler
        assert handler is not None
        if kind == TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                self._fail(WebSocketError(INVALID_DATA, "text that is not UTF-8"))
            else:
                handler.receive(text)
        elif kind == BINARY:
            handler.receive(payload)
        elif kind == PING:
            self._send_frame(PONG, payload)
        elif kind == CLOSE:
            self._receive_close(payload)
        elif kind == FAULT:
            self._fail(payload)

    def _finish(self) -> None:
        handler, self._handler = self._handler, _ENDED
        assert handler is not None
        try:
            handler.ended()
        finally:
            if self._sender is not None:
                self._sender.kill()
            self.release()

    def release(self) -> None:
        """Close the socket for good, which has been aborted."""
        close_socket, self._close_socket = self._close_socket, _nothing_thrown
        close_socket()

    # -- the end

    def close(self, code: int = NORMAL) -> None:
        """Begin the closing handshake; the socket is closed when the peer has answered, or after `CLOSE_WAIT_SEC`."""
        if not self._close_sent:
            self._send_frame(CLOSE, struct.pack("!H", code))
            self._close_sent = True
            self._close_timer = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)

    def abort(self) -> None:
        """End the connection now; the handler is told, in a greenlet. Harmless when it has ended."""
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
            self._unlisten()
            try:
                self._transport.shut_down()
            except OSError:
                pass  # the peer was faster
            if self._handler is not None and not self._working:
                self._begin_work()

    def give_way(self) -> None:
        """Others need the memory that this connection's unfinished message takes."""
        self.close_reason = "its unfinished message took most memory for longest, and others need it"
        self._messages.clear()
        self.abort()

    def _hold(self, size: int) -> None:
        if not self._ended:
            self._unfinished.hold(self, size)

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
            self._transport.end()
        except OSError:
            pass
        self._drain()
        self.abort()

    def _drain(self) -> None:
        """Read and forget until the peer has seen our close frame: a socket closed with unread bytes takes it back."""
        self._unlisten()
        deadline = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)
        try:
            if self._wake_at > 1:
                self._transport.wake_at(1)
            while not self._ended:
                if self._transport.pending:
                    eventlet.sleep(0)
                else:
                    hubs.trampoline(self._fileno, read=True)
                try:
                    if not self._transport.skip(SCRATCH_BYTES):
                        break
                except BlockingIOError:
                    pass
        except OSError:
            pass
        finally:
            deadline.cancel()

    # -- sending

    def send(self, message: str | Buffer) -> None:
        """Send a message, or queue it behind what is being sent; never waits. Nothing is sent once it is closed."""
        if isinstance(message, str):
            self._send_frame(TEXT, message.encode("utf-8", "replace"))
        else:
            self._send_frame(BINARY, message)

    def ping(self) -> None:
        """Ask for a sign of life; `heard_at` shows it."""
        self._send_frame(PING, b"")

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
        if self._corked is not None:
            self._corked += (head, payload)
        else:
            self._write((head, payload))

    def _write(self, buffers: Sequence[Buffer]) -> None:
        if self._outgoing:
            self._queue(buffers)
            return
        try:
            sent = self._transport.send(buffers)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        for number, buffer in enumerate(buffers):
            if sent < len(buffer):
                self._queue([memoryview(buffer)[sent:], *buffers[number + 1 :]])
                return
            sent -= len(buffer)

    def _queue(self, buffers: Sequence[Buffer]) -> None:
        self._outgoing.extend(buffer for buffer in buffers if len(buffer))  # an empty one would never have been sent
        self._outgoing_bytes += sum(map(len, buffers))
        if self._outgoing_bytes > self._max_outgoing_bytes or len(self._outgoing) > 2 * MAX_OUTGOING_MESSAGES:
            self.close_reason = (
                f"it does not read: {self._outgoing_bytes} bytes in {len(self._outgoing)} pieces wait for it"
            )
            self.abort()
        elif self._sender is None:
            self._sender = eventlet.spawn(self._send_queued)

    def _send_queued(self) -> None:
        outgoing = self._outgoing
        try:
            while outgoing:
                hubs.trampoline(self._fileno, write=True)
                if not outgoing:
                    break
                try:
                    sent = self._transport.send(list(itertools.islice(outgoing, BUFFERS_A_SEND)))
                except BlockingIOError:
                    continue
                self._outgoing_bytes -= sent
                while sent:
                    buffer = outgoing.popleft()
                    if sent < len(buffer):
                        outgoing.appendleft(memoryview(buffer)[sent:])
                    sent -= min(sent, len(buffer))
        except OSError:
            self.abort()
        except GreenletExit:
            pass  # the connection has been aborted
        finally:
            self._sender = None

    def _finish_sending(self) -> None:
        """Wait until what is queued has been sent, at most `CLOSE_WAIT_SEC`."""
        if self._sender is not None:
            deadline = hubs.get_hub().schedule_call_global(CLOSE_WAIT_SEC, self.abort)
            try:
                self._sender.wait()
            finally:
                deadline.cancel()


class _Ended:
    """The handler of a connection that is over."""

    def receive(self, message: str | bytes) -> None: ...

    def receive_image(self, kind: int, image: Any, number: str | None, event: str | None) -> None: ...

    def sink(self) -> None: ...

    def ended(self) -> None: ...


_ENDED: Final = _Ended()


def _nothing_thrown(*_: object) -> None:
    """The loop has nothing to say to us that the socket does not."""


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
    make: Callable[[Any, Callable[[], object]], WebSocket],
    handler: Callable[[WebSocket], None],
) -> list[bytes]:
    """Answer a handshake (section 4.2); a WSGI application on our HTTP server, from which it takes the socket over.

    Args:
        make: makes the connection of a green socket and of what closes it.
        handler: called with the connection, which it starts before it returns; or else it ends.
    """
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
    sock, close_socket = environ["http1.take_over"]()
    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    try:
        sock.sendall(answer.encode())
        # Or an ack that follows another message waits for the peer's delayed TCP acknowledgement, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # whoever receives sees the end at once
    websocket = make(sock, close_socket)
    try:
        handler(websocket)
    finally:
        if not websocket.started:
            websocket.abort()
            websocket.release()
    return []
