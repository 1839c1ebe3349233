"""What waits for plug-ins, what they have in hand, and whether they keep up.

    FrameHub ─► Lane, a plug-in ─┐
             ─► Lane             ├─► Work ─► a worker process
             ─► …               ─┘

Rule 1. A frame is handed to a worker once, whatever number of lanes wait for it.
Rule 2. Of each lane: published = done + failed + lost + dropped + waiting + in hand, at any moment.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from frames import Frame
from hub import Ended, Stream, Subscription
from processing.wire import Description, Run

#: Nothing takes longer.
MAX_SECONDS: Final = 1e6
#: A plug-in keeps up as long as at least this share of what it should get is done.
KEEPING_UP: Final = 0.9
#: One that does not wishes for so much more than is done, so that it is seen when it could do more.
WISH_BEYOND: Final = 1.2
LOWEST_WISH_HZ: Final = 0.2
#: One that keeps up again wishes for so much more each time …
WISH_STEP: Final = 1.5
#: … and beyond this for all there is: no camera is faster.
HIGHEST_WISH_HZ: Final = 240.0


class Origin(NamedTuple):
    """Where a result belongs: of a frame what is needed when its image has gone."""

    stream: Stream
    seq: int
    reply_to: object
    received_at: float


class Lane:
    """One plug-in for the streams of one shard.

    Attributes:
        done, failed, lost: runs that ended well, with an error, and with their worker.
        seconds: that the plug-in worked, in all.
    """

    def __init__(self, description: Description, subscription: Subscription) -> None:
        self.description = description
        self.subscription = subscription
        self.done = 0
        self.failed = 0
        self.lost = 0
        self.seconds = 0.0
        self._in_hand: dict[tuple[int, int], Origin] = {}
        self._last: dict[int, Origin] = {}  # the newest frame of each stream that was begun
        self._ending: dict[int, Origin] = {}
        self._looked_at = time.monotonic()
        self._published = self._finished = 0
        self._late: _Look | None = None  # the last look, if the plug-in did not keep up in it

    @property
    def in_hand(self) -> int:
        return len(self._in_hand)

    def begin(self, stream: Stream, frame: Frame) -> None:
        """A worker gets this frame."""
        origin = Origin(stream, frame.seq, frame.reply_to, frame.received_at)
        self._in_hand[stream.id, frame.seq] = self._last[stream.id] = origin

    def begin_end(self, stream: Stream) -> None:
        """A worker is told that the stream has ended."""
        if (last := self._last.pop(stream.id, None)) is not None:
            self._ending[stream.id] = last

    def has(self, stream_id: int, seq: int) -> bool:
        """Whether this run is under way; as for `end`."""
        return (stream_id, seq) in self._in_hand if seq else stream_id in self._ending

    def end(self, stream_id: int, seq: int, seconds: float, well: bool) -> Origin | None:
        """A run has ended; returns what of, None if none was under way. `seq` 0 is the run at the stream's end."""
        origin = self._in_hand.pop((stream_id, seq), None) if seq else self._ending.pop(stream_id, None)
        if origin is None:
            return None
        self.seconds += seconds if 0 <= seconds < MAX_SECONDS else 0.0  # it is the worker who says so
        if seq:  # or it is no frame's run, and what is counted are frames
            self.done += well
            self.failed += not well
        return origin

    def lose(self) -> list[Origin]:
        """The worker has ended; returns the frames that it had in hand."""
        lost = list(self._in_hand.values())
        self.lost += len(lost)
        self._in_hand.clear()
        self._ending.clear()
        self._last.clear()
        self.subscription.restart_windows()
        return lost

    @property
    def ending(self) -> bool:
        """Whether the worker has yet to say its last word of a stream."""
        return bool(self._ending)

    def adjust_wish(self, now: float, streams: int, lowest_hz: float) -> None:
        """Wish for fewer frames when the plug-in does not keep up, and for more when it does again.

        Two looks have to agree, as a single slow call is none. What is done in none of them says nothing: the call goes
        on, or the worker is being started.

        Args:
            now: time.monotonic().
            streams: that the shard has; what is done is shared between them.
            lowest_hz: it wishes for at least so many, unless it never wants as many.
        """
        finished = self.done + self.failed
        look = _Look(now - self._looked_at, self.subscription.published - self._published, finished - self._finished)
        self._looked_at, self._published, self._finished = now, self.subscription.published, finished
        own, wish = self.description.rate_hz, self.subscription.wish_hz
        if not streams:
            self.subscription.wish(own)
            self._late = None
            return
        if not look.keeps_up(own, streams):
            before, self._late = self._late, look
            if before is not None and look.finished:
                done_hz = (before.finished + look.finished) / (before.seconds + look.seconds) / streams
                lower = max(WISH_BEYOND * done_hz, min(lowest_hz, own or lowest_hz), LOWEST_WISH_HZ)
                if wish is None or lower < wish:
                    self.subscription.wish(lower)
            return
        self._late = None
        if wish is not None and wish != own:
            more = WISH_STEP * wish
            self.subscription.wish(own if more >= (own or HIGHEST_WISH_HZ) else more)


