"""Every way in refuses the same things for the same reasons: one table, played through each of them.

A later gateway adds a line to `WAYS_IN`.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest

from phones import Phone
from pictures import padded, picture
from running import RunningServer, running_server

MAX_BYTES, MAX_PIXELS, RATE_HZ = 200_000, 1_000_000, 20

#: Offers an image and says whether it was accepted, and if not, why.
Offer = Callable[..., "str | None"]


def _bomb(width: int, height: int) -> bytes:
    """A whole PNG file of a few bytes that declares a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class Case(NamedTuple):
    reason: str | None
    image: Any
    more: tuple[Any, ...] = ()


CASES = {
    "a picture": Case(None, picture()),
    "a picture of the largest size": Case(None, padded(picture(), MAX_BYTES)),
    "one byte too many": Case("too_many_bytes", padded(picture(), MAX_BYTES + 1)),
    "nothing": Case("not_an_image", b""),
    "a text": Case("not_an_image", b"GIF89a, or so it says"),
    "half a picture": Case("truncated", picture()[:-500]),
    "a bomb": Case("too_many_pixels", _bomb(30_000, 30_000)),
    "no bytes": Case("bad_arguments", "text"),
    "too many arguments": Case("bad_arguments", picture(), ("mine", "more")),
    "a list": Case("bad_arguments", [1, 2]),
    "a reserved result event": Case("bad_event_name", picture(), ("disconnect",)),
    "a result event that is no text": Case("bad_event_name", picture(), ({"a": 1},)),
    "a result event of one's own": Case(None, picture(), ("mine",)),
}


@contextmanager
def _over_socketio(server: RunningServer, log_in: bool, transports: list[str]) -> Iterator[Offer]:
    with Phone(server.url, transports) as phone:
        if log_in:
            assert phone.log_in("user1", "pass1")

        def offer(image: Any, *more: Any) -> str | None:
            ack = phone.send(image, *more)
            assert ack["accepted"] is ("reason" not in ack)
            return ack.get("reason")

        yield offer


WAYS_IN: dict[str, Callable[[RunningServer, bool], AbstractContextManager[Offer]]] = {
    "socketio over websocket": lambda server, log_in: _over_socketio(server, log_in, ["websocket"]),
    "socketio over polling": lambda server, log_in: _over_socketio(server, log_in, ["polling"]),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    options = ("--max-frame-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS), "--rate", str(RATE_HZ))
    with running_server("-a", *options) as running:
        yield running


@pytest.fixture(params=WAYS_IN.values(), ids=WAYS_IN)
def way_in(request: pytest.FixtureRequest, server: RunningServer) -> Callable[[bool], AbstractContextManager[Offer]]:
    return lambda log_in: request.param(server, log_in)


def test_what_is_no_frame_is_refused_for_its_reason(way_in) -> None:
    with way_in(True) as offer:
        for name, case in CASES.items():
            assert offer(case.image, *case.more) == case.reason, name


def test_nothing_is_taken_before_a_login(way_in) -> None:
    with way_in(False) as offer:
        for name, case in CASES.items():
            assert offer(case.image, *case.more) == "not_logged_in", name


def test_what_comes_too_fast_is_refused(way_in) -> None:
    with way_in(True) as offer:
        reasons = [offer(picture()) for _ in range(5 * RATE_HZ)]
        assert reasons[: RATE_HZ // 2] == [None] * (RATE_HZ // 2)
        assert set(reasons) <= {None, "rate"}
        assert reasons.count("rate") > 0, "faster than the set rate on this machine"
