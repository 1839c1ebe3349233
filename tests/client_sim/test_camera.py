"""A camera against a connection that the test holds in its hands."""

import threading
import time

import pytest

from peers import need
from running import until

need("opencv")

from client_sim.camera import Camera  # noqa: E402
from client_sim.connection import Ack, Closed, Event  # noqa: E402
from client_sim.device import RECONNECTS  # noqa: E402
from client_sim.sources import SourceError  # noqa: E402


class FakeServer:
    """Hands out connections, logs everybody in and accepts every frame, unless told otherwise."""

    def __init__(self):
        self.answer_login = lambda deliver: deliver(Event("onAuthentication", (True,)))
        self.answer_frame = lambda deliver: deliver(Ack(({"accepted": True, "seq": 1},)))
        self.connections = []
        self.connecting = lambda: None

    def connect(self, deliver):
        self.connecting()
        connection = FakeConnection(self, deliver)
        self.connections.append(connection)
        return connection

    @property
    def images(self):
        return [
            args[0] for connection in self.connections for name, args in connection.emitted if name == "receiveImage"
        ]


class FakeConnection:
    transport = "websocket"

    def __init__(self, server, deliver):
        self.server = server
        self.deliver = deliver
        self.emitted = []
        self.closed = False

    def emit(self, event, *arguments, ack=False):
        self.emitted.append((event, arguments))
        if event == "authenticate":
            self.server.answer_login(self.deliver)
        elif ack:
            self.server.answer_frame(self.deliver)

    def close(self):
        self.closed = True


@pytest.fixture
def server():
    return FakeServer()


@pytest.fixture
def start(server):
    """Starts a camera, and ends it with the test."""
    started = []

    def start_camera(rate_hz=1000.0, **more):
        numbers = iter(range(1_000_000))
        more = {"next_image": lambda: b"image %d" % next(numbers), "reconnect_sec": 0.001} | more
        camera = Camera("user1", "user1", "pass1", server.connect, rate_hz=rate_hz, **more)
        thread = threading.Thread(target=camera.run)
        thread.start()
        started.append((camera, thread))
        return camera, thread

    yield start_camera
    for camera, thread in started:
        camera.stop()
        thread.join(5)
        assert not thread.is_alive()


def test_it_logs_in_as_the_app_does_before_anything_else(server, start):
    camera, _ = start()
    until(lambda: camera.figures.frames >= 3, "frames are taken")
    assert server.connections[0].emitted[0] == ("authenticate", ("user1", "pass1", "onAuthentication"))
    assert camera.figures.logins == 1
    assert server.images[:3] == [b"image 0", b"image 1", b"image 2"]


def test_it_sends_the_next_frame_only_after_the_ack(server, start):
    held = []
    server.answer_frame = held.append
    camera, _ = start()
    until(lambda: held, "a frame waits for its ack")
    for _ in range(50):
        server.connections[0].deliver(Event("serverError", ("rate", "")))
    until(
        lambda: camera.figures.errors["rate"] == 50, "it has heard all of it"
    )  # it is awake, and could have sent something
    assert len(server.images) == 1
    held[0](Ack(({"accepted": True},)))
    until(lambda: len(server.images) == 2, "the next frame")
    assert camera.figures.frames == 1


def test_it_stops_at_once_while_it_waits_for_an_ack(server, start):
    server.answer_frame = lambda deliver: None
    camera, thread = start()
    until(lambda: server.images, "a frame waits for its ack")
    camera.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert server.connections[0].closed
    assert camera.streaming, "it was stopped in the middle of its work"


def test_it_keeps_its_rate(server, start):
    start(rate_hz=50)
    began = time.monotonic()
    until(lambda: len(server.images) >= 26, "26 frames")
    assert time.monotonic() - began >= 0.49


def test_it_counts_results_by_plug_in_and_shows_the_rate_that_the_server_wants(server, start):
    def answer(deliver):
        deliver(Event("result", ({"moved": True}, {"seq": 1, "plugin": "motion"})))
        deliver(Event("result", (b"a picture", {"seq": 1, "plugin": "boxes"})))
        deliver(Event("result", ("from another server",)))
        deliver(Ack(({"accepted": True, "seq": 1, "rate": 20},)))

    server.answer_frame = answer
    camera, _ = start()
    until(lambda: camera.figures.frames == 2, "two frames")
    assert camera.figures.results == {"motion": 2, "boxes": 2}
    assert camera.figures.wanted_hz == 20.0


@pytest.mark.parametrize("said_by", ["ack", "setRate"])
def test_it_obeys_the_rate_that_the_server_wants(server, start, said_by):
    def answer(deliver):
        if said_by == "setRate":
            deliver(Event("setRate", (0.01,)))
        deliver(Ack(({"accepted": True} | ({"rate": 0.01} if said_by == "ack" else {}),)))

    server.answer_frame = answer
    camera, _ = start()
    until(lambda: camera.figures.frames == 1, "the first ack")
    if said_by == "setRate":  # the ack after it says that there is no limit, so it has to be said again
        server.answer_frame = lambda deliver: None
        server.connections[0].deliver(Event("setRate", (0.01,)))
    until(lambda: camera.interval_sec == 100, "the rate is obeyed")


def test_a_higher_rate_is_obeyed_at_once_in_the_middle_of_a_long_wait(server, start):
    server.answer_frame = lambda deliver: deliver(Ack(({"accepted": True, "rate": 0.01},)))
    camera, _ = start()
    until(lambda: camera.interval_sec == 100, "the rate is obeyed")
    server.answer_frame = lambda deliver: deliver(Ack(({"accepted": True},)))
    server.connections[0].deliver(Event("setRate", (1000.0,)))
    until(lambda: camera.figures.frames > 3, "frames come again")


