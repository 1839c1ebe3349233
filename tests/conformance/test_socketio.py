"""Socket.IO, protocol 5, as its document says it, on a server that greets with `auth` and sends arguments back."""

import json
import time
from collections.abc import Callable

import pytest

from conformance.clients import OPENING, Peer, handshake, receive, side_by_side
from raw_engineio import RawWebSocket, WebSocketClosed

#: The server's, for who is in no namespace.
JOIN_SEC = 1.0
LATE_SEC = 0.7


def joined(socketio: Peer) -> RawWebSocket:
    """A WebSocket in `/` that has been greeted."""
    connection = socketio.websocket()
    connection.send("40")
    assert str(receive(connection)).startswith('40{"sid":')
    assert receive(connection) == '42["auth",{}]'
    return connection


def assert_alive(connection: RawWebSocket) -> None:
    connection.send('42["message","alive"]')
    assert receive(connection) == '42["message-back","alive"]'


def assert_closed(connection: RawWebSocket) -> None:
    """At once, and not for its silence."""
    assert connection.receive() == WebSocketClosed(1000)


# -- Engine.IO below it


def test_both_transports_begin_with_the_documented_keys(socketio: Peer) -> None:
    poller = socketio.poller()
    assert poller.handshake == {"sid": poller.sid, "upgrades": ["websocket"], **OPENING}
    with socketio.bare_websocket("EIO=4&transport=websocket") as connection:
        opening = handshake(connection)
    assert opening == {"sid": opening["sid"], "upgrades": [], **OPENING}


# -- connecting

NAMESPACES = pytest.mark.parametrize(
    ("namespace", "written"),
    [("/", ""), ("/", "/,"), ("/custom", "/custom,"), ("/custom", "/custom"), ("/custom", "/custom?a=b,")],
)
AUTHS = pytest.mark.parametrize("auth", ["", "{}", '{"token":"123"}', '{"deep":{"list":[1,null,true,"x"]}}'])


@AUTHS
@NAMESPACES
def test_a_client_joins_a_namespace_and_is_greeted_after_that(
    socketio: Peer, namespace: str, written: str, auth: str
) -> None:
    if auth and not written.endswith(",") and written:
        written += ","
    prefix = "" if namespace == "/" else f"{namespace},"
    with socketio.websocket() as connection:
        connection.send(f"40{written}{auth}")
        answer = receive(connection)
        assert isinstance(answer, str)
        assert answer.startswith(f"40{prefix}")
        content = json.loads(answer.removeprefix(f"40{prefix}"))
        assert set(content) == {"sid"}
        assert isinstance(content["sid"], str)
        assert receive(connection) == f'42{prefix}["auth",{auth or "{}"}]'


def test_a_client_joins_over_polling(socketio: Peer) -> None:
    poller = socketio.poller()
    assert poller.post('40{"token":"123"}').text == "ok"
    connected, greeting = poller.get().text.split("\x1e")
    assert connected.startswith('40{"sid":"')
    assert greeting == '42["auth",{"token":"123"}]'


def test_every_namespace_has_its_own_id_and_none_is_the_sessions(socketio: Peer) -> None:
    with socketio.bare_websocket("EIO=4&transport=websocket") as connection:
        ids = {handshake(connection)["sid"]}
        connection.send("40")
        connection.send("40/custom,")
        answers = [str(receive(connection)) for _ in range(4)]
    ids |= {json.loads(answer[answer.index("{") :])["sid"] for answer in answers if '"sid"' in answer}
    assert len(ids) == 3


@pytest.mark.parametrize("written", ["/random", "/random,", '/random,{"token":"x"}', "/random?a=b,"])
def test_another_namespace_is_refused_by_name_and_the_session_goes_on(socketio: Peer, written: str) -> None:
    with socketio.websocket() as connection:
        connection.send(f"40{written}")
        assert receive(connection) == '44/random,{"message":"Invalid namespace"}'
        connection.send("40")
        assert str(receive(connection)).startswith('40{"sid":')


@pytest.mark.parametrize("first", ["4abc", "47", "4", "40[]", '40"x"', "40{", "40null}", "40/custom,[1]"])
def test_a_handshake_that_is_none_closes_the_connection(socketio: Peer, first: str) -> None:
    with socketio.websocket() as connection:
        connection.send(first)
        assert_closed(connection)


