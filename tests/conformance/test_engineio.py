"""Engine.IO, protocol 4, as its document says it, on a server that echoes every message.

Silence takes the server's 500 ms to be noticed, so what has to wait for it waits together, in one test.
"""

import base64
import http.client
import json
import socket
import struct
import time

import pytest

from conformance.clients import (
    OPENING,
    PING_INTERVAL_SEC,
    PING_TIMEOUT_SEC,
    Peer,
    Polling,
    handshake,
    receive,
    side_by_side,
    until_closed,
)
from raw_engineio import CLOSE, PATIENCE_SEC, PONG, TEXT, Answer, RawWebSocket, WebSocketClosed, client_frame

#: The end of a session for who asks for it, and a request that none would be.
UNKNOWN_SESSION = {"code": 1, "message": "Session ID unknown"}
BAD_REQUEST = {"code": 3, "message": "Bad request"}
#: A busy machine may be late; nothing may be early.
LATE_SEC = 0.5


def assert_400(answer: Answer, body: dict[str, object] | None = None) -> None:
    assert answer.status == 400, answer
    content = json.loads(answer.body)
    assert set(content) == {"code", "message"}
    if body is not None:
        assert content == body


def upgraded(peer: Peer) -> tuple[Polling, RawWebSocket]:
    poller = peer.poller()
    websocket = poller.upgrade()
    websocket.send("2probe")
    assert websocket.receive() == "3probe"
    websocket.send("5")
    websocket.send("4done")
    assert receive(websocket) == "4done"
    return poller, websocket


# -- the handshake


def test_a_session_over_polling_begins_with_exactly_the_documented_keys(engineio: Peer) -> None:
    poller = engineio.poller()
    assert poller.handshake == {"sid": poller.sid, "upgrades": ["websocket"], **OPENING}
    assert isinstance(poller.sid, str)
    assert poller.sid
    assert poller.answer.headers["content-type"] == "text/plain; charset=UTF-8"


def test_a_session_over_websocket_begins_with_exactly_the_documented_keys(engineio: Peer) -> None:
    with engineio.bare_websocket("EIO=4&transport=websocket") as websocket:
        opening = handshake(websocket)
    assert opening == {"sid": opening["sid"], "upgrades": [], **OPENING}
    assert isinstance(opening["sid"], str)


def test_session_ids_are_never_the_same(engineio: Peer) -> None:
    assert len({engineio.poller().sid for _ in range(50)}) == 50


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(
    "version", ["", "EIO=abc", "EIO=", "EIO=2", "EIO=5", "EIO=44", "EIO=-4", "EIO=4.0", "EIO=4&EIO=4"]
)
def test_another_version_of_the_protocol_is_refused(engineio: Peer, transport: str, version: str) -> None:
    query = f"{version}&transport={transport}"
    if transport == "websocket":
        assert engineio.bare_websocket(query).status == 400
    else:
        assert_400(engineio.request("GET", query), {"code": 5, "message": "Unsupported protocol version"})


@pytest.mark.parametrize(
    "transport", ["", "transport=", "transport=abc", "transport=POLLING", "transport=polling&transport=polling"]
)
def test_another_transport_is_refused(engineio: Peer, transport: str) -> None:
    query = f"EIO=4&{transport}"
    assert_400(engineio.request("GET", query), {"code": 0, "message": "Transport unknown"})
    assert engineio.bare_websocket(query).status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD"])
def test_a_handshake_with_another_method_is_refused(engineio: Peer, method: str) -> None:
    answer = engineio.request(method, "EIO=4&transport=polling")
    assert answer.status == 400
    if method != "HEAD":
        assert_400(answer, {"code": 2, "message": "Bad handshake method"})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("sid", ["abc", "", "%00", "a" * 2000])
def test_a_session_that_was_never_begun_is_unknown(engineio: Peer, method: str, sid: str) -> None:
    query = f"EIO=4&transport=polling&sid={sid}"
    assert_400(engineio.request(method, query, "4x" if method == "POST" else None), UNKNOWN_SESSION)
    assert engineio.bare_websocket(f"EIO=4&transport=websocket&sid={sid}").status == 400


def test_a_page_of_any_origin_is_welcome_here(engineio: Peer) -> None:
    connection = engineio.begin("GET", "EIO=4&transport=polling")
    assert engineio.finish(connection).status == 200
    with RawWebSocket(
        engineio.port, "/engine.io/?EIO=4&transport=websocket", {"Origin": "https://elsewhere.example"}
    ) as websocket:
        handshake(websocket)


