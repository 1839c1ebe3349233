"""The middle of the way of a frame: gateways open streams and offer images, consumers subscribe and take frames.

Rule 1. `offer`, `publish`, `take` and everything a `Sender` does never wait, take no lock and switch no greenlet.
Rule 2. The hub knows neither gateways nor consumers: a gateway gives a `Sender` with its stream, a consumer sets
        `ready`.
Rule 3. A subscription is the buffer. It is bounded, it says what it drops when it is full, and it counts:
        published = taken + dropped + waiting, at any moment.
Rule 4. `Ended(stream)` comes after the stream's last frame, to everybody who subscribed to it, and is not dropped,
        unless a consumer takes nothing any more: beyond `ENDED_WAITING_MAX` ends the oldest goes with its frames.
"""

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from frames import Frame, ImageCheck, InvalidFrame, Limits, ReadJpeg, too_many_bytes
from rate import RateMeter, TokenBucket

#: Ended streams stay listed this long, so that a page can say that a camera has gone, and not merely miss it.
ENDED_LISTED_SEC: Final = 600.0
#: At most so many of them: a client that logs in and out all day must not fill the memory with its past.
ENDED_LISTED_MAX: Final = 1_000
#: So many ended streams may wait in a subscription. A consumer that takes anything is never that far behind; one that
#: is being restarted for days must not keep the last frame of everybody who ever came.
ENDED_WAITING_MAX: Final = 1_000


class Refusal(NamedTuple):
    """Why a frame was not accepted: one of the codes of docs/protocol.md, and a sentence for a person."""

    code: str
    message: str


class Ended(NamedTuple):
    """The last thing that a subscription hands out of a stream."""

    stream: "Stream"


class Result(NamedTuple):
    """What a plug-in says of a frame: `value` is JSON data, or an image as bytes."""

    frame: Frame
    plugin: str
    value: Any


class Sender(Protocol):
    """The way back to the client, given by the gateway that opens a stream.

    It never waits, and it dies with the connection: afterwards its calls do nothing.
    """

    def result(self, result: Result) -> None:
        """Send a plug-in's result to the client that sent the frame, and to no other."""

    def rate(self, rate_hz: float) -> None:
        """Tell the client the rate that the server wants."""

    def close(self, reason: str) -> None:
        """End the connection; the reason goes to the log."""


