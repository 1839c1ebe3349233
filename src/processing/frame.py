"""A frame as plug-ins see it: decoded when the first of them asks, and once for all."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from processing.wire import Job

#: uint8 array of shape (height, width, 3), BGR, read-only.
Picture = NDArray[np.uint8]

#: Pixels of frames that wait in windows stay decoded as far as they fit into this; the others are decoded once more
#: when their window is full. 24 frames of 1280 x 720 take as much.
KEPT_PIXELS_BYTES: Final = 64 << 20

_REDUCED: Final = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG: Final = b"\xff\xd8"


class Undecodable(ValueError):
    """An image whose header is good, and whose pixels cannot be read; that is its sender's fault, no plug-in's."""


class Frame:
    """One frame of a stream.

    Attributes:
        image: the file as it was sent: JPEG, PNG, WebP or BMP.
        user: who sends it.
        stream: the name of the stream; a user may have several.
        seq: the frame's number in its stream, from 1; there may be gaps.
        received_at: when the server had it whole, in seconds since 1970.
        width, height: as the image's header says. Phones store what they see lying on its side, with a note; `pixels`
            are set upright.
    """

    def __init__(self, job: Job, image: bytes) -> None:
        self.image = image
        self.user = job.user
        self.stream = job.stream
        self.seq = job.seq
        self.received_at = job.received_at
        self.width = job.width
        self.height = job.height
        self._decoded: dict[int, Picture] = {}

    @property
    def age_sec(self) -> float:
        """How long ago the server had it."""
        return max(0.0, time.time() - self.received_at)

    @property
    def pixels(self) -> Picture:
        """The picture, a uint8 array of shape (height, width, 3), BGR, upright.

        It is read-only, for other plug-ins see the same one; to draw on it, take a `copy()`.

        Raises:
            ValueError: it does not decode.
        """
        return self._at(1, lambda: self._decode(cv2.IMREAD_COLOR))

    def reduced(self, n: int) -> Picture:
        """The picture at half, a quarter or an eighth of its width and height (rounded up), else as `pixels`.

        A JPEG is decoded to that size, which takes half the time.

        Args:
            n: 2, 4 or 8.

        Raises:
            ValueError: n is another number, or the picture does not decode.
        """
        if n not in _REDUCED:
            raise ValueError(f"reduced({n!r}), expected 2, 4 or 8")
        if self.image.startswith(_JPEG):
            return self._at(n, lambda: self._decode(_REDUCED[n]))
        return self._at(n, lambda: _shrink(self.pixels, n))

    @property
    def decoded_bytes(self) -> int:
        """What the decoded pixels take in memory."""
        return sum(picture.nbytes for picture in self._decoded.values())

    def forget_pixels(self) -> None:
        """Decode again when somebody asks again."""
        self._decoded.clear()

    def _at(self, n: int, decode: Callable[[], Picture]) -> Picture:
        picture = self._decoded.get(n)
        if picture is None:
            # Of an array of its own, a plug-in could make one that may be written; of read-only memory it cannot.
            memory: Any = decode()
            picture = np.asarray(memoryview(memory).toreadonly())
            self._decoded[n] = picture
        return picture

    def _decode(self, flag: int) -> Picture:
        picture: Any = None
        try:
            with _silence:
                picture = cv2.imdecode(np.frombuffer(self.image, np.uint8), flag)
        except cv2.error:
            pass
        if picture is None:
            raise Undecodable(
                f"the image of {self.width} x {self.height} pixels, {len(self.image)} bytes, does not decode"
            )
        return picture  # type: ignore[no-any-return]


class DecodedFrames:
    """Lets frames that are kept stay decoded as far as they fit into `KEPT_PIXELS_BYTES`, the newest first."""

    def __init__(self) -> None:
        self._frames: deque[tuple[Frame, int]] = deque()
        self._bytes = 0

    def keep(self, frame: Frame) -> None:
        """This frame is kept from now on; others may have to be decoded once more for it."""
        size = frame.decoded_bytes
        if not size:
            return
        self._frames.append((frame, size))
        self._bytes += size
        while self._bytes > KEPT_PIXELS_BYTES:
            oldest, oldest_bytes = self._frames.popleft()
            self._bytes -= oldest_bytes
            oldest.forget_pixels()


class _Silence:
    """Keeps out of the log what libjpeg and libpng say of every damaged picture, past Python, to descriptor 2.

    Plug-ins may decode in several threads: the first that begins turns it off, the last that ends turns it on. A
    plug-in may send descriptor 2 elsewhere, where it stays; one that closes it closes it for all, so that it then leads
    again to where it led at first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        # Descriptors of its own, from before plug-ins are imported: later there may be none to be had.
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._at_first = _duplicate(2) or self._nowhere
        self._log: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._log = _duplicate(2)
                os.dup2(self._nowhere, 2)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.dup2(self._at_first if self._log is None else self._log, 2)
                if self._log is not None:
                    os.close(self._log)


def _duplicate(descriptor: int) -> int | None:
    """Another descriptor for the same; None when it is closed, or there are no more descriptors."""
    try:
        return os.dup(descriptor)
    except OSError:
        return None


_silence: Final = _Silence()


def _shrink(pixels: Picture, n: int) -> Picture:
    height, width = pixels.shape[:2]
    picture: Any = cv2.resize(pixels, (-(-width // n), -(-height // n)), interpolation=cv2.INTER_AREA)
    return picture  # type: ignore[no-any-return]
