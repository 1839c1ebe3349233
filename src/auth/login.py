"""Checks a name and a password: through the guard, off the loop, and once for all who send the same at the same time.

Rule 1. An attempt whose address or account has others in line stands in line too. Otherwise a guess that needs no
        hash would overtake the wrong ones of the same burst, before the guard has heard of those.
Rule 2. A hash is computed by at most `PLACES` at once; all others wait in line, for `DEADLINE_SEC` at most. Addresses
        take turns, each with its attempts in the order in which they came: however many one sends, the others wait
        for one of each address.
Rule 3. A name that does not exist costs what an existing one does, in the same steps: its password is compared with
        the hash of another account, a decoy, and is wrong whatever comes of that.
Rule 4. Nothing is remembered that lets anybody in without the account being looked up: a changed password counts at
        once, also when another process changed it.
"""

import hashlib
import logging
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NamedTuple, ParamSpec, Protocol, TypeVar

from auth.accounts import Account, Users, UsersError, UsersUnavailable
from auth.decoys import Decoys
from auth.guard import Guard, Guess, address_key
from auth.names import valid_password, valid_username
from auth.passwords import check_password
from green import Overloaded
from rate import OncePerSecond

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: As long as a job may wait for a thread: 500 users who log in for the first time at once take 12 s, on a busy machine
#: twice that, and all of them are right.
DEADLINE_SEC: Final = 30.0
#: As many as there are threads for passwords: more would only move the line to where nobody minds its order.
PLACES: Final = 2
#: Whoever comes when so many wait is told to come again. An address that has nobody in line yet may still join, until
#: there are twice as many.
MAX_IN_LINE: Final = 10_000
#: How long verified credentials are recognised without a hash.
RECOGNISED_SEC: Final = 600.0
MAX_RECOGNISED: Final = 10_000


class LoginRefused(Exception):
    """The name or the password is wrong; nobody is told which."""

    def __init__(self, message: str = "the name or the password is wrong") -> None:
        super().__init__(message)


class LoginUnavailable(LoginRefused):
    """It could not be checked: the accounts are away."""

    def __init__(self) -> None:
        super().__init__("logins cannot be checked at the moment, try again later")


class TooManyGuesses(Exception):
    """It was not checked, because too many were wrong lately or too many wait."""

    #: Worth waiting before the next attempt.
    retry_after_sec: Final = 1

    def __init__(self) -> None:
        super().__init__("too many logins failed lately, or wait: this one was not checked, try again in a few seconds")


