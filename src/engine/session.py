"""One Engine.IO session: a client over polling, over WebSocket, or on its way from the one to the other.

    handshake ─► polling ─► upgrading ─► websocket ─► closed         a WebSocket handshake begins at `websocket`;
                    └──────────┴────────────┴──────────►┘            a failed upgrade falls back to `polling`

Heartbeat: with protocol 4 the server pings and the client answers, with protocol 3 the client pings and the server
answers. Whatever arrives is a sign of life, so a client in the middle of a large frame on a slow line is not taken
for dead.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from engine import packets
from engine.packets import Packet, ProtocolError
from engine.reader import IMAGE, MAX_ANNOUNCEMENT_BYTES, REFUSED, ImageSink
from engine.websocket import MAX_OUTGOING_BYTES, MAX_OUTGOING_MESSAGES, WebSocket
from green import Signal, call_later, sleep, spawn

if TYPE_CHECKING:
    from engine.engineio_server import EngineServer

#: A client that has begun an upgrade finishes it within this time, or goes on polling.
UPGRADE_SEC: Final = 10.0
#: An answer to a poll holds at most so many packets, as python-engineio's clients take no more; the next poll gets the
#: rest.
MAX_PACKETS_A_POLL: Final = 16
#: How soon it is looked whether a client that was asked for a sign of life has given one; then half as often each time,
#: for hundreds may be asked at once, and be dead.
PROBE_STEP_SEC: Final = 0.02
LAST_PROBE_STEP_SEC: Final = 0.25
#: A polling client that said nothing for this long, and does not come when it is called, is dead.
POLLING_SILENCE_SEC: Final = 10.0
#: Of the packets of a POST so many are acted on before others have their turn.
PACKETS_PER_TURN: Final = 64
#: A client that closes has a poll under way, and shall get it back. The two come on different connections, and nothing
#: says which one is seen first.
CLOSE_GRACE_SEC: Final = 0.02
#: What protocol 3's client may say in its ping, for it is sent back; known ones say `probe` or nothing.
MAX_PING_CHARS: Final = 128


class Session:
    """One client's Engine.IO session.

    Args:
        protocol: 3 or 4.
        as_base64: the client asked for base64 instead of bytes in its handshake (protocol 3 only).

    Attributes:
        upgraded, closed, session: what python-engineio's server looks at: whether a WebSocket carries it, whether it
            has ended, and a dictionary for the application.
        upgrading: a WebSocket has come for it and has not taken over yet.
        cancel_join_deadline: ends the wait for the client to join a namespace, set by the Socket.IO server.
        held: while a namespace is being joined, the messages that must not overtake the answer; else None.
        sink: takes the client's images on their short way.
        attachments_due: the next messages belong to a packet that has come, and take no short way.
        last_seen: when a packet or a poll last came (time.monotonic).
        end_reason: why it has ended, one of python-engineio's reasons.
    """

    def __init__(self, server: "EngineServer", sid: str, protocol: int, as_base64: bool) -> None:
        self.server = server
        self.sid = sid
        self.protocol = protocol
        self.upgrading = False
        self.upgraded = False
        self.closed = False
        self.end_reason = ""
        self.session: dict[str, Any] = {}
        self.held: list[str | bytes] | None = None
        self.sink: ImageSink | None = None
        self.attachments_due = False
        self.last_seen = time.monotonic()
        self._as_base64 = as_base64
        self._websocket: WebSocket | None = None
        self._upgrading_websocket: WebSocket | None = None
        self._websocket_as_base64 = False
        self._probed = False
        self._outbox: deque[Packet] = deque()
        self._outbox_bytes = 0
        self._outbox_filled = Signal()
        self._overflowed = False
        self._polling = False
        self._posting = False
        self._dropped = False
        self._ping_due = self._pinged_at = 0.0
        self._dead_at = float("inf")  # unless it is heard before
        self.cancel_join_deadline: Callable[[], None] = _nothing_to_cancel
        self._cancel_timer: Callable[[], None] = _nothing_to_cancel

    # -- sending

    def send_message(self, data: str | bytes) -> None:
        """Send a message, or hold it until the namespace that is being joined has been answered; never waits."""
        if self.held is not None:
            self.held.append(data)
        else:
            self.send_packet(Packet(packets.MESSAGE, data))

    def send_text(self, text: str) -> None:
        """Send a message that is text, as `send_message` does while no namespace is being joined."""
        if self._websocket is not None and not self.closed:
            self._websocket.send(f"{packets.MESSAGE}{text}")
        else:
            self.send_packet(Packet(packets.MESSAGE, text))

    def send_packet(self, packet: Packet) -> None:
        """Send a packet over the WebSocket, or keep it for the next poll; never waits."""
        if self.closed or self._overflowed:
            return
        if self._websocket is not None:
            self._websocket.send(packets.encode_websocket(packet, self.protocol, self._websocket_as_base64))
            return
        self._outbox.append(packet)
        self._outbox_bytes += len(packet.data)
        if self._outbox_bytes > MAX_OUTGOING_BYTES or len(self._outbox) > MAX_OUTGOING_MESSAGES:
            self._overflowed = True
            # Not here: the application's `disconnect` handler may wait, and whoever sends may not.
            spawn(self.fail, f"it does not poll: {self._outbox_bytes} bytes in {len(self._outbox)} packets wait for it")
        else:
            self._outbox_filled.set()

    def send(self, packet: Any) -> None:
        """Send a message of python-engineio's; its server calls this."""
        data = packet.data
        self.send_message(data if isinstance(data, (str, bytes)) else packet.encode(b64=False)[1:])

    # -- polling

    def poll(self) -> list[Packet]:
        """Wait until there is something to send and return it (a GET); a CLOSE when the server ends the session.

        The client is heard when it comes: that its poll was answered does not show that anybody got the answer.

        Raises:
            ProtocolError: another poll is waiting already, and the session ends; or the session was dropped.
        """
        if self._polling:
            self.fail("two polls at once")
            raise ProtocolError("two polls at once")
        self._polling = True
        self.heard()
        try:
            give_up_at = time.monotonic() + self.server.ping_interval + self.server.ping_timeout
            while not (self._outbox or self.closed or self._probed or self.upgraded):
                if not self._outbox_filled.wait(give_up_at - time.monotonic()):
                    break
        finally:
            self._polling = False
        sent = [self._outbox.popleft() for _ in range(min(len(self._outbox), MAX_PACKETS_A_POLL))]
        self._outbox_bytes -= sum(len(packet.data) for packet in sent)
        if not self.closed or self.end_reason == self.server.reason.CLIENT_DISCONNECT:
            return sent or [Packet(packets.NOOP)]
        if not self._dropped:
            sent.append(Packet(packets.CLOSE))
        elif not sent:
            raise ProtocolError("the session was dropped")
        return sent

    def encode_payload(self, sent: list[Packet]) -> tuple[str, bytes]:
        """The content type and body of the answer to a poll."""
        return packets.encode_payload(sent, self.protocol, self._as_base64)

    def post(self, read_body: Callable[[], bytes | bytearray], content_type: str) -> None:
        """Receive the packets of a POST, in their order.

        Args:
            read_body: waits for the body; another POST that comes meanwhile would overtake this one.

        Raises:
            ProtocolError: the body is no payload, or another POST is under way; the session has ended.
        """
        if self._posting:
            self.fail("two posts at once")
            raise ProtocolError("two posts at once")
        if self._overflowed:
            raise ProtocolError("more, and has not polled what waits for it")
        self._posting = True
        try:
            received = deque(packets.decode_payload(read_body(), content_type, self.protocol))
            turn = PACKETS_PER_TURN
            while received and not (self.closed or self._overflowed):
                packet = received.popleft()
                if received and self._receive_announced(packet, received[0]):
                    received.popleft()
                else:
                    if packet.type == packets.CLOSE and not self._polling:
                        sleep(CLOSE_GRACE_SEC)
                    self.receive(packet)
                turn -= 1
                if not turn:
                    turn = PACKETS_PER_TURN
                    sleep(0)
        except ProtocolError as error:
            # Without waiting for what is queued to be fetched: the client may never come for it.
            self.fail(str(error))
            raise
        finally:
            self._posting = False

    def _receive_announced(self, packet: Packet, image: Packet) -> bool:
        """Let an image of a POST take the short way, if it has been announced for that; see `MessageReader`."""
        sink, announcements = self.sink, self.server.announcements
        text, data = packet.data, image.data
        if sink is None or self.attachments_due or announcements is None:
            return False
        if packet.type != packets.MESSAGE or not isinstance(text, str) or not isinstance(data, bytes):
            return False
        if not announcements.shortest <= len(text) + 1 <= MAX_ANNOUNCEMENT_BYTES:
            return False
        announced = announcements.read(f"4{text}".encode())
        if announced is None:
            return False
        self.heard()
        number, event = announced
        refusal = sink.admit(len(data), event)
        if refusal is None:
            self.server.receive_image(self, IMAGE, data, number, event)
        else:
            self.server.receive_image(self, REFUSED, refusal, number, event)
        return True

    # -- WebSocket

    def attach(self, websocket: WebSocket, as_base64: bool) -> None:
        """From now on everything goes over this WebSocket."""
        self._websocket = websocket
        self._websocket_as_base64 = as_base64 and self.protocol == 3
        self.upgraded = True

    def begin(self) -> None:
        """Receive from the WebSocket until it ends; then the session has ended too."""
        assert self._websocket is not None
        self._websocket.start(_Carried(self, self._websocket))

    def upgrade(self, websocket: WebSocket, as_base64: bool) -> None:
        """Move from polling to a WebSocket (`2probe`, `3probe`, `5`); `upgrading` was set when it asked for that."""
        if self.closed:
            return  # and the WebSocket, which is not started, is closed
        self._upgrading_websocket = websocket
        websocket.start(_Upgrade(self, websocket, as_base64))

    def probe(self, websocket: WebSocket) -> None:
        """The WebSocket works; a waiting poll is answered, so that the client can end its polling."""
        websocket.send("3probe")
        self._probed = True
        self._outbox_filled.set()

    def end_upgrade(self, websocket: WebSocket, upgraded: bool, as_base64: bool) -> None:
        """The upgrade is over; unless the WebSocket takes over, the client goes on polling."""
        self.upgrading = self._probed = False
        self._upgrading_websocket = None
        if not upgraded or self.closed:
            if not self.closed:
                self.server.count_unfinished_upgrade(self.sid)
            websocket.close()
            return
        self.attach(websocket, as_base64)
        self.heard()
        self._outbox_filled.set()
        for packet in self._outbox:
            self.send_packet(packet)
        self._outbox.clear()
        self._outbox_bytes = 0
        self.begin()

    # -- receiving

    def receive(self, packet: Packet) -> None:
        """Act on a packet.

        Raises:
            ProtocolError: it has no place here.
        """
        self.heard()
        kind = packet.type
        if kind == packets.MESSAGE:
            self.server.receive_message(self, packet.data)
        elif kind == (packets.PONG if self.protocol == 4 else packets.PING):
            if self.protocol == 3:
                if len(packet.data) > MAX_PING_CHARS:
                    raise ProtocolError(f"a ping of {len(packet.data)} characters, at most {MAX_PING_CHARS} are taken")
                self.send_packet(Packet(packets.PONG, packet.data))
            else:
                self._schedule_ping()
        elif kind == packets.CLOSE:
            self.close(self.server.reason.CLIENT_DISCONNECT)
        elif kind != packets.NOOP:
            raise ProtocolError(f"an unexpected packet of type {kind}")

    def heard(self) -> None:
        self.last_seen = time.monotonic()

    def hold(self, size: int) -> None:
        """So many bytes are kept of a message of several parts, 0 for none any more."""
        self.server.unfinished.hold(self, size)

    def give_way(self) -> None:
        # Not here: the application's `disconnect` handler may wait, and whoever receives may not.
        spawn(self.fail, "attachments that took most memory for longest, and others need it")

    # -- life

    def open(self) -> None:
        """Start the heartbeat."""
        self.heard()
        if self.protocol == 4:
            self._schedule_ping()
        else:
            self._expect_sign_of_life(self.server.ping_interval + self.server.ping_timeout)

    def is_alive(self, timeout_sec: float) -> bool:
        """Ask the client for a sign of life and wait for it, at most this long.

        Over a WebSocket that is a ping. A polling client cannot be asked, but its waiting poll can be answered: one
        that lives comes again at once. If it does not, it still counts as alive unless it had been silent for
        `POLLING_SILENCE_SEC`.
        """
        asked_at = time.monotonic()
        silent_for = asked_at - self._heard_at()
        if self._websocket is not None:
            self._websocket.ping()
        else:
            self.send_packet(Packet(packets.NOOP))
        step_sec = PROBE_STEP_SEC
        while not self.closed and (left_sec := asked_at + timeout_sec - time.monotonic()) > 0:
            sleep(min(step_sec, left_sec))
            if self._heard_at() > asked_at:
                return True
            step_sec = min(2 * step_sec, LAST_PROBE_STEP_SEC)
        return not self.closed and self._websocket is None and silent_for < POLLING_SILENCE_SEC

    def fail(self, why: str) -> None:
        """End the session because of what the client did."""
        if not self.closed:
            self.server.count_protocol_error(self.sid, why)
            self.close(self.server.reason.TRANSPORT_ERROR)

    def drop(self) -> None:
        """End the session as a network that fails does it, so that the client comes back by itself.

        Told of the end, some do not: the Java clients take a close frame for the start of a handshake that they never
        finish, the Python clients a CLOSE packet for a reason to stay away.
        """
        self._dropped = True
        self.close(self.server.reason.SERVER_DISCONNECT)

    def close(self, reason: str) -> None:
        """End the session; the application's `disconnect` handler runs. Harmless when it has ended."""
        if self.closed:
            return
        self.closed = True
        self.end_reason = reason
        self._cancel_timer()
        self.cancel_join_deadline()
        self._outbox_filled.set()
        if self._overflowed:
            self._outbox.clear()  # nobody comes for it
        self.sink = None
        self.hold(0)
        if self._upgrading_websocket is not None:
            self._upgrading_websocket.abort()
        if self._websocket is not None:
            if self.protocol == 4 and not self._dropped:
                self._websocket.close()
            else:  # protocol 3 has no use for close frames, see `drop`
                self._websocket.abort()
        self.server.session_ended(self, reason)

    def _heard_at(self) -> float:
        return max(self.last_seen, self._websocket.heard_at() if self._websocket is not None else 0.0)

    def is_overdue(self) -> bool:
        """Whether it has been silent for too long, at this moment; the timer that ends it may be a little late."""
        now = time.monotonic()
        if self.protocol == 3:
            limit: float = self.server.ping_interval + self.server.ping_timeout
            return now - self._heard_at() >= limit
        return now >= self._dead_at and self._heard_at() <= self._pinged_at

    def _schedule_ping(self) -> None:
        wait_sec = self.server.ping_interval + self.server.ping_interval_grace_period
        self._ping_due = time.monotonic() + wait_sec
        self._dead_at = float("inf")
        self._set_timer(wait_sec, self._ping)

    def _ping(self) -> None:
        self.send_packet(Packet(packets.PING))
        self._pinged_at = now = time.monotonic()
        # From when it was due, for it shall be gone after interval and timeout. But half of the timeout is the
        # client's, however late this loop is.
        self._dead_at = max(self._ping_due + self.server.ping_timeout, now + self.server.ping_timeout / 2)
        self._set_timer(self._dead_at - now, self._check_pong)

    def _check_pong(self) -> None:
        if self._heard_at() > self._pinged_at:
            self._schedule_ping()  # it is busy sending, and has not come to answer yet
        else:
            self._time_out()

    def _expect_sign_of_life(self, within_sec: float) -> None:
        self._set_timer(within_sec, self._check_sign_of_life)

    def _check_sign_of_life(self) -> None:
        limit = self.server.ping_interval + self.server.ping_timeout
        silent_for = time.monotonic() - self._heard_at()
        if silent_for < limit:
            self._expect_sign_of_life(limit - silent_for)
        else:
            self._time_out()

    def _time_out(self) -> None:
        # In a greenlet of its own: the application's `disconnect` handler may wait, and a timer may not.
        spawn(self.close, self.server.reason.PING_TIMEOUT)

    def _set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        self._cancel_timer()
        if not self.closed:
            self._cancel_timer = call_later(seconds, function)


