"""A pulled camera, and a server that takes its registration and asks it for pictures."""

import http.client
import itertools
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import bson
import pytest
import requests

from peers import need
from running import until

need("opencv")

from client_sim.device import RECONNECTS  # noqa: E402
from client_sim.pulled_bodies import plain  # noqa: E402
from client_sim.pulled_camera import PulledCamera, Registration  # noqa: E402
from client_sim.sources import SourceError  # noqa: E402


class Registrar:
    """Takes registrations, and answers what it is told to."""

    def __init__(self):
        self.answer = (200, b"OK")
        self.registered = []
        self.on_registration = lambda told: None
        registrar = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                told = bson.decode(self.rfile.read(int(self.headers["Content-Length"])))
                registrar.registered.append((self.path, self.headers["Content-Type"], told))
                registrar.on_registration(told)
                status, body = registrar.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registrar():
    registrar = Registrar()
    yield registrar
    registrar.close()


@pytest.fixture
def start(registrar):
    """Starts a camera, and ends it with the test."""
    started = []

    def start_camera(registration=None, rate_hz=1000.0, **more):
        numbers = itertools.count()
        more = {
            "next_image": lambda: b"image %d" % next(numbers),
            "body": plain,
            "headers": {"Content-Type": "image/jpeg"},
            "reconnect_sec": 0.001,
        } | more
        registration = registration or Registration()
        camera = PulledCamera("camera", registrar.url, rate_hz=rate_hz, registration=registration, **more)
        thread = threading.Thread(target=camera.run)
        thread.start()
        started.append((camera, thread))
        return camera, thread

    yield start_camera
    for camera, thread in started:
        camera.stop()
        thread.join(5)
        assert not thread.is_alive()


def listens(address, port):
    try:
        socket.create_connection((address, port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def place(registrar):
    """Where the server that has been told of a camera asks it."""
    until(lambda: registrar.registered, "it registers itself")
    _, _, told = registrar.registered[-1]
    address, port = told["ipaddress"], told["ports"]
    until(lambda: listens(address, port), "it listens")
    return f"http://{address}:{port}"


def test_it_registers_itself_before_it_listens(registrar, start):
    listened = []
    registrar.on_registration = lambda told: listened.append(listens(told["ipaddress"], told["ports"]))
    camera, _ = start()
    url = place(registrar)
    assert listened == [False]
    assert registrar.registered == [("/server", None, {"ipaddress": "127.0.0.1", "ports": int(url.rpartition(":")[2])})]
    assert camera.figures.registrations == 1


def test_it_may_come_late(registrar, start):
    start(Registration(late_sec=0.3))
    until(lambda: registrar.registered, "it registers itself")
    began = time.monotonic()
    place(registrar)
    assert 0.2 < time.monotonic() - began < 5


def test_it_stops_at_once_while_it_is_late(registrar, start):
    camera, thread = start(Registration(late_sec=100))
    until(lambda: camera.figures.registrations, "it has registered itself")
    camera.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_it_may_register_itself_twice_and_is_one_camera(registrar, start):
    camera, _ = start(Registration(times=2))
    place(registrar)
    first, second = registrar.registered
    assert first == second
    assert camera.figures.registrations == 2


@pytest.mark.parametrize(
    ("registration", "registered"),
    [
        (Registration(path="/server/"), ("/server/", None, "127.0.0.1", True)),
        (Registration(content_type="application/bson"), ("/server", "application/bson", "127.0.0.1", True)),
        (Registration(tells_port=False), ("/server", None, "127.0.0.1", False)),
        (Registration(address="camera.example"), ("/server", None, "camera.example", True)),
    ],
)
def test_it_registers_itself_in_every_way(registrar, start, registration, registered):
    start(registration)
    until(lambda: registrar.registered, "it registers itself")
    path, content_type, told = registrar.registered[0]
    assert (path, content_type, told["ipaddress"], "ports" in told) == registered


def test_it_listens_where_it_is_told_to(registrar, start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start(Registration(port=port))
    assert place(registrar) == f"http://127.0.0.1:{port}"


def test_its_video_is_at_another_place_as_with_flask(registrar, start):
    start()
    url = place(registrar)
    answer = requests.get(f"{url}/video", allow_redirects=False, timeout=5)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"{url}/video/")
    assert requests.get(f"{url}/video", timeout=5).content == b"image 0"
    assert requests.get(f"{url}/", timeout=5).status_code == 404


def test_each_answer_is_the_next_picture_in_its_body_with_its_headers(registrar, start):
    camera, _ = start(
        body=lambda image, address: b"%b of %b" % (image, address.encode()),
        headers={"Content-Type": "text/html", "Content-Enconded": "b"},
    )
    url = place(registrar)
    answers = [requests.get(f"{url}/video/", timeout=5) for _ in range(3)]
    assert [answer.content for answer in answers] == [b"image %d of 127.0.0.1" % number for number in range(3)]
    assert answers[0].headers["Content-Type"] == "text/html"
    assert answers[0].headers["Content-Enconded"] == "b"
    until(lambda: camera.figures.frames == 3, "they are counted")
    assert camera.figures.image_bytes == 3 * len(b"image 0")
    assert not camera.figures.acknowledged
    assert not camera.figures.errors


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_connection_is_kept_only_by_those_that_do(registrar, start, keep_alive):
    camera, _ = start(keep_alive=keep_alive)
    url = place(registrar)
    until(lambda: camera.figures.connections == 1, "the look whether it listens is over")
    asked = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    for number in range(3):
        asked.request("GET", "/video/")
        answer = asked.getresponse()
        assert answer.getheader("Connection") == (None if keep_alive else "close")
        assert answer.read() == b"image %d" % number
    assert camera.figures.connections - 1 == (1 if keep_alive else 3)
    asked.close()


def test_a_connection_that_is_kept_ends_with_the_camera(registrar, start):
    camera, thread = start(keep_alive=True)
    asked = http.client.HTTPConnection(place(registrar).removeprefix("http://"), timeout=5)
    asked.request("GET", "/video/")
    asked.getresponse().read()
    camera.stop()
    thread.join(5)
    assert asked.sock.recv(1) == b""


def test_who_asks_too_soon_waits_for_the_next_picture(registrar, start):
    start(rate_hz=20)
    url = place(registrar)
    began = time.monotonic()
    for _ in range(11):
        requests.get(f"{url}/video/", timeout=5)
    assert 0.45 < time.monotonic() - began < 5


def test_it_streams_while_it_is_asked(registrar, start):
    camera, _ = start(silence_sec=0.5)
    url = place(registrar)
    assert not camera.streaming, "nobody has asked yet"
    requests.get(f"{url}/video/", timeout=5)
    until(lambda: camera.streaming, "it streams")
    until(lambda: not camera.streaming, "it is forgotten")


def test_it_was_streaming_when_it_was_stopped(registrar, start):
    camera, thread = start()
    requests.get(f"{place(registrar)}/video/", timeout=5)
    until(lambda: camera.streaming, "it streams")
    camera.stop()
    thread.join(5)
    assert camera.streaming


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"Can not make a connection"), "200 'Can not make a connection'"),
        ((404, b"not here"), "404 'not here'"),
        ((201, b"OK"), "201 'OK'"),
        ((200, b"OK\n"), "200 'OK\\n'"),
    ],
)
def test_a_refusal_ends_it_and_is_told(registrar, start, caplog, answer, said):
    registrar.answer = answer
    camera, thread = start()
    thread.join(5)
    assert camera.figures.errors == {"registration_refused": 1}
    assert camera.figures.registrations == 0
    assert caplog.messages == [f"camera: the server will not pull it: {said}"]


