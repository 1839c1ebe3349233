"""Our engine's own classes, serving what the public protocol suites ask of a server.

    python3 server.py engineio|socketio|websocket [--port N] [--reader NAME]

engineio    echoes every message, under /engine.io/
socketio    under /socket.io/: who connects to `/` or `/custom` is sent `auth` with the handshake's auth; on `/`,
            `message` is answered by `message-back` and `message-with-ack` by an ack, with the same arguments. A client
            that joins nothing is closed after a second.
websocket   echoes every message on `/`, without Engine.IO; announced images take the short way, and come back too

Both protocols ping every 300 ms, wait 200 ms for the answer, take messages of a million bytes, and welcome every
origin. It prints a line when it listens, and ends on SIGTERM.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import green

green.make_green()

import argparse  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any, Final  # noqa: E402

import engineio  # noqa: E402
import socketio  # noqa: E402

from engine import websocket  # noqa: E402
from engine.engineio_server import EngineServer  # noqa: E402
from engine.reader import Announcements  # noqa: E402
from engine.readers import WANTED, Wanted, choose  # noqa: E402
from engine.server import Server  # noqa: E402
from serving import HttpServer  # noqa: E402

WsgiApp = Callable[..., Any]

HEARTBEAT: Final = {"ping_interval": 0.3, "ping_timeout": 0.2}
MAX_PAYLOAD_BYTES: Final = 1_000_000
JOIN_SEC: Final = 1.0
MAX_ECHO_BYTES: Final = 32 * 1024 * 1024
MAX_CONNECTIONS: Final = 1_000
IMAGE_EVENT: Final = "receiveImage"


def engineio_app(_reader: Wanted) -> WsgiApp:
    server = EngineServer(max_http_buffer_size=MAX_PAYLOAD_BYTES, cors_allowed_origins="*", **HEARTBEAT)
    server.on("message", server.send)  # (sid, data)
    return engineio.WSGIApp(server)  # type: ignore[no-any-return]


def socketio_app(_reader: Wanted) -> WsgiApp:
    server = Server(max_http_buffer_size=MAX_PAYLOAD_BYTES, cors_allowed_origins="*", join_sec=JOIN_SEC, **HEARTBEAT)

    def greet(namespace: str) -> None:
        def connect(sid: str, _environ: dict[str, Any], auth: Any) -> None:
            server.emit("auth", auth or {}, to=sid, namespace=namespace)

        server.on("connect", connect, namespace=namespace)

    def message(sid: str, *arguments: Any) -> None:
        server.emit("message-back", arguments, to=sid)

    def message_with_ack(_sid: str, *arguments: Any) -> Any:
        return arguments

    greet("/")
    greet("/custom")
    server.on("message", message)
    server.on("message-with-ack", message_with_ack)
    return socketio.WSGIApp(server)  # type: ignore[no-any-return]


def websocket_app(reader: Wanted) -> WsgiApp:
    # An echo waits here as long as its reader is slower, and another may come before it has gone.
    limits = websocket.Limits(MAX_ECHO_BYTES, max_outgoing_bytes=3 * MAX_ECHO_BYTES)
    scratch = bytearray(websocket.SCRATCH_BYTES)
    kind = websocket.ReaderKind(choose(reader).make, Announcements(IMAGE_EVENT))

    class Echo:
        """What comes over a WebSocket goes back. It admits all images, too."""

        def __init__(self, connection: websocket.WebSocket) -> None:
            self.receive = self._send = connection.send

        def receive_image(self, _kind: int, image: bytes, number: str | None, _event: str | None) -> None:
            self._send(f'451-{number or ""}["{IMAGE_EVENT}",{{"_placeholder":true,"num":0}}]')
            self._send(image)

        def sink(self) -> "Echo":
            return self

        def admit(self, _size: int, _event: str | None) -> None: ...

        def take(self, *_: object) -> None: ...

        def refuse(self, *_: object) -> None: ...

        def answer(self, *_: object) -> None: ...

        def ended(self) -> None: ...

    def make(sock: Any, close_socket: Callable[[], object]) -> websocket.WebSocket:
        return websocket.WebSocket(sock, limits, scratch, reader_kind=kind, close_socket=close_socket)

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] != "/":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"only / echoes\n"]
        return websocket.serve(environ, start_response, make, lambda connection: connection.start(Echo(connection)))

    return serve


KINDS: Final = {"engineio": engineio_app, "socketio": socketio_app, "websocket": websocket_app}


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve what the public protocol suites ask for.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, default=0, help="0, the default, picks a free one")
    parser.add_argument("--reader", choices=WANTED, default="python")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for library in ("engineio.server", "socketio.server", "eventlet.wsgi"):
        logging.getLogger(library).setLevel(logging.WARNING)
    stopping = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    http = HttpServer("127.0.0.1", options.port, KINDS[options.kind](options.reader), MAX_CONNECTIONS)
    http.start()
    print(f"listening on {http.url}", flush=True)
    while not stopping:
        green.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
