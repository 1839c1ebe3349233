"""The simulator as a user starts it, against the real server."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from peers import need
from running import SRC, running_server, until

need("opencv")

from client_sim.__main__ import client_names, devices, main, picture_names  # noqa: E402
from client_sim.camera import LOGIN_EVENT, Camera  # noqa: E402
from client_sim.connection import Ack, Closed, Event  # noqa: E402
from client_sim.options import make_parser  # noqa: E402
from client_sim.protocol3 import Protocol3  # noqa: E402
from client_sim.protocol4 import Protocol4  # noqa: E402
from client_sim.sources import Synthetic, open_sources, take_image  # noqa: E402
from client_sim.tcp_camera import FORMATS  # noqa: E402

PROTOCOLS = {3: Protocol3, 4: Protocol4}


@pytest.fixture(scope="module")
def server():
    """One for all tests here, which checks passwords."""
    with running_server("--auth") as running:
        yield running


@pytest.fixture(scope="module")
def open_server():
    """One that takes cameras which cannot log in, and asks for as many frames as they have."""
    with running_server("--tcp-port", "0", "--idle-rate", "60") as running:
        yield running


def tcp_address(server):
    said = until(lambda: re.search(r"plain TCP are taken on (\S+)", "".join(server.log)), "it says where")
    return said[1]


def all_streams(server, user, password):
    """What the server tells this user of the streams, of those that have ended too."""
    return server.get("/api/v1/streams", server.token(user, password))["items"]


def simulate(server, *options, password="pass1"):
    """Run it in this process; its exit status."""
    return main(["--server", server.url, "--password", password, "--size", "160x120", "--duration", "0.6", *options])


@pytest.mark.parametrize("transport", ["polling", "websocket", "upgrade"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_it_streams_over_every_way_in(server, capfd, protocol, transport):
    options = ("--protocol", str(protocol), "--transport", transport, "--rate", "20", "--clients", "2", "--json")
    options += ("--duration", "2")  # time for 80 frames, so that a busy machine manages the few below
    status = simulate(server, *options)
    said, complaints = capfd.readouterr()
    figures = json.loads(said)
    assert (status, figures["well"], complaints) == (0, True, "")
    assert figures["frames"] >= 12
    assert figures["transports"] == {"polling" if transport == "polling" else "websocket": 2}
    assert figures["logins"] == figures["connections"] == 2
    assert 0 < figures["ack_p50_ms"] <= figures["ack_p99_ms"]


def test_the_server_has_what_the_simulator_says_it_has(server, capsys):
    simulate(server, "--user", "user2", "--json", password="pass2")
    figures = json.loads(capsys.readouterr().out)
    (stream,) = all_streams(server, "user2", "pass2")
    assert (stream["frames"], stream["bytes"]) == (figures["frames"], figures["bytes"])
    assert (stream["size_wh"], stream["media_type"]) == ([160, 120], "image/jpeg")


def test_several_clients_of_a_user_are_streams_of_their_own(server):
    assert simulate(server, "--user", "Alice", "--clients", "3", password="123") == 0
    assert {stream["name"] for stream in all_streams(server, "Alice", "123")} == {"Alice", "Alice~2", "Alice~3"}


def run_sim(capfd, *options):
    """What it says in the end, where all went well."""
    status = main([*options, "--size", "160x120", "--json"])
    said, complaints = capfd.readouterr()
    figures = json.loads(said)
    assert (status, figures["well"], complaints) == (0, True, ""), said
    return figures


def ended_streams(server, via):
    """Those that came this way, and have gone."""
    items = [item for item in server.get("/api/v1/streams")["items"] if item["via"] == via]
    return items if not any(item["live"] for item in items) else []


@contextmanager
def streaming(*arguments, frames=4):
    """The first of the cameras that these options ask for, when it has sent so many; all say goodbye at the end."""
    options = make_parser().parse_args([*arguments, "--size=160x120", "--rate=20"])
    with open_sources(options.source, picture_names(options), options.size) as sources:
        cameras = devices(options, sources)
        threads = [threading.Thread(target=camera.run) for camera in cameras]
        for thread in threads:
            thread.start()
        try:
            until(lambda: all(camera.figures.frames >= frames for camera in cameras), "frames are sent")
            yield cameras[0]
        finally:
            for camera in cameras:
                camera.stop()
            for thread in threads:
                thread.join(5)
                assert not thread.is_alive()


def test_it_streams_over_tcp(open_server, capfd):
    figures = run_sim(capfd, "--via=tcp", "--tcp", tcp_address(open_server), "--duration=1", "--rate=10")
    assert (figures["via"], figures["format"], figures["gzip"]) == ("tcp", "!BI", 9)
    assert (figures["transports"], figures["acknowledged"]) == ({"tcp": 1}, False)
    assert figures["frames"] >= 4


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("layout", FORMATS)
def test_the_server_has_every_frame_that_was_sent_over_tcp_in_each_format(open_server, layout, level):
    way = ("--via=tcp", "--tcp", tcp_address(open_server))
    with streaming(*way, "--tcp-format", layout, "--gzip", str(level)) as camera:
        pass
    stream = until(lambda: ended_streams(open_server, "tcp"), "the goodbye has come")[-1]
    assert (stream["frames"], stream["bytes"]) == (camera.figures.frames, camera.figures.image_bytes)
    assert (stream["size_wh"], stream["media_type"], stream["refused"]) == ([160, 120], "image/bmp", {})
    assert not camera.figures.errors


def test_several_cameras_of_several_connections_are_streams_of_their_own(capfd):
    with running_server("--tcp-port", "0") as server:
        options = ("--cameras=3", "--camera-id=250", "--clients=2", "--rate=10", "--duration=1.5")
        figures = run_sim(capfd, "--via=tcp", "--tcp", tcp_address(server), *options)
        streams = until(lambda: ended_streams(server, "tcp"), "the goodbye has come")
    assert figures["connections"] == 2
    assert {stream["name"] for stream in streams} == {
        *("tcp-1", "tcp-1~cam251", "tcp-1~cam252", "tcp-2", "tcp-2~cam251", "tcp-2~cam252")
    }


@pytest.mark.parametrize(
    "variant",
    [
        ("--body=jpeg",),
        ("--body=jpeg", "--keep-alive"),
        ("--body=bson",),
        ("--body=bson", "--bson-frame=text", "--header=Content-Type: application/bson"),
        *(
            (f"--pickle-protocol={protocol}", f"--pickle-shape={shape}", f"--pickle-numpy={numpy}")
            for protocol in (2, 3, 4, 5)
            for shape, numpy in (("N", 2), ("Nx1", 1))
        ),
        *((f"--header={odd}",) for odd in ("Content-Enconded: b", "Content-Encoding: b", "Content: B")),
        ("--register=2", "--register-path=/server/", "--register-type=application/json"),
        ("--register=2", "--late=0.5"),
    ],
    ids=" ".join,
)
def test_it_is_pulled_as_every_generation_answers(open_server, variant):
    with streaming("--via=pull", "--server", open_server.url, *variant) as camera:
        (name,) = until(
            lambda: [name for name, item in open_server.streams().items() if item["via"] == "pull"], "it is live"
        )
        stream = until(lambda: (item := open_server.streams()[name])["frames"] >= 4 and item, "its frames are there")
        assert (stream["size_wh"], stream["media_type"], stream["refused"]) == ([160, 120], "image/jpeg", {})
    assert camera.figures.registrations == (2 if "--register=2" in variant else 1)
    assert not camera.figures.errors
    until(lambda: ended_streams(open_server, "pull"), "the server has noticed")


def test_it_is_pulled(open_server, capfd):
    figures = run_sim(capfd, "--via=pull", "--server", open_server.url, "--duration=2", "--rate=10")
    assert (figures["via"], figures["body"], list(figures["transports"])) == ("pull", "pickle", ["http"])
    assert (figures["registrations"], figures["acknowledged"]) == (1, False)
    assert figures["frames"] >= 3


def test_several_pulled_ones_are_streams_of_their_own(capfd):
    with running_server() as server:
        run_sim(capfd, "--via=pull", "--server", server.url, "--duration=2", "--clients=3")
        streams = until(lambda: ended_streams(server, "pull"), "the server has noticed")
    assert {stream["name"] for stream in streams} == {"pull-1", "pull-2", "pull-3"}


def test_a_pulled_one_is_asked_no_more_often_than_the_server_wants(capfd):
    with running_server("--idle-rate", "2") as server:
        figures = run_sim(capfd, "--via=pull", "--server", server.url, "--duration=2.5", "--rate=50")
    assert figures["frames"] <= 7


@pytest.mark.parametrize(
    ("via", "complaint", "causes"),
    [
        (
            "tcp",
            "camera: the server closes the connection; tries again in 5 s (1 of 10)\n",
            {"closed_by_server": 1},
        ),
        (
            "pull",
            "camera: the server will not pull it: 200 'Can not make a connection'\n",
            {"registration_refused": 1},
        ),
    ],
)
def test_a_server_that_does_not_let_it_in_is_said_in_words_and_by_the_status(capfd, via, complaint, causes):
    with running_server("--auth", "--tcp-port", "0") as server:
        way = ("--tcp", tcp_address(server)) if via == "tcp" else ("--server", server.url)
        assert main(["--via", via, *way, "--duration=1.5", "--size=160x120", "--json"]) == 1
    said, complaints = capfd.readouterr()
    assert complaints == complaint
    assert json.loads(said)["errors"] == causes


@pytest.mark.parametrize("via", ["tcp", "pull"])
def test_ctrl_c_in_the_middle_of_the_work_ends_the_others_too(open_server, via):
    way = ("--tcp", tcp_address(open_server)) if via == "tcp" else ("--server", open_server.url)
    command = [sys.executable, "-m", "client_sim", "--via", via, *way, "--clients=3", "--rate=60"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SRC)}
    )
    with process:
        try:
            until(
                lambda: [s["via"] == via and s["frames"] > 3 for s in open_server.streams().values()] == [True] * 3,
                "they stream",
            )
            process.send_signal(signal.SIGINT)
            said, complaints = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, "")
    assert re.match(r"\d+ frames sent in \d+\.\d s: 3 of 3 streaming, \d+\.\d frames/s sent", said)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_wrong_password_is_said_in_one_line_and_by_the_status(server, capfd, protocol):
    assert simulate(server, "--protocol", str(protocol), "--json", password="wrong") == 1
    said, complaints = capfd.readouterr()
    assert complaints == "user1: the server refuses this user and password\n"
    assert json.loads(said)["errors"] == {"login_refused": 1}


def test_the_password_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("IMAGESERVER_PASSWORD", "456")
    assert main(["--server", server.url, "--user", "Bob", "--duration", "0.5", "--size", "160x120"]) == 0


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_server_that_is_not_there_is_said_in_words_and_by_the_status(capfd, protocol, transport):
    options = ["--server", "http://127.0.0.1:1", "--duration", "0.5", "--size", "160x120"]
    assert main([*options, "--protocol", str(protocol), "--transport", transport]) == 1
    said, complaints = capfd.readouterr()
    assert complaints == (
        "user1: can't connect to http://127.0.0.1:1: Connection refused; tries again in 5 s (1 of 10)\n"
    )
    assert "0 of 1 streaming" in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--server", "somewhere"], "'somewhere', expected http://HOST:PORT"),
        (["--server", "http://host:8080/path"], "expected http://HOST:PORT"),
        (["--size", "640"], "'640', expected WIDTHxHEIGHT"),
        (["--size", "0x480"], "expected WIDTHxHEIGHT"),
        (["--rate", "0"], "'0', expected a number above 0"),
        (["--rate", "nan"], "expected a number above 0"),
        (["--duration", "-1"], "expected a number above 0"),
        (["--clients", "0"], "'0', expected a whole number from 1"),
        (["--quality", "101"], "'101', expected a whole number from 1 to 100"),
        (["--protocol", "5"], "invalid choice"),
        (["--transport", "carrier pigeon"], "invalid choice"),
        (["--source", "/nowhere.mp4"], "can't open /nowhere.mp4"),
        (["--via", "carrier pigeon"], "invalid choice"),
        (["--via", "tcp"], "--via tcp needs --tcp HOST:PORT"),
        (["--via", "tcp", "--tcp", "9000"], "'9000', expected HOST:PORT"),
        (["--via", "tcp", "--tcp", "host:0"], "'host:0', expected HOST:PORT"),
        (["--via", "tcp", "--tcp", "h:1", "--user", "Alice"], "--user is for --via socketio"),
        (["--via", "tcp", "--tcp", "h:1", "--server", "http://h:1"], "--server is for --via socketio and pull"),
        (["--via", "tcp", "--tcp", "h:1", "--tcp-format", "HI"], "invalid choice"),
        (["--via", "tcp", "--tcp", "h:1", "--gzip", "10"], "invalid choice"),
        (["--via", "tcp", "--tcp", "h:1", "--camera-id", "256"], "'256', expected a whole number from 0 to 255"),
        (["--via", "tcp", "--tcp", "h:1", "--camera-id", "250", "--cameras", "7"], "a camera's number is at most 255"),
        (["--tcp", "h:1"], "--tcp is for --via tcp"),
        (["--late", "1"], "--late is for --via pull"),
        (["--via", "pull", "--late", "-1"], "expected a number above 0"),
        (["--via", "pull", "--pickle-protocol", "1"], "invalid choice"),
        (["--via", "pull", "--header", "odd"], "'odd', expected NAME: VALUE"),
        (["--via", "pull", "--header", "a: b\r\nc: d"], "expected NAME: VALUE"),
        (["--via", "pull", "--listen-port", "65536"], "'65536', expected a whole number from 0 to 65535"),
        (["--via", "pull", "--listen-port", "65535", "--clients", "2"], "a port is at most 65535"),
        (["--via", "pull", "--no-port", "--clients", "2"], "--no-port is for one client"),
    ],
)
def test_what_it_cannot_do_is_one_line_and_status_2(capfd, options, complaint):
    with pytest.raises(SystemExit) as ended:
        main([*options, "--duration", "1"] if "--duration" not in options else options)
    assert ended.value.code == 2
    complaints = capfd.readouterr().err.splitlines()
    assert len(complaints) == 2, "the usage and what is wrong"
    assert complaint in complaints[1]


def test_ctrl_c_ends_it_with_its_figures_and_status_0(server):
    token = server.token("Bob", "456")
    command = [sys.executable, "-m", "client_sim", "--server", server.url, "--size", "160x120", "--user", "Bob"]
    environment = os.environ | {"PYTHONPATH": str(SRC), "IMAGESERVER_PASSWORD": "456"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with process:
        try:
            until(lambda: server.streams(token).get("Bob", {}).get("frames"), "it streams")
            process.send_signal(signal.SIGINT)
            said, complaints = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, complaints) == (0, "")
    assert "1 of 1 streaming" in said
    assert "refused: none" in said


@pytest.mark.parametrize("protocol", [3, 4])
def test_it_keeps_to_the_servers_rate_so_that_nothing_is_refused(capsys, protocol):
    with running_server("--rate", "5") as slow_server:
        status = simulate(slow_server, "--rate", "50", "--duration", "2.5", "--json", "--protocol", str(protocol))
        figures = json.loads(capsys.readouterr().out)
    assert (status, figures["refused"]) == (0, {})
    assert figures["frames"] <= 14
    assert figures["wanted_hz"] == [5, 5]


def test_it_sends_no_more_than_the_server_wants_while_nobody_watches(capsys):
    with running_server("--idle-rate", "2") as idle_server:
        status = simulate(idle_server, "--rate", "50", "--duration", "2.5", "--json", "--clients", "2")
        figures = json.loads(capsys.readouterr().out)
    assert (status, figures["refused"], figures["wanted_hz"]) == (0, {}, [2, 2])
    assert figures["frames"] <= 2 * 7


@pytest.mark.parametrize("transport", ["polling", "websocket", "upgrade"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_it_comes_back_after_the_server_did(protocol, transport):
    source = Synthetic("user1", (160, 120))
    with running_server() as server:
        url = server.url
        camera = Camera(
            "user1",
            "user1",
            "pass1",
            lambda deliver: PROTOCOLS[protocol](url, transport, deliver),
            lambda: take_image(source, "user1", 80),
            rate_hz=50,
            reconnect_sec=0.5,
        )
        thread = threading.Thread(target=camera.run)
        thread.start()
        try:
            until(lambda: camera.figures.frames > 3, "frames are taken")
            server.process.kill()
            until(lambda: not camera.streaming, "the camera notices")
            with running_server("-p", str(server.port)):
                frames = camera.figures.frames
                until(lambda: camera.figures.frames > frames + 3, "frames are taken again")
                camera.stop()
                thread.join(10)
        finally:
            camera.stop()
    assert not thread.is_alive()
    assert camera.figures.logins == 2


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_connection_tells_of_events_acks_and_that_it_was_dismissed(server, protocol, transport):
    inbox = queue.SimpleQueue()
    connection = PROTOCOLS[protocol](server.url, transport, inbox.put)
    connection.emit("receiveImage", b"too early", ack=True)
    news = [inbox.get(timeout=10), inbox.get(timeout=10)]
    assert Ack(({"accepted": False, "seq": 1, "reason": "not_logged_in"},)) in news
    assert ("serverError", "not_logged_in") in [(n.name, n.arguments[0]) for n in news if isinstance(n, Event)]
    connection.emit("authenticate", "user1", "wrong", LOGIN_EVENT)
    assert inbox.get(timeout=10) == Event(LOGIN_EVENT, (False,))
    assert inbox.get(timeout=10) == Closed("the server disconnects this client", dismissed=True)
    with pytest.raises(ConnectionError):
        connection.emit("receiveImage", b"too late")
    connection.close()
    connection.close()


@pytest.mark.parametrize("protocol", [3, 4])
def test_saying_goodbye_ends_the_stream_at_once(server, protocol):
    inbox = queue.SimpleQueue()
    connection = PROTOCOLS[protocol](server.url, "polling", inbox.put)
    connection.emit("authenticate", "Bob", "456", LOGIN_EVENT)
    assert inbox.get(timeout=10) == Event(LOGIN_EVENT, (True,))
    token = server.token("Bob", "456")
    assert "Bob" in server.streams(token)
    connection.close()
    until(lambda: "Bob" not in server.streams(token), "the stream has ended", within_sec=3)


def test_frames_are_labelled_with_the_user_and_a_number():
    assert client_names("user1", 3) == ["user1", "user1 #2", "user1 #3"]
