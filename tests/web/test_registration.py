"""Where cameras that are pulled say where they are: what is read of it, and how it is answered."""

import http.client
import socket
import struct
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from running import RunningServer, running_server
from web.registration import Registration, read_registration

HERE = bson.encode({"ipaddress": "127.0.0.1", "ports": 9})
OK = (200, b"OK")
REFUSED = (200, b"Can not make a connection")


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"ipaddress": "192.168.7.20", "ports": 8000}, Registration("192.168.7.20", 8000)),
        ({"ports": 1, "ipaddress": "camera.lan", "more": [1]}, Registration("camera.lan", 1)),
        ({"ipaddress": "::1"}, Registration("::1", 5000)),
        ({"ipaddress": "::1", "ports": None}, Registration("::1", 5000)),
        ({"ipaddress": "::1", "ports": bson.Int64(65_535)}, Registration("::1", 65_535)),
        ({"ipaddress": "::1", "ports": 8000.0}, Registration("::1", 8000)),
        ({"ipaddress": "::1", "ports": 0}, None),
        ({"ipaddress": "::1", "ports": -80}, None),
        ({"ipaddress": "::1", "ports": 65_536}, None),
        ({"ipaddress": "::1", "ports": 1 << 40}, None),
        ({"ipaddress": "::1", "ports": 80.5}, None),
        ({"ipaddress": "::1", "ports": float("nan")}, None),
        ({"ipaddress": "::1", "ports": float("inf")}, None),
        ({"ipaddress": "::1", "ports": True}, None),
        ({"ipaddress": "::1", "ports": "5000"}, None),
        ({"ipaddress": "::1", "ports": [5000]}, None),
        ({"ipaddress": "::1", "ports": bson.Decimal128("80")}, None),
        ({"ipaddress": 2130706433, "ports": 80}, None),
        ({"ipaddress": b"127.0.0.1", "ports": 80}, None),
        ({"ipaddress": ["127.0.0.1"], "ports": 80}, None),
        ({"ipaddress": None}, None),
        ({"ports": 80}, None),
        ({}, None),
    ],
)
def test_an_address_and_a_port_are_read(said: dict[str, Any], read: Registration | None) -> None:
    assert read_registration(bson.encode(said)) == read


def nested(depth: int) -> bytes:
    document = b"\x05\0\0\0\0"
    for _ in range(depth):
        document = struct.pack("<i", len(document) + 7) + b"\x03\0" + document + b"\0"
    return document


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"OK", b'{"ipaddress": "127.0.0.1"}', HERE[:-1], HERE + b"\0", HERE * 2, b"\xff" * 100, nested(2_300)],
    ids=lambda body: repr(body)[:20],
)
def test_what_is_no_bson_is_not_read(body: bytes) -> None:
    assert read_registration(body) is None


@given(st.binary(max_size=200), st.integers(0, len(HERE)), st.integers(0, len(HERE)))
@example(HERE, 0, len(HERE))
def test_no_bytes_do_anything_else(more: bytes, start: int, end: int) -> None:
    body = HERE[:start] + more + HERE[end:]
    for one in (body, struct.pack("<i", len(body) + 4) + body):  # the second kind gets past the length
        assert read_registration(one) is None or isinstance(read_registration(one), Registration)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


