"""The guard against guessing: how many wrong passwords an address, and an account, may try.

Law 1. In any second at most `LIMIT` guesses fail per address and per account; those under way count as failed until
       they turn out right, so guesses in parallel gain nothing.
Law 2. Whether a guess is checked never depends on whether it is right, nor on whether its name exists.
Law 3. A flood does not lock the true user out. While there are more guesses than the limit admits, the last places of
       each second are for those who do what a user does and a flood cannot do cheaply:
       - come back with the same credentials. Each return opens one place more, so a flood that sends each of its
         guesses n times leaves a place to whoever comes for the n + 1st time;
       - guess at an account from where nobody guessed wrong at it lately. An account's last places are for those, so
         a flood from elsewhere never has them, unless it comes from very many addresses.
       Nothing tells a user from an imitation at the same address that returns as often: see docs/security.md.
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
#: After guesses were turned away from an address or an account, its places are given out by law 3 for so long.
PRESSED_SEC: Final = 30.0
#: Of the `LIMIT` places, those then open to guesses that come for the first time. Each return opens one more.
OPEN: Final = 3
#: And those of an account that are kept for addresses which have not been wrong at it for `FRESH_SEC`. A flood needs
#: `KEPT_FRESH * FRESH_SEC` addresses to take them all, and a user who mistyped is fresh again within half a minute.
KEPT_FRESH: Final = 3
FRESH_SEC: Final = 25.0
#: When credentials that were turned away return: no sooner (a burst is no return), and no later.
RETURN_SEC: Final = (0.5, 60.0)
#: For how long credentials that were wrong are taken for new ones, however often they come.
WRONG_SEC: Final = 60.0
#: Bounds of what is remembered, 20 MB at most in all. The first is large, as turning away costs nothing; so is the
#: second, as forgetting would make a flood fresh again.
MAX_TURNED_AWAY: Final = 32_768
MAX_PAIRS: Final = 32_768
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

    @property
    def pair(self) -> str:
        """This address at this account."""
        return f"{self.address} {self.account}"  # an address holds no space


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


class _Returns:
    """How often credentials that were turned away came back; the oldest are forgotten first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._last: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def count(self, credentials: bytes, now: float) -> int:
        """How often they have come back, with this time; 0 when they come for the first time."""
        at, returns = self._last.get(credentials, (-math.inf, 0))
        soonest, latest = RETURN_SEC
        return 0 if now - at > latest else returns + (now - at >= soonest)

    def add(self, credentials: bytes, now: float) -> None:
        """They are turned away."""
        at, _ = self._last.get(credentials, (-math.inf, 0))
        if now - at < RETURN_SEC[0]:
            return  # the same burst
        self._last[credentials] = (now, min(self.count(credentials, now), LIMIT))
        self._last.move_to_end(credentials)
        if len(self._last) > self._bound:
            self._last.popitem(last=False)


class Guard:
    """Says which guesses are checked. Never waits; belongs to one thread."""

    def __init__(self, store: GuessStore | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store if store is not None else MemoryGuessStore()
        self.clock = clock
        self._under_way: Counter[str] = Counter()
        self._pressed = _Times[str](MAX_KEYS)
        self._returned = _Returns(MAX_TURNED_AWAY)
        self._wrong = _Times[bytes](MAX_WRONG)
        self._wrong_pairs = _Times[str](MAX_PAIRS)

    def admits(self, guess: Guess) -> bool:
        """Whether this guess may be checked now."""
        now = self.clock()
        new = now - self._wrong.get(guess.credentials) <= WRONG_SEC
        returns = 0 if new else self._returned.count(guess.credentials, now)
        of_address = min(OPEN + returns, LIMIT)
        if self._under_way[guess.pair] or now - self._wrong_pairs.get(guess.pair) <= FRESH_SEC:
            of_account = min(OPEN + returns, LIMIT - KEPT_FRESH)
        else:
            of_account = min(LIMIT - KEPT_FRESH + 1 + returns, LIMIT)
        full = []
        for key, places in zip(guess.keys, (of_address, of_account), strict=True):
            if now - self._pressed.get(key) > PRESSED_SEC:
                places = LIMIT
            if self._store.count(key, now) + self._under_way[key] >= places:
                full.append(key)
        for key in full:
            self._pressed.set(key, now)
        if full and not new:
            self._returned.add(guess.credentials, now)
        return not full

    @contextmanager
    def under_way(self, guess: Guess) -> Iterator[None]:
        """Count a guess while it is being checked."""
        self._under_way.update((*guess.keys, guess.pair))
        try:
            yield
        finally:
            for key in (*guess.keys, guess.pair):
                self._under_way[key] -= 1
                if not self._under_way[key]:
                    del self._under_way[key]

    def was_wrong(self, guess: Guess) -> None:
        """Count a guess that was checked and failed."""
        now = self.clock()
        self._wrong.set(guess.credentials, now)
        self._wrong_pairs.set(guess.pair, now)
        for key in guess.keys:
            self._store.add(key, now)

    def wrong_at(self, guess: Guess) -> float:
        """When the same credentials were last found wrong, on the guard's clock; -inf if never."""
        return self._wrong.get(guess.credentials)


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
