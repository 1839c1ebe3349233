"""The WebSocket parser, each of both, fed in every chunking, without sockets."""

import gc
import socket
import struct
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Literal, cast

import pytest
import wsproto.frame_protocol as rfc
from eventlet.greenio import GreenSocket
from hypothesis import given
from hypothesis import strategies as st

import green
from engine import websocket
from engine.reader import FIRST_BUFFER_BYTES, FRAMES_PER_TURN, WebSocketError
from engine.readers import MakeReader, Reader, choose
from engine.unfinished import Unfinished
from engine.websocket import Limits, ReaderKind, WebSocket
from peers import need
from raw_engineio import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client_frame
from traffic import ANNOUNCEMENTS, Sink

LIMIT = 1_000_000
Messages = list[tuple[int, bytes]]

#: One of them after the other, see `each_reader`.
making: MakeReader = choose("python").make


@pytest.fixture(params=["python", "compiled"], autouse=True, scope="module")
def each_reader(request: pytest.FixtureRequest) -> None:
    global making
    if request.param == "compiled":
        need("compiled-reader")
    making = choose(cast(Literal["python", "compiled"], request.param)).make


def feed(reader: Reader, data: bytes, chunks: list[int] | None = None) -> Messages:
    """Receive `data` as a socket would: at most a chunk at once, the first buffer filled before the second."""
    messages: Messages = []
    position = 0
    sizes = iter(chunks or [])
    while position < len(data):
        buffers = reader.buffers()
        size = min(next(sizes, 1 << 16), sum(map(len, buffers)), len(data) - position)
        piece = data[position : position + size]
        for buffer in buffers:
            buffer[: len(piece)] = piece[: len(buffer)]
            piece = piece[len(buffer) :]
        position += size
        messages += reader.received(size)
        while reader.more:
            messages += reader.received(0)
        reader.resume(Sink())
    return messages


def reader(
    limit: int = LIMIT,
    scratch_bytes: int = 1 << 16,
    max_text_bytes: int | None = None,
    hold: Callable[[int], object] | None = None,
) -> Reader:
    """A reader as of a client that has logged in: images may take their short way, and everything else is as ever."""
    one = making(limit, bytearray(scratch_bytes), max_text_bytes, hold, ANNOUNCEMENTS)
    one.resume(Sink())
    return one


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, Messages]:
    """What a client sends, made by another implementation, and the messages in it; controls between fragments too."""
    protocol = rfc.FrameProtocol(client=True, extensions=[])
    sent = bytearray()
    expected: Messages = []
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from((TEXT, BINARY)))
        content = st.text(st.characters(codec="utf-8"), max_size=100).map(str.encode) if opcode == TEXT else st.binary()
        payload = draw(content | st.sampled_from((b"", bytes(125), bytes(126), bytes(65535), bytes(65536))))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for number, part in enumerate(parts):
            kind = rfc.Opcode(opcode if number == 0 else CONTINUATION)
            sent += protocol._serialize_frame(kind, part, fin=number == len(parts) - 1)
            if number < len(parts) - 1 and draw(st.booleans()):
                control, body = draw(st.sampled_from((PING, PONG))), draw(st.binary(max_size=125))
                sent += protocol._serialize_frame(rfc.Opcode(control), body)
                expected.append((control, body))
        expected.append((opcode, payload))
    return bytes(sent), expected


@given(conversations(), st.lists(st.integers(1, 200), max_size=60), st.sampled_from((14, 100, 131, 1 << 16)))
def test_messages_are_the_same_in_whatever_pieces_they_come(
    conversation: tuple[bytes, Messages], chunks: list[int], scratch_bytes: int
) -> None:
    sent, expected = conversation
    assert feed(reader(scratch_bytes=scratch_bytes), sent, chunks) == expected


