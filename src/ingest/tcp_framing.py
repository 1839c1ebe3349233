"""The messages of cameras over plain TCP (docs/cameras.md), read without sockets: bytes in, heads and bodies out.

    u8 camera | u32 size | size bytes: gzip (RFC 1952) of one image

The clients' languages write those two numbers in their own ways, and a connection keeps to one of them. Each image
begins with gzip's own mark, so the first message tells which it is:

    layout        head                          body from byte
    !BI           camera, u32 big-endian        5
    <BI, =BI      camera, u32 little-endian     5
    BI            camera, 3 of padding, u32     8           little-endian, on some machines big-endian

Padding may hold anything: C leaves in it what was there before. Where two byte orders are possible (a size of
00 01 02 00 is 66,048 or 131,328), the body tells: gzip knows its own end. The shorter one is tried first, as soon as it
is there.
"""

from struct import Struct
from typing import Final, NamedTuple

#: Deflate without compression, in the smallest blocks that zlib makes of images, takes a thousandth more (RFC 1951,
#: section 3.2.4); and gzip's head may hold the file's name.
OVERHEAD_SHARE: Final = 1_000
OVERHEAD_BYTES: Final = 1_024

_GZIP: Final = b"\x1f\x8b\x08"  # RFC 1952, section 2.3.1: its two bytes, and deflate
_LAYOUTS: Final = (Struct(">BI"), Struct("<BI"), Struct("<B3xI"), Struct(">B3xI"))
#: From so many bytes on it is known which layouts are possible; the shortest gzip of nothing has more behind its head.
_FIRST_BYTES: Final = max(layout.size for layout in _LAYOUTS) + len(_GZIP)


class MalformedMessage(ValueError):
    """What came is no message; the connection cannot go on, as nobody knows where the next one begins.

    Attributes:
        too_large_of: the camera whose image is too large, if that is what is wrong, else -1.
    """

    def __init__(self, message: str, too_large_of: int = -1) -> None:
        super().__init__(message)
        self.too_large_of = too_large_of


class Head(NamedTuple):
    """What stands before an image.

    Attributes:
        size: bytes of the compressed image, at least 1.
    """

    camera: int
    size: int


class _Reading(NamedTuple):
    """A way to read the message under way."""

    layout: Struct
    head: Head

    @property
    def end(self) -> int:
        return self.layout.size + self.head.size


class TcpMessages:
    """Reads one connection's messages.

    What came is given to `receive`; `head` tells of the message under way as soon as that is known, `body` has its
    image when all is there, `end` goes on to the next one. A message may also be passed over, with `skip`.

    Args:
        max_image_bytes: largest image that is taken, before it is compressed.
    """

    __slots__ = ("_buffer", "_layout", "_max_body_bytes", "_possible", "_reading", "skipping")

    def __init__(self, max_image_bytes: int) -> None:
        self._max_body_bytes = max_image_bytes + max_image_bytes // OVERHEAD_SHARE + OVERHEAD_BYTES
        self._buffer = bytearray()  # from the message under way on; memory for as much as has come
        self._layout: Struct | None = None  # as soon as it is certain
        self._reading: _Reading | None = None  # the message under way, when its head is known
        self._possible: list[_Reading] = []  # other ways to read it, the shortest first
        self.skipping = 0  # bytes still to come that nobody wants

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return len(self._buffer)

    @property
    def begun(self) -> bool:
        """Whether a part of a message has come."""
        return bool(self._buffer) or self.skipping > 0

    @property
    def missing(self) -> int:
        """How many bytes have to come before there is more to say."""
        if self.skipping:
            return self.skipping
        if self._reading is not None:
            return self._reading.end - len(self._buffer)
        return (_FIRST_BYTES if self._layout is None else self._layout.size) - len(self._buffer)

    def receive(self, data: bytes | memoryview) -> None:
        """This came next. Not while a body is looked at, and not while bytes are `skipping`."""
        self._buffer += data

    def skipped(self, size: int) -> None:
        """So many of the bytes that nobody wants came, and were forgotten."""
        self.skipping -= size

    def head(self) -> Head | None:
        """What stands before the image under way; None when that has not come.

        Of the first one the size may be another than it seems, see `reads_otherwise`.

        Raises:
            MalformedMessage: it is no message, or one that is too large.
        """
        if self._reading is None and self.missing <= 0:
            self._reading = self._first() if self._layout is None else self._next(self._layout)
        return self._reading.head if self._reading is not None else None

    def body(self) -> memoryview | None:
        """The image under way, compressed; None when it is not all there. To be released before anything else."""
        reading = self._reading
        if reading is None or len(self._buffer) < reading.end:
            return None
        return memoryview(self._buffer)[reading.layout.size : reading.end]

    def reads_otherwise(self, unfinished: bool) -> bool:
        """Whether the message under way, whose body was none, may be read in another way. If so, its `head` is another
        one from now on.

        Args:
            unfinished: gzip's end had not come.
        """
        reading = self._reading
        assert reading is not None
        if not unfinished:  # it would not be any better in a longer one that begins at the same byte
            self._possible = [other for other in self._possible if other.layout.size != reading.layout.size]
        if self._possible:
            self._reading = self._possible.pop(0)
            return True
        return False

    def end(self) -> None:
        """The image under way was one. Go on to the next message; the layout is certain."""
        assert self._reading is not None
        self._layout = self._reading.layout
        del self._buffer[: self._reading.end]
        self._forget_message()

    def skip(self) -> None:
        """Pass over the message under way, of which nothing but the head need have come."""
        assert self._reading is not None
        assert self._layout is not None, "of the first message nobody knows the end before it is read"
        self.skipping = max(self._reading.end - len(self._buffer), 0)
        del self._buffer[: self._reading.end]
        self._forget_message()

    def forget(self) -> None:
        """Let go of everything that came, also while a body is looked at."""
        self._buffer = bytearray()
        self._forget_message()

    def _forget_message(self) -> None:
        self._reading = None
        self._possible = []

    def _first(self) -> _Reading:
        marked = [layout for layout in _LAYOUTS if self._buffer.startswith(_GZIP, layout.size)]
        if not marked:
            raise MalformedMessage(
                f"it begins with {self._buffer[:_FIRST_BYTES].hex(' ')}, expected a number, a size and gzip"
            )
        readings = [_Reading(layout, Head(*layout.unpack_from(self._buffer))) for layout in marked]
        possible = [reading for reading in readings if 0 < reading.head.size <= self._max_body_bytes]
        if not possible:
            raise self._wrong_size(*(reading.head.size for reading in readings))
        first, *self._possible = sorted(possible, key=lambda reading: reading.end)
        return first

    def _next(self, layout: Struct) -> _Reading:
        head = Head(*layout.unpack_from(self._buffer))
        if not 0 < head.size <= self._max_body_bytes:
            raise self._wrong_size(head.size, camera=head.camera if head.size else -1)
        return _Reading(layout, head)

    def _wrong_size(self, *sizes: int, camera: int = -1) -> MalformedMessage:
        said = " or ".join(map(str, sizes))
        return MalformedMessage(f"an image of {said} bytes, expected 1 to {self._max_body_bytes}", camera)
