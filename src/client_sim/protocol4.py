"""Today's clients: Socket.IO protocol 5 over Engine.IO 4, by python-socketio's own client."""

import logging

import engineio
import socketio

from client_sim.connection import CONNECT_SEC, Ack, Closed, Deliver, Event, Transport, reason

_TRANSPORTS = {"polling": ["polling"], "websocket": ["websocket"], "upgrade": ["polling", "websocket"]}


class _Engine(engineio.Client):  # type: ignore[misc]
    """Handles what comes one after the other. The library starts a thread for each message, and a picture that is
    faster than the text before it breaks the connection's decoder."""

    def _trigger_event(self, event: str, *arguments: object, **options: bool) -> object:
        options.pop("run_async", None)
        return super()._trigger_event(event, *arguments, **options)


class InOrderClient(socketio.Client):  # type: ignore[misc]
    """python-socketio's client, whose handlers are called in the order in which events come, and may not wait."""

    def _engineio_client_class(self) -> type[engineio.Client]:
        return _Engine


class Protocol4:
    """A connection of protocol 4.

    Args:
        url: the server, `http://host:port`.
        deliver: takes what arrives.

    Raises:
        ConnectionError: the server can't be reached, or refuses the connection.
    """

    def __init__(self, url: str, transport: Transport, deliver: Deliver) -> None:
        self._deliver = deliver
        # The camera reconnects by the app's rule, so the library must not by its own.
        # What it would log arrives here as an exception or an event anyway.
        quiet = logging.Logger("socketio", logging.CRITICAL)
        self._client = InOrderClient(reconnection=False, handle_sigint=False, logger=quiet, engineio_logger=quiet)
        self._client.on("*", self._on_event)
        self._client.on("disconnect", self._on_disconnect)
        try:
            self._client.connect(url, transports=_TRANSPORTS[transport], wait_timeout=CONNECT_SEC)
        except socketio.exceptions.ConnectionError as error:
            raise ConnectionError(f"can't connect to {url}: {reason(error)}") from error

    @property
    def transport(self) -> str:
        return str(self._client.transport())

    def emit(self, event: str, *arguments: str | bytes, ack: bool = False) -> None:
        try:
            self._client.emit(event, arguments, callback=self._on_ack if ack else None)
        except socketio.exceptions.SocketIOError as error:
            raise ConnectionError("the connection is over") from error

    def close(self) -> None:
        self._client.disconnect()

    def _on_event(self, name: str, *arguments: object) -> None:
        self._deliver(Event(name, arguments))

    def _on_ack(self, *arguments: object) -> None:
        self._deliver(Ack(arguments))

    def _on_disconnect(self, why: str) -> None:
        if why != engineio.Client.reason.SERVER_DISCONNECT:
            self._deliver(Closed("the connection is lost"))
        elif self._client.eio.state == "connected":
            # The library has one reason for Socket.IO's DISCONNECT and Engine.IO's CLOSE; while it handles the first,
            # the session below is still there.
            self._deliver(Closed("the server disconnects this client", dismissed=True))
        else:
            self._deliver(Closed("the server closes the connection"))