@pytest.mark.parametrize(
    "size", [0, 1, 125, 126, 127, 65535, 65536, FIRST_BUFFER_BYTES - 1, FIRST_BUFFER_BYTES, 900_000]
)
@pytest.mark.parametrize("chunk", [1000, 65536])
def test_a_message_of_every_kind_of_length_arrives_whole_and_once(size: int, chunk: int) -> None:
    payload = bytes(i % 251 for i in range(min(size, 5000))) * (size // 5000 + 1)
    payload = payload[:size]
    sent = client_frame(BINARY, payload) * 2 + client_frame(TEXT, b"after")
    assert feed(reader(), sent, [chunk] * 10_000) == [(BINARY, payload), (BINARY, payload), (TEXT, b"after")]


def test_byte_by_byte_gives_the_same() -> None:
    sent = client_frame(TEXT, b"one", fin=False) + client_frame(PING, b"!") + client_frame(CONTINUATION, b"two")
    assert feed(reader(scratch_bytes=14), sent, [1] * len(sent)) == [(PING, b"!"), (TEXT, b"onetwo")]


def test_the_shared_scratch_buffer_may_be_overwritten_as_soon_as_received_returns() -> None:
    scratch = bytearray(1 << 16)
    one, other = (making(LIMIT, scratch, announcements=ANNOUNCEMENTS) for _ in range(2))
    one.resume(Sink())
    other.resume(Sink())
    first, second = client_frame(BINARY, b"a" * 500), client_frame(BINARY, b"b" * 500)
    assert feed(one, first[:300]) == []
    assert feed(other, second[:3]) == []
    assert feed(one, first[300:]) == [(BINARY, b"a" * 500)]
    (message,) = feed(other, second[3:])
    scratch[:] = bytes(len(scratch))
    assert message == (BINARY, b"b" * 500)


def test_a_mask_of_zeros_and_a_mask_of_ones_are_masks_too() -> None:
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\xff\x00\xff"):
        assert feed(reader(), client_frame(BINARY, b"12345", mask=mask)) == [(BINARY, b"12345")]


FAULTS = {
    "a frame without a mask": (client_frame(TEXT, b"x", mask=None), 1002, "not masked"),
    "RSV1": (client_frame(TEXT, b"x", rsv=4), 1002, "reserved bit"),
    "RSV2": (client_frame(TEXT, b"x", rsv=2), 1002, "reserved bit"),
    "RSV3": (client_frame(PING, b"x", rsv=1), 1002, "reserved bit"),
    "opcode 3": (client_frame(3, b"x"), 1002, "unknown opcode 3"),
    "opcode 7": (client_frame(7, b"x"), 1002, "unknown opcode 7"),
    "opcode 11": (client_frame(11, b"x"), 1002, "unknown opcode 11"),
    "opcode 15": (client_frame(15, b"x"), 1002, "unknown opcode 15"),
    "a ping in fragments": (client_frame(PING, b"x", fin=False), 1002, "control frame is fragmented"),
    "a ping of 126 bytes": (client_frame(PING, bytes(126)), 1002, "longer than 125"),
    "a close of 126 bytes": (client_frame(CLOSE, bytes(126)), 1002, "longer than 125"),
    "a continuation of nothing": (client_frame(CONTINUATION, b"x"), 1002, "without a beginning"),
    "a message inside of a message": (
        client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"y"),
        1002,
        "a beginning inside",
    ),
    "a continuation after the end": (
        client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"y") + client_frame(CONTINUATION, b"z"),
        1002,
        "without a beginning",
    ),
    "one byte too many": (client_frame(BINARY, bytes(LIMIT + 1)), 1009, "1000001 bytes or more, at most 1000000"),
    "fragments that are too many together": (
        client_frame(BINARY, bytes(LIMIT), fin=False) + client_frame(CONTINUATION, b"x", fin=False),
        1009,
        "1000001 bytes or more",
    ),
    "a length of 2 to the 63": (struct.pack("!BBQ", 0x82, 0xFF, 1 << 63), 1009, "at most 1000000"),
    "a length of all ones": (struct.pack("!BBQ", 0x82, 0xFF, (1 << 64) - 1), 1009, "at most 1000000"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("chunk", [1, 7, 65536])
def test_what_breaks_the_protocol_is_refused_with_its_close_code(fault: str, chunk: int) -> None:
    data, code, message = FAULTS[fault]
    if chunk == 1 and len(data) > 10_000:
        chunk = 1000
    with pytest.raises(WebSocketError, match=message) as caught:
        feed(reader(), client_frame(TEXT, b"fine") + data, [chunk] * len(data))
    assert caught.value.code == code


def test_a_message_of_just_the_limit_is_taken_also_in_fragments() -> None:
    whole = client_frame(BINARY, bytes(LIMIT))
    parts = client_frame(BINARY, bytes(LIMIT - 1), fin=False) + client_frame(PING) + client_frame(CONTINUATION, b"\0")
    assert feed(reader(), whole) == [(BINARY, bytes(LIMIT))]
    assert feed(reader(), parts) == [(PING, b""), (BINARY, bytes(LIMIT))]


def test_a_ping_in_a_message_of_nearly_the_limit_does_not_count_towards_it() -> None:
    sent = client_frame(BINARY, bytes(LIMIT), fin=False) + client_frame(PING, bytes(125)) + client_frame(CONTINUATION)
    assert feed(reader(), sent) == [(PING, bytes(125)), (BINARY, bytes(LIMIT))]


@given(st.binary(max_size=600), st.lists(st.integers(1, 50), max_size=30))
def test_random_bytes_give_messages_or_an_error_of_the_protocol_and_nothing_else(
    data: bytes, chunks: list[int]
) -> None:
    codes = [1002, 1007, 1009]
    try:
        messages = feed(reader(), data, chunks)
    except WebSocketError as error:
        codes.remove(error.code)  # one of these
    else:
        assert all(opcode in (TEXT, BINARY, CLOSE, PING, PONG) for opcode, _ in messages)


def peak_bytes(data: bytes, limit: int = 1 << 30) -> int:
    """The memory that a reader takes for what it was sent."""
    one = reader(limit)
    tracemalloc.start()
    try:
        feed(one, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_length_that_is_announced_and_never_sent_takes_no_more_than_the_first_buffer() -> None:
    assert peak_bytes(struct.pack("!BBQ", 0x82, 0xFF, 1 << 29) + b"mask" + b"x") < FIRST_BUFFER_BYTES + 50_000


def test_memory_follows_what_has_come_and_not_what_was_announced() -> None:
    sent = 3_000_000
    data = struct.pack("!BBQ", 0x82, 0xFF, 1 << 29) + b"mask" + bytes(sent)
    assert peak_bytes(data) < 4 * sent


def test_a_flood_of_tiny_frames_is_read_in_turns() -> None:
    """Whatever they are: controls, messages, or fragments that complete nothing."""
    for frame in (client_frame(PING), client_frame(TEXT), client_frame(CONTINUATION, fin=False)):
        one = reader()
        (buffer,) = one.buffers()
        start = client_frame(BINARY, fin=False) if frame[0] & 0x0F == CONTINUATION else b""
        flood = start + frame * (len(buffer) // len(frame) - 2)
        buffer[: len(flood)] = flood
        turns = [one.received(len(flood))]
        while one.more:
            turns.append(one.received(0))
        assert max(map(len, turns)) <= FRAMES_PER_TURN
        assert len(turns) > len(flood) / len(frame) / FRAMES_PER_TURN - 1
        assert sum(map(len, turns)) == (0 if start else len(flood) // len(frame))


def test_after_a_turn_the_rest_is_read_before_what_comes_next() -> None:
    one = reader(scratch_bytes=2000)
    sent = b"".join(client_frame(TEXT, str(number).encode()) for number in range(1000)) + client_frame(
        BINARY, bytes(5000)
    )
    messages = feed(one, sent)
    assert messages == [(TEXT, str(number).encode()) for number in range(1000)] + [(BINARY, bytes(5000))]


def test_a_connection_that_has_ended_is_gone_at_once_and_not_when_python_looks_for_cycles() -> None:
    """A thousand of them with 11 MB each would wait for that."""
    ours, theirs = socket.socketpair()
    kind = ReaderKind(making, ANNOUNCEMENTS)
    connection = WebSocket(GreenSocket(ours), Limits(LIMIT), bytearray(1 << 16), reader_kind=kind)
    reference = weakref.ref(connection)
    gc.disable()
    try:
        connection.abort()
        del connection
        assert reference() is None
    finally:
        gc.enable()
        theirs.close()


def test_what_came_before_a_fault_is_given_out_before_it() -> None:
    one = reader()
    (buffer,) = one.buffers()
    sent = client_frame(TEXT, b"good") + client_frame(PING) + client_frame(3) + client_frame(TEXT, b"too late")
    buffer[: len(sent)] = sent
    assert one.received(len(sent)) == [(TEXT, b"good"), (PING, b"")]
    assert one.more
    for _ in range(2):
        with pytest.raises(WebSocketError, match="unknown opcode 3"):
            one.received(0)


@given(st.text(min_size=1), st.integers(1, 400), st.integers(1, 9), st.binary(min_size=4, max_size=4))
def test_a_wrong_byte_is_noticed_when_it_comes_and_right_ones_are_not(
    before: str, later: int, chunk: int, mask: bytes
) -> None:
    """In every position towards the mask, and however the frame is cut."""
    good = before.encode("utf-8", "replace")
    frame = client_frame(TEXT, good + b"\xff" + bytes(later), mask=mask)
    until_fault = len(frame) - later
    one = reader()
    assert feed(one, frame[: until_fault - 1], [chunk] * len(frame)) == []
    with pytest.raises(WebSocketError, match="not UTF-8") as caught:
        feed(one, frame[until_fault - 1 : until_fault])
    assert caught.value.code == 1007


def test_text_has_a_limit_of_its_own_also_in_fragments() -> None:
    def one() -> Reader:
        return reader(max_text_bytes=100)

    assert feed(one(), client_frame(TEXT, bytes(100))) == [(TEXT, bytes(100))]
    assert feed(one(), client_frame(BINARY, bytes(101))) == [(BINARY, bytes(101))]
    fragments = client_frame(BINARY, bytes(60), fin=False) + client_frame(CONTINUATION, bytes(60))
    assert feed(one(), fragments) == [(BINARY, bytes(120))]
    for sent in (
        client_frame(TEXT, bytes(101))[:8],
        client_frame(TEXT, bytes(60), fin=False) + client_frame(CONTINUATION, bytes(41))[:8],
    ):
        with pytest.raises(WebSocketError, match="101 bytes or more, at most 100") as caught:
            feed(one(), sent)
        assert caught.value.code == 1009


def test_what_is_held_is_told_when_it_is_much() -> None:
    told: list[int] = []
    one = reader(hold=told.append)
    feed(one, client_frame(BINARY, bytes(FIRST_BUFFER_BYTES)), [1000] * 100)
    assert told == []
    feed(one, client_frame(BINARY, bytes(500_000)))
    assert told == [*sorted(told[:-1]), 0]
    assert max(told) == 500_000
    told.clear()
    feed(one, client_frame(BINARY, bytes(60_000), fin=False))
    feed(one, client_frame(CONTINUATION, bytes(60_000), fin=False))
    assert told == [120_000]
    feed(one, client_frame(CONTINUATION, b"x"))
    assert told == [120_000, 0]


CLOSE_PAYLOADS = {
    b"": None,
    struct.pack("!H", 1000): None,
    struct.pack("!H", 1001) + b"bye": None,
    struct.pack("!H", 1003) + "é".encode(): None,
    struct.pack("!H", 1014): None,
    struct.pack("!H", 3000): None,
    struct.pack("!H", 4999): None,
    b"\x03": 1002,
    struct.pack("!H", 0): 1002,
    struct.pack("!H", 999): 1002,
    struct.pack("!H", 1004): 1002,
    struct.pack("!H", 1005): 1002,
    struct.pack("!H", 1006): 1002,
    struct.pack("!H", 1015): 1002,
    struct.pack("!H", 1016): 1002,
    struct.pack("!H", 2999): 1002,
    struct.pack("!H", 5000): 1002,
    struct.pack("!H", 65535): 1002,
    struct.pack("!H", 1000) + b"\xff": 1007,
}


@pytest.mark.parametrize("payload", CLOSE_PAYLOADS, ids=repr)
def test_close_codes_that_must_not_be_sent_are_refused(payload: bytes) -> None:
    error = websocket._check_close(payload)
    assert (error.code if error is not None else None) == CLOSE_PAYLOADS[payload]


@pytest.mark.parametrize(
    ("connection", "upgrade", "asks"),
    [
        ("Upgrade", "websocket", True),
        ("keep-alive, Upgrade", "WebSocket", True),
        ("upgrade", "websocket", True),
        ("keep-alive", "websocket", False),
        ("Upgrade", "h2c", False),
        ("Upgraded", "websocket", False),
        ("", "", False),
    ],
)
def test_a_handshake_is_known_by_its_headers(connection: str, upgrade: str, asks: bool) -> None:
    assert websocket.is_upgrade({"HTTP_CONNECTION": connection, "HTTP_UPGRADE": upgrade}) is asks


def test_images_and_controls_by_turns_are_read_in_turns_as_well() -> None:
    one = reader(scratch_bytes=1 << 19)
    announced = client_frame(TEXT, b'451-["receiveImage",{"_placeholder":true,"num":0}]') + client_frame(BINARY, b"i")
    feed(
        one,
        client_frame(TEXT, b'451-["receiveImage",{"_placeholder":true,"num":0}]') + client_frame(BINARY, bytes(10_000)),
    )
    mixed = (announced * (FRAMES_PER_TURN - 1) + client_frame(PONG)) * 60
    (buffer,) = one.buffers()
    assert len(buffer) >= len(mixed)
    buffer[: len(mixed)] = mixed
    turns = [one.received(len(mixed))]
    while one.more:
        turns.append(one.received(0))
    assert {len(turn) for turn in turns} == {FRAMES_PER_TURN}
    assert len(turns) == 60


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_nothing_empty_waits_to_be_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    """The payload of an empty ping would be sent for ever: each send would take none of its bytes, and leave it."""
    connection = WebSocket(GreenSocket(ends[0]), Limits(LIMIT), bytearray(100), reader_kind=ReaderKind(making))
    while not connection._outgoing:
        connection.send(bytes(10_000))
    connection.ping()
    connection.send("")
    assert min(map(len, connection._outgoing)) > 0
    connection.abort()


class Slow:
    """Takes a while over each message, and notes what happens."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    def receive(self, message: str | bytes) -> None:
        self.happened.append(f"begin {message!r}")
        green.sleep(0.02)
        self.happened.append(f"end {message!r}")

    def receive_image(self, *_: object) -> None: ...

    def sink(self) -> None: ...

    def ended(self) -> None:
        self.happened.append("ended")


def test_one_that_gives_way_while_it_receives_is_still_one_thing_after_the_other(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    class Taking(Slow):
        def sink(self) -> Sink:  # type: ignore[override]
            return Sink()

        def receive_image(self, *_: object) -> None:
            """So that more is received at once from now on."""

    slow = Taking()
    connection = WebSocket(
        GreenSocket(ends[0]),
        Limits(1 << 20),
        bytearray(1 << 17),
        Unfinished(80_000),
        ReaderKind(making, ANNOUNCEMENTS),
        close_socket=lambda: None,
    )
    connection.start(slow)
    ends[1].sendall(client_frame(TEXT, ANNOUNCEMENTS.plain) + client_frame(BINARY, bytes(2002)))
    green.sleep(0.05)
    half = client_frame(BINARY, bytes(1 << 20))[:90_000]
    ends[1].sendall(client_frame(TEXT, b"one") + client_frame(TEXT, b"two") + half)
    green.sleep(0.2)
    assert slow.happened == ["begin 'one'", "end 'one'", "begin 'two'", "end 'two'", "ended"]


def test_refused_images_go_by_several_in_a_turn_and_not_without_end(ends: tuple[socket.socket, socket.socket]) -> None:
    refused = client_frame(TEXT, ANNOUNCEMENTS.plain) + client_frame(BINARY, bytes(2003))  # the sink's rule

    class Refusing(Slow):
        def sink(self) -> Sink:  # type: ignore[override]
            return Sink()

        def receive_image(self, *_: object) -> None:
            self.happened.append("refused")

    handler = Refusing()
    kind = ReaderKind(making, ANNOUNCEMENTS)
    green_end = GreenSocket(ends[0])
    connection = WebSocket(green_end, Limits(LIMIT), bytearray(1 << 16), reader_kind=kind, close_socket=lambda: None)
    ends[1].setblocking(False)
    ends[1].sendall(refused * 60)
    connection.start(handler)
    connection._receive()
    at_once = (1 << 16) // len(refused)
    assert at_once + 5 < len(handler.happened) <= at_once + 1 + websocket.RECEIVES_OF_REFUSED < 70
    before = len(handler.happened)
    green.sleep(0.1)
    assert before < len(handler.happened) == 60
    connection.abort()
