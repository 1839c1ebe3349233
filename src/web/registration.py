"""Cameras that are pulled say where they are (docs/protocol.md, "Cameras that are pulled").

    POST /server or /server/      BSON {ipaddress: text, ports: number}, whatever its Content-Type
                                  200 `OK`, or 200 `Can not make a connection`

Rule 1. Where a request comes from is what its connection says. Behind a proxy that is the proxy, and says nothing.
Rule 2. A page in somebody's browser is no camera: it would make the server call whoever looks at it.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import bson
from bson.errors import BSONError
from flask import Blueprint, Response, request
from werkzeug.exceptions import HTTPException

from auth.access import is_loopback

#: Where a camera listens that does not say so.
DEFAULT_PORT: Final = 5000
DONE: Final = "OK"
#: What cameras have always been told, whatever the cause is.
REFUSED: Final = "Can not make a connection"

#: What proxies add to a request; `X-Forwarded-…` too.
_OF_PROXIES: Final = frozenset({"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"})


class Registrar(Protocol):
    """Who is told of cameras; the `ingest.pull.gateway.PullGateway`."""

    def register(self, host: str, port: int, requester: str) -> bool:
        """A camera says where it is, and came from `requester`, "" where that is not known; returns whether it will be
        pulled. May wait."""

    def refuse(self, cause: str, what: str, requester: str) -> None:
        """Somebody posted something else."""


class Registration(NamedTuple):
    """What a camera says of itself."""

    address: str
    port: int


def make_registration(registrar: Registrar) -> Blueprint:
    """The page that cameras post to."""
    registration = Blueprint("registration", __name__)

    @registration.post("/server")
    @registration.post("/server/")
    def register() -> Response:
        requester = _requester()
        said = None if "Origin" in request.headers else read_registration(_body())
        if said is None:
            registrar.refuse("unreadable", "it is no BSON with an address and a port, or a web page sent it", requester)
            done = False
        else:
            done = registrar.register(said.address, said.port, requester)
        return Response(DONE if done else REFUSED, content_type="text/plain; charset=utf-8")

    return registration


def read_registration(body: bytes) -> Registration | None:
    """What a camera has posted; None when it makes no sense."""
    try:
        said: Mapping[str, Any] = bson.decode(body)
    except BSONError:
        return None
    address, port = said.get("ipaddress"), said.get("ports")
    if port is None:
        port = DEFAULT_PORT
    if not isinstance(address, str) or isinstance(port, bool) or not isinstance(port, int | float):
        return None
    if not 1 <= port <= 65_535 or port != int(port):  # NaN is not either
        return None
    return Registration(address, int(port))


def _body() -> bytes:
    try:
        return request.get_data(cache=False)
    except HTTPException:  # it is too long, or its sender has gone
        return b""


def _requester() -> str:
    for name in request.headers.keys():  # noqa: SIM118 - of pairs, otherwise
        if name.lower() in _OF_PROXIES or name.lower().startswith("x-forwarded"):
            return ""
    address = request.remote_addr or ""
    if is_loopback(address) and not (_host_is_loopback() and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1"):
        return ""  # a proxy on this machine that says nothing: it passes on the Host header, or speaks HTTP/1.0
    return address


def _host_is_loopback() -> bool:
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return False
    return host == "localhost" or is_loopback(host)