class _Look(NamedTuple):
    """What a lane has got and done in a while."""

    seconds: float
    published: int
    finished: int

    def keeps_up(self, own_hz: float | None, streams: int) -> bool:
        wanted = self.published if own_hz is None else min(self.published, own_hz * self.seconds * streams)
        return self.finished >= KEEPING_UP * wanted


class Assignment(NamedTuple):
    """A frame for some plug-ins of a worker."""

    stream: Stream
    frame: Frame
    runs: tuple[Run, ...]


class End(NamedTuple):
    """A plug-in of a worker gets no more of a stream."""

    stream: Stream
    plugin: int


class Work:
    """What a worker is fed from: the lanes of its plug-ins, in turn.

    Attributes:
        lanes: in the order of the worker's command line.
        ready: as a subscription's.
    """

    def __init__(self, lanes: Sequence[Lane] = ()) -> None:
        self.ready: Callable[[], object] = _nobody_waits
        self.lanes: list[Lane] = []
        self._turn = 0
        for lane in lanes:
            self.add(lane)

    def add(self, lane: Lane) -> None:
        self.lanes.append(lane)
        lane.subscription.ready = lambda: self.ready()

    def remove(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        lane.subscription.ready = _nobody_waits

    @property
    def published(self) -> int:
        return sum(lane.subscription.published for lane in self.lanes)

    @property
    def dropped(self) -> int:
        return sum(lane.subscription.dropped for lane in self.lanes)

    @property
    def waiting(self) -> int:
        return sum(lane.subscription.waiting for lane in self.lanes)

    def take(self, now: float | None = None) -> Assignment | End | None:
        """The next frame, for every plug-in that waits for it; None when there is nothing, or nothing due."""
        count = len(self.lanes)
        for step in range(count):
            plugin = (self._turn + step) % count
            item = self.lanes[plugin].subscription.take(now)
            if item is None:
                continue
            self._turn = plugin + 1
            if isinstance(item, Ended):
                self.lanes[plugin].begin_end(item.stream)
                return End(item.stream, plugin)
            return self._assign(plugin, item, now)
        return None

    def due_in(self, now: float | None = None) -> float | None:
        """Seconds until `take` has something to give; None when nothing waits."""
        return min((due for lane in self.lanes if (due := lane.subscription.due_in(now)) is not None), default=None)

    def _assign(self, first: int, frame: Frame, now: float | None) -> Assignment:
        stream = frame.stream
        assert isinstance(stream, Stream)
        runs = []
        for plugin, lane in enumerate(self.lanes):
            if plugin == first or lane.subscription.take_same(frame, now):
                lane.begin(stream, frame)
                runs.append(Run(plugin, lane.subscription.position))
        return Assignment(stream, frame, tuple(runs))


def _nobody_waits() -> None:
    """`ready` before the worker's own."""
