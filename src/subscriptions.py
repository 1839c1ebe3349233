"""The buffers between the hub and its consumers: what each has yet to take, bounded, and what it drops when it is full.

Rule 1. `put` and `take` never wait, take no lock and switch no greenlet.
Rule 2. published = taken + dropped + waiting, at any moment.
Rule 3. `Ended(stream)` comes after the stream's last frame, to everybody who subscribed to it, and is not dropped,
        unless a consumer takes nothing any more: beyond `ENDED_WAITING_MAX` ends the oldest goes with its frames.
Rule 4. A window is so many frames of a stream that were put one after the other: what goes is a whole window, or one
        whose first frames the consumer throws away because it is given a first frame again.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from enum import Enum
from math import inf
from typing import Any, Final, NamedTuple, Protocol, cast

from frames import Frame, Source

#: So many ended streams may wait in a subscription. A consumer that takes anything is never that far behind; one that
#: is being restarted for days must not keep the last frame of everybody who ever came.
ENDED_WAITING_MAX: Final = 1_000
#: A frame may come so much sooner than the rate of windows says, in parts of the time between two, for networks are
#: not punctual.
EARLY: Final = 0.1


class Counted(Source, Protocol):
    """A stream as its buffers know it.

    Attributes:
        dropped: frames that consumers had no room for, by consumer.
    """

    dropped: Counter[str]


class Home(Protocol):
    """The hub as its buffers know it."""

    @property
    def clock(self) -> Callable[[], float]: ...
    def unsubscribe(self, subscription: Any) -> None: ...
    def wish_changed(self, subscription: Any) -> None: ...


class Ended(NamedTuple):
    """The last thing that a subscription hands out of a stream, the hub's `Stream`."""

    stream: Any


class Policy(Enum):
    """What a subscription keeps of a stream when its consumer is slower than the frames come."""

    LATEST = "latest"
    """The newest frame of each stream: windows, walls, plug-ins."""

    QUEUE = "queue"
    """All frames in order, up to a bound, then the oldest go: recorders, plug-ins that want windows of frames."""


class Order(NamedTuple):
    """What a consumer asked for.

    Args:
        consumer: its name.
        names: of the streams; None for all.
        rate_hz: hand out at most so many frames a second of each stream; None for all.
        wish_hz: frames a second that it would like of each stream; None for as many as come, 0 for no wish.
        condition: a further condition, which a stream fulfils or not when it begins.
    """

    consumer: str
    names: frozenset[str] | None = None
    rate_hz: float | None = None
    wish_hz: float | None = None
    condition: Callable[[Any], bool] | None = None