def ask(
    server: RunningServer, body: Any = HERE, path: str = "/server", method: str = "POST", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status == 200:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("path", ["/server", "/server/"])
@pytest.mark.parametrize(
    "content_type",
    [None, "application/bson", "application/json", "application/x-www-form-urlencoded", "multipart/form-data", "b", ""],
)
def test_a_camera_is_answered_ok_wherever_it_posts(server: RunningServer, path: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content_Type": content_type}
    assert ask(server, path=path, **headers) == OK


def test_a_body_may_come_in_chunks(server: RunningServer) -> None:
    assert ask(server, iter([HERE[:7], HERE[7:]])) == OK


@pytest.mark.parametrize(
    "body",
    [b"", b"no bson", HERE[:-1], bson.encode({}), bson.encode({"ipaddress": "8.8.8.8"}), HERE[:-1] + bytes(20_000)],
    ids=["nothing", "text", "cut off", "empty", "of another network", "too long"],
)
def test_what_cannot_be_served_is_answered_with_the_same_words(server: RunningServer, body: bytes) -> None:
    assert ask(server, body) == REFUSED
    assert ask(server) == OK, "the next one is served"


@pytest.mark.parametrize("origin", ["http://127.0.0.1", "https://example.org", "null"])
def test_a_page_in_a_browser_is_no_camera(server: RunningServer, origin: str) -> None:
    assert ask(server, Origin=origin) == REFUSED


@pytest.mark.parametrize(
    "header",
    ["X_Forwarded_For", "X_FORWARDED_FOR", "Forwarded", "Via", "X_Real_IP", "X_Forwarded_Host", "CF_Connecting_IP"],
)
def test_behind_a_proxy_nobody_is_called_back(server: RunningServer, header: str) -> None:
    assert ask(server, **{header: "127.0.0.1"}) == REFUSED


@pytest.mark.parametrize("host", ["cameras.example.org", "192.168.7.1:8080", "[2001:db8::1]:80", "[::1", ""])
def test_behind_a_proxy_that_only_passes_on_the_name_nobody_is_called_back(server: RunningServer, host: str) -> None:
    assert ask(server, Host=host) in (REFUSED, (400, b""))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:5000", "127.0.0.2:80", "[::1]:80"])
def test_a_camera_on_the_same_machine_may_call_it_by_all_its_own_names(server: RunningServer, host: str) -> None:
    assert ask(server, Host=host) == OK


def test_behind_a_proxy_that_speaks_an_older_http_nobody_is_called_back(server: RunningServer) -> None:
    """nginx does, and gives its own name for the server, unless it is told otherwise."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as proxy:
        head = f"POST /server HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(HERE)}\r\n\r\n"
        proxy.sendall(head.encode() + HERE)
        answer = b"".join(iter(lambda: proxy.recv(4_096), b""))
    assert answer.endswith(REFUSED[1])


def test_behind_a_proxy_the_operators_networks_are_called() -> None:
    with running_server("--pull-allow", "127.0.0.0/24") as server:
        assert ask(server, X_Forwarded_For="192.168.7.20") == OK
        assert ask(server, bson.encode({"ipaddress": "127.0.1.1"}), X_Forwarded_For="127.0.1.1") == REFUSED


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_there_is_nothing_else_there(server: RunningServer, method: str) -> None:
    assert ask(server, None, method=method)[0] == 405


def test_with_accounts_only_cameras_of_somebody_are_pulled(tmp_path: Any) -> None:
    users = tmp_path / "cameras"
    users.write_text("127.0.0.1 Alice\n")
    with running_server("-a") as server:
        assert ask(server) == REFUSED
    with running_server("-a", "--tcp-users", str(users)) as server:
        assert ask(server) == OK
        assert ask(server, bson.encode({"ipaddress": "127.0.0.2"})) == REFUSED


def test_what_was_registered_is_counted(server: RunningServer) -> None:
    def counted() -> dict[str, float]:
        lines = [line for line in server.get("/metrics").splitlines() if "registrations_total" in line]
        return {name: float(value) for name, value in (line.split() for line in lines if line[0] != "#")}

    ask(server)
    before = counted()
    for body in (HERE, HERE, b"rubbish", bson.encode({"ipaddress": "8.8.8.8"}), bson.encode({"ipaddress": "127.1"})):
        ask(server, body)
    grown = {name: value - before.get(name, 0) for name, value in counted().items()}
    refused = "imageserver_refused_registrations_total"
    assert {name: value for name, value in grown.items() if value} == {
        "imageserver_registrations_total": 2,
        f'{refused}{{cause="unreadable"}}': 1,
        f'{refused}{{cause="forbidden"}}': 1,
        f'{refused}{{cause="bad_address"}}': 1,
    }


def test_who_goes_away_within_a_registration_harms_nobody(server: RunningServer) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /server HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\n\r\n" + HERE[:10])
    assert ask(server) == OK
    assert not [line for line in server.log if "Traceback" in line or " ERROR " in line]