# -- messages

PAYLOADS = {
    "text": "4hello",
    "several texts": "4test1\x1e4test2\x1e4test3",
    "text and bytes": "4hello\x1ebAQIDBA==",
    "bytes": "bAQIDBA==",
    "no bytes": "b",
    "an empty text": "4",
    "every length of a character": "4é€😀\x1e4after",
    "sixteen packets": "\x1e".join(f"4{number}" for number in range(16)),
}


@pytest.mark.parametrize("what", PAYLOADS)
def test_what_is_posted_is_polled(engineio: Peer, what: str) -> None:
    poller = engineio.poller()
    pushed = poller.post(PAYLOADS[what])
    assert (pushed.status, pushed.text) == (200, "ok")
    polled = poller.get()
    assert (polled.status, polled.text) == (200, PAYLOADS[what])


def test_a_poll_waits_until_there_is_something(engineio: Peer) -> None:
    poller = engineio.poller()
    waiting = poller.begin_get()
    poller.post("4hello")
    assert engineio.finish(waiting).text == "4hello"


@pytest.mark.parametrize(
    "message", ["4hello", "4", "4é€😀", "4\x1e4x", bytes([1, 2, 3, 4]), b"", bytes(100_000)], ids=repr
)
def test_what_comes_over_websocket_goes_back_over_it(engineio: Peer, message: str | bytes) -> None:
    with engineio.websocket() as websocket:
        websocket.send(message)
        assert receive(websocket) == message


def test_base64_over_websocket_is_bytes_as_well(engineio: Peer) -> None:
    with engineio.websocket() as websocket:
        websocket.send("bAQIDBA==")
        assert receive(websocket) == bytes([1, 2, 3, 4])


WRONG_PACKETS = {
    "letters": "abc",
    "an unknown type": "7",
    "a type beyond": "9hello",
    "nothing": "",
    "an opening": '0{"sid":"x"}',
    "a ping, which is the server's": "2",
    "an upgrade out of its place": "5",
    "base64 that is none": "b!",
}


@pytest.mark.parametrize("what", WRONG_PACKETS)
def test_a_wrong_packet_in_a_post_ends_the_session(engineio: Peer, what: str) -> None:
    poller = engineio.poller()
    assert_400(poller.post(WRONG_PACKETS[what]), BAD_REQUEST)
    assert_400(poller.get(), UNKNOWN_SESSION)


@pytest.mark.parametrize("what", WRONG_PACKETS)
def test_a_wrong_packet_over_websocket_ends_the_session(engineio: Peer, what: str) -> None:
    with engineio.websocket() as websocket:
        websocket.send(WRONG_PACKETS[what])
        assert websocket.receive() == WebSocketClosed(1000), "at once, and not for its silence"


@pytest.mark.parametrize("body", ["4a\x1e", "\x1e4a", "4a\x1eabc", b"4\xff", b"\x00\x02\xff4a"], ids=repr)
def test_a_payload_that_is_none_ends_the_session(engineio: Peer, body: str | bytes) -> None:
    poller = engineio.poller()
    assert_400(poller.post(body), BAD_REQUEST)
    assert_400(poller.get(), UNKNOWN_SESSION)


def test_a_payload_of_the_announced_size_is_taken_and_one_byte_more_is_not(engineio: Peer) -> None:
    poller = engineio.poller()
    assert poller.post("4" + "x" * 999_999).text == "ok"
    assert poller.get().text == "4" + "x" * 999_999
    assert_400(poller.post("4" + "x" * 1_000_000), BAD_REQUEST)
    assert_400(poller.get(), UNKNOWN_SESSION)
    with engineio.websocket() as websocket:
        websocket.send(bytes(1_000_000))
        assert receive(websocket) == bytes(1_000_000)
        websocket.send(bytes(1_000_001))
        assert websocket.receive_end() == WebSocketClosed(1009)


def test_a_second_poll_ends_the_session_and_the_first(engineio: Peer) -> None:
    poller = engineio.poller()
    first = poller.begin_get()
    time.sleep(0.005)  # as the public suite does: the order of two connections is not the server's to know
    assert_400(poller.get(), BAD_REQUEST)
    answer = engineio.finish(first)
    assert (answer.status, answer.text) == (200, "1")
    assert_400(poller.get(), UNKNOWN_SESSION)


# -- the heartbeat


