"""One simulated camera: logs in as the app does, sends a frame after each ack, and comes back when it was cut off."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from client_sim.connection import Ack, Closed, Connect, Connection, Event, Message
from client_sim.device import ANSWER_SEC, RECONNECT_SEC, Device, Dismissed, Stopped, in_step

logger = logging.getLogger(__name__)

#: The event name by which the app asks to be told whether it is logged in.
LOGIN_EVENT = "onAuthentication"


class Camera(Device):
    """A phone or a page that sends its frames over Socket.IO.

    Args:
        name: for messages about it.
        connect: makes a connection, see client_sim.connection.
        next_image: takes a picture, as encoded bytes, or raises SourceError.
        rate_hz: frames a second at most; the server may ask for fewer.
        delay_sec: waits so long before it begins, for cameras are not in step.
    """

    def __init__(
        self,
        name: str,
        username: str,
        password: str,
        connect: Connect,
        next_image: Callable[[], bytes],
        rate_hz: float,
        delay_sec: float = 0.0,
        reconnect_sec: float = RECONNECT_SEC,
        answer_sec: float = ANSWER_SEC,
    ) -> None:
        super().__init__(name, delay_sec, reconnect_sec)
        self._username = username
        self._password = password
        self._connect = connect
        self._next_image = next_image
        self._rate_hz = rate_hz
        self._answer_sec = answer_sec
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    @property
    def interval_sec(self) -> float:
        """From one frame to the next at the least; endless while the server wants none."""
        rate_hz = self._rate_hz if self.figures.wanted_hz is None else min(self._rate_hz, self.figures.wanted_hz)
        return 1 / rate_hz if rate_hz > 0 else float("inf")

    def stop(self) -> None:
        super().stop()
        self._inbox.put(None)

    def _session(self) -> None:
        # An inbox for each connection, so that nothing of the former is taken for news of this one.
        self._inbox = queue.SimpleQueue()
        self.figures.wanted_hz = None
        if self._stopping.is_set():  # between the two lines above, stop() has told the old inbox
            raise Stopped
        connection = self._connect(self._inbox.put)
        self.figures.connections += 1
        self.figures.transports[connection.transport] += 1
        try:
            self._log_in(connection)
            self._stream(connection)
        finally:
            self.streaming = self.streaming and self._stopping.is_set()
            connection.close()

    def _log_in(self, connection: Connection) -> None:
        connection.emit("authenticate", self._username, self._password, LOGIN_EVENT)
        deadline = time.monotonic() + self._answer_sec
        while True:
            message = self._next_message(deadline)
            if message is None:
                raise ConnectionError(f"no answer to the login for {self._answer_sec:g} s")
            if isinstance(message, Event) and message.name == LOGIN_EVENT:
                break
        if message.arguments[:1] != (True,):
            self.figures.errors["login_refused"] += 1
            raise Dismissed("the server refuses this user and password")
        self.figures.logins += 1
        self._settled = True
        self.streaming = True

    def _stream(self, connection: Connection) -> None:
        due = time.monotonic()
        while True:
            image = self._next_image()
            sent_at = time.monotonic()
            connection.emit("receiveImage", image, ack=True)
            try:
                answer = self._next_ack(sent_at + self._answer_sec)
            except (ConnectionError, Dismissed):
                self.figures.unanswered += 1
                raise
            self.figures.latencies.record(time.monotonic() - sent_at)
            if answer.get("accepted") is True:
                self.figures.frames += 1
                self.figures.image_bytes += len(image)
            else:
                self.figures.refused[str(answer.get("reason", "no_reason"))] += 1
            self._obey(answer.get("rate"))
            # Asked anew after each message, for it may have changed the rate.
            while (next_due := due + self.interval_sec) > time.monotonic():
                self._next_message(next_due)
            due = in_step(next_due, self.interval_sec)

    def _next_ack(self, deadline: float) -> dict[str, object]:
        while (message := self._next_message(deadline)) is not None:
            if isinstance(message, Ack):
                answer = message.arguments[0] if message.arguments else None
                return answer if isinstance(answer, dict) else {}
        raise ConnectionError(f"no ack for {self._answer_sec:g} s")

    def _next_message(self, deadline: float) -> Message | None:
        """What comes next, or None at the deadline; what concerns the whole session is dealt with here."""
        timeout = min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
        try:
            message = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None
        match message:
            case None:
                raise Stopped
            case Closed(why, dismissed=True):
                self.figures.errors["dismissed"] += 1
                raise Dismissed(why)
            case Closed(why):
                raise ConnectionError(why)
            case Event("setRate", (hz, *_)):
                self._obey(hz)
            case Event("result", (_, {"plugin": str(plugin)})):
                self.figures.results[plugin] += 1
            case Event("serverError", (str(code), *details)):
                if code not in self.figures.errors:
                    logger.warning("%s: the server says %s: %s", self.name, code, " ".join(map(str, details)))
                self.figures.errors[code] += 1
        return message

    def _obey(self, wanted_hz: object) -> None:
        """Take the rate that the server names; an ack that names none says that there is no limit."""
        self.figures.wanted_hz = float(wanted_hz) if isinstance(wanted_hz, int | float) else None
