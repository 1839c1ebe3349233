"""The real `App` in a process of its own, with what tests have to turn: its clock, its engine, TLS, slow logins.

    python3 app_server.py '{"settings": {"rate": 20}, "short_way": false}'      prints its port

    settings        as of `settings.Settings`
    short_way       false: images come the generic way, as every other event does
    engine          attributes of its Engine.IO server, as ping_interval
    frozen          rates and "once a second" go by a clock that only GET /test/forward?sec= moves
    login_sec       so long each login takes
    tls             [certificate, key]
    handshake_sec   so long a TLS handshake may take
    places          --max-connections
    unfinished      so many bytes of unfinished messages are held

GET /test/account: what has been counted, and published since the last time; GET /test/left: what is there of clients;
GET /test/address: its URL, and the scheme of the request; GET /test/tcp: the port for cameras over plain TCP;
GET /test/kick?user=: it tells that user to leave (`*` stands for anything); GET /test/fill?user=&count=&size=: it sends
the user something; GET /test/result?stream=&value=, with the value in JSON, or picture= in hexadecimal: a plug-in says
that of the stream's newest frame; GET /test/complain?stream=&message=: one fails; GET /test/wish?hz=: frames are wished
for (`null` for all). And what `TestServer` has more.
"""

import green

green.make_green()

import fnmatch  # noqa: E402
import gc  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import urllib.parse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

import greenlet  # noqa: E402

import ingest.socketio_gateway as gateway  # noqa: E402
import serving  # noqa: E402
from app import App  # noqa: E402
from engine.websocket import WebSocket  # noqa: E402
from hub import Frame, Policy, Result, Stream  # noqa: E402
from rate import OncePerSecond  # noqa: E402
from serving import HttpServer  # noqa: E402
from settings import Settings  # noqa: E402

#: Longer than any test's account, so that nothing is dropped that a test asks for.
MAX_PUBLISHED = 10_000


