"""The clients that people have, against the whole server: every family over polling, over WebSocket and through the upgrade.

All of them play the same camera (node/client.js, python/client.py, java/Client.java) and say in JSON lines what they see:

    1. One connection logs in with a wrong password and waits to be disconnected; meanwhile another one
    2. sends an image before its login, logs in,
    3. sends a hundred images, each after the former's ack, then twenty at once,
    4. is dropped by the server, comes back by itself as its library does, logs in again and sends ten more,
    5. says goodbye.

What the server got is said by server.py, the real one with a consumer that hashes every frame.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pytest

import peers
from clients.images import write_images

HERE: Final = Path(__file__).resolve().parent
CLIENTS: Final = ("node-1.7.4", "node-2.5.0", "node-4.8.4", "python-4.6.1", "python-5", "java-1.0.0", "java-2.1.2")
TRANSPORTS: Final = ("polling", "websocket", "upgrade")
USER, PASSWORD = "Alice", "123"

#: What the clients do, too.
BURST: Final = 20
IMAGES_AFTER_RETURN: Final = 10

#: A play takes 3 to 6 s.
PLAY_DEADLINE_SEC: Final = 60
SERVER_DEADLINE_SEC: Final = 20

Json = dict[str, Any]


class Server:
    """server.py and what it says."""

    def __init__(self, log: IO[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(peers.ROOT / "src")},
        )
        self._said: list[Json] = []
        self._something_said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url: str = self.wait_for(lambda said: bool(said), since=0)[0]["url"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._something_said:
                self._said.append(json.loads(line))
                self._something_said.notify_all()

    def now(self) -> int:
        """A mark to hear from later on."""
        return len(self._said)

    def wait_for(self, enough: Callable[[list[Json]], bool], since: int) -> list[Json]:
        """What it has said since then, as soon as that is enough or too much time has passed."""
        with self._something_said:
            self._something_said.wait_for(lambda: enough(self._said[since:]), SERVER_DEADLINE_SEC)
            return self._said[since:]

    def drop_everybody(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("drop\n")
        self._process.stdin.flush()

    def close(self) -> int:
        """End it and return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(SERVER_DEADLINE_SEC)
        finally:
            self._process.kill()
            self._reader.join()


class Play(NamedTuple):
    """What a client and the server said during a play."""

    transport: str
    events: list[Json]
    frames: list[Json]
    goodbyes: list[str]
    status: int
    complaints: str

    def only(self, name: str) -> Json:
        """The client's one event of this name."""
        found = [event for event in self.events if event["event"] == name]
        seen = [event["event"] for event in self.events]
        assert len(found) == 1, (
            f"{len(found)} × {name!r} among {seen}\nthe client complains: {self.complaints or 'not'}"
        )
        return found[0]


class Images(NamedTuple):
    folder: Path
    digests: list[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    return Images(folder, write_images(folder))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (tmp_path_factory.mktemp("server") / "log").open("w") as log:
        server = Server(log)
        yield server
        server.close()


@pytest.fixture(scope="module")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The class path of the Java camera, compiled with the client of this name."""

    @cache
    def class_path(client: str) -> str:
        library = peers.FOLDER / client / "*"
        classes = tmp_path_factory.mktemp(client)
        subprocess.run(["javac", "-cp", library, "-d", classes, HERE / "java" / "Client.java"], check=True)
        return f"{classes}:{library}"

    return class_path


def command(client: str, java_classes: Callable[[str], str]) -> list[str | Path]:
    """How to run the camera on this client."""
    family, _, version = client.partition("-")
    if family == "node":
        peers.need("node", client)
        return [
            "node",
            HERE / "node" / "client.js",
            peers.FOLDER / "node" / "node_modules" / f"socket.io-client-{version}",
        ]
    if family == "java":
        peers.need("java", client)
        return ["java", "-cp", java_classes(client), "Client"]
    if client == "python-5":  # the server's own version
        return [sys.executable, HERE / "python" / "client.py"]
    peers.need(client)
    return [peers.FOLDER / client / "bin" / "python", HERE / "python" / "client.py"]


@pytest.fixture(scope="module", params=itertools.product(CLIENTS, TRANSPORTS), ids="-".join)
def play(
    request: pytest.FixtureRequest,
    server: Server,
    images: Images,
    java_classes: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Play:
    """One play per client and transport; the tests look at it from all sides."""
    client, transport = request.param
    since = server.now()
    events = []
    complaints = tmp_path_factory.mktemp("client") / "stderr"
    with complaints.open("w") as stderr:
        process = subprocess.Popen(
            [*command(client, java_classes), server.url, transport, images.folder, USER, PASSWORD],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        deadline = threading.Timer(PLAY_DEADLINE_SEC, process.kill)
        deadline.start()
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] == "ready to be dropped":
                server.drop_everybody()
        status = process.wait()
        deadline.cancel()
    said = server.wait_for(lambda said: sum("ended" in line for line in said) >= 2, since)
    return Play(
        transport,
        events,
        [line for line in said if "sha256" in line],
        [line["stream"] for line in said if "ended" in line],
        status,
        complaints.read_text(),
    )


def accepted(first: int, count: int) -> list[Json]:
    return [{"accepted": True, "seq": seq} for seq in range(first, first + count)]


def test_image_before_the_login_is_refused(play: Play) -> None:
    assert play.only("before login")["answer"] == {"accepted": False, "seq": 1, "reason": "not_logged_in"}
    assert play.only("serverError")["code"] == "not_logged_in"


def test_right_login_is_answered_to_its_client_only(play: Play) -> None:
    assert play.only("login")["callbacks"] == [[True]]


def test_wrong_login_is_answered_and_disconnected_after_two_seconds(play: Play) -> None:
    refused = play.only("wrong login")
    assert refused["callbacks"] == [[False]]
    assert 1.9 < refused["disconnected_after_sec"] < 4


def test_hundred_images_are_acknowledged_in_turn_and_arrive_bit_by_bit(play: Play, images: Images) -> None:
    streamed = play.only("streamed")
    assert streamed["answers"] == accepted(first=2, count=len(images.digests))
    assert [frame["sha256"] for frame in play.frames[: len(images.digests)]] == images.digests


def test_client_ends_up_on_the_transport_that_it_was_to_use(play: Play) -> None:
    assert play.only("streamed")["transport"] == ("polling" if play.transport == "polling" else "websocket")


def test_images_sent_at_once_arrive_in_order_and_are_all_acknowledged(play: Play, images: Images) -> None:
    before = len(images.digests)
    assert play.only("burst")["answers"] == accepted(first=2 + before, count=BURST)
    assert [frame["sha256"] for frame in play.frames[before : before + BURST]] == images.digests[:BURST]


def test_dropped_client_comes_back_under_its_name_and_streams_again(play: Play, images: Images) -> None:
    assert play.only("login after return")["callbacks"] == [[True], [True]]
    assert play.only("streamed after return")["answers"] == accepted(first=1, count=IMAGES_AFTER_RETURN)
    returned = play.frames[len(images.digests) + BURST :]
    assert [frame["sha256"] for frame in returned] == images.digests[:IMAGES_AFTER_RETURN]
    assert {frame["stream"] for frame in play.frames} == {USER}


def test_goodbye_ends_the_stream_and_lets_the_client_go(play: Play) -> None:
    play.only("done")
    assert play.goodbyes == [USER, USER]
    assert play.status == 0, play.complaints
