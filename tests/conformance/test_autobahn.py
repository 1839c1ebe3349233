"""The cases of the Autobahn test suite (its groups 1 to 7, 9 and 10, and 12 as a refusal), with wsproto as the client.

wsproto reads what the server answers, and would not take a mask, a reserved bit, a fragment of a control frame or a
code that may not be sent. Much of this is in test_websocket.py too, in bytes, and is not played again.

    group  intent                                            here, and in test_websocket.py (W)
    1      text and bytes of every length of a length,       test_a_message_comes_back_whole, in pieces or in fragments;
           at once and in pieces of 997 bytes                W test_a_message_of_every_length_comes_back
    2      pings of every payload, ten at once, in pieces;   test_pings_are_answered_in_their_order;
           pongs that nobody asked for                       W test_what_keeps_to_the_protocol_is_answered
    3      reserved bits, alone, behind and before good      test_reserved_bits_and_opcodes_end_the_connection;
           frames, on data and on control frames             W test_what_breaks_the_protocol_ends_…
    4      reserved opcodes, of data and of control          the same two
    5      fragments, control frames between them, order     test_fragments_with_pings_between_them_…;
           that is wrong                                     W test_what_keeps_to_…, W test_what_breaks_…
    6      UTF-8, in fragments and frames cut anywhere,      test_text_in_fragments_cut_anywhere_comes_back,
           and that the first wrong byte ends it             test_invalid_text_is_a_1007; W test_the_first_wrong_byte_…,
                                                             test_text_that_is_not_utf8_…, test_text_that_ends_…
    7      closing: twice, with data behind, all codes,      test_every_close_code_is_answered_with_itself,
           reasons, payloads that are wrong                  test_after_a_close_…; W test_nothing_is_answered_after_…,
                                                             test_a_close_…
    9      large messages to 16 MB, in fragments of 64 B     test_a_large_message_comes_back_in_fragments,
           to 4 MB, in pieces of 64 B to 2 KB; 1,000         test_a_large_message_comes_back_in_pieces,
           messages there and back, one after the other      test_a_thousand_messages_go_there_and_back;
                                                             W test_a_large_message_comes_back
           a message beyond the limit                        test_a_message_beyond_the_limit_is_a_1009
    10     a message that the client cuts by itself          W test_a_large_message_comes_back (65,536 by 1,300)
    12,13  permessage-deflate                                test_compression_is_refused_and_its_bit_a_fault

All of it is played while images take their short way, and once more with images around it.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from wsproto import WSConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from raw_engineio import CLOSE, CONTINUATION, PATIENCE_SEC, PING, TEXT, client_frame

MIB = 1024 * 1024
CI = bool(os.environ.get("CI"))
SENTENCE = "Hello-µ@ßöä€𝄞 "
IMAGE = b"\xff\xd8 an image, as far as the reader goes"


class Client:
    """wsproto's client on a socket.

    Args:
        offers: extensions.
    """

    def __init__(self, port: int, offers: list[PerMessageDeflate] | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SEC)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._at_end = False
        self.send(Request(host=f"127.0.0.1:{port}", target="/", extensions=list(offers or [])))
        accepted = self.receive()
        assert isinstance(accepted, AcceptConnection), accepted
        self.agreed = accepted.extensions

    def send(self, *events: Event, piece_bytes: int = 1 << 30) -> None:
        """Send these, in pieces of so many bytes."""
        self.send_raw(b"".join(self.protocol.send(event) for event in events), piece_bytes)

    def send_raw(self, data: bytes, piece_bytes: int = 1 << 30) -> None:
        for at in range(0, len(data), piece_bytes):
            self.socket.sendall(data[at : at + piece_bytes])

    def receive(self) -> Event | None:
        """What comes next; None at the end."""
        while (event := next(self._events, None)) is None:
            if self._at_end:
                return None
            data = self.socket.recv(MIB)
            self._at_end = not data
            if data or self.protocol.state is not ConnectionState.CLOSED:
                self.protocol.receive_data(data or None)
            self._events = self.protocol.events()
        return event

    def message(self) -> str | bytes:
        """The next message, all parts of it that wsproto hands out."""
        parts = []
        while True:
            event = self.receive()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                return parts[0][:0].join(parts)

    def code(self) -> int:
        """Of the server's close frame; the connection ends behind it."""
        while not isinstance(event := self.receive(), CloseConnection):
            assert event is not None
        if self.protocol.state is ConnectionState.REMOTE_CLOSING:
            self.send(event.response())
        assert self.receive() is None
        return event.code

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()


def text_of(size: int) -> str:
    """So many bytes of text, with characters of every length."""
    count = size // len(SENTENCE.encode())
    return SENTENCE * count + "*" * (size - count * len(SENTENCE.encode()))


def message(content: str | bytes, finished: bool = True) -> Message:
    kind = TextMessage if isinstance(content, str) else BytesMessage
    return kind(data=content, message_finished=finished)  # type: ignore[arg-type]


