"""A camera that registers itself and then answers whoever asks it for a picture, as the ConvergeCast client does.

What is said:

    POST /server, BSON {ipaddress, ports}  ->  200 OK            the camera tells the server of itself
    GET http://ipaddress:ports/video       ->  308 to /video/    and the server asks it, again and again
    GET http://ipaddress:ports/video/      ->  one picture
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import bson
import requests

from client_sim.connection import CONNECT_SEC, reason
from client_sim.device import ANSWER_SEC, RECONNECT_SEC, Device, Dismissed, Stopped, in_step
from client_sim.pulled_bodies import MakeBody
from client_sim.sources import SourceError

#: Where the server asks a camera that does not say where.
USUAL_PORT = 5000
#: What the server says to a camera that it will pull; anything else is a refusal.
WELCOME = "OK"

#: How soon it notices that it is to stop.
_STEP_SEC = 0.1
#: Of a refusal in a message to people.
_SHOWN_CHARACTERS = 100


class Registration(NamedTuple):
    """How a camera tells the server of itself.

    Args:
        address: what it gives as its own; None: the one from which it reaches the server.
        port: where it listens, 0 for a free one.
        tells_port: whether it names that port.
        path: of the server's; `/server/` is the other one.
        content_type: of the registration; None: it has none, as from a script.
        times: how often it tells, one after the other; Flask's debug mode runs a script twice.
        late_sec: from the registration until it listens, which it never does before.
    """

    address: str | None = None
    port: int = 0
    tells_port: bool = True
    path: str = "/server"
    content_type: str | None = None
    times: int = 1
    late_sec: float = 0.0


class PulledCamera(Device):
    """A camera that has an HTTP server of its own, and streams while it is asked.

    Args:
        name: for messages about it.
        server: `http://host:port`.
        next_image: takes a picture, as a JPEG file, or raises SourceError.
        rate_hz: pictures a second that it takes; who asks sooner waits for the next.
        body: what it answers with, see client_sim.pulled_bodies.
        headers: of its answers.
        keep_alive: whether more than one is asked for over a connection; Flask's own server closes it.
        silence_sec: taken for forgotten by the server when it has not been asked for so long.
    """

    def __init__(
        self,
        name: str,
        server: str,
        next_image: Callable[[], bytes],
        rate_hz: float,
        body: MakeBody,
        headers: Mapping[str, str],
        registration: Registration,
        keep_alive: bool = False,
        delay_sec: float = 0.0,
        reconnect_sec: float = RECONNECT_SEC,
        silence_sec: float = ANSWER_SEC,
    ) -> None:
        super().__init__(name, delay_sec, reconnect_sec)
        self.figures.acknowledged = False
        self.headers = headers
        self.keep_alive = keep_alive
        self._server = server
        self._next_image = next_image
        self._interval_sec = 1 / rate_hz
        self._body = body
        self._registration = registration
        self._silence_sec = silence_sec
        self._address = registration.address or ""
        self._due = time.monotonic()
        self._asked_at: float | None = None
        self._no_picture: SourceError | None = None
        self._camera = threading.Lock()  # takes one picture at a time
        self._counting = threading.Lock()

    def take(self) -> tuple[bytes, int]:
        """The body of an answer and the size of the image in it; in the thread of who asked.

        Raises:
            Stopped: it is to end.
            SourceError: there are no more pictures; the camera ends of it.
        """
        with self._camera:
            if self._stopping.wait(max(self._due - time.monotonic(), 0)):
                raise Stopped
            self._due = in_step(self._due, self._interval_sec) + self._interval_sec
            try:
                image = self._next_image()
            except SourceError as error:
                self._no_picture = error
                raise
        return self._body(image, self._address), len(image)

    def is_connected(self) -> None:
        """Somebody asks; in a thread of theirs, as the next."""
        with self._counting:
            self.figures.connections += 1
            self.figures.transports["http"] += 1

    def has_sent(self, image_bytes: int) -> None:
        with self._counting:
            self.figures.frames += 1
            self.figures.image_bytes += image_bytes
            self._asked_at = time.monotonic()

    def is_cut_off(self) -> None:
        """Who asked did not wait for the end of the answer."""
        with self._counting:
            if not self._stopping.is_set():
                self.figures.errors["answer_cut_off"] += 1

    def _session(self) -> None:
        address = _own_address(self._server)
        with self._needs_port(address):
            # It takes its port, which has to be told, without listening there.
            pictures = _Pictures(self, address, self._registration.port)
        try:
            self._address = self._registration.address or address
            self._register(pictures.server_address[1])
            if self._stopping.wait(self._registration.late_sec):
                raise Stopped
            with self._needs_port(address):
                pictures.server_activate()
            self._serve(pictures)
        finally:
            pictures.server_close()

    @contextmanager
    def _needs_port(self, address: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.figures.errors["cannot_listen"] += 1
            raise Dismissed(f"can't listen on {address}:{self._registration.port}: {reason(error)}") from error

    def _register(self, port: int) -> None:
        told = self._registration
        body = bson.encode({"ipaddress": self._address} | ({"ports": port} if told.tells_port else {}))
        headers = {} if told.content_type is None else {"Content-Type": told.content_type}
        for _ in range(told.times):
            try:
                answer = requests.post(
                    self._server + told.path, body, headers=headers, timeout=ANSWER_SEC, allow_redirects=False
                )
            except requests.RequestException as error:
                raise ConnectionError(f"can't register itself to {self._server}: {reason(error)}") from error
            if answer.status_code != HTTPStatus.OK or answer.text != WELCOME:
                self.figures.errors["registration_refused"] += 1
                said = f"{answer.status_code} {answer.text[:_SHOWN_CHARACTERS]!r}"
                raise Dismissed(f"the server will not pull it: {said}")
            self.figures.registrations += 1
        self._settled = True

    def _serve(self, pictures: "_Pictures") -> None:
        thread = threading.Thread(target=pictures.serve_forever, args=(_STEP_SEC,), daemon=True)
        thread.start()
        try:
            while not self._stopping.wait(_STEP_SEC):
                if self._no_picture is not None:
                    raise self._no_picture
                asked_at = self._asked_at
                self.streaming = asked_at is not None and time.monotonic() - asked_at < self._silence_sec
            raise Stopped
        finally:
            self.streaming = self.streaming and self._stopping.is_set()
            pictures.shutdown()
            thread.join()


class _Pictures(ThreadingTCPServer):
    """The camera's own server. It has its port from the beginning, and listens when it is activated."""

    #: All of its threads have ended when it is closed: one that still encodes a picture when the process ends would
    #: crash it.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 16
    #: The same camera may have been here a moment ago.
    allow_reuse_address = True

    def __init__(self, camera: PulledCamera, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._open: set[socket.socket] = set()
        super().__init__((address, port), partial(_Answers, camera), bind_and_activate=False)
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):  # its thread has just closed it
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # who asked has gone, which is not worth a traceback
            super().handle_error(request, client_address)


