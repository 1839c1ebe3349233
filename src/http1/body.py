"""The bytes of a connection and of a request's body, each within its deadline.

head      10 s from its first chance to come; the same for an idle connection
body      10 s from the first wait for it, then as long as it averages 4 KiB/s
answer    10 s, then as long as the client takes 4 KiB/s
"""

import socket
import sys
import time
from collections.abc import Iterator
from typing import Final

from green import sleep
from http1 import framing
from http1.framing import BadRequest

#: How long a client may take over a head, and over a body or an answer before it is asked how fast it is. A phone on
#: a bad line needs 1 s; who needs more than 10 holds a connection that others could have.
REQUEST_SEC: Final = 10.0
#: The average that a body or an answer must keep after that. A phone's uplink at its worst is five times as fast.
SLOWEST_BYTES_PER_SEC: Final = 4096
#: One receive reads at most so much, and after so many of them the others have their turn: a frame that comes in a
#: POST is received in one, which saves a sixth of its cost.
RECEIVE_BYTES: Final = 64 * 1024
RECEIVES_PER_TURN: Final = 4
#: The same of a body in chunks: to read one costs 2 us, however small it is.
CHUNKS_PER_TURN: Final = 1_000
#: So much of a chunked body is read before the application runs, so that a body in wrong chunks is answered by 400.
#: And so much of one that the application did not read is read and forgotten, to keep the connection.
SMALL_BODY_BYTES: Final = 64 * 1024
#: After an answer that ends the connection: time for the client to read it. A socket closed with unread bytes takes
#: the answer back.
LINGER_SEC: Final = 2.0

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Gone(BaseException):
    """The client has closed the connection, or is too slow; there is nobody to answer.

    No `Exception`, as eventlet.wsgi takes those for the application's and logs them.
    """


class BadBody(OSError):
    """A body that cannot be had.

    Attributes:
        status: for an answer, as `400 Bad Request`.
    """

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