class Stream:
    """The frames of one camera from its login to its goodbye.

    Attributes:
        id: never used again.
        name: what people and consumers call it; may return when the camera does.
        user: whose it is.
        via: the gateway: `socketio`, `tcp` or `pull`.
        seq: the number of the newest frame offered, refused ones counted; the first is 1.
        latest: the newest frame accepted, None before the first and after the end.
        refused: frames refused, by code.
        dropped: frames that consumers had no room for, by consumer.
    """

    __slots__ = (
        "_admitted_at", "_bucket", "_check", "_clock", "_hub", "_max_bytes", "_meter", "_sender", "_subscriptions",
        "bytes", "dropped", "ended_at", "frames", "id", "info", "latest", "latest_at", "name", "opened_at", "refused",
        "seq", "user", "via",
    )  # fmt: skip

    def __init__(
        self,
        hub: "FrameHub",
        name: str,
        user: str,
        via: str,
        sender: Sender,
        limits: Limits,
        rate_hz: float,
        seq: int = 0,
    ) -> None:
        self._hub = hub
        self._clock = hub.clock
        now = self._clock()
        self._sender: Sender | None = sender
        self._check = ImageCheck(limits, hub.read_jpeg)
        self._max_bytes = limits.max_frame_bytes
        self._admitted_at = now  # the image that is being received
        self._bucket = TokenBucket(rate_hz, now)
        self._meter = RateMeter(now)
        self._subscriptions: tuple[Subscription, ...] = ()
        self.id = next(hub.ids)
        self.name = name
        self.user = user
        self.via = via
        self.seq = seq
        self.opened_at = time.time()
        self.ended_at: float | None = None
        self.latest: Frame | None = None
        self.latest_at: float | None = None
        self.info: Any = None
        self.frames = 0
        self.bytes = 0
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def offer(self, image: bytes | bytearray | memoryview, reply_to: object = None) -> Refusal | None:
        """Number an image, check it, and publish it as a frame.

        Args:
            image: the bytes as the client sent them; kept, so they must not change afterwards.
            reply_to: handed back with the frame's results; means something to its gateway only.

        Returns:
            None when the frame is accepted, else why it is not.
        """
        refusal = self.admit(len(image))
        return self.publish(image, reply_to) if refusal is None else self.refuse(refusal)

    def admit(self, size: int) -> Refusal | None:
        """Whether an image of so many bytes may come now, or why not; asked once for each, before it is received.

        What was admitted goes to `publish` when it has come, what was not to `refuse`; only there is it numbered.
        """
        if self.ended_at is not None:
            return Refusal("not_logged_in", f"the stream {self.name} has ended")
        now = self._admitted_at = self._clock()
        if not self._bucket.take(now):
            return Refusal("rate", f"more than {self._bucket.rate_hz:g} frames a second")
        if size > self._max_bytes:
            return Refusal("too_many_bytes", too_many_bytes(size, self._max_bytes))
        return None

    def publish(self, image: bytes | bytearray | memoryview, reply_to: object = None) -> Refusal | None:
        """Number an image that was admitted, check its header, and publish it; arguments and answer as of `offer`."""
        try:
            info = self._check(image)
        except InvalidFrame as error:
            return self.refuse(Refusal(error.code, str(error)))
        self.seq += 1
        received_at = time.time()
        frame = Frame(image, info, self, self.seq, received_at, reply_to)
        self.frames += 1
        self.bytes += len(image)
        self.info = info
        self.latest = frame
        self.latest_at = received_at
        self._meter.count(self._admitted_at)
        for subscription in self._subscriptions:
            subscription.put(self, frame)
        return None

    def refuse(self, refusal: Refusal) -> Refusal:
        """Number and count an image that is refused, here or by its gateway."""
        self.seq += 1
        self.refused[refusal.code] += 1
        return refusal

    def answer(self, result: Result) -> None:
        """Send a plug-in's result back to where its frame came from."""
        if self._sender is not None:
            self._sender.result(result)

    def disconnect(self, reason: str) -> None:
        """End the connection that the stream comes over, and the stream with it."""
        if self._sender is not None:
            self._sender.close(reason)

    def end(self) -> None:
        """Say goodbye: consumers are told, the stream stays listed for a while. Harmless when it has ended."""
        if self.ended_at is None:
            self.ended_at = time.time()
            self.latest = None
            self._sender = None  # the stream stays listed, and its connection shall not
            self._hub.remove(self)
            for subscription in self._subscriptions:
                subscription.put_ended(self)
            self._subscriptions = ()

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def wanted_hz(self) -> float | None:
        """The rate that the server wants of this stream in Hz; None when it has no wish."""
        return self._bucket.rate_hz or None

    @property
    def rate_hz(self) -> float:
        """Accepted frames a second, lately."""
        return self._meter.rate_hz(self._clock()) if self.ended_at is None else 0.0

    def attach(self, subscription: "Subscription") -> None:
        self._subscriptions = (*self._subscriptions, subscription)

    def detach(self, subscription: "Subscription") -> None:
        self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)


class Policy(Enum):
    """What a subscription keeps of a stream when its consumer is slower than the frames come."""

    LATEST = "latest"
    """The newest frame of each stream: windows, walls, plug-ins."""

    QUEUE = "queue"
    """All frames in order, up to a bound, then the oldest go: recorders, plug-ins that want windows of frames."""


class Subscription:
    """What a consumer has yet to take: the buffer between the hub and one consumer.

    Attributes:
        consumer: whose it is, as counted in `Stream.dropped` and shown in the metrics.
        ready: called when the subscription turns from empty to not empty; it may not wait.
        published, taken, dropped: frames since the beginning.
    """

    def __init__(self, hub: "FrameHub", consumer: str, names: frozenset[str] | None, rate_hz: float | None) -> None:
        self._hub = hub
        self._names = names
        self._interval_sec = 1 / rate_hz if rate_hz else 0.0
        self._due: dict[Stream, float] = {}
        self._ended: dict[Stream, None] = {}  # streams that have ended and whose end was not taken, oldest first
        self.consumer = consumer
        self.rate_hz = rate_hz
        self.ready: Callable[[], object] = _nobody_waits
        self.published = 0
        self.taken = 0
        self.dropped = 0

    def wants(self, stream: Stream) -> bool:
        return self._names is None or stream.name in self._names

    def put(self, stream: Stream, frame: Frame) -> None:
        """Called by the stream, in the course of `offer`."""
        raise NotImplementedError

    def put_ended(self, stream: Stream) -> None:
        """Called by the stream, once, after its last frame."""
        was_empty = next(self._turns(), None) is None
        self._ended[stream] = None
        self._add_turn(stream)
        if len(self._ended) > ENDED_WAITING_MAX:
            self._forget(next(iter(self._ended)))
        if was_empty:
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
            self._due.pop(stream, None)
            return item
        self.taken += 1
        if self._interval_sec:
            assert now is not None
            self._due[stream] = now + self._interval_sec
        return item

    def due_in(self, now: float | None = None) -> float | None:
        """Seconds until `take` has something to give; None when nothing waits."""
        due_at = min((self._due_at(stream) for stream in self._turns()), default=None)
        return None if due_at is None else max(0.0, due_at - (self._hub.clock() if now is None else now))

    def close(self) -> None:
        """Take nothing more; what waits counts as dropped. Harmless when it is closed."""
        self._hub.unsubscribe(self)
        for stream in list(self._turns()):
            self._forget(stream)

    @property
    def waiting(self) -> int:
        """Frames that wait to be taken."""
        raise NotImplementedError

    def _due_at(self, stream: Stream) -> float:
        return self._due.get(stream, 0.0) if self._has_frame(stream) else 0.0

    def _turns(self) -> Iterator[Stream]:
        """The streams that have something waiting, the one whose turn it is first."""
        raise NotImplementedError

    def _has_frame(self, stream: Stream) -> bool:
        raise NotImplementedError

    def _next_of(self, stream: Stream) -> Frame | Ended:
        """Remove the next thing of this stream; if more waits, its next turn comes after the other streams'."""
        raise NotImplementedError

    def _add_turn(self, stream: Stream) -> None:
        """Give a stream that has ended a turn, if it has none."""
        raise NotImplementedError

    def _remove_frames(self, stream: Stream) -> int:
        """Take away a stream's turn and the frames that wait in it; returns how many there were."""
        raise NotImplementedError

    def _forget(self, stream: Stream) -> None:
        for _ in range(self._remove_frames(stream)):
            self._count_dropped(stream)
        self._due.pop(stream, None)
        self._ended.pop(stream, None)

    def _count_dropped(self, stream: Stream) -> None:
        self.dropped += 1
        stream.dropped[self.consumer] += 1


