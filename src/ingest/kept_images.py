"""The newest image of each stream stays in memory; of streams whose images come compressed that is much more than was
sent: 8 KB of gzip may be 8 MB. So what these take together is bounded, and nobody has to go for it.
"""

from typing import Final

from hub import Stream

#: Room for the images of 580 cameras with 640 x 480 pixels as BMP, or 64 of the largest size.
MAX_KEPT_BYTES: Final = 512 * 1024 * 1024


class KeptImages:
    """Counts them, and has the oldest forgotten where there are too many.

    Attributes:
        bytes: what they take together.
        forgotten: newest images that were forgotten; consumers have had them.
    """

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self.bytes = 0
        self.forgotten = 0
        self._max_bytes = max_bytes
        self._kept: dict[Stream, int] = {}  # the oldest image first

    def keep(self, stream: Stream, size: int) -> None:
        """A stream has a new newest image."""
        self.forget(stream)
        self._kept[stream] = size
        self.bytes += size
        while self.bytes > self._max_bytes:
            oldest = next(iter(self._kept))
            self.forget(oldest)
            oldest.forget_latest()
            self.forgotten += 1

    def forget(self, stream: Stream) -> None:
        """It has ended."""
        self.bytes -= self._kept.pop(stream, 0)
