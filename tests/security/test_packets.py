"""Packets that no client of ours sends, from outside: one event is refused or one connection ends, and nobody else
notices."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from pictures import picture
from probe import probing
from raw_engineio import BINARY, CONTINUATION, TEXT, RawWebSocket, client_frame
from running import RunningServer, running_server, until
from security.outside import Client, Gone, Watched, assert_nothing_internal, watching

#: No ack of a good camera may take longer, whatever others send; an idle server takes 1 ms, a busy machine 50.
LONGEST_ACK_MS = 500.0

WAYS = [(4, "websocket"), (4, "polling"), (3, "websocket"), (3, "polling")]
WAY_IDS = [f"{transport}, Engine.IO {protocol}" for protocol, transport in WAYS]

IMAGE = '{"_placeholder":true,"num":0}'


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """With a good camera beside everything that happens in this module."""
    with running_server("-a") as running, probing(running.port, rate_hz=20) as probe:
        yield running
        figures = probe.stop()
        figures.check()
        assert figures.ack_ms[-1] < LONGEST_ACK_MS, figures.summary()
        assert running.stop() == 0


@pytest.fixture
def watched(server: RunningServer) -> Iterator[Watched]:
    with watching(server, causes=4) as watched:
        yield watched


# What ends the connection.

DEEP = 100_000

ENDING: dict[str, tuple[str | bytes, ...]] = {
    "billions of attachments": (f'459999999999-["receiveImage",{IMAGE}]',),
    "a number of attachments of 99 digits": (f'45{"9" * 99}-["receiveImage",{IMAGE}]',),
    "eleven attachments": (f'4511-["receiveImage",{IMAGE}]',),
    "attachments of an event that has none": ('421-["receiveImage",1]',),
    "attachments of a CONNECT": ("401-{}",),
    "a placeholder beyond the attachments": ('451-["receiveImage",{"_placeholder":true,"num":1}]', b"x"),
    "a negative placeholder": ('451-["receiveImage",{"_placeholder":true,"num":-1}]', b"x"),
    "a placeholder numbered by text": ('451-["receiveImage",{"_placeholder":true,"num":"0"}]', b"x"),
    "a placeholder numbered by true": ('451-["receiveImage",{"_placeholder":true,"num":true}]', b"x"),
    "a placeholder numbered by a list": ('451-["receiveImage",{"_placeholder":true,"num":[0]}]', b"x"),
    "a placeholder without a number": ('451-["receiveImage",{"_placeholder":true}]', b"x"),
    "text where an attachment was announced": (f'451-["receiveImage",{IMAGE}]', '42["receiveImage"]'),
    "binary that nobody announced": (b"\xff\xd8\xff\xd9",),
    "an empty binary that nobody announced": (b"",),
    "one attachment too many": (f'451-["hello",{IMAGE}]', b"x", b"y"),
    "text that is no packet": ("4hello",),
    "a Socket.IO type beyond 6": ("47",),
    "a Socket.IO type that is no digit": ("4x[]",),
    "an empty message": ("4",),
    "an Engine.IO type beyond 6": ("7",),
    "an Engine.IO type that is no digit": ("x",),
    "an OPEN from a client": ('0{"sid":"x"}',),
    "an UPGRADE without a probe": ("5",),
    "an event without data": ("42",),
    "an event of no arguments": ("42[]",),
    "an event that is an object": ("42{}",),
    "an event that is text": ('42"receiveImage"',),
    "an event that is null": ("42null",),
    "an event named by a number": ("42[5]",),
    "an event named by null": ("42[null]",),
    "an event named by a list": ('42[["receiveImage"]]',),
    "an event named by an attachment": ('451-[{"_placeholder":true,"num":0}]', b"receiveImage"),
    "an ack without a number": ("43[]",),
    "an ack that is an object": ("431{}",),
    "a DISCONNECT with data": ('41{"a":1}',),
    "a CONNECT_ERROR from a client": ('44{"message":"no"}',),
    "a CONNECT with a list": ("40[]",),
    "half a JSON": ('42["receiveImage",',),
    "a JSON and more": ('42["receiveImage"]]',),
    "a JSON with a control character": ('42["receive\x01Image"]',),
    "an escape that is none": (r'42["\x41"]',),
    "a number of 5,000 digits": (f'42["receiveImage",{"9" * 5_000}]',),
    "a packet number of 101 digits": (f'42{"1" * 101}["receiveImage"]',),
    "a packet number of other digits": ('42²["receiveImage"]',),
    "a number that is none": ('42["receiveImage",NaN]',),
    "infinity": ('42["receiveImage",-Infinity]',),
    "a number beyond all bounds": ('42["receiveImage",1e999]',),
    "a namespace of 1,000 characters": (f"40/{'x' * 1_000},",),
    "lists 150 deep": (f'42["receiveImage",{"[" * 150}{"]" * 150}]',),
    "objects 900 deep": ('42["receiveImage",' + '{"a":' * 900 + "1" + "}" * 900 + "]",),
    "lists 100,000 deep": ("42" + "[" * DEEP,),
    "lists 100,000 deep, closed again": (f'42["receiveImage",{"[" * DEEP}{"]" * DEEP}]',),
    "objects 100,000 deep": ('42["receiveImage",' + '{"a":' * DEEP,),
    "a list of 3,000,000 lists": (f'42["receiveImage"{",[]" * 3_000_000}]',),
    "lists 900 deep, 6,000 times": (f'42["receiveImage"{("," + "[" * 900 + "]" * 900) * 6_000}]',),
    "an object of 400,000 names": ('42["a",{' + ",".join(f'"{number:x}":0' for number in range(400_000)) + "}]",),
    "a text of ten million characters": ('42["receiveImage","' + "x" * 10_000_000 + '"]',),
}

#: Where protocol 3 means something else by it: its CONNECT has a query in the place of the data.
ONLY_4 = {"attachments of a CONNECT"}


@pytest.mark.parametrize(("protocol", "transport"), WAYS, ids=WAY_IDS)
def test_a_packet_that_the_protocol_does_not_know_ends_its_connection_and_tells_nothing(
    server: RunningServer, watched: Watched, protocol: int, transport: str
) -> None:
    for name, packets in ENDING.items():
        if protocol == 3 and name in ONLY_4:
            continue
        with Client(server.port, protocol, transport) as client:
            heard = len(client.heard)
            try:
                for packet in packets:
                    client.say(packet)
                served = client.is_served()
            except Gone:
                served = False
            assert not served, name
            assert not [p for p in client.heard[heard:] if str(p)[:1] == "4"], f"{name}: {client.heard[heard:]}"
            if transport == "polling":
                assert client.status in (400, 413), name
            elif protocol == 4:
                assert client.close_code in (None, 1000, 1009), name
    # The largest POST that is taken, 11.8 MB, is there three times: as bytes, as text, and as the packets of it.
    assert watched.peak_growth_mb < (40 if transport == "polling" else 20), f"{watched.peak_growth_mb:.1f} MB"


FLOODS = [
    "billions of attachments", "a placeholder beyond the attachments", "binary that nobody announced",
    "text that is no packet", "an Engine.IO type that is no digit", "half a JSON", "an event named by a number",
]  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_two_hundred_connections_that_end_for_the_same_cause_are_a_line_a_second(
    server: RunningServer, name: str
) -> None:
    with watching(server):
        for _ in range(200):
            with Client(server.port, 4, "websocket") as client:
                client.send_raw(b"".join(map(client.frame, ENDING[name])))
                with pytest.raises(Gone):
                    client.until(lambda _: False)


# What is refused as an event, or ignored.


def event(*arguments: Any) -> str:
    return "42" + json.dumps(arguments)


LIFECYCLE = ["connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener"]

IGNORED: dict[str, tuple[str | bytes, ...]] = {
    **{f"the event {name}": (event(name),) for name in LIFECYCLE},
    **{f"the event {name} with data": (event(name, {"username": "Alice", "password": "123"}),) for name in LIFECYCLE},
    **{f"the event {name} that wants an ack": (f'4217["{name}"]',) for name in LIFECYCLE},
    **{f"the event {name} with an attachment": (f'451-["{name}",{IMAGE}]', b"x") for name in LIFECYCLE},
    **{
        f"the event {name!r}": (event(name, 1),)
        for name in (
            "", "hello", "message", "ping", "pong", "result", "setRate", "serverError", "*", "__proto__", "constructor",
            "__init__", "trigger_event", "on", "é", "😀", "\ud800", "\0", "x" * 5_000, "../x", "<img onerror=x>",
        )
    },
    "an ack that nobody asked for": ("431[]",),
    "an ack number 0": ("430[]",),
    "an ack of a huge number": (f'43{"9" * 90}["x"]',),
    "an ack with an attachment": (f"461-7[{IMAGE}]", b"x"),
    "a second CONNECT": ("40",),
    "an event to a namespace that was not joined": ('42/admin,["authenticate","Alice","123","in"]',),
    "an ack to a namespace that was not joined": ("43/admin,1[]",),
    "a DISCONNECT from a namespace that was not joined": ("41/admin,",),
    "a NOOP": ("6",),
    "a heartbeat that nobody waits for": ("3",),
}  # fmt: skip

#: To protocol 3, a client's PONG is a packet that has no place.
ONLY_4_IGNORED = {"a heartbeat that nobody waits for"}


@pytest.mark.parametrize(("protocol", "transport"), WAYS, ids=WAY_IDS)
def test_names_of_the_protocol_and_strange_ones_reach_no_handler_and_the_session_goes_on(
    server: RunningServer, watched: Watched, protocol: int, transport: str
) -> None:
    with Client(server.port, protocol, transport) as client:
        client.log_in()
        before = client.events()
        for number, (name, packets) in enumerate(IGNORED.items(), 1):
            if protocol == 3 and name in ONLY_4_IGNORED:
                continue
            client.say(*packets)
            assert client.acked() == {
                "accepted": False, "seq": client._acks, "reason": "not_an_image", "rate": 5.0
            }, f"after {number}: {name}"  # fmt: skip
        assert {event[0] for event in client.events()[len(before) :]} <= {"serverError", "setRate"}
        assert set(client.errors()) == {"not_an_image"}


def test_a_namespace_that_is_not_there_is_refused_by_the_words_of_the_protocol(
    server: RunningServer, watched: Watched
) -> None:
    with Client(server.port, 4, "websocket") as client:
        for namespace in ("/nowhere", "/<script>", "/../x", "/" + "x" * 100, "/é", "/*", "/a?b"):
            client.say(f"40{namespace},")
            answer = client.until(lambda packet: str(packet).startswith("44"))
            assert answer == f'44{namespace.partition("?")[0]},{{"message":"Invalid namespace"}}'
        assert client.is_served()


# Arguments of the wrong type.

VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "a number": "-1",
    "a fraction": "1e-300",
    "a large number": "9" * 90,
    "no text": '""',
    "a long text": '"' + "x" * 5_000 + '"',
    "a text of half a character": r'"\ud800"',
    "a text with NUL and line feeds": r'"a\u0000b\r\nc\u2028"',
    "a text with an escape sequence": r'"\u001b[2J"',
    "a list": '["Alice"]',
    "an empty list": "[]",
    "an object": '{"a":{"b":null}}',
    "an object like a placeholder": '{"_placeholder":1,"num":0}',
    "an object with __proto__": '{"__proto__":{"x":1}}',
    "lists 90 deep": "[" * 90 + "]" * 90,
    "objects 90 deep": '{"a":' * 90 + "1" + "}" * 90,
    "2,000 things": "[" + ",".join(["{}"] * 2_000) + "]",
}


class Call(NamedTuple):
    what: str
    packets: tuple[str | bytes, ...]


def calls(name: str, good: list[str]) -> Iterator[Call]:
    """The event with each value in the place of each argument, as itself and as an attachment."""
    for place, (what, value) in itertools.product(range(len(good)), VALUES.items()):
        arguments = [*good[:place], value, *good[place + 1 :]]
        yield Call(f"{name}, argument {place + 1}: {what}", (f'42["{name}",{",".join(arguments)}]',))
    for place in range(len(good)):
        arguments = [*good[:place], IMAGE, *good[place + 1 :]]
        yield Call(f"{name}, argument {place + 1}: bytes", (f'451-["{name}",{",".join(arguments)}]', b"\xff\0"))


@pytest.mark.parametrize(("protocol", "transport"), WAYS, ids=WAY_IDS)
def test_a_login_with_a_wrong_type_anywhere_is_refused_in_the_words_of_the_protocol(
    server: RunningServer, watched: Watched, protocol: int, transport: str
) -> None:
    # In the place of the password only what is no password at all: a wrong one would count as a guess, and take its
    # time (tests/auth).
    guesses = {"no text", "a text with NUL and line feeds", "a text with an escape sequence"}
    for call in calls("authenticate", ['"user2"', '"pass2"', '"in"']):
        what = call.what.partition(": ")[2]
        if "argument 2" in call.what and what in guesses:
            continue
        with Client(server.port, protocol, transport) as client:
            client.say(*call.packets)
            assert client.acked()["reason"] == "not_logged_in", call.what
            answers = client.events()
            if "argument 3" in call.what:
                assert answers[0][:2] == ["serverError", "bad_event_name"], call.what
                assert "in" not in [name for name, *_ in answers], call.what
            else:
                assert answers[0] == ["in", False], f"{call.what}: {answers}"


@pytest.mark.parametrize(("protocol", "transport"), WAYS, ids=WAY_IDS)
def test_a_frame_with_a_wrong_type_anywhere_is_refused_by_its_ack(
    server: RunningServer, watched: Watched, protocol: int, transport: str
) -> None:
    for logged_in in (False, True):
        with Client(server.port, protocol, transport) as client:
            if logged_in:
                client.log_in()
            for number, (what, value) in enumerate(VALUES.items(), 1):
                client.say(f'42{number}["receiveImage",{value}]')
                assert _reason(client, number) == ("bad_arguments" if logged_in else "not_logged_in"), what
            for number, (what, value) in enumerate(VALUES.items(), 100):
                client.say(f'451-{number}["receiveImage",{IMAGE},{value}]', picture())
                expected = None if what == "null" else "bad_event_name"
                assert _reason(client, number) == (expected if logged_in else "not_logged_in"), what
            messages = [event[2] for event in client.events() if event[0] == "serverError"]
            assert not [m for m in messages if any(word in m for word in ("dict", "str", "int", "float", "None"))]
            assert len(client.errors()) <= 3 * (watched.elapsed_sec + 2), "said once a second per cause"


def _reason(client: Client, number: int) -> Any:
    packet = client.until(lambda packet: isinstance(packet, str) and packet.startswith(f"43{number}["))
    return json.loads(str(packet)[2 + len(str(number)) :])[0].get("reason")


ODD_NAMES = [
    *LIFECYCLE, "message", "ping", "pong", "authenticate", "receiveImage", "setRate", "serverError", "__proto__",
    "constructor", "prototype", "", " ", "a b", "a\nb", "a\0", "é", "😀", "\ud800", "x" * 65, "<b>", "a;b", "a,b",
    '"', "\x1b[2J",
]  # fmt: skip


def test_a_reserved_or_odd_name_for_an_answer_is_refused_and_no_event_comes_under_it(
    server: RunningServer, watched: Watched
) -> None:
    with Client(server.port, 4, "websocket") as client:
        for name in ODD_NAMES:
            client.say(event("authenticate", "user2", "pass2", name))
            assert client.acked()["reason"] == "not_logged_in", f"a callback named {name!r}"
        assert client.errors()[0] == "bad_event_name"
        client.log_in()
        for number, name in enumerate(ODD_NAMES):
            client.say(f'451-{number}["receiveImage",{IMAGE},{json.dumps(name)}]', picture())
            assert _reason(client, number) == "bad_event_name", f"a result named {name!r}"
        assert {heard[0] for heard in client.events()} == {"serverError", "in", "setRate"}


@pytest.mark.parametrize("arguments", [[], ["user2"], ["user2", "pass2"], ["user2", "pass2", "in", 1], ["x"] * 200])
def test_a_login_with_a_wrong_number_of_arguments_is_refused(server: RunningServer, arguments: list[Any]) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.say(event("authenticate", *arguments))
        assert client.acked()["accepted"] is False
        assert client.errors()[0] == "bad_arguments"


@pytest.mark.parametrize("more", ["", ',"mine","more"', "," + ",".join(["null"] * 500)])
def test_a_frame_with_a_wrong_number_of_arguments_is_refused(server: RunningServer, more: str) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        if more:
            client.say(f'451-5["receiveImage",{IMAGE}{more}]', picture())
        else:
            client.say('425["receiveImage"]')
        assert _reason(client, 5) == "bad_arguments"


@pytest.mark.parametrize("image", ["[[{0}]]", '{{"image":{0}}}', "[{0},{0}]"])
def test_an_image_inside_of_something_else_is_no_image(server: RunningServer, image: str) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        client.say(f'451-5["receiveImage",{image.format(IMAGE)}]', picture())
        assert _reason(client, 5) == "bad_arguments"


def test_ten_attachments_are_taken_and_an_event_with_them_is_refused_as_an_event(server: RunningServer) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        images = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(10))
        client.say(f'4510-5["receiveImage",{images}]', *[picture()] * 10)
        assert _reason(client, 5) == "bad_arguments"


@pytest.mark.parametrize(
    ("name", "packet"),
    {
        "a login without arguments": event("authenticate"),
        "a login with an odd callback": event("authenticate", "user2", "pass2", "a b"),
        "a login with no name": event("authenticate", None, None, "in"),
        "a frame that is text": event("receiveImage", "text"),
        "a lifecycle event": event("disconnect"),
    }.items(),
    ids=lambda value: value if not value.startswith("42") else "",
)
def test_an_event_that_is_refused_two_hundred_times_is_no_line_and_one_error_a_second(
    server: RunningServer, name: str, packet: str
) -> None:
    with watching(server, causes=0) as watched, Client(server.port, 4, "websocket") as client:
        client.say(*[packet] * 200)
        assert client.is_served()
        assert len(client.errors()) <= 2 * (watched.elapsed_sec + 1)
        assert watched.log == []


def test_one_connection_that_changes_its_user_all_the_time_writes_a_line_a_second_and_user(
    server: RunningServer,
) -> None:
    with Client(server.port, 4, "websocket") as client:
        client.log_in()
        client.log_in("user2", "pass2")
        # Of two users: their logins, their ends, and nothing else.
        with watching(server, causes=4):
            for _ in range(50):
                client.log_in()
                client.log_in("user2", "pass2")


def test_two_hundred_logins_of_a_user_are_a_line_a_second_with_the_number_of_the_others(server: RunningServer) -> None:
    with watching(server, causes=2) as watched:
        for _ in range(200):
            with Client(server.port, 4, "websocket") as client:
                client.log_in()
        time.sleep(1.1)
        with Client(server.port, 4, "websocket") as client:
            client.log_in()
        until(lambda: "(lines left out before: " in "".join(watched.log[-3:]), "the number of the others")


def test_two_hundred_connections_that_are_refused_write_a_line_a_second(server: RunningServer) -> None:
    with watching(server) as watched:
        clients = [Client(server.port, 4, "websocket") for _ in range(200)]
        for client in clients:
            client.say(event("authenticate", "", "", "in"))
        for client in clients:
            with client:
                client.until(lambda packet: packet == "41")
        assert [line for line in watched.log if "its login was refused" in line]


# Below Socket.IO: frames and polls.


def test_a_message_in_endless_fragments_before_any_login_is_closed_1009_and_costs_its_limit_only(
    server: RunningServer, watched: Watched
) -> None:
    for opcode in (TEXT, BINARY):
        with RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") as client:
            fragment = client_frame(CONTINUATION, b"x" * 65_000, fin=False)
            began = time.monotonic()
            client.send_raw(client_frame(opcode, b"x", fin=False))
            while _is_taken(client, fragment):
                pass
            assert time.monotonic() - began < 5, "who sends on when it has been closed is read for 2 s, and forgotten"
            assert client.receive_end().code == 1009
    assert watched.peak_growth_mb < 20, f"{watched.peak_growth_mb:.0f} MB"


def _is_taken(client: RawWebSocket, data: bytes) -> bool:
    try:
        client.send_raw(data)
    except OSError:
        return False
    return True


def test_a_message_of_200_000_fragments_of_a_byte_holds_nobody_up(server: RunningServer, watched: Watched) -> None:
    with RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") as client:
        client.send_raw(client_frame(BINARY, b"x", fin=False))
        fragments = client_frame(CONTINUATION, b"x", fin=False) * 10_000
        for _ in range(20):
            client.send_raw(fragments)
        client.send_raw(client_frame(CONTINUATION, b"x"))
        assert client.receive_end().code in (1000, None), "binary that nobody announced"
    assert watched.peak_growth_mb < 20


def test_a_length_that_is_announced_and_never_sent_takes_no_memory(server: RunningServer, watched: Watched) -> None:
    clients = [RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") for _ in range(50)]
    for client in clients:
        client.send_raw(b"\x82\xff" + (8_000_000).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 100)
    for length in (1 << 63) - 1, 1 << 32, 20_000_000:
        with RawWebSocket(server.port, "/socket.io/?EIO=4&transport=websocket") as client:
            client.send_raw(b"\x82\xff" + length.to_bytes(8, "big") + b"\0\0\0\0")
            assert client.receive_end().code == 1009
    assert watched.growth_mb < 20
    for client in clients:
        client.close()


NO_UTF8 = {
    "a continuation byte": b"\x80",
    "a long form of /": b"\xc0\xaf",
    "half a surrogate pair": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "the half of a character": b"\xe2\x82",
    "Latin-1": 'Al\xefce"'.encode("latin-1"),
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", NO_UTF8)
def test_text_that_is_not_utf8_ends_its_websocket_with_1007(server: RunningServer, protocol: int, name: str) -> None:
    text = b'42["authenticate","' + NO_UTF8[name]
    with watching(server):
        for pieces in ([text], [text[:-1], text[-1:]]):
            with Client(server.port, protocol, "websocket") as client:
                for number, piece in enumerate(pieces, 1):
                    opcode = TEXT if number == 1 else CONTINUATION
                    client.send_raw(client_frame(opcode, piece, fin=number == len(pieces)))
                with pytest.raises(Gone):
                    client.until(lambda _: False)
                assert client.close_code == 1007


POSTS: dict[str, tuple[bytes, str]] = {
    **{name: (b'42["authenticate","' + text, "text/plain") for name, text in NO_UTF8.items()},
    "nothing": (b"", "text/plain"),
    "only separators": (b"\x1e\x1e\x1e", "text/plain"),
    "a million separators": (b"\x1e" * 1_000_000, "text/plain"),
    "base64 that is none": (b"b####", "text/plain"),
    "base64 cut off": (b"bAAA", "text/plain"),
    "an HTML form": (b"d=42%5B%22x%22%5D", "application/x-www-form-urlencoded"),
    "a page": (b"<html></html>", "text/html"),
    "NULs": (bytes(1_000), "application/octet-stream"),
    "lengths that lie": (b"5:42[]", "text/plain"),
    "a length of 99 digits": (b"9" * 99 + b":4", "text/plain"),
    "a negative length": (b"-1:4", "text/plain"),
    "a length without an end": (b"5" * 9, "text/plain"),
    "a binary length that lies": (b"\x01\x09\x09\xff\x04", "application/octet-stream"),
    "a binary length that does not end": (b"\x00" + b"\x01" * 1_000, "application/octet-stream"),
    "a binary packet of type 9": (b"\x01\x02\xff\x09x", "application/octet-stream"),
    "a type that is no type": (b"x42[]", ";;=="),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", POSTS)
def test_a_post_that_is_no_payload_is_answered_400_and_ends_its_session(
    server: RunningServer, protocol: int, name: str
) -> None:
    body, content_type = POSTS[name]
    with watching(server), Client(server.port, protocol, "polling") as client:
        with pytest.raises(Gone):
            client.post(body, content_type)
        assert client.status == 400
        with pytest.raises(Gone):
            client.until(lambda _: False)


def test_a_post_of_a_thousand_packets_is_acted_on_and_one_more_is_refused(
    server: RunningServer, watched: Watched
) -> None:
    with Client(server.port, 4, "polling") as client:
        client.say(*[event("hello")] * 1_000)
        assert client.is_served()
        with pytest.raises(Gone):
            client.say(*[event("hello")] * 1_001)
        assert client.status == 400


def test_what_was_answered_to_bad_requests_tells_nothing_of_the_server(server: RunningServer) -> None:
    queries = [
        "", "EIO=4", "EIO=9&transport=polling", "EIO=4&transport=smoke", "EIO=4&transport=polling&sid=nobody",
        "EIO=4&transport=polling&j=0", "EIO=4&EIO=3&transport=polling", "EIO=4&transport=websocket", "%ff=%00&&==",
        "EIO=4&transport=polling&sid=%00%ff../..", "EIO[]=4&transport[]=polling",
    ]  # fmt: skip
    for query, method in itertools.product(queries, ("GET", "POST", "PUT", "DELETE", "HEAD", "BREW")):
        with RawHttp(server.port) as http:
            assert_nothing_internal(http.ask(f"{method} /socket.io/?{query} HTTP/1.1"))
    for path in ("/", "/..", "/%2e%2e/%2e%2e/etc/passwd", "//evil", "/socket.io", "/api/v1/streams", "/static/x", "/é"):
        with RawHttp(server.port) as http:
            assert_nothing_internal(http.ask(f"GET {path} HTTP/1.1"))


class RawHttp:
    """One HTTP request, and all that came back."""

    def __init__(self, port: int) -> None:
        import socket

        self._port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def ask(self, first_line: str, headers: str = "", body: bytes = b"") -> bytes:
        head = f"{first_line}\r\nHost: 127.0.0.1:{self._port}\r\nConnection: close\r\n{headers}\r\n"
        self._socket.sendall(head.encode() + body)
        answer = b""
        while data := self._socket.recv(65_536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 "), answer
        return answer

    def __enter__(self) -> "RawHttp":
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()
