"""The server's own parts fail: the process that shows the windows, the accounts' database. Cameras go on all the while,
and what failed comes back by itself.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

import peers
from auth.accounts import Account
from auth.passwords import hash_password
from auth.sql_users import SqlUsers
from postgres import Postgres, running_postgres
from probe import probing
from running import RunningServer, running_server, until
from screens import Screen, x_server
from security.outside import Client, Watched
from security.processes import children_of

#: How long the windows' process may get nowhere, and how soon another one is there after its end.
DEADLINE_SEC: Final = 5.0
RESTART_SEC: Final = 4.0
#: A database that says nothing has so long for an answer; a little later the connection to it is cut.
DATABASE_SEC: Final = 5.5
#: What a busy machine may need beside.
SPARE_SEC: Final = 2.0


def counted(server: RunningServer, token: str, name: str) -> float:
    """What /metrics says of the windows, 0 if nothing."""
    found = re.search(rf'^imageserver_{name}{{\w+="display"}} (\S+)$', server.get("/metrics", token), re.M)
    return float(found[1]) if found else 0.0


# -- the process that shows the windows


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    peers.need("opencv", "xvfb", "xdotool", "x11-utils")
    with x_server() as screen:
        yield screen


@pytest.mark.parametrize(
    ("how", "within_sec", "said"),
    [
        (signal.SIGKILL, RESTART_SEC, "display: it was ended by SIGKILL; it is started again in 0.5 s"),
        (
            signal.SIGSTOP,
            DEADLINE_SEC + RESTART_SEC,
            "display: it got nowhere for 5 s; it is started again in 0.5 s",
        ),
    ],
    ids=["killed", "stopped"],
)
def test_cameras_go_on_while_the_windows_process_fails_and_another_takes_its_place(
    screen: Screen, how: signal.Signals, within_sec: float, said: str
) -> None:
    with running_server("-a", "-d", env=screen.env) as server:
        with probing(server.port):
            screen.until_titles("Alice")
            (child,) = children_of(server.process.pid)
            token = server.token("Bob", "456")
            assert counted(server, token, "child_restarts_total") == 0
            watched = Watched(server)
            os.kill(child, how)
            until(lambda: set(children_of(server.process.pid)) - {child}, "another process", within_sec)
            until(lambda: child not in children_of(server.process.pid), "the end of the one that failed", 1)
            if how == signal.SIGSTOP:
                assert watched.elapsed_sec > DEADLINE_SEC - 0.5, "it may be slow for a moment"
            frames = counted(server, token, "child_frames_sent_total")
            until(
                lambda: counted(server, token, "child_frames_sent_total") > frames + 5,
                "the other one takes frames",
                RESTART_SEC,
            )
            screen.until_titles("Alice")
            assert counted(server, token, "child_restarts_total") == 1
            if how == signal.SIGSTOP:
                assert counted(server, token, "child_frames_lost_total") > 0, "what it had in hand"
                assert counted(server, token, "dropped_frames_total") > 0, "what it could not be given"
        watched.assert_log_is_calm(causes=2)
        assert [line.strip().partition("children: ")[2] for line in watched.log if "display" in line] == [said]
        assert server.stop() == 0
        assert children_of(server.process.pid) == []
    screen.until_titles()


# -- the accounts' database


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def server(postgres: Postgres) -> Iterator[RunningServer]:
    """Its accounts are in the database."""
    source = postgres.new_database()
    users = SqlUsers(source)
    users.insert(
        Account(name, password_hash=hash_password(password)) for name, password in (("Alice", "123"), ("Bob", "456"))
    )
    users.close()
    with running_server("-a", env={"IMAGESERVER_USERS": source}) as running:
        yield running


def socketio_login(server: RunningServer, password: str = "456") -> bool:
    """What a login of Bob's over Socket.IO is answered."""
    with Client(server.port, 4, "websocket") as client:
        client.say("42" + json.dumps(["authenticate", "Bob", password, "in"]))
        answer = client.until(lambda packet: isinstance(packet, str) and packet.startswith('42["in"'))
        return bool(json.loads(str(answer)[2:])[1])


def http_login(server: RunningServer, password: str = "456") -> tuple[int, str]:
    """The status of one over HTTP, and the code of its error."""
    status, answer = server.post("/api/v1/token", {"username": "Bob", "password": password})
    return status, answer.get("error", {}).get("code", "")


UNAVAILABLE: Final = 503, "unavailable"


def assert_said_once(watched: Watched) -> None:
    """The log names the trouble and its end, a line each, and shows no secret."""
    log = watched.log
    assert "Traceback" not in "".join(log)
    assert "s3cret" not in "".join(log), "the database's password"
    assert sum("the user database cannot be used, nobody can log in: " in line for line in log) == 1, "".join(log)
    assert sum("the user database can be used again" in line for line in log) == 1, "".join(log)
    database = [line for line in log if "database" in line]
    assert len(database) == 2, "".join(database)
    assert len(log) <= 2 * (watched.elapsed_sec + 2), "".join(log)


def test_a_database_that_has_gone_refuses_logins_at_once_and_no_camera_notices(
    postgres: Postgres, server: RunningServer
) -> None:
    with probing(server.port):
        assert socketio_login(server)
        assert http_login(server)[0] == 200
        watched = Watched(server)
        postgres.stop()
        try:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                began = time.monotonic()
                assert http_login(server) == UNAVAILABLE, "also for who was let in a moment ago"
                assert http_login(server, "wrong") == UNAVAILABLE, "it says nothing about the password"
                assert not socketio_login(server)
                assert time.monotonic() - began < SPARE_SEC, "nobody waits for what is not there"
                assert server.get("/healthz") == {"status": "ok"}
                time.sleep(0.05)
        finally:
            postgres.start()
        until(lambda: http_login(server)[0] == 200, "logins work again", 8 + SPARE_SEC)
        assert socketio_login(server)
        assert http_login(server, "wrong") == (401, "not_logged_in")
    assert_said_once(watched)
    assert server.stop() == 0


def test_a_database_that_hangs_refuses_logins_within_its_deadline_and_no_camera_notices(
    postgres: Postgres, server: RunningServer
) -> None:
    with probing(server.port):
        assert socketio_login(server)
        watched = Watched(server)
        with postgres.frozen():
            began = time.monotonic()
            assert not socketio_login(server)
            took_sec = time.monotonic() - began
            assert DATABASE_SEC - 1 < took_sec < DATABASE_SEC + SPARE_SEC, "it is given its time, and no more"
            began = time.monotonic()
            assert http_login(server) == UNAVAILABLE
            assert time.monotonic() - began < 0.5, "the next one does not wait"
        until(lambda: http_login(server)[0] == 200, "logins work again", 8 + SPARE_SEC)
        assert socketio_login(server)
    assert_said_once(watched)
    assert server.stop() == 0
