"""The clients of the load generator: each is one connection that logs in and sends its image over and over.

Nothing here waits or sleeps: a client does the next step when its socket can be read or written, or when it is told to
by `load.py`, whose selector they all share. What is sent again and again is encoded and masked once, before.
"""

import json
import os
import selectors
import socket
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from client_sim import load_wire as wire
from client_sim.figures import Latencies
from client_sim.load_images import jpeg

#: What is given to a socket at once: enough that a frame of 5 KB costs next to nothing, little enough that 200 clients
#: take no more memory than a browser.
BLOCK_BYTES: Final = 256 * 1024
_RECEIVE_BYTES: Final = 64 * 1024
#: Servers close connections that were idle for 5 s (Node) or longer; it is opened again before that, for what is sent
#: in that moment would be lost.
_IDLE_SEC: Final = 3.0
_LOGIN_EVENT: Final = "onAuthentication"
_TEXT_CONTENT: Final = "text/plain;charset=UTF-8"
_BINARY_CONTENT: Final = "application/octet-stream"
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Parts = list[memoryview]


class ServerAddress(NamedTuple):
    """Where the server is, looked up once for all clients."""

    family: int
    address: Any
    host: str
    """As the Host header has it."""

    def __str__(self) -> str:
        return f"http://{self.host}"


class Plan(NamedTuple):
    """What a client is to do.

    Args:
        number: from 0; each one's image is another.
        protocol: of Engine.IO, 3 or 4.
        acks: ask for an ack of each frame, not only of the last one.
        piece_bytes: give the socket so much at a time, and then it is the others' turn; None: as much as it takes.
    """

    server: ServerAddress
    number: int
    protocol: int
    user: str
    password: str
    image_bytes: int
    acks: bool
    piece_bytes: int | None


@dataclass
class Tally:
    """What all clients have counted together.

    Args:
        frames: given to the sockets.
        asked, accepted, refused: frames whose ack was asked for, and what the acks said, refusals by reason.
        errors: `serverError` events, by code.
        troubles: why clients gave up, with how many did.
    """

    frames: int = 0
    asked: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)


class Channel:
    """A socket that sends what there is to send as fast as the peer takes it, one send for each turn of the loop.

    Args:
        receive: is given what comes.
        more: asked for what to send next when all has been sent; an empty list is nothing.
        ended: called when the peer has closed the connection.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        client: "Client",
        receive: Callable[[bytes], None],
        more: Callable[[], Parts],
        ended: Callable[[], None],
    ) -> None:
        self.client = client
        self.used_at = 0.0
        self._selector = selector
        self._receive = receive
        self._more = more
        self._ended = ended
        self._piece_bytes = client.plan.piece_bytes
        self._socket: socket.socket | None = None
        self._connecting = False
        self._events = 0
        self._parts: Parts = []

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def sending(self) -> bool:
        return bool(self._parts)

    def open(self) -> None:
        """Begin to connect."""
        server = self.client.plan.server
        self._socket = sock = socket.socket(server.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.used_at = time.monotonic()
        self._connecting = True
        self._events = _READ | _WRITE
        self._selector.register(sock, self._events, self)
        try:
            sock.connect(server.address)
        except BlockingIOError:
            pass

    def put(self, *parts: bytes | memoryview) -> None:
        """Send this, after what is still under way."""
        self._parts += map(memoryview, parts)
        self.flush()

    def handle(self, events: int) -> None:
        """The socket can be read, or written.

        Raises:
            OSError, ValueError: the connection is over, or what came is not what a server says.
        """
        assert self._socket is not None
        if self._connecting:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            self._connecting = False
        if events & _READ:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                pass
            else:
                self.client.progress_at = self.used_at = time.monotonic()
                if not data:
                    self._ended()
                    return
                self._receive(data)
        if events & _WRITE:
            self.flush()

    def flush(self) -> None:
        """Send once, if there is something to send, and ask to be called again if there is more."""
        sock = self._socket
        if sock is None or self._connecting:
            return
        parts = self._parts
        if not parts:
            parts = self._parts = self._more()
        if parts:
            try:
                if self._piece_bytes is not None:
                    sent = sock.send(parts[0][: self._piece_bytes])
                elif len(parts) == 1:
                    sent = sock.send(parts[0])
                else:
                    sent = sock.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            if sent:
                self.client.progress_at = self.used_at = time.monotonic()
                while parts and sent >= len(parts[0]):
                    sent -= len(parts.pop(0))
                if sent:
                    parts[0] = parts[0][sent:]
                if not parts:
                    parts = self._parts = self._more()
        events = _READ | _WRITE if parts else _READ
        if events != self._events and self._socket is not None:  # `more` may have closed it
            self._events = events
            self._selector.modify(sock, events, self)

    def end_sending(self) -> None:
        """Tell the peer that nothing more comes."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Harmless when it is closed."""
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            self._parts = []


