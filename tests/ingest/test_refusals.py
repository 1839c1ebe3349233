"""Every way in refuses the same things for the same reasons: one table, played through each of them.

A later gateway adds a line to `WAYS_IN`.
"""

import base64
import pickle
import queue
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import bson
import numpy as np
import pytest

from desktops import Desktop, tcp_port
from http_cameras import Camera, Conversation, answer
from phones import Phone
from pictures import padded, padded_bmp, picture
from registering import register
from running import RunningServer, running_server, until

MAX_BYTES, MAX_PIXELS, RATE_HZ = 200_000, 1_000_000, 20

#: Where cameras are that cannot log in: those of the first address are user1's.
SOMEBODY_S, NOBODY_S = "127.0.0.1", "127.0.0.2"

#: Offers an image and says whether it was accepted, and if not, why.
Offer = Callable[..., "str | None"]


def _bomb(width: int, height: int) -> bytes:
    """A whole PNG file of a few bytes that declares a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _bmp_bomb(width: int, height: int) -> bytes:
    """The same as a BMP file, which is no whole one."""
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


class Case(NamedTuple):
    reason: str | None
    image: Any
    more: tuple[Any, ...] = ()


def _cases_of(image: bytes, longer: Callable[[bytes, int], bytes], bomb: bytes) -> dict[str, Case]:
    return {
        "a picture": Case(None, image),
        "a picture of the largest size": Case(None, longer(image, MAX_BYTES)),
        "one byte too many": Case("too_many_bytes", longer(image, MAX_BYTES + 1)),
        "nothing": Case("not_an_image", b""),
        "a text": Case("not_an_image", b"GIF89a, or so it says"),
        "half a picture": Case("truncated", image[:-500]),
        "a bomb": Case("too_many_pixels", bomb),
    }


CASES = _cases_of(picture(), padded, _bomb(30_000, 30_000))
#: Over TCP come BMP files and nothing else.
BMP_CASES = _cases_of(picture(".bmp"), padded_bmp, _bmp_bomb(30_000, 30_000)) | {
    "a picture of another kind": Case("not_an_image", picture()),
    "a picture and a byte": Case("not_an_image", picture(".bmp") + b"\0"),
    "two pictures": Case("not_an_image", picture(".bmp") * 2),
}
#: Only here is more said than the image.
EVENT_CASES = CASES | {
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


class Counts:
    """What the server tells of all streams of one way in: so it is known what has become of an image there."""

    def __init__(self, server: RunningServer, via: str) -> None:
        self._server = server
        self._via = via
        self._token = server.token("user1", "pass1")

    def _now(self) -> Counter[str | None]:
        counts: Counter[str | None] = Counter()
        for item in self._server.get("/api/v1/streams", self._token)["items"]:
            if item["via"] == self._via:
                counts[None] += item["frames"]
                counts.update(item["refused"])
        return counts

    def reason_of(self, send: Callable[[], object]) -> str | None:
        """Why the image that is sent is not accepted."""
        before = self._now()
        send()
        (reason,) = until(lambda: list((self._now() - before).elements()), "it is accepted or refused")
        return reason

    def turned_away(self) -> float:
        """Connections that ended because they are nobody's."""
        label = 'imageserver_tcp_connections_ended_total{cause="nobody\'s"}'
        lines = self._server.get("/metrics", self._token).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(label))


@contextmanager
def _over_tcp(server: RunningServer, log_in: bool) -> Iterator[Offer]:
    counts, port = Counts(server, "tcp"), tcp_port(server)
    with ExitStack() as stack:

        def connect() -> Desktop:
            return stack.enter_context(Desktop(port, source=SOMEBODY_S if log_in else NOBODY_S))

        desktop = connect() if log_in else None

        def offer(image: bytes) -> str | None:
            nonlocal desktop
            assert desktop is not None
            reason = counts.reason_of(lambda: desktop.send(1, image))
            # There is no other way to say so than by closing the connection.
            assert desktop.has_ended(5.0 if reason not in (None, "rate") else 0.0) is (reason not in (None, "rate"))
            if reason not in (None, "rate"):
                desktop = connect()
            return reason

        def offer_in_vain(image: bytes) -> str | None:
            before = counts.turned_away()
            desktop = connect()
            desktop.send(1, image)
            assert desktop.has_ended(5.0)
            return "not_logged_in" if counts.turned_away() == before + 1 else None

        yield offer if log_in else offer_in_vain


