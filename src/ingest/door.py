"""The door: every gateway's clients log in, open streams and are limited here, and nowhere else."""

import itertools
import logging
import time
from collections.abc import Mapping
from typing import Final, Protocol

from auth.login import Authenticator
from auth.sessions import Sessions
from frames import Limits
from hub import FrameHub, Sender, Stream
from ingest.camera_users import CameraUsers
from rate import InSum, Rates

logger = logging.getLogger(__name__)

#: The log follows each user's coming and going, a line a second. When more come and go than anybody can read, the rest
#: is counted: what a client makes the server write must not fill its disk.
LIFE_LINES_PER_SEC: Final = 20


class StreamNames(Protocol):
    """Gives out the names of live streams. Several servers behind one address share one that talks to the others."""

    def claim(self, wanted: str) -> str:
        """`wanted`, or `wanted~2`, `wanted~3`, …: the lowest that is free. May wait."""

    def release(self, name: str) -> None:
        """The stream of this name has ended; never waits."""

    def claim_user(self, via: str) -> str:
        """A user for a camera that has none: `tcp-1`, `tcp-2`, …: the lowest that is free. May wait."""

    def release_user(self, user: str) -> None:
        """That camera has gone; never waits."""


class LocalStreamNames:
    """The names of one server's streams."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._users: set[str] = set()

    def claim(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}~{number}"
        self._taken.add(name)
        return name

    def release(self, name: str) -> None:
        self._taken.discard(name)

    def claim_user(self, via: str) -> str:
        user = next(user for number in itertools.count(1) if (user := f"{via}-{number}") not in self._users)
        self._users.add(user)
        return user

    def release_user(self, user: str) -> None:
        self._users.discard(user)


class Door:
    """One login, one set of limits, one way to open a stream.

    Args:
        rates: how many frames a second a stream may and shall send.
        user_limits_hz: users' own limits in place of that one, of each of their streams; 0 for none.
        camera_users: whose cameras are those that cannot log in.
        strangers: whether cameras that are nobody's may send; they get users of their own.
    """

    def __init__(
        self,
        hub: FrameHub,
        authenticator: Authenticator,
        sessions: Sessions,
        names: StreamNames,
        limits: Limits,
        rates: Rates,
        user_limits_hz: Mapping[str, float],
        camera_users: CameraUsers,
        strangers: bool,
    ) -> None:
        self._hub = hub
        self._authenticator = authenticator
        self._sessions = sessions
        self._names = names
        self._limits = limits
        self._rates = rates
        self._user_limits_hz = user_limits_hz
        self._camera_users = camera_users
        self._strangers = strangers
        self._ends = InSum(LIFE_LINES_PER_SEC, time.monotonic())

    def log_in(self, name: object, password: object, address: str) -> str:
        """Check a name and a password and return the user's name. Waits: for a hash, a database, a place in the queue.

        Raises:
            auth.login.LoginRefused: they do not fit, or could not be checked.
            auth.login.TooManyGuesses: not checked, because too many were wrong lately.
        """
        return self._authenticator.login(name, password, address).name

    def log_in_with_token(self, token: object) -> str:
        """Check a token that the server gave out and return its user's name. Waits.

        Raises:
            auth.login.LoginRefused: it is not one of ours, or no longer valid, or good for looking only.
        """
        return self._sessions.log_in(token).user

    def user_of_camera(self, address: str, camera: int | None = None) -> str | None:
        """Whose camera this is that cannot log in; None where nobody has said so."""
        return self._camera_users.user_of(address, camera)

    def claim_user(self, via: str, listed: bool = False) -> str | None:
        """A user of its own for a camera that is nobody's, until `release_user`; None where such are not let in. May
        wait.

        Args:
            listed: the operator has listed the camera, so it is let in everywhere.
        """
        return self._names.claim_user(via) if self._strangers or listed else None

    def release_user(self, user: str) -> None:
        """That camera has gone; never waits. Harmless for a user that was not claimed."""
        self._names.release_user(user)

    def open_stream(self, user: str, via: str, sender: Sender, seq: int = 0, name: str | None = None) -> Stream:
        """Begin a stream of this user. May wait, so the connection may be gone afterwards: look again.

        Args:
            via: `socketio`, `tcp` or `pull`.
            seq: how many frames this connection has offered before.
            name: the stream's, if it is not to be the user's; a number is appended to either where it is taken.
        """
        rates = self._rates._replace(limit_hz=self._user_limits_hz.get(user, self._rates.limit_hz))
        name = self._names.claim(name or user)
        return self._hub.open_stream(name, user, via, sender, self._limits, rates, seq)

    def end_stream(self, stream: Stream) -> None:
        """Say goodbye for a connection that has gone. Harmless when the stream has ended; never waits."""
        if stream.live:
            stream.end()
            self._names.release(stream.name)
            if (left_out := self._ends.count(stream.user, time.monotonic())) is not None:
                refused = ", ".join(f"{count} × {code}" for code, count in sorted(stream.refused.items())) or "none"
                logger.info("%s ended after %d frames, refused: %s%s", stream.name, stream.frames, refused, left_out)
