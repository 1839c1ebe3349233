"""The API as docs/protocol.md has it, asked from outside."""

import http.client
import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from phones import Phone
from pictures import picture
from running import RunningServer, running_server, until


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


@pytest.fixture(scope="module")
def open_server() -> Iterator[RunningServer]:
    with running_server("--rate", "0") as running:
        yield running


def answer_to(server: RunningServer, method: str, path: str, body: str | None = None, **headers: str) -> Any:
    """Status, headers and JSON of the answer to a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, json.loads(content)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_is_open_to_everybody(server: RunningServer, path: str) -> None:
    assert server.get(path) == {"status": "ok"}


@pytest.mark.parametrize("path", ["/api/v1/streams", "/metrics"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer nonsense", "Basic QWxpY2U6MTIz", "Bearer " + "x" * 5000]
)
def test_nothing_is_shown_without_a_login(server: RunningServer, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    status, answer_headers, content = answer_to(server, "GET", path, **headers)
    assert (status, content["error"]["code"]) == (401, "not_logged_in")
    assert answer_headers["WWW-Authenticate"] == "Bearer"


def test_a_stream_is_described_while_it_lives_and_after_its_end(server: RunningServer) -> None:
    token = server.token("Bob", "456")
    with Phone(server.url) as phone:
        phone.log_in("Bob", "456")
        for image in (picture(), picture(width=80), b"no image"):
            phone.send(image)
        (stream,) = server.get("/api/v1/streams", token)["items"]
        assert 0 <= stream.pop("age_ms") < 5_000
        assert stream == {
            "name": "Bob",
            "user": "Bob",
            "via": "socketio",
            "live": True,
            "frames": 2,
            "bytes": len(picture()) + len(picture(width=80)),
            "refused": {"not_an_image": 1},
            "dropped": {},
            "rate_hz": 0.0,
            "wanted_hz": 60.0,
            "size_wh": [80, 48],
            "media_type": "image/jpeg",
        }
    until(lambda: not server.streams(token), "the stream ends")
    (stream,) = server.get("/api/v1/streams", token)["items"]
    assert (stream["live"], stream["frames"]) == (False, 2)


def test_a_user_sees_their_own_streams_only(server: RunningServer) -> None:
    with Phone(server.url) as phone:
        phone.log_in("user1", "pass1")
        assert list(server.streams(server.token("user1", "pass1"))) == ["user1"]
        assert server.streams(server.token("user2", "pass2")) == {}


@pytest.mark.parametrize(
    "body",
    [{"username": "Alice", "password": "1234"}, {"username": "Nobody", "password": "123"}, {"username": "Alice"}, {}],
)
def test_a_wrong_login_does_not_tell_what_was_wrong(server: RunningServer, body: dict[str, str]) -> None:
    assert server.post("/api/v1/token", body) == (
        401,
        {"error": {"code": "not_logged_in", "message": "the name or the password is wrong"}},
    )


@pytest.mark.parametrize(
    "body",
    ["", "[]", "5", "{", '"text"', "null", "[" * 8_000, '{"username":"user1","password":"pass1","x":' + "[" * 3_000],
    ids=lambda body: body[:20],
)
def test_a_login_that_is_no_object_is_a_bad_request(server: RunningServer, body: str) -> None:
    status, _, content = answer_to(server, "POST", "/api/v1/token", body, **{"Content-Type": "application/json"})
    assert (status, content["error"]["code"]) == (400, "bad_arguments")
    assert not [line for line in server.log if "Traceback" in line]


def test_a_large_body_is_refused(server: RunningServer) -> None:
    body = json.dumps({"username": "Alice", "password": "x" * 20_000})
    status, _, content = answer_to(server, "POST", "/api/v1/token", body, **{"Content-Type": "application/json"})
    assert status in (400, 413), content


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/api/v1/token", 405),
        ("DELETE", "/api/v1/streams", 405),
    ],
)
def test_errors_are_json_with_a_code_and_a_message(server: RunningServer, method: str, path: str, status: int) -> None:
    found, headers, content = answer_to(server, method, path)
    assert found == status
    assert set(content["error"]) == {"code", "message"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_without_accounts_everybody_sees_everything(open_server: RunningServer) -> None:
    with Phone(open_server.url) as phone:
        phone.log_in("anybody at all", "")
        stream = open_server.streams()["anybody at all"]
        assert stream["wanted_hz"] is None, "no limit, no wish"
        assert "rate" not in phone.send(picture())
    assert any("open to everybody" in line for line in open_server.log)


def test_metrics_count_what_happened_and_name_nobody(open_server: RunningServer) -> None:
    with Phone(open_server.url) as phone:
        phone.send(picture())
        phone.log_in("Somebody", "")
        phone.send(picture())
        phone.send(b"no image")
        metrics = open_server.get("/metrics")
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line and not line.startswith("#"))
    assert float(values["imageserver_streams"]) >= 1
    assert float(values["imageserver_frames_total"]) >= 1
    assert float(values["imageserver_frames_before_login_total"]) == 1
    assert float(values['imageserver_refused_frames_total{reason="not_an_image"}']) == 1
    assert float(values["process_resident_memory_bytes"]) > 1e6
    assert "Somebody" not in metrics


def test_a_token_of_another_server_is_worth_nothing(server: RunningServer, open_server: RunningServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        server.get("/api/v1/streams", open_server.token("Alice", ""))
    assert error.value.code == 401
