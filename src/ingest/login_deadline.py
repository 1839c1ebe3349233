"""Until when a Socket.IO client must have logged in, however often it joins, leaves and guesses meanwhile."""

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from engine.server import LEAVE_SEC
from green import call_later

#: A client logs in within this time, or its connection is cut.
LOGIN_SEC: Final = 10.0
#: While a login is being checked it is not cut, and looked at again after this.
CHECKING_SEC: Final = 0.2
#: Where it is kept: in the request of the client's session, which outlives what the client joins and leaves.
KEY: Final = "imageserver.login_deadline"


class Guest(Protocol):
    """A client that has joined, and may not be logged in."""

    logging_in: bool

    def close(self, reason: str) -> None:
        """Tell it to leave."""


class Session(Protocol):
    """A client's Engine.IO session."""

    closed: bool

    def drop(self) -> None:
        """End it."""


class LoginDeadline:
    """That of one session. It begins when the client first joins.

    Attributes:
        guest: what is joined now; None when nothing is.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.guest: Guest | None = None
        self._cancel: Callable[[], None] = lambda: None
        self.renew()

    @classmethod
    def of(cls, environ: dict[str, Any], session: Session) -> "LoginDeadline":
        """The one of the session that this request began."""
        deadline = environ.get(KEY)
        if deadline is None:
            deadline = environ[KEY] = cls(session)
        return deadline

    def renew(self) -> None:
        """Begin anew: a client that was logged in has left."""
        self._leaving = False  # it has been told to
        self._at = time.monotonic() + LOGIN_SEC
        self._schedule(f"no login within {LOGIN_SEC:g} s")

    def shorten(self, within_sec: float, why: str) -> None:
        """It is over within this time, if not sooner."""
        if self._leaving:
            return
        self._at = min(self._at, time.monotonic() + within_sec)
        self._schedule(why)

    def cancel(self) -> None:
        """The client has logged in, or has gone."""
        self._cancel()

    def _schedule(self, why: str) -> None:
        self._cancel()
        if not self.session.closed:
            self._cancel = call_later(max(self._at - time.monotonic(), 0), lambda: self._cut(why))

    def _cut(self, why: str) -> None:
        if self.guest is None:
            self.session.drop()
        elif self.guest.logging_in:
            self._cancel = call_later(CHECKING_SEC, lambda: self._cut(why))
        else:
            self._leaving = True
            self.guest.close(why)
            self._cancel = call_later(LEAVE_SEC, self.session.drop)
