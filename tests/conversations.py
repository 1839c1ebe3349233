"""Conversations that are had twice: with a server whose images take the short way, and with one without it.

What a client sends is a list of steps: bytes, which may be cut anywhere, and what is done in between. The same steps go
over a WebSocket, or, those that are whole messages, over polling.
"""

import base64
import http.client
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from app_process import AppProcess
from raw_engineio import BINARY, CLOSE, PATIENCE_SEC, PING, PONG, TEXT, RawWebSocket, client_frame

Frame = tuple[int, bytes]


class Forward(NamedTuple):
    """Let all be handled, then move both clocks."""

    sec: float


class Kick(NamedTuple):
    """Have the server disconnect the user.

    Attributes:
        whole: whole frames were sent so far, and are handled before.
    """

    whole: bool = True


class HangUp(NamedTuple):
    """End without a close frame."""


class Pause(NamedTuple):
    """Let all that was sent be received, though it may be no whole frame."""


Step = bytes | Forward | Kick | HangUp | Pause


class Dialect:
    """What a client of one protocol sends."""

    def __init__(self, protocol: int, user: str) -> None:
        self.protocol = protocol
        self.user = user
        self.joined = [] if protocol == 3 else [self.text("0")]
        self.login = self.text(f'2["authenticate",{json.dumps(user)},"x","in"]')

    def text(self, packet: str) -> bytes:
        """A Socket.IO packet."""
        return client_frame(TEXT, b"4" + packet.encode())

    def binary(self, data: bytes, **how: Any) -> bytes:
        return client_frame(BINARY, self.message(data), **how)

    def message(self, data: bytes) -> bytes:
        """A binary message's payload."""
        return b"\x04" + data if self.protocol == 3 else data

    def announce(self, ack: object = "", event: str = "", **how: Any) -> bytes:
        """The usual announcement of an image."""
        return self.text(self.announcement(ack, event))

    @staticmethod
    def announcement(ack: object = "", event: str = "") -> str:
        return f'51-{ack}["receiveImage",{{"_placeholder":true,"num":0}}{event and f",{event}"}]'

    def image(self, image: bytes | None = None, ack: object = "", event: str = "") -> bytes:
        """An image, announced."""
        return self.announce(ack, event) + self.binary(tiny() if image is None else image)


def tiny(filling: int = 20) -> bytes:
    """A JPEG of 8 x 8 pixels as far as its header goes, in few bytes."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 8, 8, 1) + b"\1\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda" + bytes(filling) + b"\xff\xd9"


class Outcome(NamedTuple):
    """All that shows of a conversation.

    Attributes:
        lived: the client said goodbye, and not the server.
        frames: what the server sent.
        counts: by how much /metrics' counters have grown.
        published: stream, number, size, digest, what it answers to, and the header of each frame.
    """

    lived: bool
    frames: list[Frame]
    counts: dict[str, float]
    published: list[list[Any]]

    @property
    def end(self) -> int | None:
        """The code of the server's close frame; None where the connection just ended."""
        opcode, payload = self.frames[-1]
        return int.from_bytes(payload[:2], "big") if opcode == CLOSE else None

    @property
    def acks(self) -> list[str]:
        return [payload.decode() for opcode, payload in self.frames if opcode == TEXT and payload.startswith(b"43")]

    @property
    def errors(self) -> list[str]:
        return [
            json.loads(payload[2:])[1]
            for opcode, payload in self.frames
            if opcode == TEXT and payload.startswith(b'42["serverError"')
        ]


GOODBYE = client_frame(CLOSE, struct.pack("!H", 1000))
SYNC: Final = b"so far"


