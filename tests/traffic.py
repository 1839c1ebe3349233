"""What clients send, common and odd, and a reader that is fed with it: for tests that compare two readers."""

import fcntl
import random
import socket
import struct
import termios
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from engine.reader import (
    CLOSE,
    IMAGE,
    INVALID_DATA,
    MAX_ANNOUNCEMENT_BYTES,
    PING,
    PONG,
    Announcements,
    Message,
    WebSocketError,
)
from engine.readers import MakeReader
from engine.transport import PlainTransport
from raw_engineio import BINARY, CONTINUATION, TEXT, client_frame
from running import until

EVENT: Final = "receiveImage"
ANNOUNCEMENTS: Final = Announcements(EVENT)
#: Of these the shortest one is as long as the short way takes.
LONGEST: Final = Announcements("x" * (MAX_ANNOUNCEMENT_BYTES - len(Announcements("").plain)))
HEADS: Final = tuple(head.decode() for head in ANNOUNCEMENTS.heads)
#: Whatever is left in the scratch by other connections.
JUNK: Final = bytes(random.Random(1).randbytes(1 << 12))

#: Texts that nearly announce an image, and those that do in an unusual way.
ODD_ANNOUNCEMENTS: Final = (
    *(f"451-{number}{HEADS[0]}]" for number in ("0", "00", "01", "-1", "1" * 15, "1" * 16, "999999999999999", " 1")),
    *(f"451-{HEADS[1]},{event}]" for event in ('"a"', '""', '"é"', '"\\u0041"', '"a\\b"', '"' + "x" * 64 + '"', "1")),
    f'451-{HEADS[0]},"{"x" * 65}"]',
    f'451-7{HEADS[0]},"a","b"]',
    f"451-{HEADS[0]}] ",
    f"451-{HEADS[0]}",
    f"451-{HEADS[0]},",
    f'451-{HEADS[0]},"',
    f'451-{HEADS[0]},"a',
    f'451-{HEADS[0]},"a"',
    # As long as the short way takes, and a byte more; with their ends and without.
    *(f'451-{"1" * 13}{HEADS[0]},"{"x" * 70}'[:size] for size in (124, 125, 126)),
    *(f'451-{"1" * number}{HEADS[0]},"{"x" * 64}"]' for number in (7, 8, 9)),
    *(f"451-{head.decode()}]"[:size] for head in LONGEST.heads for size in (123, 124, 125)),
    *(f"451-{number}{LONGEST.heads[0].decode()}]"[:125] for number in ("1", "11")),
    f"452-{HEADS[0]}]",
    f"451-/a,{HEADS[0]}]",
    f"451-{HEADS[0][:-1]} }}]",
    '451-["receiveimage",{"_placeholder":true,"num":0}]',
    '451-["receiveImage",{"_placeholder":true,"num":1}]',
    "451-",
    "4",
    "",
    '42["hello",{"a":1}]',
    "3",
)


class Refusal(NamedTuple):
    size: int


