"""What tells the server to end: SIGTERM, Ctrl-C, a terminal that closes. It is the first thing that the server sets up,
so it imports next to nothing.

Rule 1. From the first line on, whichever comes and however often, the process ends with status 0.
Rule 2. While there is nothing to end (`leave_when_told`), it ends at once. Afterwards (`StopRequest`) the handler only
        takes note, for a signal comes in the middle of anything, also of the loop itself.
Rule 3. Whatever the loop hangs in meanwhile, a log that nobody reads for example: after `LAST_RESORT_SEC` it is over,
        and what was not told, closed or ended by then is left to the system.
"""

import os
import signal
from types import FrameType
from typing import Final

#: Of the 3 s that a stop may take: when all that was begun in it has ended, or will not end any more.
LAST_RESORT_SEC: Final = 2.7
_LAST_WORDS: Final = b"ImageServer.py: not everything ended in time, the rest is left as it is\n"
_write = os.write  # before eventlet puts its own in its place, which waits on the loop
#: SIGTERM is the last one, and so tells from outside that all of them are caught.
_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def leave_when_told() -> None:
    """Let the process end at once, with status 0, when it is told to; for as long as nothing has begun."""
    _catch(_leave)


class StopRequest:
    """Whether the process has been told to end; from its making on the signals do nothing but set it.

    Attributes:
        came: it has. Looked at by whoever can end things in order, within `LAST_RESORT_SEC`.
    """

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGALRM, _give_up)
        _catch(self._take_note)

    def _take_note(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            signal.setitimer(signal.ITIMER_REAL, LAST_RESORT_SEC)


def _catch(handler: "signal._HANDLER") -> None:
    for number in _SIGNALS:
        # What `nohup` has made of it stays. Ctrl-C is caught even where a shell that put us into the background had it
        # ignored.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    try:
        blocking = os.get_blocking(2)
        os.set_blocking(2, False)  # or this might wait too
        try:
            _write(2, _LAST_WORDS)
        finally:
            os.set_blocking(2, blocking)  # others write there too
    except OSError:
        pass
    os._exit(0)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)
