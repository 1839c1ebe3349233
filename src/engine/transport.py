"""The bytes of a connection, received and sent without waiting: over a socket as it is, or over TLS."""

import mmap
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from engine.reader import Buffer

#: Of what is to be forgotten, so much at once at most. It is address space: nothing is ever written there.
NOWHERE_BYTES: Final = 4 * 1024 * 1024
#: Linux forgets bytes of a TCP connection for us, uncopied. Elsewhere they are received, and then forgotten.
FORGET: Final = socket.MSG_TRUNC if sys.platform == "linux" else 0
#: TLS hands out at most a record at once.
TLS_RECORD_BYTES: Final = 16 * 1024
#: TLS takes all that it is given or nothing: it is given so much at once, so that what a slow reader has taken counts
#: as taken, and nobody waits for 16 MB to be encrypted.
TLS_SEND_BYTES: Final = 64 * 1024


class Transport(Protocol):
    """What a WebSocket is carried by. Calls never wait: they raise BlockingIOError where there is nothing to receive,
    or no room to send, and another OSError when the connection is broken.

    Attributes:
        fileno: tells when there is something to receive, or room to send.
        plain: what is on the socket are the bytes themselves.
    """

    @property
    def fileno(self) -> int: ...

    @property
    def plain(self) -> bool: ...

    @property
    def pending(self) -> bool:
        """Whether bytes have been taken off the socket that were not received yet, so that it will not tell of
        them."""

    def receive_into(self, buffers: Sequence[memoryview]) -> int:
        """Receive into these, in their order; returns how many bytes came, 0 at the end."""

    def skip(self, size: int) -> int:
        """Receive at most so many bytes and forget them; returns how many came, 0 at the end."""

    def send(self, buffers: Sequence[Buffer]) -> int:
        """Send as much of these as there is room for; returns how many bytes went. After a BlockingIOError, what it was
        given begins the next call as well."""

    def wake_at(self, size: int) -> None:
        """Tell of something to receive only when so many bytes are there, or the end."""

    def end(self) -> None:
        """Say that nothing more is sent."""

    def shut_down(self) -> None:
        """End both ways at once; the socket stays open."""


def transport_of(sock: Any) -> Transport:
    """The transport of a green socket, after its handshakes; nothing else may use the socket any more."""
    return TlsTransport(sock) if isinstance(sock, ssl.SSLSocket) else PlainTransport(sock.fd)


class PlainTransport:
    """A non-blocking TCP socket."""

    __slots__ = ("_socket", "fileno")

    plain: Final = True
    pending: Final = False
    _nowhere: Final = memoryview(mmap.mmap(-1, NOWHERE_BYTES))

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.fileno = sock.fileno()

    def receive_into(self, buffers: Sequence[memoryview]) -> int:
        return self._socket.recvmsg_into(buffers)[0]

    def send(self, buffers: Sequence[Buffer]) -> int:
        return self._socket.sendmsg(buffers)

    def skip(self, size: int) -> int:
        return self._socket.recv_into(self._nowhere, min(size, NOWHERE_BYTES), FORGET)

    def wake_at(self, size: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)


class TlsTransport:
    """A green TLS socket."""

    __slots__ = ("_socket", "_unsent", "fileno")

    plain: Final = False

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._unsent: Buffer | None = None
        self.fileno = sock.fileno()

    @property
    def pending(self) -> bool:
        return self._socket.pending() > 0

    def receive_into(self, buffers: Sequence[memoryview]) -> int:
        try:
            return self._socket.recv_into(buffers[0])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def skip(self, size: int) -> int:
        return self.receive_into((memoryview(bytearray(min(size, TLS_RECORD_BYTES))),))

    def send(self, buffers: Sequence[Buffer]) -> int:
        # What TLS did not send when it was given, it wants to be given again, whole.
        data = self._unsent or _beginning(buffers, TLS_SEND_BYTES)
        try:
            sent = self._socket.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._unsent = data
            raise BlockingIOError from None
        self._unsent = None
        return sent

    def wake_at(self, size: int) -> None:
        """What comes is encrypted, and of another size."""

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)


def _beginning(buffers: Sequence[Buffer], size: int) -> Buffer:
    """The first so many bytes of these, in one piece."""
    pieces = []
    for buffer in buffers:
        pieces.append(memoryview(buffer)[:size])
        size -= len(pieces[-1])
        if not size:
            break
    return b"".join(pieces) if len(pieces) > 1 else pieces[0]
