"""Clients that ask for answers and never fetch them: what waits for them is bounded, and then they are gone."""

import socket
import time
from collections.abc import Iterator
from typing import Final

import pytest

from pictures import picture
from probe import probing
from raw_engineio import TEXT, client_frame
from running import RunningServer, running_server, until
from security.connection_attacks import upgrade
from security.outside import Client, Gone, watching

#: What one of them may cost the server at any moment.
GROWTH_MB: Final = 2
#: What waits for a client at most (docs/security.md).
MAX_WAITING: Final = 1_000
#: So much later than its first word it is gone; most of the time goes into the buffers of the system.
GONE_SEC: Final = 30.0
#: Frames in a POST.
BATCH: Final = 20
#: How many clients do it, one after the other.
WEBSOCKETS, POLLING, MANY_POLLING = 3, 5, 40

LOGIN: Final = '42["authenticate","user1","pass1","in"]'


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """With a good camera beside; without a limit of frames, so that each that is taken is answered."""
    with running_server("-a", "--rate", "0") as running:
        # A login's hash takes memory, and each of the threads for that keeps its own.
        for number in (1, 2, 1):
            running.token(f"user{number}", f"pass{number}")
        with probing(running.port, rate_hz=20):
            yield running
        assert "Traceback" not in "".join(running.log)
        assert running.stop() == 0


def assert_ended(server: RunningServer) -> None:
    """Nothing of the client is left."""
    token = server.token("user1", "pass1")
    until(lambda: not server.streams(token), "the end of the stream", 2)
    assert "imageserver_connections 1.0" in server.get("/metrics", token), "the good camera's"


def logged_in(server: RunningServer, protocol: int) -> socket.socket:
    """A WebSocket whose client has logged in, and whose system keeps as little for it as it may."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.port))
    client.sendall(upgrade(f"/socket.io/?EIO={protocol}&transport=websocket"))
    said = client.recv(1000)
    assert said.startswith(b"HTTP/1.1 101 "), said
    for packet in ("40", LOGIN) if protocol == 4 else (LOGIN,):
        client.sendall(client_frame(TEXT, packet.encode()))
    while b'["in",true]' not in said:
        piece = client.recv(1000)
        assert piece, said
        said += piece
    return client


def ask_for(seconds: float, client: socket.socket) -> None:
    """Ask for acks as fast as possible."""
    asking = client_frame(TEXT, b'421["receiveImage",1]') * 100
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        client.sendall(asking)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_that_asks_for_acks_and_reads_none_is_cut_and_costs_next_to_nothing(
    server: RunningServer, protocol: int
) -> None:
    with watching(server, causes=3) as watched:
        for _ in range(WEBSOCKETS):
            with logged_in(server, protocol) as client, pytest.raises(ConnectionError):
                ask_for(GONE_SEC, client)
        assert watched.peak_growth_mb < GROWTH_MB
        until(lambda: any("it does not read: " in line for line in watched.log), "the line that says why", 2)
        assert_ended(server)


def post_frames(client: Client, at_most: int) -> int:
    """Post frames and ask for their acks until the session ends; returns how many were posted until then."""
    image = picture()
    for number in range(0, at_most, BATCH):
        packets: list[str | bytes] = []
        for ack in range(number, number + BATCH):
            packets += [f'451-{ack}["receiveImage",{{"_placeholder":true,"num":0}}]', image]
        try:
            client.say(*packets)
        except Gone:
            return number
    return at_most


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_that_posts_frames_and_never_polls_is_ended_at_a_thousand_packets(
    server: RunningServer, protocol: int
) -> None:
    with watching(server, causes=3) as watched:
        for _ in range(POLLING):
            with Client(server.port, protocol, "polling") as client:
                client.log_in()
                posted = post_frames(client, 3 * MAX_WAITING)
                assert MAX_WAITING - BATCH <= posted <= MAX_WAITING + BATCH
                assert client.status == 400
                with pytest.raises(Gone):
                    client.until(lambda packet: False)
                assert client.status == 400, "what waited has gone with the session"
        assert watched.peak_growth_mb < GROWTH_MB
        until(lambda: any("it does not poll: " in line for line in watched.log), "the line that says why", 2)
        assert_ended(server)
        time.sleep(1)  # what follows counts too


def test_what_never_was_polled_goes_with_its_session(server: RunningServer) -> None:
    """The memory of one is nothing, so a client that comes back again and again must not add it up."""
    with watching(server, causes=3) as watched:
        for _ in range(MANY_POLLING):
            with Client(server.port, 4, "polling") as client:
                client.log_in()
                assert post_frames(client, 3 * MAX_WAITING) < 2 * MAX_WAITING
        assert watched.growth_mb < GROWTH_MB