class Client(ABC):
    """One connection.

    Args:
        settled: called when it is logged in, when it has done what it was told to, or when it has failed.

    Attributes:
        doing: what it waits for, in the words of a complaint.
        progress_at: when it could last send or receive anything, by the monotonic clock.
        sent: frames, since it connected.
        failed: why it gave up, None while it is well.
    """

    def __init__(
        self, plan: Plan, tally: Tally, selector: selectors.BaseSelector, settled: Callable[["Client"], None]
    ) -> None:
        self.plan = plan
        self.tally = tally
        self.doing = "connecting"
        self.progress_at = time.monotonic()
        self.sent = 0
        self.failed: str | None = None
        self._selector = selector
        self._settled = settled
        self._queued = 0
        self._emitted_at: deque[float] = deque()
        self._finishing = False

    # -- what the generator tells it to do

    @abstractmethod
    def start(self) -> None:
        """Connect and log in."""

    @abstractmethod
    def prepare(self, frames_at_once: int) -> None:
        """Make ahead what will be sent, at most so many frames at a time."""

    def queue(self, frames: int, last: bool) -> None:
        """Send so many frames as soon as the socket takes them.

        Args:
            last: these are the last ones for now; `settled` is called when the server has all of them.
        """
        self.doing = "sending" if not last else "waiting for the last ack"
        if not self.expects_something:
            self.progress_at = time.monotonic()
        if self.plan.acks and frames == 1:
            self._emitted_at.append(time.perf_counter())
        self._queued += frames
        self._finishing = last
        self._flush()

    def cut_short(self) -> None:
        """Send one frame more, the last one, instead of those that are queued."""
        self._queued = 0
        self.queue(1, last=True)

    @property
    @abstractmethod
    def expects_something(self) -> bool:
        """Whether it is the server's turn: to take what was sent, or to answer."""

    @abstractmethod
    def heartbeat(self, now: float) -> None:
        """Called once a second."""

    @abstractmethod
    def close(self) -> None:
        """End the connection without a word; harmless when it is over."""

    def fail(self, why: str) -> None:
        """Give up; said once per reason, with how many clients it happened to."""
        if self.failed is None:
            self.failed = why
            self.tally.troubles[why] += 1
            self.close()
            self._settled(self)

    # -- what its kind does

    @abstractmethod
    def _flush(self) -> None:
        """Send what is queued."""


