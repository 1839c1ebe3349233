"""Some other application on `engine.Server`; test_talkers.py runs it. It prints its address.

It ends when its standard input does.
"""

import green

green.make_green()  # before anything else imports sockets or time

import os  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import socketio  # noqa: E402

from engine.server import Server  # noqa: E402
from serving import HttpServer  # noqa: E402

BYTES = bytes(range(256))


class Application:
    """Its events are its methods; `server` serves them."""

    def __init__(self) -> None:
        self.server = Server()
        self.server.on("connect", self.greet)
        self.server.on("echo", self.echo)
        self.server.on("ask me", self.ask)
        self.server.on("tell everybody", self.tell)
        self.server.on("connect", self.show_token, namespace="/cam")
        self.server.on("connect", self.deny, namespace="/deny")

    def greet(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        # Must not overtake the answer to the client's joining.
        self.server.emit("welcome", ("first", BYTES), to=sid)

    def echo(self, sid: str, *arguments: Any) -> tuple[Any, ...]:
        return arguments

    def ask(self, sid: str) -> None:
        self.server.emit("ask", BYTES, to=sid, callback=lambda *answer: self.server.emit("you said", answer, to=sid))

    def tell(self, sid: str, what: bytes) -> None:
        self.server.emit("told", what)

    def show_token(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        self.server.emit("token", auth and auth["token"], to=sid, namespace="/cam")

    def deny(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        raise socketio.exceptions.ConnectionRefusedError("not you", {"code": 42})


def main() -> None:
    http = HttpServer("127.0.0.1", 0, socketio.WSGIApp(Application().server), max_connections=100)
    http.start()
    print(http.url, flush=True)
    while os.read(sys.stdin.fileno(), 4096):  # a green process reads while its loop goes on
        pass


if __name__ == "__main__":
    main()
