"""The Socket.IO server, for clients of protocol 4 (Socket.IO 1 and 2, on Engine.IO 3) and 5 (3 and 4, on Engine.IO 4).

Handlers do not know which one a client speaks. A packet, as text; its attachments follow as binary messages:

    type [attachments -] [/namespace ,] [id] [JSON]          451-7["receiveImage",{"_placeholder":true,"num":0}]

    joining                     client                  accepted            refused
    protocol 5                  40{auth}                40{"sid":…}         44{"message":…,"data":…}
    protocol 4, namespace /     nothing                 40                  44…
    protocol 4, others          40/cam?token=abc        40/cam              44/cam,…: the data, else the message
"""

import json
import logging
import math
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Final, NoReturn

import engineio.json
import socketio
from socketio import packet

from engine.engineio_server import EngineServer
from engine.packets import ProtocolError
from engine.reader import IMAGE
from engine.session import Session
from green import call_later
from rate import OncePerSecond

logger = logging.getLogger(__name__)

#: As many attachments as socket.io-parser takes. A packet may announce billions, and would be waited for.
MAX_ATTACHMENTS: Final = 10
#: Text holds names, headers and acks, images are binary. As JSON, a text of 11 MB costs 250 MB and half a second.
MAX_TEXT_BYTES: Final = 64 * 1024
#: How deep lists and objects may be in one another: what walks through them calls itself, and Python stops at 1,000.
MAX_DEPTH: Final = 100
#: Brackets in a text: 20,000 empty lists in 64 KiB take 16 ms to read, and anybody may send them; these take 3.
MAX_BRACKETS: Final = 4_000
#: Refusing a namespace sends its name back.
MAX_NAMESPACE_CHARS: Final = 128
#: Of the query that protocol 4's clients join a namespace with.
MAX_QUERY_FIELDS: Final = 100
#: A client joins a namespace within this time (Node: 45 s), or its session ends.
JOIN_SEC: Final = 10.0
#: One that the server told to leave has so long to go by itself, as all do that mean well.
LEAVE_SEC: Final = 1.0
#: Names that the protocol or its clients' libraries use themselves; a handler of that name means something else.
LIFECYCLE_EVENTS: Final = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener")
)


#: What is kept of the request that a session began with.
KEPT: Final = frozenset(
    ("PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_PORT", "REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT",
     "wsgi.url_scheme")
)  # fmt: skip
KEPT_PREFIX: Final = "HTTP_"

#: Type, attachments, namespace and id; the JSON follows.
HEAD: Final = re.compile(
    rf"([0-6])(?:([0-9]{{1,10}})-)?(?:(/[^,]{{0,{MAX_NAMESPACE_CHARS - 1}}})(?:,|\Z))?([0-9]{{0,100}})"
)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ProtocolError("a number beyond what a float can hold")
    return value


def _no_json(constant: str) -> NoReturn:
    raise ProtocolError(f"{constant}, which is no JSON")


#: Python's would take NaN and Infinity, and hand on what no other client can read.
decode_json: Final = json.JSONDecoder(
    parse_int=engineio.json._safe_int, parse_float=_finite, parse_constant=_no_json
).decode


def _is_too_deep(data: Any) -> bool:
    level = [data] if isinstance(data, (list, dict)) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (list, dict))
        ]
    return bool(level)


