"""Logging in and sending frames over Socket.IO, as docs/protocol.md has it, against the real server."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import socketio.exceptions

from phones import Phone
from pictures import picture
from raw_engineio import PING, RawWebSocket, WebSocketClosed
from running import RunningServer, running_server, until

TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": None}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """With `-a` and the demo accounts."""
    with running_server("-a") as running:
        yield running
        assert running.stop() == 0
        assert not [line for line in running.log if "Traceback" in line or "ERROR" in line], "".join(running.log)


@pytest.fixture
def streams(server: RunningServer) -> Callable[[], dict[str, Any]]:
    """Alice's live streams, as she sees them; none are left over from another test."""
    token = server.token("Alice", "123")
    until(lambda: not server.streams(token), "the streams of former tests end")
    return lambda: server.streams(token)


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
def test_a_client_logs_in_and_its_frames_are_numbered_and_acknowledged(
    server: RunningServer, streams, transports: list[str] | None
) -> None:
    with Phone(server.url, transports) as phone:
        assert phone.log_in() is True
        acks = [phone.send(picture(extension)) for extension in (".jpg", ".png", ".webp", ".bmp")]
        assert acks == [{"accepted": True, "seq": seq, "rate": 5.0} for seq in (1, 2, 3, 4)]
        assert phone.named("setRate") == [(5.0,)], "nobody watches"
        assert streams()["Alice"]["frames"] == 4


def test_frames_are_refused_and_acknowledged_before_the_login(server: RunningServer) -> None:
    with Phone(server.url) as phone:
        assert phone.send(picture()) == {"accepted": False, "seq": 1, "reason": "not_logged_in"}
        phone.send(picture())
        assert phone.error_codes() == ["not_logged_in"], "said once a second, not once a frame"
        phone.log_in()
        assert phone.send(picture())["seq"] == 3, "refused frames are counted"


WRONG_LOGINS: list[tuple[object, object]] = [
    ("Alice", "wrong"), ("alice", "123"), ("Nobody", "123"), ("", ""), (" Alice", "123"), ("tcp-1", "x"), (5, None),
    ({}, []), ("Alice", "x" * 1025),
]  # fmt: skip


def test_a_wrong_login_is_told_false_and_disconnected_after_two_seconds(server: RunningServer) -> None:
    phones = []
    for username, password in WRONG_LOGINS:
        phones.append((Phone(server.url), time.monotonic()))
        assert phones[-1][0].log_in(username, password) is False, (username, password)
    for phone, began in phones:
        assert phone.disconnected.wait(10)
        assert time.monotonic() - began > 1.5
    assert time.monotonic() - phones[-1][1] < 4


def test_further_wrong_logins_do_not_prolong_the_two_seconds(server: RunningServer) -> None:
    with Phone(server.url) as phone:
        began = time.monotonic()
        while not phone.disconnected.wait(0.5):
            phone.client.emit("authenticate", ("Bob", "wrong", "onAuthentication"))
            assert time.monotonic() - began < 6, "it is still connected"


#: What a client without an account may try in order to stay, over and over.
WAYS_TO_STAY = {
    "joining again": ["40"],
    "joining and leaving at once": ["40", "41"],
    "leaving and joining": ["41", "40"],
    "guessing as it joins": ['40{"username":"user2","password":"wrong"}'],
    "joining, guessing, leaving": ["40", '42["authenticate","user2","wrong","in"]', "41"],
}


def test_whatever_a_client_does_without_logging_in_it_is_cut_after_ten_seconds() -> None:
    with running_server("-a") as server, ThreadPoolExecutor(len(WAYS_TO_STAY)) as threads:

        def stay(packets: list[str]) -> float:
            with RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") as client:
                began = time.monotonic()
                client.socket.settimeout(0.7)
                while time.monotonic() - began < 15:
                    try:
                        for packet in packets:
                            client.send(packet)
                        while client.receive_frame() is not None:
                            pass
                        break
                    except TimeoutError:
                        pass
                    except OSError:
                        break
                return time.monotonic() - began

        stayed = dict(zip(WAYS_TO_STAY, threads.map(stay, WAYS_TO_STAY.values()), strict=True))
    assert all(1.5 < seconds < 13 for seconds in stayed.values()), stayed  # a refused login may be cut sooner


