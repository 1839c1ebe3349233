"""Which pictures of a video are worth having: those that are wanted, of those that are not late."""

from math import inf
from typing import Final

#: A picture may come early by as much as lies between two, and is still taken: so no camera that sends what is wanted
#: loses one to the unevenness of its clock or of the network, and of 25 pictures a second 24 are taken, not every other
#: one.
EARLY: Final = 1.0

#: A video that is so late is hurried on to its next key picture: whoever decodes too slowly would get later and later,
#: until the camera gives up. Networks that stand still are not meant, what they held back comes at once.
LATE_SEC: Final = 2.0
#: It has caught up when it is no later than this.
CAUGHT_UP_SEC: Final = 0.5
#: Clocks of cameras may be slower than ours by this share, ten times what a bad quartz is; such a video does not
#: become late.
DRIFT: Final = 1e-3
#: Time stamps that jump by so much say nothing about being late.
JUMP_SEC: Final = 30.0


class Pace:
    """Says which pictures are due, at `rate_hz` pictures a second on average; infinity: all, 0: none."""

    def __init__(self, rate_hz: float) -> None:
        self.rate_hz = rate_hz
        self._saved = 1.0  # pictures, so that the first one is due
        self._looked_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Whether a picture that comes now is to be taken."""
        if self.rate_hz in (0, inf):
            return self.rate_hz > 0
        if self._looked_at is not None:
            self._saved = min(self._saved + (now - self._looked_at) * self.rate_hz, 1 + EARLY)
        self._looked_at = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    def start_again(self) -> None:
        """The next picture is due, if any is wanted."""
        self._saved = max(self._saved, 1.0)


class Lateness:
    """Says how late a video is, by its time stamps: behind the least late picture that there was."""

    def __init__(self) -> None:
        self._least: float | None = None
        self._looked_at = 0.0

    def of(self, stamp_sec: float | None, now: float) -> float:
        """Seconds that a picture with this time stamp is late; 0 for one without."""
        if stamp_sec is None:
            return 0.0
        behind = now - stamp_sec
        if self._least is None or behind <= self._least or behind - self._least > JUMP_SEC:
            self._least = behind
        else:
            self._least = min(behind, self._least + (now - self._looked_at) * DRIFT)
        self._looked_at = now
        return behind - self._least


class Hurry:
    """Says which pictures to leave out, undecoded, for a video to catch up."""

    def __init__(self) -> None:
        self._lateness = Lateness()
        self._hurrying = False

    def leaves_out(self, stamp_sec: float | None, is_key: bool, now: float) -> bool:
        """Whether to leave out this one. What follows one that is left out cannot be decoded, up to the next key."""
        late_sec = self._lateness.of(stamp_sec, now)
        if late_sec > LATE_SEC:
            self._hurrying = True
        elif is_key and late_sec <= CAUGHT_UP_SEC:
            self._hurrying = False
        return self._hurrying and not is_key