class Wire:
    """The bytes of one connection, with deadlines.

    Args:
        sock: a green socket; its timeout is ours.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = bytearray()  # and not yet read
        self._receives = 0  # in this turn

    def receive(self, deadline: float, size: int = RECEIVE_BYTES) -> None:
        """Wait for more bytes, and append them to `received`.

        Raises:
            Gone: there are no more.
            TimeoutError: the deadline (time.monotonic) is over first.
        """
        self.received += self._receive(deadline, size)

    def take(self, size: int, deadline: float) -> bytes:
        """The next bytes, at most `size`, at least one; waits for them if none are there.

        Raises:
            Gone, TimeoutError: as `receive`.
        """
        if not self.received:
            return self._receive(deadline, min(size, RECEIVE_BYTES))
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def send(self, data: bytes) -> None:
        """Send all of it, as long as the client takes it at the slowest speed.

        Raises:
            Gone: it does not.
        """
        began = time.monotonic()
        rest = memoryview(data)
        try:
            while rest:
                self._wait_until(_slowest(began, len(data) - len(rest)))
                rest = rest[self.socket.send(rest) :]
        except OSError as error:  # a TimeoutError is one
            _forget_frames(error)
            raise Gone from error

    def linger(self) -> None:
        """Say that nothing more is sent, and forget what comes until the client has read that."""
        deadline = time.monotonic() + LINGER_SEC
        try:
            self.socket.shutdown(socket.SHUT_WR)
            while True:
                self.received.clear()
                self.receive(deadline)
        except (OSError, Gone):
            pass

    # What eventlet.wsgi writes answers to.

    def writelines(self, pieces: list[bytes]) -> None:
        self.send(b"".join(pieces))

    def flush(self) -> None:
        """Nothing is kept back."""

    def _receive(self, deadline: float, size: int) -> bytes:
        if self._receives == RECEIVES_PER_TURN:
            self._receives = 0
            sleep(0)  # also when more is there already
        self._receives += 1
        self._wait_until(deadline)
        try:
            data = self.socket.recv(size)
        except TimeoutError as error:
            _forget_frames(error)
            raise TimeoutError from None
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        return data

    def _wait_until(self, deadline: float) -> None:
        left_sec = deadline - time.monotonic()
        if left_sec <= 0:
            raise TimeoutError
        self.socket.settimeout(left_sec)


class Body:
    """A request's body, as `wsgi.input`; it ends where the body ends.

    Its `read…` raise OSError (`BadBody`) when the body cannot be had: it is cut off, too slow, or in wrong chunks.
    """

    def __init__(self, wire: Wire, length: int | None, expects_continue: bool) -> None:
        self._wire = wire
        self._left = length or 0  # of the body, or of the chunk under way
        self._chunked = length is None
        self._chunks = 0
        self._between_chunks = False  # the CRLF of a chunk has to be read first
        self._ready = bytearray()  # chunks that were read before the application asked
        self._began: float | None = None
        self._taken = 0  # bytes taken off the wire
        self.should_send_hundred_continue = expects_continue
        self.headers_sent: list[int] = []  # of the answer; eventlet.wsgi's
        self.failed = False

    # What eventlet.wsgi looks at in order to read what the application left; that is done by `skip`.
    chunked_input: Final = False
    position: Final = 0
    content_length: Final = 0

    @property
    def all_read(self) -> bool:
        return not (self._left or self._chunked or self._ready)

    @property
    def can_be_skipped(self) -> bool:
        """Whether what was not read is so little that the connection can go on after it."""
        return not self.failed and not self._chunked and self._left <= SMALL_BODY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, all of the rest without; fewer only at the end."""
        left = sys.maxsize if size is None or size < 0 else size
        parts = []
        while left and (part := self.read1(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def read1(self, wanted: int) -> bytes:
        """What there is, at most so much; waits for something when there is nothing. Empty only at the end."""
        if self._ready:
            part = bytes(self._ready[:wanted])
            del self._ready[:wanted]
            return part
        return self._from_wire(wanted)

    def readline(self, size: int | None = -1) -> bytes:
        """Up to the next newline, inclusive."""
        left = sys.maxsize if size is None or size < 0 else size
        parts = []
        while left and (part := self.read1(left)):
            end = part.find(b"\n") + 1
            if end:
                self._ready[:0] = part[end:]
                part = part[:end]
            parts.append(part)
            left -= len(part)
            if end:
                break
        return b"".join(parts)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        lines: list[bytes] = []
        for line in self:
            lines.append(line)
            if hint and sum(map(len, lines)) >= hint:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def read_ahead(self) -> None:
        """Read what a small chunked body has before anybody asks for it.

        Raises:
            BadBody: see `BadBody.status` for the answer.
        """
        while self._chunked and len(self._ready) < SMALL_BODY_BYTES:
            self._ready += self._from_wire(SMALL_BODY_BYTES)

    def skip(self) -> None:
        """Read the rest and forget it.

        Raises:
            BadBody: it does not come.
        """
        self._ready.clear()
        while self._from_wire(RECEIVE_BYTES):
            pass

    def _from_wire(self, wanted: int) -> bytes:
        """Between one and `wanted` bytes of the body; none at its end."""
        try:
            if self._chunked and not self._left:
                self._begin_chunk()
            if not self._left:
                return b""
            part = self._wire.take(min(wanted, self._left), self._deadline())
            self._taken += len(part)
            self._left -= len(part)
            self._between_chunks = self._chunked
            return part
        except BadRequest as error:
            self.failed = True
            raise BadBody(str(error), error.status) from None
        except TimeoutError:
            self.failed = True
            raise BadBody(
                f"a body that came slower than {SLOWEST_BYTES_PER_SEC} bytes a second", "408 Request Timeout"
            ) from None
        except Gone:
            self.failed = True
            raise BadBody(f"a body that ends {self._left} bytes too early") from None

    def _begin_chunk(self) -> None:
        self._chunks += 1
        if self._chunks % CHUNKS_PER_TURN == 0:
            sleep(0)
        if self._between_chunks:
            if self._line() != b"":
                raise BadRequest("a chunk that is longer than its size")
            self._between_chunks = False
        self._left = framing.chunk_size(self._line())
        if not self._left:
            if self._line() != b"":
                raise BadRequest("trailers after the last chunk")
            self._chunked = False

    def _line(self) -> bytes:
        received = self._wire.received
        longest = framing.MAX_CHUNK_DIGITS + len(framing.END_OF_LINE)
        while (end := received.find(framing.END_OF_LINE, 0, longest)) < 0:
            if len(received) >= longest:
                raise BadRequest("a chunk whose first line does not end")
            self._wire.receive(self._deadline())
        line = bytes(received[:end])
        del received[: end + len(framing.END_OF_LINE)]
        return line

    def _deadline(self) -> float:
        """Until when more must have come; the client is told to go on, if it waits for that."""
        if self.should_send_hundred_continue:
            self.should_send_hundred_continue = False
            if not self.headers_sent:
                self._wire.send(CONTINUE)
        if self._began is None:
            self._began = time.monotonic()
        return _slowest(self._began, self._taken)


def _forget_frames(error: OSError) -> None:
    """Break a cycle of eventlet's: a frame that holds the error that holds the frame, and all that is in it, until the
    garbage collector comes; a crowd of slow clients would leave 10 MB of that."""
    error.__traceback__ = None


def _slowest(began: float, taken: int) -> float:
    """Until when the next bytes must come, if so many came (or went) since `began`."""
    # The second: who sends nearly all at once must not have bought an hour for the rest.
    return min(began + max(REQUEST_SEC, taken / SLOWEST_BYTES_PER_SEC), time.monotonic() + REQUEST_SEC)
