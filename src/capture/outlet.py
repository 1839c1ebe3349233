"""The way out of a capture process: its pictures and what it has to say, from the thread that receives the video."""

import threading
import time
from typing import Final

from capture import wire
from ring import Buffer, RingReader

#: The server hears at least so often that this process is at work.
ALIVE_SEC: Final = 1.0


class Outlet:
    """Brings pictures to the server: where there is no room for one, it waits, and a newer one takes its place.

    Used by two threads: one receives the video, the other listens to the server.
    """

    def __init__(self, reader: RingReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._waiting: Buffer | None = None
        self._skipped = 0
        self._replaced = 0
        self._said_at = 0.0

    def put(self, picture: Buffer) -> None:
        """Bring a picture, at once or as soon as there is room. It must not change afterwards.

        Raises:
            EOFError: the server has gone; so do all others.
        """
        with self._lock:
            if len(picture) > self._reader.room_bytes:
                self._reader.answer(wire.pack_size(len(picture)))
            elif self._reader.room:
                self._deliver(picture)
            else:
                self._replaced += self._waiting is not None
                self._waiting = picture

    def skip(self) -> None:
        """A picture came that was not wanted."""
        self._skipped += 1

    def use_room(self) -> None:
        """There may be room again."""
        with self._lock:
            if self._waiting is not None and self._reader.room:
                self._deliver(self._waiting)

    def forget(self) -> None:
        """What waits is not brought any more: its video has ended."""
        with self._lock:
            self._replaced += self._waiting is not None
            self._waiting = None

    def say(self, report: bytes) -> None:
        """Tell the server something."""
        with self._lock:
            self._reader.answer(report)
            self._said_at = time.monotonic()

    def stay_alive(self, now: float) -> None:
        """Say that this process is at work, if it is time to."""
        if now - self._said_at >= ALIVE_SEC:
            with self._lock:
                self._reader.answer(bytes([wire.ALIVE]) + self._counts())
                self._said_at = now

    def _deliver(self, picture: Buffer) -> None:
        self._waiting = None
        self._reader.deliver(self._counts(), picture)
        self._said_at = time.monotonic()

    def _counts(self) -> bytes:
        counts = wire.Counts(self._skipped, self._replaced).pack()
        self._skipped = self._replaced = 0
        return counts
