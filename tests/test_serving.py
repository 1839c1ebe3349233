"""What a client gets of HTTP beside the application: connections kept and ended, bodies, deadlines, places."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from phones import Phone
from pictures import picture
from running import RunningServer, running_server, until

LOGIN = b'{"username":"Alice","password":"123"}'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("-a") as running:
        yield running


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_all(client: socket.socket) -> bytes:
    said = b""
    while piece := client.recv(65536):
        said += piece
    return said


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def talk(server: RunningServer, *pieces: bytes) -> bytes:
    """Send pieces one after the other, and read until the server ends the connection."""
    with connect(server) as client:
        for piece in pieces:
            client.sendall(piece)
        return read_all(client)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = (b"POST /api/v1/token HTTP/1.1", b"Host: x", b"Content-Type: application/json", *headers, b"", b"")
    return b"\r\n".join(lines) + body


def with_length(body: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body))


def test_a_connection_serves_one_request_after_the_other(server: RunningServer) -> None:
    with connect(server) as client:
        for _ in range(3):
            client.sendall(HEALTH)
            assert statuses(client.recv(65536)) == [200]
        client.sendall(LAST)
        said = read_all(client)
        assert statuses(said) == [200]
        assert b"Connection: close" in said


def test_requests_that_come_at_once_are_answered_in_their_order(server: RunningServer) -> None:
    said = talk(server, HEALTH + with_length(LOGIN) + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + LAST)
    assert statuses(said) == [200, 200, 404, 200]


def test_a_head_may_come_byte_by_byte(server: RunningServer) -> None:
    assert statuses(talk(server, *(bytes((byte,)) for byte in LAST))) == [200]


def test_http_1_0_ends_the_connection_unless_it_asks_to_keep_it(server: RunningServer) -> None:
    old = HEALTH.replace(b"1.1", b"1.0")
    assert statuses(talk(server, old)) == [200]
    kept = old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    said = talk(server, kept, old)
    assert statuses(said) == [200, 200]
    assert b"Connection: keep-alive" in said


@pytest.mark.parametrize("path", [b"/healthz", b"/socket.io/?EIO=4&transport=polling", b"/nothing"])
def test_a_head_request_has_no_body(server: RunningServer, path: bytes) -> None:
    said = talk(server, HEALTH.replace(b"GET /healthz", b"HEAD " + path) + LAST)
    assert len(statuses(said)) == 2, said
    assert said.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 OK\r\n"), said


def test_chunks_are_put_together(server: RunningServer) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in LOGIN) + b"0\r\n\r\n"
    assert statuses(talk(server, post(chunks, b"Transfer-Encoding: chunked") + LAST)) == [200, 200]


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server: RunningServer) -> None:
    with connect(server) as client:
        client.sendall(post(b"", b"Content-Length: %d" % len(LOGIN), b"Expect: 100-continue"))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(LOGIN)
        assert statuses(client.recv(65536)) == [200]


def test_another_expectation_is_refused(server: RunningServer) -> None:
    assert statuses(talk(server, post(b"", b"Content-Length: 5", b"Expect: the-impossible") + HEALTH)) == [417]


def test_a_body_that_nobody_reads_does_not_spoil_what_follows(server: RunningServer) -> None:
    unread = HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n%b")
    assert statuses(talk(server, unread % (30_000, bytes(30_000)) + LAST)) == [200, 200]
    said = talk(server, unread % (300_000, bytes(300_000)) + LAST)
    assert statuses(said) == [200]
    assert b"Connection: close" in said, "too much to be skipped"


def test_an_answer_arrives_though_the_body_is_refused_while_it_comes(server: RunningServer) -> None:
    assert statuses(talk(server, post(bytes(1_000_000), b"Content-Length: 1000000"))) == [413]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"a" * 17_000, 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 17_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.2\n", 400),
    ],
    ids=["long address", "address without end", "long header", "header without end", "many headers",
         "HTTP/2.0", "HTTP/2", "TLS", "SSH"],
)  # fmt: skip
def test_what_is_too_large_or_something_else_is_refused_at_once(
    server: RunningServer, head: bytes, status: int
) -> None:
    began = time.monotonic()
    assert statuses(talk(server, head)) == [status]
    assert time.monotonic() - began < 5


def test_bytes_that_did_not_wait_for_the_upgrades_answer_are_refused(server: RunningServer) -> None:
    upgrade = (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    assert statuses(talk(server, upgrade + b"\r\n\x81\x80\0\0\0\0")) == [400]
    assert statuses(talk(server, upgrade + b"Content-Length: 6\r\n\r\n")) == [400]


# -- deadlines


def slowly(
    server: RunningServer, beginning: bytes, piece: bytes = b"", every_sec: float = 0.5
) -> tuple[list[int], float]:
    """Send a piece every so often; returns the answers' statuses, and when the connection ended."""
    began = time.monotonic()
    with connect(server) as client:
        client.sendall(beginning)
        client.settimeout(every_sec)
        said = b""
        while time.monotonic() - began < 40:
            try:
                got = client.recv(65536)
            except TimeoutError:
                if piece:
                    client.sendall(piece)
            except ConnectionError:
                break
            else:
                if not got:
                    break
                said += got
        return statuses(said), time.monotonic() - began


