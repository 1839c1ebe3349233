"""Upgrades that come at the same time, without sockets."""

import json
from typing import Any

from engine.engineio_server import EngineServer


def ask(server: EngineServer, query: str, **more: Any) -> tuple[str, bytes]:
    """A request as a web server hands it on; returns its status and its answer."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "QUERY_STRING": query, "HTTP_HOST": "x"} | more
    body = b"".join(server.handle_request(environ, lambda status, _headers: statuses.append(status)))
    return statuses[-1] if statuses else "", body


def test_a_second_websocket_is_refused_while_the_first_ones_handshake_is_being_answered() -> None:
    """That answer may have to wait for a client that does not read. Both together would leave one that nobody ends."""
    server = EngineServer(cors_allowed_origins="*")
    _, opened = ask(server, "EIO=4&transport=polling")
    query = f"EIO=4&transport=websocket&sid={json.loads(opened[1:])['sid']}"
    handshake = {
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_UPGRADE": "websocket",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    second: list[tuple[str, bytes]] = []

    class HandshakeWaits(Exception):
        """The first one ends here."""

    def take_over() -> Any:
        second.append(ask(server, query, **handshake))
        raise HandshakeWaits

    for _ in range(2):  # and when the first one has come to nothing, another may come
        try:
            ask(server, query, **handshake | {"http1.take_over": take_over})
        except HandshakeWaits:
            pass
    assert [status for status, _ in second] == ["400 Bad Request"] * 2
