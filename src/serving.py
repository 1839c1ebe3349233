"""Serving HTTP: the listening socket, the requests' greenlets, and the end of it all."""

import logging
import resource
import socket
from collections.abc import Callable
from typing import Any, Final

import eventlet
import eventlet.wsgi
from eventlet import greenio

from green import sleep, spawn

logger = logging.getLogger(__name__)

#: Connections that wait to be accepted: a storm of reconnecting phones comes at once.
BACKLOG: Final = 1_024
#: Open files kept for everything that is not a connection: logs, libraries, rings, databases.
RESERVED_FILES: Final = 200
#: How long a client may take over each part of a request.
REQUEST_SEC: Final = 10.0
MAX_URL_BYTES: Final = 16 * 1024

WsgiApp = Callable[..., Any]


class CannotListen(Exception):
    """The address cannot be listened on; the message is for the operator."""


def raise_file_limit() -> int:
    """Let the process open as many files as it may; returns how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - RESERVED_FILES, 1)


class HttpServer:
    """Listens on one address and runs a WSGI application.

    Args:
        port: 0 for a free one.
        max_connections: connections served at once; further ones wait to be accepted.

    Raises:
        CannotListen: the address is taken, or not ours.
    """

    def __init__(self, ip: str, port: int, application: WsgiApp, max_connections: int) -> None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        try:
            # Without reuse_port=False a second server would share the port, and sessions would be split between the
            # two.
            self._socket = eventlet.listen((ip, port), family=family, backlog=BACKLOG, reuse_port=False)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CannotListen(f"cannot listen on {ip} port {port}: {reason}") from None
        self._application = application
        self._pool = eventlet.GreenPool(max_connections)

    @property
    def url(self) -> str:
        ip, port = self._socket.getsockname()[:2]
        return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"

    def start(self) -> None:
        spawn(self._serve)

    def stop(self, wait_sec: float) -> None:
        """Accept nothing more, and give the connections this long to end."""
        greenio.shutdown_safe(self._socket)
        self._socket.close()
        step = 0.05
        while wait_sec > 0 and self._pool.running():
            sleep(step)
            wait_sec -= step

    def _serve(self) -> None:
        eventlet.wsgi.server(
            self._socket,
            self._application,
            log=logging.getLogger("eventlet.wsgi"),
            log_output=False,
            debug=False,  # or a client would be sent the traceback
            custom_pool=self._pool,
            socket_timeout=REQUEST_SEC,
            url_length_limit=MAX_URL_BYTES,
        )
