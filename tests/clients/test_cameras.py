"""Every client as a camera, against the whole server: over polling, over WebSocket and through the upgrade.

All of them play the same (camera.js, camera.py, Camera.java):

    1. One connection logs in with a wrong password and waits to be disconnected; meanwhile another one
    2. sends an image before its login, and logs in,
    3. sends a hundred images, each after the former's ack, then twenty at once; the second half of the hundred with a
       result event of its own,
    4. is dropped by the server, comes back by itself as its library does, logs in again and sends ten more,
    5. says which results it got in all that time, and goodbye.

What arrived is said by camera_server.py, the real server with a consumer that hashes every frame and answers two.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import peers
from clients.families import HERE, Json, Runner, Transcript
from clients.images import write_images

USER, PASSWORD = "Alice", "123"

#: What the programs do, too.
BURST: Final = 20
IMAGES_AFTER_RETURN: Final = 10
RESULT_EVENT: Final = "onResult"

#: The event of the results of a frame, by the frame's number: one in each half of the hundred, none after the return.
RESULT_EVENTS: Final = {20: "result", 70: RESULT_EVENT}
FOUND: Final = {
    "people": [{"name": "Zoë 李 😀", "box": [1, -2.5], "sure": True, "age": None}],
    "näher": {"in": {"out": []}},
}

SERVER_DEADLINE_SEC: Final = 20


class CameraServer:
    """camera_server.py and what it says."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "camera_server.py", json.dumps(FOUND), *map(str, RESULT_EVENTS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": str(peers.ROOT / "src")},
            )
        self._said: list[Json] = []
        self._something_said = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        first = self.wait_for(bool, since=0)
        assert first, log.read_text()
        self.url: str = first[0]["url"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._something_said:
                self._said.append(json.loads(line))
                self._something_said.notify_all()

    def now(self) -> int:
        """A mark to listen from later on."""
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

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(SERVER_DEADLINE_SEC)
        finally:
            self._process.kill()
            self._reader.join()


class Images(NamedTuple):
    folder: Path
    digests: list[str]


class Play(NamedTuple):
    """What a client saw of its play, and what the server got."""

    transport: str
    camera: Transcript
    frames: list[Json]
    goodbyes: list[str]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    return Images(folder, write_images(folder))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CameraServer]:
    server = CameraServer(tmp_path_factory.mktemp("server") / "log")
    yield server
    server.close()


@pytest.fixture(scope="module")
def play(client_and_transport: tuple[str, str], runner: Runner, server: CameraServer, images: Images) -> Play:
    """One play per client and transport; the tests look at it from all sides."""

    def drop_it_when_ready(event: Json) -> None:
        if event["event"] == "ready to be dropped":
            server.drop_everybody()

    client, transport = client_and_transport
    since = server.now()
    arguments: list[str | Path] = [server.url, transport, images.folder, USER, PASSWORD]
    camera = runner.run(client, "camera", arguments, drop_it_when_ready)
    if camera.status:  # what it left behind would disturb the next one
        server.drop_everybody()
    said = server.wait_for(lambda said: sum("ended" in line for line in said) >= 2, since)
    return Play(
        transport,
        camera,
        [line for line in said if "sha256" in line],
        [line["stream"] for line in said if "ended" in line],
    )


def accepted(first: int, count: int) -> list[Json]:
    return [{"accepted": True, "seq": seq} for seq in range(first, first + count)]


def test_image_before_the_login_is_refused(play: Play) -> None:
    assert play.camera.only("before login")["answer"] == {"accepted": False, "seq": 1, "reason": "not_logged_in"}
    assert play.camera.only("serverError")["code"] == "not_logged_in"


def test_right_login_is_answered_to_its_client_only(play: Play) -> None:
    assert play.camera.only("login")["callbacks"] == [[True]]


def test_wrong_login_is_answered_and_disconnected_after_two_seconds(play: Play) -> None:
    refused = play.camera.only("wrong login")
    assert refused["callbacks"] == [[False]]
    assert 1.9 < refused["disconnected_after_sec"] < 4


def test_hundred_images_are_acknowledged_in_turn_and_arrive_bit_by_bit(play: Play, images: Images) -> None:
    assert play.camera.only("streamed")["answers"] == accepted(first=2, count=len(images.digests))
    assert [frame["sha256"] for frame in play.frames[: len(images.digests)]] == images.digests


def test_client_ends_up_on_the_transport_that_it_was_to_use(play: Play) -> None:
    expected = "polling" if play.transport == "polling" else "websocket"
    assert play.camera.only("streamed")["transport"] == expected


def test_images_sent_at_once_arrive_in_order_and_are_all_acknowledged(play: Play, images: Images) -> None:
    before = len(images.digests)
    assert play.camera.only("burst")["answers"] == accepted(first=2 + before, count=BURST)
    assert [frame["sha256"] for frame in play.frames[before : before + BURST]] == images.digests[:BURST]


def test_dropped_client_comes_back_under_its_name_and_streams_again(play: Play, images: Images) -> None:
    assert play.camera.only("login after return")["callbacks"] == [[True], [True]]
    assert play.camera.only("streamed after return")["answers"] == accepted(first=1, count=IMAGES_AFTER_RETURN)
    returned = play.frames[len(images.digests) + BURST :]
    assert [frame["sha256"] for frame in returned] == images.digests[:IMAGES_AFTER_RETURN]
    assert {frame["stream"] for frame in play.frames} == {USER}


def test_results_come_to_the_event_that_the_frame_named_and_pictures_bit_by_bit(play: Play, images: Images) -> None:
    expected = []
    for seq, event in RESULT_EVENTS.items():
        picture = images.digests[seq - 2]  # the first image was refused before the login, and sent again
        expected += [
            {"name": event, "result": FOUND, "about": {"seq": seq, "plugin": "finder"}},
            {"name": event, "result": {"sha256": picture}, "about": {"seq": seq, "plugin": "painter"}},
        ]
    assert play.camera.only("results")["results"] == expected


def test_goodbye_ends_the_stream_and_lets_the_client_go(play: Play) -> None:
    play.camera.only("done")
    assert play.goodbyes == [USER, USER]
    assert play.camera.status == 0, play.camera.complaints
