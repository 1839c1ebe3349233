"""The address of a camera that is called, and how much of it may be shown."""

import ipaddress
import re
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
#: Where cameras that register themselves have their picture (docs/protocol.md).
REGISTERED_PATH: Final = "/video"

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,253}[A-Za-z0-9_.])?")
_NO_CONTROLS: Final = re.compile(r"[^\x00-\x20\x7f]+")
#: What a path or a query may hold as it is; everything else is written as %XX (RFC 3986, section 3.3).
_IN_PATHS: Final = "/?:@!$&'()*+,;=%-._~[]"


class CameraUrl(NamedTuple):
    """Where a camera is.

    Its user and password are shown nowhere: `shown` is for logs and pages, and `repr` is no more than that.

    Args:
        scheme: http, https, rtsp or rtsps.
        host: a name, or an address without brackets.
        path: with its query; printable ASCII, beginning with `/`.
        login: user and password, neither quoted.
    """

    scheme: str
    host: str
    port: int
    path: str = "/"
    login: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address as an operator writes it: http://user:password@HOST:PORT/path?query.

        Raises:
            ValueError: it is none; the message says what is wrong, and nothing that may be secret.
        """
        if not _NO_CONTROLS.fullmatch(text):
            raise ValueError("a camera's address holds a space or a control byte")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError("a camera's address whose host or port cannot be read") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError("a camera's address begins with http://, https://, rtsp:// or rtsps://")
        if port == 0:
            raise ValueError("a camera's port is 1 to 65535")
        host = _checked_host(parts.hostname or "")
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path_of(parts), _login(parts))

    @classmethod
    def registered(cls, host: str, port: int) -> Self:
        """The address of a camera that told its host and port.

        Raises:
            ValueError: they cannot be such.
        """
        if not 1 <= port <= 65535:
            raise ValueError("a camera's port is 1 to 65535")
        return cls("http", _checked_host(host.removeprefix("[").removesuffix("]").lower()), port, REGISTERED_PATH)

    @property
    def host_and_port(self) -> str:
        """As it stands in an address and in a Host header: no default port, IPv6 in brackets and without its zone."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For people: without user, password and query; and without a path that holds what a query would, as some
        cameras want it (/user=me_password=secret)."""
        path = self.path.partition("?")[0]
        return f"{self.scheme}://{self.host_and_port}{'/…' if '=' in path else path}"

    def __repr__(self) -> str:
        return f"<{self.shown}>"


def path_of(parts: SplitResult) -> str:
    """Path and query of an address, as they stand in a request line."""
    path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
    return quote(f"{path}?{parts.query}" if parts.query else path, safe=_IN_PATHS)


def _login(parts: SplitResult) -> tuple[str, str] | None:
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def _checked_host(host: str) -> str:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
            known = _NAME.fullmatch(host.partition("%")[2] or "zone")
        except ValueError:
            known = None
        if known is None:
            raise ValueError("a camera's host that is no IPv6 address")
        return host
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("a camera's host that is no name") from None
    if not _NAME.fullmatch(host):
        raise ValueError("a camera's host that is neither a name nor an address")
    return host
