"""Threads that inflate images while the loop goes on, and who has them next.

`green.offload` does the same for what takes a tenth of a second; an image takes a millisecond or less, and to hand it
over and back that way would take half of one.

An image takes as long as its sender likes: 8 KB of gzip may be 8 MB. So clients share the threads by time, not by
numbers of images ("self-clocked fair queueing", Golestani, 1994), and those of whom an image has been good before come
before those who are new.
"""

import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from green import on_readable

logger = logging.getLogger(__name__)

#: The loop has a core for itself. More than eight would wait for what the loop hands them.
THREADS: Final = min(max(1, (os.cpu_count() or 1) - 1), 8)
#: Of the jobs that do not wait for anybody any more, so many are more than there are threads: none of these waits for
#: the loop.
AHEAD: Final = 1
#: While both wait, so many jobs of clients who are known are done for each of those who are new: a crowd of them takes
#: a quarter of the threads.
KNOWN_FOR_A_NEW: Final = 3
#: So many of the threads' wakes are taken at once.
WAKES: Final = 64


class Share:
    """What a client has had of the threads.

    Attributes:
        known: an image of it has been good.
        took_sec: what its last job took, as its next one may.
        until: its time, as far as it has been used up; see `Inflater`.
    """

    __slots__ = ("known", "took_sec", "until")

    def __init__(self) -> None:
        self.known = False
        self.took_sec = 0.0
        self.until = 0.0


class _Job(NamedTuple):
    end: float
    number: int  # no two are the same, so what follows is never compared
    start: float
    share: Share
    work: Callable[[], Any]
    done: Callable[[Any], object]


class Inflater:
    """Does jobs in threads, which begin with the first one and end with the process.

    The time of the whole goes on with the jobs: it is the latest start of one that was begun. A client's next job
    starts at that time, or where its own last one has ended if that is later. Whose job will end first comes next.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._numbers = itertools.count()
        self._time = 0.0
        self._known: list[_Job] = []  # those that wait, as heaps
        self._new: list[_Job] = []
        self._known_in_a_row = 0
        self._begun = 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._done: deque[tuple[_Job, Any, float]] = deque()
        self._wake_fd = -1  # the loop looks for what is done when something can be read at its other end

    def run(self, share: Share, work: Callable[[], Any], done: Callable[[Any], object]) -> None:
        """Do a client's work in a thread, and then call `done` on the loop with what it returned, or the exception that
        it raised. Never waits, and neither may `done`."""
        start = max(share.until, self._time)
        job = _Job(start + share.took_sec, next(self._numbers), start, share, work, done)
        if self._begun < self._threads + AHEAD:
            self._begin(job)
        else:
            heapq.heappush(self._known if share.known else self._new, job)

    def _begin(self, job: _Job) -> None:
        if self._wake_fd < 0:
            self._start()
        self._begun += 1
        self._time = max(self._time, job.start)
        self._jobs.put(job)

    def _next(self) -> _Job:
        if self._known and (not self._new or self._known_in_a_row < KNOWN_FOR_A_NEW):
            self._known_in_a_row += 1
            return heapq.heappop(self._known)
        self._known_in_a_row = 0
        return heapq.heappop(self._new)

    def _finish(self, read_fd: int) -> None:
        os.readv(read_fd, [bytearray(WAKES)])  # os.read would wait first, as eventlet has it
        while self._done:
            job, outcome, took_sec = self._done.popleft()
            job.share.took_sec = took_sec
            job.share.until = job.start + took_sec
            try:
                job.done(outcome)  # it may have more to do, and be the next
            except Exception:
                logger.exception("what was inflated could not be used")
            self._begun -= 1
            if self._known or self._new:
                self._begin(self._next())

    # -- in threads

    def _start(self) -> None:
        read_fd, self._wake_fd = os.pipe()
        on_readable(read_fd, lambda: self._finish(read_fd))
        for number in range(self._threads):
            threading.Thread(target=self._work, name=f"inflater {number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            began = time.perf_counter()
            try:
                outcome = job.work()
            except Exception as error:
                outcome = error.with_traceback(None)  # which would hold what the job worked on
            self._done.append((job, outcome, time.perf_counter() - began))
            del job, outcome
            os.writev(self._wake_fd, [b"\0"])