@contextmanager
def _pulled(server: RunningServer, log_in: bool, wrapped: Callable[[bytes], bytes]) -> Iterator[Offer]:
    counts, answers = Counts(server, "pull"), queue.Queue[bytes | None]()

    def play(conversation: Conversation) -> None:
        while conversation.request() and (body := answers.get()) is not None and conversation.send(answer(body)):
            pass

    def result_of(image: bytes) -> str | None:
        return counts.reason_of(lambda: answers.put(wrapped(image)))

    refused = False

    def offer(image: bytes) -> str | None:
        nonlocal refused
        if refused:  # cameras that send rubbish twice are asked less often
            assert result_of(picture()) is None
        reason = result_of(image)
        refused = reason is not None
        return reason

    with Camera(play, SOMEBODY_S if log_in else NOBODY_S) as camera:
        taken = register(server.port, camera.host, camera.port, camera.host)

        def offer_in_vain(image: bytes) -> str | None:
            answers.put(wrapped(image))
            again = register(server.port, camera.host, camera.port, camera.host)
            return "not_logged_in" if not again and not camera.connections else None

        assert taken is log_in
        yield offer if log_in else offer_in_vain
        answers.put(None)


def _pickled(image: bytes) -> bytes:
    return zlib.compress(pickle.dumps(np.frombuffer(image, np.uint8).reshape(-1, 1)))


def _bson(image: bytes) -> bytes:
    return bson.encode({"frame": base64.b64encode(image).decode()})


class WayIn(NamedTuple):
    """A way in.

    Args:
        offering: begins to send, logged in or not.
        is_asked: the server says when, so that nothing comes too fast.
    """

    offering: Callable[[RunningServer, bool], AbstractContextManager[Offer]]
    cases: dict[str, Case]
    is_asked: bool = False


WAYS_IN = {
    "socketio over websocket": WayIn(partial(_over_socketio, transports=["websocket"]), EVENT_CASES),
    "socketio over polling": WayIn(partial(_over_socketio, transports=["polling"]), EVENT_CASES),
    "tcp": WayIn(_over_tcp, BMP_CASES),
    "pull, an image": WayIn(partial(_pulled, wrapped=bytes), CASES, is_asked=True),
    "pull, a pickle": WayIn(partial(_pulled, wrapped=_pickled), CASES, is_asked=True),
    "pull, BSON": WayIn(partial(_pulled, wrapped=_bson), CASES, is_asked=True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    users = tmp_path_factory.mktemp("refusals") / "cameras"
    users.write_text(f"{SOMEBODY_S} user1\n")
    limits = ("--max-frame-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS), "--rate", str(RATE_HZ))
    cameras = ("--tcp-port", "0", "--tcp-users", str(users), "--idle-rate", str(RATE_HZ))
    with running_server("-a", *limits, *cameras) as running:
        yield running


@pytest.fixture(params=WAYS_IN.values(), ids=WAYS_IN)
def way_in(request: pytest.FixtureRequest) -> WayIn:
    return request.param


def test_what_is_no_frame_is_refused_for_its_reason(server: RunningServer, way_in: WayIn) -> None:
    with way_in.offering(server, True) as offer:
        for name, case in way_in.cases.items():
            assert offer(case.image, *case.more) == case.reason, name


def test_nothing_is_taken_before_a_login(server: RunningServer, way_in: WayIn) -> None:
    with way_in.offering(server, False) as offer:
        for name, case in way_in.cases.items():
            assert offer(case.image, *case.more) == "not_logged_in", name


def test_what_comes_too_fast_is_refused(server: RunningServer, way_in: WayIn) -> None:
    image = way_in.cases["a picture"].image
    with way_in.offering(server, True) as offer:
        began_at = time.monotonic()
        reasons = [offer(image) for _ in range(2 * RATE_HZ if way_in.is_asked else 5 * RATE_HZ)]
        took_sec = time.monotonic() - began_at
    if way_in.is_asked:
        assert set(reasons) == {None}
        assert len(reasons) - 1 <= 1.1 * RATE_HZ * took_sec
        return
    assert reasons[: RATE_HZ // 2] == [None] * (RATE_HZ // 2)
    assert set(reasons) <= {None, "rate"}
    assert reasons.count("rate") > 0, "faster than the set rate on this machine"
