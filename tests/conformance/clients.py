"""The conformance servers, running, and the clients that the protocols' tests have in common."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from raw_engineio import PATIENCE_SEC, Answer, RawWebSocket, WebSocketClosed

HERE: Final = Path(__file__).resolve().parent
#: What the servers say in their handshake.
PING_INTERVAL_SEC: Final = 0.3
PING_TIMEOUT_SEC: Final = 0.2
OPENING: Final = {"pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000}


class Peer:
    """A client of one conformance server, as far as HTTP goes.

    Args:
        path: where the server serves its protocol.
    """

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.path = path

    def begin(self, method: str, query: str, body: str | bytes | None = None) -> http.client.HTTPConnection:
        """Ask, and do not wait for the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SEC)
        data = body.encode() if isinstance(body, str) else body
        headers = {"Content-Type": "text/plain;charset=UTF-8"} if data is not None else {}
        connection.request(method, f"{self.path}?{query}", data, headers)
        return connection

    @staticmethod
    def finish(connection: http.client.HTTPConnection) -> Answer:
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def request(self, method: str, query: str, body: str | bytes | None = None) -> Answer:
        return self.finish(self.begin(method, query, body))

    def poller(self) -> "Polling":
        return Polling(self)

    def bare_websocket(self, query: str) -> RawWebSocket:
        """A WebSocket from which nothing has been read."""
        return RawWebSocket(self.port, f"{self.path}?{query}")

    def websocket(self) -> RawWebSocket:
        """A WebSocket that has had its Engine.IO handshake."""
        connection = self.bare_websocket("EIO=4&transport=websocket")
        handshake(connection)
        return connection


class Polling:
    """A session of protocol 4 over polling."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.answer = peer.request("GET", "EIO=4&transport=polling")
        assert self.answer.status == 200, self.answer
        assert self.answer.text[0] == "0"
        self.handshake: dict[str, Any] = json.loads(self.answer.text[1:])
        self.sid: str = self.handshake["sid"]
        self.query = f"EIO=4&transport=polling&sid={self.sid}"

    def get(self) -> Answer:
        return self._peer.request("GET", self.query)

    def begin_get(self) -> http.client.HTTPConnection:
        return self._peer.begin("GET", self.query)

    def post(self, body: str | bytes) -> Answer:
        return self._peer.request("POST", self.query, body)

    def upgrade(self) -> RawWebSocket:
        """A WebSocket for this session that has not said anything yet."""
        return self._peer.bare_websocket(f"EIO=4&transport=websocket&sid={self.sid}")


def handshake(connection: RawWebSocket) -> dict[str, Any]:
    """Read the first packet, and return what it says."""
    assert connection.status == 101, connection.head
    opening = connection.receive()
    assert isinstance(opening, str), opening
    assert opening[0] == "0"
    content: dict[str, Any] = json.loads(opening[1:])
    return content


def receive(connection: RawWebSocket) -> str | bytes | WebSocketClosed:
    """The next message that is no ping of the protocol's heartbeat; those are answered."""
    while (message := connection.receive()) == "2":
        connection.send("3")
    return message


def until_closed(connection: RawWebSocket) -> float:
    """Read until the connection ends, without answering pings; returns how long that took."""
    began = time.monotonic()
    connection.receive_end()
    return time.monotonic() - began


def side_by_side(*players: Callable[[], None]) -> None:
    """Run them in threads; what one raises is raised here."""
    failures: list[BaseException] = []

    def run(player: Callable[[], None]) -> None:
        try:
            player()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(player,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def conformance_server(kind: str, log: Path, reader: str = "python") -> Iterator[int]:
    """A server of this kind on a free port, with this reader; it ends as it should when it is told to."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), kind, "--reader", reader],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + log.read_text()
        yield int(line.rsplit(":", 1)[1])
        process.terminate()
        assert process.wait(timeout=PATIENCE_SEC) == 0, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()
