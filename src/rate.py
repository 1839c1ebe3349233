"""How often: a bucket that says which frames come too fast, a meter that says how fast they come, how many are wanted,
gates for what is said."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Final, NamedTuple, Self


class TokenBucket:
    """Lets through `rate_hz` frames a second on average, and one second's worth at once.

    A burst of a second is what a phone sends after its network stood still; more than that is a client out of hand.

    Args:
        rate_hz: frames a second; 0 lets everything through.
        now: the clock's time in seconds, as given to `take`.
    """

    __slots__ = ("_capacity", "_filled_at", "_tokens", "rate_hz")

    def __init__(self, rate_hz: float, now: float) -> None:
        self.rate_hz = rate_hz
        self._capacity = max(rate_hz, 1.0)  # below 1 Hz a single frame must still fit
        self._tokens = self._capacity
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take a token for a frame that came now; False when there is none left."""
        if not self.rate_hz:
            return True
        tokens = self._tokens + (now - self._filled_at) * self.rate_hz
        self._filled_at = now
        if tokens > self._capacity:  # half the cost of min(), on every frame's way
            tokens = self._capacity
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


class RateMeter:
    """Events a second over the last full second or more; 0 once nothing has come for `IDLE_SEC`."""

    #: Streams below 1 Hz would flicker between their rate and 0 with less.
    IDLE_SEC = 5.0

    __slots__ = ("_count", "_last", "_rate_hz", "_since")

    def __init__(self, now: float) -> None:
        self._since = self._last = now
        self._count = 0
        self._rate_hz = 0.0

    def count(self, now: float) -> None:
        """Something came now."""
        self._count += 1
        self._last = now
        elapsed = now - self._since
        if elapsed >= 1.0:
            self._rate_hz = self._count / elapsed
            self._since = now
            self._count = 0

    def rate_hz(self, now: float) -> float:
        return 0.0 if now - self._last > self.IDLE_SEC else self._rate_hz


class OncePerSecond:
    """Lets a thing be said once a second per cause, however often it happens.

    Args:
        max_keys: so many causes are told apart; beyond them the oldest are forgotten, and may be said again too soon.
    """

    __slots__ = ("_last", "_max_keys")

    def __init__(self, max_keys: int = 64) -> None:
        self._last: dict[str, float] = {}
        self._max_keys = max_keys

    def allows(self, key: str, now: float) -> bool:
        if key in self._last and now - self._last[key] < 1.0:
            return False
        self._last.pop(key, None)
        self._last[key] = now
        if len(self._last) > self._max_keys:
            del self._last[next(iter(self._last))]
        return True


class InSum:
    """Lets a log line be written once a second per cause and so often in all, and counts what was not written.

    Args:
        lines_per_sec: of all causes together, for clients may bring new causes as fast as they like.
        now: the clock's time in seconds, as given to `count`.
    """

    __slots__ = ("_all", "_once", "_unwritten")

    def __init__(self, lines_per_sec: float, now: float) -> None:
        self._once = OncePerSecond(max_keys=1_000)
        self._all = TokenBucket(lines_per_sec, now)
        self._unwritten = 0

    def count(self, cause: str, now: float) -> str | None:
        """Something happened now; returns what ends its line, the number that had none, or None if it has none."""
        if not self._once.allows(cause, now) or not self._all.take(now):
            self._unwritten += 1
            return None
        unwritten, self._unwritten = self._unwritten, 0
        return f" (lines left out before: {unwritten})" if unwritten else ""


class Rates(NamedTuple):
    """How many frames a second a stream may and shall send.

    Args:
        limit_hz: the set rate: what exceeds it is refused; 0 for no limit.
        idle_hz: what is wanted while nobody wishes for frames; 0 for none.
    """

    limit_hz: float
    idle_hz: float


#: The wanted rate falls when it has been too high for so long: a page that is loaded again, or a child that is started
#: again, is back within that time, and the cameras need not know.
LOWER_AFTER_SEC: Final = 5.0
#: A client is told of the wanted rate no more often: it cannot do anything with more, and messages cost more than
#: frames.
TOLD_EVERY_SEC: Final = 1.0
#: What is told to a client that may send as fast as it can, after it had been told of less: a number has to be told,
#: and no camera is faster than that.
NO_LIMIT_HZ: Final = 1_000.0

#: Calls a function after so many seconds; returns what cancels it. Such as green.call_later.
CallLater = Callable[[float, Callable[[], object]], Callable[[], None]]