class TestServer:
    def __init__(self, options: dict[str, Any]) -> None:
        self.now = 1_000.0
        if options.get("frozen"):
            self._freeze_what_is_said()
        self.app = App(Settings(ip="127.0.0.1", port=0, **options.get("settings", {})))
        if options.get("frozen"):
            self.app.hub.clock = lambda: self.now
        eio = self.app.engine.eio
        if not options.get("short_way", True):
            eio._reader_kind = eio._reader_kind._replace(announcements=None)
            eio.announcements = None
        for name, value in options.get("engine", {}).items():
            assert hasattr(eio, name), name
            setattr(eio, name, value)
        eio.unfinished._max = options.get("unfinished", eio.unfinished._max)
        self.short = 0
        self._count_short(eio)
        self.receives = 0
        self._count_receives()
        self._slow_down(options.get("login_sec", 0.0))
        self.published = self.app.hub.subscribe("tests", policy=Policy.QUEUE, max_frames=MAX_PUBLISHED)
        context = None
        if "tls" in options:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*options["tls"])
        serving.REQUEST_SEC = options.get("handshake_sec", serving.REQUEST_SEC)  # type: ignore[misc]
        self.http = self.app._http = HttpServer("127.0.0.1", 0, self.answer, options.get("places", 2_000), context)
        self._other = self.app.wsgi

    def _freeze_what_is_said(self) -> None:
        test = self

        class Said(OncePerSecond):
            def allows(self, cause: str, _now: float) -> bool:
                return super().allows(cause, test.now)

        gateway.OncePerSecond = Said  # type: ignore[misc]

    def _count_short(self, eio: Any) -> None:
        receive_image = eio.receive_image

        def count(*arguments: Any) -> None:
            self.short += 1
            receive_image(*arguments)

        eio.receive_image = count

    def _count_receives(self) -> None:
        receive = WebSocket._receive

        def count(websocket: WebSocket, fileno: int = -1) -> None:
            self.receives += 1
            receive(websocket, fileno)

        WebSocket._receive = count  # type: ignore[method-assign]

    def _slow_down(self, login_sec: float) -> None:
        log_in = self.app.door.log_in

        def slow(*arguments: Any) -> str:
            green.sleep(login_sec)
            return log_in(*arguments)

        if login_sec:
            self.app.door.log_in = slow  # type: ignore[method-assign]

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if not path.startswith("/test/"):
            return self._other(environ, start_response)
        self.scheme = environ["wsgi.url_scheme"]
        query = {name: values[0] for name, values in urllib.parse.parse_qs(environ["QUERY_STRING"]).items()}
        body = json.dumps(getattr(self, path.removeprefix("/test/"))(**query)).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    # -- what tests ask

    def account(self) -> dict[str, Any]:
        self._until_gone()
        counts = {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in self.app.metrics.collect()
            for sample in family.samples
            if family.type == "counter"
        }
        return {"counts": counts, "published": list(map(self._described, self._taken())), "short": self.short}

    def _taken(self) -> list[Frame]:
        taken = []
        while (item := self.published.take()) is not None:
            if isinstance(item, Frame):
                taken.append(item)
        assert not self.published.dropped
        return taken

    @staticmethod
    def _described(frame: Frame) -> list[Any]:
        digest = hashlib.sha256(frame.image).hexdigest()
        return [frame.stream.name, frame.seq, len(frame.image), digest, frame.reply_to, list(frame.info)]

    def _until_gone(self) -> None:
        """A client that has read the end of its connection may be a turn ahead of us."""
        deadline = time.monotonic() + 5
        while (self.app.engine.eio.sockets or self.app.gateway.connections) and time.monotonic() < deadline:
            green.sleep(0.001)

    def left(self) -> dict[str, Any]:
        engine = self.app.engine
        gc.collect()
        return {
            "sessions": len(engine.eio.sockets),
            "in rooms": sum(len(room) for rooms in engine.manager.rooms.values() for room in rooms.values()),
            "joining": sum(map(len, engine.manager.pending_connect.values())),
            "environs": len(engine.environ),
            "unfinished packets": len(engine._binary_packet),
            "unfinished bytes": engine.eio.unfinished.bytes,
            "connections": self.app.gateway.connections,
            "streams": len(self.app.hub.live_streams()),
            "tcp connections": 0 if self.app.tcp is None else self.app.tcp.connections,
            "http connections": self.http.connections - 1,  # but for the one that asks
            "greenlets": sum(isinstance(o, greenlet.greenlet) and bool(o) for o in gc.get_objects()),
            "files": len(os.listdir("/proc/self/fd")),
            "bad requests": self.http.bad_requests,
            "errors": self.http.errors + engine.handler_errors,
        }

    def address(self) -> list[str]:
        return [self.http.url, self.scheme]

    def tcp(self) -> int:
        assert self.app.tcp is not None
        return int(self.app.tcp.address.rsplit(":", 1)[1])

    def forward(self, sec: str) -> None:
        self.now += float(sec)

    def settle(self) -> None:
        """Take some turns: what lies in a socket is received and handled, as far as it does not wait."""
        for _ in range(6):
            green.sleep(0)

    def received(self) -> int:
        """How often the loop was told that a WebSocket has something to receive."""
        return self.receives

    def waiting(self, sid: str) -> int:
        """Packets that wait for a poll."""
        session = self.app.engine.eio.sockets.get(sid)
        return 0 if session is None else len(session._outbox)

    def end(self, sid: str) -> None:
        session = self.app.engine.eio.sockets.get(sid)
        if session is not None:
            session.close(self.app.engine.reason.CLIENT_DISCONNECT)

    def drop(self) -> None:
        """End all sessions, as a stop does."""
        self.app.engine.eio.disconnect()

    def kick(self, user: str) -> None:
        for stream in self.app.hub.live_streams():
            if fnmatch.fnmatchcase(stream.user, user):
                stream.disconnect("a test wants it")

    def result(
        self, stream: str, value: str = "null", picture: str = "", plugin: str = "test", text: str | None = None
    ) -> None:
        source = self._newest(stream)
        frame = source.latest
        seq, reply_to, received_at = (frame.seq, frame.reply_to, frame.received_at) if frame else (0, None, 1000.0)
        said = bytes.fromhex(picture) or json.loads(value)
        source.answer(Result(source, seq, plugin, said, reply_to, received_at, received_at + 0.25, text))

    def complain(self, stream: str, message: str) -> None:
        self._newest(stream).complain("processing_failed", message)

    def wish(self, hz: str) -> None:
        self.published.wish(json.loads(hz))

    def _newest(self, name: str) -> Stream:
        """The live stream of that name, else the one that ended last."""
        return [stream for stream in self.app.hub.listed_streams() if stream.name == name][-1]

    def fill(self, user: str, count: str, size: str) -> None:
        for connection in list(self.app.gateway._connections.values()):
            if connection.user == user:
                for _ in range(int(count)):
                    self.app.engine.emit("filler", bytes(int(size)), to=connection.sid)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for library in ("engineio.server", "socketio.server"):
        logging.getLogger(library).setLevel(logging.WARNING)
    server = TestServer(json.loads(sys.argv[1]))
    if server.app.tcp is not None:
        server.app.tcp.start()
    server.http.start()
    print(server.http.url.rsplit(":", 1)[1], flush=True)
    gone = green.Once()
    look_away = green.on_readable(sys.stdin.fileno(), gone.set)  # whoever started it has gone, or wants it to stop
    gone.wait()
    look_away()
    server.app.stop()


if __name__ == "__main__":
    main()
