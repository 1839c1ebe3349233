"""The examples in docs/cameras.md run as they stand there, but for their ports."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pictures import picture
from running import RunningServer, running_server, until

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/cameras.md").read_text()
OVER_TCP, REGISTERED = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "picture.jpg").write_bytes(picture(width=320, height=240))
    return tmp_path


@pytest.fixture
def server() -> Iterator[tuple[RunningServer, int]]:
    port = free_port()
    with running_server("--tcp-port", str(port)) as running:
        yield running, port


def test_the_camera_over_tcp_sends_a_frame_and_says_goodbye(server: tuple[RunningServer, int], folder: Path) -> None:
    running, port = server
    assert OVER_TCP.count('("localhost", 9000)') == 1
    code = OVER_TCP.replace('("localhost", 9000)', f'("127.0.0.1", {port})')
    subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=30, check=True)
    item = until(lambda: running.get("/api/v1/streams")["items"], "a stream")[0]
    until(lambda: not running.get("/api/v1/streams")["items"][0]["live"], "its end")
    assert (item["name"], item["user"], item["via"]) == ("tcp-1", "tcp-1", "tcp")
    item = running.get("/api/v1/streams")["items"][0]
    assert (item["frames"], item["refused"], item["size_wh"], item["media_type"]) == (1, {}, [320, 240], "image/bmp")


def test_the_camera_that_registers_itself_is_pulled(server: tuple[RunningServer, int], folder: Path) -> None:
    running, _ = server
    port = free_port()
    assert REGISTERED.count("5000") == 2
    assert REGISTERED.count("http://localhost:8080") == 1
    code = REGISTERED.replace("5000", str(port)).replace("http://localhost:8080", running.url)
    camera = subprocess.Popen(
        [sys.executable, "-u", "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert camera.stdout is not None
        said = [camera.stdout.readline() for _ in range(3)]  # two are Flask's
        assert "OK\n" in said, said
        item = until(
            lambda: next((item for item in running.streams().values() if item["frames"] >= 5), None), "five frames"
        )
        assert (item["name"], item["via"], item["refused"]) == ("pull-1", "pull", {})
        assert (item["size_wh"], item["media_type"]) == ([320, 240], "image/jpeg")
    finally:
        camera.kill()
        camera.wait()
    until(lambda: not running.streams(), "the stream's end")
