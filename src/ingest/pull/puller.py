"""A camera that is pulled: its images are fetched, one after the other, as many as are wanted.

      wait for the turn ─► fetch ─► unwrap (in a thread, if it is wrapped) ─► Stream.publish
             ▲               │ no answer: the stream ends                        │ refused
             └── 0.25 s, doubled each time, up to 5 or 30 ◄──────────────────────┘ 0.5 s, …, up to 30

Rule 1. The stream is there while fetches succeed, whatever they bring: it begins with an answer, and ends where there
        is none.
Rule 2. A camera that fails, hangs or sends rubbish is asked less and less often.
Rule 3. Whether it is asked or pushes: no more images are offered than are wanted, and none is refused for its rate.
"""

import logging
import time
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple, Protocol

from engine.unfinished import Unfinished
from frames import InvalidFrame
from green import Signal, Task, call_later, spawn
from hub import Refusal, Result, Stream
from ingest.door import LIFE_LINES_PER_SEC, Door
from ingest.inflater import Inflater, Share
from ingest.pull.bodies import is_plain, read_image
from ingest.pull.http_camera import FetchFailed
from rate import InSum, TokenBucket
from serving import Crowds

logger = logging.getLogger(__name__)

#: A camera that gives no answer is asked again after this, doubled each time: one that has just registered itself
#: listens in a moment.
RETRY_SEC: Final = 0.25
#: The longest pause between two attempts at a camera that registered itself: it will soon be given up.
REGISTERED_RETRY_SEC: Final = 5.0
#: And at one that the operator listed, which may be switched off for the night.
LISTED_RETRY_SEC: Final = 30.0
#: A stream that was there for less does not shorten the pauses again: a camera that fails every second time must not
#: begin two streams a second.
STEADY_SEC: Final = 5.0
#: A camera that registered itself is given up when it has not answered for so long; it may register itself again.
GIVE_UP_SEC: Final = 60.0
#: After the second refused answer in a row comes a pause, doubled each time: what comes is no image, or hard to read.
REFUSED_PAUSE_SEC: Final = 0.5
REFUSED_PAUSE_MAX_SEC: Final = 30.0
#: A camera of which nothing is wanted is asked so often whether it is still there.
UNWANTED_SEC: Final = 30.0
#: How far before its time an image that is pushed may come, in parts of the time between two: a camera of just the
#: wanted rate is never quite regular.
EARLY: Final = 0.5
#: So many images a second are read of what is pushed, or twice as many as the stream may have: cameras send 25, some
#: 60. What is pushed faster is not skipped at our cost, but waits until the connection takes it.
PUSHED_HZ: Final = 120.0
FLOOD_PAUSE_SEC: Final = 0.1
#: When so much less is kept of answers that are not all there, the memory that they had goes back to the system:
#: cameras by the hundred that never end their answers leave half as much again behind as they may take.
CROWD_BYTES: Final = 64 << 20


class Camera(Protocol):
    """What is needed of an `ingest.pull.http_camera.HttpCamera`."""

    @property
    def pushes(self) -> bool: ...
    def next_body(self) -> bytes: ...
    def close(self) -> None: ...


class Kind(NamedTuple):
    """How long a camera is waited for.

    Args:
        retry_max_sec: the longest pause between two attempts.
        give_up_sec: so long it may give no answer; None for as long as it likes.
    """

    retry_max_sec: float
    give_up_sec: float | None


REGISTERED: Final = Kind(REGISTERED_RETRY_SEC, GIVE_UP_SEC)
LISTED: Final = Kind(LISTED_RETRY_SEC, None)


class Record:
    """What has come of all pulled cameras, in numbers and in the log.

    Attributes:
        fetches: answers, whatever was in them.
        failed: attempts that brought none.
        skipped: images that came before their time, and were not looked at.
        unsent: results and messages for cameras, which cannot be told anything.
    """

    def __init__(self) -> None:
        self.fetches = 0
        self.failed = 0
        self.skipped = 0
        self.unsent = 0
        self._lines = InSum(LIFE_LINES_PER_SEC, time.monotonic())
        self._crowds = Crowds(CROWD_BYTES)

    def count_failure(self, unfinished_bytes: int) -> None:
        """An answer did not come to its end; so much is kept of others."""
        self.failed += 1
        self._crowds.count(unfinished_bytes)

    def say(self, camera: str, what: str) -> None:
        """Write a line, once a second about the same, and no more in all than anybody can read."""
        line = f"{camera}: {what}"
        if (left_out := self._lines.count(line, time.monotonic())) is not None:
            logger.info("%s%s", line, left_out)


