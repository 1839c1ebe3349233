"""Cameras register themselves, as docs/protocol.md says."""

import http.client
import socket
from typing import Any

import bson


class Registrant:
    """Somebody who registers cameras, over one connection to the server.

    Args:
        host: where the server is.
        source: the address that they come from.
    """

    def __init__(self, port: int, source: str = "", host: str = "127.0.0.1") -> None:
        self._http = http.client.HTTPConnection(host, port, timeout=30, source_address=(source, 0) if source else None)

    def __call__(self, ipaddress: Any, port: Any, **headers: str) -> bool:
        """Whether the server says that it will pull this camera."""
        body = bson.encode({"ipaddress": ipaddress, "ports": port})
        self._http.request("POST", "/server", body, {name.replace("_", "-"): text for name, text in headers.items()})
        said = self._http.getresponse()
        content = said.read()
        assert said.status == 200, content
        assert content in (b"OK", b"Can not make a connection"), content
        return content == b"OK"

    def close(self) -> None:
        self._http.close()


def register(port: int, ipaddress: Any, camera_port: Any, source: str = "", **headers: str) -> bool:
    """One registration."""
    registrant = Registrant(port, source)
    try:
        return registrant(ipaddress, camera_port, **headers)
    finally:
        registrant.close()


def free_port(host: str = "127.0.0.1") -> int:
    """One where nobody listens."""
    with socket.create_server((host, 0)) as sock:
        return int(sock.getsockname()[1])
