"""One connection of cameras over plain TCP, on a loop that goes on when a test says so."""

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import green
from auth.guard import Guard
from auth.login import Authenticator
from auth.sessions import Sessions
from desktops import bmp, message, packed
from engine.unfinished import Unfinished
from frames import Limits
from hub import FrameHub, Stream
from ingest.camera_users import CameraUsers
from ingest.door import Door, LocalStreamNames
from ingest.inflater import Inflater
from ingest.kept_images import KeptImages
from ingest.tcp_connection import MESSAGE_SEC, REFUSED_A_TURN, TcpConnection
from rate import Rates
from traffic import tcp_pair

#: Of the largest size that is taken.
IMAGE = bmp(64, 48)
RATE_HZ = 5
#: So many of these are kept.
KEPT = 4


class Gateway:
    """What a connection needs, and what it has told."""

    def __init__(self) -> None:
        self.hub = FrameHub()
        self.limits = Limits(max_frame_bytes=len(IMAGE))
        self.door = Door(
            self.hub,
            Authenticator(None, Guard(), green.offload, green.Once),
            Sessions(bytes(32), None, green.offload),
            LocalStreamNames(),
            self.limits,
            Rates(RATE_HZ, 5.0),
            {},
            CameraUsers(),
            strangers=True,
        )
        self.unfinished = Unfinished()
        self.newcomers = Unfinished()
        self.kept = KeptImages(KEPT * len(IMAGE))
        self.inflater = Inflater()
        self.scratch = memoryview(bytearray(512 * 1024))
        self.idle_sec = 60.0
        self.unsent = 0
        self.served = 0
        self.ends: list[tuple[str, str | None]] = []

    def is_served(self, connection: TcpConnection) -> None:
        self.served += 1

    def begins(self, stream: Stream, camera: int, address: str) -> None: ...

    def ended(self, connection: TcpConnection, cause: str, why: str | None) -> None:
        self.ends.append((cause, why))

    def streams(self) -> dict[str, Stream]:
        return {stream.name: stream for stream in self.hub.live_streams()}


