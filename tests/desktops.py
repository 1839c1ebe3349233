"""Desktops that send their cameras' images over plain TCP (docs/cameras.md), for tests of the server."""

import gzip
import socket
import struct
import time
from functools import cache
from types import TracebackType
from typing import Self

from pictures import picture
from raw_engineio import PATIENCE_SEC
from running import RunningServer, until

SAID = "cameras over plain TCP are taken on "


def tcp_port(server: RunningServer) -> int:
    """Where it takes cameras over plain TCP, as its log says."""
    line = until(lambda: next((line for line in server.log if SAID in line), None), "the port for plain TCP")
    return int(line.rsplit(":", 1)[1])


@cache
def bmp(width: int = 64, height: int = 48, seed: int = 1) -> bytes:
    return picture(".bmp", width, height, seed)


@cache
def packed(image: bytes, level: int = 9) -> bytes:
    return gzip.compress(image, level, mtime=0)


def message(camera: int, body: bytes, layout: str = "!BI") -> bytes:
    """A message with this body, which is gzip unless a test wants something else."""
    return struct.pack(layout, camera, len(body)) + body


class Desktop:
    """One connection.

    Args:
        layout: how it writes what stands before an image.
        source: its address, one of the loopback's.
    """

    def __init__(self, port: int, layout: str = "!BI", source: str = "127.0.0.1") -> None:
        self._layout = layout
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_SEC, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, camera: int = 1, image: bytes | None = None, level: int = 9) -> None:
        self.send_raw(message(camera, packed(bmp() if image is None else image, level), self._layout))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def has_ended(self, within_sec: float = 0.0) -> bool:
        """Whether the server has closed the connection."""
        deadline = time.monotonic() + within_sec
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                assert self.socket.recv(1) == b"", "cameras are told nothing"
            except TimeoutError:
                if time.monotonic() >= deadline:
                    return False
            except ConnectionError:
                return True
            else:
                return True

    def reset(self) -> None:
        """Go without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
