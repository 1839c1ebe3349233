"""A real `engine.Server` with a small application, for tests that talk to it in bytes.

    python3 server.py '{"ping_interval": 0.3}'     options of `engine.Server`, and times; prints its port

What a client wants of the application it says in its handshake: `behave=<word>` in the query. GET /report tells what
has happened so far, GET /alive?user=<word> asks the session of that `behave` for a sign of life.
"""

import green

green.make_green()

import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import urllib.parse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from socket import IPPROTO_TCP, TCP_NODELAY  # noqa: E402
from typing import Any  # noqa: E402

import socketio  # noqa: E402
from socketio.exceptions import ConnectionRefusedError as Refused  # noqa: E402

import engine.session  # noqa: E402
from engine.server import Server, same_host  # noqa: E402
from serving import HttpServer  # noqa: E402


def rss_mb() -> float:
    """The memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Application:
    def __init__(self, options: dict[str, Any]) -> None:
        self.server = Server(cors_allowed_origins=same_host(("https://named.example",)), **options)
        self.happened: list[list[Any]] = []
        self.behaviour: dict[str, str] = {}
        self.longest_turn_sec = 0.0
        for event in (
            "echo",
            "fail",
            "fill",
            "drop",
            "leave",
            "ask",
            "broadcast",
            "nodelay",
            "return_object",
            "send_json",
        ):
            self.server.on(event, getattr(self, event))
        # Names that no client may call, whatever the application calls its handlers.
        self.server.on("connect_error", lambda *arguments: self.happened.append(["lifecycle", *arguments[1:]]))
        self.server.on("connect", self.connect)
        self.server.on("disconnect", self.disconnect)
        self.server.on("connect", self.connect_cam, namespace="/cam")
        self.server.on("echo", self.echo_cam, namespace="/cam")
        self.server.on("connect", self.refuse_with_data, namespace="/deny")
        self.server.on("connect", self.refuse_with_message, namespace="/locked")

    # -- joining and leaving

    def connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        behaviour = urllib.parse.parse_qs(environ["QUERY_STRING"]).get("behave", [""])[0]
        self.behaviour[sid] = behaviour
        self.happened.append(["connect", behaviour, auth])
        if behaviour == "welcome":
            self.server.emit("welcome", to=sid)
        elif behaviour == "raise":
            raise RuntimeError("a secret of the server")
        elif behaviour == "refuse":
            raise Refused("not you", {"code": 42})
        elif behaviour == "slow":
            green.sleep(0.5)
            self.happened.append(["slow connect done"])
            return
        self.server.save_session(sid, {"user": behaviour})
        self.server.enter_room(sid, "all")

    def disconnect(self, sid: str, reason: str) -> None:
        behaviour = self.behaviour.pop(sid)
        if behaviour == "waits at its end":
            green.sleep(0.01)
        if behaviour == "lingers":
            self.happened.append(["lingers"])
            green.sleep(1)
        if behaviour == "raises at its end":
            raise RuntimeError("a secret of the server")
        data = self.server.get_session(sid) if behaviour == "with data" else None
        self.happened.append(["disconnect", behaviour, reason, data])

    def connect_cam(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.happened.append(["connect /cam", auth])

    def echo_cam(self, sid: str, *arguments: Any) -> None:
        self.server.emit("echo", arguments, to=sid, namespace="/cam")

    def refuse_with_data(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        raise Refused("no", {"code": 42})

    def refuse_with_message(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        raise Refused("no entry")

    # -- events

    def echo(self, sid: str, *arguments: Any) -> tuple[Any, ...]:
        self.happened.append(["echo", *(len(a) if isinstance(a, bytes) else a for a in arguments)])
        self.server.emit("echo", arguments, to=sid)
        return arguments

    def fail(self, sid: str, *_arguments: Any) -> None:
        raise KeyError("a secret of the server")

    def return_object(self, sid: str) -> Any:
        return object()

    def send_json(self, sid: str) -> None:
        self.server.eio.send(self.server.manager.eio_sid_from_sid(sid, "/"), {"a": [1, None]})

    def fill(self, sid: str, count: int, size: int) -> str:
        for _ in range(count):
            self.server.emit("filler", bytes(size), to=sid)
        return "filled"

    def drop(self, sid: str) -> None:
        self.server.drop(sid)

    def leave(self, sid: str) -> None:
        self.server.disconnect(sid)

    def ask(self, sid: str) -> None:
        self.server.emit("question", to=sid, callback=lambda *answer: self.answered(answer))

    def answered(self, answer: tuple[Any, ...]) -> None:
        self.happened.append(["answer", *answer])
        if answer == ("fail",):
            raise KeyError("a secret of the server")

    def broadcast(self, sid: str, kind: str = "bytes") -> None:
        self.server.emit("picture", bytearray(b"\x00\xff\x01") if kind == "bytearray" else b"\x00\xff\x01", to="all")

    def nodelay(self, sid: str) -> bool:
        session = self.server.eio.sockets[self.server.manager.eio_sid_from_sid(sid, "/")]
        return bool(session._websocket._transport._socket.getsockopt(IPPROTO_TCP, TCP_NODELAY))

    # -- what tests ask

    def report(self) -> dict[str, Any]:
        manager = self.server.manager
        return {
            "happened": self.happened,
            "sessions": len(self.server.eio.sockets),
            "in rooms": sum(len(room) for rooms in manager.rooms.values() for room in rooms.values()),
            "joining": sum(map(len, manager.pending_connect.values())),
            "leaving": sum(map(len, manager.pending_disconnect.values())),
            "environs": len(self.server.environ),
            "unfinished packets": len(self.server._binary_packet),
            "callbacks": len(manager.callbacks),
            "unfinished bytes": self.server.eio.unfinished.bytes,
            "given way": self.server.eio.unfinished.given_way,
            "protocol_errors": self.server.eio.protocol_errors,
            "handler_errors": self.server.handler_errors,
            "rss_mb": rss_mb(),
            "longest_turn_sec": self.longest_turn_sec,
        }

    def alive(self, behaviour: str) -> bool:
        sid = next(sid for sid, other in self.behaviour.items() if other == behaviour)
        return self.server.is_alive(sid, 1.0)

    def answer_http(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        query = urllib.parse.parse_qs(environ["QUERY_STRING"])
        if environ["PATH_INFO"] == "/alive":
            answer: Any = self.alive(query["user"][0])
        else:
            answer = self.report()
            if "reset" in query:
                self.longest_turn_sec = 0.0
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer, default=repr).encode()]

    def watch_turns(self) -> None:
        """Measure how long the loop keeps others waiting."""
        step = 0.002
        while True:
            before = time.monotonic()
            green.sleep(step)
            self.longest_turn_sec = max(self.longest_turn_sec, time.monotonic() - before - step)


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for library in ("engineio.server", "socketio.server"):
        logging.getLogger(library).setLevel(logging.WARNING)
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    engine.session.UPGRADE_SEC = options.pop("upgrade_sec", engine.session.UPGRADE_SEC)
    engine.session.POLLING_SILENCE_SEC = options.pop("polling_silence_sec", engine.session.POLLING_SILENCE_SEC)
    application = Application(options)
    http = HttpServer("127.0.0.1", 0, socketio.WSGIApp(application.server, application.answer_http), 1000)
    http.start()
    green.spawn(application.watch_turns)
    print(http.url.rsplit(":", 1)[1], flush=True)
    gone = green.Once()
    green.on_readable(sys.stdin.fileno(), gone.set)  # whoever started it has gone
    gone.wait()


if __name__ == "__main__":
    main()
