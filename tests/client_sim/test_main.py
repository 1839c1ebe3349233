"""The simulator as a user starts it, against the real server."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from peers import need
from running import SRC, running_server, until

need("opencv")

from client_sim.__main__ import client_names, main  # noqa: E402
from client_sim.camera import LOGIN_EVENT, Camera  # noqa: E402
from client_sim.connection import Ack, Closed, Event  # noqa: E402
from client_sim.protocol3 import Protocol3  # noqa: E402
from client_sim.protocol4 import Protocol4  # noqa: E402
from client_sim.sources import Synthetic, take_image  # noqa: E402

PROTOCOLS = {3: Protocol3, 4: Protocol4}


@pytest.fixture(scope="module")
def server():
    """One for all tests here, which checks passwords."""
    with running_server("--auth") as running:
        yield running


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
