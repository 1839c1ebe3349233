"""Names that would do harm in a file's name, on a page, in a shell or in a log: no user can have one, however it comes.

And what is not Socket.IO tells browsers to run nothing of it.
"""

import http.client
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from probe import probing
from running import RunningServer, running_server
from security.outside import Client, assert_nothing_internal, watching

NAMES: Final = {
    "a path upwards": "../x",
    "a path": "a/b",
    "a path of Windows": "..\\x",
    "the folder itself": ".",
    "the folder above": "..",
    "a hidden file": ".ssh",
    "an absolute path": "/etc/passwd",
    "a drive": "C:x",
    "a page's element": "<img src=x onerror=alert(1)>",
    "an entity": "&lt;b&gt;",
    "a quoted attribute": '" onload="x',
    "a template": "{{7*7}}",
    "a shell's second command": ";id",
    "a shell's substitution": "$(id)",
    "a shell's backticks": "`id`",
    "a pipe": "a|b",
    "an option": "-i",
    "a long option": "--help",
    "SQL": "' OR 1=1 --",
    "a wildcard": "*",
    "a format": "%s%n",
    "a NUL": "Alice\0",
    "a line feed": "Alice\nroot logged in",
    "a carriage return": "Alice\r",
    "a tab": "Al\tice",
    "an escape sequence": "\x1b[2JAlice",
    "a delete": "Alice\x7f",
    "a C1 control": "Alice\x9b31m",
    "text from right to left": "Alice\u202egpj",
    "a zero-width space": "Al\u200bice",
    "a letter of another script": "\u0410lice",  # looks like Alice
    "a full-width letter": "\uff21lice",
    "an umlaut": "Älice",
    "an emoji": "😀",
    "half a character": "\ud800",
    "a space before": " Alice",
    "a space behind": "Alice ",
    "a dot behind": "Alice.",
    "nothing": "",
    "65 characters": "x" * 65,
    "a camera of the server's": "tcp-1",
    "a pulled camera": "pull-7",
    "the mark of a second stream": "Alice~2",
    "a colon": "Alice:x",
    "a comma": "Alice,Bob",
}  # fmt: skip


@pytest.fixture(scope="module", params=[["-a"], []], ids=["with -a", "open to everybody"])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """With a good camera beside everything that happens in this module."""
    with running_server(*request.param) as running, probing(running.port) as probe:
        yield running
        probe.stop().check()
        log = "".join(running.log)
        assert all(character.isprintable() or character == "\n" for character in log), "nothing is drawn on a terminal"
        assert not [name for name in ("root logged in", "onerror", "gpj") if name in log]
        assert running.stop() == 0


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_could_do_harm_is_refused_at_the_login(server: RunningServer, name: str) -> None:
    with watching(server, causes=2):
        for transport, protocol in (("websocket", 4), ("polling", 3)):
            with Client(server.port, protocol, transport) as client:
                client.say("42" + json.dumps(["authenticate", name, "123", "in"]))
                assert client.acked()["reason"] == "not_logged_in"
                assert ["in", False] in client.events()
                # Decoded, or a quote or a letter that JSON escapes would hide it.
                texts = [str(value) for event in client.events() for value in event]
                assert not [text for text in texts if name in text] or not name or name in (".", "*")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_could_do_harm_is_refused_as_one_connects(server: RunningServer, name: str) -> None:
    with watching(server, causes=2), Client(server.port, 4, "websocket", join=False) as client:
        client.say("40" + json.dumps({"username": name, "password": "123"}))
        answer = client.until(lambda packet: str(packet).startswith("4"))
        assert answer == '44{"message":"the name or the password is wrong"}'


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_could_do_harm_gets_no_token(server: RunningServer, name: str) -> None:
    status, answer = server.post("/api/v1/token", {"username": name, "password": "123"})
    assert (status, answer) == (
        401,
        {"error": {"code": "not_logged_in", "message": "the name or the password is wrong"}},
    )
    assert server.post("/api/v1/token", {"username": [name], "password": {"a": name}})[0] == 401


def test_a_name_of_any_other_type_is_no_name(server: RunningServer) -> None:
    for name in (None, True, 1, 1.5, [], {}, ["Alice"], {"Alice": 1}, [["Alice"] * 100] * 10):
        assert server.post("/api/v1/token", {"username": name, "password": "123"})[0] == 401
        with Client(server.port, 4, "websocket", join=False) as client:
            client.say("40" + json.dumps({"username": name, "password": "123"}))
            assert str(client.until(lambda packet: str(packet)[:1] == "4")).startswith("44{")


ANSWERS: Final[list[tuple[str, str, Any]]] = [
    ("GET", "/", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/metrics", None),
    ("GET", "/api/v1/streams", None),
    ("GET", "/<script>alert(1)</script>", None),
    ("GET", "/%3Cscript%3E", None),
    ("DELETE", "/healthz", None),
    ("POST", "/api/v1/token", {"username": "<b>", "password": "x"}),
    ("POST", "/api/v1/token", []),
    ("POST", "/api/v1/token", {"username": "user1", "password": "pass1"}),
    ("POST", "/api/v1/token", "x" * 20_000),
    ("GET", "/socket.io/?EIO=4&transport=polling", None),
    ("GET", "/socket.io/?EIO=4&transport=polling&sid=<script>", None),
    ("GET", "/socket.io/?EIO=<script>", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ANSWERS, ids=lambda value: str(value)[:30])
def test_every_answer_says_what_it_is_and_that_nothing_of_it_is_to_be_run(
    server: RunningServer, method: str, path: str, body: Any
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path)
    data = b"" if body is None else json.dumps(body).encode()
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers.get_content_type() in ("application/json", "text/plain")
    assert b"<script" not in content
    if not path.startswith("/socket.io/"):
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["Cache-Control"] == "no-store"
    assert_nothing_internal(str(answer.headers).encode() + content.replace(b'"via":"socketio"', b""))


def test_a_namespace_named_like_a_page_is_answered_to_who_asked_and_as_no_page(server: RunningServer) -> None:
    with Client(server.port, 4, "polling", join=False) as client:
        client.say("40/<script>,")
        client.until(lambda packet: str(packet).startswith("44/<script>"))
        head = bytes(client.received).lower()
        assert head.count(b"content-type: text/plain; charset=utf-8") == head.count(b"44/<script>") + 1
        assert b"x-content-type-options: nosniff" in head


def test_a_token_that_is_none_is_refused_and_not_repeated(server: RunningServer) -> None:
    for token in ("x", "../x", "<b>", "x.y.z", "\udcff", "a" * 4_000, {"a": 1}, ["x"], 5, None):
        with Client(server.port, 4, "websocket", join=False) as client:
            client.say("40" + json.dumps({"token": token}))
            answer = str(client.until(lambda packet: str(packet)[:1] == "4"))
            assert answer.startswith('44{"message":"')
            assert str(token) not in answer or len(str(token)) == 1
