"""Starts, feeds, watches, restarts and ends child processes; the only place that starts one.

A child takes what a hub subscription holds, through a ring (ring.py), and runs what the server must not: decoders,
windows, plug-ins. Or it brings images the other way. This room knows neither hub nor frames; whoever makes a `Child`
says how an item is encoded.

Rule 1. The loop never waits for a child. What it has no slot for stays in the subscription, whose policy decides.
Rule 2. published = sent + lost + dropped + waiting, at any moment, and only `waiting` ever becomes less.
Rule 3. A child that gets nowhere with a message for its deadline is killed. Whatever ends a child unasked, it comes
        back, later each time, and nothing is lost but what it had in hand.
Rule 4. Never fork without exec, and never from a thread: a forked child would share the server's epoll and steal its
        connections, and on Linux a child lives as long as the thread that started it.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, TypeVar

import green
from child_log import ChildLog
from rate import OncePerSecond
from ring import FAILED, READY, BrokenRing, Buffer, Delivery, Ring
from settings import PREFIX

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: How often a child is looked at: whether it lives, and whether it gets on.
LOOK_SEC: Final = 0.5
#: From the end of the input to SIGKILL.
GRACE_SEC: Final = 2.0
#: The pause before a restart doubles from the first to the last; a child that ran for `STEADY_SEC` begins anew.
FIRST_PAUSE_SEC: Final = 0.5
LAST_PAUSE_SEC: Final = 30.0
STEADY_SEC: Final = 30.0

#: Decoders take memory and don't always fill it: of an animated PNG with half of its data, OpenCV shows what the memory
#: held, and that is the last picture of somebody else. So glibc wipes what it gives out and takes back, with the
#: windows' ground (32; 223 is its complement), and keeps nothing aside unwiped. It costs a seventh of the decoding.
WIPE_MEMORY: Final = "glibc.malloc.perturb=223:glibc.malloc.tcache_count=0"

State = Literal["stopped", "starting", "running", "ending", "pausing"]


class Payload(NamedTuple):
    """What goes into a slot, and is counted: a header and a frame's image."""

    header: bytes
    body: Buffer


