"""Ends the worker when a plug-in takes longer than it may, or more memory than there is for it.

The plug-in's own code cannot be stopped from within its process, so the process ends, and the server starts another.
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from processing.log import SAY_SEC, Log

#: How often it looks: a deadline is noticed so much later, and a leak of 1 GB a second has grown by 250 MB.
LOOK_SEC: Final = 0.25

#: What the process ends with.
TOO_LATE: Final = 3
TOO_LARGE: Final = 4


class _Call(NamedTuple):
    what: str
    deadline_sec: float


class Watchdog:
    """Watches the one call that is under way, from a thread.

    Code that runs for long without letting other threads run, as C code may, keeps the watchdog from looking too; the
    server sees to that.

    Args:
        memory_bytes: what the process may have in memory; 0 for all there is.
        log: where it says why it ends the process.
    """

    def __init__(self, memory_bytes: int, log: Log) -> None:
        self._memory_bytes = memory_bytes
        self._log = log
        self._call: _Call | None = None

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str, deadline_sec: float) -> Iterator[None]:
        """Within, `deadline_sec` may pass.

        Args:
            what: names the call, for the log.
        """
        self._call = _Call(what, deadline_sec)
        try:
            yield
        finally:
            self._call = None

    def _watch(self) -> None:
        seen: _Call | None = None
        spent_sec = 0.0
        looked_at = time.monotonic()
        while True:
            time.sleep(LOOK_SEC)
            now = time.monotonic()
            # Only time in which this process ran counts: after Ctrl-Z and fg it has slept.
            elapsed, looked_at = min(now - looked_at, 2 * LOOK_SEC), now
            call = self._call
            spent_sec = spent_sec + elapsed if call is seen else 0.0
            seen = call
            if call is not None and spent_sec >= call.deadline_sec:
                self._end(TOO_LATE, f"{call.what} took more than its {call.deadline_sec:g} s")
            if self._memory_bytes and (resident := resident_bytes()) > self._memory_bytes:
                self._end(
                    TOO_LARGE,
                    f"{resident >> 20} MiB of memory are taken, at most {self._memory_bytes >> 20} MiB may be"
                    + (f"; at work was {call.what}" if call is not None else ""),
                )

    def _end(self, status: int, why: str) -> None:
        """Say why, and end the process, whatever becomes of what is said."""
        try:
            with suppress(RuntimeError):  # no thread is to be had
                # A plug-in may fill a log that nobody reads between a look for room in it and the write.
                threading.Thread(target=_end_soon, args=(status,), name="watchdog's end", daemon=True).start()
            self._log.say(f"processing: {why}: this worker ends\n")
            if status == TOO_LATE:
                self._log.say_where()
        finally:
            os._exit(status)


def _end_soon(status: int) -> None:
    time.sleep(3 * SAY_SEC)
    os._exit(status)


def resident_bytes() -> int:
    """What this process has in memory now; where the system does not say so, the most that it ever had."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
