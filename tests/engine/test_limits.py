"""What clients that nobody knows yet may cost: memory, the loop's time, lines in the log."""

import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.engineio_server import EngineServer
from engine.server import MAX_BRACKETS
from engine.session import Session
from raw_engineio import (
    BINARY,
    CONTINUATION,
    PATIENCE_SEC,
    PING,
    PONG,
    TEXT,
    EngineProcess,
    RawWebSocket,
    WebSocketClosed,
    client_frame,
    engine_process,
)
from running import until

EVENT = '451-["echo",{"_placeholder":true,"num":0}]'
#: The bounds of the server that tests can fill.
MAX_MESSAGE_BYTES, MAX_UNFINISHED_BYTES = 1_000_000, 4_000_000


@pytest.fixture
def small(tmp_path: Path) -> EngineProcess:  # type: ignore[misc]
    with engine_process(
        tmp_path / "log", max_http_buffer_size=MAX_MESSAGE_BYTES, max_unfinished_bytes=MAX_UNFINISHED_BYTES
    ) as process:
        yield process


# -- messages that never end


def half_a_frame(server: EngineProcess) -> socket.socket:
    websocket = server.joined()
    websocket.send_raw(client_frame(BINARY, bytes(900_000))[:-1])
    return websocket.socket


def fragments(server: EngineProcess) -> socket.socket:
    websocket = server.joined()
    websocket.send_raw(client_frame(BINARY, bytes(450_000), fin=False))
    websocket.send_raw(client_frame(CONTINUATION, bytes(450_000), fin=False))
    return websocket.socket


def attachments(server: EngineProcess) -> socket.socket:
    websocket = server.joined()
    websocket.send('453-["echo"]')
    websocket.send(bytes(450_000))
    websocket.send(bytes(450_000))
    return websocket.socket


def half_a_body(server: EngineProcess) -> socket.socket:
    poller = server.poller()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC)
    head = f"POST /socket.io/?{poller.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 950000\r\n\r\n"
    connection.sendall(head.encode() + b"4" * 920_000)
    return connection


@pytest.mark.parametrize("hold", [half_a_frame, fragments, attachments, half_a_body])
def test_unfinished_messages_together_take_no_more_than_their_bound(
    small: EngineProcess, hold: Callable[[EngineProcess], socket.socket]
) -> None:
    """A camera whose frame is under way at the same time does not notice."""
    with small.joined(query="&behave=camera") as camera:
        camera.send(EVENT)
        frame = client_frame(BINARY, bytes(200_000))
        camera.send_raw(frame[:150_000])
        before_mb = small.report()["rss_mb"]
        holders = [hold(small) for _ in range(40)]  # 36 MB
        until(lambda: small.report()["given way"] >= 30, "most of them to give way")
        report = small.report()
        assert report["unfinished bytes"] <= MAX_UNFINISHED_BYTES
        assert report["rss_mb"] - before_mb < 20
        camera.send_raw(frame[150_000:])
        assert camera.receive() == EVENT
        assert camera.receive() == bytes(200_000)
        for holder in holders:
            holder.close()
    small.until_all_gone()
    assert small.log.count("closed the connection that took most for longest") < 6


def test_who_is_refused_holds_nothing_while_it_is_waited_for(small: EngineProcess) -> None:
    """It has 2 s to read why."""
    with small.joined() as websocket:
        websocket.send_raw(client_frame(BINARY, bytes(900_000), fin=False))
        until(lambda: small.report()["unfinished bytes"] >= 900_000, "the fragment to be held")
        websocket.send_raw(client_frame(3))
        assert websocket.receive() == WebSocketClosed(1002)
        assert small.report()["unfinished bytes"] == 0


def test_small_frames_under_way_are_not_counted(small: EngineProcess) -> None:
    websockets = [small.joined() for _ in range(100)]
    for websocket in websockets:
        websocket.send(EVENT)
        websocket.send_raw(client_frame(BINARY, bytes(60_000))[:50_000])
    assert small.report()["unfinished bytes"] == 0
    for websocket in websockets:
        websocket.send_raw(client_frame(BINARY, bytes(60_000))[50_000:])
        assert websocket.receive() == EVENT
        websocket.close()