def test_too_many_guesses_as_clients_join_end_their_connections() -> None:
    with running_server("-a") as server:
        clients = [RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") for _ in range(60)]
        for number, client in enumerate(clients):
            client.send(f'40{{"username":"nobody{number}","password":"wrong"}}')
        ended = 0
        for client in clients:
            assert str(client.receive()).startswith("0{")
            if "too many" in str(client.receive()):
                ended += 1
                assert client.receive() == WebSocketClosed(None)
            client.close()
    assert ended > 30


def test_who_was_logged_in_leaves_and_joins_again_has_time_for_a_login(server: RunningServer) -> None:
    with RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") as client:
        for wait_sec, packets in ((0, ["40"]), (10.2, ["41", "40"])):
            time.sleep(wait_sec)
            for packet in packets:
                client.send(packet)
            time.sleep(0.3)
            client.send('42["authenticate","Bob","456","loggedIn"]')
            while (message := client.receive()) != '42["loggedIn",true]':
                assert not isinstance(message, WebSocketClosed)
        client.send('421["receiveImage",1]')
        while not str(message := client.receive()).startswith("431["):
            assert not isinstance(message, WebSocketClosed)


def test_the_answer_to_a_login_goes_to_that_client_only(server: RunningServer) -> None:
    with Phone(server.url) as bystander, Phone(server.url) as phone:
        phone.log_in()
        bystander.log_in("Bob", "456", "mine")
        assert [name for name, _ in bystander.events if name == "onAuthentication"] == []


@pytest.mark.parametrize(
    "event", ["connect", "disconnect", "message", "serverError", "__proto__", "a b", "é", "", "x" * 65, 7, None]
)
def test_a_callback_that_a_client_may_not_choose_is_refused_by_name(server: RunningServer, event: object) -> None:
    with Phone(server.url) as phone:
        phone.client.emit("authenticate", ("Alice", "123", event))
        until(lambda: phone.error_codes() == ["bad_event_name"], "the refusal")
        assert phone.send(picture())["reason"] == "not_logged_in"
        assert {name for name, _ in phone.events} == {"serverError"}


@pytest.mark.parametrize("arguments", [(), ("Alice",), ("Alice", "123"), ("Alice", "123", "e", "more")])
def test_a_login_with_the_wrong_number_of_arguments_is_refused(
    server: RunningServer, arguments: tuple[str, ...]
) -> None:
    with Phone(server.url) as phone:
        phone.client.emit("authenticate", arguments)
        until(lambda: phone.error_codes() == ["bad_arguments"], "the refusal")


def test_a_second_login_as_the_same_user_changes_nothing(server: RunningServer, streams) -> None:
    with Phone(server.url) as phone:
        phone.log_in()
        phone.send(picture())
        assert phone.log_in() is True
        assert phone.send(picture())["seq"] == 2
        assert list(streams()) == ["Alice"]


def test_a_login_as_another_user_ends_the_old_stream(server: RunningServer, streams) -> None:
    with Phone(server.url) as phone:
        phone.log_in()
        phone.send(picture())
        assert phone.log_in("Bob", "456") is True
        assert phone.send(picture())["seq"] == 2, "frames are numbered by connection"
        assert streams() == {}
        assert list(server.streams(server.token("Bob", "456"))) == ["Bob"]


def test_a_refused_second_login_changes_nothing(server: RunningServer, streams) -> None:
    with Phone(server.url) as phone:
        phone.log_in()
        assert phone.log_in("Bob", "wrong") is False
        assert not phone.disconnected.wait(2.5)
        assert phone.send(picture())["accepted"] is True
        assert list(streams()) == ["Alice"]


def test_two_phones_of_a_user_are_two_streams_and_one_takes_nothing_of_the_other_with_it(
    server: RunningServer, streams
) -> None:
    with Phone(server.url) as phone:
        phone.log_in()
        with Phone(server.url, ["polling"]) as tablet:
            tablet.log_in()
            tablet.send(picture())
            assert sorted(streams()) == ["Alice", "Alice~2"]
        until(lambda: list(streams()) == ["Alice"], "the tablet's stream ends")
        assert phone.send(picture())["accepted"] is True
        with Phone(server.url) as third:
            third.log_in()
            assert sorted(streams()) == ["Alice", "Alice~2"], "the lowest free number"


SILENT_PHONE = """
import sys
sys.path[:0] = ["tests", "src"]
from phones import Phone
phone = Phone(sys.argv[1], [sys.argv[2]])
phone.log_in()
print("in", flush=True)
sys.stdin.read()
"""


def test_a_phone_that_lost_its_network_comes_back_under_its_own_name(server: RunningServer, streams) -> None:
    silent = subprocess.Popen(
        [sys.executable, "-c", SILENT_PHONE, server.url, "websocket"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert silent.stdout is not None
        assert silent.stdout.readline() == "in\n"
        silent.send_signal(
            signal.SIGSTOP
        )  # its machine acknowledges bytes, and it says nothing: a dead peer, seen from here
        with Phone(server.url) as phone:
            began = time.monotonic()
            assert phone.log_in() is True
            assert time.monotonic() - began < 5
            assert list(streams()) == ["Alice"]
            assert phone.send(picture())["accepted"] is True
    finally:
        silent.kill()
        silent.communicate()


def test_thirty_logins_of_a_user_at_once_ask_an_older_connection_for_one_sign_of_life(server: RunningServer) -> None:
    def logged_in_without_waiting() -> RawWebSocket:
        client = RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket")
        client.send("40")
        client.send('42["authenticate","user2","pass2","in"]')
        return client

    with logged_in_without_waiting() as older:
        while older.receive() != '42["in",true]':
            pass
        others = [logged_in_without_waiting() for _ in range(30)]
        asked = 0
        while (frame := older.receive_frame()) is not None:  # until it is cut, as it says nothing
            asked += frame[0] == PING
        assert asked == 1
        for other in others:
            other.close()


def test_a_client_may_log_in_as_it_connects(server: RunningServer, streams) -> None:
    with Phone(server.url, auth={"username": "Alice", "password": "123"}) as phone:
        assert phone.send(picture())["accepted"] is True
        assert list(streams()) == ["Alice"]
    with Phone(server.url, auth={"token": server.token("Alice", "123")}) as phone:
        assert phone.send(picture())["accepted"] is True


@pytest.mark.parametrize(
    "auth",
    [
        {"username": "Alice", "password": "1234"},
        {"token": "nonsense"},
        {"token": 5},
        {"user": "Alice"},
        {"username": ["Alice"]},
    ],
)
def test_a_refused_login_at_connecting_is_a_connect_error(server: RunningServer, auth: object) -> None:
    with pytest.raises(socketio.exceptions.ConnectionError):
        Phone(server.url, auth=auth)


def test_a_client_that_goes_before_it_logs_in_leaves_nothing(server: RunningServer, streams) -> None:
    with Phone(server.url):
        pass
    assert streams() == {}


def test_a_client_that_never_logs_in_is_cut_after_ten_seconds(server: RunningServer) -> None:
    with Phone(server.url) as phone:
        began = time.monotonic()
        assert phone.disconnected.wait(15)
        assert 9 < time.monotonic() - began < 13


def test_a_page_of_another_host_may_not_connect(server: RunningServer) -> None:
    with pytest.raises(socketio.exceptions.ConnectionError):
        Phone(server.url, headers={"Origin": "https://evil.example"})


def test_a_page_of_this_host_may_connect_whatever_the_scheme_because_a_proxy_may_end_tls(server: RunningServer) -> None:
    with Phone(server.url, headers={"Origin": server.url.replace("http:", "https:")}) as phone:
        assert phone.client.connected