class Way:
    """One of the two servers, and how a conversation with it goes."""

    def __init__(self, server: AppProcess) -> None:
        self.server = server
        self._account = server.ask("account")
        self.short = 0

    def play(self, protocol: int, user: str, steps: list[Step], cuts: Callable[[bytes], Iterator[bytes]]) -> Outcome:
        """Have this conversation, each run of bytes in these pieces."""
        frames: list[Frame] = []
        with RawWebSocket(self.server.port, f"/socket.io/?EIO={protocol}&transport=websocket") as connection:
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening = connection.receive()
            assert isinstance(opening, str), opening
            assert opening.startswith("0{"), opening
            alive = True
            for step in joined_bytes(steps):
                match step:
                    case bytes():
                        alive = alive and send(connection, cuts(step))
                    case Pause():
                        self._settle()
                    case HangUp():
                        hang_up(connection)
                        alive = False
                    case Forward():
                        alive = alive and self._sync(connection, frames)
                        self.server.ask(f"forward?sec={step.sec}")
                    case Kick():
                        self._settle()
                        alive = alive and (not step.whole or self._sync(connection, frames))
                        self.server.ask(f"kick?user={user}")
            lived = alive and self._sync(connection, frames)
            send(connection, iter([GOODBYE]))
            while (frame := connection.receive_frame()) is not None:
                frames.append(frame)
        return self._outcome(lived, frames)

    def play_polling(self, protocol: int, user: str, steps: list[Step], at_once: bool) -> Outcome:
        """Have it in POSTs: a run of messages in one, or each in one of its own."""
        frames: list[Frame] = []
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SEC)
        address = f"/socket.io/?EIO={protocol}&transport=polling"

        def ask(method: str, body: bytes | None = None) -> tuple[int, bytes]:
            headers = {} if body is None else {"Content-Type": "text/plain;charset=UTF-8"}
            connection.request(method, address, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

        def fetch() -> None:
            while self.server.ask(f"waiting?sid={sid}"):
                frames.append(ask("GET"))

        status, opening = ask("GET")
        assert status == 200, opening
        sid = json.JSONDecoder().raw_decode(opening[opening.index(b"{") :].decode())[0]["sid"]
        address += f"&sid={sid}"
        alive = True
        for step in joined_bytes(steps):
            match step:
                case bytes():
                    messages = list(messages_of(step))
                    for group in [messages] if at_once else [[message] for message in messages]:
                        if alive and group:
                            frames.append(ask("POST", payload(protocol, group)))
                            alive = frames[-1][0] == 200
                            fetch()
                case Forward():
                    self.server.ask(f"forward?sec={step.sec}")
                case Kick():
                    self.server.ask(f"kick?user={user}")
                    fetch()
        fetch()
        connection.close()
        self.server.ask(f"end?sid={sid}")
        return self._outcome(alive, frames)

    def _outcome(self, lived: bool, frames: list[Frame]) -> Outcome:
        before, self._account = self._account, self.server.ask("account")
        counts = {
            name: value - before["counts"].get(name, 0)
            for name, value in self._account["counts"].items()
            if not name.startswith(("process_", "python_")) and value != before["counts"].get(name, 0)
        }
        self.short = self._account["short"] - before["short"]
        return Outcome(lived, list(map(without_sid, frames)), counts, self._account["published"])

    def _settle(self) -> None:
        """Let what was sent be received, and handled as far as it can be."""
        self.server.ask("settle")

    def _sync(self, connection: RawWebSocket, frames: list[Frame]) -> bool:
        """Read until everything that was sent has been handled; False when that was the end."""
        if not send(connection, iter([client_frame(PING, SYNC)])):
            return False
        while (frame := connection.receive_frame()) is not None:
            if frame == (PONG, SYNC):
                return True
            frames.append(frame)
            if frame[0] == CLOSE:
                return False
        return False


def joined_bytes(steps: list[Step]) -> Iterator[Step]:
    """Runs of bytes in one."""
    run = b""
    for step in steps:
        if isinstance(step, bytes):
            run += step
            continue
        if run:
            yield run
        run = b""
        yield step
    if run:
        yield run


def messages_of(sent: bytes) -> Iterator[str | bytes]:
    """The messages in these frames; a control frame is none.

    Raises:
        ValueError: something is no whole message.
    """
    at = 0
    while at < len(sent):
        first, second = sent[at], sent[at + 1]
        size, start = second & 0x7F, at + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(sent[start : start + wide], "big"), start + wide
        at = start + 4 + size
        if first not in (0x80 | TEXT, 0x80 | BINARY, 0x80 | PING, 0x80 | PONG) or not second & 0x80 or at > len(sent):
            raise ValueError("no whole message")
        mask = (sent[start : start + 4] * (size // 4 + 1))[:size]
        data = int.from_bytes(sent[start + 4 : at], "big") ^ int.from_bytes(mask, "big")
        if first & 0xF in (TEXT, BINARY):
            message = data.to_bytes(size, "big")
            yield message.decode() if first & 0xF == TEXT else message


def payload(protocol: int, messages: list[str | bytes]) -> bytes:
    """A POST's body of these Engine.IO packets; of bytes as WebSocket has them."""
    if protocol == 4:
        texts = [one if isinstance(one, str) else "b" + base64.b64encode(one).decode() for one in messages]
        return "\x1e".join(texts).encode()
    texts = [
        one if isinstance(one, str) else f"b{one[0] if one else 4}" + base64.b64encode(one[1:]).decode()
        for one in messages
    ]
    return "".join(f"{len(text)}:{text}" for text in texts).encode()


def send(connection: RawWebSocket, pieces: Iterator[bytes]) -> bool:
    try:
        for piece in pieces:
            connection.send_raw(piece)
    except OSError:
        return False  # it has had enough
    return True


def hang_up(connection: RawWebSocket) -> None:
    try:
        connection.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the server was faster


def without_sid(frame: Frame) -> Frame:
    return frame[0], re.sub(rb'"sid":"[^"]*"', b'"sid":""', frame[1])


def at_once(sent: bytes) -> Iterator[bytes]:
    yield sent


def in_pieces(size: int) -> Callable[[bytes], Iterator[bytes]]:
    return lambda sent: (sent[start : start + size] for start in range(0, len(sent), size))


class Ways(NamedTuple):
    """Both servers, with this reader."""

    reader: str
    short: Way
    long: Way

    def compare(
        self,
        protocol: int,
        say: Callable[[Dialect], list[Step]],
        cuts: Callable[[bytes], Iterator[bytes]] = at_once,
        before: str = "login",
    ) -> Outcome:
        """Have a conversation with both; returns what came of it, which was the same.

        Args:
            before: what the client has done before: `login`, `join` or `nothing`.
        """
        user, steps = prepare(protocol, say, before)
        return self._compare(way.play(protocol, user, steps, cuts) for way in (self.short, self.long))

    def compare_polling(
        self, protocol: int, say: Callable[[Dialect], list[Step]], at_once: bool, before: str = "login"
    ) -> Outcome:
        """The same over polling.

        Raises:
            ValueError: it does not consist of whole messages.
        """
        user, steps = prepare(protocol, say, before)
        for step in joined_bytes(steps):
            if isinstance(step, HangUp) or (isinstance(step, bytes) and not list(messages_of(step))):
                raise ValueError("not for polling")
        return self._compare(way.play_polling(protocol, user, steps, at_once) for way in (self.short, self.long))

    def _compare(self, outcomes: Iterable[Outcome]) -> Outcome:
        short, long = outcomes
        assert short.frames == long.frames
        assert short.lived == long.lived
        assert short.counts == long.counts
        assert short.published == long.published
        assert not self.long.short
        return short


def prepare(protocol: int, say: Callable[[Dialect], list[Step]], before: str) -> tuple[str, list[Step]]:
    """A new user's name, and what it says from the beginning."""
    user = next(users)
    dialect = Dialect(protocol, user)
    steps: list[Step] = []
    if before != "nothing":
        steps += dialect.joined
    if before == "login":
        steps += [dialect.login, Forward(0)]
    return user, steps + say(dialect)


def _users() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"user-{number}"


users = _users()