class Puller:
    """One camera that is pulled; it is the `Sender` of its stream.

    Args:
        shown: the camera's address, for people.
        find_user: says whose camera it is; called before its first stream. May wait, and raise `FetchFailed`.
        max_frame_bytes: the largest image.
        inflater: where images are unwrapped.
        unfinished: where it is counted what waits for that.
        ended: called when the camera is given up or stopped, after everything else.

    Attributes:
        stopped: it is pulled no more, and ends, or has ended.
    """

    def __init__(
        self,
        camera: Camera,
        shown: str,
        kind: Kind,
        door: Door,
        find_user: Callable[[], str],
        max_frame_bytes: int,
        inflater: Inflater,
        unfinished: Unfinished,
        record: Record,
        ended: Callable[["Puller"], object],
    ) -> None:
        self._camera = camera
        self.shown = shown
        self._kind = kind
        self._door = door
        self._find_user = find_user
        self._max_frame_bytes = max_frame_bytes
        self._inflater = inflater
        self._unfinished = unfinished
        self._record = record
        self._ended = ended
        self._user: str | None = None
        self._stream: Stream | None = None
        self._body: bytes | None = None  # an answer that has not been unwrapped yet
        self._opened_at = 0.0
        self._last_at = -inf  # when the last image that was wanted was due
        self._not_before = -inf  # there is a pause until then
        self._pushed = TokenBucket(PUSHED_HZ, 0.0)
        self._not_read_before = -inf  # what it pushes too fast waits on its side
        self._failures = 0  # in a row
        self._trouble = ""  # what was said of them
        self._refusals = 0  # in a row
        self._hopeful_at = time.monotonic()  # when it answered or registered itself last
        self._share = Share()
        self._outcome: bytes | Refusal | Exception | None = None  # of the answer that was unwrapped
        self._unwrapping_done = Signal()
        self._changed = Signal()
        self.stopped = False
        self._task: Task | None = None

    @property
    def works(self) -> bool:
        """Its last fetch succeeded, and it is not one that sends rubbish."""
        return self._stream is not None and self._refusals <= 1

    def start(self) -> None:
        self._task = spawn(self._run)

    def wake(self) -> None:
        """It has registered itself again: it is worth another try at once, and the patience of a new one."""
        self._hopeful_at = time.monotonic()
        if self._stream is None:
            self._failures = 0
            self._not_before = -inf
            self._changed.set()

    def stop(self) -> None:
        """End it; never waits, `wait` does."""
        if not self.stopped:
            self.stopped = True
            self._end_stream()
            self._changed.set()
            call_later(0, self._camera.close)  # who waits in it is woken

    def wait(self) -> None:
        if self._task is not None:
            self._task.wait()

    # -- Sender

    def result(self, result: Result) -> None:
        self._record.unsent += 1

    def rate(self, rate_hz: float) -> None:
        self._changed.set()

    def error(self, code: str, message: str) -> None:
        self._record.unsent += 1

    def close(self, reason: str) -> None:
        """Send it away: one that registered itself may do so again, one that the operator listed is back after the
        longest pause."""
        self._record.say(self.shown, f"disconnected: {reason}")
        if self._kind.give_up_sec is not None:
            self.stop()
        else:
            self._end_stream()
            self._not_before = time.monotonic() + self._kind.retry_max_sec
            self._changed.set()
            call_later(0, self._camera.close)

    # -- Holder

    def give_way(self) -> None:
        """Others need the memory that an answer takes while it waits for a thread."""
        self._body = None

    # --

    def _run(self) -> None:
        try:
            while not self.stopped:
                pause_sec = self._pause_sec()
                if pause_sec > 0:
                    if self._wanted_hz == 0:
                        self._camera.close()  # nor is anything that it pushes wanted
                    self._changed.wait(pause_sec)
                else:
                    self._take_turn_safely()
        finally:
            self.stopped = True
            self._end_stream()
            self._camera.close()
            self._unfinished.hold(self, 0)
            self._ended(self)

    def _pause_sec(self) -> float:
        """How long to wait until the camera is asked, unless something changes."""
        if self._camera.pushes and self._wanted_hz != 0:
            return self._not_read_before - time.monotonic()
        return self._due_at() - time.monotonic()

    @property
    def _wanted_hz(self) -> float | None:
        return None if self._stream is None else self._stream.wanted_hz

    def _due_at(self, early: float = 0.0) -> float:
        """When the next image is wanted, or so many parts of the time between two before that."""
        return max(self._last_at + (1.0 - early) * self._interval_sec(), self._not_before)

    def _interval_sec(self) -> float:
        if self._wanted_hz == 0:
            return UNWANTED_SEC
        return 1.0 / self._wanted_hz if self._wanted_hz else 0.0

    def _take_turn_safely(self) -> None:
        """A camera that the operator listed is not given up for a fault of ours."""
        try:
            self._take_turn()
        except Exception:
            logger.exception("%s could not be pulled", self.shown)
            self._camera.close()
            self._fail(FetchFailed("malformed", "the server failed to read what it sends"))

    def _take_turn(self) -> None:
        began_at = time.monotonic()
        refusal: Refusal | None = None
        try:
            try:
                self._body = self._camera.next_body()
            except InvalidFrame as error:  # an answer all the same
                refusal = Refusal(error.code, str(error))
            self._note_answer()
        except FetchFailed as error:
            self._fail(error)
            return
        if self._camera.pushes:
            began_at = time.monotonic()
            if not self._pushed.take(began_at):
                self._not_read_before = began_at + FLOOD_PAUSE_SEC
            if began_at < self._due_at(EARLY):
                self._record.skipped += 1
                self._body = None
                return
        self._note_turn(began_at)
        refusal = self._take_body() if refusal is None else self._refuse(refusal)
        if refusal is None:
            self._refusals = 0
            self._share.known = True
        else:
            self._pause_after(refusal)

    def _note_turn(self, now: float) -> None:
        """Turns come at regular times, however long each takes; but what was missed is not made up for."""
        due_at = self._last_at + self._interval_sec()
        self._last_at = due_at if now - due_at < self._interval_sec() else now

    def _note_answer(self) -> None:
        """The camera has answered, whatever that is worth.

        Raises:
            FetchFailed: it cannot be found out whose it is.
        """
        self._record.fetches += 1
        self._hopeful_at = time.monotonic()
        if self._stream is None and not self.stopped:
            if self._user is None:
                self._user = self._find_user()
            stream = self._door.open_stream(self._user, "pull", self)
            if self.stopped:
                self._door.end_stream(stream)
                return
            self._stream = stream
            self._opened_at = time.monotonic()
            self._pushed = TokenBucket(stream.limit_hz and max(PUSHED_HZ, 2 * stream.limit_hz), self._opened_at)
            self._trouble = ""
            self._record.say(self.shown, f"pulled as stream {stream.name} of {stream.user}")

    def _take_body(self) -> Refusal | None:
        """Offer the image in the answer; says why it is not taken."""
        image = self._unwrapped()
        if isinstance(image, Refusal):
            return self._refuse(image)
        stream = self._stream
        if stream is None:  # it has been ended meanwhile
            return None
        refusal = None if image is None else stream.admit(len(image))
        if image is None or (refusal is not None and refusal.code == "rate"):
            # A low limit takes no image that is early, and fetches do not all take the same time: again soon.
            self._record.skipped += 1
            self._last_at = time.monotonic() - 0.75 * self._interval_sec()
            return None
        return stream.publish(image) if refusal is None else stream.refuse(refusal)

    def _unwrapped(self) -> bytes | Refusal | None:
        """The image in the answer, or why there is none; None when it had to give way. The answer is kept no longer."""
        assert self._body is not None
        if _is_plain(self._body):
            return self._unwrap()
        self._unfinished.hold(self, len(self._body))
        try:
            self._inflater.run(self._share, self._unwrap, self._note_outcome)
            self._unwrapping_done.wait()
        finally:
            self._unfinished.hold(self, 0)
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _unwrap(self) -> bytes | Refusal | None:
        """In a thread, when there is one, if there is something to do."""
        body, self._body = self._body, None
        try:
            return None if body is None else read_image(body, self._max_frame_bytes)
        except InvalidFrame as error:
            return Refusal(error.code, str(error))

    def _note_outcome(self, outcome: bytes | Refusal | Exception | None) -> None:
        self._outcome = outcome
        self._unwrapping_done.set()

    def _refuse(self, refusal: Refusal) -> Refusal:
        """An answer came, and holds no image."""
        return refusal if self._stream is None else self._stream.refuse(refusal)

    def _pause_after(self, refusal: Refusal) -> None:
        """Asking it as often as others is in vain; but once is no habit."""
        self._refusals += 1
        if self._refusals > 1:
            pause_sec = min(REFUSED_PAUSE_SEC * 2.0 ** min(self._refusals - 2, 10), REFUSED_PAUSE_MAX_SEC)
            self._not_before = time.monotonic() + pause_sec
            if pause_sec == REFUSED_PAUSE_SEC:
                self._record.say(self.shown, f"asked less often, its answers are refused: {refusal.message}")
            else:
                self._camera.close()  # nor is anything read of what it pushes, and no file kept open

    def _fail(self, error: FetchFailed) -> None:
        """There was no answer: the stream ends, and the camera is asked again after a pause, or no more."""
        now = time.monotonic()
        if self._stream is not None and now - self._opened_at >= STEADY_SEC:
            self._failures = 0
        self._end_stream()
        if self.stopped or (error.cause == "closed" and now < self._not_before):  # it was sent away
            return
        self._record.count_failure(self._unfinished.bytes)
        give_up_sec = self._kind.give_up_sec
        if give_up_sec is not None and now - self._hopeful_at >= give_up_sec:
            self._record.say(self.shown, f"given up, no answer for {give_up_sec:g} s: {error}")
            self.stopped = True
            return
        if error.cause != self._trouble:
            self._trouble = error.cause
            self._record.say(self.shown, f"no answer: {error}")
        pause_sec = min(RETRY_SEC * 2.0 ** min(self._failures, 10), self._kind.retry_max_sec)
        if error.cause == "login":  # cameras shut out who tries wrong logins often
            pause_sec = self._kind.retry_max_sec
        self._failures += 1
        self._not_before = now + pause_sec

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._door.end_stream(stream)


def _is_plain(body: bytes) -> bool:
    try:
        return is_plain(body)
    except InvalidFrame:  # which costs nothing either
        return True
