"""A real server and clients that send it exactly these bytes."""

import gzip
import json
import socket
import struct
import time
from pathlib import Path

import pytest

from raw_engineio import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Answer,
    EngineProcess,
    RawWebSocket,
    WebSocketClosed,
    client_frame,
    engine_process,
)
from running import until

BOTH = pytest.mark.parametrize("protocol", [3, 4])
#: What no client may ever read.
INTERNALS = ("Traceback", "/site-packages", "/work", "python", "eventlet", "socketio", "a secret of the server")


def payload(protocol: int, *packets: str) -> str:
    """A text payload of these packets."""
    return "\x1e".join(packets) if protocol == 4 else "".join(f"{len(packet)}:{packet}" for packet in packets)


def assert_refused(answer: Answer, code: int, message: str) -> None:
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {"code": code, "message": message}


# -- handshake


@BOTH
def test_a_polling_handshake_offers_the_upgrade(server: EngineProcess, protocol: int) -> None:
    poller = server.poller(protocol)
    expected = {"sid": poller.sid, "upgrades": ["websocket"], "pingInterval": 25000, "pingTimeout": 20000}
    if protocol == 4:
        expected["maxPayload"] = 1_000_000
    assert poller.handshake == expected
    assert poller.opening.headers["content-type"] == "text/plain; charset=UTF-8"
    assert poller.opening.headers["cache-control"] == "no-store"


@BOTH
def test_a_websocket_handshake_offers_nothing_more(server: EngineProcess, protocol: int) -> None:
    with RawWebSocket(server.port, f"/socket.io/?EIO={protocol}&transport=websocket") as connection:
        opening = connection.receive()
        assert isinstance(opening, str)
        assert json.loads(opening[1:])["upgrades"] == []


def test_a_protocol_3_client_is_in_the_main_namespace_at_once(server: EngineProcess) -> None:
    opening = server.poller(3).opening.text
    length = int(opening.split(":")[0])
    assert opening[len(str(length)) + 1 + length :] == "2:40"


def test_a_protocol_4_client_joins_when_it_asks_and_gets_an_id_of_its_own(server: EngineProcess) -> None:
    poller = server.poller(4)
    poller.post("40")
    answer = poller.get().text
    assert answer.startswith('40{"sid":"')
    assert json.loads(answer[2:])["sid"] != poller.sid


@pytest.mark.parametrize(
    ("method", "query", "code", "message"),
    [
        ("GET", "EIO=4", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=abc", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=polling&transport=websocket", 0, "Transport unknown"),
        ("GET", "transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=abc&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=2&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=5&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=4&EIO=3&transport=polling", 5, "Unsupported protocol version"),
        ("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("PUT", "EIO=3&transport=polling", 2, "Bad handshake method"),
        ("GET", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
        ("GET", "EIO=4&transport=polling&sid=", 1, "Session ID unknown"),
        ("POST", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
        ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
        ("GET", "EIO=4&transport=polling&j=0", 3, "Bad request"),
    ],
)
def test_a_request_that_is_none_is_refused_as_node_does(
    server: EngineProcess, method: str, query: str, code: int, message: str
) -> None:
    assert_refused(server.request(method, query), code, message)


def test_other_methods_on_a_session_are_refused_and_it_goes_on(server: EngineProcess) -> None:
    poller = server.poller()
    assert_refused(server.request("DELETE", poller.query), 2, "Bad handshake method")
    poller.join()


@pytest.mark.parametrize("origin", ["https://named.example", "http://{host}", "https://{host}"])
def test_a_page_of_ours_or_one_that_is_named_may_connect(server: EngineProcess, origin: str) -> None:
    origin = origin.format(host=f"127.0.0.1:{server.port}")
    answer = server.request("GET", "EIO=4&transport=polling", headers={"Origin": origin})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://[::1",
        "http://x@127.0.0.1",
        "127.0.0.1",
        "x" * 5000,
    ],
)
def test_a_page_from_elsewhere_may_not(server: EngineProcess, origin: str) -> None:
    answer = server.request("GET", "EIO=4&transport=polling", headers={"Origin": origin})
    assert_refused(answer, 4, "Forbidden")
    assert "access-control-allow-origin" not in answer.headers
    connection = server.websocket(4, headers={"Origin": origin})
    assert connection.status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": ""}, 426),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=A"}, 400),
        ({"Upgrade": "h2c"}, 400),
        ({"Connection": "keep-alive"}, 400),
    ],
)
def test_a_websocket_handshake_that_is_none_leaves_nothing_behind(
    server: EngineProcess, headers: dict[str, str], status: int
) -> None:
    before = server.report()["sessions"]
    with server.websocket(4, headers=headers) as connection:
        assert connection.status == status
    assert server.report()["sessions"] == before


def test_no_extension_is_agreed_on(server: EngineProcess) -> None:
    with server.websocket(4, headers={"Sec-WebSocket-Extensions": "permessage-deflate"}) as connection:
        assert connection.status == 101
        assert "extensions" not in connection.head.lower()


def test_messages_are_sent_at_once_and_do_not_wait_for_tcp(server: EngineProcess) -> None:
    with server.joined() as connection:
        connection.send('420["nodelay"]')
        assert connection.receive() == "430[true]"


# -- messages


