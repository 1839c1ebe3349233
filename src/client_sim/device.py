"""What simulated cameras have in common, whichever way their frames go: they begin, and come back when cut off."""

import logging
import threading
import time
from abc import ABC, abstractmethod

from client_sim.figures import Figures
from client_sim.sources import SourceError

logger = logging.getLogger(__name__)

#: The app tries so often, so far apart, and starts counting anew once it is back. The others do as it does.
RECONNECTS = 10
RECONNECT_SEC = 5.0

#: A server that does nothing at all for so long is taken for dead, as by the app's library.
ANSWER_SEC = 20.0


class Stopped(Exception):
    """The run is over."""


class Dismissed(Exception):
    """The server doesn't want this camera: the app would show its login page and wait for its user."""


class Device(ABC):
    """A camera, run by one thread of its own: one session after the other.

    Args:
        name: for messages about it.
        delay_sec: waits so long before it begins, for cameras are not in step.
        reconnect_sec: from the end of a session to the next one.
    """

    def __init__(self, name: str, delay_sec: float, reconnect_sec: float) -> None:
        self.name = name
        self.figures = Figures()
        self.streaming = False
        self._delay_sec = delay_sec
        self._reconnect_sec = reconnect_sec
        self._stopping = threading.Event()
        #: Whether the session came so far that the attempts to come back are counted anew.
        self._settled = False

    def stop(self) -> None:
        """Ask it to say goodbye; from any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Stream until stopped, dismissed, or cut off for good."""
        failures = 0
        self._stopping.wait(self._delay_sec)
        while not self._stopping.is_set():
            self._settled = False
            try:
                self._session()
            except Stopped:
                return
            except Dismissed as end:
                logger.error("%s: %s", self.name, end)
                return
            except SourceError as error:
                logger.error("%s: %s", self.name, error)
                self.figures.errors["no_picture"] += 1
                return
            except ConnectionError as error:
                failures = 1 if self._settled else failures + 1
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

    @abstractmethod
    def _session(self) -> None:
        """One connection, from its beginning to its end, which is always one of the exceptions above."""


def in_step(due: float, interval_sec: float) -> float:
    """When a frame goes that was due then, of a camera that has one every so many seconds: a frame that is a little
    late does not delay the later ones; what a stall has cost is not made up for."""
    now = time.monotonic()
    return due if now < due + interval_sec else now