class _Answers(BaseHTTPRequestHandler):
    """To one connection."""

    protocol_version = "HTTP/1.1"
    #: A connection over which nothing is asked ends.
    timeout = ANSWER_SEC
    #: Headers and picture go out in two pieces, and the second must not wait for the first one's ack.
    disable_nagle_algorithm = True

    def __init__(self, camera: PulledCamera, *arguments: Any) -> None:
        self._camera = camera
        super().__init__(*arguments)

    def setup(self) -> None:
        super().setup()
        self._camera.is_connected()

    def do_GET(self) -> None:
        path, question_mark, query = self.path.partition("?")
        if path == "/video/":
            self._answer_with_picture()
        elif path == "/video":  # as Flask does where a route ends with a slash
            host = self.headers.get("Host", "")
            self._answer(HTTPStatus.PERMANENT_REDIRECT, {"Location": f"http://{host}{path}/{question_mark}{query}"})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {})

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer_with_picture(self) -> None:
        try:
            body, image_bytes = self._camera.take()
        except Stopped:
            self.close_connection = True
            return
        except SourceError:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {})
            return
        try:
            self._answer(HTTPStatus.OK, self._camera.headers, body)
        except OSError:
            self._camera.is_cut_off()
            raise
        self._camera.has_sent(image_bytes)

    def _answer(self, status: HTTPStatus, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if not self._camera.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _own_address(server: str) -> str:
    """The address of this machine from which that server is reached."""
    url = urlsplit(server)
    assert url.hostname is not None, "the option has been checked"
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname, port), CONNECT_SEC) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise ConnectionError(f"can't connect to {server}: {reason(error)}") from error
