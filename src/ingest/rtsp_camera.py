"""Cameras that speak RTSP: a child process receives the video, and its pictures come in here."""

import logging
from collections.abc import Callable, Iterator
from math import inf
from typing import Final
from urllib.parse import quote

import green
from capture import wire
from children import Child, Children
from frames import Limits, too_many_bytes
from hub import Refusal, Result, Stream
from ingest.door import Door
from ingest.pull.camera_url import CameraUrl
from rate import NO_LIMIT_HZ
from ring import BrokenRing

logger = logging.getLogger(__name__)

#: Pictures that may wait for the server: one that it copies, one that has come meanwhile, and one that is being made.
OWN_SLOTS: Final = 3
#: Before anybody knows how many are wanted: one opens the stream, and that says it.
FIRST_HZ: Final = 1.0
#: To look up a name, for which a name server that does not answer is waited for half a minute, and to connect, which
#: has deadlines of its own (`OPEN_SEC` of capture/video.py, twice).
CALLING_SEC: Final = 60.0
#: To say something while a video comes, or a pause is made: twice what the child gives a silent camera.
SILENT_SEC: Final = 20.0
#: Orders are short; the smallest memory there is.
ORDER_BYTES: Final = 1
#: Libraries for numbers begin a thread for each core, with addresses that count as memory; there is a process a camera.
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class RtspCamera:
    """One camera that the operator lists; the `Sender` of its streams, one after the other.

    It is called again and again until `stop`. Its stream opens with the first picture, whatever that is, and ends when
    the connection does. While no pictures are wanted the child hangs up, and the stream goes on.

    Args:
        url: rtsp or rtsps.
        user: whose it is.
        name: of the child, for the log and the metrics, such as `rtsp-1`; no user's.
        limits: of the pictures.

    Attributes:
        stream: the live one, if there is one.
        frames: pictures that came from the child.
        skipped: pictures of the camera that were not wanted: they came faster than the wanted rate, or late.
        replaced: pictures that waited for the server until newer ones took their places.
        failures: connections that did not come about, or ended.
        unsent: results and complaints, which a camera cannot be told.
    """

    def __init__(self, door: Door, children: Children, url: CameraUrl, user: str, name: str, limits: Limits) -> None:
        self.stream: Stream | None = None
        self.frames = 0
        self.skipped = 0
        self.replaced = 0
        self.failures = 0
        self.unsent = 0
        self._door = door
        self._url = url
        self._user = user
        self._limits = limits
        self._orders = _Orders()
        self._connected = False
        self._opening = False
        self._newest: bytes | Refusal = b""  # while the stream opens
        self._said = ""  # in the log, of why there is no connection
        self._stopped = False
        self.child: Child[bytes] = Child(
            name,
            ["-m", "capture"],
            self._orders,
            bytes,
            slot_bytes=ORDER_BYTES,
            slots=1,
            deadline_sec=SILENT_SEC,
            greeting=self._greeting,
            on_answer=self._hear,
            own_slots=OWN_SLOTS,
            own_slot_bytes=limits.max_frame_bytes,
            on_delivery=self._receive,
            owes=lambda: True,  # it always says something from time to time
            on_end=self._lose_child,
            environ=ONE_THREAD,
        )
        children.add(self.child)

    def start(self) -> None:
        """Begin to call the camera; never waits."""
        self.child.start_later()

    def stop(self) -> None:
        """End the stream, and let the child end, for which `Children.stop` waits. Never waits; may be called again."""
        self._stopped = True
        self._disconnect()
        self.child.begin_stop()

    # What a `Sender` does

    def result(self, result: Result) -> None:
        self.unsent += 1

    def rate(self, rate_hz: float) -> None:
        self._orders.want(inf if rate_hz >= NO_LIMIT_HZ else rate_hz)

    def error(self, code: str, message: str) -> None:
        self.unsent += 1

    def close(self, reason: str) -> None:
        """End the connection; the camera is called again after the longest pause there is between two calls."""
        logger.info("%s: %s: hung up on: %s", self.child.name, self._url.shown, reason)
        self._orders.hang_up()
        self._disconnect()

    # What the child says

    def _greeting(self) -> Iterator[bytes]:
        self._orders.begin(FIRST_HZ)
        yield wire.Call(_with_login(self._url), self._limits.max_pixels).pack()

    def _hear(self, report: bytes) -> None:
        kind, payload = report[:1], report[1:]
        if kind == bytes([wire.CALLING]):
            self.child.deadline_sec = CALLING_SEC
        elif kind == bytes([wire.CONNECTED]):
            self.child.deadline_sec = SILENT_SEC
            self._connect(wire.Video.unpack(payload))
        elif kind == bytes([wire.ALIVE]):
            self._count(payload)
        elif kind == bytes([wire.TOO_LARGE]):
            size = wire.unpack_size(payload)
            self._bring(Refusal("too_many_bytes", too_many_bytes(size, self._limits.max_frame_bytes)))
        elif kind == bytes([wire.LOST]):
            self.child.deadline_sec = SILENT_SEC
            self._lose(wire.unpack_reason(payload))
        else:
            raise BrokenRing(f"a report of kind {kind.hex()} came")

    def _receive(self, header: bytes, image: bytes) -> None:
        self._count(header)
        self.frames += 1
        self._bring(image)

    def _bring(self, picture: bytes | Refusal) -> None:
        """To the stream, or open one."""
        if self.stream is not None:
            _give(self.stream, picture)
        elif self._connected:
            self._newest = picture
            if not self._opening:
                self._opening = True
                green.spawn(self._open)

    def _count(self, counts: bytes) -> None:
        skipped, replaced = wire.Counts.unpack(counts)
        self.skipped += skipped
        self.replaced += replaced

    def _connect(self, video: wire.Video) -> None:
        self._connected = not self._stopped
        self._said = ""
        logger.info(
            "%s: %s sends %s, %d x %d pixels", self.child.name, self._url.shown, video.codec, video.width, video.height
        )

    def _open(self) -> None:
        stream = self._door.open_stream(self._user, "pull", self)
        self._opening = False
        newest, self._newest = self._newest, b""
        if not self._connected:  # any more
            self._door.end_stream(stream)
            return
        self.stream = stream
        self._orders.want(inf if stream.wanted_hz is None else stream.wanted_hz)
        _give(stream, newest)

    def _lose(self, reason: str) -> None:
        self.failures += 1
        if reason != self._said:  # a camera that is not there is called for days
            logger.warning("%s: %s: %s; it is called again", self.child.name, self._url.shown, reason)
            self._said = reason
        self._disconnect()

    def _lose_child(self, _why: str) -> None:
        self.child.deadline_sec = SILENT_SEC
        self._disconnect()

    def _disconnect(self) -> None:
        self._connected = False
        stream, self.stream = self.stream, None
        if stream is not None:
            self._door.end_stream(stream)
            self._orders.want(FIRST_HZ)