def slow_upload(server: RunningServer, bytes_per_sec: int) -> tuple[list[int], float]:
    """A camera over polling whose POST of 14 s at 5 KiB/s comes at another speed."""
    with connect(server) as client:
        client.sendall(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
        sid = re.search(rb'"sid":"([^"]+)"', client.recv(65536))
        assert sid is not None
        start = b"POST /socket.io/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHost: x\r\n" % sid[1]
        login = b'40\x1e42["authenticate","Bob","456","loggedIn"]'
        client.sendall(start + b"Content-Length: %d\r\n\r\n%b" % (len(login), login))
        assert statuses(client.recv(65536)) == [200]
    body = b"6" + b"a" * (14 * 5 * 1024 - 1)
    # The rest of a second's worth is the connection's end.
    head = start + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return slowly(server, head + body[: bytes_per_sec // 2], body[: bytes_per_sec // 2])


def test_who_is_slow_has_ten_seconds_and_then_four_kib_a_second(server: RunningServer) -> None:
    start = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "
    chunked = post(b"", b"Transfer-Encoding: chunked")
    unfinished = post(b"a" * 15_000, b"Content-Length: 15001")
    cases: dict[str, tuple[Callable[[], tuple[list[int], float]], list[int], float]] = {
        "nothing": (lambda: slowly(server, b""), [], 10),
        "nothing more": (lambda: slowly(server, HEALTH), [200], 10),
        "half a head": (lambda: slowly(server, start), [408], 10),
        "a head byte by byte": (lambda: slowly(server, start, b"a"), [408], 10),
        "a body that does not come": (lambda: slowly(server, post(b"", b"Content-Length: 9")), [400], 10),
        "a body byte by byte": (lambda: slowly(server, post(b"", b"Content-Length: 900"), b"a"), [400], 10),
        "chunks one by one": (lambda: slowly(server, chunked, b"1\r\na\r\n"), [408], 10),
        "all but a byte": (lambda: slowly(server, unfinished), [400], 10),
        "3 KiB/s": (lambda: slow_upload(server, 3 * 1024), [400], 10),
        "5 KiB/s": (lambda: slow_upload(server, 5 * 1024), [200], 13.5),
    }
    with ThreadPoolExecutor(len(cases)) as threads:
        running = {name: threads.submit(play) for name, (play, *_) in cases.items()}
        for name, (_, expected, seconds) in cases.items():
            said, took = running[name].result()
            assert said == expected, name
            assert seconds - 0.5 <= took <= seconds + 4, f"{name}: {took:.1f} s"


def test_who_does_not_read_the_answer_is_let_go(server: RunningServer) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(20)
        began = time.monotonic()
        try:
            while True:  # requests whose answers fill every buffer on the way
                client.sendall(HEALTH * 100)
        except OSError:
            pass
        assert 5 < time.monotonic() - began < 20


def test_an_upgrade_that_nobody_serves_is_a_request_like_others(server: RunningServer) -> None:
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    said = talk(server, post(LOGIN, *upgrade, b"Content-Length: %d" % len(LOGIN)) + LAST)
    assert statuses(said) == [200, 200]


def test_an_answer_that_says_so_ends_the_connection(server: RunningServer) -> None:
    old = (
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with connect(server) as client:
        client.sendall(old)
        said = read_all(client)
    assert statuses(said) == [426]
    assert b"Connection: close" in said


def test_waiting_polls_do_not_delay_the_end() -> None:
    with running_server() as server:
        phones = [Phone(server.url, ["polling"]) for _ in range(5)]
        for phone in phones:
            phone.log_in()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 0.9, "a second is for those that do not end"


# -- places


def test_a_connection_without_a_request_makes_room_for_a_new_one() -> None:
    with running_server("-a", "--max-connections", "20") as server:
        idle = [connect(server) for _ in range(30)]
        with Phone(server.url, ["websocket"]) as phone:
            assert phone.log_in()
            for _ in range(3):
                more = [connect(server) for _ in range(30)]
                assert phone.send(picture())["accepted"], "one that is served keeps its place"
                for client in more:
                    client.close()
            token = server.token("Bob", "456")
            displaced = re.search(r"displaced_connections_total (\d+)", server.get("/metrics", token))
            assert displaced is not None
            assert int(displaced[1]) >= 10
        for client in idle[:9]:
            assert client.recv(1) == b""
            client.close()
        assert "Traceback" not in "".join(server.log)
        assert sum("made room" in line for line in server.log) <= 5


def test_where_all_are_served_a_new_one_is_told_to_come_again() -> None:
    with running_server("--max-connections", "3") as server:
        phones = [Phone(server.url, ["websocket"]) for _ in range(3)]
        for phone in phones:
            phone.log_in()
        said = talk(server)
        assert statuses(said) == [503]
        assert b"Retry-After: 1" in said
        phones.pop().__exit__(None, None, None)
        until(lambda: statuses(talk(server, LAST)) == [200], "a place for a new one")
        for phone in phones:
            assert phone.send(picture())["accepted"]
            phone.__exit__(None, None, None)


def test_more_connections_than_files_are_not_promised() -> None:
    with running_server("--max-connections", "100000000") as server:
        until(lambda: any("--max-connections 100000000" in line for line in server.log), "the warning")