def test_what_has_come_whole_is_no_longer_counted(small: EngineProcess) -> None:
    with small.joined() as websocket:
        for parts in (
            [client_frame(BINARY, bytes(900_000))],
            [client_frame(BINARY, bytes(450_000), fin=False), client_frame(CONTINUATION, bytes(450_000))],
        ):
            websocket.send(EVENT)
            for part in parts:
                websocket.send_raw(part[:300_000])
                websocket.send_raw(part[300_000:])
            assert websocket.receive() == EVENT
            assert websocket.receive() == bytes(900_000)
            assert small.report()["unfinished bytes"] == 0
        places = '452-["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        websocket.send(places)
        websocket.send(bytes(300_000))
        websocket.send(bytes(300_000))
        assert [websocket.receive() for _ in range(3)] == [places, bytes(300_000), bytes(300_000)]
        assert small.report()["unfinished bytes"] == 0


def test_a_connection_keeps_nothing_of_the_last_message_while_it_waits_for_the_next(small: EngineProcess) -> None:
    before_mb = small.report()["rss_mb"]
    websockets = [small.joined() for _ in range(40)]
    for websocket in websockets:
        websocket.send('451-["nobody",{"_placeholder":true,"num":0}]')
        websocket.send(bytes(900_000))
        websocket.send_raw(client_frame(PING))
        assert websocket.receive_frame() == (PONG, b"")
    assert small.report()["rss_mb"] - before_mb < 18
    for websocket in websockets:
        websocket.close()


# -- text


@pytest.mark.parametrize("protocol", [3, 4])
def test_text_beyond_its_limit_is_refused_over_websocket_by_its_length_alone(
    server: EngineProcess, protocol: int
) -> None:
    with server.joined(protocol) as websocket:
        websocket.send_raw(struct.pack("!BBQ", 0x81, 0xFF, 64 * 1024 + 2) + b"mask")
        assert websocket.receive_end() == WebSocketClosed(1009)
    with server.joined(protocol) as websocket:  # and in fragments
        websocket.send_raw(client_frame(TEXT, b"4" * 60_000, fin=False) + client_frame(CONTINUATION, b"4" * 6_000)[:8])
        assert websocket.receive_end() == WebSocketClosed(1009)


def test_who_asked_for_base64_may_send_images_as_text_and_nothing_else(server: EngineProcess) -> None:
    with server.joined(3, "&b64=1") as websocket:
        websocket.send(EVENT)
        websocket.send("b4" + "AAAA" * 100_000)
        assert websocket.receive() == EVENT
        assert websocket.receive() == "b4" + "AAAA" * 100_000
        websocket.send('42["echo","' + "x" * 64 * 1024 + '"]')
        assert isinstance(websocket.receive(), WebSocketClosed)


def test_lists_by_the_million_cost_neither_memory_nor_time(own: EngineProcess) -> None:
    """As JSON, 900 KB of `[],` are 20 MB of lists."""
    bomb = '42["echo"' + ",[]" * 300_000 + "]"
    own.report("reset")
    before_mb = own.report()["rss_mb"]
    for protocol, query in ((4, ""), (3, "&b64=1"), (4, "&b64=1")):
        with own.joined(protocol, query) as websocket:
            websocket.send(bomb)
            assert isinstance(websocket.receive_end(), WebSocketClosed)
    poller = own.poller()
    poller.join()
    assert poller.post(bomb).status == 400
    report = own.report()
    assert report["rss_mb"] - before_mb < 8
    assert report["longest_turn_sec"] < 0.03


