"""Whoever registers cameras, or is one, and means ill; test_pull.py and bench/attacks.py play this."""

import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from http_cameras import Camera, Conversation, answer
from pickles import EXHAUST, RUN, WRONG
from pictures import picture
from registering import Registrant
from running import SRC, RunningServer, until

HERE: Final = Path(__file__).resolve().parent

#: Ways to write an address of this machine, for whoever must not have it called. Some of them are none, for some
#: programs.
LOOPBACK: Final = (
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7F.0.0.1", "0x7f.1",
    "0177.0.0.1", "017700000001", "127.0.0.01", "127.0.0.1.", "127.0.0.1%25lo", "0", "0.0.0.0", "::", "::1", "[::1]",
    "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::FFFF:7F00:1", "::ffff:0.0.0.0", "::127.0.0.1", "::1%lo",
    "64:ff9b::7f00:1", "2002:7f00:1::", "localhost", "LOCALHOST", "localhost.", "ip6-localhost",
    "１２７.0.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①", "user@127.0.0.1", "127.0.0.1#", "127.0.0.1/", "127.0.0.1\r\nHost: x",
    " 127.0.0.1", "127.0.0.1\0", "http://127.0.0.1", "",
)  # fmt: skip


@contextmanager
def canaries() -> Iterator[tuple[int, list[str]]]:
    """Something that listens on all addresses of this machine, at one port; and the connections that came to it."""
    came: list[str] = []

    def note(conversation: Conversation) -> None:
        came.append(conversation.request())

    with Camera(note, "0.0.0.0") as canary:
        try:
            more = Camera(note, "::1", port=canary.port)
        except OSError:
            more = None  # there is no IPv6
        try:
            yield canary.port, came
        finally:
            if more is not None:
                more.close()


def own_address() -> str | None:
    """An address of this machine beside the loopback, if there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address: str = sock.getsockname()[0]
    return None if address.startswith("127.") else address


class Forgeries(NamedTuple):
    """What came of registrations that mean somebody else.

    Args:
        taken: those that were answered with OK.
        called: connections to what they meant.
    """

    taken: list[str]
    called: int


def forge(server: RunningServer, source: str | None, seconds: float = 1.0) -> Forgeries:
    """Register this machine in every spelling.

    Args:
        source: the address that it comes from; None: from behind a proxy.
    """
    headers = {} if source else {"X_Forwarded_For": "192.168.7.20"}
    registrant = Registrant(server.port, host=source or "127.0.0.1")
    with canaries() as (port, came):
        taken = [host for host in LOOPBACK if registrant(host, port, **headers)]
        registrant.close()
        time.sleep(seconds)  # what the server does it does at once, or some retries later
        return Forgeries(taken, len(came))


# -- pickles


class Pickled(NamedTuple):
    """What came of pickles that mean ill.

    Args:
        played: how many there were.
        ran: whether one of them has run.
        refused: by the server, by code.
    """

    played: int
    ran: bool
    refused: dict[str, int]


def play_pickles(server: RunningServer, folder: Path) -> Pickled:
    """A camera answers with malicious pickles, one after the other, and with an image between two of them."""
    mark = folder / "ran"
    bodies = [
        *(make(str(mark)) for make in RUN.values()),
        *EXHAUST.values(),
        *(pickled for _, pickled in WRONG.values() if len(pickled) < 1 << 20),
    ]
    answers = [answer(body) for pickled in bodies for body in (zlib.compress(pickled), picture())]
    left = iter(answers)

    def play(conversation: Conversation) -> None:
        while conversation.request():
            conversation.send(next(left, answer(picture())))

    with Camera(play) as camera:
        registrant = Registrant(server.port)
        assert registrant("127.0.0.1", camera.port)
        registrant.close()
        until(lambda: _of_camera(server)["frames"] > len(bodies), "all have been played", 60)
        refused: dict[str, int] = _of_camera(server)["refused"]
    return Pickled(len(bodies), mark.exists(), refused)


def _of_camera(server: RunningServer) -> dict:  # type: ignore[type-arg]
    streams = [item for item in server.get("/api/v1/streams")["items"] if item["via"] == "pull"]
    return streams[-1] if streams else {"frames": 0, "refused": {}}


# -- crowds


@contextmanager
def cameras(kind: str) -> Iterator[int]:
    """Cameras of one of the kinds of pull_cameras.py at every address of the loopback; gives their port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "pull_cameras.py"), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(SRC)])},
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def register_crowd(server: RunningServer, port: int, count: int) -> int:
    """Register cameras at so many addresses of the loopback; returns how many were taken."""
    registrant = Registrant(server.port)
    try:
        return sum(registrant(f"127.7.{n // 250}.{1 + n % 250}", port) for n in range(count))
    finally:
        registrant.close()
