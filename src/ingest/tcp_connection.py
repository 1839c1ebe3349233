"""One connection of a desktop, whose cameras send images one after the other (tcp_framing.py) and are told nothing.

Rule 1. A camera of a connection is a stream. What comes faster than the stream's limit is refused, passed over and
        counted; whatever else is wrong ends the connection, for there is no other way to tell.
Rule 2. An image has memory when its bytes are there, and they are counted until it is inflated.
Rule 3. One receive a turn, and a bounded number of messages; nothing more is received while an image is inflated.
Rule 4. The loop itself drives it, as greenlets and timers would take as much as inflating. One begins where something
        may wait: for a new camera's user and name.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from engine.transport import transport_of
from engine.unfinished import Unfinished
from engine.websocket import MAX_WAKE_BYTES, SMALL_REST_BYTES
from frames import InvalidFrame, Limits, end_of_bmp
from green import call_later, on_readable, spawn
from hub import Refusal, Result, Stream
from ingest.door import Door
from ingest.inflate import gunzip
from ingest.inflater import Inflater, Share
from ingest.kept_images import KeptImages
from ingest.tcp_framing import MalformedMessage, TcpMessages

logger = logging.getLogger(__name__)

#: A new connection has so long for its first message.
FIRST_MESSAGE_SEC: Final = 10.0
#: A message that has begun has so long to be all there.
MESSAGE_SEC: Final = 10.0
#: Cameras of one connection. Each is a stream; numbers go to 255, and no desktop has so many cameras.
CAMERAS_PER_CONNECTION: Final = 32
#: After so many messages that were refused for the rate the others have their turn: a message may have 6 bytes.
REFUSED_A_TURN: Final = 100

_BMP: Final = b"BM"


class Owner(Protocol):
    """What a connection needs of its gateway, and tells it.

    Attributes:
        unfinished: what connections hold of messages under way, …
        newcomers: … and those that have not sent a whole one yet.
        scratch: what is received into, by one connection at a time.
        unsent: what cameras could not be told.
    """

    door: Door
    limits: Limits
    unfinished: Unfinished
    newcomers: Unfinished
    kept: KeptImages
    inflater: Inflater
    scratch: memoryview
    idle_sec: float
    unsent: int

    def is_served(self, connection: "TcpConnection") -> None:
        """It has sent a whole message."""

    def begins(self, stream: Stream, camera: int, address: str) -> None:
        """A camera sends its first image."""

    def ended(self, connection: "TcpConnection", cause: str, why: str | None) -> None:
        """It has ended.

        Args:
            cause: a word, for the metrics.
            why: for the log; None when it goes without saying.
        """


class _Over(Exception):
    """The connection is to end; arguments as of `Owner.ended`."""

    def __init__(self, cause: str, why: str | None = None) -> None:
        super().__init__(why)
        self.cause = cause
        self.why = why


class _Camera:
    """One camera, and the `Sender` of its stream: it can be told nothing."""

    __slots__ = ("__weakref__", "_connection", "_owner", "stream")

    def __init__(self, owner: Owner, connection: "TcpConnection") -> None:
        self._owner = owner
        self._connection = connection
        self.stream: Stream

    def result(self, result: Result) -> None:
        self._owner.unsent += 1

    def rate(self, rate_hz: float) -> None:
        self._owner.unsent += 1

    def error(self, code: str, message: str) -> None:
        self._owner.unsent += 1

    def close(self, reason: str) -> None:
        self._connection.close("disconnected", reason)


class TcpConnection:
    """One connection, until it ends.

    Args:
        sock: its green socket; nothing else may use it any more.
        address: the desktop's.

    Attributes:
        address: as given.
        deadline: when its time is over (time.monotonic), unless something else is waited for.
    """

    __slots__ = (
        "_admitted", "_begun", "_body", "_busy", "_cameras", "_claimed", "_ended", "_first_streams",
        "_messages", "_over", "_owner", "_served", "_share", "_socket", "_transport", "_unlisten", "_users", "_wake_at",
        "address", "deadline",
    )  # fmt: skip

    def __init__(self, owner: Owner, sock: Any, address: str) -> None:
        self._owner = owner
        self._socket = sock
        self._transport = transport_of(sock)
        self.address = address
        self._messages = TcpMessages(owner.limits.max_frame_bytes)
        self._admitted = False  # the message under way may come, as far as the rate goes
        self._share = Share()
        self._body: memoryview | None = None  # what is being inflated, or is to be
        self._cameras: dict[int, _Camera] = {}
        self._users: dict[int, str] = {}  # of cameras that begin
        self._claimed: str | None = None  # the user for cameras that are nobody's
        self._first_streams: dict[str, Stream] = {}  # by user
        self._busy = False  # an image is inflated, or something is waited for
        self._over: _Over | None = None
        self._ended = False
        self._wake_at = 1
        self._served = False  # it has sent a whole message
        self._begun = False  # the deadline is that of the message under way
        self.deadline = time.monotonic() + FIRST_MESSAGE_SEC
        self._unlisten: Callable[[], None] | None = None
        self._listen()

    # -- the end

    def close(self, cause: str, why: str | None = None) -> None:
        """End it; never waits, and is harmless when it has ended."""
        if self._over is None:
            self._over = _Over(cause, why)
            self._stop_listening()
            try:
                self._transport.shut_down()
            except OSError:
                pass  # the camera was faster
            if not self._busy:
                call_later(0, self._finish)  # whoever calls may be in the middle of something

    def give_way(self) -> None:
        """`Holder`'s: others need the memory."""
        self._body = None
        self._messages.forget()
        self.close("memory", "its unfinished message took most memory for longest, and others need it")

    def look_at_the_time(self, now: float) -> None:
        """End it if its time is over. Called now and then."""
        if now >= self.deadline and not self._busy:
            self.close(*self._late())

    def _late(self) -> tuple[str, str]:
        if not self._served:
            return "slow", f"no whole message within {FIRST_MESSAGE_SEC:g} s"
        if self._begun:
            return "slow", f"a message was not all there within {MESSAGE_SEC:g} s"
        return "silent", f"nothing came for {self._owner.idle_sec:g} s (--tcp-idle-sec)"

    def _finish(self) -> None:
        if self._ended or self._over is None:
            return
        self._ended = True
        self._stop_listening()
        self._body = None
        self._messages.forget()
        self._hold(0)
        self._socket.close()
        for camera in self._cameras.values():
            self._owner.kept.forget(camera.stream)
            self._owner.door.end_stream(camera.stream)
        if self._claimed is not None:
            self._owner.door.release_user(self._claimed)
        self._owner.ended(self, self._over.cause, self._over.why)

    # -- receiving

    def _listen(self) -> None:
        if self._unlisten is None:
            self._unlisten = on_readable(self._transport.fileno, self._receive)

    def _stop_listening(self) -> None:
        unlisten, self._unlisten = self._unlisten, None
        if unlisten is not None:
            unlisten()

    def _receive(self) -> None:
        """Receive once, as something is there. Called by the loop."""
        if self._busy or self._over is not None:
            self._stop_listening()  # it waits in its socket
            return
        messages = self._messages
        try:
            if messages.skipping:
                size = self._transport.skip(messages.skipping)
                messages.skipped(size)
            else:
                scratch = self._owner.scratch
                size = self._transport.receive_into((scratch,))
                messages.receive(scratch[:size])
        except BlockingIOError:
            return
        except OSError as error:
            self.close("reset", f"{error.strerror}, within a message" if messages.begun else None)
            return
        if size:
            self._go_on()
        elif messages.begun:
            self.close("truncated", f"it ended within a message, at least {messages.missing} bytes too early")
        else:
            self.close("goodbye")

    def _go_on(self) -> None:
        """Act on what has come; on what comes later when that is there. Never waits."""
        try:
            refused = 0
            while self._take_message():
                refused += 1
                if refused == REFUSED_A_TURN:
                    self._go_on_later()
                    return
            self._expect_more()
        except _Over as over:
            self.close(over.cause, over.why)
        except Exception:
            logger.exception("a camera's connection ended with an error")
            self.close("error")

    def _go_on_later(self) -> None:
        def go_on() -> None:
            self._busy = False
            self._resume()

        self._busy = True
        call_later(0, go_on)

    def _resume(self) -> None:
        """What was waited for is there."""
        if self._over is not None:
            self._finish()
            return
        self._go_on()
        if not self._busy and self._over is None:
            self._listen()

    def _expect_more(self) -> None:
        """Have the loop tell when the rest of the message is there, or much of it."""
        messages = self._messages
        if messages.begun != self._begun:  # it has begun, or was passed over to its end
            self._begun = messages.begun
            if self._served:
                self.deadline = time.monotonic() + (MESSAGE_SEC if self._begun else self._owner.idle_sec)
        if messages.held:
            self._hold(messages.held)
        if not self._busy and self._over is None:
            wake_at = messages.missing
            wake_at = 1 if wake_at < SMALL_REST_BYTES else min(wake_at, MAX_WAKE_BYTES)
            if wake_at != self._wake_at:
                self._wake_at = wake_at
                self._transport.wake_at(wake_at)

    # -- messages

    def _take_message(self) -> bool:
        """Do what can be done for the message under way; True when it is over, and there may be another one.

        Raises:
            _Over: it is none.
        """
        messages = self._messages
        if self._busy or messages.skipping or self._over is not None:
            return False
        try:
            head = messages.head()
        except MalformedMessage as error:
            if (large := self._cameras.get(error.too_large_of)) is not None:
                large.stream.refuse(Refusal("too_many_bytes", str(error)))
            raise _Over("malformed", str(error)) from None
        if head is None:
            return False
        camera = self._cameras.get(head.camera)
        if camera is None:
            if not self._has_user(head.camera):
                return False
        elif not self._admitted:
            refusal = camera.stream.admit(0)  # its size is known when it is inflated
            if refusal is not None:
                camera.stream.refuse(refusal)
                if refusal.code != "rate":
                    raise _Over("refused", refusal.message)
                messages.skip()
                self._message_ends()
                return True
            self._admitted = True
        self._body = messages.body()
        if self._body is not None:
            self._busy = True
            self._owner.inflater.run(self._share, self._inflate, self._inflated)
        return False

    def _inflate(self) -> bytes | Refusal:
        """In a thread, when there is one; the image may have given way by then."""
        body = self._body
        if body is None:
            return b""
        try:
            image = gunzip(body, self._owner.limits.max_frame_bytes)
            if not image.startswith(_BMP):
                return Refusal("not_an_image", f"{image[:2]!r} came first, expected a BMP file's {_BMP!r}")
            behind = len(image) - end_of_bmp(image)
            if behind > 0:
                return Refusal("not_an_image", f"{behind} bytes came behind the end of the BMP, expected none")
        except InvalidFrame as error:
            return Refusal(error.code, str(error))
        return image

    def _inflated(self, outcome: Any) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.release()  # or what it is a part of could not be changed
        if self._over is not None:
            self._busy = False
            self._finish()
        elif isinstance(outcome, Exception):
            logger.error("an image could not be inflated: %r", outcome)
            self._busy = False
            self.close("error")
        elif isinstance(outcome, Refusal) and self._messages.reads_otherwise(outcome.code == "truncated"):
            self._busy = False
            self._resume()
        else:
            self._use(outcome)

    def _use(self, image: bytes | Refusal) -> None:
        """Offer what the message under way was to its stream."""
        head = self._messages.head()
        assert head is not None
        camera = self._cameras.get(head.camera)
        if camera is None:
            spawn(self._begin, head.camera, image)
            return
        self._busy = False
        self._offer(camera.stream, image)
        self._resume()

    def _offer(self, stream: Stream, image: bytes | Refusal) -> None:
        try:
            refusal = stream.refuse(image) if isinstance(image, Refusal) else stream.publish(image)
        except Exception:
            logger.exception("an image could not be published")
            self.close("error")
            return
        if refusal is not None:
            self.close("refused", f"an image of {stream.name}: {refusal.message}")
            return
        self._share.known = True
        self._messages.end()
        self._message_ends()
        self._owner.kept.keep(stream, len(image))

    def _message_ends(self) -> None:
        self._hold(0)
        if not self._served:
            self._served = True
            self._owner.is_served(self)
        self._admitted = False
        self._begun = False
        self.deadline = time.monotonic() + self._owner.idle_sec

    def _hold(self, size: int) -> None:
        """Count what is held of the message under way."""
        (self._owner.unfinished if self._served else self._owner.newcomers).hold(self, size, self.address)

    # -- streams

    def _has_user(self, camera: int) -> bool:
        """Whether it is known whose camera this is; otherwise it is found out now.

        Raises:
            _Over: it is one too many.
        """
        if camera in self._users:
            return True
        if len(self._cameras) >= CAMERAS_PER_CONNECTION:
            raise _Over("cameras", f"a camera {camera} beside {CAMERAS_PER_CONNECTION} others, which are the most")
        user = self._owner.door.user_of_camera(self.address, camera) or self._claimed
        if user is None:
            self._busy = True
            spawn(self._claim, camera)
            return False
        self._users[camera] = user
        return True

    def _claim(self, camera: int) -> None:
        try:
            self._claimed = self._owner.door.claim_user("tcp")
        finally:
            self._busy = False
            if self._claimed is None:
                self.close("nobody's", f"its camera {camera} is nobody's (--tcp-users says whose)")
        self._resume()

    def _begin(self, number: int, image: bytes | Refusal) -> None:
        """Begin a camera's stream with its first image."""
        user = self._users.pop(number)
        camera = _Camera(self._owner, self)
        first = self._first_streams.get(user)
        name = None if first is None else f"{first.name}~cam{number}"
        try:
            camera.stream = stream = self._owner.door.open_stream(user, "tcp", camera, name=name)
            self._cameras[number] = camera  # from now on it ends with the connection
            self._first_streams.setdefault(user, stream)
            if self._over is None:
                self._owner.begins(stream, number, self.address)
                stream.admit(0)
                self._offer(stream, image)
        except Exception:
            logger.exception("a camera's stream could not begin")
            self.close("error")
        finally:
            self._busy = False
        self._resume()
