"""Cameras over plain TCP, as docs/cameras.md has it, against the real server."""

import gzip
import hashlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from app_process import AppProcess, app_process
from desktops import Desktop, bmp, message, packed, tcp_port
from ingest.tcp_connection import CAMERAS_PER_CONNECTION, FIRST_MESSAGE_SEC, MESSAGE_SEC
from phones import Phone
from pictures import padded_bmp, picture
from running import RunningServer, running_server, until
from security.processes import open_files

MAX_BYTES, MAX_PIXELS, RATE_HZ = 200_000, 60_000, 20
LAYOUTS = ("!BI", "<BI", "=BI", "BI", ">B3xI")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Open to everybody."""
    limits = ("--max-frame-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS), "--rate", str(RATE_HZ))
    with running_server("--tcp-port", "0", "--tcp-idle-sec", "1", *limits) as running:
        yield running
        assert running.stop() == 0
        assert not [line for line in running.log if "Traceback" in line or "ERROR" in line], "".join(running.log)


@pytest.fixture
def port(server: RunningServer) -> int:
    """Nothing is left over from another test."""
    until(lambda: not server.streams(), "the streams of former tests end")
    return tcp_port(server)


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """One whose inside can be seen; of unfinished messages it holds a megabyte."""
    settings = {"tcp_port": 0, "rate": 0.0}
    log = tmp_path_factory.mktemp("tcp") / "log"
    with app_process(log, "python", settings=settings, unfinished=1_000_000) as process:
        yield process


def frames(server: RunningServer, name: str = "tcp-1") -> int:
    return int(server.streams().get(name, {}).get("frames", 0))


def until_frames(server: RunningServer, count: int, name: str = "tcp-1") -> None:
    until(lambda: frames(server, name) == count, f"{count} frames of {name}")


def listed(server: RunningServer, name: str) -> dict[str, Any]:
    """The stream of that name that came last, also if it has ended."""
    return next(item for item in reversed(server.get("/api/v1/streams")["items"]) if item["name"] == name)


def ends(server: RunningServer, cause: str) -> int:
    label = f'imageserver_tcp_connections_ended_total{{cause="{cause}"}} '
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in server.get("/metrics").splitlines() if label in line)


def published(server: AppProcess, count: int) -> list[Any]:
    """So many frames that have been published, as /test/account tells of them; and nothing is left of who sent them."""
    frames: list[Any] = []
    until(lambda: len(frames.extend(server.ask("account")["published"]) or frames) >= count, f"{count} frames")
    server.until_nothing_is_left()
    return frames + server.ask("account")["published"]


# -- frames


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_kept_as_they_were_sent_from_every_kind_of_client(turned: AppProcess, layout: str) -> None:
    turned.ask("account")
    images = [bmp(seed=seed) for seed in range(10)]
    with Desktop(turned.ask("tcp"), layout) as desktop:
        for level, image in enumerate(images):
            desktop.send(7, image, level)
    assert published(turned, 10) == [
        ["tcp-1", seq, len(image), hashlib.sha256(image).hexdigest(), None, ["image/bmp", 64, 48]]
        for seq, image in enumerate(images, 1)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece", [1, 5, 1_448])
def test_a_message_may_come_in_pieces(turned: AppProcess, layout: str, piece: int) -> None:
    turned.ask("account")
    image = bmp(8, 8)
    sent = (message(1, packed(image), layout) + message(200, packed(image), layout)) * 2
    with Desktop(turned.ask("tcp"), layout) as desktop:
        for at in range(0, len(sent), piece):
            desktop.send_raw(sent[at : at + piece])
            turned.ask("settle")
    came = published(turned, 4)
    assert [frame[:2] for frame in came] == [["tcp-1", 1], ["tcp-1~cam200", 1], ["tcp-1", 2], ["tcp-1~cam200", 2]]
    assert {frame[3] for frame in came} == {hashlib.sha256(image).hexdigest()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_size_that_reads_either_way_is_the_right_one(turned: AppProcess, layout: str) -> None:
    """131,328 bytes are 66,048 in the other byte order."""
    turned.ask("account")
    for size in (0x20100, 0x10200):
        pixels = np.random.default_rng(1).integers(0, 255, (200, 300, 3), dtype=np.uint8)
        pixels[40:] = 0
        image = bytes(cv2.imencode(".bmp", pixels)[1])
        plain = packed(image)
        named = plain[:3] + b"\x08" + plain[4:10] + b"n" * (size - len(plain) - 1) + b"\0" + plain[10:]
        assert len(named) == size
        with Desktop(turned.ask("tcp"), layout) as desktop:
            for _ in range(3):
                desktop.send_raw(message(1, named, layout))
        assert [frame[3] for frame in published(turned, 3)] == [hashlib.sha256(image).hexdigest()] * 3


def test_a_connection_carries_many_cameras_and_each_is_a_stream(server: RunningServer, port: int) -> None:
    with Desktop(port) as desktop, Desktop(port) as other:
        desktop.send(9)
        until_frames(server, 1)
        other.send(9)
        for camera in (0, 255, 9, 0):
            desktop.send(camera)
        until(lambda: len(server.streams()) == 4, "four streams")
        until_frames(server, 2, "tcp-1~cam0")
        assert {name: (item["frames"], item["user"], item["via"]) for name, item in server.streams().items()} == {
            "tcp-1": (2, "tcp-1", "tcp"),
            "tcp-1~cam0": (2, "tcp-1", "tcp"),
            "tcp-1~cam255": (1, "tcp-1", "tcp"),
            "tcp-2": (1, "tcp-2", "tcp"),
        }
        desktop.close()
        until(lambda: list(server.streams()) == ["tcp-2"], "all streams of the connection end")
        with Desktop(port) as third:
            third.send(1)
            until(lambda: set(server.streams()) == {"tcp-1", "tcp-2"}, "the name is taken again")


def test_a_camera_begins_a_stream_with_its_first_whole_message(server: RunningServer, port: int) -> None:
    with Desktop(port) as desktop:
        sent = message(1, packed(bmp()))
        desktop.send_raw(sent[:-1])
        time.sleep(0.2)
        assert not server.streams()
        desktop.send_raw(sent[-1:])
        until_frames(server, 1)


def test_what_comes_too_fast_is_refused_and_passed_over(server: RunningServer, port: int) -> None:
    """Large ones as small ones, and whatever is in them; the other camera of the connection has a limit of its own."""
    large = packed(bmp(200, 200))
    assert len(large) > 100_000
    with Desktop(port) as desktop:
        for number in range(8 * RATE_HZ):
            desktop.send_raw(message(1, large if number % 2 else packed(bmp())))
            if number > 6 * RATE_HZ:
                desktop.send_raw(message(1, bytes(50_000)))
        desktop.send(2)
        until_frames(server, 1, "tcp-1~cam2")
        until(lambda: listed(server, "tcp-1")["refused"].get("rate", 0) > RATE_HZ, "refused ones")
        taken = listed(server, "tcp-1")["frames"]
        assert taken >= RATE_HZ
        until(lambda: desktop.send() or frames(server) > taken + 3, "more are taken when it goes slower")
        assert list(listed(server, "tcp-1")["refused"]) == ["rate"]
        assert not desktop.has_ended()


# -- what is no frame

HALF = bmp()[: len(bmp()) // 2]
NO_IMAGES: dict[str, tuple[str, bytes, str]] = {
    "a JPEG": ("not_an_image", gzip.compress(picture()), "b'\\xff\\xd8' came first, expected a BMP file's b'BM'"),
    "a PNG": ("not_an_image", gzip.compress(picture(".png")), "expected a BMP file's b'BM'"),
    "a text": ("not_an_image", gzip.compress(b"Dear Sir or Madam, " * 30), "expected a BMP file's b'BM'"),
    "nothing": ("not_an_image", gzip.compress(b""), "b'' came first"),
    "a head alone": ("truncated", gzip.compress(bmp()[:30]), "ends"),
    "half a BMP": ("truncated", gzip.compress(HALF), f"ends after {len(HALF)} bytes"),
    "half the gzip data": ("truncated", packed(bmp())[:3_000], "the gzip data end after 3000 bytes"),
    "bytes behind the gzip data": ("not_an_image", packed(bmp()) + b"more", "4 bytes came behind the end"),
    "a byte behind the BMP": ("not_an_image", packed(bmp() + b"x"), "1 bytes came behind the end of the BMP"),
    "two BMPs": ("not_an_image", packed(bmp() * 2), f"{len(bmp())} bytes came behind the end of the BMP"),
    "two gzip files": ("not_an_image", packed(bmp()) * 2, "bytes came behind the end"),
    "damaged gzip data": ("not_an_image", packed(bmp())[:-8] + bytes(8), "no whole gzip data"),
    "one byte too many": ("too_many_bytes", packed(bmp() + bytes(MAX_BYTES + 1 - len(bmp()))), "come out of"),
    "a bomb": ("too_many_bytes", packed(bytes(50_000_000)), "more than 200000 bytes come out of"),
    "too many pixels": ("too_many_pixels", packed(bmp(300, 201)), "300 x 201 pixels"),
}


@pytest.mark.parametrize("first", [True, False], ids=["the first message", "a later one"])
@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused_and_ends_its_connection_alone(
    server: RunningServer, port: int, name: str, first: bool
) -> None:
    reason, body, _ = NO_IMAGES[name]
    with Desktop(port) as good, Desktop(port, "<BI") as bad:
        good.send()
        until_frames(server, 1)
        if not first:
            bad.send()
        before = ends(server, "refused")
        bad.send_raw(message(1, body, "<BI"))
        assert bad.has_ended(5)
        stream = listed(server, "tcp-2")
        assert (stream["live"], stream["frames"], stream["refused"]) == (False, 0 if first else 1, {reason: 1})
        assert ends(server, "refused") == before + 1
        good.send()
        until_frames(server, 2)


def test_the_log_says_why_once_a_second(server: RunningServer, port: int) -> None:
    for name in ("a JPEG", "half the gzip data", "a bomb"):
        _, body, said = NO_IMAGES[name]
        time.sleep(1.05)
        lines = len(server.log)
        for _ in range(5):
            with Desktop(port) as bad:
                bad.send_raw(message(1, body))
                assert bad.has_ended(5)
        until(lambda said=said, lines=lines: any(said in line for line in server.log[lines:]), said)
        assert sum("was closed: an image of tcp-1: " in line for line in server.log[lines:]) <= 2


NO_MESSAGES = {
    "nothing of ours": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(100),
    "no gzip": message(1, bmp()),
    "a size of 0": struct.pack("!BI", 1, 0) + packed(bmp()),
    "4 GiB": struct.pack("!BI", 1, 0xFFFFFFFF) + packed(bmp()),
    "4 GiB, little-endian and padded": struct.pack("<B3xI", 1, 0xFFFFFFFF) + packed(bmp()),
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_is_no_message_ends_its_connection_at_once(server: RunningServer, port: int, name: str) -> None:
    before = ends(server, "malformed")
    with Desktop(port) as bad:
        bad.send_raw(NO_MESSAGES[name])
        assert bad.has_ended(2)
    assert not server.streams()
    until(lambda: ends(server, "malformed") == before + 1, "it is counted")


@pytest.mark.parametrize("size", [0, 210_000, 0xFFFFFFFF])
def test_a_later_message_of_a_wrong_size_ends_the_connection_at_once(
    server: RunningServer, port: int, size: int
) -> None:
    with Desktop(port) as bad:
        bad.send()
        until_frames(server, 1)
        bad.send_raw(struct.pack("!BI", 1, size))
        assert bad.has_ended(2)


# -- the end


def test_a_goodbye_is_the_end_between_two_messages(server: RunningServer, port: int) -> None:
    causes = ("goodbye", "truncated", "reset")

    def ended(how: Callable[[Desktop], object], sent: bytes) -> dict[str, int]:
        before = {cause: ends(server, cause) for cause in causes}
        with Desktop(port) as desktop:
            desktop.send()
            until_frames(server, 1)
            if sent:
                desktop.send_raw(sent)
                time.sleep(0.1)
            how(desktop)
            until(lambda: not server.streams(), "the stream ends")
        until(lambda: sum(ends(server, cause) for cause in causes) > sum(before.values()), "it is counted")
        return {cause: count for cause in causes if (count := ends(server, cause) - before[cause])}

    half = message(1, packed(bmp()))[:1_000]
    assert ended(Desktop.close, b"") == {"goodbye": 1}
    assert ended(lambda desktop: desktop.socket.shutdown(socket.SHUT_WR), b"") == {"goodbye": 1}
    assert ended(Desktop.close, half) == {"truncated": 1}
    assert ended(Desktop.close, half[:3]) == {"truncated": 1}
    assert ended(lambda desktop: desktop.socket.shutdown(socket.SHUT_WR), half) == {"truncated": 1}
    assert ended(Desktop.reset, b"") == {"reset": 1}
    assert ended(Desktop.reset, half) == {"reset": 1}


def test_all_that_was_sent_before_the_goodbye_is_taken(turned: AppProcess) -> None:
    turned.ask("account")
    with Desktop(turned.ask("tcp")) as desktop:
        desktop.send_raw(message(1, packed(bmp())) * 50)
    assert len(published(turned, 50)) == 50


def slowly(port: int, whole: int, beginning: bytes, piece: bytes = b"", every_sec: float = 0.5) -> float:
    """After so many whole messages send a piece every so often; returns how long the server lets that go on."""
    with Desktop(port) as desktop:
        for _ in range(whole):
            desktop.send()
        time.sleep(0.2 if whole else 0)
        began = time.monotonic()
        if beginning:
            desktop.send_raw(beginning)
        while not desktop.has_ended(every_sec) and time.monotonic() < began + 30:
            if piece:
                try:
                    desktop.send_raw(piece)
                except OSError:
                    break
        return time.monotonic() - began


def test_who_is_slow_or_silent_goes_in_time(server: RunningServer, port: int) -> None:
    half = message(1, packed(bmp()))[:4_000]
    large = struct.pack("!BI", 1, 200_000) + half
    cases: dict[str, tuple[Callable[[], float], float]] = {
        "nothing": (partial(slowly, port, 0, b""), FIRST_MESSAGE_SEC),
        "a first byte": (partial(slowly, port, 0, b"\1"), FIRST_MESSAGE_SEC),
        "half a first message": (partial(slowly, port, 0, half), FIRST_MESSAGE_SEC),
        "a first message in drips": (partial(slowly, port, 0, half, b"a"), FIRST_MESSAGE_SEC),
        "half a later message": (partial(slowly, port, 1, half), MESSAGE_SEC),
        "a later message in drips": (partial(slowly, port, 1, half, b"a"), MESSAGE_SEC),
        "a later one in larger drips": (partial(slowly, port, 2, large, b"a" * 3_000), MESSAGE_SEC),
        "a byte of a later one": (partial(slowly, port, 3, b"\1"), MESSAGE_SEC),
        "nothing more": (partial(slowly, port, 1, b""), 1 - 0.2),
    }
    with ThreadPoolExecutor(len(cases)) as threads:
        running = {name: threads.submit(play) for name, (play, _) in cases.items()}
        for name, (_, seconds) in cases.items():
            took = running[name].result()
            assert seconds - 0.5 <= took <= seconds + 2, f"{name}: {took:.1f} s"
    assert ends(server, "slow") >= len(cases) - 1
    assert ends(server, "silent") >= 1


def test_a_camera_that_is_skipped_has_the_same_time(server: RunningServer, port: int) -> None:
    with Desktop(port) as desktop:
        desktop.send_raw(message(1, packed(bmp(8, 8))) * (2 * RATE_HZ))
        began = time.monotonic()
        desktop.send_raw(struct.pack("!BI", 1, 100_000) + bytes(10))
        assert desktop.has_ended(MESSAGE_SEC + 5)
        assert MESSAGE_SEC - 0.5 < time.monotonic() - began < MESSAGE_SEC + 2
        assert listed(server, "tcp-1")["refused"]["rate"] >= RATE_HZ / 2


def test_a_connection_has_so_many_cameras(server: RunningServer, port: int) -> None:
    before = ends(server, "cameras")
    with Desktop(port) as desktop:
        for camera in range(CAMERAS_PER_CONNECTION):
            desktop.send(camera)
        until(lambda: len(server.streams()) == CAMERAS_PER_CONNECTION, "all of them")
        desktop.send(0)
        desktop.send(CAMERAS_PER_CONNECTION)
        assert desktop.has_ended(5)
    until(lambda: not server.streams(), "all of them end")
    assert ends(server, "cameras") == before + 1


def test_a_stream_that_is_disconnected_ends_its_connection(turned: AppProcess) -> None:
    with Desktop(turned.ask("tcp")) as desktop, Desktop(turned.ask("tcp")) as other:
        desktop.send(1)
        desktop.send(2)
        until(lambda: turned.ask("left")["streams"] == 2, "two streams")
        other.send(1)
        until(lambda: turned.ask("left")["streams"] == 3, "three streams")
        turned.ask("kick?user=tcp-1")
        assert desktop.has_ended(5)
        until(lambda: turned.ask("left")["streams"] == 1, "both streams end")
        assert not other.has_ended()
    turned.until_nothing_is_left()
    assert "a test wants it" in turned.log


def test_what_a_camera_cannot_be_told_is_counted(turned: AppProcess) -> None:
    def unsent() -> int:
        return int(turned.ask("account")["counts"]["imageserver_tcp_unsent_total"])

    with Desktop(turned.ask("tcp")) as desktop:
        desktop.send()
        until(lambda: turned.ask("left")["streams"] == 1, "a stream")
        before = unsent()
        turned.ask("result?stream=tcp-1&value=1")
        turned.ask("complain?stream=tcp-1&message=no")
        assert unsent() == before + 2
        desktop.send()
        until(lambda: turned.ask("account")["published"], "it goes on")
    turned.until_nothing_is_left()


# -- many


def test_who_holds_most_of_a_message_gives_way(turned: AppProcess) -> None:
    """A megabyte of unfinished messages is held, of all together, and the camera with little goes on."""
    with Desktop(turned.ask("tcp")) as small:
        small.send()
        half = message(1, packed(bmp()))
        small.send_raw(half[:1_000])
        large = [Desktop(turned.ask("tcp")) for _ in range(8)]
        for desktop in large:
            desktop.send()  # until then it would be a newcomer, whose messages are counted apart
            desktop.send_raw(struct.pack("!BI", 1, 800_000) + b"\x1f\x8b\x08" + bytes(600_000))
            turned.ask("settle")
        until(lambda: sum(desktop.has_ended() for desktop in large) >= 5, "others give way")
        assert turned.ask("left")["unfinished bytes"] <= 1_000_000
        small.send_raw(half[1_000:])
        until(lambda: turned.ask("account")["published"][-1:], "the small one's frame")
        assert not small.has_ended()
        for desktop in large:
            desktop.close()
    turned.until_nothing_is_left()
    assert turned.ask("account")["counts"]["imageserver_tcp_connections_ended_total memory"] >= 5


def test_a_connection_without_a_message_makes_room_for_a_new_one() -> None:
    with running_server("--tcp-port", "0", "--tcp-connections", "3") as server:
        port = tcp_port(server)
        with Desktop(port) as first:
            first.send()
            until_frames(server, 1)
            idle = [Desktop(port) for _ in range(4)]
            assert [desktop.has_ended(0.5) for desktop in idle] == [True, True, False, False]
            idle[2].send()
            until_frames(server, 1, "tcp-2")
            with Desktop(port) as third:
                assert idle[3].has_ended(2)
                third.send()
                until_frames(server, 1, "tcp-3")
                with Desktop(port) as fourth:
                    assert fourth.has_ended(2), "all places are taken by who is served"
                assert [desktop.has_ended() for desktop in (first, idle[2], third)] == [False] * 3
            until(lambda: len(server.streams()) == 2, "a place for a new one")
            with Desktop(port) as fifth:
                fifth.send()
                until_frames(server, 1, "tcp-3")
        metrics = server.get("/metrics")
        assert "imageserver_tcp_displaced_connections_total 3.0" in metrics
        assert "imageserver_tcp_turned_away_connections_total 1.0" in metrics


def test_where_no_files_are_left_a_connection_without_a_message_makes_room() -> None:
    with running_server("--tcp-port", "0") as server:
        port = tcp_port(server)
        with Desktop(port) as first:
            first.send()
            until_frames(server, 1)
            idle = [Desktop(port) for _ in range(10)]
            until(lambda: "imageserver_tcp_connections 11.0" in server.get("/metrics"), "all of them")
            pid = server.process.pid
            _, hard = allowed = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid), hard))
            with Desktop(port) as last:
                last.send()
                until(lambda: any("no files are left: " in line for line in server.log), "it says so")
                until(lambda: any(desktop.has_ended() for desktop in idle), "one makes room")
                resource.prlimit(pid, resource.RLIMIT_NOFILE, allowed)  # questions take files too
                until_frames(server, 1, "tcp-2")
                first.send()
                until_frames(server, 2)
        assert any("no connection can be accepted: Too many open files" in line for line in server.log)
        assert "Traceback" not in "".join(server.log)


def test_they_end_with_the_server_at_once() -> None:
    with running_server("--tcp-port", "0") as server:
        port = tcp_port(server)
        desktops = [Desktop(port) for _ in range(50)]
        for number, desktop in enumerate(desktops):
            if number % 3:
                desktop.send_raw(message(1, packed(bmp()))[: 1_000 if number % 3 == 1 else None])
        until(lambda: len(server.streams()) == 16, "their streams")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 1
        for desktop in desktops:
            assert desktop.has_ended(1)
        assert any("ended after 1 frames, refused: none" in line for line in server.log), "consumers are told"
        assert "Traceback" not in "".join(server.log)


# -- whose they are


def test_the_file_says_whose_cameras_they_are(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("cam:7 Bob\n127.0.0.2 Alice\n127.0.1.0/24 Carol Smith\n")
    with running_server("-a", "--tcp-port", "0", "--tcp-users", str(users)) as server:
        port = tcp_port(server)
        with Desktop(port, source="127.0.0.2") as alice, Phone(server.url, ["websocket"]) as phone:
            assert phone.log_in("Alice", "123")
            for camera in (1, 7, 2, 8):
                alice.send(camera)
            token = server.token("Alice", "123")
            until(lambda: len(server.streams(token)) == 4, "Alice's")
            assert set(server.streams(token)) == {"Alice", "Alice~2", "Alice~2~cam2", "Alice~2~cam8"}
            assert list(server.streams(server.token("Bob", "456"))) == ["Bob"]
            with Desktop(port, source="127.0.1.9") as carol:
                carol.send()
                until(lambda: any("sends as stream Carol Smith" in line for line in server.log), "Carol's")
            with Desktop(port, source="127.0.0.3") as nobody:
                nobody.send(7)
                nobody.send(1)
                assert nobody.has_ended(5)
            until(lambda: any("its camera 1 is nobody's (--tcp-users" in line for line in server.log), "the reason")
            assert not alice.has_ended()


def test_with_accounts_cameras_that_are_nobodys_are_not_let_in() -> None:
    with running_server("-a", "--tcp-port", "0") as server:
        with Desktop(tcp_port(server)) as desktop:
            desktop.send_raw(message(1, packed(bmp()))[:20])
            assert desktop.has_ended(2), "before its image comes"
        assert not server.streams(server.token("Alice", "123"))


# -- listening


def test_it_listens_where_it_is_told_to_or_says_why_not() -> None:
    with running_server() as server:
        said = f"cannot listen on 127.0.0.1 port {server.port}"
        with pytest.raises(AssertionError, match=said), running_server("--tcp-port", str(server.port)):
            pass


def test_plain_tcp_is_off_unless_a_port_is_given() -> None:
    with running_server() as server:
        assert not any("plain TCP" in line for line in server.log)
        assert "imageserver_tcp_" not in server.get("/metrics")


def test_images_of_the_largest_size_are_taken_at_every_level(server: RunningServer, port: int) -> None:
    image = padded_bmp(bmp(200, 200), MAX_BYTES)
    with Desktop(port) as desktop:
        for level in range(10):
            desktop.send(1, image, level)
        until_frames(server, 10)
        assert listed(server, "tcp-1")["bytes"] == 10 * MAX_BYTES


def test_with_accounts_and_nobody_named_it_is_said_that_no_camera_is_let_in(tmp_path: Path) -> None:
    said = "no camera over TCP is let in: with -a, --tcp-users has to say whose they are"
    users = tmp_path / "users"
    users.write_text("127.0.0.1 Alice\n")
    for options, expected in ((("-a",), True), (("-a", "--tcp-users", str(users)), False), ((), False)):
        with running_server("--tcp-port", "0", *options) as server:
            tcp_port(server)
            until(lambda s=server: s.get("/healthz"), "it runs")
            assert any(said in line for line in server.log) is expected


def test_fewer_places_than_wanted_are_said() -> None:
    program = ["-c", "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400));"
               "sys.argv[0] = 'ImageServer.py'; runpy.run_path('ImageServer.py', run_name='__main__')"]  # fmt: skip
    with running_server("--tcp-port", "0", program=program) as server:
        tcp_port(server)
        said = "--tcp-connections 1000: half of the open files are 100, the rest is for others"
        until(lambda: any(said in line for line in server.log), "the warning")
