"""The connection to a camera, over TCP or TLS: waiting has deadlines, and lets the others run."""

import os
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

from green import wait_readable, within

#: For a connection, TLS included, with all addresses of the camera together. A camera on a bad line takes 1 s.
CONNECT_SEC: Final = 5.0
#: Of a host: a camera has two, IPv6 and IPv4.
MAX_ADDRESSES: Final = 4
#: One receive, and then it is the others' turn. The picture of a camera comes in one or two. More than TLS has in a
#: record, so that nothing which has come is left within it.
RECEIVE_BYTES: Final = 64 * 1024


class Unreachable(Exception):
    """No connection came about; the message says why."""


class Connection:
    """One connection at a time; deadlines are of `time.monotonic`.

    Args:
        tls: the client's side of TLS; None for none.
        host: whose certificate it has to be.

    Attributes:
        aborted: it was ended by `abort`.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.aborted = False
        self._name = host.partition("%")[0].removesuffix(".")
        self._port = port
        self._tls = tls
        self._socket: Any = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self, addresses: Sequence[str], deadline: float) -> None:
        """Connect to the first of these addresses that answers.

        Raises:
            Unreachable: none did.
            TimeoutError: the deadline is over.
        """
        until = min(time.monotonic() + CONNECT_SEC, deadline)
        tried = addresses[:MAX_ADDRESSES]
        reason = "the host has no address"
        for number, address in enumerate(tried):
            # One that does not answer leaves time for the others.
            share_sec = left_sec(until) / (len(tried) - number)
            try:
                with within(share_sec):
                    self._open(address)
            except OSError as error:
                self.close()
                reason = f"no answer within {share_sec:.2g} s" if isinstance(error, TimeoutError) else reason_of(error)
            else:
                return
            if self.aborted:
                break
        raise Unreachable(f"no connection to port {self._port}: {reason}")

    def _open(self, address: str) -> None:
        sock: Any = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        self._socket = sock
        sock.connect((address, self._port))
        if self._tls is not None:
            self._socket = sock = self._tls.wrap_socket(sock, server_hostname=self._name, do_handshake_on_connect=False)
            sock.do_handshake()

    def send(self, data: bytes) -> None:
        """Raises OSError: the connection has ended. To be called `within` a deadline."""
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """What has come, RECEIVE_BYTES at most; empty at the end. To be called `within` this deadline: more may have to
        come before TLS gives any of it.

        Raises:
            OSError: the connection has ended.
            TimeoutError: nothing has come.
        """
        if self.aborted:
            raise ConnectionAbortedError
        if not wait_readable(self._socket.fileno(), left_sec(deadline)):
            raise TimeoutError
        data: bytes = self._socket.recv(RECEIVE_BYTES)
        return data

    def abort(self) -> None:
        """End it while somebody waits for it, who will be woken; never waits. Who waits closes it."""
        self.aborted = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # closing would wake nobody
            except OSError:
                pass

    def close(self) -> None:
        """Close it, while nobody waits for it; may be called again."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()


def left_sec(deadline: float) -> float:
    """Until then; raises TimeoutError when there is nothing left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def reason_of(error: Exception) -> str:
    """What an error of a connection or of a lookup says, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # eventlet gives only the error's name
    return getattr(error, "strerror", None) or type(error).__name__
