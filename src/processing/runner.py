"""The server's side of the plug-ins: starts their workers, and sends their results back.

The streams are dealt out to shards, and each stays in its own, so that its frames go to one worker in their order. One
worker runs all plug-ins of a shard, as a picture that several of them look at is decoded once. Who ends that worker, or
hangs it, gets a worker of its own in this shard, and costs the others nothing more.

What a worker says is checked like a stranger's: it runs somebody's plug-in.
"""

import json
import logging
import math
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from children import STEADY_SEC, Child, ChildFailed, Children, Payload, decoding_environ, ended_with
from frames import InvalidFrame, Limits, read_header
from green import Task, sleep, spawn
from hub import FrameHub, Policy, Result, Stream, Subscription
from processing import wire
from processing.lanes import Assignment, End, Lane, Origin, Work
from processing.watchdog import TOO_LARGE
from processing.wire import Description, Job, Report
from rate import OncePerSecond
from ring import BrokenRing

logger = logging.getLogger(__name__)

#: A model of gigabytes takes its time to load, and the server does not listen before.
SETUP_SEC: Final = 120.0
#: A worker looks after its plug-ins' deadlines by itself; this much later the server does, in case it cannot.
DEADLINE_MARGIN_SEC: Final = 5.0
#: One frame is being worked on, and the next is there.
SLOTS: Final = 2
#: So many windows of a stream may wait besides the one that is being filled: a hiccup is bridged, and nobody gets an
#: answer about what was long ago.
WINDOWS_WAITING: Final = 3
#: Of all streams of a shard together.
WINDOW_BYTES: Final = 64 << 20
#: How often it is looked whether the plug-ins keep up.
LOOK_SEC: Final = 2.0
#: Libraries for numbers begin a thread for each core; with a worker for each core that would be all of them squared.
ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


#: What a worker says of a failure goes to the log.
MAX_FAILURE_BYTES: Final = 500
#: A plug-in's name is a label of metrics, and goes to clients.
NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class CannotProcess(Exception):
    """A plug-in cannot be loaded; the message says which, and why."""


class Totals(NamedTuple):
    """Frames of a plug-in, by what became of them, and the seconds that it worked.

    The first is the sum of the following six.
    """

    published: int
    done: int
    failed: int
    lost: int
    dropped: int
    waiting: int
    in_hand: int
    seconds: float


class Worker:
    """A process that runs plug-ins for the streams of a shard.

    Args:
        specs: of the plug-ins, MODULE:NAME.
        lanes: theirs, in the same order; none before the first worker has described them.
        on_culprit: called with a lane whose plug-in has ended, or may have ended, the worker that others are in too.

    Attributes:
        descriptions: what the plug-ins have said of themselves.
    """

    def __init__(
        self,
        name: str,
        specs: Sequence[str],
        lanes: Sequence[Lane],
        limits: Limits,
        memory_bytes: int,
        on_culprit: Callable[["Worker", Lane], object],
    ) -> None:
        self.specs = list(specs)
        self.work = Work(lanes)
        self._memory_bytes = memory_bytes
        self.descriptions: list[Description] = []
        self._on_culprit = on_culprit
        self._running: Lane | None = None  # whose plug-in is at work, where there are several
        self._unexplained_at = -math.inf  # it ended, and nobody knows why
        self._said = OncePerSecond()
        self.child: Child[Assignment | End] = Child(
            name,
            self._argv(),
            self.work,
            _encode,
            slots=SLOTS,
            slot_bytes=wire.MAX_JOB_HEADER_BYTES + limits.max_frame_bytes,
            deadline_sec=DEADLINE_MARGIN_SEC,
            start_sec=SETUP_SEC,
            on_answer=self._receive,
            owes=lambda: any(lane.ending for lane in self.work.lanes),
            on_end=self._lose,
            environ={name: "1" for name in ONE_THREAD if name not in os.environ} | decoding_environ(limits.max_pixels),
        )

    def remove(self, lane: Lane) -> str:
        """The next process is without this plug-in; returns its spec."""
        number = self.work.lanes.index(lane)
        self.work.remove(lane)
        spec = self.specs.pop(number)
        self.child.argv = self._argv()
        return spec

    def _argv(self) -> list[str]:
        return ["-m", "processing", "--memory", str(self._memory_bytes), *self.specs]

    def _receive(self, answer: bytes) -> None:
        try:
            report = Report.unpack(answer)
        except struct.error:
            raise BrokenRing(f"an answer of {len(answer)} bytes came") from None
        if report.kind == wire.DESCRIPTION:
            return self._describe(report.payload)
        if report.plugin >= len(self.work.lanes):
            raise BrokenRing(f"plug-in {report.plugin} answered, it has {len(self.work.lanes)}")
        lane = self.work.lanes[report.plugin]
        if report.kind == wire.BEGUN:
            if self._running is not None or not lane.has(report.stream_id, report.seq):
                raise BrokenRing("a plug-in began what it was not asked")
            self._running = lane
            self.child.deadline_sec = lane.description.deadline_sec + DEADLINE_MARGIN_SEC
            return None
        self._running = None
        value, text, failure = _value_of(report)
        origin = lane.end(report.stream_id, report.seq, report.seconds, failure is None)
        if origin is None:
            raise BrokenRing("a plug-in answered what it was not asked")
        if failure is not None:
            what = f"frame {report.seq}" if report.seq else "the end"
            if self._said.allows(lane.description.name, time.monotonic()):
                logger.warning("%s, %s of %s: %s", lane.description.name, what, origin.stream.name, failure)
            _tell_of_failure(lane, origin, what)
        elif report.kind in (wire.VALUE, wire.PICTURE):
            name = lane.description.name
            origin.stream.answer(
                Result(origin.stream, report.seq, name, value, origin.reply_to, origin.received_at, time.time(), text)
            )
        return None

    def _describe(self, payload: bytes) -> None:
        try:
            self.descriptions = [_checked(Description(**one)) for one in json.loads(payload)]
        except (ValueError, TypeError, RecursionError) as error:
            raise BrokenRing(f"it describes its plug-ins so that nobody understands it: {error}") from None
        if self.work.lanes and self.descriptions != [lane.description for lane in self.work.lanes]:
            logger.warning("%s: a plug-in has changed since the server was started", self.child.name)
        self.child.deadline_sec = sum(one.deadline_sec for one in self.descriptions) + DEADLINE_MARGIN_SEC
        return None

    def _lose(self, why: str) -> None:
        """The process has ended, and what it had in hand is lost. Who was at work has ended it, or could not be loaded
        again; where that is not known for the second time, or too much memory was taken, it may have been any."""
        running, self._running = self._running, None
        lanes = list(self.work.lanes)
        if running is None:
            running = lanes[0] if len(lanes) == 1 else self._named_in(why)
        for lane in lanes:
            lost = lane.lose()
            if lane is running:
                for origin in lost:
                    _tell_of_failure(lane, origin, f"frame {origin.seq}")
        culprits = [] if running is None else [running]
        if why == ended_with(TOO_LARGE):
            culprits = lanes
        elif running is None:
            now = time.monotonic()
            if now - self._unexplained_at < STEADY_SEC:
                culprits = lanes
            self._unexplained_at = now
        for lane in culprits:
            if len(self.work.lanes) > 1:
                self._on_culprit(self, lane)

    def _named_in(self, why: str) -> Lane | None:
        """The plug-in that a worker which cannot load its plug-ins names first."""
        return next(
            (lane for spec, lane in zip(self.specs, self.work.lanes, strict=True) if why.startswith(f"{spec}:")), None
        )


