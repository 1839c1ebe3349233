"""The doors before all else: pages of other sites, heads that are too large, more sockets than there are places."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from phones import Phone
from pictures import picture
from probe import probing
from running import RunningServer, running_server, until
from security.outside import Watched, watching

NAMED: Final = ("https://named.example", "http://also.example:8000")
#: Origins of pages that are not ours; `{port}` is the server's.
FOREIGN: Final = {
    "another site": "https://evil.example",
    "a page without an origin of its own": "null",
    "our host, another port": "http://127.0.0.1:{other_port}",
    "our host, no port": "http://127.0.0.1",
    "our host at its beginning": "http://127.0.0.1.evil:{port}",
    "our host at its end": "http://evil.127.0.0.1:{port}",
    "our host as a user": "http://127.0.0.1:{port}@evil.example",
    "our host as a path": "http://evil.example/127.0.0.1:{port}",
    "our port at its beginning": "http://127.0.0.1:{port}0",
    "another name of our host": "http://localhost:{port}",
    "a host without a scheme": "127.0.0.1:{port}",
    "a named host, another scheme": "http://named.example",
    "a named host, another port": "https://named.example:8443",
    "a host under a named one": "https://evil.named.example",
    "a named one at its beginning": "https://named.example.evil.example",
    "two origins": "http://127.0.0.1:{port} https://evil.example",
}
WELCOME: Final = {
    "none": None,
    "our own": "http://127.0.0.1:{port}",
    "our own behind TLS": "https://127.0.0.1:{port}",
    "a named one": NAMED[0],
    "another named one": NAMED[1],
}
ROUTES: Final = [(protocol, transport) for protocol in (3, 4) for transport in ("polling", "websocket")]
UPGRADE: Final = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class Answer(NamedTuple):
    status: int
    head: str
    body: str

    @property
    def allowed_origin(self) -> str | None:
        """The pages that may read it, besides those of our own."""
        found = re.search(r"(?im)^access-control-allow-origin: *(.*?)\r?$", self.head)
        return found[1] if found else None


def ask(port: int, target: str, headers: dict[str, str | None], body: str | None = None) -> Answer:
    """What a request is answered, a POST if it has a body: of a WebSocket the handshake and its first frame."""
    lines = [f"{'GET' if body is None else 'POST'} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", body or ""]).encode())
        said = b""
        while b"\r\n\r\n" not in said or (b" 101 " in said[:20] and b'"sid"' not in said):
            piece = client.recv(65536)
            assert piece, said
            said += piece
        head, _, content = said.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        while length is not None and len(content) < int(length[1]):
            piece = client.recv(65536)
            assert piece, said
            content += piece
    return Answer(int(head.split()[1]), head.decode("latin-1"), content.decode("latin-1"))


def knock(port: int, protocol: int, transport: str, origin: str | None) -> Answer:
    """A page asks for a session."""
    headers = {"Origin": origin} | (UPGRADE if transport == "websocket" else {})
    return ask(port, f"/socket.io/?EIO={protocol}&transport={transport}", headers)


# -- pages of other sites


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """With a good camera beside everything that happens to it."""
    named = [part for origin in NAMED for part in ("--origins", origin)]
    with running_server("-a", *named) as running:
        with probing(running.port):
            yield running
        assert "Traceback" not in "".join(running.log)
        assert running.stop() == 0


def filled(origin: str | None, port: int) -> str | None:
    return origin and origin.format(port=port, other_port=port - 1)


def assert_forbidden(answer: Answer) -> None:
    assert answer.status == 400, answer
    assert json.loads(answer.body) == {"code": 4, "message": "Forbidden"}
    assert answer.allowed_origin is None, "the page may not even read that"
    assert "sid" not in answer.head + answer.body


@pytest.mark.parametrize("name", FOREIGN)
def test_a_page_of_another_site_gets_no_session(server: RunningServer, name: str) -> None:
    origin = filled(FOREIGN[name], server.port)
    with watching(server):
        for protocol, transport in ROUTES:
            assert_forbidden(knock(server.port, protocol, transport, origin))


@pytest.mark.parametrize("name", WELCOME)
def test_our_own_pages_named_ones_and_clients_that_are_no_browsers_are_welcome(
    server: RunningServer, name: str
) -> None:
    origin = filled(WELCOME[name], server.port)
    for protocol, transport in ROUTES:
        answer = knock(server.port, protocol, transport, origin)
        assert answer.status == (101 if transport == "websocket" else 200), answer
        assert '"sid":"' in answer.body
        if transport == "polling":
            assert answer.allowed_origin == origin
    with Phone(server.url, ["polling"], headers={"Origin": origin} if origin else {}) as phone:
        assert phone.log_in("Bob", "456")
        assert phone.send(picture())["accepted"]


def test_a_page_of_another_site_has_no_use_of_a_session_that_it_knows(server: RunningServer) -> None:
    for protocol in (3, 4):
        began = knock(server.port, protocol, "polling", None)
        sid = re.search(r'"sid":"([^"]+)"', began.body)
        assert sid is not None
        target = f"/socket.io/?EIO={protocol}&transport={{}}&sid={sid[1]}"
        foreign: dict[str, str | None] = {"Origin": "https://evil.example"}
        assert_forbidden(ask(server.port, target.format("polling"), foreign))
        assert_forbidden(ask(server.port, target.format("polling"), foreign, body="1"))
        assert_forbidden(ask(server.port, target.format("websocket"), foreign | UPGRADE))
        noop = "6" if protocol == 4 else "1:6"
        assert ask(server.port, target.format("polling"), {}, body=noop).status == 200, "it was left alone"


# -- heads that are too large

TOO_LARGE: Final = {
    "an address": (414, b"GET /healthz?%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 17_000)),
    "an address of the engine's": (
        414, b"GET /socket.io/?EIO=4&transport=polling&t=%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 17_000)
    ),
    "an address without an end": (414, b"GET /" + b"a" * 40_000),
    "a header": (431, b"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: %b\r\n\r\n" % (b"a" * 17_000)),
    "a header without an end": (431, b"GET /healthz HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * 40_000),
    "headers": (431, b"GET /healthz HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"X: 1\r\n" * 3_000)),
    "a hundred headers": (431, b"GET /healthz HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"X: 1\r\n" * 100)),
    "a WebSocket's headers": (
        431,
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nX: %b\r\n\r\n" % (b"a" * 17_000),
    ),
}  # fmt: skip


def heard_to_the_end(client: socket.socket) -> bytes:
    said = b""
    try:
        while piece := client.recv(65536):
            said += piece
    except ConnectionError:
        pass
    return said


def count(server: RunningServer, name: str) -> int:
    """A number of /metrics."""
    found = re.search(rf"^imageserver_{name} (\d+)", server.get("/metrics", server.token("Bob", "456")), re.M)
    assert found is not None
    return int(found[1])


def test_two_hundred_heads_that_are_too_large_are_refused_by_number_and_nobody_notices(server: RunningServer) -> None:
    heads = list(TOO_LARGE.values()) * (200 // len(TOO_LARGE))
    before = count(server, "bad_requests_total")
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in heads]
    with watching(server) as watched:
        for client, (_, head) in zip(clients, heads, strict=True):
            client.sendall(head)
        for client, (status, _) in zip(clients, heads, strict=True):
            client.shutdown(socket.SHUT_WR)
            said = heard_to_the_end(client)
            assert said.startswith(b"HTTP/1.1 %d " % status), said
            assert said.count(b"HTTP/1.") == 1, said
            assert b"\r\nConnection: close\r\n" in said
            client.close()
        assert count(server, "bad_requests_total") == before + 200
        assert watched.growth_mb < 10
        until(lambda: any("a request was not taken" in line for line in watched.log), "the line that says so", 2)


# -- more sockets than there are places

PLACES: Final = 30
IDLE: Final = 200
#: What a socket sends before it falls silent: nothing, half a head, or a request whose answer it has got.
SILENT: Final = (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")


def fall_silent(port: int, number: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    word = SILENT[number % len(SILENT)]
    client.sendall(word)
    if word.endswith(b"\r\n\r\n"):
        said = b""
        while b'"ok"' not in said:
            piece = client.recv(65536)
            assert piece, said
            said += piece
    return client


def test_idle_sockets_in_all_places_give_way_to_newcomers_and_never_does_a_camera() -> None:
    with running_server("-a", "--max-connections", str(PLACES)) as server:
        with probing(server.port):
            watched = Watched(server)
            idle = [fall_silent(server.port, number) for number in range(IDLE)]
            assert watched.descriptors < PLACES + 30
            for transports in (["websocket"], ["polling"], ["polling", "websocket"]):
                began = time.monotonic()
                with Phone(server.url, transports) as phone:
                    assert phone.log_in("Bob", "456")
                    idle += [fall_silent(server.port, number) for number in range(PLACES)]
                    assert phone.send(picture())["accepted"], "who is served keeps its place"
                    assert time.monotonic() - began < 2
            until(lambda: count(server, "http_connections") <= PLACES, "no more than there are places", 2)
            assert count(server, "displaced_connections_total") >= IDLE + 3 * PLACES - PLACES
            assert count(server, "turned_away_connections_total") == 0
            ended = Counter(heard_to_the_end(client) for client in idle[: IDLE - PLACES])
            assert set(ended) == {b""}, ended
            for client in idle:
                client.close()
        watched.assert_log_is_calm(causes=3)
        assert server.stop() == 0
