"""Cameras made of other people's programs: MJPEG by ffmpeg, pictures served by nginx and by lighttpd."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import camera_servers
from camera_servers import PASSWORD, USER, ffmpeg_camera, ffmpeg_picture, free_port, lighttpd_camera, nginx_camera
from frames import ImageInfo, Limits, check_image
from http_cameras import Caller, Fetched, running_caller
from peers import need
from running import running_server, until

LOGIN = f"{USER}:{PASSWORD.replace(':', '%3A').replace(chr(34), '%22')}@"
PICTURE = ImageInfo("image/jpeg", *camera_servers.SIZE_WH)


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with running_caller() as caller:
        yield caller


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose `pictures` holds a picture that changes all the time."""
    need("ffmpeg")
    folder = tmp_path_factory.mktemp("camera")
    (folder / "pictures").mkdir()
    with ffmpeg_picture(folder / "pictures"):
        yield folder


@pytest.fixture(scope="module")
def nginx(folder: Path) -> Iterator[int]:
    need("nginx")
    port = free_port()
    with nginx_camera(folder, port):
        yield port


@pytest.fixture(scope="module")
def lighttpd(folder: Path) -> Iterator[int]:
    need("lighttpd")
    port = free_port()
    with lighttpd_camera(folder, port):
        yield port


def pictures(fetched: list[Fetched]) -> list[bytes]:
    """What was fetched, seen to be whole pictures."""
    bodies = []
    for one in fetched:
        assert one.body is not None, one
        assert check_image(one.body, Limits()) == PICTURE
        bodies.append(one.body)
    return bodies


# -- ffmpeg


def fetch_first(caller: Caller) -> Fetched:
    """It begins to listen a moment after it was started."""
    return until(
        lambda: one if (one := caller.fetch()).cause != "unreachable" else None, "ffmpeg listens", within_sec=20
    )


@pytest.mark.parametrize(
    "content_type", [None, "multipart/x-mixed-replace;boundary=ffmpeg", "multipart/x-mixed-replace"]
)
def test_the_mjpeg_of_ffmpeg_is_pushed(caller: Caller, content_type: str | None) -> None:
    need("ffmpeg")
    port = free_port()
    caller.call(f"http://127.0.0.1:{port}/video", addresses=["127.0.0.1"])
    with ffmpeg_camera(port, *(("-content_type", content_type) if content_type else ())):
        first = fetch_first(caller)
        began = time.monotonic()
        fetched = caller.fetch_many(camera_servers.RATE_HZ)
        assert 0.5 < time.monotonic() - began < 5
        assert len(set(pictures([first, *fetched]))) == camera_servers.RATE_HZ + 1
        assert all(one.pushes for one in fetched)
        caller.close()


def test_ffmpeg_may_go_and_come_back(caller: Caller) -> None:
    need("ffmpeg")
    port = free_port()
    caller.call(f"http://127.0.0.1:{port}/video", addresses=["127.0.0.1"])
    for _ in range(2):
        with ffmpeg_camera(port) as process:
            pictures([fetch_first(caller), *caller.fetch_many(3)])
            process.send_signal(signal.SIGKILL)
            process.wait()
            until(lambda: caller.fetch().cause, "the camera is missed", within_sec=5)
    assert caller.fetch().cause == "unreachable"


# -- nginx


def test_pictures_served_by_nginx_are_whole_and_new(caller: Caller, nginx: int) -> None:
    caller.call(f"http://127.0.0.1:{nginx}/picture.jpg", addresses=["127.0.0.1"])
    fetched = caller.fetch_many(50)
    time.sleep(0.3)
    fetched += caller.fetch_many(50)
    assert len(set(pictures(fetched))) > 1


def test_nginx_redirects_from_video_to_video_with_a_slash(caller: Caller, nginx: int) -> None:
    caller.call(f"http://127.0.0.1:{nginx}/video", addresses=["127.0.0.1"])
    pictures(caller.fetch_many(25))


def test_a_picture_that_is_not_there_is_a_status(caller: Caller, nginx: int) -> None:
    caller.call(f"http://127.0.0.1:{nginx}/nothing.jpg", addresses=["127.0.0.1"])
    assert [one.said for one in caller.fetch_many(2)] == ["the answer has status 404, expected 200"] * 2


def test_nginx_may_be_started_anew(caller: Caller, folder: Path) -> None:
    need("nginx")
    port = free_port()
    caller.call(f"http://localhost:{port}/picture.jpg")
    for _ in range(3):
        with nginx_camera(folder, port):
            pictures(caller.fetch_many(3))
    assert caller.fetch().cause == "unreachable"


def test_nginx_takes_a_basic_login(caller: Caller, nginx: int) -> None:
    caller.call(f"http://{LOGIN}127.0.0.1:{nginx}/secret/picture.jpg")
    pictures(caller.fetch_many(25))
    for login in ("", f"{USER}:wrong@"):
        caller.call(f"http://{login}127.0.0.1:{nginx}/secret/picture.jpg")
        assert caller.fetch().cause == "login"


# -- lighttpd


@pytest.mark.parametrize("way", ["basic", "md5", "sha256", "both"])
def test_lighttpd_takes_every_login(caller: Caller, lighttpd: int, way: str) -> None:
    caller.call(f"http://{LOGIN}127.0.0.1:{lighttpd}/{way}/picture.jpg?a=b,%20c")
    pictures(caller.fetch_many(25))
    for login in ("", f"{USER}:wrong@", f"other:{PASSWORD.replace(':', '%3A')[:3]}@"):
        caller.call(f"http://{login}127.0.0.1:{lighttpd}/{way}/picture.jpg")
        assert caller.fetch().cause == "login"


# -- the server


def test_the_server_pulls_them_all_and_tells_nobody_a_password(folder: Path, nginx: int, lighttpd: int) -> None:
    port = free_port()
    urls = [
        f"http://127.0.0.1:{port}/video",
        f"http://127.0.0.1:{nginx}/video",
        f"http://{LOGIN}127.0.0.1:{nginx}/secret/picture.jpg",
        f"http://{LOGIN}127.0.0.1:{lighttpd}/sha256/picture.jpg",
    ]
    with ffmpeg_camera(port), running_server(env={"IMAGESERVER_PULL": f"[{', '.join(urls)}]"}) as server:

        def pulled() -> dict[str, dict[str, Any]] | None:
            streams = server.streams()
            return streams if len(streams) == 4 and all(one["frames"] > 20 for one in streams.values()) else None

        streams = until(pulled, "frames of four cameras", within_sec=30)
        for stream in streams.values():
            assert (stream["via"], stream["media_type"]) == ("pull", "image/jpeg")
            assert tuple(stream["size_wh"]) == camera_servers.SIZE_WH
            assert not stream["refused"], stream
        metrics = server.get("/metrics")
        assert server.stop() == 0
        for text in (*server.log, str(streams), metrics):
            assert PASSWORD not in text
            assert LOGIN not in text
            assert "Traceback" not in text
