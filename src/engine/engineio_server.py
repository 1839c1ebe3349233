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

from engine import packets, websocket
from engine.packets import Packet, ProtocolError
from engine.session import Session
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


#: Longer answers are sent as they are: they hold images, which do not shrink, and compressing 10 MB stops the loop.
MAX_COMPRESSED_BYTES: Final = 64 * 1024

UNKNOWN_TRANSPORT: Final = (0, "Transport unknown")
UNKNOWN_SESSION: Final = (1, "Session ID unknown")
BAD_METHOD: Final = (2, "Bad handshake method")
BAD_REQUEST: Final = (3, "Bad request")
FORBIDDEN: Final = (4, "Forbidden")
UNSUPPORTED_PROTOCOL: Final = (5, "Unsupported protocol version")


class EngineServer(engineio.Server):  # type: ignore[misc]
    """python-engineio's `Server`, its arguments and its events, with our sessions.

    JSONP is refused: a page of any origin could read it, for a script tag sends no Origin.
    """

    sockets: dict[str, Session]

    def __init__(self, **options: Any) -> None:
        options.setdefault("async_mode", "eventlet")
        super().__init__(**(options | {"monitor_clients": False}))  # each session has its own heartbeat
        self.protocol_errors = 0
        self._scratch = bytearray(websocket.SCRATCH_BYTES)
        self._said = OncePerSecond()

    # -- requests

    def handle_request(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        """The WSGI application."""
        try:
            self._check_origin(environ)
            if environ["REQUEST_METHOD"] == "OPTIONS":
                return self._answer(environ, start_response, "200 OK", "text/plain", b"")
            query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
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
        if session is None or session.closed:
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
            session.receive_all()

        try:
            return websocket.serve(environ, start_response, self.max_http_buffer_size, self._scratch, serve)
        finally:
            if not session.upgraded:  # there was no handshake, so there is nothing to end
                self.sockets.pop(session.sid, None)

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
            return websocket.serve(
                environ,
                start_response,
                self.max_http_buffer_size,
                self._scratch,
                lambda connection: session.upgrade(connection, as_base64),
            )
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
            session.post(lambda: self._read_body(environ), environ.get("CONTENT_TYPE", ""))
        except ProtocolError:
            raise BadRequest(*BAD_REQUEST) from None
        return self._answer(environ, start_response, "200 OK", "text/html", b"ok")

    def _read_body(self, environ: Environ) -> bytes:
        limit = self.max_http_buffer_size
        length = environ.get("CONTENT_LENGTH") or ""
        if length and (not length.isascii() or not length.isdigit()):
            raise ProtocolError(f"a body of length {length!r}, expected digits")
        if length and int(length) > limit:
            raise ProtocolError(f"a body of {length} bytes, at most {limit} are taken")
        wanted = int(length) if length else limit + 1
        try:
            body: bytes = environ["wsgi.input"].read(wanted)
        except (OSError, ValueError) as error:
            raise ProtocolError("a body that could not be read") from error
        if len(body) > limit:
            raise ProtocolError(f"a body of more than {limit} bytes")
        if length and len(body) < wanted:
            raise ProtocolError(f"a body that ends after {len(body)} bytes, {wanted} were announced")
        return body

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
        """A message has come; the `message` handler runs now, in the greenlet that received it."""
        self._trigger_event("message", session.sid, data, run_async=False)

    def session_ended(self, session: Session, reason: str) -> None:
        """Called once by a session when it ends."""
        try:
            self._trigger_event("disconnect", session.sid, reason, run_async=False)
        finally:
            self.sockets.pop(session.sid, None)

    def count_protocol_error(self, sid: str, why: str) -> None:
        """A client broke the protocol; said in the log once a second at most."""
        self.protocol_errors += 1
        if self._said.allows("protocol error", time.monotonic()):
            logger.info("%s: closed: it sent %s (%d such clients since the start)", sid, why, self.protocol_errors)

    # -- what python-socketio and applications call

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


def _only(query: dict[str, list[str]], name: str) -> str | None:
    """The value of a parameter that is there exactly once."""
    values = query.get(name, [])
    return values[0] if len(values) == 1 else None
