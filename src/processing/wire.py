"""What the server and a plug-in worker say to each other through their ring; integers in network byte order.

Server to worker, a frame and what to do with it::

    u64 stream | u64 seq | f64 received_at | u32 width | u32 height | u8 n | u8 u | u8 r
    n bytes name of the stream | u bytes user | r × (u8 plug-in | u16 position) | the image

The plug-ins are counted from 0 in the order of the worker's command line; the position is the frame's in its window, 0
where there are none. A stream's end is a control message, JSON: {"ended": stream, "plugins": [0, …]}.

Worker to server, an answer each::

    u8 kind | u64 stream | u64 seq | u8 plug-in | f32 seconds | payload

The first is `DESCRIPTION`. Then each run is answered once, in any order, `BEGUN` before it where there are several
plug-ins, so that it is known who was at work when a worker ends.
"""

from itertools import accumulate
from struct import Struct
from typing import Final, NamedTuple, Self

from ring import MAX_ANSWER_BYTES

#: The payload is JSON, a list of `Description`s as objects.
DESCRIPTION: Final = 0
#: A plug-in has begun; no payload.
BEGUN: Final = 1
#: It had nothing to say, or only keeps the frame for its window; no payload.
NOTHING: Final = 2
#: It said this, in JSON.
VALUE: Final = 3
#: It gave this picture, encoded.
PICTURE: Final = 4
#: It failed; the payload is UTF-8, for the log.
FAILED: Final = 5

_JOB: Final = Struct(">QQdIIBBB")
_RUN: Final = Struct(">BH")
_REPORT: Final = Struct(">BQQBf")

MAX_PLUGINS: Final = 255
MAX_WINDOW: Final = 65_535
#: The longest header: a slot must hold it and the largest image.
MAX_JOB_HEADER_BYTES: Final = _JOB.size + 2 * 255 + MAX_PLUGINS * _RUN.size
#: What a result in JSON may have: some thousand boxes. The server's loop has to read it, which takes 1.4 ms for 4,000
#: boxes, at worst 5; then its text is passed on as it is.
MAX_VALUE_BYTES: Final = 64 * 1024
#: How deep its lists and objects may be in one another, as for what clients send: whatever walks through them calls
#: itself, and Python stops at 1,000.
MAX_VALUE_DEPTH: Final = 100
#: A picture is only passed on.
MAX_PICTURE_BYTES: Final = MAX_ANSWER_BYTES - _REPORT.size


#: A bracket as a step, deeper or back, in a signed byte; and all that is none.
_STEP: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))


def is_too_deep(value: bytes) -> bool:
    """Whether lists and objects of a JSON text are more than `MAX_VALUE_DEPTH` in one another; also of one that is
    none, then it may be either."""
    if value.count(b"[") + value.count(b"{") <= MAX_VALUE_DEPTH:
        return False
    if b"\\" in value:
        value = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = b"".join(value.split(b'"')[::2]).translate(_STEP, _NO_BRACKETS)  # outside of texts
    return max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_VALUE_DEPTH


class Run(NamedTuple):
    """One plug-in, and the frame's position in its window."""

    plugin: int
    position: int = 0


class Job(NamedTuple):
    """What stands before an image: whose it is, and which plug-ins get it."""

    stream_id: int
    seq: int
    received_at: float
    width: int
    height: int
    stream: str
    user: str
    runs: tuple[Run, ...]

    def pack(self) -> bytes:
        stream, user = self.stream.encode(), self.user.encode()
        head = _JOB.pack(
            self.stream_id, self.seq, self.received_at, self.width, self.height, len(stream), len(user), len(self.runs)
        )
        return b"".join((head, stream, user, *(_RUN.pack(*run) for run in self.runs)))

    @classmethod
    def unpack(cls, slot: memoryview) -> tuple[Self, memoryview]:
        """The job, and the image that follows it, still in its slot."""
        stream_id, seq, received_at, width, height, stream_bytes, user_bytes, count = _JOB.unpack_from(slot)
        user_at = _JOB.size + stream_bytes
        runs_at = user_at + user_bytes
        image_at = runs_at + count * _RUN.size
        stream, user = str(slot[_JOB.size : user_at], "utf-8"), str(slot[user_at:runs_at], "utf-8")
        runs = tuple(Run(*run) for run in _RUN.iter_unpack(slot[runs_at:image_at]))
        return cls(stream_id, seq, received_at, width, height, stream, user, runs), slot[image_at:]


class Report(NamedTuple):
    """An answer of a worker.

    Args:
        seq: 0 for what a plug-in says at the stream's end.
        seconds: how long the plug-in took.
    """

    kind: int
    stream_id: int = 0
    seq: int = 0
    plugin: int = 0
    seconds: float = 0.0
    payload: bytes = b""

    def pack(self) -> bytes:
        return _REPORT.pack(*self[:5]) + self.payload

    @classmethod
    def unpack(cls, answer: bytes) -> Self:
        """Raises struct.error: it is too short."""
        kind, stream_id, seq, plugin, seconds = _REPORT.unpack_from(answer)
        return cls(kind, stream_id, seq, plugin, seconds, answer[_REPORT.size :])


class Description(NamedTuple):
    """What a plug-in wants.

    Args:
        name: in results and in the metrics.
        rate_hz: frames a second of each stream; None for all.
        window: it gets so many frames at once; 0 for one at a time, the newest.
        deadline_sec: how long it may take.
    """

    name: str
    rate_hz: float | None
    window: int
    deadline_sec: float