class WantedRate:
    """How many frames a second the server would like of a stream: the largest wish, within the limit and the cap.

    A larger wish counts at once. A smaller one counts when there was no larger one for `LOWER_AFTER_SEC`; a limit and a
    cap are orders, and count at once. What changes is told, at most every `TOLD_EVERY_SEC`, the newest always in the
    end.

    Args:
        cap_hz: more than that is not wanted, whatever the wishes are; None for no cap.
        wishes: Hz each; None is as many as there are, 0 is no wish at all.
        changed: called with each change of `hz`.
        tell: called with what the client is to be told: each change, and the first value when `tell_first` is called.

    Attributes:
        hz: the wanted rate; None for as many as there are.
    """

    __slots__ = (
        "_aim", "_call_later", "_cancel_lower", "_cancel_tell", "_cap", "_changed", "_clock", "_highest", "_idle",
        "_limit", "_tell", "_told", "_told_at", "_wish", "hz",
    )  # fmt: skip

    def __init__(
        self,
        rates: Rates,
        cap_hz: float | None,
        wishes: Iterable[float | None],
        clock: Callable[[], float],
        call_later: CallLater,
        changed: Callable[[float | None], object],
        tell: Callable[[float], object],
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._changed = changed
        self._tell: Callable[[float], object] | None = tell
        self._limit = rates.limit_hz or inf
        self._idle = rates.idle_hz
        self._cap = _or_endless(cap_hz)
        self._aim = self._wish = self._highest = self._largest(wishes)
        self._cancel_lower: Callable[[], None] | None = None
        self._cancel_tell: Callable[[], None] | None = None
        self.hz = self._now_wanted()
        self._told = self.hz
        self._told_at = -inf

    def wishes(self, wishes: Iterable[float | None]) -> None:
        """These are the wishes from now on."""
        aim = self._aim = self._largest(wishes)
        if aim >= self._wish:
            self._stop_lowering()
            self._wish = aim
            self._update()
        elif self._cancel_lower is None:
            self._lower_later()
        elif aim > self._highest:
            self._highest = aim

    def cap(self, hz: float | None) -> None:
        """More than that is not wanted from now on; None removes the cap."""
        self._cap = _or_endless(hz)
        self._update()

    def tell_first(self, former: Self | None = None) -> None:
        """Tell the client for the first time. Of no limit it need not be told, unless it has been told of less.

        Args:
            former: of the stream that the client sent before: what it has been told then it knows, and when.
        """
        if self._told_at == -inf:
            self._told = None if former is None else former._told
            self._told_at = -inf if former is None else former._told_at
            self._tell_soon()

    def stop(self) -> None:
        """Follow the wishes no more, and tell nothing more."""
        self._tell = None
        self._stop_lowering()
        if self._cancel_tell is not None:
            self._cancel_tell()
            self._cancel_tell = None

    def _largest(self, wishes: Iterable[float | None]) -> float:
        return max((_or_endless(hz) for hz in wishes if hz != 0), default=self._idle)

    def _now_wanted(self) -> float | None:
        hz = float(min(self._limit, self._cap, self._wish))
        return None if hz == inf else hz

    def _lower_later(self) -> None:
        self._highest = self._aim
        self._cancel_lower = self._call_later(LOWER_AFTER_SEC, self._lower)

    def _lower(self) -> None:
        self._cancel_lower = None
        self._wish = self._highest  # the largest wish of the time that is over
        if self._aim < self._wish:
            self._lower_later()
        self._update()

    def _stop_lowering(self) -> None:
        if self._cancel_lower is not None:
            self._cancel_lower()
            self._cancel_lower = None

    def _update(self) -> None:
        hz = self._now_wanted()
        if hz != self.hz:
            self.hz = hz
            self._changed(hz)
            self._tell_soon()

    def _tell_soon(self) -> None:
        if self._tell is not None and self._cancel_tell is None and self.hz != self._told:
            early_sec = self._told_at + TOLD_EVERY_SEC - self._clock()
            if early_sec <= 0:
                self._tell_now()
            else:
                self._cancel_tell = self._call_later(early_sec, self._tell_now)

    def _tell_now(self) -> None:
        self._cancel_tell = None
        if self._tell is not None and self.hz != self._told:
            self._told = self.hz
            self._told_at = self._clock()
            self._tell(NO_LIMIT_HZ if self.hz is None else self.hz)


def _or_endless(hz: float | None) -> float:
    return inf if hz is None else hz
