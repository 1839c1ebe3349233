"""Streams from nowhere, and time that goes on when a test says so, for tests of the hub."""

from collections.abc import Callable
from typing import Any

from frames import Limits
from hub import Ended, FrameHub, Rates, Result, ResultSubscription, Stream, Subscription
from pictures import padded, picture

JPEG = picture(".jpg", 8, 8)
SIZE = 1000
IMAGE = padded(JPEG, SIZE)
IDLE_HZ = 5.0
LIMITS = Limits(max_frame_bytes=5000, max_pixels=1000)


class Clock:
    """Time that goes on when a test says so, and what is to be called later."""

    def __init__(self) -> None:
        self.now = 100.0
        self._later: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Callable[[], object]) -> Callable[[], None]:
        call = (self.now + seconds, function)
        self._later.append(call)
        return lambda: self._later.remove(call) if call in self._later else None

    def go_on(self, seconds: float) -> None:
        """Let time pass, and call what is due on the way, each at its time."""
        end = self.now + seconds
        while self._later and min(at for at, _ in self._later) <= end:
            call = min(self._later, key=lambda call: call[0])
            self._later.remove(call)
            self.now = max(self.now, call[0])
            call[1]()
        self.now = end

    @property
    def calls(self) -> int:
        """How many are yet to come."""
        return len(self._later)


class Recorder:
    """A `Sender` that keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.rates: list[float] = []
        self.errors: list[tuple[str, str]] = []
        self.closed: list[str] = []

    def result(self, result: Result) -> None:
        self.results.append(result)

    def rate(self, rate_hz: float) -> None:
        self.rates.append(rate_hz)

    def error(self, code: str, message: str) -> None:
        self.errors.append((code, message))

    def close(self, reason: str) -> None:
        self.closed.append(reason)


def open_stream(hub: FrameHub, name: str = "Alice", rate_hz: float = 0, **more: Any) -> Stream:
    return hub.open_stream(
        name, name, "socketio", more.pop("sender", Recorder()), LIMITS, Rates(rate_hz, IDLE_HZ), **more
    )


def offer(stream: Stream, count: int = 1, image: bytes = IMAGE) -> None:
    for _ in range(count):
        assert stream.offer(image) is None


def taken(subscription: Subscription, now: float | None = None) -> list[tuple[str, int | str]]:
    """Everything that can be taken now: stream names with numbers of frames, or "ended"."""
    items: list[tuple[str, int | str]] = []
    while (item := subscription.take(now)) is not None:
        items.append((item.stream.name, "ended" if isinstance(item, Ended) else item.seq))
    return items


def make_hub(clock: Clock) -> FrameHub:
    return FrameHub(clock, call_later=clock.call_later)


def make_result(stream: Stream, value: Any = "something", plugin: str = "faces", seq: int = 1) -> Result:
    return Result(stream, seq, plugin, value, "onResult", 1000.0, 1000.5)


def counts(subscription: Subscription | ResultSubscription) -> tuple[int, int, int, int]:
    return subscription.published, subscription.taken, subscription.dropped, subscription.waiting
