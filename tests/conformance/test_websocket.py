"""RFC 6455, the server's side, on a plain echo: what is sent in frames, and everything that comes back until the end.

The sections are the RFC's. Cases come in several pieces: all at once, so that a fault follows what is good in one TCP
segment; frame by frame; and byte by byte.
"""

import base64
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from raw_engineio import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawWebSocket,
    WebSocketClosed,
    client_frame,
)

Frame = tuple[int, bytes]
#: A text of 20 bytes, every length of a code point in it.
UNICODE = "Hello-µ@ßöä€𝄞".encode()
GOODBYE = client_frame(CLOSE, struct.pack("!H", 1000))


def text(payload: bytes, **how: object) -> bytes:
    return client_frame(TEXT, payload, **how)  # type: ignore[arg-type]


def more(payload: bytes = b"", *, fin: bool = False) -> bytes:
    return client_frame(CONTINUATION, payload, fin=fin)


def close(code: int, reason: bytes = b"") -> bytes:
    return client_frame(CLOSE, struct.pack("!H", code) + reason)


def pieces(frames: list[bytes], how: str) -> Iterator[bytes]:
    if how == "at once":
        yield b"".join(frames)
    elif how == "frame by frame":
        yield from frames
    else:
        size = 1 if how == "byte by byte" else int(how)
        sent = b"".join(frames)
        yield from (sent[start : start + size] for start in range(0, len(sent), size))


def play(port: int, frames: list[bytes], how: str = "at once") -> list[Frame]:
    """Everything that the server answers until it ends the connection; of a close frame only the code."""
    with RawWebSocket(port, "/") as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces(frames, how):
                connection.send_raw(piece)
        except OSError:
            pass  # it has had enough
        answers = []
        while (frame := connection.receive_frame()) is not None:
            answers.append(frame if frame[0] != CLOSE else (CLOSE, frame[1][:2]))
        return answers


def ended(code: int | None) -> Frame:
    return (CLOSE, struct.pack("!H", code) if code else b"")


HOWS = pytest.mark.parametrize("how", ["at once", "frame by frame", "byte by byte"])

# -- the handshake, section 4.2


def test_the_handshake_is_answered_with_the_hash_of_its_key(echo: int) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    offer = {
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Protocol": "chat",
        "Sec-WebSocket-Extensions": "permessage-deflate",
    }
    with RawWebSocket(echo, "/", offer) as connection:
        assert connection.status == 101
        head = connection.head.lower()
        assert f"sec-websocket-accept: {base64.b64encode(digest).decode()}".lower() in head
        assert "upgrade: websocket" in head
        assert "connection: upgrade" in head
        assert "extensions" not in head
        assert "sec-websocket-protocol" not in head


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Sec-WebSocket-Version", "12", 426),
        ("Sec-WebSocket-Version", "", 426),
        ("Sec-WebSocket-Key", "", 400),
        ("Sec-WebSocket-Key", base64.b64encode(bytes(15)).decode(), 400),
        ("Sec-WebSocket-Key", "!" * 24, 400),
        ("Upgrade", "", 400),
        ("Connection", "close", 400),
    ],
)
def test_a_handshake_that_is_none_is_refused(echo: int, header: str, value: str, status: int) -> None:
    with RawWebSocket(echo, "/", {header: value}) as connection:
        assert connection.status == status
        if status == 426:
            assert "sec-websocket-version: 13" in connection.head.lower()


# -- data frames, section 5.6, in all lengths of a length (5.2)