@BOTH
def test_events_and_acks_go_both_ways_over_polling(server: EngineProcess, protocol: int) -> None:
    poller = server.poller(protocol)
    poller.join()
    answer = poller.post(payload(protocol, '4217["echo","a",{"b":[1,null]}]'))
    assert (answer.status, answer.text) == (200, "ok")
    assert poller.get().text == payload(protocol, '42["echo","a",{"b":[1,null]}]', '4317["a",{"b":[1,null]}]')


@BOTH
def test_events_and_acks_go_both_ways_over_websocket(server: EngineProcess, protocol: int) -> None:
    with server.joined(protocol) as connection:
        connection.send('4217["echo","é😀",1]')
        assert connection.receive() == '42["echo","\\u00e9\\ud83d\\ude00",1]'
        assert connection.receive() == '4317["\\u00e9\\ud83d\\ude00",1]'


@BOTH
def test_images_go_both_ways_over_websocket(server: EngineProcess, protocol: int) -> None:
    image = b"\xff\xd8" + bytes(range(256)) * 700
    wire = image if protocol == 4 else b"\x04" + image
    with server.joined(protocol) as connection:
        connection.send('451-["echo",{"_placeholder":true,"num":0}]')
        connection.send(wire)
        assert connection.receive() == '451-["echo",{"_placeholder":true,"num":0}]'
        assert connection.receive() == wire


def test_images_go_both_ways_over_polling_with_protocol_4(server: EngineProcess) -> None:
    poller = server.poller(4)
    poller.join()
    body = '451-["echo",{"_placeholder":true,"num":0}]\x1eb/9j/'
    poller.post(body)
    assert poller.get().text == body


def test_images_go_both_ways_over_polling_with_protocol_3(server: EngineProcess) -> None:
    poller = server.poller(3)
    text = b'451-["echo",{"_placeholder":true,"num":0}]'
    body = b"\x00\x04\x02\xff" + text + bytes.fromhex("01 04 ff 04 ff d8 ff")
    assert len(text) == 42
    assert poller.post(body, "application/octet-stream").status == 200
    answer = poller.get()
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body == body


def test_a_client_that_asked_for_base64_gets_it_for_the_whole_session(server: EngineProcess) -> None:
    """JavaScript's says `b64=1` in its first request only."""
    poller = server.poller(3, "&b64=1")
    text = '451-["echo",{"_placeholder":true,"num":0}]'
    poller.post(payload(3, text, "b4/9j/"))
    answer = poller.get()
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.text == payload(3, text, "b4/9j/")
    with server.joined(3, "&b64=1") as connection:
        connection.send(text)
        connection.send("b4/9j/")
        assert connection.receive() == text
        assert connection.receive() == "b4/9j/"


def test_several_attachments_find_their_places(server: EngineProcess) -> None:
    with server.joined() as connection:
        connection.send('452-["echo",{"_placeholder":true,"num":1},{"deep":[{"_placeholder":true,"num":0}]}]')
        connection.send(b"zero")
        connection.send(b"one")
        assert (
            connection.receive()
            == '452-["echo",{"_placeholder":true,"num":0},{"deep":[{"_placeholder":true,"num":1}]}]'
        )
        assert connection.receive() == b"one"
        assert connection.receive() == b"zero"


@BOTH
def test_the_server_asks_and_the_client_answers(server: EngineProcess, protocol: int) -> None:
    with server.joined(protocol) as connection:
        connection.send('42["ask"]')
        question = connection.receive()
        assert question == '421["question"]'
        connection.send(f'431["of protocol {protocol}"]')
        until(lambda: ["answer", f"of protocol {protocol}"] in server.happened("answer"), "the answer")
        connection.send('431["again"]')  # to a question that nobody asked
        connection.send('430["zero"]')  # nor to this, where python-socketio keeps its counter
        connection.send('42["ask"]')
        assert connection.receive() == '422["question"]'
        assert ["answer", "again"] not in server.happened("answer")


def test_an_application_may_send_json_below_socketio_as_python_engineio_allows(server: EngineProcess) -> None:
    with server.joined() as connection:
        connection.send('42["send_json"]')
        assert connection.receive() == '4{"a":[1,null]}'


def test_large_answers_to_a_poll_are_compressed_only_while_that_is_quick(server: EngineProcess) -> None:
    poller = server.poller()
    poller.join()

    def fetch(text: str) -> Answer:
        poller.post(f'42["echo","{text}"]')
        return server.request("GET", poller.query, headers={"Accept-Encoding": "gzip"})

    short, middle, long = fetch("x"), fetch("x" * 5_000), fetch("x" * 200_000)
    assert "content-encoding" not in short.headers
    assert middle.headers["content-encoding"] == "gzip"
    assert gzip.decompress(middle.body).decode() == f'42["echo","{"x" * 5_000}"]'
    assert "content-encoding" not in long.headers


# -- joining namespaces


@BOTH
def test_another_namespace_is_joined_beside_the_main_one(server: EngineProcess, protocol: int) -> None:
    with server.joined(protocol) as connection:
        if protocol == 4:
            connection.send('40/cam,{"token":"abc"}')
            answer = connection.receive()
            assert isinstance(answer, str)
            assert answer.startswith('40/cam,{"sid":"')
        else:
            connection.send("40/cam?token=abc")
            assert connection.receive() == "40/cam,"
        connection.send('42/cam,["echo",1]')
        assert connection.receive() == '42/cam,["echo",1]'
        connection.send('42["echo",2]')
        assert connection.receive() == '42["echo",2]'
        assert server.happened("connect /cam")[-1] == ["connect /cam", {"token": "abc"}]