def test_a_polling_client_is_pinged_and_lives_as_long_as_it_answers(engineio: Peer) -> None:
    poller = engineio.poller()
    for _ in range(3):
        polled = poller.get()
        assert (polled.status, polled.text) == (200, "2")
        pushed = poller.post("3")
        assert (pushed.status, pushed.text) == (200, "ok")


def test_a_websocket_client_is_pinged_and_lives_as_long_as_it_answers(engineio: Peer) -> None:
    with engineio.websocket() as websocket:
        began = time.monotonic()
        for number in range(1, 4):
            assert websocket.receive() == "2"
            assert number * PING_INTERVAL_SEC - 0.01 < time.monotonic() - began
            websocket.send("3")
        websocket.send("4still here")
        assert websocket.receive() == "4still here"


def test_who_does_not_answer_a_ping_is_gone_after_interval_and_timeout(engineio: Peer) -> None:
    silence_sec = PING_INTERVAL_SEC + PING_TIMEOUT_SEC

    def polls_after_silence() -> None:
        poller = engineio.poller()
        time.sleep(silence_sec)
        assert_400(poller.get(), UNKNOWN_SESSION)

    def posts_after_silence() -> None:
        poller = engineio.poller()
        time.sleep(silence_sec)
        assert_400(poller.post("4hello"), UNKNOWN_SESSION)

    def gets_its_ping_and_says_nothing() -> None:
        poller = engineio.poller()
        assert poller.get().text == "2"
        began = time.monotonic()
        waiting = poller.begin_get()  # a poll is a sign of life, once
        answer = engineio.finish(waiting)
        assert time.monotonic() - began < silence_sec + PING_INTERVAL_SEC + LATE_SEC
        assert answer.text in ("1", "2")

    def is_silent_over_websocket() -> None:
        began = time.monotonic()
        with engineio.websocket() as websocket:
            until_closed(websocket)
        assert silence_sec - 0.01 < time.monotonic() - began < silence_sec + LATE_SEC

    def is_silent_after_its_upgrade() -> None:
        _, websocket = upgraded(engineio)
        with websocket:
            assert until_closed(websocket) < silence_sec + LATE_SEC

    side_by_side(
        polls_after_silence,
        posts_after_silence,
        gets_its_ping_and_says_nothing,
        is_silent_over_websocket,
        is_silent_after_its_upgrade,
    )


# -- closing


@pytest.mark.parametrize("first", ["the poll", "the close"])
def test_a_client_that_closes_over_polling_gets_its_poll_back(engineio: Peer, first: str) -> None:
    """Whichever is seen first: they come on two connections."""
    poller = engineio.poller()
    if first == "the poll":
        waiting = poller.begin_get()
        closing = engineio.begin("POST", poller.query, "1")
    else:
        closing = engineio.begin("POST", poller.query, "1")
        waiting = poller.begin_get()
    closed = engineio.finish(closing)
    assert (closed.status, closed.text) == (200, "ok")
    answer = engineio.finish(waiting)
    assert (answer.status, answer.text) == (200, "6")
    assert_400(poller.get(), UNKNOWN_SESSION)


def test_what_follows_a_close_in_its_payload_is_forgotten(engineio: Peer) -> None:
    poller = engineio.poller()
    assert poller.post("1\x1e4too late").status == 200
    assert_400(poller.get(), UNKNOWN_SESSION)


def test_a_client_that_closes_over_websocket_is_closed(engineio: Peer) -> None:
    with engineio.websocket() as websocket:
        websocket.send("1")
        assert websocket.receive_end() == WebSocketClosed(1000)


def test_a_websocket_that_closes_ends_its_session(engineio: Peer) -> None:
    poller, websocket = upgraded(engineio)
    with websocket:
        websocket.send_raw(client_frame(CLOSE, struct.pack("!H", 1001)))
        assert websocket.receive_end() == WebSocketClosed(1001)
    assert_400(poller.get(), UNKNOWN_SESSION)


# -- the upgrade


def test_a_session_moves_to_a_websocket(engineio: Peer) -> None:
    poller = engineio.poller()
    with poller.upgrade() as websocket:
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        polled = poller.get()
        assert (polled.status, polled.text) == (200, "6")  # ends the polling without ending the session
        websocket.send("5")
        websocket.send("4hello")
        assert websocket.receive() == "4hello", "and nothing before it, no NOOP either"


