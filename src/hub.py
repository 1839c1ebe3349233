"""The middle of the way of a frame: gateways open streams and offer images, consumers subscribe and take frames.
Results and the wanted rate go the other way.

Rule 1. `offer`, `publish`, `take`, `answer` and everything a `Sender` does never wait, take no lock and switch no
        greenlet.
Rule 2. The hub knows neither gateways nor consumers: a gateway gives a `Sender` with its stream, a consumer sets
        `ready`.
Rule 3. A subscription is the buffer, bounded and counted; its own rules are in subscriptions.py and results.py.
Rule 4. What is wanted of a stream is worked out when a wish, a subscription or a cap changes, never for a frame.
"""

import itertools
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any, Final, NamedTuple, Protocol

import green
from frames import Frame, ImageCheck, InvalidFrame, Limits, ReadJpeg, too_many_bytes
from rate import CallLater, RateMeter, Rates, TokenBucket, WantedRate
from results import MAX_RESULT_BYTES, MAX_RESULTS, Result, ResultSubscription
from subscriptions import (
    ENDED_WAITING_MAX,
    Ended,
    LatestSubscription,
    Order,
    Policy,
    QueueSubscription,
    Subscription,
    WindowSubscription,
)

__all__ = [
    "ENDED_WAITING_MAX", "Ended", "Frame", "FrameHub", "Policy", "Rates", "Refusal", "Result", "ResultSubscription",
    "Sender", "Stream", "Subscription", "Totals",
]  # fmt: skip

#: Ended streams stay listed this long, so that a page can say that a camera has gone, and not merely miss it.
ENDED_LISTED_SEC: Final = 600.0
#: At most so many of them: a client that logs in and out all day must not fill the memory with its past.
ENDED_LISTED_MAX: Final = 1_000
#: Of an ended stream, larger results are not kept: it is listed for minutes, and a picture takes as much as a frame.
KEPT_RESULT_BYTES: Final = 64 * 1024
#: The caps of so many streams' wanted rates are remembered while they are not there; then the oldest is forgotten.
CAPS_MAX: Final = 1_000


class Refusal(NamedTuple):
    """Why a frame was not accepted: one of the codes of docs/protocol.md, and a sentence for a person."""

    code: str
    message: str


