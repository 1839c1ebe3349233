"""Requests that a proxy and a server might cut in two different ways are answered by a 400 and the connection's end.

Each is followed by a second request, which an attacker would like to have taken for somebody else's.
"""

import time
from collections.abc import Iterator

import pytest

from probe import probing
from running import RunningServer, running_server
from security.framings import AMBIGUOUS, PATHS, SECOND, post, talk


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


@pytest.mark.parametrize("path", PATHS, ids=bytes.decode)
@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_follows_it(
    server: RunningServer, request_: bytes, path: bytes
) -> None:
    said = talk(server.port, request_.replace(b"%b", path) + SECOND)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert said.count(b"HTTP/1.") == 1, said
    assert b"Traceback" not in said
    assert b".py" not in said


def test_ambiguous_requests_harm_nobody_and_are_said_once_a_second() -> None:
    with running_server("-a") as server:
        began = time.monotonic()
        with probing(server.port) as probe:
            for _ in range(20):
                for request in AMBIGUOUS.values():
                    talk(server.port, request.replace(b"%b", PATHS[0]) + SECOND)
            took_sec = time.monotonic() - began
            figures = probe.stop()
        figures.check()
        token = server.token("Alice", "123")
        assert f"imageserver_bad_requests_total {20 * len(AMBIGUOUS)}.0" in server.get("/metrics", token)
        said = sum("a request was not taken" in line for line in server.log)
        assert 1 <= said <= 1 + took_sec


def test_what_is_clear_is_taken_and_so_is_what_follows_it(server: RunningServer) -> None:
    login = b'{"username":"Alice","password":"123"}'
    for request in (
        post(b"Content-Type: application/json", b"Content-Length: %d" % len(login), body=login),
        post(b"Content-Type: application/json", b"Content-Length: 0%d \t" % len(login), body=login),
        post(
            b"Content-Type: application/json", b"transfer-encoding:chunked",
            body=b"5\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (login[:5], len(login) - 5, login[5:]),
        ),
    ):  # fmt: skip
        said = talk(server.port, request.replace(b"%b", PATHS[0], 1) + SECOND.replace(b"1.1", b"1.0"))
        assert said.count(b"HTTP/1.1 200 ") == 2, said