def test_it_never_sends_faster_than_its_own_rate_whatever_the_server_wants(server, start):
    server.answer_frame = lambda deliver: deliver(Ack(({"accepted": True, "rate": 60.0},)))
    camera, _ = start(rate_hz=2)
    until(lambda: camera.figures.frames, "a frame is taken")
    assert camera.interval_sec == 0.5


def test_a_rate_of_zero_means_no_frames_until_another_comes(server, start):
    server.answer_frame = lambda deliver: deliver(Ack(({"accepted": True, "rate": 0},)))
    camera, thread = start()
    until(lambda: camera.interval_sec == float("inf"), "the rate is obeyed")
    camera.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_refused_frames_are_counted_by_reason_and_the_camera_goes_on(server, start):
    server.answer_frame = lambda deliver: deliver(Ack(({"accepted": False, "reason": "rate", "seq": 1},)))
    camera, _ = start()
    until(lambda: camera.figures.refused["rate"] >= 3, "refusals are counted")
    assert camera.figures.frames == 0
    assert camera.figures.image_bytes == 0


def test_server_errors_are_counted_by_code_and_told_once(server, start, caplog):
    camera, _ = start()
    until(lambda: camera.streaming, "it streams")
    for _ in range(3):
        server.connections[0].deliver(Event("serverError", ("truncated", "JPEG without its end")))
    until(lambda: camera.figures.errors["truncated"] == 3, "errors are counted")
    assert [record.getMessage() for record in caplog.records] == [
        "user1: the server says truncated: JPEG without its end"
    ]


def test_a_refused_login_ends_it_and_is_told(server, start, caplog):
    server.answer_login = lambda deliver: deliver(Event("onAuthentication", (False,)))
    camera, thread = start()
    thread.join(5)
    assert camera.figures.errors == {"login_refused": 1}
    assert not camera.streaming
    assert server.connections[0].closed
    assert caplog.messages == ["user1: the server refuses this user and password"]


def test_it_comes_back_and_authenticates_again_when_it_was_cut_off(server, start):
    camera, _ = start()
    for number in (1, 2, 3):
        until(lambda number=number: camera.figures.logins == number and camera.streaming, "it streams again")
        server.connections[-1].deliver(Closed("cut"))
    until(lambda: camera.figures.logins == 4, "it streams again")
    assert [connection.emitted[0][0] for connection in server.connections] == ["authenticate"] * 4
    assert all(connection.closed for connection in server.connections[:3])


def test_it_does_not_come_back_when_the_server_has_dismissed_it(server, start):
    camera, thread = start()
    until(lambda: camera.streaming, "it streams")
    server.connections[0].deliver(Closed("the server disconnects this client", dismissed=True))
    thread.join(5)
    assert camera.figures.errors == {"dismissed": 1}
    assert len(server.connections) == 1


def test_it_gives_up_after_ten_attempts_to_come_back(server, start, caplog):
    attempts = []

    def unreachable():
        attempts.append(1)
        raise ConnectionError("Connection refused")

    camera, thread = start()
    until(lambda: camera.streaming, "it streams")
    server.connecting = unreachable
    server.connections[0].deliver(Closed("cut"))
    thread.join(5)
    assert len(attempts) == RECONNECTS == 10
    assert camera.figures.errors == {"gave_up": 1}
    assert caplog.messages[0].endswith("tries again in 0.001 s (1 of 10)")
    assert caplog.messages[-1] == "user1: Connection refused; gives up after 10 attempts"


def test_attempts_are_counted_anew_after_each_login(server, start):
    camera, _ = start()
    for number in range(1, 2 * RECONNECTS):
        until(lambda number=number: camera.figures.logins == number and camera.streaming, "it streams again")
        server.connections[-1].deliver(Closed("cut"))
    until(lambda: camera.figures.logins == 2 * RECONNECTS, "it streams again")


@pytest.mark.parametrize("silent_on", ["login", "frame"])
def test_a_server_that_does_not_answer_is_taken_for_dead(server, start, silent_on):
    if silent_on == "login":
        server.answer_login = lambda deliver: None
    else:
        server.answer_frame = lambda deliver: None
    camera, _ = start(answer_sec=0.01)
    until(lambda: camera.figures.connections >= 2, "it connects again")
    if silent_on == "frame":
        assert camera.figures.unanswered >= 1


def test_news_of_the_former_connection_are_not_taken_for_news_of_this_one(server, start):
    camera, _ = start()
    until(lambda: camera.streaming, "it streams")
    former = server.connections[0]
    former.deliver(Closed("cut"))
    until(lambda: camera.figures.logins == 2, "it streams again")
    former.deliver(Closed("cut, told late"))
    frames = camera.figures.frames
    until(lambda: camera.figures.frames > frames + 3, "frames are taken")
    assert camera.figures.connections == 2


def test_a_source_that_has_no_more_pictures_ends_it(start, caplog):
    def no_picture():
        raise SourceError("can't read the image x.jpg")

    camera, thread = start(next_image=no_picture)
    thread.join(5)
    assert camera.figures.errors == {"no_picture": 1}
    assert caplog.messages == ["user1: can't read the image x.jpg"]


def test_it_can_be_stopped_before_it_begins(server, start):
    camera, thread = start(delay_sec=60)
    camera.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert not server.connections
