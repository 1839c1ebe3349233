"""What is held of messages that are not all there yet, over all connections, and the bound of the sum.

One connection may hold a message of the largest size that is allowed, whoever it is; a thousand together may not hold
a thousand of them. Who takes most for longest gives way, by the square of its bytes times its seconds: a camera with
200 KB under way for a second weighs as much as one of a crowd with 1 MB for 40 ms, or with 64 KiB for 10 s. What is
known to come from the same place weighs together, so that a crowd does not hide behind its number.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
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

    def __init__(self, max_bytes: int = MAX_UNFINISHED_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self.bytes = 0
        self.given_way = 0
        self._max = max_bytes
        self._clock = clock
        self._held: dict[Holder, int] = {}
        self._began: dict[Holder, float] = {}
        self._places: dict[Holder, str] = {}
        self._said = OncePerSecond()

    def hold(self, holder: Holder, size: int, place: str = "") -> None:
        """This holder has this much now, 0 for nothing any more. It, or another one, may be told to give way.

        Args:
            place: where what it holds comes from, such as an address; empty where that is not known.
        """
        if not size:
            self._forget(holder)
            return
        self.bytes += size - self._held.get(holder, 0)
        self._held[holder] = size
        self._began.setdefault(holder, self._clock())
        if place:
            self._places[holder] = place
        while self.bytes > self._max:
            self._end_one()

    def _forget(self, holder: Holder) -> int:
        size = self._held.pop(holder, 0)
        self._began.pop(holder, None)
        self._places.pop(holder, None)
        self.bytes -= size
        return size

    def _end_one(self) -> None:
        now = self._clock()
        # What has just begun has a millisecond, or its size would not matter.
        costs = {holder: size**2 * (now - self._began[holder] + 0.001) for holder, size in self._held.items()}
        of_places: dict[str | Holder, float] = defaultdict(float)
        for holder, cost in costs.items():
            of_places[self._places.get(holder, holder)] += cost
        worst = max(of_places, key=of_places.__getitem__)
        costliest = max((one for one in costs if self._places.get(one, one) == worst), key=costs.__getitem__)
        size = self._forget(costliest)
        self.given_way += 1
        if self._said.allows("", time.monotonic()):
            logger.warning(
                "more than %d bytes of unfinished messages: closed the connection that took most for longest, %d bytes "
                "(%d such connections since the start)",
                self._max,
                size,
                self.given_way,
            )
        costliest.give_way()
