"""Crowds of clients that hold connections and do nothing useful with them."""

import selectors
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import green  # noqa: F401 (before serving, or eventlet announces its retirement)
from phones import Phone
from pictures import picture
from raw_engineio import client_frame
from running import RunningServer
from security.processes import open_files, rss_bytes
from serving import GIVE_BACK_PAUSE_SEC, GIVE_BACK_SEC

#: Until then nine in ten must have gone (docs/security.md).
GONE_SEC: Final = 30.0
#: How often a slow client sends a byte.
DRIP_SEC: Final = 0.5
#: What has been closed is given back within that.
CLOSED_SEC: Final = 5.0
HOST: Final = "127.0.0.1"


class Crowd(NamedTuple):
    """A way of holding connections.

    Args:
        opening: what each client sends at first.
        answered: wait for the beginning of an answer to it.
        second: what it sends after that, made from the answer.
        drip: what it goes on to send, a byte at a time, over and over.
    """

    opening: bytes
    answered: bool = False
    second: Callable[[bytes], bytes] | None = None
    drip: bytes = b""


def _request(first_line: str, *headers: str) -> bytes:
    return "\r\n".join((f"{first_line} HTTP/1.1", "Host: x", *headers, "", "")).encode()


def upgrade(path: str) -> bytes:
    return _request(
        f"GET {path}", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )  # fmt: skip


def _sid(answer: bytes) -> str:
    return answer.partition(b'"sid":"')[2].partition(b'"')[0].decode()


_POLLING: Final = _request("GET /socket.io/?EIO=4&transport=polling")

CROWDS: Final = {
    "half-open sockets": Crowd(b""),
    "slow headers": Crowd(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", drip=b"a"),
    "slow bodies": Crowd(_request("POST /api/v1/token", "Content-Length: 10000"), drip=b"a"),
    "slow chunks": Crowd(_request("POST /api/v1/token", "Transfer-Encoding: chunked"), drip=b"1\r\na\r\n"),
    "slow polling posts": Crowd(
        _POLLING, True,
        lambda answer: _request(
            f"POST /socket.io/?EIO=4&transport=polling&sid={_sid(answer)}", "Content-Length: 10000"
        ),
        drip=b"a",
    ),
    "idle connections": Crowd(_request("GET /healthz"), True),
    "polling, never joined": Crowd(_POLLING, True),
    "WebSockets, never joined": Crowd(upgrade("/socket.io/?EIO=4&transport=websocket"), True),
    "WebSockets, never logged in": Crowd(
        upgrade("/socket.io/?EIO=4&transport=websocket"), True, lambda _: client_frame(1, b"40")
    ),
    "protocol 3, never logged in": Crowd(upgrade("/socket.io/?EIO=3&transport=websocket"), True),
    "unfinished upgrades": Crowd(
        _POLLING, True, lambda answer: upgrade(f"/socket.io/?EIO=4&transport=websocket&sid={_sid(answer)}")
    ),
    "slow messages": Crowd(
        upgrade("/socket.io/?EIO=4&transport=websocket"), True,
        lambda _: client_frame(2, bytes(70_000))[:66_000], drip=b"a",
    ),
}  # fmt: skip


class Held(NamedTuple):
    """What a crowd held, and for how long.

    Args:
        clients: how many came.
        gone: how many the server had ended within `GONE_SEC`.
        last_sec: when the last one went.
        newcomer_ms: how long a new client took to log in and have a frame taken while all were there.
        files: open files of the server before, at the most, and afterwards.
        rss_mb: its resident memory likewise.
    """

    clients: int
    gone: int
    last_sec: float
    newcomer_ms: float
    files: tuple[int, int, int]
    rss_mb: tuple[float, float, float]

    def summary(self) -> str:
        return (
            f"{self.gone} of {self.clients} gone, the last after {self.last_sec:.1f} s;"
            f" a new client was served in {self.newcomer_ms:.0f} ms;"
            f" files {self.files[0]} → {self.files[1]} → {self.files[2]},"
            f" MB {self.rss_mb[0]:.0f} → {self.rss_mb[1]:.0f} → {self.rss_mb[2]:.0f}"
        )


def hold(server: RunningServer, crowds: dict[str, int]) -> Held:
    """Let crowds come (how many clients of each of `CROWDS`), and see when the server ends them."""
    pid = server.process.pid
    for _ in range(4):  # a login's hash takes memory, and each of the threads for that keeps its own
        _newcomer_ms(server)
    before = open_files(pid), rss_bytes(pid) / 1e6
    clients = [(crowd, _come(server.port, CROWDS[crowd])) for crowd, count in crowds.items() for _ in range(count)]
    began = time.monotonic()
    at_most = open_files(pid), rss_bytes(pid) / 1e6
    newcomer_ms = _newcomer_ms(server)
    at_most = max(at_most[0], open_files(pid)), max(at_most[1], rss_bytes(pid) / 1e6)
    with selectors.DefaultSelector() as selector:
        for crowd, client in clients:
            selector.register(client, selectors.EVENT_READ, CROWDS[crowd])
        gone, last_sec, drips = 0, 0.0, 0
        while selector.get_map() and time.monotonic() - began < GONE_SEC:
            for key, _ in selector.select(DRIP_SEC / 5):
                if _has_ended(key.fileobj):
                    selector.unregister(key.fileobj)
                    gone, last_sec = gone + 1, time.monotonic() - began
            if time.monotonic() - began > drips * DRIP_SEC:
                drips += 1
                for key in list(selector.get_map().values()):
                    _drip(key.fileobj, key.data, drips - 1)
    for _, client in clients:
        client.close()
    deadline = time.monotonic() + CLOSED_SEC
    while open_files(pid) > before[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(GIVE_BACK_PAUSE_SEC + 2 * GIVE_BACK_SEC)  # and memory, though some was a moment ago
    return Held(
        len(clients), gone, last_sec, newcomer_ms,
        (before[0], at_most[0], open_files(pid)), (before[1], at_most[1], rss_bytes(pid) / 1e6),
    )  # fmt: skip


def _come(port: int, crowd: Crowd) -> socket.socket:
    client = socket.create_connection((HOST, port), timeout=20)
    if crowd.opening:
        client.sendall(crowd.opening)
    answer = client.recv(65536) if crowd.answered else b""
    if crowd.second is not None:
        while b"sid" not in answer:
            answer += client.recv(65536)
        client.sendall(crowd.second(answer))
    client.setblocking(False)
    return client


def _has_ended(client: socket.socket) -> bool:
    try:
        return not client.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _drip(client: socket.socket, crowd: Crowd, number: int) -> None:
    if crowd.drip:
        try:
            client.send(crowd.drip[number % len(crowd.drip) :][:1])
        except OSError:
            pass  # it has ended, as the next look shows


def _newcomer_ms(server: RunningServer) -> float:
    began = time.monotonic()
    with Phone(server.url, ["websocket"]) as phone:
        assert phone.log_in("Bob", "456")
        assert phone.send(picture())["accepted"]
        return (time.monotonic() - began) * 1000