class Sender(Protocol):
    """The way back to the client, given by the gateway that opens a stream.

    It never waits, and it dies with the connection: afterwards its calls do nothing. Weak references to it must be
    possible: after its stream's end it is not kept.
    """

    def result(self, result: Result) -> None:
        """Send a plug-in's result to the client that sent the frame, and to no other."""

    def rate(self, rate_hz: float) -> None:
        """Tell the client the rate that the server wants."""

    def error(self, code: str, message: str) -> None:
        """Tell the client what went wrong with its frames; code as in docs/protocol.md."""

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
        latest: the newest frame accepted, None before the first, after the end, and where its memory was needed.
        refused: frames refused, by code.
        dropped: frames that consumers had no room for, by consumer.
        results: what plug-ins have said last, by plug-in.
        limit_hz: frames a second that it may send, with one second's worth at once; 0 for no limit.
        wanted_hz: how many the server would like; advice. None for as many as there are.
    """

    __slots__ = (
        "_admitted_at", "_bucket", "_check", "_clock", "_former_sender", "_hub", "_max_bytes", "_meter", "_sender",
        "_subscriptions", "_wanted", "bytes", "dropped", "ended_at", "frames", "id", "info", "latest", "latest_at",
        "limit_hz", "name", "opened_at", "refused", "results", "seq", "user", "via", "wanted_hz",
    )  # fmt: skip

    def __init__(
        self,
        hub: "FrameHub",
        name: str,
        user: str,
        via: str,
        sender: Sender,
        limits: Limits,
        rates: Rates,
        cap_hz: float | None,
        seq: int,
    ) -> None:
        self._hub = hub
        self._clock = hub.clock
        now = self._clock()
        self._sender: Sender | None = sender
        self._former_sender: Callable[[], Sender | None] = _no_sender
        self._check = ImageCheck(limits, hub.read_jpeg)
        self._max_bytes = limits.max_frame_bytes
        self._admitted_at = now  # the image that is being received
        self._bucket = TokenBucket(rates.limit_hz, now)
        self._meter = RateMeter(now)
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
        self.results: dict[str, Result] = {}
        self.limit_hz = rates.limit_hz
        self.wanted_hz: float | None = None
        self._subscriptions = tuple(subscription for subscription in hub.subscriptions() if subscription.wants(self))
        self._wanted = WantedRate(rates, cap_hz, self._wishes(), hub.clock, hub.call_later, self._want, sender.rate)
        self.wanted_hz = self._wanted.hz

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
        """Send a plug-in's result to where its frame came from, and to who subscribed to results; keep the last one.

        Also after the end: a plug-in may have something to say of the last frames, or of the whole stream.
        """
        if self.ended_at is None or result.size <= KEPT_RESULT_BYTES:
            self.results[result.plugin] = result
        sender = self._sender or self._former_sender()
        if sender is not None:
            sender.result(result)
        self._hub.publish_result(result)

    def complain(self, code: str, message: str) -> None:
        """Tell the client what went wrong with its frames, if it is still there; code as in docs/protocol.md."""
        sender = self._sender or self._former_sender()
        if sender is not None:
            sender.error(code, message)

    def cap(self, hz: float | None) -> None:
        """Want no more than that, also when the camera comes back under this name; None removes the cap."""
        self._hub.remember_cap(self.name, hz)
        self._wanted.cap(hz)

    def tell_rate(self, former: "Stream | None" = None) -> None:
        """Tell the client the wanted rate for the first time; its gateway calls this after the login.

        Args:
            former: the stream that the same connection sent before: what the client has been told then it knows.
        """
        self._wanted.tell_first(None if former is None else former._wanted)

    def disconnect(self, reason: str) -> None:
        """End the connection that the stream comes over, and the stream with it."""
        if self._sender is not None:
            self._sender.close(reason)

    def forget_latest(self) -> None:
        """Keep the newest frame no longer: others need its memory. Consumers are not concerned."""
        self.latest = None

    def end(self) -> None:
        """Say goodbye: consumers are told, the stream stays listed for a while. Harmless when it has ended."""
        if self.ended_at is None:
            self.ended_at = time.time()
            self.latest = None
            self._wanted.stop()
            if self._sender is not None:
                self._former_sender = weakref.ref(self._sender)
            self._sender = None  # the stream stays listed, and its connection shall not
            self.results = {
                plugin: result for plugin, result in self.results.items() if result.size <= KEPT_RESULT_BYTES
            }
            self._hub.remove(self)
            for subscription in self._subscriptions:
                subscription.put_ended(self)
            self._subscriptions = ()

    @property
    def live(self) -> bool:
        return self.ended_at is None

    @property
    def rate_hz(self) -> float:
        """Accepted frames a second, lately."""
        return self._meter.rate_hz(self._clock()) if self.ended_at is None else 0.0

    def attach(self, subscription: Subscription) -> None:
        self._subscriptions = (*self._subscriptions, subscription)
        self.reckon_wishes()

    def detach(self, subscription: Subscription) -> None:
        self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)
        self.reckon_wishes()

    def feeds(self, subscription: Subscription) -> bool:
        return subscription in self._subscriptions

    def reckon_wishes(self) -> None:
        """Called when a subscription's wish has changed."""
        self._wanted.wishes(self._wishes())

    def _wishes(self) -> list[float | None]:
        return [subscription.wish_hz for subscription in self._subscriptions]

    def _want(self, hz: float | None) -> None:
        self.wanted_hz = hz