def test_a_waiting_poll_is_ended_by_the_probe(engineio: Peer) -> None:
    poller = engineio.poller()
    waiting = poller.begin_get()
    with poller.upgrade() as websocket:
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        assert engineio.finish(waiting).text == "6"


def test_what_waits_for_a_poll_goes_over_the_websocket_after_the_upgrade(engineio: Peer) -> None:
    poller = engineio.poller()
    with poller.upgrade() as websocket:
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        poller.post("4first\x1ebAQID")
        websocket.send("5")
        assert websocket.receive() == "4first"
        assert websocket.receive() == bytes([1, 2, 3])


def test_after_the_upgrade_polling_is_over_and_the_websocket_goes_on(engineio: Peer) -> None:
    poller, websocket = upgraded(engineio)
    with websocket:
        assert_400(poller.get(), BAD_REQUEST)
        assert_400(poller.post("4hello"), BAD_REQUEST)
        websocket.send("4hello")
        assert receive(websocket) == "4hello"


def test_a_poll_that_comes_right_behind_the_upgrade_is_refused(engineio: Peer) -> None:
    """As the public suites send it, on a connection that is open already, without waiting for the probe's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", engineio.port, timeout=PATIENCE_SEC)
    statuses = []
    for _ in range(60):
        poller = engineio.poller()
        connection.request("GET", "/engine.io/?EIO=4")  # keeps it open
        connection.getresponse().read()
        with poller.upgrade() as websocket:
            websocket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            websocket.send("2probe")
            websocket.send("5")
            connection.request("GET", f"/engine.io/?{poller.query}")
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            assert websocket.receive() == "3probe"
            websocket.send("4hello")
            assert websocket.receive() == "4hello"
    connection.close()
    assert statuses == [400] * 60


def test_a_second_websocket_of_a_session_is_closed_and_the_first_goes_on(engineio: Peer) -> None:
    poller, websocket = upgraded(engineio)
    with websocket, poller.upgrade() as second:
        assert second.status == 400
        websocket.send("4hello")
        assert receive(websocket) == "4hello"
    with engineio.websocket() as websocket:
        websocket.send("4I began here")
        assert receive(websocket) == "4I began here"


@pytest.mark.parametrize("first", ["2", "2probe ", "2Probe", "3probe", "4probe", "5", "abc", ""], ids=repr)
def test_a_websocket_that_does_not_probe_is_closed_and_polling_goes_on(engineio: Peer, first: str) -> None:
    poller = engineio.poller()
    with poller.upgrade() as websocket:
        websocket.send(first)
        assert websocket.receive_end() == WebSocketClosed(1000)
    assert poller.post("4hello").text == "ok"
    assert poller.get().text == "4hello"


@pytest.mark.parametrize("second", ["2probe", "4hello", "6", "abc", None], ids=repr)
def test_an_upgrade_that_is_not_finished_leaves_the_session_to_polling(engineio: Peer, second: str | None) -> None:
    poller = engineio.poller()
    with poller.upgrade() as websocket:
        websocket.send("2probe")
        assert websocket.receive() == "3probe"
        if second is not None:
            websocket.send(second)
            assert websocket.receive_end() == WebSocketClosed(1000)
    assert poller.post("4hello").text == "ok"
    while (text := poller.get().text) == "6":
        pass  # until the server has seen that the other one has gone
    assert text == "4hello"


def test_what_is_sent_right_behind_the_upgrade_arrives(engineio: Peer) -> None:
    poller = engineio.poller()
    with poller.upgrade() as websocket:
        websocket.send_raw(b"".join(client_frame(TEXT, packet) for packet in (b"2probe", b"5", b"4a", b"4b")))
        assert [websocket.receive() for _ in range(3)] == ["3probe", "4a", "4b"]


def test_websocket_pings_are_answered_below_the_protocol(engineio: Peer) -> None:
    with engineio.websocket() as websocket:
        websocket.send_raw(client_frame(0x9, b"below"))
        while (frame := websocket.receive_frame()) == (TEXT, b"2"):
            pass
        assert frame == (PONG, b"below")


def test_bytes_of_every_kind_survive_polling_and_websocket(engineio: Peer) -> None:
    content = bytes(range(256)) * 10
    poller, websocket = engineio.poller(), engineio.websocket()
    with websocket:
        encoded = "b" + base64.b64encode(content).decode()
        poller.post(encoded)
        assert poller.get().text == encoded
        websocket.send(content)
        assert receive(websocket) == content