class Processing:
    """The plug-ins and their workers.

    Args:
        specs: MODULE:NAME of each.
        workers: how many shards.
        limits: of the images that may come.
        memory_bytes: what a worker may have in memory.
        lowest_wish_hz: a plug-in that does not keep up wishes for at least so many frames a second.
    """

    def __init__(
        self,
        hub: FrameHub,
        children: Children,
        specs: Sequence[str],
        workers: int,
        limits: Limits,
        memory_bytes: int,
        lowest_wish_hz: float,
    ) -> None:
        self._hub = hub
        self._children = children
        self._limits = limits
        self._memory_bytes = memory_bytes
        self._lowest_wish_hz = lowest_wish_hz
        self._descriptions: list[Description] = []
        self._shard_of: dict[int, int] = {}  # of the streams that are live
        self._lanes: list[list[Lane]] = [[] for _ in range(workers)]
        self._workers = [self._worker(f"plugins-{shard + 1}", specs, ()) for shard in range(workers)]
        self._looking: Task | None = None

    def start(self) -> None:
        """Start the workers, and wait until their plug-ins are ready.

        Raises:
            CannotProcess: one of them is not.
        """
        self._start(self._workers[0])  # what is wrong with a plug-in is said once
        failures: list[CannotProcess] = []

        def start(worker: Worker) -> None:
            try:
                self._start(worker)
            except CannotProcess as error:
                failures.append(error)

        for task in [spawn(start, worker) for worker in self._workers[1:]]:
            task.wait()
        if failures:
            raise failures[0]
        for lane in self._lanes[0]:
            logger.info("frames are given to the plug-in %s", lane.description.name)
        self._looking = spawn(self._look)

    def stop(self) -> None:
        """Look after the plug-ins no more; their processes end with all children."""
        if self._looking is not None:
            self._looking.kill()

    def totals(self) -> dict[str, Totals]:
        """What each plug-in has counted, by its name."""
        return {
            lanes[0].description.name: Totals(*map(sum, zip(*map(_totals_of, lanes), strict=True)))
            for lanes in zip(*self._lanes, strict=True)
        }

    def _worker(self, name: str, specs: Sequence[str], lanes: Sequence[Lane]) -> Worker:
        worker = Worker(name, specs, lanes, self._limits, self._memory_bytes, self._isolate)
        self._children.add(worker.child)
        return worker

    def _start(self, worker: Worker) -> None:
        try:
            worker.child.start()
        except ChildFailed as error:
            named = any(str(error).startswith(f"{spec}:") for spec in worker.specs)
            raise CannotProcess(f"{error}" if named else f"a worker for {', '.join(worker.specs)}: {error}") from None
        if not self._descriptions:
            self._descriptions = worker.descriptions
        if worker.descriptions != self._descriptions or len(worker.descriptions) != len(worker.specs):
            raise CannotProcess("a plug-in describes itself in another way each time it is loaded")
        shard = self._workers.index(worker)
        for description in self._descriptions:
            lane = Lane(description, self._subscribe(description, shard))
            self._lanes[shard].append(lane)
            worker.work.add(lane)

    def _subscribe(self, description: Description, shard: int) -> Subscription:
        def wants(stream: Stream) -> bool:
            return self._deal(stream) == shard

        window = description.window
        if not window:
            return self._hub.subscribe(description.name, rate_hz=description.rate_hz, wants=wants)
        return self._hub.subscribe(
            description.name,
            policy=Policy.QUEUE,
            window=window,
            max_frames=(WINDOWS_WAITING + 1) * window,
            max_bytes=WINDOW_BYTES,
            rate_hz=description.rate_hz,
            wants=wants,
        )

    def _deal(self, stream: Stream) -> int:
        """The shard of a stream: the one that has fewest when it begins."""
        if stream.id not in self._shard_of:
            live = {other.id for other in self._hub.live_streams()}
            self._shard_of = {other: shard for other, shard in self._shard_of.items() if other in live}
            self._shard_of[stream.id] = min(range(len(self._lanes)), key=Counter(self._shard_of.values()).__getitem__)
        return self._shard_of[stream.id]

    def _isolate(self, worker: Worker, lane: Lane) -> None:
        """Give a plug-in that ended its worker one of its own."""
        name = lane.description.name
        logger.warning("the plug-in %s may have ended %s, and gets a worker of its own", name, worker.child.name)
        spec = worker.remove(lane)
        self._worker(f"{worker.child.name}-{name}", [spec], [lane]).child.start_later()

    def _look(self) -> None:
        while True:
            sleep(LOOK_SEC)
            live = {stream.id for stream in self._hub.live_streams()}
            counts = Counter(shard for stream, shard in self._shard_of.items() if stream in live)
            for shard, lanes in enumerate(self._lanes):
                for lane in lanes:
                    lane.adjust_wish(time.monotonic(), counts[shard], self._lowest_wish_hz)


