"""How often: a bucket that says which frames come too fast, a meter that says how fast they come, gates for what is
said."""


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
