"""Clients out of their minds: what they say, as hypothesis strategies, and how it is said to a server.

A case is the life of one client: how it comes, a few steps, and how it goes. Most of a case is well-formed, so that
what is not gets deep into the server.
"""

import contextlib
import json
import re
import select
import socket
import struct
from collections import Counter, deque
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from pictures import picture
from raw_engineio import BINARY, TEXT, client_frame
from security.images import BOMBS, bmp, cut_and_closed, damaged, jpeg, png
from security.outside import internals_in

PATIENCE_SEC: Final = 5.0
#: Sockets that are left open; the oldest is closed for the next.
LEFT_OPEN: Final = 60


class Case(NamedTuple):
    """The life of a client.

    Args:
        way: `http`, `polling`, `websocket` or `upgrade`.
        protocol: Engine.IO's, 3 or 4.
        steps: http: requests; polling: bodies of POSTs, None for a poll; websocket: bytes; upgrade: bytes, after a
            handshake over polling.
        piece: the steps are sent in pieces of this many bytes, if not 0.
        end: `close`, `reset`, `half` (its sending side only), `leave` (open).
        farewell: a polling client says that it goes.
    """

    way: str
    protocol: int
    steps: tuple[bytes | None, ...]
    piece: int
    end: str
    farewell: bool


# What is said: Socket.IO

EVENTS: Final = (
    "authenticate", "receiveImage", "connect", "disconnect", "error", "message", "hello", "", "__proto__",
    "constructor", "setRate", "result", "é😀", "\ud800", "\0", "x" * 300,
)  # fmt: skip
VALUES: Final = (
    "null", "true", "0", "-1", "1e308", "1e999", "NaN", "9" * 50, "9" * 5_000, '""', '"user1"', '"pass1"', '"in"',
    '"a b"', '"disconnect"', r'"\ud800"', r'"\u0000"', '"' + "x" * 2_000 + '"', "[]", "{}", '{"a":[1,{"b":null}]}',
    '{"_placeholder":true,"num":0}', '{"_placeholder":true,"num":1}', '{"_placeholder":true,"num":-1}',
    '{"_placeholder":true,"num":"x"}', '{"_placeholder":1}', "[" * 90 + "]" * 90, "[" * 2_000 + "]" * 2_000,
    '{"username":"user1","password":"pass1"}', '{"token":"x.y.z"}', '{"username":null}', "[,]", "'x'", "undefined",
)  # fmt: skip
IMAGES: Final = (
    picture()[:-40], b"", picture(), picture(".png"), picture(".webp"), picture(".bmp"), b"\xff\xd8", b"no image",
    jpeg(64, 48), png(64, 48), bmp(64, 48), cut_and_closed(picture(), 0.5), cut_and_closed(picture(".png"), 0.5),
    *(damaged(picture(), seed) for seed in range(6)), *(damaged(picture(".png"), seed) for seed in range(6)),
    *(damaged(picture(".webp"), seed) for seed in range(4)), *list(BOMBS.values())[:3],
)  # fmt: skip
PLACEHOLDER: Final = '{"_placeholder":true,"num":0}'


def login(name: str = "user1", password: str = "pass1") -> str:
    return "42" + json.dumps(["authenticate", name, password, "in"])


@st.composite
def events(draw: st.DrawFn) -> str:
    name = json.dumps(draw(st.sampled_from(EVENTS)))
    arguments = [name, *draw(st.lists(st.sampled_from(VALUES), max_size=3))]
    kind = draw(st.sampled_from(("2", "2", "2", "5", "3", "6", "0", "1", "4", "7", "")))
    attachments = draw(st.sampled_from(("", "", "1-", "1-", "2-", "11-", "0-", "9999999999-", "-")))
    namespace = draw(st.sampled_from(("", "", "", "/,", "/admin,", "/admin?x=1,", "/", "/" + "x" * 200 + ",")))
    number = draw(st.sampled_from(("", "", "1", "0", "7" * 20, "7" * 120, "-1")))
    return (
        f"4{kind}{attachments if kind in '56' or draw(st.booleans()) else ''}{namespace}{number}[{','.join(arguments)}]"
    )


