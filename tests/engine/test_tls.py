"""The whole server over TLS, and WebSockets on it: records of every cut, clients that do not read, that stall, that go.

A client here has its TLS in its hands, and says what becomes a record of its own, and what of that goes out when.
"""

import hashlib
import itertools
import json
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import socketio
from eventlet.green.ssl import GreenSSLSocket
from eventlet.greenio import GreenSocket

from app_process import AppProcess, app_process
from conversations import GOODBYE, Dialect, tiny
from engine.transport import transport_of
from peers import need
from pictures import padded, picture
from raw_engineio import BINARY, PATIENCE_SEC, PING, PONG, RawWebSocket, WebSocketClosed, client_frame
from readers import READERS
from running import until
from security.processes import cpu_sec, rss_bytes

PROTOCOLS = pytest.mark.parametrize("protocol", [3, 4])
MAX_BYTES: Final = 8 << 20
#: A handshake's deadline that a test can wait for.
HANDSHAKE_SEC: Final = 0.5
MIB: Final = 1 << 20


class TlsEnd:
    """A client's end of a TLS connection, in place of its socket."""

    def __init__(self, plain: socket.socket, trust: ssl.SSLContext) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._call(self._tls.do_handshake)

    def records(self, *contents: bytes) -> bytes:
        """Each of these in a record of its own, or in several where it is long."""
        for content in contents:
            self._tls.write(content)
        return self._outgoing.read()

    def sendall(self, content: bytes) -> None:
        self.plain.sendall(self.records(content))

    def recv(self, size: int) -> bytes:
        """What comes, empty after the server's goodbye.

        Raises:
            ssl.SSLEOFError: it went without.
        """
        try:
            return self._call(lambda: self._tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def _call(self, function: Callable[[], Any]) -> Any:
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.plain.recv(MIB)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            self._flush()
            return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.plain.sendall(self._outgoing.read())

    def settimeout(self, seconds: float) -> None:
        self.plain.settimeout(seconds)

    def close(self) -> None:
        self.plain.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a certificate for 127.0.0.1, and of its key."""
    need("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    files = [str(folder / "certificate.pem"), str(folder / "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture(scope="module")
def trust(certificate: list[str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


#: Either reader is given what TLS has received in the same way, so that one will do where time is short.
@pytest.fixture(scope="module", params=READERS if os.environ.get("CI") else READERS[:1])
def server(
    request: pytest.FixtureRequest,
    certificate: list[str],
    trust: ssl.SSLContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[AppProcess]:
    options = {"settings": {"rate": 0.0, "max_frame_bytes": MAX_BYTES}, "handshake_sec": HANDSHAKE_SEC}
    log = tmp_path_factory.mktemp("tls") / "log"
    with app_process(log, request.param, tls=certificate, trust=trust, **options) as process:
        yield process
        process.until_nothing_is_left()


class Client(RawWebSocket):
    """A client over TLS that is logged in."""

    def __init__(self, server: AppProcess, protocol: int = 4, user: str = "Alice", log_in: bool = True) -> None:
        trust = server.tls
        assert trust is not None
        super().__init__(
            server.port,
            f"/socket.io/?EIO={protocol}&transport=websocket",
            wrap=lambda plain: TlsEnd(plain, trust),
        )
        self.says = Dialect(protocol, user)
        self.tls: TlsEnd = self.socket  # type: ignore[assignment]
        opening = self.receive()
        assert isinstance(opening, str), opening
        assert opening.startswith("0{"), opening
        if log_in:
            for frame in [*self.says.joined, self.says.login]:
                self.send_raw(frame)
            self.until('42["in",true]')

    def until(self, wanted: str) -> list[str | bytes]:
        """What comes up to this message."""
        came: list[str | bytes] = []
        while (message := self.receive()) != wanted:
            assert not isinstance(message, WebSocketClosed), (wanted, came)
            came.append(message)
        return came

    def ack(self) -> tuple[int, dict[str, Any]]:
        """The next ack's number, and what it says."""
        while not isinstance(message := self.receive(), str) or not message.startswith("43"):
            assert not isinstance(message, WebSocketClosed)
        number, _, answer = message[2:].partition("[")
        content: dict[str, Any] = json.loads("[" + answer)[0]
        return int(number), content

    def ack_of(self, image: bytes, number: int = 1) -> dict[str, Any]:
        """Send an image and return what its ack says."""
        self.send_raw(self.says.image(image, number))
        came, answer = self.ack()
        assert came == number
        return answer


def published(server: AppProcess) -> list[tuple[int, str]]:
    """The sizes and digests of what was published since the last time."""
    return [(frame[2], frame[3]) for frame in server.ask("account")["published"]]


def described(image: bytes) -> tuple[int, str]:
    return len(image), hashlib.sha256(image).hexdigest()


# -- HTTP


class OneAtATime(ssl.SSLSocket):
    """Lets one thread into OpenSSL at a time: python-engineio's client reads in one and writes in another.

    Python's ssl does not see to that. A read that finds nothing while the other thread writes may then be taken for the
    end of the connection ("EOF occurred in violation of protocol"), and the client goes, though the server has said
    nothing of the kind: up to one in ten did (python-engineio, issue 461).
    """

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        self._patience_sec = super().gettimeout()
        super().settimeout(0)  # nobody waits within OpenSSL
        self._turn = threading.Lock()

    def settimeout(self, value: float | None) -> None:
        if hasattr(self, "_turn"):
            self._patience_sec = value
        else:
            super().settimeout(value)

    def gettimeout(self) -> float | None:
        return self._patience_sec if hasattr(self, "_turn") else super().gettimeout()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        return self._in_turn(lambda: super(OneAtATime, self).recv(buflen, flags))

    def send(self, data: Any, flags: int = 0) -> int:
        return self._in_turn(lambda: super(OneAtATime, self).send(data, flags))

    def _in_turn(self, function: Callable[[], Any]) -> Any:
        while True:
            with self._turn:
                try:
                    return function()
                except ssl.SSLWantReadError:
                    wanted = [self], []
                except ssl.SSLWantWriteError:
                    wanted = [], [self]
            if not any(select.select(*wanted, [], self._patience_sec)):
                raise TimeoutError


def test_the_server_says_that_it_speaks_tls(server: AppProcess) -> None:
    assert server.ask("address") == [f"https://127.0.0.1:{server.port}", "https"]


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "upgrade"])
def test_a_real_client_sends_frames_over_tls(
    server: AppProcess, certificate: list[str], transports: list[str] | None
) -> None:
    session = requests.Session()
    session.trust_env = False  # what the machine trusts is nothing to us
    session.verify = certificate[0]
    trust = ssl.create_default_context(cafile=certificate[0])
    trust.sslsocket_class = OneAtATime
    client = socketio.Client(
        http_session=session, reconnection=False, websocket_extra_options={"sslopt": {"context": trust}}
    )
    client.connect(f"https://127.0.0.1:{server.port}", transports=transports, retry=False)
    try:
        logged_in: list[bool] = []
        client.on("in", logged_in.append)
        client.emit("authenticate", ("Bob", "x", "in"))
        until(lambda: logged_in, "the login")
        images = [picture(), padded(picture(), 100_000), b"x", picture(".png")]
        answers = [client.call("receiveImage", image, timeout=10)["accepted"] for image in images]
        assert answers == [True, True, False, True]
    finally:
        client.disconnect()
        session.close()
        server.ask("drop")  # over polling the client's goodbye may not be sent any more
    assert published(server) == [described(image) for image in images if image != b"x"]