class Subscription:
    """What a consumer has yet to take: the buffer between the hub and one consumer.

    Attributes:
        consumer: whose it is, as counted in `Stream.dropped` and shown in the metrics.
        ready: called when the subscription turns from empty to not empty, with a rate also when what has come may be
            due before what waits; it may not wait.
        wish_hz: frames a second that the consumer would like of each stream; None for as many as come, 0 for no wish.
        published, taken, dropped: frames since the beginning.
        skipped: frames that came sooner than windows want them; they were not published here.
        position: of the frame that was handed out last in its window, from 0; 0 where there are no windows.
    """

    def __init__(self, hub: Home, order: Order) -> None:
        self._hub = hub
        self._order = order
        self._interval_sec = 1 / order.rate_hz if order.rate_hz else 0.0
        self._due: dict[Counted, float] = {}
        self._ended: dict[Counted, None] = {}  # streams that have ended and whose end was not taken, oldest first
        self.consumer = order.consumer
        self.rate_hz = order.rate_hz
        self.wish_hz = order.wish_hz
        self.ready: Callable[[], object] = _nobody_waits
        self.published = 0
        self.taken = 0
        self.dropped = 0
        self.skipped = 0
        self.position = 0

    def wants(self, stream: Counted) -> bool:
        """Whether its frames are to come here; asked once, when the stream or the subscription begins."""
        names, condition = self._order.names, self._order.condition
        return (names is None or stream.name in names) and (condition is None or condition(stream))

    def wish(self, hz: float | None) -> None:
        """Like so many frames a second of each stream from now on; None for as many as come, 0 for no wish."""
        if hz != self.wish_hz:
            self.wish_hz = hz
            self._hub.wish_changed(self)

    def put(self, stream: Counted, frame: Frame) -> None:
        """Called by the stream, in the course of `offer`."""
        raise NotImplementedError

    def put_ended(self, stream: Counted) -> None:
        """Called by the stream, once, after its last frame."""
        was_empty = next(self._turns(), None) is None
        self._ended[stream] = None
        self._add_turn(stream)
        if len(self._ended) > ENDED_WAITING_MAX:
            self._forget(next(iter(self._ended)))
        if was_empty or self._interval_sec:
            self.ready()

    def take(self, now: float | None = None) -> Frame | Ended | None:
        """The next frame or end of a stream, streams in turn; None when there is nothing, or nothing due yet.

        With `rate_hz`, frames of a stream are handed out at least 1/rate_hz seconds apart; an end is handed out at
        once.
        """
        if not self._interval_sec:
            stream = next(self._turns(), None)
        else:
            now = self._hub.clock() if now is None else now
            stream = next((stream for stream in self._turns() if self._due_at(stream) <= now), None)
        if stream is None:
            return None
        item = self._next_of(stream)
        if isinstance(item, Ended):
            self._forget_times(stream)
            return item
        self.taken += 1
        if self._interval_sec:
            assert now is not None
            self._due[stream] = now + self._interval_sec
        return item

    def take_same(self, frame: Frame, now: float | None = None) -> bool:
        """Take this very frame, if it is the next one of its stream here and is due; False when it is not.

        So a consumer of several subscriptions is given a frame once for all of them.
        """
        stream = cast(Counted, frame.stream)
        if self._next_frame(stream) is not frame:
            return False
        if self._interval_sec:
            now = self._hub.clock() if now is None else now
            if self._due.get(stream, 0.0) > now:
                return False
            self._due[stream] = now + self._interval_sec
        self._next_of(stream)
        self.taken += 1
        return True

    def restart_windows(self) -> None:
        """Begin a new window of each stream: what the consumer had of the ones under way is lost, so their rest is
        dropped. Does nothing where there are no windows."""

    def due_in(self, now: float | None = None) -> float | None:
        """Seconds until `take` has something to give; None when nothing waits."""
        due_at = min((self._due_at(stream) for stream in self._turns()), default=None)
        return None if due_at is None else max(0.0, due_at - (self._hub.clock() if now is None else now))

    def close(self) -> None:
        """Take nothing more; what waits counts as dropped. Harmless when it is closed."""
        self._hub.unsubscribe(self)
        for stream in list(self._turns()):
            self._forget(stream)
        self._due.clear()

    @property
    def waiting(self) -> int:
        """Frames that wait to be taken."""
        raise NotImplementedError

    def _due_at(self, stream: Counted) -> float:
        return self._due.get(stream, 0.0) if self._has_frame(stream) else 0.0

    def _turns(self) -> Iterator[Counted]:
        """The streams that have something waiting, the one whose turn it is first."""
        raise NotImplementedError

    def _has_frame(self, stream: Counted) -> bool:
        raise NotImplementedError

    def _next_frame(self, stream: Counted) -> Frame | None:
        """The frame of this stream that is handed out next, if there is one."""
        raise NotImplementedError

    def _next_of(self, stream: Counted) -> Frame | Ended:
        """Remove the next thing of this stream; if more waits, its next turn comes after the other streams'."""
        raise NotImplementedError

    def _add_turn(self, stream: Counted) -> None:
        """Give a stream that has ended a turn, if it has none."""
        raise NotImplementedError

    def _remove_frames(self, stream: Counted) -> int:
        """Take away a stream's turn and the frames that wait in it; returns how many there were."""
        raise NotImplementedError

    def _forget(self, stream: Counted) -> None:
        for _ in range(self._remove_frames(stream)):
            self._count_dropped(stream)
        self._ended.pop(stream, None)
        self._forget_times(stream)

    def _forget_times(self, stream: Counted) -> None:
        """Forget what is kept of a stream beside its frames."""
        self._due.pop(stream, None)

    def _count_dropped(self, stream: Counted) -> None:
        self.dropped += 1
        stream.dropped[self.consumer] += 1


