"""A client for tests that need to see every event: python-socketio's own, with what came kept in order."""

import threading
from types import TracebackType
from typing import Any

from engineio.packet import CLOSE, Packet

from client_sim.protocol4 import InOrderClient
from running import until


class Phone:
    """One client of today's protocol, connected.

    Attributes:
        events: (name, arguments) of everything that the server sent.
    """

    def __init__(
        self,
        url: str,
        transports: list[str] | None = None,
        auth: Any = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.events: list[tuple[str, tuple[Any, ...]]] = []
        self.disconnected = threading.Event()
        self.client = InOrderClient(reconnection=False)
        self.client.on("*", lambda name, *arguments: self.events.append((name, arguments)))
        self.client.on("disconnect", lambda _reason: self.disconnected.set())
        self.client.connect(url, transports=transports, auth=auth, headers=headers or {}, retry=False)

    def log_in(self, username: Any = "Alice", password: Any = "123", event: Any = "onAuthentication") -> Any:
        """Log in as the app does and return what its callback got."""
        before = len(self.named(event))
        self.client.emit("authenticate", (username, password, event))
        until(lambda: len(self.named(event)) > before, f"{event} for {username}")
        return self.named(event)[-1][0]

    def send(self, image: Any, *more: Any) -> dict[str, Any]:
        """Send an image and return its ack."""
        answer = self.client.call("receiveImage", (image, *more) if more else image, timeout=10)
        assert isinstance(answer, dict)
        return answer

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for event, arguments in list(self.events) if event == name]

    def error_codes(self) -> list[str]:
        return [code for code, _message in self.named("serverError")]

    def __enter__(self) -> "Phone":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # python-engineio's client stops sending at once when it leaves. If it has not seen the answer to its last POST
        # yet, as an ack may overtake that, no goodbye is ever sent: to the server it may be there for another 10 s, and
        # each login of its user asks it for a sign of life.
        engine = self.client.eio
        if engine.state == "connected" and engine.transport() == "polling":
            engine._send_packet(Packet(CLOSE))
            until(lambda: engine.write_loop_task is None or not engine.queue.unfinished_tasks, "its goodbye sent")
        self.client.disconnect()