class Source(Protocol[T_co]):
    """Where a child's items come from; a hub subscription is one."""

    ready: Callable[[], object]

    @property
    def published(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def take(self, now: float | None = None) -> T_co | None: ...
    def due_in(self, now: float | None = None) -> float | None: ...


class ChildFailed(Exception):
    """A child could not be started; the message says why."""


class Child(Generic[T]):
    """One child process, and those that take its place.

    Args:
        name: for the log and the metrics.
        argv: what follows `python`, such as `["-m", "display", "--plain"]`; the ring's argument is put last.
        source: what it is fed from.
        encode: makes a payload, or a control message, of an item.
        slots: how many payloads it may have at once.
        slot_bytes: the largest payload.
        deadline_sec: how long it may get nowhere.
        start_sec: how long it may take to say that it is ready.
        gather_sec: items are handed over together, this long after the first has come: fewer wake-ups of both sides.
        greeting: control messages for a child that begins: what it has to know of the past.
        on_answer: called with what the child answers; may not wait. With BrokenRing it says that no sound child answers
            so, and the child is ended.
        own_slots: how many images the child may bring before they are taken; 0 if it brings none.
        own_slot_bytes: the largest of them.
        on_delivery: the same as `on_answer`, with the header and the image that the child brings.
        owes: asked whether the child has something to do besides the payloads in its hands.
        on_end: called when a process has ended unasked, after its last answers, with what ended it; may not wait.
        environ: variables for the child besides the server's.

    Attributes:
        argv: as given; what is changed holds for the next process.
        deadline_sec: as given, and may be changed.
        lost: payloads that a child had in hand when it ended, or that did not fit into a slot.
        restarts: how often another process took over.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        source: Source[T],
        encode: Callable[[T], Payload | bytes],
        *,
        slot_bytes: int,
        slots: int = 2,
        deadline_sec: float = 5.0,
        start_sec: float = 20.0,
        gather_sec: float = 0.0,
        greeting: Callable[[], Iterable[bytes]] = tuple,
        on_answer: Callable[[bytes], object] | None = None,
        own_slots: int = 0,
        own_slot_bytes: int = 0,
        on_delivery: Callable[[bytes, bytes], object] | None = None,
        owes: Callable[[], bool] = bool,
        on_end: Callable[[str], object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.lost = 0
        self.restarts = 0
        self.state: State = "stopped"
        self.argv = list(argv)
        self._source = source
        self._encode = encode
        self._slots = slots
        self._slot_bytes = slot_bytes
        self.deadline_sec = deadline_sec
        self._start_sec = start_sec
        self._gather_sec = gather_sec
        self._greeting = greeting
        self._on_answer = on_answer
        self._own_slots = own_slots
        self._own_slot_bytes = own_slot_bytes
        self._on_delivery = on_delivery
        self._owes = owes
        self._on_end = on_end
        self._said = OncePerSecond()
        self._environ = environ or {}
        self._sent_before = 0
        self._ring: Ring | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_listening: Callable[[], None] = _nothing
        self._cancel_feed: Callable[[], None] | None = None
        self._feed_at = 0.0  # if that is not None
        self._gathering = False
        self._trouble: str | None = None  # why this process must go; empty when it has gone by itself
        self._was_ready = False
        self._insisting = False
        self._changed = green.Signal()
        self._stopping = green.Once()
        self._settled = green.Once()
        self._task: green.Task | None = None
        source.ready = self._feed_soon

    def start(self) -> None:
        """Start the child, wait until it is ready, and keep one running until `stop`.

        Raises:
            ChildFailed: the first one ended, or was not ready in time; it is not tried again.
        """
        self._task = green.spawn(self._keep_running)
        self._settled.wait()
        if not self._was_ready:
            raise ChildFailed(self._trouble)

    def start_later(self) -> None:
        """Start the child after a first pause, without waiting for it, and try again also if the first one fails."""
        self._insisting = True
        self.state = "pausing"
        self._task = green.spawn(self._keep_running, FIRST_PAUSE_SEC)

    def begin_stop(self) -> None:
        """Let the child end, and come back no more; does not wait for it."""
        self._stopping.set()
        self._changed.set()

    def stop(self) -> None:
        """End the child: no more input, `GRACE_SEC` to finish, then SIGKILL. Harmless when it has ended."""
        self.begin_stop()
        if self._task is not None:
            self._task.wait()

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None else None

    @property
    def published(self) -> int:
        return self._source.published

    @property
    def dropped(self) -> int:
        return self._source.dropped

    @property
    def sent(self) -> int:
        """Payloads that a child was given and is done with."""
        return self._sent_before + (self._ring.returned if self._ring is not None else 0)

    @property
    def waiting(self) -> int:
        """Payloads in the source, and those that the child has in hand."""
        return self._source.waiting + (len(self._ring.held) if self._ring is not None else 0)

    # One process after the other: all of this runs in the child's own greenlet.

    def _keep_running(self, after_sec: float = 0.0) -> None:
        pause_sec = FIRST_PAUSE_SEC
        try:
            if after_sec and self._stopping.wait(after_sec):
                return
            while True:
                began = time.monotonic()
                self._trouble = why = self._run_once()
                if self._stopping.is_set() or not (self._was_ready or self._insisting):
                    return
                if self._on_end is not None:
                    self._on_end(why)
                if time.monotonic() - began >= STEADY_SEC:
                    pause_sec = FIRST_PAUSE_SEC
                logger.warning("%s: %s; it is started again in %g s", self.name, why, pause_sec)
                self.state = "pausing"
                if self._stopping.wait(pause_sec):
                    return
                pause_sec = min(2 * pause_sec, LAST_PAUSE_SEC)
                self.restarts += 1
        finally:
            self.state = "stopped"
            self._settled.set()

    def _run_once(self) -> str:
        """One process from its start to its end; returns what ended it."""
        self.state = "starting"
        self._trouble = None
        try:
            ring = Ring(self._slots, self._slot_bytes, own_slots=self._own_slots, own_slot_bytes=self._own_slot_bytes)
        except OSError as error:
            return f"it gets no memory: {error}"
        try:
            log = ChildLog(self.name)
        except OSError as error:
            ring.close()
            return f"it can not be started: {error}"
        try:
            process = self._start_process(ring, log)
        except OSError as error:
            ring.close()
            log.close()
            return f"it can not be started: {error}"
        ring.close_child_end()
        log.close_child_end()
        log.start()
        self._process, self._ring = process, ring
        self._listen(ring)
        try:
            return self._watch(process, ring)
        finally:
            self._stop_feeding()
            self._end(process, ring)
            log.close()
            self._process = self._ring = None
            self._sent_before += ring.returned
            self.lost += len(ring.held)
            ring.close()

    def _start_process(self, ring: Ring, log: ChildLog) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        # The server's options, for there are passwords among them.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        # A Ctrl-C must not reach the child before it can ignore it; what is blocked here stays blocked there.
        # (`Popen` waits on the loop: where two are started at once, a mask saved by one would be the other's.)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # -P: the working directory is the user's, and what lies there must not take the place of our modules.
            return subprocess.Popen(
                [sys.executable, "-P", *self.argv, ring.argument],
                pass_fds=ring.descriptors,
                close_fds=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log.writing_end,
                env={**environ, **self._environ, "PYTHONPATH": path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _watch(self, process: "subprocess.Popen[bytes]", ring: Ring) -> str:
        """Wait until the process has ended or must; returns why."""
        looked_at = time.monotonic()
        stuck_sec = 0.0
        seen: object = None
        while True:
            self._changed.wait(LOOK_SEC)
            if self._stopping.is_set():
                if self.state == "starting":
                    process.kill()  # it has nothing to finish, and does not listen yet
                return "it was asked to end"
            self._receive()
            if self._trouble is not None:
                return self._trouble or _obituary(process)
            if process.poll() is not None:  # somebody that it has started may still have its end of the ring
                self._receive()  # its last words, if they have just come
                return self._trouble or _obituary(process)
            now = time.monotonic()
            # Only time in which the server itself ran counts: after Ctrl-Z and fg both have slept.
            elapsed, looked_at = min(now - looked_at, 2 * LOOK_SEC), now
            busy = bool(ring.owed) or self._owes()
            progress = (self.state, ring.owed, ring.answered)
            stuck_sec = stuck_sec + elapsed if progress == seen else 0.0
            seen = progress
            if self.state == "starting" and stuck_sec >= self._start_sec:
                process.kill()
                return f"it was not ready within {self._start_sec:g} s"
            if self.state == "running" and busy and stuck_sec >= self.deadline_sec:
                process.kill()
                return f"it got nowhere for {self.deadline_sec:g} s"

    def _end(self, process: "subprocess.Popen[bytes]", ring: Ring) -> None:
        ring.say_goodbye()
        if _status(process, GRACE_SEC) is None:
            process.kill()
            _status(process, GRACE_SEC)
        with contextlib.suppress(EOFError, BrokenRing):
            ring.collect()  # the slots that it gave back last

    # Feeding: called by the loop, so that nothing below waits.

    def _receive(self) -> None:
        """Take back slots, and fill them if more is waiting; called when the child has sent something."""
        ring = self._ring
        if ring is None or self._trouble is not None:
            return
        try:
            for answer in ring.collect():
                if isinstance(answer, Delivery):
                    if self._on_delivery is not None:
                        self._tell(self._on_delivery, *answer)
                elif answer.kind == READY:
                    self._begin(ring)
                elif answer.kind == FAILED:
                    self._give_up(answer.data.decode(errors="replace"))
                elif self._on_answer is not None:
                    self._tell(self._on_answer, answer.data)
        except EOFError:
            self._give_up("")
        except BrokenRing as error:
            self._give_up(str(error))
        if not self._gathering:
            self._feed()

    def _listen(self, ring: Ring) -> None:
        """Be woken by what the child sends, until `_stop_listening`."""
        self._stop_listening()
        self._stop_listening = green.on_readable(ring.fileno(), self._receive)

    def _tell(self, whom: Callable[..., object], *data: bytes) -> None:
        try:
            whom(*data)
        except BrokenRing:
            raise
        except Exception:  # whatever it is, the loop would stop listening to this child
            if self._said.allows("answer", time.monotonic()):
                logger.exception("%s: an answer could not be used", self.name)

    def _begin(self, ring: Ring) -> None:
        for message in self._greeting():
            ring.tell(message)
        self.state = "running"
        self._was_ready = True
        self._settled.set()

    def _give_up(self, trouble: str) -> None:
        """Let the watching greenlet end this process."""
        self._trouble = trouble
        self._stop_feeding()
        self._changed.set()

    def _stop_feeding(self) -> None:
        self.state = "ending"
        self._stop_listening()
        self._gathering = False
        if self._cancel_feed is not None:
            self._cancel_feed()
            self._cancel_feed = None

    def _feed_soon(self) -> None:
        """Called by the source, in the course of `publish`, when it has something new to give: copies nothing."""
        if self.state != "running" or self._gathering:
            return
        if self._cancel_feed is None or self._feed_at > time.monotonic() + self._gather_sec:
            self._feed_in(self._gather_sec)
            self._gathering = True

    def _feed_in(self, seconds: float) -> None:
        if self._cancel_feed is not None:
            self._cancel_feed()
        self._feed_at = time.monotonic() + seconds
        self._cancel_feed = green.call_later(seconds, self._feed_now)

    def _feed_now(self) -> None:
        self._cancel_feed = None
        self._gathering = False
        self._receive()

    def _feed(self) -> None:
        """Hand over what is due, as far as there are slots; where there are none, the next that comes back goes on."""
        ring = self._ring
        if ring is None or self.state != "running":
            return
        try:
            if not ring.flush():
                return  # it has not read what it was told before; the next look tries again
            now = time.monotonic()
            while ring.free and (item := self._source.take(now)) is not None:
                self._put(ring, item)
            ring.flush()
        except EOFError:
            self._give_up("")
            return
        due_sec = self._source.due_in(now)
        if self._gather_sec:
            # What is handed over together may come back together: while there are slots to hand over, what the child
            # sends is looked at before the next time, and wakes nobody.
            if ring.free or due_sec is None:
                self._stop_listening()
            else:
                self._listen(ring)
        if ring.free and due_sec is not None:
            self._feed_in(max(due_sec, self._gather_sec))

    def _put(self, ring: Ring, item: T) -> None:
        message = self._encode(item)
        if isinstance(message, bytes):
            ring.tell(message)
            return
        try:
            ring.put(message.header, message.body)
        except ValueError as error:
            self.lost += 1
            logger.warning("%s: %s", self.name, error)


class Children:
    """All children of the server: started one by one, ended together."""

    def __init__(self) -> None:
        self._children: list[Child[Any]] = []

    def add(self, child: Child[Any]) -> None:
        """End this one too in `stop`, and list it."""
        self._children.append(child)

    def __iter__(self) -> Iterator[Child[Any]]:
        return iter(self._children)

    def stop(self) -> None:
        """End them all, in the time that the slowest takes."""
        for child in self._children:
            child.begin_stop()
        for child in self._children:
            child.stop()


def decoding_environ(max_pixels: int) -> dict[str, str]:
    """The variables for a child that decodes what strangers send."""
    return {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(max_pixels),
        "GLIBC_TUNABLES": ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), WIPE_MEMORY))),
    }


def _nothing() -> None:
    """What there is to stop before anything has begun."""


def _status(process: "subprocess.Popen[bytes]", within_sec: float) -> int | None:
    """The exit status of a process that ends within this time, else None."""
    deadline = time.monotonic() + within_sec
    while process.poll() is None and time.monotonic() < deadline:
        green.sleep(0.01)
    return process.returncode


def ended_with(status: int) -> str:
    """What is said of a process that has ended by itself."""
    return f"it ended with status {status}"


def _obituary(process: "subprocess.Popen[bytes]") -> str:
    """How a process ended that has closed its end of the ring."""
    status = _status(process, LOOK_SEC)
    if status is None:
        return "it closed its end of the ring"
    return ended_with(status) if status >= 0 else f"it was ended by {signal.Signals(-status).name}"
