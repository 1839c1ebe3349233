"""The API as docs/protocol.md has it, asked from outside."""

import base64
import http.client
import json
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app_process import AppProcess, app_process
from phones import Phone
from pictures import picture
from running import SRC, RunningServer, running_server, until


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


@pytest.fixture(scope="module")
def open_server() -> Iterator[RunningServer]:
    with running_server("--rate", "0") as running:
        yield running


def answer_to(
    server: RunningServer | AppProcess, method: str, path: str, body: str | None = None, **headers: str
) -> Any:
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
            "wanted_hz": 5.0,
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
        assert stream["wanted_hz"] == phone.send(picture())["rate"] == 5.0, "no limit, and nobody watches"
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


# -- the wanted rate


@pytest.fixture
def phone(server: RunningServer) -> Iterator[Phone]:
    """One that streams as Alice, whose name nobody else has."""
    token = server.token("Alice", "123")
    until(lambda: not server.streams(token), "the streams of former tests end")
    with Phone(server.url) as one:
        one.log_in("Alice", "123")
        yield one


def set_rate(server: RunningServer, token: str | None, body: str, name: str = "Alice") -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    status, _, content = answer_to(server, "PUT", f"/api/v1/streams/{name}/rate", body, **headers)
    return status, content


def test_an_owner_caps_the_wanted_rate_and_removes_the_cap(server: RunningServer, phone: Phone) -> None:
    token = server.token("Alice", "123")
    assert set_rate(server, token, '{"hz": 2}') == (200, {"wanted_hz": 2.0})
    assert phone.send(picture())["rate"] == 2
    until(lambda: phone.named("setRate")[-1] == (2.0,), "the camera is told")
    assert server.streams(token)["Alice"]["wanted_hz"] == 2
    assert set_rate(server, token, '{"hz": 0}') == (200, {"wanted_hz": 0.0})
    assert phone.send(picture())["accepted"], "never enforced"
    phone.client.disconnect()
    until(lambda: not server.streams(token), "the stream ends")
    with Phone(server.url) as again:
        again.log_in("Alice", "123")
        assert again.named("setRate") == [(0.0,)], "also after it came back"
        assert set_rate(server, token, '{"hz": null}') == (200, {"wanted_hz": 5.0})
        until(lambda: again.named("setRate")[-1] == (5.0,), "the camera is told")


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "5", "{}", '{"hz": "5"}', '{"hz": -1}', '{"hz": NaN}', '{"hz": Infinity}', '{"hz": true}',
        '{"hz": [5]}', '{"hz": 1e999}', '{"hz": 1' + "0" * 400 + "}", '{"hz":' + "[" * 8_000,
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_a_rate_that_is_none_is_a_bad_request(server: RunningServer, phone: Phone, body: str) -> None:
    status, content = set_rate(server, server.token("Alice", "123"), body)
    assert (status, content["error"]["code"]) == (400, "bad_arguments")
    assert phone.send(picture())["rate"] == 5


@pytest.mark.parametrize(
    ("user", "name", "status", "code"),
    [
        (None, "Alice", 401, "not_logged_in"),
        (("Bob", "456"), "Alice", 404, "not_found"),
        (("Bob", "456"), "Nobody", 404, "not_found"),
        (("Alice", "123"), "Nobody", 404, "not_found"),
    ],
)
def test_a_rate_and_results_are_nobody_elses(
    server: RunningServer, phone: Phone, user: tuple[str, str] | None, name: str, status: int, code: str
) -> None:
    token = server.token(*user) if user else None
    found, content = set_rate(server, token, '{"hz": 1}', name)
    assert (found, content["error"]["code"]) == (status, code)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found, _, content = answer_to(server, "GET", f"/api/v1/streams/{name}/result", **headers)
    assert (found, content["error"]["code"]) == (status, code)
    assert phone.send(picture())["rate"] == 5


def test_a_viewer_sees_results_and_sets_no_rate(tmp_path: Path) -> None:
    users = f"sqlite:///{tmp_path}/users.db"
    commands = (["add", "Alice"], ["add", "Bob"], ["add", "Root", "--admin"], ["grant", "Bob", "--view", "Alice"])
    for command in commands:
        subprocess.run(
            [sys.executable, "-m", "auth", "--users", users, *command],
            cwd=SRC,
            input=b"secret\nsecret\n",
            check=True,
            capture_output=True,
        )
    with running_server("-a", "--users", users) as server, Phone(server.url) as one:
        one.log_in("Alice", "secret")
        viewer, admin = server.token("Bob", "secret"), server.token("Root", "secret")
        assert server.get("/api/v1/streams/Alice/result", viewer) == {}
        status, content = set_rate(server, viewer, '{"hz": 1}')
        assert (status, content["error"]["code"]) == (403, "forbidden")
        assert set_rate(server, admin, '{"hz": 1}') == (200, {"wanted_hz": 1.0})


def test_without_accounts_the_rate_is_set_from_this_machine(open_server: RunningServer) -> None:
    with Phone(open_server.url) as one:
        one.log_in("Some Body@x", "")
        assert set_rate(open_server, None, '{"hz": 1.5}', "Some%20Body%40x") == (200, {"wanted_hz": 1.5})


# -- results


def test_the_last_results_are_shown_also_of_a_stream_that_has_ended(tmp_path: Path) -> None:
    with app_process(tmp_path / "log", "python") as server:

        def results(name: str = "Alice") -> Any:
            return answer_to(server, "GET", f"/api/v1/streams/{name}/result")[2]

        with Phone(f"http://127.0.0.1:{server.port}") as one:
            one.log_in("Alice", "")
            one.send(picture())
            assert results() == {}
            for value in ("1", '{"faces": [1, 2]}'):
                server.ask("result?" + urlencode({"stream": "Alice", "value": value, "plugin": "faces"}))
            for extension in (".jpg", ".png", ".webp"):
                image = picture(extension, 8, 8)
                server.ask("result?" + urlencode({"stream": "Alice", "picture": image.hex(), "plugin": extension}))
            shown = results()
            assert list(shown) == ["faces", ".jpg", ".png", ".webp"]
            faces = shown["faces"]
            assert (faces["seq"], faces["result"]) == (1, {"faces": [1, 2]})
            times = [datetime.fromisoformat(faces[name]) for name in ("received_at", "made_at")]
            assert faces["made_at"].endswith("Z")
            assert (times[1] - times[0]).total_seconds() == pytest.approx(0.25, abs=0.002)
            assert abs((datetime.now(UTC) - times[0]).total_seconds()) < 60
            for extension, media_type in ((".jpg", "jpeg"), (".png", "png"), (".webp", "webp")):
                head, _, text = shown[extension]["result"].partition(",")
                assert head == f"data:image/{media_type};base64"
                assert base64.b64decode(text) == picture(extension, 8, 8)
        server.until_nothing_is_left()
        assert results()["faces"] == faces
        with Phone(f"http://127.0.0.1:{server.port}") as one:
            one.log_in("Alice", "")
            assert results() == {}, "the live stream's"
