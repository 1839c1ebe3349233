"""What the server and a capture process say to each other through their ring; integers in network byte order.

Server to child, orders, which are control messages::

    u8 0 | JSON {"url": …, "max_pixels": …}   call this camera, again and again; the first of all
    u8 1 | f64                                so many pictures a second are wanted; infinity: all there are
    u8 2                                      hang up, and call again after a pause

Child to server, reports, which are answers::

    u8 0                                      it calls the camera
    u8 1 | JSON {"codec": …, "width": …, "height": …}
                                              it is connected
    u8 2 | u32 skipped | u32 replaced         it is at work, or waits
    u8 3 | u32                                a picture of so many bytes is too large for a slot
    u8 4 | UTF-8                              the connection has failed or ended: why

and pictures, which are deliveries: u32 skipped | u32 replaced, then the image. Both are counted since they were told
last: pictures that were not wanted, and pictures for which there was no slot before a newer one came.
"""

import json
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple, Self

from ring import BrokenRing, Buffer

CALL: Final = 0
RATE: Final = 1
HANG_UP: Final = 2

CALLING: Final = 0
CONNECTED: Final = 1
ALIVE: Final = 2
TOO_LARGE: Final = 3
LOST: Final = 4

_RATE: Final = Struct(">Bd")
_COUNTS: Final = Struct(">II")
_SIZE: Final = Struct(">I")

#: The largest number that is told.
_MAX_COUNT: Final = 0xFFFF_FFFF
#: Why a connection was lost goes to the log.
MAX_REASON_CHARS: Final = 200


class Call(NamedTuple):
    """The first order.

    Args:
        url: with the login, if there is one.
        max_pixels: larger pictures are not decoded.
    """

    url: str
    max_pixels: int

    def pack(self) -> bytes:
        return bytes([CALL]) + json.dumps(self._asdict()).encode()

    @classmethod
    def unpack(cls, order: Buffer) -> Self:
        return cls(**json.loads(bytes(order[1:])))


def pack_rate(rate_hz: float) -> bytes:
    return _RATE.pack(RATE, rate_hz)


def unpack_rate(order: Buffer) -> float:
    _, rate_hz = _RATE.unpack(order)
    assert isinstance(rate_hz, float)
    return rate_hz


class Counts(NamedTuple):
    """Pictures that did not go to the server, since it was told last."""

    skipped: int
    replaced: int

    def pack(self) -> bytes:
        return _COUNTS.pack(*(min(count, _MAX_COUNT) for count in self))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises BrokenRing: these are none."""
        try:
            return cls(*_COUNTS.unpack(data))
        except StructError:
            raise BrokenRing(f"counts of {len(data)} bytes came, expected {_COUNTS.size}") from None


class Video(NamedTuple):
    """What a camera sends: width and height are 0 where only its first picture will say so."""

    codec: str
    width: int
    height: int

    def pack(self) -> bytes:
        return bytes([CONNECTED]) + json.dumps(self._asdict()).encode()

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Raises BrokenRing: it is none."""
        try:
            video = cls(**json.loads(payload))
            return cls(printable(str(video.codec)), int(video.width), int(video.height))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise BrokenRing(f"a video that nobody understands came, in {len(payload)} bytes") from None


def pack_size(size: int) -> bytes:
    return bytes([TOO_LARGE]) + _SIZE.pack(min(size, _MAX_COUNT))


def unpack_size(payload: bytes) -> int:
    """Raises BrokenRing: it is none."""
    try:
        (size,) = _SIZE.unpack(payload)
    except StructError:
        raise BrokenRing(f"a size of {len(payload)} bytes came, expected {_SIZE.size}") from None
    assert isinstance(size, int)
    return size


def pack_reason(reason: str) -> bytes:
    return bytes([LOST]) + reason.encode(errors="replace")


def unpack_reason(payload: bytes) -> str:
    """One line for a log, whatever came."""
    return printable(payload.decode(errors="replace"))


def printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_REASON_CHARS])