def fragments(content: str | bytes, size: int) -> list[Message]:
    """Of text a fragment has so many characters."""
    parts = [content[at : at + size] for at in range(0, len(content), size)] or [content]
    return [message(part, part is parts[-1]) for part in parts]


def image(number: int) -> list[str | bytes]:
    return [f'451-{number}["receiveImage",{{"_placeholder":true,"num":0}}]', IMAGE + bytes(number)]


# -- 1, 2, 5, 6: what is well


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("how", ["at once", "in pieces", "in fragments"])
def test_a_message_comes_back_whole(echo: int, size: int, how: str) -> None:
    with Client(echo) as client:
        for content in (text_of(size), os.urandom(size)):
            for _ in range(2):  # and a second time, with images around it
                if how == "in fragments":
                    client.send(*fragments(content, max(size // 7, 1)))
                else:
                    client.send(message(content), piece_bytes=997 if how == "in pieces" else 1 << 30)
                assert client.message() == content
                client.send(*map(message, image(size % 1_000)))
                assert [client.message(), client.message()] == image(size % 1_000)
        client.send(CloseConnection(code=1000))
        assert client.code() == 1000


@pytest.mark.parametrize("piece_bytes", [1 << 30, 1])
def test_pings_are_answered_in_their_order(echo: int, piece_bytes: int) -> None:
    payloads = [b"", b"Hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125, *[b"%d" % n for n in range(10)]]
    with Client(echo) as client:
        client.send(Pong(payload=b"unsolicited"), *map(Ping, payloads), piece_bytes=piece_bytes)
        assert [client.receive() for _ in payloads] == [Pong(payload=payload) for payload in payloads]
        between = [message(image(1)[0]), Ping(payload=b"x"), Pong(payload=b"y"), message(IMAGE)]
        client.send(*between, piece_bytes=piece_bytes)
        assert client.receive() == Pong(payload=b"x")
        assert [client.message(), client.message()] == [image(1)[0], IMAGE]


@pytest.mark.parametrize("piece_bytes", [1 << 30, 1])
@pytest.mark.parametrize("content", [SENTENCE, SENTENCE.encode(), image(3)[0]], ids=["text", "bytes", "announcement"])
def test_fragments_with_pings_between_them_come_back_behind_the_pongs(
    echo: int, content: str | bytes, piece_bytes: int
) -> None:
    with Client(echo) as client:
        for size in (1, 3, len(content) - 1):
            parts = fragments(content, size)
            mixed = [event for number, part in enumerate(parts) for event in (Ping(payload=b"%d" % number), part)]
            client.send(*mixed, message(b"next"), piece_bytes=piece_bytes)
            assert [client.receive() for _ in parts] == [Pong(payload=b"%d" % number) for number in range(len(parts))]
            assert [client.message(), client.message()] == [content, b"next"]


def test_text_in_fragments_cut_anywhere_comes_back(echo: int) -> None:
    """wsproto cuts between characters; within them W does."""
    with Client(echo) as client:
        for cut in range(len(SENTENCE) + 1):
            client.send(message(SENTENCE[:cut], False), message("", False), message(SENTENCE[cut:]))
            assert client.message() == SENTENCE


# -- 3 to 7: what is wrong


FAULTS = {
    **{f"reserved bits {rsv} on type {opcode}": client_frame(opcode, b"\x03\xe8", rsv=rsv)
       for rsv in range(1, 8) for opcode in (CONTINUATION, TEXT, 2, CLOSE, PING, 10)},
    **{f"opcode {opcode} with {len(payload)} bytes": client_frame(opcode, payload)
       for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15) for payload in (b"", b"reserved")},
}  # fmt: skip


@pytest.mark.parametrize("before", ["nothing", "a message", "an image", "an announcement"])
def test_reserved_bits_and_opcodes_end_the_connection(echo: int, before: str) -> None:
    sent = {"nothing": [], "a message": ["Hello"], "an image": image(1), "an announcement": image(1)[:1]}[before]
    for name, fault in FAULTS.items():
        with Client(echo) as client:
            first = b"".join(client.protocol.send(message(one)) for one in sent)
            client.send_raw(first + fault + client_frame(PING))
            # An announcement whose image does not come need not come back: who serves Socket.IO sees no more of it.
            answers = [] if before == "an announcement" else sent
            came = []
            while isinstance(event := client.receive(), Message):
                came.append(event.data)
            assert came in (answers, sent), name
            assert isinstance(event, CloseConnection), name
            assert event.code == 1002, name


@pytest.mark.parametrize(
    "wrong",
    [b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xc3"],
)
@pytest.mark.parametrize("how", ["a text", "fragments", "an announcement"])
def test_invalid_text_is_a_1007(echo: int, wrong: bytes, how: str) -> None:
    if how == "an announcement":
        wrong = image(1)[0][:-1].encode() + b',"' + wrong + b'"]'  # type: ignore[union-attr]
    sent = client_frame(TEXT, wrong)
    if how == "fragments":
        sent = client_frame(TEXT, wrong[:1], fin=False) + client_frame(CONTINUATION, wrong[1:])
    for piece_bytes in (1 << 30, 1):
        with Client(echo) as client:
            client.send_raw(sent, piece_bytes)
            assert client.code() == 1007


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_every_close_code_is_answered_with_itself(echo: int, code: int) -> None:
    for reason in (None, "Hello World!", "*" * 123, "µ" * 61):
        with Client(echo) as client:
            client.send(CloseConnection(code=code, reason=reason))
            assert client.code() == code


def test_after_a_close_nothing_comes_back_but_what_was_before_it(echo: int) -> None:
    """7.1.6: a message of 256 KB, a close and a ping."""
    with Client(echo) as client:
        client.send(message(text_of(256 * 1024)), *map(message, image(2)))
        client.send_raw(client.protocol.send(CloseConnection(code=1000)) + client_frame(PING) + client_frame(TEXT))
        assert client.message() == text_of(256 * 1024)
        assert [client.message(), client.message()] == image(2)
        assert client.code() == 1000


@pytest.mark.parametrize("opcode", [TEXT, 2])
def test_a_message_beyond_the_limit_is_a_1009(echo: int, opcode: int) -> None:
    """Also behind an announcement, and in fragments, before its payload has come."""
    announcement = client_frame(TEXT, image(1)[0].encode())  # type: ignore[union-attr]
    too_large = struct.pack("!BBQ", 0x80 | opcode, 0xFF, 32 * MIB + 1) + b"mask"
    in_fragments = client_frame(opcode, bytes(MIB), fin=False) + (
        struct.pack("!BBQ", CONTINUATION, 0xFF, 31 * MIB + 1) + b"mask"
    )
    for sent in (too_large, announcement + too_large, in_fragments):
        with Client(echo) as client:
            client.send_raw(sent)
            assert client.code() == 1009


# -- 9: large, and many

FRAGMENTS = [64, 256, 1024, 4096, 16_384, 65_536, 262_144, MIB, 4 * MIB] if CI else [1024, 16_384, MIB]
PIECES = [64, 128, 256, 512, 1024, 2048] if CI else [128, 1024]


@pytest.mark.parametrize("fragment_bytes", FRAGMENTS)
@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_large_message_comes_back_in_fragments(echo: int, kind: str, fragment_bytes: int) -> None:
    """9.3 and 9.4: 4 MB."""
    content: str | bytes = "µ€" * (4 * MIB // 5) if kind == "text" else os.urandom(MIB) * 4
    with Client(echo) as client:
        client.send(*fragments(content, fragment_bytes))
        assert client.message() == content


@pytest.mark.parametrize("piece_bytes", PIECES)
@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_large_message_comes_back_in_pieces(echo: int, kind: str, piece_bytes: int) -> None:
    """9.5 and 9.6: 1 MB."""
    content = text_of(MIB) if kind == "text" else os.urandom(MIB)
    with Client(echo) as client:
        client.send(message(content), piece_bytes=piece_bytes)
        assert client.message() == content


@pytest.mark.parametrize("size", [256 * 1024, 8 * MIB, 16 * MIB] if CI else [16 * MIB])
@pytest.mark.parametrize("kind", ["text", "bytes", "image"])
def test_a_large_message_comes_back_at_once(echo: int, kind: str, size: int) -> None:
    """9.1 and 9.2."""
    content = text_of(size) if kind == "text" else os.urandom(MIB // 4) * (size * 4 // MIB)
    with Client(echo) as client:
        if kind == "image":
            client.send(message(image(9)[0]))
        client.send(message(content))
        if kind == "image":
            assert client.message() == image(9)[0]
        assert client.message() == content


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
@pytest.mark.parametrize("kind", ["text", "bytes", "image"])
def test_a_thousand_messages_go_there_and_back(echo: int, kind: str, size: int) -> None:
    """9.7 and 9.8; a tenth of them where time is short."""
    content = text_of(size) if kind == "text" else os.urandom(size)
    with Client(echo) as client:
        began = time.monotonic()
        for number in range(1_000 if CI else 100):
            sent = [content] if kind != "image" else [image(number)[0], content]
            client.send(*map(message, sent))
            for one in sent:
                assert client.message() == one
        assert time.monotonic() - began < 10


# -- 12, 13: compression


def test_compression_is_refused_and_its_bit_a_fault(echo: int) -> None:
    with Client(echo, offers=[PerMessageDeflate(), PerMessageDeflate(client_no_context_takeover=True)]) as client:
        assert client.agreed == []
        client.send(message("plain"))
        assert client.message() == "plain"
        client.send_raw(client_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
        assert client.code() == 1002
