"""What is held of messages that are not all there yet, over all connections, and the bound of the sum.

One connection may hold a message of the largest size that is allowed, whoever it is; a thousand together may not hold
a thousand of them. Who holds most gives way: cameras' frames are small, and there in a moment, while whoever wants to
fill the memory has to hold more than they do.
"""

import logging
import time
from typing import Final, Protocol

from rate import OncePerSecond

logger = logging.getLogger(__name__)

#: Room for a thousand cameras with a frame of 200 KB each under way at the same moment.
MAX_UNFINISHED_BYTES: Final = 256 * 1024 * 1024


class Holder(Protocol):
    """Something that holds parts of a message until the rest is there."""

    def give_way(self) -> None:
        """Let go of everything, and end the connection; never waits."""


class Unfinished:
    """The sum over all holders, and who they are.

    Attributes:
        bytes: what they hold together.
        given_way: how many connections were ended for it.
    """

    def __init__(self, max_bytes: int = MAX_UNFINISHED_BYTES) -> None:
        self.bytes = 0
        self.given_way = 0
        self._max = max_bytes
        self._held: dict[Holder, int] = {}
        self._said = OncePerSecond()

    def hold(self, holder: Holder, size: int) -> None:
        """This holder has this much now, 0 for nothing any more. It, or another one, may be told to give way."""
        if size:
            self.bytes += size - self._held.get(holder, 0)
            self._held[holder] = size
            while self.bytes > self._max:
                self._end_largest()
        else:
            self.bytes -= self._held.pop(holder, 0)

    def _end_largest(self) -> None:
        largest = max(self._held, key=self._held.__getitem__)
        size = self._held.pop(largest)
        self.bytes -= size
        self.given_way += 1
        if self._said.allows("", time.monotonic()):
            logger.warning(
                "more than %d bytes of unfinished messages: closed the connection with most of it, %d bytes "
                "(%d such connections since the start)",
                self._max,
                size,
                self.given_way,
            )
        largest.give_way()