def _encode(item: Assignment | End) -> Payload | bytes:
    if isinstance(item, End):
        return json.dumps({"ended": item.stream.id, "plugins": [item.plugin]}).encode()
    stream, frame = item.stream, item.frame
    info = frame.info
    job = Job(stream.id, frame.seq, frame.received_at, info.width, info.height, stream.name, stream.user, item.runs)
    return Payload(job.pack(), frame.image)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _totals_of(lane: Lane) -> Totals:
    subscription = lane.subscription
    return Totals(
        subscription.published,
        lane.done,
        lane.failed,
        lane.lost,
        subscription.dropped,
        subscription.waiting,
        lane.in_hand,
        lane.seconds,
    )


def _checked(description: Description) -> Description:
    """Raises ValueError: it cannot be what a plug-in wants."""
    name, rate_hz, window, deadline_sec = description
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ValueError(f"a plug-in is named {str(name)[:64]!r}")
    if not (
        (rate_hz is None or 0 < float(rate_hz) < math.inf)
        and window in range(wire.MAX_WINDOW + 1)
        and 0 < float(deadline_sec) < math.inf
    ):
        raise ValueError(f"{name} wants {rate_hz} Hz, {window} frames, {deadline_sec} s")
    return description


def _value_of(report: Report) -> tuple[Any, str | None, str | None]:
    """What a plug-in said, as ASCII JSON too unless it is a picture, or why that is not taken."""
    payload = report.payload
    if report.kind == wire.NOTHING:
        return None, None, None
    if report.kind == wire.FAILED:
        return None, None, payload[:MAX_FAILURE_BYTES].decode(errors="replace")
    if report.kind == wire.PICTURE:
        try:
            read_header(payload)
        except InvalidFrame as error:
            return None, None, f"its picture is none: {error}"
        return payload, None, None
    if report.kind != wire.VALUE:
        return None, None, f"an answer of kind {report.kind}"
    if len(payload) > wire.MAX_VALUE_BYTES:
        return None, None, f"a result of {len(payload)} bytes, at most {wire.MAX_VALUE_BYTES} are taken"
    if wire.is_too_deep(payload):
        return None, None, f"a result of more than {wire.MAX_VALUE_DEPTH} lists or objects in one another"
    try:
        text = str(payload, "utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        # To all clients it goes as ASCII, as all else does.
        return value, text if text.isascii() else json.dumps(value, separators=(",", ":")), None
    except (ValueError, RecursionError) as error:
        return None, None, f"its result is not JSON: {error}"


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is beyond what a float can hold")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _tell_of_failure(lane: Lane, origin: Origin, what: str) -> None:
    """To the client, without what is the server's own business."""
    origin.stream.complain("processing_failed", f"the plug-in {lane.description.name} failed on {what}")
