"""The gateway for desktop cameras over plain TCP, as docs/cameras.md has it: who is let in, and until when."""

import logging
import time
from collections import Counter
from typing import Any, Final

import memory
from engine.unfinished import Unfinished
from engine.websocket import SCRATCH_BYTES
from frames import Limits
from green import Task, sleep, spawn
from hub import Stream
from ingest.door import LIFE_LINES_PER_SEC, Door
from ingest.inflater import Inflater
from ingest.kept_images import KeptImages
from ingest.tcp_connection import TcpConnection
from rate import InSum
from serving import Crowds, Listener

logger = logging.getLogger(__name__)

#: Those that have not sent a whole message yet hold so much of messages under way: room for the first images of 200
#: cameras at the same moment. It is their own, so that a crowd of them costs no camera its image.
MAX_NEWCOMERS_BYTES: Final = 64 * 1024 * 1024
#: How often it is looked whose time is over: exact enough for deadlines of a second and more.
LOOK_SEC: Final = 0.25
#: How often it is looked, at the end, whether all have gone.
STOP_STEP_SEC: Final = 0.02


class TcpGateway:
    """Translates between plain TCP and the door.

    When there are `max_connections`, a new one takes the place of that which has kept us waiting longest for its first
    message; where all have sent one, the new one is closed at once.

    Args:
        ip, port: where to listen; 0 for a free port.
        limits: of the images.
        inflater: its threads are shared with others.
        unfinished: where it is counted what connections hold of messages under way, with all others.
        idle_sec: so long a camera may be silent between two messages.
        max_connections: connections served at once.

    Attributes:
        max_connections: as given.
        ends: connections that have ended, by cause.
        displaced: connections that gave up their place.
        turned_away: connections that found none.
        unsent: results, rates and complaints that cameras could not be told.
    """

    def __init__(
        self,
        door: Door,
        ip: str,
        port: int,
        limits: Limits,
        inflater: Inflater,
        unfinished: Unfinished,
        idle_sec: float,
        max_connections: int,
    ) -> None:
        self.door = door
        self.limits = limits
        self.unfinished = unfinished
        self.newcomers = Unfinished(MAX_NEWCOMERS_BYTES)
        self.kept = KeptImages()
        self.idle_sec = idle_sec
        self.inflater = inflater
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.ends: Counter[str] = Counter()
        self.displaced = 0
        self.turned_away = 0
        self.unsent = 0
        self._place = ip, port
        self.max_connections = max_connections
        self._listener: Listener | None = None
        self._connections: set[TcpConnection] = set()
        self._waiting: dict[TcpConnection, None] = {}  # of these, those without a whole message; the longest wait first
        self._crowds = Crowds()
        self._looking: Task | None = None
        now = time.monotonic()
        self._begins = InSum(LIFE_LINES_PER_SEC, now)
        self._troubles = InSum(LIFE_LINES_PER_SEC, now)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def address(self) -> str:
        """Where it listens, as clients write it: `IP:PORT`."""
        assert self._listener is not None, "not started"
        return self._listener.address

    def start(self) -> None:
        """Listen.

        Raises:
            CannotListen: the address is taken, or not ours.
        """
        self._listener = Listener(*self._place)
        memory.keep_for_images()
        self._listener.start(self._take, self._displace_one)
        self._looking = spawn(self._look_at_the_time)
        logger.info("cameras over plain TCP are taken on %s", self.address)

    def stop(self, wait_sec: float) -> None:
        """Accept nothing more, and end all connections; they have this long for what they are in the middle of. Also
        if it was not started."""
        if self._listener is not None:
            self._listener.stop()
        if self._looking is not None:
            self._looking.kill()
        for connection in list(self._connections):
            connection.close("stop")
        deadline = time.monotonic() + wait_sec
        while self._connections and time.monotonic() < deadline:
            sleep(STOP_STEP_SEC)

    # -- of connections

    def _take(self, sock: Any, address: tuple[Any, ...]) -> None:
        if len(self._connections) >= self.max_connections and not self._displace_one(
            f"{self.max_connections} connections (--tcp-connections) are in use"
        ):
            self.turned_away += 1
            self._note_trouble(
                "turned away",
                f"{self.max_connections} cameras' connections (--tcp-connections) are in use:"
                f" {self.turned_away} found no place",
            )
            sock.close()
            return
        try:
            connection = TcpConnection(self, sock, str(address[0]))
        except OSError:
            sock.close()
            return
        self._connections.add(connection)
        self._waiting[connection] = None
        self._crowds.count(len(self._connections))

    def _displace_one(self, why: str) -> bool:
        """End the connection that has kept us waiting longest for its first message; False when none does."""
        connection = next(iter(self._waiting), None)
        if connection is None:
            return False
        self.displaced += 1
        self._note_trouble("displaced", f"{why}: {self.displaced} without a whole message made room for new ones")
        self._connections.discard(connection)
        del self._waiting[connection]
        connection.close("displaced")
        return True

    def _look_at_the_time(self) -> None:
        while True:
            sleep(LOOK_SEC)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.look_at_the_time(now)

    # -- Owner

    def is_served(self, connection: TcpConnection) -> None:
        self._waiting.pop(connection, None)

    def begins(self, stream: Stream, camera: int, address: str) -> None:
        if (left_out := self._begins.count(stream.name, time.monotonic())) is not None:
            logger.info("camera %d of %s sends as stream %s%s", camera, address, stream.name, left_out)

    def ended(self, connection: TcpConnection, cause: str, why: str | None) -> None:
        self._connections.discard(connection)
        self._waiting.pop(connection, None)
        self._crowds.count(len(self._connections))
        self.ends[cause] += 1
        if why is not None:
            self._note_trouble(cause, f"a camera's connection from {connection.address} was closed: {why}")

    # --

    def _note_trouble(self, cause: str, message: str) -> None:
        if (left_out := self._troubles.count(cause, time.monotonic())) is not None:
            logger.warning("%s%s", message, left_out)