TEXTS: Final = (
    "40", "40{}", "40[]", '40{"username":"user1","password":"pass1"}', '40{"token":"x"}', "40/admin,", "41",
    "41/admin,", "0", "1", "2", "3", "5", "6", "7", "", "4", "2probe", "3probe", "4x", "42", "42[]",
    "42{}", "431[]", "430[]", "44{}", "b", "bAAAA", "b4AAAA", "b!", "42[[[", "451-", "45-[]", '451-["receiveImage"]',
)  # fmt: skip
#: A frame that is sent as it should be, and as nearly as it should be.
FRAMES_OF: Final = tuple(
    (f'451-{number}["receiveImage",{PLACEHOLDER}{more}]', image)
    for number, (image, more) in enumerate(
        [(image, "") for image in IMAGES] + [(IMAGES[0], more) for more in (',"mine"', ",null", ',"connect"', ",1,2")]
    )
)

Packets = tuple[str | bytes, ...]


def packets(user: str) -> st.SearchStrategy[Packets]:
    """One or two Engine.IO packets."""
    return st.one_of(
        st.sampled_from(FRAMES_OF),
        st.sampled_from(FRAMES_OF),
        events().map(lambda text: (text,)),
        events().map(lambda text: (text,)),
        st.sampled_from(TEXTS).map(lambda text: (text,)),
        st.sampled_from([(login(user, user.replace("user", "pass")),)]),
        st.sampled_from(IMAGES).map(lambda image: (image,)),
        st.text(max_size=8).map(lambda text: (text,)),
        st.sampled_from([(login("Bob", "wrong"),), (login("../x", ""),), (login("user1", "\ud800"),)]),
    )


# What is said: bytes

MUTATIONS: Final = ("change", "insert", "delete", "double", "cut")


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """The bytes, and in every third case a few of them changed."""
    data = bytearray(draw(whole))
    for _ in range(max(draw(st.integers(-4, 3)), 0)):
        if not data:
            break
        # Near the beginning, where heads are, as often as anywhere.
        at = draw(st.integers(0, min(len(data), 40) - 1 if draw(st.booleans()) else len(data) - 1))
        what = draw(st.sampled_from(MUTATIONS))
        if what == "change":
            data[at] = draw(st.integers(0, 255))
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif what == "delete":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 32))]
        else:
            del data[at:]
    return bytes(data)


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def websocket_frames(said: Packets, protocol: int) -> bytes:
    return b"".join(
        client_frame(TEXT, _text_bytes(packet))
        if isinstance(packet, str)
        else client_frame(BINARY, packet if protocol == 4 else b"\x04" + packet)
        for packet in said
    )


@st.composite
def odd_frames(draw: st.DrawFn) -> bytes:
    """A frame whose head says anything at all."""
    payload = draw(st.one_of(st.binary(max_size=130), st.sampled_from([b"42[]", b"\xff", b"\x03\xe8", bytes(70_000)])))
    frame = client_frame(
        draw(st.integers(0, 15)),
        payload,
        fin=draw(st.booleans()),
        rsv=draw(st.sampled_from((0, 0, 0, 0, 1, 2, 4, 7))),
        mask=draw(st.sampled_from((b"\x11\x22\x33\x44", b"\0\0\0\0", None))),
    )
    length = draw(st.sampled_from((None, None, None, 126, 127, 5)))
    return frame if length is None else frame[:1] + bytes((0x80 | length,)) + frame[2:]


def websocket_steps(protocol: int, user: str) -> st.SearchStrategy[bytes]:
    good = packets(user).map(lambda said: websocket_frames(said, protocol))
    frames = st.lists(st.sampled_from(FRAMES_OF), min_size=1, max_size=4).map(
        lambda several: websocket_frames(sum(several, ()), protocol)
    )
    return st.one_of(good, frames, mutated(good), mutated(frames), odd_frames())


def payload(said: Packets, protocol: int) -> bytes:
    """The packets as the body of a POST."""
    import base64

    mark = "b" if protocol == 4 else "b4"
    texts = [p if isinstance(p, str) else mark + base64.b64encode(p).decode() for p in said]
    if protocol == 4:
        return _text_bytes("\x1e".join(texts))
    return b"".join(_text_bytes(f"{len(t.encode('utf-16-le', 'surrogatepass')) // 2}:{t}") for t in texts)


