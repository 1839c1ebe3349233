"""Engine.IO clients that send exactly the bytes they are told to, and the server that they talk to."""

import base64
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from running import SRC, until

HERE: Final = Path(__file__).resolve().parent
#: Long enough for a busy machine; no test waits for it when all is well.
PATIENCE_SEC: Final = 10.0

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x11\x22\x33\x44"
) -> bytes:
    """A client's WebSocket frame (RFC 6455, section 5.2), well-formed or not."""
    masked = 0x80 if mask is not None else 0
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if len(payload) < 126:
        head += bytes((masked | len(payload),))
    elif len(payload) < 65536:
        head += struct.pack("!BH", masked | 126, len(payload))
    else:
        head += struct.pack("!BQ", masked | 127, len(payload))
    if mask is None:
        return head + payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    masked_payload = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + masked_payload.to_bytes(size, "big")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class WebSocketClosed(NamedTuple):
    """The end of a WebSocket: the code of the close frame, None when the connection just ended."""

    code: int | None


class RawWebSocket:
    """A WebSocket that sends what it is told and reads frame by frame.

    Args:
        wrap: makes what it sends over of a socket, for TLS.
    """

    def __init__(
        self,
        port: int,
        path: str,
        headers: dict[str, str] | None = None,
        wrap: Callable[[socket.socket], Any] = lambda plain: plain,
    ) -> None:
        self.socket = wrap(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SEC))
        self._buffer = b""
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        } | (headers or {})
        self.socket.sendall(
            (f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v) + "\r\n").encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        self.status = int(head.split()[1])
        self.head = head.decode("latin-1")

    def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.socket.sendall(client_frame(TEXT, message.encode()))
        else:
            self.socket.sendall(client_frame(BINARY, message))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive_frame(self) -> tuple[int, bytes] | None:
        """The opcode and payload of the next frame; None at the end of the connection."""
        try:
            first, second = self._exactly(2)
            size = second & 0x7F
            if size == 126:
                size = struct.unpack("!H", self._exactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", self._exactly(8))[0]
            assert not second & 0x80, "a server does not mask"
            assert first & 0xF0 == 0x80, "the server sends whole messages"
            return first & 0x0F, self._exactly(size)
        except (EOFError, ConnectionError):
            return None

    def receive(self) -> str | bytes | WebSocketClosed:
        """The next message, or the end."""
        frame = self.receive_frame()
        if frame is None:
            return WebSocketClosed(None)
        opcode, payload = frame
        if opcode == CLOSE:
            return WebSocketClosed(struct.unpack("!H", payload[:2])[0] if payload else 1005)
        if opcode == PING:
            self.socket.sendall(client_frame(PONG, payload))
            return self.receive()
        return payload.decode() if opcode == TEXT else payload

    def receive_end(self) -> WebSocketClosed:
        """Read on until the connection closes."""
        while not isinstance(message := self.receive(), WebSocketClosed):
            pass
        return message

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def __enter__(self) -> "RawWebSocket":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Poller:
    """A session over polling, one HTTP connection a request."""

    def __init__(self, server: "EngineProcess", protocol: int = 4, query: str = "") -> None:
        self._server = server
        self.protocol = protocol
        self.opening = server.request("GET", f"EIO={protocol}&transport=polling{query}")
        assert self.opening.status == 200, self.opening
        text = self.opening.text
        self.handshake: dict[str, Any] = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
        self.sid: str = self.handshake["sid"]
        self.query = f"EIO={protocol}&transport=polling&sid={urllib.parse.quote(self.sid)}"

    def get(self) -> Answer:
        return self._server.request("GET", self.query)

    def begin_get(self) -> http.client.HTTPConnection:
        """Ask, and do not wait for the answer."""
        return self._server.begin("GET", self.query)

    def post(self, body: str | bytes, content_type: str = "text/plain;charset=UTF-8") -> Answer:
        return self._server.request("POST", self.query, body, {"Content-Type": content_type})

    def join(self) -> None:
        """Join `/`, and fetch everything that comes with it."""
        if self.protocol == 4:
            self.post("40")
            assert self.get().text.startswith("40{"), "no CONNECT"

    def upgrade_path(self, more: str = "") -> str:
        return f"/socket.io/?EIO={self.protocol}&transport=websocket&sid={urllib.parse.quote(self.sid)}{more}"


class EngineProcess:
    """tests/engine/server.py, running."""

    def __init__(self, port: int, process: "subprocess.Popen[str]", log: Path) -> None:
        self.port = port
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def begin(
        self, method: str, query: str, body: str | bytes | None = None, headers: dict[str, str] | None = None,
        path: str = "/socket.io/",
    ) -> http.client.HTTPConnection:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SEC)
        data = body.encode() if isinstance(body, str) else body
        connection.request(method, f"{path}?{query}", data, headers or {})
        return connection

    @staticmethod
    def finish(connection: http.client.HTTPConnection) -> Answer:
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def request(
        self, method: str, query: str, body: str | bytes | None = None, headers: dict[str, str] | None = None,
        path: str = "/socket.io/",
    ) -> Answer:  # fmt: skip
        return self.finish(self.begin(method, query, body, headers, path))

    def poller(self, protocol: int = 4, query: str = "") -> Poller:
        return Poller(self, protocol, query)

    def websocket(self, protocol: int = 4, query: str = "", headers: dict[str, str] | None = None) -> RawWebSocket:
        """A WebSocket that has had its handshake, and with protocol 3 its CONNECT."""
        connection = RawWebSocket(self.port, f"/socket.io/?EIO={protocol}&transport=websocket{query}", headers)
        if connection.status == 101:
            opening = connection.receive()
            assert isinstance(opening, str), opening
            assert opening.startswith("0{"), opening
        return connection

    def joined(self, protocol: int = 4, query: str = "") -> RawWebSocket:
        """A WebSocket that has joined `/`."""
        connection = self.websocket(protocol, query)
        if protocol == 4:
            connection.send("40")
        answer = connection.receive()
        assert isinstance(answer, str), answer
        assert answer.startswith("40"), answer
        return connection

    def report(self, query: str = "") -> dict[str, Any]:
        answer = self.request("GET", query, path="/report")
        result: dict[str, Any] = json.loads(answer.body)
        return result

    def happened(self, what: str) -> list[list[Any]]:
        return [entry for entry in self.report()["happened"] if entry[0] == what]

    def disconnects(self, behaviour: str) -> list[str]:
        """Why the sessions with this `behave` have ended."""
        return [reason for _what, who, reason, _data in self.happened("disconnect") if who == behaviour]

    def until_ended(self, behaviour: str, within_sec: float = PATIENCE_SEC) -> str:
        return until(lambda: self.disconnects(behaviour), f"the end of {behaviour!r}", within_sec)[0]

    def alive(self, behaviour: str) -> bool:
        answer = self.request("GET", f"user={urllib.parse.quote(behaviour)}", path="/alive")
        return bool(json.loads(answer.body))

    def until_all_gone(self) -> None:
        """Nothing is left of any client."""

        def gone() -> bool:
            report = self.report()
            kept = (
                "sessions", "in rooms", "joining", "leaving", "environs", "unfinished packets", "callbacks",
                "unfinished bytes",
            )  # fmt: skip
            self.left = {name: report[name] for name in kept if report[name]}
            return not self.left

        try:
            until(gone, "all clients gone")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.left} are left") from None


@contextmanager
def engine_process(log: Path, **options: Any) -> Iterator[EngineProcess]:
    """The engine's test server with these options of `engine.Server`, ended at the end."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "engine" / "server.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC)},
        )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = process.stdout.readline()
        assert line.strip().isdigit(), log.read_text()
        yield EngineProcess(int(line), process, log)
    finally:
        process.kill()
        process.wait()
