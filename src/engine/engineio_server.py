"""The Engine.IO server: HTTP requests become sessions, of protocol 3 and of protocol 4 on one address.

python-engineio's server stays the base, for its options and for python-socketio, which calls it; requests and
sessions are ours.
"""

import gzip
import json
import logging
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

import engineio

from engine import packets, reader, websocket
from engine.packets import Packet, ProtocolError
from engine.session import Session
from engine.unfinished import MAX_UNFINISHED_BYTES, Unfinished
from green import sleep
from rate import OncePerSecond

logger = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class BadRequest(Exception):
    """A request that gets an error instead of a session; codes and texts are those of Node's server."""

    def __init__(self, code: int, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status
        self.body = json.dumps({"code": code, "message": message}).encode()


#: A body is received in pieces of at most so much: each one is a sign of life, and shows whether the session is still
#: there.
BODY_PIECE_BYTES: Final = 64 * 1024
#: What a client sent is quoted in the log up to here.
MAX_LOGGED_CHARS: Final = 200
#: Longer answers are sent as they are: they hold images, which do not shrink, and compressing 10 MB stops the loop.
MAX_COMPRESSED_BYTES: Final = 64 * 1024

UNKNOWN_TRANSPORT: Final = (0, "Transport unknown")
UNKNOWN_SESSION: Final = (1, "Session ID unknown")
BAD_METHOD: Final = (2, "Bad handshake method")
BAD_REQUEST: Final = (3, "Bad request")
FORBIDDEN: Final = (4, "Forbidden")
UNSUPPORTED_PROTOCOL: Final = (5, "Unsupported protocol version")


class PostBody:
    """The body of a POST while it comes.

    Attributes:
        session: whose it is.
    """

    def __init__(self, session: Session, unfinished: Unfinished) -> None:
        self.session = session
        self._data = bytearray()
        self._unfinished = unfinished
        self._gave_way = False

    def __len__(self) -> int:
        return len(self._data)

    @property
    def data(self) -> bytearray:
        return self._data

    def append(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            ProtocolError: there is no use in the rest, because the session has ended or the memory is needed.
        """
        self._data += piece
        if len(self._data) > reader.FIRST_BUFFER_BYTES:
            self._unfinished.hold(self, len(self._data))
        if self._gave_way:
            raise ProtocolError("a body that took most memory for longest, and others need it")
        if self.session.closed:
            raise ProtocolError("a body whose session has ended")
        self.session.heard()

    def give_way(self) -> None:
        self._gave_way = True
        self._data.clear()

    def end(self) -> None:
        self._unfinished.hold(self, 0)


class EngineServer(engineio.Server):  # type: ignore[misc]
    """python-engineio's `Server`, its arguments and its events, with our sessions.

    JSONP is refused: a page of any origin could read it, for a script tag sends no Origin.

    Args:
        max_text_bytes: limit of a text message; None for no other than that of every message. A client that has asked
            for base64 may send larger ones over its WebSocket, as long as they hold binary messages.
        max_unfinished_bytes: see `Unfinished`.
        reader_kind: how messages are read from WebSockets.

    Attributes:
        receive_image: called with what came on the short way, see `MessageReader`; may not wait.
        announcements: of those images.
    """

    sockets: dict[str, Session]

    def __init__(
        self,
        max_text_bytes: int | None = None,
        max_unfinished_bytes: int = MAX_UNFINISHED_BYTES,
        reader_kind: websocket.ReaderKind = websocket.ANY_READER,
        **options: Any,
    ) -> None:
        options.setdefault("async_mode", "eventlet")
        super().__init__(**(options | {"monitor_clients": False}))  # each session has its own heartbeat
        self.protocol_errors = 0
        self.websockets_ended = 0
        self.unfinished_upgrades = 0
        self.handler_errors = 0
        self.unfinished = Unfinished(max_unfinished_bytes)
        self.receive_image: Callable[[Session, int, Any, str | None, str | None], None] = _no_images
        self.announcements = reader_kind.announcements
        self._reader_kind = reader_kind
        self._max_text_bytes = max_text_bytes
        self._scratch = bytearray(websocket.SCRATCH_BYTES)
        self._said = OncePerSecond()

    # -- requests

    def handle_request(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """The WSGI application."""
        try:
            self._check_origin(environ)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                return self._answer(environ, start_response, "200 OK", "text/plain", b"")
            query = _read_query(environ.get("QUERY_STRING", ""))
            transport = _only(query, "transport")
            if transport is None or transport not in self.transports:
                raise BadRequest(*UNKNOWN_TRANSPORT)
            if "j" in query:
                raise BadRequest(*BAD_REQUEST)
            if "sid" in query:
                session = self._session_of(_only(query, "sid"))
                handle = self._resume
            else:
                session = self._new_session(environ, query)
                handle = self._begin
            return handle(session, transport, "b64" in query, environ, start_response)
        except BadRequest as error:
            return self._answer(environ, start_response, error.status, "application/json", error.body)

    def _check_origin(self, environ: Environ) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if origin and self.cors_allowed_origins != []:
            allowed = self._cors_allowed_origins(environ)
            if allowed is not None and origin not in allowed:
                raise BadRequest(*FORBIDDEN)

    def _session_of(self, sid: str | None) -> Session:
        session = self.sockets.get(sid or "")
        if session is None or session.closed or session.is_overdue():
            raise BadRequest(*UNKNOWN_SESSION)
        return session

    def _new_session(self, environ: Environ, query: dict[str, list[str]]) -> Session:
        version = _only(query, "EIO")
        if version not in ("3", "4"):
            raise BadRequest(*UNSUPPORTED_PROTOCOL)
        if environ["REQUEST_METHOD"] != "GET":
            raise BadRequest(*BAD_METHOD)
        if websocket.is_upgrade(environ) != (_only(query, "transport") == "websocket"):
            raise BadRequest(*BAD_REQUEST)
        sid = self.generate_id()
        session = self.sockets[sid] = Session(self, sid, int(version), as_base64="b64" in query)
        return session

    def _begin(
        self, session: Session, transport: str, as_base64: bool, environ: Environ, start_response: StartResponse
    ) -> list[bytes]:
        if transport == "polling":
            self._open(session, environ, upgrades=self.allow_upgrades and "websocket" in self.transports)
            headers = [("Set-Cookie", self._cookie(session.sid))] if self.cookie else []
            return self._answer_poll(session, environ, start_response, headers)

        def serve(connection: websocket.WebSocket) -> None:
            session.attach(connection, as_base64)
            self._open(session, environ, upgrades=False)
            session.begin()

        try:
            return self._serve_websocket(session, environ, start_response, as_base64, serve)
        finally:
            if not session.upgraded:  # there was no handshake, so there is nothing to end
                self.sockets.pop(session.sid, None)

    def _serve_websocket(
        self,
        session: Session,
        environ: Environ,
        start_response: StartResponse,
        as_base64: bool,
        handler: Callable[[websocket.WebSocket], None],
    ) -> list[bytes]:
        max_text_bytes = None if as_base64 or self._max_text_bytes is None else self._max_text_bytes + len("4")
        limits = websocket.Limits(self.max_http_buffer_size, max_text_bytes)
        prefix = b"" if session.protocol == 4 else bytes((packets.MESSAGE,))

        def make(sock: Any, close_socket: Callable[[], object]) -> websocket.WebSocket:
            return websocket.WebSocket(
                sock, limits, self._scratch, self.unfinished, self._reader_kind, prefix, close_socket
            )

        return websocket.serve(environ, start_response, make, handler)

    def _open(self, session: Session, environ: Environ, upgrades: bool) -> None:
        handshake = {
            "sid": session.sid,
            "upgrades": ["websocket"] if upgrades else [],
            "pingInterval": round((self.ping_interval + self.ping_interval_grace_period) * 1000),
            "pingTimeout": round(self.ping_timeout * 1000),
        }
        if session.protocol == 4:
            handshake["maxPayload"] = self.max_http_buffer_size
        session.send_packet(Packet(packets.OPEN, json.dumps(handshake, separators=(",", ":"))))
        session.open()
        accepted = self._trigger_event("connect", session.sid, environ, run_async=False)
        if accepted is not None and accepted is not True:
            session.close(self.reason.SERVER_DISCONNECT)

    def _resume(
        self, session: Session, transport: str, as_base64: bool, environ: Environ, start_response: StartResponse
    ) -> list[bytes]:
        method = environ["REQUEST_METHOD"]
        if transport == "websocket":
            if method != "GET" or not websocket.is_upgrade(environ) or session.upgraded or session.upgrading:
                raise BadRequest(*BAD_REQUEST)
            if not self.allow_upgrades:
                raise BadRequest(*UNKNOWN_TRANSPORT)
            # Now: until its handshake has been answered, another one may come.
            session.upgrading = True
            started = False

            def upgrade(connection: websocket.WebSocket) -> None:
                nonlocal started
                session.upgrade(connection, as_base64)
                started = connection.started

            try:
                return self._serve_websocket(session, environ, start_response, as_base64, upgrade)
            finally:
                if not started:
                    session.upgrading = False
        if session.upgrading:
            # The WebSocket's last word may be here already: the hub has no order for what came at the same time. One
            # turn for it to be received, one to be handled.
            sleep(0)
            sleep(0)
        if session.upgraded:
            raise BadRequest(*BAD_REQUEST)
        if method == "GET":
            return self._answer_poll(session, environ, start_response, [])
        if method == "POST":
            return self._receive_post(session, environ, start_response)
        raise BadRequest(*BAD_METHOD)

    def _answer_poll(
        self, session: Session, environ: Environ, start_response: StartResponse, headers: list[tuple[str, str]]
    ) -> list[bytes]:
        try:
            sent = session.poll()
        except ProtocolError:
            raise BadRequest(*BAD_REQUEST) from None
        content_type, body = session.encode_payload(sent)
        return self._answer(environ, start_response, "200 OK", content_type, body, headers)

    def _receive_post(self, session: Session, environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            session.post(lambda: self._read_body(environ, session), environ.get("CONTENT_TYPE", ""))
        except ProtocolError:
            raise BadRequest(*BAD_REQUEST) from None
        return self._answer(environ, start_response, "200 OK", "text/html", b"ok")

    def _read_body(self, environ: Environ, session: Session) -> bytearray:
        limit = self.max_http_buffer_size
        length = environ.get("CONTENT_LENGTH") or ""
        if length and int(length) > limit:
            raise ProtocolError(f"a body of {length} bytes, at most {limit} are taken")
        wanted = int(length) if length else limit + 1
        body = PostBody(session, self.unfinished)
        try:
            read: Callable[[int], bytes] = environ["wsgi.input"].read1
            while len(body) < wanted and (piece := read(min(wanted - len(body), BODY_PIECE_BYTES))):
                body.append(piece)
        except ProtocolError:
            raise
        except (OSError, ValueError) as error:
            raise ProtocolError("a body that could not be read") from error
        finally:
            body.end()
        if len(body) > limit:
            raise ProtocolError(f"a body of more than {limit} bytes")
        if length and len(body) < wanted:
            raise ProtocolError(f"a body that ends after {len(body)} bytes, {wanted} were announced")
        return body.data

    def _answer(
        self,
        environ: Environ,
        start_response: StartResponse,
        status: str,
        content_type: str,
        body: bytes,
        headers: list[tuple[str, str]] | None = None,
    ) -> list[bytes]:
        sent = [("Content-Type", content_type), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
        sent += self._cors_headers(environ) + (headers or [])
        if (
            self.http_compression
            and content_type == packets.TEXT_CONTENT
            and self.compression_threshold <= len(body) <= MAX_COMPRESSED_BYTES
            and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        ):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            sent.append(("Content-Encoding", "gzip"))
        start_response(status, sent)
        return [body]

    def _cookie(self, sid: str) -> str:
        attributes = (
            self.cookie if isinstance(self.cookie, dict) else {"name": self.cookie, "path": "/", "SameSite": "Lax"}
        )
        return str(self._generate_sid_cookie(sid, attributes))

    # -- what sessions call

    def receive_message(self, session: Session, data: str | bytes) -> None:
        """A message has come; the `message` handler runs now, in the greenlet that received it.

        Raises:
            ProtocolError: it is text, and longer than may be.
        """
        if isinstance(data, str) and self._max_text_bytes is not None and len(data) > self._max_text_bytes:
            raise ProtocolError(f"text of {len(data)} characters, at most {self._max_text_bytes} are taken")
        self._trigger_event("message", session.sid, data, run_async=False)

    def session_ended(self, session: Session, reason: str) -> None:
        """Called once by a session when it ends."""
        try:
            self._trigger_event("disconnect", session.sid, reason, run_async=False)
        finally:
            self.sockets.pop(session.sid, None)

    def count_protocol_error(self, sid: str, why: str) -> None:
        """A client broke the protocol; said in the log once a second at most, as all that clients can cause."""
        self.protocol_errors += 1
        self._say("protocol error", f"{sid}: closed: it sent {why}", self.protocol_errors)

    def count_websocket_end(self, sid: str, why: str) -> None:
        """A WebSocket was closed from our side, below Engine.IO."""
        self.websockets_ended += 1
        self._say("websocket end", f"{sid}: closed: {why}", self.websockets_ended)

    def count_unfinished_upgrade(self, sid: str) -> None:
        """A WebSocket came for a session and did not take over."""
        self.unfinished_upgrades += 1
        self._say(
            "unfinished upgrade",
            f"{sid}: the upgrade to WebSocket was not finished, it goes on polling",
            self.unfinished_upgrades,
        )

    def _say(self, cause: str, what: str, count: int) -> None:
        if self._said.allows(cause, time.monotonic()):
            logger.info("%s (%d such clients since the start)", what[:MAX_LOGGED_CHARS], count)

    # -- what python-socketio and applications call

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        """Run a handler, always here and now. A `connect` handler that raises has refused with that."""
        handler = self.handlers.get(event)
        if handler is None:
            return None
        try:
            return handler(*args)
        except Exception:  # python-engineio would write a traceback for each
            self.handler_errors += 1
            if self._said.allows(f"handler of {event}", time.monotonic()):
                logger.exception(
                    "the handler of %r failed (%d errors of handlers since the start)", event, self.handler_errors
                )
            return False if event == "connect" else None

    def _get_socket(self, sid: str) -> Session:
        # python-engineio's refuses a session that has ended, but its `disconnect` handler may want its data.
        return self.sockets[sid]

    def send_packet(self, sid: str, pkt: Any) -> None:
        """Send a packet of python-engineio's; nothing happens when the session has ended."""
        session = self.sockets.get(sid)
        if session is not None:
            session.send(pkt)

    def disconnect(self, sid: str | None = None) -> None:
        """End one session, or all of them because the server stops."""
        if sid is None:
            for session in list(self.sockets.values()):
                session.drop()
        elif (one := self.sockets.get(sid)) is not None:
            one.close(self.reason.SERVER_DISCONNECT)


def _no_images(*_: object) -> None:
    """Nobody has given a session a sink."""


def _read_query(text: str) -> dict[str, list[str]]:
    """The parameters of a query; as `urllib.parse.parse_qs` for a tenth of its time, which each poll takes."""
    query: dict[str, list[str]] = {}
    for field in text.split("&"):
        name, _, value = field.partition("=")
        if "%" in field or "+" in field:
            name, value = urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(value)
        query.setdefault(name, []).append(value)
    return query


def _only(query: dict[str, list[str]], name: str) -> str | None:
    """The value of a parameter that is there exactly once."""
    values = query.get(name, [])
    return values[0] if len(values) == 1 else None