@pytest.mark.parametrize("characters", [1, 128, 129, 60_000])
def test_what_protocol_3_says_in_its_ping_comes_back_while_it_is_short(server: EngineProcess, characters: int) -> None:
    with server.joined(3) as websocket:
        websocket.send("2" + "x" * characters)
        assert websocket.receive() == ("3" + "x" * characters if characters <= 128 else WebSocketClosed(None))


@pytest.mark.parametrize("namespace", ["/" + "n" * 128, "/" + "n" * 60_000, "/cam?" + "&".join(["a=b"] * 101), "cam"])
def test_a_namespace_or_a_query_of_protocol_3_that_is_too_long_closes_the_connection(
    server: EngineProcess, namespace: str
) -> None:
    with server.joined(3) as websocket:
        websocket.send(f"40{namespace}")
        assert websocket.receive() == WebSocketClosed(None)


# -- the loop's time


@pytest.mark.parametrize(
    "packets",
    [
        ['42["echo",1]'] * 1_000,
        ["40", "41"] * 500,
        ["40/nowhere"] * 1_000,
        ['42/cam,["echo"]'] * 1_000,
        ["431[]"] * 1_000,
        [EVENT, "bAAAA"] * 500,
    ],
    ids=["events", "joining and leaving", "namespaces", "events of elsewhere", "acks", "images"],
)
def test_a_post_full_of_packets_does_not_stop_the_others(own: EngineProcess, packets: list[str]) -> None:
    longest = []
    for _ in range(3):  # other programs make a turn longer, and never shorter
        poller = own.poller()
        poller.join()
        own.report("reset")
        assert poller.post("\x1e".join(packets)).status in (200, 400)
        longest.append(own.report()["longest_turn_sec"])
    assert min(longest) < 0.03, f"others waited {min(longest) * 1000:.0f} ms"


def test_a_payload_of_wide_characters_is_taken_apart_in_no_time() -> None:
    from engine import packets

    text = "4" + "é" * 8_000_000
    body = f"{len(text)}:{text}".encode()
    began = time.process_time()
    assert packets.decode_payload(body, "text/plain", 3) == [packets.Packet(packets.MESSAGE, text[1:])]
    assert time.process_time() - began < 0.06


# -- bodies


def begin_body(server: EngineProcess, query: str, length: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC)
    head = f"POST /socket.io/?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def test_a_body_whose_session_has_ended_is_not_read_to_its_end(server: EngineProcess) -> None:
    poller = server.poller(query="&behave=body")
    poller.join()
    with begin_body(server, poller.query, 900_000) as connection:
        connection.sendall(b"4" * 1_000)
        until(lambda: poller.post("3").status == 400, "the second post to end the session")
        began = time.monotonic()
        connection.sendall(b"4" * 20_000)
        assert b" 400 " in connection.recv(100)
        assert time.monotonic() - began < 5  # a body has 10 s to come


def test_a_body_that_comes_slowly_is_a_sign_of_life(quick: EngineProcess) -> None:
    poller = quick.poller(query="&behave=slow+body")
    poller.join()
    image = "b" + "AAAA" * 50_000
    body = f"{EVENT}\x1e{image}"
    with begin_body(quick, poller.query, len(body)) as connection:
        began = time.monotonic()
        for start in range(0, len(body), 16 * 1024):
            connection.sendall(body[start : start + 16 * 1024].encode())
            time.sleep(0.1)  # the pace of a slow line, and not a wait for anything
        assert time.monotonic() - began > 1.2, "as long as it takes to be taken for dead"
        assert b" 200 " in connection.recv(100)
    assert not quick.disconnects("slow body")


def test_an_upgrade_under_way_ends_with_its_session(server: EngineProcess) -> None:
    poller = server.poller()
    poller.join()
    with RawWebSocket(server.port, poller.upgrade_path()) as websocket:
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        began = time.monotonic()
        poller.post("1")
        assert isinstance(websocket.receive(), WebSocketClosed)
        assert time.monotonic() - began < 5  # it has 10 s to go on


# -- the log