def _nobody_waits() -> None:
    """`ready` of a subscription whose consumer only looks when it likes to."""


class LatestSubscription(Subscription):
    """One slot a stream; a newer frame takes the place, and the turn, of one that was not taken."""

    def __init__(self, hub: "FrameHub", consumer: str, names: frozenset[str] | None, rate_hz: float | None) -> None:
        super().__init__(hub, consumer, names, rate_hz)
        self._slots: dict[Stream, Frame | None] = {}  # None: the stream has ended, and its last frame was taken

    def put(self, stream: Stream, frame: Frame) -> None:
        self.published += 1
        slots = self._slots
        if stream in slots:
            slots[stream] = frame
            self.dropped += 1
            stream.dropped[self.consumer] += 1
        else:
            slots[stream] = frame
            if len(slots) == 1:
                self.ready()

    @property
    def waiting(self) -> int:
        return sum(frame is not None for frame in self._slots.values())

    def _turns(self) -> Iterator[Stream]:
        return iter(self._slots)

    def _has_frame(self, stream: Stream) -> bool:
        return self._slots[stream] is not None

    def _next_of(self, stream: Stream) -> Frame | Ended:
        frame = self._slots.pop(stream)
        if frame is None:
            del self._ended[stream]
            return Ended(stream)
        if stream in self._ended:
            self._slots[stream] = None
        return frame

    def _add_turn(self, stream: Stream) -> None:
        self._slots.setdefault(stream, None)

    def _remove_frames(self, stream: Stream) -> int:
        return int(self._slots.pop(stream) is not None)


class QueueSubscription(Subscription):
    """Frames in order, at most `max_frames` a stream and `max_bytes` in all.

    When a stream has too many, its oldest goes; when all together are too large, the oldest of the stream that holds
    the most bytes: who overflows pays, and a quiet camera keeps its frames beside one that floods.
    """

    def __init__(
        self,
        hub: "FrameHub",
        consumer: str,
        names: frozenset[str] | None,
        rate_hz: float | None,
        max_frames: int,
        max_bytes: int,
    ) -> None:
        super().__init__(hub, consumer, names, rate_hz)
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._queues: dict[Stream, deque[Frame]] = {}
        self._bytes_of: Counter[Stream] = Counter()
        self._bytes = 0

    def put(self, stream: Stream, frame: Frame) -> None:
        self.published += 1
        was_empty = not self._queues
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = deque()
        queue.append(frame)
        self._bytes += len(frame.image)
        self._bytes_of[stream] += len(frame.image)
        if len(queue) > self._max_frames:
            self._drop_oldest(stream)
        while self._bytes > self._max_bytes and self.waiting > 1:
            self._drop_oldest(max(self._bytes_of, key=self._bytes_of.__getitem__))
        if was_empty:
            self.ready()

    @property
    def waiting(self) -> int:
        return self.published - self.taken - self.dropped

    def _turns(self) -> Iterator[Stream]:
        return iter(self._queues)

    def _has_frame(self, stream: Stream) -> bool:
        return bool(self._queues[stream])

    def _next_of(self, stream: Stream) -> Frame | Ended:
        queue = self._queues.pop(stream)
        if not queue:
            del self._ended[stream]
            return Ended(stream)
        frame = queue.popleft()
        self._forget_bytes(stream, frame)
        if queue or stream in self._ended:
            self._queues[stream] = queue
        return frame

    def _drop_oldest(self, stream: Stream) -> None:
        queue = self._queues[stream]
        self._forget_bytes(stream, queue.popleft())
        self._count_dropped(stream)
        if not queue and stream not in self._ended:
            del self._queues[stream]

    def _forget_bytes(self, stream: Stream, frame: Frame) -> None:
        self._bytes -= len(frame.image)
        self._bytes_of[stream] -= len(frame.image)
        if not self._bytes_of[stream]:
            del self._bytes_of[stream]

    def _add_turn(self, stream: Stream) -> None:
        self._queues.setdefault(stream, deque())

    def _remove_frames(self, stream: Stream) -> int:
        self._bytes -= self._bytes_of.pop(stream, 0)
        return len(self._queues.pop(stream))