class Line:
    """A gateway's one connection, and its other end."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.theirs, ours = tcp_pair()
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.setblocking(False)
        self.connection = TcpConnection(self.gateway, SimpleNamespace(fd=ours, close=ours.close), "127.0.0.1")

    def send(self, camera: int, image: bytes = IMAGE) -> None:
        self.theirs.sendall(message(camera, packed(image)))

    def until(self, condition: Any) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            green.sleep(0.001)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.theirs.close()
    line.until(lambda: line.gateway.ends)


def test_of_small_messages_that_are_refused_a_number_is_taken_a_turn(line: Line) -> None:
    line.send(1)
    line.until(lambda: "tcp-1" in line.gateway.streams())
    stream = line.gateway.streams()["tcp-1"]
    while stream.admit(0) is None:
        pass
    line.theirs.sendall(b"\1\0\0\0\1x" * (2 * REFUSED_A_TURN + 10))
    counts = []
    while not counts or counts[-1] < 2 * REFUSED_A_TURN + 10:
        green.sleep(0)
        counts.append(stream.refused["rate"])
        assert len(counts) < 1_000
    assert {0, REFUSED_A_TURN, 2 * REFUSED_A_TURN, 2 * REFUSED_A_TURN + 10} >= set(counts)
    assert {REFUSED_A_TURN, 2 * REFUSED_A_TURN} <= set(counts)


def test_newest_images_are_kept_within_a_bound_and_the_oldest_goes_first(line: Line) -> None:
    for camera in range(KEPT + 2):
        for _ in range(3):
            line.send(camera)
    streams = line.gateway.streams
    line.until(lambda: line.gateway.hub.totals().frames == 3 * (KEPT + 2))
    kept = line.gateway.kept
    assert [stream.latest is not None for stream in streams().values()] == [False, False] + [True] * KEPT
    assert (kept.bytes, kept.forgotten) == (KEPT * len(IMAGE), 2)
    line.send(0)
    line.until(lambda: streams()["tcp-1"].latest is not None)
    assert (kept.bytes, kept.forgotten) == (KEPT * len(IMAGE), 3)
    line.theirs.close()
    line.until(lambda: line.gateway.ends)
    assert kept.bytes == 0


def test_a_message_that_is_passed_over_leaves_its_deadline_to_no_silence_after_it(line: Line) -> None:
    line.send(1)
    line.until(lambda: "tcp-1" in line.gateway.streams())
    stream = line.gateway.streams()["tcp-1"]
    while stream.admit(0) is None:
        pass
    sent = message(1, packed(IMAGE))
    line.theirs.sendall(sent[:10])
    line.until(lambda: stream.refused["rate"] == 1)
    line.until(lambda: line.connection.deadline < time.monotonic() + MESSAGE_SEC)
    line.theirs.sendall(sent[10:])
    line.until(lambda: line.connection.deadline > time.monotonic() + MESSAGE_SEC + 1)
    line.theirs.sendall(sent[:1])
    line.until(lambda: line.connection.deadline <= time.monotonic() + MESSAGE_SEC)


def test_a_size_that_is_too_large_is_counted_as_a_refused_image_of_its_camera(line: Line) -> None:
    line.send(1)
    line.until(lambda: "tcp-1" in line.gateway.streams())
    stream = line.gateway.streams()["tcp-1"]
    line.theirs.sendall(b"\1\xff\xff\xff\xff")
    line.until(lambda: line.gateway.ends)
    assert stream.refused == {"too_many_bytes": 1}
    assert line.gateway.ends[0][0] == "malformed"


def test_what_newcomers_hold_is_counted_apart_until_they_have_sent_an_image(line: Line) -> None:
    sent = message(1, packed(IMAGE))
    line.theirs.sendall(sent[:-1])
    line.until(lambda: line.gateway.newcomers.bytes == len(sent) - 1)
    assert line.gateway.unfinished.bytes == 0
    line.theirs.sendall(sent[-1:])
    line.until(lambda: line.gateway.served)
    assert line.gateway.newcomers.bytes == 0
    line.theirs.sendall(sent[:-1])
    line.until(lambda: line.gateway.unfinished.bytes == len(sent) - 1)
    assert line.gateway.newcomers.bytes == 0


def test_what_is_held_is_counted_until_it_is_inflated(line: Line) -> None:
    sent = message(1, packed(IMAGE))
    line.theirs.sendall(sent[:-1])
    line.until(lambda: line.gateway.newcomers.bytes == len(sent) - 1)
    jobs: list[Any] = []
    line.gateway.inflater.run = lambda *job: jobs.append(job)  # type: ignore[method-assign]
    line.theirs.sendall(sent[-1:] + sent[:100])
    line.until(lambda: jobs)
    assert line.gateway.newcomers.bytes >= len(sent)
    _share, work, done = jobs.pop()
    done(work())
    line.until(lambda: line.gateway.streams())
    line.until(lambda: line.gateway.unfinished.bytes == 100)


def test_who_has_sent_a_good_image_is_known(line: Line) -> None:
    run, known = line.gateway.inflater.run, []

    def note(share: Any, *job: Any) -> None:
        known.append(share.known)
        run(share, *job)

    line.gateway.inflater.run = note  # type: ignore[method-assign]
    for count in (1, 2, 3):
        line.send(1)
        line.until(lambda count=count: line.gateway.hub.totals().frames == count)
    assert known == [False, True, True]


@pytest.mark.parametrize("rest", [1, 2_047, 2_048, 2_049, 8_000])
def test_the_rest_of_a_message_is_noticed_as_soon_as_it_is_there(line: Line, rest: int) -> None:
    """Nothing is behind it that would wake the server."""
    sent = message(1, packed(IMAGE, 0))
    line.theirs.sendall(sent[:500])
    line.until(lambda: line.gateway.newcomers.bytes == 500)
    line.theirs.sendall(sent[500:-rest])
    green.sleep(0.01)
    assert not line.gateway.streams()
    line.theirs.sendall(sent[-rest:])
    line.until(line.gateway.streams)


def test_an_image_that_waits_to_be_inflated_can_give_way(line: Line) -> None:
    jobs: list[Any] = []
    line.gateway.inflater.run = lambda *job: jobs.append(job)  # type: ignore[method-assign]
    line.send(1)
    line.until(lambda: jobs)
    line.connection.give_way()
    assert line.gateway.ends == [], "a thread may be at work"
    _share, work, done = jobs.pop()
    assert work() == b""
    done(work())
    assert [cause for cause, _ in line.gateway.ends] == ["memory"]
    assert line.gateway.newcomers.bytes == 0
    assert not line.gateway.streams()


def test_an_image_that_gives_way_while_it_is_inflated_ends_when_that_is_done(line: Line) -> None:
    jobs: list[Any] = []
    line.gateway.inflater.run = lambda *job: jobs.append(job)  # type: ignore[method-assign]
    line.send(1)
    line.until(lambda: jobs)
    _share, work, done = jobs.pop()
    image = work()
    line.connection.give_way()
    done(image)
    assert [cause for cause, _ in line.gateway.ends] == ["memory"]


def test_whoever_closes_it_in_the_middle_of_anything_ends_it_once(line: Line) -> None:
    line.send(1)
    line.until(lambda: line.gateway.streams())
    stream = line.gateway.streams()["tcp-1"]
    stream.disconnect("a test wants it")
    line.connection.close("stop")
    line.connection.give_way()
    assert line.gateway.ends == [], "whoever says so may be in the middle of something"
    line.until(lambda: line.gateway.ends)
    green.sleep(0.01)
    assert line.gateway.ends == [("disconnected", "a test wants it")]
    assert not line.gateway.streams()
    assert line.theirs.recv(1) == b""


def test_an_error_of_ours_ends_the_connection_and_is_in_the_log(line: Line, caplog: Any) -> None:
    line.gateway.limits = None  # type: ignore[assignment]
    line.send(1)
    line.until(lambda: line.gateway.ends)
    assert line.gateway.ends == [("error", None)]
    assert "an image could not be inflated" in caplog.text


def test_an_error_of_who_takes_the_frames_ends_the_connection(line: Line, caplog: Any) -> None:
    line.send(1)
    line.until(lambda: line.gateway.streams())
    line.gateway.hub.subscribe("broken").put = None  # type: ignore[method-assign, assignment]
    line.send(1)
    line.until(lambda: line.gateway.ends)
    assert [cause for cause, _ in line.gateway.ends] == ["error"]
    assert "TypeError" in caplog.text
    assert not line.gateway.streams()
