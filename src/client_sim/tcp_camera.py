"""A desktop's cameras over plain TCP: whole BMPs, compressed, one after the other, and never an answer.

A message, as each of these clients' own `struct` writes its first two fields:

    u8 camera | u32 size | size bytes: gzip of one .bmp file
"""

import gzip
import socket
import struct
import time
from collections.abc import Callable, Mapping

from client_sim.connection import CONNECT_SEC, reason
from client_sim.device import ANSWER_SEC, RECONNECT_SEC, Device, Stopped, in_step

#: What clients in the field write: network byte order, little endian, their machine's own, and that with the padding of
#: a C struct, which is 8 bytes instead of 5; the last one is the same on a machine of the other kind.
FORMATS = ("!BI", "<BI", "=BI", "BI", ">B3xI")
MAX_CAMERA = 255

#: How soon it notices that it is to stop.
_STEP_SEC = 0.1


class TcpCamera(Device):
    """A connection with one or several cameras; each of them has a frame every 1/rate_hz seconds.

    Args:
        name: for messages about it.
        address: host and port of the server.
        cameras: for each camera's number what takes its picture, as a BMP file, or raises SourceError.
        rate_hz: frames a second of each camera; nobody can ask for fewer.
        layout: one of FORMATS.
        gzip_level: 0 (not smaller at all) to 9.
    """

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        cameras: Mapping[int, Callable[[], bytes]],
        rate_hz: float,
        layout: str = FORMATS[0],
        gzip_level: int = 9,
        delay_sec: float = 0.0,
        reconnect_sec: float = RECONNECT_SEC,
        answer_sec: float = ANSWER_SEC,
    ) -> None:
        super().__init__(name, delay_sec, reconnect_sec)
        self.figures.acknowledged = False
        self._address = address
        self._cameras = cameras
        self._interval_sec = 1 / rate_hz / len(cameras)
        self._layout = layout
        self._gzip_level = gzip_level
        self._answer_sec = answer_sec

    def _session(self) -> None:
        connection = self._connect()
        began = time.monotonic()
        self.figures.connections += 1
        self.figures.transports["tcp"] += 1
        with connection:
            try:
                self._stream(connection)
            except TimeoutError:
                raise ConnectionError(f"the server takes nothing for {self._answer_sec:g} s") from None
            except ConnectionError:
                self.figures.errors["closed_by_server"] += 1
                raise ConnectionError("the server closes the connection") from None
            finally:
                self.streaming = self.streaming and self._stopping.is_set()
                # It connects even where it is not wanted, and hears no more of it than that the connection ends.
                self._settled = time.monotonic() - began >= self._reconnect_sec

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection(self._address, CONNECT_SEC)
        except OSError as error:
            host, port = self._address
            raise ConnectionError(f"can't connect to {host}:{port} over TCP: {reason(error)}") from error

    def _stream(self, connection: socket.socket) -> None:
        due = time.monotonic()
        while True:
            for number, next_image in self._cameras.items():
                image = next_image()
                connection.settimeout(self._answer_sec)
                connection.sendall(message(number, image, self._layout, self._gzip_level))
                self.streaming = True
                self.figures.frames += 1
                self.figures.image_bytes += len(image)
                due += self._interval_sec
                self._wait_until(due, connection)
                due = in_step(due, self._interval_sec)

    def _wait_until(self, due: float, connection: socket.socket) -> None:
        """Look at least once whether the server is still there.

        Raises:
            Stopped: it is to end here, between two messages.
            ConnectionError: the server has gone.
        """
        while True:
            if self._stopping.is_set():
                raise Stopped
            left_sec = max(due - time.monotonic(), 0)
            connection.settimeout(min(left_sec, _STEP_SEC))
            try:
                # As the server says nothing, there is only its end to be read.
                if not connection.recv(1024):
                    raise ConnectionError
            except (TimeoutError, BlockingIOError):
                pass
            if not left_sec:
                return


def message(camera: int, image: bytes, layout: str, gzip_level: int) -> bytes:
    body = gzip.compress(image, gzip_level)
    return struct.pack(layout, camera, len(body)) + body