class StrictPacket(packet.Packet):  # type: ignore[misc]
    """python-socketio's packet; what comes from a client is checked as socket.io-parser does."""

    def decode(self, encoded_packet: str) -> int:
        head = HEAD.match(encoded_packet)
        if head is None:
            raise ProtocolError(f"a packet of type {encoded_packet[:1]!r}, expected 0 to 6")
        kind, attachments, namespace, number = head.groups()
        self.packet_type = int(kind)
        if (self.packet_type in (packet.BINARY_EVENT, packet.BINARY_ACK)) != (attachments is not None):
            raise ProtocolError(f"a packet of type {kind} with {attachments or 'no'} attachments")
        count = int(attachments or 0)
        if count > MAX_ATTACHMENTS:
            raise ProtocolError(f"a packet with {count} attachments, at most {MAX_ATTACHMENTS} are taken")
        self.namespace = namespace.partition("?")[0] if namespace else None
        self.id = int(number) if number else None
        text = encoded_packet[head.end() :]
        brackets = text.count("[") + text.count("{")
        if brackets > MAX_BRACKETS:
            raise ProtocolError(f"text with {brackets} lists and objects, at most {MAX_BRACKETS} are taken")
        self.data = decode_json(text) if text else None
        if brackets > MAX_DEPTH and _is_too_deep(self.data):
            raise ProtocolError(f"data more than {MAX_DEPTH} lists deep")
        self._check()
        return count

    def _check(self) -> None:
        kind, data = self.packet_type, self.data
        if kind in (packet.EVENT, packet.BINARY_EVENT):
            fits = isinstance(data, list) and bool(data) and isinstance(data[0], str)
        elif kind in (packet.ACK, packet.BINARY_ACK):
            fits = isinstance(data, list) and self.id is not None
        elif kind == packet.CONNECT:
            fits = data is None or isinstance(data, dict)
        else:
            fits = kind == packet.DISCONNECT and data is None
        if not fits:
            raise ProtocolError(f"a packet of type {kind} with data that it cannot have")

    @classmethod
    def _reconstruct_binary_internal(cls, data: Any, attachments: list[bytes]) -> Any:
        if isinstance(data, list):
            return [cls._reconstruct_binary_internal(item, attachments) for item in data]
        if not isinstance(data, dict):
            return data
        if data.get("_placeholder") is not True:
            return {key: cls._reconstruct_binary_internal(value, attachments) for key, value in data.items()}
        number = data.get("num")
        if type(number) is not int or not 0 <= number < len(attachments):
            raise ProtocolError(f"a placeholder for attachment {number!r}, there are {len(attachments)}")
        return attachments[number]