def breaks_websocket(server: EngineProcess) -> None:
    with server.joined() as websocket:
        websocket.send_raw(client_frame(3))
        websocket.receive_end()


def breaks_protocol(server: EngineProcess) -> None:
    with server.joined() as websocket:
        websocket.send("nonsense")
        websocket.receive()


def breaks_polling(server: EngineProcess) -> None:
    server.poller().post("nonsense" * 10_000)


def breaks_upgrade(server: EngineProcess) -> None:
    with RawWebSocket(server.port, server.poller().upgrade_path()) as websocket:
        websocket.send("nonsense")
        websocket.receive()


def sends_to_nobody(server: EngineProcess) -> None:
    with server.joined() as websocket:
        for number in range(20):
            websocket.send(f'42/elsewhere{number},["echo"]')
            websocket.send(f'42["nobody{number}"]')
            websocket.send(f"43{number + 1}[1]")
            websocket.send(f"41/elsewhere{number}")
            websocket.send(f"40/elsewhere{number}")
        websocket.send_raw(client_frame(PING))
        while (websocket.receive_frame() or (None, b""))[0] != 0xA:
            pass


def makes_a_handler_fail(server: EngineProcess) -> None:
    with server.joined() as websocket:
        websocket.send('420["fail"]')
        websocket.send('42["echo","end"]')
        assert websocket.receive() == '42["echo","end"]'


def requests_nothing(server: EngineProcess) -> None:
    for query in ("", "EIO=4&transport=polling&sid=none", "EIO=9&transport=polling", "EIO=4&transport=websocket"):
        server.request("POST", query, "x")


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (breaks_websocket, "unknown opcode 3"),
        (breaks_protocol, "packet type 'n'"),
        (breaks_polling, "packet type 'n'"),
        (breaks_upgrade, "was not finished"),
        (sends_to_nobody, ""),
        (makes_a_handler_fail, "the handler of 'fail' failed"),
        (requests_nothing, ""),
    ],
)
def test_nothing_that_a_client_does_is_logged_more_than_once_a_second(
    own: EngineProcess, attack: Callable[[EngineProcess], None], said: str
) -> None:
    before = len(own.log.splitlines())
    began = time.monotonic()
    for _ in range(40):
        attack(own)
    seconds = int(time.monotonic() - began) + 1
    lines = [line for line in own.log.splitlines()[before:] if line.startswith(("INFO", "WARNING", "ERROR"))]
    assert len(lines) <= seconds + 1 if said else not lines, lines
    assert all(said in line for line in lines)
    assert not said or lines
    assert max(map(len, lines), default=0) < 350


def test_a_message_handler_that_raises_is_said_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    server = EngineServer()

    def fail(_sid: str, _data: object) -> None:
        raise RuntimeError("of the handler")

    server.on("message", fail)
    session = Session(server, "sid", 4, as_base64=False)
    for _ in range(10):
        server.receive_message(session, "x")
    assert [record.getMessage() for record in caplog.records] == [
        "the handler of 'message' failed (1 errors of handlers since the start)"
    ]
    assert server.handler_errors == 10


def test_the_log_quotes_no_more_than_the_beginning_of_what_a_client_sent(own: EngineProcess) -> None:
    with own.joined() as websocket:
        websocket.send('451-["echo",{"_placeholder":true,"num":"' + "x" * 60_000 + '"}]')
        websocket.send(b"x")
        assert websocket.receive() == WebSocketClosed(1000)
    assert "xxx" in own.log
    assert len(own.log) < 2_000
    assert json.dumps("x" * 100) not in own.log


def test_more_lists_and_objects_than_anybody_needs_end_the_connection(server: EngineProcess) -> None:
    with server.joined() as websocket:
        websocket.send('42["echo"' + ",[]" * (MAX_BRACKETS - 1) + "]")
        assert str(websocket.receive()).startswith('42["echo",[],')
        websocket.send('42["echo"' + ",{}" * MAX_BRACKETS + "]")
        assert websocket.receive_end() == WebSocketClosed(1000)
