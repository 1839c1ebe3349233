"""The way of a result: a plug-in says something of a frame, and whoever subscribed to results takes it.

Rule 1. Nothing here waits, takes a lock or switches greenlets.
Rule 2. A result holds no image: what was found in a frame must not keep the frame in memory.
Rule 3. published = taken + dropped + waiting, at any moment.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from frames import Source

#: So many results may wait for a consumer, which is what twenty streams at 10 Hz have in five seconds.
MAX_RESULTS: Final = 1_000
#: They may take so much together: pictures are as large as frames.
MAX_RESULT_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """What a plug-in says of a frame, or of the last one of a window.

    Args:
        stream: the frame's.
        seq: the frame's number in its stream; 0 for what is said at the stream's end.
        plugin: its name.
        value: JSON data, or an encoded picture as bytes.
        reply_to: the frame's; means something to its gateway only.
        received_at: when the frame came, in seconds since 1970.
        made_at: when the result did.
        text: the value as ASCII JSON, which goes to clients as it is; made from the value unless it is given. None for
            a picture.

    Raises:
        ValueError, TypeError: the value is neither JSON data nor bytes.
    """

    stream: Source
    seq: int
    plugin: str
    value: Any
    reply_to: object
    received_at: float
    made_at: float
    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is None and not isinstance(self.value, bytes):
            object.__setattr__(self, "text", json.dumps(self.value, allow_nan=False, separators=(",", ":")))

    @property
    def size(self) -> int:
        """Bytes of the value as it is sent."""
        return len(self.value if self.text is None else self.text)


class ResultSubscription:
    """The results that a consumer has yet to take, in order; when there are too many, the oldest go.

    Attributes:
        consumer: whose it is.
        ready: called when the subscription turns from empty to not empty; it may not wait.
        published, taken, dropped: results since the beginning.
    """

    def __init__(
        self,
        consumer: str,
        names: frozenset[str] | None,
        max_results: int,
        max_bytes: int,
        unsubscribe: Callable[["ResultSubscription"], object],
    ) -> None:
        self._names = names
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._unsubscribe = unsubscribe
        self._waiting: deque[tuple[Result, int]] = deque()
        self._bytes = 0
        self.consumer = consumer
        self.ready: Callable[[], object] = _nobody_waits
        self.published = 0
        self.taken = 0
        self.dropped = 0

    def wants(self, stream_name: str) -> bool:
        return self._names is None or stream_name in self._names

    def put(self, result: Result, size: int) -> None:
        """Called by the stream, in the course of `answer`."""
        self.published += 1
        was_empty = not self._waiting
        self._waiting.append((result, size))
        self._bytes += size
        while len(self._waiting) > self._max_results or (self._bytes > self._max_bytes and len(self._waiting) > 1):
            self._pop()
            self.dropped += 1
        if was_empty:
            self.ready()

    def take(self) -> Result | None:
        """The oldest result that waits, None when there is none."""
        if not self._waiting:
            return None
        self.taken += 1
        return self._pop()

    def close(self) -> None:
        """Take nothing more; what waits counts as dropped. Harmless when it is closed."""
        self._unsubscribe(self)
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Results that wait to be taken."""
        return len(self._waiting)

    def _pop(self) -> Result:
        result, size = self._waiting.popleft()
        self._bytes -= size
        return result


def _nobody_waits() -> None:
    """`ready` of a subscription whose consumer only looks when it likes to."""
