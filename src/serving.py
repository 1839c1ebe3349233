"""Listening sockets, and serving HTTP on one of them: who is let in, and the end of it all."""

import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

import eventlet
from eventlet import greenio, hubs, wsgi
from eventlet.green.ssl import GreenSSLSocket

import memory
from green import offload, sleep, spawn
from http1.body import REQUEST_SEC
from http1.connection import Connection, ErrorLog
from rate import OncePerSecond

logger = logging.getLogger(__name__)

#: Connections that wait to be accepted: a storm of reconnecting phones comes at once.
BACKLOG: Final = 1_024
#: Open files kept for everything that is not a connection: logs, libraries, rings, databases.
RESERVED_FILES: Final = 200
#: After so many connections accepted at once the others have their turn.
ACCEPTS_PER_TURN: Final = 64
#: How long nothing is accepted when the system has no file descriptors left.
NO_FILES_SEC: Final = 0.1
#: How often it is looked, at the end, whether all have gone.
STOP_STEP_SEC: Final = 0.05
#: When so many more have gone than came, the memory that they had is given back to the system, a little later, as they
#: go together.
CROWD: Final = 256
GIVE_BACK_SEC: Final = 0.5
#: And not sooner again than after this: the loop's own memory waits meanwhile.
GIVE_BACK_PAUSE_SEC: Final = 5.0
FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

WsgiApp = Callable[..., Any]


class CannotListen(Exception):
    """The address cannot be listened on; the message is for the operator."""


def raise_file_limit() -> int:
    """Let the process open as many files as it may; returns how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - RESERVED_FILES, 1)


class TlsSocket(GreenSSLSocket):  # type: ignore[misc]
    """A green TLS socket that says goodbye as the protocol wants it (RFC 8446, section 6.1): without that word a client
    cannot tell the end from somebody's cut. What comes after it is received as it is on the wire, to be forgotten."""

    _said_goodbye = False

    def __new__(cls, *args: Any, **options: Any) -> "TlsSocket":
        sock = super().__new__(cls, *args, **options)
        sock.__class__ = cls  # eventlet makes every one of them its own
        return sock  # type: ignore[no-any-return]

    def shutdown(self, how: int) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            try:
                super(GreenSSLSocket, self).unwrap()  # does not wait
            except (OSError, ValueError):
                pass  # it is said, and the peer has not said its own yet; or there is nobody to say it to
        socket.SocketType.shutdown(self, how)

    def pending(self) -> int:
        return 0 if self._said_goodbye else super().pending()

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        if not self._said_goodbye:
            return super().recv(size, flags)  # type: ignore[no-any-return]
        if not self.act_non_blocking:
            hubs.trampoline(self, read=True, timeout=self.gettimeout(), timeout_exc=TimeoutError)
        return socket.SocketType.recv(self, size)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        if not self._said_goodbye:
            return super().recv_into(buffer, nbytes, flags)  # type: ignore[no-any-return]
        return socket.SocketType.recv_into(self, buffer)


