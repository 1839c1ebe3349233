"""Cameras that say over HTTP whatever a test wants, and who calls them: camera_caller.py in a process of its own."""

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from running import SRC

CALLER: Final = Path(__file__).resolve().parent / "camera_caller.py"
#: So long a camera waits for a request before its thread ends.
PATIENCE_SEC: Final = 20.0


class Conversation:
    """A connection, from the camera's side."""

    def __init__(self, sock: socket.socket, camera: "Camera") -> None:
        self.socket = sock
        self._camera = camera
        self._received = b""

    def request(self) -> str:
        """The next request's head; empty when there is none."""
        while b"\r\n\r\n" not in self._received:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                return ""
            self._received += data
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        self._camera.requests.append(head.decode())
        return head.decode()

    def send(self, *pieces: bytes) -> bool:
        """Whether somebody took it."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except OSError:
            return False
        return True

    def flood(self, piece: bytes) -> None:
        """Send it again and again, as fast as it is taken."""
        while self.send(piece):
            pass


Play = Callable[[Conversation], object]


class Camera:
    """Listens on a free port of the loopback; `play` is what it does with each connection, which is closed after that.

    Attributes:
        requests: the heads of all requests.
        connections: how many there were.
    """

    def __init__(self, play: Play, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._play = play
        self._tls = tls
        self._listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.connections = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "/video", host: str | None = None, login: str = "") -> str:
        return f"{'https' if self._tls else 'http'}://{login}{host or self.host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [request.split()[1] for request in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away, with all connections; may be called again."""
        for sock in (self._listener, *self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.settimeout(PATIENCE_SEC)
            self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._play(Conversation(sock, self))
        except OSError:
            pass
        finally:
            sock.close()


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/{version} {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


def answering(*answers: bytes) -> Play:
    """Answers the requests of a connection with these, the last one for ever; the connection is kept."""

    def play(conversation: Conversation) -> None:
        for number in range(1_000_000):
            if not conversation.request() or not conversation.send(answers[min(number, len(answers) - 1)]):
                return

    return play


class Fetched(NamedTuple):
    """What came of a fetch: a body, or the cause (or code) of its failure and what was said."""

    body: bytes | None
    cause: str
    said: str
    pushes: bool
    sec: float


class Caller:
    """The client's side: one camera at a time.

    Attributes:
        stalled_sec: the most CPU time that the loop took without a turn for others, in the last fetches.
        most_held: the most bytes that were counted as unfinished, in the last fetches.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CALLER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC)},
        )
        self.stalled_sec = 0.0
        self.most_held = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, camera: Camera | str, **options: Any) -> None:
        """Make this the camera; options as camera_caller.py has them."""
        url = camera if isinstance(camera, str) else camera.url()
        self._do({"url": url} | options)

    def fetch(self, close_after: float | None = None) -> Fetched:
        return self.fetch_many(1, close_after)[0]

    def fetch_many(self, count: int, close_after: float | None = None, work_sec: float = 0.0) -> list[Fetched]:
        line = {"fetch": count, "work_sec": work_sec} | ({} if close_after is None else {"close_after": close_after})
        done = self._do(line)
        self.stalled_sec, self.most_held = done["stalled_sec"], done["most_held"]
        return [
            Fetched(
                base64.b64decode(one["body"]) if "body" in one else None,
                one.get("cause") or one.get("code") or "",
                one.get("said", ""),
                one["pushes"],
                one["sec"],
            )
            for one in done["fetched"]
        ]

    def close(self) -> None:
        """Close the camera."""
        self._do({"close": True})

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=10) == 0

    def _do(self, line: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the caller has died"
        return dict(json.loads(answer))


@contextmanager
def running_caller() -> Iterator[Caller]:
    caller = Caller()
    try:
        yield caller
        caller.end()
    finally:
        caller._process.kill()
        caller._process.wait()