def _nobody_waits() -> None:
    """`ready` of a subscription whose consumer only looks when it likes to."""


class LatestSubscription(Subscription):
    """One slot a stream; a newer frame takes the place, and the turn, of one that was not taken."""

    def __init__(self, hub: Home, order: Order) -> None:
        super().__init__(hub, order)
        self._slots: dict[Counted, Frame | None] = {}  # None: the stream has ended, and its last frame was taken

    def put(self, stream: Counted, frame: Frame) -> None:
        self.published += 1
        slots = self._slots
        if stream in slots:
            slots[stream] = frame
            self.dropped += 1
            stream.dropped[self.consumer] += 1
        else:
            slots[stream] = frame
            if len(slots) == 1 or self._interval_sec:  # what waits already may not be due
                self.ready()

    @property
    def waiting(self) -> int:
        return sum(frame is not None for frame in self._slots.values())

    def _turns(self) -> Iterator[Counted]:
        return iter(self._slots)

    def _has_frame(self, stream: Counted) -> bool:
        return self._slots[stream] is not None

    def _next_frame(self, stream: Counted) -> Frame | None:
        return self._slots.get(stream)

    def _next_of(self, stream: Counted) -> Frame | Ended:
        frame = self._slots.pop(stream)
        if frame is None:
            del self._ended[stream]
            return Ended(stream)
        if stream in self._ended:
            self._slots[stream] = None
        return frame

    def _add_turn(self, stream: Counted) -> None:
        self._slots.setdefault(stream, None)

    def _remove_frames(self, stream: Counted) -> int:
        return int(self._slots.pop(stream) is not None)


class QueueSubscription(Subscription):
    """Frames in order, at most `max_frames` a stream and `max_bytes` in all.

    When a stream has too many, its oldest goes; when all together are too large, the oldest of the stream that holds
    the most bytes: who overflows pays, and a quiet camera keeps its frames beside one that floods.
    """

    def __init__(self, hub: Home, order: Order, max_frames: int, max_bytes: int) -> None:
        super().__init__(hub, order)
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._queues: dict[Counted, deque[Frame]] = {}
        self._bytes_of: Counter[Counted] = Counter()
        self._bytes = 0

    def put(self, stream: Counted, frame: Frame) -> None:
        self.published += 1
        was_empty = not self._queues
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = deque()
        queue.append(frame)
        self._bytes += len(frame.image)
        self._bytes_of[stream] += len(frame.image)
        if len(queue) > self._max_frames:
            self._make_room(stream)
        while self._bytes > self._max_bytes and self.waiting > 1:
            self._make_room(max(self._bytes_of, key=self._bytes_of.__getitem__))
        if was_empty or self._interval_sec:
            self.ready()

    @property
    def waiting(self) -> int:
        return self.published - self.taken - self.dropped

    def _turns(self) -> Iterator[Counted]:
        return iter(self._queues)

    def _has_frame(self, stream: Counted) -> bool:
        return bool(self._queues[stream])

    def _next_frame(self, stream: Counted) -> Frame | None:
        queue = self._queues.get(stream)
        return queue[0] if queue else None

    def _next_of(self, stream: Counted) -> Frame | Ended:
        queue = self._queues.pop(stream)
        if not queue:
            del self._ended[stream]
            return Ended(stream)
        frame = queue.popleft()
        self._forget_bytes(stream, frame)
        if queue or stream in self._ended:
            self._queues[stream] = queue
        return frame

    def _make_room(self, stream: Counted) -> None:
        """Drop something of a stream that holds too much."""
        queue = self._queues[stream]
        self._forget_bytes(stream, queue.popleft())
        self._count_dropped(stream)
        if not queue and stream not in self._ended:
            del self._queues[stream]

    def _forget_bytes(self, stream: Counted, frame: Frame) -> None:
        self._bytes -= len(frame.image)
        self._bytes_of[stream] -= len(frame.image)
        if not self._bytes_of[stream]:
            del self._bytes_of[stream]

    def _add_turn(self, stream: Counted) -> None:
        self._queues.setdefault(stream, deque())

    def _remove_frames(self, stream: Counted) -> int:
        self._bytes -= self._bytes_of.pop(stream, 0)
        return len(self._queues.pop(stream))