def test_a_client_that_joins_nothing_is_closed_over_both_transports(socketio: Peer) -> None:
    def says(*packets: str) -> Callable[[], None]:
        def player() -> None:
            began = time.monotonic()
            with socketio.websocket() as connection:
                for packet in packets:
                    connection.send(packet)
                while not isinstance(receive(connection), WebSocketClosed):
                    pass
                assert JOIN_SEC - 0.05 < time.monotonic() - began < JOIN_SEC + LATE_SEC

        return player

    def leaves_nothing_again_and_again() -> None:
        """What it is not in it cannot leave, and that gives it no more time."""
        began = time.monotonic()
        with socketio.websocket() as connection:
            while connection.receive() == "2":
                connection.send("3")
                connection.send("41")
            assert time.monotonic() - began < JOIN_SEC + LATE_SEC

    def polls() -> None:
        began = time.monotonic()
        poller = socketio.poller()
        while (answer := poller.get()).text == "2":
            poller.post("3")
        assert JOIN_SEC - 0.05 < time.monotonic() - began < JOIN_SEC + LATE_SEC
        assert answer.text == "1" or answer.status == 400
        assert poller.get().status == 400

    side_by_side(says(), says("40/random"), says("40", "41"), leaves_nothing_again_and_again, polls)


# -- disconnecting


def test_who_leaves_the_main_namespace_is_closed_in_the_end(socketio: Peer) -> None:
    with joined(socketio) as connection:
        connection.send("41")
        while not isinstance(receive(connection), WebSocketClosed):
            pass


def test_who_leaves_one_namespace_stays_in_the_other(socketio: Peer) -> None:
    with joined(socketio) as connection:
        connection.send("40/custom")
        assert str(receive(connection)).startswith('40/custom,{"sid":')
        assert receive(connection) == '42/custom,["auth",{}]'
        connection.send("41/custom")
        assert_alive(connection)
        connection.send("40/custom,")
        assert str(receive(connection)).startswith('40/custom,{"sid":')


@pytest.mark.parametrize(
    "packet", ["41/custom,", "41/random,", '42/custom,["message",1]', "43/custom,1[1]", "431[1]", '42["nobody"]']
)
def test_what_concerns_nobody_changes_nothing(socketio: Peer, packet: str) -> None:
    with joined(socketio) as connection:
        connection.send(packet)
        assert_alive(connection)


# -- events, acks, attachments

ONE, TWO = bytes([1, 2, 3]), bytes([4, 5, 6])
PLACE = '{"_placeholder":true,"num":%d}'
EVENTS = {
    "arguments of several types": ('1,"2",{"3":[true]}', []),
    "no arguments": ("", []),
    "null": ("null", []),
    "unusual names": ('{"":1,"__proto__":2,"constructor":3}', []),
    "attachments": (f"{PLACE % 0},{PLACE % 1}", [ONE, TWO]),
    "attachments within": (f'{{"a":[{PLACE % 0}],"b":{{"c":{PLACE % 1}}}}}', [ONE, TWO]),
    "an empty attachment": (PLACE % 0, [b""]),
    "ten attachments": (",".join(PLACE % number for number in range(10)), [bytes([number]) for number in range(10)]),
    "a placeholder in plain data": (f"{PLACE % 0}", []),
}


def exchange(connection: RawWebSocket, packets: list[str | bytes]) -> list[object]:
    for packet in packets:
        connection.send(packet)
    return [receive(connection) for _ in packets]


@pytest.mark.parametrize("what", EVENTS)
@pytest.mark.parametrize("ack", ["", "0", "456", "9007199254740993"])
def test_arguments_come_back_as_they_were(socketio: Peer, what: str, ack: str) -> None:
    """In an event, or in the ack where one is asked for."""
    arguments, attachments = EVENTS[what]
    counted = f"{len(attachments)}-" if attachments else ""
    name = "message-with-ack" if ack else "message"
    event = f'4{5 if attachments else 2}{counted}{ack}["{name}"{"," if arguments else ""}{arguments}]'
    if ack:
        expected = f"4{6 if attachments else 3}{counted}{ack}[{arguments}]"
    else:
        expected = event.replace('"message"', '"message-back"')
    with joined(socketio) as connection:
        assert exchange(connection, [event, *attachments]) == [expected, *attachments]