def test_a_request_that_is_not_taken_is_answered_before_the_end(server: AppProcess, trust: ssl.SSLContext) -> None:
    """Also when more of it comes than anybody reads, and the end is said."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC)
    end = TlsEnd(plain, trust)
    end.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + bytes(60_000))
    answer = b""
    while piece := end.recv(MIB):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"connection: close" in answer.lower()
    for _ in range(3):  # a socket that is closed with unread bytes would take the answer back
        plain.sendall(bytes(10_000))
        time.sleep(0.02)
    plain.close()


# -- handshakes


def test_an_unfinished_handshake_has_a_deadline_however_slowly_it_goes_on(
    server: AppProcess, trust: ssl.SSLContext
) -> None:
    before = server.ask("left")["bad requests"]
    hello = ssl.MemoryBIO()
    tls = trust.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    sent = hello.read()
    with ExitStack() as stack:
        nothing, half, dribbled = (
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC))
            for _ in range(3)
        )
        began = time.monotonic()
        half.sendall(sent[: len(sent) // 2])
        try:
            for byte in sent[:-1]:
                dribbled.sendall(bytes((byte,)))
                time.sleep(0.01)
                if time.monotonic() - began > 2 * HANDSHAKE_SEC:
                    break
        except OSError:
            pass  # it is over
        for client in (nothing, half, dribbled):
            try:
                assert client.recv(100) == b""
            except ConnectionResetError:
                pass
        assert HANDSHAKE_SEC * 0.9 < time.monotonic() - began < HANDSHAKE_SEC + 2
    assert server.ask("left")["bad requests"] == before + 3


def test_what_is_no_handshake_is_counted_and_ends(server: AppProcess) -> None:
    before = server.ask("left")["bad requests"]
    garbage = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(1_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        b"\xff" * 70_000,
        b"\x16\x03\x01\xff\xff" + bytes(100),
    ]
    for content in garbage:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC) as client:
            try:
                client.sendall(content)
                while client.recv(1_000):
                    pass
            except OSError:
                pass
    assert server.ask("left")["bad requests"] == before + len(garbage)


def test_a_client_that_goes_within_its_handshake_leaves_nothing(server: AppProcess, trust: ssl.SSLContext) -> None:
    before = server.until_nothing_is_left()
    for sent in (b"", b"\x16", b"\x16\x03\x01\x00\xf0" + bytes(20)):
        for reset in (False, True):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC)
            client.sendall(sent)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    left = server.until_nothing_is_left()
    assert left["files"] == before["files"]
    assert left["errors"] == before["errors"]


def test_one_that_stalls_in_its_handshake_gives_its_place_to_a_new_one(
    certificate: list[str], trust: ssl.SSLContext, tmp_path: Path
) -> None:
    with (
        app_process(tmp_path / "log", READERS[0], tls=certificate, trust=trust, places=3) as server,
        ExitStack() as stack,
    ):
        server.ask("left")
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC))
            for _ in range(6)
        ]
        with Client(server) as client:
            assert client.ack_of(picture())["accepted"]
        ended = 0
        for one in stalled:
            one.setblocking(False)
            try:
                ended += one.recv(10) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                ended += 1
        assert ended >= 4
        assert " ERROR " not in server.log


# -- frames in records of all cuts

SIZES: Final = (
    0,
    5,
    39,
    124,
    125,
    126,
    127,
    128,
    1_000,
    16_300,
    16_383,
    16_384,
    16_385,
    32_768,
    65_535,
    65_536,
    100_000,
)


def image_of(size: int) -> bytes:
    return tiny(size - 19) if size >= 39 else b"\xff" * size


@PROTOCOLS
@pytest.mark.parametrize("record_bytes", [7, 100, 1_448, 16_383, 16_384, 16_385, 1 << 30])
def test_images_of_every_size_come_over_in_records_of_every_size(
    server: AppProcess, protocol: int, record_bytes: int
) -> None:
    images = [image_of(size) for size in SIZES if size <= record_bytes * 2_000]
    published(server)
    with Client(server, protocol) as client:
        sent = b"".join(client.says.image(image, number) for number, image in enumerate(images))
        for at in range(0, len(sent), record_bytes):
            client.send_raw(sent[at : at + record_bytes])
        acks = [client.ack() for _ in images]
    assert [number for number, _ in acks] == list(range(len(images)))
    assert [answer["accepted"] for _, answer in acks] == [len(image) >= 39 for image in images]
    assert published(server) == [described(image) for image in images if len(image) >= 39]


@PROTOCOLS
def test_large_images_come_over_and_are_refused_one_byte_later(server: AppProcess, protocol: int) -> None:
    published(server)
    images = [padded(picture(), size) for size in (5_000_000, MAX_BYTES, MAX_BYTES + 1, 200_000)]
    with Client(server, protocol) as client:
        answers = [client.ack_of(image) for image in images]
    assert [answer.get("reason") for answer in answers] == [None, None, "too_many_bytes", None]
    assert published(server) == [described(image) for image in images if len(image) != MAX_BYTES + 1]


@PROTOCOLS
@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "one after the other"])
def test_a_frame_may_be_cut_into_two_records_anywhere(server: AppProcess, protocol: int, together: bool) -> None:
    with Client(server, protocol) as client:
        sent = client.says.image(tiny(), 7, '"mine"')
        for at in range(1, len(sent)):
            first, second = client.tls.records(sent[:at]), client.tls.records(sent[at:])
            if together:
                client.tls.plain.sendall(first + second)
            else:
                client.tls.plain.sendall(first)
                server.ask("settle")
                client.tls.plain.sendall(second)
            assert client.ack() == (7, {"accepted": True, "seq": at})


def test_a_record_may_come_byte_by_byte(server: AppProcess) -> None:
    with Client(server) as client:
        for byte in client.tls.records(client.says.image(tiny(), 7)):
            client.tls.plain.sendall(bytes((byte,)))
        assert client.ack()[1]["accepted"]


def test_many_frames_in_one_record_are_all_answered(server: AppProcess) -> None:
    """More than are read in one turn."""
    with Client(server) as client:
        count = 14_000 // len(client.says.image(tiny(), 100))
        client.send_raw(b"".join(client.says.image(tiny(), number) for number in range(100, 100 + count)))
        assert [client.ack()[0] for _ in range(count)] == list(range(100, 100 + count))
        client.send_raw(client_frame(PING, b"") * 1_000)
        for _ in range(1_000):
            assert client.receive_frame() == (PONG, b"")


@PROTOCOLS
@pytest.mark.parametrize("size", [100, 70_000, 200_000])
def test_what_comes_in_the_record_of_a_messages_end_is_not_forgotten(
    server: AppProcess, protocol: int, size: int
) -> None:
    """TLS has it, and the socket says nothing of it, while the message is being handled."""
    with Client(server, protocol) as client:
        long_way = client.says.text('51-["hello",{"_placeholder":true,"num":0}]') + client.says.binary(bytes(size))
        for rest in (client.says.image(tiny(), 1), client.says.image(b"", 1), client_frame(PING, b"x")):
            client.send_raw(long_way[:-50])
            client.send_raw(long_way[-50:] + rest)
            if rest[0] == 0x80 | PING:
                assert client.receive_frame() == (PONG, b"x")
            else:
                assert client.ack()[0] == 1


@PROTOCOLS
def test_what_comes_in_the_record_of_a_login_is_not_forgotten_while_that_is_checked(
    certificate: list[str], trust: ssl.SSLContext, tmp_path: Path, protocol: int
) -> None:
    with (
        app_process(tmp_path / "log", READERS[0], tls=certificate, trust=trust, login_sec=0.1) as server,
        Client(server, protocol, log_in=False) as client,
    ):
        client.send_raw(b"".join(client.says.joined) + client.says.login[:20])
        server.ask("settle")
        client.send_raw(client.says.login[20:] + client.says.image(tiny(), 1) + client_frame(PING, b"x"))
        assert client.ack()[1]["accepted"]
        assert client.receive_frame() == (PONG, b"x")


def test_refused_images_are_skipped_whatever_their_records(server: AppProcess) -> None:
    large = padded(picture(), MAX_BYTES + 1)
    with Client(server) as client:
        for record_bytes in (1_000, 16_384, 16_385, 1 << 30):
            sent = client.says.image(large, 1) + client.says.image(tiny(), 2)
            for at in range(0, len(sent), record_bytes):
                client.send_raw(sent[at : at + record_bytes])
            assert [client.ack()[1].get("reason") for _ in range(2)] == ["too_many_bytes", None]
        before = rss_bytes(server.process.pid)
        for _ in range(10):
            assert client.ack_of(large)["reason"] == "too_many_bytes"
        assert rss_bytes(server.process.pid) - before < 4 * MIB


# -- the end


@PROTOCOLS
def test_a_closing_handshake_ends_with_tlss_goodbye(server: AppProcess, protocol: int) -> None:
    with Client(server, protocol) as client:
        client.send_raw(GOODBYE)
        assert client.receive() == WebSocketClosed(1000)
        assert client.tls.recv(100) == b""


@pytest.mark.parametrize("more", [0, 100_000])
def test_who_breaks_the_protocol_gets_the_close_frame_though_more_comes(server: AppProcess, more: int) -> None:
    with Client(server) as client:
        client.send_raw(client_frame(BINARY, b"x", rsv=2) + bytes(more))
        assert client.receive_end() == WebSocketClosed(1002)


@pytest.mark.parametrize("how", ["end", "reset", "garbage", "goodbye"])
@pytest.mark.parametrize("where", ["between frames", "within a frame", "within a record", "within a refused image"])
def test_an_abrupt_end_leaves_nothing(server: AppProcess, how: str, where: str) -> None:
    before = server.until_nothing_is_left()
    client = Client(server)
    image = client.says.image(bytes(MAX_BYTES + 1) if "refused" in where else tiny(30_000), 1)
    records = client.tls.records(image)
    if where != "between frames":
        client.tls.plain.sendall(records[:16_500] if where == "within a frame" else records[:20_000])
        server.ask("settle")
    if how == "reset":
        client.tls.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "garbage":
        client.tls.plain.sendall(bytes(40_000))
    elif how == "goodbye":
        with pytest.raises(ssl.SSLWantReadError):
            client.tls._tls.unwrap()
        client.tls.plain.sendall(client.tls._outgoing.read())
    client.close()
    left = server.until_nothing_is_left()
    assert (left["files"], left["errors"]) == (before["files"], before["errors"])


# -- clients that do not read


def slow_client(server: AppProcess, user: str) -> Client:
    client = Client(server, user=user)
    client.tls.plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    return client


@pytest.mark.parametrize(("count", "size"), [(50, 100_000), (1, 5_000_000), (400, 10_000)])
def test_one_that_reads_late_gets_everything_and_nobody_waits_for_it(server: AppProcess, count: int, size: int) -> None:
    with slow_client(server, "slow") as slow, Client(server, user="other") as other:
        server.ask(f"fill?user=slow&count={count}&size={size}")
        for _ in range(20):
            began = time.monotonic()
            assert other.ack_of(tiny())["accepted"]
            assert time.monotonic() - began < 1
        before = cpu_sec(server.process.pid)
        time.sleep(0.3)
        assert cpu_sec(server.process.pid) - before < 0.1, "it waits without turning"
        # It goes on sending meanwhile, and is answered behind what waits for it.
        slow.send_raw(slow.says.image(tiny(), 5) + client_frame(PING, b"still there?"))
        for _ in range(count):
            text, attachment = slow.receive(), slow.receive()
            assert text == '451-["filler",{"_placeholder":true,"num":0}]'
            assert attachment == bytes(size)
        assert slow.ack()[0] == 5
        assert slow.receive_frame() == (PONG, b"still there?")


def test_one_that_never_reads_is_ended_and_costs_no_more_than_is_kept_for_it(server: AppProcess) -> None:
    with slow_client(server, "slow"), Client(server, user="other") as other:
        before = rss_bytes(server.process.pid)
        peak = 0
        for _ in range(60):
            server.ask("fill?user=slow&count=5&size=100000")
            peak = max(peak, rss_bytes(server.process.pid))
            assert other.ack_of(tiny())["accepted"]
        until(lambda: server.ask("left")["connections"] == 1, "the end of the slow one")
        assert peak - before < 30 * MIB
        assert "it does not read" in server.log


def test_what_found_no_room_is_sent_once_however_it_is_given_again(
    certificate: list[str], trust: ssl.SSLContext
) -> None:
    """OpenSSL wants what it could not send again, and no less of it; the sender's queue hands out what it likes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=PATIENCE_SEC)
        ours, _address = listener.accept()
    with ThreadPoolExecutor() as threads:
        client = threads.submit(TlsEnd, theirs, trust)
        green = GreenSSLSocket(GreenSocket(ours), server_side=True, do_handshake_on_connect=False, _context=context)
        green.do_handshake()
    green.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    transport = transport_of(green)
    pieces = [number.to_bytes(4, "big") * 25 for number in range(20_000)]
    waiting: deque[bytes] = deque(pieces)
    sent, received, gave_up = 0, bytearray(), 0
    few = False
    while waiting:
        try:
            count = transport.send(list(itertools.islice(waiting, 3 if few else 500)))
        except BlockingIOError:
            few = not few  # and less is given next time
            gave_up += 1
            received += b"" if few else client.result().recv(20_000)
            continue
        sent += count
        while count:
            piece = waiting.popleft()
            if count < len(piece):
                waiting.appendleft(piece[count:])
            count -= min(count, len(piece))
    assert gave_up > 10
    while len(received) < sent:
        received += client.result().recv(MIB)
    assert bytes(received) == b"".join(pieces)
    green.close()
    theirs.close()


