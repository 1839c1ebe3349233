"""What becomes of a connection that stalls, waits or ends in the middle of something, on the real server.

A client that sends a frame slowly wakes the server once for the frame, and still counts as alive; what comes while a
handler waits is handled behind it; and whenever and however a client goes, it leaves nothing.
"""

import http.client
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from app_process import AppProcess, app_process
from conversations import GOODBYE, Dialect, payload, tiny
from raw_engineio import BINARY, PATIENCE_SEC, PING, PONG, TEXT, RawWebSocket, WebSocketClosed, client_frame
from readers import READERS
from security.processes import cpu_sec

PROTOCOLS = pytest.mark.parametrize("protocol", [3, 4])
CI: Final = bool(os.environ.get("CI"))
MAX_BYTES: Final = 300_000
PING_INTERVAL_SEC, PING_TIMEOUT_SEC = 0.2, 0.3
#: So long a login takes on the slow server.
LOGIN_SEC: Final = 0.2
OPTIONS: Final[dict[str, Any]] = {"settings": {"rate": 0.0, "max_frame_bytes": MAX_BYTES}}


@pytest.fixture(scope="module", params=READERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    with app_process(tmp_path_factory.mktemp("life") / "log", request.param, **OPTIONS) as process:
        yield process


@pytest.fixture(scope="module", params=READERS)
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """With a heartbeat that tests can wait for."""
    engine = {"ping_interval": PING_INTERVAL_SEC, "ping_timeout": PING_TIMEOUT_SEC}
    with app_process(tmp_path_factory.mktemp("quick") / "log", request.param, engine=engine, **OPTIONS) as process:
        yield process


@pytest.fixture(scope="module", params=READERS)
def slow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Where each login takes its time."""
    log = tmp_path_factory.mktemp("slow") / "log"
    with app_process(log, request.param, login_sec=LOGIN_SEC, **OPTIONS) as process:
        yield process


class Client(RawWebSocket):
    """A client that is logged in, unless it does not want to be."""

    def __init__(self, server: AppProcess, protocol: int = 4, user: str = "Alice", log_in: bool = True) -> None:
        super().__init__(server.port, f"/socket.io/?EIO={protocol}&transport=websocket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.says = Dialect(protocol, user)
        opening = self.receive()
        assert isinstance(opening, str), opening
        assert opening.startswith("0{"), opening
        if log_in:
            self.send_raw(b"".join(self.says.joined) + self.says.login)
            self.until('42["in",true]')

    def until(self, wanted: str) -> None:
        while (message := self.receive()) != wanted:
            assert not isinstance(message, WebSocketClosed), wanted

    def ack(self) -> int:
        """The next ack's number; Engine.IO's heartbeat and other events go by."""
        while not isinstance(message := self.receive(), str) or not message.startswith("43"):
            assert not isinstance(message, WebSocketClosed)
        return int(message[2:].partition("[")[0])


def image_of(size: int) -> bytes:
    return tiny(size - len(tiny(0)))


# -- waking once for a frame


@PROTOCOLS
def test_a_frame_in_many_pieces_wakes_the_server_a_few_times(server: AppProcess, protocol: int) -> None:
    with Client(server, protocol) as client:
        for image in (image_of(200_000), bytes(MAX_BYTES + 1)):
            before = server.ask("received")
            sent = client.says.image(image, 7)
            for at in range(0, len(sent), 1_448):
                client.send_raw(sent[at : at + 1_448])
                server.ask("settle")
            assert client.ack() == 7
            assert server.ask("received") - before < 12, "64 KB at once, and its beginning and end"


@PROTOCOLS
@pytest.mark.parametrize(
    "size", [2_000, 3_000, 60_000, 70_000, 200_000, MAX_BYTES + 1] if CI else [70_000, MAX_BYTES + 1]
)
@pytest.mark.parametrize("missing", [1, 1_000, 2_047, 2_048, 2_049, 0.5] if CI else [1, 2_047, 2_049, 0.5])
def test_the_rest_of_a_frame_may_come_in_drips(server: AppProcess, protocol: int, size: int, missing: float) -> None:
    image = image_of(size) if size <= MAX_BYTES else bytes(size)
    with Client(server, protocol) as client:
        sent = client.says.image(image, 7)
        rest = int(len(sent) * missing) if missing < 1 else int(missing)
        if rest >= len(sent):
            return
        client.send_raw(sent[:-rest])
        server.ask("settle")
        for at in range(0, rest, max(rest // 7, 1)):
            client.send_raw(sent[-rest:][at : at + max(rest // 7, 1)])
            server.ask("settle")
        assert client.ack() == 7
        # And from now on the smallest thing is noticed at once.
        client.send_raw(client_frame(PING, b"?"))
        assert client.receive_frame() == (PONG, b"?")
        client.send_raw(client.says.image(tiny(), 8))
        assert client.ack() == 8


def test_a_fault_within_a_large_message_is_answered_though_more_of_it_was_waited_for(server: AppProcess) -> None:
    text = client_frame(TEXT, b"4" + b"x" * 10_000 + b"\xff" + b"x" * 40_000)
    with Client(server) as client:
        client.send_raw(text[:5_000])
        server.ask("settle")
        client.send_raw(text[5_000:-20_000])
        client.socket.shutdown(socket.SHUT_WR)  # or more would be waited for
        assert client.receive_end() == WebSocketClosed(1007)


def test_those_that_dribble_a_frame_are_alive_and_those_that_stop_are_not(quick: AppProcess) -> None:
    """They neither ping nor answer pings, for they are in the middle of a frame; and less comes than the server wants
    to be told of. Both protocols, a frame that is taken and one that is not."""
    clients = [Client(quick, 3 + number % 2, f"dribbles-{number}") for number in range(4)]
    frames = [
        client.says.image(image_of(200_000) if number < 2 else bytes(MAX_BYTES + 1), 7)
        for number, client in enumerate(clients)
    ]
    rest = 150_000
    for client, frame in zip(clients, frames, strict=True):
        client.send_raw(frame[:-rest])
    began = time.monotonic()
    while time.monotonic() - began < 3 * (PING_INTERVAL_SEC + PING_TIMEOUT_SEC):
        for client, frame in zip(clients, frames, strict=True):
            client.send_raw(frame[-rest:][:100])
        rest -= 100
        time.sleep(0.1)
    for client, frame in zip(clients, frames, strict=True):
        client.send_raw(frame[-rest:])
        assert client.ack() == 7
        client.send_raw(frame[:-150_000])
    began = time.monotonic()
    for client in clients:
        client.receive_end()
        client.close()
    assert time.monotonic() - began < 3 * (PING_INTERVAL_SEC + PING_TIMEOUT_SEC)
    quick.until_nothing_is_left()


def test_a_stop_does_not_wait_for_frames_that_are_half_there(tmp_path: Path) -> None:
    with app_process(tmp_path / "log", READERS[0], **OPTIONS) as server:
        clients = [Client(server, 3 + number % 2, f"half-{number}") for number in range(6)]
        for client, sent in zip(clients, (1, 30, 70, 3_000, 100_000, 190_000), strict=True):
            client.send_raw(client.says.image(image_of(200_000), 1)[:sent])
        server.ask("settle")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3
        for client in clients:
            client.receive_end()
            client.close()


# -- while a handler waits


@PROTOCOLS
def test_what_comes_while_a_login_is_checked_is_handled_behind_it_in_its_order(slow: AppProcess, protocol: int) -> None:
    with Client(slow, protocol, "eager", log_in=False) as client:
        first = [*client.says.joined, client.says.login, *[client.says.image(tiny(), n) for n in range(100, 150)]]
        client.send_raw(b"".join(first))
        slow.ask("settle")
        before, began = cpu_sec(slow.process.pid), time.monotonic()
        for number in range(150, 180):
            client.send_raw(client.says.image(image_of(10_000 * (number % 10) + 2_000), number))
            client.send_raw(client_frame(PING, b"%d" % number))
        client.send_raw(client.says.text('2180["receiveImage",1]') + client.says.image(bytes(MAX_BYTES + 1), 181))
        while time.monotonic() - began < LOGIN_SEC * 0.8:
            time.sleep(0.01)
        assert cpu_sec(slow.process.pid) - before <= 0.05, "it waits without turning"
        client.until('42["in",true]')
        answers = []
        while len(answers) < 50 + 2 * 30 + 2:
            frame = client.receive_frame()
            assert frame is not None
            opcode, content = frame
            if opcode == PONG:
                answers.append(content)
            elif content.startswith(b"43"):
                answers.append(content[2:].partition(b"[")[0])
        later = [b"%d" % number for number in range(150, 180) for _ in range(2)]
        assert answers == [b"%d" % number for number in range(100, 150)] + later + [b"180", b"181"]
    assert len(slow.ask("account")["published"]) == 80


@PROTOCOLS
def test_a_message_cut_by_a_login_that_is_checked_is_read_on(slow: AppProcess, protocol: int) -> None:
    """Each frame half there when the handler begins to wait, the rest comes meanwhile or afterwards."""
    with Client(slow, protocol, "cut", log_in=False) as client:
        client.send_raw(b"".join(client.says.joined))
        frames = [client.says.image(image_of(30_000), 1), client.says.image(bytes(MAX_BYTES + 1), 2)]
        for number, (frame, cut) in enumerate([(f, c) for f in frames for c in (20, 5_000)]):
            client.send_raw(client.says.text(f'2["authenticate","cut-{number % 2}","x","in"]') + frame[:cut])
            time.sleep(0.02)
            if number % 3:
                client.send_raw(frame[cut:])
                client.until('42["in",true]')
            else:
                client.until('42["in",true]')
                client.send_raw(frame[cut:])
            client.ack()


# -- ends in every phase

#: What the client has done when it goes. Each returns the socket that ends.
Phase = Callable[[AppProcess, int], RawWebSocket]


numbers = itertools.count()


def after(*said: Callable[[Client], bytes], log_in: bool = True) -> Phase:
    def reach(server: AppProcess, protocol: int) -> RawWebSocket:
        # Each its own user: or who logs in would ask the others for a sign of life, and wait for it.
        client = Client(server, protocol, f"goes-{next(numbers)}", log_in)
        for one in said:
            client.send_raw(one(client))
        return client

    return reach


def upgrade(*said: str) -> Phase:
    """A WebSocket that is on its way to take over a polling session, which has joined."""

    def reach(server: AppProcess, protocol: int) -> RawWebSocket:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SEC)
        address = f"/socket.io/?EIO={protocol}&transport=polling"
        connection.request("GET", address)
        opening = connection.getresponse().read().decode()
        sid = opening.partition('"sid":"')[2].partition('"')[0]
        if protocol == 4:
            connection.request("POST", f"{address}&sid={sid}", payload(4, ["40"]), {"Content-Type": "text/plain"})
            assert connection.getresponse().read() == b"ok"
        connection.close()
        websocket = RawWebSocket(server.port, f"/socket.io/?EIO={protocol}&transport=websocket&sid={sid}")
        for one in said:
            websocket.send(one)
        return websocket

    return reach


def large(client: Client) -> bytes:
    return client.says.image(image_of(200_000), 1)


def refused(client: Client) -> bytes:
    return client.says.image(bytes(MAX_BYTES + 1), 1)


PHASES: dict[str, Phase] = {
    "half a handshake": lambda server, _protocol: half_a_handshake(server),
    "before joining": after(log_in=False),
    "joined": after(lambda c: b"".join(c.says.joined), log_in=False),
    "logging in as it joins": after(
        lambda c: c.says.text('0{"username":"goes","password":"x"}') if c.says.protocol == 4 else c.says.login,
        log_in=False,
    ),
    "logging in": after(lambda c: b"".join(c.says.joined) + c.says.login, log_in=False),
    "logging in, with more behind it": after(
        lambda c: b"".join(c.says.joined) + c.says.login + large(c) * 3 + large(c)[:100_000], log_in=False
    ),
    "logged in": after(),
    "after an image": after(lambda c: c.says.image(tiny(), 1)),
    "half an announcement": after(lambda c: c.says.announce(1)[:20]),
    "announced": after(lambda c: c.says.announce(1)),
    "half a header": after(lambda c: c.says.announce(1) + c.says.binary(bytes(70_000))[:5]),
    "half an image": after(lambda c: large(c)[:100_000]),
    "half an image, nearly all": after(lambda c: large(c)[:-10]),
    "half a refused image": after(lambda c: refused(c)[:100_000]),
    "half a fragmented image": after(
        lambda c: c.says.announce(1) + client_frame(BINARY, c.says.message(bytes(100_000)), fin=False)
    ),
    "half a text": after(lambda c: c.says.text('2["hello","' + "x" * 60_000 + '"]')[:30_000]),
    "one of two attachments": after(
        lambda c: c.says.text('52-1["receiveImage",{"_placeholder":true,"num":0}]') + c.says.binary(bytes(100_000))
    ),
    "a close frame that it answers": after(lambda _: GOODBYE),
    "a fault": after(lambda _: client_frame(BINARY, b"x", rsv=4)),
    "upgrading": upgrade(),
    "upgrading, probed": upgrade("2probe"),
    "upgraded": upgrade("2probe", "5"),
}


def half_a_handshake(server: AppProcess) -> RawWebSocket:
    client = RawWebSocket.__new__(RawWebSocket)
    client.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC)
    client.socket.sendall(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgr")
    client._buffer = b""
    return client


def close(clients: list[RawWebSocket]) -> None:
    for client in clients:
        client.close()


def reset(clients: list[RawWebSocket]) -> None:
    for client in clients:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def half_close(clients: list[RawWebSocket]) -> None:
    for client in clients:
        try:
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has ended it
    until_closed(clients)


def until_closed(clients: list[RawWebSocket]) -> None:
    for client in clients:
        try:
            while client.socket.recv(1 << 20):
                pass
        except ConnectionError:
            pass
        client.close()


ENDS: dict[str, Callable[[AppProcess, list[RawWebSocket]], object]] = {
    "closes": lambda _server, clients: close(clients),
    "resets": lambda _server, clients: reset(clients),
    "half closes": lambda _server, clients: half_close(clients),
    "is kicked": lambda server, clients: (server.ask("kick?user=goes-*"), until_closed(clients)),
    "is dropped": lambda server, clients: (server.ask("drop"), until_closed(clients)),
}
#: A kick is for who is logged in; to be dropped as at the end of the server, a session is needed.
NOBODY_TO_END: Final = {
    "is kicked": (
        "half a handshake", "before joining", "joined", "logging in as it joins", "logging in",
        "logging in, with more behind it", "a close frame that it answers", "a fault", "upgrading", "upgrading, probed",
        "upgraded",
    ),
    "is dropped": ("half a handshake",),
}  # fmt: skip


@pytest.mark.parametrize("settled", [True, False] if CI else [True], ids=["", "at once"] if CI else [""])
@pytest.mark.parametrize("end", ENDS)
def test_whenever_and_however_a_client_goes_it_leaves_nothing(server: AppProcess, end: str, settled: bool) -> None:
    assert_nothing_is_left(server, PHASES, end, settled)


@pytest.mark.parametrize("end", [end for end in ENDS if end != "is kicked"])
def test_who_goes_while_its_login_is_checked_leaves_nothing(slow: AppProcess, end: str) -> None:
    phases = {name: reach for name, reach in PHASES.items() if name.startswith("logging in")}
    assert_nothing_is_left(slow, phases, end, settled=True)


def assert_nothing_is_left(server: AppProcess, phases: dict[str, Phase], end: str, settled: bool) -> None:
    before = server.until_nothing_is_left()
    clients = [
        reach(server, protocol)
        for name, reach in phases.items()
        for protocol in (3, 4)
        if name not in NOBODY_TO_END.get(end, ())
    ]
    assert len(clients) >= 6
    if settled:
        server.ask("settle")
    ENDS[end](server, clients)
    if phases is PHASES:
        server.ask("drop")  # of upgrades that fail the sessions go on polling
    left = server.until_nothing_is_left()
    assert (left["files"], left["errors"]) == (before["files"], before["errors"])
    assert left["greenlets"] <= before["greenlets"]


def test_the_others_are_served_while_one_is_in_any_phase(server: AppProcess) -> None:
    with Client(server, user="other") as other:
        stalled = [reach(server, protocol) for reach in PHASES.values() for protocol in (3, 4)]
        waits = []
        for _ in range(20):
            began = time.monotonic()
            other.send_raw(other.says.image(tiny(), 1))
            assert other.ack() == 1
            waits.append(time.monotonic() - began)
        assert sorted(waits)[10] < 0.05
        before = cpu_sec(server.process.pid)
        time.sleep(0.5)
        assert cpu_sec(server.process.pid) - before <= 0.05
        for client in stalled:
            client.close()
    server.ask("drop")
    server.until_nothing_is_left()
