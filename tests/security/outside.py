"""What can be seen of the server from outside: its process, its log, and every byte that it sends to a client.

`Client` plays one Socket.IO client of either protocol over either transport, and keeps all that it received.
"""

import base64
import json
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from raw_engineio import BINARY, CLOSE, TEXT, client_frame
from running import RunningServer

PATIENCE_SEC: Final = 10.0

#: What a client must never be told: that there is a Python, its libraries, its exceptions, its files. (`__proto__` is
#: JavaScript's: clients try it for a namespace, and get their own word back.)
INTERNAL: Final = re.compile(
    rb"""Traceback|File\ "|\bline\ \d+,\ in\b|\.py\b|site-packages|dist-packages|/(?:usr|home|root|opt|work|var|tmp)/
    |\b(?:socketio|engineio|eventlet|greenlet|werkzeug|flask|hypothesis|wsgi|h11|sqlalchemy|opencv|libjpeg)\b
    |(?i:python)|\b[A-Z]\w*(?:Error|Exception|Exit|Warning)\b|NoneType|<class\ |\bobject\ at\ 0x|\bself\b
    |__(?!proto__)\w+__""",
    re.VERBOSE,
)

SESSION_ID: Final = re.compile(rb'"sid": ?"[^"]*"')


def internals_in(data: bytes) -> list[bytes]:
    """What of it should never have been sent."""
    data = SESSION_ID.sub(b'"sid":""', data)  # which are random, and may look like anything
    return [data[max(found.start() - 60, 0) : found.end() + 60] for found in INTERNAL.finditer(data)]


def assert_nothing_internal(data: bytes) -> None:
    assert not internals_in(data), internals_in(data)[:3]


