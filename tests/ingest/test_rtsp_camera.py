"""Real cameras over RTSP, real capture processes, a real loop: what comes, how much of it, and who is called again."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from capture.receiver import NOBODY_WATCHES_SEC
from capture.video import MEMORY_BYTES, SILENCE_SEC, Camera
from child_server import is_alive
from frames import ImageInfo, Limits, check_image
from peers import need
from rtsp_cameras import Answer, DamagingWay, RtspServer, connections_to, reply, rtsp_server, scripted_camera, slept
from rtsp_hub import RtspHub, rtsp_hub
from running import running_server, until

#: As long as a user would choose, with all that an address must not hold as it is.
PASSWORD = "a b@:/%?#geheim"
QUOTED = "a%20b%40%3A%2F%25%3F%23geheim"


@pytest.fixture(scope="module")
def camera() -> Iterator[RtspServer]:
    with rtsp_server() as server:
        yield server


def pixels(image: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded  # type: ignore[return-value]


def number_in(image: bytes) -> int:
    """The number that a picture of `/numbered` shows; its bars must be black and white, as they were painted."""
    bars = pixels(image)[240].mean(axis=1).reshape(16, 40)[:, 10:30].mean(axis=1)
    assert all(bar < 8 or bar > 247 for bar in bars), bars
    return int("".join("1" if bar > 128 else "0" for bar in bars), 2)


@pytest.mark.parametrize(
    ("path", "size"), [("/h264", (640, 480)), ("/h265", (640, 480)), ("/jpeg", (640, 480)), ("/odd", (321, 243))]
)
def test_video_comes_as_whole_jpegs_of_its_size(camera: RtspServer, path: str, size: tuple[int, int]) -> None:
    with rtsp_hub(camera.url(path), wish_hz=None) as hub:
        seen = hub.until_frames(30)
        image = hub.newest()
        assert check_image(image, Limits()) == ImageInfo("image/jpeg", *size)
        assert pixels(image).shape == (size[1], size[0], 3)
        assert seen["refused"] == {}
        assert (seen["streams"], seen["failures"], seen["restarts"]) == (1, 0, 0)


def test_pictures_that_are_jpegs_are_passed_on_as_they_are(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/jpeg"), wish_hz=None) as hub:
        seen = hub.until_frames()
        assert "cv2" not in Path(f"/proc/{seen['pid']}/maps").read_text(), "nothing is decoded"


def test_black_is_black_and_white_is_white(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/numbered"), wish_hz=None) as hub:
        hub.until_frames()
        number_in(hub.newest())


def test_what_is_shown_is_new(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/numbered"), wish_hz=5) as hub:
        hub.until_frames()
        pictures = [hub.newest_and_when() for _ in range(5) if slept(0.5)]
        numbers = [number_in(image) for image, _ in pictures]
        made = {int(line.split()[1]): float(line.split()[2]) for line in camera.said if line.startswith("made ")}
        ages_sec = [came - made[number] for number, (_, came) in zip(numbers, pictures, strict=True)]
        assert numbers == sorted(set(numbers))
        assert max(ages_sec) < 1, "of its making, encoding, decoding, and the way: 0.05 s where nothing else runs"


def test_a_server_that_slept_gets_the_newest_picture_of_all() -> None:
    with rtsp_server() as camera, rtsp_hub(camera.url("/numbered"), wish_hz=None) as hub:
        hub.until_frames()
        hub.process.send_signal(signal.SIGSTOP)
        assert slept(1.5)
        camera.stand_still()
        assert slept(0.3)
        hub.process.send_signal(signal.SIGCONT)
        last = int([line for line in camera.said if line.startswith("made ")][-1].split()[1])
        assert slept(0.5)
        assert number_in(hub.newest()) > last - 5, "a few are on their way in the camera"
        assert hub.seen["replaced"] > 20


def test_a_child_that_has_little_of_the_machine_shows_what_is_new_all_the_same() -> None:
    with rtsp_server() as camera, rtsp_hub(camera.url("/numbered"), wish_hz=None) as hub:
        pid = hub.until_frames()["pid"]
        end_at = time.monotonic() + 18
        while time.monotonic() < end_at:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.003)
        image, came_at = hub.newest_and_when()
        made = {int(line.split()[1]): float(line.split()[2]) for line in camera.said if line.startswith("made ")}
        assert came_at - made[number_in(image)] < 5, "whoever decoded all would be 15 s behind by now"
        assert hub.seen["streams"] == 1


def test_as_many_pictures_come_as_are_wanted(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=5) as hub:
        for wish_hz, expected in ((5, 5), (12, 12), (None, 25)):
            hub.command(wish_hz=wish_hz)
            hub.until(lambda seen, hz=wish_hz: seen["wanted_hz"] == (hz or 60), "it is wanted")
            assert slept(1.5)  # the child is told at most once a second
            before = hub.until_frames(1)
            assert slept(4)
            after = hub.until_frames(1)
            rate_hz = (after["frames"] - before["frames"]) / 4
            assert rate_hz == pytest.approx(expected, rel=0.2)
        assert hub.seen["refused"] == {}
        assert hub.seen["skipped"] > 4 * (20 + 13)


def test_a_camera_that_nobody_watches_is_hung_up_on_and_called_again_when_somebody_does() -> None:
    with rtsp_server() as camera, rtsp_hub(camera.url("/h264"), wish_hz=5) as hub:
        pid = hub.until_frames()["pid"]
        hub.command(wish_hz=0)
        camera.until_said("goodbye", within_sec=NOBODY_WATCHES_SEC + 15)
        until(lambda: not connections_to(camera.port, pid), "it hung up")
        frames = hub.seen["frames"]
        assert slept(2)
        assert hub.seen["stream"] == "Alice", "it is live as long as nothing failed"
        assert hub.seen["frames"] == frames
        hub.command(wish_hz=5)
        seen = hub.until(lambda seen: seen["frames"] > frames + 5, "pictures come again")
        assert (seen["streams"], seen["failures"]) == (1, 0)


def test_a_camera_that_restarts_is_another_stream_of_that_name() -> None:
    with rtsp_server() as camera, rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        hub.until_frames()
        camera.kill()
        hub.until(lambda seen: not seen["stream"], "the stream ends")
        hub.until(lambda seen: seen["failures"] > 2, "it is called again")
        with rtsp_server("--port", str(camera.port)):
            seen = hub.until_frames(within_sec=20)
            assert (seen["stream"], seen["streams"], seen["restarts"]) == ("Alice", 2, 0)
        said = [line for line in hub.log if "Connection refused; it is called again" in line]
        assert len(said) == 1, "once, and not for each attempt"


def test_a_camera_that_stands_still_has_gone(camera: RtspServer) -> None:
    with rtsp_server() as camera, rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        hub.until_frames()
        camera.stand_still()
        hub.until(lambda seen: not seen["stream"], "the stream ends", within_sec=SILENCE_SEC + 5)
        hub.until_log(f"nothing came from it for {SILENCE_SEC:g} s; it is called again")
        camera.go_on()
        seen = hub.until_frames(within_sec=30)
        assert seen["restarts"] == 0


def test_a_killed_child_comes_back_with_the_stream(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        pid = hub.until_frames()["pid"]
        os.kill(pid, signal.SIGKILL)
        hub.until_log("rtsp-1: it was ended by SIGKILL; it is started again in 0.5 s")
        hub.until(lambda seen: seen["restarts"] == 1, "another one runs")
        seen = hub.until_frames()
        assert (seen["stream"], seen["streams"]) == ("Alice", 2)
        assert seen["pid"] != pid


def test_a_child_that_hangs_is_replaced(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=10, constants={"ingest.rtsp_camera.SILENT_SEC": 2}) as hub:
        pid = hub.until_frames()["pid"]
        os.kill(pid, signal.SIGSTOP)
        hub.until_log("rtsp-1: it got nowhere for 2 s")
        seen = hub.until(lambda seen: seen["streams"] == 2, "another stream begins")
        assert seen["restarts"] == 1
        assert hub.worst_lag_ms < 250


def test_a_stop_says_goodbye_to_the_camera_and_leaves_no_child() -> None:
    with rtsp_server() as camera:
        with rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
            pid = hub.until_frames()["pid"]
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert not is_alive(pid)
        camera.until_said("goodbye")


def test_no_child_outlives_a_killed_server(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        pid = hub.until_frames()["pid"]
        hub.kill()
        until(lambda: not is_alive(pid), "the child has gone", within_sec=5)


def test_who_is_disconnected_is_called_again_after_a_long_pause(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        pid = hub.until_frames()["pid"]
        hub.command(close="an admin wants it")
        hub.until(lambda seen: not seen["stream"], "the stream ends")
        hub.until_log(f"rtsp-1: {camera.url('/h264')}: hung up on: an admin wants it")
        until(lambda: not connections_to(camera.port, pid), "it hung up")
        assert slept(4)
        assert (hub.seen["stream"], hub.seen["streams"], hub.seen["restarts"]) == (None, 1, 0)


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_a_camera_gets_the_login_that_it_wants(scheme: str) -> None:
    with (
        rtsp_server("--login", f"me:{PASSWORD}", *(["--digest"] if scheme == "digest" else [])) as camera,
        rtsp_hub(camera.url("/h264", f"me:{QUOTED}"), wish_hz=10) as hub,
    ):
        hub.until_frames()


def test_a_wrong_login_is_said_once_and_not_tried_again_at_once() -> None:
    with (
        rtsp_server("--login", f"me:{PASSWORD}") as camera,
        rtsp_hub(camera.url("/h264", "me:wrong"), wish_hz=10) as hub,
    ):
        hub.until_log(f"rtsp-1: {camera.url('/h264')}: it does not take the login, or wants one (401)")
        assert slept(4)
        assert (hub.seen["failures"], hub.seen["streams"]) == (1, 0)


@pytest.mark.parametrize("path", ["/h264", "/nowhere"])
def test_nobody_can_read_the_password(path: str) -> None:
    """Neither of a camera that works nor of one that does not, in the log, in a list of processes, in a child's
    environment."""
    with rtsp_server("--login", f"me:{PASSWORD}") as camera:
        url = camera.url(path, f"me:{QUOTED}") + "?token=geheim"
        with rtsp_hub(url, wish_hz=10, env={"IMAGESERVER_PULL": url}) as hub:
            if path == "/h264":
                pid = hub.until_frames()["pid"]
                os.kill(pid, signal.SIGABRT)
                hub.until_log("it was ended by SIGABRT")
                hub.until(lambda seen: seen["restarts"] == 1 and seen["stream"], "another one works")
            else:
                hub.until(lambda seen: seen["failures"] > 1, "it is called again")
            child = Path(f"/proc/{hub.seen['pid']}")
            command, environ = (child / "cmdline").read_bytes(), (child / "environ").read_bytes()
            listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
            for text in (command, environ, "".join(hub.log).encode()):
                assert text
                assert b"geheim" not in text
            assert b"geheim" not in b"\n".join(line for line in listed.splitlines() if b"rtsp_server" not in line)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("rtsp://127.0.0.1:{port}/raw", "its video is rawvideo, expected one of h264"),
        ("rtsp://127.0.0.1:{port}/sound", "it refuses: 4XX"),
        ("rtsp://127.0.0.1:{port}/nowhere", "it refuses: 404 Not Found"),
        ("rtsp://no.such.host.invalid/h264", "its host is not known: "),
        ("rtsp://127.0.0.1:1/h264", "Connection refused"),
        ("rtsps://127.0.0.1:{port}/h264", "no TLS connection to it, or its certificate is not trusted"),
    ],
)
def test_why_there_is_no_video_is_said_once(camera: RtspServer, address: str, why: str) -> None:
    url = address.format(port=camera.port)
    with rtsp_hub(url, wish_hz=10) as hub:
        hub.until_log(f"rtsp-1: {url}: {why}")
        hub.until(lambda seen: seen["failures"] >= 3, "it is called again")
        assert len([line for line in hub.log if why in line]) == 1
        assert (hub.seen["streams"], hub.seen["restarts"]) == (0, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_is_spoken_with_cameras_whose_certificate_is_trusted(tmp_path: Path, host: str) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:localhost,IP:127.0.0.1")
    with rtsp_server("--tls", certificate, key) as camera:
        url = f"rtsps://{host}:{camera.port}/h264"
        with rtsp_hub(url, wish_hz=10, env={"SSL_CERT_FILE": certificate}) as hub:
            hub.until_frames()


def test_tls_is_not_spoken_with_who_has_somebody_elses_certificate(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:elsewhere.example")
    with rtsp_server("--tls", certificate, key) as camera:
        url = f"rtsps://localhost:{camera.port}/h264"
        with rtsp_hub(url, wish_hz=10, env={"SSL_CERT_FILE": certificate}) as hub:
            hub.until_log("no TLS connection to it, or its certificate is not trusted")
            assert hub.seen["streams"] == 0


def make_certificate(folder: Path, names: str) -> tuple[str, str]:
    need("openssl", "gstreamer")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=camera",
         "-addext", f"subjectAltName={names}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize(
    ("path", "limits", "code"),
    [
        ("/h264", {"max_frame_bytes": 1000}, "too_many_bytes"),
        ("/jpeg", {"max_frame_bytes": 1000}, "too_many_bytes"),
        ("/jpeg", {"max_pixels": 640 * 480 - 1}, "too_many_pixels"),
    ],
)
def test_pictures_beyond_the_limits_are_refused_and_counted(
    camera: RtspServer, path: str, limits: dict[str, int], code: str
) -> None:
    with rtsp_hub(camera.url(path), wish_hz=10, limits=limits) as hub:
        seen = hub.until(lambda seen: seen["refused"].get(code, 0) > 5, "pictures are refused")
        assert (seen["frames"], seen["streams"], seen["restarts"]) == (0, 1, 0)


def test_video_beyond_the_limit_of_pixels_is_not_decoded(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/large"), wish_hz=10, limits={"max_pixels": 1920 * 1080 - 1}) as hub:
        hub.until_log("its video is 1920 x 1080 pixels, at most 2073599 are taken")
        assert "cv2" not in Path(f"/proc/{hub.seen['pid']}/maps").read_text()


def test_nobody_is_called_whom_a_camera_redirects_to() -> None:
    with scripted_camera(lambda request, count: None) as canary:
        for where in (f"rtsp://127.0.0.1:{canary.port}/x", f"http://127.0.0.1:{canary.port}/", "file:///etc/passwd"):
            answer = "302 Moved Temporarily", f"Location: {where}"
            with (
                scripted_camera(lambda request, count, answer=answer: reply(request, *answer)) as camera,
                rtsp_hub(f"rtsp://me:geheim@127.0.0.1:{camera.port}/x", wish_hz=10) as hub,
            ):
                hub.until_log(f"rtsp-1: rtsp://127.0.0.1:{camera.port}/x: ")
                hub.until(lambda seen: seen["failures"] >= 2, "it was called")
        assert canary.connections == 0


def test_a_redirect_is_named_in_the_log() -> None:
    def redirect(request: bytes, _count: int) -> bytes:
        return reply(request, "302 Moved Temporarily", "Location: rtsp://127.0.0.1:1/x")

    with (
        scripted_camera(redirect) as camera,
        rtsp_hub(f"rtsp://127.0.0.1:{camera.port}/x", wish_hz=10) as hub,
    ):
        hub.until_log("it redirects to another address, which is not called; it is called again")


SDP_TYPE = "Content-Type: application/sdp"
SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n\
m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:x\r\n"


def conversation(request: bytes, _count: int) -> bytes:
    """A camera that agrees to all, and then sends no video."""
    if request.startswith(b"DESCRIBE"):
        return reply(request, "200 OK", SDP_TYPE, body=SDP)
    if request.startswith(b"SETUP"):
        return reply(request, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
    return reply(request, "200 OK", "Public: DESCRIBE, SETUP, PLAY", "Session: 1")


def noise(request: bytes, count: int) -> bytes:
    """Interleaved packets (RFC 2326, section 10.12) of nonsense."""
    answer = conversation(request, count)
    if not request.startswith(b"PLAY"):
        return answer
    dice = random.Random(1)
    packets = []
    for number in range(2_000):
        rtp = bytes([0x80, 96 | (number % 3 == 0) << 7]) + number.to_bytes(2, "big") + dice.randbytes(8)
        payload = bytes([dice.choice([0x65, 0x67, 0x68, 0x7C, 0x78, dice.randrange(256)])]) + dice.randbytes(500)
        packets.append(b"$\0" + len(rtp + payload).to_bytes(2, "big") + rtp + payload)
    return answer + b"".join(packets)


def parts_of_pictures(request: bytes, count: int) -> Iterator[bytes]:
    """Slices of H.264 that belong to no picture, for as long as anybody listens."""
    yield conversation(request, count)
    for number in range(2_000 if request.startswith(b"PLAY") else 0):
        payload = b"\x41" + bytes([number % 256]) * 100
        rtp = bytes([0x80, 96 | 128]) + number.to_bytes(2, "big") + (number * 3600).to_bytes(4, "big") + bytes(4)
        yield b"$\0" + len(rtp + payload).to_bytes(2, "big") + rtp + payload
        time.sleep(0.04)


MISBEHAVIOURS: dict[str, Answer] = {
    "closes": lambda request, count: None,
    "speaks http": lambda request, count: b"HTTP/1.1 200 OK\r\n\r\n<html>",
    "says nothing": lambda request, count: slept(60) and None,
    "agrees and sends nothing": conversation,
    "random": lambda request, count: os.urandom(10_000),
    "packets": lambda request, count: b"$" + bytes(1_000_000),
    "headers": lambda request, count: reply(request, "200 OK", *(f"X-{n}: {'x' * 1000}" for n in range(5_000))),
    "answers": lambda request, count: reply(request) * 1_000,
    "login": lambda request, count: reply(request, "401 No", 'WWW-Authenticate: Digest realm="x", nonce="y"'),
    "endless": lambda request, count: reply(request, "200 OK", "Content-Length: 2147483647"),
    "negative": lambda request, count: reply(request, "200 OK", "Content-Length: -1"),
    "tracks": lambda request, count: reply(request, "200 OK", SDP_TYPE, body=b"m=video\r\n" * 50_000),
    "no sdp": lambda request, count: reply(request, "200 OK", SDP_TYPE, body=os.urandom(1_000_000)),
    "noise": noise,
    "no picture": parts_of_pictures,
}


def test_cameras_that_misbehave_are_given_up_and_cost_only_themselves(camera: RtspServer) -> None:
    with ExitStack() as stack:
        good = stack.enter_context(rtsp_hub(camera.url("/h264"), wish_hz=10))
        good.until_frames()
        hubs: dict[str, RtspHub] = {}
        for name, answer in MISBEHAVIOURS.items():
            bad_camera = stack.enter_context(scripted_camera(answer))
            url = f"rtsp://me:geheim@127.0.0.1:{bad_camera.port}/x"
            hubs[name] = stack.enter_context(rtsp_hub(url, wish_hz=10))
        for name, hub in hubs.items():
            hub.until(lambda seen: seen["failures"] >= 1, f"the camera that {name!r} is given up", within_sec=60)
            assert hub.seen["restarts"] == 0, name
            assert hub.seen["streams"] == 0 or name == "noise", name  # which makes some pictures by chance
            assert hub.worst_lag_ms < 500, name
            assert "geheim" not in "".join(hub.log), name
            assert len(hub.log) < 20, name
        said = {name: hub.log[-1] for name, hub in hubs.items() if len(hub.log) == 1}
        assert "nothing came from it for 10 s" in said["says nothing"]
        assert "it does not take the login" in said["login"]
        assert any("no picture can be made of what it sends, for 20 s" in line for line in hubs["no picture"].log)
        assert good.until_frames()["streams"] == 1, "the good one goes on as it did"


@pytest.mark.parametrize("path", ["/h264", "/h265", "/jpeg"])
def test_damaged_video_ends_nothing_for_good(camera: RtspServer, path: str) -> None:
    dice = random.Random(1)

    def damage(payload: bytes) -> bytes:
        if not payload or dice.random() < 0.8:
            return payload
        at = dice.randrange(len(payload))
        return payload[:at] + dice.randbytes(1) + payload[at + 1 :]

    way = DamagingWay(camera.port, damage)
    try:
        with rtsp_hub(f"rtsp://127.0.0.1:{way.port}{path}", wish_hz=None) as hub:
            hub.until(lambda seen: seen["received"] > 150, "pictures come all the same", within_sec=60)
            assert (hub.seen["restarts"], hub.seen["failures"]) == (0, 0)
            assert hub.worst_lag_ms < 250
    finally:
        way.close()


def test_a_child_may_not_take_all_memory_there_is(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/jpeg"), wish_hz=10) as hub:
        limits = Path(f"/proc/{hub.until_frames()['pid']}/limits").read_text()
        assert f"Max address space         {MEMORY_BYTES}" in limits


def test_pictures_that_turn_out_too_large_are_not_decoded(camera: RtspServer) -> None:
    """As of a camera that says of its video what is not so."""
    connected = Camera(camera.url("/h264"), 640 * 480)
    connected.decoder.options = {"max_pixels": str(640 * 480 - 1)}
    packets = [packet for _, packet in zip(range(30), connected.packets(), strict=False)]
    assert [packet.decode(connected.decoder) for packet in packets] == [[]] * 30
    connected.close()


def test_a_running_camera_takes_no_more_and_more_files(camera: RtspServer) -> None:
    with rtsp_hub(camera.url("/h264"), wish_hz=10) as hub:
        files = hub.until_frames()["files"]
        for restarts in (1, 2):
            os.kill(hub.until_frames()["pid"], signal.SIGKILL)
            hub.until(lambda seen, count=restarts: seen["restarts"] == count, "another one runs")
        assert hub.until_frames()["files"] == files


def test_the_server_pulls_the_rtsp_cameras_that_the_operator_lists(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    with rtsp_server("--login", f"me:{PASSWORD}") as camera:
        addresses = [camera.url(path, f"me:{QUOTED}") for path in ("/h264", "/jpeg")]
        config.write_text(f"[imageserver]\npull = {addresses}\n")
        with running_server("--config", str(config)) as server:
            until(lambda: len(server.streams()) == 2, "both are live", within_sec=20)
            until(
                lambda: all(4.5 < stream["rate_hz"] < 5.5 for stream in server.streams().values()),
                "frames come, at the idle rate",
                within_sec=20,
            )
            streams = server.streams()
            assert set(streams) == {"pull-1", "pull-2"}
            for stream in streams.values():
                assert (stream["via"], stream["media_type"], stream["size_wh"]) == ("pull", "image/jpeg", [640, 480])
                assert stream["refused"] == {}
            metrics = server.get("/metrics")
            assert 'imageserver_child_restarts_total{child="rtsp-1"} 0' in metrics
            assert "pull-1" not in metrics
            camera.kill()
            until(lambda: not server.streams(), "both have ended")
            assert server.stop() == 0
            assert "geheim" not in "".join(server.log)


def test_cameras_that_are_listed_do_not_delay_the_stop(camera: RtspServer) -> None:
    with scripted_camera(lambda request, count: slept(60) and None) as silent:
        urls = [camera.url("/h264"), f"rtsp://127.0.0.1:{silent.port}/x", "rtsp://127.0.0.1:1/x"]
        with running_server(*(option for url in urls for option in ("--pull", url))) as server:
            until(lambda: server.streams(), "one is live", within_sec=20)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 3
