"""Which cameras are pulled, over the whole server: those that register themselves, and those that are listed."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from http_cameras import Camera, Conversation, Play, answer, answering
from pictures import picture
from registering import Registrant, free_port, register
from running import SRC, RunningServer, running_server, until

GOOD = answering(answer(picture()))
#: Of ingest/pull/gateway.py, and of serving.py.
MAX_PULLERS, MAX_PULLERS_AN_ADDRESS, RESERVED_FILES = 1_000, 16, 200


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        running: RunningServer = request.getfixturevalue("server")
        assert not [line for line in running.log if "Traceback" in line or " ERROR " in line], "".join(running.log)
        until(lambda: not running.streams(), "the streams end")


def number(server: RunningServer, name: str) -> float:
    """A reading without labels."""
    for line in server.get("/metrics").splitlines():
        if line.startswith(f"imageserver_{name} "):
            return float(line.split()[1])
    raise AssertionError(f"there is no {name}")


def live(server: RunningServer, count: int = 1, token: str | None = None) -> list[str]:
    """The names of the live streams, when they are so many and all have frames."""

    def named() -> list[str]:
        streams = server.streams(token).values()
        return [stream["name"] for stream in streams] if all(stream["frames"] for stream in streams) else []

    return until(lambda: names if len(names := named()) == count else [], f"{count} streams", 20)


# -- registered


def test_a_camera_is_pulled_once_however_its_address_is_written(server: RunningServer) -> None:
    with Camera(GOOD) as camera:
        for host in ("127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "localhost"):
            assert register(server.port, host, camera.port)
        live(server)
        assert camera.connections == 1


def test_cameras_on_several_ports_and_addresses_are_several(server: RunningServer) -> None:
    with Camera(GOOD) as one, Camera(GOOD) as other, Camera(GOOD, "127.0.0.2") as third:
        for camera in (one, other, third):
            assert register(server.port, camera.host, camera.port)
        assert len(set(live(server, 3))) == 3


def test_a_camera_with_an_address_of_ipv6_is_pulled(server: RunningServer) -> None:
    try:
        camera = Camera(GOOD, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with camera:
        assert register(server.port, "0:0:0:0:0:0:0:1", camera.port)
        live(server)
        assert f"Host: [::1]:{camera.port}\r\n" in camera.requests[0]


def test_a_camera_that_goes_is_not_live_and_comes_back_under_its_name_when_it_says_so() -> None:
    with running_server() as server:
        with Camera(GOOD) as first:
            assert register(server.port, "127.0.0.1", first.port)
            assert live(server) == ["pull-1"]
        until(lambda: not server.streams(), "the stream ends")
        time.sleep(4)  # so that the pauses are long
        with Camera(GOOD, port=first.port):
            began = time.monotonic()
            assert register(server.port, "127.0.0.1", first.port)
            assert live(server) == ["pull-1"]
            assert time.monotonic() - began < 1.0
        ended, _ = server.get("/api/v1/streams")["items"]
        assert (ended["live"], ended["via"]) == (False, "pull")


def test_a_silent_camera_makes_room_for_another_of_its_address_and_a_working_one_does_not() -> None:
    with running_server() as server, Camera(GOOD) as working:
        assert register(server.port, "127.0.0.1", working.port)
        live(server)
        dead = {free_port() for _ in range(2 * MAX_PULLERS_AN_ADDRESS)}
        for port in dead:
            assert register(server.port, "127.0.0.1", port)
        assert number(server, "pulled_cameras") == MAX_PULLERS_AN_ADDRESS
        assert number(server, "displaced_cameras_total") == 1 + len(dead) - MAX_PULLERS_AN_ADDRESS
        time.sleep(0.5)
        assert live(server) == ["pull-1"]
        with Camera(GOOD) as late:
            assert register(server.port, "127.0.0.1", late.port)
            (name,) = set(live(server, 2)) - {"pull-1"}
        assert int(name.removeprefix("pull-")) <= MAX_PULLERS_AN_ADDRESS + 2, "the names of those that went are free"


def test_a_camera_that_sends_rubbish_makes_room_too(server: RunningServer) -> None:
    with ExitStack() as cameras:
        for _ in range(MAX_PULLERS_AN_ADDRESS):
            rubbish = cameras.enter_context(Camera(answering(answer(b"<html>"))))
            assert register(server.port, "127.0.0.1", rubbish.port)
        until(lambda: len(server.streams()) == MAX_PULLERS_AN_ADDRESS, "they answer")
        until(lambda: all(s["refused"]["not_an_image"] > 1 for s in server.streams().values()), "with rubbish")
        assert register(server.port, "127.0.0.1", cameras.enter_context(Camera(GOOD)).port)
        until(lambda: [s for s in server.streams().values() if s["frames"]], "the good one is pulled")
        assert len(server.streams()) == MAX_PULLERS_AN_ADDRESS


def test_when_all_cameras_of_an_address_work_another_one_is_not_pulled(server: RunningServer) -> None:
    with ExitStack() as cameras:
        for _ in range(MAX_PULLERS_AN_ADDRESS):
            assert register(server.port, "127.0.0.1", cameras.enter_context(Camera(GOOD)).port)
        live(server, MAX_PULLERS_AN_ADDRESS)
        assert not register(server.port, "127.0.0.1", free_port())
        elsewhere = cameras.enter_context(Camera(GOOD, "127.0.0.3"))
        assert register(server.port, "127.0.0.3", elsewhere.port)
        live(server, MAX_PULLERS_AN_ADDRESS + 1)


def test_who_registers_most_silent_cameras_loses_them_first() -> None:
    """And a camera that will listen a little later is pulled, whatever others register meanwhile."""
    places = min(MAX_PULLERS, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED_FILES) // 8)
    with running_server() as server:
        late = free_port("127.0.0.8")
        assert register(server.port, "127.0.0.8", late, "127.0.0.8")
        many = Registrant(server.port, "127.0.0.7")
        for n in range(places + 300):
            assert many(f"127.9.{n // 100}.{1 + n % 100}", 9)
        many.close()
        assert number(server, "pulled_cameras") == places
        assert number(server, "displaced_cameras_total") == 301
        with Camera(GOOD, "127.0.0.8", port=late):
            assert register(server.port, "127.0.0.8", late, "127.0.0.8")
            assert live(server) == ["pull-1"], "it was registered first, and has kept its place"


def redirecting(to: str) -> Play:
    def play(conversation: Conversation) -> None:
        while request := conversation.request():
            found = request.startswith("GET /other ")
            conversation.send(answer(picture()) if found else answer(b"", f"Location: {to}", status="302 Found"))

    return play


def test_a_redirect_is_followed_on_the_same_host_and_port_only(server: RunningServer) -> None:
    with Camera(GOOD) as canary:
        for to in (canary.url("/other"), f"//localhost:{canary.port}/other", "https:///other", "ftp://x/other", ""):
            with Camera(redirecting(to)) as camera:
                before = number(server, "failed_fetches_total")
                assert register(server.port, "127.0.0.1", camera.port)
                until(lambda before=before: number(server, "failed_fetches_total") > before, "a failure")
        with Camera(redirecting("/other")) as camera:
            assert register(server.port, "127.0.0.1", camera.port)
            live(server)
        assert canary.connections == 0


def test_cameras_that_hang_do_not_hold_up_the_end() -> None:
    def hang(conversation: Conversation) -> None:
        conversation.request()
        threading.Event().wait(20)

    with ExitStack() as cameras, running_server() as server:
        for _ in range(10):
            assert register(server.port, "127.0.0.1", cameras.enter_context(Camera(hang)).port)
        good = cameras.enter_context(Camera(GOOD))
        assert register(server.port, "127.0.0.1", good.port)
        live(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3.0


# -- with accounts, and whose they are


@pytest.fixture
def users(tmp_path: Path) -> list[str]:
    lines = tmp_path / "cameras"
    lines.write_text("127.0.0.1 Alice\n127.0.2.0/24 user1\n")
    return ["--tcp-users", str(lines)]


def test_with_accounts_a_camera_is_its_users(users: list[str]) -> None:
    with running_server("-a", *users) as server, Camera(GOOD) as one, Camera(GOOD) as other:
        assert register(server.port, "127.0.0.1", one.port)
        assert register(server.port, "127.0.0.1", other.port)
        assert not register(server.port, "127.0.0.2", one.port)
        assert live(server, 2, server.token("Alice", "123")) == ["Alice", "Alice~2"]
        assert not server.streams(server.token("Bob", "456"))


# -- listed


def test_a_listed_camera_is_pulled_whenever_it_is_there(users: list[str]) -> None:
    port = free_port()
    with running_server(*users, "--pull", f"http://127.0.0.1:{port}/snapshot?channel=1") as server:
        time.sleep(0.5)
        assert number(server, "pulled_cameras") == 1
        for _ in range(2):
            with Camera(GOOD, port=port) as camera:
                assert live(server) == ["Alice"]
                assert camera.paths[0] == "/snapshot?channel=1"
            until(lambda: not server.streams(), "the stream ends")


def test_a_listed_camera_that_is_nobodys_is_pulled_with_accounts_too() -> None:
    with Camera(GOOD) as camera, running_server("-a", "--pull", camera.url(host="localhost")) as server:
        until(lambda: any("as stream pull-1 of pull-1" in line for line in server.log), "it is pulled")
        assert not server.streams(server.token("Alice", "123"))


def test_a_listed_camera_that_pushes_is_pulled_as_fast_as_is_wanted() -> None:
    def mjpeg(conversation: Conversation) -> None:
        conversation.request()
        part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(picture()), picture())
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
        while conversation.send(part):
            time.sleep(0.01)

    with Camera(mjpeg) as camera, running_server("--idle-rate", "10", "--pull", camera.url()) as server:
        live(server)
        time.sleep(3)
        (stream,) = server.streams().values()
        assert 8 <= stream["rate_hz"] <= 11
        assert not stream["refused"]
        assert camera.connections == 1
        assert number(server, "skipped_images_total") > 50


def test_an_address_that_is_none_ends_the_start_with_one_clear_line() -> None:
    run = subprocess.run(
        [sys.executable, "ImageServer.py", "-i", "127.0.0.1", "-p", "0"],
        cwd=SRC,
        env=os.environ | {"IMAGESERVER_PULL": "[http://user:secret@-/]"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        "ImageServer.py: --pull: a camera's host that is neither a name nor an address"
    )
    assert "secret" not in run.stderr


def test_the_password_of_a_listed_camera_is_nowhere() -> None:
    def locked(conversation: Conversation) -> None:
        while request := conversation.request():
            if "Authorization: Basic YWRtaW46c2VjcmV0" in request:
                conversation.send(answer(picture()))
            else:
                conversation.send(answer(b"", 'WWW-Authenticate: Basic realm="x"', status="401 Unauthorized"))

    camera = Camera(locked)
    environment: dict[str, Any] = {"IMAGESERVER_PULL": camera.url("/a?pw=secret", login="admin:secret@")}
    with running_server(env=environment) as server:
        live(server)
        camera.close()
        until(lambda: any("no answer" in line for line in server.log), "it is missed")
        assert server.stop() == 0
        assert "secret" not in "".join(server.log)