def post_bodies(protocol: int) -> st.SearchStrategy[bytes]:
    good = packets("user2").map(lambda said: payload(said, protocol))
    several = st.lists(packets("user2"), max_size=4).map(lambda all: payload(sum(all, ()), protocol))
    return st.one_of(good, good, several, mutated(good), st.binary(max_size=30))


# What is said: HTTP

METHODS: Final = ("GET", "GET", "GET", "POST", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "CONNECT", "get", "", "BREW")
TARGETS: Final = (
    "/healthz", "/readyz", "/metrics", "/api/v1/token", "/api/v1/token", "/api/v1/streams", "/", "*", "", "//x",
    "/../x",    "/socket.io/?EIO=4&transport=polling", "/socket.io/?EIO=3&transport=polling&b64=1", "/socket.io/?EIO=4",
    "/socket.io/?EIO=4&transport=websocket", "/socket.io/?EIO=4&transport=polling&sid=x", "/socket.io/?EIO=%00&&=",
    "/socket.io/?transport=polling&EIO=4&EIO=3", "http://x/healthz", "/%00", "/%ff%fe", "/é", "/?" + "a=b&" * 500,
    "/" + "x" * 17_000, "/socket.io/?EIO=4&transport=polling&j=1", "/socket.io", "/socket.io/x/y",
)  # fmt: skip
VERSIONS: Final = ("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 x", "", "http/1.1", "HTTP/1.10")
HEADERS: Final = (
    "Connection: close", "Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c",
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Key: x", "Origin: null", "Origin: http://[::1", "Origin: http://evil.example", "Host: y", "Host:",
    "Expect: 100-continue", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Content-Length: 0",
    "Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 0x5",
    "Content-Type: application/json", "Content-Type: application/json; charset=utf-16", "Content-Encoding: gzip",
    "Authorization: Bearer x.y.z", "Authorization: Bearer", "Authorization: Basic Og==", "Accept-Encoding: gzip",
    "Cookie: a=b; a=c", "X-Forwarded-For: 1.2.3.4", "Range: bytes=0-", "no header", " folded", "a b: c", "x:\x01",
    "x: é", "X: " + "y" * 9_000,
)  # fmt: skip
BODIES: Final = (
    b"",
    b'{"username":"user1","password":"pass1"}',
    b'{"username":"Bob","password":"wrong"}',
    b'{"username":{"a":1},"password":[]}',
    b'{"username":"user1","password":"pass1","x":' + b"[" * 3_000,
    b"[" * 8_000,
    b"[]",
    b"{",
    b"null",
    b"\xff\xfe",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"0\r\n\r\n",
    b"-1\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"5\nhello\n0\n\n",
    b"\x1f\x8b\x08\0" + bytes(20),
    b"x" * 20_000,
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from(BODIES))
    lines = ["Host: x", *draw(st.lists(st.sampled_from(HEADERS), max_size=4))]
    if body and draw(st.integers(0, 3)):
        chunked = body.endswith(b"\r\n\r\n")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
        lines.append("Content-Type: application/json")
    first = f"{draw(st.sampled_from(METHODS))} {draw(st.sampled_from(TARGETS))} {draw(st.sampled_from(VERSIONS))}"
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1", "replace") + body


ENDS: Final = ("close", "close", "reset", "reset", "half", "leave")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    way = draw(st.sampled_from(("http", "polling", "websocket", "websocket", "websocket", "upgrade")))
    protocol = draw(st.sampled_from((3, 4, 4)))
    end = draw(st.sampled_from(ENDS))
    # Whoever stays and says nothing is asked for a sign of life by the next one of its name, for 2 s. So that the
    # others are not all kept waiting, it has a name of its own.
    user = "user2" if way == "polling" or end == "leave" else "user1"
    steps: list[bytes | None]
    if way == "http":
        steps = list(draw(st.lists(mutated(requests()), min_size=1, max_size=3)))
    elif way == "polling":
        steps = list(draw(st.lists(st.one_of(post_bodies(protocol), st.none()), min_size=1, max_size=5)))
    elif way == "websocket":
        steps = list(draw(st.lists(websocket_steps(protocol, user), min_size=1, max_size=6)))
    else:
        probe = [client_frame(TEXT, b"2probe"), client_frame(TEXT, b"5")]
        steps = draw(st.permutations(probe)) if draw(st.booleans()) else probe
        steps = [*steps[: draw(st.integers(0, 2))], *draw(st.lists(websocket_steps(protocol, user), max_size=3))]
    if way in ("polling", "websocket") and draw(st.integers(0, 4)):  # most of them join, and most of those log in
        begin = ["40"] if protocol == 4 else []
        if draw(st.integers(0, 3)):
            begin.append(login(user, user.replace("user", "pass")))
        encode = payload if way == "polling" else websocket_frames
        if begin:
            steps.insert(0, encode(tuple(begin), protocol))
    return Case(
        way, protocol, tuple(steps), draw(st.sampled_from((0, 0, 0, 0, 1, 7, 100))), end, draw(st.integers(0, 9)) > 0
    )  # fmt: skip