class Server(socketio.Server):  # type: ignore[misc]
    """A `socketio.Server` that also serves clients of Engine.IO 3, and lets no client's packet do more than it should.

    Takes the arguments of `socketio.Server` and `EngineServer`. Unless `async_handlers` says otherwise, handlers run in
    the greenlet that received the event: a client's events stay in order, and one that sends faster than they are
    handled waits in its own socket.

    Args:
        join_sec: a client that is in no namespace for this long is closed.
        max_text_bytes: limit of a packet's text, without its attachments.
    """

    eio: EngineServer

    def __init__(
        self, *args: Any, join_sec: float = JOIN_SEC, max_text_bytes: int = MAX_TEXT_BYTES, **options: Any
    ) -> None:
        options["max_text_bytes"] = max_text_bytes
        options.setdefault("async_handlers", False)
        options.setdefault("serializer", StrictPacket)
        options.setdefault("logger", logging.getLogger("socketio.server"))
        options.setdefault("engineio_logger", logging.getLogger("engineio.server"))
        super().__init__(*args, **options)
        self.eio.receive_image = self._receive_image
        self._join_sec = join_sec
        self.handler_errors = 0
        self._said = OncePerSecond()

    def is_alive(self, sid: str, timeout_sec: float) -> bool:
        """Ask a client for a sign of life and wait for it; see `Session.is_alive`."""
        session = self.session_of(sid)
        return session is not None and session.is_alive(timeout_sec)

    def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Tell a client to leave a namespace; one that stays connected, and joins no other, is closed."""
        session = self.session_of(sid, namespace or "/")
        super().disconnect(sid, namespace, ignore_queue=ignore_queue)
        if session is not None:
            if session.sid not in self._binary_packet:  # or its attachments are still to come
                session.attachments_due = False
                session.hold(0)
            self._expect_to_join(session, LEAVE_SEC, session.drop)

    def drop(self, sid: str) -> None:
        """End a client's session so that it comes back by itself; `disconnect` tells it to stay away."""
        session = self.session_of(sid)
        if session is not None:
            session.drop()

    def protocol(self, sid: str) -> int | None:
        """The Engine.IO protocol that a client speaks, 3 or 4; None when it has gone."""
        session = self.session_of(sid)
        return session.protocol if session is not None else None

    def session_of(self, sid: str, namespace: str = "/") -> Session | None:
        """A client's Engine.IO session, which outlives what it joins and leaves; None when it has gone."""
        return self.eio.sockets.get(self.manager.eio_sid_from_sid(sid, namespace) or "")

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    # -- from the client

    def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        # All of it is kept as long as the client is there; what the request was made of is not worth that.
        kept = {key: value for key, value in environ.items() if key in KEPT or key.startswith(KEPT_PREFIX)}
        super()._handle_eio_connect(eio_sid, kept)
        session = self.eio.sockets[eio_sid]
        self._expect_to_join(session)
        if session.protocol == 3:
            if self._serves("/"):
                self._join(session, "/", None)
            else:  # it expects to be in `/` before it asks for any other
                self._send_packet(eio_sid, self.packet_class(packet.CONNECT, namespace="/"))

    def _expect_to_join(
        self, session: Session, within_sec: float | None = None, otherwise: Callable[[], None] | None = None
    ) -> None:
        def end() -> None:
            if session.held is not None:
                self._expect_to_join(session, within_sec, otherwise)  # it is joining now, and may be refused
            elif not any(
                self.manager.sid_from_eio_sid(session.sid, namespace) for namespace in self.manager.get_namespaces()
            ):
                if otherwise is not None:
                    otherwise()
                else:
                    session.close(self.reason.SERVER_DISCONNECT)  # no handler runs, so a timer may do it

        session.cancel_join_deadline()
        if not session.closed:
            session.cancel_join_deadline = call_later(self._join_sec if within_sec is None else within_sec, end)

    def _serves(self, namespace: str) -> bool:
        return (
            namespace in self.handlers
            or namespace in self.namespace_handlers
            or self.namespaces == "*"
            or namespace in self.namespaces
        )

    def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is None:
            return
        try:
            self._receive_message(session, data)
        except (ValueError, RecursionError) as error:  # the JSON decoder's too; those of handlers don't get here
            session.fail(str(error) if isinstance(error, ProtocolError) else "a packet that is not JSON")

    def _receive_message(self, session: Session, data: str | bytes) -> None:
        eio_sid = session.sid
        pending = self._binary_packet.get(eio_sid)
        if isinstance(data, bytes):
            if pending is None:
                raise ProtocolError("a binary message that no packet announced")
            # For the limit they are one message, or a client that nobody knows yet could leave ten of the largest here.
            size = sum(map(len, pending.attachments)) + len(data)
            if size > self.eio.max_http_buffer_size:
                raise ProtocolError(f"attachments of more than {self.eio.max_http_buffer_size} bytes together")
            if not pending.add_attachment(data):
                session.hold(size)
                return
            del self._binary_packet[eio_sid]
            session.attachments_due = False
            if pending.attachment_count > 1:
                session.hold(0)
            received = pending
        elif pending is not None:
            raise ProtocolError("text where an attachment was announced")
        elif not data:
            raise ProtocolError("an empty packet")  # python-socketio takes it for an event without a name
        elif session.protocol == 3 and data[:1] == "0":
            # CONNECT: what follows the namespace is a query, and takes the place of protocol 5's auth
            namespace, _, query = data[1:].split(",")[0].partition("?")
            if namespace and not namespace.startswith("/"):
                raise ProtocolError("a CONNECT to a namespace that does not begin with /")
            if len(namespace) > MAX_NAMESPACE_CHARS:
                raise ProtocolError(f"a CONNECT to a namespace of more than {MAX_NAMESPACE_CHARS} characters")
            try:
                auth = dict(urllib.parse.parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS))
            except ValueError:
                raise ProtocolError(f"a CONNECT with more than {MAX_QUERY_FIELDS} values") from None
            self._join(session, namespace or "/", auth or None)
            return
        else:
            received = self.packet_class(encoded_packet=data)
            if received.attachment_count:
                if not self.manager.sid_from_eio_sid(eio_sid, received.namespace or "/"):
                    raise ProtocolError("a binary packet for a namespace that was not joined")
                self._binary_packet[eio_sid] = received
                session.attachments_due = True
                return
        self._act_on(session, received)

    def _receive_image(self, session: Session, kind: int, image: Any, number: str | None, event: str | None) -> None:
        sink = session.sink
        assert sink is not None
        answer = ""
        try:
            if kind == IMAGE:
                refusal = sink.take(image, event)
            else:
                sink.refuse(refusal := image)
            if number is not None:
                answer = sink.answer(refusal)
        except Exception:
            self._count_handler_error("the sink of images")
        if number is not None:
            session.send_text(f"{packet.ACK}{number}[{answer}]")

    def _act_on(self, session: Session, received: StrictPacket) -> None:
        namespace = received.namespace or "/"
        kind = received.packet_type
        data: Any = received.data
        if kind == packet.CONNECT:
            self._join(session, namespace, data)
            return
        sid = self.manager.sid_from_eio_sid(session.sid, namespace)
        if not self.manager.is_connected(sid, namespace):
            # python-socketio would write a line for each. And leaving what it is not in gives a client no more time.
            return
        if kind == packet.DISCONNECT:
            self._handle_disconnect(session.sid, namespace, self.reason.CLIENT_DISCONNECT)
            self._expect_to_join(session)
        elif kind in (packet.ACK, packet.BINARY_ACK):
            # 0 is where python-socketio keeps its counter, and it would write a line for each that nobody waits for.
            if received.id and received.id in self.manager.callbacks.get(sid, ()):
                self._handle_ack(session.sid, namespace, received.id, data)
        elif data[0] not in LIFECYCLE_EVENTS:
            self._handle_event(session.sid, namespace, received.id, data)

    def _trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        if event != "disconnect":
            return super()._trigger_event(event, namespace, *args)
        try:
            return super()._trigger_event(event, namespace, *args)
        except Exception:  # or python-socketio would leave the client where it is, in its rooms, for ever
            self._count_handler_error("the handler of 'disconnect'")
            return None

    def _handle_event_internal(
        self, server: "Server", sid: str, eio_sid: str, data: list[Any], namespace: str, id: int | None
    ) -> None:
        try:
            super()._handle_event_internal(server, sid, eio_sid, data, namespace, id)
        except Exception:
            self._count_handler_error(f"the handler of {data[0][:64]!r}")

    def _handle_ack(self, eio_sid: str, namespace: str, id: int, data: list[Any]) -> None:
        try:
            super()._handle_ack(eio_sid, namespace, id, data)
        except Exception:
            self._count_handler_error("the handler of an ack")

    def _count_handler_error(self, what: str) -> None:
        self.handler_errors += 1
        if self._said.allows(what, time.monotonic()):
            logger.exception("%s failed (%d errors of handlers since the start)", what, self.handler_errors)

    def _join(self, session: Session, namespace: str, auth: Any) -> None:
        """Let a client join a namespace; what its `connect` handler emits follows the answer, as clients expect."""
        if self.manager.sid_from_eio_sid(session.sid, namespace):
            return  # it has been told so
        if not self._serves(namespace):
            self._send_packet(
                session.sid,
                self.packet_class(packet.CONNECT_ERROR, data={"message": "Invalid namespace"}, namespace=namespace),
            )
            return
        outermost = session.held is None
        if outermost:
            session.held = []
        try:
            self._handle_connect(session.sid, namespace, auth)
        except Exception:
            self._count_handler_error("the handler of 'connect'")
            session.close(self.reason.SERVER_DISCONNECT)
            sid = self.manager.sid_from_eio_sid(session.sid, namespace)
            if sid is not None:  # for python-socketio it is still joining
                self.manager.disconnect(sid, namespace, ignore_queue=True)
        finally:
            if outermost:
                held, session.held = session.held or [], None
                for message in held:
                    session.send_message(message)
        if session.closed:
            # It went while its `connect` handler waited. Now that it has joined it can leave, and handlers are told.
            self._handle_eio_disconnect(session.sid, session.end_reason)

    def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        super()._handle_eio_disconnect(eio_sid, reason)
        self._binary_packet.pop(eio_sid, None)

    # -- to the client

    def _send_packet(self, eio_sid: str, pkt: Any) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is None:
            return
        answers_join = pkt.packet_type in (packet.CONNECT, packet.CONNECT_ERROR)
        if answers_join and session.protocol == 3:
            if pkt.packet_type == packet.CONNECT:
                pkt.data = None
            elif isinstance(pkt.data, dict):
                pkt.data = pkt.data.get("data") or pkt.data.get("message")
        encoded = pkt.encode()
        held = session.held
        if answers_join:
            session.held = None
        for message in encoded if isinstance(encoded, list) else [encoded]:
            session.send_message(message)
        if answers_join:
            session.held = held

    def _send_eio_packet(self, eio_sid: str, eio_pkt: Any) -> None:
        # The message alone: python-engineio's packet keeps its first encoding, and a broadcast to clients of several
        # transports would send one of them what was made for another.
        session = self.eio.sockets.get(eio_sid)
        if session is not None:
            session.send_message(eio_pkt.data)


def same_host(named: tuple[str, ...] = ()) -> Callable[[str, dict[str, Any]], bool]:
    """A check of Origin headers: their host and port must be the ones of the Host header, or of the origins that are
    named.

    The scheme is not compared: behind a proxy that ends TLS it differs. Clients that send no Origin are not asked.
    """

    def allowed(origin: str, environ: dict[str, Any]) -> bool:
        try:
            host = urllib.parse.urlsplit(origin).netloc.lower()
        except ValueError:  # half an IPv6 address
            return False
        return origin in named or (bool(host) and host == environ.get("HTTP_HOST", "").lower())

    return allowed