def test_it_tries_again_where_there_is_no_server(registrar, start, caplog):
    registrar.close()
    camera, thread = start()
    thread.join(10)
    assert len(caplog.messages) == RECONNECTS + 1
    assert caplog.messages[0] == (
        f"camera: can't connect to {registrar.url}: Connection refused; tries again in 0.001 s (1 of 10)"
    )
    assert camera.figures.errors == {"gave_up": 1}


def test_a_port_that_is_taken_is_said_in_words(start, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        camera, thread = start(Registration(port=port))
        thread.join(5)
    assert camera.figures.errors == {"cannot_listen": 1}
    assert caplog.messages == [f"camera: can't listen on 127.0.0.1:{port}: Address already in use"]


def test_a_port_that_another_camera_has_told_is_said_in_words_too(registrar, start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cameras = [start(Registration(port=port, late_sec=0.3))[0] for _ in range(2)]
    until(lambda: any(camera.figures.errors["cannot_listen"] for camera in cameras), "one of them was too late")
    assert sum(camera.figures.errors["cannot_listen"] for camera in cameras) == 1


def test_it_ends_when_there_are_no_more_pictures(registrar, start, caplog):
    def nothing():
        raise SourceError("can't read the image a.png")

    camera, thread = start(next_image=nothing)
    assert requests.get(f"{place(registrar)}/video/", timeout=5).status_code == 500
    thread.join(5)
    assert camera.figures.errors == {"no_picture": 1}
    assert caplog.messages == ["camera: can't read the image a.png"]


def test_who_hangs_up_in_the_middle_of_an_answer_is_an_error(registrar, start, capfd):
    camera, _ = start(next_image=lambda: bytes(50_000_000))
    url = place(registrar)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as asked:
        asked.sendall(b"GET /video/ HTTP/1.1\r\nHost: x\r\n\r\n")
        asked.recv(100)
    until(lambda: camera.figures.errors["answer_cut_off"] == 1, "it has noticed")
    assert camera.figures.frames == 0
    assert capfd.readouterr().err == ""


def test_it_stops_at_once_while_somebody_waits_for_a_picture(registrar, start):
    camera, thread = start(rate_hz=0.01)
    url = place(registrar)
    requests.get(f"{url}/video/", timeout=5)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as asked:
        asked.sendall(b"GET /video/ HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: camera.figures.connections >= 3, "somebody waits")
        camera.stop()
        thread.join(2)
        assert not thread.is_alive()
        assert asked.recv(100) == b""


def test_a_picture_that_is_being_taken_is_waited_for(registrar, start):
    """A process that ends meanwhile would crash in OpenCV."""
    taking, taken = threading.Event(), threading.Event()

    def take_slowly():
        taking.set()
        time.sleep(0.5)
        taken.set()
        return b"image"

    camera, thread = start(next_image=take_slowly)
    url = place(registrar)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as asked:
        asked.sendall(b"GET /video/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert taking.wait(5)
        camera.stop()
        thread.join(5)
        assert taken.is_set()