# How it is said


class Fuzzer:
    """Plays cases against a server, and looks after each whether it still serves.

    Attributes:
        counts: of cases, and of what became of them.
        bytes: that the server has sent.
        timeouts: cases in which the server left its client waiting.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._left: deque[socket.socket] = deque()
        self._sids: set[tuple[int, str]] = set()
        self._control = self._connect("127.0.0.1")
        self._sources = 0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.timeouts = 0

    def play(self, case: Case) -> None:
        """Play one case.

        Raises:
            AssertionError: a client was told what is nobody's business, or the server does not answer any more.
        """
        self.counts[case.way] += 1
        self._sources = self._sources % 50_000 + 1
        # From addresses of their own, or a wrong password of one keeps the right ones of all others out.
        with self._connect(f"127.1.{self._sources // 250}.{self._sources % 250 + 1}") as sock:
            received = bytearray()
            try:
                getattr(self, f"_play_{case.way}")(case, sock, received)
            except TimeoutError:
                self.timeouts += 1
            except OSError:
                pass  # it was cut, as a client out of its mind may be
            self._end(case, sock, received)
        self.bytes += len(received)
        found = internals_in(bytes(received))
        assert not found, f"a client was told {found[0]!r}"
        self.ask("/healthz", b'{"status":"ok"}')

    def ask(self, path: str, expected: bytes, token: str = "") -> None:
        """See that the server answers, over a connection that is kept as long as it lets us."""
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        for attempt in (1, 2):
            try:
                self._control.sendall(request)
                answer = self._answer(self._control, bytearray())
                break
            except OSError:
                assert attempt == 1, "the server does not answer any more"
                self._control.close()
                self._control = self._connect("127.0.0.1")
        assert b" 200 " in answer[:20], answer[:200]
        assert expected in answer.replace(b" ", b""), answer[:200]

    def close(self, farewell: bool) -> None:
        """Close everything that was left open; the sessions over polling are told so, or left to their deadlines."""
        while self._left:
            self._left.popleft().close()
        for protocol, sid in self._sids if farewell else ():
            with self._connect("127.0.0.1") as sock, contextlib.suppress(OSError):
                sock.sendall(self._post(payload(("1",), protocol), protocol, sid))
                self._answer(sock, bytearray())
        self._control.close()

    # -- ways

    def _play_http(self, case: Case, sock: socket.socket, received: bytearray) -> None:
        for step in case.steps:
            self._send(case, sock, step or b"")
            self._take(sock, received)

    def _play_websocket(self, case: Case, sock: socket.socket, received: bytearray) -> None:
        self._upgrade(case, sock, received, "")
        for number, step in enumerate(case.steps):
            self._send(case, sock, step or b"")
            if number == 0 and case.end != "leave":  # or what follows a login would come before its answer
                self._take_until(sock, received, b'["in",')
            self._take(sock, received)

    def _play_polling(self, case: Case, sock: socket.socket, received: bytearray) -> None:
        sid = self._handshake(case.protocol, sock, received)
        for step in case.steps:
            if step is None:
                sock.sendall(self._get(case.protocol, sid))
            else:
                self._send(case, sock, self._post(step, case.protocol, sid))
            self._take(sock, received)
        if case.farewell:
            if None not in case.steps:  # or it would come before the answers, and two POSTs at once end a session
                for _ in range(5):
                    if received.count(b"HTTP/1.1 ") <= len(case.steps):
                        self._take(sock, received, wait_sec=0.003)
            with self._connect("127.0.0.1") as other:
                other.sendall(self._post(payload(("1",), case.protocol), case.protocol, sid))
                self._answer(other, received)
                self._sids.discard((case.protocol, sid))

    def _play_upgrade(self, case: Case, sock: socket.socket, received: bytearray) -> None:
        with self._connect("127.0.0.1") as polling:
            sid = self._handshake(case.protocol, polling, received)
            self._upgrade(case, sock, received, sid)
            for step in case.steps:
                self._send(case, sock, step or b"")
                self._take(sock, received)

    def _handshake(self, protocol: int, sock: socket.socket, received: bytearray) -> str:
        sock.sendall(self._get(protocol, ""))
        found = re.search(rb'"sid": ?"([^"]+)"', self._answer(sock, received))
        assert found is not None, bytes(received)
        sid = found[1].decode()
        self._sids.add((protocol, sid))
        return sid

    def _upgrade(self, case: Case, sock: socket.socket, received: bytearray, sid: str) -> None:
        sock.sendall(
            f"GET /socket.io/?EIO={case.protocol}&transport=websocket{f'&sid={sid}' if sid else ''} HTTP/1.1\r\n"
            "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        head = bytearray()
        while b"\r\n\r\n" not in head:
            data = sock.recv(65_536)
            if not data:
                break
            head += data
        received += head
        assert head.startswith(b"HTTP/1.1 101 ") or sid, bytes(head)

    def _get(self, protocol: int, sid: str) -> bytes:
        sid = f"&sid={sid}" if sid else ""
        return f"GET /socket.io/?EIO={protocol}&transport=polling{sid} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def _post(self, body: bytes, protocol: int, sid: str) -> bytes:
        head = (
            f"POST /socket.io/?EIO={protocol}&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    # -- sockets

    def _connect(self, source: str) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), PATIENCE_SEC, source_address=(source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _send(self, case: Case, sock: socket.socket, data: bytes) -> None:
        if not case.piece or len(data) > 40 * case.piece:
            sock.sendall(data)
        else:
            for at in range(0, len(data), case.piece):
                sock.sendall(data[at : at + case.piece])

    def _take(self, sock: socket.socket, received: bytearray, wait_sec: float = 0.0) -> None:
        """What is there by now."""
        while select.select([sock], [], [], wait_sec)[0]:
            data = sock.recv(65_536)
            if not data:
                return
            received += data
            wait_sec = 0.0

    def _take_until(self, sock: socket.socket, received: bytearray, what: bytes) -> None:
        for _ in range(10):
            if what in received:
                break
            before = len(received)
            self._take(sock, received, wait_sec=0.003)
            if len(received) == before:
                break

    def _answer(self, sock: socket.socket, received: bytearray) -> bytes:
        """One HTTP answer, whole."""
        answer = bytearray()
        wanted: int | None = None
        while wanted is None or len(answer) < wanted:
            data = sock.recv(65_536)
            if not data:
                raise ConnectionError("no answer")
            answer += data
            if wanted is None and (end := answer.find(b"\r\n\r\n")) >= 0:
                found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer[:end])
                wanted = end + 4 + (int(found[1]) if found else 0)
        received += answer
        return bytes(answer)

    def _end(self, case: Case, sock: socket.socket, received: bytearray) -> None:
        with contextlib.suppress(OSError):
            if case.end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif case.end == "half":
                sock.shutdown(socket.SHUT_WR)
                self._take(sock, received, wait_sec=0.002)
            elif case.end == "leave":
                self._take(sock, received, wait_sec=0.001)
                self._left.append(sock.dup())
                if len(self._left) > LEFT_OPEN:
                    self._left.popleft().close()
            else:
                self._take(sock, received, wait_sec=0.001)


def value_of(metrics: str, name: str) -> float:
    """A number from /metrics, of all labels together."""
    found = re.findall(rf"^imageserver_{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, found))


def cause_of(line: str) -> str:
    """A log line without what differs from one to the next."""
    text = line.split(" ", 3)[-1]
    return re.sub(r"\d+|[\w-]{20}:|'[^']*'|\"[^\"]*\"", "#", text)[:60]


def per_second(log: list[str]) -> Counter[Any]:
    """How many lines of each cause were written in each second."""
    return Counter((line[:19], cause_of(line)) for line in log)