class _Carried:
    """What comes over the WebSocket that carries a session."""

    __slots__ = ("_session", "_websocket")

    def __init__(self, session: Session, websocket: WebSocket) -> None:
        self._session = session
        self._websocket = websocket

    def receive(self, message: str | bytes) -> None:
        session = self._session
        if not session.closed:  # or only the closing handshake is still of interest
            try:
                session.receive(packets.decode_websocket(message, session.protocol))
            except ProtocolError as error:
                session.fail(str(error))

    def receive_image(self, kind: int, image: Any, number: str | None, event: str | None) -> None:
        session = self._session
        if session.sink is not None:
            session.server.receive_image(session, kind, image, number, event)
        elif not session.closed:  # the server has told it to leave meanwhile
            # Not here: the application's `disconnect` handler may wait, and who hands on images may not.
            spawn(session.fail, "an image for a namespace that it had to leave")

    def sink(self) -> ImageSink | None:
        session = self._session
        return None if session.closed or session.attachments_due else session.sink

    def ended(self) -> None:
        session = self._session
        if self._websocket.close_reason and not session.closed:
            session.server.count_websocket_end(session.sid, self._websocket.close_reason)
        session.close(session.server.reason.TRANSPORT_CLOSE)


class _Upgrade:
    """What comes over a WebSocket that wants to carry a session."""

    def __init__(self, session: Session, websocket: WebSocket, as_base64: bool) -> None:
        self._session = session
        self._websocket = websocket
        self._as_base64 = as_base64
        self._probed = False
        self._over = False
        self._cancel_deadline = call_later(UPGRADE_SEC, websocket.abort)

    def receive(self, message: str | bytes) -> None:
        if self._over:
            return
        if message == "2probe" and not self._probed:
            self._probed = True
            self._session.probe(self._websocket)
        else:
            self._end(self._probed and message == "5")

    def receive_image(self, kind: int, image: Any, number: str | None, event: str | None) -> None:
        """There is no sink for it."""

    def sink(self) -> None:
        return None

    def ended(self) -> None:
        self._end(False)

    def _end(self, upgraded: bool) -> None:
        if not self._over:
            self._over = True
            self._cancel_deadline()
            self._session.end_upgrade(self._websocket, upgraded, self._as_base64)


def _nothing_to_cancel() -> None:
    """The timer of a session that has none."""