class Listener:
    """The listening socket of one address. Whatever is told of a connection may not wait.

    Args:
        port: 0 for a free one.

    Raises:
        CannotListen: the address is taken, or not ours.
    """

    def __init__(self, ip: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        try:
            # Without reuse_port=False a second server would share the port, and sessions would be split between the
            # two.
            self.socket = eventlet.listen((ip, port), family=family, backlog=BACKLOG, reuse_port=False)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CannotListen(f"cannot listen on {ip} port {port}: {reason}") from None
        self._said = OncePerSecond()
        self._stopping = False

    @property
    def address(self) -> str:
        """As clients write it: `IP:PORT`, and `[IP]:PORT` for IPv6."""
        ip, port = self.socket.getsockname()[:2]
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

    def start(self, take: Callable[[Any, tuple[Any, ...]], object], make_room: Callable[[str], object]) -> None:
        """Accept connections from now on.

        Args:
            take: called with each one's green socket and address.
            make_room: called with the reason when none can be accepted, to end one that is not needed.
        """
        spawn(self._accept_all, take, make_room)

    def stop(self) -> None:
        """Accept nothing more."""
        self._stopping = True
        greenio.shutdown_safe(self.socket)
        self.socket.close()

    def _accept_all(self, take: Callable[[Any, tuple[Any, ...]], object], make_room: Callable[[str], object]) -> None:
        accepted = 0
        while not self._stopping:
            try:
                sock, address = self.socket.accept()
            except OSError as error:
                if not self._stopping and error.errno != errno.ECONNABORTED:  # that one went before it was accepted
                    if self._said.allows("", time.monotonic()):
                        logger.warning("no connection can be accepted: %s", error.strerror)
                    make_room("no files are left")
                    sleep(NO_FILES_SEC)
                continue
            take(sock, address)
            accepted += 1
            if accepted % ACCEPTS_PER_TURN == 0:
                sleep(0)


class Crowds:
    """Gives memory back to the system when a crowd has gone.

    Args:
        crowd: how many they are: connections, or bytes.
    """

    def __init__(self, crowd: int = CROWD) -> None:
        self._crowd = crowd
        self._now = 0
        self._most = 0  # since memory was given back
        self._giving_back = False

    def count(self, number: int) -> None:
        """There are so many now; told when that has changed."""
        self._now = number
        self._most = max(self._most, number)
        if not self._giving_back and self._most - number >= self._crowd:
            self._giving_back = True
            spawn(self._give_back)

    def _give_back(self) -> None:
        sleep(GIVE_BACK_SEC)
        self._most = self._now
        offload("disk", memory.give_back)
        sleep(GIVE_BACK_PAUSE_SEC)
        self._giving_back = False
        self.count(self._now)


class HttpServer:
    """Listens on one address and runs a WSGI application.

    When there are `max_connections`, a new one takes the place of that which has kept us waiting longest for a
    request: half-open and idle ones go first, and those that are being served stay. Where all are being served, the
    new one is told to come again.

    Args:
        port: 0 for a free one.
        max_connections: connections served at once.
        tls: the server's side of TLS, with its certificate; None for none. A client has 10 s for the handshake.

    Attributes:
        bad_requests: requests that were not taken: they could be read in two ways, were too large or too slow; and TLS
            handshakes that were none.
        displaced: connections that gave up their place.
        turned_away: connections that found none.

    Raises:
        CannotListen: the address is taken, or not ours.
    """

    def __init__(
        self, ip: str, port: int, application: WsgiApp, max_connections: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._listener = Listener(ip, port)
        self.bad_requests = 0
        self.displaced = 0
        self.turned_away = 0
        self._max_connections = max_connections
        self._tls = tls
        self._scheme = "http" if tls is None else "https"
        self._connections: set[Any] = set()  # their sockets
        self._crowds = Crowds()
        self._waiting: dict[Any, None] = {}  # of these, those that have no request; the longest wait first
        environ = {"wsgi.url_scheme": self._scheme}
        self._wsgi = wsgi.Server(
            self._listener.socket, None, application, environ=environ, log_output=False, debug=False
        )
        self._errors = self._wsgi.log = ErrorLog(logger)
        self._said = OncePerSecond()
        self._stopping = False

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self._listener.address}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def errors(self) -> int:
        """Requests that the application failed to serve."""
        return self._errors.errors

    def start(self) -> None:
        self._listener.start(self._take, self._displace_one)

    def stop(self, wait_sec: float) -> None:
        """Accept nothing more, and give the requests that are being served this long to end."""
        self._stopping = True
        self._listener.stop()
        for sock in list(self._waiting):
            greenio.shutdown_safe(sock)
        deadline = time.monotonic() + wait_sec
        while self._connections and time.monotonic() < deadline:
            sleep(STOP_STEP_SEC)

    def _take(self, sock: Any, address: tuple[Any, ...]) -> None:
        if len(self._connections) >= self._max_connections and not self._displace_one(self._all_taken()):
            self._turn_away(sock)
        else:
            self._let_in(sock, address)

    def _let_in(self, sock: Any, address: tuple[Any, ...]) -> None:
        if self._tls is not None:
            try:
                sock = TlsSocket(sock, server_side=True, do_handshake_on_connect=False, _context=self._tls)
            except OSError:  # it has gone
                sock.close()
                return
        self._connections.add(sock)
        self._waiting[sock] = None  # before its greenlet runs: many are accepted at once
        self._crowds.count(len(self._connections))
        eventlet.spawn_n(self._serve, sock, address)

    def _shake_hands(self, sock: Any) -> bool:
        """TLS's, on a new connection; False when the client does not, in time."""
        try:
            with eventlet.Timeout(REQUEST_SEC, TimeoutError):
                sock.do_handshake()
        except TimeoutError:
            self._count_bad_request(f"a TLS handshake that was not done within {REQUEST_SEC:g} s")
        except (ssl.SSLEOFError, ConnectionError):
            pass  # it has gone
        except ssl.SSLError as error:
            self._count_bad_request(f"no TLS handshake: {error.reason}")
        else:
            return True
        return False

    def _serve(self, sock: Any, address: tuple[Any, ...]) -> None:
        def note_waiting(waiting: bool) -> None:
            if not waiting:
                self._waiting.pop(sock, None)
            elif self._stopping:
                greenio.shutdown_safe(sock)
            elif sock in self._connections:  # it has not been displaced
                self._waiting[sock] = None

        def close() -> None:
            self._connections.discard(sock)
            self._waiting.pop(sock, None)
            greenio.shutdown_safe(sock)
            sock.close()
            self._crowds.count(len(self._connections))

        connection: Connection | None = None
        try:
            if self._tls is not None and not self._shake_hands(sock):
                return
            connection = Connection(sock, address, self._wsgi, self._count_bad_request, note_waiting, close)
            connection.serve()
        except OSError:
            pass  # it had gone before it was looked at
        except Exception:
            logger.exception("a connection ended with an error")
        finally:
            if connection is None or not connection.taken_over:
                close()

    def _all_taken(self) -> str:
        return f"{self._max_connections} connections (--max-connections) are in use"

    def _displace_one(self, why: str) -> bool:
        """End the connection that has kept us waiting longest; False when none does."""
        sock = next(iter(self._waiting), None)
        if sock is None:
            return False
        self.displaced += 1
        self._say("displaced", f"{why}: {self.displaced} without a request made room for new ones")
        del self._waiting[sock]
        self._connections.discard(sock)
        greenio.shutdown_safe(sock)  # its greenlet sees the end, and closes it
        return True

    def _turn_away(self, sock: Any) -> None:
        self.turned_away += 1
        self._say("turned away", f"{self._all_taken()}: {self.turned_away} found no place")
        sock.settimeout(0)
        try:
            if self._tls is None:  # or there is nothing that it would understand
                sock.send(FULL)
        except OSError:
            pass
        greenio.shutdown_safe(sock)
        sock.close()

    def _count_bad_request(self, why: str) -> None:
        self.bad_requests += 1
        self._say("bad request", f"a request was not taken: {why} ({self.bad_requests} since the start)")

    def _say(self, cause: str, message: str) -> None:
        if self._said.allows(cause, time.monotonic()):
            logger.warning("%s", message)