class Sink:
    """Refuses by the size: whoever is asked the same, answers the same."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str | None]] = []

    def admit(self, size: int, event: str | None) -> Refusal | None:
        self.asked.append((size, event))
        return Refusal(size) if size % 4 == 3 else None

    def take(self, image: bytes, event: str | None) -> None: ...

    def refuse(self, refusal: object) -> None: ...

    def answer(self, refusal: object) -> None: ...


def image_pair(rng: random.Random, prefix: bytes = b"", max_bytes: int = 200_000, size: int | None = None) -> bytes:
    """An image on its short way, in one of its forms."""
    number = rng.choice(("", "", "0", "7", str(rng.randrange(10**15))))
    event = rng.choice(("", "", ',"result"', f',"{"e" * rng.randint(1, 57)}"'))
    announcement = f"451-{number}{rng.choice(HEADS)}{event}]"
    if size is None:
        sizes = (0, 1, 2, 7, 100, 119, 125, 126, 127, 1000, 5000, 65535, 65536, rng.randrange(200_000))
        size = min(rng.choice(sizes), max_bytes)
    payload = prefix + rng.randbytes(size)
    return client_frame(TEXT, announcement.encode(), mask=rng.randbytes(4)) + longer_length(
        rng, client_frame(BINARY, payload, mask=rng.randbytes(4))
    )


def longer_length(rng: random.Random, frame: bytes) -> bytes:
    """The same frame; a short length is sometimes written in more bytes than it needs, which the protocol's readers let
    pass."""
    size = frame[1] & 0x7F
    if size > 125 or rng.random() < 0.8:
        return frame
    kind, width = rng.choice(((126, 2), (127, 8)))
    return frame[:1] + bytes((0x80 | kind,)) + size.to_bytes(width, "big") + frame[2:]


def odd_frame(rng: random.Random, prefix: bytes) -> bytes:
    """Something that is not an image on its short way, right or wrong."""
    body = rng.randbytes(rng.choice((0, 1, 5, 125, 126, 3000)))
    text = rng.choice(ODD_ANNOUNCEMENTS).encode()
    mask = rng.randbytes(4)
    kind = rng.randrange(12)
    if kind == 0:
        return client_frame(rng.choice((PING, PONG)), body[:125], mask=mask)
    if kind == 1:
        return client_frame(TEXT, text, mask=mask) + client_frame(BINARY, prefix + body, mask=mask)
    if kind == 2:
        return client_frame(TEXT, text, mask=mask)
    if kind == 3:
        return client_frame(BINARY, body, mask=mask)
    if kind == 4:
        return (
            client_frame(rng.choice((TEXT, BINARY)), text, fin=False, mask=mask)
            + client_frame(PING, b"between", mask=mask)
            + client_frame(CONTINUATION, text, fin=rng.random() < 0.8, mask=mask)
        )
    if kind == 5:  # announced and fragmented, or no image behind it
        announcement = f"451-{HEADS[0]}]".encode()
        begin = client_frame(TEXT, announcement, mask=mask)
        return begin + rng.choice(
            (
                client_frame(BINARY, prefix + body, fin=False, mask=mask) + client_frame(CONTINUATION, body, mask=mask),
                client_frame(TEXT, announcement, mask=mask),
                client_frame(BINARY, body, mask=mask),
                client_frame(CLOSE, b"\x03\xe8", mask=mask),
                client_frame(BINARY, b"", mask=mask),
                b"",
            )
        )
    if kind == 6:  # controls between the two
        announcement = f"451-{rng.choice(HEADS)}]".encode()
        control = client_frame(rng.choice((PING, PONG)), body[:125], mask=mask)
        return (
            client_frame(TEXT, announcement, mask=mask)
            + control * rng.randint(1, 3)
            + client_frame(BINARY, prefix + body, mask=mask)
        )
    if kind == 7:
        return client_frame(CLOSE, b"\x03\xe8", mask=mask)
    if kind == 8:  # a fault
        return rng.choice(
            (
                client_frame(BINARY, b"x", mask=None),
                client_frame(TEXT, text, rsv=4, mask=mask),
                client_frame(3, b"x"),
                client_frame(PING, b"x", fin=False),
                client_frame(PING, bytes(126)),
                client_frame(CONTINUATION, b"x"),
                b"\x82\xff" + (1 << 63).to_bytes(8, "big") + mask,
                b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                client_frame(TEXT, b"\xff" * 10),
            )
        )
    if kind == 9:
        announcement = f"451-{HEADS[0]}]".encode()
        return client_frame(TEXT, announcement) + b"\x82\xff" + rng.randbytes(8) + mask
    if kind == 10:
        return client_frame(TEXT, body.hex().encode(), mask=mask)
    return rng.randbytes(rng.randint(1, 20))


def conversation(rng: random.Random, prefix: bytes = b"", max_image_bytes: int = 200_000) -> bytes:
    """Some frames, most of them images on their short way; sometimes with bytes changed."""
    oddity = rng.choice((0.0, 0.1, 0.5))
    parts = [
        odd_frame(rng, prefix) if rng.random() < oddity else image_pair(rng, prefix, max_image_bytes)
        for _ in range(rng.randint(1, 8))
    ]
    if rng.random() < 0.1:  # many small ones, more than are read in a turn
        parts += [image_pair(rng, prefix, size=rng.randrange(20)) for _ in range(100)]
    sent = bytearray(b"".join(parts))
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            at = rng.choice((rng.randrange(len(sent)), min(rng.randrange(140), len(sent) - 1)))
            sent[at : at + rng.choice((0, 1, 1, 1, 2))] = rng.randbytes(rng.choice((0, 1, 1, 1, 2)))
            if not sent:
                break
    return bytes(sent)


def pieces(rng: random.Random, sent: bytes) -> Iterator[bytes]:
    """The same bytes, cut anywhere."""
    longest = rng.choice((3, 50, 1448, 20_000, 1 << 20))
    position = 0
    while position < len(sent):
        if longest < 100 and position > 2000:
            longest = 5000  # whoever is to read half a megabyte byte by byte is busy for long
        size = rng.randint(1, longest)
        yield sent[position : position + size]
        position += size


class Setup(NamedTuple):
    """What a reader is made with."""

    max_bytes: int = 150_000
    max_text_bytes: int | None = None
    scratch_bytes: int = 1 << 16
    prefix: bytes = b""
    announcements: Announcements | None = ANNOUNCEMENTS


USUAL: Final = Setup()


def any_setup(rng: random.Random) -> Setup:
    return Setup(
        max_bytes=rng.choice((150_000, 300_000, 2000, 100)),
        max_text_bytes=rng.choice((None, 100)),
        scratch_bytes=rng.choice((131, rng.randint(132, 400), 4096, 1 << 16, 1 << 19)),
        prefix=rng.choice((b"", b"\4")),
        announcements=rng.choice((ANNOUNCEMENTS,) * 5 + (LONGEST, None)),
    )


class Fed:
    """A reader, and everything that came of what it was fed.

    After messages that are no images it is told to resume when all have been read, as a WebSocket does.

    Attributes:
        came: the messages so far, and at the end the error.
        told: what it said that it holds.
    """

    def __init__(self, make: MakeReader, setup: Setup = USUAL) -> None:
        self.scratch = bytearray(setup.scratch_bytes)
        self.came: list[Any] = []
        self.told: list[int] = []
        self.sink = Sink()
        self.failed = False
        self.reader = make(
            setup.max_bytes,
            self.scratch,
            setup.max_text_bytes,
            self.told.append,
            setup.announcements,
            setup.prefix,
        )

    def resume(self, with_sink: bool = True) -> None:
        if not self.failed:
            self.reader.resume(self.sink if with_sink else None)

    def spoil(self) -> None:
        """Another connection receives."""
        size = min(len(self.scratch), len(JUNK))
        self.scratch[:size] = JUNK[:size]

    def _note(self, messages: Sequence[Message] | None) -> None:
        assert messages is not None, "it says that the connection has ended"
        for message in messages:
            if message[0] == TEXT:
                try:
                    message[1].decode()
                except UnicodeDecodeError:  # how much of it came at once decides who notices, and not what comes of it
                    raise WebSocketError(INVALID_DATA, "text that is not UTF-8") from None
            self.came.append(message)
            self._others = self._others or (message[0] < IMAGE and message[0] not in (PING, PONG))

    def feed(self, piece: bytes) -> None:
        """Receive this as a socket would that has nothing more: at most what there is room for at once."""
        self._others = False
        try:
            while piece and not self.failed:
                self.spoil()
                if self.reader.skipping:
                    size = min(len(piece), self.reader.missing)
                    self._note(self.reader.skipped(size))
                else:
                    size = 0
                    for buffer in self.reader.buffers():
                        part = piece[size : size + len(buffer)]
                        buffer[: len(part)] = part
                        size += len(part)
                    self._note(self.reader.received(size))
                piece = piece[size:]
                while self.reader.more:
                    self.spoil()
                    self._note(self.reader.received(0))
        except WebSocketError as error:
            self._fail(error)
        if self._others:
            self.resume()

    def _fail(self, error: WebSocketError) -> None:
        self.came.append((error.code, str(error)))
        self.failed = True

    def receive(self, transport: Any) -> None:
        """Receive until nothing is there."""
        self._others = False
        try:
            while not self.failed:
                self.spoil()
                self._note(self.reader.receive(transport))
        except BlockingIOError:
            pass
        except WebSocketError as error:
            self._fail(error)
        if self._others:
            self.resume()


#: So much fits into any socket.
SENT_BYTES: Final = 32 * 1024


class Lane:
    """A pair of connected sockets with a reader at one end, which receives all that is sent before more is.

    Args:
        kind: "unix" or "tcp" for the compiled reader's own calls, "through" for the transport's methods only.
    """

    def __init__(self, kind: str, make: MakeReader, setup: Setup = USUAL) -> None:
        if kind == "unix":
            self._theirs, self._ours = socket.socketpair()
        else:
            self._theirs, self._ours = tcp_pair()
        self._ours.setblocking(False)
        self.transport: Any = Through(self._ours) if kind == "through" else PlainTransport(self._ours)
        self.fed = Fed(make, setup)

    def send(self, piece: bytes) -> None:
        for start in range(0, len(piece), SENT_BYTES):
            if not self.fed.failed:
                part = piece[start : start + SENT_BYTES]
                self._theirs.sendall(part)
                until(partial(self._has, len(part)), "what was sent")
                self.fed.receive(self.transport)

    def _has(self, wanted: int) -> bool:
        (size,) = struct.unpack("i", fcntl.ioctl(self._ours, termios.FIONREAD, bytes(4)))
        return bool(size == wanted)

    def close(self) -> None:
        self._theirs.close()
        self._ours.close()


class Through(PlainTransport):
    """Carries the bytes in another form, so that nobody may take them from the socket."""

    __slots__ = ()
    plain = False  # type: ignore[assignment, misc]

    def receive_into(self, buffers: Sequence[memoryview]) -> int:
        return self._socket.recv_into(buffers[0])


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other