class RawClient(Client):
    """Sends what a WebSocket client would, to a program that only reads (bench/peers/sink.c): what moving bytes costs.

    It says nothing else, and when it has closed its half of the connection the program tells, in digits and a line
    feed, how many bytes came.
    """

    def __init__(
        self, plan: Plan, tally: Tally, selector: selectors.BaseSelector, settled: Callable[[Client], None]
    ) -> None:
        super().__init__(plan, tally, selector, settled)
        self._told = b""
        self._sent_bytes = 0
        self._frame, self._block = b"", memoryview(b"")
        self._channel = Channel(selector, self, self._receive, self._more, self._ended)

    def start(self) -> None:
        self._channel.open()
        self._settled(self)

    def prepare(self, frames_at_once: int) -> None:
        self._frame, self._block = _masked_block(self.plan, frames_at_once)

    @property
    def expects_something(self) -> bool:
        return self._queued > 0 or self._channel.sending or self._finishing

    def heartbeat(self, now: float) -> None:
        pass  # it has none

    def close(self) -> None:
        self._channel.close()

    def _flush(self) -> None:
        self._channel.flush()

    def _more(self) -> Parts:
        if not self._queued:
            if self._finishing:
                self._channel.end_sending()
            return []
        frames = min(self._queued, len(self._block) // len(self._frame))
        self._queued -= frames
        self.sent += frames
        self.tally.frames += frames
        self._sent_bytes += frames * len(self._frame)
        return [self._block[: frames * len(self._frame)]]

    def _receive(self, data: bytes) -> None:
        self._told += data
        if self._told.endswith(b"\n"):
            if int(self._told) != self._sent_bytes:
                raise ValueError(f"{int(self._told)} bytes were read of {self._sent_bytes}")
            self._finishing = False
            self._settled(self)

    def _ended(self) -> None:
        if not self._told.endswith(b"\n"):
            raise ConnectionError("the server closed the connection")
        self.close()


class SocketioClient(Client):
    """A client that joins the default namespace, logs in, and sends `receiveImage`; the transports differ below."""

    def __init__(
        self, plan: Plan, tally: Tally, selector: selectors.BaseSelector, settled: Callable[[Client], None]
    ) -> None:
        super().__init__(plan, tally, selector, settled)
        self._asked_at: dict[int, float] = {}
        self._ping_sec = 0.0
        self._ping_at = float("inf")
        self._logged_in = False
        self._last_error = ""

    @property
    def _query(self) -> str:
        return f"/socket.io/?EIO={self.plan.protocol}&transport="

    @property
    def expects_something(self) -> bool:
        return not self._logged_in or self._queued > 0 or bool(self._asked_at) or self._sending

    @property
    @abstractmethod
    def _sending(self) -> bool:
        """Whether something is under way that the server has not taken."""

    def heartbeat(self, now: float) -> None:
        if now >= self._ping_at:
            self._ping_at = now + self._ping_sec
            self._send_packet("2")

    @abstractmethod
    def _send_packet(self, packet: str) -> None:
        """Send a packet of Engine.IO, before frames that wait."""

    def _wants_ack(self) -> bool:
        """Whether the next frame is to ask for an ack."""
        return self.plan.acks or (self._finishing and self._queued == 1)

    def _begin_frames(self, frames: int) -> None:
        self._queued -= frames
        self.sent += frames
        self.tally.frames += frames

    def _begin_asking(self) -> int:
        """Begin a frame that asks for an ack; returns its id, which is its number on the connection."""
        self._begin_frames(1)
        self.tally.asked += 1
        self._asked_at[self.sent] = self._emitted_at.popleft() if self._emitted_at else time.perf_counter()
        return self.sent

    def _receive_packet(self, packet: str | bytes) -> None:
        if isinstance(packet, bytes):
            return  # an image for somebody who looks at images
        match packet[:1]:
            case "0":
                self._receive_handshake(json.loads(packet[1:]))
            case "1":
                raise ConnectionError(f"the server closed the session while {self.doing}{self._last_error}")
            case "2":
                self._send_packet("3" + packet[1:])
            case "4":
                self._receive_message(packet[1:2], packet[2:])

    def _receive_handshake(self, terms: dict[str, Any]) -> None:
        self.doing = "joining the default namespace"
        if self.plan.protocol == 4:
            self._send_packet("40")  # and the server pings
        else:
            self._ping_sec = terms["pingInterval"] / 1000
            self._ping_at = time.monotonic() + self._ping_sec

    def _receive_message(self, kind: str, data: str) -> None:
        match kind:
            case "0" if not self._logged_in:
                self.doing = "logging in"
                self._send_packet(wire.login_text(self.plan.user, self.plan.password, _LOGIN_EVENT))
            case "1":
                raise ConnectionError(f"the server disconnected the client while {self.doing}{self._last_error}")
            case "2":
                self._receive_event(*json.loads(data))
            case "3":
                ack_id, _, answers = data.partition("[")
                self._receive_ack(int(ack_id), json.loads("[" + answers))
            case "4":
                raise ConnectionError(f"the server refuses the connection: {data[:200]}")

    def _receive_event(self, name: str, *arguments: Any) -> None:
        if name == _LOGIN_EVENT:
            if arguments != (True,):
                raise ConnectionError(f"the server refuses {self.plan.user} with this password (--user, --password)")
            self._logged_in = True
            self.doing = "sending"
            self._settled(self)
        elif name == "serverError":
            self.tally.errors[str(arguments[0]) if arguments else "?"] += 1
            self._last_error = f" ({arguments[-1]})" if arguments else ""

    def _receive_ack(self, ack_id: int, answers: list[Any]) -> None:
        asked_at = self._asked_at.pop(ack_id, None)
        if asked_at is None:
            raise ValueError(f"ack {ack_id} came twice, or was never asked for")
        self.tally.latencies.record(time.perf_counter() - asked_at)
        answer = answers[0] if answers and isinstance(answers[0], dict) else {}
        if answer.get("accepted", True):
            self.tally.accepted += 1
        else:
            self.tally.refused[str(answer.get("reason", "?"))] += 1
        if answer.get("seq", ack_id) != ack_id:
            raise ValueError(f"the server counted {answer['seq']} frames of {ack_id}")
        if self._finishing and not self._queued and not self._asked_at:
            self._finishing = False
            self._settled(self)

    def _ended(self) -> None:
        raise ConnectionError(f"the server closed the connection while {self.doing}{self._last_error}")


class WebSocketClient(SocketioClient):
    """Over a WebSocket from the start, all frames with the same mask, so that they are masked once."""

    def __init__(
        self, plan: Plan, tally: Tally, selector: selectors.BaseSelector, settled: Callable[[Client], None]
    ) -> None:
        super().__init__(plan, tally, selector, settled)
        self._mask = os.urandom(4)
        self._key = b64encode(os.urandom(16)).decode()
        self._answers: wire.AnswerReader | None = wire.AnswerReader()
        self._frames = wire.FrameReader()
        self._control: deque[bytes] = deque()
        self._block = self._image = memoryview(b"")
        self._frame_bytes = 0
        self._channel = Channel(selector, self, self._receive, self._more, self._ended)

    def start(self) -> None:
        self.doing = "asking for a WebSocket"
        self.progress_at = time.monotonic()
        self._channel.open()
        self._channel.put(wire.upgrade_request(self._query + "websocket", self.plan.server.host, self._key))

    def prepare(self, frames_at_once: int) -> None:
        frame, self._block = _masked_block(self.plan, frames_at_once, self._mask)
        self._frame_bytes = len(frame)
        self._image = self._block[len(_masked_text(None, self._mask)) : len(frame)]

    def close(self) -> None:
        self._channel.close()

    @property
    def _sending(self) -> bool:
        return self._channel.sending

    def _flush(self) -> None:
        self._channel.flush()

    def _send_packet(self, packet: str) -> None:
        self._send_control(wire.TEXT, packet.encode())

    def _send_control(self, opcode: int, payload: bytes) -> None:
        self._control.append(wire.masked_frame(opcode, payload, self._mask))
        self._channel.flush()

    def _more(self) -> Parts:
        if self._control:
            return [memoryview(self._control.popleft())]
        if not self._queued:
            return []
        if self._wants_ack():
            return [memoryview(_masked_text(self._begin_asking(), self._mask)), self._image]
        frames = min(self._queued - self._finishing, len(self._block) // self._frame_bytes)
        self._begin_frames(frames)
        return [self._block[: frames * self._frame_bytes]]

    def _receive(self, data: bytes) -> None:
        if self._answers is not None:
            answer = self._answers.feed(data)
            if answer is None:
                return
            if answer.status != 101:
                raise ConnectionError(answer.refusal(str(self.plan.server)))
            if answer.headers.get("sec-websocket-accept") != wire.accept_of(self._key):
                raise ConnectionError(f"{self.plan.server} does not answer as a WebSocket server")
            data, self._answers = self._answers.rest(), None
            self.doing = "waiting for the handshake of Engine.IO"
        for opcode, payload in self._frames.feed(data):
            if opcode == wire.TEXT:
                self._receive_packet(payload.decode())
            elif opcode == wire.PING:
                self._send_control(wire.PONG, payload)
            elif opcode == wire.CLOSE:
                raise ConnectionError(
                    f"the server closed the WebSocket{_close_reason(payload)} while {self.doing}{self._last_error}"
                )


class PollingClient(SocketioClient):
    """Over HTTP: a GET that always waits for what the server says, and beside it a POST for each frame.

    Both connections are kept open. The next POST goes out when the last one was answered.
    """

    def __init__(
        self, plan: Plan, tally: Tally, selector: selectors.BaseSelector, settled: Callable[[Client], None]
    ) -> None:
        super().__init__(plan, tally, selector, settled)
        # Not above: it brings along three libraries that nothing else here needs.
        from client_sim import protocol3

        self._payload3 = protocol3
        self._target = self._query + "polling"
        self._polls = Channel(selector, self, self._receive_poll, list, self._ended)
        self._posts = Channel(selector, self, self._receive_answer, list, self._posts_ended)
        self._poll_answers, self._post_answers = wire.AnswerReader(), wire.AnswerReader()
        self._posting = self._has_session = False
        self._control: list[str] = []
        self._image = b""

    def start(self) -> None:
        self.doing = "asking for a session"
        self.progress_at = time.monotonic()
        self._poll()

    def prepare(self, frames_at_once: int) -> None:
        image = jpeg(self.plan.image_bytes, self.plan.number)
        if self.plan.protocol == 4:
            self._image = b"b" + b64encode(image)
        else:
            self._image = self._payload3.encode_payload([b"\x04" + image])

    def close(self) -> None:
        # Or the server would wait a minute for the next poll. One that is busy with a frame is not told.
        if self._has_session and self._posts.is_open and not self._posting:
            self._has_session = False
            try:
                self._send_packet("1")
            except OSError:
                pass
        self._polls.close()
        self._posts.close()

    @property
    def _sending(self) -> bool:
        return self._posting

    def _poll(self) -> None:
        if not self._polls.is_open:
            self._polls.open()
        self._polls.put(wire.get_request(self._target, self.plan.server.host))

    def _receive_poll(self, data: bytes) -> None:
        answer = self._poll_answers.feed(data)
        if answer is None:
            return
        if answer.status != 200:
            raise ConnectionError(answer.refusal(str(self.plan.server)))
        if answer.headers.get("connection", "").lower() == "close":
            self._polls.close()
        packets: list[str | bytes]
        if self.plan.protocol == 4:
            packets = list(answer.body.decode().split("\x1e"))
        else:
            packets = self._payload3.decode_payload(
                answer.body, answer.headers.get("content-type", "").partition(";")[0]
            )
        for packet in packets:
            if self.failed is None:
                self._receive_packet(packet)
        if self.failed is None:
            self._poll()

    def _receive_handshake(self, terms: dict[str, Any]) -> None:
        self._target += f"&sid={terms['sid']}"
        self._has_session = True
        super()._receive_handshake(terms)

    def _send_packet(self, packet: str) -> None:
        self._control.append(packet)
        self._flush()

    def _flush(self) -> None:
        if self._posting or self.failed is not None:
            return
        if self._control:
            packets, self._control = self._control, []
            if self.plan.protocol == 4:
                self._post(wire.SEPARATOR.join(packet.encode() for packet in packets), b"")
            else:
                self._post(self._payload3.encode_payload(list(packets)), b"")
        elif self._queued:
            ack_id: int | None = None
            if self._wants_ack():
                ack_id = self._begin_asking()
            else:
                self._begin_frames(1)
            text = wire.frame_text(ack_id)
            if self.plan.protocol == 4:
                self._post(text + wire.SEPARATOR, self._image)
            else:
                self._post(self._payload3.encode_payload([text.decode()]), self._image)

    def _post(self, beginning: bytes, rest: bytes) -> None:
        if self._posts.is_open and time.monotonic() - self._posts.used_at > _IDLE_SEC:
            self._posts.close()
        if not self._posts.is_open:
            self._posts.open()
        self._posting = True
        content_type = _TEXT_CONTENT if self.plan.protocol == 4 else _BINARY_CONTENT
        head = wire.post_head(self._target, self.plan.server.host, content_type, len(beginning) + len(rest))
        self._posts.put(head + beginning, *([rest] if rest else []))

    def _receive_answer(self, data: bytes) -> None:
        answer = self._post_answers.feed(data)
        if answer is None:
            return
        if answer.status != 200:
            raise ConnectionError(answer.refusal(str(self.plan.server)))
        self._posting = False
        if answer.headers.get("connection", "").lower() == "close":
            self._posts.close()
        self._flush()

    def _posts_ended(self) -> None:
        if self._posting:
            self._ended()
        self._posts.close()  # it was idle, and is opened again when it is needed


def _masked_text(ack_id: int | None, mask: bytes) -> bytes:
    return wire.masked_frame(wire.TEXT, wire.frame_text(ack_id), mask)


def _masked_block(plan: Plan, frames_at_once: int, mask: bytes = b"load") -> tuple[bytes, memoryview]:
    """One frame as it goes over a WebSocket, and as many of them as are sent at once."""
    image = jpeg(plan.image_bytes, plan.number)
    payload = image if plan.protocol == 4 else b"\x04" + image
    frame = _masked_text(None, mask) + wire.masked_frame(wire.BINARY, payload, mask)
    return frame, memoryview(frame * max(1, min(frames_at_once, BLOCK_BYTES // len(frame))))


def _close_reason(payload: bytes) -> str:
    if len(payload) < 2:
        return ""
    said = payload[2:].decode("utf-8", "replace")
    return f" with code {int.from_bytes(payload[:2], 'big')}" + (f": {said}" if said else "")