# -- many


def test_a_hundred_idle_ones_cost_no_time_and_keep_nobody_waiting(server: AppProcess) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(Client(server, 3 + number % 2, f"idle-{number}")) for number in range(100)]
        working = stack.enter_context(Client(server))
        before = cpu_sec(server.process.pid)
        waits = []
        for _ in range(100):
            began = time.monotonic()
            assert working.ack_of(padded(picture(), 50_000))["accepted"]
            waits.append(time.monotonic() - began)
        assert sorted(waits)[50] < 0.05
        time.sleep(0.5)
        assert cpu_sec(server.process.pid) - before < 0.5
        for client in idle:
            assert client.ack_of(tiny())["seq"] == 1


def test_a_stop_ends_all_connections_and_says_so(certificate: list[str], trust: ssl.SSLContext, tmp_path: Path) -> None:
    with (
        app_process(tmp_path / "log", READERS[0], tls=certificate, trust=trust) as server,
        ExitStack() as stack,
    ):
        reading = stack.enter_context(Client(server, user="reading"))
        stack.enter_context(slow_client(server, "slow"))
        server.ask("fill?user=slow&count=100&size=100000")
        half = stack.enter_context(Client(server, user="half"))
        half.tls.plain.sendall(half.tls.records(half.says.image(tiny(3_000)))[:1_000])
        stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3
        assert reading.receive_end() == WebSocketClosed(None), "as told, they would not come back"
        assert reading.tls.recv(1) == b"", "but it is no cut"
