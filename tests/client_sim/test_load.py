"""The load generator as a user starts it, against the real server, and against servers that behave badly."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import websockets.sync.server
from hypothesis import given
from hypothesis import strategies as st

from client_sim import load_wire as wire
from client_sim.load import Load, LoadError, main
from client_sim.load_images import jpeg
from frames import Limits, check_image
from peers import ROOT, need
from running import SRC, running_server, until

#: Beside which a consumer adds up the CRC-32 of every image published.
VERIFIED = (str(ROOT / "bench" / "side_by_side" / "verified_server.py"),)
ACCOUNT = ("user1", "pass1")


@pytest.fixture(scope="module")
def server():
    """One for most tests here, which checks passwords and takes all frames."""
    with running_server("--auth", "--rate", "0") as running:
        yield running


def load(capsys, url, *options):
    """Run it in this process; its exit status, its figures, and what it complained of."""
    status = main([url, "--json", *options])
    said, complaints = capsys.readouterr()
    return status, json.loads(said) if said else None, complaints


def metric(server, name, prefix="imageserver_"):
    found = re.search(rf"^{prefix}{name} (\S+)$", server.get("/metrics", server.token(*ACCOUNT)), re.MULTILINE)
    return float(found[1])


def server_cpu_sec(server):
    return metric(server, "process_cpu_seconds_total", prefix="")


# -- images


@pytest.mark.parametrize("size", [900, 4_999, 5_000, 50_000, 200_000])
def test_an_image_has_exactly_the_size_asked_for_and_is_a_jpeg(size):
    image = jpeg(size, number=3)
    assert len(image) == size
    assert check_image(image, Limits()) == ("image/jpeg", *((640, 480) if size >= 5_000 else (160, 120)))


def test_neighbours_images_look_different_to_a_decoder():
    need("opencv")
    import cv2
    import numpy as np

    pictures = [cv2.imdecode(np.frombuffer(jpeg(50_000, number), np.uint8), cv2.IMREAD_COLOR) for number in range(3)]
    assert {picture.shape for picture in pictures} == {(480, 640, 3)}
    greys = [int(picture.mean()) for picture in pictures]
    assert all(picture.min() == picture.max() == grey for picture, grey in zip(pictures, greys, strict=True))
    assert len(set(greys)) == 3
    assert len({jpeg(50_000, number) for number in range(300)}) == 300


# -- bytes


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_a_masked_frame_is_one_that_a_server_reads(payload, mask):
    from websockets.frames import Frame
    from websockets.streams import StreamReader

    reader = StreamReader()
    reader.feed_data(wire.masked_frame(wire.BINARY, payload, mask))
    parsing = Frame.parse(reader.read_exact, mask=True, max_size=None)
    with pytest.raises(StopIteration) as end:
        next(parsing)  # a generator that waits for nothing, as all is there
    assert (end.value.value.opcode, end.value.value.data) == (wire.BINARY, payload)


@given(st.lists(st.binary(max_size=200) | st.just(b"x" * 70_000), max_size=5), st.integers(1, 1_000))
def test_a_servers_frames_are_read_in_whatever_pieces_they_come(payloads, piece):
    from websockets.frames import Frame, Opcode

    data = b"".join(Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in payloads)
    reader = wire.FrameReader()
    received = [one for at in range(0, len(data), piece) for one in reader.feed(data[at : at + piece])]
    assert received == [(wire.TEXT, payload) for payload in payloads]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_an_answer_is_read_in_whatever_pieces_it_comes(piece):
    data = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 11\r\nX-More:  a b \r\n\r\n{"code": 5}'
    reader = wire.AnswerReader()
    answers = [answer for at in range(0, len(data), piece) if (answer := reader.feed(data[at : at + piece]))]
    assert answers == [(400, "Bad Request", {"content-length": "11", "x-more": "a b"}, b'{"code": 5}')]


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_what_is_no_answer_of_a_socketio_server_is_said_to_be_none(data):
    with pytest.raises(ValueError, match=r"HTTP/1\.1|Content-Length"):
        wire.AnswerReader().feed(data)


# -- against the real server


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--protocol", "3"),
        ("--protocol", "both", "--acks"),
        ("--transport", "polling"),
        ("--transport", "polling", "--protocol", "3"),
        ("--transport", "polling", "--protocol", "both", "--acks"),
        ("--piece", "1448"),
        ("--rate", "50", "--protocol", "both"),
        ("--bytes", "200000"),
        ("--bytes", "1000"),
    ],
    ids=" ".join,
)
def test_every_byte_arrives_by_every_way_in(capsys, options):
    size = int(options[1]) if "--bytes" in options else 50_000
    with running_server("-a", "--rate", "0", program=VERIFIED) as server:
        status, figures, complaints = load(capsys, server.url, "--clients", "4", "--frames", "6", *options)
        assert server.stop() == 0
        taken = json.loads(server.process.stdout.read())
    assert (status, figures["well"], complaints) == (0, True, "")
    assert (figures["frames"], figures["image_bytes"]) == (24, 24 * size)
    assert taken == {
        "frames": 24,
        "bytes": 24 * size,
        "crcs": 6 * sum(zlib.crc32(jpeg(size, number)) for number in range(4)),
    }
    assert figures["asked"] == figures["accepted"] == (24 if "--acks" in options else 4)
    assert 0 < figures["ack_p50_ms"] <= figures["ack_p99_ms"]


def test_with_a_rate_frames_are_spread_evenly_over_the_time(capsys, server):
    status, figures, _ = load(capsys, server.url, "--clients", "5", "--rate", "20", "--seconds", "1", "--acks")
    assert (status, figures["frames"]) == (0, 100)
    # The last one is due 10 ms before the second ends; a machine that is busy may be late with it, and never early.
    assert 0.98 <= figures["seconds"] < 5


def test_for_so_many_seconds_it_sends_as_fast_as_it_can_and_then_the_last_ones(capsys, server):
    before = metric(server, "frames_total")
    status, figures, _ = load(capsys, server.url, "--clients", "3", "--seconds", "0.5", "--bytes", "5000")
    assert (status, figures["asked"]) == (0, 3)
    assert figures["frames"] > 100
    assert metric(server, "frames_total") - before == figures["frames"]
    assert 0.5 <= figures["seconds"] < 5


def test_the_generator_is_cheaper_than_the_server_it_measures(server):
    with Load(server.url, 8, image_bytes=5_000) as crowd:
        crowd.open()
        before = server_cpu_sec(server)
        report = crowd.send(frames=2_000)
        server_us = (server_cpu_sec(server) - before) / report.frames * 1e6
    assert report.well
    assert report.cpu_us < server_us


def test_a_crowd_may_send_more_than_once_and_is_numbered_on(server):
    with Load(server.url, 2, protocols=(4, 3), acks=True) as crowd:
        crowd.open()
        reports = [crowd.send(frames=3) for _ in range(3)]
    assert [(report.frames, report.accepted, report.well) for report in reports] == [(6, 6, True)] * 3


def test_names_are_numbered_where_there_are_braces():
    with running_server() as server, Load(server.url, 5, user="cam{}", users=3) as crowd:
        crowd.open()
        assert set(server.streams()) == {"cam1", "cam1~2", "cam2", "cam2~2", "cam3"}


def test_refused_frames_are_told_apart_from_accepted_ones(capsys):
    with running_server("-a", "--rate", "5") as server:
        status, figures, _ = load(capsys, server.url, "--clients", "2", "--frames", "40", "--acks")
        assert (status, figures["well"], figures["asked"]) == (1, False, 80)
        assert figures["accepted"] + figures["refused"]["rate"] == 80
        assert figures["accepted"] == metric(server, "frames_total")
        assert figures["errors"].keys() == {"rate"}
        main([server.url, "--clients", "2", "--frames", "40"])
        said = capsys.readouterr().out
    assert re.search(r"^refused     2 × rate$", said, re.MULTILINE)
    assert re.search(r"^server says \d+ × rate$", said, re.MULTILINE)


def test_polling_clients_say_goodbye(capsys, server):
    load(capsys, server.url, "--transport", "polling", "--protocol", "both", "--clients", "4", "--frames", "1")
    until(lambda: metric(server, "streams") == 0, "the streams of polling clients end", within_sec=5)


def test_idle_clients_stay_until_they_are_told_to_go(server):
    process = subprocess.Popen(
        [sys.executable, "-m", "client_sim.load", server.url, "--clients", "40", "--idle", "--json"],
        cwd=SRC,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = json.loads(process.stdout.readline())
        assert (said["clients"], said["frames"], said["troubles"]) == (40, 0, {})
        assert metric(server, "streams") == 40
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
    until(lambda: metric(server, "streams") == 0, "their streams end")


def test_a_wrong_password_is_tried_once_and_said_in_a_line(capsys):
    with running_server("-a") as server:
        status, figures, complaints = load(capsys, server.url, "--password", "wrong", "--clients", "9")
        assert metric(server, "refused_logins_total") == 1
    assert (status, figures) == (1, None)
    refusal = "the server refuses user1 with this password (--user, --password)"
    assert complaints == f"client_sim.load: {server.url}: {refusal}\n"


def test_a_server_that_ends_in_the_midst_of_it_is_said_to_have_ended(capsys):
    with running_server("-a", "--rate", "0") as server:
        threading.Timer(1.5, server.process.kill).start()
        status, figures, _ = load(capsys, server.url, "--clients", "3", "--seconds", "20")
    assert (status, figures["well"]) == (1, False)
    assert sum(figures["troubles"].values()) == 3
    assert all(re.search("closed the connection|reset by peer|Broken pipe", why) for why in figures["troubles"])


# -- against others


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that does this with each connection; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()


def answer(text: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text)

    return serve


@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize(
    ("serve", "complaint"),
    [
        (lambda _connection: None, "nothing from the server for 1 s while asking for a"),
        (answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope\n"), "answers 404 Not Found (nope)"),
        (answer(b"+OK POP3 ready\r\n"), "while asking for a"),
        (lambda connection: connection.shutdown(socket.SHUT_RDWR), "closed the connection while asking for a"),
    ],
    ids=["silent", "another site", "another protocol", "closing"],
)
def test_a_server_of_another_kind_is_told_by_what_it_does(capsys, transport, serve, complaint):
    with accepting(serve) as url:
        status, figures, complaints = load(capsys, url, "--transport", transport, "--patience", "1")
    assert (status, figures) == (1, None)
    assert complaint in complaints
    assert complaints.startswith(f"client_sim.load: {url}: ")
    assert complaints.count("\n") == 1


def test_where_nothing_listens_that_is_said(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert load(capsys, url)[::2] == (
        1,
        f"client_sim.load: {url}: Connection refused while asking for a WebSocket\n",
    )


class Sink:
    """A program that only reads, as bench/peers/sink.c: it tells how many bytes came when a client has sent all.

    Args:
        lost: so many bytes it does not count.
    """

    #: Of struct tcp_info (linux/tcp.h): tcpi_data_segs_in, a u32.
    DATA_SEGMENTS_IN = 152

    def __init__(self, lost: int = 0) -> None:
        self.bytes = self.segments = 0
        self._lost = lost

    def serve(self, connection: socket.socket) -> None:
        count = 0
        while data := connection.recv(1 << 20):
            count += len(data)
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        self.bytes += count
        self.segments += int.from_bytes(info[self.DATA_SEGMENTS_IN :][:4], sys.byteorder)
        connection.sendall(f"{count - self._lost}\n".encode())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell of segments in other ways")
def test_pieces_travel_as_segments(capsys):
    segments = {}
    for piece in (1_000, 60_000):
        sink = Sink()
        with accepting(sink.serve) as url:
            options = ("--transport", "raw", "--clients", "1", "--frames", "20", "--piece", str(piece))
            assert load(capsys, url, *options)[0] == 0
        segments[piece] = sink.segments
        assert 1_000_000 < sink.bytes < 1_010_000
    # Where a crowd of pieces waits for the peer, the system sends some of them together.
    assert 4 * segments[60_000] < segments[1_000] <= 1_010


def test_bytes_that_a_sink_has_not_read_do_not_stay_unseen(capsys):
    with accepting(Sink(lost=1).serve) as url:
        status, figures, _ = load(capsys, url, "--transport", "raw", "--clients", "2", "--frames", "3")
    assert (status, figures["well"]) == (1, False)
    assert [re.search(r"(\d+) bytes were read of (\d+)$", why) is not None for why in figures["troubles"]] == [True]


class Talker:
    """A Socket.IO server of the `websockets` library for one client, which acknowledges as it is told to.

    Args:
        ack: what is said of the frame with this number; None for no ack at all.
    """

    def __init__(self, ack: Callable[[int], object], ping_ms: int = 25_000) -> None:
        self.heard: list[str] = []
        self._ack = ack
        self._ping_ms = ping_ms

    def serve(self, connection: websockets.sync.server.ServerConnection) -> None:
        protocol = 3 if "EIO=3" in connection.request.path else 4
        connection.send("0" + json.dumps({"sid": "x", "pingInterval": self._ping_ms, "pingTimeout": 20_000}))
        if protocol == 3:
            connection.send("40")
        frames = 0
        for message in connection:
            if isinstance(message, bytes):
                continue
            self.heard.append(message)
            if message == "40":
                connection.send('40{"sid":"y"}')
            elif message.startswith('42["authenticate"'):
                connection.send(f'42["{json.loads(message[2:])[3]}",true]')
                connection.send("2" if protocol == 4 else "6")
                connection.ping(b"there?").wait(5)
                self.heard.append("pong")
            elif message == "2":
                connection.send("3")
            elif message.startswith("451-"):
                frames += 1
                ack_id = message[4 : message.index("[")]
                if ack_id and (said := self._ack(frames)) is not None:
                    connection.send(f"43{ack_id}[{json.dumps(said)}]")


@contextmanager
def talking(talker: Talker) -> Iterator[str]:
    with websockets.sync.server.serve(talker.serve, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_pings_of_the_server_are_answered_between_frames():
    talker = Talker(lambda seq: {"accepted": True, "seq": seq})
    with talking(talker) as url, Load(url, 1, patience_sec=5) as crowd:
        crowd.open()
        until(lambda: crowd.stay(0.05) and "pong" in talker.heard and "3" in talker.heard, "both pongs")
        assert crowd.send(frames=20).well
    assert sum(message.startswith("451-") for message in talker.heard) == 20


def test_a_client_of_protocol_3_pings_by_itself():
    talker = Talker(lambda seq: {"accepted": True, "seq": seq}, ping_ms=1000)
    with talking(talker) as url, Load(url, 1, protocols=(3,)) as crowd:
        crowd.open()
        until(lambda: crowd.stay(0.1) and talker.heard.count("2") >= 2, "two pings")


@pytest.mark.parametrize(
    ("ack", "complaint"),
    [
        (lambda seq: {"accepted": True, "seq": seq - 1}, "the server counted 4 frames of 5"),
        (lambda _seq: None, "nothing from the server for 1 s while waiting for the last ack"),
    ],
    ids=["a frame lost", "no ack"],
)
def test_a_frame_that_is_lost_does_not_stay_unseen(capsys, ack, complaint):
    with talking(Talker(ack)) as url:
        status, figures, _ = load(capsys, url, "--clients", "1", "--frames", "5", "--patience", "1")
    assert (status, figures["well"]) == (1, False)
    assert [complaint in why for why in figures["troubles"]] == [True]


def test_patience_is_with_the_server_and_not_with_a_low_rate(capsys):
    with talking(Talker(lambda seq: {"accepted": True, "seq": seq})) as url:
        options = ("--clients", "1", "--frames", "2", "--rate", "0.4", "--patience", "1", "--acks")
        status, figures, _ = load(capsys, url, *options)
    assert (status, figures["accepted"]) == (0, 2)


def test_the_time_to_an_ack_is_that_from_the_frame_to_its_ack(capsys):
    def late(seq: int) -> object:
        time.sleep(0.1)
        return {"accepted": True, "seq": seq}

    with talking(Talker(late)) as url:
        _, figures, _ = load(capsys, url, "--clients", "1", "--frames", "5", "--rate", "20", "--acks")
    # The fifth frame comes after 200 ms and is acknowledged after 500, the third after 100 and 300.
    assert 195 <= figures["ack_p50_ms"] < figures["ack_p99_ms"]
    assert 290 <= figures["ack_p99_ms"] < 2_000


def test_an_ack_without_a_body_counts_as_accepted(capsys):
    with talking(Talker(lambda _seq: "thanks")) as url:
        status, figures, _ = load(capsys, url, "--clients", "1", "--frames", "5", "--acks")
    assert (status, figures["accepted"]) == (0, 5)


# -- options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("https://localhost",), "TLS is not measured here"),
        (("ftp://localhost",), "expected http://HOST:PORT"),
        (("http://localhost/path",), "expected http://HOST:PORT"),
        (("http://localhost:x",), "Port could not be cast"),
        (("http://localhost", "--clients", "0"), "expected a whole number from 1"),
        (("http://localhost", "--rate", "nan"), "expected a number above 0"),
        (("http://localhost", "--idle", "--acks"), "--idle sends nothing"),
        (("http://localhost", "--frames", "1", "--seconds", "1"), "--frames or --seconds"),
        (("http://localhost", "--transport", "polling", "--piece", "100"), "--piece is for"),
        (("http://localhost", "--bytes", "300"), "an image of 300 bytes, expected at least"),
        ((), "the following arguments are required: URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_options_are_said_in_a_line(capsys, options, complaint):
    with pytest.raises(SystemExit) as end:
        main(list(options))
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_the_password_may_stand_in_the_environment(server):
    run = subprocess.run(
        [sys.executable, "-m", "client_sim.load", server.url, "--user", "Alice", "--clients", "2", "--frames", "2"],
        cwd=SRC,
        capture_output=True,
        text=True,
        env=os.environ | {"IMAGESERVER_PASSWORD": "123"},
        timeout=30,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "4 in " in run.stdout
    assert "2 of 2 asked for say accepted" in run.stdout


def test_more_clients_than_the_system_has_files_for_are_said_to_be_too_many(monkeypatch):
    import resource

    with Load("http://127.0.0.1:1", 50) as crowd:
        monkeypatch.setattr(resource, "getrlimit", lambda _what: (20, 60))
        with pytest.raises(LoadError, match=r"82 open files are needed, and the system allows 60"):
            crowd.open()