SIZES = [0, 1, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("how", ["at once", "997"])
def test_a_message_of_every_length_comes_back(echo: int, opcode: int, size: int, how: str) -> None:
    payload = b"*" * size if opcode == TEXT else os.urandom(size)
    sent = [client_frame(opcode, payload), GOODBYE]
    assert play(echo, sent, how) == [(opcode, payload), ended(1000)]


def test_a_length_may_be_written_with_more_bytes_than_it_needs(echo: int) -> None:
    """Section 5.2 asks the sender for the shortest form; who reads another one understands it all the same."""
    long = struct.pack("!BBQ", 0x82, 0xFF, 3) + b"\0\0\0\0abc"
    middle = struct.pack("!BBH", 0x82, 0xFE, 3) + b"\0\0\0\0abc"
    assert play(echo, [long, middle, GOODBYE]) == [(BINARY, b"abc"), (BINARY, b"abc"), ended(1000)]


def test_every_mask_is_taken_off(echo: int) -> None:
    masks = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xff\0\xff", b"\x01\x02\x03\x04"]
    answers = play(echo, [client_frame(BINARY, bytes(range(9)), mask=mask) for mask in masks] + [GOODBYE])
    assert answers == [(BINARY, bytes(range(9)))] * len(masks) + [ended(1000)]


# -- fragments and control frames, sections 5.4 and 5.5

HI, REST = b"fragment1", b"fragment2"
BOTH = HI + REST
GOOD: dict[str, tuple[list[bytes], list[Frame]]] = {
    "a ping": ([client_frame(PING)], [(PONG, b"")]),
    "a ping with text": ([client_frame(PING, b"Hello")], [(PONG, b"Hello")]),
    "a ping with bytes": ([client_frame(PING, b"\x00\xff\xfe\xfd\xfc\x00")], [(PONG, b"\x00\xff\xfe\xfd\xfc\x00")]),
    "a ping of 125 bytes": ([client_frame(PING, b"\xfe" * 125)], [(PONG, b"\xfe" * 125)]),
    "a pong that nobody asked for": ([client_frame(PONG)], []),
    "a pong with text that nobody asked for": ([client_frame(PONG, b"unsolicited")], []),
    "a pong and a ping": ([client_frame(PONG, b"x"), client_frame(PING, b"y")], [(PONG, b"y")]),
    "ten pings": (
        [client_frame(PING, b"payload-%d" % number) for number in range(10)],
        [(PONG, b"payload-%d" % number) for number in range(10)],
    ),
    "two fragments": ([text(HI, fin=False), more(REST, fin=True)], [(TEXT, BOTH)]),
    "fragments of bytes": ([client_frame(BINARY, b"\xff", fin=False), more(b"!", fin=True)], [(BINARY, b"\xff!")]),
    "a ping between fragments": (
        [text(HI, fin=False), client_frame(PING, b"ping"), more(REST, fin=True)],
        [(PONG, b"ping"), (TEXT, BOTH)],
    ),
    "a pong between fragments": ([text(HI, fin=False), client_frame(PONG, b"x"), more(REST, fin=True)], [(TEXT, BOTH)]),
    "five fragments with pings between them, twice": (
        2
        * [
            text(b"1", fin=False),
            more(b"2"),
            client_frame(PING, b"ping 1"),
            more(b"3"),
            more(b"4"),
            client_frame(PING, b"ping 2"),
            more(b"5", fin=True),
        ],
        2 * [(PONG, b"ping 1"), (PONG, b"ping 2"), (TEXT, b"12345")],
    ),
    "three empty fragments": ([text(b"", fin=False), more(), more(fin=True)], [(TEXT, b"")]),
    "empty fragments around a full one": ([text(b"", fin=False), more(b"middle"), more(fin=True)], [(TEXT, b"middle")]),
    "a text, fragments, a text": (
        [text(b"a"), text(HI, fin=False), more(REST, fin=True), text(b"b")],
        [(TEXT, b"a"), (TEXT, BOTH), (TEXT, b"b")],
    ),
}  # fmt: skip


@HOWS
@pytest.mark.parametrize("name", GOOD)
def test_what_keeps_to_the_protocol_is_answered(echo: int, name: str, how: str) -> None:
    sent, expected = GOOD[name]
    assert play(echo, [*sent, GOODBYE], how) == [*expected, ended(1000)]


BEFORE = text(b"Hello")
BAD: dict[str, tuple[list[bytes], list[Frame], int]] = {
    "a ping of 126 bytes": ([client_frame(PING, b"\xfe" * 126)], [], 1002),
    "a pong of 126 bytes": ([client_frame(PONG, b"\xfe" * 126)], [], 1002),
    "a close of 126 bytes": ([close(1000, b"*" * 124)], [], 1002),
    "a ping in fragments": ([client_frame(PING, HI, fin=False), more(REST, fin=True)], [], 1002),
    "a pong in fragments": ([client_frame(PONG, HI, fin=False), more(REST, fin=True)], [], 1002),
    "a close in fragments": ([client_frame(CLOSE, HI, fin=False), more(REST, fin=True)], [], 1002),
    "no mask": ([client_frame(TEXT, b"x", mask=None)], [], 1002),
    "no mask on a ping": ([BEFORE, client_frame(PING, b"x", mask=None)], [(TEXT, b"Hello")], 1002),
    **{f"reserved bits {rsv}": ([text(b"Hello", rsv=rsv)], [], 1002) for rsv in range(1, 8)},
    **{
        f"reserved bits {rsv} on a frame of type {opcode} after a good one": (
            [BEFORE, client_frame(opcode, b"\x03\xe8", rsv=rsv), client_frame(PING)],
            [(TEXT, b"Hello")],
            1002,
        )
        for rsv, opcode in ((1, TEXT), (2, TEXT), (3, TEXT), (4, TEXT), (5, BINARY), (6, PING), (7, CLOSE))
    },
    **{f"opcode {opcode}": ([client_frame(opcode)], [], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{
        f"opcode {opcode} after a good frame": (
            [BEFORE, client_frame(opcode, b"payload"), client_frame(PING)],
            [(TEXT, b"Hello")],
            1002,
        )
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "a last fragment without a first": ([more(b"x", fin=True), BEFORE], [], 1002),
    "a middle fragment without a first": ([more(b"x"), BEFORE], [], 1002),
    "a fragment after the last": (
        [text(HI, fin=False), more(REST, fin=True), more(b"x"), text(b"y")],
        [(TEXT, BOTH)],
        1002,
    ),
    "a last fragment after the last": (
        [text(HI, fin=False), more(REST, fin=True), more(b"x", fin=True)],
        [(TEXT, BOTH)],
        1002,
    ),
    "a text in the middle of fragments": ([text(HI, fin=False), text(REST)], [], 1002),
    "a first fragment in the middle of fragments": ([text(HI, fin=False), text(REST, fin=False)], [], 1002),
    "bytes in the middle of fragments of text": ([text(HI, fin=False), client_frame(BINARY, REST)], [], 1002),
    "a good ping and a bad frame": ([client_frame(PING, b"x"), client_frame(3)], [(PONG, b"x")], 1002),
    "a length of 2 to the 63": ([BEFORE, struct.pack("!BBQ", 0x82, 0xFF, 1 << 63) + b"mask"], [(TEXT, b"Hello")], 1009),
}  # fmt: skip


@HOWS
@pytest.mark.parametrize("name", BAD)
def test_what_breaks_the_protocol_ends_the_connection_after_the_answers_to_what_did_not(
    echo: int, name: str, how: str
) -> None:
    sent, expected, code = BAD[name]
    assert play(echo, sent, how) == [*expected, ended(code)]


# -- UTF-8, sections 5.6 and 8.1

VALID = {
    "κόσμε": "κόσμε".encode(),
    "the last of one byte": b"\x7f",
    "the first of two bytes": b"\xc2\x80",
    "the last of two bytes": b"\xdf\xbf",
    "the first of three bytes": b"\xe0\xa0\x80",
    "the last before the surrogates": b"\xed\x9f\xbf",
    "the first after the surrogates": b"\xee\x80\x80",
    "the replacement character": b"\xef\xbf\xbd",
    "non-characters": b"\xef\xb7\x90\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\xbf\xbe\xf4\x8f\xbf\xbf",
    "the first of four bytes": b"\xf0\x90\x80\x80",
    "the last of all": b"\xf4\x8f\xbf\xbf",
    "NUL": b"\x00",
    "a byte order mark": b"\xef\xbb\xbfx",
    "every length": UNICODE,
}
#: And how many of its bytes are needed to see that it is wrong.
INVALID = {
    "a continuation byte alone": (b"\x80", 1),
    "many continuation bytes": (b"\x80\xbf" * 3, 1),
    "every byte that begins nothing": (b"\xf5", 1),
    "fe": (b"\xfe", 1),
    "ff": (b"\xff", 1),
    "five bytes": (b"\xf8\x88\x80\x80\x80", 1),
    "six bytes": (b"\xfc\x84\x80\x80\x80\x80", 1),
    "a slash in two bytes": (b"\xc0\xaf", 1),
    "a slash in three bytes": (b"\xe0\x80\xaf", 2),
    "a slash in four bytes": (b"\xf0\x80\x80\xaf", 2),
    "NUL in two bytes": (b"\xc0\x80", 1),
    "the largest that is too long in two": (b"\xc1\xbf", 1),
    "the largest that is too long in three": (b"\xe0\x9f\xbf", 2),
    "the largest that is too long in four": (b"\xf0\x8f\xbf\xbf", 2),
    "a first surrogate": (b"\xed\xa0\x80", 2),
    "a last surrogate": (b"\xed\xbf\xbf", 2),
    "a pair of surrogates": (b"\xed\xa0\x80\xed\xb0\x80", 2),
    "the first beyond Unicode": (b"\xf4\x90\x80\x80", 2),
    "a start and no continuation": (b"\xe2\x82x", 3),
    "a start and a start": (b"\xc3\xc3", 2),
    "a wrong byte behind good ones": ("κόσμε".encode() + b"\xed\xa0\x80edited", 12),
}
CUT = {
    "two bytes less one": b"\xc3",
    "three bytes less one": b"\xe2\x82",
    "four bytes less one": b"\xf0\x9d\x84",
    "good text and half a character": "κόσμε".encode() + b"\xce",
}


@HOWS
@pytest.mark.parametrize("name", VALID)
def test_valid_text_comes_back_wherever_it_is_split(echo: int, name: str, how: str) -> None:
    content = VALID[name]
    cuts = [[text(content[:cut], fin=False), more(), more(content[cut:], fin=True)] for cut in range(len(content) + 1)]
    sent = [text(content)] + [frame for frames in cuts for frame in frames]
    assert play(echo, [*sent, GOODBYE], how) == [(TEXT, content)] * (len(cuts) + 1) + [ended(1000)]


@HOWS
@pytest.mark.parametrize("name", INVALID)
def test_text_that_is_not_utf8_ends_the_connection(echo: int, name: str, how: str) -> None:
    content = INVALID[name][0]
    assert play(echo, [BEFORE, text(content)], how) == [(TEXT, b"Hello"), ended(1007)]
    assert play(echo, [text(content[:1], fin=False), more(content[1:], fin=True)], how) == [ended(1007)]


@HOWS
@pytest.mark.parametrize("name", CUT)
def test_text_that_ends_within_a_character_ends_the_connection(echo: int, name: str, how: str) -> None:
    content = CUT[name]
    assert play(echo, [text(content)], how) == [ended(1007)]
    assert play(echo, [text(content, fin=False), more(fin=True)], how) == [ended(1007)]
    # And none is made up of two messages.
    assert play(echo, [text(b"\xc3"), text(b"\xa4")], how) == [ended(1007)]


@pytest.mark.parametrize("name", INVALID)
@pytest.mark.parametrize("split", ["fragments", "a frame that has not all come", "both"])
def test_the_first_wrong_byte_ends_the_connection_and_not_the_end_of_the_message(
    echo: int, name: str, split: str
) -> None:
    content, needed = INVALID[name]
    if split == "fragments":
        head, rest = text(b"good", fin=False), b"".join(more(content[at : at + 1]) for at in range(len(content)))
        per_byte = len(more(b"x"))
    else:
        first = text(b"good", fin=False) if split == "both" else b""
        frame = client_frame(CONTINUATION if first else TEXT, content + bytes(1000), fin=False)
        head, rest, per_byte = first + frame[:8], frame[8:], 1
    good = per_byte * (needed - 1)
    with RawWebSocket(echo, "/") as connection:
        connection.send_raw(head)
        connection.send_raw(rest[:good])
        if split == "fragments":
            connection.send_raw(client_frame(PING, b"all well"))
            assert connection.receive_frame() == (PONG, b"all well")
        connection.send_raw(rest[good : good + per_byte])
        assert connection.receive_end() == WebSocketClosed(1007)


def test_bytes_may_be_anything(echo: int) -> None:
    content = b"".join(content for content, _ in INVALID.values())
    sent = [client_frame(BINARY, content), client_frame(BINARY, content[:7], fin=False), more(content[7:], fin=True)]
    assert play(echo, [*sent, GOODBYE]) == [(BINARY, content)] * 2 + [ended(1000)]


# -- closing, sections 5.5.1, 7.1 and 7.4

AFTER_CLOSE = {
    "nothing": [],
    "another close": [close(1001)],
    "a ping": [client_frame(PING, b"too late")],
    "a message": [text(b"too late")],
    "a bad frame": [client_frame(3)],
}


@HOWS
@pytest.mark.parametrize("what", AFTER_CLOSE)
def test_nothing_is_answered_after_a_close(echo: int, what: str, how: str) -> None:
    assert play(echo, [BEFORE, GOODBYE, *AFTER_CLOSE[what]], how) == [(TEXT, b"Hello"), ended(1000)]


@HOWS
def test_a_close_in_the_middle_of_a_message_is_a_close(echo: int, how: str) -> None:
    assert play(echo, [text(HI, fin=False), GOODBYE, more(REST, fin=True)], how) == [ended(1000)]


def test_a_long_answer_is_sent_to_its_end_before_the_connection_is_closed(echo: int) -> None:
    content = b"BAsd7&jh23" * 400_000
    assert play(echo, [text(content), GOODBYE, client_frame(PING)]) == [(TEXT, content), ended(1000)]
    assert play(echo, [text(content), client_frame(3)]) == [(TEXT, content), ended(1002)]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
@pytest.mark.parametrize("reason", [b"", b"Hello World!", b"*" * 123, "é".encode()], ids=["", "text", "123", "utf-8"])
def test_a_close_is_answered_with_its_code(echo: int, code: int, reason: bytes) -> None:
    assert play(echo, [close(code, reason)]) == [ended(code)]


def test_a_close_without_a_code_is_answered_without_one(echo: int) -> None:
    assert play(echo, [client_frame(CLOSE)]) == [ended(None)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
@pytest.mark.parametrize("reason", [b"", b"Hello World!"], ids=["", "text"])
def test_a_close_with_a_code_that_may_not_be_sent_is_a_fault(echo: int, code: int, reason: bytes) -> None:
    assert play(echo, [close(code, reason)]) == [ended(1002)]


def test_a_close_of_one_byte_and_one_whose_reason_is_not_utf8_are_faults(echo: int) -> None:
    assert play(echo, [client_frame(CLOSE, b"a")]) == [ended(1002)]
    assert play(echo, [close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")]) == [ended(1007)]


# -- limits and performance

MIB = 1024 * 1024


def exchange(port: int, opcode: int, content: bytes, fragment_bytes: int, chop_bytes: int | None = None) -> float:
    """Send a message in fragments, and in pieces; returns how long it took to come back as it was."""
    starts = range(0, max(len(content), 1), fragment_bytes)
    sent = b"".join(
        client_frame(
            opcode if start == 0 else CONTINUATION,
            content[start : start + fragment_bytes],
            fin=start + fragment_bytes >= len(content),
        )
        for start in starts
    )
    with RawWebSocket(port, "/") as connection:
        began = time.monotonic()
        for start in range(0, len(sent), chop_bytes or len(sent)):
            connection.send_raw(sent[start : start + (chop_bytes or len(sent))])
        came = bytearray()
        head = 2 if len(content) < 126 else 4 if len(content) < 65536 else 10
        while len(came) < head + len(content):
            data = connection.socket.recv(MIB)
            assert data, f"it ended after {len(came)} bytes"
            came += data
        took_sec = time.monotonic() - began
    assert came[0] == 0x80 | opcode
    assert bytes(came[head:]) == content
    return took_sec


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    ("size", "fragment_bytes", "chop_bytes"),
    [
        (64 * 1024, 64 * MIB, None),
        (MIB, 64 * MIB, None),
        (16 * MIB, 64 * MIB, None),
        (4 * MIB, 64, None),
        (4 * MIB, 64 * 1024, None),
        (16 * MIB, 256, None),
        (MIB, 64 * MIB, 64),
        (MIB, 64 * MIB, 2048),
        (65_536, 1_300, None),
        (32 * MIB, 64 * MIB, None),
        (32 * MIB, 100_000, None),
    ],
)
def test_a_large_message_comes_back(
    echo: int, opcode: int, size: int, fragment_bytes: int, chop_bytes: int | None
) -> None:
    content = (UNICODE if opcode == TEXT else bytes(range(250))) * (size // 20)
    content = content[:size] if opcode == BINARY else content[: size // len(UNICODE) * len(UNICODE)]
    assert exchange(echo, opcode, content, fragment_bytes, chop_bytes) < 10


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_refused_when_its_length_says_that_it_is_too_large(echo: int, opcode: int) -> None:
    """Also in fragments, and in both cases before its payload has come."""
    too_large = struct.pack("!BBQ", 0x80 | opcode, 0xFF, 32 * MIB + 1) + b"mask"
    assert play(echo, [too_large]) == [ended(1009)]
    first = client_frame(opcode, bytes(16 * MIB), fin=False)
    second = struct.pack("!BBQ", 0x00, 0xFF, 16 * MIB + 1) + b"mask"
    assert play(echo, [first, second]) == [ended(1009)]


def test_endless_empty_fragments_take_nothing_from_the_others(echo: int) -> None:
    with RawWebSocket(echo, "/") as endless, RawWebSocket(echo, "/") as other:
        endless.socket.settimeout(0.5)
        endless.send_raw(client_frame(BINARY, fin=False))
        waited = []
        for _ in range(20):
            endless.send_raw(more() * 5_000)
            began = time.monotonic()
            other.send("there?")
            assert other.receive() == "there?"
            waited.append(time.monotonic() - began)
        assert sorted(waited)[10] < 0.1