class _Orders:
    """What the child is to be told: a `children.Source` that keeps the newest of each kind."""

    def __init__(self) -> None:
        self.ready: Callable[[], object] = _nobody_waits
        self.published = self.dropped = self.waiting = 0  # there are no frames here
        self._rate_hz: float | None = None
        self._hang_up = False

    def want(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self.ready()

    def hang_up(self) -> None:
        self._hang_up = True
        self.ready()

    def begin(self, rate_hz: float) -> None:
        """A new child knows nothing yet."""
        self._rate_hz = rate_hz
        self._hang_up = False

    def take(self, _now: float | None = None) -> bytes | None:
        if self._hang_up:
            self._hang_up = False
            return bytes([wire.HANG_UP])
        rate_hz, self._rate_hz = self._rate_hz, None
        return None if rate_hz is None else wire.pack_rate(rate_hz)

    def due_in(self, _now: float | None = None) -> float | None:
        return None


def _give(stream: Stream, picture: bytes | Refusal) -> None:
    if isinstance(picture, Refusal):
        stream.refuse(picture)
    else:
        stream.offer(picture)


def _with_login(url: CameraUrl) -> str:
    """The address as ffmpeg reads it."""
    login = "" if url.login is None else f"{':'.join(quote(part, safe='') for part in url.login)}@"
    return f"{url.scheme}://{login}{url.host_and_port}{url.path}"


def _nobody_waits() -> None:
    """`ready` before the child's own."""