def _no_sender() -> None:
    """The former sender of a stream that has not ended."""


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
        call_later: for what is told later; given by tests.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        read_jpeg: ReadJpeg | None = None,
        call_later: CallLater = green.call_later,
    ) -> None:
        self.clock = clock
        self.call_later = call_later
        self.read_jpeg = read_jpeg
        self.ids = itertools.count(1)
        self._live: dict[int, Stream] = {}
        self._ended: deque[Stream] = deque()
        self._past = Totals(0, 0, 0, Counter(), Counter())
        self._subscriptions: list[Subscription] = []
        self._result_subscriptions: list[ResultSubscription] = []
        self._caps: dict[str, float] = {}  # by stream name, the oldest first

    def open_stream(
        self, name: str, user: str, via: str, sender: Sender, limits: Limits, rates: Rates, seq: int = 0
    ) -> Stream:
        """Begin a stream; whoever subscribed to its name or to all gets its frames. Only the door calls this."""
        stream = Stream(self, name, user, via, sender, limits, rates, self._caps.get(name), seq)
        self._live[stream.id] = stream
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
        wish_hz: float | EllipsisType | None = ...,
        wants: Callable[[Stream], bool] | None = None,
        window: int = 0,
    ) -> Subscription:
        """Get the frames of streams, by name, also of those that do not exist yet.

        Args:
            names: stream names, or `*` for all.
            max_frames, max_bytes: bounds of `QUEUE`: frames of one stream, bytes in all. `LATEST` holds one frame a
                stream.
            rate_hz: hand out at most so many frames a second of each stream.
            wish_hz: how many the clients are asked for: None for as many as there are, 0 for none on behalf of this
                consumer; `rate_hz` unless it is given. See `Subscription.wish`.
            wants: a further condition, asked once for each stream.
            window: frames are taken in windows of so many, see `WindowSubscription`; for `QUEUE` only.

        Raises:
            ValueError: the bound is less than two windows, or windows are wanted of `LATEST`.
        """
        if window and policy is not Policy.QUEUE:
            raise ValueError(f"windows of {window} frames and {policy}, expected {Policy.QUEUE}")
        order = Order(
            consumer, _name_set(names), rate_hz or None, (rate_hz or None) if wish_hz is ... else wish_hz, wants
        )
        subscription: Subscription
        if policy is Policy.LATEST:
            subscription = LatestSubscription(self, order)
        elif window:
            subscription = WindowSubscription(self, order, max_frames, max_bytes, window)
        else:
            subscription = QueueSubscription(self, order, max_frames, max_bytes)
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

    def wish_changed(self, subscription: Subscription) -> None:
        """Called by `Subscription.wish`."""
        for stream in self._live.values():
            if stream.feeds(subscription):
                stream.reckon_wishes()

    def subscribe_results(
        self,
        consumer: str,
        names: str | Iterable[str] = "*",
        max_results: int = MAX_RESULTS,
        max_bytes: int = MAX_RESULT_BYTES,
    ) -> ResultSubscription:
        """Get what plug-ins say of streams, by name, also of those that do not exist yet.

        Args:
            names: stream names, or `*` for all.
            max_results, max_bytes: when more wait, the oldest go.
        """
        subscription = ResultSubscription(consumer, _name_set(names), max_results, max_bytes, self._unsubscribe_results)
        self._result_subscriptions.append(subscription)
        return subscription

    def publish_result(self, result: Result) -> None:
        """Called by `Stream.answer`."""
        wanting = [
            subscription for subscription in self._result_subscriptions if subscription.wants(result.stream.name)
        ]
        if wanting:
            size = result.size
            for subscription in wanting:
                subscription.put(result, size)

    def _unsubscribe_results(self, subscription: ResultSubscription) -> None:
        if subscription in self._result_subscriptions:
            self._result_subscriptions.remove(subscription)

    def remember_cap(self, name: str, hz: float | None) -> None:
        """Called by `Stream.cap`."""
        self._caps.pop(name, None)
        if hz is not None:
            self._caps[name] = hz
            if len(self._caps) > CAPS_MAX:
                del self._caps[next(iter(self._caps))]

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

    def result_subscriptions(self) -> list[ResultSubscription]:
        return list(self._result_subscriptions)

    def totals(self) -> Totals:
        """What all streams have counted since the start."""
        return _sum(self._past, [*self._ended, *self._live.values()])

    def _forget_old(self) -> None:
        oldest = time.time() - ENDED_LISTED_SEC
        while self._ended and (len(self._ended) > ENDED_LISTED_MAX or (self._ended[0].ended_at or 0.0) < oldest):
            self._past = _sum(self._past, [self._ended.popleft()])


def _name_set(names: str | Iterable[str]) -> frozenset[str] | None:
    """None for all."""
    return None if names == "*" else frozenset([names] if isinstance(names, str) else names)


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
