"""The guard against guessing: how many wrong passwords an address, and an account, may try.

Law 1. In any second at most `LIMIT` guesses fail per address and per account; those under way count as failed until
       they turn out right, so guesses in parallel gain nothing.
Law 2. Whether a guess is checked never depends on whether it is right, nor on whether its name exists.
Law 3. A flood does not lock the true user out. It cannot be told by its address, which may be the flood's own, but
       by patience: it comes back with the same password, while a flood comes with ever new ones, or with one that
       has been found wrong. So a part of the limit is kept, while there are more guesses than it admits, for
       credentials that were turned away unchecked a moment ago and have not been wrong since.
"""

import ipaddress
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

K = TypeVar("K", str, bytes)

LIMIT: Final = 10
WINDOW_SEC: Final = 1.0
#: How much of the limit a flood cannot use up.
KEPT: Final = 3
#: When credentials that were turned away may use it: no sooner and no later.
PATIENCE_SEC: Final = (0.5, 60.0)
#: For how long after guesses were turned away that part is kept.
PRESSED_SEC: Final = 30.0
#: Bounds of what is remembered. The first is the largest, as turning away costs nothing; 10 MB at most in all.
MAX_TURNED_AWAY: Final = 32_768
MAX_WRONG: Final = 8_192
MAX_KEYS: Final = 8_192


class Guess(NamedTuple):
    """One attempt to log in.

    Args:
        address, account: what it counts against, see `address_key`.
        credentials: a keyed digest of name and password.
    """

    address: str
    account: str
    credentials: bytes

    @property
    def keys(self) -> tuple[str, str]:
        return f"address {self.address}", f"account {self.account}"  # an account may be named like an address


class GuessStore(Protocol):
    """Counts failed guesses. Several servers that share their users share one."""

    def add(self, key: str, now: float) -> None: ...

    def count(self, key: str, now: float) -> int:
        """How many were added for this key within the last `WINDOW_SEC`."""


class MemoryGuessStore:
    """The failed guesses of one server."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, key: str, now: float) -> None:
        self._times.setdefault(key, deque(maxlen=LIMIT)).append(now)
        self._times.move_to_end(key)
        while len(self._times) > MAX_KEYS or next(iter(self._times.values()))[-1] <= now - WINDOW_SEC:
            self._times.popitem(last=False)

    def count(self, key: str, now: float) -> int:
        return sum(at > now - WINDOW_SEC for at in self._times.get(key, ()))


class _Times(Generic[K]):
    """When something last happened to each of many; the oldest are forgotten first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._times: OrderedDict[K, float] = OrderedDict()

    def get(self, key: K) -> float:
        return self._times.get(key, -math.inf)

    def set(self, key: K, now: float) -> None:
        self._times[key] = now
        self._times.move_to_end(key)
        if len(self._times) > self._bound:
            self._times.popitem(last=False)


class Guard:
    """Says which guesses are checked. Never waits; belongs to one thread."""

    def __init__(self, store: GuessStore | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store if store is not None else MemoryGuessStore()
        self.clock = clock
        self._under_way: Counter[str] = Counter()
        self._pressed = _Times[str](MAX_KEYS)
        self._turned_away = _Times[bytes](MAX_TURNED_AWAY)
        self._wrong = _Times[bytes](MAX_WRONG)

    def admits(self, guess: Guess) -> bool:
        """Whether this guess may be checked now."""
        now = self.clock()
        patient = self._is_patient(guess, now)
        for key in guess.keys:
            kept = 0 if patient or now - self._pressed.get(key) > PRESSED_SEC else KEPT
            if self._store.count(key, now) + self._under_way[key] >= LIMIT - kept:
                self._pressed.set(key, now)
                if now - self._turned_away.get(guess.credentials) > PATIENCE_SEC[1]:
                    self._turned_away.set(guess.credentials, now)
                return False
        return True

    @contextmanager
    def under_way(self, guess: Guess) -> Iterator[None]:
        """Count a guess while it is being checked."""
        self._under_way.update(guess.keys)
        try:
            yield
        finally:
            for key in guess.keys:
                self._under_way[key] -= 1
                if not self._under_way[key]:
                    del self._under_way[key]

    def was_wrong(self, guess: Guess) -> None:
        """Count a guess that was checked and failed."""
        now = self.clock()
        self._wrong.set(guess.credentials, now)
        for key in guess.keys:
            self._store.add(key, now)

    def wrong_at(self, guess: Guess) -> float:
        """When the same credentials were last found wrong, on the guard's clock; -inf if never."""
        return self._wrong.get(guess.credentials)

    def _is_patient(self, guess: Guess, now: float) -> bool:
        soonest, latest = PATIENCE_SEC
        waited = now - self._turned_away.get(guess.credentials)
        return soonest <= waited <= latest and now - self._wrong.get(guess.credentials) > latest


def address_key(address: str) -> str:
    """What an address counts as: IPv6 by its first 64 bits (a subscriber has all below), mapped IPv4 as IPv4."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
        ip = ip.ipv4_mapped
    return str(ip)