class WindowSubscription(QueueSubscription):
    """Frames in order for a consumer that takes so many at once, a window: each frame belongs to one window, and a
    window has no hole.

    With a rate, frames are put no more often, so that a window spans the time that it is meant to, and are handed out
    at once. When there is too much, the oldest window goes of which nothing has been handed out, whole; if there is
    none but the bytes are too many, the beginning of one goes, and the next frame begins it; and if there is nothing
    but the rest of the window under way, this goes, and the next frame is a first one again.

    Args:
        max_frames: at least two windows.
    """

    def __init__(self, hub: Home, order: Order, max_frames: int, max_bytes: int, window: int) -> None:
        if max_frames < 2 * window:
            raise ValueError(f"{max_frames} frames at most, expected at least two windows of {window}")
        super().__init__(hub, order, max_frames, max_bytes)
        self._interval_sec = 0.0
        self._apart_sec = 1 / order.rate_hz if order.rate_hz else 0.0
        self._window = window
        self._handed: dict[Counted, int] = {}  # how many of the window under way were handed out
        self._wanted_at: dict[Counted, float] = {}  # the next frame

    def put(self, stream: Counted, frame: Frame) -> None:
        if self._apart_sec:
            now, wanted_at = self._hub.clock(), self._wanted_at.get(stream, -inf)
            if now < wanted_at - EARLY * self._apart_sec:
                self.skipped += 1
                return
            # By a schedule, not from frame to frame: of 6 frames a second 5 are taken, and not every other one.
            due_at = wanted_at if now - wanted_at < self._apart_sec else now
            self._wanted_at[stream] = due_at + self._apart_sec
        super().put(stream, frame)

    def restart_windows(self) -> None:
        for stream, handed in list(self._handed.items()):
            waiting = len(self._queues.get(stream, ()))
            if handed and waiting:
                self._drop(stream, 0, min(waiting, self._window - handed))
        self._handed.clear()

    def close(self) -> None:
        super().close()
        self._handed.clear()
        self._wanted_at.clear()

    def _next_of(self, stream: Counted) -> Frame | Ended:
        item = super()._next_of(stream)
        if isinstance(item, Frame):
            self.position = self._handed.get(stream, 0)
            self._handed[stream] = (self.position + 1) % self._window
        return item

    def _make_room(self, stream: Counted) -> None:
        waiting = len(self._queues[stream])
        rest = -self._handed.get(stream, 0) % self._window  # of the window under way, also if it has yet to come
        if waiting > rest:
            self._drop(stream, rest, min(waiting, rest + self._window))
        else:
            self._drop(stream, 0, waiting)
            self._handed[stream] = 0

    def _forget_times(self, stream: Counted) -> None:
        super()._forget_times(stream)
        self._handed.pop(stream, None)
        self._wanted_at.pop(stream, None)

    def _drop(self, stream: Counted, begin: int, end: int) -> None:
        """Drop some of the frames that wait, by their places in the queue."""
        queue = self._queues[stream]
        queue.rotate(-begin)
        for _ in range(begin, end):
            self._forget_bytes(stream, queue.popleft())
            self._count_dropped(stream)
        queue.rotate(begin)
        if not queue and stream not in self._ended:
            del self._queues[stream]
