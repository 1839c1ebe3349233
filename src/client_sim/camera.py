"""One simulated camera: logs in as the app does, sends a frame after each ack, and comes back when it was cut off."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from client_sim.connection import Ack, Closed, Connect, Connection, Event, Message
from client_sim.figures import Figures
from client_sim.sources import SourceError

logger = logging.getLogger(__name__)

#: The event name by which the app asks to be told whether it is logged in.
LOGIN_EVENT = "onAuthentication"

#: The app tries so often, so far apart, and starts counting anew once it is back.
RECONNECTS = 10
RECONNECT_SEC = 5.0

#: A server that answers neither a login nor a frame for so long is taken for dead, as the app's library does.
ANSWER_SEC = 20.0


class _Stopped(Exception):
    """The run is over."""


class _Dismissed(Exception):
    """The server doesn't want this camera: the app would show its login page and wait for its user."""


class Camera:
    """A camera, run by one thread of its own.

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
        self.name = name
        self.figures = Figures()
        self.streaming = False
        self._username = username
        self._password = password
        self._connect = connect
        self._next_image = next_image
        self._rate_hz = rate_hz
        self._delay_sec = delay_sec
        self._reconnect_sec = reconnect_sec
        self._answer_sec = answer_sec
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopping = threading.Event()

    @property
    def interval_sec(self) -> float:
        """From one frame to the next at the least; endless while the server wants none."""
        rate_hz = self._rate_hz if self.figures.wanted_hz is None else min(self._rate_hz, self.figures.wanted_hz)
        return 1 / rate_hz if rate_hz > 0 else float("inf")

    def stop(self) -> None:
        """Ask it to say goodbye; from any thread."""
        self._stopping.set()
        self._inbox.put(None)

    def run(self) -> None:
        """Stream until stopped, dismissed, or cut off for good."""
        failures = 0
        self._stopping.wait(self._delay_sec)
        while not self._stopping.is_set():
            logins = self.figures.logins
            try:
                self._session()
            except _Stopped:
                return
            except _Dismissed as end:
                logger.error("%s: %s", self.name, end)
                return
            except SourceError as error:
                logger.error("%s: %s", self.name, error)
                self.figures.errors["no_picture"] += 1
                return
            except ConnectionError as error:
                failures = 1 if self.figures.logins > logins else failures + 1
                if failures > RECONNECTS:
                    logger.error("%s: %s; gives up after %d attempts", self.name, error, RECONNECTS)
                    self.figures.errors["gave_up"] += 1
                    return
                logger.warning(
                    "%s: %s; tries again in %g s (%d of %d)",
                    self.name,
                    error,
                    self._reconnect_sec,
                    failures,
                    RECONNECTS,
                )
                self._stopping.wait(self._reconnect_sec)

    def _session(self) -> None:
        """One connection, from login to its end, which is always an exception."""
        # An inbox for each connection, so that nothing of the former is taken for news of this one.
        self._inbox = queue.SimpleQueue()
        self.figures.wanted_hz = None
        if self._stopping.is_set():  # between the two lines above, stop() has told the old inbox
            raise _Stopped
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
            raise _Dismissed("the server refuses this user and password")
        self.figures.logins += 1
        self.streaming = True

    def _stream(self, connection: Connection) -> None:
        due = time.monotonic()
        while True:
            image = self._next_image()
            sent_at = time.monotonic()
            connection.emit("receiveImage", image, ack=True)
            try:
                answer = self._next_ack(sent_at + self._answer_sec)
            except (ConnectionError, _Dismissed):
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
            # A frame that is a little late does not delay the later ones; what a stall has cost is not made up for.
            due = next_due if time.monotonic() < next_due + self.interval_sec else time.monotonic()

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
                raise _Stopped
            case Closed(why, dismissed=True):
                self.figures.errors["dismissed"] += 1
                raise _Dismissed(why)
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