@BOTH
@pytest.mark.parametrize(
    ("namespace", "protocol_3", "protocol_4"),
    [
        ("/deny", '{"code":42}', '{"message":"no","data":{"code":42}}'),
        ("/locked", '"no entry"', '{"message":"no entry"}'),
        ("/nowhere", '"Invalid namespace"', '{"message":"Invalid namespace"}'),
    ],
)
def test_a_refusal_says_why_and_the_session_goes_on(
    server: EngineProcess, protocol: int, namespace: str, protocol_3: str, protocol_4: str
) -> None:
    with server.joined(protocol) as connection:
        connection.send(f"40{namespace},")
        answer = connection.receive()
        assert answer == f"44{namespace},{protocol_3 if protocol == 3 else protocol_4}"
        connection.send('42["echo",1]')
        assert connection.receive() == '42["echo",1]'


def test_events_to_a_namespace_that_was_not_joined_reach_no_handler(server: EngineProcess) -> None:
    with server.websocket(4) as connection:
        connection.send('42["echo","from outside"]')
        connection.send("40")
        connection.receive()
        connection.send('42/cam,["echo","from outside"]')
        connection.send('42["echo","end"]')
        assert connection.receive() == '42["echo","end"]'
    assert ["echo", "from outside"] not in server.happened("echo")


def test_joining_twice_changes_nothing(server: EngineProcess) -> None:
    with server.joined() as connection:
        connection.send("40")
        connection.send('42["echo",1]')
        assert connection.receive() == '42["echo",1]'


def test_leaving_and_joining_again_works_on_one_connection(server: EngineProcess) -> None:
    with server.joined(query="&behave=comes+back") as connection:
        connection.send("41")
        assert server.until_ended("comes back") == "client disconnect"
        connection.send("40")
        answer = connection.receive()
        assert isinstance(answer, str)
        assert answer.startswith("40{")


@pytest.mark.parametrize(
    "event", ["connect", "disconnect", "connect_error", "disconnecting", "error", "newListener", "removeListener"]
)
def test_names_of_the_protocols_own_events_reach_no_handler(server: EngineProcess, event: str) -> None:
    connects, ends = len(server.happened("connect")), len(server.happened("disconnect"))
    with server.joined() as connection:
        connection.send(f'420["{event}","transport close"]')
        connection.send('42["echo",1]')
        assert connection.receive() == '42["echo",1]'
        assert len(server.happened("connect")) == connects + 1
        assert len(server.happened("disconnect")) == ends
        assert not server.happened("lifecycle")


# -- what breaks the protocol ends the session, and tells nothing


