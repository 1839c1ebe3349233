"""A camera over plain TCP, and a listener that reads by the contract what it writes."""

import gzip
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

import pytest

from peers import need
from running import until

need("opencv")

from client_sim.device import RECONNECTS  # noqa: E402
from client_sim.sources import SourceError  # noqa: E402
from client_sim.tcp_camera import FORMATS, TcpCamera, message  # noqa: E402

HEADER = {"!BI": ">BI", "<BI": "<BI", "=BI": "<BI", "BI": "<BxxxI", ">B3xI": ">BxxxI"}


class Listener:
    """Takes connections, and keeps what came over each."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.serve = self.read_to_its_end
        self.received = []
        self.ended = []
        self.connections = []
        threading.Thread(target=self._run, daemon=True).start()

    def messages(self, layout="!BI", connection=0):
        """Camera and image of each whole message so far; what is left over must be the begin of another."""
        data, found = self.received[connection], []
        size = struct.calcsize(HEADER[layout])
        while len(data) >= size:
            camera, length = struct.unpack_from(HEADER[layout], data)
            if len(data) < size + length:
                break
            found.append((camera, gzip.decompress(data[size : size + length])))
            data = data[size + length :]
        return found, bytes(data)

    def read_to_its_end(self, connection, number):
        with connection:
            while some := connection.recv(65536):
                self.received[number] += some
        self.ended.append(number)

    def close(self):
        with suppress(OSError):  # it is closed already
            self.socket.shutdown(socket.SHUT_RDWR)  # which ends the waiting for another, as closing does not
        self.socket.close()
        for connection in self.connections:
            connection.close()

    def _run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.received.append(bytearray())
            threading.Thread(target=self.serve, args=(connection, len(self.connections) - 1), daemon=True).start()


@pytest.fixture
def listener():
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def start(listener):
    """Starts a camera, and ends it with the test."""
    started = []

    def start_camera(cameras=None, rate_hz=1000.0, **more):
        numbers = iter(range(1_000_000))
        more = {"reconnect_sec": 0.001} | more
        cameras = cameras or {0: lambda: b"BM image %d" % next(numbers)}
        camera = TcpCamera("camera", listener.address, cameras, rate_hz, **more)
        thread = threading.Thread(target=camera.run)
        thread.start()
        started.append((camera, thread))
        return camera, thread

    yield start_camera
    for camera, thread in started:
        camera.stop()
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.skipif(sys.byteorder == "big", reason="two of the formats are the machine's own")
@pytest.mark.parametrize(
    ("layout", "header"),
    [
        ("!BI", lambda size: b"\x07" + size.to_bytes(4, "big")),
        ("<BI", lambda size: b"\x07" + size.to_bytes(4, "little")),
        ("=BI", lambda size: b"\x07" + size.to_bytes(4, "little")),
        ("BI", lambda size: b"\x07\0\0\0" + size.to_bytes(4, "little")),
        (">B3xI", lambda size: b"\x07\0\0\0" + size.to_bytes(4, "big")),
    ],
)
def test_a_message_begins_as_that_client_writes_it(layout, header):
    written = message(7, b"BM picture", layout, 9)
    begin = written[: written.index(b"\x1f\x8b\x08")]
    assert begin == header(len(written) - len(begin))
    assert gzip.decompress(written[len(begin) :]) == b"BM picture"


@pytest.mark.parametrize("layout", FORMATS)
def test_a_connection_is_one_message_after_the_other(listener, start, layout):
    camera, _ = start(layout=layout)
    until(lambda: camera.figures.frames >= 3, "frames are sent")
    until(lambda: len(listener.messages(layout)[0]) >= 3, "they have come")
    assert listener.messages(layout)[0][:3] == [(0, b"BM image 0"), (0, b"BM image 1"), (0, b"BM image 2")]


def test_every_level_of_gzip_is_one():
    sizes = []
    for level in range(10):
        written = message(1, b"BM" + bytes(range(256)) * 40, "!BI", level)
        assert gzip.decompress(written[5:]) == b"BM" + bytes(range(256)) * 40
        sizes.append(len(written))
    assert sizes[0] > 10_242 > 1000 > sizes[9], "0 is as large as it was"


def test_several_cameras_take_turns_on_one_connection(listener, start):
    camera, _ = start(cameras={5: lambda: b"of 5", 6: lambda: b"of 6", 255: lambda: b"of 255"})
    until(lambda: camera.figures.frames >= 6, "frames are sent")
    until(lambda: len(listener.messages()[0]) >= 6, "they have come")
    assert listener.messages()[0][:6] == [(5, b"of 5"), (6, b"of 6"), (255, b"of 255")] * 2
    assert camera.figures.connections == 1
    assert camera.figures.transports == {"tcp": 1}


def test_each_of_its_cameras_keeps_the_rate(listener, start):
    camera, _ = start(cameras={number: lambda: b"BM" for number in range(10)}, rate_hz=2)
    began = time.monotonic()
    until(lambda: camera.figures.frames >= 21, "2 frames of each, and one more")
    assert 0.95 < time.monotonic() - began < 5


def test_what_it_sends_is_counted_as_sent(listener, start):
    camera, thread = start(cameras={1: lambda: b"BM" * 500})
    until(lambda: camera.figures.frames >= 3, "frames are sent")
    camera.stop()
    thread.join(5)
    figures = camera.figures
    assert figures.image_bytes == 1000 * figures.frames, "the images, not what they are compressed to"
    assert not figures.acknowledged
    assert not figures.errors
    assert camera.streaming, "it was stopped in the middle of its work"


def test_it_says_goodbye_between_two_messages(listener, start):
    camera, thread = start(cameras={1: lambda: bytes(100_000)}, gzip_level=0)
    until(lambda: camera.figures.frames >= 3, "frames are sent")
    camera.stop()
    thread.join(5)
    until(lambda: listener.ended == [0], "the end has come")
    messages, rest = listener.messages()
    assert (len(messages), rest) == (camera.figures.frames, b"")


def test_it_stops_at_once_while_it_waits_for_its_next_frame(listener, start):
    camera, thread = start(rate_hz=0.01)
    until(lambda: camera.figures.frames == 1, "the first frame is sent")
    camera.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_a_connection_that_the_server_closes_is_an_error_and_it_comes_back(listener, start, caplog):
    def refuse_the_first(connection, number):
        if number:
            listener.read_to_its_end(connection, number)
        else:
            connection.recv(1)
            connection.close()

    listener.serve = refuse_the_first
    camera, _ = start(rate_hz=5)
    until(lambda: len(listener.received) > 1 and listener.messages(connection=1)[0], "it sends again")
    assert camera.figures.errors == {"closed_by_server": 1}
    assert caplog.messages == ["camera: the server closes the connection; tries again in 0.001 s (1 of 10)"]
    assert camera.figures.connections == 2


def test_it_notices_the_end_while_it_waits_for_its_next_frame(listener, start):
    def close_soon(connection, _number):
        connection.recv(1000)
        connection.close()

    listener.serve = close_soon
    camera, _ = start(rate_hz=0.001)
    until(lambda: camera.figures.errors["closed_by_server"] >= 2, "it has noticed, twice")


def test_it_gives_up_where_it_is_closed_again_and_again(listener, start, caplog):
    listener.serve = lambda connection, _number: connection.close()
    camera, thread = start(reconnect_sec=0.02, rate_hz=1000)
    thread.join(10)
    assert camera.figures.errors == {"closed_by_server": RECONNECTS + 1, "gave_up": 1}
    assert not camera.streaming
    assert caplog.messages[-1] == "camera: the server closes the connection; gives up after 10 attempts"


def test_attempts_are_counted_anew_after_a_connection_that_held(listener, start):
    def hold_for_a_while(connection, _number):
        time.sleep(0.02)
        connection.close()

    listener.serve = hold_for_a_while
    camera, _ = start(reconnect_sec=0.001, rate_hz=1000)
    until(lambda: camera.figures.connections > RECONNECTS + 5, "it still comes back")


def test_a_server_that_is_not_there_is_said_in_words(listener, start, caplog):
    listener.close()
    camera, thread = start()
    thread.join(5)
    host, port = listener.address
    assert caplog.messages[0] == (
        f"camera: can't connect to {host}:{port} over TCP: Connection refused; tries again in 0.001 s (1 of 10)"
    )
    assert camera.figures.errors == {"gave_up": 1}


def test_a_server_that_takes_nothing_is_taken_for_dead(listener, start, caplog):
    listener.serve = lambda connection, _number: None
    camera, _ = start(cameras={1: lambda: bytes(4_000_000)}, gzip_level=0, answer_sec=0.05)
    until(lambda: camera.figures.connections >= 2, "it connects again")
    assert "camera: the server takes nothing for 0.05 s; tries again" in caplog.text


def test_it_ends_when_there_are_no_more_pictures(listener, start, caplog):
    def nothing():
        raise SourceError("can't read the image a.png")

    camera, thread = start(cameras={1: nothing})
    thread.join(5)
    assert camera.figures.errors == {"no_picture": 1}
    assert caplog.messages == ["camera: can't read the image a.png"]