def test_a_whole_exchange_over_polling(socketio: Peer) -> None:
    poller = socketio.poller()
    poller.post("40")
    poller.get()
    body = f'452-["message",{PLACE % 0},{PLACE % 1}]\x1ebAQID\x1ebBAUG\x1e421["message-with-ack","x"]'
    assert poller.post(body).text == "ok"
    assert poller.get().text == body.replace('"message"', '"message-back"').replace(
        '421["message-with-ack","x"]', '431["x"]'
    )


def test_events_keep_their_order(socketio: Peer) -> None:
    with joined(socketio) as connection:
        sent: list[str | bytes] = [f'42["message",{number}]' for number in range(200)]
        answers = exchange(connection, sent)
    assert answers == [f'42["message-back",{number}]' for number in range(200)]


WRONG = {
    "an unknown type": ["4abc"],
    "a type beyond": ['47["message"]'],
    "no type": ["4"],
    "an object in place of arguments": ["42{}"],
    "no arguments": ["42"],
    "empty arguments": ["42[]"],
    "a name that is no string": ["42[true]"],
    "a name that is an object": ["42[{}]"],
    "text behind the data": ['42["message"]x'],
    "half of the data": ['42["message"'],
    "an ack id with letters": ['42abc["message-with-ack",1]'],
    "a negative ack id": ['42-1["message-with-ack",1]'],
    "an ack id with a fraction": ['421.5["message-with-ack",1]'],
    "an ack id in other digits": ['42٣["message-with-ack",1]'],
    "an ack id of 101 digits": ["42" + "1" * 101 + '["message-with-ack",1]'],
    "an ack without an id": ["43[1]"],
    "an ack without data": ["431"],
    "an ack with an object": ["431{}"],
    "a refusal, which is the server's": ['44{"message":"no"}'],
    "a goodbye with data": ["41{}"],
    "a plain event with attachments": ['421-["message",1]', ONE],
    "a plain event with no attachments, counted": ['420-["message",1]'],
    "a binary event without a count": ['45["message",1]'],
    "a binary ack without a count": ["461[1]"],
    "a count with letters": ['45a-["message",1]'],
    "a negative count": ['45--1["message",1]'],
    "a count in other digits": [f'45٣-["message",{PLACE % 0}]', ONE],
    "eleven attachments": ['4511-["message",1]'],
    "billions of attachments": ['459999999999-["message",1]'],
    "more attachments than a number": ['45' + "9" * 60 + '-["message",1]'],
    "a placeholder beyond": [f'451-["message",{PLACE % 1}]', ONE],
    "a placeholder before": ['451-["message",{"_placeholder":true,"num":-1}]', ONE],
    "a placeholder with a string": ['451-["message",{"_placeholder":true,"num":"0"}]', ONE],
    "a placeholder with a list": ['451-["message",{"_placeholder":true,"num":[0]}]', ONE],
    "a placeholder without a number": ['451-["message",{"_placeholder":true}]', ONE],
    "text for an attachment": [f'451-["message",{PLACE % 0}]', '42["message",1]'],
    "another binary event for an attachment": [f'451-["message",{PLACE % 0}]'] * 2,
    "an attachment that nobody announced": [ONE],
    "one attachment too many": [f'451-["message",{PLACE % 0}]', ONE, TWO],
    "attachments for a namespace that was not joined": [f'451-/custom,["message",{PLACE % 0}]', ONE],
    "NaN": ['42["message",NaN]'],
    "Infinity": ['42["message",-Infinity]'],
    "a number beyond all": ['42["message",1e999]'],
    "an integer beyond all": ['42["message",' + "1" * 5000 + "]"],
    "single quotes": ["42['message']"],
    "a comma at the end": ['42["message",]'],
    "a control character in a string": ['42["message","\x01"]'],
    "a byte order mark": ['42\ufeff["message"]'],
    "lists a hundred and one deep": ["42" + '["message",' + "[" * 100 + "]" * 101],
    "lists without end": ["42" + "[" * 60_000],
    "objects without end": ["42" + '["message",' + '{"a":' * 10_000],
    "a namespace of 129 characters": ["40/" + "a" * 128],
    "a namespace of 60 KB": ["40/" + "a" * 60_000 + ","],
    "an event for a namespace of 60 KB": ["42/" + "a" * 60_000 + ',["message"]'],
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_packet_closes_the_connection_and_says_nothing(socketio: Peer, what: str) -> None:
    with joined(socketio) as connection:
        for message in WRONG[what]:
            try:
                connection.send(message)
            except OSError:
                break  # it has had enough
        answers = []
        while not isinstance(answer := receive(connection), WebSocketClosed):
            answers.append(answer)
        # One attachment too many follows one that was right.
        assert answers in ([], [f'451-["message-back",{PLACE % 0}]', ONE])
        assert answer in (WebSocketClosed(1000), WebSocketClosed(None))


RIGHT = {
    "lists a hundred deep": ['42["message",' + "[" * 99 + "]" * 100],
    "brackets in a string": ['42["message","' + "[{" * 1_000 + '"]'],
    "half a surrogate pair": [r'42["message","\ud800"]'],
    "NUL": [r'42["message","\u0000"]'],
    "an empty string": ['42["message",""]'],
    "large and small numbers": ['42["message",1e+300,1e-300,-0.0,12345678901234567890]'],
    "a namespace within a string": ['42["message","/custom,1-2"]'],
    "text of just the limit": ['42["message","' + "x" * (64 * 1024 - len('2["message",""]')) + '"]'],
    "one attachment twice": [f'451-["message",{PLACE % 0},{PLACE % 0}]', ONE],
    "attachments that nothing refers to": ['452-["message",1]', ONE, TWO],
    "a key that is there twice": ['42["message",{"a":1,"a":2}]'],
    "an ack id with zeros before it": ['42007["message-with-ack",1]'],
    "spaces where JSON has them": ['42 [ "message" , 1 ]'],
    "no attachments, counted": ['450-["message",1]'],
}
RIGHT_ANSWERS = {
    "one attachment twice": [f'452-["message-back",{PLACE % 0},{PLACE % 1}]', ONE, ONE],
    "attachments that nothing refers to": ['42["message-back",1]'],
    "a key that is there twice": ['42["message-back",{"a":2}]'],
    "an ack id with zeros before it": ["437[1]"],
    "spaces where JSON has them": ['42["message-back",1]'],
    "no attachments, counted": ['42["message-back",1]'],
}


@pytest.mark.parametrize("what", RIGHT)
def test_what_is_odd_and_right_is_answered(socketio: Peer, what: str) -> None:
    plain = [str(message).replace('"message"', '"message-back"', 1) for message in RIGHT[what]]
    expected = RIGHT_ANSWERS.get(what, plain)
    with joined(socketio) as connection:
        for message in RIGHT[what]:
            connection.send(message)
        assert [receive(connection) for _ in expected] == expected
        assert_alive(connection)


def test_text_that_is_longer_than_packets_are_is_refused_before_it_comes(socketio: Peer) -> None:
    """Its frame's header tells: none of the rest is waited for."""
    too_long = 64 * 1024 + 2
    with joined(socketio) as connection:
        connection.send_raw(b"\x81\xff" + too_long.to_bytes(8, "big") + b"mask")
        assert connection.receive_end() == WebSocketClosed(1009)
    poller = socketio.poller()
    poller.post("40")
    poller.get()
    assert poller.post('42["message","' + "x" * 64 * 1024 + '"]').status == 400
    assert poller.get().status == 400


def test_a_binary_ack_that_nobody_waits_for_changes_nothing(socketio: Peer) -> None:
    with joined(socketio) as connection:
        connection.send(f"461-7[{PLACE % 0}]")
        connection.send(ONE)
        assert_alive(connection)


def test_joining_twice_gives_no_second_answer(socketio: Peer) -> None:
    with joined(socketio) as connection:
        connection.send("40")
        connection.send('40{"token":"x"}')
        assert_alive(connection)


def test_thousands_of_namespaces_are_refused_one_by_one(socketio: Peer) -> None:
    with joined(socketio) as connection:
        for number in range(3_000):
            connection.send(f"40/n{number}")
            assert receive(connection) == f'44/n{number},{{"message":"Invalid namespace"}}'
        assert_alive(connection)


@pytest.mark.parametrize("count", [1, 999])
def test_a_post_full_of_errors_costs_one_session_and_one_answer(socketio: Peer, count: int) -> None:
    poller = socketio.poller()
    poller.post("40")
    poller.get()
    answer = poller.post("\x1e".join(["42{}"] * count))
    assert answer.status in (200, 400)
    assert poller.get().status == 400