JUNK = {
    "no type": "4",
    "type 7": '47["x"]',
    "letters": "4abc",
    "no JSON": '42["echo"',
    "JSON that is no list": '42{"echo":1}',
    "an event without a name": "42[]",
    "an event whose name is a number": "42[1]",
    "an event whose name is an attachment": '451-[{"_placeholder":true,"num":0}]',
    "a list that is too deep for Python": "42" + "[" * 60_000,
    "a list that is too deep": '42["echo",' + "[" * 100 + "]" * 101,
    "an object that is too deep": '42["echo",' + '{"a":' * 100 + "1" + "}" * 100 + "]",
    "a number that is too long": '42["echo",' + "1" * 10_000 + "]",
    "an ack without a number": "43[1]",
    "an ack without data": "431",
    "a refusal, from a client": '44{"message":"no"}',
    "a CONNECT with a list": "40[1]",
    "a DISCONNECT with data": '41{"a":1}',
    "a number that is too long, of an ack": "42" + "1" * 200 + '["echo"]',
    "eleven attachments": '4511-["echo"]',
    "billions of attachments": '45999999999-["echo"]',
    "more attachments than a number can say": '4599999999999-["echo"]',
    "attachments of a plain event": '421-["echo"]',
    "attachments in other digits": '45²-["echo"]',
    "engine type 7": "7",
    "an engine OPEN": "0{}",
    "an engine UPGRADE": "5",
    "engine letters": "hello",
    "nothing": "",
    "base64 that is none": "b!!",
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("what", JUNK)
def test_junk_over_websocket_closes_the_connection(server: EngineProcess, protocol: int, what: str) -> None:
    behaviour = f"junk {what} {protocol}"
    errors = server.report()["protocol_errors"]
    with server.joined(protocol, f"&behave={behaviour.replace(' ', '+')}") as connection:
        connection.send(JUNK[what])
        if "name is an attachment" in what:
            connection.send(b"x" if protocol == 4 else b"\x04x")
        assert connection.receive() == WebSocketClosed(1000 if protocol == 4 else None)
    assert server.until_ended(behaviour) == "transport error"
    assert server.report()["protocol_errors"] == errors + 1


@BOTH
@pytest.mark.parametrize(
    "what", ["letters", "no JSON", "eleven attachments", "engine letters", "a list that is too deep for Python"]
)
def test_junk_over_polling_is_a_400_or_ends_the_session(server: EngineProcess, protocol: int, what: str) -> None:
    behaviour = f"polled junk {what} {protocol}"
    poller = server.poller(protocol, f"&behave={behaviour.replace(' ', '+')}")
    poller.join()
    answer = poller.post(payload(protocol, JUNK[what]))
    assert answer.text in ("ok", '{"code": 3, "message": "Bad request"}')
    assert server.until_ended(behaviour) == "transport error"
    assert_refused(poller.get(), 1, "Session ID unknown")


@pytest.mark.parametrize(
    "body", ["abc", "", "4hello\x1e", b"\xff\xfe", "0:", "4" * 1_000_001], ids=lambda b: repr(b)[:20]
)
def test_a_bad_payload_is_a_400_and_ends_the_session_and_its_waiting_poll(
    server: EngineProcess, body: str | bytes
) -> None:
    poller = server.poller()
    poller.join()
    waiting = poller.begin_get()
    assert_refused(poller.post(body), 3, "Bad request")
    assert server.finish(waiting).text == "1"
    assert_refused(poller.get(), 1, "Session ID unknown")


@pytest.mark.parametrize("length", ["-1", "abc", "1000001", "99999999999", "9" * 5000], ids=lambda length: length[:12])
def test_a_body_of_a_length_that_is_none_or_too_large_is_not_read(server: EngineProcess, length: str) -> None:
    poller = server.poller()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /socket.io/?{poller.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + b"4x")
        assert b" 400 " in connection.recv(100)


def test_a_body_that_ends_early_ends_the_session(server: EngineProcess) -> None:
    poller = server.poller(query="&behave=ends+early")
    poller.join()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /socket.io/?{poller.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        connection.sendall(head.encode() + b"4")
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.recv(100)
    assert server.until_ended("ends early") == "transport error"


def test_binary_messages_that_nothing_announced_and_text_in_their_place_close_the_connection(
    server: EngineProcess,
) -> None:
    with server.joined() as connection:
        connection.send(b"out of nowhere")
        assert connection.receive() == WebSocketClosed(1000)
    with server.joined() as connection:
        connection.send('451-["echo",{"_placeholder":true,"num":0}]')
        connection.send('42["echo"]')
        assert connection.receive() == WebSocketClosed(1000)
    with server.websocket(4) as connection:
        connection.send('451-["echo",{"_placeholder":true,"num":0}]')  # before it has joined
        assert connection.receive() == WebSocketClosed(1000)


@pytest.mark.parametrize("number", ["1", "-1", "true", "false", "null", '"0"', "0.0", "1e99"])
def test_a_placeholder_for_an_attachment_that_is_not_there_closes_the_connection(
    server: EngineProcess, number: str
) -> None:
    with server.joined() as connection:
        connection.send(f'451-["echo",{{"_placeholder":true,"num":{number}}}]')
        connection.send(b"x")
        assert connection.receive() == WebSocketClosed(1000)


def test_ten_attachments_are_taken(server: EngineProcess) -> None:
    places = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(10))
    with server.joined() as connection:
        connection.send(f'4510-["echo",{places}]')
        for number in range(10):
            connection.send(bytes((number,)))
        assert connection.receive() == f'4510-["echo",{places}]'


def test_attachments_together_are_no_larger_than_one_message_may_be(server: EngineProcess) -> None:
    places = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
    with server.joined() as connection:
        connection.send(f'452-["echo",{places}]')
        connection.send(bytes(600_000))
        connection.send(bytes(600_000))
        assert connection.receive() == WebSocketClosed(1000)


WEBSOCKET_FAULTS = {
    "no mask": (client_frame(TEXT, b"2", mask=None), 1002),
    "a reserved bit": (client_frame(TEXT, b"2", rsv=1), 1002),
    "a reserved opcode": (client_frame(3, b"2"), 1002),
    "text that is not UTF-8": (client_frame(TEXT, b"4\xff"), 1007),
    "a message that is too large": (struct.pack("!BBQ", 0x82, 0xFF, 1_000_001) + b"mask", 1009),
    "endless fragments": (
        client_frame(BINARY, bytes(500_000), fin=False) + 3 * client_frame(CONTINUATION, bytes(500_000), fin=False),
        1009,
    ),
    "a close code that is none": (client_frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "a close code and more": (client_frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
}


@pytest.mark.parametrize("what", WEBSOCKET_FAULTS)
def test_a_fault_of_the_websocket_is_told_by_its_close_code(server: EngineProcess, what: str) -> None:
    data, code = WEBSOCKET_FAULTS[what]
    behaviour = f"fault {what}"
    with server.joined(query=f"&behave={behaviour.replace(' ', '+')}") as connection:
        connection.send_raw(data)
        assert connection.receive_end() == WebSocketClosed(code)
    assert server.until_ended(behaviour) == "transport close"


def test_a_client_that_is_still_sending_when_it_is_refused_can_finish_and_read_why(server: EngineProcess) -> None:
    """Closing a socket with unread bytes resets the connection, and the close frame may be lost with it."""
    with server.joined() as connection:
        connection.send_raw(client_frame(3, b"x"))
        for _ in range(30):
            connection.send_raw(bytes(100_000))
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.receive() == WebSocketClosed(1002)
        assert connection.receive_frame() is None


def test_nothing_internal_is_ever_written_to_a_client(server: EngineProcess) -> None:
    answers = [
        server.request(method, query, body).text
        for method in ("GET", "POST", "PUT")
        for query in (
            "",
            "EIO=4",
            "EIO=%ff&transport=polling",
            "EIO=4&transport=polling&sid=%00",
            "&&&===",
            "j=1&transport=polling",
        )
        for body in (None, b"\xff")
    ]
    with server.joined() as connection:
        for event in ("fail", "return_object"):
            connection.send(f'420["{event}",1]')
        connection.send('42["echo","end"]')
        answers.append(str(connection.receive()))
    for behaviour in ("raise", "refuse"):
        with server.websocket(4, f"&behave={behaviour}") as connection:
            connection.send("40")
            answers.append(str(connection.receive()))
    answers.append(server.request("GET", "EIO=3&transport=polling&behave=raise").text)
    for answer in answers:
        for word in INTERNALS:
            assert word.lower() not in answer.lower()


# -- handlers


def test_a_handler_that_raises_costs_its_event_and_nothing_more(server: EngineProcess) -> None:
    errors = server.report()["handler_errors"]
    with server.joined() as connection:
        connection.send('420["fail"]')
        connection.send('42["ask"]')
        assert connection.receive() == '421["question"]'
        connection.send('431["fail"]')
        connection.send('421["echo",1]')
        assert connection.receive() == '42["echo",1]'
        assert connection.receive() == "431[1]"
    until(lambda: server.report()["handler_errors"] == errors + 2, "both errors to be counted")


@pytest.mark.parametrize("transport", ["polling 3", "polling 4", "websocket 3", "websocket 4"])
def test_a_connect_handler_that_raises_ends_the_session_and_leaves_nothing_behind(
    own: EngineProcess, transport: str
) -> None:
    kind, protocol = transport.split()
    if kind == "polling":
        poller = own.poller(int(protocol), "&behave=raise")
        if protocol == "4":
            poller.post("40")
        assert_refused(poller.get(), 1, "Session ID unknown")
    else:
        with RawWebSocket(own.port, f"/socket.io/?EIO={protocol}&transport=websocket&behave=raise") as connection:
            connection.receive()
            connection.send("40")
            assert connection.receive_end() in (WebSocketClosed(1000), WebSocketClosed(None))
    own.until_all_gone()


def test_a_disconnect_handler_that_raises_leaves_nothing_behind(own: EngineProcess) -> None:
    errors = own.report()["handler_errors"]
    own.joined(query="&behave=raises+at+its+end").close()
    until(lambda: own.report()["handler_errors"] == errors + 1, "the error to be counted")
    own.until_all_gone()


def test_a_disconnect_handler_has_the_session_of_its_client(server: EngineProcess) -> None:
    server.joined(query="&behave=with+data").close()
    assert server.until_ended("with data") == "transport close"
    assert server.happened("disconnect")[-1][3] == {"user": "with data"}


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_that_goes_while_its_connect_handler_waits_is_said_goodbye_to(
    own: EngineProcess, protocol: int
) -> None:
    """Or whoever was told of its coming would keep it for ever."""
    done = len(own.happened("slow connect done"))
    ends = len(own.disconnects("slow"))
    connection = RawWebSocket(own.port, f"/socket.io/?EIO={protocol}&transport=websocket&behave=slow")
    connection.receive()
    if protocol == 4:
        connection.send("40")
    until(lambda: any(known == "slow" for _, known, *_ in own.happened("connect")), "the connect handler to begin")
    connection.close()
    until(lambda: len(own.happened("slow connect done")) > done, "the connect handler to end")
    until(lambda: len(own.disconnects("slow")) == ends + 1, "the goodbye")
    own.until_all_gone()


def test_a_polling_client_that_closes_while_its_connect_handler_waits_is_said_goodbye_to(own: EngineProcess) -> None:
    ends = len(own.disconnects("slow"))
    poller = own.poller(4, "&behave=slow")
    waiting = own.begin("POST", poller.query, "40")
    until(lambda: any(known == "slow" for _, known, *_ in own.happened("connect")), "the connect handler to begin")
    assert_refused(poller.post("1"), 3, "Bad request")  # a second post, which ends the session
    assert own.finish(waiting).status == 200
    until(lambda: len(own.disconnects("slow")) == ends + 1, "the goodbye")
    own.until_all_gone()


# -- two at once


@BOTH
def test_two_polls_at_once_end_the_session(server: EngineProcess, protocol: int) -> None:
    poller = server.poller(protocol, "&behave=two+polls")
    poller.join()
    first = poller.begin_get()
    second = poller.begin_get()
    texts = sorted(server.finish(each).text for each in (first, second))
    assert texts == sorted([payload(protocol, "1"), '{"code": 3, "message": "Bad request"}'])
    assert_refused(poller.get(), 1, "Session ID unknown")


def test_two_posts_at_once_end_the_session_whichever_is_sent_faster(server: EngineProcess) -> None:
    poller = server.poller(query="&behave=two+posts")
    poller.join()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        head = f"POST /socket.io/?{poller.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n"
        slow.sendall(head.encode() + b"42[")
        until(lambda: poller.post('42["echo","overtakes"]').status == 400, "the second post to be refused", 5)
        assert server.until_ended("two posts") == "transport error"
        slow.sendall(b'"echo","slow"]')
    assert ["echo", "slow"] not in server.happened("echo")


# -- upgrade


@BOTH
def test_a_session_moves_to_a_websocket_and_keeps_its_messages(server: EngineProcess, protocol: int) -> None:
    poller = server.poller(protocol)
    poller.join()
    with RawWebSocket(server.port, poller.upgrade_path()) as connection:
        waiting = poller.begin_get()
        connection.send("2probe")
        assert connection.receive() == "3probe"
        assert server.finish(waiting).text == payload(protocol, "6")
        assert poller.get().text == payload(protocol, "6")  # nobody waits in a poll while the upgrade is under way
        poller.post(payload(protocol, '42["echo","before"]'))
        connection.send("5")
        connection.send('42["echo","after"]')
        assert connection.receive() == '42["echo","before"]'
        assert connection.receive() == '42["echo","after"]'
        assert_refused(poller.get(), 3, "Bad request")
        assert_refused(poller.post(payload(protocol, '42["echo","polled"]')), 3, "Bad request")
        other = RawWebSocket(server.port, poller.upgrade_path())
        assert other.status == 400
        connection.send('42["echo","still there"]')
        assert connection.receive() == '42["echo","still there"]'


def test_a_poll_that_waits_is_answered_also_when_the_upgrade_is_over_in_one_go(server: EngineProcess) -> None:
    poller = server.poller(4)
    poller.join()
    waiting = poller.begin_get()
    with RawWebSocket(server.port, poller.upgrade_path()) as connection:
        connection.send_raw(client_frame(TEXT, b"2probe") + client_frame(TEXT, b"5"))
        assert connection.receive() == "3probe"
        assert server.finish(waiting).text == "6"


@pytest.mark.parametrize("first", ["2", "3probe", "4hello", "5", "", b"2probe"], ids=repr)
def test_an_upgrade_that_begins_otherwise_fails_and_polling_goes_on(server: EngineProcess, first: str | bytes) -> None:
    poller = server.poller(4)
    poller.join()
    with RawWebSocket(server.port, poller.upgrade_path()) as connection:
        connection.send(first)
        assert connection.receive() == WebSocketClosed(1000)
    poller.post('42["echo",1]')
    assert poller.get().text == '42["echo",1]'


@pytest.mark.parametrize("how", ["closes", "vanishes", "says something else"])
def test_an_upgrade_that_is_not_finished_fails_and_polling_goes_on(server: EngineProcess, how: str) -> None:
    poller = server.poller(4)
    poller.join()
    with RawWebSocket(server.port, poller.upgrade_path()) as connection:
        connection.send("2probe")
        assert connection.receive() == "3probe"
        if how == "closes":
            connection.send_raw(client_frame(CLOSE, struct.pack("!H", 1000)))
        elif how == "says something else":
            connection.send('42["echo","too early"]')
        if how != "vanishes":
            assert isinstance(connection.receive(), WebSocketClosed)
    poller.post('42["echo",1]')
    until(lambda: poller.get().text == '42["echo",1]', "polling to go on")
    with RawWebSocket(server.port, poller.upgrade_path()) as again:  # and it may try again
        again.send("2probe")
        assert again.receive() == "3probe"
        again.send("5")
        again.send('42["echo",2]')
        assert again.receive() == '42["echo",2]'


@pytest.mark.parametrize("probes", [True, False])
def test_an_upgrade_that_is_begun_and_not_gone_on_with_is_given_up(tmp_path: Path, probes: bool) -> None:
    with engine_process(tmp_path / "log", upgrade_sec=0.3) as server:
        poller = server.poller(4)
        poller.join()
        with RawWebSocket(server.port, poller.upgrade_path()) as connection:
            if probes:
                connection.send("2probe")
                assert connection.receive() == "3probe"
            assert connection.receive() == WebSocketClosed(None)
        poller.post('42["echo",1]')
        assert poller.get().text == '42["echo",1]'


def test_only_one_upgrade_at_a_time(server: EngineProcess) -> None:
    poller = server.poller(4)
    poller.join()
    with RawWebSocket(server.port, poller.upgrade_path()) as connection:
        connection.send("2probe")
        assert connection.receive() == "3probe"
        assert RawWebSocket(server.port, poller.upgrade_path()).status == 400
        connection.send("5")
        connection.send('42["echo",2]')
        assert connection.receive() == '42["echo",2]'


# -- the end


def test_a_client_that_closes_over_polling_gets_its_poll_back(server: EngineProcess) -> None:
    poller = server.poller(4, "&behave=leaves")
    poller.join()
    waiting = poller.begin_get()
    assert poller.post("1").status == 200
    assert server.finish(waiting).text == "6"
    assert_refused(poller.get(), 1, "Session ID unknown")
    assert server.until_ended("leaves") == "client disconnect"


def test_a_session_has_ended_for_requests_while_its_disconnect_handler_still_waits(server: EngineProcess) -> None:
    poller = server.poller(4, "&behave=lingers")
    poller.join()
    waiting = server.begin("POST", poller.query, "1")
    until(lambda: server.happened("lingers"), "the disconnect handler to begin")
    assert_refused(poller.get(), 1, "Session ID unknown")
    assert_refused(poller.post("4x"), 1, "Session ID unknown")
    assert server.finish(waiting).status == 200
    assert server.disconnects("lingers") == ["client disconnect"]


def test_a_websocket_client_may_close_with_a_packet_a_frame_or_not_at_all(server: EngineProcess) -> None:
    with server.joined(query="&behave=by+packet") as connection:
        connection.send("1")
        assert connection.receive() == WebSocketClosed(1000)
    with server.joined(query="&behave=by+frame") as connection:
        connection.send_raw(client_frame(CLOSE, struct.pack("!H", 3001) + b"bye"))
        assert connection.receive() == WebSocketClosed(3001)
    server.joined(query="&behave=by+hanging+up").close()
    assert server.until_ended("by packet") == "client disconnect"
    assert server.until_ended("by frame") == "transport close"
    assert server.until_ended("by hanging up") == "transport close"


def test_the_server_closes_with_a_close_frame_and_waits_for_its_answer(server: EngineProcess) -> None:
    with server.joined(query="&behave=closed") as connection:
        connection.send("nonsense")
        assert connection.receive() == WebSocketClosed(1000)
        assert server.until_ended("closed") == "transport error"
        connection.send_raw(client_frame(CLOSE, struct.pack("!H", 1000)))
        assert connection.receive_frame() is None


def test_the_server_does_not_wait_for_ever_for_the_answer_to_its_close_frame(server: EngineProcess) -> None:
    with server.joined() as connection:
        connection.send("nonsense")
        assert connection.receive() == WebSocketClosed(1000)
        begun = time.monotonic()
        assert connection.receive_frame() is None
        assert time.monotonic() - begun < 5


@BOTH
def test_a_websocket_client_that_is_dropped_sees_its_connection_fail(server: EngineProcess, protocol: int) -> None:
    """Told by a close frame, the Java clients would not come back."""
    with server.joined(protocol, query=f"&behave=dropped+{protocol}") as connection:
        connection.send('42["drop"]')
        assert connection.receive_frame() is None
        assert server.until_ended(f"dropped {protocol}") == "server disconnect"


@BOTH
def test_a_polling_client_that_is_dropped_sees_its_poll_fail(server: EngineProcess, protocol: int) -> None:
    """Told by a CLOSE packet, the Python clients would not come back."""
    poller = server.poller(protocol, f"&behave=dropped+poller+{protocol}")
    poller.join()
    waiting = poller.begin_get()
    event = '42["drop"]'
    poller.post(event if protocol == 4 else f"{len(event)}:{event}")
    assert server.finish(waiting).status == 400
    assert server.until_ended(f"dropped poller {protocol}") == "server disconnect"


def test_a_client_that_is_told_to_leave_gets_a_disconnect_and_its_connection_stays(server: EngineProcess) -> None:
    with server.joined(query="&behave=told+to+leave") as connection:
        connection.send('42["leave"]')
        assert connection.receive() == "41"
        assert server.until_ended("told to leave") == "server disconnect"
        connection.send("40")
        assert str(connection.receive()).startswith("40{")


def test_a_client_that_is_told_to_leave_and_stays_is_cut_a_second_later(server: EngineProcess) -> None:
    with server.joined() as connection:
        began = time.monotonic()
        connection.send('42["leave"]')
        assert connection.receive() == "41"
        assert connection.receive() == WebSocketClosed(None), "without a handshake, which it would not finish"
        assert 0.8 < time.monotonic() - began < 2.5


def test_when_clients_have_gone_nothing_is_left_of_them(own: EngineProcess) -> None:
    open_ones = [own.joined(protocol) for protocol in (3, 4) for _ in range(3)]
    for number, connection in enumerate(open_ones):
        connection.send('451-["echo",{"_placeholder":true,"num":0}]')  # and not the image
        if number % 2:
            connection.send_raw(client_frame(BINARY, bytes(70_000))[:10_000])
        connection.send('42["ask"]') if number == 0 else None
    for connection in open_ones:
        connection.close()
    own.until_all_gone()


# -- heartbeat


def test_protocol_4_is_pinged_and_answers(quick: EngineProcess) -> None:
    with quick.joined(query="&behave=answers") as connection:
        for _ in range(3):
            assert connection.receive() == "2"
            connection.send("3")
        assert not quick.disconnects("answers")


def test_protocol_4_without_an_answer_is_closed(quick: EngineProcess) -> None:
    begun = time.monotonic()
    with quick.joined(query="&behave=silent") as connection:
        assert connection.receive() == "2"
        assert connection.receive_end() == WebSocketClosed(1000)
    assert 0.7 < time.monotonic() - begun < 5
    assert quick.until_ended("silent") == "ping timeout"


def test_protocol_3_pings_and_is_answered_with_what_it_said(quick: EngineProcess) -> None:
    with quick.joined(3) as connection:
        connection.send("2")
        assert connection.receive() == "3"
        connection.send("2some data")
        assert connection.receive() == "3some data"
    poller = quick.poller(3)
    poller.post("1:2")
    assert poller.get().text == "1:3"


def test_protocol_3_is_closed_when_it_falls_silent_and_not_while_it_talks(quick: EngineProcess) -> None:
    with quick.joined(3, "&behave=silent+3") as silent, quick.joined(3, "&behave=talks+3") as talks:
        begun = time.monotonic()
        while not quick.disconnects("silent 3"):
            talks.send("2")
            assert talks.receive() == "3"
            assert time.monotonic() - begun < 5
        assert time.monotonic() - begun > 0.5
        assert silent.receive_end() == WebSocketClosed(None)
        assert not quick.disconnects("talks 3")
    assert quick.disconnects("silent 3") == ["ping timeout"]


def test_a_disconnect_handler_may_wait_also_when_a_timer_ends_the_session(quick: EngineProcess) -> None:
    with quick.joined(query="&behave=waits+at+its+end") as connection:
        connection.receive_end()
        assert quick.until_ended("waits at its end") == "ping timeout"
    quick.until_all_gone()


@BOTH
def test_a_polling_client_that_never_comes_back_is_closed(quick: EngineProcess, protocol: int) -> None:
    behaviour = f"never polls {protocol}"
    poller = quick.poller(protocol, f"&behave={behaviour.replace(' ', '+')}")
    poller.join()
    assert quick.until_ended(behaviour, 5) == "ping timeout"
    assert_refused(poller.get(), 1, "Session ID unknown")


def test_that_a_poll_was_answered_does_not_show_that_its_client_lives(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The ping goes out into the poll of a phone without a network; one interval and one timeout later it is gone."""
    with engine_process(tmp_path_factory.mktemp("slow") / "log", ping_interval=0.3, ping_timeout=2) as server:
        poller = server.poller(4, "&behave=lost")
        poller.join()
        waiting = poller.begin_get()
        begun = time.monotonic()
        assert server.finish(waiting).text == "2"
        server.until_ended("lost")
        assert time.monotonic() - begun < 0.3 + 2 + 1.5  # not twice


def test_whoever_is_busy_sending_is_not_taken_for_dead(quick: EngineProcess) -> None:
    """A large frame over a slow line: its bytes are the sign of life."""
    image = bytes(range(250))
    with quick.joined(query="&behave=busy") as connection:
        connection.send('451-["echo",{"_placeholder":true,"num":0}]')
        begun = time.monotonic()
        for byte in client_frame(BINARY, image):
            connection.send_raw(bytes((byte,)))
            time.sleep(0.006)  # the pace of the slow line, and not a wait for anything
        assert time.monotonic() - begun > 1.2, "as long as it takes to be taken for dead"
        while (message := connection.receive()) != image:
            assert not isinstance(message, WebSocketClosed)
        assert not quick.disconnects("busy")


# -- asking for a sign of life


@BOTH
def test_a_websocket_that_lives_says_so(server: EngineProcess, protocol: int) -> None:
    with server.joined(protocol, f"&behave=lives+{protocol}") as connection:
        asked = server.begin("GET", f"user=lives+{protocol}", path="/alive")
        opcode, body = connection.receive_frame() or (None, b"")
        assert opcode == PING
        connection.send_raw(client_frame(PONG, body))
        assert server.finish(asked).text == "true"


def test_a_websocket_that_is_silent_is_dead(server: EngineProcess) -> None:
    with server.joined(query="&behave=sleeps") as connection:
        assert not server.alive("sleeps")
        assert connection.receive_frame() == (PING, b"")


def test_a_polling_client_that_comes_back_when_called_lives(server: EngineProcess) -> None:
    poller = server.poller(4, "&behave=comes")
    poller.join()
    waiting = poller.begin_get()
    asked = server.begin("GET", "user=comes", path="/alive")
    begun = time.monotonic()
    assert server.finish(waiting).text == "6"
    again = poller.begin_get()
    assert server.finish(asked).text == "true"
    assert time.monotonic() - begun < 0.9  # it did not have to wait out its second
    again.close()


def test_a_polling_client_that_does_not_come_back_lives_until_it_was_silent_for_too_long(tmp_path: Path) -> None:
    with engine_process(tmp_path / "log", polling_silence_sec=1.5) as server:
        poller = server.poller(4, "&behave=away")
        poller.join()
        waiting = poller.begin_get()
        assert server.alive("away"), "it was here just now, and may be on its way"
        assert server.finish(waiting).text == "6"
        until(lambda: not server.alive("away"), "to be taken for dead")


# -- clients that are slow, and clients that are too fast


def test_a_reader_that_is_slow_gets_everything_in_the_end(server: EngineProcess) -> None:
    with server.joined() as connection:
        for turn in range(5):  # 10 MB each, more than socket buffers hold; together more than the bound
            connection.send('420["fill",100,100000]')
            connection.send(f'42["echo","pong {turn}"]')
            until(lambda turn=turn: ["echo", f"pong {turn}"] in server.happened("echo"), "the server to have sent it")
            images = [connection.receive() for _ in range(200)][1::2]
            assert images == [bytes(100_000)] * 100
            assert connection.receive() == '430["filled"]'
            assert connection.receive() == f'42["echo","pong {turn}"]'


def test_a_websocket_that_does_not_read_is_closed_at_its_bound(server: EngineProcess) -> None:
    with server.joined(query="&behave=full") as connection:
        connection.send('42["fill",250,100000]')
        assert server.until_ended("full") == "transport close"
    assert "it does not read" in server.log


def test_a_websocket_that_does_not_read_is_closed_at_its_bound_of_messages(server: EngineProcess) -> None:
    with server.joined(query="&behave=many") as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send('42["fill",1,8000000]')
        connection.send('42["fill",600,10]')
        assert server.until_ended("many") == "transport close"


def test_a_client_that_does_not_poll_is_closed_at_its_bound_and_not_before(server: EngineProcess) -> None:
    patient = server.poller(4, "&behave=patient")
    patient.join()
    patient.post('42["fill",400,100]')  # 800 packets
    assert [patient.get().text.count("\x1e") for _ in range(50)] == [15] * 50, "16 packets a poll"
    full = server.poller(4, "&behave=full+poller")
    full.join()
    full.post('42["fill",600,100]')
    assert server.until_ended("full poller") == "transport error"
    assert not server.disconnects("patient")
    server.report("reset")


@pytest.mark.parametrize(
    "flood",
    [
        client_frame(PING) * 20_000,
        client_frame(TEXT, b"3") * 20_000,
        client_frame(TEXT, b'42["nobody"]') * 10_000,
        client_frame(BINARY, fin=False) + 20_000 * client_frame(CONTINUATION, fin=False),
    ],
    ids=["pings", "pongs", "events", "fragments"],
)
def test_a_flood_of_tiny_messages_does_not_stop_the_others(own: EngineProcess, flood: bytes) -> None:
    with own.joined() as connection:
        own.report("reset")
        connection.send_raw(flood + client_frame(CLOSE, struct.pack("!H", 1000)))
        assert connection.receive_end().code == 1000
        longest = own.report()["longest_turn_sec"]
    assert longest < 0.03, f"others waited {longest * 1000:.0f} ms"
