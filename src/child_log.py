"""What a child prints, on its way to the server's standard error.

A child writes into a pipe, which the loop reads. So a child that prints more than anybody can read neither fills a
disk nor waits for long, and where nobody reads the server's standard error, neither of them stands still.

Rule 1. The loop waits for nobody: what cannot be written now is left out.
Rule 2. What is left out is counted and said, at most once a second.
Rule 3. A line that is no longer than `PIECE_BYTES` is passed on whole or not at all.
"""

import logging
import os
import select
import time

# The C functions themselves: those that eventlet puts into `os` wait on the loop.
from posix import read, write
from typing import Final

import green

logger = logging.getLogger(__name__)

#: What is passed on of a child in a second: ten times what tracebacks of some plug-ins take, which come once a second,
#: and 5 GB a day at worst.
BYTES_PER_SEC: Final = 64 << 10
#: Written at once: so much a pipe takes without waiting if it takes anything.
PIECE_BYTES: Final = select.PIPE_BUF
#: Read at once: what a pipe holds. Then others have their turn.
READ_BYTES: Final = 64 << 10
#: While a child prints more than it may, it is read so often: it can still print 13 MB a second, and takes a hundredth
#: of the loop's time.
PAUSE_SEC: Final = 0.005
#: At the end, so much is read of what is still in the pipe: a process that the child has started may go on for ever.
MAX_READS_AT_CLOSE: Final = 16

_STANDARD_ERROR: Final = 2


class ChildLog:
    """Takes what one child process prints.

    Args:
        name: the child's, for the log.

    Attributes:
        writing_end: for the child's standard error.
        left_out: how many bytes were not passed on.
    """

    def __init__(self, name: str) -> None:
        self.left_out = 0
        self._name = name
        self._reading_end, self.writing_end = os.pipe()
        os.set_blocking(self._reading_end, False)
        self._line = b""  # the beginning of one
        self._budget = BYTES_PER_SEC
        self._since = time.monotonic()
        self._unsaid = 0  # bytes that were left out; while there are any, all is left out
        self._last_words = b""  # the end of them
        self._stop_reading = _nothing
        self._stop_waiting = _nothing

    def close_child_end(self) -> None:
        """Give up the child's end once it has inherited it, or the pipe would never end. Harmless when done."""
        if self.writing_end >= 0:
            os.close(self.writing_end)
            self.writing_end = -1

    def start(self) -> None:
        """Pass on what comes from now on."""
        self._stop_reading = green.on_readable(self._reading_end, self._read)

    def close(self) -> None:
        """Pass on what has come; of what was left out, the last words, for they say what ended a child.

        Harmless when it is closed.
        """
        self.close_child_end()
        if self._reading_end < 0:
            return
        self._stop_reading()
        self._stop_waiting()
        for _ in range(MAX_READS_AT_CLOSE):
            if not (data := self._receive()):
                break
            self._take(data)
        self._stop_waiting()  # it may just have begun
        os.close(self._reading_end)
        self._reading_end = -1
        line, self._line = self._line, b""
        self._pass_on(line)
        self._stop_waiting()
        if self._unsaid:
            last_words = self._last_words
            if len(last_words) < self._unsaid:
                last_words = last_words[last_words.find(b"\n") + 1 :]
            self._say(self._unsaid - len(last_words))
            if _write(last_words):
                self.left_out -= len(last_words)

    def _read(self) -> None:
        data = self._receive()
        if data is None:
            return
        if data:
            self._take(data)
        if not data or self._unsaid:
            self._stop_reading()
        if data and self._unsaid:
            self._stop_reading = green.call_later(PAUSE_SEC, self.start)

    def _receive(self) -> bytes | None:
        """What has come; empty when nobody is left who could print, None when there is nothing now."""
        try:
            return read(self._reading_end, READ_BYTES)
        except BlockingIOError:
            return None

    def _take(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._unsaid and now - self._since >= 1.0:
            self._renew(now)
        whole, line_break, self._line = (self._line + data).rpartition(b"\n")
        if len(self._line) > PIECE_BYTES:
            data, self._line = whole + line_break + self._line, b""
        else:
            data = whole + line_break
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        begin = 0
        while begin < len(data) and not self._unsaid:
            end = begin + PIECE_BYTES
            if end < len(data):
                end = data.rfind(b"\n", begin, end) + 1 or end
            piece = data[begin:end]
            if len(piece) > self._budget or not _write(piece):
                break
            self._budget -= len(piece)
            begin = end
        if begin < len(data):
            self._leave_out(data[begin:])

    def _leave_out(self, data: bytes) -> None:
        if not self._unsaid:
            self._stop_waiting = green.call_later(self._since + 1.0 - time.monotonic(), self._go_on)
        self._unsaid += len(data)
        self.left_out += len(data)
        self._last_words = (self._last_words + data)[-PIECE_BYTES:]

    def _go_on(self) -> None:
        """There is budget again."""
        self._renew(time.monotonic())
        if not _is_writable():
            self._stop_waiting = green.call_later(1.0, self._go_on)
            return
        self._say(self._unsaid)
        self._unsaid = 0
        self._last_words = b""

    def _renew(self, now: float) -> None:
        self._budget = BYTES_PER_SEC
        self._since = now

    def _say(self, count: int) -> None:
        if count and _is_writable():
            logger.warning("%s: %d bytes of what it printed are left out", self._name, count)


def _nothing() -> None:
    """What there is to stop before anything has begun."""


def _is_writable() -> bool:
    """Whether standard error takes `PIECE_BYTES` without waiting."""
    return green.is_writable(_STANDARD_ERROR)


def _write(piece: bytes) -> bool:
    """Write at most `PIECE_BYTES` to standard error, if that does not wait; returns whether all was."""
    try:
        return _is_writable() and write(_STANDARD_ERROR, piece) == len(piece)
    except OSError:
        return False  # nobody is there any more