class Once(Protocol):
    """Something that happens once, as green.Once."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...
    def wait(self, timeout_sec: float | None = None) -> bool: ...


class Offload(Protocol):
    """Runs a function in a thread while the loop goes on, as green.offload."""

    def __call__(self, purpose: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


class _Recognised(NamedTuple):
    password_hash: str
    until: float


class Authenticator:
    """Checks names and passwords. Runs on the loop.

    Args:
        users: None for a server without `-a`, where every valid name and password is right.
        once: makes what an attempt waits for.
    """

    def __init__(
        self,
        users: Users | None,
        guard: Guard,
        offload: Offload,
        once: Callable[[], Once],
    ) -> None:
        self._users = users
        self._guard = guard
        self._offload = offload
        self._once = once
        self._clock = guard.clock
        self._line = _Line(PLACES, once)
        self._in_line: Counter[str] = Counter()
        self._hashing: dict[bytes, Once] = {}
        self._said = OncePerSecond()
        self._recognised: OrderedDict[bytes, _Recognised] = OrderedDict()
        # Only digests of passwords stay in memory, and without the key, which dies with the process, they tell nothing.
        self._key = secrets.token_bytes(32)
        self._decoys = None if users is None else Decoys(users, guard.clock)

    def login(self, name: object, password: object, address: str) -> Account:
        """Check a name and a password. Waits: in line, for a hash, for a database.

        Raises:
            LoginRefused: they do not fit, or (`LoginUnavailable`) could not be checked.
            TooManyGuesses: they were not checked.
        """
        if not valid_username(name) or not valid_password(password):
            raise LoginRefused
        if self._users is None:
            return Account(name)
        guess = Guess(address_key(address), name, self._digest(name, password))
        try:
            return self._login(self._users, guess, password)
        except UsersUnavailable:  # which the store has logged
            raise LoginUnavailable from None
        except Overloaded as error:
            if self._said.allows("overloaded", self._clock()):
                logger.warning("logins are not checked: %s", error)
            raise LoginUnavailable from None

    def _login(self, users: Users, guess: Guess, password: str) -> Account:
        came_at = self._clock()
        if guess.credentials in self._recognised and not any(self._in_line[key] for key in guess.keys):
            # A shortcut past the line, which is long when many log in for the first time, but not past the guard.
            if not self._guard.admits(guess):
                raise TooManyGuesses
            account = self._recognise(guess, self._offload("database", users.find, guess.account))
            if account is not None:
                return account
        with self._place_in_line(guess):
            if not self._guard.admits(guess):
                raise TooManyGuesses
            with self._guard.under_way(guess):
                account = self._check(users, guess, password, came_at)
                if account is None:
                    self._guard.was_wrong(guess)
                    raise LoginRefused
                return account

    def _check(self, users: Users, guess: Guess, password: str, came_at: float) -> Account | None:
        while True:
            account = self._offload("database", users.find, guess.account)
            if self._recognise(guess, account) is not None:
                return account
            if self._guard.wrong_at(guess) > came_at:
                return None  # found out while this one stood in line
            hashing = self._hashing.get(guess.credentials)
            if hashing is None:
                break
            hashing.wait()  # and look again
        hashing = self._hashing[guess.credentials] = self._once()
        try:
            return self._hash(users, guess, password, account)
        finally:
            del self._hashing[guess.credentials]
            hashing.set()

    def _hash(self, users: Users, guess: Guess, password: str, account: Account | None) -> Account | None:
        assert self._decoys is not None
        decoy = self._offload("database", self._decoys.hash_for, guess.account)  # also for a name that exists: rule 3
        known_hash = None if account is None else account.password_hash
        verdict = self._offload("password", check_password, password, known_hash, decoy)
        if account is None or not verdict.right:
            return None
        if verdict.better_hash is not None:
            account = self._upgrade(users, account, verdict.better_hash)
        self._recognised[guess.credentials] = _Recognised(account.password_hash, self._clock() + RECOGNISED_SEC)
        self._recognised.move_to_end(guess.credentials)
        if len(self._recognised) > MAX_RECOGNISED:
            self._recognised.popitem(last=False)
        return account

    def _upgrade(self, users: Users, account: Account, better_hash: str) -> Account:
        try:
            if self._offload("database", users.upgrade_hash, account.name, account.password_hash, better_hash):
                return replace(account, password_hash=better_hash)
        except UsersError as error:
            # A file that may only be read, for example: no reason to keep the user out.
            logger.warning("the password hash of %s stays of an older kind: %s", account.name, error)
        return account

    def _recognise(self, guess: Guess, account: Account | None) -> Account | None:
        """The account, if these credentials were verified lately and its password has not changed since."""
        known = self._recognised.get(guess.credentials)
        if known is None or account is None:
            return None
        if account.password_hash != known.password_hash or self._clock() >= known.until:
            del self._recognised[guess.credentials]
            return None
        return account

    @contextmanager
    def _place_in_line(self, guess: Guess) -> Iterator[None]:
        self._in_line.update(guess.keys)
        try:
            if not self._line.enter(guess.address, DEADLINE_SEC):
                raise TooManyGuesses
            try:
                yield
            finally:
                self._line.leave()
        finally:
            self._in_line.subtract(guess.keys)
            for key in guess.keys:
                if not self._in_line[key]:
                    del self._in_line[key]

    def _digest(self, name: str, password: str) -> bytes:
        # A name holds no NUL, so no other pair gives the same bytes.
        return hashlib.blake2b(f"{name}\0{password}".encode(), key=self._key, digest_size=16).digest()


class _Line:
    """Lets a number in at a time, one of each address in turn."""

    def __init__(self, places: int, once: Callable[[], Once]) -> None:
        self._free = places
        self._once = once
        self._waiting: OrderedDict[str, deque[Once]] = OrderedDict()
        self._length = 0

    def enter(self, address: str, timeout_sec: float) -> bool:
        """Wait for a place; False when the time is over first, or the line is too long."""
        if self._free:  # then nobody waits
            self._free -= 1
            return True
        if self._length >= MAX_IN_LINE and (address in self._waiting or self._length >= 2 * MAX_IN_LINE):
            return False
        turn = self._once()
        self._waiting.setdefault(address, deque()).append(turn)
        self._length += 1
        try:
            if turn.wait(timeout_sec):
                return True
        except BaseException:
            # Its greenlet was killed, maybe in the moment in which it got the place.
            if turn.is_set():
                self.leave()
            else:
                self._give_up(address, turn)
            raise
        self._give_up(address, turn)
        return False

    def leave(self) -> None:
        """Give the place to whoever waits longest of the address that waits longest for its turn."""
        if not self._waiting:
            self._free += 1
            return
        address, turns = self._waiting.popitem(last=False)
        turn = turns.popleft()
        self._length -= 1
        if turns:
            self._waiting[address] = turns  # behind the others
        turn.set()

    def _give_up(self, address: str, turn: Once) -> None:
        turns = self._waiting[address]
        turns.remove(turn)
        self._length -= 1
        if not turns:
            del self._waiting[address]