class Totals(NamedTuple):
    """Sums over all streams that there ever were."""

    streams: int
    frames: int
    bytes: int
    refused: Counter[str]
    dropped: Counter[str]


class FrameHub:
    """Knows which streams there are and who subscribed to what.

    Args:
        clock: seconds that never go back; given by tests.
        read_jpeg: as for `ImageCheck`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, read_jpeg: ReadJpeg | None = None) -> None:
        self.clock = clock
        self.read_jpeg = read_jpeg
        self.ids = itertools.count(1)
        self._live: dict[int, Stream] = {}
        self._ended: deque[Stream] = deque()
        self._past = Totals(0, 0, 0, Counter(), Counter())
        self._subscriptions: list[Subscription] = []

    def open_stream(
        self, name: str, user: str, via: str, sender: Sender, limits: Limits, rate_hz: float, seq: int = 0
    ) -> Stream:
        """Begin a stream; whoever subscribed to its name or to all gets its frames. Only the door calls this."""
        stream = Stream(self, name, user, via, sender, limits, rate_hz, seq)
        self._live[stream.id] = stream
        for subscription in self._subscriptions:
            if subscription.wants(stream):
                stream.attach(subscription)
        return stream

    def subscribe(
        self,
        consumer: str,
        names: str | Iterable[str] = "*",
        policy: Policy = Policy.LATEST,
        *,
        max_frames: int = 100,
        max_bytes: int = 64 << 20,
        rate_hz: float | None = None,
    ) -> Subscription:
        """Get the frames of streams, by name, also of those that do not exist yet.

        Args:
            names: stream names, or `*` for all.
            max_frames, max_bytes: bounds of `QUEUE`: frames of one stream, bytes in all. `LATEST` holds one frame a
                stream.
            rate_hz: hand out at most so many frames a second of each stream.
        """
        wanted = None if names == "*" else frozenset([names] if isinstance(names, str) else names)
        subscription: Subscription
        if policy is Policy.LATEST:
            subscription = LatestSubscription(self, consumer, wanted, rate_hz)
        else:
            subscription = QueueSubscription(self, consumer, wanted, rate_hz, max_frames, max_bytes)
        self._subscriptions.append(subscription)
        for stream in self._live.values():
            if subscription.wants(stream):
                stream.attach(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Called by `Subscription.close`."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            for stream in self._live.values():
                stream.detach(subscription)

    def remove(self, stream: Stream) -> None:
        """Called by `Stream.end`."""
        del self._live[stream.id]
        self._ended.append(stream)
        self._forget_old()

    def live_streams(self) -> list[Stream]:
        return list(self._live.values())

    def listed_streams(self) -> list[Stream]:
        """The live ones and those that ended in the last ten minutes, oldest first."""
        self._forget_old()
        return [*self._ended, *self._live.values()]

    def subscriptions(self) -> list[Subscription]:
        return list(self._subscriptions)

    def totals(self) -> Totals:
        """What all streams have counted since the start."""
        return _sum(self._past, [*self._ended, *self._live.values()])

    def _forget_old(self) -> None:
        oldest = time.time() - ENDED_LISTED_SEC
        while self._ended and (len(self._ended) > ENDED_LISTED_MAX or (self._ended[0].ended_at or 0.0) < oldest):
            self._past = _sum(self._past, [self._ended.popleft()])


def _sum(totals: Totals, streams: list[Stream]) -> Totals:
    refused, dropped = Counter(totals.refused), Counter(totals.dropped)
    for stream in streams:
        refused.update(stream.refused)
        dropped.update(stream.dropped)
    return Totals(
        totals.streams + len(streams),
        totals.frames + sum(stream.frames for stream in streams),
        totals.bytes + sum(stream.bytes for stream in streams),
        refused,
        dropped,
    )