class Watched:
    """The server's process while something is done to it."""

    def __init__(self, server: RunningServer) -> None:
        self._folder = Path("/proc") / str(server.process.pid)
        self._server = server
        self._lines = -1
        while self._lines < len(server.log):  # what it said before may be on its way still
            self._lines = len(server.log)
            time.sleep(0.05)
        self._began = time.monotonic()
        self._forget_peak()
        self._rss_before = self._status("VmRSS")

    def _forget_peak(self) -> None:
        (self._folder / "clear_refs").write_text("5")

    def _status(self, name: str) -> float:
        line = next(line for line in (self._folder / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    @property
    def growth_mb(self) -> float:
        """By how much its resident memory is larger than at the beginning."""
        return self._status("VmRSS") - self._rss_before

    @property
    def peak_growth_mb(self) -> float:
        """By how much it was larger at any moment since."""
        return self._status("VmHWM") - self._rss_before

    @property
    def elapsed_sec(self) -> float:
        return time.monotonic() - self._began

    @property
    def log(self) -> list[str]:
        """What it has written since."""
        return self._server.log[self._lines :]

    @property
    def descriptors(self) -> int:
        return len(os.listdir(self._folder / "fd"))

    def assert_log_is_calm(self, causes: int = 1) -> None:
        """It says what happened, a line a second for each cause at most, and no traceback."""
        log = self.log
        assert not [line for line in log if "Traceback" in line or " ERROR " in line], "".join(log)
        allowed = causes * (self.elapsed_sec + 2)
        assert len(log) <= allowed, f"{len(log)} lines, {allowed:.0f} are allowed: {''.join(log[:20])}"
        assert not [line for line in log if not line.removesuffix("\n").isprintable()], "nothing is drawn on a terminal"


class Gone(Exception):
    """The server has ended the connection, or the session."""


class Client:
    """One Socket.IO client that says whatever it is told to.

    Attributes:
        heard: every Engine.IO packet that came, text or binary.
        received: every byte that came.
        close_code: of the WebSocket, once it has been closed with one.
        status: of the last HTTP answer.
        asked: acks that a test has asked for, for its numbering.
    """

    def __init__(self, port: int, protocol: int, transport: str, join: bool = True, source: str = "127.0.0.1") -> None:
        self.port = port
        self.protocol = protocol
        self.transport = transport
        self.heard: list[str | bytes] = []
        self.received = bytearray()
        self.close_code: int | None = None
        self.status = 0
        self.asked = 0
        self._source = source
        self._buffer = b""
        self._sid = ""
        self._acks = 0
        self._read = 0
        self._socket = self._connect()
        if transport == "websocket":
            self._open_websocket()
        else:
            self._open_polling()
        if join:
            if protocol == 4:
                self.say("40")
            self.until(lambda packet: isinstance(packet, str) and packet.startswith("40"))

    # -- saying

    def say(self, *packets: str | bytes) -> None:
        """Send Engine.IO packets: text as it is, bytes as a binary message. Over polling in one POST, and its answer
        is read.

        Raises:
            Gone: it was answered with an error.
        """
        if self.transport == "websocket":
            self.send_raw(b"".join(map(self.frame, packets)))
        else:
            self.post(self._payload(packets))

    def send_raw(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            raise Gone from None

    def post(self, body: bytes, content_type: str = "text/plain;charset=UTF-8") -> None:
        status = self._ask("POST", body, content_type)
        if status != 200:
            raise Gone(f"the POST was answered {status}")

    def close(self) -> None:
        """Go, as a client does that has nothing more to say; over polling that has to be said."""
        if self.transport == "polling" and self.status == 200:
            try:
                self.say("1")
            except Gone:
                pass
        self._socket.close()

    # -- hearing

    def until(self, fits: Any) -> str | bytes:
        """Read until a packet fits that was not read before, and return it.

        Raises:
            Gone: the connection ended before.
        """
        deadline = time.monotonic() + PATIENCE_SEC
        while True:
            while self._read < len(self.heard):
                packet = self.heard[self._read]
                self._read += 1
                if packet == "2" and self.protocol == 4:
                    self.say("3")
                elif fits(packet):
                    return packet
            assert time.monotonic() < deadline, f"not within {PATIENCE_SEC:g} s; heard {self.heard[-5:]}"
            self._hear_more()

    def acked(self) -> dict[str, Any]:
        """Offer an image that is none, and return the ack: whatever was said before has been acted on.

        Raises:
            Gone: the connection has ended.
        """
        self._acks += 1
        number = 7_000_000 + self._acks
        self.say(f'451-{number}["receiveImage",{{"_placeholder":true,"num":0}}]', b"no image")
        packet = self.until(lambda packet: isinstance(packet, str) and packet.startswith(f"43{number}["))
        answer: dict[str, Any] = json.loads(str(packet)[len(f"43{number}") :])[0]
        return answer

    def is_served(self) -> bool:
        """Whether the session goes on."""
        try:
            self.acked()
        except (Gone, ConnectionError):
            return False
        return True

    def errors(self) -> list[str]:
        """The codes of all `serverError` events so far."""
        return [event[1] for event in self.events() if event[0] == "serverError"]

    def events(self) -> list[list[Any]]:
        return [json.loads(p[2:]) for p in self.heard if isinstance(p, str) and p.startswith('42["')]

    def log_in(self, name: str = "user1", password: str = "pass1") -> None:
        self.say("42" + json.dumps(["authenticate", name, password, "in"]))
        answer = self.until(lambda packet: isinstance(packet, str) and packet.startswith('42["in"'))
        assert answer == '42["in",true]', answer

    # --

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(
            ("127.0.0.1", self.port), timeout=PATIENCE_SEC, source_address=(self._source, 0)
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _open_websocket(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.send_raw(
            f"GET /socket.io/?EIO={self.protocol}&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "\r\n".encode()
        )
        self.status = int(self._read_head().split()[1])
        assert self.status == 101, bytes(self.received)
        self._hear_more()

    def _open_polling(self) -> None:
        status = self._ask("GET")
        assert status == 200, bytes(self.received)
        self._sid = json.JSONDecoder().raw_decode(str(self.heard[0])[1:])[0]["sid"]

    def _ask(self, method: str, body: bytes | None = None, content_type: str = "") -> int:
        sid = f"&sid={self._sid}" if self._sid else ""
        head = f"{method} /socket.io/?EIO={self.protocol}&transport=polling{sid} HTTP/1.1\r\n"
        head += f"Host: 127.0.0.1:{self.port}\r\n"
        if body is not None:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        for attempt in (1, 2):
            try:
                self.send_raw((head + "\r\n").encode() + (body or b""))
                answer = self._read_head()
                break
            except Gone:  # between two requests a connection may be closed at any time
                if attempt == 2:
                    raise
                self._socket.close()
                self._buffer = b""
                self._socket = self._connect()
        self.status = int(answer.split()[1])
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer)
        content = self._exactly(int(found[1]) if found else 0)
        if method == "GET" and self.status == 200:
            binary = b"application/octet-stream" in answer
            self.heard += self._packets(content, binary)
        return self.status

    def _hear_more(self) -> None:
        if self.transport == "polling":
            if self._ask("GET") != 200:
                raise Gone(f"the poll was answered {self.status}")
            if self.heard[-1:] == ["1"]:
                raise Gone("the session was closed")
            return
        first, second = self._exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._exactly(8))
        payload = self._exactly(size)
        opcode = first & 0x0F
        if opcode == CLOSE:
            self.close_code = struct.unpack("!H", payload[:2])[0] if payload else None
            raise Gone(f"closed with {self.close_code}")
        if opcode == TEXT:
            self.heard.append(payload.decode())
        elif opcode == BINARY:
            self.heard.append(payload)

    def frame(self, packet: str | bytes) -> bytes:
        """The WebSocket frame of a packet."""
        if isinstance(packet, str):
            return client_frame(TEXT, packet.encode("utf-8", "surrogatepass"))
        return client_frame(BINARY, packet if self.protocol == 4 else b"\x04" + packet)

    def _payload(self, packets: tuple[str | bytes, ...]) -> bytes:
        texts = []
        for packet in packets:
            if isinstance(packet, bytes):
                packet = ("b" if self.protocol == 4 else "b4") + base64.b64encode(packet).decode()
            texts.append(packet)
        if self.protocol == 3:
            lengths = [len(text.encode("utf-16-le", "surrogatepass")) // 2 for text in texts]
            texts = [f"{length}:{text}" for length, text in zip(lengths, texts, strict=True)]
        return ("\x1e" if self.protocol == 4 else "").join(texts).encode("utf-8", "surrogatepass")

    def _packets(self, content: bytes, binary: bool) -> Iterator[str | bytes]:
        if self.protocol == 4:
            yield from content.decode().split("\x1e")
            return
        while content:
            if binary:
                end = content.index(b"\xff")
                size = int("".join(str(digit) for digit in content[1:end]))
                part, text = content[end + 1 : end + 1 + size], content[0] == 0
                yield part.decode() if text else part
                content = content[end + 1 + size :]
            else:
                length, _, rest = content.decode().partition(":")
                units = rest.encode("utf-16-le")
                yield units[: 2 * int(length)].decode("utf-16-le")
                content = units[2 * int(length) :].decode("utf-16-le").encode()

    def _read_head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n"

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"nothing came for {PATIENCE_SEC:g} s; heard {self.heard[-5:]}") from None
        except OSError:
            raise Gone("reset") from None
        if not data:
            raise Gone("the connection ended")
        self.received += data
        self._buffer += data

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            assert_nothing_internal(bytes(self.received))


@contextmanager
def watching(server: RunningServer, causes: int = 1) -> Iterator[Watched]:
    """The server while the block runs; at its end its log must have been calm."""
    watched = Watched(server)
    yield watched
    watched.assert_log_is_calm(causes)
