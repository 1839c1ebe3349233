"""A camera made with what ConvergeCast's client is made with, against the whole server: every kind of it is pulled."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from running import RunningServer, running_server, until

CAMERA = Path(__file__).resolve().parent / "converge_cast.py"
SIZE_WH = [96, 64]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


class ConvergeCast:
    """A camera in a process of its own, and what it says."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, CAMERA, url, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # werkzeug writes a line a request
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port: int = until(lambda: self.heard("port"), "the camera begins", 30)[0]

    def heard(self, what: str) -> list[Any]:
        return [line[what] for line in list(self.said) if what in line]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))


@contextmanager
def converge_cast(server: RunningServer, **options: Any) -> Iterator[ConvergeCast]:
    camera = ConvergeCast(server.url, options)
    try:
        yield camera
    finally:
        camera.close()
        until(lambda: not server.streams(), "the camera's stream ends")


def the_stream(server: RunningServer, frames: int = 3) -> dict[str, Any]:
    """The one stream there is, when it has so many frames."""

    def seen() -> list[dict[str, Any]]:
        return [stream for stream in server.streams().values() if stream["frames"] >= frames]

    (stream,) = until(seen, f"a stream of {frames} frames", 20)
    return stream


@pytest.mark.parametrize(
    "options",
    [
        *({"generation": "newest", "protocol": protocol} for protocol in (2, 3, 4, 5)),
        *({"generation": "newest", "protocol": protocol, "column": True} for protocol in (2, 5)),
        {"generation": "documented"},
        {"generation": "plain"},
        {"generation": "newest", "headers": {"Content-Enconded": "b"}},
        {"generation": "newest", "headers": {"Content-Encoding": "b"}},
        {"generation": "documented", "headers": {"Content": "B"}},
        {"generation": "documented", "headers": {"Content-Encoding": "b", "Content-Type": "image/jpeg"}},
        {"path": "/server/"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_a_camera_of_every_kind_is_pulled(server: RunningServer, options: dict[str, Any]) -> None:
    with converge_cast(server, **options) as camera:
        stream = the_stream(server)
        assert (stream["via"], stream["size_wh"], stream["media_type"]) == ("pull", SIZE_WH, "image/jpeg")
        assert not stream["refused"]
        assert camera.heard("answer") == [[200, "OK", 0]]
        assert len(camera.heard("served")) >= stream["frames"]


def test_a_camera_that_registers_itself_twice_is_pulled_once(server: RunningServer) -> None:
    with converge_cast(server, times=2) as camera:
        the_stream(server)
        assert camera.heard("answer") == [[200, "OK", 0]] * 2
        assert len(server.streams()) == 1


def test_a_camera_that_listens_some_seconds_after_it_registered_itself_is_pulled(server: RunningServer) -> None:
    with converge_cast(server, late_sec=3):
        the_stream(server)


def test_a_camera_that_does_not_say_its_port_is_pulled_from_5000(server: RunningServer) -> None:
    with converge_cast(server, port=5000, unsaid=True) as camera:
        the_stream(server)
        assert camera.port == 5000


def test_a_camera_that_cannot_be_pulled_is_told_so(server: RunningServer) -> None:
    with converge_cast(server, ipaddress="192.0.2.1") as camera:
        assert until(lambda: camera.heard("answer"), "an answer") == [[200, "Can not make a connection", 0]]
        assert not server.streams()


def test_a_camera_comes_back_under_its_name_when_it_registers_itself_again(server: RunningServer) -> None:
    with converge_cast(server) as camera:
        before = the_stream(server)
    with converge_cast(server, port=camera.port):
        after = the_stream(server)
    assert after["name"] == before["name"]
